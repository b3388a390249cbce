/*
 * Matrix products by AMX, in the place of isa_gemm.c.
 *
 * B is packed once, by all threads, into panels [K][NR] of cells; a unit of work owns a block of C, packs its
 * rows of A into tiles, KC cells at a time, and multiplies 32 x NR sums at a time, which pass through memory
 * (the first cache) into the epilogue.  Sums over K run in order for every element, so neither blocks nor
 * threads change a bit.
 *
 * Roof: the tile multiplier, 2,048 bf16 operations a cycle and core (16 rows a tile product in 16 cycles). By
 * calculation only: a step over 32 x 32 sums takes 64 cycles, its four loads 32 and 2 KB of A from the second
 * cache 32 to 43, beside it; storing and finishing 32 x 32 sums some 300 cycles, a third of the product's at
 * K = 384; so 60 to 70 % of the roof.  Never measured: no machine with AMX was at hand.
 */
#include "isa_amx.h"

#define MOST_ROWS    32
#define KC           256 /* cells of a packed block of A: 32 KB beside as much of B */
#define BLOCK_TILES  4   /* rows of a unit, in thirty-twos */
#define BLOCK_PANELS 12  /* columns of a unit, in panels */

struct blocked {
    const struct product *p;
    struct device *device;
    cell *packed; /* B: panel j at packed + j * K * NR */
    long K;       /* in cells, whole tiles */
    long panels, tiles, panels_a_unit, row_blocks;
};

/* ---- packing ---- */

/* K cells of A, from cell k0 on, of the 32 rows from `row` on: [K / 16][2] tiles */
static void pack_a(const struct product *p, cell *to, long row, long k0, long K)
{
    long rows = p->M - row, elements = p->K - k0 * STEP;
    const void *from = element(p->a.at, p->a.real, row * p->a.row + k0 * STEP * p->a.col);

    for (long k = 0; k < K; k += TILE_CELLS)
        for (long i = 0; i < MOST_ROWS; i += 16, to += TILE_BLOCK) {
            const void *block = element(from, p->a.real, i * p->a.row + k * STEP * p->a.col);

            if (p->a.row == 1)
                pack_tile_transposed(to, block, p->a.real, p->a.col, rows - i, elements - k * STEP);
            else
                pack_tile(to, block, p->a.real, p->a.row, rows - i, elements - k * STEP);
        }
}

static void pack_b(void *arg, long panel, int thread)
{
    const struct blocked *w = arg;
    const struct product *p = w->p;
    long column = panel * NR, n = least(p->N - column, NR), K = steps(p->K);
    cell *to = w->packed + panel * w->K * NR;
    const void *from = element(p->b.at, p->b.real, column * p->b.col);
    vf sums[2] = {{0}};

    (void) thread;
    if (p->b.col == 1)
        pack_rows(to, NR, from, p->b.real, p->b.row, n, p->K, p->column_sums ? sums : NULL);
    else
        for (long v = 0; v < NR; v += VW)
            pack_transposed(to + v, NR, element(from, p->b.real, v * p->b.col), p->b.real, p->b.col, n - v,
                            p->K);
    memset(to + K * NR, 0, (size_t) ((w->K - K) * NR) * sizeof *to);
    for (long v = 0; p->column_sums && v < n; v += VW)
        store_n(p->column_sums + column + v, load_n(p->column_sums + column + v, n - v) + sums[v / VW],
                n - v);
}

/* ---- what becomes of the sums ---- */
struct epilogue {
    bool c_real, bias, pre, slope, accumulate;
};

inline_always void finish_rows(const struct product *p, struct epilogue e, const float *sums, long row,
                               long column, long columns)
{
    long rows = least(p->M - row, MOST_ROWS);

    for (long i = 0; i < rows; i++)
        for (long j = 0; j < columns; j += VW) {
            long at = (row + i) * p->c_row + column + j, n = columns - j;
            vf x = load(sums + i * NR + j);

            if (e.bias)
                x += load_n(p->bias + column + j, n);
            if (e.pre) {
                store_act_n(p->pre + at, x, n);
                x = gelu(x);
            }
            if (e.slope)
                x *= gelu_slope(load_act_n(p->slope + at, n));
            if (e.accumulate)
                x += load_of(p->c, true, at, n);
            store_of(p->c, e.c_real, at, x, n);
        }
}

/* Whole panels of the usual epilogues are compiled cases. */
static void finish(const struct product *p, const float *sums, long row, long column)
{
    const struct epilogue e = {p->c_real, p->bias, p->pre, p->slope, p->accumulate};
    long columns = least(p->N - column, NR);
    int what = e.c_real | e.bias << 1 | e.pre << 2 | e.slope << 3 | e.accumulate << 4;

#define CASE(number, ...)                                                                                    \
    case number:                                                                                             \
        finish_rows(p, (const struct epilogue){__VA_ARGS__}, sums, row, column, NR);                         \
        break;
    switch (columns == NR ? what : -1) {
        CASE(0, 0)
        CASE(1, .c_real = true)
        CASE(2, .bias = true)
        CASE(3, .c_real = true, .bias = true)
        CASE(6, .bias = true, .pre = true)
        CASE(8, .slope = true)
        CASE(17, .c_real = true, .accumulate = true)
    default:
        finish_rows(p, e, sums, row, column, columns);
    }
}

/* ---- blocks ---- */
static void multiply_block(void *arg, long i, int thread)
{
    const struct blocked *w = arg;
    const struct product *p = w->p;
    long row0 = i % w->row_blocks * w->tiles * MOST_ROWS, panel0 = i / w->row_blocks * w->panels_a_unit;
    long tiles = least((p->M - row0 + MOST_ROWS - 1) / MOST_ROWS, w->tiles),
         panels = least(w->panels - panel0, w->panels_a_unit);
    bool many = w->K > KC; /* then sums wait in memory between blocks of KC cells */
    long a_size = tiles * MOST_ROWS * least(w->K, KC), sums_size = MOST_ROWS * NR;
    cell *a = device_own(w->device, thread,
                         (size_t) (a_size + (many ? tiles * panels : 1) * sums_size) * sizeof *a);

    tiles_begin();
    for (long k = 0; k < w->K; k += KC) {
        long K = least(w->K - k, KC);

        for (long t = 0; t < tiles; t++)
            pack_a(p, a + t * MOST_ROWS * K, row0 + t * MOST_ROWS, k, K);
        for (long j = 0; j < panels; j++) {
            long column = (panel0 + j) * NR;
            const cell *b = w->packed + (panel0 + j) * w->K * NR + k * NR;

            for (long t = 0; t < tiles; t++) {
                float *sums = a + a_size + (many ? (j * tiles + t) * sums_size : 0);
                long row = row0 + t * MOST_ROWS;
                const cell *block = a + t * MOST_ROWS * K, *const halves[2] = {block, block + TILE_BLOCK};

                tile_product(p->M - row, p->N - column, sums, NR, k > 0, halves, 2 * TILE_BLOCK, b, NR,
                             K / TILE_CELLS);
                if (k + K >= w->K)
                    finish(p, sums, row, column);
            }
        }
    }
    tile_release();
}

/* Any shape. */
void ISA_NAME(product)(struct device *device, const struct product *p)
{
    struct blocked w = {.p = p,
                        .device = device,
                        .K = round_up(steps(p->K), TILE_CELLS),
                        .panels = (p->N + NR - 1) / NR,
                        .tiles = BLOCK_TILES,
                        .panels_a_unit = BLOCK_PANELS};
    long all_tiles = (p->M + MOST_ROWS - 1) / MOST_ROWS, wanted = 8 * pool_threads(device->pool), columns;

    w.packed = device_shared(device, SCRATCH_PACKED, (size_t) (w.panels * w.K * NR) * sizeof *w.packed);
    pool_run(device->pool, w.panels, pack_b, &w);
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
