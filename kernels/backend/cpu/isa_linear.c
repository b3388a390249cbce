/*
 * Linear layers and logits: products (isa_gemm.c), and plain loops where there are too few rows to repay any
 * packing.
 *
 * Roof: that of the products; with few rows the memory that holds the weights (or their copy in bf16).
 * Measured (Zen 5, two threads, one row): 33 GB/s of 43 beyond the third cache, 40 of 80 inside.
 */
#include "isa.h"

#define FEW_ROWS 4

/* ---- few rows: float32 arithmetic on the weights (their copy in bf16) where they are ---- */
struct few {
    const act_t *x;
    struct matrix w;
    const float *bias;
    act_t *gelu;
    void *y;
    bool y_real;
    long rows, K, N;
};

inline_always void few_rows_columns(const struct few *f, bool real, long column)
{
    long n = least(f->N - column, NR);

    for (long row = 0; row < f->rows; row++) {
        vf sum[2] = {{0}};
        long at = row * f->N + column;

        for (long k = 0; k < f->K; k += VW) {
            vf x = load_act_n(f->x + row * f->K + k, f->K - k);

            for (long i = 0; i < least(f->K - k, VW); i++)
                for (int v = 0; v < 2 && v * VW < n; v++)
                    sum[v] += x[i] * load_of(f->w.at, real, (k + i) * f->N + column + v * VW, n - v * VW);
        }
        for (int v = 0; v < 2 && v * VW < n; v++) {
            if (f->bias)
                sum[v] += load_n(f->bias + column + v * VW, n - v * VW);
            if (f->gelu) {
                vf slope;

                gelu(1, &sum[v], &slope);
                store_act_n(f->gelu + at + v * VW, slope, n - v * VW);
            }
            store_of(f->y, f->y_real, at + v * VW, sum[v], n - v * VW);
        }
    }
}

static void few_rows_unit(void *arg, long unit, int thread)
{
    const struct few *f = arg;

    (void) thread;
    if (f->w.real)
        few_rows_columns(f, true, unit * NR);
    else
        few_rows_columns(f, false, unit * NR);
}

/* ---- linear layers ---- */
void ISA_NAME(linear_forward)(struct device *device, act *y_act, real *y_real, act *gelu, const act *x,
                              const real *w, const real *bias, int rows, int K, int N)
{
    void *y = y_act ? y_act : (void *) y_real;
    struct matrix weights = ISA_NAME(weights)(device, w, N, 1);

    if (rows <= FEW_ROWS)
        pool_run(device->pool, (N + NR - 1) / NR, few_rows_unit,
                 &(struct few){x, weights, bias, gelu, y, !y_act, rows, K, N});
    else
        ISA_NAME(product)
    (device, &(struct product){.M = rows,
                               .N = N,
                               .K = K,
                               .a = {x, false, K, 1},
                               .b = weights,
                               .c = y,
                               .c_real = !y_act,
                               .c_row = N,
                               .bias = bias,
                               .gelu = gelu});
}

/* Rows whose gradients are packed at once: about a megabyte, a function of the shape alone. */
static long gradient_rows(int rows, int N)
{
    return least(round_up(256 * 1024 / N, 512) * STEP, rows);
}

void ISA_NAME(linear_backward)(struct device *device, act *dx_act, real *dx_real, real *dw, real *dbias,
                               const act *dy_act, const real *dy_real, const act *gelu, const act *x,
                               const real *w, int rows, int K, int N)
{
    const void *dy = dy_act ? dy_act : (const void *) dy_real;
    void *dx = dx_act ? dx_act : (void *) dx_real;
    long chunk = gradient_rows(rows, N);

    if (dx)
        ISA_NAME(product)
    (device, &(struct product){.M = rows,
                               .N = K,
                               .K = N,
                               .a = {dy, !dy_act, N, 1},
                               .b = ISA_NAME(weights)(device, w, 1, N),
                               .c = dx,
                               .c_real = !dx_act,
                               .c_row = K,
                               .slope = gelu});
    for (long row = 0; row < rows; row += chunk)
        ISA_NAME(product)
    (device, &(struct product){.M = K,
                               .N = N,
                               .K = least(rows - row, chunk),
                               .a = {element(x, false, row * K), false, 1, K},
                               .b = {element(dy, !dy_act, row * N), !dy_act, N, 1},
                               .c = dw,
                               .c_real = true,
                               .c_row = N,
                               .accumulate = true,
                               .column_sums = dbias});
}

/* ---- logits of few rows: a dot product for each word; the roof is the memory that holds wte ---- */
struct few_logits {
    float *logits;
    const act_t *x;
    struct matrix wte;
    long rows, C, V;
};

#define WORDS_A_UNIT 128

inline_always void few_logits_words(const struct few_logits *w, bool real, long first)
{
    long end = least(first + WORDS_A_UNIT, w->V);

    for (long v = first; v < end; v++)
        for (long row = 0; row < w->rows; row++) {
            const act_t *x = w->x + row * w->C;
            vf sum = {0};

            for (long c = 0; c < w->C; c += VW)
                sum += load_act_n(x + c, w->C - c) * load_of(w->wte.at, real, v * w->C + c, w->C - c);
            w->logits[row * w->V + v] = vsum(sum);
        }
}

static void few_logits_unit(void *arg, long unit, int thread)
{
    const struct few_logits *w = arg;

    (void) thread;
    if (w->wte.real)
        few_logits_words(w, true, unit * WORDS_A_UNIT);
    else
        few_logits_words(w, false, unit * WORDS_A_UNIT);
}

void ISA_NAME(logits)(struct device *device, real *logits, const act *x, const real *wte, int rows, int C,
                      int V)
{
    struct matrix weights = ISA_NAME(weights)(device, wte, 1, C);

    if (rows <= FEW_ROWS)
        pool_run(device->pool, (V + WORDS_A_UNIT - 1) / WORDS_A_UNIT, few_logits_unit,
                 &(struct few_logits){logits, x, weights, rows, C, V});
    else
        ISA_NAME(product)
    (device, &(struct product){.M = rows,
                               .N = V,
                               .K = C,
                               .a = {x, false, C, 1},
                               .b = weights,
                               .c = logits,
                               .c_real = true,
                               .c_row = V});
}
