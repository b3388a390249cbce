/*
 * Runs as rows: their specification, who may touch them, and what users do to them besides submitting.
 *
 * States: queued -> running -> done | failed | cancelled; running -> queued when the engine died and may try
 * again or the worker is gone; failed | cancelled -> queued by tlaw_retry.  A transition is made under the
 * row's lock; whoever takes a run away from `running` first has the run's liveness lock (queue.c).
 */
#include "run.h"

#include "catalog/pg_type.h"
#include "queue.h"
#include "study.h"

#define FIELD_COUNT(name)  {#name, RUN_COUNT, offsetof(struct tlaw_spec, name)},
#define FIELD_NUMBER(name) {#name, RUN_NUMBER, offsetof(struct tlaw_spec, name)},
#define FIELD_TEXT(name)   {#name, RUN_TEXT, offsetof(struct tlaw_spec, name)},

const struct run_field run_fields[] = {TLAW_SPEC_FIELDS(FIELD_COUNT, FIELD_NUMBER, FIELD_TEXT)};
const int run_field_count = lengthof(run_fields);

PG_FUNCTION_INFO_V1(tlaw_cancel_run);
PG_FUNCTION_INFO_V1(tlaw_cancel_study);
PG_FUNCTION_INFO_V1(tlaw_retry);
PG_FUNCTION_INFO_V1(tlaw_drop_run);
PG_FUNCTION_INFO_V1(tlaw_drop_study);
PG_FUNCTION_INFO_V1(tlaw_record_run);

/* ---- reading ---- */

static void no_such_run(int64 run_id)
{
    ereport(ERROR,
            (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("run " INT64_FORMAT " does not exist", run_id)));
}

void run_load_spec(int64 run_id, struct tlaw_spec *spec)
{
    Oid types[] = {INT8OID};
    Datum values[] = {Int64GetDatum(run_id)};
    struct tlaw_session session;
    StringInfoData sql;
    int i;

    memset(spec, 0, sizeof(*spec));
    tlaw_begin(&session);
    initStringInfo(&sql);
    appendStringInfoString(&sql, "SELECT corpus");
    for (i = 0; i < run_field_count; i++)
        appendStringInfo(&sql, ", %s%s", run_fields[i].name, run_fields[i].type == RUN_COUNT ? "::int8" : "");
    appendStringInfoString(&sql, " FROM @.tlaw_run WHERE run_id = $1");
    if (tlaw_execute(SPI_OK_SELECT, sql.data, 1, types, values, NULL) == 0)
        no_such_run(run_id);
    for (i = -1; i < run_field_count; i++) {
        bool null;
        Datum value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 2, &null);
        char *field;

        if (null)
            ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                            errmsg("run " INT64_FORMAT " was recorded, not trained here", run_id)));
        if (i < 0)
            continue;
        field = (char *) spec + run_fields[i].offset;
        if (run_fields[i].type == RUN_COUNT)
            *(int64_t *) field = DatumGetInt64(value);
        else if (run_fields[i].type == RUN_NUMBER)
            *(double *) field = DatumGetFloat8(value);
        else
            strlcpy(field, TextDatumGetCString(value), TLAW_NAME_SIZE);
    }
    tlaw_end(&session);
}

void run_require(int64 run_id, bool lock, struct run_row *row)
{
    MemoryContext caller = CurrentMemoryContext;
    Oid types[] = {INT8OID, INT8OID};
    Datum values[] = {Int64GetDatum(run_id), Int64GetDatum(queue_identifier())};
    struct tlaw_session session;
    char *text[5];
    char number[32];
    int i;

    tlaw_begin(&session);
    if (tlaw_execute(SPI_OK_SELECT,
                     lock ? "SELECT owner, study, corpus, status, queue_identifier <> $2 FROM @.tlaw_run"
                            " WHERE run_id = $1 FOR NO KEY UPDATE"
                          : "SELECT owner, study, corpus, status, queue_identifier <> $2 FROM @.tlaw_run"
                            " WHERE run_id = $1",
                     2, types, values, NULL) == 0)
        no_such_run(run_id);
    for (i = 0; i < lengthof(text); i++) {
        text[i] = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1);
        if (text[i] != NULL)
            text[i] = MemoryContextStrdup(caller, text[i]);
    }
    row->owner = text[0];
    row->study = text[1];
    row->corpus = text[2];
    row->status = text[3];
    row->foreign = text[4] != NULL && text[4][0] == 't';
    snprintf(number, sizeof(number), INT64_FORMAT, run_id);
    tlaw_require_owner(row->owner, "run", number);
    tlaw_end(&session);
}

static void wrong_state(int64 run_id, const struct run_row *row, const char *accepted)
{
    ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                    errmsg("run " INT64_FORMAT " is %s: only %s", run_id, row->status, accepted)));
}

/* ---- changing ---- */

static void execute_on(int64 run_id, int expected, const char *sql)
{
    Oid types[] = {INT8OID, INT8OID};
    Datum values[] = {Int64GetDatum(run_id), Int64GetDatum(queue_identifier())};
    struct tlaw_session session;

    tlaw_begin(&session);
    tlaw_execute(expected, sql, 2, types, values, NULL);
    tlaw_end(&session);
}

/* A run that nobody works on ends now; the worker of any other sees the request within a second. */
static void cancel(int64 run_id, const struct run_row *row)
{
    if (strcmp(row->status, "queued") == 0 || queue_run_is_idle(run_id))
        execute_on(
            run_id, SPI_OK_SELECT,
            "WITH cancelled AS (UPDATE @.tlaw_run SET status = 'cancelled', finished_at = pg_catalog.now()"
            " WHERE run_id = $1 RETURNING run_id)"
            " SELECT pg_catalog.pg_notify('tlaw', run_id || ' cancelled') FROM cancelled");
    else
        execute_on(run_id, SPI_OK_UPDATE, "UPDATE @.tlaw_run SET cancel_requested = true WHERE run_id = $1");
}

Datum tlaw_cancel_run(PG_FUNCTION_ARGS)
{
    int64 run_id = PG_GETARG_INT64(0);
    struct run_row row;

    PreventCommandIfReadOnly("tlaw_cancel()");
    run_require(run_id, true, &row);
    if (strcmp(row.status, "queued") != 0 && strcmp(row.status, "running") != 0)
        wrong_state(run_id, &row, "a queued or running one can be cancelled");
    cancel(run_id, &row);
    PG_RETURN_VOID();
}

/* All queued and running runs of a study; returns how many. */
Datum tlaw_cancel_study(PG_FUNCTION_ARGS)
{
    Oid types[] = {TEXTOID};
    Datum values[] = {PG_GETARG_DATUM(0)};
    struct tlaw_session session;
    uint64 count, i;
    int64 *runs;

    PreventCommandIfReadOnly("tlaw_cancel()");
    tlaw_begin(&session);
    study_require(TextDatumGetCString(values[0]), false);
    count = tlaw_execute(SPI_OK_SELECT,
                         "SELECT run_id FROM @.tlaw_run WHERE study = $1 AND status IN ('queued', 'running')"
                         " ORDER BY run_id FOR NO KEY UPDATE",
                         1, types, values, NULL);
    runs = palloc(Max(count, 1) * sizeof(*runs));
    for (i = 0; i < count; i++) {
        bool null;

        runs[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &null));
    }
    for (i = 0; i < count; i++) {
        struct run_row row;

        run_require(runs[i], true, &row);
        cancel(runs[i], &row);
    }
    tlaw_end(&session);
    PG_RETURN_INT64((int64) count);
}

/* Queues a failed or cancelled run again, from its checkpoint where it has one; adopts one queued elsewhere.
 */
Datum tlaw_retry(PG_FUNCTION_ARGS)
{
    int64 run_id = PG_GETARG_INT64(0);
    struct run_row row;
    bool ended, adopted;

    PreventCommandIfReadOnly("tlaw_retry()");
    run_require(run_id, true, &row);
    ended = strcmp(row.status, "failed") == 0 || strcmp(row.status, "cancelled") == 0;
    adopted = row.foreign && strcmp(row.status, "done") != 0;
    if (!ended && !(adopted && queue_run_is_idle(run_id)))
        wrong_state(run_id, &row,
                    "a failed or cancelled one, or one that was queued by another server or database, can be "
                    "retried");
    execute_on(
        run_id, SPI_OK_UPDATE,
        "UPDATE @.tlaw_run SET status = 'queued', failures = 0, cancel_requested = false, again = true,"
        " error = NULL, started_at = NULL, finished_at = NULL, queue_identifier = $2 WHERE run_id = $1");
    queue_note_submit();
    PG_RETURN_VOID();
}

/* Deletes the runs whose `column` is $1, with all that is theirs; returns how many. */
static uint64 delete_runs(const char *column, Oid type, Datum value)
{
    static const char *const theirs[] = {"tlaw_run_progress",      "tlaw_run_loss",
                                         "tlaw_run_document_loss", "tlaw_checkpoint",
                                         "tlaw_checkpoint_chunk",  "tlaw_run_dimension_record"};
    struct tlaw_session session;
    uint64 count;
    int i;

    tlaw_begin(&session);
    for (i = 0; i < lengthof(theirs); i++)
        tlaw_execute(SPI_OK_DELETE,
                     psprintf("DELETE FROM @.%s t USING @.tlaw_run r WHERE r.run_id = t.run_id AND r.%s = $1",
                              theirs[i], column),
                     1, &type, &value, NULL);
    count = tlaw_execute(SPI_OK_DELETE, psprintf("DELETE FROM @.tlaw_run WHERE %s = $1", column), 1, &type,
                         &value, NULL);
    tlaw_end(&session);
    return count;
}

/* Error where the plan of a study that stays takes its dimension from a run that goes: run_id, or where that
 * is 0 those of `study`. */
static void refuse_planned(int64 run_id, const char *study)
{
    Oid types[] = {INT8OID, TEXTOID};
    Datum values[] = {Int64GetDatum(run_id), CStringGetTextDatum(study ? study : "")};
    struct tlaw_session session;

    tlaw_begin(&session);
    if (tlaw_execute(SPI_OK_SELECT,
                     "SELECT r.run_id, p.study FROM @.tlaw_study_plan p JOIN @.tlaw_run r USING (run_id)"
                     " WHERE CASE WHEN $1 > 0 THEN r.run_id = $1 ELSE r.study = $2 AND p.study <> $2 END",
                     2, types, values, NULL) > 0)
        ereport(ERROR, (errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
                        errmsg("the plan of study \"%s\" takes its dimension from run %s",
                               SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2),
                               SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1)),
                        errhint("tlaw_drop_study drops that study.")));
    tlaw_end(&session);
}

Datum tlaw_drop_run(PG_FUNCTION_ARGS)
{
    int64 run_id = PG_GETARG_INT64(0);
    struct run_row row;

    PreventCommandIfReadOnly("tlaw_drop_run()");
    run_require(run_id, true, &row);
    if (strcmp(row.status, "running") == 0 && !queue_run_is_idle(run_id))
        wrong_state(run_id, &row, "one that is not running can be dropped; tlaw_cancel stops it");
    refuse_planned(run_id, NULL);
    delete_runs("run_id", INT8OID, Int64GetDatum(run_id));
    PG_RETURN_VOID();
}

/* Error where a worker trains for the study.  Its runs are locked, so that none begins to, and nothing is
 * added to them. */
static void require_idle_study(const char *study)
{
    Oid types[] = {TEXTOID};
    Datum values[] = {CStringGetTextDatum(study)};
    uint64 n = tlaw_execute(
        SPI_OK_SELECT, "SELECT run_id, status FROM @.tlaw_run WHERE study = $1 ORDER BY run_id FOR UPDATE", 1,
        types, values, NULL);
    SPITupleTable *table = SPI_tuptable;
    uint64 i;

    for (i = 0; i < n; i++) {
        bool null;
        int64 run_id = DatumGetInt64(SPI_getbinval(table->vals[i], table->tupdesc, 1, &null));

        if (strcmp(SPI_getvalue(table->vals[i], table->tupdesc, 2), "running") == 0 &&
            !queue_run_is_idle(run_id))
            ereport(
                ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("run " INT64_FORMAT " of study \"%s\" is running", run_id, study),
                 errhint(
                     "tlaw_cancel stops the runs of a study, within a second; tlaw_wait waits for that.")));
    }
}

/* A study with all that is of it alone, whoever of its owner's members made it; returns how many runs. */
Datum tlaw_drop_study(PG_FUNCTION_ARGS)
{
    Oid types[] = {TEXTOID};
    Datum values[] = {PG_GETARG_DATUM(0)};
    char *study = TextDatumGetCString(values[0]);
    struct tlaw_session session;
    uint64 count;

    PreventCommandIfReadOnly("tlaw_drop_study()");
    tlaw_begin(&session);
    study_require(study, true);
    require_idle_study(study);
    refuse_planned(0, study);
    tlaw_execute(SPI_OK_DELETE, "DELETE FROM @.tlaw_fit_record WHERE study = $1", 1, types, values, NULL);
    count = delete_runs("study", TEXTOID, values[0]);
    tlaw_execute(SPI_OK_DELETE, "DELETE FROM @.tlaw_study_plan WHERE study = $1", 1, types, values, NULL);
    tlaw_execute(SPI_OK_DELETE, "DELETE FROM @.tlaw_study WHERE study = $1", 1, types, values, NULL);
    tlaw_end(&session);
    PG_RETURN_INT64((int64) count);
}

/* ---- recording ---- */

/* The arguments of tlaw_record_run after the study, in order; each is a column. */
static const struct recorded {
    const char *name;
    enum run_field_type type;
    double low, high;
} recorded[] = {
    {"n_params", RUN_COUNT, 1, 1e18},
    {"train_tokens", RUN_COUNT, 1, 1e18},
    {"test_loss", RUN_NUMBER, 0, 1e6},
    {"val_loss", RUN_NUMBER, 0, 1e6},
    {"train_loss", RUN_NUMBER, 0, 1e6},
    {"test_loss_se", RUN_NUMBER, 0, 1e6},
    {"bits_per_byte", RUN_NUMBER, 0, 1e6},
    {"n_params_non_embedding", RUN_COUNT, 1, 1e18},
    {"tokens_seen", RUN_COUNT, 1, 1e18},
    {"flops", RUN_NUMBER, 0, 1e40},
    {"subset_seed", RUN_COUNT, 0, 1e15},
    {"seed", RUN_COUNT, 0, 1e15},
    {"arch", RUN_TEXT, 0, 0},
    {"n_layer", RUN_COUNT, 1, 1e6},
    {"n_head", RUN_COUNT, 1, 1e6},
    {"d_model", RUN_COUNT, 1, 1e9},
    {"context_length", RUN_COUNT, 1, 2e9},
    {"steps", RUN_COUNT, 1, 1e15},
    {"batch_size", RUN_COUNT, 1, 2e9},
    {"learning_rate", RUN_NUMBER, 0, 1e6},
    {"device", RUN_TEXT, 0, 0},
    {"precision", RUN_TEXT, 0, 0},
    {"code_version", RUN_TEXT, 0, 0},
};

static Datum recorded_value(const struct recorded *column, Datum argument, Oid *type)
{
    if (column->type == RUN_TEXT) {
        *type = TEXTOID;
        return argument;
    }
    if (column->type == RUN_COUNT) {
        *type = INT8OID;
        return Int64GetDatum(tlaw_count_argument(column->name, DatumGetFloat8(argument), (int64) column->low,
                                                 (int64) column->high));
    }
    *type = FLOAT8OID;
    return Float8GetDatum(
        tlaw_number_argument(column->name, DatumGetFloat8(argument), column->low, column->high));
}

/* A result measured elsewhere becomes a row like any other. */
Datum tlaw_record_run(PG_FUNCTION_ARGS)
{
    Oid types[lengthof(recorded) + 2];
    Datum values[lengthof(recorded) + 2];
    StringInfoData columns, places;
    struct tlaw_session session;
    int count = 2;
    bool null;
    int64 run_id;
    int i;

    PreventCommandIfReadOnly("tlaw_record_run()");
    if (PG_ARGISNULL(0))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("study must not be NULL")));
    if (PG_ARGISNULL(3) && PG_ARGISNULL(4))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("test_loss and val_loss must not both be NULL")));
    tlaw_begin(&session);
    study_use(TextDatumGetCString(PG_GETARG_DATUM(0)));
    initStringInfo(&columns);
    initStringInfo(&places);
    types[0] = TEXTOID;
    values[0] = PG_GETARG_DATUM(0);
    types[1] = NAMEOID;
    values[1] = CStringGetDatum(tlaw_caller_name());
    for (i = 0; i < lengthof(recorded); i++) {
        if (PG_ARGISNULL(i + 1))
            continue;
        values[count] = recorded_value(&recorded[i], PG_GETARG_DATUM(i + 1), &types[count]);
        count++;
        appendStringInfo(&columns, ", %s", recorded[i].name);
        appendStringInfo(&places, ", $%d", count);
    }
    tlaw_execute(SPI_OK_INSERT_RETURNING,
                 psprintf("INSERT INTO @.tlaw_run (study, owner, status, again, finished_at%s)"
                          " VALUES ($1, $2, 'done', true, pg_catalog.now()%s) RETURNING run_id",
                          columns.data, places.data),
                 count, types, values, NULL);
    run_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    execute_on(run_id, SPI_OK_UPDATE,
               "UPDATE @.tlaw_run SET epochs = tokens_seen::float8 / train_tokens,"
               " flops = coalesce(flops, 6::float8 * n_params * coalesce(tokens_seen, train_tokens))"
               " WHERE run_id = $1");
    tlaw_end(&session);
    PG_RETURN_INT64(run_id);
}
