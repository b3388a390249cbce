/*
 * The worker: a background process that claims queued runs one after the other and makes an attempt at each.
 *
 * Invariants:
 * 1. A run's liveness lock is taken before "running, attempt k" is committed and held until its next state
 * is; who finds a running row whose lock is free (requeue_dead) puts it back into the queue.
 * 2. Every transaction starts with a look whether the extension is still the one that the worker started
 * with: if not, the worker ends quietly.
 * 3. A worker has a slot while it has an engine, however it ends: the engine is stopped and waited for first.
 */
#include "attempt.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
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
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define RETRY_MS 100
#define SLOT_MS  500 /* between two attempts to get a slot that other databases hold */

PGDLLEXPORT void tlaw_worker_main(Datum argument);

static struct attempt claimed; /* the run at hand */

/* ---- transactions ---- */

void worker_begin(struct tlaw_session *session)
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
        proc_exit(0);
    }
    PushActiveSnapshot(GetTransactionSnapshot()); /* SPI insists on one */
    tlaw_begin(session);
}

void worker_commit(struct tlaw_session *session)
{
    tlaw_end(session);
    PopActiveSnapshot();
    CommitTransactionCommand();
    pgstat_report_stat(true);
    MemoryContextSwitchTo(claimed.context);
}

void worker_serve_reload(void)
{
    if (ConfigReloadPending) {
        ConfigReloadPending = false;
        ProcessConfigFile(PGC_SIGHUP);
    }
}

static void nap(long milliseconds)
{
    (void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds,
                     PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
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
                    claimed.corpus);
}

/* "running, attempt k", with what is known of it so far. */
static void mark_running(void)
{
    Oid types[] = {INT8OID, INT4OID, TEXTOID, INT4OID};
    Datum values[] = {Int64GetDatum(claimed.run_id), Int32GetDatum(claimed.number),
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
                        claimed.run_id, TLAW_VERSION)));
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
    claimed.run_id = DatumGetInt64(SPI_getbinval(row, columns, 1, &null));
    claimed.number = DatumGetInt32(SPI_getbinval(row, columns, 2, &null));
    claimed.failures = DatumGetInt32(SPI_getbinval(row, columns, 3, &null));
    claimed.wanted_threads = DatumGetInt32(SPI_getbinval(row, columns, 4, &null));
    claimed.corpus = MemoryContextStrdup(claimed.context, SPI_getvalue(row, columns, 5));
    *owner = SPI_getvalue(row, columns, 6);
    *corpus_owner = SPI_getvalue(row, columns, 7);
    return true;
}

/*
 * One attempt at claiming a run, in one transaction.  *again: somebody was about to let go of one; *more:
 * other runs are queued and slots are free.
 */
static bool claim_once(bool *again, bool *more)
{
    struct tlaw_session session;
    char *owner, *corpus_owner, *refusal;
    bool found;

    worker_begin(&session);
    requeue_dead();
    found = next_queued(&owner, &corpus_owner);
    *again = found && !queue_hold_run(claimed.run_id);
    if (!found || *again) {
        worker_commit(&session);
        return false;
    }
    mark_running();
    refusal = refuse_owner(owner, corpus_owner);
    if (refusal)
        attempt_end(&claimed, "failed", refusal);
    else
        run_load_spec(claimed.run_id, &claimed.spec);
    *more = queue_has_work() && queue_slots_held(InvalidOid) < tlaw_max_workers;
    worker_commit(&session);
    if (refusal)
        queue_release_run(claimed.run_id);
    *again = refusal != NULL;
    return refusal == NULL;
}

/* Claims the next run; false when none is queued. */
static bool claim(bool *more)
{
    MemoryContext context = claimed.context;
    bool again = false;

    do {
        if (again)
            nap(RETRY_MS);
        worker_serve_reload();
        MemoryContextReset(context);
        memset(&claimed, 0, sizeof(claimed));
        claimed.context = context;
        if (claim_once(&again, more))
            return true;
    } while (again);
    return false;
}

/* ---- the worker ---- */

/* A slot that is free, or becomes free; -1: nothing to do, or others of this database do it. */
static int take_slot(void)
{
    struct tlaw_session session;
    bool waits;
    int slot;

    worker_begin(&session);
    slot = queue_take_slot();
    waits = slot < 0 && tlaw_max_workers > 0 && queue_has_work() && queue_slots_held(MyDatabaseId) == 0 &&
            queue_take_wait();
    worker_commit(&session);
    while (slot < 0 && waits) {
        nap(SLOT_MS);
        worker_serve_reload();
        worker_begin(&session);
        slot = queue_take_slot();
        if (slot >= 0 || !queue_has_work()) {
            waits = false;
            queue_release_wait();
        }
        worker_commit(&session);
    }
    return slot;
}

/* Gives the slot back, then looks whether something was queued in between. */
static bool release_slot(int slot)
{
    struct tlaw_session session;
    bool more;

    queue_release_slot(slot);
    worker_begin(&session);
    more = queue_has_work();
    worker_commit(&session);
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
    bool more;

    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(argument), InvalidOid, 0);
    pin_settings();
    claimed.context = AllocSetContextCreate(TopMemoryContext, "tlaw run", ALLOCSET_DEFAULT_SIZES);
    pgstat_report_activity(STATE_IDLE, NULL);
    do {
        slot = take_slot();
        if (slot < 0)
            break;
        while (slot < tlaw_max_workers && claim(&more)) {
            if (more)
                queue_launch_worker();
            attempt_make(&claimed);
            queue_release_run(claimed.run_id);
        }
    } while (release_slot(slot));
    proc_exit(0);
}
