/*
 * Weights: float32, and in bf16 beside them a copy for products, which is rounded once a change instead of
 * whenever it is read.  Invariant: upload and AdamW, which alone change weights, write the copy as well.
 *
 * Roof: the memory moved.  Measured (Zen 5, one thread): AdamW 54 GB/s where a copy makes 39 (DRAM).
 */
#include "isa.h"

#define ELEMENTS_A_UNIT 16384

real *ISA_NAME(alloc_weights)(struct device *device, size_t n)
{
    return STEP == 2 ? cpu_alloc_weights(device, n) : cpu_alloc(device, n * sizeof(real));
}

/* The copy of weights; NULL where they have none. */
static act_t *copy_of(struct device *device, const float *w)
{
    return STEP == 2 ? (void *) weights_find_copy(device->weights, w) : NULL;
}

struct matrix ISA_NAME(weights)(struct device *device, const float *w, long row, long col)
{
    const act_t *copy = copy_of(device, w);

    return (struct matrix){copy ? copy : (const void *) w, !copy, row, col};
}

void ISA_NAME(upload)(struct device *device, void *to, const void *from, size_t bytes)
{
    act_t *copy = copy_of(device, to);
    long n = (long) (bytes / sizeof(float));

    memcpy(to, from, bytes);
    for (long i = 0; copy && i < n; i += VW)
        store_act_n(copy + i, load_n((const float *) to + i, n - i), n - i);
}

/* ---- AdamW ---- */
struct adamw_job {
    float *p, *m, *v;
    const float *g;
    act_t *copy; /* of p, or NULL */
    const struct segment *segments;
    long n;
    float rate, rest1, beta1, rest2, beta2, eps, shrink, grad_scale, v_scale;
};

static void adamw_run(const struct adamw_job *a, long i, long end, float keep)
{
    for (; i < end; i += VW) {
        long n = end - i;
        vf g = load_n(a->g + i, n) * a->grad_scale;
        vf m = load_n(a->m + i, n) * a->beta1 + g * a->rest1;
        vf v = load_n(a->v + i, n) * a->beta2 + g * g * a->rest2;
        vf p = load_n(a->p + i, n) * keep - a->rate * m / (vsqrt(v * a->v_scale) + a->eps);

        store_n(a->m + i, m, n);
        store_n(a->v + i, v, n);
        store_n(a->p + i, p, n);
        if (a->copy)
            store_act_n(a->copy + i, p, n);
    }
}

static void adamw_unit(void *arg, long unit, int thread)
{
    const struct adamw_job *a = arg;
    const struct segment *s = a->segments;
    long i = unit * ELEMENTS_A_UNIT, end = least(i + ELEMENTS_A_UNIT, a->n);

    (void) thread;
    for (; i < end; s++) {
        long stop = least((long) s->end, end);

        if (stop > i) {
            adamw_run(a, i, stop, s->decays ? a->shrink : 1);
            i = stop;
        }
    }
}

void ISA_NAME(adamw)(struct device *device, real *p, const real *g, real *m, real *v, size_t n,
                     const struct segment *segments, int count, const struct adamw *c, const struct update *u)
{
    struct adamw_job a = {.p = p,
                          .copy = copy_of(device, p),
                          .m = m,
                          .v = v,
                          .g = g,
                          .segments = segments,
                          .n = (long) n,
                          .rate = (float) (u->learning_rate / u->correction1),
                          .v_scale = (float) (1 / u->correction2),
                          .beta1 = (float) c->beta1,
                          .rest1 = (float) (1 - c->beta1),
                          .beta2 = (float) c->beta2,
                          .rest2 = (float) (1 - c->beta2),
                          .eps = (float) c->eps,
                          .shrink = (float) (1 - u->learning_rate * c->decay),
                          .grad_scale = (float) update_grad_scale(u, c->grad_clip)};

    (void) count;
    if (!isnan(a.grad_scale))
        pool_run(device->pool, (a.n + ELEMENTS_A_UNIT - 1) / ELEMENTS_A_UNIT, adamw_unit, &a);
}
