/*
 * Trains one model on real text without a server and prints its validation losses: what the search for the
 * defaults rule (search.py) is made of.
 *
 *   search TOKEN_FILE field=value ...     fields of kernels/engine/spec.h; those left out follow the rule
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

static void train(const struct tlaw_spec *spec, const struct corpus *corpus)
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
    trainer_free(trainer);
    backend->close(device);
}

int main(int argc, char **argv)
{
    char message[1024];
    struct corpus corpus;
    struct tlaw_spec spec;
    int fd;

    if (argc == 4 && strcmp(argv[1], "--freeze") == 0) {
        freeze_text(argv[2], argv[3]);
        return 0;
    }
    if (argc < 2 || (fd = open(argv[1], O_RDONLY)) < 0)
        fail("usage: search TOKEN_FILE field=value ... | search --freeze TEXT TOKEN_FILE");
    if (corpus_open(&corpus, fd, message, sizeof message))
        fail(message);
    unset_fields(&spec);
    for (int i = 2; i < argc; i++)
        set_field(&spec, argv[i]);
    spec.vocab_size = corpus.header->vocab_size;
    if (!spec.isa[0])
        snprintf(spec.isa, sizeof spec.isa, "%s", backend_cpu_isa(spec.precision));
    if (tlaw_spec_resolve(&spec, corpus.header->tokens[PART_TRAIN], corpus.header->tokens[PART_VALIDATION],
                          message, sizeof message))
        fail(message);
    train(&spec, &corpus);
    return 0;
}
