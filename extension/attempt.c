/*
 * One attempt at one run: an engine trains it, and what the engine reports becomes rows.
 *
 * Invariants:
 * 1. A report is written only while the row still says running, attempt k; else the run was lost and is left
 * alone.
 * 2. Training happens in no transaction; every transaction is short.
 * 3. Losses are written before the checkpoint that makes them part of the past; a resumed run reports the
 * later ones again, with the same bits.
 * 4. An engine of one run is stopped and waited for before the run has its next state.  One that serves many
 * is told to let go of the run, and nothing that it still says of it is read.
 * 5. Nothing of one attempt ends another that the same engine serves, but the death of that engine.
 *
 * Ends of an engine: RESULT and DONE: done.  An ERROR message (diverged, memory, input) or an error of the
 * worker's own: failed, with its text.  Death: queued again, and to be served alone from then on; failed when
 * tlaw.max_attempts engines died that served only this run, without a new checkpoint in between.
 */
#include "attempt.h"
#include "../kernels/engine/machine.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "checkpoint.h"
#include "engine_client.h"
#include "pgstat.h"
#include "queue.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define BEAT_MS    1000 /* between two looks at the row: progress out, cancel in */
#define SHARE_MS   100  /* between two looks at who else is training */
#define LOSS_BATCH 64

enum outcome {
    OUTCOME_NONE,
    OUTCOME_DONE,
    OUTCOME_CANCELLED,
    OUTCOME_FAILED,
    OUTCOME_DIED,
    OUTCOME_RESTART,
    OUTCOME_PUT_BACK,
    OUTCOME_LOST
};

/* An attempt that is made; it and what it allocates is in claim.context. */
struct work {
    struct attempt claim;
    int64 start_step, checkpoint_step;

    struct engine *engine;    /* where the run has an engine, or a channel into one, of its own */
    struct engine **host;     /* where an engine that serves many is kept; NULL: the run has an engine */
    int threads;              /* that the engine was told */
    TimestampTz beat, looked; /* when it beat, and looked at who else is training */
    struct tlaw_progress_message progress;
    bool progressed;
    struct tlaw_loss_message losses[LOSS_BATCH];
    int loss_count;
    struct tlaw_result_message result;
    bool has_result;
    Datum *document_loss, *document_tokens, *document_bytes; /* of document_count */
    int document_count, document_capacity;
    char *reason; /* of OUTCOME_CANCELLED, OUTCOME_FAILED and OUTCOME_DIED */
    bool ended;   /* the run has its next state */
    bool shared;  /* the engine has served others, too */
};

bool attempt_interrupted;

/* What an engine of this worker measured of a CPU's product: told to the next ones, which need not again. */
static struct {
    char isa[TLAW_NAME_SIZE], precision[TLAW_NAME_SIZE];
    double thread_flops; /* 0: nothing yet */
} measured;

/* A stage of the run for a server's log at DEBUG1, by which regress/bench/study.py says where time goes. */
static void log_stage(const struct work *work, const char *stage)
{
    ereport(DEBUG1, (errmsg_internal("run " INT64_FORMAT ": %s", work->claim.run_id, stage)));
}

/* The next state of a run that has ended; false when it was not ours any more.  Between begin and commit. */
bool attempt_end(const struct attempt *attempt, const char *status, const char *error)
{
    Oid types[] = {INT8OID, INT4OID, TEXTOID, TEXTOID};
    Datum values[] = {Int64GetDatum(attempt->run_id), Int32GetDatum(attempt->number),
                      CStringGetTextDatum(status), error ? CStringGetTextDatum(error) : 0};

    return tlaw_execute(SPI_OK_SELECT,
                        "WITH ended AS (UPDATE @.tlaw_run SET status = $3, error = coalesce($4, error),"
                        " finished_at = clock_timestamp()"
                        " WHERE run_id = $1 AND attempt = $2 AND status = 'running' RETURNING run_id)"
                        " SELECT pg_notify('tlaw', run_id || ' ' || $3) FROM ended",
                        4, types, values, error ? "    " : "   n") > 0;
}

void attempt_requeue(int64 run_id, int32 number, const char *error)
{
    Oid types[] = {INT8OID, INT4OID, TEXTOID};
    Datum values[] = {Int64GetDatum(run_id), Int32GetDatum(number), error ? CStringGetTextDatum(error) : 0};

    tlaw_execute(SPI_OK_SELECT,
                 "WITH found AS (UPDATE @.tlaw_run"
                 " SET status = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END,"
                 " finished_at = CASE WHEN cancel_requested THEN clock_timestamp() END,"
                 " error = coalesce($3, error)"
                 " WHERE run_id = $1 AND attempt = $2 AND status = 'running' RETURNING run_id, status)"
                 " SELECT pg_notify('tlaw', run_id || ' cancelled') FROM found WHERE status = 'cancelled'",
                 3, types, values, error ? "   " : "  n");
}

/* ---- reports ---- */

/* A number for a statement: NaN is NULL. */
static void nullable(Datum *value, char *null, double number)
{
    *value = Float8GetDatum(number);
    *null = isnan(number) ? 'n' : ' ';
}

/* Whether the row is still ours, and whether its owner wants it cancelled.  Between begin and commit. */
static bool holds_run(struct work *work, bool *cancel)
{
    Oid types[] = {INT8OID, INT4OID};
    Datum values[] = {Int64GetDatum(work->claim.run_id), Int32GetDatum(work->claim.number)};
    bool null;

    if (tlaw_execute(SPI_OK_SELECT,
                     "SELECT cancel_requested FROM @.tlaw_run"
                     " WHERE run_id = $1 AND attempt = $2 AND status = 'running'",
                     2, types, values, NULL) == 0)
        return false;
    *cancel = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    return true;
}

static void write_losses(struct work *work)
{
    Oid types[] = {INT8OID, INT4OID, INT8OID, INT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID};
    int i;

    for (i = 0; i < work->loss_count; i++) {
        const struct tlaw_loss_message *loss = &work->losses[i];
        Datum values[9] = {Int64GetDatum(work->claim.run_id), Int32GetDatum(work->claim.number),
                           Int64GetDatum(loss->step), Int64GetDatum(loss->tokens_seen)};
        char nulls[] = "         ";

        nullable(&values[4], &nulls[4], loss->train_loss);
        nullable(&values[5], &nulls[5], loss->val_loss);
        nullable(&values[6], &nulls[6], loss->learning_rate);
        nullable(&values[7], &nulls[7], loss->grad_norm);
        nullable(&values[8], &nulls[8], loss->seconds);
        tlaw_execute(
            SPI_OK_INSERT,
            "INSERT INTO @.tlaw_run_loss (run_id, step, tokens_seen, train_loss, val_loss, learning_rate,"
            " grad_norm, seconds)"
            " SELECT run_id, $3, $4, $5, $6, $7, $8, $9 FROM @.tlaw_run"
            " WHERE run_id = $1 AND attempt = $2 AND status = 'running'"
            " ON CONFLICT (run_id, step) DO UPDATE SET tokens_seen = $4, train_loss = $5, val_loss = $6,"
            " learning_rate = $7, grad_norm = $8, seconds = $9",
            lengthof(types), types, values, nulls);
    }
    work->loss_count = 0;
}

static void write_progress(struct work *work)
{
    const struct tlaw_progress_message *p = &work->progress;
    Oid types[] = {INT8OID, TEXTOID, INT8OID, INT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID, INT4OID, INT4OID};
    Datum values[9] = {Int64GetDatum(work->claim.run_id), CStringGetTextDatum(p->phase),
                       Int64GetDatum(p->step), Int64GetDatum(p->total)};
    char nulls[] = "         ";
    char activity[160];

    if (!work->progressed)
        return;
    nullable(&values[4], &nulls[4], p->loss);
    nullable(&values[5], &nulls[5], p->tokens_per_second);
    nullable(&values[6], &nulls[6], p->seconds_left);
    values[7] = Int32GetDatum(work->threads);
    values[8] = Int32GetDatum((int32) engine_pid(work->engine));
    tlaw_execute(
        SPI_OK_UPDATE,
        "UPDATE @.tlaw_run_progress SET phase = $2, step = $3, total = $4, loss = $5,"
        " tokens_per_second = $6, seconds_left = $7, threads = $8, engine_pid = $9, updated_at = now()"
        " WHERE run_id = $1",
        lengthof(types), types, values, nulls);
    work->progressed = false;
    snprintf(activity, sizeof(activity),
             "tlaw: run " INT64_FORMAT ", step " INT64_FORMAT " of " INT64_FORMAT ", loss %.4f",
             work->claim.run_id, (int64) p->step, (int64) p->total, p->loss);
    pgstat_report_activity(STATE_RUNNING, activity);
}

/* An equal share of the CPUs, and not more than the run and the setting allow; a GPU needs one. */
static int thread_share(struct work *work)
{
    int most = work->claim.wanted_threads > 0 ? Min(work->claim.wanted_threads, tlaw_threads) : tlaw_threads;

    if (work->host != NULL)
        return 1;
    return Max(1, Min(most, tlaw_usable_cpus() / Max(queue_slots_held(InvalidOid), 1)));
}

/* Whenever others have come or gone: the run's share of the CPUs, from its next step on. */
static void share_cpus(struct work *work)
{
    struct tlaw_threads_message message = {.threads = thread_share(work)};

    work->looked = GetCurrentTimestamp();
    if (message.threads == work->threads)
        return;
    work->threads = message.threads;
    engine_send(work->engine, TLAW_THREADS, &message);
}

/* Once a second: losses and progress out, cancel in. */
static enum outcome beat(struct work *work)
{
    struct tlaw_session session;
    bool cancel = false;
    bool ours;

    worker_serve_reload();
    worker_begin(&session);
    ours = holds_run(work, &cancel);
    if (ours) {
        write_losses(work);
        write_progress(work);
    }
    worker_commit_soon(&session);
    work->beat = GetCurrentTimestamp();
    if (!ours)
        return OUTCOME_LOST;
    return cancel ? OUTCOME_CANCELLED : OUTCOME_NONE;
}

/* Stores a checkpoint as it comes in, in one transaction. */
static enum outcome store_checkpoint(struct work *work, const struct tlaw_checkpoint_message *announced)
{
    bool resume = strcmp(announced->kind, "resume") == 0;
    struct checkpoint_writer *writer;
    struct tlaw_session session;
    int64 step = announced->step;
    bool cancel, complete = false, died = false;

    worker_begin(&session);
    if (!holds_run(work, &cancel)) {
        worker_commit(&session);
        return OUTCOME_LOST;
    }
    write_losses(work);
    writer = checkpoint_begin(work->claim.run_id, announced);
    while (!complete) {
        const void *message;
        enum tlaw_message type = engine_receive(work->engine, -1, &message, &died);

        if (died) {
            AbortOutOfAnyTransaction();
            MemoryContextSwitchTo(work->claim.context);
            return OUTCOME_DIED;
        }
        if (type == TLAW_CHUNK)
            complete = checkpoint_add(writer, &((const struct tlaw_chunk_message *) message)->data);
        else if (type == TLAW_ERROR)
            engine_raise(message);
        else if (type != TLAW_NO_MESSAGE)
            ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                            errmsg("the engine sent a message of type %s inside a checkpoint",
                                   tlaw_wire_name(type))));
    }
    checkpoint_finish(writer);
    worker_commit(&session);
    if (resume)
        work->checkpoint_step = step;
    return OUTCOME_NONE;
}

/* ---- the end of a run ---- */

static void keep_document_losses(struct work *work, const struct tlaw_blob *records)
{
    struct {
        int64 document, tokens, bytes;
        double loss_sum;
    } record;
    size_t at;

    for (at = 0; at + sizeof(record) <= records->size; at += sizeof(record)) {
        if (work->document_count == work->document_capacity) {
            int capacity = Max(work->document_capacity * 2, 1024);
            size_t size = capacity * sizeof(Datum);

            if (work->document_capacity == 0) {
                work->document_loss = MemoryContextAlloc(work->claim.context, size);
                work->document_tokens = MemoryContextAlloc(work->claim.context, size);
                work->document_bytes = MemoryContextAlloc(work->claim.context, size);
            } else {
                work->document_loss = repalloc_huge(work->document_loss, size);
                work->document_tokens = repalloc_huge(work->document_tokens, size);
                work->document_bytes = repalloc_huge(work->document_bytes, size);
            }
            work->document_capacity = capacity;
        }
        memcpy(&record, (const char *) records->data + at, sizeof(record));
        work->document_loss[work->document_count] = Float8GetDatum(record.loss_sum);
        work->document_tokens[work->document_count] = Int64GetDatum(record.tokens);
        work->document_bytes[work->document_count++] = Int64GetDatum(record.bytes);
    }
}

static Datum array_of(struct work *work, Datum *elements, Oid type)
{
    return PointerGetDatum(construct_array(elements, work->document_count, type, sizeof(int64),
                                           FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static void write_document_losses(struct work *work)
{
    Oid types[] = {INT8OID, FLOAT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID};
    Datum values[] = {Int64GetDatum(work->claim.run_id), array_of(work, work->document_loss, FLOAT8OID),
                      array_of(work, work->document_tokens, INT8OID),
                      array_of(work, work->document_bytes, INT8OID)};

    tlaw_execute(
        SPI_OK_INSERT,
        "INSERT INTO @.tlaw_run_document_loss (run_id, loss_sum, tokens, bytes) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (run_id) DO UPDATE SET loss_sum = $2, tokens = $3, bytes = $4",
        4, types, values, NULL);
}

/* Results into the row; the scores of the validation are of the loss rows that are there by now. */
static void write_result(struct work *work)
{
    const struct tlaw_result_message *r = &work->result;
    static const char *const numbers[] = {
        "train_loss",        "test_loss",     "test_loss_se", "bits_per_byte",
        "tokens_per_second", "train_seconds", "eval_seconds", "mfu"};
    const double number_values[] = {r->train_loss,        r->test_loss,     r->test_loss_se, r->bits_per_byte,
                                    r->tokens_per_second, r->train_seconds, r->eval_seconds, r->mfu};
    static const char *const counts[] = {"best_step",   "test_tokens",     "test_bytes",
                                         "train_bytes", "train_documents", "peak_memory"};
    const int64 count_values[] = {r->best_step,   r->test_tokens,     r->test_bytes,
                                  r->train_bytes, r->train_documents, r->peak_memory};
    Oid types[2 + lengthof(numbers) + lengthof(counts)] = {INT8OID, INT4OID};
    Datum values[lengthof(types)] = {Int64GetDatum(work->claim.run_id), Int32GetDatum(work->claim.number)};
    char nulls[lengthof(types) + 1];
    StringInfoData sql;
    int n = 2;
    int i;

    memset(nulls, ' ', sizeof(nulls));
    initStringInfo(&sql);
    appendStringInfoString(&sql, "UPDATE @.tlaw_run SET ");
    for (i = 0; i < lengthof(numbers); i++) {
        types[n] = FLOAT8OID;
        nullable(&values[n], &nulls[n], number_values[i]);
        appendStringInfo(&sql, "%s = $%d, ", numbers[i], ++n);
    }
    for (i = 0; i < lengthof(counts); i++) {
        types[n] = INT8OID;
        values[n] = Int64GetDatum(count_values[i]);
        appendStringInfo(&sql, "%s = $%d, ", counts[i], ++n);
    }
    appendStringInfoString(
        &sql,
        "val_loss = (SELECT avg(val_loss) FROM (SELECT val_loss FROM @.tlaw_run_loss WHERE run_id = $1"
        " AND val_loss IS NOT NULL ORDER BY val_loss LIMIT 5) AS lowest),"
        " val_loss_min = (SELECT min(val_loss) FROM @.tlaw_run_loss WHERE run_id = $1),"
        " val_loss_last = (SELECT val_loss FROM @.tlaw_run_loss WHERE run_id = $1 AND val_loss IS NOT NULL"
        " ORDER BY step DESC LIMIT 1)"
        " WHERE run_id = $1 AND attempt = $2 AND status = 'running'");
    tlaw_execute(SPI_OK_UPDATE, sql.data, n, types, values, nulls);
}

/* Everything of the engine's last words at once: results, document losses, done; the optimiser's state goes.
 */
static enum outcome finish(struct work *work)
{
    struct tlaw_session session;
    bool cancel, ours;

    if (!work->has_result)
        ereport(ERROR,
                (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("the engine ended a run without a result")));
    worker_begin(&session);
    ours = holds_run(work, &cancel);
    if (ours) {
        write_losses(work);
        write_progress(work);
        write_result(work);
        write_document_losses(work);
        checkpoint_drop(work->claim.run_id, "resume");
        attempt_end(&work->claim, "done", NULL);
    }
    worker_commit(&session);
    return ours ? OUTCOME_DONE : OUTCOME_LOST;
}

/*
 * An engine died: back into the queue, or the end of it.  Of an engine that served several nobody knows which
 * run was to blame: none is charged, and each is served alone from then on.
 */
static void settle_death(struct work *work)
{
    bool progressed = work->checkpoint_step > work->start_step;
    bool charged = !progressed && !work->shared;
    int failures = progressed ? 0 : work->claim.failures + (charged ? 1 : 0);
    bool failed = charged && failures >= tlaw_max_attempts;
    char *error = psprintf("attempt %d: %s", work->claim.number, work->reason);
    Oid types[] = {INT8OID, INT4OID, INT4OID};
    Datum values[] = {Int64GetDatum(work->claim.run_id), Int32GetDatum(work->claim.number),
                      Int32GetDatum(failures)};

    tlaw_execute(SPI_OK_UPDATE,
                 "UPDATE @.tlaw_run SET failures = $3, alone = true"
                 " WHERE run_id = $1 AND attempt = $2 AND status = 'running'",
                 3, types, values, NULL);
    if (failed)
        attempt_end(&work->claim, "failed", error);
    else
        attempt_requeue(work->claim.run_id, work->claim.number, error);
    ereport(LOG, (errmsg("run " INT64_FORMAT " %s, %s", work->claim.run_id,
                         failed ? "failed" : "is queued again", error)));
}

static void settle(struct work *work, enum outcome outcome)
{
    struct tlaw_session session;

    worker_begin(&session);
    if (outcome == OUTCOME_CANCELLED)
        attempt_end(&work->claim, "cancelled", work->reason);
    else if (outcome == OUTCOME_FAILED)
        attempt_end(&work->claim, "failed", work->reason);
    else if (outcome == OUTCOME_DIED)
        settle_death(work);
    else if (outcome == OUTCOME_RESTART) {
        ereport(WARNING,
                (errmsg("the checkpoint of run " INT64_FORMAT " cannot be used, it starts from scratch: %s",
                        work->claim.run_id, work->reason)));
        checkpoint_drop(work->claim.run_id, "resume");
    }
    if (outcome == OUTCOME_RESTART || outcome == OUTCOME_PUT_BACK)
        attempt_requeue(work->claim.run_id, work->claim.number, NULL);
    worker_commit(&session);
}

/* ---- a run ---- */

/* Memory of the host that the engine is held to; 0: a GPU's, which refuses what does not fit on its device.
 */
static int64 host_memory(const struct work *work)
{
    return strcmp(work->claim.spec.device, "cpu") == 0 ? (int64) tlaw_max_run_memory << 20 : 0;
}

/* An engine of its own, or a channel into the one that serves many. */
static struct engine *open_engine(struct work *work, int tokens_fd)
{
    if (work->host == NULL)
        return engine_start(tokens_fd, -1, host_memory(work));
    return engine_open_run(*work->host, tokens_fd);
}

/* Starts the engine that serves many, where there is none yet. */
static void start_host(struct work *work)
{
    struct tlaw_serve_message serve;

    if (work->host == NULL || *work->host != NULL)
        return;
    *work->host = engine_start(-1, -1, 0);
    memset(&serve, 0, sizeof(serve));
    strlcpy(serve.device, work->claim.spec.device, sizeof(serve.device));
    engine_send(*work->host, TLAW_SERVE, &serve);
}

/* FLOP/s of a thread if an engine of this worker has measured them; an engine that serves many keeps its own.
 */
static double known_flops(const struct work *work)
{
    const struct tlaw_spec *spec = &work->claim.spec;
    bool known = work->host == NULL && strcmp(measured.isa, spec->isa) == 0 &&
                 strcmp(measured.precision, spec->precision) == 0;

    return known ? measured.thread_flops : 0;
}

static void keep_flops(const struct work *work)
{
    const struct tlaw_spec *spec = &work->claim.spec;

    if (work->host != NULL)
        return;
    strlcpy(measured.isa, spec->isa, sizeof(measured.isa));
    strlcpy(measured.precision, spec->precision, sizeof(measured.precision));
    measured.thread_flops = work->result.thread_flops;
}

/* Begins to train, from the stored checkpoint where there is a sound one. */
static enum outcome start(struct work *work)
{
    struct tlaw_train_message train;
    struct tlaw_session session;
    int64 bytes = 0;
    int tokens_fd;

    start_host(work);
    worker_begin(&session);
    if (checkpoint_find(work->claim.run_id, "resume", &work->start_step, &bytes) &&
        !checkpoint_intact(work->claim.run_id, "resume")) {
        ereport(WARNING, (errmsg("the checkpoint of run " INT64_FORMAT " is damaged; it starts from scratch",
                                 work->claim.run_id)));
        checkpoint_drop(work->claim.run_id, "resume");
        work->start_step = bytes = 0;
    }
    work->checkpoint_step = work->start_step;
    work->threads = thread_share(work);
    tokens_fd = corpus_token_file(work->claim.corpus);
    worker_commit(&session);

    work->engine = open_engine(work, tokens_fd);
    memset(&train, 0, sizeof(train));
    train.spec = work->claim.spec;
    train.run_id = work->claim.run_id;
    train.threads = work->threads;
    train.memory_limit = host_memory(work);
    train.checkpoint_seconds = tlaw_checkpoint_seconds;
    train.resume_bytes = bytes;
    train.thread_flops = known_flops(work);
    engine_send(work->engine, TLAW_TRAIN, &train);
    if (bytes > 0) {
        worker_begin(&session);
        checkpoint_send(work->engine, work->claim.run_id, "resume");
        worker_commit(&session);
    }
    work->beat = GetCurrentTimestamp();
    log_stage(work, "engine started");
    return OUTCOME_NONE;
}

/*
 * The engine gave up: raises its reason, after the losses up to there.  A checkpoint that it refused is
 * dropped; for a run that found too little memory beside others it is as if the engine had died.
 */
static enum outcome take_error(struct work *work, const struct tlaw_error_message *message)
{
    struct tlaw_error_message error = *message;
    enum outcome outcome = beat(work);
    bool crowded = strcmp(error.code, "memory") == 0 && engine_runs(work->engine) > 1;

    if (outcome != OUTCOME_NONE)
        return outcome;
    if (!crowded && (strcmp(error.code, "checkpoint") != 0 || work->start_step == 0))
        engine_raise(&error);
    work->reason = pstrdup(error.message);
    return crowded ? OUTCOME_DIED : OUTCOME_RESTART;
}

/* One message of the engine; OUTCOME_NONE: go on. */
static enum outcome take_message(struct work *work, enum tlaw_message type, const void *message)
{
    switch (type) {
    case TLAW_PROGRESS:
        work->progress = *(const struct tlaw_progress_message *) message;
        work->progressed = true;
        return OUTCOME_NONE;
    case TLAW_LOSS:
        if (((const struct tlaw_loss_message *) message)->step == 0)
            log_stage(work, "first loss");
        work->losses[work->loss_count++] = *(const struct tlaw_loss_message *) message;
        return work->loss_count < LOSS_BATCH ? OUTCOME_NONE : beat(work);
    case TLAW_CHECKPOINT:
        return store_checkpoint(work, message);
    case TLAW_DOCUMENT_LOSSES:
        keep_document_losses(work, &((const struct tlaw_document_losses_message *) message)->records);
        return OUTCOME_NONE;
    case TLAW_RESULT:
        work->result = *(const struct tlaw_result_message *) message;
        work->has_result = true;
        keep_flops(work);
        log_stage(work, "result");
        return OUTCOME_NONE;
    case TLAW_DONE:
        return finish(work);
    case TLAW_ERROR:
        return take_error(work, message);
    default:
        engine_unexpected(type);
    }
    return OUTCOME_NONE;
}

/* Takes what has come, and beats when it is time. */
static enum outcome turn(struct work *work)
{
    enum outcome outcome = OUTCOME_NONE;
    const void *message;
    enum tlaw_message type;
    bool died = false;

    while (outcome == OUTCOME_NONE &&
           (type = engine_receive(work->engine, 0, &message, &died)) != TLAW_NO_MESSAGE)
        outcome = take_message(work, type, message);
    if (died)
        outcome = OUTCOME_DIED;
    if (outcome == OUTCOME_DIED && work->reason == NULL)
        work->reason = engine_death(work->engine);
    if (outcome == OUTCOME_NONE && TimestampDifferenceExceeds(work->beat, GetCurrentTimestamp(), BEAT_MS))
        outcome = beat(work);
    if (outcome == OUTCOME_NONE && TimestampDifferenceExceeds(work->looked, GetCurrentTimestamp(), SHARE_MS))
        share_cpus(work);
    return outcome;
}

/* An error of the worker's own, or the engine's ERROR message, ends the run with its text. */
static enum outcome catch_error(struct work *work)
{
    ErrorData *error;

    MemoryContextSwitchTo(work->claim.context);
    error = CopyErrorData();
    FlushErrorState();
    AbortOutOfAnyTransaction();
    MemoryContextSwitchTo(work->claim.context);
    work->reason = error->detail ? psprintf("%s: %s", error->message, error->detail) : error->message;
    ereport(LOG, (errmsg("run " INT64_FORMAT " ended: %s", work->claim.run_id, work->reason)));
    attempt_interrupted = attempt_interrupted || error->sqlerrcode == ERRCODE_QUERY_CANCELED;
    return error->sqlerrcode == ERRCODE_QUERY_CANCELED ? OUTCOME_CANCELLED : OUTCOME_FAILED;
}

/* The next state of a run whose engine is stopped, or was told to let go of it. */
static void conclude(struct work *work, enum outcome outcome)
{
    work->shared = work->engine != NULL && engine_runs(work->engine) > 1;
    if (work->host == NULL) {
        engine_stop(work->engine);
        work->engine = NULL;
    } else if (work->engine != NULL)
        engine_leave(work->engine);
    if (outcome != OUTCOME_DONE && outcome != OUTCOME_LOST)
        settle(work, outcome);
    queue_release_run(work->claim.run_id);
    work->ended = true;
    log_stage(work, "ended");
}

/* One step of the attempt, whose errors are the run's. */
static void take_step(struct work *work, enum outcome (*step)(struct work *))
{
    volatile enum outcome outcome = OUTCOME_FAILED;

    MemoryContextSwitchTo(work->claim.context);
    PG_TRY();
    {
        outcome = step(work);
    }
    PG_CATCH();
    {
        outcome = catch_error(work);
    }
    PG_END_TRY();
    if (outcome != OUTCOME_NONE)
        conclude(work, outcome);
}

struct work *attempt_begin(const struct attempt *attempt, struct engine **host)
{
    struct work *work = MemoryContextAllocZero(attempt->context, sizeof(*work));

    work->claim = *attempt;
    work->host = host;
    take_step(work, start);
    return work;
}

void attempt_turn(struct work *work)
{
    take_step(work, turn);
}

void attempt_cancel(struct work *work, const char *reason)
{
    work->reason = MemoryContextStrdup(work->claim.context, reason);
    conclude(work, OUTCOME_CANCELLED);
}

void attempt_put_back(struct work *work)
{
    conclude(work, OUTCOME_PUT_BACK);
}

bool attempt_ended(const struct work *work)
{
    return work->ended;
}

int attempt_socket(const struct work *work)
{
    return work->engine ? engine_socket(work->engine) : -1;
}

bool attempt_left(struct work *work)
{
    return work->ended && (work->engine == NULL || engine_left(work->engine));
}

void attempt_free(struct work *work)
{
    engine_stop(work->engine);
    MemoryContextSwitchTo(TopMemoryContext);
    MemoryContextDelete(work->claim.context);
}
