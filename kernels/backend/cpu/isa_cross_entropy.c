/*
 * The head: logits, softmax, loss and their gradients over blocks of rows, in place in one block of logits.
 *
 * A block's logits become their own gradients.
 *
 * Roof: the FMA units.  Measured (Zen 5, one thread): at d_model 384 and 8,192 words 74 % of it in float32
 * and 72 % in bf16; at d_model 64 and 256 words 71 % and 50 %.
 */
#include "isa.h"

#define ROWS_A_UNIT 8

struct head {
    float *logits, *losses;
    const int32_t *targets;
    float scale;
    long rows, V, ld; /* rows of logits are ld apart */
    bool gradient;
};

static void softmax_unit(void *arg, long unit, int thread)
{
    const struct head *w = arg;
    long end = (unit + 1) * ROWS_A_UNIT < w->rows ? (unit + 1) * ROWS_A_UNIT : w->rows, V = w->V, v;

    (void) thread;
    for (long row = unit * ROWS_A_UNIT; row < end; row++) {
        float *x = w->logits + row * w->ld;
        int32_t target = w->targets[row];
        vf largest_lane = splat(-1e30f), sums = {0};
        float target_logit = target < 0 ? 0.0f : x[target], sum = 0.0f;

        if (target < 0) {
            w->losses[row] = 0.0f;
            memset(x, 0, (size_t) V * sizeof *x);
            continue;
        }
        for (v = 0; v + VW <= V; v += VW)
            largest_lane = vmax(largest_lane, load(x + v));
        float largest = vlargest(largest_lane);
        for (; v < V; v++)
            largest = x[v] > largest ? x[v] : largest;
        for (v = 0; v < V; v += VW) {
            vf e = vexp(load_n(x + v, V - v) - largest);

            store_n(x + v, e, V - v);
            if (v + VW <= V)
                sums += e;
        }
        for (v = V / VW * VW; v < V; v++)
            sum += x[v];
        sum += vsum(sums);
        w->losses[row] = largest + logf(sum) - target_logit;
        if (!w->gradient)
            continue;
        act_t *gradient = (void *) x; /* takes the place of the row's first half */

        x[target] -= sum;
        for (v = 0; v < V; v += VW)
            store_act_n(gradient + v, load_n(x + v, V - v) * (w->scale / sum), V - v);
    }
}

/*
 * Rows of a block.  A long block pays for what every block reads and writes, the words' embeddings and their
 * gradients; a narrow model's are few, and it does little with a logit while that is in a cache.
 */
static long block_rows(long C, long V)
{
    bool narrow = C <= 64;
    long floats = narrow ? 1L << 20 : 4L << 20, fewest = narrow ? 128 : 256;

    return floats / V > fewest ? floats / V : fewest;
}

/* Floats from row to row: whole lines, and never all rows on the same places of the caches. */
static long row_length(long V)
{
    long ld = round_up(V, 16);

    return ld % 256 == 0 ? ld + 16 : ld;
}

void ISA_NAME(cross_entropy)(struct device *device, real *losses, real *dx, real *dwte, const act *x,
                             const real *wte, const int32_t *targets, double scale, int rows, int C, int V)
{
    long ld = row_length(V), block = least(block_rows(C, V), rows);
    float *logits;

    logits = device_shared(device, SCRATCH_LOGITS, (size_t) (block * ld) * sizeof *logits);
    for (long row = 0; row < rows; row += block) {
        long n = rows - row < block ? rows - row : block;
        const void *input = element(x, false, row * C);
        struct head w = {.logits = logits,
                         .losses = losses + row,
                         .targets = targets + row,
                         .scale = (float) scale,
                         .rows = n,
                         .V = V,
                         .ld = ld,
                         .gradient = dx != NULL};

        ISA_NAME(product)
        (device, &(struct product){.M = n,
                                   .N = V,
                                   .K = C,
                                   .a = {input, false, C, 1},
                                   .b = ISA_NAME(weights)(device, wte, 1, C),
                                   .c = logits,
                                   .c_real = true,
                                   .c_row = ld});
        pool_run(device->pool, (n + ROWS_A_UNIT - 1) / ROWS_A_UNIT, softmax_unit, &w);
        if (!dx)
            continue;
        ISA_NAME(product)
        (device, &(struct product){.M = n,
                                   .N = C,
                                   .K = V,
                                   .a = {logits, false, STEP * ld, 1},
                                   .b = ISA_NAME(weights)(device, wte, C, 1),
                                   .c = dx + row * C,
                                   .c_real = true,
                                   .c_row = C});
        ISA_NAME(product)
        (device, &(struct product){.M = V,
                                   .N = C,
                                   .K = n,
                                   .a = {logits, false, 1, STEP * ld},
                                   .b = {input, false, C, 1},
                                   .c = dwte,
                                   .c_real = true,
                                   .c_row = C,
                                   .accumulate = true});
    }
}
