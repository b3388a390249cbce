/*
 * Comparisons: forms by what they say about larger runs, a fit under other choices, the three approaches to
 * the compute-optimal size, two runs over the same documents.
 */
#include "law.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "../kernels/stats/distributions.h"
#include "../kernels/stats/fit_bootstrap.h"
#include "../kernels/stats/fit_use.h"

PG_FUNCTION_INFO_V1(tlaw_holdout);
PG_FUNCTION_INFO_V1(tlaw_sensitivity);
PG_FUNCTION_INFO_V1(tlaw_isoflop);
PG_FUNCTION_INFO_V1(tlaw_compare_runs);

static struct tlaw_fit_options options_of(const struct law_request *request)
{
    return (struct tlaw_fit_options){.loss = request->loss,
                                     .delta = request->delta,
                                     .level = request->level,
                                     .max_iterations = -1,
                                     .intervals = true};
}

/* ---- leave the largest out ---- */

/* Size at and above which rows are left out: `share` of them, and what lies within 5 % below, which is the
 * same budget (as of isoFLOP curves), in whole steps and rounded. */
static double cutoff_of(const double *sizes, int64 n, double share)
{
    double *sorted = palloc(sizeof(double) * Max(n, 1)), same;
    int64 at = Min((int64) ceil((1 - share) * n), n - 1);

    if (n == 0)
        return NAN;
    memcpy(sorted, sizes, sizeof(double) * n);
    tlaw_sort_numbers(sorted, n);
    for (same = 0.95 * sorted[at]; at > 0 && sorted[at - 1] > same; at--)
        ;
    return sorted[at];
}

/* The size of each row: column x where it was given (rows without one are taken out), else FLOPs. */
static double *sizes_of(const struct law_source *source, const struct law_request *given, enum tlaw_form form,
                        struct tlaw_row *rows, int64 *n, const int64 *index)
{
    double *sizes = palloc(sizeof(double) * Max(*n, 1)), *column = NULL;
    bool *nulls = NULL;
    int64 i, kept = 0;

    if (given->x)
        column = law_column(source, "x", given->x, &nulls);
    for (i = 0; i < *n; i++) {
        if (column && nulls[index[i]])
            continue;
        sizes[kept] = column ? column[index[i]] : law_flops(source, form, &rows[i], index[i]);
        rows[kept++] = rows[i];
    }
    *n = kept;
    return sizes;
}

/* How well a fit predicts the rows of the cutoff and above. */
struct held_out {
    int64 n;
    double error, bias, inside; /* means; inside NAN where the fit has no predictive interval */
};

static struct held_out score(const struct tlaw_fit *fit, const struct tlaw_row *rows, const double *sizes,
                             int64 n, double cutoff)
{
    struct held_out out = {0};
    int64 i;

    for (i = 0; i < n; i++) {
        struct tlaw_prediction p;
        double error;

        if (sizes[i] < cutoff)
            continue;
        tlaw_fit_predict(fit, rows[i].x, &p);
        error = p.loss / rows[i].loss - 1;
        out.n++;
        out.error += fabs(error);
        out.bias += error;
        out.inside += isnan(p.run_low) ? NAN : rows[i].loss >= p.run_low && rows[i].loss <= p.run_high;
    }
    out.error /= out.n; /* of none: NAN */
    out.bias /= out.n;
    out.inside /= out.n;
    return out;
}

static void holdout_form(ReturnSetInfo *result, const struct law_source *source, enum tlaw_form form,
                         const struct law_request *given, double share, double cutoff)
{
    struct law_request request = *given;
    struct tlaw_fit_options options = options_of(given);
    struct tlaw_host host;
    MemoryContext context = tlaw_law_context(&host);
    struct tlaw_fit fit;
    int64 n, i, *index, n_train = 0;
    struct tlaw_row *rows = law_rows(source, form, &request, &n, &index),
                    *train = palloc(sizeof(*train) * Max(n, 1));
    double *sizes = sizes_of(source, given, form, rows, &n, index);
    struct held_out out;
    Datum values[9];
    bool nulls[9] = {false};

    if (isnan(cutoff))
        cutoff = cutoff_of(sizes, n, share);
    for (i = 0; i < n; i++)
        if (sizes[i] < cutoff)
            train[n_train++] = rows[i];
    tlaw_fit_run(&host, train, n_train, form, &options, &fit);
    out = score(&fit, rows, sizes, n, cutoff);
    if (n > 0 && out.n == 0)
        tlaw_fit_say(fit.message, "no row reaches train_below: nothing is held out");
    if (n > 0 && n_train == 0) {
        fit.message[0] = '\0'; /* 0 rows, for this reason */
        tlaw_fit_say(fit.message, "no row is below %g %s%s", cutoff, given->x ? given->x : "FLOPs",
                     given->x ? "" : ": to hold out the largest of another column, give it as x");
    }
    values[0] = CStringGetTextDatum(tlaw_form_info(form)->name);
    values[1] = Int64GetDatum(n_train);
    values[2] = Int64GetDatum(out.n);
    tlaw_set_number(values, nulls, 3, cutoff);
    tlaw_set_number(values, nulls, 4, 100 * out.error);
    tlaw_set_number(values, nulls, 5, 100 * out.bias);
    tlaw_set_number(values, nulls, 6, out.inside);
    values[7] = BoolGetDatum(fit.converged);
    tlaw_set_text(values, nulls, 8, fit.message);
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
    MemoryContextDelete(context);
}

/* (source, x, forms, loss, delta, y, cluster, largest, train_below, level) */
Datum tlaw_holdout(PG_FUNCTION_ARGS)
{
    struct law_request request = {0};
    struct law_source *source;
    enum tlaw_form forms[TLAW_FORMS];
    double share, train_below;
    int n_forms, i;

    tlaw_not_null(fcinfo, 0, "source");
    tlaw_not_null(fcinfo, 4, "delta");
    tlaw_not_null(fcinfo, 7, "largest");
    tlaw_not_null(fcinfo, 9, "level");
    request.x = law_text_argument(fcinfo, 1);
    request.loss = law_loss_argument(law_text_argument(fcinfo, 3));
    request.delta = tlaw_number_argument("delta", PG_GETARG_FLOAT8(4), 1e-12, 1e12);
    request.y = law_text_argument(fcinfo, 5);
    request.cluster = law_text_argument(fcinfo, 6);
    share = tlaw_number_argument("largest", PG_GETARG_FLOAT8(7), 0.001, 0.9);
    train_below =
        PG_ARGISNULL(8) ? NAN : tlaw_number_argument("train_below", PG_GETARG_FLOAT8(8), 1e-300, 1e300);
    request.level = tlaw_number_argument("level", PG_GETARG_FLOAT8(9), 0.5, 0.9999);
    InitMaterializedSRF(fcinfo, 0);
    source = law_open(law_text_argument(fcinfo, 0));
    n_forms = law_forms_argument(fcinfo, 2, source, forms);
    for (i = 0; i < n_forms; i++)
        holdout_form((ReturnSetInfo *) fcinfo->resultinfo, source, forms[i], &request, share, train_below);
    law_close(source);
    return (Datum) 0;
}

/* ---- sensitivity ---- */

struct variation {
    ReturnSetInfo *result;
    const struct law_source *source;
    enum tlaw_form form;
    struct law_request request;
};

static void put_variant(const struct variation *v, const char *choice, const char *setting,
                        const struct tlaw_fit *fit)
{
    const struct tlaw_form_info *info = tlaw_form_info(v->form);
    double alpha[4], beta[4], irreducible[4];
    Datum values[10];
    bool nulls[10] = {false};

    tlaw_shown_parameter(fit, fit->fitted ? info->alpha : -1, alpha);
    tlaw_shown_parameter(fit, fit->fitted ? info->beta : -1, beta);
    tlaw_shown_parameter(fit, fit->fitted ? info->irreducible : -1, irreducible);
    values[0] = CStringGetTextDatum(choice);
    values[1] = CStringGetTextDatum(setting);
    tlaw_set_number(values, nulls, 2, alpha[0]);
    tlaw_set_number(values, nulls, 3, alpha[2]);
    tlaw_set_number(values, nulls, 4, alpha[3]);
    tlaw_set_number(values, nulls, 5, beta[0]);
    tlaw_set_number(values, nulls, 6, irreducible[0]);
    values[7] = Int64GetDatum((int64) fit->n);
    values[8] = BoolGetDatum(fit->converged);
    tlaw_set_text(values, nulls, 9, fit->message);
    tuplestore_putvalues(v->result->setResult, v->result->setDesc, values, nulls);
}

static void fit_variant(const struct variation *v, const char *choice, const char *setting,
                        const struct law_request *request, const struct tlaw_row *rows, int64 n,
                        struct tlaw_fit *fit)
{
    struct tlaw_fit_options options = options_of(request);
    struct tlaw_host host;
    MemoryContext context = tlaw_law_context(&host);

    tlaw_fit_run(&host, rows, n, v->form, &options, fit);
    put_variant(v, choice, setting, fit);
    MemoryContextDelete(context);
}

static void vary_loss(const struct variation *v, const struct tlaw_row *rows, int64 n)
{
    static const double deltas[] = {1e-4, 1e-3, 1e-2};
    struct law_request request = v->request;
    struct tlaw_fit fit;
    int i;

    for (i = 0; i < lengthof(deltas); i++) {
        request.loss = TLAW_LOSS_HUBER;
        request.delta = deltas[i];
        fit_variant(v, "loss", psprintf("huber, delta %g", deltas[i]), &request, rows, n, &fit);
    }
    request.loss = TLAW_LOSS_LOG_SQUARED;
    fit_variant(v, "loss", "log_squared", &request, rows, n, &fit);
    request.loss = TLAW_LOSS_SQUARED;
    fit_variant(v, "loss", "squared", &request, rows, n, &fit);
}

/* The rows for which keep() is true. */
static int64 filter(const struct tlaw_row *rows, int64 n, struct tlaw_row *kept,
                    bool (*keep)(const struct tlaw_row *, const void *), const void *argument)
{
    int64 i, n_kept = 0;

    for (i = 0; i < n; i++)
        if (keep(&rows[i], argument))
            kept[n_kept++] = rows[i];
    return n_kept;
}

static bool within_three_sd(const struct tlaw_row *row, const void *argument)
{
    const struct tlaw_fit *fit = argument;
    struct tlaw_prediction p;

    tlaw_fit_predict(fit, row->x, &p);
    return fabs(log(row->loss / p.loss)) <= 3 * fit->noise;
}

static bool loss_below(const struct tlaw_row *row, const void *limit)
{
    return row->loss < *(const double *) limit;
}

static bool larger(const struct tlaw_row *row, const void *limit)
{
    return row->x[0] > *(const double *) limit;
}

static bool smaller(const struct tlaw_row *row, const void *limit)
{
    return row->x[0] < *(const double *) limit;
}

static void vary_rows(const struct variation *v, const struct tlaw_row *rows, int64 n,
                      const struct tlaw_fit *base)
{
    struct tlaw_row *kept = palloc(sizeof(*kept) * Max(n, 1));
    double *losses = palloc(sizeof(double) * Max(n, 1)), limit, low = INFINITY, high = -INFINITY;
    struct tlaw_fit fit;
    int64 i, n_kept;

    for (i = 0; i < n; i++) {
        losses[i] = rows[i].loss;
        low = fmin(low, rows[i].x[0]);
        high = fmax(high, rows[i].x[0]);
    }
    tlaw_sort_numbers(losses, n);
    if (base->converged && !isnan(base->noise)) {
        n_kept = filter(rows, n, kept, within_three_sd, base);
        fit_variant(v, "outliers", "residuals beyond 3 sd dropped", &v->request, kept, n_kept, &fit);
    }
    limit = n > 0 ? tlaw_sorted_quantile(losses, n, 0.95) : 0;
    n_kept = filter(rows, n, kept, loss_below, &limit);
    fit_variant(v, "outliers", "largest 5 % of the losses dropped", &v->request, kept, n_kept, &fit);
    n_kept = filter(rows, n, kept, larger, &low);
    fit_variant(v, "sizes", "smallest dropped", &v->request, kept, n_kept, &fit);
    n_kept = filter(rows, n, kept, smaller, &high);
    fit_variant(v, "sizes", "largest dropped", &v->request, kept, n_kept, &fit);
}

/* The fit with column `name` in the place of n_params or of the loss. */
static void vary_column(const struct variation *v, const char *choice, const char *name, bool loss)
{
    struct law_request request = v->request;
    struct tlaw_fit fit;
    struct tlaw_row *rows;
    int64 n;

    if (!law_has_column(v->source, name))
        return;
    if (loss)
        request.y = name;
    else if (tlaw_form_info(v->form)->n_variables == 1)
        request.x = name;
    else
        request.n_params = name;
    rows = law_rows(v->source, v->form, &request, &n, NULL);
    if (n > 0)
        fit_variant(v, choice, name, &request, rows, n, &fit);
}

/* (source, form, x, loss, delta, y, cluster, level) */
Datum tlaw_sensitivity(PG_FUNCTION_ARGS)
{
    static const char *const losses[] = {"test_loss", "val_loss", "val_loss_min", "val_loss_last"},
                             *const sizes[] = {"n_params", "n_params_non_embedding"};
    struct variation v = {.result = (ReturnSetInfo *) fcinfo->resultinfo};
    struct law_source *source;
    struct tlaw_row *rows;
    struct tlaw_fit base;
    int64 n;
    int i;

    tlaw_not_null(fcinfo, 0, "source");
    tlaw_not_null(fcinfo, 1, "form");
    tlaw_not_null(fcinfo, 4, "delta");
    tlaw_not_null(fcinfo, 7, "level");
    v.form = law_form_argument("form", law_text_argument(fcinfo, 1));
    v.request.x = law_text_argument(fcinfo, 2);
    v.request.loss = law_loss_argument(law_text_argument(fcinfo, 3));
    v.request.delta = tlaw_number_argument("delta", PG_GETARG_FLOAT8(4), 1e-12, 1e12);
    v.request.y = law_text_argument(fcinfo, 5);
    v.request.cluster = law_text_argument(fcinfo, 6);
    v.request.level = tlaw_number_argument("level", PG_GETARG_FLOAT8(7), 0.5, 0.9999);
    InitMaterializedSRF(fcinfo, 0);
    source = law_open(law_text_argument(fcinfo, 0));
    v.source = source;
    rows = law_rows(source, v.form, &v.request, &n, NULL);
    fit_variant(&v, "as given", "", &v.request, rows, n, &base);
    vary_loss(&v, rows, n);
    vary_rows(&v, rows, n, &base);
    if (tlaw_form_info(v.form)->n_variables >= 2 || (v.request.x && strncmp(v.request.x, "n_params", 8) == 0))
        for (i = 0; i < lengthof(sizes); i++)
            vary_column(&v, "n_params", sizes[i], false);
    for (i = 0; i < lengthof(losses); i++)
        vary_column(&v, "checkpoint", losses[i], true);
    law_close(source);
    return (Datum) 0;
}

/* ---- isoFLOP ---- */

struct approach {
    const char *name;
    double exponent, low, high, bias;
    int points;
    const char *message;
};

static void put_approach(ReturnSetInfo *result, int number, const struct approach *a)
{
    Datum values[8];
    bool nulls[8] = {false};

    values[0] = Int32GetDatum(number);
    values[1] = CStringGetTextDatum(a->name);
    tlaw_set_number(values, nulls, 2, a->exponent);
    tlaw_set_number(values, nulls, 3, a->low);
    tlaw_set_number(values, nulls, 4, a->high);
    tlaw_set_number(values, nulls, 5, a->bias);
    values[6] = Int32GetDatum(a->points);
    tlaw_set_text(values, nulls, 7, a->message);
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Approach 1 or 2 on rows; a frontier of budgets and sizes, then a line. */
static void frontier_approach(const struct tlaw_host *host, int number, const struct tlaw_row *rows, int64 n,
                              double level, struct approach *a)
{
    struct tlaw_frontier_point *points = host->allocate(host->argument, sizeof(*points) * (n + 1000));
    double se;

    a->points =
        number == 1 ? tlaw_envelope(host, rows, n, points, 1000) : tlaw_isoflop_minima(host, rows, n, points);
    a->low = a->high = a->bias = NAN;
    a->message = NULL;
    if (!tlaw_frontier_slope(points, a->points, &a->exponent, &se)) {
        a->message = number == 1
                         ? "fewer than two budgets at which a size between the smallest and the largest wins"
                         : "fewer than two budgets (FLOPs equal within 5 %) of three sizes or more with a "
                           "minimum between them";
        return;
    }
    if (a->points > 2) {
        double half = tlaw_student_quantile(0.5 + 0.5 * level, a->points - 2) * se;

        a->low = a->exponent - half;
        a->high = a->exponent + half;
    }
}

/* a = beta / (alpha + beta) with its interval by the delta method. */
static void surface_approach(const struct tlaw_fit *fit, struct approach *a)
{
    int n = tlaw_form_info(fit->form)->n_params;
    double alpha = fit->natural[3], beta = fit->natural[4], sum = alpha + beta;
    double gradient[TLAW_MAX_PARAMS] = {0}, half;

    gradient[3] = -beta / (sum * sum);
    gradient[4] = alpha / (sum * sum);
    a->exponent = fit->converged ? beta / sum : NAN;
    a->low = a->high = NAN;
    a->bias = 0;
    a->points = (int) fit->n;
    a->message = fit->message;
    if (!(fit->df > 0))
        return;
    half = tlaw_student_quantile(0.5 + 0.5 * fit->level, fit->df) *
           sqrt(fit->covariance[3 * n + 3] * gradient[3] * gradient[3] +
                2 * fit->covariance[3 * n + 4] * gradient[3] * gradient[4] +
                fit->covariance[4 * n + 4] * gradient[4] * gradient[4]);
    a->low = a->exponent - half;
    a->high = a->exponent + half;
}

/* (source, y, level) */
Datum tlaw_isoflop(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
    struct approach approaches[3] = {
        {.name = "envelope of the curves"}, {.name = "isoFLOP parabolas"}, {.name = "surface (Chinchilla)"}};
    struct law_request request = {0};
    struct tlaw_fit_options options;
    struct law_source *source;
    struct tlaw_host host;
    MemoryContext context;
    struct tlaw_row *rows;
    struct tlaw_fit fit;
    int64 n, i;
    int k;

    tlaw_not_null(fcinfo, 0, "source");
    tlaw_not_null(fcinfo, 2, "level");
    request.y = law_text_argument(fcinfo, 1);
    request.level = tlaw_number_argument("level", PG_GETARG_FLOAT8(2), 0.5, 0.9999);
    InitMaterializedSRF(fcinfo, 0);
    source = law_open(law_text_argument(fcinfo, 0));
    context = tlaw_law_context(&host);
    rows = law_rows(source, TLAW_CHINCHILLA, &request, &n, NULL);
    options = options_of(&request);
    tlaw_fit_run(&host, rows, n, TLAW_CHINCHILLA, &options, &fit);
    surface_approach(&fit, &approaches[2]);
    for (k = 0; k < 2; k++)
        frontier_approach(&host, k + 1, rows, n, request.level, &approaches[k]);
    for (i = 0; i < n && fit.converged; i++) /* the same grid without noise */
        rows[i].loss = tlaw_form_predict(fit.form, fit.natural, rows[i].x, NULL);
    for (k = 0; k < 2 && fit.converged; k++) {
        struct approach exact = approaches[k];

        frontier_approach(&host, k + 1, rows, n, request.level, &exact);
        approaches[k].bias = exact.exponent - approaches[2].exponent;
    }
    for (k = 0; k < 3; k++)
        put_approach(result, k + 1, &approaches[k]);
    MemoryContextDelete(context);
    law_close(source);
    return (Datum) 0;
}

/* ---- two runs over the same documents ---- */

struct documents {
    int n;
    Datum *losses, *tokens;
};

/* The per-document test losses of a run that the caller may read; *corpus: its corpus. Between tlaw_begin and
 * tlaw_end. */
static struct documents run_documents(const char *argument, int64 run_id, char **corpus)
{
    struct documents documents;
    Oid type = INT8OID;
    Datum value = Int64GetDatum(run_id);
    bool null_owner, null_corpus, null_losses, null_tokens, *nulls;
    Datum owner, name, losses, tokens;
    int n_tokens;

    if (tlaw_execute(SPI_OK_SELECT,
                     "SELECT r.owner::text, r.corpus, d.loss_sum, d.tokens FROM @.tlaw_run r "
                     "LEFT JOIN @.tlaw_run_document_loss d USING (run_id) WHERE run_id = $1",
                     1, &type, &value, NULL) == 0)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("%s: there is no run " INT64_FORMAT, argument, run_id)));
    owner = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null_owner);
    name = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null_corpus);
    losses = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &null_losses);
    tokens = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4, &null_tokens);
    tlaw_require_owner(TextDatumGetCString(owner), "run", psprintf(INT64_FORMAT, run_id));
    if (null_losses || null_tokens || null_corpus)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("%s: run " INT64_FORMAT " has no losses of single documents", argument, run_id),
                 errhint("Finished runs that were trained here have them.")));
    *corpus = TextDatumGetCString(name);
    deconstruct_array(DatumGetArrayTypePCopy(losses), FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL,
                      TYPALIGN_DOUBLE, &documents.losses, &nulls, &documents.n);
    deconstruct_array(DatumGetArrayTypePCopy(tokens), INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
                      TYPALIGN_DOUBLE, &documents.tokens, &nulls, &n_tokens);
    documents.n = Min(documents.n, n_tokens);
    return documents;
}

/* Loss per token of a and b and the difference of the ratio estimators, documents as the units. */
static void paired_difference(const struct documents *a, const struct documents *b, double level,
                              double numbers[9])
{
    double tokens = 0, loss_a = 0, loss_b = 0, difference, square = 0, se, half, better = 0, used = 0;
    int i;

    for (i = 0; i < a->n; i++) {
        double t = DatumGetInt64(a->tokens[i]);

        used += t > 0;
        tokens += t;
        loss_a += DatumGetFloat8(a->losses[i]);
        loss_b += DatumGetFloat8(b->losses[i]);
        better += t > 0 && DatumGetFloat8(a->losses[i]) < DatumGetFloat8(b->losses[i]);
    }
    difference = (loss_a - loss_b) / tokens;
    for (i = 0; i < a->n; i++)
        square += pow(DatumGetFloat8(a->losses[i]) - DatumGetFloat8(b->losses[i]) -
                          difference * DatumGetInt64(a->tokens[i]),
                      2);
    se = used > 1 ? sqrt(used / (used - 1) * square) / tokens : NAN;
    half = used > 1 ? tlaw_student_quantile(0.5 + 0.5 * level, used - 1) * se : NAN;
    memcpy(numbers,
           (double[]){used, loss_a / tokens, loss_b / tokens, difference, se, difference - half,
                      difference + half, se > 0 ? tlaw_student_two_sided(difference / se, used - 1) : NAN,
                      better / used},
           sizeof(double) * 9);
}

/* (run_a, run_b, level) */
Datum tlaw_compare_runs(PG_FUNCTION_ARGS)
{
    TupleDesc descriptor;
    struct tlaw_session session;
    struct documents a, b;
    char *corpus_a, *corpus_b;
    double numbers[9], level = tlaw_number_argument("level", PG_GETARG_FLOAT8(2), 0.5, 0.9999);
    Datum values[9];
    bool nulls[9] = {false};
    int i;

    tlaw_begin(&session);
    a = run_documents("run_a", PG_GETARG_INT64(0), &corpus_a);
    b = run_documents("run_b", PG_GETARG_INT64(1), &corpus_b);
    if (strcmp(corpus_a, corpus_b) != 0 || a.n != b.n)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("the runs were tested on different documents: \"%s\" and \"%s\"", corpus_a, corpus_b),
                 errhint("Compare runs of one corpus.")));
    paired_difference(&a, &b, level, numbers);
    tlaw_end(&session);
    if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE || descriptor->natts != 9)
        elog(ERROR, "the result is not what this version of tlaw expects");
    values[0] = Int64GetDatum((int64) numbers[0]);
    for (i = 1; i < 9; i++)
        tlaw_set_number(values, nulls, i, numbers[i]);
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls)));
}
