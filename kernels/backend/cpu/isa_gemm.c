/*
 * Matrix products, float32, and the linear layers made of them.
 *
 * Goto & van de Geijn's scheme: B is packed once, by all threads, into panels [K][NR]; a unit of work owns a
 * block of C, packs its rows of A in panels [k][MR] of KC steps and multiplies tile by tile, MR x NR
 * accumulators in registers.  Sums over K run in order for every element, so neither blocks nor threads
 * change a bit.
 */
#include "isa.h"

#define KC 384 /* steps of a packed block of A: KC x (MR + NR) floats stay in the first two caches */
#define BLOCK_TILES  4   /* rows of a unit, in tiles */
#define BLOCK_PANELS 12  /* columns of a unit, in panels */
#define FEW_ROWS     4   /* so few rows do not repay the packing of B */

struct blocked {
    const struct product *p;
    struct device *device;
    float *packed;             /* B: panel j at packed + j * K * NR */
    long panels, first_packed; /* panels from first_packed on are packed */
    long tiles, panels_a_unit, row_blocks;
};

/* ---- one tile: rows x vectors accumulators over K steps, kept in `tile` [MR][NR] between blocks of KC ----
 */
inline_always void run_tile(int rows, int vectors, long K, const float *a, const float *b, long b_k,
                            float *tile, bool resume)
{
    vf acc[rows][vectors];

#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            acc[i][v] = resume ? load(tile + i * NR + v * VW) : (vf){0};
    multiply_tile(rows, vectors, acc, a, 1, MR, b, b_k, K);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            store(tile + i * NR + v * VW, acc[i][v]);
}

#define TILE(rows, vectors)                                                                                  \
    static void tile_##rows##_##vectors(long K, const float *a, const float *b, long b_k, float *tile,       \
                                        bool resume)                                                         \
    {                                                                                                        \
        run_tile(rows, vectors, K, a, b, b_k, tile, resume);                                                 \
    }
#define FULL_TILE2(rows, vectors) TILE(rows, vectors)
#define FULL_TILE(vectors)        FULL_TILE2(MR, vectors)
#define FULL_NAME2(rows, vectors) tile_##rows##_##vectors
#define FULL_NAME1(rows, vectors) FULL_NAME2(rows, vectors)
#define FULL_NAME(vectors)        FULL_NAME1(MR, vectors)

TILE(1, 1)
TILE(1, 2)
#if MR > 4
TILE(4, 1)
TILE(4, 2)
#endif
FULL_TILE(1)
FULL_TILE(2)

static void multiply(long rows, long columns, long K, const float *a, const float *b, long b_k, float *tile,
                     bool resume)
{
    if (rows > 4 || MR == 4)
        (columns > VW ? FULL_NAME(2) : FULL_NAME(1))(K, a, b, b_k, tile, resume);
    else if (rows > 1)
        (columns > VW ? tile_4_2 : tile_4_1)(K, a, b, b_k, tile, resume);
    else
        (columns > VW ? tile_1_2 : tile_1_1)(K, a, b, b_k, tile, resume);
}

/* The epilogue: a tile's rows and columns that exist go to C. */
static void finish_tile(const struct product *p, const float *tile, long row, long column)
{
    long rows = p->M - row < MR ? p->M - row : MR, columns = p->N - column < NR ? p->N - column : NR;

    for (long i = 0; i < rows; i++)
        for (long j = 0; j < columns; j += VW) {
            long at = (row + i) * p->c_row + column + j, n = columns - j;
            vf x = load(tile + i * NR + j);

            if (p->bias)
                x += load_n(p->bias + column + j, n);
            if (p->pre) {
                store_n(p->pre + at, x, n);
                x = gelu(x);
            }
            if (p->slope)
                x *= gelu_slope(load_n(p->slope + at, n));
            if (p->accumulate)
                x += load_n(p->c + at, n);
            store_n(p->c + at, x, n);
        }
}

/* ---- packing ---- */

/* to[k * width + i] = from[k * from_ld + i] for i < n, zeros up to the width */
inline_always void copy_panel(float *to, long width, const float *from, long from_ld, long n, long K)
{
    for (long k = 0; k < K; k++)
        if (n == width) {
            memcpy(to + k * width, from + k * from_ld, (size_t) width * sizeof *to);
        } else {
            memcpy(to + k * width, from + k * from_ld, (size_t) n * sizeof *to);
            memset(to + k * width + n, 0, (size_t) (width - n) * sizeof *to);
        }
}

/* Rows row .. row + tiles * MR of A, steps k0 .. k0 + K, to panels [K][MR]; room for VW more is needed. */
static void pack_a(const struct product *p, float *to, long row, long tiles, long k0, long K)
{
    for (long t = 0; t < tiles; t++, row += MR, to += K * MR) {
        const float *from = p->a + row * p->a_row + k0 * p->a_col;
        long n = p->M - row < MR ? p->M - row : MR;

        if (p->a_row == 1)
            copy_panel(to, MR, from, p->a_col, n, K);
        else
            for (long i = 0; i < MR; i += VW)
                pack_transposed(to + i, MR, from + i * p->a_row, p->a_row, n - i, K, 1.0f);
    }
}

static void sum_columns(float *sums, const float *panel, long n, long K)
{
    vf low = {0}, high = {0};

    for (long k = 0; k < K; k++) {
        low += load(panel + k * NR);
        high += load(panel + k * NR + VW);
    }
    store_n(sums, load_n(sums, n) + low, n);
    if (n > VW)
        store_n(sums + VW, load_n(sums + VW, n - VW) + high, n - VW);
}

/* Packs panel first_packed + i of B. */
static void pack_b(void *arg, long i, int thread)
{
    const struct blocked *w = arg;
    const struct product *p = w->p;
    long panel = w->first_packed + i, column = panel * NR;
    long n = p->N - column < NR ? p->N - column : NR;
    float *to = w->packed + i * p->K * NR;
    const float *from = p->b + column * p->b_col;

    (void) thread;
    if (p->b_col == 1)
        copy_panel(to, NR, from, p->b_row, n, p->K);
    else
        for (long v = 0; v < NR; v += VW)
            pack_transposed(to + v, NR, from + v * p->b_col, p->b_col, n - v, p->K, 1.0f);
    if (p->column_sums)
        sum_columns(p->column_sums + column, to, n, p->K);
}

/* ---- blocks ---- */
static void multiply_block(void *arg, long i, int thread)
{
    const struct blocked *w = arg;
    const struct product *p = w->p;
    long row = i % w->row_blocks * w->tiles * MR, panel0 = i / w->row_blocks * w->panels_a_unit;
    long tiles = (p->M - row + MR - 1) / MR, panels = w->panels - panel0;
    bool many = p->K > KC; /* then tiles wait in memory between blocks of KC steps */

    tiles = tiles < w->tiles ? tiles : w->tiles;
    panels = panels < w->panels_a_unit ? panels : w->panels_a_unit;
    float *a =
        device_own(w->device, thread,
                   (size_t) (tiles * MR * KC + VW + (many ? tiles * panels : 1) * MR * NR) * sizeof *a);
    float *tile = a + (tiles * MR * KC + VW + 15) / 16 * 16;

    for (long k = 0; k < p->K || k == 0; k += KC) {
        long K = p->K - k < KC ? p->K - k : KC;

        pack_a(p, a, row, tiles, k, K);
        for (long j = 0; j < panels; j++) {
            long panel = panel0 + j, column = panel * NR;
            bool packed = panel >= w->first_packed;
            long b_k = packed ? NR : p->b_row;
            const float *b =
                (packed ? w->packed + (panel - w->first_packed) * p->K * NR : p->b + column) + k * b_k;

            for (long t = 0; t < tiles; t++) {
                float *sum = tile + (many ? (j * tiles + t) * MR * NR : 0);

                multiply(p->M - row - t * MR, p->N - column, K, a + t * MR * K, b, b_k, sum, k > 0);
                if (k + K >= p->K)
                    finish_tile(p, sum, row + t * MR, column);
            }
        }
    }
}

/* Any shape; the roof is the FMA units' peak. */
void ISA_NAME(product)(struct device *device, const struct product *p)
{
    struct blocked w = {.p = p, .device = device, .panels = (p->N + NR - 1) / NR};
    long all_tiles = (p->M + MR - 1) / MR, wanted = 8 * pool_threads(device->pool);
    long columns;

    w.first_packed = p->M <= FEW_ROWS && p->b_col == 1 && !p->column_sums ? p->N / NR : 0;
    w.packed = device_shared(device, SCRATCH_PACKED,
                             (size_t) ((w.panels - w.first_packed) * p->K * NR + VW) * sizeof(float));
    pool_run(device->pool, w.panels - w.first_packed, pack_b, &w);

    w.tiles = BLOCK_TILES;
    w.panels_a_unit = BLOCK_PANELS;
    for (;;) { /* enough units to go round */
        w.row_blocks = (all_tiles + w.tiles - 1) / w.tiles;
        columns = (w.panels + w.panels_a_unit - 1) / w.panels_a_unit;
        if (w.row_blocks * columns >= wanted || (w.tiles == 1 && w.panels_a_unit == 1))
            break;
        if (w.panels_a_unit > 3 || w.tiles == 1)
            w.panels_a_unit = (w.panels_a_unit + 1) / 2;
        else
            w.tiles /= 2;
    }
    pool_run(device->pool, w.row_blocks * columns, multiply_block, &w);
}

/* ---- linear layers ---- */
void ISA_NAME(linear_forward)(struct device *device, act *y_act, real *y_real, act *pre, const act *x,
                              const real *w, const real *bias, int rows, int K, int N)
{
    ISA_NAME(product)
    (device, &(struct product){.M = rows,
                               .N = N,
                               .K = K,
                               .a = x,
                               .a_row = K,
                               .a_col = 1,
                               .b = w,
                               .b_row = N,
                               .b_col = 1,
                               .c = y_act ? (float *) y_act : y_real,
                               .c_row = N,
                               .bias = bias,
                               .pre = pre});
}

/* Rows whose gradients are packed at once: about a megabyte, a function of the shape alone. */
static long gradient_rows(int rows, int N)
{
    long chunk = (256 * 1024 / N + KC - 1) / KC * KC;

    return chunk < rows ? chunk : rows;
}

void ISA_NAME(linear_backward)(struct device *device, act *dx_act, real *dx_real, real *dw, real *dbias,
                               const act *dy_act, const real *dy_real, const act *pre, const act *x,
                               const real *w, int rows, int K, int N)
{
    const float *dy = dy_act ? (const float *) dy_act : dy_real, *input = x;
    float *dx = dx_act ? (float *) dx_act : dx_real;
    long chunk = gradient_rows(rows, N);

    if (dx)
        ISA_NAME(product)
    (device, &(struct product){.M = rows,
                               .N = K,
                               .K = N,
                               .a = dy,
                               .a_row = N,
                               .a_col = 1,
                               .b = w,
                               .b_row = 1,
                               .b_col = N,
                               .c = dx,
                               .c_row = K,
                               .slope = pre});
    for (long row = 0; row < rows; row += chunk)
        ISA_NAME(product)
    (device, &(struct product){.M = K,
                               .N = N,
                               .K = row + chunk < rows ? chunk : rows - row,
                               .a = input + row * K,
                               .a_row = 1,
                               .a_col = K,
                               .b = dy + row * N,
                               .b_row = N,
                               .b_col = 1,
                               .c = dw,
                               .c_row = N,
                               .accumulate = true,
                               .column_sums = dbias});
}

/* ---- logits of few rows: a dot product for each word, the roof being the memory that holds wte ---- */
struct few_logits {
    float *logits;
    const float *x, *wte;
    long rows, C, V;
};

#define WORDS_A_UNIT 128

static void few_logits_unit(void *arg, long unit, int thread)
{
    const struct few_logits *w = arg;
    long end = (unit + 1) * WORDS_A_UNIT < w->V ? (unit + 1) * WORDS_A_UNIT : w->V;

    (void) thread;
    for (long v = unit * WORDS_A_UNIT; v < end; v++)
        for (long row = 0; row < w->rows; row++) {
            const float *x = w->x + row * w->C, *word = w->wte + v * w->C;
            vf sums[2] = {{0}};
            long c = 0;

            for (; c + 2 * VW <= w->C; c += 2 * VW) {
                sums[0] += load(x + c) * load(word + c);
                sums[1] += load(x + c + VW) * load(word + c + VW);
            }
            for (; c < w->C; c += VW)
                sums[0] += load_n(x + c, w->C - c) * load_n(word + c, w->C - c);
            w->logits[row * w->V + v] = vsum(sums[0] + sums[1]);
        }
}

void ISA_NAME(logits)(struct device *device, real *logits, const act *x, const real *wte, int rows, int C,
                      int V)
{
    if (rows <= FEW_ROWS)
        pool_run(device->pool, (V + WORDS_A_UNIT - 1) / WORDS_A_UNIT, few_logits_unit,
                 &(struct few_logits){logits, x, wte, rows, C, V});
    else
        ISA_NAME(product)
    (device, &(struct product){.M = rows,
                               .N = V,
                               .K = C,
                               .a = x,
                               .a_row = C,
                               .a_col = 1,
                               .b = wte,
                               .b_row = 1,
                               .b_col = C,
                               .c = logits,
                               .c_row = V});
}
