/*
 * The CUDA backend that the registry finds beside this program, against the reference: its operations,
 * aligned and not, a run, recorded steps, and several devices at once.  In `make test` that is the backend
 * compiled for the host (regress/cuda_shim), in `make gpu-test` the real one.
 *
 * test_cuda [few]: few: one in five of the ways to call an operation, once each, for sanitizers.
 */
#include "operations.h"
#include "steps.h"

#include "../../kernels/model/model.h"

#define STEPS 5

/* Five steps of a small model from the same weights and batches; losses[STEPS] are means, nats per token. */
static void train(const struct backend *backend, struct device *device, double *losses)
{
    enum { B = 2, T = 16, V = 60 };
    struct tlaw_spec spec = {.arch = "gpt2",
                             .n_layer = 2,
                             .n_head = 2,
                             .d_model = 32,
                             .context_length = T,
                             .vocab_size = V,
                             .bias = 1,
                             .seed = 3,
                             .beta1 = 0.9,
                             .beta2 = 0.95,
                             .weight_decay = 0.1,
                             .grad_clip = 1};
    char message[200];
    struct model *model = model_create(&spec, backend, device, B, true, message, sizeof message);
    int32_t tokens[B * T], targets[B * T];
    real of_row[B * T];

    model_init(model);
    for (int i = 0; i < B * T; i++) {
        tokens[i] = (int32_t) rng_below(1, RNG_SAMPLE, (uint64_t) i, V);
        targets[i] = (tokens[i] * 7 + 1) % V;
    }
    for (int step = 0; step < STEPS; step++) {
        losses[step] = 0;
        model_zero_gradients(model);
        model_backward(model, tokens, targets, B, T, 1.0 / (B * T), of_row);
        model_update(model, step + 1, 0.01);
        for (int i = 0; i < B * T; i++)
            losses[step] += of_row[i] / (B * T);
    }
    model_free(model);
}

static void check_run(const struct backend *backend)
{
    char message[200];
    struct device *device = backend->open(1, message, sizeof message);
    struct device *reference_device = reference_backend.open(1, message, sizeof message);
    double truth[STEPS], losses[STEPS], again[STEPS], worst = 0;
    double tolerance = strcmp(backend->precision, "float32") == 0 ? 1e-4 : 1e-2;

    train(&reference_backend, reference_device, truth);
    train(backend, device, losses);
    train(backend, device, again);
    for (int i = 0; i < STEPS; i++)
        worst = fmax(worst, fabs(losses[i] - truth[i]) / truth[i]);
    ok(worst < tolerance && truth[STEPS - 1] < 0.9 * truth[0],
       "%s: losses of %d steps, from %.4f to %.4f, differ by %.1e of themselves", backend->precision, STEPS,
       truth[0], losses[STEPS - 1], worst);
    ok(memcmp(losses, again, sizeof losses) == 0, "%s: the same run has the same bits", backend->precision);
    backend->close(device);
    reference_backend.close(reference_device);
}

/* What a model and a step of it take of the device's memory. */
static int64_t step_memory(const struct backend *backend, const struct tlaw_spec *spec)
{
    char message[200];
    struct device *device = backend->open(1, message, sizeof message);
    int64_t before = backend_gpu_memory("cuda:0"), used;
    int B = (int) spec->batch_size;
    struct model *model = model_create(spec, backend, device, B, true, message, sizeof message);
    int32_t *tokens = calloc((size_t) (B * spec->context_length), sizeof *tokens);

    model_init(model);
    model_step_begin(model, 1, 0.01);
    model_step_add(model, tokens, tokens);
    model_step_end(model);
    used = before - backend_gpu_memory("cuda:0");
    free(tokens);
    model_free(model);
    backend->close(device);
    return used;
}

/* It is what tlaw_spec_memory says, or less. */
static void check_memory(const struct backend *backend, int width, int heads, int B, int V)
{
    enum { T = 16 };
    struct tlaw_spec spec = {.arch = "gpt2",
                             .device = "cuda:0",
                             .n_layer = 2,
                             .n_head = heads,
                             .d_model = width,
                             .context_length = T,
                             .vocab_size = V,
                             .batch_size = B,
                             .micro_batch = B,
                             .bias = 1,
                             .grad_clip = 1};
    int64_t used, estimate;

    snprintf(spec.precision, sizeof spec.precision, "%s", backend->precision);
    estimate = tlaw_spec_memory(&spec);
    step_memory(backend, &spec); /* loads kernels, which stay */
    used = step_memory(backend, &spec);
    ok(used <= estimate && used > estimate - (100 << 20),
       "%s: a step of width %d takes %.1f MiB of the device's memory, the estimate is %.1f",
       backend->precision, width, (double) used / (1 << 20), (double) estimate / (1 << 20));
}

/* What is not there is refused with the reason. */
static void check_refusals(const char *isa)
{
    char message[512] = "";

    ok(!backend_find("cuda:99", "", "bf16", message, sizeof message) && strstr(message, "cuda:99"), "%s",
       message);
    ok(!backend_find("cuda:0", "sm_10", "bf16", message, sizeof message) && strstr(message, isa), "%s",
       message);
    ok(!backend_find("cuda:0", isa, "int3", message, sizeof message) && strstr(message, "int3"), "%s",
       message);
}

/* Where a cuBLAS may lose the bias of a single row (before 12.8.4), it is not asked to add it. */
static void check_old_cublas(const struct backend *backend)
{
    char message[200];
    struct device *device = backend->open(1, message, sizeof message);
    struct device *reference_device = reference_backend.open(1, message, sizeof message);
    struct subject subject = {backend, device, reference_device};

    offset = 8; /* aligned, so that cuBLASLt would be asked */
    setenv("SHIM_CUBLAS_VERSION", "120803", 1);
    check(&subject, "linear of an old cuBLAS, rows K N", linear_forward, (int[4]){1, 64, 192}, 8);
    unsetenv("SHIM_CUBLAS_VERSION");
    backend->close(device);
    reference_backend.close(reference_device);
}

static bool opens(const struct backend *backend, char *message, size_t message_size)
{
    struct device *device = backend->open(1, message, message_size);

    if (device)
        backend->close(device);
    return device != NULL;
}

int main(int argc, char **argv)
{
    struct backend_device devices[BACKEND_GPUS_MOST];
    char message[512] = "";
    int count = backend_gpus(devices, message, sizeof message);
    bool on_host = count && strncmp(devices[0].name, "host ", 5) == 0;

    if (!count && NO_CUDA_HERE) {
        printf("1..0 # SKIP no g++ to compile the CUDA backend for the host\n");
        return 0;
    }
    if (!ok(count > 0, "%d devices, the first is %s %s", count, count ? devices[0].name : "", message))
        return tap_end();
    check_refusals(devices[0].isa);
    most_threads = 2; /* they mean nothing here: the call is made twice */
    if (argc == 2 && strcmp(argv[1], "few") == 0)
        most_threads = 1, variant_step = 5;
    if (on_host)
        largest_shape = 1000000; /* this machine's processor as a device is slow */
    for (int precision = 0; precision < 2; precision++) {
        const struct backend *backend =
            backend_find("cuda:0", devices[0].isa, precision ? "bf16" : "float32", message, sizeof message);

        if (!ok(backend != NULL, "cuda:0 is found %s", message) ||
            !ok(opens(backend, message, sizeof message), "and opens %s", message))
            continue;
        for (offset = 1; offset <= 8; offset += precision ? 7 : 8) /* 8 elements of bf16 are 16 bytes */
            check_backend(backend);
        check_run(backend);
        check_memory(backend, 64, 2, 4, 1000);
        check_memory(backend, 35, 5, 3, 101);
        check_steps(backend);
        check_devices_at_once(backend);
        if (on_host)
            check_old_cublas(backend);
    }
    return tap_end();
}
