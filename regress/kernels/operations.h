/*
 * Every operation of a backend against the reference, at odd and even sizes: check_backend.
 *
 * Outputs are poisoned with NaN before the call (accumulated ones start from noise) and are followed by a
 * guard that must stay as it is; all arrays begin `offset` elements off their alignment.  Every call is made
 * with 1 to most_threads threads and must give the same bits.  Error: |output - reference| / |reference| of
 * one array.
 */
#ifndef TLAW_OPERATIONS_H
#define TLAW_OPERATIONS_H

#include "../../kernels/backend/reference.h"
#include "../../kernels/model/rng.h"
#include "tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GUARD 64
#define MOST  64

static size_t offset = 1;
static int most_threads = 3;
static double largest_shape = INFINITY; /* product of its sizes */
static int variant_step = 1;            /* of the ways to call an operation, every how many-th is tried */

/* One call of an operation on one backend: its arrays, and what came out. */
struct run {
    const struct backend *backend;
    struct device *device;
    void *memory[MOST];
    int allocated;
    struct output {
        const char *name;
        char *at; /* on the device; the guard follows */
        size_t n, element;
        bool own; /* its meaning is the backend's: not compared with the reference */
        real *values;
    } outputs[MOST];
    int n_outputs;
    uint64_t noise; /* numbers used: every run of a call sees the same */
    bool guarded;   /* no guard was touched */
};

static void *take(struct run *run, size_t bytes)
{
    return run->memory[run->allocated++] = run->backend->alloc(run->device, bytes);
}

static real *normals(struct run *run, size_t n, double scale)
{
    real *values = malloc(n * sizeof(real));

    for (size_t i = 0; i < n; i++)
        values[i] = (real) (scale * rng_normal(5, RNG_SAMPLE, run->noise++));
    return values;
}

static real *in_real(struct run *run, size_t n, double scale)
{
    real *at = (real *) take(run, (n + offset) * sizeof(real)) + offset, *values = normals(run, n, scale);

    run->backend->upload(run->device, at, values, n * sizeof(real));
    free(values);
    return at;
}

/* The same in memory of alloc_weights, which may keep a copy that products read. */
static real *in_weights(struct run *run, size_t n, double scale)
{
    real *at = run->backend->alloc_weights(run->device, n), *values = normals(run, n, scale);

    run->memory[run->allocated++] = at;
    run->backend->upload(run->device, at, values, n * sizeof(real));
    free(values);
    return at;
}

/* The table has no conversion to act; a layer norm with gamma = 0 and beta = the values is one. */
static act *in_act(struct run *run, size_t n)
{
    enum { PIECE = 4096 }; /* a row of a layer norm; some backends have a longest */
    size_t size = run->backend->act_size;
    char *at = (char *) take(run, (n + offset) * size) + offset * size;
    real *beta = in_real(run, n, 1), *zeros = take(run, 2 * PIECE * sizeof(real)),
         *moments = take(run, 2 * sizeof(real));

    for (size_t i = 0; i < n; i += PIECE)
        run->backend->layernorm_forward(run->device, at + i * size, moments, moments + 1, zeros, NULL,
                                        zeros + PIECE, beta + i, 1, (int) (n - i < PIECE ? n - i : PIECE));
    return at;
}

/* Numbers from -1 (when holes) or 0 to V - 1. */
static int32_t *in_tokens(struct run *run, size_t n, int V, bool holes)
{
    int32_t *at = take(run, n * sizeof *at), *values = malloc(n * sizeof *values);

    for (size_t i = 0; i < n; i++)
        values[i] = holes && i % 5 == 1 ? -1 : (int32_t) rng_below(6, RNG_SAMPLE, run->noise++, (uint64_t) V);
    run->backend->upload(run->device, at, values, n * sizeof *values);
    free(values);
    return at;
}

static void *output(struct run *run, const char *name, size_t n, size_t element, const real *start)
{
    size_t bytes = n * element;
    char *at = (char *) take(run, offset * element + bytes + GUARD) + offset * element,
         *fill = malloc(bytes + GUARD);

    memset(fill, 0xff, bytes); /* NaN in float32 and in bf16 */
    if (start)
        memcpy(fill, start, bytes);
    memset(fill + bytes, 0x5a, GUARD);
    run->backend->upload(run->device, at, fill, bytes + GUARD);
    free(fill);
    run->outputs[run->n_outputs++] = (struct output){.name = name, .at = at, .n = n, .element = element};
    return at;
}

static real *out_real(struct run *run, const char *name, size_t n)
{
    return output(run, name, n, sizeof(real), NULL);
}

static act *out_act(struct run *run, const char *name, size_t n)
{
    return output(run, name, n, run->backend->act_size, NULL);
}

static act *out_own(struct run *run, const char *name, size_t n)
{
    act *at = out_act(run, name, n);

    run->outputs[run->n_outputs - 1].own = true;
    return at;
}

/* An array that is added to or changed in place. */
static real *change_real(struct run *run, const char *name, size_t n)
{
    real *start = normals(run, n, 1);
    void *at = output(run, name, n, sizeof(real), start);

    free(start);
    return at;
}

/* Brings the outputs here and gives the device's memory back. */
static void collect(struct run *run)
{
    run->guarded = true;
    for (int i = 0; i < run->n_outputs; i++) {
        struct output *o = &run->outputs[i];
        real *converted = take(run, o->n * sizeof(real));
        unsigned char guard[GUARD];

        o->values = malloc(o->n * sizeof(real));
        if (o->element == sizeof(real))
            run->backend->download(run->device, o->values, o->at, o->n * sizeof(real));
        else {
            run->backend->act_to_real(run->device, converted, o->at, o->n);
            run->backend->download(run->device, o->values, converted, o->n * sizeof(real));
        }
        run->backend->download(run->device, guard, o->at + o->n * o->element, GUARD);
        for (int j = 0; j < GUARD; j++)
            run->guarded &= guard[j] == 0x5a;
    }
    for (int i = 0; i < run->allocated; i++)
        run->backend->free(run->device, run->memory[i]);
}

static void forget(struct run *run)
{
    for (int i = 0; i < run->n_outputs; i++)
        free(run->outputs[i].values);
}

/* ---- operations: s is the shape, `variant` numbers what is given or left out ---- */

static void embedding(struct run *r, const int *s, int variant)
{
    int B = s[0], T = s[1], C = s[2], V = s[3];
    size_t n = (size_t) B * T * C;
    int32_t *tokens = in_tokens(r, (size_t) B * T, V, false);

    (void) variant;
    r->backend->embedding_forward(r->device, out_real(r, "x", n), tokens, in_real(r, (size_t) V * C, 1),
                                  in_real(r, (size_t) T * C, 1), B, T, C);
    r->backend->embedding_backward(r->device, change_real(r, "dwte", (size_t) V * C),
                                   change_real(r, "dwpe", (size_t) T * C), in_real(r, n, 1), tokens, B, T, C,
                                   V);
}

static void layernorm(struct run *r, const int *s, int variant)
{
    int rows = s[0], C = s[1];
    size_t n = (size_t) rows * C;
    bool branch = variant & 1, beta = variant & 2;
    real *x = change_real(r, "x", n), *mean = out_real(r, "mean", rows), *rstd = out_real(r, "rstd", rows);
    real *gamma = in_real(r, C, 1);

    r->backend->layernorm_forward(r->device, out_act(r, "y", n), mean, rstd, x,
                                  branch ? in_real(r, n, 1) : NULL, gamma, beta ? in_real(r, C, 1) : NULL,
                                  rows, C);
    r->backend->layernorm_backward(r->device, change_real(r, "dx", n), change_real(r, "dgamma", C),
                                   beta ? change_real(r, "dbeta", C) : NULL, in_real(r, n, 1), x, mean, rstd,
                                   gamma, rows, C);
}

static void linear_forward(struct run *r, const int *s, int variant)
{
    int rows = s[0], K = s[1], N = s[2];
    size_t n = (size_t) rows * N;
    bool bias = variant & 1, gelu = variant & 2, wide = (variant & 4) && !gelu;
    act *x = in_act(r, (size_t) rows * K);
    real *w = in_real(r, (size_t) K * N, 1 / sqrt(K));

    r->backend->linear_forward(r->device, wide ? NULL : out_act(r, "y", n), wide ? out_real(r, "y", n) : NULL,
                               gelu ? out_own(r, "gelu", n) : NULL, x, w, bias ? in_real(r, N, 1) : NULL,
                               rows, K, N);
}

static void linear_backward(struct run *r, const int *s, int variant)
{
    int rows = s[0], K = s[1], N = s[2], dx = variant >> 3;
    size_t in = (size_t) rows * K, out = (size_t) rows * N;
    bool bias = variant & 1, wide = variant & 4;
    act *x = in_act(r, in), *dy = wide ? NULL : in_act(r, out), *gelu = NULL;
    real *w = in_real(r, (size_t) K * N, 1 / sqrt(N)), *dy_real = wide ? in_real(r, out, 1) : NULL;
    real *dw = change_real(r, "dw", (size_t) K * N), *dbias = bias ? change_real(r, "dbias", N) : NULL;

    if (variant & 2 && dx) { /* of the products of two vectors */
        gelu = out_own(r, "gelu", in);
        r->backend->linear_forward(r->device, out_act(r, "hidden", in), NULL, gelu, in_act(r, rows),
                                   in_real(r, K, 1), NULL, rows, 1, K);
    }
    r->backend->linear_backward(r->device, dx == 1 ? out_act(r, "dx", in) : NULL,
                                dx == 2 ? out_real(r, "dx", in) : NULL, dw, dbias, dy, dy_real, gelu, x, w,
                                rows, K, N);
}

static void attention(struct run *r, const int *s, int variant)
{
    int B = s[0], T = s[1], C = s[2], H = s[3];
    size_t n = (size_t) B * T * C;
    act *qkv = in_act(r, 3 * n), *y = out_act(r, "y", n);
    real *lse = out_real(r, "lse", (size_t) B * H * T);

    (void) variant;
    r->backend->attention_forward(r->device, y, lse, qkv, B, T, C, H);
    r->backend->attention_backward(r->device, out_act(r, "dqkv", 3 * n), in_act(r, n), y, lse, qkv, B, T, C,
                                   H);
}

static void attention_decode(struct run *r, const int *s, int variant)
{
    int T = s[1], C = s[2], H = s[3];
    size_t n = (size_t) T * C, size = r->backend->act_size;
    char *qkv = in_act(r, 3 * n), *y = out_act(r, "y", n), *k = out_act(r, "keys", n),
         *v = out_act(r, "values", n);

    (void) variant;
    for (int t = 0; t < T; t++)
        r->backend->attention_decode(r->device, y + (size_t) t * C * size, k, v,
                                     qkv + (size_t) t * 3 * C * size, t, C, H);
}

static void cross_entropy(struct run *r, const int *s, int variant)
{
    int rows = s[0], C = s[1], V = s[2];
    bool gradient = variant & 1;
    act *x = in_act(r, (size_t) rows * C);
    double size = variant & 2 ? 10 : 1 / sqrt(C); /* also where exp would overflow */
    real *wte = variant & 4 ? in_weights(r, (size_t) V * C, size) : in_real(r, (size_t) V * C, size);
    int32_t *targets = in_tokens(r, rows, V, true);

    r->backend->cross_entropy(
        r->device, out_real(r, "losses", rows), gradient ? out_real(r, "dx", (size_t) rows * C) : NULL,
        gradient ? change_real(r, "dwte", (size_t) V * C) : NULL, x, wte, targets, 0.3, rows, C, V);
    r->backend->logits(r->device, out_real(r, "logits", (size_t) rows * V), x, wte, rows, C, V);
}

/* A double that an operation left, as an output. */
static void number(struct run *r, const char *name, const double *at)
{
    double value;
    real rounded;

    r->backend->download(r->device, &value, at, sizeof value);
    rounded = (real) value;
    r->backend->upload(r->device, out_real(r, name, 1), &rounded, sizeof rounded);
}

/* Second moments: not negative. */
static real *change_squares(struct run *r, const char *name, size_t n)
{
    real *start = normals(r, n, 1), *at;

    for (size_t i = 0; i < n; i++)
        start[i] *= start[i];
    at = output(r, name, n, sizeof(real), start);
    free(start);
    return at;
}

/* variant 0: neither decay nor clipping; 1: both; 2, 3: a step that diverged, which changes nothing */
static void optimiser(struct run *r, const int *s, int variant)
{
    size_t n = s[0];
    const double steps[] = {1, 1001, 5, 5};
    const struct segment list[] = {{n / 3, 1}, {n / 2, 0}, {n, 1}};
    const struct adamw constants = {0.9, 0.95, 1e-8, variant ? 0.1 : 0, variant ? 0.5 : 0};
    struct update start = {.learning_rate = 0.01,
                           .correction1 = 1 - pow(0.9, steps[variant]),
                           .correction2 = 1 - pow(0.95, steps[variant]),
                           .loss = variant == 3 ? NAN : 2};
    struct segment *segments = take(r, sizeof list);
    struct update *update = take(r, sizeof start);
    real *g = in_real(r, n, 1), *m = change_real(r, "m", n), *v = change_squares(r, "v", n);
    real *p = change_real(r, "p", n), *zeroed = change_real(r, "zeroed", n), infinite = INFINITY;

    if (variant == 2)
        r->backend->upload(r->device, g + n / 2, &infinite, sizeof infinite);
    r->backend->upload(r->device, segments, list, sizeof list);
    r->backend->upload(r->device, update, &start, sizeof start);
    r->backend->sum_squares(r->device, &update->squares, g, n);
    r->backend->adamw(r->device, p, g, m, v, n, segments, 3, &constants, update);
    r->backend->zero(r->device, zeroed, n * sizeof(real));
    if (variant < 2) {
        r->backend->add_losses(r->device, &update->loss, g, n);
        number(r, "sum of losses", &update->loss);
        number(r, "sum of squares", &update->squares);
    }
}

static void add_lanes(struct run *r, const int *s, int variant)
{
    size_t n = s[1];
    real *parts = in_real(r, s[0] * n, 1);

    (void) variant;
    r->backend->add_lanes(r->device, change_real(r, "sum", n), parts, s[0], n);
}

/* Weights of alloc_weights: products read what upload and AdamW made of them last. */
static void weights(struct run *r, const int *s, int variant)
{
    int rows = s[0], K = s[1], N = s[2];
    size_t n = (size_t) K * N, out = (size_t) rows * N;
    const struct segment list = {n, 0};
    const struct adamw constants = {0.9, 0.95, 1e-8, 0, 0};
    const struct update start = {.learning_rate = 0.5, .correction1 = 0.1, .correction2 = 0.05, .loss = 1};
    struct segment *segments = take(r, sizeof list);
    struct update *update = take(r, sizeof start);
    act *x = in_act(r, (size_t) rows * K);
    real *w = in_weights(r, n, 1 / sqrt(K)), *values = normals(r, n, 1 / sqrt(K));
    real *g = in_real(r, n, 1), *m = take(r, n * sizeof(real)), *v = take(r, n * sizeof(real));

    (void) variant;
    r->backend->linear_forward(r->device, NULL, out_real(r, "uploaded", out), NULL, x, w, NULL, rows, K, N);
    r->backend->upload(r->device, segments, &list, sizeof list);
    r->backend->upload(r->device, update, &start, sizeof start);
    r->backend->adamw(r->device, w, g, m, v, n, segments, 1, &constants, update);
    r->backend->linear_forward(r->device, NULL, out_real(r, "stepped", out), NULL, x, w, NULL, rows, K, N);
    r->backend->upload(r->device, w + n / 2, values, (n - n / 2) * sizeof(real));
    r->backend->logits(r->device, out_real(r, "logits", out), x, w, rows, K, N);
    free(values);
}

/* ---- comparison ---- */

typedef void (*operation)(struct run *, const int *shape, int variant);

static struct run call(const struct backend *backend, struct device *device, operation op, const int *shape,
                       int variant)
{
    struct run run = {.backend = backend, .device = device};

    op(&run, shape, variant);
    collect(&run);
    return run;
}

static bool same_bits(const struct run *a, const struct run *b)
{
    for (int i = 0; i < a->n_outputs; i++)
        if (memcmp(a->outputs[i].values, b->outputs[i].values, a->outputs[i].n * sizeof(real)) != 0)
            return false;
    return true;
}

/* The worst output's relative error; NaN counts as infinite. */
static double worst_error(const struct run *run, const struct run *reference, const char **which)
{
    double worst = -1;

    for (int i = 0; i < run->n_outputs; i++) {
        const struct output *o = &run->outputs[i], *truth = &reference->outputs[i];
        double wrong = 0, all = 0, error;

        if (o->own)
            continue;
        for (size_t j = 0; j < o->n; j++) {
            double difference = (double) o->values[j] - truth->values[j];

            wrong += difference * difference;
            all += (double) truth->values[j] * truth->values[j];
        }
        error = isnan(wrong) ? INFINITY : wrong == 0 ? 0 : sqrt(wrong / all);
        if (error > worst) {
            worst = error;
            *which = o->name;
        }
    }
    return worst;
}

struct subject {
    const struct backend *backend;
    struct device *device, *reference_device;
};

static void check(const struct subject *subject, const char *name, operation op, const int *shape,
                  int variants)
{
    const struct backend *backend = subject->backend;
    double tolerance = strcmp(backend->precision, "float32") == 0 ? 1e-5 : 2e-2, worst = -1;
    const char *which = "", *worst_output = "";
    bool steady = true, guarded = true;

    for (int variant = 0; variant < variants; variant += variant_step) {
        struct run truth = call(&reference_backend, subject->reference_device, op, shape, variant);
        struct run first = {0};

        for (int threads = 1; threads <= most_threads; threads++) {
            backend->set_threads(subject->device, threads);
            struct run run = call(backend, subject->device, op, shape, variant);

            guarded &= run.guarded;
            if (threads == 1) {
                double error = worst_error(&run, &truth, &which);

                if (error > worst) {
                    worst = error;
                    worst_output = which;
                }
                first = run;
                continue;
            }
            steady &= same_bits(&first, &run);
            forget(&run);
        }
        forget(&first);
        forget(&truth);
    }
    ok(worst < tolerance && steady && guarded, "%s %s, off by %zu: %s %d %d %d %d: error %.1e (%s)%s%s",
       backend->name, backend->precision, offset, name, shape[0], shape[1], shape[2], shape[3], worst,
       worst_output, steady ? "" : ", bits depend on threads", guarded ? "" : ", wrote beyond an output");
}

static const struct {
    const char *name;
    operation op;
    int variants;
    int shapes[10][4]; /* up to the first 0 */
} table[] = {
    {"embedding B T C V",
     embedding,
     1,
     {{1, 1, 1, 1}, {3, 5, 7, 11}, {4, 32, 64, 50}, {2, 33, 65, 257}, {3, 1500, 3, 5}}},
    {"layer norm rows C",
     layernorm,
     4,
     {{1, 2}, {3, 7}, {64, 64}, {129, 33}, {200, 130}, {37, 768}, {3, 1500}, {2, 9000}, {1300, 20}}},
    {"linear rows K N",
     linear_forward,
     8,
     {{1, 1, 1},
      {3, 5, 7},
      {1, 64, 192},
      {17, 33, 31},
      {64, 64, 64},
      {65, 48, 97},
      {300, 96, 130},
      {9, 520, 40},
      {20, 2048, 70}}},
    {"weights rows K N", weights, 1, {{1, 1, 1}, {3, 35, 37}, {17, 64, 48}, {70, 33, 130}}},
    {"gradient of linear rows K N",
     linear_backward,
     24,
     {{1, 1, 1},
      {3, 5, 7},
      {1, 64, 192},
      {17, 33, 31},
      {64, 64, 64},
      {65, 48, 97},
      {300, 96, 130},
      {9, 40, 520},
      {1090, 40, 270},
      {1090, 70, 20}}},
    {"attention B T C H",
     attention,
     1,
     {{1, 1, 1, 1},
      {2, 7, 15, 3},
      {1, 16, 32, 2},
      {3, 33, 32, 4},
      {2, 64, 64, 1},
      {1, 129, 48, 2},
      {2, 200, 33, 1},
      {1, 65, 192, 1},
      {1, 70, 200, 2},
      {1, 40, 128, 1}}},
    {"decoding . T C H", attention_decode, 1, {{1, 1, 1, 1}, {1, 9, 15, 3}, {1, 40, 64, 4}, {1, 130, 33, 1}}},
    {"cross-entropy rows C V",
     cross_entropy,
     8,
     {{1, 4, 3}, {5, 7, 257}, {64, 64, 64}, {33, 16, 65}, {300, 24, 1000}, {70, 5, 4099}, {140, 3, 2100}}},
    {"optimiser n", optimiser, 4, {{1}, {7}, {64}, {1025}, {100003}}},
    {"sum of lanes n", add_lanes, 1, {{1, 1}, {2, 7}, {3, 64}, {16, 1025}, {5, 50003}}},
};

static double shape_size(const int *shape)
{
    double size = 1;

    for (int i = 0; i < 4; i++)
        size *= shape[i] ? shape[i] : 1;
    return size;
}

/* All of the table on one backend. */
__attribute__((unused)) static void check_backend(const struct backend *backend)
{
    char message[200] = "";
    struct device *reference_device = reference_backend.open(1, message, sizeof message);
    struct subject subject = {backend, backend->open(1, message, sizeof message), reference_device};

    if (ok(subject.device != NULL, "%s with %s opens %s", backend->name, backend->precision, message)) {
        for (size_t op = 0; op < sizeof table / sizeof *table; op++)
            for (int shape = 0; shape < 10 && table[op].shapes[shape][0]; shape++)
                if (shape_size(table[op].shapes[shape]) <= largest_shape &&
                    (table[op].op != add_lanes || backend->add_lanes))
                    check(&subject, table[op].name, table[op].op, table[op].shapes[shape],
                          table[op].variants);
        backend->close(subject.device);
    }
    reference_backend.close(reference_device);
}

#endif
