/*
 * Submitting: arguments become a resolved specification, and that a queued run (tlaw_train) or its costs
 * (tlaw_estimate).
 *
 * Invariants: everything that shapes the result (defaults, device, instruction set, precision) is settled
 * here, in the caller's session, and stored; a run with the specification of one that is queued, running or
 * done is that run unless asked for again; nothing is computed here.
 */
#include "tlaw.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "device.h"
#include "engine_client.h"
#include "funcapi.h"
#include "queue.h"
#include "run.h"
#include "study.h"
#include "utils/float.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(tlaw_train);
PG_FUNCTION_INFO_V1(tlaw_estimate);
PG_FUNCTION_INFO_V1(tlaw_log_series);

/* ---- arguments ---- */

/* The arguments of tlaw_train and tlaw_estimate, in order (clang-format would move them each time). */
/* clang-format off */
#define ARGUMENTS(X)                                                                                         \
    X(corpus) X(study) X(arch) X(n_layer) X(n_head) X(d_model) X(context_length) X(bias) X(train_tokens)     \
    X(subset_seed) X(seed) X(steps) X(batch_size) X(learning_rate) X(min_learning_rate) X(warmup_steps)      \
    X(schedule) X(cooldown_steps) X(weight_decay) X(beta1) X(beta2) X(grad_clip) X(eval_interval)            \
    X(eval_tokens) X(checkpoint) X(device) X(precision) X(recompute) X(threads) X(priority) X(again)
/* clang-format on */
#define ARGUMENT_ENUM(name) ARGUMENT_##name,
#define ARGUMENT_NAME(name) #name,
enum { ARGUMENTS(ARGUMENT_ENUM) ARGUMENT_COUNT };
static const char *const argument_names[] = {ARGUMENTS(ARGUMENT_NAME)};

struct submission {
    char *corpus, *study; /* study NULL: none */
    struct tlaw_spec spec;
    int threads; /* 0: tlaw.threads */
    int priority;
    bool again;
    bool submits; /* tlaw_train, not tlaw_estimate */
    /* of the corpus */
    char corpus_sha256[PG_SHA256_DIGEST_LENGTH];
    int64 train_available, val_available, test_tokens;
};

static int argument_of_field(const char *field)
{
    int i;

    for (i = 0; i < ARGUMENT_COUNT; i++) {
        if (strcmp(argument_names[i], field) == 0)
            return i;
    }
    return -1;
}

/* A number that the specification can hold and that does not mean "left out"; its range is checked there. */
static float8 read_number(const struct run_field *field, float8 value)
{
    if (!(value >= 0 && value <= TLAW_MAX_SEED) || (field->type == RUN_COUNT && value != floor(value)))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("%s = %s is not accepted: %s", field->name, float8out_internal(value),
                               tlaw_spec_accepted(field->name))));
    return value;
}

/* A field of the specification from the argument of its name; left out when there is none or it is NULL. */
static void read_field(FunctionCallInfo fcinfo, const struct run_field *field, struct tlaw_spec *spec)
{
    int i = argument_of_field(field->name);
    bool given = i >= 0 && !PG_ARGISNULL(i);
    char *target = (char *) spec + field->offset;

    if (field->type == RUN_TEXT) {
        char *word = given ? text_to_cstring(PG_GETARG_TEXT_PP(i)) : NULL;

        if (word && (word[0] == '\0' || strlen(word) >= TLAW_NAME_SIZE))
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("%s must be a word of 1 to %d bytes, not \"%.80s\"", field->name,
                                   TLAW_NAME_SIZE - 1, word)));
        if (word)
            strlcpy(target, word, TLAW_NAME_SIZE);
    } else if (i == ARGUMENT_bias || i == ARGUMENT_recompute)
        *(int64_t *) target = given ? PG_GETARG_BOOL(i) : TLAW_UNSET;
    else if (field->type == RUN_COUNT)
        *(int64_t *) target = given ? (int64) read_number(field, PG_GETARG_FLOAT8(i)) : TLAW_UNSET;
    else
        *(double *) target = given ? read_number(field, PG_GETARG_FLOAT8(i)) : TLAW_UNSET;
}

static void read_arguments(FunctionCallInfo fcinfo, struct submission *s)
{
    int i;

    memset(s, 0, sizeof(*s));
    if (PG_ARGISNULL(ARGUMENT_corpus))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("corpus must not be NULL"),
                        errhint("The view tlaw_corpora lists the corpora.")));
    s->corpus = text_to_cstring(PG_GETARG_TEXT_PP(ARGUMENT_corpus));
    if (!PG_ARGISNULL(ARGUMENT_study))
        s->study = text_to_cstring(PG_GETARG_TEXT_PP(ARGUMENT_study));
    for (i = 0; i < run_field_count; i++)
        read_field(fcinfo, &run_fields[i], &s->spec);
    if (!PG_ARGISNULL(ARGUMENT_threads))
        s->threads = (int) tlaw_count_argument("threads", PG_GETARG_FLOAT8(ARGUMENT_threads), 1, 1024);
    if (!PG_ARGISNULL(ARGUMENT_priority))
        s->priority =
            (int) tlaw_count_argument("priority", PG_GETARG_FLOAT8(ARGUMENT_priority), -1000000, 1000000);
    s->again = !PG_ARGISNULL(ARGUMENT_again) && PG_GETARG_BOOL(ARGUMENT_again);
}

/* ---- resolving ---- */

/* Reads the corpus's row, which is not dropped before a run of it is submitted; an error unless the caller
 * may use it. */
static void load_corpus(struct submission *s)
{
    Oid types[] = {TEXTOID};
    Datum values[] = {CStringGetTextDatum(s->corpus)};
    HeapTuple row;
    TupleDesc columns;
    bytea *sha256;
    bool null;

    if (tlaw_execute(SPI_OK_SELECT,
                     psprintf("SELECT owner, sha256, vocab_size, train_tokens, validation_tokens, test_tokens"
                              " FROM @.tlaw_corpus WHERE corpus = $1 %s",
                              s->submits ? "FOR KEY SHARE" : ""),
                     1, types, values, NULL) == 0)
        ereport(
            ERROR,
            (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("corpus \"%s\" does not exist", s->corpus),
             errhint("The view tlaw_corpora lists the corpora; tlaw_create_corpus makes one of a table.")));
    row = SPI_tuptable->vals[0];
    columns = SPI_tuptable->tupdesc;
    tlaw_require_owner(SPI_getvalue(row, columns, 1), "corpus", psprintf("\"%s\"", s->corpus));
    sha256 = DatumGetByteaPP(SPI_getbinval(row, columns, 2, &null));
    memcpy(s->corpus_sha256, VARDATA_ANY(sha256), Min(VARSIZE_ANY_EXHDR(sha256), sizeof(s->corpus_sha256)));
    s->spec.vocab_size = DatumGetInt32(SPI_getbinval(row, columns, 3, &null));
    s->train_available = DatumGetInt64(SPI_getbinval(row, columns, 4, &null));
    s->val_available = DatumGetInt64(SPI_getbinval(row, columns, 5, &null));
    s->test_tokens = DatumGetInt64(SPI_getbinval(row, columns, 6, &null));
}

/* What an engine measures of a specification; an error, with the engine's text, when it cannot train it. */
static struct tlaw_estimated_message ask_engine(const struct tlaw_spec *spec, int threads)
{
    struct tlaw_estimate_message request;
    struct tlaw_estimated_message answer;
    bool on_cpu = strcmp(spec->device, "cpu") == 0; /* a driver maps more than it uses */
    struct engine *engine = engine_start(-1, -1, on_cpu ? (int64) tlaw_max_run_memory << 20 : 0);

    memset(&request, 0, sizeof(request));
    request.spec = *spec;
    request.threads = threads ? Min(threads, tlaw_threads) : tlaw_threads;
    engine_send(engine, TLAW_ESTIMATE, &request);
    answer = *(const struct tlaw_estimated_message *) engine_expect(engine, TLAW_ESTIMATED, NULL);
    engine_stop(engine);
    return answer;
}

static void resolve(struct submission *s)
{
    char message[TLAW_TEXT_SIZE];

    load_corpus(s);
    device_resolve(&s->spec);
    if (tlaw_spec_resolve(&s->spec, s->train_available, s->val_available, device_memory(s->spec.device),
                          message, sizeof(message)) != 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s", message)));
}

static double tokens_seen(const struct tlaw_spec *spec)
{
    return (double) spec->steps * (double) spec->batch_size * (double) spec->context_length;
}

/* The memory of the run's device, named. */
static char *memory_limit(const struct tlaw_spec *spec)
{
    int limit = (int) (device_memory(spec->device) >> 20);

    return strcmp(spec->device, "cpu") == 0 ? psprintf("tlaw.max_run_memory is %d MB", limit)
                                            : psprintf("%s has %d MB", spec->device, limit);
}

static bool fits(const struct tlaw_spec *spec)
{
    return tlaw_spec_memory(spec) <= device_memory(spec->device);
}

static void check_memory(const struct tlaw_spec *spec)
{
    if (!fits(spec))
        ereport(ERROR,
                (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
                 errmsg("the run needs " INT64_FORMAT " MB of memory, and %s",
                        (tlaw_spec_memory(spec) >> 20) + 1, memory_limit(spec)),
                 errhint("A smaller batch_size, context_length, d_model or n_layer needs less, and so does"
                         " recompute => true.")));
}

/* ---- tlaw_train ---- */

/* sha256 of the corpus's hash and every field: what makes two runs the same. */
static bytea *spec_hash(const struct submission *s)
{
    bytea *result = palloc(VARHDRSZ + PG_SHA256_DIGEST_LENGTH);
    pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);
    int i;

    SET_VARSIZE(result, VARHDRSZ + PG_SHA256_DIGEST_LENGTH);
    if (hash == NULL || pg_cryptohash_init(hash) < 0 ||
        pg_cryptohash_update(hash, (const uint8 *) s->corpus_sha256, sizeof(s->corpus_sha256)) < 0)
        elog(ERROR, "could not compute a sha256: %s", pg_cryptohash_error(hash));
    for (i = 0; i < run_field_count; i++) {
        const char *field = (const char *) &s->spec + run_fields[i].offset;
        size_t size = run_fields[i].type == RUN_TEXT ? strlen(field) + 1 : 8;

        if (pg_cryptohash_update(hash, (const uint8 *) field, size) < 0)
            elog(ERROR, "could not compute a sha256: %s", pg_cryptohash_error(hash));
    }
    if (pg_cryptohash_final(hash, (uint8 *) VARDATA(result), PG_SHA256_DIGEST_LENGTH) < 0)
        elog(ERROR, "could not compute a sha256: %s", pg_cryptohash_error(hash));
    pg_cryptohash_free(hash);
    return result;
}

/*
 * The caller's run of that hash that is queued, running or done, in the wanted study or in none (it is then
 * put into the wanted one); 0: there is none.  Without a wanted study any will do.  A worker is started for
 * one that has not ended: perhaps the server was, since it was queued.
 */
static int64 existing_run(const struct submission *s, Datum hash)
{
    Oid types[] = {BYTEAOID, NAMEOID, TEXTOID};
    Datum values[] = {hash, CStringGetDatum(tlaw_caller_name()),
                      s->study ? CStringGetTextDatum(s->study) : 0};
    const char *nulls = s->study ? "   " : "  n";
    int64 run_id;
    bool null;

    if (tlaw_execute(
            SPI_OK_SELECT,
            "SELECT run_id, status = 'done', study FROM @.tlaw_run WHERE spec_hash = $1 AND owner = $2"
            " AND status IN ('queued', 'running', 'done')"
            " AND ($3 IS NULL OR study IS NULL OR study = $3) ORDER BY study IS NULL, run_id LIMIT 1",
            3, types, values, nulls) == 0)
        return 0;
    run_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null)))
        queue_note_submit();
    (void) SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &null);
    if (null && s->study) {
        types[0] = INT8OID;
        values[0] = Int64GetDatum(run_id);
        tlaw_execute(SPI_OK_UPDATE, "UPDATE @.tlaw_run SET study = $3 WHERE run_id = $1", 3, types, values,
                     NULL);
    }
    return run_id;
}

struct row_builder {
    StringInfoData columns, places;
    int count;
    Oid types[80];
    Datum values[80];
    char nulls[80];
};

static void add(struct row_builder *row, const char *column, Oid type, Datum value, bool null)
{
    Assert(row->count < lengthof(row->types));
    row->types[row->count] = type;
    row->values[row->count] = value;
    row->nulls[row->count++] = null ? 'n' : ' ';
    appendStringInfo(&row->columns, "%s%s", row->count > 1 ? ", " : "", column);
    appendStringInfo(&row->places, "%s$%d", row->count > 1 ? ", " : "", row->count);
}

static void add_spec(struct row_builder *row, const struct tlaw_spec *spec)
{
    int i;

    for (i = 0; i < run_field_count; i++) {
        const char *field = (const char *) spec + run_fields[i].offset;

        if (run_fields[i].type == RUN_COUNT)
            add(row, run_fields[i].name, INT8OID, Int64GetDatum(*(const int64_t *) field), false);
        else if (run_fields[i].type == RUN_NUMBER)
            add(row, run_fields[i].name, FLOAT8OID, Float8GetDatum(*(const double *) field), false);
        else
            add(row, run_fields[i].name, TEXTOID, CStringGetTextDatum(field), false);
    }
}

/* Inserts the queued run; 0 when somebody else's transaction has just queued the same. */
static int64 insert_run(const struct submission *s, Datum hash)
{
    const struct tlaw_spec *spec = &s->spec;
    struct row_builder row = {.count = 0};
    bool null;

    initStringInfo(&row.columns);
    initStringInfo(&row.places);
    add(&row, "owner", NAMEOID, CStringGetDatum(tlaw_caller_name()), false);
    add(&row, "study", TEXTOID, s->study ? CStringGetTextDatum(s->study) : 0, s->study == NULL);
    add(&row, "corpus", TEXTOID, CStringGetTextDatum(s->corpus), false);
    add(&row, "spec_hash", BYTEAOID, hash, false);
    add(&row, "status", TEXTOID, CStringGetTextDatum("queued"), false);
    add(&row, "again", BOOLOID, BoolGetDatum(s->again), false);
    add(&row, "threads", INT4OID, Int32GetDatum(s->threads), s->threads == 0);
    add(&row, "priority", INT4OID, Int32GetDatum(s->priority), false);
    add(&row, "memory", INT8OID, Int64GetDatum(tlaw_spec_memory(spec)), false);
    add(&row, "n_params", INT8OID, Int64GetDatum(tlaw_spec_params(spec)), false);
    add(&row, "n_params_non_embedding", INT8OID, Int64GetDatum(tlaw_spec_params_non_embedding(spec)), false);
    add(&row, "tokens_seen", INT8OID, Int64GetDatum((int64) tokens_seen(spec)), false);
    add(&row, "epochs", FLOAT8OID, Float8GetDatum(tokens_seen(spec) / (double) spec->train_tokens), false);
    add(&row, "flops", FLOAT8OID, Float8GetDatum(tlaw_spec_flops(spec)), false);
    add(&row, "queue_identifier", INT8OID, Int64GetDatum(queue_identifier()), false);
    add(&row, "code_version", TEXTOID, CStringGetTextDatum(TLAW_VERSION), false);
    add_spec(&row, spec);
    tlaw_execute(
        SPI_OK_INSERT_RETURNING,
        psprintf("INSERT INTO @.tlaw_run (%s) VALUES (%s)"
                 " ON CONFLICT (owner, spec_hash, (coalesce(study, '')))"
                 " WHERE NOT again AND status IN ('queued', 'running', 'done') DO NOTHING RETURNING run_id",
                 row.columns.data, row.places.data),
        row.count, row.types, row.values, row.nulls);
    if (SPI_processed == 0)
        return 0;
    return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
}

Datum tlaw_train(PG_FUNCTION_ARGS)
{
    struct tlaw_session session;
    struct submission s;
    int64 run_id = 0;
    Datum hash;

    PreventCommandIfReadOnly("tlaw_train()");
    read_arguments(fcinfo, &s);
    s.submits = true;
    tlaw_begin(&session);
    resolve(&s);
    check_memory(&s.spec);
    if (s.study)
        study_use(s.study);
    hash = PointerGetDatum(spec_hash(&s));
    if (!s.again)
        run_id = existing_run(&s, hash);
    if (run_id == 0) {
        run_id = insert_run(&s, hash);
        if (run_id == 0)
            run_id = existing_run(&s, hash);
        else
            queue_note_submit();
    }
    if (run_id == 0)
        ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                        errmsg("the same run was queued by a transaction that this one cannot see")));
    tlaw_end(&session);
    PG_RETURN_INT64(run_id);
}

/* ---- tlaw_estimate ---- */

/* How often the specification scores its validation tokens, at most. */
static double evaluations(const struct tlaw_spec *spec)
{
    if (spec->eval_interval > 0)
        return floor((double) spec->steps / (double) spec->eval_interval) + 2;
    return fmin((double) spec->eval_points, (double) spec->steps) + 1;
}

Datum tlaw_estimate(PG_FUNCTION_ARGS)
{
    struct tlaw_session session;
    struct submission s;
    TupleDesc columns;
    Datum values[18];
    bool nulls[18] = {false};
    int i = 0;

    if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE ||
        columns->natts != lengthof(values))
        elog(ERROR, "tlaw_estimate must return a row of %d columns", (int) lengthof(values));
    read_arguments(fcinfo, &s);
    tlaw_begin(&session);
    resolve(&s);
    tlaw_end(&session);
    values[i++] = Int64GetDatum(tlaw_spec_params(&s.spec));
    values[i++] = Int64GetDatum(tlaw_spec_params_non_embedding(&s.spec));
    values[i++] = Int64GetDatum(s.spec.train_tokens);
    values[i++] = Int64GetDatum((int64) tokens_seen(&s.spec));
    values[i++] = Float8GetDatum(tokens_seen(&s.spec) / (double) s.spec.train_tokens);
    values[i++] = Int64GetDatum(s.spec.steps);
    values[i++] = Int64GetDatum(s.spec.batch_size);
    values[i++] = Int64GetDatum(s.spec.micro_batch);
    values[i++] = Float8GetDatum(s.spec.learning_rate);
    values[i++] = Int64GetDatum(s.spec.warmup_steps);
    values[i++] = Float8GetDatum(s.spec.weight_decay);
    values[i++] = Int64GetDatum(s.spec.eval_tokens);
    values[i++] = CStringGetTextDatum(s.spec.device);
    values[i++] = CStringGetTextDatum(s.spec.isa);
    values[i++] = CStringGetTextDatum(s.spec.precision);
    values[i++] = Float8GetDatum(tlaw_spec_flops(&s.spec));
    values[i++] = Int64GetDatum(tlaw_spec_memory(&s.spec));
    if (fits(&s.spec)) {
        struct tlaw_estimated_message engine = ask_engine(&s.spec, s.threads);
        double scored = evaluations(&s.spec) * (double) s.spec.eval_tokens + (double) s.test_tokens;

        values[i] = Float8GetDatum(engine.seconds_per_step * (double) s.spec.steps +
                                   engine.seconds_per_eval_token * scored);
    } else {
        nulls[i] = true;
        ereport(NOTICE,
                (errmsg("tlaw_train would refuse this run: it needs " INT64_FORMAT " MB of memory, and %s",
                        (tlaw_spec_memory(&s.spec) >> 20) + 1, memory_limit(&s.spec))));
    }
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, nulls));
}

/* ---- tlaw_log_series ---- */

struct log_series {
    double low, high;
    int64 n;
};

/* An end of a series: whole, as sizes and FLOPs are. */
static double end_argument(const char *name, float8 value, double low)
{
    if (!(value >= low && value <= 1e300 && value == floor(value)))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("%s must be a whole number from %.16g to 1e300, not %s", name, low,
                               float8out_internal(value))));
    return value;
}

Datum tlaw_log_series(PG_FUNCTION_ARGS)
{
    FuncCallContext *call;
    struct log_series *series;
    double share, size;

    if (SRF_IS_FIRSTCALL()) {
        call = SRF_FIRSTCALL_INIT();
        series = MemoryContextAlloc(call->multi_call_memory_ctx, sizeof(*series));
        series->low = end_argument("lo", PG_GETARG_FLOAT8(0), 1);
        series->high = end_argument("hi", PG_GETARG_FLOAT8(1), series->low);
        series->n =
            tlaw_count_argument("n", PG_GETARG_FLOAT8(2), series->low == series->high ? 1 : 2, 1000000);
        call->user_fctx = series;
    }
    call = SRF_PERCALL_SETUP();
    series = call->user_fctx;
    if (call->call_cntr >= (uint64) series->n)
        SRF_RETURN_DONE(call);
    if (call->call_cntr == 0)
        SRF_RETURN_NEXT(call, Float8GetDatum(series->low));
    if (call->call_cntr == (uint64) series->n - 1)
        SRF_RETURN_NEXT(call, Float8GetDatum(series->high));
    share = (double) call->call_cntr / (double) (series->n - 1);
    size = rint(series->low * exp(share * log(series->high / series->low)));
    if (share > 0 && size > TLAW_MAX_SEED) /* no longer exact: 1e17, not 1.000000000000001e17 */
        size = fmin(fmax(strtod(psprintf("%.12g", size), NULL), series->low), series->high);
    SRF_RETURN_NEXT(call, Float8GetDatum(size));
}
