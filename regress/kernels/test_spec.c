/*
 * The specification's defaults: how many sequences are in memory at once, on a CPU and on GPUs; its estimate
 * of memory on a CPU.
 */
#include "../../kernels/backend/cpu/cpu.h"
#include "../../kernels/model/model.h"
#include "tap.h"

#include <stdlib.h>
#include <string.h>

#define GIB ((int64_t) 1 << 30)

/* GPT-2's smallest, 16 sequences a step, resolved for a device of that memory. */
static struct tlaw_spec resolved(const char *device, int64_t memory, int64_t micro_batch)
{
    struct tlaw_spec spec;
    char message[200] = "";

#define LEAVE_OUT(name)        spec.name = TLAW_UNSET;
#define LEAVE_OUT_STRING(name) spec.name[0] = '\0';
    TLAW_SPEC_FIELDS(LEAVE_OUT, LEAVE_OUT, LEAVE_OUT_STRING)
    snprintf(spec.device, sizeof spec.device, "%s", device);
    spec.n_layer = 12, spec.n_head = 12, spec.d_model = 768, spec.context_length = 1024;
    spec.vocab_size = 50257, spec.bias = 1, spec.batch_size = 16, spec.micro_batch = micro_batch;
    if (tlaw_spec_resolve(&spec, 10000000, 100000, memory, message, sizeof message))
        printf("Bail out! %s\n", message);
    return spec;
}

/* Bytes that a limit on the process's data counts. */
static int64_t data_bytes(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    long long kib = 0;
    char line[200];

    while (file && fgets(line, sizeof line, file))
        sscanf(line, "VmData: %lld", &kib);
    if (file)
        fclose(file);
    return kib << 10;
}

/* Two steps of a model of few parameters take no more than the estimate has for them, on many threads too. */
static void check_memory(int batch, int context_length, int d_model, int vocab_size)
{
    enum { THREADS = 16 };
    struct tlaw_spec spec = {
        .arch = "gpt2", .device = "cpu", .precision = "float32", .n_layer = 1, .n_head = 1};
    char message[200] = "";
    const struct backend *backend = cpu_backend("portable", "float32");
    int64_t before = data_bytes(), used, estimate;
    struct device *device = backend->open(THREADS, message, sizeof message);
    struct model *model;
    int32_t *tokens = calloc((size_t) (batch * context_length), sizeof *tokens);

    spec.d_model = d_model, spec.context_length = context_length, spec.vocab_size = vocab_size,
    spec.grad_clip = 1;
    spec.batch_size = spec.micro_batch = batch;
    model = model_create(&spec, backend, device, batch, true, message, sizeof message);
    model_init(model);
    for (int step = 1; step <= 2; step++) {
        model_step_begin(model, step, 0.01);
        model_step_add(model, tokens, tokens);
        model_step_end(model);
    }
    used = data_bytes() - before;
    estimate =
        tlaw_spec_memory(&spec) - 5 * 4 * tlaw_spec_params(&spec); /* no best weights, nothing is sent */
    ok(used <= estimate, "%d x %d tokens of %d, d_model %d, on %d threads: %d MiB, the estimate has %d",
       batch, context_length, vocab_size, d_model, THREADS, (int) (used >> 20), (int) (estimate >> 20));
    free(tokens);
    model_free(model);
    backend->close(device);
}

int main(void)
{
    struct tlaw_spec large = resolved("cuda:0", 79 * GIB, TLAW_UNSET);
    struct tlaw_spec small = resolved("cuda:0", 24 * GIB, TLAW_UNSET), more = small;

    ok(large.micro_batch == 16, "GPT-2 124M on a GPU of 79 GiB: %d of 16 sequences at once",
       (int) large.micro_batch);
    more.micro_batch *= 2;
    ok(small.micro_batch < 16 && 16 % small.micro_batch == 0 && tlaw_spec_memory(&small) <= 6 * GIB &&
           tlaw_spec_memory(&more) > 6 * GIB,
       "on one of 24 GiB %d, as many as take a quarter of it", (int) small.micro_batch);
    ok(resolved("cuda:0", 1 * GIB, TLAW_UNSET).micro_batch == 1, "on a tiny one: one");
    ok(resolved("cuda:0", 79 * GIB, 2).micro_batch == 2, "as many as asked for, where it is");
    ok(resolved("cpu", 0, TLAW_UNSET).micro_batch == resolved("cpu", 79 * GIB, TLAW_UNSET).micro_batch,
       "on the CPU memory does not matter");
    check_memory(9, 512, 16, 8192);
    check_memory(1, 512, 32, 65535);
    check_memory(128, 128, 16, 256);
    return tap_end();
}
