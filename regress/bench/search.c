/*
 * Trains one model on real text without a server and prints its validation losses: what the search for the
 * defaults rule (search.py) is made of.
 *
 *   search TOKEN_FILE field=value ...     fields of kernels/engine/spec.h; those left out follow the rule
 *   search --compare TOKEN_FILE field=value ...   then the float32 weights in bf16: losses and gradients
 *   search --freeze TEXT TOKEN_FILE       TEXT: PostgreSQL COPY text format, one column
 */
#include "../../kernels/backend/backend.h"
#include "../../kernels/model/trainer.h"
#include "../../kernels/text/freeze.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double) t.tv_sec + 1e-9 * (double) t.tv_nsec;
}

static size_t unescape(char *line)
{
    char *to = line;

    for (char *from = line; *from && *from != '\n'; from++) {
        if (*from == '\\' && from[1]) {
            from++;
            *to++ = *from == 'n' ? '\n' : *from == 't' ? '\t' : *from == 'r' ? '\r' : *from;
        } else
            *to++ = *from;
    }
    return (size_t) (to - line);
}

static int ignore_progress(const char *phase, int64_t done, int64_t total, void *arg)
{
    (void) phase, (void) done, (void) total, (void) arg;
    return 0;
}

static void freeze_text(const char *text, const char *token_file)
{
    char message[1024], *line = NULL;
    size_t capacity = 0;
    FILE *in = fopen(text, "r"), *spool = tmpfile();
    int fd = open(token_file, O_RDWR | O_CREAT | O_TRUNC, 0666);
    struct tlaw_frozen_message frozen;
    struct freeze *freeze;

    if (!in || !spool || fd < 0)
        fail("cannot open the files");
    freeze = freeze_begin("bytes", NULL, 0, 0.05, 0.05, 0, fileno(spool), message, sizeof message);
    if (!freeze)
        fail(message);
    while (getline(&line, &capacity, in) > 0) {
        size_t size = unescape(line);

        if (freeze_document(freeze, NULL, -1, line, size, 0, message, sizeof message))
            fail(message);
    }
    if (freeze_finish(freeze, fd, &frozen, ignore_progress, NULL, message, sizeof message))
        fail(message);
    printf("%lld training tokens\n", (long long) frozen.train_tokens);
    freeze_free(freeze);
}

static void set_field(struct tlaw_spec *spec, const char *assignment)
{
    const char *equals = strchr(assignment, '=');

    if (!equals)
        fail("arguments are field=value");
#define SET_INTEGER(name)                                                                                    \
    if (strncmp(assignment, #name "=", sizeof #name) == 0)                                                   \
        spec->name = (int64_t) atof(equals + 1);
#define SET_NUMBER(name)                                                                                     \
    if (strncmp(assignment, #name "=", sizeof #name) == 0)                                                   \
        spec->name = atof(equals + 1);
#define SET_WORD(name)                                                                                       \
    if (strncmp(assignment, #name "=", sizeof #name) == 0)                                                   \
        snprintf(spec->name, sizeof spec->name, "%s", equals + 1);
    TLAW_SPEC_FIELDS(SET_INTEGER, SET_NUMBER, SET_WORD)
}

static void unset_fields(struct tlaw_spec *spec)
{
#define UNSET_NUMBER(name) spec->name = TLAW_UNSET;
#define UNSET_WORD(name)   spec->name[0] = 0;
    TLAW_SPEC_FIELDS(UNSET_NUMBER, UNSET_NUMBER, UNSET_WORD)
}

#define WINDOWS 32

/* Mean loss of the first validation windows and its gradient, malloc'd, of these weights in a precision. */
static real *gradient_in(const char *precision, const struct tlaw_spec *spec, const struct corpus *corpus,
                         const real *weights, double *loss)
{
    char message[1024];
    int T = (int) spec->context_length;
    const uint16_t *text = corpus->tokens + corpus->documents[PART_VALIDATION]->token_start;
    const struct backend *backend = backend_find("cpu", "", precision, message, sizeof message);
    struct device *device = backend ? backend->open(1, message, sizeof message) : NULL;
    struct model *model =
        device ? model_create(spec, backend, device, WINDOWS, true, message, sizeof message) : NULL;
    int32_t *tokens = malloc(2 * sizeof *tokens * (size_t) (WINDOWS * T)), *targets = tokens + WINDOWS * T;
    real *losses = malloc(sizeof *losses * (size_t) (WINDOWS * T)), *gradient;

    if (!model)
        fail(message);
    gradient = malloc(model_size(model) * sizeof *gradient);
    for (int i = 0; i < WINDOWS * T; i++) {
        tokens[i] = text[i];
        targets[i] = text[i + 1];
    }
    model_set(model, weights);
    model_zero_gradients(model);
    model_backward(model, tokens, targets, WINDOWS, T, 1.0 / (WINDOWS * T), losses);
    model_get_gradients(model, gradient);
    *loss = 0;
    for (int i = 0; i < WINDOWS * T; i++)
        *loss += losses[i] / (WINDOWS * T);
    model_free(model);
    backend->close(device);
    free(tokens);
    free(losses);
    return gradient;
}

/* As a product in bf16 reads them: matrices (but for the positions, which are only added) rounded to nearest
 * even. */
static void round_weights(real *weights, const struct parameter *parameters, int count)
{
    for (int i = 0; i < count; i++)
        for (size_t j = 0; j < parameters[i].size; j++) {
            real *w = weights + parameters[i].offset + j;
            uint32_t bits;

            memcpy(&bits, w, sizeof bits);
            bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
            if (parameters[i].dims == 2 && strcmp(parameters[i].name, "wpe.weight") != 0)
                memcpy(w, &bits, sizeof bits);
        }
}

static double distance(const real *a, const real *b, size_t n)
{
    double wrong = 0, all = 0;

    for (size_t i = 0; i < n; i++) {
        wrong += pow(a[i] - b[i], 2);
        all += pow(b[i], 2);
    }
    return sqrt(wrong / all);
}

/*
 * What bf16 makes of the same weights: the loss, the gradient; and how much of that is the rounding of the
 * weights, which moves float32's gradient too.
 */
static void compare(const struct tlaw_spec *spec, const struct corpus *corpus, struct model *trained)
{
    size_t n = model_size(trained);
    real *weights = malloc(n * sizeof *weights), *truth, *other, *rounded;
    double loss, loss_bf16, loss_rounded;
    int count;
    struct parameter *parameters = model_parameters(spec, &count);

    model_get(trained, weights);
    truth = gradient_in("float32", spec, corpus, weights, &loss);
    other = gradient_in("bf16", spec, corpus, weights, &loss_bf16);
    round_weights(weights, parameters, count);
    rounded = gradient_in("float32", spec, corpus, weights, &loss_rounded);
    printf("the same weights in bf16: loss %.5f -> %.5f (%+.4f %%), gradient off by %.2e; in float32, the "
           "weights rounded to bf16: %.2e; the two apart: %.2e\n",
           loss, loss_bf16, 100 * (loss_bf16 / loss - 1), distance(other, truth, n),
           distance(rounded, truth, n), distance(other, rounded, n));
    free(weights);
    free(truth);
    free(other);
    free(rounded);
    free(parameters);
}

static void train(const struct tlaw_spec *spec, const struct corpus *corpus, bool then_compare)
{
    char message[1024];
    const struct backend *backend =
        backend_find(spec->device, spec->isa, spec->precision, message, sizeof message);
    struct device *device = backend ? backend->open(1, message, sizeof message) : NULL;
    struct trainer *trainer =
        device ? trainer_create(spec, corpus, backend, device, message, sizeof message) : NULL;
    double best = INFINITY, last = NAN, start = now();

    if (!trainer)
        fail(message);
    while (trainer_step_number(trainer) <= spec->steps) {
        int64_t step = trainer_step_number(trainer);

        if (trainer_evaluates(spec, step)) {
            last = trainer_validate(trainer, NULL, NULL);
            best = fmin(best, last);
        }
        if (step == spec->steps || trainer_step(trainer).diverged)
            break;
    }
    printf("best %.5f last %.5f best_step %lld steps %lld lr %.6g decay %.4g batch %lld params %lld seconds "
           "%.1f\n",
           best, last, (long long) trainer_best_step(trainer), (long long) spec->steps, spec->learning_rate,
           spec->weight_decay, (long long) spec->batch_size, (long long) tlaw_spec_params_non_embedding(spec),
           now() - start);
    if (then_compare)
        compare(spec, corpus, trainer_model(trainer));
    trainer_free(trainer);
    backend->close(device);
}

int main(int argc, char **argv)
{
    char message[1024];
    struct corpus corpus;
    struct tlaw_spec spec;
    bool then_compare = argc > 1 && strcmp(argv[1], "--compare") == 0;
    int fd;

    if (argc == 4 && strcmp(argv[1], "--freeze") == 0) {
        freeze_text(argv[2], argv[3]);
        return 0;
    }
    if (then_compare)
        argv++, argc--;
    if (argc < 2 || (fd = open(argv[1], O_RDONLY)) < 0)
        fail("usage: search [--compare] TOKEN_FILE field=value ... | search --freeze TEXT TOKEN_FILE");
    if (corpus_open(&corpus, fd, message, sizeof message))
        fail(message);
    unset_fields(&spec);
    for (int i = 2; i < argc; i++)
        set_field(&spec, argv[i]);
    spec.vocab_size = corpus.header->vocab_size;
    if (!spec.isa[0])
        snprintf(spec.isa, sizeof spec.isa, "%s", backend_cpu_isa(spec.precision));
    if (tlaw_spec_resolve(&spec, corpus.header->tokens[PART_TRAIN], corpus.header->tokens[PART_VALIDATION], 0,
                          message, sizeof message))
        fail(message);
    train(&spec, &corpus, then_compare);
    return 0;
}
