/*
 * The specification's defaults: how many sequences are in memory at once, on a CPU and on GPUs.
 */
#include "../../kernels/engine/spec.h"
#include "tap.h"

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
    return tap_end();
}
