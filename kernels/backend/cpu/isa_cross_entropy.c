/*
 * The head: logits, softmax, loss and their gradients over blocks of rows, in place in one block of logits.
 *
 * A block's logits become their own gradients.
 *
 * Roof: the FMA units.  Measured (Zen 5, one thread): at d_model 384 and 8,192 words 80 % of it in float32
 * and 79 % in bf16; at d_model 64 and 256 words 79 % and 68 %.
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

/* Rows that take each step together, as one row's chains are long; not of rows that would fill a cache. */
#define ROWS_AT_ONCE(V) ((V) > 1024 ? 1 : ROWS_A_UNIT)

/* Any but NaN where some are NaN: then the row's sum is. */
inline_always float row_largest(const float *x, long V)
{
    vf lane[2] = {splat(-1e30f), splat(-1e30f)};
    long v = 0;

    for (; v + 2 * VW <= V; v += 2 * VW) {
        lane[0] = vmax(lane[0], load(x + v));
        lane[1] = vmax(lane[1], load(x + v + VW));
    }
    float largest = vlargest(vmax(lane[0], lane[1]));
    for (; v < V; v++)
        largest = x[v] > largest ? x[v] : largest;
    return largest;
}

/* x = e^(x - largest); their sum. */
inline_always float row_exponentials(float *x, float largest, long V)
{
    vf sums = {0};
    float sum = 0.0f;
    long v;

    for (v = 0; v + VW <= V; v += VW) {
        vf e = vexp(load(x + v) - largest);

        store(x + v, e);
        sums += e;
    }
    if (v < V)
        store_n(x + v, vexp(load_n(x + v, V - v) - largest), V - v);
    for (; v < V; v++)
        sum += x[v];
    return sum + vsum(sums);
}

/* The exponentials' gradients, which take the place of the row's first half. */
inline_always void row_gradients(float *x, float scale, long V)
{
    act_t *gradient = (void *) x;

    for (long v = 0; v < V; v += VW)
        store_act_n(gradient + v, load_n(x + v, V - v) * scale, V - v);
}

static void softmax_unit(void *arg, long unit, int thread)
{
    const struct head *w = arg;
    long last = least((unit + 1) * ROWS_A_UNIT, w->rows), V = w->V, end;
    float largest[ROWS_A_UNIT], sum[ROWS_A_UNIT];

    (void) thread;
    for (long first = unit * ROWS_A_UNIT; first < last; first = end) {
        end = least(first + ROWS_AT_ONCE(V), last);
        for (long row = first; row < end; row++) {
            largest[row - first] = row_largest(w->logits + row * w->ld, V);
            w->losses[row] = w->targets[row] < 0 ? 0.0f : w->logits[row * w->ld + w->targets[row]];
        }
        for (long row = first; row < end; row++)
            sum[row - first] = row_exponentials(w->logits + row * w->ld, largest[row - first], V);
        for (long row = first; row < end; row++) {
            float *x = w->logits + row * w->ld, all = sum[row - first];

            if (w->targets[row] < 0) {
                memset(x, 0, (size_t) V * sizeof *x);
                continue;
            }
            w->losses[row] = largest[row - first] + logf(all) - w->losses[row];
            if (!w->gradient)
                continue;
            x[w->targets[row]] -= all;
            row_gradients(x, w->scale / all, V);
        }
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
