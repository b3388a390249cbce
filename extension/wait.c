/*
 * tlaw_wait: watches a run or a study until it has ended.
 *
 * Invariants: every look at the tables is a transaction of its own, so that no snapshot is held in between;
 * interrupts are served at least every POLL_MS; whoever waits sees to it that workers run.
 */
#include "tlaw.h"

#include <math.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "queue.h"
#include "run.h"
#include "storage/latch.h"
#include "study.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define POLL_MS   200
#define NOTICE_MS 5000 /* between two notices */
#define LAUNCH_MS 3000 /* between two attempts to start a worker */

PG_FUNCTION_INFO_V1(tlaw_wait_run);
PG_FUNCTION_INFO_V1(tlaw_wait_study);

/* What is waited for: all runs of a study, or (study NULL) one run. */
struct target {
    int64 run_id;
    char *study;
    bool warned; /* that no worker could be started */
    TimestampTz noticed, launched;
};

struct state {
    int64 queued, running, done, failed, cancelled, foreign;
    int64 step, total; /* of the running run with the lowest id */
    double loss;
    double seconds_left; /* of the running run that will take longest */
    char *error;         /* of the failed run with the highest id */
};

/* One look at the tables; state->error is allocated in the caller's context. */
static void look(const struct target *target, struct state *state)
{
    MemoryContext caller = CurrentMemoryContext;
    Oid types[] = {INT8OID, TEXTOID, INT8OID};
    Datum values[] = {Int64GetDatum(target->run_id), target->study ? CStringGetTextDatum(target->study) : 0,
                      Int64GetDatum(queue_identifier())};
    int64 *counts[] = {&state->queued,    &state->running, &state->done, &state->failed,
                       &state->cancelled, &state->foreign, &state->step, &state->total};
    struct tlaw_session session;
    char *error;
    bool null;
    int i;

    tlaw_begin(&session);
    tlaw_execute(
        SPI_OK_SELECT,
        "SELECT count(*) FILTER (WHERE status = 'queued'), count(*) FILTER (WHERE status = 'running'),"
        " count(*) FILTER (WHERE status = 'done'), count(*) FILTER (WHERE status = 'failed'),"
        " count(*) FILTER (WHERE status = 'cancelled'),"
        " count(*) FILTER (WHERE status IN ('queued', 'running') AND queue_identifier <> $3),"
        " (array_agg(step ORDER BY run_id) FILTER (WHERE status = 'running'))[1],"
        " (array_agg(total ORDER BY run_id) FILTER (WHERE status = 'running'))[1],"
        " (array_agg(p.loss ORDER BY run_id) FILTER (WHERE status = 'running'))[1],"
        " max(seconds_left) FILTER (WHERE status = 'running'),"
        " (array_agg(CASE WHEN $2 IS NULL THEN error ELSE 'run ' || run_id || ': ' || error END ORDER BY "
        "run_id DESC)"
        " FILTER (WHERE status = 'failed'))[1]"
        " FROM @.tlaw_run r LEFT JOIN @.tlaw_run_progress p USING (run_id)"
        " WHERE CASE WHEN $2 IS NULL THEN r.run_id = $1 ELSE study = $2 END",
        3, types, values, target->study ? "   " : " n ");
#define COLUMN(i) SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i, &null)
    for (i = 0; i < lengthof(counts); i++) {
        *counts[i] = DatumGetInt64(COLUMN(i + 1));
        if (null)
            *counts[i] = 0;
    }
    state->loss = DatumGetFloat8(COLUMN(9));
    if (null)
        state->loss = NAN;
    state->seconds_left = DatumGetFloat8(COLUMN(10));
    if (null)
        state->seconds_left = NAN;
#undef COLUMN
    error = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 11);
    state->error = error ? MemoryContextStrdup(caller, error) : NULL;
    tlaw_end(&session);
}

/* "12 done, 2 running, 6 queued, 1 failed; step 300 of 1000, loss 2.345, 41 s left" */
static char *describe(const struct target *target, const struct state *state)
{
    StringInfoData text;
    struct {
        int64 count;
        const char *name;
    } parts[] = {{state->done, "done"},
                 {state->running, "running"},
                 {state->queued, "queued"},
                 {state->failed, "failed"},
                 {state->cancelled, "cancelled"}};
    int i;

    initStringInfo(&text);
    for (i = 0; i < lengthof(parts); i++) {
        if (parts[i].count == 0)
            continue;
        if (target->study)
            appendStringInfo(&text, "%s" INT64_FORMAT " %s", text.len ? ", " : "", parts[i].count,
                             parts[i].name);
        else
            appendStringInfo(&text, "%s", parts[i].name);
    }
    if (text.len == 0)
        appendStringInfoString(&text, "dropped");
    if (state->total > 0)
        appendStringInfo(&text, "; step " INT64_FORMAT " of " INT64_FORMAT, state->step, state->total);
    if (!isnan(state->loss))
        appendStringInfo(&text, ", loss %.3f", state->loss);
    if (!isnan(state->seconds_left))
        appendStringInfo(&text, ", %.0f s left%s", state->seconds_left,
                         target->study && state->queued > 0 ? " for what is running" : "");
    if (state->error)
        appendStringInfo(&text, "; %s", state->error);
    return text.data;
}

static void tell(const struct target *target, const struct state *state)
{
    if (target->study)
        ereport(NOTICE, (errmsg("study %s: %s", target->study, describe(target, state))));
    else
        ereport(NOTICE, (errmsg("run " INT64_FORMAT ": %s", target->run_id, describe(target, state))));
}

/* Starts a worker when there is something to do and no worker of this database is at it. */
static void see_to_workers(struct target *target, const struct state *state)
{
    TimestampTz now = GetCurrentTimestamp();

    if (state->queued + state->running == state->foreign || RecoveryInProgress() ||
        !TimestampDifferenceExceeds(target->launched, now, LAUNCH_MS) || queue_slots_held(MyDatabaseId) > 0)
        return;
    target->launched = now;
    if (!queue_launch_worker() && !target->warned) {
        target->warned = true;
        ereport(WARNING, (errmsg("no background worker is free to train"),
                          errhint("Others end, or raise max_worker_processes.")));
    }
}

static void refuse_foreign(const struct state *state)
{
    if (state->foreign > 0)
        ereport(
            ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg(INT64_FORMAT " of these runs were queued by another server or database", state->foreign),
             errdetail("A queue that was restored or replicated does not start by itself."),
             errhint("SELECT tlaw_retry(run_id) FROM tlaw_runs WHERE status IN ('queued', 'running')"
                     " makes them this one's.")));
}

/* Looks, and tells what there is to tell; true when all has ended. */
static bool poll_target(struct target *target)
{
    struct state state;
    TimestampTz now;
    bool ended;

    look(target, &state);
    refuse_foreign(&state);
    see_to_workers(target, &state);
    ended = state.queued + state.running == 0;
    now = GetCurrentTimestamp();
    if (ended || TimestampDifferenceExceeds(target->noticed, now, NOTICE_MS)) {
        tell(target, &state);
        target->noticed = now;
    }
    return ended;
}

static void wait_for(FunctionCallInfo fcinfo, struct target *target)
{
    CallContext *context = (CallContext *) fcinfo->context;
    MemoryContext context_of_poll;

    if (context == NULL || !IsA(context, CallContext) || context->atomic)
        ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                        errmsg("tlaw_wait cannot run inside a transaction block"),
                        errhint("Commit first: runs start when the transaction that queued them commits.")));
    if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    context_of_poll = AllocSetContextCreate(CurrentMemoryContext, "tlaw wait", ALLOCSET_DEFAULT_SIZES);
    target->noticed = GetCurrentTimestamp();
    for (;;) {
        MemoryContext caller = MemoryContextSwitchTo(context_of_poll);
        bool ended = poll_target(target);

        MemoryContextSwitchTo(caller);
        MemoryContextReset(context_of_poll);
        if (ended)
            break;
        SPI_commit();
        (void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS,
                         PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
        CHECK_FOR_INTERRUPTS();
    }
    SPI_finish();
}

Datum tlaw_wait_run(PG_FUNCTION_ARGS)
{
    struct target target = {0};
    struct run_row row;

    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("run_id must not be NULL")));
    target.run_id = PG_GETARG_INT64(0);
    run_require(target.run_id, false, &row);
    wait_for(fcinfo, &target);
    PG_RETURN_VOID();
}

Datum tlaw_wait_study(PG_FUNCTION_ARGS)
{
    struct target target = {0};
    struct tlaw_session session;

    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("study must not be NULL")));
    target.study = text_to_cstring(PG_GETARG_TEXT_PP(0));
    tlaw_begin(&session);
    study_require(target.study);
    tlaw_end(&session);
    wait_for(fcinfo, &target);
    PG_RETURN_VOID();
}
