/*
 * What the two fillings of causal attention share (isa_attention.c, isa_amx_attention.c): the shape, and what
 * happens to scores and results on the way between products.
 */
#ifndef TLAW_CPU_ISA_ATTENTION_H
#define TLAW_CPU_ISA_ATTENTION_H

#include "isa.h"

struct attention {
    struct device *device;
    const act_t *qkv, *dy, *y_in;
    const float *lse_in;
    act_t *y, *dqkv;
    float *lse;
    long T, C, H, D; /* D: head dimension */
    long d_cells;    /* of a row of D elements */
    float scale;     /* of scores */
    float exp_scale; /* the same for vexp_act */
};

static inline struct attention attention_shape(struct device *device, const act_t *qkv, int T, int C, int H,
                                               long d_cells)
{
    return (struct attention){.device = device,
                              .qkv = qkv,
                              .T = T,
                              .C = C,
                              .H = H,
                              .D = C / H,
                              .d_cells = d_cells,
                              .scale = 1.0f / sqrtf((float) (C / H)),
                              .exp_scale = EXP_SCALE / sqrtf((float) (C / H))};
}

/* Two consecutive rows of floats of a tile (vectors first .. end of lanes) as cells, or one row where STEP
 * is 1.
 */
inline_always void store_cells(cell *to, int first, int end, vf x[2], vf next[2])
{
#pragma GCC unroll 2
    for (int v = first; v < end; v++)
#ifdef BF16
        store(to + v * VW, pair_lanes(x[v], next[v]));
#else
        store(to + v * VW, x[v]);
    (void) next;
#endif
}

/* to[i * ld + d] = from[d * NR + i] for the rows i < n of a transposed result [D][NR] */
static inline void write_transposed(act_t *to, long ld, const float *from, long n, long D)
{
    for (long i = 0; i < least(n, NR); i += VW)
        for (long d = 0; d < D; d += VW) {
            vf r[VW];

#pragma GCC unroll 16
            for (int j = 0; j < VW; j++)
                r[j] = d + j < D ? load(from + (d + j) * NR + i) : (vf){0};
            transpose(r);
#pragma GCC unroll 16
            for (int j = 0; j < VW; j++)
                if (i + j < n)
                    store_act_n(to + (i + j) * ld + d, r[j], D - d);
        }
}

/* The exponentials of the scores of keys key .. end, vectors first .. 2 of lanes, as cells in place; and
 * their sums. */
inline_always void exponentials(const struct attention *w, float *p, long key, long end, int first,
                                const vf most[2], vf sum[2])
{
    for (; key < end; key += STEP) {
        vf e[STEP][2];

#pragma GCC unroll 2
        for (int i = 0; i < STEP; i++)
#pragma GCC unroll 2
            for (int v = first; v < 2; v++) {
                e[i][v] = vexp_act(load(p + (key + i) * NR + v * VW) * w->exp_scale - most[v]);
                sum[v] += e[i][v];
            }
        store_cells(p + key / STEP * NR, first, 2, e[0], e[STEP - 1]);
    }
}

/*
 * p[n][NR], a row for each key, products of queries and keys (from key `both` on those of the second vector
 * of lanes only): the exponentials of their scores as cells, in place; 1/sum and log-sum-exp of each lane.
 */
static inline void softmax_lanes(const struct attention *w, float *p, long both, long n, const vf largest[2],
                                 vf inverse[2], vf lse[2])
{
    const vf most[2] = {largest[0] * w->exp_scale, largest[1] * w->exp_scale};
    vf sum[2] = {{0}};

    exponentials(w, p, 0, both, 0, most, sum);
    exponentials(w, p, both, n, 1, most, sum);
    for (int v = 0; v < 2; v++) {
        inverse[v] = 1.0f / sum[v];
        lse[v] = largest[v] * w->scale + vlog(sum[v]);
    }
}

/* lse (times EXP_SCALE) and delta of a head's rows; zero beyond T, where dy is zero too */
static inline void row_statistics(const struct attention *w, float *lse, float *delta, long unit,
                                  const act_t *dy, const act_t *y, long rows)
{
    for (long t = 0; t < rows; t++) {
        vf sum = {0};

        for (long d = 0; t < w->T && d < w->D; d += VW)
            sum += load_act_n(dy + t * w->C + d, w->D - d) * load_act_n(y + t * w->C + d, w->D - d);
        delta[t] = vsum(sum);
        lse[t] = t < w->T ? EXP_SCALE * w->lse_in[unit * w->T + t] : 0.0f;
    }
}

#endif
