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

#define POLL_MS   200  /* most between two looks */
#define LEAST_MS  20   /* and the least; in between a twentieth of what was waited so far */
#define NOTICE_MS 5000 /* least between two notices; later a thirtieth of what was waited so far */
#define LAUNCH_MS 3000 /* between two attempts to start a worker */

PG_FUNCTION_INFO_V1(tlaw_wait_run);
PG_FUNCTION_INFO_V1(tlaw_wait_study);

/* What is waited for: all runs of a study, or (study NULL) one run. */
struct target {
    int64 run_id;
    char *study;
    bool warned; /* that no worker could be started */
    TimestampTz began, noticed, launched;
};

struct state {
    int64 queued, running, done, failed, cancelled, foreign;
    int64 step, total; /* of the running run with the lowest id */
    double loss;
    double seconds_left; /* of all; NaN: not known yet, 0: none */
    char *error;         /* of the failed run with the highest id */
};

/*
 * $1 run_id, $2 study or NULL, $3 queue_identifier.  The time left is that of the running runs, and of the
 * queued ones at the speed of the fastest that is done (small ones come first and are slow for their FLOPs):
 * not known before one is.
 */
static const char look_sql[] =
    "SELECT count(*) FILTER (WHERE status = 'queued'), count(*) FILTER (WHERE status = 'running'),"
    " count(*) FILTER (WHERE status = 'done'), count(*) FILTER (WHERE status = 'failed'),"
    " count(*) FILTER (WHERE status = 'cancelled'),"
    " count(*) FILTER (WHERE status IN ('queued', 'running') AND queue_identifier <> $3),"
    " (array_agg(step ORDER BY run_id) FILTER (WHERE status = 'running'))[1],"
    " (array_agg(total ORDER BY run_id) FILTER (WHERE status = 'running'))[1],"
    " (array_agg(p.loss ORDER BY run_id) FILTER (WHERE status = 'running'))[1],"
    " coalesce(max(seconds_left) FILTER (WHERE status = 'running'), 0)"
    " + CASE WHEN bool_or(status = 'queued') THEN sum(flops) FILTER (WHERE status = 'queued')"
    "   / nullif(max(flops / extract(epoch FROM finished_at - started_at)::float8)"
    "     FILTER (WHERE status = 'done' AND finished_at > started_at), 0)"
    "   / greatest(count(*) FILTER (WHERE status = 'running'), 1) ELSE 0 END,"
    " (array_agg(CASE WHEN $2 IS NULL THEN error ELSE 'run ' || run_id || ': ' || error END"
    "   ORDER BY run_id DESC) FILTER (WHERE status = 'failed'))[1]"
    " FROM @.tlaw_run r LEFT JOIN @.tlaw_run_progress p USING (run_id)"
    " WHERE CASE WHEN $2 IS NULL THEN r.run_id = $1 ELSE study = $2 END";

static double float_or_nan(int column)
{
    bool null;
    Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &null);

    return null ? NAN : DatumGetFloat8(value);
}

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
    int i;

    tlaw_begin(&session);
    tlaw_execute(SPI_OK_SELECT, look_sql, 3, types, values, target->study ? "   " : " n ");
    for (i = 0; i < lengthof(counts); i++) {
        bool null;

        *counts[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &null));
        if (null)
            *counts[i] = 0;
    }
    state->loss = float_or_nan(lengthof(counts) + 1);
    state->seconds_left = float_or_nan(lengthof(counts) + 2);
    error = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, lengthof(counts) + 3);
    state->error = error ? MemoryContextStrdup(caller, error) : NULL;
    tlaw_end(&session);
}

/* ", about 41 s left", in a unit that keeps it short. */
static void append_time(StringInfo text, double seconds)
{
    if (seconds < 200)
        appendStringInfo(text, ", about %.0f s left", seconds);
    else if (seconds < 200 * 60)
        appendStringInfo(text, ", about %.0f min left", seconds / 60);
    else
        appendStringInfo(text, ", about %.0f h left", seconds / 3600);
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
    if (state->seconds_left > 0)
        append_time(&text, state->seconds_left);
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
    if (tlaw_max_workers > 0 && queue_launch_worker())
        return;
    if (!target->warned && tlaw_max_workers == 0)
        ereport(WARNING, (errmsg("tlaw.max_workers is 0: no run is started")));
    else if (!target->warned)
        ereport(WARNING, (errmsg("no background worker is free to train"),
                          errhint("It starts when one is; max_worker_processes says how many there are.")));
    target->warned = true;
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
    if (ended ||
        TimestampDifferenceExceeds(
            target->noticed, now, Max(NOTICE_MS, TimestampDifferenceMilliseconds(target->began, now) / 30))) {
        tell(target, &state);
        target->noticed = now;
    }
    return ended;
}

/* Milliseconds to the next look: who waits for a short run waits little longer than that. */
static long next_look(TimestampTz start)
{
    long waited = TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());

    return Max(LEAST_MS, Min(waited / 20, POLL_MS));
}

static void wait_for(FunctionCallInfo fcinfo, struct target *target)
{
    CallContext *context = (CallContext *) fcinfo->context;
    TimestampTz start = GetCurrentTimestamp();
    MemoryContext context_of_poll;

    if (context == NULL || !IsA(context, CallContext) || context->atomic)
        ereport(ERROR, (errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
                        errmsg("tlaw_wait cannot run inside a transaction block"),
                        errhint("Commit first: runs start when the transaction that queued them commits.")));
    if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    context_of_poll = AllocSetContextCreate(CurrentMemoryContext, "tlaw wait", ALLOCSET_DEFAULT_SIZES);
    target->noticed = target->began = start;
    for (;;) {
        MemoryContext caller = MemoryContextSwitchTo(context_of_poll);
        bool ended = poll_target(target);

        MemoryContextSwitchTo(caller);
        MemoryContextReset(context_of_poll);
        if (ended)
            break;
        SPI_commit();
        (void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, next_look(start),
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
    study_require(target.study, false);
    tlaw_end(&session);
    wait_for(fcinfo, &target);
    PG_RETURN_VOID();
}
