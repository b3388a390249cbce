/*
 * Causal attention by AMX, in the place of isa_attention.c: the same order of things, with 32 queries
 * (forward) or keys (backward) as lanes and every product of tiles passing through memory.
 *
 * Forward: scores^T = K Q^T, y^T = V^T P^T.  Backward: dV^T = dO^T P, dK^T = Q^T dS, dQ += dS K.  A head's
 * operands are first packed into tiles; heads and sequences that fill no whole tile are padded with zeros.
 *
 * Roof: exp and the passes over the scores, not the tile multiplier.  By calculation only, at head dimension
 * 64: 32 x 32 scores cost two tile steps of 64 cycles a product forward, and some 64 vectors of exp, mask and
 * rounding at 12 to 16 cycles each.  At head dimension 16 half of each tile is padding.  Never measured: no
 * machine with AMX was at hand.
 */
#include "isa_amx.h"
#include "isa_attention.h"

#define SCORES (NR * NR)

/* ---- operands of a head's [T][D] slice `from`, rows `ld` apart, up to `rows` rows ---- */

/* A over D: [rows / 16][d_cells / 16] tiles */
static void pack_rows_as_a(cell *to, const act_t *from, long ld, const struct attention *w, long rows)
{
    for (long row = 0; row < rows; row += 16)
        for (long d = 0; d < w->D; d += STEP * TILE_CELLS, to += TILE_BLOCK)
            pack_tile(to, from + row * ld + d, false, ld, w->T - row, w->D - d);
}

/* A over rows: [D / 16][rows / 32] tiles of the transposed slice */
static void pack_columns_as_a(cell *to, const act_t *from, long ld, const struct attention *w, long rows)
{
    for (long d = 0; d < w->D; d += 16)
        for (long row = 0; row < rows; row += STEP * TILE_CELLS, to += TILE_BLOCK)
            pack_tile_transposed(to, from + row * ld + d, false, ld, w->D - d, w->T - row);
}

/* B over D: [rows / NR][d_cells][NR] */
static void pack_rows_as_b(cell *to, const act_t *from, long ld, const struct attention *w, long rows)
{
    long d_cells = steps(w->D);

    for (long row = 0; row < rows; row += NR, to += w->d_cells * NR) {
        for (long v = 0; v < NR; v += VW)
            pack_transposed(to + v, NR, from + (row + v) * ld, false, ld, w->T - row - v, w->D);
        memset(to + d_cells * NR, 0, (size_t) ((w->d_cells - d_cells) * NR) * sizeof *to);
    }
}

/* B over rows: [rows in cells][lanes] */
static void pack_columns_as_b(cell *to, long lanes, const act_t *from, long ld, const struct attention *w,
                              long rows)
{
    pack_rows(to, lanes, from, false, ld, w->D, w->T, NULL);
    memset(to + steps(w->T) * lanes, 0, (size_t) ((steps(rows) - steps(w->T)) * lanes) * sizeof *to);
}

/* ---- products ---- */

/* out[32][NR] = rows `row` .. of a (pack_rows_as_a) times a panel of pack_rows_as_b */
inline_always void product_over_d(float *out, const struct attention *w, const cell *a, long row,
                                  const cell *b)
{
    const cell *first = a + row * w->d_cells, *const halves[2] = {first, first + 16 * w->d_cells};

    tile_product(32, NR, out, NR, false, halves, TILE_BLOCK, b, NR, w->d_cells / TILE_CELLS);
}

/*
 * out[D][NR] = sum over `rows` rows (whole tiles) from row0 on of a (pack_columns_as_a, of all_rows rows)
 * times b, cells of these rows [rows in cells][NR], times *lane_scale
 */
static void product_over_rows(float *out, const struct attention *w, const cell *a, long all_rows, long row0,
                              const cell *b, long rows, const vf lane_scale[2])
{
    long in_row = all_rows / (STEP * TILE_CELLS) * TILE_BLOCK, skip = row0 / (STEP * TILE_CELLS) * TILE_BLOCK;

    for (long d = 0; d < w->D; d += 32) {
        const cell *first = a + d / 16 * in_row + skip, *const halves[2] = {first, first + in_row};

        tile_product(w->D - d, NR, out + d * NR, NR, false, halves, TILE_BLOCK, b, NR,
                     rows / (STEP * TILE_CELLS));
    }
    for (long d = 0; lane_scale && d < w->D; d++)
        for (int v = 0; v < 2; v++)
            store(out + d * NR + v * VW, load(out + d * NR + v * VW) * lane_scale[v]);
}

/* ---- forward ---- */

/* Scores^T of the NR queries from q0 on against the keys up to the last of them, masked; the largest of each
 * lane. */
static void scores_forward(const struct attention *w, float *p, const cell *k, const cell *q, long q0,
                           vf largest[2])
{
    for (long key = 0; key < q0 + NR; key += 32) {
        product_over_d(p + key * NR, w, k, key, q + q0 * w->d_cells);
        for (long i = key; i < key + 32; i++)
            for (int v = 0; v < 2; v++) {
                vf x = load(p + i * NR + v * VW);

                if (i > q0) {
                    x = choose(lanes_below(i - q0 - v * VW), splat(-1e30f), x);
                    store(p + i * NR + v * VW, x);
                }
                largest[v] = vmax(largest[v], x);
            }
    }
}

static void forward_unit(void *arg, long unit, int thread)
{
    const struct attention *w = arg;
    long T = w->T, D = w->D, C = w->C, rows = round_up(T, NR), b = unit / w->H, h = unit % w->H;
    long width = round_up(D, 16), operand = rows * w->d_cells;
    const act_t *from = w->qkv + b * T * 3 * C + h * D;
    cell *k = device_own(w->device, thread,
                         (size_t) (2 * operand + width * rows / STEP + rows * NR + width * NR) * sizeof *k);
    cell *q = k + operand, *v_columns = q + operand;
    float *p = v_columns + width * rows / STEP, *out = p + rows * NR;

    pack_rows_as_a(k, from + C, 3 * C, w, rows);
    pack_rows_as_b(q, from, 3 * C, w, rows);
    pack_columns_as_a(v_columns, from + 2 * C, 3 * C, w, rows);
    tiles_begin();
    for (long q0 = 0; q0 < T; q0 += NR) {
        vf largest[2] = {splat(-1e30f), splat(-1e30f)}, inverse[2], lse[2];

        scores_forward(w, p, k, q, q0, largest);
        softmax_lanes(w, p, q0 + NR, q0 + NR, largest, inverse, lse);
        product_over_rows(out, w, v_columns, rows, 0, p, q0 + NR, inverse);
        write_transposed(w->y + (b * T + q0) * C + h * D, C, out, T - q0, D);
        for (long v = 0; v < 2 && q0 + v * VW < T; v++)
            store_n(w->lse + unit * T + q0 + v * VW, lse[v], T - q0 - v * VW);
    }
    tile_release();
}

void ISA_NAME(attention_forward)(struct device *device, act *y, real *lse, const act *qkv, int B, int T,
                                 int C, int H)
{
    struct attention w = attention_shape(device, qkv, T, C, H, round_up(steps(C / H), TILE_CELLS));

    w.y = y;
    w.lse = lse;
    pool_run(device->pool, (long) B * H, forward_unit, &w);
}

/* ---- backward ---- */
struct backward {
    cell *q, *dy;                 /* A over D */
    cell *k, *v;                  /* B over D */
    cell *q_columns, *dy_columns; /* A over rows */
    cell *k_columns;              /* B over rows, [rows in cells][lanes] */
    cell *p, *ds;       /* P and dS of the queries from the panel's first key on, [cells over them][NR] */
    cell *ds_rows;      /* dS of the same as A over keys: a tile for 16 queries */
    float *s, *dp;      /* of 32 queries, [32][NR] */
    float *dq, *out;    /* [rows][lanes], [D][NR] */
    float *lse, *delta; /* delta = rowsum(dy * y) */
    long rows, lanes;   /* T rounded up to 32, D to 16 */
};

/* Places of a head's local arrays; returns how many floats they take. */
static long place_backward(struct backward *g, const struct attention *w, float *base)
{
    const long over_d = g->rows * w->d_cells, over_rows = g->lanes * g->rows / STEP;
    const struct {
        float **array;
        long size;
    } places[] = {
        {&g->q, over_d},
        {&g->dy, over_d},
        {&g->k, over_d},
        {&g->v, over_d},
        {&g->q_columns, over_rows},
        {&g->dy_columns, over_rows},
        {&g->k_columns, over_rows},
        {&g->p, g->rows / STEP * NR},
        {&g->ds, g->rows / STEP * NR},
        {&g->ds_rows, g->rows * NR / STEP},
        {&g->s, SCORES},
        {&g->dp, SCORES},
        {&g->dq, g->rows * g->lanes},
        {&g->out, g->lanes * NR},
        {&g->lse, g->rows},
        {&g->delta, g->rows},
    };
    long used = 0;

    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (base)
            *places[i].array = base + used;
        used += places[i].size;
    }
    return used;
}

/* Two rows of scores, from query `row` of g->s on, as P and dS; n: lanes that the first of them sees, less
 * than NR on the diagonal. */
inline_always void finish_scores(const struct attention *w, const struct backward *g, long q, long row,
                                 long from_k0, long n)
{
    vf p[STEP][2], ds[STEP][2];

    for (int i = 0; i < STEP; i++)
        for (int v = 0; v < 2; v++) {
            vf s = load(g->s + (row + i) * NR + v * VW), dp = load(g->dp + (row + i) * NR + v * VW);

            s = vexp_act(s * w->exp_scale - g->lse[q + i]);
            if (n < NR)
                s = choose(lanes_below(n + i - v * VW), s, (vf){0});
            p[i][v] = s;
            ds[i][v] = s * (dp - g->delta[q + i]) * w->scale;
        }
    store_cells(g->p + from_k0 / STEP * NR, 0, 2, p[0], p[STEP - 1]);
    store_cells(g->ds + from_k0 / STEP * NR, 0, 2, ds[0], ds[STEP - 1]);
    for (int i = 0; i < STEP; i++)
        store(g->ds_rows + (from_k0 + i) * TILE_CELLS, pair_row(ds[i][0], ds[i][1]));
}

/* P and dS of the NR keys from k0 on, for the queries from k0 on; dQ += dS K */
static void scores_backward(const struct attention *w, const struct backward *g, long k0)
{
    for (long q0 = k0; q0 < g->rows; q0 += 32) {
        const cell *first = g->ds_rows + (q0 - k0) * TILE_CELLS, *const halves[2] = {first,
                                                                                     first + TILE_BLOCK};

        product_over_d(g->s, w, g->q, q0, g->k + k0 * w->d_cells);
        product_over_d(g->dp, w, g->dy, q0, g->v + k0 * w->d_cells);
        for (long i = 0; i < 32; i += STEP)
            finish_scores(w, g, q0 + i, i, q0 - k0 + i, q0 == k0 ? i + 1 : NR);
        for (long d = 0; d < g->lanes; d += 32)
            tile_product(32, g->lanes - d, g->dq + q0 * g->lanes + d, g->lanes, true, halves, 0,
                         g->k_columns + k0 / STEP * g->lanes + d, g->lanes, 1);
    }
}

static void backward_unit(void *arg, long unit, int thread)
{
    const struct attention *w = arg;
    long T = w->T, D = w->D, C = w->C, b = unit / w->H, h = unit % w->H;
    const act_t *q = w->qkv + b * T * 3 * C + h * D, *dy = w->dy + b * T * C + h * D;
    act_t *dq = w->dqkv + b * T * 3 * C + h * D;
    struct backward g = {.rows = round_up(T, NR), .lanes = round_up(D, 16)};

    place_backward(&g, w,
                   device_own(w->device, thread, (size_t) place_backward(&g, w, NULL) * sizeof(float)));
    pack_rows_as_a(g.q, q, 3 * C, w, g.rows);
    pack_rows_as_a(g.dy, dy, C, w, g.rows);
    pack_rows_as_b(g.k, q + C, 3 * C, w, g.rows);
    pack_rows_as_b(g.v, q + 2 * C, 3 * C, w, g.rows);
    pack_columns_as_a(g.q_columns, q, 3 * C, w, g.rows);
    pack_columns_as_a(g.dy_columns, dy, C, w, g.rows);
    pack_columns_as_b(g.k_columns, g.lanes, q + C, 3 * C, w, g.rows);
    memset(g.dq, 0, (size_t) (g.rows * g.lanes) * sizeof *g.dq);
    row_statistics(w, g.lse, g.delta, unit, dy, w->y_in + b * T * C + h * D, g.rows);
    tiles_begin();
    for (long k0 = 0; k0 < T; k0 += NR) {
        scores_backward(w, &g, k0);
        product_over_rows(g.out, w, g.dy_columns, g.rows, k0, g.p, g.rows - k0, NULL);
        write_transposed(dq + k0 * 3 * C + 2 * C, 3 * C, g.out, T - k0, D);
        product_over_rows(g.out, w, g.q_columns, g.rows, k0, g.ds, g.rows - k0, NULL);
        write_transposed(dq + k0 * 3 * C + C, 3 * C, g.out, T - k0, D);
    }
    tile_release();
    for (long t = 0; t < T; t++)
        for (long d = 0; d < D; d += VW)
            store_act_n(dq + t * 3 * C + d, load(g.dq + t * g.lanes + d), D - d);
}

void ISA_NAME(attention_backward)(struct device *device, act *dqkv, const act *dy, const act *y,
                                  const real *lse, const act *qkv, int B, int T, int C, int H)
{
    struct attention w = attention_shape(device, qkv, T, C, H, round_up(steps(C / H), TILE_CELLS));

    w.dy = dy;
    w.y_in = y;
    w.lse_in = lse;
    w.dqkv = dqkv;
    pool_run(device->pool, (long) B * H, backward_unit, &w);
}
