/*
 * Training steps as the trainer makes them (model_step_*, which a GPU records and repeats) against the same
 * steps call by call: check_steps.  Data and learning rate change from step to step, scratch grows under way,
 * and a step diverges.
 */
#ifndef TLAW_STEPS_H
#define TLAW_STEPS_H

#include "../../kernels/model/model.h"
#include "../../kernels/model/rng.h"
#include "tap.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { STEP_BATCH = 2, STEP_T = 7, STEP_VOCAB = 24, STEP_COUNT = 6, STEP_ROWS = STEP_BATCH * STEP_T };

struct trained { /* what a run of STEP_COUNT steps leaves */
    size_t n;
    real *weights, *m, *v;
    struct step_result results[STEP_COUNT];
    bool harmless; /* so was a step that diverged */
};

static struct tlaw_spec step_spec(int micro_batches, int seed)
{
    return (struct tlaw_spec){.arch = "gpt2",
                              .n_layer = 2,
                              .n_head = 2,
                              .d_model = micro_batches > 1 ? 20 : 16, /* rows aligned and not */
                              .context_length = STEP_T,
                              .vocab_size = STEP_VOCAB,
                              .batch_size = (int64_t) micro_batches * STEP_BATCH,
                              .bias = 1,
                              .seed = seed,
                              .beta1 = 0.9,
                              .beta2 = 0.95,
                              .weight_decay = 0.1,
                              .grad_clip = 1};
}

static double step_rate(int step)
{
    return 0.01 / (1 + step % 3);
}

static void step_batch(const struct tlaw_spec *spec, int number, int32_t *tokens, int32_t *targets)
{
    for (int i = 0; i < STEP_ROWS; i++) {
        tokens[i] = (int32_t) rng_below((uint64_t) spec->seed, RNG_SAMPLE,
                                        (uint64_t) (number * STEP_ROWS + i), STEP_VOCAB);
        targets[i] = (tokens[i] * 7 + 1) % STEP_VOCAB;
    }
}

/* What the trainer does, up to the step's end. */
static void begin_at_once(struct model *model, const struct tlaw_spec *spec, int step)
{
    int32_t tokens[STEP_ROWS], targets[STEP_ROWS];
    int micro_batches = (int) spec->batch_size / STEP_BATCH;

    model_step_begin(model, step + 1, step_rate(step));
    for (int i = 0; i < micro_batches; i++) {
        step_batch(spec, step * micro_batches + i, tokens, targets);
        model_step_add(model, tokens, targets);
    }
    memset(tokens, 0x7f, sizeof tokens); /* they are the caller's again */
    memset(targets, 0x7f, sizeof targets);
}

static struct step_result step_at_once(struct model *model, const struct tlaw_spec *spec, int step)
{
    begin_at_once(model, spec, step);
    return model_step_end(model);
}

static struct step_result step_by_calls(struct model *model, const struct tlaw_spec *spec, int step)
{
    int32_t tokens[STEP_ROWS], targets[STEP_ROWS];
    int micro_batches = (int) spec->batch_size / STEP_BATCH;
    double scale = 1 / (double) (spec->batch_size * STEP_T);
    struct step_result result = {.learning_rate = step_rate(step)};
    real losses[STEP_ROWS];

    model_zero_gradients(model);
    for (int i = 0; i < micro_batches; i++) {
        step_batch(spec, step * micro_batches + i, tokens, targets);
        model_backward(model, tokens, targets, STEP_BATCH, STEP_T, scale, losses);
        for (int row = 0; row < STEP_ROWS; row++)
            result.loss += losses[row] * scale;
    }
    result.grad_norm = model_update(model, step + 1, step_rate(step));
    return result;
}

/* An operation that needs more scratch than the steps. */
static void use_scratch(const struct backend *backend, struct device *device)
{
    enum { ROWS = 3, K = 1000, N = 777 };
    act *x = backend->alloc(device, (size_t) ROWS * K * backend->act_size);
    real *w = backend->alloc(device, (size_t) K * N * sizeof(real));
    real *y = backend->alloc(device, (size_t) ROWS * N * sizeof(real)), first;

    backend->linear_forward(device, NULL, y, NULL, x, w, NULL, ROWS, K, N);
    backend->download(device, &first, y, sizeof first);
    backend->free(device, x);
    backend->free(device, w);
    backend->free(device, y);
}

/* A step from weights that are not all finite, between others: it must change nothing. */
static bool divergence_is_harmless(struct model *model, const struct tlaw_spec *spec, size_t n)
{
    real *kept = malloc(6 * n * sizeof(real)), *now = kept + 3 * n, good;
    struct step_result result;
    bool same;

    model_get(model, kept);
    model_get_moments(model, kept + n, kept + 2 * n);
    good = kept[n - 1];
    kept[n - 1] = INFINITY;
    model_set(model, kept);
    result = step_at_once(model, spec, 2);
    model_get(model, now);
    model_get_moments(model, now + n, now + 2 * n);
    same = memcmp(kept, now, 3 * n * sizeof(real)) == 0;
    kept[n - 1] = good;
    model_set(model, kept);
    free(kept);
    return same && result.diverged && isnan(result.grad_norm);
}

static struct trained train_steps(const struct backend *backend, struct device *device,
                                  const struct tlaw_spec *spec, bool at_once)
{
    char message[200] = "";
    struct model *model = model_create(spec, backend, device, STEP_BATCH, true, message, sizeof message);
    struct trained out = {.n = model_size(model)};

    model_init(model);
    for (int step = 0; step < STEP_COUNT; step++) {
        if (at_once && step == 3)
            use_scratch(backend, device);
        if (at_once && step == 4)
            out.harmless = divergence_is_harmless(model, spec, out.n);
        if (at_once && step != 2 && step != 3 && step + 1 < STEP_COUNT) { /* the next begins before it ends */
            begin_at_once(model, spec, step);
            begin_at_once(model, spec, step + 1);
            out.results[step++] = model_step_end(model);
            out.results[step] = model_step_end(model);
        } else {
            out.results[step] = at_once ? step_at_once(model, spec, step) : step_by_calls(model, spec, step);
        }
    }
    out.weights = malloc(3 * out.n * sizeof(real));
    out.m = out.weights + out.n;
    out.v = out.m + out.n;
    model_get(model, out.weights);
    model_get_moments(model, out.m, out.v);
    model_free(model);
    return out;
}

static bool same_training(const struct trained *a, const struct trained *b)
{
    return memcmp(a->weights, b->weights, 3 * a->n * sizeof(real)) == 0;
}

/* Losses are summed here in another order. */
static double results_error(const struct trained *a, const struct trained *b)
{
    double worst = 0;

    for (int i = 0; i < STEP_COUNT; i++) {
        worst = fmax(worst, fabs(a->results[i].loss / b->results[i].loss - 1));
        worst = fmax(worst, fabs(a->results[i].grad_norm / b->results[i].grad_norm - 1));
        worst = fmax(worst, a->results[i].diverged || isnan(a->results[i].loss) ? 1 : 0);
    }
    return worst;
}

__attribute__((unused)) static void check_steps(const struct backend *backend)
{
    char message[200] = "";
    struct device *device = backend->open(1, message, sizeof message);

    for (int micro_batches = 1; micro_batches <= 3; micro_batches += 2) {
        struct tlaw_spec spec = step_spec(micro_batches, 5);
        struct trained calls = train_steps(backend, device, &spec, false),
                       steps = train_steps(backend, device, &spec, true), lean;

        ok(same_training(&calls, &steps) && results_error(&steps, &calls) < 1e-12,
           "%s %s: %d steps of %d micro-batches have the bits of single calls; loss and norm differ by %.0e",
           backend->name, backend->precision, STEP_COUNT, micro_batches, results_error(&steps, &calls));
        ok(steps.harmless, "%s %s: and one that diverges changes nothing", backend->name, backend->precision);
        spec.recompute = 1;
        lean = train_steps(backend, device, &spec, true);
        ok(same_training(&calls, &lean) && lean.harmless, "%s %s: so do steps that recompute activations",
           backend->name, backend->precision);
        free(calls.weights);
        free(steps.weights);
        free(lean.weights);
    }
    backend->close(device);
}

/* ---- several devices at once ---- */
enum { STEP_THREADS = 3 };

struct step_thread {
    const struct backend *backend;
    struct tlaw_spec spec;
    struct trained out;
};

static void *train_in_thread(void *arg)
{
    struct step_thread *t = arg;
    char message[200] = "";
    struct device *device = t->backend->open(1, message, sizeof message);

    t->out = train_steps(t->backend, device, &t->spec, true);
    t->backend->close(device);
    return NULL;
}

/* Runs at the same time, a device and a thread each, have the bits that they have alone. */
__attribute__((unused)) static void check_devices_at_once(const struct backend *backend)
{
    struct step_thread together[STEP_THREADS];
    pthread_t threads[STEP_THREADS];
    bool same = true;

    for (int i = 0; i < STEP_THREADS; i++) {
        together[i] = (struct step_thread){.backend = backend, .spec = step_spec(i ? 1 : 2, i)};
        pthread_create(&threads[i], NULL, train_in_thread, &together[i]);
    }
    for (int i = 0; i < STEP_THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < STEP_THREADS; i++) {
        struct step_thread alone = {.backend = backend, .spec = together[i].spec};

        train_in_thread(&alone);
        same = same && same_training(&alone.out, &together[i].out);
        free(alone.out.weights);
        free(together[i].out.weights);
    }
    ok(same, "%s %s: %d devices in as many threads have the bits of each alone", backend->name,
       backend->precision, STEP_THREADS);
}

#endif
