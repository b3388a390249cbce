/*
 * PROBE: what this machine has to compute with.  ESTIMATE: what a run would cost on it, by timing its own
 * steps.
 */
#include "engine.h"
#include "machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_MEMORY   ((int64_t) 256 << 20) /* free, to measure a GPU */
#define PROBE_SECONDS  0.05                  /* for each backend */
#define SAMPLE_SECONDS 0.25                  /* spent timing one model of ESTIMATE */
#define LONGEST_STEP   0.08 /* predicted seconds above which ESTIMATE takes a smaller model */

/* ---- PROBE ---- */

/* The value of a "key : value" line of a /proc file; "" when there is none. */
static void read_key(const char *path, const char *key, char *value, size_t size)
{
    FILE *file = fopen(path, "r");
    char line[512];
    const char *colon;

    value[0] = 0;
    while (file && !value[0] && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (strncmp(line, key, strlen(key)) == 0 && (colon = strchr(line, ':')))
            snprintf(value, size, "%s", colon + 1 + strspn(colon + 1, " \t"));
    }
    if (file)
        fclose(file);
}

/* The speed of a GPU; what keeps it from being measured makes it unusable. */
static void measure_gpu(struct engine *e, struct tlaw_device_message *device)
{
    int64_t left;

    e->backend =
        backend_find(device->device, "", device->precision, device->unusable, sizeof device->unusable);
    e->device = e->backend ? e->backend->open(1, device->unusable, sizeof device->unusable) : NULL;
    if (!e->device)
        return;
    left = backend_gpu_memory(device->device);
    if (left < LEAST_MEMORY)
        snprintf(device->unusable, sizeof device->unusable, "%lld of its %lld MB of memory are free",
                 (long long) left >> 20, (long long) device->memory >> 20);
    else
        device->gflops = engine_matrix_flops(e, PROBE_SECONDS) / 1e9;
    e->backend->close(e->device);
    e->device = NULL;
}

/* Every GPU, or one named "cuda" that says why there is none. */
static void probe_gpus(struct engine *e, bool measure)
{
    struct backend_device gpus[BACKEND_GPUS_MOST];
    struct tlaw_device_message none = {.device = "cuda", .name = "no GPU"};
    int count = backend_gpus(gpus, none.unusable, sizeof none.unusable);

    for (int i = 0; i < count; i++) {
        struct tlaw_device_message device = {.cores = gpus[i].cores, .memory = gpus[i].memory};

        snprintf(device.device, sizeof device.device, "%.15s", gpus[i].device);
        snprintf(device.isa, sizeof device.isa, "%.15s", gpus[i].isa);
        snprintf(device.precision, sizeof device.precision, "bf16");
        snprintf(device.name, sizeof device.name, "%.500s", gpus[i].name);
        snprintf(device.unusable, sizeof device.unusable, "%s", gpus[i].unusable);
        if (measure && !device.unusable[0])
            measure_gpu(e, &device);
        engine_send(e, TLAW_DEVICE, &device);
    }
    if (!count)
        engine_send(e, TLAW_DEVICE, &none);
}

/*
 * The processor, once for each of its backends, the best first, on all cores that it may use; then the
 * GPUs.
 */
void job_probe(struct engine *e, const union tlaw_any_message *request)
{
    bool measure = request->probe.measure != 0;
    struct tlaw_spec spec = {.device = "cpu"};
    struct tlaw_device_message device = {
        .device = "cpu", .cores = tlaw_usable_cpus(), .memory = (int64_t) tlaw_usable_memory()};
    const struct backend *list[BACKEND_MOST];

    read_key("/proc/cpuinfo", "model name", device.name, sizeof device.name);
    for (int i = backend_list(list); i-- > 0;) {
        snprintf(device.isa, sizeof device.isa, "%s", list[i]->name);
        snprintf(device.precision, sizeof device.precision, "%s", list[i]->precision);
        if (measure) {
            memcpy(spec.isa, device.isa, sizeof spec.isa);
            memcpy(spec.precision, device.precision, sizeof spec.precision);
            engine_open_device(e, &spec, device.cores);
            device.gflops = engine_matrix_flops(e, PROBE_SECONDS) / 1e9;
            e->backend->close(e->device);
            e->device = NULL;
        }
        engine_send(e, TLAW_DEVICE, &device);
    }
    probe_gpus(e, measure);
}

/* ---- ESTIMATE ---- */

struct cost { /* seconds */
    double micro_step, update, forward;
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t) count, sizeof *values, by_value);
    return values[count / 2];
}

/* Times forward + backward, update and forward of a model on its own batch; medians, the first round not
 * counted. */
static struct cost time_model(struct engine *e, const struct tlaw_spec *spec)
{
    enum { most = 200 };
    int B = (int) spec->micro_batch, T = (int) spec->context_length, rounds = 0;
    double micro[most], update[most], forward[most], start = engine_now();
    int32_t *tokens = engine_alloc(e, sizeof *tokens * (size_t) B * (size_t) T, "tokens");
    real *losses = engine_alloc(e, sizeof *losses * (size_t) B * (size_t) T, "losses");
    char message[TLAW_TEXT_SIZE];
    struct model *model = model_create(spec, e->backend, e->device, B, true, message, sizeof message);

    if (!model)
        engine_fail(e, "memory", "%s", message);
    model_init(model);
    for (int i = 0; i < B * T; i++)
        tokens[i] = (int32_t) ((i * 2654435761u) % (uint32_t) spec->vocab_size);
    for (int round = -1; round < 1 || (round < most && engine_now() - start < SAMPLE_SECONDS); round++) {
        double t[4];

        engine_poll(e);
        t[0] = engine_now();
        model_zero_gradients(model);
        model_backward(model, tokens, tokens, B, T, 1.0 / (B * T), losses);
        t[1] = engine_now();
        model_update(model, round + 2, 1e-4);
        t[2] = engine_now();
        model_forward(model, tokens, tokens, B, T, losses);
        t[3] = engine_now();
        if (round >= 0) {
            micro[round] = t[1] - t[0];
            update[round] = t[2] - t[1];
            forward[round] = t[3] - t[2];
            rounds = round + 1;
        }
    }
    model_free(model);
    free(tokens);
    free(losses);
    return (struct cost){median(micro, rounds), median(update, rounds), median(forward, rounds)};
}

/* a + (b - a) x, for b measured at x = 1; noise must not make a layer free. */
static double extrapolate(double a, double b, double x)
{
    return a + (b > a ? b - a : 0) * x;
}

/*
 * Seconds of a training step and of a scored token.  A run whose step would take long is measured with fewer
 * sequences at once and with one and three layers, and extrapolated: a step is linear in both.
 */
void job_estimate(struct engine *e, const union tlaw_any_message *request)
{
    const struct tlaw_estimate_message m = request->estimate;
    struct tlaw_spec spec = m.spec, small;
    struct tlaw_estimated_message result;
    double sequence, sequences = (double) m.spec.batch_size, tokens;
    struct cost cost;

    engine_check_spec(e, &spec, INT64_MAX, INT64_MAX);
    result.memory = tlaw_spec_memory(&spec);
    engine_open_device(e, &spec, m.threads);
    /* a third of the product's speed is a guess that only decides how to measure */
    sequence =
        tlaw_spec_flops_per_token(&spec) * (double) spec.context_length / engine_matrix_flops(e, 0.03) * 3;
    while (spec.micro_batch > 1 && sequence * (double) spec.micro_batch > LONGEST_STEP)
        spec.micro_batch /= 2;
    small = spec;
    if (sequence > LONGEST_STEP && spec.n_layer > 3) {
        struct cost three;
        double x = (double) (spec.n_layer - 1) / 2;

        small.n_layer = 1;
        cost = time_model(e, &small);
        small.n_layer = 3;
        three = time_model(e, &small);
        cost.micro_step = extrapolate(cost.micro_step, three.micro_step, x);
        cost.update = extrapolate(cost.update, three.update, x);
        cost.forward = extrapolate(cost.forward, three.forward, x);
    } else {
        cost = time_model(e, &small);
    }
    tokens = (double) (spec.micro_batch * spec.context_length);
    result.seconds_per_step = sequences / (double) spec.micro_batch * cost.micro_step + cost.update;
    result.seconds_per_eval_token = cost.forward / tokens;
    engine_send(e, TLAW_ESTIMATED, &result);
}
