/*
 * A small corpus made here; test_training: the trainer's bits on one backend, twice, with other numbers of
 * threads, stopped and resumed, and its losses and gradients against the reference's.
 */
#ifndef TLAW_TRAINER_BITS_H
#define TLAW_TRAINER_BITS_H

#include "../../kernels/backend/reference.h"
#include "../../kernels/model/rng.h"
#include "../../kernels/model/trainer.h"
#include "tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VOCABULARY 17
#define DOCUMENTS  40 /* a part */
#define STEPS      14

static char message[300];
static struct corpus_header header = {.vocab_size = VOCABULARY, .end_of_text = VOCABULARY - 1};
static struct corpus_document documents[PART_COUNT * DOCUMENTS];
static uint16_t tokens[PART_COUNT * DOCUMENTS * 40];
static struct corpus corpus = {.header = &header, .tokens = tokens};

/* Documents of 2 to 31 tokens in which one token tells much of the next. */
static void make_corpus(void)
{
    int64_t at = 0;

    for (int i = 0; i < PART_COUNT * DOCUMENTS; i++) {
        struct corpus_document *d = &documents[i];
        int part = i / DOCUMENTS;

        *d = (struct corpus_document){.token_start = at,
                                      .tokens = 2 + (uint32_t) rng_below(1, RNG_SAMPLE, i, 30)};
        d->bytes = 3 * d->tokens - 1;
        rng_block(1, RNG_SPLIT, (uint64_t) i, 0, (uint32_t *) d->digest);
        for (uint32_t t = 0; t + 1 < d->tokens; t++, at++)
            tokens[at] = t && rng_below(2, RNG_SAMPLE, at, 4) ? (tokens[at - 1] * 5u + 3) % (VOCABULARY - 1)
                                                              : rng_below(3, RNG_SAMPLE, at, VOCABULARY - 1);
        tokens[at++] = VOCABULARY - 1;
        corpus.documents[part] = &documents[part * DOCUMENTS];
        header.documents[part]++;
        header.tokens[part] += d->tokens;
        header.bytes[part] += d->bytes;
    }
}

static struct tlaw_spec small_spec(void)
{
    return (struct tlaw_spec){.arch = "gpt2",
                              .n_layer = 2,
                              .n_head = 2,
                              .d_model = 18,
                              .context_length = 9,
                              .vocab_size = VOCABULARY,
                              .bias = 1,
                              .train_tokens = 400,
                              .subset_seed = 4,
                              .seed = 5,
                              .steps = STEPS,
                              .batch_size = 6,
                              .micro_batch = 3,
                              .learning_rate = 1e-2,
                              .min_learning_rate = 1e-3,
                              .warmup_steps = 3,
                              .schedule = "cosine",
                              .weight_decay = 0.1,
                              .beta1 = 0.9,
                              .beta2 = 0.95,
                              .grad_clip = 1,
                              .eval_interval = 4,
                              .eval_tokens = 100,
                              .checkpoint = "best",
                              .device = "cpu",
                              .isa = "reference",
                              .precision = "float32"};
}

/* Batches that go through the model in lanes: 130 sequences in four of them, 56 at most at a time. */
static struct tlaw_spec lanes_spec(void)
{
    struct tlaw_spec spec = small_spec();

    spec.steps = 3;
    spec.warmup_steps = 1;
    spec.batch_size = spec.micro_batch = 130;
    spec.eval_tokens = 600;
    return spec;
}

static struct trainer *create(const struct tlaw_spec *spec, const struct backend *backend,
                              struct device *device)
{
    struct trainer *trainer = trainer_create(spec, &corpus, backend, device, message, sizeof message);

    if (!trainer) {
        printf("Bail out! %s\n", message);
        exit(1);
    }
    return trainer;
}

/* Steps until `last` (or until one diverges), with the evaluations that are due. */
static void advance(struct trainer *trainer, const struct tlaw_spec *spec, int64_t last)
{
    if (trainer_step_number(trainer) == 0)
        trainer_validate(trainer, NULL, NULL);
    while (trainer_step_number(trainer) < last) {
        if (trainer_step(trainer).diverged)
            return;
        if (trainer_evaluates(spec, trainer_step_number(trainer)))
            trainer_validate(trainer, NULL, NULL);
    }
}

/* ---- bits ---- */

static bool same_state(struct trainer *trainer, const void *expected, size_t expected_size)
{
    size_t size;
    void *state = trainer_save(trainer, &size);
    bool same = size == expected_size && memcmp(state, expected, size) == 0;

    free(state);
    return same;
}

/* A run whose number of threads is another one after every step. */
static bool with_changing_threads(const struct tlaw_spec *spec, const struct backend *backend,
                                  const void *expected, size_t size)
{
    struct device *device = backend->open(2, message, sizeof message);
    struct trainer *trainer = create(spec, backend, device);
    bool same;

    for (int64_t step = 1; step <= spec->steps; step++) {
        backend->set_threads(device, 1 + (int) (step * step % 10));
        advance(trainer, spec, step);
    }
    same = same_state(trainer, expected, size);
    trainer_free(trainer);
    backend->close(device);
    return same;
}

/* Stopped after `stop` steps; a fresh trainer on a fresh device goes on from the state. */
static bool resumed(const struct tlaw_spec *spec, const struct backend *backend, int64_t stop,
                    const void *expected, size_t expected_size)
{
    struct device *device = backend->open(1, message, sizeof message);
    struct trainer *trainer = create(spec, backend, device);
    size_t size;
    void *state;
    bool same;

    advance(trainer, spec, stop);
    state = trainer_save(trainer, &size);
    trainer_free(trainer);
    backend->close(device);

    device = backend->open(2, message, sizeof message);
    trainer = create(spec, backend, device);
    same = trainer_load(trainer, state, size, message, sizeof message) == 0 &&
           trainer_step_number(trainer) == stop;
    free(state);
    advance(trainer, spec, spec->steps);
    same = same && same_state(trainer, expected, expected_size);
    trainer_free(trainer);
    backend->close(device);
    return same;
}

static void test_bits(const struct backend *backend, const struct tlaw_spec *spec)
{
    struct device *device = backend->open(1, message, sizeof message);
    struct trainer *trainer = create(spec, backend, device);
    double before = trainer_validate(trainer, NULL, NULL), after;
    char name[64];
    size_t size;
    void *state;
    bool same = true;

    snprintf(name, sizeof name, "%s %s, batches of %d", backend->name, backend->precision,
             (int) spec->micro_batch);
    advance(trainer, spec, spec->steps);
    state = trainer_save(trainer, &size);
    after = trainer_validate(trainer, NULL, NULL);
    ok(after < before - 0.1, "%s: validation loss falls from %.3f to %.3f", name, before, after);
    trainer_free(trainer);

    trainer = create(spec, backend, device);
    advance(trainer, spec, spec->steps);
    ok(same_state(trainer, state, size), "%s: the same specification gives the same bits", name);
    trainer_free(trainer);
    backend->close(device);

    ok(with_changing_threads(spec, backend, state, size),
       "%s: same bits when the number of threads changes in mid-run", name);
    for (int64_t stop = 1; stop < spec->steps; stop++)
        same = same && resumed(spec, backend, stop, state, size);
    ok(same, "%s: stopped at any step and resumed: same bits", name);
    free(state);
}

/* Loss after all steps and the first step's gradient, malloc'd. */
static real *losses_and_gradient(const struct backend *backend, const struct tlaw_spec *spec, double *loss,
                                 size_t *n)
{
    struct device *device = backend->open(2, message, sizeof message);
    struct trainer *trainer = create(spec, backend, device);
    real *gradient = malloc((*n = model_size(trainer_model(trainer))) * sizeof *gradient);

    trainer_step(trainer);
    model_get_gradients(trainer_model(trainer), gradient);
    while (trainer_step_number(trainer) < spec->steps)
        trainer_step(trainer);
    *loss = trainer_validate(trainer, NULL, NULL);
    trainer_free(trainer);
    backend->close(device);
    return gradient;
}

static void test_agreement(const struct backend *backend, const struct tlaw_spec *spec)
{
    bool exact = strcmp(backend->precision, "float32") == 0;
    double truth_loss, loss, wrong = 0, all = 0;
    size_t n;
    real *truth = losses_and_gradient(&reference_backend, spec, &truth_loss, &n),
         *gradient = losses_and_gradient(backend, spec, &loss, &n);

    for (size_t i = 0; i < n; i++) {
        wrong += pow((double) gradient[i] - truth[i], 2);
        all += pow(truth[i], 2);
    }
    ok(sqrt(wrong / all) < (exact ? 1e-5 : 1e-2),
       "%s %s, batches of %d: the first gradient is the reference's to %.1e", backend->name,
       backend->precision, (int) spec->micro_batch, sqrt(wrong / all));
    ok(fabs(loss / truth_loss - 1) < (exact ? 1e-5 : 1e-3),
       "%s %s, batches of %d: after %d steps the loss is the reference's to %.1e", backend->name,
       backend->precision, (int) spec->micro_batch, (int) spec->steps, fabs(loss / truth_loss - 1));
    free(truth);
    free(gradient);
}

/* Both, of a backend, in small batches and in lanes. */
static void test_training(const struct backend *backend)
{
    const struct tlaw_spec specs[] = {small_spec(), lanes_spec()};

    for (int i = 0; i < 2; i++) {
        test_bits(backend, &specs[i]);
        if (backend != &reference_backend)
            test_agreement(backend, &specs[i]);
    }
}

#endif
