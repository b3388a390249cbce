/*
 * Causal attention, float32: forward, backward, and one position with a key-value cache.
 *
 * A unit of work is one head of one sequence, whose operands are first copied into zero-padded local layouts.
 * Forward takes NR queries at a time as lanes, so the softmax runs down the keys without horizontal sums, and
 * the weights come out as the operand of the second product: scores^T = K Q^T, y^T = V^T P^T.  Backward takes
 * NR keys at a time as lanes and recomputes P from the stored log-sum-exp: dV^T = dO^T P, dK^T = Q^T dS, dQ
 * += dS K. Blocks beyond the diagonal are never computed.  The roof is the FMA units' peak, shared with exp.
 */
#include "isa.h"

struct attention {
    struct device *device;
    const float *qkv, *dy, *y_in, *lse_in;
    float *y, *lse, *dqkv;
    long T, C, H, D; /* D: head dimension */
    float scale;
};

inline_always long least(long a, long b)
{
    return a < b ? a : b;
}

inline_always long round_up(long n, long step)
{
    return (n + step - 1) / step * step;
}

/* ---- local layouts of a head's [T][D] slice `from`, rows `ld` apart ---- */

/* [rows / width][D][width], the A or B operand of a product over D; rows beyond T are zero */
static void pack_panels(float *to, long width, const float *from, long ld, const struct attention *w,
                        long rows, float scale)
{
    for (long row = 0; row < rows; row += width, to += w->D * width)
        for (long i = 0; i < width; i += VW)
            pack_transposed(to + i, width, from + (row + i) * ld, ld, least(width - i, w->T - row - i), w->D,
                            scale);
}

/* [rows][width], the operand of a product over rows */
static void copy_rows(float *to, long width, const float *from, long ld, const struct attention *w, long rows)
{
    for (long row = 0; row < rows; row++) {
        long n = row < w->T ? w->D : 0;

        memcpy(to + row * width, from + row * ld, (size_t) n * sizeof *to);
        memset(to + row * width + n, 0, (size_t) (width - n) * sizeof *to);
    }
}

/* to[i * ld + d] = from[d * NR + i] for the rows i < n of a transposed result [D][NR] */
static void write_transposed(float *to, long ld, const float *from, long n, long D)
{
    for (long i = 0; i < NR; i += VW)
        for (long d = 0; d < D; d += VW) {
            vf r[VW];

            for (int j = 0; j < VW; j++)
                r[j] = d + j < D ? load(from + (d + j) * NR + i) : (vf){0};
            transpose(r);
            for (int j = 0; j < VW && i + j < n; j++)
                store_n(to + (i + j) * ld + d, r[j], D - d);
        }
}

/* out[width][NR] = sum over k of a[k][width]^T b[k][NR], times *lane_scale */
static void product_over_rows(float *out, const float *a, long width, const float *b, long K,
                              const vf lane_scale[2])
{
    for (long d = 0; d < width; d += AR) {
        vf acc[AR][2] = {{{0}}};

        multiply_tile(AR, 2, acc, a + d, 1, width, b, NR, K);
        for (int i = 0; i < AR; i++)
            for (int v = 0; v < 2; v++)
                store(out + (d + i) * NR + v * VW, lane_scale ? acc[i][v] * lane_scale[v] : acc[i][v]);
    }
}

/* Lanes whose own number is below n. */
inline_always vi lanes_below(long n)
{
    return (vi){LANES(LANE_NUMBER)} < (int32_t) (n < -VW ? -VW : n > VW ? VW : n);
}

/* ---- forward ---- */
struct forward {
    float *k, *v, *q, *p,
        *out;   /* K panels of AR, V rows, Q panels of NR, weights^T [T][NR], result^T [D][NR] */
    long width; /* D rounded up to AR */
};

/* weights^T of NR queries from q0 on against keys < n, not yet normalised; 1/sum and log-sum-exp per lane */
static void softmax_panel(const struct attention *w, const struct forward *f, long q0, long n, vf inverse[2],
                          vf lse[2])
{
    vf largest[2] = {splat(-1e30f), splat(-1e30f)}, sum[2] = {{0}};

    for (long key = 0; key < n; key += AR) {
        vf acc[AR][2] = {{{0}}};

        multiply_tile(AR, 2, acc, f->k + key * w->D, 1, AR, f->q + q0 * w->D, NR, w->D);
        for (int i = 0; i < AR; i++)
            for (int v = 0; v < 2; v++) {
                vf x = acc[i][v];

                if (key + AR > q0)
                    x = choose(lanes_below(key + i - q0 - v * VW), splat(-1e30f), x);
                largest[v] = vmax(largest[v], x);
                store(f->p + (key + i) * NR + v * VW, x);
            }
    }
    for (long key = 0; key < round_up(n, AR); key++)
        for (int v = 0; v < 2; v++) {
            float *at = f->p + key * NR + v * VW;
            vf x = vexp(load(at) - largest[v]);

            store(at, x);
            sum[v] += x;
        }
    for (int v = 0; v < 2; v++) {
        inverse[v] = 1.0f / sum[v];
        lse[v] = largest[v] + vlog(sum[v]);
    }
}

static void forward_unit(void *arg, long unit, int thread)
{
    const struct attention *w = arg;
    long T = w->T, D = w->D, C = w->C, rows = round_up(T, NR), b = unit / w->H, h = unit % w->H;
    const float *q = w->qkv + b * T * 3 * C + h * D;
    struct forward f = {.width = round_up(D, AR)};

    f.k = device_own(w->device, thread,
                     (size_t) (rows * (2 * D + f.width + NR) + f.width * NR + VW + 4 * 16) * sizeof(float));
    f.q = f.k + round_up(rows * D + VW, 16);
    f.v = f.q + round_up(rows * D, 16);
    f.p = f.v + round_up(rows * f.width, 16);
    f.out = f.p + rows * NR;
    pack_panels(f.k, AR, q + C, 3 * C, w, rows, 1.0f);
    pack_panels(f.q, NR, q, 3 * C, w, rows, w->scale);
    copy_rows(f.v, f.width, q + 2 * C, 3 * C, w, rows);
    for (long q0 = 0; q0 < T; q0 += NR) {
        long n = least(q0 + NR, T);
        vf inverse[2], lse[2];

        softmax_panel(w, &f, q0, n, inverse, lse);
        product_over_rows(f.out, f.v, f.width, f.p, n, inverse);
        write_transposed(w->y + (b * T + q0) * C + h * D, C, f.out, T - q0, D);
        for (int v = 0; v < 2; v++)
            if (q0 + v * VW < T)
                store_n(w->lse + unit * T + q0 + v * VW, lse[v], T - q0 - v * VW);
    }
}

void ISA_NAME(attention_forward)(struct device *device, act *y, real *lse, const act *qkv, int B, int T,
                                 int C, int H)
{
    struct attention w = {.device = device,
                          .qkv = qkv,
                          .y = y,
                          .lse = lse,
                          .T = T,
                          .C = C,
                          .H = H,
                          .D = C / H,
                          .scale = 1.0f / sqrtf((float) (C / H))};

    pool_run(device->pool, (long) B * H, forward_unit, &w);
}

/* ---- backward ---- */
struct backward {
    float *q, *dy;            /* panels of AR queries */
    float *k, *v;             /* panels of NR keys, K scaled */
    float *q_rows, *dy_rows;  /* [T][width] */
    float *k_rows, *dq;       /* [T][lanes] */
    float *p, *ds;            /* [T][NR]: of the queries from the panel's first key on */
    float *out, *lse, *delta; /* delta = rowsum(dy * y) */
    long width, lanes;        /* D rounded up to AR, to VW */
};

/* P and dS of the NR keys from k0 on, for the queries from k0 on */
static void scores_panel(const struct attention *w, const struct backward *g, long k0)
{
    long D = w->D;

    for (long q0 = k0; q0 < w->T; q0 += AR) {
        vf s[AR][2] = {{{0}}}, dp[AR][2] = {{{0}}};

        multiply_tile(AR, 2, s, g->q + q0 * D, 1, AR, g->k + k0 * D, NR, D);
        for (int i = 0; i < AR; i++)
            for (int v = 0; v < 2; v++) {
                s[i][v] = vexp(s[i][v] - g->lse[q0 + i]);
                if (q0 < k0 + NR)
                    s[i][v] = choose(lanes_below(q0 + i + 1 - k0 - v * VW), s[i][v], (vf){0});
                store(g->p + (q0 - k0 + i) * NR + v * VW, s[i][v]);
            }
        multiply_tile(AR, 2, dp, g->dy + q0 * D, 1, AR, g->v + k0 * D, NR, D);
        for (int i = 0; i < AR; i++)
            for (int v = 0; v < 2; v++)
                store(g->ds + (q0 - k0 + i) * NR + v * VW,
                      load(g->p + (q0 - k0 + i) * NR + v * VW) * (dp[i][v] - g->delta[q0 + i]) * w->scale);
    }
}

inline_always void add_dq(int vectors, float *dq, const float *ds, const float *k_rows, long lanes)
{
    vf acc[AR][2];

    for (int i = 0; i < AR; i++)
        for (int v = 0; v < vectors; v++)
            acc[i][v] = load(dq + i * lanes + v * VW);
    if (vectors == 2)
        multiply_tile(AR, 2, acc, ds, NR, 1, k_rows, lanes, NR);
    else
        for (long key = 0; key < NR; key++)
            for (int i = 0; i < AR; i++)
                acc[i][0] += ds[i * NR + key] * load(k_rows + key * lanes);
    for (int i = 0; i < AR; i++)
        for (int v = 0; v < vectors; v++)
            store(dq + i * lanes + v * VW, acc[i][v]);
}

/* dQ += dS K for the NR keys from k0 on */
static void dq_panel(const struct attention *w, const struct backward *g, long k0)
{
    for (long q0 = k0; q0 < w->T; q0 += AR)
        for (long d = 0; d < g->lanes; d += NR) {
            float *dq = g->dq + q0 * g->lanes + d;
            const float *ds = g->ds + (q0 - k0) * NR, *k = g->k_rows + k0 * g->lanes + d;

            if (g->lanes - d > VW)
                add_dq(2, dq, ds, k, g->lanes);
            else
                add_dq(1, dq, ds, k, g->lanes);
        }
}

/* Places of a head's local arrays; returns how many floats they take. */
static long place_backward(struct backward *g, float *base, long rows, long D)
{
    float **arrays[] = {&g->q,  &g->dy, &g->k,  &g->v,   &g->q_rows, &g->dy_rows, &g->k_rows,
                        &g->dq, &g->p,  &g->ds, &g->out, &g->lse,    &g->delta};
    long sizes[] = {rows * D + VW,
                    rows * D + VW,
                    rows * D,
                    rows * D,
                    rows * g->width,
                    rows * g->width,
                    rows * g->lanes,
                    rows * g->lanes,
                    rows * NR,
                    rows * NR,
                    g->width * NR,
                    rows,
                    rows};
    long used = 0;

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (base)
            *arrays[i] = base + used;
        used += round_up(sizes[i], 16);
    }
    return used;
}

/* lse and delta of a head's rows; zero beyond T, where dy is zero too */
static void row_statistics(const struct attention *w, const struct backward *g, long unit, const float *dy,
                           const float *y, long rows)
{
    for (long t = 0; t < rows; t++) {
        vf sum = {0};

        for (long d = 0; t < w->T && d < w->D; d += VW)
            sum += load_n(dy + t * w->C + d, w->D - d) * load_n(y + t * w->C + d, w->D - d);
        g->delta[t] = vsum(sum);
        g->lse[t] = t < w->T ? w->lse_in[unit * w->T + t] : 0.0f;
    }
}

static void backward_unit(void *arg, long unit, int thread)
{
    const struct attention *w = arg;
    long T = w->T, D = w->D, C = w->C, rows = round_up(T, NR), b = unit / w->H, h = unit % w->H;
    const float *q = w->qkv + b * T * 3 * C + h * D, *dy = w->dy + b * T * C + h * D;
    float *dq = w->dqkv + b * T * 3 * C + h * D;
    struct backward g = {.width = round_up(D, AR), .lanes = round_up(D, VW)};

    place_backward(&g,
                   device_own(w->device, thread, (size_t) place_backward(&g, NULL, rows, D) * sizeof(float)),
                   rows, D);
    pack_panels(g.q, AR, q, 3 * C, w, rows, 1.0f);
    pack_panels(g.dy, AR, dy, C, w, rows, 1.0f);
    pack_panels(g.k, NR, q + C, 3 * C, w, rows, w->scale);
    pack_panels(g.v, NR, q + 2 * C, 3 * C, w, rows, 1.0f);
    copy_rows(g.q_rows, g.width, q, 3 * C, w, rows);
    copy_rows(g.dy_rows, g.width, dy, C, w, rows);
    copy_rows(g.k_rows, g.lanes, q + C, 3 * C, w, rows);
    memset(g.dq, 0, (size_t) (rows * g.lanes) * sizeof *g.dq);
    row_statistics(w, &g, unit, dy, w->y_in + b * T * C + h * D, rows);
    for (long k0 = 0; k0 < T; k0 += NR) {
        scores_panel(w, &g, k0);
        product_over_rows(g.out, g.dy_rows + k0 * g.width, g.width, g.p, T - k0, NULL);
        write_transposed(dq + k0 * 3 * C + 2 * C, 3 * C, g.out, T - k0, D);
        product_over_rows(g.out, g.q_rows + k0 * g.width, g.width, g.ds, T - k0, NULL);
        write_transposed(dq + k0 * 3 * C + C, 3 * C, g.out, T - k0, D);
        dq_panel(w, &g, k0);
    }
    for (long t = 0; t < T; t++)
        memcpy(dq + t * 3 * C, g.dq + t * g.lanes, (size_t) D * sizeof *dq);
}

void ISA_NAME(attention_backward)(struct device *device, act *dqkv, const act *dy, const act *y,
                                  const real *lse, const act *qkv, int B, int T, int C, int H)
{
    struct attention w = {.device = device,
                          .qkv = qkv,
                          .dy = dy,
                          .y_in = y,
                          .lse_in = lse,
                          .dqkv = dqkv,
                          .T = T,
                          .C = C,
                          .H = H,
                          .D = C / H,
                          .scale = 1.0f / sqrtf((float) (C / H))};

    pool_run(device->pool, (long) B * H, backward_unit, &w);
}

/* ---- decoding: the roof is the memory that holds the caches ---- */
struct decode {
    struct device *device;
    float *y;
    const float *k, *v, *q;
    long n, C, D; /* n: positions so far, this one included */
};

static void decode_unit(void *arg, long head, int thread)
{
    const struct decode *w = arg;
    long D = w->D, at = head * D;
    float *p = device_own(w->device, thread, (size_t) round_up(w->n, VW) * sizeof *p),
          scale = 1.0f / sqrtf((float) D);
    float largest = -1e30f, sum = 0.0f;

    for (long t = 0; t < w->n; t++) {
        vf dot = {0};

        for (long d = 0; d < D; d += VW)
            dot += load_n(w->q + at + d, D - d) * load_n(w->k + t * w->C + at + d, D - d);
        p[t] = vsum(dot) * scale;
        largest = p[t] > largest || p[t] != p[t] ? p[t] : largest;
    }
    for (long t = 0; t < w->n; t += VW)
        store_n(p + t, vexp(load_n(p + t, w->n - t) - largest), w->n - t);
    for (long t = 0; t < w->n; t++)
        sum += p[t];
    for (long d = 0; d < D; d += VW) {
        vf y = {0};

        for (long t = 0; t < w->n; t++)
            y += p[t] * load_n(w->v + t * w->C + at + d, D - d);
        store_n(w->y + at + d, y / sum, D - d);
    }
}

void ISA_NAME(attention_decode)(struct device *device, act *y, act *k_cache, act *v_cache, const act *qkv,
                                int position, int C, int H)
{
    const float *q = qkv;
    float *k = k_cache, *v = v_cache;

    memcpy(k + (size_t) position * C, q + C, (size_t) C * sizeof *k);
    memcpy(v + (size_t) position * C, q + 2 * C, (size_t) C * sizeof *v);
    pool_run(device->pool, H, decode_unit,
             &(struct decode){
                 .device = device, .y = y, .k = k, .v = v, .q = q, .n = position + 1, .C = C, .D = C / H});
}
