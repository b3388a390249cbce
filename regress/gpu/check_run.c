/*
 * What only a device can show, in TAP: a 10 M-parameter run against the same run on the CPU in float32, its
 * bits twice, and 100 starts and stops.  The first GPU; made by `make gpu-build`, needs no PostgreSQL.  With
 * the argument "devices": only the list of the devices.
 */
#include "../../kernels/model/model.h"
#include "../../kernels/model/rng.h"
#include "../kernels/tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LAYERS = 6, D_MODEL = 384, HEADS = 6, T = 256, B = 8, V = 256, STEPS = 60, WINDOW = 10 };

/* A chain whose next token is one of sixteen: the loss falls from log 256 towards log 16. */
static void fill_batch(int32_t *tokens, int32_t *targets, int step)
{
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) {
            int i = b * T + t;
            uint64_t index = (uint64_t) step * B * T + (uint64_t) i;

            tokens[i] = t ? targets[i - 1] : (int32_t) rng_below(2, RNG_SAMPLE, index, V);
            targets[i] = (tokens[i] * 5 + (int32_t) rng_below(1, RNG_SAMPLE, index, 16)) % V;
        }
}

/* losses[STEPS]: means of the steps, nats per token; false and a failed check when it cannot be run. */
static bool train(const struct backend *backend, int threads, double *losses)
{
    struct tlaw_spec spec = {.arch = "gpt2",
                             .n_layer = LAYERS,
                             .n_head = HEADS,
                             .d_model = D_MODEL,
                             .context_length = T,
                             .batch_size = B,
                             .vocab_size = V,
                             .bias = 1,
                             .seed = 3,
                             .beta1 = 0.9,
                             .beta2 = 0.95,
                             .weight_decay = 0.1,
                             .grad_clip = 1};
    char message[512] = "";
    struct device *device = backend->open(threads, message, sizeof message);
    struct model *model =
        device ? model_create(&spec, backend, device, B, true, message, sizeof message) : NULL;
    int32_t tokens[B * T], targets[B * T];

    if (!model)
        return ok(false, "%s can train: %s", backend->name, message);
    model_init(model);
    for (int step = 0; step <= STEPS; step++) { /* each ends when the next has begun, as in a run */
        if (step < STEPS) {
            fill_batch(tokens, targets, step);
            model_step_begin(model, step + 1, 1e-3 * fmin(1, (step + 1) / 10.0));
            model_step_add(model, tokens, targets);
        }
        if (step > 0)
            losses[step - 1] = model_step_end(model).loss;
    }
    model_free(model);
    backend->close(device);
    return true;
}

/* The largest relative difference between means over WINDOW steps. */
static double difference(const double *a, const double *b)
{
    double worst = 0;

    for (int first = 0; first < STEPS; first += WINDOW) {
        double sum_a = 0, sum_b = 0;

        for (int i = first; i < first + WINDOW; i++) {
            sum_a += a[i];
            sum_b += b[i];
        }
        worst = fmax(worst, fabs(sum_a - sum_b) / sum_b);
    }
    return worst;
}

static void check_curves(const char *isa)
{
    char message[512] = "";
    double truth[STEPS], losses[STEPS], again[STEPS];
    const struct backend *cpu = backend_find("cpu", "", "float32", message, sizeof message);
    bool trained = train(cpu, (int) sysconf(_SC_NPROCESSORS_ONLN), truth);

    for (int i = 0; trained && i < 2; i++) {
        const char *precision = i ? "bf16" : "float32";
        const struct backend *gpu = backend_find("cuda:0", isa, precision, message, sizeof message);

        if (!ok(gpu != NULL, "cuda:0 has %s %s", precision, message) || !train(gpu, 1, losses) ||
            !train(gpu, 1, again))
            continue;
        ok(difference(losses, truth) < 0.005 && truth[STEPS - 1] < 0.8 * truth[0],
           "%s: losses from %.4f to %.4f, the CPU's to %.4f; they differ by %.2f %%", precision, losses[0],
           losses[STEPS - 1], truth[STEPS - 1], 100 * difference(losses, truth));
        ok(memcmp(losses, again, sizeof losses) == 0, "%s: the same run has the same bits", precision);
    }
}

/* MiB in use on the first GPU by everybody; -1 when nvidia-smi does not say. */
static long memory_used(void)
{
    FILE *pipe = popen("nvidia-smi -i 0 --query-gpu=memory.used --format=csv,noheader,nounits", "r");
    long used = -1;

    if (pipe && fscanf(pipe, "%ld", &used) != 1)
        used = -1;
    if (pipe)
        pclose(pipe);
    return used;
}

/* Opens, allocates, computes and closes. */
static void start_and_stop(const struct backend *backend)
{
    enum { N = 1024 };
    char message[512] = "";
    struct device *device = backend->open(1, message, sizeof message);
    act *x = backend->alloc(device, N * N * backend->act_size);
    real *w = backend->alloc(device, N * N * sizeof(real)), *y = backend->alloc(device, N * N * sizeof(real));
    real first;

    backend->linear_forward(device, NULL, y, NULL, x, w, NULL, N, N, N);
    backend->download(device, &first, y, sizeof first);
    backend->free(device, x);
    backend->free(device, w);
    backend->free(device, y);
    backend->close(device);
}

static void check_memory(const char *isa)
{
    char message[512] = "";
    const struct backend *backend = backend_find("cuda:0", isa, "bf16", message, sizeof message);
    long before, after;

    if (!backend)
        return;
    start_and_stop(backend);
    before = memory_used();
    for (int i = 0; i < 100; i++)
        start_and_stop(backend);
    after = memory_used();
    ok(before > 0 && after <= before + 8, "100 starts and stops: %ld MiB in use before, %ld after", before,
       after);
}

static int list_devices(void)
{
    struct backend_device devices[BACKEND_GPUS_MOST];
    char message[512] = "";
    int count = backend_gpus(devices, message, sizeof message);

    for (int i = 0; i < count; i++)
        printf("%s %s, %s, %d multiprocessors, %lld MiB: %s%s\n", devices[i].device, devices[i].name,
               devices[i].isa, devices[i].cores, (long long) devices[i].memory >> 20, devices[i].unusable,
               devices[i].unusable[0] ? "" : "usable");
    if (!count)
        printf("no device: %s\n", message);
    return 0;
}

int main(int argc, char **argv)
{
    struct backend_device devices[BACKEND_GPUS_MOST];
    char message[512] = "";
    int count;

    if (argc == 2 && !strcmp(argv[1], "devices"))
        return list_devices();
    count = backend_gpus(devices, message, sizeof message);
    if (ok(count > 0 && !devices[0].unusable[0], "there is a GPU: %s%s", count ? devices[0].name : message,
           count ? devices[0].unusable : "")) {
        check_curves(devices[0].isa);
        check_memory(devices[0].isa);
    }
    return tap_end();
}
