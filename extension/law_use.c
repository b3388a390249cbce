/*
 * What a saved fit is asked: predictions, compute-optimal sizes, joint regions, the next run, runs outside
 * its interval; and the power of a planned study.
 */
#include "law.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "../kernels/stats/distributions.h"
#include "../kernels/stats/fit_use.h"

#define FAR 10 /* times beyond the fitted runs: a prediction says so */

PG_FUNCTION_INFO_V1(tlaw_predict);
PG_FUNCTION_INFO_V1(tlaw_compute_optimal);
PG_FUNCTION_INFO_V1(tlaw_joint_region);
PG_FUNCTION_INFO_V1(tlaw_next_run);
PG_FUNCTION_INFO_V1(tlaw_check_runs);
PG_FUNCTION_INFO_V1(tlaw_power);

/* A composite result of numbers, NULL where not known. */
static Datum numbers_row(FunctionCallInfo fcinfo, const double *numbers, int n)
{
    TupleDesc descriptor;
    Datum *values = palloc(sizeof(Datum) * n);
    bool *nulls = palloc(sizeof(bool) * n);
    int i;

    if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE || descriptor->natts != n)
        elog(ERROR, "the result is not what this version of tlaw expects");
    for (i = 0; i < n; i++)
        tlaw_set_number(values, nulls, i, numbers[i]);
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
}

/* Whether a fit is the first that this call in a query asks it of: what is said of fits is said once.  place:
 * 0 or 1, one for each thing that is said. */
static bool first_time(FunctionCallInfo fcinfo, int64 fit_id, int place)
{
    int64 *said = fcinfo->flinfo->fn_extra;

    if (!said)
        said = fcinfo->flinfo->fn_extra = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, 2 * sizeof(*said));
    if (said[place] == fit_id)
        return false;
    said[place] = fit_id;
    return true;
}

/* A fit that stopped short of a minimum predicts nothing. */
static void warn_unconverged(FunctionCallInfo fcinfo, int64 fit_id, const struct tlaw_fit *fit)
{
    if (!fit->converged && first_time(fcinfo, fit_id, 0))
        ereport(WARNING,
                (errmsg("fit: %s has not converged, its predictions cannot be trusted",
                        tlaw_form_info(fit->form)->name),
                 errhint("The message in tlaw_fits says why; more sizes, or a simpler form, may help.")));
}

/* How far beyond the fitted runs the variables are; far: no interval holds the doubt about the form. */
static double extrapolation(FunctionCallInfo fcinfo, const struct tlaw_fit *fit, const double *variables)
{
    double times = tlaw_fit_extrapolation(fit, variables);

    if (times > FAR && first_time(fcinfo, PG_GETARG_INT64(0), 1))
        ereport(
            NOTICE,
            (errmsg("fit: %.0f times beyond the runs that %s was fitted to", times,
                    tlaw_form_info(fit->form)->name),
             errdetail("The interval holds as long as the law does, which runs of that size alone can show."),
             errhint("tlaw_holdout says how well it foretold the largest of these runs.")));
    return times;
}

static void load_fit_argument(FunctionCallInfo fcinfo, struct tlaw_fit *fit,
                              double (**draws)[TLAW_MAX_PARAMS], int *n_draws, struct law_request *request)
{
    tlaw_not_null(fcinfo, 0, "fit");
    law_load(PG_GETARG_INT64(0), fit, draws, n_draws, request);
    if (!fit->fitted)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("fit " INT64_FORMAT " has no parameters, or not all of them", PG_GETARG_INT64(0)),
                 errhint("The message in tlaw_fits says why.")));
    warn_unconverged(fcinfo, PG_GETARG_INT64(0), fit);
}

/* (fit, n_params, n_tokens, unique_tokens, x) */
Datum tlaw_predict(PG_FUNCTION_ARGS)
{
    struct tlaw_fit fit;
    struct tlaw_prediction prediction;
    double variables[TLAW_MAX_VARIABLES];

    load_fit_argument(fcinfo, &fit, NULL, NULL, NULL);
    law_variables(fcinfo, 1, fit.form, variables);
    tlaw_fit_predict(&fit, variables, &prediction);
    return numbers_row(fcinfo,
                       (double[]){prediction.loss, prediction.se, prediction.low, prediction.high,
                                  prediction.run_low, prediction.run_high,
                                  extrapolation(fcinfo, &fit, variables)},
                       7);
}

/* (fit, flops) */
Datum tlaw_compute_optimal(PG_FUNCTION_ARGS)
{
    struct tlaw_fit fit;
    struct tlaw_optimum o;
    struct tlaw_host host;
    double(*draws)[TLAW_MAX_PARAMS], flops, beyond = NAN;
    int n_draws;
    MemoryContext context;

    load_fit_argument(fcinfo, &fit, &draws, &n_draws, NULL);
    tlaw_not_null(fcinfo, 1, "flops");
    flops = tlaw_number_argument("flops", PG_GETARG_FLOAT8(1), 1, 1e60);
    if (tlaw_form_info(fit.form)->n_variables < 2)
        ereport(
            ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("fit: %s is a law of one variable", tlaw_form_info(fit.form)->name),
             errhint("A compute-optimal size needs a law of n_params and n_tokens, such as chinchilla.")));
    context = tlaw_law_context(&host);
    if (!tlaw_fit_optimum(&host, &fit, (const double(*)[TLAW_MAX_PARAMS]) draws, n_draws, flops, &o))
        ereport(NOTICE, (errmsg("fit: no compute-optimal size at %g FLOPs", flops),
                         errdetail("No loss is least between one parameter and one token, or a parameter "
                                   "of %s is not identified.",
                                   tlaw_form_info(fit.form)->name)));
    else
        beyond =
            extrapolation(fcinfo, &fit, (double[]){o.n_params.value, o.n_tokens.value, o.n_tokens.value});
    MemoryContextDelete(context);
    return numbers_row(fcinfo,
                       (double[]){o.n_params.value, o.n_params.low, o.n_params.high, o.n_tokens.value,
                                  o.n_tokens.low, o.n_tokens.high, o.tokens_per_param.value,
                                  o.tokens_per_param.low, o.tokens_per_param.high, o.loss.value, o.loss.low,
                                  o.loss.high, beyond},
                       13);
}

/* Index of a parameter by its stored or its shown name. */
static int parameter_argument(const char *argument, const char *name, enum tlaw_form form)
{
    const struct tlaw_form_info *info = tlaw_form_info(form);
    int j;

    for (j = 0; j < info->n_params; j++)
        if (strcmp(name, info->params[j]) == 0 ||
            (strncmp(info->params[j], "ln_", 3) == 0 && strcmp(name, info->params[j] + 3) == 0))
            return j;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("%s: %s has no parameter \"%s\"", argument, info->name, name),
                    errhint("Column params of tlaw_fits lists them.")));
}

/* The f at which P(F > f) = p. */
static double f_quantile(double p, double df1, double df2)
{
    double low = 0, high = 1;
    int i;

    while (tlaw_f_upper(high, df1, df2) > p && high < 1e300)
        high *= 2;
    for (i = 0; i < 200; i++) {
        double middle = 0.5 * (low + high);

        if (tlaw_f_upper(middle, df1, df2) > p)
            low = middle;
        else
            high = middle;
    }
    return high;
}

/* (fit, first, second, points): the boundary of the joint region, an ellipse in the stored parameters. */
Datum tlaw_joint_region(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
    struct tlaw_fit fit;
    int n, i, j, k, points;
    double a, b, c, radius;
    bool log_i, log_j;

    load_fit_argument(fcinfo, &fit, NULL, NULL, NULL);
    for (k = 1; k < 4; k++)
        tlaw_not_null(fcinfo, k, k == 1 ? "first" : k == 2 ? "second" : "points");
    i = parameter_argument("first", law_text_argument(fcinfo, 1), fit.form);
    j = parameter_argument("second", law_text_argument(fcinfo, 2), fit.form);
    if (i == j)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("second: \"%s\" is the first parameter", law_text_argument(fcinfo, 2)),
                        errhint("A joint region is of two different parameters.")));
    points = (int) tlaw_count_argument("points", PG_GETARG_FLOAT8(3), 4, 10000);
    n = tlaw_form_info(fit.form)->n_params;
    log_i = strncmp(tlaw_form_info(fit.form)->params[i], "ln_", 3) == 0;
    log_j = strncmp(tlaw_form_info(fit.form)->params[j], "ln_", 3) == 0;
    InitMaterializedSRF(fcinfo, 0);
    /* Cholesky factor of the 2 x 2 covariance; with few clusters df - 1 remain for the second direction */
    a = sqrt(fit.covariance[i * n + i]);
    b = fit.covariance[i * n + j] / a;
    c = sqrt(fmax(fit.covariance[j * n + j] - b * b, 0));
    if (!(fit.df > 1) || isnan(a + b + c))
        return (Datum) 0;
    radius = sqrt(2 * fit.df / (fit.df - 1) * f_quantile(1 - fit.level, 2, fit.df - 1));
    for (k = 0; k <= points; k++) {
        double u = radius * cos(2 * M_PI * k / points), v = radius * sin(2 * M_PI * k / points);
        double first = fit.natural[i] + a * u, second = fit.natural[j] + b * u + c * v;
        Datum values[2];
        bool nulls[2] = {false, false};

        values[0] = Float8GetDatum(log_i ? exp(first) : first);
        values[1] = Float8GetDatum(log_j ? exp(second) : second);
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    return (Datum) 0;
}

struct candidate {
    struct tlaw_row row;
    double flops, gain;
};

static int compare_candidates(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    double x = a->gain / a->flops, y = b->gain / b->flops;

    return x > y ? -1 : x < y;
}

/* The candidates of a query: rows without a loss. */
static struct candidate *read_candidates(const char *query, const struct tlaw_fit *fit,
                                         const struct law_request *from, int64 *n)
{
    struct law_source *source;
    struct candidate *candidates;
    struct tlaw_row *rows;
    struct law_request request = {.x = from->x, .cluster = "none", .level = fit->level};
    int64 i, *index;

    if (!law_looks_like_query(query))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("candidates: \"%s\" is not a query", query),
                 errhint("Give a SELECT that returns n_params and n_tokens, or x, of each candidate.")));
    /* a candidate has no loss yet: law_rows gets one that it accepts */
    source = law_open(psprintf(
        "SELECT candidates.*, 1::pg_catalog.float8 AS \"no loss yet\" FROM (%s\n) candidates", query));
    request.y = "no loss yet";
    if (request.x != NULL && !law_has_column(source, request.x))
        request.x = NULL;
    rows = law_rows(source, fit->form, &request, n, &index);
    candidates = MemoryContextAllocHuge(source->context, sizeof(*candidates) * Max(*n, 1));
    for (i = 0; i < *n; i++) {
        candidates[i].row = rows[i];
        candidates[i].flops = law_flops(source, fit->form, &rows[i], index[i]);
    }
    law_close(source);
    return candidates;
}

/* (fit, candidates, n_params, n_tokens, unique_tokens, x): the last four are the target. */
Datum tlaw_next_run(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
    struct law_request request = {0};
    struct tlaw_fit fit;
    struct candidate *candidates;
    double target[TLAW_MAX_VARIABLES], now = NAN;
    int64 n, i;

    load_fit_argument(fcinfo, &fit, NULL, NULL, &request);
    tlaw_not_null(fcinfo, 1, "candidates");
    law_variables(fcinfo, 2, fit.form, target);
    InitMaterializedSRF(fcinfo, 0);
    candidates = read_candidates(law_text_argument(fcinfo, 1), &fit, &request, &n);
    for (i = 0; i < n; i++)
        candidates[i].gain = tlaw_fit_value_of_run(&fit, candidates[i].row.x, target, &now);
    if (n > 0 && isnan(now))
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("fit " INT64_FORMAT " has no covariance", PG_GETARG_INT64(0)),
                        errhint("The message in tlaw_fits says why.")));
    qsort(candidates, n, sizeof(*candidates), compare_candidates);
    for (i = 0; i < n; i++) {
        const struct candidate *c = &candidates[i];
        bool surface = tlaw_form_info(fit.form)->n_variables >= 2;
        Datum values[7];
        bool nulls[7] = {false};

        values[0] = Int64GetDatum(i + 1);
        tlaw_set_number(values, nulls, 1, surface ? c->row.x[0] : NAN);
        tlaw_set_number(values, nulls, 2, surface ? c->row.x[1] : NAN);
        tlaw_set_number(values, nulls, 3, surface ? NAN : c->row.x[0]);
        tlaw_set_number(values, nulls, 4, c->flops);
        tlaw_set_number(values, nulls, 5, sqrt(now - c->gain) / sqrt(now));
        tlaw_set_number(values, nulls, 6, c->gain / now / c->flops);
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    return (Datum) 0;
}

/* (fit, source): every row against the fit's interval for one new run */
Datum tlaw_check_runs(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
    struct law_request request = {0};
    struct law_source *source;
    struct tlaw_fit fit;
    struct tlaw_row *rows;
    double *run_ids = NULL;
    bool *no_run_id = NULL;
    int64 n, i, *index;

    load_fit_argument(fcinfo, &fit, NULL, NULL, &request);
    tlaw_not_null(fcinfo, 1, "source");
    InitMaterializedSRF(fcinfo, 0);
    source = law_open(law_text_argument(fcinfo, 1));
    request.cluster = "none";
    rows = law_rows(source, fit.form, &request, &n, &index);
    if (law_has_column(source, "run_id"))
        run_ids = law_column(source, "source", "run_id", &no_run_id);
    for (i = 0; i < n; i++) {
        struct tlaw_prediction p;
        bool surface = tlaw_form_info(fit.form)->n_variables >= 2;
        Datum values[9];
        bool nulls[9] = {false};

        tlaw_fit_predict(&fit, rows[i].x, &p);
        nulls[0] = run_ids == NULL || no_run_id[index[i]];
        values[0] = nulls[0] ? (Datum) 0 : Int64GetDatum((int64) run_ids[index[i]]);
        tlaw_set_number(values, nulls, 1, surface ? rows[i].x[0] : NAN);
        tlaw_set_number(values, nulls, 2, surface ? rows[i].x[1] : NAN);
        tlaw_set_number(values, nulls, 3, surface ? NAN : rows[i].x[0]);
        values[4] = Float8GetDatum(rows[i].loss);
        tlaw_set_number(values, nulls, 5, p.loss);
        tlaw_set_number(values, nulls, 6, p.run_low);
        tlaw_set_number(values, nulls, 7, p.run_high);
        nulls[8] = isnan(p.run_low);
        values[8] = BoolGetDatum(rows[i].loss < p.run_low || rows[i].loss > p.run_high);
        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    law_close(source);
    return (Datum) 0;
}

/* (sizes, replicates, noise, alpha, irreducible_share, subset_noise, level) */
Datum tlaw_power(PG_FUNCTION_ARGS)
{
    static const char *const names[] = {"sizes", "replicates",   "noise", "alpha",
                                        NULL,    "subset_noise", "level"};
    struct tlaw_plan plan;
    struct tlaw_host host;
    MemoryContext context;
    Datum *datums;
    bool *nulls;
    double *sizes, different[3], se = NAN, df = NAN, half_width = NAN;
    int i, distinct = 0, k; /* distinct: no more than are wanted */

    for (i = 0; i < lengthof(names); i++)
        if (names[i])
            tlaw_not_null(fcinfo, i, names[i]);
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
                      &datums, &nulls, &plan.n_sizes);
    sizes = palloc(sizeof(double) * Max(plan.n_sizes, 1));
    for (i = 0; i < plan.n_sizes; i++) {
        sizes[i] = tlaw_number_argument("sizes", nulls[i] ? NAN : DatumGetFloat8(datums[i]), 1e-300, 1e300);
        for (k = 0; k < distinct && different[k] != sizes[i]; k++)
            ;
        if (k == distinct && distinct < lengthof(different))
            different[distinct++] = sizes[i];
    }
    plan.sizes = sizes;
    plan.replicates = (int) tlaw_count_argument("replicates", PG_GETARG_FLOAT8(1), 1, 1000000);
    plan.noise = tlaw_number_argument("noise", PG_GETARG_FLOAT8(2), 1e-12, 10);
    plan.alpha = tlaw_number_argument("alpha", PG_GETARG_FLOAT8(3), 1e-6, 100);
    plan.irreducible_share =
        PG_ARGISNULL(4) ? -1 : tlaw_number_argument("irreducible_share", PG_GETARG_FLOAT8(4), 0, 0.999999);
    plan.subset_noise = tlaw_number_argument("subset_noise", PG_GETARG_FLOAT8(5), 0, 10);
    plan.level = tlaw_number_argument("level", PG_GETARG_FLOAT8(6), 0.5, 0.9999);
    if (distinct < (plan.irreducible_share < 0 ? 2 : 3))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("sizes: %d different sizes", distinct),
                 errhint("A power law needs 2, one with an irreducible loss 3.")));
    context = tlaw_law_context(&host);
    tlaw_plan_power(&host, &plan, &se, &df, &half_width);
    MemoryContextDelete(context);
    PG_RETURN_DATUM(numbers_row(fcinfo, (double[]){se, df, half_width}, 3));
}
