/*
 * The theory put to the test: predictions, a study's primary analysis frozen before its runs, the verdict.
 */
#include "law.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "study.h"
#include "../kernels/stats/dimension.h"
#include "../kernels/stats/distributions.h"
#include "../kernels/stats/fit_theory.h"

PG_FUNCTION_INFO_V1(tlaw_theory);
PG_FUNCTION_INFO_V1(tlaw_create_study);
PG_FUNCTION_INFO_V1(tlaw_theory_test);

/* (dimension, smoothness) */
Datum tlaw_theory(PG_FUNCTION_ARGS)
{
    double dimension = tlaw_number_argument("dimension", PG_GETARG_FLOAT8(0), 1e-6, 1e9);
    double smoothness = tlaw_number_argument("smoothness", PG_GETARG_FLOAT8(1), 1e-6, 1e6);
    TupleDesc descriptor;
    Datum values[3];
    bool nulls[3] = {false, false, false};

    if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE || descriptor->natts != 3)
        elog(ERROR, "the result is not what this version of tlaw expects");
    values[0] = Float8GetDatum(tlaw_theory_exponent(TLAW_THEORY_DATA, dimension, smoothness));
    values[1] = Float8GetDatum(tlaw_theory_exponent(TLAW_THEORY_PARAMS, dimension, smoothness));
    values[2] = Float8GetDatum(4 / dimension);
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}

/* ---- studies ---- */

static void check_name(const char *argument, const char *name, bool known, const char *hint)
{
    if (!known)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("%s: \"%s\" is not one", argument, name), errhint("%s", hint)));
}

/* Error when the study has runs or a frozen analysis: it is too late to plan. Between tlaw_begin and
 * tlaw_end. */
static void require_fresh(const char *study)
{
    Oid type = TEXTOID;
    Datum value = CStringGetTextDatum(study);

    if (tlaw_execute(SPI_OK_SELECT, "SELECT FROM @.tlaw_run WHERE study = $1 LIMIT 1", 1, &type, &value,
                     NULL) > 0)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("study \"%s\" has runs already", study),
                        errdetail("An analysis is primary only when it was frozen before the runs."),
                        errhint("Plan under another name; analyses of this study stay exploratory.")));
    if (tlaw_execute(SPI_OK_SELECT, "SELECT FROM @.tlaw_study_plan WHERE study = $1", 1, &type, &value,
                     NULL) > 0)
        ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT), errmsg("study \"%s\" is frozen already", study)));
}

/* Error unless x and y are numeric columns of tlaw_runs. Between tlaw_begin and tlaw_end. */
static void check_columns(const char *x, const char *y)
{
    int i;

    tlaw_execute(SPI_OK_SELECT, "SELECT * FROM @.tlaw_runs LIMIT 0", 0, NULL, NULL, NULL);
    for (i = 0; i < 2; i++) {
        int number = SPI_fnumber(SPI_tuptable->tupdesc, i ? y : x);
        Oid type = number > 0 ? SPI_gettypeid(SPI_tuptable->tupdesc, number) : InvalidOid;

        check_name(i ? "y" : "x", i ? y : x, type == INT4OID || type == INT8OID || type == FLOAT8OID,
                   "Numeric columns of tlaw_runs, such as train_tokens and test_loss, are accepted.");
    }
}

/* Error unless the caller may use the run. Between tlaw_begin and tlaw_end. */
static void check_run(int64 run_id)
{
    Oid type = INT8OID;
    Datum value = Int64GetDatum(run_id);

    if (tlaw_execute(SPI_OK_SELECT, "SELECT owner FROM @.tlaw_run WHERE run_id = $1 FOR SHARE", 1, &type,
                     &value, NULL) == 0)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("run: there is no run " INT64_FORMAT, run_id),
                 errhint("Give a run of yours in tlaw_runs, or NULL: the study's run on the most data.")));
    tlaw_require_owner(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1), "run",
                       psprintf(INT64_FORMAT, run_id));
}

/* (name, law, estimator, metric, layer, run, x, y, smoothness, level, tolerance) */
Datum tlaw_create_study(PG_FUNCTION_ARGS)
{
    static const char *const names[] = {"name", "law", "estimator",  "metric", "layer",    NULL,
                                        "x",    "y",   "smoothness", "level",  "tolerance"};
    Oid types[11] = {TEXTOID, TEXTOID, TEXTOID,   TEXTOID,   INT4OID,  INT8OID,
                     TEXTOID, TEXTOID, FLOAT8OID, FLOAT8OID, FLOAT8OID};
    Datum values[11];
    char nulls[12] = "           ", *estimator, *metric;
    struct tlaw_session session;
    int i;

    PreventCommandIfReadOnly("tlaw_create_study()");
    for (i = 0; i < lengthof(names); i++)
        if (names[i])
            tlaw_not_null(fcinfo, i, names[i]);
    for (i = 0; i < lengthof(names); i++)
        values[i] = PG_GETARG_DATUM(i);
    law_form_argument("law", law_text_argument(fcinfo, 1));
    estimator = law_text_argument(fcinfo, 2);
    metric = law_text_argument(fcinfo, 3);
    check_name("estimator", estimator, tlaw_estimator_find(estimator) >= 0,
               "Those of tlaw_intrinsic_dimension, such as 'levina_bickel', are accepted.");
    check_name("metric", metric, tlaw_metric_find(metric) >= 0, "'euclidean', 'cosine' or 'angular'.");
    values[4] = Int32GetDatum((int32) tlaw_count_argument("layer", PG_GETARG_FLOAT8(4), -1, 1000));
    nulls[5] = PG_ARGISNULL(5) ? 'n' : ' ';
    tlaw_number_argument("smoothness", PG_GETARG_FLOAT8(8), 1e-6, 1e6);
    tlaw_number_argument("level", PG_GETARG_FLOAT8(9), 0.5, 0.9999);
    tlaw_number_argument("tolerance", PG_GETARG_FLOAT8(10), 0, 10);
    tlaw_begin(&session);
    check_columns(law_text_argument(fcinfo, 6), law_text_argument(fcinfo, 7));
    if (!PG_ARGISNULL(5))
        check_run(PG_GETARG_INT64(5));
    study_use(law_text_argument(fcinfo, 0));
    require_fresh(law_text_argument(fcinfo, 0));
    tlaw_execute(SPI_OK_INSERT,
                 "INSERT INTO @.tlaw_study_plan (study, form, estimator, metric, layer, run_id, x, y, "
                 "smoothness, level, "
                 "tolerance) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                 11, types, values, nulls);
    tlaw_end(&session);
    PG_RETURN_VOID();
}

/* ---- the test ---- */

struct plan {
    bool found, has_run;
    char *form, *estimator, *metric, *x, *y;
    int layer; /* -1: the last block's output */
    int64 run;
    double smoothness, level, tolerance;
};

/* A dimension to test against: given by hand, or measured of a run of the study. */
struct measured {
    const char *metric, *how;    /* how: estimator and protocol */
    double dimension, low, high; /* with its interval at the test's level */
    bool planned;                /* measured as the study's plan says */
    bool scaled;                 /* no one dimension explains the readings over scales */
    bool in_interval;            /* which the interval holds */
    bool plateau_known;
};

/* The frozen analysis of a study; .found false when there is none. */
static struct plan read_plan(const struct law_source *source)
{
    struct plan plan = {.layer = -1, .smoothness = 1, .level = 0.95, .tolerance = 0.02};
    char **texts[5] = {&plan.form, &plan.metric, &plan.x, &plan.y, &plan.estimator};
    double *numbers[3] = {&plan.smoothness, &plan.level, &plan.tolerance};
    struct tlaw_session session;
    Oid type = TEXTOID;
    Datum value = CStringGetTextDatum(source->source);
    bool null;
    int i;

    if (!source->is_study)
        return plan;
    tlaw_begin(&session);
    if (tlaw_execute(SPI_OK_SELECT,
                     "SELECT form, metric, x, y, estimator, smoothness, level, tolerance, layer, run_id "
                     "FROM @.tlaw_study_plan WHERE study = $1",
                     1, &type, &value, NULL) > 0) {
        HeapTuple row = SPI_tuptable->vals[0];
        TupleDesc descriptor = SPI_tuptable->tupdesc;

        for (i = 0; i < 5; i++)
            *texts[i] = MemoryContextStrdup(source->context, SPI_getvalue(row, descriptor, 1 + i));
        for (i = 0; i < 3; i++)
            *numbers[i] = DatumGetFloat8(SPI_getbinval(row, descriptor, 6 + i, &null));
        plan.found = true;
        plan.layer = DatumGetInt32(SPI_getbinval(row, descriptor, 9, &null));
        plan.run = DatumGetInt64(SPI_getbinval(row, descriptor, 10, &null));
        plan.has_run = !null;
    }
    tlaw_end(&session);
    return plan;
}

/* Row i of what measured_dimensions found; intervals of 95 % become ones of `level`, symmetric or not in ln d
 * alike. */
static struct measured measured_row(const struct law_source *source, const struct plan *plan, double level,
                                    uint64 i)
{
    HeapTuple row = SPI_tuptable->vals[i];
    TupleDesc descriptor = SPI_tuptable->tupdesc;
    double wider = tlaw_normal_quantile(0.5 + 0.5 * level) / tlaw_normal_quantile(0.975), end;
    bool null, exclude = DatumGetBool(SPI_getbinval(row, descriptor, 4, &null));
    char *estimator = SPI_getvalue(row, descriptor, 2), *how;
    bool batches = strcmp(SPI_getvalue(row, descriptor, 3), "batches") == 0;
    bool paper = strcmp(estimator, "levina_bickel") == 0;
    struct measured found;

    how = psprintf("%s, %s", estimator,
                   batches   ? "mean over batches"
                   : exclude ? "pooled, neighbours from other documents"
                             : "pooled");
    found.metric = MemoryContextStrdup(source->context, SPI_getvalue(row, descriptor, 1));
    found.how = MemoryContextStrdup(source->context, how);
    found.dimension = DatumGetFloat8(SPI_getbinval(row, descriptor, 5, &null));
    end = DatumGetFloat8(SPI_getbinval(row, descriptor, 6, &null));
    found.low = found.dimension * pow(end / found.dimension, wider);
    end = DatumGetFloat8(SPI_getbinval(row, descriptor, 7, &null));
    found.high = found.dimension * pow(end / found.dimension, wider);
    found.scaled = !DatumGetBool(SPI_getbinval(row, descriptor, 8, &null)) && !null;
    found.plateau_known = !null;
    found.in_interval = strcmp(estimator, tlaw_estimator_name(TLAW_ESTIMATOR_CALIBRATED)) == 0;
    found.planned = plan->found && strcmp(plan->estimator, estimator) == 0 &&
                    strcmp(plan->metric, found.metric) == 0 && (paper ? batches : !batches && exclude);
    return found;
}

/*
 * The dimensions that were measured of the planned run, or of the study's run on the most data: at the
 * planned layer, every metric and protocol.  As planned: the paper's protocol (batches) for its estimator,
 * else all points at once with neighbours from other documents only.
 */
static struct measured *measured_dimensions(const struct law_source *source, const struct plan *plan,
                                            double level, int *n)
{
    Oid types[3] = {TEXTOID, INT8OID, INT4OID};
    Datum values[3];
    char nulls[3] = {' ', plan->has_run ? ' ' : 'n', ' '};
    struct measured *found;
    int i;

    values[0] = CStringGetTextDatum(source->source);
    values[1] = Int64GetDatum(plan->run);
    values[2] = Int32GetDatum(plan->layer);
    *n = !source->is_study
             ? 0
             : (int) tlaw_execute(
                   SPI_OK_SELECT,
                   "SELECT d.metric, d.estimator, d.protocol, d.exclude_document, d.dimension, "
                   "d.dimension_low, d.dimension_high, d.plateau "
                   "FROM @.tlaw_run_dimensions d JOIN @.tlaw_runs r USING (run_id) "
                   "WHERE d.run_id = COALESCE($2, (SELECT e.run_id FROM @.tlaw_run_dimensions e "
                   "JOIN @.tlaw_runs s USING (run_id) WHERE s.study = $1 "
                   "ORDER BY s.train_tokens DESC NULLS LAST, e.run_id LIMIT 1)) "
                   "AND d.layer = CASE WHEN $3 < 0 THEN r.n_layer ELSE $3 END AND NOT d.untrained "
                   "AND d.protocol IN ('batches', 'pooled') AND d.dimension > 0 AND d.dimension_low <= "
                   "d.dimension_high "
                   "ORDER BY 3, 4, 2, 1",
                   3, types, values, nulls);
    if (*n == 0)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("no dimension was measured for \"%.100s\"", source->source),
                 errhint("Measure %s with tlaw_run_dimension, or give dimension => and dimension_se =>.",
                         plan->has_run ? psprintf("run " INT64_FORMAT ", which its plan names,", plan->run)
                                       : "one of its runs")));
    found = MemoryContextAlloc(source->context, sizeof(*found) * *n);
    for (i = 0; i < *n; i++)
        found[i] = measured_row(source, plan, level, i);
    return found;
}

/* The bound is on the excess risk: a form without an irreducible loss speaks of it only if there is none. */
static const char *verdict_text(const struct tlaw_theory_test *test, const struct tlaw_fit *fit)
{
    const char *condition = tlaw_form_info(fit->form)->irreducible < 0 ? " if the irreducible loss is 0" : "";

    switch (test->verdict) {
    case TLAW_VIOLATES:
        return psprintf("violates%s: the loss falls more slowly than the bound", condition);
    case TLAW_STEEPER:
        return "consistent (steeper): the loss falls faster than the bound asks";
    case TLAW_TIGHT:
        return psprintf("tight%s: equal within the tolerance", condition);
    default:
        return "undecided";
    }
}

/* No verdict where the slope, or the dimension beyond its interval, is not what the theorem speaks of: the
 * exponent of a form that the rows do not follow says nothing about the excess risk; of a line that is curved
 * it is too small, because the loss that cannot be reduced hides in it.  The fit's message says so. */
static bool decidable(const struct tlaw_fit *fit, const struct measured *dimension)
{
    return !tlaw_fit_is_refused(fit) && (!dimension->scaled || dimension->in_interval);
}

static char *fit_text(const struct tlaw_theory_test *test, const struct tlaw_fit *fit)
{
    double half = fmax(test->alpha_high - test->alpha, test->alpha - test->alpha_low);

    if (test->verdict != TLAW_UNDECIDED || tlaw_fit_is_refused(fit))
        return fit->message[0] ? pstrdup(fit->message) : NULL;
    if (test->dimension_limits)
        return psprintf(
            "no number of runs decides: the dimension's own error moves the prediction by more than the "
            "tolerance %g; estimate the dimension better",
            test->tolerance);
    return psprintf(
        "alpha is known to +- %.3g; about %.1f times the runs would bring it to where the tolerance %g "
        "decides",
        half, test->runs_factor, test->tolerance);
}

static char *needed_text(const struct tlaw_theory_test *test, const struct tlaw_fit *fit,
                         const struct measured *dimension)
{
    char *text = fit_text(test, fit);

    if (!dimension->scaled)
        return text;
    return psprintf("no plateau: the dimension depends on the scale, which its interval %s%s%s",
                    dimension->in_interval ? "holds" : "does not hold: see that of \"calibrated\"",
                    text ? "; " : "", text ? text : "");
}

static void put_test(ReturnSetInfo *result, const char *analysis, const struct measured *dimension,
                     const struct law_request *request, const struct tlaw_fit *fit,
                     const struct tlaw_theory_test *test, bool tested)
{
    double numbers[14] = {test->smoothness,     test->dimension,
                          test->alpha,          test->alpha_low,
                          test->alpha_high,     test->predicted,
                          test->predicted_low,  test->predicted_high,
                          test->difference,     test->low,
                          test->high,           test->p,
                          test->smoothness_low, test->smoothness_high};
    Datum values[22];
    bool nulls[22] = {false};
    int i;

    values[0] = CStringGetTextDatum(analysis);
    values[1] = CStringGetTextDatum(tlaw_form_info(fit->form)->name);
    tlaw_set_text(values, nulls, 2, request->x ? request->x : "x");
    tlaw_set_text(values, nulls, 3, dimension->metric);
    tlaw_set_text(values, nulls, 4, dimension->how);
    values[5] = BoolGetDatum(!dimension->scaled);
    nulls[5] = !dimension->plateau_known;
    for (i = 0; i < 14; i++)
        tlaw_set_number(values, nulls, 6 + i, tested || i < 5 ? numbers[i] : NAN);
    tlaw_set_text(values, nulls, 20,
                  tested && decidable(fit, dimension) ? verdict_text(test, fit) : "undecided");
    tlaw_set_text(values, nulls, 21,
                  tested            ? needed_text(test, fit, dimension)
                  : fit->message[0] ? psprintf("no finite interval of alpha: %s", fit->message)
                                    : "no finite interval of alpha, or a dimension within its error of 0");
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* The law's variable decides which theorem applies. */
static enum tlaw_theory theory_of(const char *x)
{
    return x && strncmp(x, "n_params", 8) == 0 ? TLAW_THEORY_PARAMS : TLAW_THEORY_DATA;
}

struct test_arguments {
    struct law_request request;
    struct plan plan;
    struct tlaw_theory_test test;
};

static void test_form(ReturnSetInfo *result, const struct law_source *source,
                      const struct test_arguments *arguments, const struct measured *dimension,
                      enum tlaw_form form)
{
    struct law_request request = arguments->request;
    struct tlaw_theory_test test = arguments->test;
    struct tlaw_fit_options options = {
        .level = test.level, .max_iterations = -1, .intervals = true, .delta = 1e-3};
    const struct plan *plan = &arguments->plan;
    int alpha = tlaw_form_info(form)->alpha;
    struct tlaw_host host;
    MemoryContext context = tlaw_law_context(&host);
    struct tlaw_fit fit;
    struct tlaw_row *rows;
    bool primary, tested;
    int64 n;

    rows = law_rows(source, form, &request, &n, NULL);
    tlaw_fit_run(&host, rows, n, form, &options, &fit);
    test.theory = tlaw_form_info(form)->n_variables > 1 ? TLAW_THEORY_PARAMS : theory_of(request.x);
    test.dimension = dimension->dimension;
    test.dimension_low = dimension->low;
    test.dimension_high = dimension->high;
    test.alpha = fit.natural[alpha];
    test.alpha_low = fit.low[alpha];
    test.alpha_high = fit.high[alpha];
    test.alpha_df = fit.df;
    primary = dimension->planned && strcmp(plan->form, tlaw_form_info(form)->name) == 0 &&
              strcmp(plan->x, request.x ? request.x : plan->x) == 0 && strcmp(plan->y, request.y) == 0 &&
              plan->level == test.level && plan->smoothness == test.smoothness &&
              plan->tolerance == test.tolerance;
    tested = fit.converged && tlaw_test_theory(&test);
    put_test(result, primary ? "primary" : "exploratory", dimension, &request, &fit, &test, tested);
    MemoryContextDelete(context);
}

static double number_or(FunctionCallInfo fcinfo, int i, const char *name, double missing, double low,
                        double high)
{
    return PG_ARGISNULL(i) ? missing : tlaw_number_argument(name, PG_GETARG_FLOAT8(i), low, high);
}

/* The dimension of the arguments (dimension, dimension_se, metric) at 1 .. 3, or those that were measured. */
static struct measured *dimension_arguments(FunctionCallInfo fcinfo, const struct law_source *source,
                                            const struct plan *plan, double level, int *n)
{
    struct measured *given;
    double error;

    if (PG_ARGISNULL(1) != PG_ARGISNULL(2))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("dimension and dimension_se go together"),
                 errhint("Give both (dimension_se => 0 where it is known), or neither: then what "
                         "tlaw_run_dimension found is taken.")));
    if (PG_ARGISNULL(1))
        return measured_dimensions(source, plan, level, n);
    given = palloc0(sizeof(*given));
    given->dimension = tlaw_number_argument("dimension", PG_GETARG_FLOAT8(1), 1e-6, 1e9);
    error = tlaw_number_argument("dimension_se", PG_GETARG_FLOAT8(2), 0, 1e9) *
            tlaw_normal_quantile(0.5 + 0.5 * level);
    given->low = given->dimension - error;
    given->high = given->dimension + error;
    given->metric = law_text_argument(fcinfo, 3);
    given->how = "as given";
    if (given->metric)
        check_name("metric", given->metric, tlaw_metric_find(given->metric) >= 0,
                   "'euclidean', 'cosine' or 'angular'.");
    *n = 1;
    return given;
}

/* (source, dimension, dimension_se, metric, x, y, cluster, smoothness, level, tolerance) */
Datum tlaw_theory_test(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
    struct test_arguments a = {0};
    struct law_source *source;
    struct measured *dimensions;
    int n, i;

    tlaw_not_null(fcinfo, 0, "source");
    InitMaterializedSRF(fcinfo, 0);
    source = law_open(law_text_argument(fcinfo, 0));
    a.plan = read_plan(source);
    a.request.x = PG_ARGISNULL(4) ? a.plan.x : law_text_argument(fcinfo, 4);
    a.request.y = PG_ARGISNULL(5) ? a.plan.y : law_text_argument(fcinfo, 5);
    a.request.cluster = law_text_argument(fcinfo, 6);
    a.test.smoothness = number_or(fcinfo, 7, "smoothness", a.plan.smoothness, 1e-6, 1e6);
    a.test.level = number_or(fcinfo, 8, "level", a.plan.level, 0.5, 0.9999);
    a.test.tolerance = number_or(fcinfo, 9, "tolerance", a.plan.tolerance, 0, 10);
    dimensions = dimension_arguments(fcinfo, source, &a.plan, a.test.level, &n);
    for (i = 0; i < n; i++) {
        test_form(result, source, &a, &dimensions[i], TLAW_POWER_LAW_OFFSET);
        test_form(result, source, &a, &dimensions[i], TLAW_POWER_LAW);
        if (a.plan.found && strcmp(a.plan.form, "power_law") != 0 &&
            strcmp(a.plan.form, "power_law_offset") != 0)
            test_form(result, source, &a, &dimensions[i], law_form_argument("law", a.plan.form));
    }
    law_close(source);
    return (Datum) 0;
}
