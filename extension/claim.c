/*
 * Claiming: the next queued run becomes "running, attempt k", held by this worker.
 *
 * Invariants:
 * 1. A run's liveness lock is taken before "running, attempt k" is committed and held until its next state
 * is; who finds a running row whose lock is free (requeue_dead) puts it back into the queue.
 * 2. A GPU is held by one worker in the whole cluster; the runs of a GPU that is held are left to who holds
 * it, who looks once more after letting go.
 * 3. Runs are taken in one order: priority, then the cheapest.  An engine that serves many is given the next
 * of its GPU or none, so that a large run, or one that must be alone, waits for room and is not passed by.
 */
#include "attempt.h"

#include "catalog/pg_type.h"
#include "queue.h"
#include "run.h"
#include "utils/acl.h"
#include "utils/memutils.h"

#define RETRY_MS 100

/* Who may use what, of a run that was found. */
struct owners {
    char *run, *corpus;
};

bool claim_is_possible(Oid database)
{
    Oid types[] = {INT8OID, TEXTARRAYOID};
    Datum values[] = {Int64GetDatum(queue_identifier()), queue_devices_held(database)};

    return tlaw_execute(SPI_OK_SELECT,
                        "SELECT FROM @.tlaw_run WHERE status = 'queued' AND queue_identifier = $1"
                        " AND device <> ALL ($2) LIMIT 1",
                        2, types, values, NULL) > 0;
}

/* Puts the running rows that nobody works on back into the queue, or ends them where that was asked for; not
 * those that an open transaction of a user's has locked, so that nobody can keep workers waiting. */
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
        if (queue_holds_run(DatumGetInt64(values[0])) || !queue_run_is_idle(DatumGetInt64(values[0])))
            continue;
        if (tlaw_execute(SPI_OK_SELECT,
                         "SELECT FROM @.tlaw_run WHERE run_id = $1 AND attempt = $2 AND status = 'running'"
                         " FOR NO KEY UPDATE SKIP LOCKED",
                         2, types, values, NULL) > 0)
            attempt_requeue(DatumGetInt64(values[0]), DatumGetInt32(values[1]), NULL);
    }
}

/* Why the run's owner may not use its corpus (any more); NULL when it may. */
static char *refuse_owner(const char *corpus, const char *owner, const char *corpus_owner)
{
    Oid role = get_role_oid(owner, true);
    Oid corpus_role = get_role_oid(corpus_owner, true);

    if (!OidIsValid(role))
        return psprintf("the run's owner, role \"%s\", does not exist any more", owner);
    if (superuser_arg(role) || (OidIsValid(corpus_role) && has_privs_of_role(role, corpus_role)))
        return NULL;
    return psprintf("the run's owner, role \"%s\", has no right to corpus \"%s\" any more", owner, corpus);
}

/* "running, attempt k", with what is known of it so far. */
static void mark_running(const struct attempt *attempt)
{
    Oid types[] = {INT8OID, INT4OID, TEXTOID, INT4OID};
    Datum values[] = {Int64GetDatum(attempt->run_id), Int32GetDatum(attempt->number),
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
                        attempt->run_id, TLAW_VERSION)));
    tlaw_execute(SPI_OK_INSERT,
                 "INSERT INTO @.tlaw_run_progress (run_id, phase, worker_pid) VALUES ($1, 'start', $4)"
                 " ON CONFLICT (run_id) DO UPDATE SET phase = 'start', worker_pid = $4, engine_pid = NULL,"
                 " tokens_per_second = NULL, seconds_left = NULL, updated_at = now()",
                 4, types, values, NULL);
}

/* Fills in the next queued run and locks its row; false when there is none.  device: as for claim_run. */
static bool next_queued(struct attempt *attempt, const char *device, struct owners *owners)
{
    Oid types[] = {INT8OID, TEXTOID, TEXTARRAYOID};
    Datum values[] = {Int64GetDatum(queue_identifier()), device ? CStringGetTextDatum(device) : 0,
                      queue_devices_held(InvalidOid)};
    HeapTuple row;
    TupleDesc columns;
    bool null;

    if (tlaw_execute(
            SPI_OK_SELECT,
            "SELECT r.run_id, r.attempt + 1, r.failures, coalesce(r.threads, 0), r.alone,"
            " coalesce(r.memory, 0), r.corpus, r.owner, c.owner"
            " FROM @.tlaw_run r JOIN @.tlaw_corpus c USING (corpus)"
            " WHERE r.status = 'queued' AND r.queue_identifier = $1"
            " AND CASE WHEN $2 IS NULL THEN r.device <> ALL ($3) ELSE r.device = $2 END"
            " ORDER BY r.priority DESC, r.flops, r.run_id LIMIT 1 FOR NO KEY UPDATE OF r SKIP LOCKED",
            3, types, values, device ? "   " : " n ") == 0)
        return false;
    row = SPI_tuptable->vals[0];
    columns = SPI_tuptable->tupdesc;
    attempt->run_id = DatumGetInt64(SPI_getbinval(row, columns, 1, &null));
    attempt->number = DatumGetInt32(SPI_getbinval(row, columns, 2, &null));
    attempt->failures = DatumGetInt32(SPI_getbinval(row, columns, 3, &null));
    attempt->wanted_threads = DatumGetInt32(SPI_getbinval(row, columns, 4, &null));
    attempt->alone = DatumGetBool(SPI_getbinval(row, columns, 5, &null));
    attempt->memory = DatumGetInt64(SPI_getbinval(row, columns, 6, &null));
    attempt->corpus = MemoryContextStrdup(attempt->context, SPI_getvalue(row, columns, 7));
    owners->run = SPI_getvalue(row, columns, 8);
    owners->corpus = SPI_getvalue(row, columns, 9);
    run_load_spec(attempt->run_id, &attempt->spec);
    return true;
}

static bool is_gpu(const struct attempt *attempt)
{
    return strncmp(attempt->spec.device, "cuda:", 5) == 0;
}

/* The locks of a run that was found: its GPU's unless the caller has that, and its own. */
static bool hold(const struct attempt *attempt, bool with_device)
{
    if (with_device && !queue_hold_device(attempt->spec.device))
        return false;
    if (queue_hold_run(attempt->run_id))
        return true;
    if (with_device)
        queue_release_device(attempt->spec.device);
    return false;
}

enum claim { CLAIM_NONE, CLAIM_AGAIN, CLAIM_MADE };

/* One attempt at claiming a run, in one transaction.  *more: another worker would find something to do. */
static enum claim claim_once(struct attempt *attempt, const char *device, int64 memory, bool *more)
{
    struct tlaw_session session;
    struct owners owners;
    char *refusal;
    bool found, with_device;

    worker_begin(&session);
    requeue_dead();
    found = next_queued(attempt, device, &owners) &&
            (device == NULL || (!attempt->alone && attempt->memory <= memory));
    with_device = found && device == NULL && is_gpu(attempt);
    if (!found || !hold(attempt, with_device)) {
        worker_commit(&session);
        return found ? CLAIM_AGAIN : CLAIM_NONE;
    }
    mark_running(attempt);
    refusal = refuse_owner(attempt->corpus, owners.run, owners.corpus);
    if (refusal)
        attempt_end(attempt, "failed", refusal);
    *more = claim_is_possible(InvalidOid) && queue_slots_held(InvalidOid) < tlaw_max_workers;
    worker_commit(&session);
    if (refusal == NULL)
        return CLAIM_MADE;
    queue_release_run(attempt->run_id);
    if (with_device)
        queue_release_device(attempt->spec.device);
    return CLAIM_AGAIN;
}

struct attempt *claim_run(const char *device, int64 memory)
{
    MemoryContext context = AllocSetContextCreate(TopMemoryContext, "tlaw run", ALLOCSET_DEFAULT_SIZES);
    struct attempt *attempt = MemoryContextAlloc(context, sizeof(*attempt));
    enum claim claim;
    bool more = false;

    for (;;) {
        memset(attempt, 0, sizeof(*attempt));
        attempt->context = context;
        claim = claim_once(attempt, device, memory, &more);
        if (claim != CLAIM_AGAIN)
            break;
        worker_nap(RETRY_MS);
    }
    if (claim == CLAIM_NONE) {
        MemoryContextDelete(context);
        return NULL;
    }
    if (more)
        queue_launch_worker();
    return attempt;
}
