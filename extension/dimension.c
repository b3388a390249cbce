/*
 * Intrinsic dimension in SQL: the aggregate and the functions over tables.
 *
 * Invariant: the answer does not depend on the order in which points come (they are sorted before anything
 * else), so plans may do as they like.
 */
#include "dimension.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/memutils.h"

#include <math.h>

/* ---- arguments ---- */

static char *name_list(const char *const *names, int count)
{
    StringInfoData out;
    int i;

    initStringInfo(&out);
    for (i = 0; i < count; i++)
        appendStringInfo(&out, "%s\"%s\"", i ? ", " : "", names[i]);
    return out.data;
}

enum tlaw_estimator dimension_estimator(const char *name)
{
    int found = name ? tlaw_estimator_find(name) : TLAW_ESTIMATOR_CALIBRATED;
    const char *names[TLAW_ESTIMATOR_COUNT];
    int i;

    if (found >= 0)
        return found;
    for (i = 0; i < TLAW_ESTIMATOR_COUNT; i++)
        names[i] = tlaw_estimator_name(i);
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("estimator = \"%s\" is not known", name),
                    errhint("There are: %s.", name_list(names, TLAW_ESTIMATOR_COUNT))));
}

enum tlaw_metric dimension_metric(const char *name)
{
    int found = name ? tlaw_metric_find(name) : TLAW_METRIC_EUCLIDEAN;

    if (found >= 0)
        return found;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("metric = \"%s\" is not known", name),
                    errhint("There are: %s.", name_list(tlaw_metric_names, TLAW_METRIC_COUNT))));
}

static char *text_argument(FunctionCallInfo fcinfo, int i)
{
    return PG_NARGS() > i && !PG_ARGISNULL(i) ? text_to_cstring(PG_GETARG_TEXT_PP(i)) : NULL;
}

int dimension_k(FunctionCallInfo fcinfo, int i)
{
    return PG_NARGS() > i && !PG_ARGISNULL(i) ? (int) tlaw_count_argument("k", PG_GETARG_FLOAT8(i), 1, MAX_K)
                                              : 0;
}

/* ---- results ---- */

static Datum known(double value, bool *null)
{
    *null = isnan(value);
    return Float8GetDatum(value);
}

/* The columns of tlaw_dimension_estimate. */
void dimension_columns(const struct tlaw_dimension *d, const struct tlaw_dimension_options *options,
                       Datum *values, bool *nulls)
{
    int i;

    for (i = 0; i < DIMENSION_COLUMNS; i++)
        nulls[i] = false;
    values[0] = known(d->dimension, &nulls[0]);
    values[1] = known(d->standard_error, &nulls[1]);
    values[2] = known(d->low, &nulls[2]);
    values[3] = known(d->high, &nulls[3]);
    values[4] = BoolGetDatum(d->plateau == 1);
    nulls[4] = d->plateau < 0;
    values[5] = Int64GetDatum(d->n);
    values[6] = Int32GetDatum(d->k);
    nulls[6] = d->k == 0;
    values[7] = CStringGetTextDatum(tlaw_metric_names[options->metric]);
    values[8] = CStringGetTextDatum(tlaw_estimator_name(options->estimator));
    values[9] = Int64GetDatum(d->duplicates);
    values[10] = Int64GetDatum(d->ties);
    values[11] = Int64GetDatum(d->zero_distances);
    nulls[9] = nulls[10] = nulls[11] = d->duplicates < 0; /* no neighbours were looked for */
    values[12] = CStringGetTextDatum(d->message);
    nulls[12] = d->message[0] == '\0';
}

static Datum dimension_row(FunctionCallInfo fcinfo, const struct tlaw_dimension *d,
                           const struct tlaw_dimension_options *options)
{
    TupleDesc descriptor;
    Datum values[DIMENSION_COLUMNS];
    bool nulls[DIMENSION_COLUMNS];

    if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "tlaw_dimension_estimate is not a composite type");
    dimension_columns(d, options, values, nulls);
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
}

/* ---- the aggregate ---- */

struct dimension_state {
    struct point_set *points;
    struct tlaw_dimension_options options;
};

/* The options must be the same in every row: they belong to the group. */
static struct tlaw_dimension_options row_options(FunctionCallInfo fcinfo)
{
    struct tlaw_dimension_options options = {0};

    options.estimator = dimension_estimator(text_argument(fcinfo, 2));
    options.k = dimension_k(fcinfo, 3);
    options.metric = dimension_metric(text_argument(fcinfo, 4));
    return options;
}

PG_FUNCTION_INFO_V1(tlaw_dimension_add);
Datum tlaw_dimension_add(PG_FUNCTION_ARGS)
{
    struct dimension_state *state = PG_ARGISNULL(0) ? NULL : (struct dimension_state *) PG_GETARG_POINTER(0);
    struct tlaw_dimension_options options;
    MemoryContext context;

    if (!AggCheckCallContext(fcinfo, &context))
        elog(ERROR, "tlaw_dimension_add was called outside an aggregate");
    options = row_options(fcinfo);
    if (state == NULL) {
        state = MemoryContextAllocZero(context, sizeof *state);
        state->points = point_set_create(context);
        state->options = options;
    }
    if (options.estimator != state->options.estimator || options.k != state->options.k ||
        options.metric != state->options.metric)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("estimator, k and metric must be the same for all points of a group")));
    if (!PG_ARGISNULL(1)) {
        ArrayType *array = PG_GETARG_ARRAYTYPE_P(1);

        point_set_add_array(state->points, array);
        PG_FREE_IF_COPY(array, 1);
    }
    PG_RETURN_POINTER(state);
}

PG_FUNCTION_INFO_V1(tlaw_dimension_finish);
Datum tlaw_dimension_finish(PG_FUNCTION_ARGS)
{
    struct dimension_state *state = PG_ARGISNULL(0) ? NULL : (struct dimension_state *) PG_GETARG_POINTER(0);
    struct tlaw_question question = {0};
    struct tlaw_dimension answer;
    struct asker *asker;

    if (!AggCheckCallContext(fcinfo, NULL))
        elog(ERROR, "tlaw_dimension_finish was called outside an aggregate");
    if (state == NULL) { /* no rows at all: nobody said how */
        answer = (struct tlaw_dimension){.dimension = NAN,
                                         .standard_error = NAN,
                                         .low = NAN,
                                         .high = NAN,
                                         .plateau = -1,
                                         .duplicates = -1,
                                         .message = "no dimension: no points"};
        PG_RETURN_DATUM(dimension_row(fcinfo, &answer, &question.options));
    }
    question.options = state->options;
    asker = asker_open(state->points, 1);
    asker_ask(asker, &question, &answer);
    asker_close(asker);
    PG_RETURN_DATUM(dimension_row(fcinfo, &answer, &question.options));
}

/* ---- the list of estimators ---- */

static const char *const conventions[TLAW_ESTIMATOR_COUNT] = {
    [TLAW_ESTIMATOR_CALIBRATED] =
        "\"mackay\" with k/4 and k neighbours, extrapolated to none: the bias grows with k as simulated "
        "in uniform balls; the interval holds the correction's doubt; k at most n/15 by default; without a "
        "plateau the reading with k/4, and an interval of all readings",
    [TLAW_ESTIMATOR_LEVINA_BICKEL] =
        "mean over points of (k - 1) / sum_{j<k} ln(r_k / r_j); Levina & Bickel 2004; high by "
        "(k - 1) / (k - 2)",
    [TLAW_ESTIMATOR_MACKAY] =
        "inverse of the mean over points of sum_{j<k} ln(r_k / r_j) / (k - 1); MacKay & Ghahramani "
        "2005; scikit-dimension's MLE",
    [TLAW_ESTIMATOR_TWONN] =
        "slope through the origin of -ln(1 - i/n) on ln(r_2 / r_1), largest 10 % dropped; Facco et "
        "al. 2017",
    [TLAW_ESTIMATOR_TWONN_MLE] = "(n - 1) / sum ln(r_2 / r_1)",
    [TLAW_ESTIMATOR_TWONN_BAYES] =
        "(n + 2) / (5 + sum ln(r_2 / r_1)): posterior mean under a Gamma(2, 5) prior; DADApy",
    [TLAW_ESTIMATOR_GRIDE] =
        "maximum likelihood of r_k / r_{k/2}; Denti et al. 2022, exact (DADApy has n - 1 for n)",
    [TLAW_ESTIMATOR_CORRELATION] =
        "slope of ln C(r) between the median distances to the k/2-th and k-th neighbour; "
        "Grassberger & Procaccia 1983, scikit-dimension's CorrInt",
    [TLAW_ESTIMATOR_PCA] = "eigenvalues of the covariance above 5 % of the first; Fukunaga & Olsen 1971",
    [TLAW_ESTIMATOR_LOCAL_PCA] = "the same in every neighbourhood of k + 1 points, averaged",
    [TLAW_ESTIMATOR_PARTICIPATION_RATIO] = "(sum of eigenvalues)^2 / sum of their squares, of the whole set",
    [TLAW_ESTIMATOR_PERSISTENT_HOMOLOGY] =
        "1 / (1 - slope) of ln(length of the minimum spanning tree) on ln n over random "
        "halves, quarters and eighths; Schweinhart 2020",
    [TLAW_ESTIMATOR_MIND] =
        "maximum likelihood of r_1 / r_k; Rozza et al. 2012, MiND_MLk (scikit-dimension counts k - 1)",
    [TLAW_ESTIMATOR_DANCO] =
        "least divergence of norms and angles from uniform balls simulated with as many points; "
        "Ceruti et al. 2014; lists of k, angles of k - 1",
    [TLAW_ESTIMATOR_GEOMLE] =
        "Levina & Bickel at k/2 .. 2k neighbours in 20 bootstraps, extrapolated to radius 0; "
        "Gomtsyan et al. 2019",
};

PG_FUNCTION_INFO_V1(tlaw_estimators);
Datum tlaw_estimators(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
    int i;

    InitMaterializedSRF(fcinfo, 0);
    for (i = 0; i < TLAW_ESTIMATOR_COUNT; i++) {
        int k = tlaw_estimator_usual_k(i);
        Datum values[3] = {CStringGetTextDatum(tlaw_estimator_name(i)), Int32GetDatum(k),
                           CStringGetTextDatum(conventions[i])};
        bool nulls[3] = {false, k == 0, false};

        tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    }
    PG_RETURN_VOID();
}
