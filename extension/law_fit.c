/*
 * tlaw_fit: one row a form, everything else in tlaw_fits.
 */
#include "law.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "utils/array.h"
#include "../kernels/stats/distributions.h"
#include "../kernels/stats/fit_bootstrap.h"
#include "../kernels/stats/fit_use.h"

PG_FUNCTION_INFO_V1(tlaw_fit);

enum uncertainty { PROFILE, DELTA, ROW_BOOTSTRAP, CLUSTER_BOOTSTRAP };

#define FEW_CLUSTERS 20

static const char *const uncertainties[] = {"profile", "delta", "row_bootstrap", "cluster_bootstrap"};

struct fit_arguments {
    enum tlaw_form forms[TLAW_FORMS];
    int n_forms, draws;
    enum uncertainty uncertainty;
    int64 seed;
    double *start;
    int n_start, max_iterations;
    struct law_request request;
};

static enum uncertainty uncertainty_argument(const char *name)
{
    int i;

    for (i = 0; i < lengthof(uncertainties); i++)
        if (strcmp(name, uncertainties[i]) == 0)
            return i;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("uncertainty: \"%s\" is not one", name),
                    errhint("'profile', 'delta', 'row_bootstrap' or 'cluster_bootstrap'.")));
}

static bool weights_argument(const char *name)
{
    if (strcmp(name, "equal") != 0 && strcmp(name, "replicates") != 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("weights: \"%s\" is not one", name),
                        errhint("'equal', or 'replicates': by the variance between replicates.")));
    return strcmp(name, "replicates") == 0;
}

static void start_argument(FunctionCallInfo fcinfo, int i, struct fit_arguments *arguments)
{
    Datum *datums;
    bool *nulls;
    int k, n_params = tlaw_form_info(arguments->forms[0])->n_params;

    if (PG_ARGISNULL(i))
        return;
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(i), FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
                      &datums, &nulls, &arguments->n_start);
    if (arguments->n_forms != 1 || arguments->n_start != n_params)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("start: %d numbers for %d forms", arguments->n_start, arguments->n_forms),
                        errhint("Name one form and give its parameters as tlaw_fits shows them; %s has %d.",
                                tlaw_form_info(arguments->forms[0])->name, n_params)));
    arguments->start = palloc(sizeof(double) * TLAW_MAX_PARAMS);
    for (k = 0; k < n_params; k++)
        arguments->start[k] =
            tlaw_number_argument("start", nulls[k] ? NAN : DatumGetFloat8(datums[k]), -1e300, 1e300);
}

/* (source, x, forms, loss, delta, uncertainty, y, cluster, weights, draws, seed, level, start,
 * max_iterations) */
static void read_arguments(FunctionCallInfo fcinfo, struct fit_arguments *arguments)
{
    static const char *const required[] = {"source", NULL, NULL,      NULL,    "delta", "uncertainty",
                                           NULL,     NULL, "weights", "draws", "seed",  "level"};
    int i;

    for (i = 0; i < lengthof(required); i++)
        if (required[i])
            tlaw_not_null(fcinfo, i, required[i]);
    memset(arguments, 0, sizeof(*arguments));
    arguments->n_forms = law_forms_argument(fcinfo, 2, NULL, arguments->forms);
    arguments->request.x = law_text_argument(fcinfo, 1);
    arguments->request.loss = law_loss_argument(law_text_argument(fcinfo, 3));
    arguments->request.delta = tlaw_number_argument("delta", PG_GETARG_FLOAT8(4), 1e-12, 1e12);
    arguments->uncertainty = uncertainty_argument(law_text_argument(fcinfo, 5));
    arguments->request.y = law_text_argument(fcinfo, 6);
    arguments->request.cluster = law_text_argument(fcinfo, 7);
    arguments->request.replicate_weights = weights_argument(law_text_argument(fcinfo, 8));
    arguments->draws = (int) tlaw_count_argument("draws", PG_GETARG_FLOAT8(9), 100, 100000);
    arguments->seed = tlaw_count_argument("seed", PG_GETARG_FLOAT8(10), 0, TLAW_MAX_SEED);
    arguments->request.level = tlaw_number_argument("level", PG_GETARG_FLOAT8(11), 0.5, 0.9999);
    start_argument(fcinfo, 12, arguments);
    arguments->max_iterations =
        PG_ARGISNULL(13) ? -1 : (int) tlaw_count_argument("max_iterations", PG_GETARG_FLOAT8(13), 0, 100000);
    if (arguments->max_iterations >= 0 && arguments->start == NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("max_iterations: %d without a start", arguments->max_iterations),
                        errhint("Give start => too, or leave both out.")));
}

/* sha256 of the prepared rows: logarithms of the variables, loss, cluster, in their order. */
static void hash_rows(const struct tlaw_data *data, uint8 *sha256)
{
    pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
    size_t i;

    if (pg_cryptohash_init(context) < 0)
        elog(ERROR, "sha256: %s", pg_cryptohash_error(context));
    for (i = 0; i < data->n; i++) {
        double numbers[TLAW_MAX_VARIABLES + 2];

        memcpy(numbers, data->x[i], sizeof(*data->x));
        numbers[TLAW_MAX_VARIABLES] = data->loss[i];
        numbers[TLAW_MAX_VARIABLES + 1] = data->clustered ? data->cluster[i] : 0;
        if (pg_cryptohash_update(context, (uint8 *) numbers, sizeof(numbers)) < 0)
            elog(ERROR, "sha256: %s", pg_cryptohash_error(context));
    }
    if (pg_cryptohash_update(context, (const uint8 *) data->centre, sizeof(data->centre)) < 0 ||
        pg_cryptohash_final(context, sha256, PG_SHA256_DIGEST_LENGTH) < 0)
        elog(ERROR, "sha256: %s", pg_cryptohash_error(context));
    pg_cryptohash_free(context);
}

/* An exponent without the rows of the smallest value of variable v; NAN when it cannot be fitted. */
static double without_smallest(const struct tlaw_host *host, const struct tlaw_row *rows, int64 n, int v,
                               int exponent, enum tlaw_form form, const struct tlaw_fit_options *options)
{
    struct tlaw_fit_options plain = *options;
    struct tlaw_row *kept = host->allocate(host->argument, sizeof(*kept) * (n + 1));
    struct tlaw_fit fit;
    double smallest = INFINITY;
    int64 i, n_kept = 0;

    if (exponent < 0)
        return NAN;
    for (i = 0; i < n; i++)
        smallest = fmin(smallest, rows[i].x[v]);
    for (i = 0; i < n; i++)
        if (rows[i].x[v] > smallest)
            kept[n_kept++] = rows[i];
    plain.intervals = false;
    plain.start = NULL;
    plain.max_iterations = -1;
    tlaw_fit_run(host, kept, n_kept, form, &plain, &fit);
    return fit.converged ? fit.natural[exponent] : NAN;
}

static void set_uncertainty(const struct tlaw_host *host, const struct tlaw_data *data,
                            const struct fit_arguments *arguments, struct tlaw_fit *fit,
                            struct tlaw_bootstrap *bootstrap)
{
    int j;

    if (!fit->converged)
        return;
    if (arguments->uncertainty == DELTA && fit->df > 0) {
        double critical = tlaw_student_quantile(0.5 + 0.5 * fit->level, fit->df);

        for (j = 0; j < tlaw_form_info(fit->form)->n_params; j++) {
            fit->low[j] = fit->natural[j] - critical * fit->se[j];
            fit->high[j] = fit->natural[j] + critical * fit->se[j];
        }
    }
    if (arguments->uncertainty < ROW_BOOTSTRAP)
        return;
    bootstrap->by_cluster = arguments->uncertainty == CLUSTER_BOOTSTRAP;
    if (bootstrap->by_cluster && (!data->clustered || data->n_clusters < 2))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("uncertainty: 'cluster_bootstrap' with %d clusters",
                        data->clustered ? data->n_clusters : 0),
                 errhint("Name a column with at least two different values: cluster => 'subset_seed'.")));
    if (bootstrap->by_cluster && data->n_clusters < FEW_CLUSTERS)
        tlaw_fit_say(fit->message, "%d clusters: the bootstrap's interval is too narrow, 'profile' is not",
                     data->n_clusters);
    tlaw_fit_bootstrap(host, data, fit, bootstrap);
    tlaw_fit_use_bootstrap(host, bootstrap, fit);
}

/* Rows of one fit that differ in what its law knows nothing of. */
static void warn_about_mixtures(const struct law_source *source, const struct fit_arguments *arguments)
{
    static const char *const measured[] = {"device", "isa", "precision"};
    const char *x = arguments->request.x ? arguments->request.x : "train_tokens", *other = NULL;
    int i, distinct;

    for (i = 0; i < lengthof(measured); i++)
        if ((distinct = law_distinct(source, measured[i])) > 1)
            ereport(WARNING, (errmsg("one fit over %d values of \"%s\"", distinct, measured[i]),
                              errdetail("Losses measured differently differ by more than noise."),
                              errhint("Fit them apart, or check by hand that they agree.")));
    if ((distinct = law_distinct(source, "corpus")) > 1)
        ereport(WARNING, (errmsg("one fit over %d values of \"corpus\"", distinct),
                          errdetail("Each text has a law of its own."),
                          errhint("Fit them apart: a study each, or an aggregate with GROUP BY corpus.")));
    for (i = 0; i < arguments->n_forms; i++)
        if (tlaw_form_info(arguments->forms[i])->n_variables == 1)
            other = strncmp(x, "n_params", 8) == 0                                    ? "train_tokens"
                    : strcmp(x, "train_tokens") == 0 || strcmp(x, "tokens_seen") == 0 ? "n_params"
                                                                                      : other;
    if (other && (distinct = law_distinct(source, other)) > 1)
        ereport(WARNING, (errmsg("one law in %s over %d values of \"%s\"", x, distinct, other),
                          errdetail("What they change in the loss is taken for noise."),
                          errhint("Fit them apart, or a law of n_params and n_tokens such as chinchilla.")));
}

/* 'primary' where the study's frozen analysis is this one, else 'exploratory'. */
static const char *analysis_label(const struct law_source *source, enum tlaw_form form,
                                  const struct law_request *request)
{
    Oid types[4] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID};
    Datum values[4];
    struct tlaw_session session;
    bool primary;

    if (!source->is_study)
        return "exploratory";
    tlaw_begin(&session);
    values[0] = CStringGetTextDatum(source->source);
    values[1] = CStringGetTextDatum(tlaw_form_info(form)->name);
    values[2] = CStringGetTextDatum(request->x ? request->x : "train_tokens");
    values[3] = CStringGetTextDatum(request->y);
    primary =
        tlaw_execute(SPI_OK_SELECT,
                     "SELECT FROM @.tlaw_study_plan WHERE study = $1 AND form = $2 AND x = $3 AND y = $4", 4,
                     types, values, NULL) > 0;
    tlaw_end(&session);
    return primary ? "primary" : "exploratory";
}

static void put_summary(ReturnSetInfo *result, int64 fit_id, const struct tlaw_fit *fit, double alpha_dropped)
{
    const struct tlaw_form_info *info = tlaw_form_info(fit->form);
    const int params[] = {info->alpha, info->beta, info->irreducible};
    Datum values[17];
    bool nulls[17] = {false};
    int k;

    values[0] = Int64GetDatum(fit_id);
    values[1] = CStringGetTextDatum(info->name);
    for (k = 0; k < lengthof(params); k++) {
        double shown[4];

        tlaw_shown_parameter(fit, fit->fitted ? params[k] : -1, shown);
        tlaw_set_number(values, nulls, 2 + 3 * k, shown[0]);
        tlaw_set_number(values, nulls, 3 + 3 * k, shown[2]);
        tlaw_set_number(values, nulls, 4 + 3 * k, shown[3]);
    }
    values[11] = Int64GetDatum((int64) fit->n);
    values[12] = BoolGetDatum(fit->converged);
    tlaw_set_number(values, nulls, 13, alpha_dropped);
    tlaw_set_number(values, nulls, 14, fit->curvature_p);
    tlaw_set_number(values, nulls, 15, fit->lack_of_fit_p);
    tlaw_set_text(values, nulls, 16, fit->message);
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* What the fit did not see: the study's runs that are not done, rows without a value. */
static void say_left_out(const struct law_source *source, int64 n, struct tlaw_fit *fit)
{
    Oid type = TEXTOID;
    Datum value = CStringGetTextDatum(source->source);
    int unfinished = 0;

    if (source->is_study)
        unfinished =
            tlaw_execute(SPI_OK_SELECT, "SELECT FROM @.tlaw_runs WHERE study = $1 AND status <> 'done'", 1,
                         &type, &value, NULL);
    if (unfinished > 0)
        tlaw_fit_say(fit->message, "left out: %d of the study's runs, which are not done", unfinished);
    if (n < source->n)
        tlaw_fit_say(fit->message,
                     "left out: " INT64_FORMAT " of " INT64_FORMAT " rows, where a value is NULL",
                     source->n - n, source->n);
}

/* Fits one form to the source's rows, saves it and adds its summary row. */
static void fit_form(ReturnSetInfo *result, const struct law_source *source,
                     const struct fit_arguments *arguments, enum tlaw_form form)
{
    const struct tlaw_form_info *info = tlaw_form_info(form);
    struct law_request request = arguments->request;
    struct tlaw_fit_options options = {.loss = request.loss,
                                       .delta = request.delta,
                                       .level = request.level,
                                       .start = arguments->start,
                                       .max_iterations = arguments->max_iterations,
                                       .intervals = true,
                                       .alike = arguments->uncertainty == DELTA};
    struct tlaw_bootstrap bootstrap = {.draws = arguments->draws, .seed = (uint64) arguments->seed};
    uint8 sha256[PG_SHA256_DIGEST_LENGTH] = {0};
    char message[512] = "";
    struct law_record record = {.request = &request,
                                .source = source->source,
                                .sha256 = sha256,
                                .uncertainty = uncertainties[arguments->uncertainty],
                                .draws = arguments->draws,
                                .seed = arguments->seed};
    struct tlaw_host host;
    MemoryContext context = tlaw_law_context(&host);
    struct tlaw_fit fit;
    int64 n;
    struct tlaw_row *rows = law_rows(source, form, &request, &n, NULL);
    struct tlaw_data *data;

    if (request.replicate_weights && !tlaw_replicate_weights(&host, rows, n, info->n_variables))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("weights: 'replicates' without replicates"),
                 errhint("At least two sizes must have two or more results.")));
    data = tlaw_fit_data(&host, rows, n, form, &options, message);
    tlaw_fit_prepared(&host, data, &options, &fit);
    set_uncertainty(&host, data, arguments, &fit, &bootstrap);
    say_left_out(source, n, &fit);
    hash_rows(data, sha256);
    record.start = arguments->start;
    record.max_iterations = arguments->max_iterations;
    record.study = source->is_study ? source->source : NULL;
    record.analysis = analysis_label(source, form, &request);
    record.bootstrap = (const double(*)[TLAW_MAX_PARAMS]) bootstrap.params;
    record.alpha_dropped = without_smallest(&host, rows, n, 0, info->alpha, form, &options);
    record.beta_dropped = without_smallest(&host, rows, n, 1, info->beta, form, &options);
    put_summary(result, law_save(&fit, &record), &fit, record.alpha_dropped);
    MemoryContextDelete(context);
}

Datum tlaw_fit(PG_FUNCTION_ARGS)
{
    struct fit_arguments arguments;
    struct law_source *source;
    int i;

    PreventCommandIfReadOnly("tlaw_fit()"); /* it keeps its fits; the aggregates do not */
    read_arguments(fcinfo, &arguments);
    InitMaterializedSRF(fcinfo, 0);
    source = law_open(law_text_argument(fcinfo, 0));
    warn_about_mixtures(source, &arguments);
    for (i = 0; i < arguments.n_forms; i++)
        fit_form((ReturnSetInfo *) fcinfo->resultinfo, source, &arguments, arguments.forms[i]);
    law_close(source);
    return (Datum) 0;
}
