/*
 * The head: logits, softmax, loss and their gradients, over blocks of rows.
 *
 * No logit is ever stored.  The product of a row and the words ends in e[v] = e^(logit[v] - shift), where the
 * shift is the target's own logit, known before: then the sum of e is 1 / p(target), and the loss its
 * logarithm.  A sum so large that e may have been cut off (a loss of some 60) has its row's shift set to the
 * largest logit, and its block is computed again.  With e of the target left out, dx = scale / sum * e wte
 * and dwte += e^T (x scale / sum); the target's part, scale (p - 1), is added to both in float32.
 *
 * Roof: the FMA units.  Measured (Zen 5, one thread): at d_model 384 and 8,192 words 85 % of it in float32
 * and 84 % in bf16; at 256 and 50,304 74 % and 76 %; at 64 and 256 78 % and 67 %.
 */
#include "isa.h"

/* tlaw_spec_memory knows these. */
#define HEAD_MOST (64L << 20) /* bytes of e */
#define HEAD_ROWS 64          /* if not more */

#define ROWS_A_UNIT    VW
#define COLUMNS_A_UNIT NR
#define MASKED         1e30f /* shift of a row without target: all its e are next to nothing */

struct head {
    struct device *device;
    const act_t *x;
    const real *wte;
    struct matrix words; /* wte as products read it */
    const int32_t *targets;
    float *losses;
    real *dx, *dwte;
    float scale;
    long rows, C, V;
    long ld;        /* from row to row of e */
    long panels;    /* of e, whose sums are panel_row apart */
    long panel_row; /* rows, rounded up to whole vectors */

    /* of a block of rows, in SCRATCH_HEAD */
    float *panel_sums; /* [panels][panel_row] */
    float *shift, *sum;
    float *logit;    /* of the target */
    float *of_sums;  /* scale / sum, 0 without a target: what e's part of the gradients is multiplied by */
    float *of_logit; /* scale (p(target) - 1), the gradient of the target's logit */
    act_t *e;        /* [rows][ld] */
    act_t *scaled;   /* x * of_sums, [rows][C] */
};

/* Rounded to what products read. */
inline_always vf as_act(vf x)
{
#ifdef BF16
    return (vf) _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i) _mm512_cvtneps_pbh((__m512) x)), 16);
#else
    return x;
#endif
}

/* Component c .. of a word, of which n exist. */
inline_always vf load_word(const struct head *w, long word, long c, long n)
{
    long at = word * w->words.row + c;

    return w->words.real ? as_act(load_of(w->words.at, true, at, n)) : load_of(w->words.at, false, at, n);
}

static void target_unit(void *arg, long unit, int thread)
{
    const struct head *w = arg;

    (void) thread;
    for (long row = unit * ROWS_A_UNIT; row < least((unit + 1) * ROWS_A_UNIT, w->rows); row++) {
        vf sum = {0};

        for (long c = 0; w->targets[row] >= 0 && c < w->C; c += VW)
            sum += load_act_n(w->x + row * w->C + c, w->C - c) * load_word(w, w->targets[row], c, w->C - c);
        w->logit[row] = vsum(sum);
        w->shift[row] = w->targets[row] < 0 ? MASKED : w->logit[row];
    }
}

static void sum_unit(void *arg, long unit, int thread)
{
    const struct head *w = arg;
    const float *from = w->panel_sums + unit * VW;
    vf sum = {0};

    (void) thread;
    for (long panel = 0; panel < w->panels; panel++, from += w->panel_row)
        sum += load(from);
    store(w->sum + unit * VW, sum);
}

/* e and its sums for all rows of the block. */
static void exponentials(const struct head *w, const cell *words)
{
    ISA_NAME(product)
    (w->device, &(struct product){.M = w->rows,
                                  .N = w->V,
                                  .K = w->C,
                                  .a = {w->x, false, w->C, 1},
                                  .b = {w->words.at, w->words.real, 1, w->C},
                                  .packed = words,
                                  .c = w->dx ? w->e : NULL,
                                  .c_row = w->ld,
                                  .shift = w->shift,
                                  .panel_sums = w->panel_sums,
                                  .panel_row = w->panel_row});
    pool_run(w->device->pool, w->panel_row / VW, sum_unit, (void *) w);
}

/* Any but NaN where some are NaN: then the row's sum is. */
static float largest_logit(const struct head *w, long row)
{
    float *logits = device_shared(w->device, SCRATCH_PARTIAL, (size_t) w->V * sizeof *logits),
          largest = -INFINITY;

    ISA_NAME(logits)
    (w->device, logits, (const act *) (w->x + row * w->C), w->wte, 1, (int) w->C, (int) w->V);
    for (long v = 0; v < w->V; v++)
        largest = logits[v] > largest ? logits[v] : largest;
    return largest;
}

/* Gives rows whose e may have been cut off the largest logit as a shift; whether there are any. */
static bool shift_again(const struct head *w)
{
    bool any = false;

    for (long row = 0; row < w->rows; row++)
        if (w->sum[row] >= 1e26f) { /* e^60 */
            w->shift[row] = largest_logit(w, row);
            any = true;
        }
    return any;
}

/* Losses; what the gradients are made of. */
static void loss_unit(void *arg, long unit, int thread)
{
    const struct head *w = arg;

    (void) thread;
    for (long row = unit * ROWS_A_UNIT; row < least((unit + 1) * ROWS_A_UNIT, w->rows); row++) {
        bool target = w->targets[row] >= 0;
        float sum = w->sum[row], above = w->shift[row] - w->logit[row], loss = logf(sum) + above;

        w->losses[row] = target && !(loss < 0.0f) ? loss : 0.0f; /* below 0 by rounding; NaN stays */
        if (!w->dx)
            continue;
        if (target)
            store_act_n(w->e + row * w->ld + w->targets[row], (vf){0}, 1);
        w->of_sums[row] = target ? w->scale / sum : 0.0f;
        w->of_logit[row] = target ? w->scale * ((above == 0.0f ? 1.0f : expf(-above)) / sum - 1.0f) : 0.0f;
        for (long c = 0; c < w->C; c += VW) {
            long at = row * w->C + c, n = w->C - c;

            store_act_n(w->scaled + at, load_act_n(w->x + at, n) * w->of_sums[row], n);
        }
    }
}

/* The targets' part of the gradients, some columns of all rows: words can be the target of many. */
static void targets_unit(void *arg, long unit, int thread)
{
    const struct head *w = arg;
    long end = least((unit + 1) * COLUMNS_A_UNIT, w->C);

    (void) thread;
    for (long row = 0; row < w->rows; row++)
        for (long c = unit * COLUMNS_A_UNIT; c < end; c += VW) {
            long n = end - c, word = w->targets[row];
            real *dx = w->dx + row * w->C + c, *dword = w->dwte + word * w->C + c;
            vf change = load_n(dx, n) * w->of_sums[row];

            if (word >= 0) {
                change += load_word(w, word, c, n) * w->of_logit[row];
                store_n(dword, load_n(dword, n) + load_act_n(w->x + row * w->C + c, n) * w->of_logit[row], n);
            }
            store_n(dx, change, n);
        }
}

static void gradients(const struct head *w, const cell *words)
{
    ISA_NAME(product)
    (w->device, &(struct product){.M = w->rows,
                                  .N = w->C,
                                  .K = w->V,
                                  .a = {w->e, false, w->ld, 1},
                                  .b = {w->words.at, w->words.real, w->C, 1},
                                  .packed = words,
                                  .c = w->dx,
                                  .c_real = true,
                                  .c_row = w->C});
    ISA_NAME(product)
    (w->device, &(struct product){.M = w->V,
                                  .N = w->C,
                                  .K = w->rows,
                                  .a = {w->e, false, 1, w->ld},
                                  .b = {w->scaled, false, w->C, 1},
                                  .c = w->dwte,
                                  .c_real = true,
                                  .c_row = w->C,
                                  .accumulate = true});
    pool_run(w->device->pool, (w->C + COLUMNS_A_UNIT - 1) / COLUMNS_A_UNIT, targets_unit, (void *) w);
}

/*
 * Rows of a block, found by measurement: e stays in the second cache where the words' gradients do, grows
 * with them while both are in the third, and else is long, to pay for what every block reads and writes of
 * words.
 */
static long block_rows(long C, long V)
{
    long words = 4 * V * C, e = words <= 128L << 10 ? 256L << 10 : words <= 6L << 20 ? 2 * words : HEAD_MOST;
    long rows = e / (V * (long) sizeof(act_t));

    return rows > HEAD_ROWS ? rows : HEAD_ROWS;
}

/* Elements from row to row of e: whole lines, and never all rows on the same places of the caches. */
static long row_length(long V)
{
    const long line = 64 / (long) sizeof(act_t);
    long ld = round_up(V, line);

    return ld % (16 * line) == 0 ? ld + line : ld;
}

/* A block's arrays, in the scratch. */
static void place(struct head *w, long block)
{
    long rows = round_up(block, VW), sums = w->panels * rows;
    float *at = device_shared(w->device, SCRATCH_HEAD,
                              (size_t) (sums + 5 * rows) * sizeof *at +
                                  (w->dx ? (size_t) (block * (w->ld + w->C) + 2 * VW) * sizeof(act_t) : 0));
    float **const of_rows[] = {&w->shift, &w->sum, &w->logit, &w->of_sums, &w->of_logit};

    w->panel_sums = at;
    at += sums;
    for (int i = 0; i < 5; i++, at += rows)
        *of_rows[i] = at;
    w->e = (void *) at;
    w->scaled = w->e + block * w->ld;
}

void ISA_NAME(cross_entropy)(struct device *device, real *losses, real *dx, real *dwte, const act *x,
                             const real *wte, const int32_t *targets, double scale, int rows, int C, int V)
{
    struct head w = {.device = device,
                     .wte = wte,
                     .words = ISA_NAME(weights)(device, wte, C, 1),
                     .dwte = dwte,
                     .scale = (float) scale,
                     .C = C,
                     .V = V,
                     .ld = row_length(V),
                     .panels = (V + NR - 1) / NR};
    long block = least(block_rows(C, V), rows);
    const cell *words = ISA_NAME(pack_panels)(
        device, &(struct product){.N = V, .K = C, .b = {w.words.at, w.words.real, 1, C}}, SCRATCH_WORDS);
    const cell *back = !dx ? NULL
                           : ISA_NAME(pack_panels)(device, &(struct product){.N = C, .K = V, .b = w.words},
                                                   SCRATCH_WORDS_BACK);

    w.dx = dx;
    place(&w, block);
    for (long row = 0; row < rows; row += block) {
        w.rows = least(rows - row, block);
        w.panel_row = round_up(w.rows, VW);
        w.x = element(x, false, row * C);
        w.targets = targets + row;
        w.losses = losses + row;
        w.dx = dx ? dx + row * C : NULL;
        long units = (w.rows + ROWS_A_UNIT - 1) / ROWS_A_UNIT;

        pool_run(device->pool, units, target_unit, &w);
        exponentials(&w, words);
        if (shift_again(&w))
            exponentials(&w, words);
        pool_run(device->pool, units, loss_unit, &w);
        if (dx)
            gradients(&w, back);
    }
}
