/*
 * The worker: a background process that claims queued runs one after the other, has an engine train each, and
 * turns what the engine reports into rows.
 *
 * Invariants:
 * 1. A run's liveness lock is taken before "running, attempt k" is committed and held until its next state
 * is; who finds a running row whose lock is free (requeue_dead) puts it back into the queue.
 * 2. A report is written only while the row still says running, attempt k; else the run was lost and is left
 * alone.
 * 3. Training happens in no transaction; every transaction is short, and starts with a look whether the
 * extension is still the one that the worker started with: if not, the worker ends quietly.
 * 4. Losses are written before the checkpoint that makes them part of the past; a resumed run reports the
 * later ones again, with the same bits.
 * 5. The engine is stopped and waited for before the slot is given back, however the worker ends.
 *
 * Ends of an engine: RESULT and DONE: done.  An ERROR message (diverged, memory, input) or an error of the
 * worker's own: failed, with its text.  Death: queued again, and failed when tlaw.max_attempts engines died
 * without a new checkpoint in between.
 */
#include "tlaw.h"

#include <math.h>
#include <sched.h>
#include <unistd.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "checkpoint.h"
#include "engine_client.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "queue.h"
#include "run.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define BEAT_MS    1000 /* between two looks at the row: progress out, cancel in */
#define RETRY_MS   100
#define SLOT_MS    500 /* between two attempts to get a slot that other databases hold */
#define LOSS_BATCH 64

PGDLLEXPORT void tlaw_worker_main(Datum argument);

enum outcome {
    OUTCOME_NONE,
    OUTCOME_DONE,
    OUTCOME_CANCELLED,
    OUTCOME_FAILED,
    OUTCOME_DIED,
    OUTCOME_RESTART,
    OUTCOME_LOST
};

/* One attempt at one run. */
struct work {
    MemoryContext context; /* of all below; reset between runs */
    int64 run_id;
    int attempt, failures;
    int wanted_threads; /* 0: tlaw.threads */
    char *corpus;
    struct tlaw_spec spec;
    bool more; /* other runs are queued and slots are free */
    int64 start_step, checkpoint_step;

    struct engine *engine;
    int threads; /* that the engine was told */
    TimestampTz beat;
    struct tlaw_progress_message progress;
    bool progressed;
    struct tlaw_loss_message losses[LOSS_BATCH];
    int loss_count;
    struct tlaw_result_message result;
    bool has_result;
    Datum *document_loss, *document_tokens, *document_bytes; /* of document_count */
    int document_count, document_capacity;
    char *reason; /* of OUTCOME_FAILED and OUTCOME_DIED */
};

static struct work work;

/* ---- transactions ---- */

static void leave(void)
{
    engine_stop(work.engine);
    work.engine = NULL;
    proc_exit(0);
}

static void begin(struct tlaw_session *session)
{
    static Oid installed = InvalidOid;
    Oid extension;

    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    extension = tlaw_extension_oid(true);
    if (OidIsValid(extension)) {
        /* DROP EXTENSION waits for this transaction, or has ended before it */
        LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
        if (tlaw_extension_oid(true) != extension)
            extension = InvalidOid;
    }
    if (!OidIsValid(installed))
        installed = extension;
    if (!OidIsValid(extension) || extension != installed) {
        CommitTransactionCommand();
        leave();
    }
    PushActiveSnapshot(GetTransactionSnapshot()); /* SPI insists on one */
    tlaw_begin(session);
}

static void commit(struct tlaw_session *session)
{
    tlaw_end(session);
    PopActiveSnapshot();
    CommitTransactionCommand();
    pgstat_report_stat(true);
    MemoryContextSwitchTo(work.context);
}

static void nap(long milliseconds)
{
    (void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds,
                     PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
}

static void serve_reload(void)
{
    if (ConfigReloadPending) {
        ConfigReloadPending = false;
        ProcessConfigFile(PGC_SIGHUP);
    }
}

/* One statement whose parameters $1, $2 are this run and attempt; returns the rows it processed. */
static uint64 execute_on_run(int expected, const char *sql)
{
    Oid types[] = {INT8OID, INT4OID};
    Datum values[] = {Int64GetDatum(work.run_id), Int32GetDatum(work.attempt)};

    return tlaw_execute(expected, sql, 2, types, values, NULL);
}

/* Whether runs are queued that this database may start. Between begin and commit. */
static bool queue_has_work(void)
{
    Oid types[] = {INT8OID};
    Datum values[] = {Int64GetDatum(queue_identifier())};

    return tlaw_execute(SPI_OK_SELECT,
                        "SELECT FROM @.tlaw_run WHERE status = 'queued' AND queue_identifier = $1 LIMIT 1", 1,
                        types, values, NULL) > 0;
}

/* ---- claiming ---- */

/* Puts the running rows that nobody works on back into the queue, or ends them where that was asked for. */
static void requeue_dead(void)
{
    Oid types[] = {INT8OID, INT4OID};
    Datum values[] = {Int64GetDatum(queue_identifier()), 0};
    uint64 count = tlaw_execute(SPI_OK_SELECT,
                                "SELECT run_id, attempt FROM @.tlaw_run"
                                " WHERE status = 'running' AND queue_identifier = $1",
                                1, types, values, NULL);
    SPITupleTable *running = SPI_tuptable;
    uint64 i;

    for (i = 0; i < count; i++) {
        bool null;

        values[0] = SPI_getbinval(running->vals[i], running->tupdesc, 1, &null);
        values[1] = SPI_getbinval(running->vals[i], running->tupdesc, 2, &null);
        if (!queue_run_is_idle(DatumGetInt64(values[0])))
            continue;
        tlaw_execute(
            SPI_OK_SELECT,
            "WITH found AS (UPDATE @.tlaw_run"
            " SET status = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END,"
            " finished_at = CASE WHEN cancel_requested THEN now() END"
            " WHERE run_id = $1 AND attempt = $2 AND status = 'running' RETURNING run_id, status)"
            " SELECT pg_notify('tlaw', run_id || ' cancelled') FROM found WHERE status = 'cancelled'",
            2, types, values, NULL);
    }
}

/* Why the run's owner may not use its corpus (any more); NULL when it may. */
static char *refuse_owner(const char *owner, const char *corpus_owner)
{
    Oid role = get_role_oid(owner, true);
    Oid corpus_role = get_role_oid(corpus_owner, true);

    if (!OidIsValid(role))
        return psprintf("the run's owner, role \"%s\", does not exist any more", owner);
    if (superuser_arg(role) || (OidIsValid(corpus_role) && has_privs_of_role(role, corpus_role)))
        return NULL;
    return psprintf("the run's owner, role \"%s\", has no right to corpus \"%s\" any more", owner,
                    work.corpus);
}

/* The next state of a run that has ended; false when it was not ours any more.  Between begin and commit. */
static bool end_run(const char *status, const char *error)
{
    Oid types[] = {INT8OID, INT4OID, TEXTOID, TEXTOID};
    Datum values[] = {Int64GetDatum(work.run_id), Int32GetDatum(work.attempt), CStringGetTextDatum(status),
                      error ? CStringGetTextDatum(error) : 0};

    return tlaw_execute(SPI_OK_SELECT,
                        "WITH ended AS (UPDATE @.tlaw_run SET status = $3, error = coalesce($4, error),"
                        " finished_at = clock_timestamp()"
                        " WHERE run_id = $1 AND attempt = $2 AND status = 'running' RETURNING run_id)"
                        " SELECT pg_notify('tlaw', run_id || ' ' || $3) FROM ended",
                        4, types, values, error ? "    " : "   n") > 0;
}

/* "running, attempt k", with what is known of it so far. */
static void mark_running(void)
{
    Oid types[] = {INT8OID, INT4OID, TEXTOID, INT4OID};
    Datum values[] = {Int64GetDatum(work.run_id), Int32GetDatum(work.attempt),
                      CStringGetTextDatum(TLAW_VERSION), Int32GetDatum(MyProcPid)};
    bool null;

    tlaw_execute(SPI_OK_UPDATE_RETURNING,
                 "UPDATE @.tlaw_run SET status = 'running', attempt = $2,"
                 " started_at = coalesce(started_at, clock_timestamp()), finished_at = NULL,"
                 " code_version = CASE WHEN $3 = ANY (string_to_array(code_version, ', ')) THEN code_version"
                 " ELSE code_version || ', ' || $3 END"
                 " WHERE run_id = $1 RETURNING code_version",
                 3, types, values, NULL);
    if (strcmp(TextDatumGetCString(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null)),
               TLAW_VERSION) != 0)
        ereport(LOG,
                (errmsg("run " INT64_FORMAT " was queued by another version of tlaw and is trained by %s",
                        work.run_id, TLAW_VERSION)));
    tlaw_execute(SPI_OK_INSERT,
                 "INSERT INTO @.tlaw_run_progress (run_id, phase, worker_pid) VALUES ($1, 'start', $4)"
                 " ON CONFLICT (run_id) DO UPDATE SET phase = 'start', worker_pid = $4, engine_pid = NULL,"
                 " tokens_per_second = NULL, seconds_left = NULL, updated_at = now()",
                 4, types, values, NULL);
}

/* The next queued run's row, locked; false when there is none. */
static bool next_queued(char **owner, char **corpus_owner)
{
    Oid types[] = {INT8OID};
    Datum values[] = {Int64GetDatum(queue_identifier())};
    HeapTuple row;
    TupleDesc columns;
    bool null;

    if (tlaw_execute(
            SPI_OK_SELECT,
            "SELECT r.run_id, r.attempt + 1, r.failures, coalesce(r.threads, 0), r.corpus, r.owner, c.owner"
            " FROM @.tlaw_run r JOIN @.tlaw_corpus c USING (corpus)"
            " WHERE r.status = 'queued' AND r.queue_identifier = $1"
            " ORDER BY r.priority DESC, r.flops, r.run_id LIMIT 1 FOR NO KEY UPDATE OF r SKIP LOCKED",
            1, types, values, NULL) == 0)
        return false;
    row = SPI_tuptable->vals[0];
    columns = SPI_tuptable->tupdesc;
    work.run_id = DatumGetInt64(SPI_getbinval(row, columns, 1, &null));
    work.attempt = DatumGetInt32(SPI_getbinval(row, columns, 2, &null));
    work.failures = DatumGetInt32(SPI_getbinval(row, columns, 3, &null));
    work.wanted_threads = DatumGetInt32(SPI_getbinval(row, columns, 4, &null));
    work.corpus = MemoryContextStrdup(work.context, SPI_getvalue(row, columns, 5));
    *owner = SPI_getvalue(row, columns, 6);
    *corpus_owner = SPI_getvalue(row, columns, 7);
    return true;
}

/* One attempt at claiming a run, in one transaction; *again: somebody was about to let go of one. */
static bool claim_once(bool *again)
{
    struct tlaw_session session;
    char *owner, *corpus_owner, *refusal;
    bool claimed;

    begin(&session);
    requeue_dead();
    claimed = next_queued(&owner, &corpus_owner);
    *again = claimed && !queue_hold_run(work.run_id);
    if (!claimed || *again) {
        commit(&session);
        return false;
    }
    mark_running();
    refusal = refuse_owner(owner, corpus_owner);
    if (refusal)
        end_run("failed", refusal);
    else
        run_load_spec(work.run_id, &work.spec);
    work.more = queue_has_work() && queue_slots_held(InvalidOid) < tlaw_max_workers;
    commit(&session);
    if (refusal)
        queue_release_run(work.run_id);
    *again = refusal != NULL;
    return refusal == NULL;
}

static bool claim(void)
{
    MemoryContext context = work.context;
    bool again = false;

    do {
        if (again)
            nap(RETRY_MS);
        serve_reload();
        MemoryContextReset(context);
        memset(&work, 0, sizeof(work));
        work.context = context;
        if (claim_once(&again))
            return true;
    } while (again);
    return false;
}

/* ---- reports ---- */

/* A number for a statement: NaN is NULL. */
static void nullable(Datum *value, char *null, double number)
{
    *value = Float8GetDatum(number);
    *null = isnan(number) ? 'n' : ' ';
}

/* Whether the row is still ours, and whether its owner wants it cancelled.  Between begin and commit. */
static bool holds_run(bool *cancel)
{
    bool null;

    if (execute_on_run(SPI_OK_SELECT, "SELECT cancel_requested FROM @.tlaw_run"
                                      " WHERE run_id = $1 AND attempt = $2 AND status = 'running'") == 0)
        return false;
    *cancel = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    return true;
}

static void write_losses(void)
{
    Oid types[] = {INT8OID, INT4OID, INT8OID, INT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID};
    int i;

    for (i = 0; i < work.loss_count; i++) {
        const struct tlaw_loss_message *loss = &work.losses[i];
        Datum values[9] = {Int64GetDatum(work.run_id), Int32GetDatum(work.attempt), Int64GetDatum(loss->step),
                           Int64GetDatum(loss->tokens_seen)};
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
    work.loss_count = 0;
}

static void write_progress(void)
{
    const struct tlaw_progress_message *p = &work.progress;
    Oid types[] = {INT8OID, TEXTOID, INT8OID, INT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID, INT4OID, INT4OID};
    Datum values[9] = {Int64GetDatum(work.run_id), CStringGetTextDatum(p->phase), Int64GetDatum(p->step),
                       Int64GetDatum(p->total)};
    char nulls[] = "         ";
    char activity[160];

    if (!work.progressed)
        return;
    nullable(&values[4], &nulls[4], p->loss);
    nullable(&values[5], &nulls[5], p->tokens_per_second);
    nullable(&values[6], &nulls[6], p->seconds_left);
    values[7] = Int32GetDatum(work.threads);
    values[8] = Int32GetDatum((int32) engine_pid(work.engine));
    tlaw_execute(
        SPI_OK_UPDATE,
        "UPDATE @.tlaw_run_progress SET phase = $2, step = $3, total = $4, loss = $5,"
        " tokens_per_second = $6, seconds_left = $7, threads = $8, engine_pid = $9, updated_at = now()"
        " WHERE run_id = $1",
        lengthof(types), types, values, nulls);
    work.progressed = false;
    snprintf(activity, sizeof(activity),
             "tlaw: run " INT64_FORMAT ", step " INT64_FORMAT " of " INT64_FORMAT ", loss %.4f", work.run_id,
             (int64) p->step, (int64) p->total, p->loss);
    pgstat_report_activity(STATE_RUNNING, activity);
}

/* CPUs that this process may use. */
static int usable_cpus(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set)
                                                        : (int) sysconf(_SC_NPROCESSORS_ONLN);
}

/* An equal share of the CPUs, and not more than the run and the setting allow. */
static int thread_share(void)
{
    int most = work.wanted_threads > 0 ? Min(work.wanted_threads, tlaw_threads) : tlaw_threads;

    return Max(1, Min(most, usable_cpus() / Max(queue_slots_held(InvalidOid), 1)));
}

/* Once a second: losses and progress out, cancel and share of the CPUs in. */
static enum outcome beat(void)
{
    struct tlaw_session session;
    bool cancel = false;
    bool ours;
    int threads;

    serve_reload();
    begin(&session);
    ours = holds_run(&cancel);
    if (ours) {
        write_losses();
        write_progress();
    }
    threads = thread_share();
    commit(&session);
    work.beat = GetCurrentTimestamp();
    if (!ours)
        return OUTCOME_LOST;
    if (cancel)
        return OUTCOME_CANCELLED;
    if (threads != work.threads) {
        struct tlaw_threads_message message = {.threads = threads};

        work.threads = threads;
        engine_send(work.engine, TLAW_THREADS, &message);
    }
    return OUTCOME_NONE;
}

/* Stores a checkpoint as it comes in, in one transaction. */
static enum outcome store_checkpoint(const struct tlaw_checkpoint_message *announced)
{
    bool resume = strcmp(announced->kind, "resume") == 0;
    struct checkpoint_writer *writer;
    struct tlaw_session session;
    int64 step = announced->step;
    bool cancel, complete = false, died = false;

    begin(&session);
    if (!holds_run(&cancel)) {
        commit(&session);
        return OUTCOME_LOST;
    }
    write_losses();
    writer = checkpoint_begin(work.run_id, announced);
    while (!complete) {
        const void *message;
        enum tlaw_message type = engine_receive(work.engine, -1, &message, &died);

        if (died) {
            AbortOutOfAnyTransaction();
            MemoryContextSwitchTo(work.context);
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
    commit(&session);
    if (resume)
        work.checkpoint_step = step;
    return OUTCOME_NONE;
}

/* ---- the end of a run ---- */

static void keep_document_losses(const struct tlaw_blob *records)
{
    struct {
        int64 document, tokens, bytes;
        double loss_sum;
    } record;
    size_t at;

    for (at = 0; at + sizeof(record) <= records->size; at += sizeof(record)) {
        if (work.document_count == work.document_capacity) {
            int capacity = Max(work.document_capacity * 2, 1024);
            size_t size = capacity * sizeof(Datum);

            if (work.document_capacity == 0) {
                work.document_loss = MemoryContextAlloc(work.context, size);
                work.document_tokens = MemoryContextAlloc(work.context, size);
                work.document_bytes = MemoryContextAlloc(work.context, size);
            } else {
                work.document_loss = repalloc_huge(work.document_loss, size);
                work.document_tokens = repalloc_huge(work.document_tokens, size);
                work.document_bytes = repalloc_huge(work.document_bytes, size);
            }
            work.document_capacity = capacity;
        }
        memcpy(&record, (const char *) records->data + at, sizeof(record));
        work.document_loss[work.document_count] = Float8GetDatum(record.loss_sum);
        work.document_tokens[work.document_count] = Int64GetDatum(record.tokens);
        work.document_bytes[work.document_count++] = Int64GetDatum(record.bytes);
    }
}

static Datum array_of(Datum *elements, Oid type)
{
    return PointerGetDatum(construct_array(elements, work.document_count, type, sizeof(int64),
                                           FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static void write_document_losses(void)
{
    Oid types[] = {INT8OID, FLOAT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID};
    Datum values[] = {Int64GetDatum(work.run_id), array_of(work.document_loss, FLOAT8OID),
                      array_of(work.document_tokens, INT8OID), array_of(work.document_bytes, INT8OID)};

    tlaw_execute(
        SPI_OK_INSERT,
        "INSERT INTO @.tlaw_run_document_loss (run_id, loss_sum, tokens, bytes) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (run_id) DO UPDATE SET loss_sum = $2, tokens = $3, bytes = $4",
        4, types, values, NULL);
}

/* Results into the row; the scores of the validation are of the loss rows that are there by now. */
static void write_result(void)
{
    const struct tlaw_result_message *r = &work.result;
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
    Datum values[lengthof(types)] = {Int64GetDatum(work.run_id), Int32GetDatum(work.attempt)};
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
static enum outcome finish(void)
{
    struct tlaw_session session;
    bool cancel, ours;

    if (!work.has_result)
        ereport(ERROR,
                (errcode(ERRCODE_PROTOCOL_VIOLATION), errmsg("the engine ended a run without a result")));
    begin(&session);
    ours = holds_run(&cancel);
    if (ours) {
        write_losses();
        write_progress();
        write_result();
        write_document_losses();
        checkpoint_drop(work.run_id, "resume");
        end_run("done", NULL);
    }
    commit(&session);
    return ours ? OUTCOME_DONE : OUTCOME_LOST;
}

/* An engine died: back into the queue, or the end of it. */
static void settle_death(void)
{
    bool progressed = work.checkpoint_step > work.start_step;
    int failures = progressed ? 0 : work.failures + 1;
    char *error = psprintf("attempt %d: %s", work.attempt, work.reason);
    Oid types[] = {INT8OID, INT4OID, INT4OID, TEXTOID};
    Datum values[] = {Int64GetDatum(work.run_id), Int32GetDatum(work.attempt), Int32GetDatum(failures),
                      CStringGetTextDatum(error)};

    tlaw_execute(
        SPI_OK_UPDATE,
        "UPDATE @.tlaw_run SET failures = $3 WHERE run_id = $1 AND attempt = $2 AND status = 'running'", 3,
        types, values, NULL);
    if (failures >= tlaw_max_attempts)
        end_run("failed", error);
    else
        tlaw_execute(SPI_OK_UPDATE,
                     "UPDATE @.tlaw_run SET status = 'queued', error = $4"
                     " WHERE run_id = $1 AND attempt = $2 AND status = 'running'",
                     4, types, values, NULL);
    ereport(LOG, (errmsg("run " INT64_FORMAT " %s, %s", work.run_id,
                         failures >= tlaw_max_attempts ? "failed" : "is queued again", error)));
}

static void settle(enum outcome outcome)
{
    struct tlaw_session session;

    begin(&session);
    if (outcome == OUTCOME_CANCELLED)
        end_run("cancelled", work.reason);
    else if (outcome == OUTCOME_FAILED)
        end_run("failed", work.reason);
    else if (outcome == OUTCOME_DIED)
        settle_death();
    else if (outcome == OUTCOME_RESTART) {
        ereport(WARNING,
                (errmsg("the checkpoint of run " INT64_FORMAT " cannot be used, it starts from scratch: %s",
                        work.run_id, work.reason)));
        checkpoint_drop(work.run_id, "resume");
        execute_on_run(SPI_OK_UPDATE, "UPDATE @.tlaw_run SET status = 'queued'"
                                      " WHERE run_id = $1 AND attempt = $2 AND status = 'running'");
    }
    commit(&session);
}

/* ---- a run ---- */

/* Starts the engine, from the stored checkpoint where there is a sound one. */
static void start_engine(void)
{
    struct tlaw_train_message train;
    struct tlaw_session session;
    int64 bytes = 0;
    int tokens_fd;

    begin(&session);
    if (checkpoint_find(work.run_id, "resume", &work.start_step, &bytes) &&
        !checkpoint_intact(work.run_id, "resume")) {
        ereport(WARNING, (errmsg("the checkpoint of run " INT64_FORMAT " is damaged; it starts from scratch",
                                 work.run_id)));
        checkpoint_drop(work.run_id, "resume");
        work.start_step = bytes = 0;
    }
    work.checkpoint_step = work.start_step;
    work.threads = thread_share();
    tokens_fd = corpus_token_file(work.corpus);
    commit(&session);

    work.engine = engine_start(tokens_fd, -1, (int64) tlaw_max_run_memory << 20);
    memset(&train, 0, sizeof(train));
    train.spec = work.spec;
    train.run_id = work.run_id;
    train.threads = work.threads;
    train.memory_limit = (int64) tlaw_max_run_memory << 20;
    train.checkpoint_seconds = tlaw_checkpoint_seconds;
    train.resume_bytes = bytes;
    engine_send(work.engine, TLAW_TRAIN, &train);
    if (bytes > 0) {
        begin(&session);
        checkpoint_send(work.engine, work.run_id, "resume");
        commit(&session);
    }
}

/* One message of the engine; OUTCOME_NONE: go on. */
static enum outcome take_message(enum tlaw_message type, const void *message)
{
    switch (type) {
    case TLAW_NO_MESSAGE:
        return OUTCOME_NONE;
    case TLAW_PROGRESS:
        work.progress = *(const struct tlaw_progress_message *) message;
        work.progressed = true;
        return OUTCOME_NONE;
    case TLAW_LOSS:
        work.losses[work.loss_count++] = *(const struct tlaw_loss_message *) message;
        return work.loss_count < LOSS_BATCH ? OUTCOME_NONE : beat();
    case TLAW_CHECKPOINT:
        return store_checkpoint(message);
    case TLAW_DOCUMENT_LOSSES:
        keep_document_losses(&((const struct tlaw_document_losses_message *) message)->records);
        return OUTCOME_NONE;
    case TLAW_RESULT:
        work.result = *(const struct tlaw_result_message *) message;
        work.has_result = true;
        return OUTCOME_NONE;
    case TLAW_DONE:
        return finish();
    case TLAW_ERROR:
        if (strcmp(((const struct tlaw_error_message *) message)->code, "checkpoint") == 0 &&
            work.start_step > 0) {
            work.reason = pstrdup(((const struct tlaw_error_message *) message)->message);
            return OUTCOME_RESTART;
        }
        engine_raise(message);
    default:
        ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                        errmsg("the engine sent a message of type %s out of turn", tlaw_wire_name(type))));
    }
    return OUTCOME_NONE;
}

static enum outcome train(void)
{
    enum outcome outcome = OUTCOME_NONE;

    start_engine();
    work.beat = GetCurrentTimestamp();
    while (outcome == OUTCOME_NONE) {
        long left = BEAT_MS - TimestampDifferenceMilliseconds(work.beat, GetCurrentTimestamp());
        const void *message;
        enum tlaw_message type;
        bool died = false;

        type = engine_receive(work.engine, Max(left, 0), &message, &died);
        outcome = died ? OUTCOME_DIED : take_message(type, message);
        if (outcome == OUTCOME_NONE && left <= 0)
            outcome = beat();
    }
    if (outcome == OUTCOME_DIED)
        work.reason = engine_death(work.engine);
    return outcome;
}

/* An error of the worker's own, or the engine's ERROR message, ends the run with its text. */
static enum outcome catch_error(void)
{
    ErrorData *error;

    MemoryContextSwitchTo(work.context);
    error = CopyErrorData();
    FlushErrorState();
    AbortOutOfAnyTransaction();
    MemoryContextSwitchTo(work.context);
    work.reason = error->detail ? psprintf("%s: %s", error->message, error->detail) : error->message;
    ereport(LOG, (errmsg("run " INT64_FORMAT " ended: %s", work.run_id, work.reason)));
    return error->sqlerrcode == ERRCODE_QUERY_CANCELED ? OUTCOME_CANCELLED : OUTCOME_FAILED;
}

static void do_run(void)
{
    volatile enum outcome outcome = OUTCOME_FAILED;

    PG_TRY();
    {
        outcome = train();
    }
    PG_CATCH();
    {
        outcome = catch_error();
    }
    PG_END_TRY();
    engine_stop(work.engine);
    work.engine = NULL;
    if (outcome != OUTCOME_DONE && outcome != OUTCOME_LOST)
        settle(outcome);
    queue_release_run(work.run_id);
    pgstat_report_activity(STATE_IDLE, NULL);
}

/* ---- the worker ---- */

/* A slot that is free, or becomes free; -1: nothing to do, or others of this database do it. */
static int take_slot(void)
{
    struct tlaw_session session;
    bool waits;
    int slot;

    begin(&session);
    slot = queue_take_slot();
    waits = slot < 0 && tlaw_max_workers > 0 && queue_has_work() && queue_slots_held(MyDatabaseId) == 0 &&
            queue_take_wait();
    commit(&session);
    while (slot < 0 && waits) {
        nap(SLOT_MS);
        serve_reload();
        begin(&session);
        slot = queue_take_slot();
        if (slot >= 0 || !queue_has_work()) {
            waits = false;
            queue_release_wait();
        }
        commit(&session);
    }
    return slot;
}

/* Gives the slot back, then looks whether something was queued in between. */
static bool release_slot(int slot)
{
    struct tlaw_session session;
    bool more;

    queue_release_slot(slot);
    begin(&session);
    more = queue_has_work();
    commit(&session);
    return more;
}

/* What a database's or a role's settings must not change here. */
static void pin_settings(void)
{
    SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
    SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
    SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
}

void tlaw_worker_main(Datum argument)
{
    int slot;

    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(argument), InvalidOid, 0);
    pin_settings();
    work.context = AllocSetContextCreate(TopMemoryContext, "tlaw run", ALLOCSET_DEFAULT_SIZES);
    pgstat_report_activity(STATE_IDLE, NULL);
    do {
        slot = take_slot();
        if (slot < 0)
            break;
        while (slot < tlaw_max_workers && claim()) {
            if (work.more)
                queue_launch_worker();
            do_run();
        }
    } while (release_slot(slot));
    proc_exit(0);
}
