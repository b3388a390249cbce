/*
 * TRAIN: a run from its first step, or from a resume state, to its test loss.
 *
 * Owns what the job adds to the trainer's state: the sums behind the reported averages, and the clocks.  They
 * travel in a trailer behind trainer_save's block, so that a run that was stopped and resumed reports the
 * same bits (times excepted).
 */
#include "engine.h"
#include "tuner.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define PROBE_SECONDS     0.05
#define SMOOTHING_SECONDS 3.0
#define NICENESS          10  /* of training: a tenth of a processor that somebody else wants, too */
#define SESSION_SECONDS   0.1 /* between two requests for the session's weight */

/* The trailer of a resume state; sums are of per-step losses in the order of the steps. */
struct tail {
    char magic[8]; /* "tlawrun1" */
    int64_t recent_steps, final_steps;
    double recent_loss; /* since the last evaluation */
    double final_loss;  /* over the last tenth of the run: RESULT's train_loss */
    double train_seconds, eval_seconds;
    double attainable_flops;  /* what the device's matrix product would have done in train_seconds */
    unsigned char sha256[32]; /* of the state before and of the fields above */
};

struct run {
    struct engine *e;
    struct tlaw_spec spec;
    struct trainer *trainer;
    struct tail tail;
    struct tuner tuner;
    double thread_flops;     /* FLOP/s */
    double step_seconds;     /* smoothed */
    double validate_seconds; /* of the last validation */
    double loss;             /* of the last step */
    double saved;            /* engine_now() of the last checkpoint */
    double checkpoint_seconds;
    bool ahead;   /* the next step has begun */
    double ended; /* engine_now() of the last step's end */
    const char *phase;
    int niceness;  /* of this process, where it trains on a CPU */
    int autogroup; /* file of its session's weight, open until that is lowered; or -1 */
    double asked;  /* engine_now() of the last request for that */
};

/* ---- processors ---- */

/*
 * Where Linux weighs sessions before processes (autogroup), the weight of this one is lowered like its
 * processes'.  Of all processes in the system Linux takes one such request in 0.1 s, so it is made until
 * then.
 */
static void lower_session(struct run *r)
{
    double now = engine_now();

    if (r->autogroup < 0 || now - r->asked < SESSION_SECONDS)
        return;
    r->asked = now;
    if (dprintf(r->autogroup, "%d", r->niceness) < 0 && errno == EAGAIN)
        return;
    close(r->autogroup);
    r->autogroup = -1;
}

/* Training takes what processors others leave: what the server's clients ask comes first.  Before threads
 * start, which inherit it. */
static void yield_processors(struct run *r)
{
    r->niceness = nice(NICENESS);
    r->autogroup = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);
    lower_session(r);
}

/* ---- progress ---- */

/* Validations still to come: exact for an interval, near enough for steps evenly spaced in their logarithm.
 */
static double validations_left(const struct tlaw_spec *s, int64_t step)
{
    if (s->eval_interval > 0)
        return ceil((double) (s->steps - step) / (double) s->eval_interval);
    return (double) s->eval_points * (1 - log1p((double) step) / log1p((double) s->steps));
}

static void report_progress(struct run *r)
{
    const struct tlaw_spec *s = &r->spec;
    int64_t step = trainer_step_number(r->trainer);
    double test_seconds =
        r->validate_seconds * (double) r->e->corpus.header->tokens[PART_TEST] / (double) s->eval_tokens;
    struct tlaw_progress_message progress = {.step = step, .total = s->steps, .loss = r->loss};

    progress.tokens_per_second =
        r->step_seconds > 0 ? (double) (s->batch_size * s->context_length) / r->step_seconds : NAN;
    progress.seconds_left = r->step_seconds > 0
                                ? (double) (s->steps - step) * r->step_seconds +
                                      validations_left(s, step) * r->validate_seconds + test_seconds
                                : NAN;
    snprintf(progress.phase, sizeof progress.phase, "%s", r->phase);
    engine_progress(r->e, &progress);
}

static int poll_run(void *arg)
{
    struct run *r = arg;

    engine_poll(r->e);
    report_progress(r);
    return 0;
}

/* ---- resume state ---- */

static void digest_state(struct run *r, const void *state, size_t size, const struct tail *tail,
                         unsigned char digest[32])
{
    EVP_MD_CTX *hash = EVP_MD_CTX_new();

    bool good = hash && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) && EVP_DigestUpdate(hash, state, size) &&
                EVP_DigestUpdate(hash, tail, offsetof(struct tail, sha256)) &&
                EVP_DigestFinal_ex(hash, digest, NULL);

    EVP_MD_CTX_free(hash);
    if (!good)
        engine_fail(r->e, "internal", "SHA-256 is not available");
}

static void free_block(struct engine *e)
{
    free(e->block);
    e->block = NULL;
}

static void send_state(struct run *r)
{
    size_t size;
    unsigned char *whole = NULL;

    r->e->block = trainer_save(r->trainer, &size);
    if (r->e->block)
        whole = realloc(r->e->block, size + sizeof r->tail);
    if (whole)
        r->e->block = whole;
    else
        engine_fail(r->e, "memory", "no memory for a checkpoint of %" PRId64 " parameters",
                    tlaw_spec_params(&r->spec));
    memcpy(r->tail.magic, "tlawrun1", sizeof r->tail.magic);
    digest_state(r, whole, size, &r->tail, r->tail.sha256);
    memcpy(whole + size, &r->tail, sizeof r->tail);
    engine_send_checkpoint(r->e, "resume", trainer_step_number(r->trainer), whole, size + sizeof r->tail);
    free_block(r->e);
    r->saved = engine_now();
}

/* Takes the state that was sent, the engine's block, and frees it. */
static void load_state(struct run *r, int64_t bytes)
{
    unsigned char *state = r->e->block, digest[32];
    size_t size = (size_t) bytes - sizeof r->tail;
    char message[TLAW_TEXT_SIZE];

    if ((size_t) bytes < sizeof r->tail)
        engine_fail(r->e, "checkpoint", "a resume state of %" PRId64 " bytes is too short", bytes);
    memcpy(&r->tail, state + size, sizeof r->tail);
    digest_state(r, state, size, &r->tail, digest);
    if (memcmp(r->tail.magic, "tlawrun1", sizeof r->tail.magic) ||
        memcmp(r->tail.sha256, digest, sizeof digest))
        engine_fail(r->e, "checkpoint", "the resume state is damaged: its sha256 does not agree");
    errno = 0;
    if (trainer_load(r->trainer, state, size, message, sizeof message))
        engine_fail_call(r->e, "checkpoint", message);
    free_block(r->e);
}

/* ---- the loop ---- */

/* The gradient norm is the last one that was a number: a loss that is none has no gradient. */
static _Noreturn void diverged(struct run *r, const char *what, double value)
{
    engine_fail(r->e, "diverged",
                "%s is %g at step %" PRId64 ", gradient norm %.3g; try a lower learning_rate", what,
                isnan(value) ? (double) NAN : value, r->e->step, r->e->grad_norm);
}

static void validate(struct run *r, double grad_norm)
{
    struct tail *t = &r->tail;
    struct tlaw_loss_message loss = {.step = trainer_step_number(r->trainer), .grad_norm = grad_norm};
    double begin = engine_now();

    r->phase = "validate";
    loss.val_loss = trainer_validate(r->trainer, poll_run, r);
    r->phase = "train";
    r->validate_seconds = engine_now() - begin;
    t->eval_seconds += r->validate_seconds;
    if (!isfinite(loss.val_loss))
        diverged(r, "validation loss", loss.val_loss);
    loss.tokens_seen = loss.step * r->spec.batch_size * r->spec.context_length;
    loss.train_loss = t->recent_steps ? t->recent_loss / (double) t->recent_steps : NAN;
    loss.learning_rate = trainer_learning_rate(&r->spec, loss.step);
    loss.seconds = t->train_seconds + t->eval_seconds;
    t->recent_loss = 0;
    t->recent_steps = 0;
    engine_send(r->e, TLAW_LOSS, &loss);
}

static bool checkpoint_is_due(const struct run *r)
{
    return engine_now() - r->saved >= r->checkpoint_seconds;
}

/* Whether the step after `step` may begin before that one ends: nothing is to be done between them. */
static bool may_run_ahead(const struct run *r, int64_t step)
{
    return strncmp(r->spec.device, "cuda:", 5) == 0 && !trainer_evaluates(&r->spec, step) &&
           !checkpoint_is_due(r);
}

/*
 * Begins the step that follows, unless it has begun, and on a GPU where possible the one after it, so that
 * the GPU does not wait for the host; waits for the first.
 */
static struct step_result next_step(struct run *r)
{
    int64_t next = trainer_step_number(r->trainer) + 1;

    if (!r->ahead)
        trainer_begin_step(r->trainer);
    r->ahead = may_run_ahead(r, next);
    if (r->ahead)
        trainer_begin_step(r->trainer);
    return trainer_end_step(r->trainer);
}

/* One step and its accounts; returns the gradient norm. */
static double step(struct run *r)
{
    struct tail *t = &r->tail;
    double begin = r->ahead ? r->ended : engine_now(), seconds, share;
    struct step_result result = next_step(r);
    int64_t done = trainer_step_number(r->trainer); /* without a step that diverged */

    r->e->step = done + result.diverged;
    if (!isnan(result.grad_norm))
        r->e->grad_norm = result.grad_norm;
    if (result.diverged)
        diverged(r, "loss", result.loss);
    r->ended = engine_now();
    seconds = r->ended - begin;
    r->e->backend->set_threads(r->e->device, tuner_step(&r->tuner, r->e->threads, seconds));
    share = r->step_seconds > 0 ? 1 - exp(-seconds / SMOOTHING_SECONDS) : 1;
    r->step_seconds += share * (seconds - r->step_seconds);
    r->loss = result.loss;
    t->train_seconds += seconds;
    t->attainable_flops += seconds * r->thread_flops * r->e->threads;
    t->recent_loss += result.loss;
    t->recent_steps++;
    if (done > r->spec.steps - (r->spec.steps + 9) / 10) {
        t->final_loss += result.loss;
        t->final_steps++;
    }
    return result.grad_norm;
}

static void train(struct run *r)
{
    const struct tlaw_spec *s = &r->spec;

    r->saved = engine_now();
    if (trainer_step_number(r->trainer) == 0)
        validate(r, NAN);
    while (trainer_step_number(r->trainer) < s->steps) {
        double grad_norm;

        engine_poll(r->e);
        grad_norm = step(r);
        if (trainer_evaluates(s, trainer_step_number(r->trainer)))
            validate(r, grad_norm);
        if (!r->ahead && checkpoint_is_due(r))
            send_state(r);
        report_progress(r);
        lower_session(r);
    }
}

/* ---- the end ---- */

/* Peak resident bytes of this program; ru_maxrss would count the process that it was before exec as well. */
static int64_t peak_memory(void)
{
    long long kilobytes = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");

    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %lld kB", &kilobytes) == 1)
            break;
    if (status)
        fclose(status);
    return kilobytes * 1024;
}

/* Scores the kept weights on the test documents, and sends everything that remains of the run. */
static void score_test(struct run *r, struct tlaw_result_message *result)
{
    struct documents d;
    struct document_loss *records;
    struct evaluation test;

    engine_read_documents(r->e, "test", &d);
    records = r->e->block =
        engine_alloc(r->e, (size_t) d.count * sizeof *records, "the losses of the test documents");
    if (evaluate_documents(trainer_model(r->trainer), &r->spec, (int) r->spec.micro_batch, d.tokens,
                           d.documents, d.count, (int32_t) r->e->corpus.header->end_of_text, records, &test,
                           poll_run, r))
        engine_fail(r->e, "memory", "no memory to score %" PRId64 " test documents", d.count);
    engine_send_document_losses(r->e, records, d.count);
    free_block(r->e);
    engine_free_documents(&d);
    result->test_loss = test.loss;
    result->test_loss_se = test.loss_se;
    result->bits_per_byte = test.bits_per_byte;
    result->test_tokens = test.tokens;
    result->test_bytes = test.bytes;
    result->test_documents = test.documents;
}

static void send_model(struct run *r)
{
    size_t size;
    void *file = r->e->block = model_export(trainer_model(r->trainer), &size);

    if (!file)
        engine_fail(r->e, "memory", "no memory for the weights of %" PRId64 " parameters",
                    tlaw_spec_params(&r->spec));
    engine_send_checkpoint(r->e, "model", trainer_best_step(r->trainer), file, size);
    free_block(r->e);
}

/* Scores the kept weights on the test documents, and sends everything that remains of the run. */
static void finish(struct run *r)
{
    const struct tlaw_spec *s = &r->spec;
    const struct tail *t = &r->tail;
    struct tlaw_result_message result = {.best_step = trainer_best_step(r->trainer),
                                         .thread_flops = r->thread_flops};
    double begin = engine_now();

    r->phase = "test";
    trainer_use_best(r->trainer);
    score_test(r, &result);
    result.train_loss = t->final_loss / (double) t->final_steps;
    trainer_subset(r->trainer, &result.train_bytes, &result.train_documents);
    result.train_seconds = t->train_seconds;
    result.eval_seconds = t->eval_seconds + (engine_now() - begin);
    result.tokens_per_second = (double) (s->steps * s->batch_size * s->context_length) / t->train_seconds;
    result.mfu = tlaw_spec_flops(s) / t->attainable_flops;
    if (strcmp(s->checkpoint, "none") != 0)
        send_model(r);
    result.peak_memory = peak_memory();
    engine_send(r->e, TLAW_RESULT, &result);
}

static void limit_memory(struct engine *e, const struct tlaw_spec *spec, int64_t limit)
{
    int64_t needed = tlaw_spec_memory(spec);
    struct rlimit data = {(rlim_t) limit, (rlim_t) limit};

    engine_check_range(e, "memory_limit", (double) limit, 0, 1e15);
    if (limit == 0)
        return;
    if (needed > limit)
        engine_fail(e, "memory", "the run needs %" PRId64 " MB, its limit is %" PRId64 " MB", needed >> 20,
                    limit >> 20);
    if (strcmp(spec->device, "cpu") == 0 && setrlimit(RLIMIT_DATA, &data))
        engine_fail(e, "internal", "cannot set RLIMIT_DATA to %" PRId64 ": %s", limit, strerror(errno));
}

/* What does not fit beside what the GPU holds already is refused before anything is computed. */
static void check_gpu_memory(struct engine *e, const struct tlaw_spec *spec)
{
    int64_t needed = tlaw_spec_memory(spec), left;

    if (strncmp(spec->device, "cuda:", 5) != 0)
        return;
    left = backend_gpu_memory(spec->device);
    if (needed > left)
        engine_fail(e, "memory", "the run needs %" PRId64 " MB on %s, where %" PRId64 " MB are free",
                    needed >> 20, spec->device, left >> 20);
}

void job_train(struct engine *e, const union tlaw_any_message *request)
{
    const struct tlaw_train_message *m = &request->train;
    struct run r = {.e = e,
                    .spec = m->spec,
                    .thread_flops = m->thread_flops,
                    .phase = "train",
                    .loss = NAN,
                    .autogroup = -1,
                    .checkpoint_seconds = m->checkpoint_seconds};
    char message[TLAW_TEXT_SIZE];

    if (!m->spec.isa[0])
        engine_fail(e, "input", "the specification lacks isa");
    if (e->serves && strcmp(m->spec.device, e->serves) != 0)
        engine_fail(e, "input", "device = \"%s\" is not accepted: this engine serves %s", m->spec.device,
                    e->serves);
    engine_check_range(e, "checkpoint_seconds", m->checkpoint_seconds, 0, INFINITY);
    engine_check_range(e, "thread_flops", m->thread_flops, 0, 1e18);
    engine_open_corpus(e, &m->spec);
    engine_check_spec(e, &m->spec, e->corpus.header->tokens[PART_TRAIN],
                      e->corpus.header->tokens[PART_VALIDATION]);
    if (e->corpus.header->documents[PART_TEST] == 0)
        engine_fail(e, "input", "the corpus has no test documents");
    limit_memory(e, &m->spec, m->memory_limit);
    if (m->resume_bytes != 0)
        e->block = engine_receive_chunks(e, m->resume_bytes, "resume_bytes");
    if (!e->serves)
        yield_processors(&r);
    engine_open_device(e, &m->spec, m->threads);
    check_gpu_memory(e, &m->spec);
    if (r.thread_flops == 0)
        r.thread_flops = engine_matrix_flops(e, PROBE_SECONDS) / e->threads;
    errno = 0;
    r.trainer = e->trainer =
        trainer_create(&m->spec, &e->corpus, e->backend, e->device, message, sizeof message);
    if (!r.trainer)
        engine_fail_call(e, "input", message);
    if (m->resume_bytes != 0)
        load_state(&r, m->resume_bytes);
    train(&r);
    finish(&r);
}
