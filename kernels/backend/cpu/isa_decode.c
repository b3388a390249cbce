/*
 * Attention of one new position over a key-value cache.
 *
 * Roof: the memory that holds the caches.  Measured (Zen 5, two threads, 256 positions, 6 heads of 64, caches
 * beyond the third cache): 21 GB/s of 43 in float32, 15 in bf16.
 */
#include "isa.h"

struct decode {
    struct device *device;
    act_t *y;
    const act_t *k, *v, *q;
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
            dot += load_act_n(w->q + at + d, D - d) * load_act_n(w->k + t * w->C + at + d, D - d);
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
            y += p[t] * load_act_n(w->v + t * w->C + at + d, D - d);
        store_act_n(w->y + at + d, y / sum, D - d);
    }
}

void ISA_NAME(attention_decode)(struct device *device, act *y, act *k_cache, act *v_cache, const act *qkv,
                                int position, int C, int H)
{
    const act_t *q = qkv;
    act_t *k = k_cache, *v = v_cache;

    memcpy(k + (size_t) position * C, q + C, (size_t) C * sizeof *k);
    memcpy(v + (size_t) position * C, q + 2 * C, (size_t) C * sizeof *v);
    pool_run(device->pool, H, decode_unit,
             &(struct decode){
                 .device = device, .y = y, .k = k, .v = v, .q = q, .n = position + 1, .C = C, .D = C / H});
}
