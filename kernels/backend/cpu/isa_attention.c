/*
 * Causal attention: forward and backward.
 *
 * A unit of work is one head of one sequence, whose operands are first packed into zero-padded local layouts.
 * Forward takes NR queries at a time as lanes, so the softmax runs down the keys without horizontal sums, and
 * the weights come out as the operand of the second product: scores^T = K Q^T, y^T = V^T P^T.  Backward takes
 * NR keys at a time as lanes and recomputes P from the stored log-sum-exp: dV^T = dO^T P, dK^T = Q^T dS, dQ
 * += dS K.  Blocks of VW x VW beyond the diagonal are never computed: on it there are VW keys for which only
 * the second vector of queries takes part (forward), VW queries for which only the first of keys does
 * (backward).
 *
 * Roof: the FMA units, shared with exp.  Measured (Zen 5, one thread, counting the causal half): at head
 * dimension 64 55 % of it forward and 60 % backward in float32, 49 % and 53 % in bf16; at 16 47 % and 56 %,
 * 41 % and 46 %.
 */
#include "isa_attention.h"

/* ---- local layouts of a head's [T][D] slice `from`, rows `ld` apart ---- */

/* Rows of cells, the A operand of a product over D: row i at `at` + i * step. */
struct rows {
    const cell_any *at;
    long step;
};

/* The slice's copy in `room` [rows][D in vectors], zero beyond T. */
static struct rows copy_rows(cell *room, const act_t *from, long ld, const struct attention *w, long rows)
{
    long step = round_up(w->d_cells, VW);

    for (long row = 0; row < rows; row++)
        for (long d = 0; d < w->D; d += STEP * VW)
            store(room + row * step + d / STEP,
                  row < w->T ? cells_along(from, false, row * ld + d, w->D - d) : (vf){0});
    return (struct rows){room, step};
}

/* What is read only once may stay where it is, if it lies as cells. */
static struct rows place_rows(cell *room, const act_t *from, long ld, const struct attention *w, long rows)
{
    if (w->T % VW == 0 && w->D % STEP == 0)
        return (struct rows){(const void *) from, ld / STEP};
    return copy_rows(room, from, ld, w, rows);
}

/* [rows / NR][d_cells][NR]: NR rows as the B operand */
static void pack_b_panels(cell *to, const act_t *from, long ld, const struct attention *w, long rows)
{
    for (long row = 0; row < rows; row += NR, to += w->d_cells * NR)
        for (long v = 0; v < NR; v += VW)
            pack_transposed(to + v, NR, from + (row + v) * ld, false, ld, w->T - row - v, w->D);
}

/* [rows in cells][width]: an operand of a product over rows */
static void pack_over_rows(cell *to, long width, const act_t *from, long ld, const struct attention *w,
                           long rows)
{
    pack_rows(to, width, from, false, ld, w->D, w->T, NULL);
    memset(to + steps(w->T) * width, 0, (size_t) ((steps(rows) - steps(w->T)) * width) * sizeof *to);
}

/* Cells of K of a product over rows: so many of the first vector of lanes, then of both, then of the second.
 */
struct span {
    long first, both, second;
};

/* out[width][NR] = sum over k of a[k][width]^T b[k][NR], times lane_scale */
static void product_over_rows(float *out, const cell *a, long width, const cell *b, struct span K,
                              const vf lane_scale[2])
{
    const cell *b_both = b + K.first * NR, *b_second = b_both + K.both * NR;

    for (long d = 0; d < width; d += AR, a += AR) {
        vf acc[AR][2] = {{{0}}};

        multiply_tile(AR, 0, 1, acc, a, 1, width, b, NR, K.first);
        multiply_tile(AR, 0, 2, acc, a + K.first * width, 1, width, b_both, NR, K.both);
        multiply_tile(AR, 1, 2, acc, a + (K.first + K.both) * width, 1, width, b_second, NR, K.second);
#pragma GCC unroll 16
        for (int i = 0; i < AR; i++)
#pragma GCC unroll 2
            for (int v = 0; v < 2; v++)
                store(out + (d + i) * NR + v * VW, acc[i][v] * lane_scale[v]);
    }
}

/* ---- forward ---- */
struct forward {
    struct rows k;
    cell *q, *v; /* B panels of Q, V [T][width] */
    float *p;    /* scores^T [T][NR], then their exponentials as cells */
    float *out;  /* y^T [width][NR] */
    long width;  /* D rounded up to AR */
};

/* Scores^T of `rows` keys, vectors first .. 2 of the queries from q0 on, the first masked on the diagonal;
 * the largest of each lane. */
inline_always void scores_forward(int rows, int first, bool diagonal, const struct attention *w,
                                  const struct forward *f, long q0, long key, vf largest[2])
{
    vf acc[VW][2] = {{{0}}};

    multiply_rows(rows, first, 2, acc, f->k.at + key * f->k.step, f->k.step, f->q + q0 * w->d_cells,
                  w->d_cells);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = first; v < 2; v++) {
            vf x = acc[i][v];

            if (diagonal && v == first)
                x = choose(lanes_below(key + i - q0 - v * VW), splat(-1e30f), x);
            largest[v] = vmax(largest[v], x);
            store(f->p + (key + i) * NR + v * VW, x);
        }
}

static void forward_unit(void *arg, long unit, int thread)
{
    const struct attention *w = arg;
    long T = w->T, D = w->D, C = w->C, rows = round_up(T, NR), b = unit / w->H, h = unit % w->H;
    const act_t *q = w->qkv + b * T * 3 * C + h * D;
    struct forward f = {.width = round_up(D, AR)};

    f.q = device_own(
        w->device, thread,
        (size_t) (rows * (w->d_cells + round_up(w->d_cells, VW) + f.width + NR) + f.width * NR + VW) *
            sizeof *f.q);
    f.p = f.q + rows * w->d_cells;
    f.out = f.p + rows * NR;
    f.k = copy_rows(f.out + f.width * NR, q + C, 3 * C, w, rows);
    f.v = f.out + f.width * NR + rows * round_up(w->d_cells, VW);
    pack_b_panels(f.q, q, 3 * C, w, rows);
    pack_over_rows(f.v, f.width, q + 2 * C, 3 * C, w, T);
    for (long q0 = 0; q0 < T; q0 += NR) {
        long n = least(q0 + NR, T), both = least(q0 + VW, T);
        vf largest[2] = {splat(-1e30f), splat(-1e30f)}, inverse[2], lse[2];

        for (long key = 0; key < q0; key += AR)
            scores_forward(AR, 0, false, w, &f, q0, key, largest);
        for (long key = q0; key < both; key += AR)
            scores_forward(AR, 0, true, w, &f, q0, key, largest);
        if (n > both)
            scores_forward(VW, 1, true, w, &f, q0, both, largest);
        softmax_lanes(w, f.p, both, n, largest, inverse, lse);
        product_over_rows(f.out, f.v, f.width, f.p, (struct span){0, steps(both), steps(n - both)}, inverse);
        write_transposed(w->y + (b * T + q0) * C + h * D, C, f.out, T - q0, D);
        for (long v = 0; v < 2 && q0 + v * VW < T; v++)
            store_n(w->lse + unit * T + q0 + v * VW, lse[v], T - q0 - v * VW);
    }
}

void ISA_NAME(attention_forward)(struct device *device, act *y, real *lse, const act *qkv, int B, int T,
                                 int C, int H)
{
    struct attention w = attention_shape(device, qkv, T, C, H, steps(C / H));

    w.y = y;
    w.lse = lse;
    pool_run(device->pool, (long) B * H, forward_unit, &w);
}

/* ---- backward ---- */
struct backward {
    struct rows q, dy;
    cell *q_room, *dy_room;
    cell *k, *v;            /* B panels of keys */
    cell *q_rows, *dy_rows; /* [T][width] */
    cell *k_rows;           /* [T][lanes] */
    cell *p, *ds;       /* P, dS / scale [T][NR], queries from the panel's first key on, cells over queries */
    cell *ds_rows;      /* dS / scale [T][NR / STEP], cells over keys */
    float *dq, *out;    /* dQ / scale [T][lanes], [width][NR] */
    float *lse, *delta; /* delta = rowsum(dy * y) */
    long width, lanes;  /* D rounded up to AR, to VW */
};

/* P and dS / scale of vectors 0 .. end of the keys from k0 on, the last masked on the diagonal, for `rows`
 * queries */
inline_always void scores_backward(int rows, int end, bool diagonal, const struct attention *w,
                                   const struct backward *g, long k0, long q0)
{
    vf s[VW][2] = {{{0}}}, dp[VW][2] = {{{0}}};
    cell *p = g->p + (q0 - k0) / STEP * NR, *ds = g->ds + (q0 - k0) / STEP * NR;

    multiply_rows(rows, 0, end, s, g->q.at + q0 * g->q.step, g->q.step, g->k + k0 * w->d_cells, w->d_cells);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < end; v++) {
            s[i][v] = vexp_act(s[i][v] * w->exp_scale - g->lse[q0 + i]);
            if (diagonal && v == end - 1)
                s[i][v] = choose(lanes_below(q0 + i + 1 - k0 - v * VW), s[i][v], (vf){0});
        }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i += STEP)
        store_cells(p + i / STEP * NR, 0, end, s[i], s[i + STEP - 1]);
    multiply_rows(rows, 0, end, dp, g->dy.at + q0 * g->dy.step, g->dy.step, g->v + k0 * w->d_cells,
                  w->d_cells);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < end; v++)
            dp[i][v] = s[i][v] * (dp[i][v] - g->delta[q0 + i]);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i += STEP)
        store_cells(ds + i / STEP * NR, 0, end, dp[i], dp[i + STEP - 1]);
#ifdef BF16
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
        store(g->ds_rows + (q0 - k0 + i) * VW, pair_row(dp[i][0], dp[i][1]));
#endif
}

inline_always void add_dq(int rows, int vectors, float *dq, long lanes, const cell *ds_rows,
                          const cell *k_rows, long K)
{
    vf acc[VW][2];

#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            acc[i][v] = load(dq + i * lanes + v * VW);
    multiply_tile(rows, 0, vectors, acc, ds_rows, NR / STEP, 1, k_rows, lanes, K);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            store(dq + i * lanes + v * VW, acc[i][v]);
}

/* dQ / scale += dS K / scale for the NR keys from k0 on */
static void dq_backward(const struct backward *g, long k0, long rows)
{
    for (long q0 = k0; q0 < rows; q0 += VW)
        for (long d = 0; d < g->lanes; d += NR) {
            float *dq = g->dq + q0 * g->lanes + d;
            const cell *ds = g->ds_rows + (q0 - k0) * (NR / STEP), *k = g->k_rows + k0 / STEP * g->lanes + d;
            long K = (q0 > k0 ? NR : VW) / STEP;

            if (g->lanes - d <= VW)
                add_dq(VW, 1, dq, g->lanes, ds, k, K);
            else
                for (long i = 0; i < VW; i += AR)
                    add_dq(AR, 2, dq + i * g->lanes, g->lanes, ds + i * (NR / STEP), k, K);
        }
}

/* Places of a head's local arrays; returns how many floats they take. */
static long place_backward(struct backward *g, float *base, long rows, long d_cells)
{
    const struct {
        float **array;
        long size;
    } places[] = {
        {&g->q_room, rows * round_up(d_cells, VW)},
        {&g->dy_room, rows * round_up(d_cells, VW)},
        {&g->k, rows * d_cells},
        {&g->v, rows * d_cells},
        {&g->p, rows * NR},
        {&g->ds, rows * NR},
        {&g->dq, rows * g->lanes},
        {&g->out, g->width * NR},
        {&g->lse, rows},
        {&g->delta, rows},
        {&g->q_rows, rows * g->width},
        {&g->dy_rows, rows * g->width},
        {&g->k_rows, rows * g->lanes},
        {&g->ds_rows, STEP == 1 ? 0 : rows * VW},
    };
    long used = 0;

    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (base)
            *places[i].array = base + used;
        used += round_up(places[i].size + VW, 16);
    }
    if (STEP == 1)
        g->ds_rows = g->ds;
    return used;
}

static void backward_unit(void *arg, long unit, int thread)
{
    const struct attention *w = arg;
    long T = w->T, D = w->D, C = w->C, rows = round_up(T, NR), b = unit / w->H, h = unit % w->H;
    const act_t *q = w->qkv + b * T * 3 * C + h * D, *dy = w->dy + b * T * C + h * D;
    act_t *dq = w->dqkv + b * T * 3 * C + h * D;
    struct backward g = {.width = round_up(D, AR), .lanes = round_up(D, VW)};
    const vf one[2] = {splat(1.0f), splat(1.0f)}, scale[2] = {splat(w->scale), splat(w->scale)};
    size_t size = (size_t) place_backward(&g, NULL, rows, w->d_cells) * sizeof(float);

    place_backward(&g, device_own(w->device, thread, size), rows, w->d_cells);
    g.q = place_rows(g.q_room, q, 3 * C, w, rows);
    g.dy = place_rows(g.dy_room, dy, C, w, rows);
    pack_b_panels(g.k, q + C, 3 * C, w, rows);
    pack_b_panels(g.v, q + 2 * C, 3 * C, w, rows);
    pack_over_rows(g.q_rows, g.width, q, 3 * C, w, rows);
    pack_over_rows(g.dy_rows, g.width, dy, C, w, rows);
    pack_over_rows(g.k_rows, g.lanes, q + C, 3 * C, w, rows);
    memset(g.dq, 0, (size_t) (rows * g.lanes) * sizeof *g.dq);
    row_statistics(w, g.lse, g.delta, unit, dy, w->y_in + b * T * C + h * D, rows);
    for (long k0 = 0; k0 < T; k0 += NR) {
        long first = least(VW, T - k0), end = round_up(T, VW);
        struct span K = {steps(first), steps(T - k0 - first), 0};

        scores_backward(VW, 1, true, w, &g, k0, k0);
        for (long q0 = k0 + VW; q0 < least(k0 + NR, end); q0 += AR)
            scores_backward(AR, 2, true, w, &g, k0, q0);
        for (long q0 = k0 + NR; q0 < end; q0 += AR)
            scores_backward(AR, 2, false, w, &g, k0, q0);
        product_over_rows(g.out, g.dy_rows + k0 / STEP * g.width, g.width, g.p, K, one);
        write_transposed(dq + k0 * 3 * C + 2 * C, 3 * C, g.out, T - k0, D);
        product_over_rows(g.out, g.q_rows + k0 / STEP * g.width, g.width, g.ds, K, scale);
        write_transposed(dq + k0 * 3 * C + C, 3 * C, g.out, T - k0, D);
        dq_backward(&g, k0, end);
    }
    for (long t = 0; t < T; t++)
        for (long d = 0; d < D; d += VW)
            store_act_n(dq + t * 3 * C + d, load(g.dq + t * g.lanes + d) * w->scale, D - d);
}

void ISA_NAME(attention_backward)(struct device *device, act *dqkv, const act *dy, const act *y,
                                  const real *lse, const act *qkv, int B, int T, int C, int H)
{
    struct attention w = attention_shape(device, qkv, T, C, H, steps(C / H));

    w.dy = dy;
    w.y_in = y;
    w.lse_in = lse;
    w.dqkv = dqkv;
    pool_run(device->pool, (long) B * H, backward_unit, &w);
}
