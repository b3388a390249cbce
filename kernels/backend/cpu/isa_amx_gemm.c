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
#include "isa_gemm.h"

#define MOST_ROWS    32
#define KC           256 /* cells of a packed block of A: 32 KB beside as much of B */
#define BLOCK_TILES  4   /* rows of a unit, in thirty-twos */
#define BLOCK_PANELS 12  /* columns of a unit, in panels */

struct blocked {
    const struct product *p;
    struct device *device;
    const cell *packed; /* B: panel j at packed + j * K * NR */
    long K;             /* in cells, whole tiles */
    long panels;
    struct cut cut;
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

struct packing {
    const struct product *p;
    cell *to;
    long K; /* in cells, whole tiles */
};

static void pack_panel(void *arg, long panel, int thread)
{
    const struct packing *w = arg;
    long K = steps(w->p->K);
    cell *to = w->to + panel * w->K * NR;

    (void) thread;
    pack_b(w->p, to, panel, 0, w->p->K, true);
    memset(to + K * NR, 0, (size_t) ((w->K - K) * NR) * sizeof *to);
}

const cell *ISA_NAME(pack_panels)(struct device *device, const struct product *p, enum scratch where)
{
    long panels = (p->N + NR - 1) / NR;
    struct packing w = {.p = p, .K = round_up(steps(p->K), TILE_CELLS)};

    w.to = device_shared(device, where, (size_t) (panels * w.K * NR) * sizeof *w.to);
    pool_run(device->pool, panels, pack_panel, &w);
    return w.to;
}

/* ---- what becomes of the sums ---- */

inline_always void finish_rows(const struct product *p, struct epilogue e, const float *sums, long row,
                               long column, long columns)
{
    long rows = least(p->M - row, MOST_ROWS);

    for (long i = 0; i < rows; i++)
        for (long j = 0; j < columns; j += VW) {
            long at = (row + i) * p->c_row + column + j, n = columns - j;

            store_of(p->c, e.c_real, at, finish(p, e, load(sums + i * NR + j), at, column + j, n), n);
        }
}

/* Whole panels of the usual epilogues are compiled cases. */
static void finish_sums(const struct product *p, const float *sums, long row, long column)
{
    const struct epilogue e = {p->c_real, p->bias, p->gelu, p->slope, p->accumulate};
    long columns = least(p->N - column, NR), rows = least(p->M - row, MOST_ROWS);
    int what = e.c_real | e.bias << 1 | e.gelu << 2 | e.slope << 3 | e.accumulate << 4;

    if (p->shift) {
        for (long i = 0; i < rows; i += VW)
            finish_exponentials(p, sums + i * NR, row + i, 0, least(rows - i, VW), column);
        return;
    }
#define CASE(number, ...)                                                                                    \
    case number:                                                                                             \
        finish_rows(p, (const struct epilogue){__VA_ARGS__}, sums, row, column, NR);                         \
        break;
    switch (columns == NR ? what : -1) {
        CASE(0, 0)
        CASE(1, .c_real = true)
        CASE(2, .bias = true)
        CASE(3, .c_real = true, .bias = true)
        CASE(4, .gelu = true)
        CASE(6, .bias = true, .gelu = true)
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
    const struct cut *cut = &w->cut;
    struct place place = cut_place(w->device, cut, i);
    long row0 = place.row_block * cut->tiles * MOST_ROWS, panel0 = place.panel_block * cut->panels;
    long tiles = least((p->M - row0 + MOST_ROWS - 1) / MOST_ROWS, cut->tiles),
         panels = least(w->panels - panel0, cut->panels);
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
                    finish_sums(p, sums, row, column);
            }
        }
    }
    tile_release();
}

/* Any shape. */
void ISA_NAME(product)(struct device *device, const struct product *p)
{
    struct blocked w = {
        .p = p, .device = device, .K = round_up(steps(p->K), TILE_CELLS), .panels = (p->N + NR - 1) / NR};

    w.packed = p->packed ? p->packed : ISA_NAME(pack_panels)(device, p, SCRATCH_PACKED);
    w.cut = cut_units((p->M + MOST_ROWS - 1) / MOST_ROWS, w.panels, BLOCK_TILES, BLOCK_PANELS,
                      units_wanted(device, 8));
    pool_run(device->pool, w.cut.units, multiply_block, &w);
}
