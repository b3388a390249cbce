/*
 * The theory put to the test: predictions, a study's primary analysis frozen before its runs, the verdict.
 */
#include "law.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "study.h"
#include "../kernels/stats/dimension.h"
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

    for (i = 0; i < lengthof(names); i++)
        if (names[i])
            tlaw_not_null(fcinfo, i, names[i]);
    for (i = 0; i < lengthof(names); i++)
        values[i] = PG_GETARG_DATUM(i);
    law_form_argument(law_text_argument(fcinfo, 1));
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
    bool found;
    char *form, *metric, *x, *y;
    double smoothness, level, tolerance;
};

/* The frozen analysis of a study; .found false when there is none. */
static struct plan read_plan(const struct law_source *source)
{
    struct plan plan = {.smoothness = 1, .level = 0.95, .tolerance = 0.02};
    MemoryContext context = source->context, old;
    struct tlaw_session session;
    Oid type = TEXTOID;
    Datum value = CStringGetTextDatum(source->source);
    bool null;

    if (!source->is_study)
        return plan;
    tlaw_begin(&session);
    if (tlaw_execute(
            SPI_OK_SELECT,
            "SELECT form, metric, x, y, smoothness, level, tolerance FROM @.tlaw_study_plan WHERE study = $1",
            1, &type, &value, NULL) > 0) {
        HeapTuple row = SPI_tuptable->vals[0];
        TupleDesc descriptor = SPI_tuptable->tupdesc;

        old = MemoryContextSwitchTo(context);
        plan.found = true;
        plan.form = TextDatumGetCString(SPI_getbinval(row, descriptor, 1, &null));
        plan.metric = TextDatumGetCString(SPI_getbinval(row, descriptor, 2, &null));
        plan.x = TextDatumGetCString(SPI_getbinval(row, descriptor, 3, &null));
        plan.y = TextDatumGetCString(SPI_getbinval(row, descriptor, 4, &null));
        plan.smoothness = DatumGetFloat8(SPI_getbinval(row, descriptor, 5, &null));
        plan.level = DatumGetFloat8(SPI_getbinval(row, descriptor, 6, &null));
        plan.tolerance = DatumGetFloat8(SPI_getbinval(row, descriptor, 7, &null));
        MemoryContextSwitchTo(old);
    }
    tlaw_end(&session);
    return plan;
}

static const char *verdict_text(const struct tlaw_theory_test *test)
{
    switch (test->verdict) {
    case TLAW_VIOLATES:
        return "violates: the loss falls more slowly than the bound";
    case TLAW_STEEPER:
        return "consistent (steeper): the loss falls faster than the bound asks";
    case TLAW_TIGHT:
        return "tight: equal within the tolerance";
    default:
        return "undecided";
    }
}

/* A curved line's slope says nothing about the excess risk: the loss that cannot be reduced hides in it. */
static bool slope_is_apparent(const struct tlaw_fit *fit)
{
    return fit->form == TLAW_POWER_LAW && fit->curvature_p < 0.05;
}

static char *needed_text(const struct tlaw_theory_test *test, const struct tlaw_fit *fit)
{
    double half = fmax(test->alpha_high - test->alpha, test->alpha - test->alpha_low);

    if (slope_is_apparent(fit))
        return psprintf(
            "the line is curved in log-log (p = %.2g): alpha is an apparent slope, an irreducible loss "
            "makes it too small",
            fit->curvature_p);
    if (test->verdict != TLAW_UNDECIDED)
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

static void put_test(ReturnSetInfo *result, const char *analysis, const char *metric,
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
    Datum values[20];
    bool nulls[20] = {false};
    int i;

    values[0] = CStringGetTextDatum(analysis);
    values[1] = CStringGetTextDatum(tlaw_form_info(fit->form)->name);
    tlaw_set_text(values, nulls, 2, request->x ? request->x : "x");
    tlaw_set_text(values, nulls, 3, metric);
    for (i = 0; i < 14; i++)
        tlaw_set_number(values, nulls, 4 + i, tested || i < 5 ? numbers[i] : NAN);
    tlaw_set_text(values, nulls, 18, tested && !slope_is_apparent(fit) ? verdict_text(test) : "undecided");
    tlaw_set_text(values, nulls, 19,
                  tested            ? needed_text(test, fit)
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
    const char *metric;
    struct tlaw_theory_test test;
};

static void test_form(ReturnSetInfo *result, const struct law_source *source,
                      const struct test_arguments *arguments, enum tlaw_form form)
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
    test.alpha = fit.natural[alpha];
    test.alpha_low = fit.low[alpha];
    test.alpha_high = fit.high[alpha];
    test.alpha_df = fit.df;
    primary = plan->found && strcmp(plan->form, tlaw_form_info(form)->name) == 0 &&
              strcmp(plan->x, request.x ? request.x : "") == 0 && strcmp(plan->y, request.y) == 0 &&
              arguments->metric && strcmp(plan->metric, arguments->metric) == 0 &&
              plan->level == test.level && plan->smoothness == test.smoothness &&
              plan->tolerance == test.tolerance;
    tested = fit.converged && tlaw_test_theory(&test);
    put_test(result, primary ? "primary" : "exploratory", arguments->metric, &request, &fit, &test, tested);
    MemoryContextDelete(context);
}

static double number_or(FunctionCallInfo fcinfo, int i, const char *name, double missing, double low,
                        double high)
{
    return PG_ARGISNULL(i) ? missing : tlaw_number_argument(name, PG_GETARG_FLOAT8(i), low, high);
}

/* (source, dimension, dimension_se, metric, x, y, cluster, smoothness, level, tolerance) */
Datum tlaw_theory_test(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
    struct test_arguments a = {0};
    struct law_source *source;

    tlaw_not_null(fcinfo, 0, "source");
    tlaw_not_null(fcinfo, 1, "dimension");
    tlaw_not_null(fcinfo, 2, "dimension_se");
    InitMaterializedSRF(fcinfo, 0);
    source = law_open(law_text_argument(fcinfo, 0));
    a.plan = read_plan(source);
    a.test.dimension = tlaw_number_argument("dimension", PG_GETARG_FLOAT8(1), 1e-6, 1e9);
    a.test.dimension_se = tlaw_number_argument("dimension_se", PG_GETARG_FLOAT8(2), 0, 1e9);
    a.metric = PG_ARGISNULL(3) ? a.plan.metric : law_text_argument(fcinfo, 3);
    if (a.metric)
        check_name("metric", a.metric, tlaw_metric_find(a.metric) >= 0,
                   "'euclidean', 'cosine' or 'angular'.");
    a.request.x = PG_ARGISNULL(4) ? a.plan.x : law_text_argument(fcinfo, 4);
    if (a.request.x == NULL)
        a.request.x = law_first_column(source, (const char *const[]){"x", "train_tokens"}, 2);
    a.request.y = PG_ARGISNULL(5) ? a.plan.y : law_text_argument(fcinfo, 5);
    a.request.cluster = law_text_argument(fcinfo, 6);
    a.test.smoothness = number_or(fcinfo, 7, "smoothness", a.plan.smoothness, 1e-6, 1e6);
    a.test.level = number_or(fcinfo, 8, "level", a.plan.level, 0.5, 0.9999);
    a.test.tolerance = number_or(fcinfo, 9, "tolerance", a.plan.tolerance, 0, 10);
    a.test.theory = theory_of(a.request.x);
    test_form(result, source, &a, TLAW_POWER_LAW_OFFSET);
    test_form(result, source, &a, TLAW_POWER_LAW);
    if (a.plan.found && strcmp(a.plan.form, "power_law") != 0 && strcmp(a.plan.form, "power_law_offset") != 0)
        test_form(result, source, &a, law_form_argument(a.plan.form));
    law_close(source);
    return (Datum) 0;
}
