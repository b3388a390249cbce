#include "spec.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define MAX_TOKENS 1000000000000.0

static int refuse(char *message, size_t size, const char *name, double value, const char *accepted)
{
    snprintf(message, size, "%s = %.15g is not accepted: %s", name, value, accepted);
    return -1;
}

static bool unset(double value)
{
    return value == TLAW_UNSET;
}

static int64_t at_least(double value, int64_t low)
{
    return value < (double) low ? low : (int64_t) value;
}

/* ---- what follows from the shape ---- */

int64_t tlaw_spec_params_non_embedding(const struct tlaw_spec *s)
{
    int64_t C = s->d_model;
    int64_t matrices = 12 * C * C;
    int64_t vectors =
        2 * C + (s->bias ? 2 * C + 9 * C : 0); /* two norms; their and the four layers' biases */

    return s->n_layer * (matrices + vectors) + C + (s->bias ? C : 0);
}

int64_t tlaw_spec_params(const struct tlaw_spec *s)
{
    return tlaw_spec_params_non_embedding(s) + (s->vocab_size + s->context_length) * s->d_model;
}

double tlaw_spec_flops_per_token(const struct tlaw_spec *s)
{
    double L = s->n_layer, C = s->d_model, V = s->vocab_size, T = s->context_length;

    return 6 * (12 * L * C * C + V * C) + 6 * L * C * T;
}

double tlaw_spec_flops(const struct tlaw_spec *s)
{
    return tlaw_spec_flops_per_token(s) * (double) s->steps * (double) s->batch_size *
           (double) s->context_length;
}

/*
 * As many lanes as leave none more than CHUNK_TOKENS, at most LANES_MOST, for models whose gradients can be
 * added up in passing: of at most TOKEN_PARAMETERS parameters for every token of a lane.
 */
#define TOKEN_PARAMETERS 512
#define LANES_MOST       16
#define CHUNK_TOKENS     512

struct tlaw_lanes tlaw_spec_lanes(const struct tlaw_spec *s, int64_t batch)
{
    int64_t T = s->context_length, chunk = T < CHUNK_TOKENS ? CHUNK_TOKENS / T : 1, lanes = 1, share;

    while (lanes < LANES_MOST && lanes * chunk < batch)
        lanes *= 2;
    if (tlaw_spec_params(s) * lanes > TOKEN_PARAMETERS * batch * T)
        lanes = 1;
    share = (batch + lanes - 1) / lanes;
    return (struct tlaw_lanes){(int) lanes, (int) (lanes > 1 && chunk < share ? chunk : share)};
}

/*
 * Activations of one token: 20 arrays of d_model a layer, and 12 more in all for the backward pass.
 * Recomputed, one a layer and 20 in all that the layers share.
 */
static int64_t activation_bytes(const struct tlaw_spec *s)
{
    int64_t arrays = s->recompute ? s->n_layer + 20 : 20 * s->n_layer;

    return 4 * s->d_model * (arrays + 12);
}

/*
 * On a GPU, of its memory: weights, gradients and two moments, with either a bf16 copy of the weights or
 * scratch for one that is not aligned; the activations that gpt2.c plans, `act` bytes each or 4, and the
 * results of a product that needs finishing; 24 MiB of logits (of 1,024 rows at least), 512 MiB of their
 * gradients; 64 MiB for cuBLASLt, sums over rows and the recording of a step.
 */
static int64_t gpu_memory(const struct tlaw_spec *s)
{
    int64_t act = strcmp(s->precision, "bf16") == 0 ? 2 : 4, C = s->d_model;
    int64_t rows = s->micro_batch * s->context_length, V = s->vocab_size + 7, logits = rows * V;
    int64_t piece = 1024 * V > 6 << 20 ? 1024 * V : 6 << 20, gradient = ((int64_t) 512 << 20) / act;
    int64_t weights = (4 * 4 + act) * tlaw_spec_params(s);
    int64_t layer = (8 + 14 * act) * C + 4 * s->n_head + 16, rest = (12 + 6 * act) * C + 32;
    int64_t finishing = (4 + 2 * act) * 4 * C;
    int64_t layers = s->recompute ? layer + 4 * C * (s->n_layer + 1) : s->n_layer * layer;

    return weights + rows * (layers + rest + finishing) + 4 * (logits < piece ? logits : piece) +
           act * (logits < gradient ? logits : gradient) + ((int64_t) 64 << 20);
}

/*
 * On a CPU: weights, gradients, two moments and the best weights, in bf16 a copy; the state once more, twice,
 * while a checkpoint is made and sent; of every lane activations, gradients, the embeddings of words packed
 * twice and a block of what becomes of logits (isa_cross_entropy.c: 12 or 64 MiB or 64 rows, whichever is
 * more); the training subset; 64 MiB for the program itself.
 */
int64_t tlaw_spec_memory(const struct tlaw_spec *s)
{
    if (strncmp(s->device, "cuda", 4) == 0)
        return gpu_memory(s);

    struct tlaw_lanes of = tlaw_spec_lanes(s, s->micro_batch);
    int64_t act = strcmp(s->precision, "bf16") == 0 ? 2 : 4, rows = of.chunk * s->context_length;
    int64_t weights = (5 * 4 + (act == 2 ? 2 : 0)) * tlaw_spec_params(s);
    int64_t state = 2 * 4 * 4 * tlaw_spec_params(s);
    int64_t gradients = of.lanes > 1 ? 4 * tlaw_spec_params(s) : 0;
    int64_t activations = rows * activation_bytes(s);
    int64_t words = s->vocab_size * s->d_model, row = act * s->vocab_size;
    int64_t block = (4 * words <= 6 << 20 ? (int64_t) 12 << 20 : (int64_t) 64 << 20) / row;

    if (block < 64)
        block = 64;
    int64_t head = row * (rows < block ? rows : block) + 2 * act * words;

    return weights + state + of.lanes * (gradients + activations + head) + 2 * s->train_tokens +
           ((int64_t) 64 << 20);
}

/* ---- checks ---- */

struct range {
    const char *name;
    size_t offset;
    double low, high;
    const char *accepted;
};

#define INTEGER(field, low, high, accepted)                                                                  \
    {                                                                                                        \
#field, offsetof(struct tlaw_spec, field), low, high, accepted                                       \
    }

static const struct range integer_ranges[] = {
    INTEGER(n_layer, 1, 1000, "a whole number from 1 to 1000"),
    INTEGER(n_head, 1, 1024, "a whole number from 1 to 1024"),
    INTEGER(d_model, 1, 65536, "a whole number from 1 to 65536"),
    INTEGER(context_length, 2, 65536, "a whole number from 2 to 65536"),
    INTEGER(vocab_size, 2, 65536, "a whole number from 2 to 65536"),
    INTEGER(bias, 0, 1, "0 or 1"),
    INTEGER(train_tokens, 1, MAX_TOKENS, "a whole number from context_length + 1 to 1e12"),
    INTEGER(subset_seed, 0, 9007199254740992.0, "a whole number from 0 to 2^53"),
    INTEGER(seed, 0, 9007199254740992.0, "a whole number from 0 to 2^53"),
    INTEGER(steps, 1, 1e9, "a whole number from 1 to 1e9"),
    INTEGER(batch_size, 1, 65536, "a whole number from 1 to 65536"),
    INTEGER(micro_batch, 1, 65536, "a whole number from 1 to batch_size"),
    INTEGER(warmup_steps, 0, 1e9, "a whole number from 0 to steps"),
    INTEGER(cooldown_steps, 0, 1e9, "a whole number from 0 to steps - warmup_steps"),
    INTEGER(eval_interval, 0, 1e9,
            "a whole number from 1 to steps, or 0 for steps evenly spaced in log(step)"),
    INTEGER(eval_points, 1, 100000, "a whole number from 1 to 100000"),
    INTEGER(eval_tokens, 1, MAX_TOKENS, "a whole number from 1 to the corpus's validation tokens"),
    INTEGER(recompute, 0, 1, "0 or 1"),
};

#define NUMBER(field, low, high, accepted)                                                                   \
    {                                                                                                        \
#field, offsetof(struct tlaw_spec, field), low, high, accepted                                       \
    }

static const struct range number_ranges[] = {
    NUMBER(learning_rate, 1e-12, 100, "a number from 1e-12 to 100"),
    NUMBER(min_learning_rate, 0, 100, "a number from 0 to learning_rate"),
    NUMBER(weight_decay, 0, 100, "a number from 0 to 100"),
    NUMBER(beta1, 0, 0.999999, "a number from 0 to 0.999999"),
    NUMBER(beta2, 0, 0.999999999, "a number from 0 to 0.999999999"),
    NUMBER(grad_clip, 0, 1e12, "a number from 0 (no clipping) to 1e12"),
};

const char *tlaw_spec_accepted(const char *field)
{
    for (size_t i = 0; i < sizeof integer_ranges / sizeof *integer_ranges; i++)
        if (strcmp(integer_ranges[i].name, field) == 0)
            return integer_ranges[i].accepted;
    for (size_t i = 0; i < sizeof number_ranges / sizeof *number_ranges; i++)
        if (strcmp(number_ranges[i].name, field) == 0)
            return number_ranges[i].accepted;
    return "a number";
}

/* open: what is left out passes. */
static int check_ranges(const struct tlaw_spec *s, bool open, char *message, size_t size)
{
    for (size_t i = 0; i < sizeof integer_ranges / sizeof *integer_ranges; i++) {
        const struct range *r = &integer_ranges[i];
        double value = (double) *(const int64_t *) ((const char *) s + r->offset);

        if (!(open && unset(value)) && !(value >= r->low && value <= r->high))
            return refuse(message, size, r->name, value, r->accepted);
    }
    for (size_t i = 0; i < sizeof number_ranges / sizeof *number_ranges; i++) {
        const struct range *r = &number_ranges[i];
        double value = *(const double *) (const void *) ((const char *) s + r->offset);

        if (!(open && unset(value)) && !(value >= r->low && value <= r->high))
            return refuse(message, size, r->name, value, r->accepted);
    }
    return 0;
}

static int check_word(const char *name, const char *value, const char *const *words, char *message,
                      size_t size)
{
    char list[256] = "";

    for (int i = 0; words[i]; i++) {
        if (strcmp(value, words[i]) == 0)
            return 0;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", words[i]);
    }
    snprintf(message, size, "%s = \"%.40s\" is not accepted: one of %s", name, value, list);
    return -1;
}

static int check_words(const struct tlaw_spec *s, char *message, size_t size)
{
    static const char *const archs[] = {"gpt2", NULL};
    static const char *const schedules[] = {"cosine", "constant", NULL};
    static const char *const checkpoints[] = {"best", "none", NULL};
    static const char *const precisions[] = {"float32", "bf16", NULL};

    if (check_word("arch", s->arch, archs, message, size) ||
        check_word("schedule", s->schedule, schedules, message, size) ||
        check_word("checkpoint", s->checkpoint, checkpoints, message, size) ||
        check_word("precision", s->precision, precisions, message, size))
        return -1;
    return 0;
}

/* The number of training tokens, before the rule makes steps of it: at least a sequence and its last target.
 */
static int check_train_tokens(const struct tlaw_spec *s, int64_t train_available, char *message, size_t size)
{
    char accepted[160];

    if (s->context_length >= train_available) {
        snprintf(accepted, sizeof accepted, "less than the corpus's %lld training tokens",
                 (long long) train_available);
        return refuse(message, size, "context_length", (double) s->context_length, accepted);
    }
    if (s->train_tokens > s->context_length && s->train_tokens <= train_available)
        return 0;
    snprintf(accepted, sizeof accepted,
             "a whole number from context_length + 1 = %lld to the corpus's %lld training tokens",
             (long long) s->context_length + 1, (long long) train_available);
    return refuse(message, size, "train_tokens", (double) s->train_tokens, accepted);
}

/* What one field alone cannot tell. */
static int check_together(const struct tlaw_spec *s, int64_t val_available, char *message, size_t size)
{
    char accepted[160];

    if (s->d_model % s->n_head != 0) {
        snprintf(accepted, sizeof accepted, "a divisor of d_model = %lld", (long long) s->d_model);
        return refuse(message, size, "n_head", (double) s->n_head, accepted);
    }
    if (s->eval_tokens > val_available) {
        snprintf(accepted, sizeof accepted, "a whole number from 1 to the corpus's %lld validation tokens",
                 (long long) val_available);
        return refuse(message, size, "eval_tokens", (double) s->eval_tokens, accepted);
    }
    if (s->min_learning_rate > s->learning_rate)
        return refuse(message, size, "min_learning_rate", s->min_learning_rate,
                      "a number from 0 to learning_rate");
    if (s->micro_batch > s->batch_size || s->batch_size % s->micro_batch != 0)
        return refuse(message, size, "micro_batch", (double) s->micro_batch, "a divisor of batch_size");
    if (s->warmup_steps > s->steps)
        return refuse(message, size, "warmup_steps", (double) s->warmup_steps,
                      "a whole number from 0 to steps");
    if (s->cooldown_steps > 0 && strcmp(s->schedule, "constant") != 0)
        return refuse(message, size, "cooldown_steps", (double) s->cooldown_steps,
                      "0, or schedule => 'constant', which has a cooldown");
    if (s->cooldown_steps > s->steps - s->warmup_steps)
        return refuse(message, size, "cooldown_steps", (double) s->cooldown_steps,
                      "a whole number from 0 to steps - warmup_steps");
    if (s->eval_interval > s->steps)
        return refuse(message, size, "eval_interval", (double) s->eval_interval,
                      "a whole number from 1 to steps");
    return 0;
}

/* ---- the rule ---- */

static void default_word(char *field, const char *word)
{
    if (!field[0])
        snprintf(field, TLAW_NAME_SIZE, "%s", word);
}

static void default_integer(int64_t *field, int64_t value)
{
    if (unset((double) *field))
        *field = value;
}

static void default_number(double *field, double value)
{
    if (unset(*field))
        *field = value;
}

/* Heads of 32, where d_model allows it; else the largest number of heads that gives at least 16 and divides.
 */
static int64_t default_heads(int64_t d_model)
{
    if (d_model > 0 && d_model % 32 == 0)
        return d_model / 32;
    for (int64_t heads = d_model / 16; heads > 1; heads--)
        if (d_model % heads == 0)
            return heads;
    return 1;
}

/*
 * The largest divisor of batch_size whose activations stay below 1 GiB; on a GPU of that memory, with which
 * the run takes at most a quarter of it, so that several fit.
 */
static int64_t default_micro_batch(const struct tlaw_spec *s, int64_t memory)
{
    bool on_gpu = strncmp(s->device, "cuda", 4) == 0;
    double sequence = (double) s->context_length * (double) activation_bytes(s);
    struct tlaw_spec with = *s;

    for (int64_t micro = s->batch_size; micro > 1; micro--) {
        with.micro_batch = micro;
        if (s->batch_size % micro == 0 && (on_gpu ? tlaw_spec_memory(&with) <= memory / 4
                                                  : sequence * (double) micro <= (double) (1 << 30)))
            return micro;
    }
    return 1;
}

static void resolve_shape(struct tlaw_spec *s, int64_t train_available)
{
    default_word(s->arch, "gpt2");
    default_integer(&s->n_layer, 2);
    default_integer(&s->d_model, 64);
    default_integer(&s->n_head, default_heads(s->d_model));
    default_integer(&s->context_length, 128);
    default_integer(&s->bias, 0);
    default_integer(&s->recompute, 0);
    default_integer(&s->train_tokens, train_available);
    default_integer(&s->subset_seed, 0);
    default_integer(&s->seed, 0);
}

/*
 * Batch, steps, learning rate and decay by the rule that README.md states under "Defaults": found by a search
 * over learning rate, steps and decay at five sizes (regress/bench/search.c).  Small batches make the best
 * use of a token; a run sees enough tokens for its parameters, but a small subset at most 64 times; where
 * parameters outnumber tokens it is trained more gently and decayed more.
 */
static void resolve_training(struct tlaw_spec *s)
{
    double n_params = (double) tlaw_spec_params_non_embedding(s), D = (double) s->train_tokens;
    double T = (double) s->context_length, C = (double) s->d_model;
    double wanted = fmax(20 * n_params, fmin(128 * n_params, 12.8e6));
    double epochs = 20000 / sqrt(n_params);
    double seen = fmax(D, fmin(epochs * D, wanted));

    default_integer(&s->batch_size, at_least(round(8 * C / T), 1));
    default_integer(&s->steps, at_least(ceil(seen / ((double) s->batch_size * T)), 50));
    default_number(&s->learning_rate, fmin(0.005, 0.5 / C) / sqrt(fmax(1, n_params / D)));
    default_number(&s->min_learning_rate, s->learning_rate / 10);
    default_integer(&s->warmup_steps, s->steps < 20 ? s->steps / 2 : at_least((double) s->steps * 0.05, 10));
    default_word(s->schedule, "cosine");
    default_integer(&s->cooldown_steps,
                    strcmp(s->schedule, "constant") == 0 ? (s->steps - s->warmup_steps) / 5 : 0);
    default_number(&s->weight_decay, fmin(fmax(0.16 * pow(n_params / D, 0.7), 0.02), 1));
    default_number(&s->beta1, 0.9);
    default_number(&s->beta2, 0.95);
    default_number(&s->grad_clip, 1);
}

static void resolve_evaluation(struct tlaw_spec *s, int64_t val_available)
{
    /* scoring takes a third of a training step's work a token: keep all evaluations near a tenth of the run
     */
    double seen = (double) s->steps * (double) s->batch_size * (double) s->context_length;

    default_integer(&s->eval_interval, 0);
    default_integer(&s->eval_points, 20);
    default_integer(&s->eval_tokens, at_least(fmin((double) val_available, fmax(32768, 0.3 * seen / 20)), 1));
    default_word(s->checkpoint, "best");
    default_word(s->device, "cpu");
    default_word(s->precision, strcmp(s->device, "cpu") == 0 ? "float32" : "bf16");
}

int tlaw_spec_resolve(struct tlaw_spec *spec, int64_t train_available, int64_t val_available,
                      int64_t device_memory, char *message, size_t message_size)
{
    /* before the rule, which multiplies and divides by them */
    if (check_ranges(spec, true, message, message_size))
        return -1;
    resolve_shape(spec, train_available);
    if (check_train_tokens(spec, train_available, message, message_size))
        return -1;
    resolve_training(spec);
    resolve_evaluation(spec, val_available);
    default_integer(&spec->micro_batch, default_micro_batch(spec, device_memory));
    if (check_words(spec, message, message_size) || check_ranges(spec, false, message, message_size))
        return -1;
    return check_together(spec, val_available, message, message_size);
}
