/*
 * Training: batches by counter, gradient accumulation, schedules, validation, and the whole state as bytes.
 *
 * Invariant: everything after `step` follows from (specification, corpus, state), where the state is what
 * trainer_save writes.  Nothing random is carried along: batches are a function of their number.
 */
#include "evaluate.h"
#include "rng.h"
#include "trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct trainer {
    struct tlaw_spec spec;
    const struct corpus *corpus;
    struct model *model;
    uint16_t *tokens; /* the training subset */
    int64_t subset_bytes, subset_documents;
    int32_t *inputs, *targets; /* one micro-batch */
    int64_t filled;            /* its first sequence's number; -1: none yet */
    int64_t step, best_step;   /* best_step -1: nothing kept */
    int64_t under_way;         /* steps that have begun and not ended */
    double best_loss;
    real *best; /* weights of best_step */
};

/* ---- life ---- */

/* What would be read out of bounds; that tokens are below vocab_size was checked when the corpus was opened.
 */
static int check_spec(const struct tlaw_spec *spec, const struct corpus *corpus, char *message,
                      size_t message_size)
{
    const struct corpus_header *header = corpus->header;

    if (spec->vocab_size != header->vocab_size)
        snprintf(message, message_size, "vocab_size is %lld; the corpus's is %lld",
                 (long long) spec->vocab_size, (long long) header->vocab_size);
    else if (spec->train_tokens <= spec->context_length || spec->train_tokens > header->tokens[PART_TRAIN])
        snprintf(message, message_size, "train_tokens is %lld; accepted are more than context_length to %lld",
                 (long long) spec->train_tokens, (long long) header->tokens[PART_TRAIN]);
    else if (spec->eval_tokens < 1 || spec->eval_tokens > header->tokens[PART_VALIDATION])
        snprintf(message, message_size, "eval_tokens is %lld; accepted are 1 to %lld",
                 (long long) spec->eval_tokens, (long long) header->tokens[PART_VALIDATION]);
    else if (spec->micro_batch < 1 || spec->batch_size < 1 || spec->batch_size % spec->micro_batch != 0)
        snprintf(message, message_size, "micro_batch is %lld; it must divide batch_size, %lld",
                 (long long) spec->micro_batch, (long long) spec->batch_size);
    else if (spec->steps < 1)
        snprintf(message, message_size, "steps is %lld; at least 1 is needed", (long long) spec->steps);
    else
        return 0;
    return -1;
}

/* 0, or -1 and a message. */
static int trainer_fill(struct trainer *trainer, const struct backend *backend, struct device *device,
                        char *message, size_t message_size)
{
    const struct tlaw_spec *spec = &trainer->spec;
    const struct corpus *corpus = trainer->corpus;
    size_t rows = spec->micro_batch * spec->context_length;

    trainer->model =
        model_create(spec, backend, device, (int) spec->micro_batch, true, message, message_size);
    if (!trainer->model)
        return -1;
    trainer->tokens = malloc(spec->train_tokens * sizeof *trainer->tokens);
    trainer->inputs = malloc(rows * sizeof *trainer->inputs);
    trainer->targets = malloc(rows * sizeof *trainer->targets);
    trainer->filled = -1;
    trainer->best = calloc(model_size(trainer->model), sizeof *trainer->best);
    if (!trainer->tokens || !trainer->inputs || !trainer->targets || !trainer->best) {
        snprintf(message, message_size, "%lld training tokens and %zu weights do not fit in memory",
                 (long long) spec->train_tokens, model_size(trainer->model));
        return -1;
    }
    if (corpus_subset(corpus, spec->subset_seed, spec->train_tokens, trainer->tokens, &trainer->subset_bytes,
                      &trainer->subset_documents, message, message_size) < 0)
        return -1;
    model_init(trainer->model);
    trainer->best_step = -1;
    trainer->best_loss = INFINITY;
    return 0;
}

struct trainer *trainer_create(const struct tlaw_spec *spec, const struct corpus *corpus,
                               const struct backend *backend, struct device *device, char *message,
                               size_t message_size)
{
    struct trainer *trainer;

    if (check_spec(spec, corpus, message, message_size) < 0)
        return NULL;
    trainer = calloc(1, sizeof *trainer);
    if (!trainer) {
        snprintf(message, message_size, "out of memory");
        return NULL;
    }
    trainer->spec = *spec;
    trainer->corpus = corpus;
    if (trainer_fill(trainer, backend, device, message, message_size) < 0) {
        trainer_free(trainer);
        return NULL;
    }
    return trainer;
}

void trainer_free(struct trainer *trainer)
{
    if (!trainer)
        return;
    model_free(trainer->model);
    free(trainer->tokens);
    free(trainer->inputs);
    free(trainer->targets);
    free(trainer->best);
    free(trainer);
}

struct model *trainer_model(struct trainer *trainer)
{
    return trainer->model;
}

int64_t trainer_step_number(const struct trainer *trainer)
{
    return trainer->step;
}

void trainer_subset(const struct trainer *trainer, int64_t *bytes, int64_t *documents)
{
    *bytes = trainer->subset_bytes;
    *documents = trainer->subset_documents;
}

/* ---- steps ---- */

double trainer_learning_rate(const struct tlaw_spec *spec, int64_t step)
{
    double peak = spec->learning_rate, low = spec->min_learning_rate;
    int64_t decay = spec->steps - spec->warmup_steps, cooldown = spec->cooldown_steps;
    int64_t decayed = step - spec->warmup_steps, cooled = step - (spec->steps - cooldown);

    if (step < spec->warmup_steps)
        return peak * (double) (step + 1) / (double) spec->warmup_steps;
    if (strcmp(spec->schedule, "constant") == 0)
        return cooled > 0 ? peak - (peak - low) * (double) cooled / (double) cooldown : peak;
    return decayed > 0 ? low + (peak - low) * 0.5 * (1 + cos(M_PI * (double) decayed / (double) decay))
                       : peak;
}

bool trainer_evaluates(const struct tlaw_spec *spec, int64_t step)
{
    if (step == 0 || step == spec->steps)
        return true;
    if (spec->eval_interval > 0)
        return step % spec->eval_interval == 0;
    for (int64_t point = 0; point < spec->eval_points - 1; point++) {
        double at = exp((double) point / (double) (spec->eval_points - 1) * log((double) spec->steps));

        if (llround(at) >= step)
            return llround(at) == step;
    }
    return false;
}

/* The micro-batch whose first sequence has this number in the run. */
static void fill_batch(struct trainer *trainer, int64_t sequence)
{
    const struct tlaw_spec *spec = &trainer->spec;
    int64_t T = spec->context_length;

    if (trainer->filled == sequence)
        return;
    trainer->filled = sequence;
    for (int64_t b = 0; b < spec->micro_batch; b++) {
        const uint16_t *window =
            trainer->tokens + rng_below((uint64_t) spec->seed, RNG_BATCH, (uint64_t) (sequence + b),
                                        (uint64_t) (spec->train_tokens - T));

        for (int64_t t = 0; t < T; t++) {
            trainer->inputs[b * T + t] = window[t];
            trainer->targets[b * T + t] = window[t + 1];
        }
    }
}

void trainer_begin_step(struct trainer *trainer)
{
    const struct tlaw_spec *spec = &trainer->spec;
    int64_t before = trainer->step + trainer->under_way++, first = before * spec->batch_size;

    model_step_begin(trainer->model, before + 1, trainer_learning_rate(spec, before));
    for (int64_t done = 0; done < spec->batch_size; done += spec->micro_batch) {
        fill_batch(trainer, first + done);
        model_step_add(trainer->model, trainer->inputs, trainer->targets);
    }
    fill_batch(trainer, first + spec->batch_size); /* while a GPU computes */
}

struct step_result trainer_end_step(struct trainer *trainer)
{
    struct step_result result = model_step_end(trainer->model);

    trainer->under_way--;
    if (!result.diverged)
        trainer->step++;
    return result;
}

struct step_result trainer_step(struct trainer *trainer)
{
    trainer_begin_step(trainer);
    return trainer_end_step(trainer);
}

/* ---- validation ---- */

static void add_to_sum(void *arg, const real *losses, int count)
{
    double *sum = arg;

    for (int i = 0; i < count; i++)
        *sum += losses[i];
}

double trainer_validate(struct trainer *trainer, int (*poll)(void *), void *arg)
{
    const struct tlaw_spec *spec = &trainer->spec;
    const struct corpus *corpus = trainer->corpus;
    double sum = 0;

    if (evaluate_stream(trainer->model, spec, (int) spec->micro_batch,
                        corpus->tokens + corpus->documents[PART_VALIDATION]->token_start, spec->eval_tokens,
                        (int32_t) corpus->header->end_of_text, add_to_sum, &sum, poll, arg) < 0)
        return NAN;
    sum /= (double) spec->eval_tokens;
    if (sum < trainer->best_loss) {
        trainer->best_loss = sum;
        trainer->best_step = trainer->step;
        model_get(trainer->model, trainer->best);
    }
    return sum;
}

int64_t trainer_best_step(const struct trainer *trainer)
{
    return trainer->best_step;
}

void trainer_use_best(struct trainer *trainer)
{
    if (trainer->best_step >= 0)
        model_set(trainer->model, trainer->best);
}

/* ---- state ---- */

#define STATE_MAGIC   "tlawrun1"
#define STATE_VECTORS 4 /* weights, m, v, best weights */

struct state_header {
    char magic[8];
    int64_t size, element; /* bytes: of the whole state, of one number */
    int64_t step, best_step;
    double best_loss;
    struct tlaw_spec spec; /* nothing after a string's end, so that equal means equal bytes */
};

struct state {
    struct state_header header;
    real vectors[];
};

static struct state_header state_header(const struct trainer *trainer)
{
    struct state_header header;
    const struct tlaw_spec *spec = &trainer->spec;

    memset(&header, 0, sizeof header);
    memcpy(header.magic, STATE_MAGIC, sizeof header.magic);
    header.element = sizeof(real);
    header.size = (int64_t) (sizeof header + STATE_VECTORS * model_size(trainer->model) * sizeof(real));
    header.step = trainer->step;
    header.best_step = trainer->best_step;
    header.best_loss = trainer->best_loss;
#define COPY(name)        header.spec.name = spec->name;
#define COPY_STRING(name) memcpy(header.spec.name, spec->name, strnlen(spec->name, TLAW_NAME_SIZE - 1));
    TLAW_SPEC_FIELDS(COPY, COPY, COPY_STRING)
    return header;
}

void *trainer_save(struct trainer *trainer, size_t *size)
{
    struct state_header header = state_header(trainer);
    size_t n = model_size(trainer->model);
    struct state *state = malloc((size_t) header.size);

    if (!state)
        return NULL;
    state->header = header;
    model_get(trainer->model, state->vectors);
    model_get_moments(trainer->model, state->vectors + n, state->vectors + 2 * n);
    memcpy(state->vectors + 3 * n, trainer->best, n * sizeof(real));
    *size = (size_t) header.size;
    return state;
}

static const char *state_fault(const struct trainer *trainer, const struct state_header *found, size_t size)
{
    struct state_header expected = state_header(trainer);

    if (memcmp(found->magic, expected.magic, sizeof expected.magic) != 0)
        return "it does not begin as a training state does";
    if (memcmp(&found->spec, &expected.spec, sizeof expected.spec) != 0)
        return "it belongs to another specification";
    if (found->element != expected.element || found->size != expected.size || (int64_t) size != expected.size)
        return "its size does not fit the model";
    if (found->step < 0 || found->step > trainer->spec.steps || found->best_step < -1 ||
        found->best_step > found->step || isnan(found->best_loss))
        return "its step numbers are impossible";
    return NULL;
}

int trainer_load(struct trainer *trainer, const void *saved, size_t size, char *message, size_t message_size)
{
    const struct state *state = saved;
    size_t n = model_size(trainer->model);
    const char *fault = size < sizeof *state ? "it is too short" : state_fault(trainer, &state->header, size);

    if (fault) {
        snprintf(message, message_size, "a training state of %zu bytes cannot be used: %s", size, fault);
        return -1;
    }
    model_set(trainer->model, state->vectors);
    model_set_moments(trainer->model, state->vectors + n, state->vectors + 2 * n);
    memcpy(trainer->best, state->vectors + 3 * n, n * sizeof(real));
    trainer->step = state->header.step;
    trainer->best_step = state->header.best_step;
    trainer->best_loss = state->header.best_loss;
    return 0;
}
