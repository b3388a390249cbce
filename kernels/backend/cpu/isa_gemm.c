/*
 * Matrix products.
 *
 * Goto & van de Geijn's scheme: B is packed once, by all threads, into panels [K][NR] of cells; a unit of
 * work owns a block of C and multiplies it tile by tile, MR x NR accumulators in registers.  A is read where
 * it lies when that is as cells; else a unit copies its rows.  With a transposed A, a gradient of weights, K
 * is long and packing counts: all threads pack the smaller operand, and a unit, which goes through all of
 * that, packs its part of the larger one in its own cache.  Sums over K run in order for every element, so
 * neither blocks nor threads change a bit.
 *
 * Roof: the FMA units.  Measured in a training step (Zen 5, one thread): at d_model 384 82 % of it forward
 * and 74 % backward in float32, 84 % and 74 % in bf16; at d_model 64 75 % and 61 %, 68 % and 58 %.
 */
#include "isa_gemm.h"

#define KC           512       /* at most so many cells of K between which sums wait in memory */
#define UNIT_TILES   4         /* rows of a unit, in tiles */
#define PANELS_CELLS (1 << 17) /* of B that a unit reads again and again: half of a second-level cache */
#define FEW_PANELS   8         /* for so many a transposed A of floats is read where it lies */

/* Units of a transposed A, in tiles and panels: where B is packed before, and where the unit packs it. */
#define OWN_CELLS    (1 << 19) /* a smaller A is packed before, too */
#define STRIP_TILES  8
#define STRIP_PANELS 24
#define PANEL_TILES  64
#define PANEL_PANELS 4

struct blocked {
    const struct product *p;
    struct device *device;
    const cell *packed; /* B: panel j at packed + j * K * NR; NULL: each unit packs its own */
    cell *columns; /* a transposed A in panels of a tile, [tiles][K][height]; NULL: each unit packs its own */
    bool stays;    /* A is read where it is */
    long K;        /* in cells */
    long height;   /* rows of a tile */
    long tiles, panels;
    struct cut cut;
};

/* ---- tiles ---- */

/* A tile's place: K cells of rows of A, a panel of B, where sums wait, where they go. */
struct tile {
    const cell_any *a; /* cell k of row i at a[i * step + k], or transposed at a[i + k * step] */
    long step;
    bool transposed;
    const cell *b;
    long K;
    float *sums; /* [MR][NR] */
    bool resume, last;
    long row, column; /* of C; the last tile of A starts early, its rows before `first` are not its own */
    long first, end;
};

/* A row of NR sums. */
inline_always void finish_row(const struct product *p, struct epilogue e, vf first, vf second, long row,
                              long column)
{
    long at = row * p->c_row + column;

    first = finish(p, e, first, at, column, VW);
    second = finish(p, e, second, at + VW, column + VW, VW);
    if (e.c_real) {
        store((float *) p->c + at, first);
        store((float *) p->c + at + VW, second);
    } else
        store_act_row((act_t *) p->c + at, first, second);
}

inline_always void prefetch_rows(const void *array, bool real, const struct product *p, const struct tile *t,
                                 long column, bool write)
{
    long bytes = real ? sizeof(float) : sizeof(act_t);
    const char *at = (const char *) array + ((t->row + t->first) * p->c_row + column) * bytes;

    for (long i = t->first; i < t->end; i++, at += p->c_row * bytes)
        for (long byte = 0; byte < NR * bytes; byte += 64)
            if (write)
                __builtin_prefetch(at + byte, 1);
            else
                __builtin_prefetch(at + byte, 0);
}

/* Asks for what a tile will read and write in the columns from `column` on when it is done. */
static void prefetch_c(const struct product *p, const struct tile *t, long column)
{
    if (p->c)
        prefetch_rows(p->c, p->c_real, p, t, column, true);
    if (p->slope)
        prefetch_rows(p->slope, false, p, t, column, false);
    if (p->gelu)
        prefetch_rows(p->gelu, false, p, t, column, true);
}

/* A tile of `height` rows and NR columns; `e` NULL: its sums go to t->sums, else to C. */
inline_always void run_tile(int height, bool transposed, const struct product *p, const struct tile *t,
                            const struct epilogue *e)
{
    vf acc[MR][2];

#pragma GCC unroll 16
    for (int i = 0; i < height; i++)
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++)
            acc[i][v] = t->resume ? load(t->sums + i * NR + v * VW) : (vf){0};
    if (transposed)
        multiply_tile(height, 0, 2, acc, (const cell *) t->a, 1, t->step, t->b, NR, t->K);
    else
        multiply_rows(height, 0, 2, acc, t->a, t->step, t->b, t->K);
#pragma GCC unroll 16
    for (int i = 0; i < height; i++)
        if (e && i >= t->first && i < t->end)
            finish_row(p, *e, acc[i][0], acc[i][1], t->row + i, t->column);
        else if (!e) {
            store(t->sums + i * NR, acc[i][0]);
            store(t->sums + i * NR + VW, acc[i][1]);
        }
}

typedef void (*tile_case)(const struct product *, const struct tile *);
#define TILE_CASE(name, height, transposed, ...)                                                             \
    static void tile_##name(const struct product *p, const struct tile *t)                                   \
    {                                                                                                        \
        const struct product own_p = *p; /* copies that no store can change */                               \
        const struct tile own_t = *t;                                                                        \
        run_tile(height, transposed, &own_p, &own_t, __VA_ARGS__);                                           \
    }
TILE_CASE(real, MR, false, &(const struct epilogue){.c_real = true})
TILE_CASE(real_bias, MR, false, &(const struct epilogue){.c_real = true, .bias = true})
TILE_CASE(act, MR, false, &(const struct epilogue){0})
TILE_CASE(act_bias, MR, false, &(const struct epilogue){.bias = true})
TILE_CASE(act_slope, MR, false, &(const struct epilogue){.slope = true})
TILE_CASE(sums, MR, false, NULL)
TILE_CASE(transposed_accumulate, MR, true, &(const struct epilogue){.c_real = true, .accumulate = true})
TILE_CASE(transposed_sums, MR, true, NULL)
TILE_CASE(low_accumulate, MR - 1, true, &(const struct epilogue){.c_real = true, .accumulate = true})
TILE_CASE(low_sums, MR - 1, true, NULL)

/* The compiled case of whole tiles' last K cells; NULL: by finish_sums, as GELU would crowd the registers. */
static tile_case choose_case(const struct product *p, long height, bool transposed)
{
    bool plain = !p->gelu && !p->accumulate && !p->shift;

    if (transposed && p->accumulate && p->c_real && !p->bias)
        return height == MR ? tile_transposed_accumulate : tile_low_accumulate;
    if (transposed || !plain)
        return NULL;
    if (p->slope)
        return p->bias || p->c_real ? NULL : tile_act_slope;
    if (p->c_real)
        return p->bias ? tile_real_bias : tile_real;
    return p->bias ? tile_act_bias : tile_act;
}

inline_always void finish_rows(const struct product *p, struct epilogue e, const struct tile *t, long columns)
{
    for (long i = t->first; i < t->end; i++)
        if (columns == NR)
            finish_row(p, e, load(t->sums + i * NR), load(t->sums + i * NR + VW), t->row + i, t->column);
        else
            for (long j = 0; j < columns; j += VW) {
                long at = (t->row + i) * p->c_row + t->column + j, n = columns - j;

                store_of(p->c, e.c_real, at, finish(p, e, load(t->sums + i * NR + j), at, t->column + j, n),
                         n);
            }
}

/* GELU of whole rows, with or without a bias, two at a time; a last one by itself twice. */
static void finish_gelu(const struct product *p, const struct tile *t)
{
    const struct product own = *p; /* that no store can change */
    vf bias[2] = {{0}};

    if (own.bias) {
        bias[0] = load(own.bias + t->column);
        bias[1] = load(own.bias + t->column + VW);
    }
    for (long i = t->first; i < t->end; i += 2) {
        const long rows[2] = {i, least(i + 1, t->end - 1)};
        vf x[4], slope[4];

#pragma GCC unroll 4
        for (int j = 0; j < 4; j++)
            x[j] = load(t->sums + rows[j / 2] * NR + j % 2 * VW) + bias[j % 2];
        gelu(4, x, slope);
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            long at = (t->row + rows[j]) * own.c_row + t->column;

            store_act_row((act_t *) own.c + at, x[2 * j], x[2 * j + 1]);
            store_act_row(own.gelu + at, slope[2 * j], slope[2 * j + 1]);
        }
    }
}

static void finish_sums(const struct product *p, const struct tile *t)
{
    long columns = least(p->N - t->column, NR);

    if (p->shift)
        finish_exponentials(p, t->sums, t->row, t->first, t->end, t->column);
    else if (columns == NR && p->gelu && !p->c_real)
        finish_gelu(p, t);
    else
        finish_rows(p, (struct epilogue){p->c_real, p->bias, p->gelu, p->slope, p->accumulate}, t, columns);
}

/* Asks for K cells of a tile's rows. */
static void prefetch_a(const cell_any *a, long step, long K)
{
    for (long i = 0; i < MR; i++, a += step)
        for (long k = 0; k < K; k += 16)
            __builtin_prefetch(a + k, 0);
}

static void multiply(const struct product *p, const struct tile *t, long height)
{
    tile_case known = t->last && t->column + NR <= p->N ? choose_case(p, height, t->transposed) : NULL;

    if (known) {
        known(p, t);
        return;
    }
    if (!t->transposed)
        tile_sums(p, t);
    else if (height == MR)
        tile_transposed_sums(p, t);
    else
        tile_low_sums(p, t);
    if (t->last)
        finish_sums(p, t);
}

/* ---- packing ---- */

/* Whether A can be read where it lies: as cells, and not all from the same places of the cache. */
static bool lies_as_cells(const struct product *p, long height)
{
    bool rows = p->a.col == 1;
    long step = (rows ? p->a.row : p->a.col) * (long) (p->a.real ? sizeof(float) : sizeof(act_t));

    return p->M >= height && step % 4096 != 0 &&
           (STEP == 1 || (rows && !p->a.real && p->K % STEP == 0 && step % sizeof(cell) == 0));
}

/* Distance of copied rows of n cells: whole vectors, not all on the same places of the cache. */
static long row_step(long n)
{
    long step = round_up(n, VW);

    return step % 64 == 0 ? step + VW : step;
}

/* Rows row .. row + n of A, K cells from cell k0 on, to rows `step` apart. */
static void copy_rows(const struct product *p, cell *to, long step, long row, long n, long k0, long K)
{
    long elements = least(p->K - k0 * STEP, K * STEP);

    for (long i = 0; i < n; i++)
        for (long k = 0; k < elements; k += STEP * VW)
            store(to + i * step + k / STEP,
                  cells_along(p->a.at, p->a.real, (row + i) * p->a.row + k0 * STEP + k, elements - k));
}

/* The first row of tile i of A: the last one starts early, so that it has rows enough. */
static long tile_start(const struct product *p, long height, long i)
{
    return p->M >= height ? least(i * height, p->M - height) : 0;
}

#define SLAB_CELLS 64 /* cells of K of a unit that packs a transposed A */
#define STEP_CELLS 16 /* of these, so many for every tile in turn: few lines, read once and whole */

/* Cells k .. end of a tile's rows (n of which exist), element `from` on, to [cells][height]; the last cell
 * touches nothing beyond. */
inline_always void pack_tile(const struct product *p, cell *to, long height, bool real, const void *from,
                             long n, long k, long end)
{
    for (; k < end; k++, to += height) {
        const void *at = element(from, real, k * STEP * p->a.col);
        vf x = p->K - k * STEP >= STEP ? cells_down(at, real, 0, p->a.col, STEP, n)
                                       : cells_down(at, real, 0, p->a.col, 1, n);

        __builtin_prefetch(element(at, real, 64));
        if (STEP > 1)
            __builtin_prefetch(element(at, real, p->a.col + 64));
        store_n(to, x, k + 1 < end ? VW : height);
    }
}

/* Cells k0 .. end of `count` tiles of a transposed A, each to [cells][height], `size` cells apart. */
static void pack_tiles(const struct blocked *w, cell *room, long size, long tile, long count, long k0,
                       long end)
{
    const struct product *p = w->p;

    for (long k = k0; k < end; k += STEP_CELLS)
        for (long i = 0; i < count; i++) {
            long start = tile_start(p, w->height, tile + i), n = p->M - start,
                 stop = least(k + STEP_CELLS, end);
            cell *to = room + i * size + (k - k0) * w->height;
            const void *from = element(p->a.at, p->a.real, start);

            if (n >= VW && !p->a.real && w->height == MR)
                pack_tile(p, to, MR, false, from, VW, k, stop);
            else if (n >= VW && !p->a.real)
                pack_tile(p, to, MR - 1, false, from, VW, k, stop);
            else
                pack_tile(p, to, w->height, p->a.real, from, n, k, stop);
        }
}

struct packing {
    const struct product *p;
    cell *to;
    long K; /* in cells */
};

static void pack_panel(void *arg, long panel, int thread)
{
    const struct packing *w = arg;

    (void) thread;
    pack_b(w->p, w->to + panel * w->K * NR, panel, 0, w->p->K, true);
}

const cell *ISA_NAME(pack_panels)(struct device *device, const struct product *p, enum scratch where)
{
    long panels = (p->N + NR - 1) / NR;
    struct packing w = {.p = p, .K = steps(p->K)};

    w.to = device_shared(device, where, (size_t) (panels * w.K * NR) * sizeof *w.to);
    pool_run(device->pool, panels, pack_panel, &w);
    return w.to;
}

static void pack_slab(void *arg, long slab, int thread)
{
    const struct blocked *w = arg;
    long k = slab * SLAB_CELLS;

    (void) thread;
    pack_tiles(w, w->columns + k * w->height, w->K * w->height, 0, w->tiles, k, least(k + SLAB_CELLS, w->K));
}

/* ---- blocks ---- */

/* Cells of K between which sums wait in memory: blocks of the same size. */
static long cells_at_once(long K)
{
    long blocks = (K + KC - 1) / KC;

    return round_up((K + blocks - 1) / blocks, 8);
}

/* The tiles of A of a unit, K cells from cell k0 on; copied to `room` where they cannot be read elsewhere. */
static void place_tiles(const struct blocked *w, struct tile *tiles, cell *room, long tile, long count,
                        long k0, long K)
{
    const struct product *p = w->p;
    long step = row_step(K);
    bool transposed = p->a.col != 1;

    if (transposed && !w->columns && !w->stays)
        pack_tiles(w, room, MR * step, tile, count, k0, k0 + K);
    for (long i = 0; i < count; i++, room += MR * step) {
        long row = (tile + i) * w->height, start = tile_start(p, w->height, tile + i),
             end = least(p->M - start, w->height);
        struct tile *t = &tiles[i];

        *t = (struct tile){.a = room, .step = step, .K = K, .row = start, .first = row - start, .end = end};
        t->transposed = transposed;
        if (w->columns) {
            t->a = w->columns + ((tile + i) * w->K + k0) * w->height;
            t->step = w->height;
        } else if (transposed && !w->stays) {
            t->step = w->height;
        } else if (transposed) {
            t->a = element(p->a.at, p->a.real, start + k0 * p->a.col);
            t->step = p->a.col;
        } else if (w->stays) {
            t->a = element(p->a.at, p->a.real, start * p->a.row + k0 * STEP);
            t->step = p->a.row / STEP;
        } else {
            copy_rows(p, room, step, start, end, k0, K);
            memset(room + end * step, 0, (size_t) ((w->height - end) * step) * sizeof *room);
        }
    }
}

/*
 * Whether a unit takes all panels for a tile before the next tile: where a tile's rows of A are many lines,
 * its rows of C lie in pages of their own, or slopes are read beside them.
 */
static bool goes_along_rows(const struct product *p)
{
    return p->a.col != 1 || p->slope || p->c_row * (long) (p->c_real ? sizeof(float) : sizeof(act_t)) >= 4096;
}

static void multiply_block(void *arg, long i, int thread)
{
    const struct blocked *w = arg;
    const struct cut *cut = &w->cut;
    struct place place = cut_place(w->device, cut, i);
    long tile0 = place.row_block * cut->tiles, panel0 = place.panel_block * cut->panels;
    long count = least(w->tiles - tile0, cut->tiles), panels = least(w->panels - panel0, cut->panels);
    long kc = cells_at_once(w->K);
    bool many = w->K > kc; /* then tiles wait in memory between blocks of K */
    bool own_a = !w->stays && !w->columns, own_b = !w->packed, along_rows = goes_along_rows(w->p);
    long a_size = own_a ? round_up(count * MR * row_step(least(w->K, kc)) + VW, 16) : 0;
    long b_size = own_b ? panels * NR * least(w->K, kc) : 0;
    cell *a = device_own(w->device, thread,
                         (size_t) (a_size + b_size + (many ? count * panels : 1) * MR * NR) * sizeof *a);
    float *sums = a + a_size + b_size;
    struct tile tiles[PANEL_TILES];

    for (long k = 0; k < w->K; k += kc) {
        long K = least(w->K - k, kc);

        place_tiles(w, tiles, a, tile0, count, k, K);
        for (long j = 0; own_b && j < panels; j++)
            pack_b(w->p, a + a_size + j * K * NR, panel0 + j, k * STEP, least(w->p->K - k * STEP, K * STEP),
                   tile0 == 0);
        const cell *b = own_b ? a + a_size : w->packed + (panel0 * w->K + k) * NR;
        long b_step = (own_b ? K : w->K) * NR, all = count * panels;
        bool last = k + K >= w->K;

        if (last)
            prefetch_c(w->p, &tiles[0], panel0 * NR);
        for (long n = 0, t = 0, j = 0; n < all; n++) {
            struct tile *tile = &tiles[t];

            tile->b = b + j * b_step;
            tile->sums = sums + (many ? (j * count + t) * MR * NR : 0);
            tile->resume = k > 0;
            tile->last = last;
            tile->column = (panel0 + j) * NR;
            if (j == 0 && w->stays && !tile->transposed)
                prefetch_a(t + 1 == count && !last ? tiles[0].a + K : tile->a + MR * tile->step, tile->step,
                           K);
            t = along_rows ? (n + 1) / panels : (n + 1) % count;
            j = along_rows ? (n + 1) % panels : (n + 1) / count;
            if (last && n + 1 < all)
                prefetch_c(w->p, &tiles[t], (panel0 + j) * NR);
            multiply(w->p, tile, w->height);
        }
    }
}

/*
 * Units of a product of a transposed A: some four a thread, but what the units themselves pack is packed
 * twice only where threads would have nothing to do.
 */
static struct cut cut_gradient(const struct blocked *w)
{
    long threads = pool_threads(w->device->pool), wanted = units_wanted(w->device, 4);
    bool strips = w->packed; /* of A, against all of B; else panels of B, against all of A */
    long tiles = least(w->tiles, strips ? STRIP_TILES : PANEL_TILES);
    long panels = least(w->panels, strips ? STRIP_PANELS : PANEL_PANELS);

    for (;;) {
        struct cut cut = cut_units(w->tiles, w->panels, tiles, panels, 1);
        bool idle = cut.units < threads, few = cut.units < wanted;

        if (tiles > 1 && (strips ? few : idle && panels == 1))
            tiles = (tiles + 1) / 2;
        else if (panels > 1 && (strips ? idle : few))
            panels = (panels + 1) / 2;
        else
            return cut;
    }
}

/* Any shape. */
void ISA_NAME(product)(struct device *device, const struct product *p)
{
    bool transposed = p->a.col != 1, own_b = transposed && p->M <= p->N, own_a = false;
    struct blocked w = {
        .p = p, .device = device, .K = steps(p->K), .panels = (p->N + NR - 1) / NR, .height = MR};

    if (transposed && round_up(p->M, MR - 1) < round_up(p->M, MR))
        w.height = MR - 1;
    w.tiles = (p->M + w.height - 1) / w.height;
    w.stays = lies_as_cells(p, w.height) && (!transposed || w.panels <= FEW_PANELS);
    if (!own_b)
        w.packed = p->packed ? p->packed : ISA_NAME(pack_panels)(device, p, SCRATCH_PACKED);
    if (transposed && !w.stays)
        own_a = !own_b && p->M * w.K > OWN_CELLS;
    if (transposed && !w.stays && !own_a) {
        w.columns =
            device_shared(device, SCRATCH_COLUMNS, (size_t) (w.tiles * w.K * w.height) * sizeof *w.columns);
        pool_run(device->pool, (w.K + SLAB_CELLS - 1) / SLAB_CELLS, pack_slab, &w);
    }
    if (own_a || own_b)
        w.cut = cut_gradient(&w);
    else
        w.cut = cut_units(w.tiles, w.panels, UNIT_TILES,
                          least(w.panels, PANELS_CELLS / NR / least(w.K, cells_at_once(w.K))),
                          units_wanted(device, 16));
    pool_run(device->pool, w.cut.units, multiply_block, &w);
}
