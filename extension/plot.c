/*
 * Plots: the runs of a study, loss curves, the rows of any query, as SVG text (kernels/stats/svg.h draws).
 *
 * Invariants: everything is read through the views, as the caller, read-only; column names are looked up
 * before they enter a query; a law is fitted by kernels/stats/fit.h to the runs themselves, as
 * tlaw_power_law_offset(x, y, subset_seed) does.
 */
#include "plot.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "parser/parse_coerce.h"
#include "utils/float.h"
#include "utils/memutils.h"

#include "../kernels/stats/fit_theory.h"

#define MAX_ROWS 1000000
#define LARGEST  1e300 /* what svg.h draws */

static const struct quantity quantities[] = {
    {"train_tokens", "Training tokens", DATA},
    {"train_bytes", "Training text (bytes)", DATA},
    {"train_documents", "Training documents", DATA},
    {"tokens_seen", "Tokens seen", COUNT},
    {"step", "Step", OTHER},
    {"n_params", "Parameters", PARAMETERS},
    {"n_params_non_embedding", "Parameters without embeddings", PARAMETERS},
    {"flops", "Training compute (FLOPs)", COUNT},
    {"test_loss", "Test loss (nats per token)", LOSS},
    {"val_loss", "Validation loss (nats per token)", LOSS},
    {"val_loss_min", "Lowest validation loss (nats per token)", LOSS},
    {"val_loss_last", "Last validation loss (nats per token)", LOSS},
    {"train_loss", "Training loss (nats per token)", LOSS},
    {"bits_per_byte", "Test loss (bits per byte)", LOSS},
    {"epochs", "Epochs", OTHER},
    {"learning_rate", "Learning rate", OTHER},
    {"grad_norm", "Gradient norm", OTHER},
    {"tokens_per_second", "Tokens per second", OTHER},
    {"mfu", "Model FLOPs utilisation", OTHER},
    {"train_seconds", "Training time (seconds)", OTHER},
    {"eval_seconds", "Evaluation time (seconds)", OTHER},
    {"peak_memory", "Peak memory (bytes)", OTHER},
    {"memory", "Estimated memory (bytes)", OTHER},
    {"batch_size", "Batch size (sequences)", OTHER},
    {"context_length", "Context length (tokens)", OTHER},
    {"n_layer", "Layers", OTHER},
    {"n_head", "Heads", OTHER},
    {"d_model", "Model width", OTHER}};

/* ---- arguments ---- */

/* A text of the database's encoding as UTF-8, for svg.h. */
static const char *utf8(const char *text)
{
    return pg_server_to_any(text, strlen(text), PG_UTF8);
}

static struct quantity quantity_named(const char *column)
{
    struct quantity other = {column, column, OTHER};
    int i;

    for (i = 0; i < lengthof(quantities); i++)
        if (strcmp(quantities[i].column, column) == 0)
            return quantities[i];
    return other;
}

/* Error unless the view has the column, a numeric one if need be.  argument: its name, for the message. SPI
 * is connected. */
static void require_column(const char *argument, const char *view, const char *column, bool numeric)
{
    Oid types[3] = {TEXTOID, TEXTOID, BOOLOID};
    Datum values[3];
    const char *sql = "SELECT pg_catalog.bool_or(a.attname = $2 AND (t.typcategory = 'N' OR NOT $3)),"
                      "       pg_catalog.bool_or(a.attname = $2),"
                      "       pg_catalog.string_agg(a.attname, ', ' ORDER BY a.attnum)"
                      "           FILTER (WHERE a.attname <> 'run_id' AND (t.typcategory = 'N' OR NOT $3))"
                      "  FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid"
                      " WHERE a.attrelid = $1::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped";
    HeapTuple found;
    TupleDesc descriptor;

    values[0] = CStringGetTextDatum(psprintf("%s.%s", tlaw_schema(), view));
    values[1] = CStringGetTextDatum(column);
    values[2] = BoolGetDatum(numeric);
    if (SPI_execute_with_args(sql, 3, types, values, NULL, true, 1) != SPI_OK_SELECT)
        elog(ERROR, "cannot read the columns of %s", view);
    found = SPI_tuptable->vals[0];
    descriptor = SPI_tuptable->tupdesc;
    if (strcmp(SPI_getvalue(found, descriptor, 1), "t") == 0)
        return;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    strcmp(SPI_getvalue(found, descriptor, 2), "t") == 0
                        ? errmsg("%s is \"%s\", which is not a number", argument, column)
                        : errmsg("%s is \"%s\", which %s does not have", argument, column, view),
                    errdetail("%s of %s: %s.", numeric ? "Numeric columns" : "Columns", view,
                              SPI_getvalue(found, descriptor, 3)),
                    strcmp(argument, "x") == 0 ? errhint("For loss curves: step or tokens_seen.") : 0));
}

/* ---- reading ---- */

static double number_at(HeapTuple tuple, TupleDesc descriptor, int column)
{
    bool null;
    Datum value = SPI_getbinval(tuple, descriptor, column, &null);

    return null ? NAN : DatumGetFloat8(value);
}

/* The series of a name, a new one for a new name. */
static int series_of(struct plot *plot, const char *name)
{
    int i;

    for (i = plot->n_names - 1; i >= 0; i--)
        if (strcmp(plot->names[i], name) == 0)
            return i;
    if (plot->n_names == TLAW_SVG_STYLES)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 plot->by ? errmsg("by is \"%s\", which makes more than %d series", plot->by, TLAW_SVG_STYLES)
                          : errmsg("the query makes more than %d series", TLAW_SVG_STYLES),
                 errdetail("No more than %d can be told apart.", TLAW_SVG_STYLES)));
    plot->names[plot->n_names] = MemoryContextStrdup(plot->context, name);
    return plot->n_names++;
}

/* 5k beside 10k, but 5000 where nothing reaches 10,000; as ticks otherwise. */
static const char *count_label(double value, double largest, int digits)
{
    char number[40];

    if (largest >= 1e4 && value >= 1e3 && value < 1e4)
        return psprintf("%.*gk", digits, value / 1e3);
    tlaw_svg_number(value, digits, number, sizeof(number));
    return pstrdup(number);
}

/* Labels of the series' values, which are counts, to so many digits; false where two are alike. */
static bool label_counts(const struct plot *plot, int digits, const char **labels)
{
    double largest = 0;
    bool apart = true;
    int i, k;

    for (i = 0; i < plot->n_names; i++)
        largest = fmax(largest, strtod(plot->names[i], NULL)); /* 0 for "NULL" */
    for (i = 0; i < plot->n_names; i++) {
        labels[i] = strcmp(plot->names[i], "NULL") == 0
                        ? "NULL"
                        : count_label(strtod(plot->names[i], NULL), largest, digits);
        for (k = 0; k < i; k++)
            apart = apart && strcmp(labels[k], labels[i]) != 0;
    }
    return apart;
}

/* What the legend calls the series, so far named by their values: "n_params = 10M".  Counts are all shortened
 * alike, to three digits or as many as tell them apart. */
static void name_series(struct plot *plot)
{
    const char *labels[TLAW_SVG_STYLES];
    bool counts = quantity_named(plot->by).kind >= COUNT;
    int digits = 3, i;

    while (counts && digits < 17 && !label_counts(plot, digits, labels))
        digits++;
    for (i = 0; i < plot->n_names; i++) {
        const char *label = counts ? labels[i] : utf8(plot->names[i]);

        plot->names[i] = MemoryContextStrdup(plot->context, psprintf("%s = %s", utf8(plot->by), label));
    }
}

static void check_row_count(void)
{
    if (SPI_processed > MAX_ROWS)
        ereport(ERROR,
                (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED), errmsg("more than %d rows to plot", MAX_ROWS)));
}

/* Reads a study's rows by a query of (x, y, standard error of y, series, run, setting, subset seed). */
static void read_rows(struct plot *plot, const char *sql)
{
    Oid types[1] = {TEXTOID};
    Datum values[1] = {CStringGetTextDatum(plot->study)};
    uint64 i;

    if (SPI_execute_with_args(tlaw_sql(sql), 1, types, values, NULL, true, MAX_ROWS + 1) != SPI_OK_SELECT)
        elog(ERROR, "cannot read the runs to plot");
    check_row_count();
    plot->rows = MemoryContextAllocHuge(plot->context, sizeof(*plot->rows) * (SPI_processed + 1));
    for (i = 0; i < SPI_processed; i++) {
        HeapTuple tuple = SPI_tuptable->vals[i];
        TupleDesc descriptor = SPI_tuptable->tupdesc;
        struct row *row = &plot->rows[plot->n_rows++];
        double se = number_at(tuple, descriptor, 3);
        const char *value;
        bool null;

        row->x = number_at(tuple, descriptor, 1);
        row->y = number_at(tuple, descriptor, 2);
        row->low = row->y - se;
        row->high = row->y + se;
        value = SPI_getvalue(tuple, descriptor, 4);
        row->series = plot->by == NULL ? 0 : series_of(plot, value ? value : "NULL");
        row->run_id = DatumGetInt64(SPI_getbinval(tuple, descriptor, 5, &null));
        row->setting = DatumGetInt64(SPI_getbinval(tuple, descriptor, 6, &null));
        row->subset_seed = DatumGetInt64(SPI_getbinval(tuple, descriptor, 7, &null));
        row->has_subset_seed = !null;
    }
    if (plot->by == NULL)
        plot->n_names = 1;
    else
        name_series(plot);
}

/* Error that says why a study has nothing to plot. */
static void nothing_to_plot(const struct plot *plot, const char *view)
{
    Oid types[1] = {TEXTOID};
    Datum values[1] = {CStringGetTextDatum(plot->study)};
    const char *sql =
        tlaw_sql("SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE status = 'done')"
                 "  FROM @.tlaw_runs WHERE study = $1");
    HeapTuple counts;

    if (SPI_execute_with_args(sql, 1, types, values, NULL, true, 1) != SPI_OK_SELECT)
        elog(ERROR, "cannot count the runs of a study");
    counts = SPI_tuptable->vals[0];
    if (strcmp(SPI_getvalue(counts, SPI_tuptable->tupdesc, 1), "0") == 0)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("study \"%s\" has no runs", plot->study),
                 errdetail("There is no such study, or none of its runs belongs to a role of yours.")));
    ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND),
                    errmsg("study \"%s\" has nothing to plot: no %s with both %s and %s", plot->study,
                           strcmp(view, "tlaw_runs") == 0 ? "finished run" : "row of tlaw_losses",
                           plot->x.column, plot->y.column),
                    errdetail("Runs: %s, done: %s.", SPI_getvalue(counts, SPI_tuptable->tupdesc, 1),
                              SPI_getvalue(counts, SPI_tuptable->tupdesc, 2))));
}

static void read_points(struct plot *plot)
{
    const char *x = quote_identifier(plot->x.column), *y = quote_identifier(plot->y.column);
    const char *by = plot->by ? psprintf("r.%s", quote_identifier(plot->by)) : "NULL";

    read_rows(
        plot,
        psprintf("SELECT r.%s::float8, r.%s::float8, %s::float8, %s::text, r.run_id,"
                 "       pg_catalog.dense_rank() OVER (ORDER BY r.n_params, r.train_tokens, r.flops),"
                 "       r.subset_seed::int8"
                 "  FROM @.tlaw_runs r WHERE r.study = $1 AND r.status = 'done'"
                 "   AND r.%s::float8 BETWEEN -1e300 AND 1e300 AND r.%s::float8 BETWEEN -1e300 AND 1e300"
                 " ORDER BY %s%s r.%s, 6, r.%s, r.run_id",
                 x, y, strcmp(plot->y.column, "test_loss") == 0 ? "r.test_loss_se" : "NULL", by, x, y,
                 plot->by ? by : "", plot->by ? "," : "", x, y));
    if (plot->n_rows == 0)
        nothing_to_plot(plot, "tlaw_runs");
}

/* Step 0 has no place on a logarithmic axis. */
static void read_curves(struct plot *plot)
{
    const char *x = quote_identifier(plot->x.column), *y = quote_identifier(plot->y.column);
    const char *by = plot->by ? psprintf("r.%s", quote_identifier(plot->by)) : "NULL";

    read_rows(
        plot,
        psprintf("SELECT l.%s::float8, l.%s::float8, NULL::float8, %s::text, l.run_id, 0::int8, NULL::int8"
                 "  FROM @.tlaw_losses l JOIN @.tlaw_runs r ON r.run_id = l.run_id"
                 " WHERE r.study = $1 AND l.%s > 0 AND l.%s BETWEEN -1e300 AND 1e300"
                 " ORDER BY %s%s l.run_id, l.step",
                 x, y, by, x, y, plot->by ? by : "", plot->by ? "," : ""));
    if (plot->n_rows == 0)
        nothing_to_plot(plot, "tlaw_losses");
}

/* ---- the functions ---- */

static const char *text_argument(FunctionCallInfo fcinfo, int i, const char *otherwise)
{
    return PG_ARGISNULL(i) ? otherwise : text_to_cstring(PG_GETARG_TEXT_PP(i));
}

/* The smoothness that the study's frozen plan assumes, or 1. */
static double planned_smoothness(const char *study)
{
    Oid types[1] = {TEXTOID};
    Datum values[1] = {CStringGetTextDatum(study)};
    const char *sql = tlaw_sql("SELECT smoothness FROM @.tlaw_study_plans WHERE study = $1");

    if (SPI_execute_with_args(sql, 1, types, values, NULL, true, 1) != SPI_OK_SELECT)
        elog(ERROR, "cannot read the plan of a study");
    return SPI_processed == 0 ? 1 : number_at(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* The theory's exponent, from the arguments dimension and smoothness. */
static void set_theory(FunctionCallInfo fcinfo, struct plot *plot)
{
    if (PG_ARGISNULL(4))
        return;
    plot->dimension = tlaw_number_argument("dimension", PG_GETARG_FLOAT8(4), 1e-3, 1e6);
    plot->smoothness = PG_ARGISNULL(5) ? planned_smoothness(plot->study)
                                       : tlaw_number_argument("smoothness", PG_GETARG_FLOAT8(5), 1e-3, 1e3);
    if (plot->y.kind != LOSS || (plot->x.kind != DATA && plot->x.kind != PARAMETERS))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("dimension is %g, but the theory says nothing of %s against %s", plot->dimension,
                        plot->y.column, plot->x.column),
                 errdetail("It needs a loss as y and train_tokens, train_bytes, train_documents, n_params or "
                           "n_params_non_embedding as x.")));
    plot->exponent = tlaw_theory_exponent(plot->x.kind == DATA ? TLAW_THEORY_DATA : TLAW_THEORY_PARAMS,
                                          plot->dimension, plot->smoothness);
}

/* What the marks mean. */
static const char *points_note(const struct plot *plot)
{
    return psprintf("%d run%s%s%s%s", plot->n_rows, plot->n_rows == 1 ? "" : "s",
                    plot->replicates ? " · points: means, dots: single runs" : "",
                    plot->bars ? " · bars: ± 1 standard error" : "",
                    plot->bands ? " · band and [ ]: 95 %" : "");
}

static Datum finish(struct plot *plot, const struct tlaw_svg_figure *figure)
{
    text *document = cstring_to_text(tlaw_svg(&plot->host, figure));

    MemoryContextDelete(plot->context);
    PG_RETURN_TEXT_P(document);
}

PG_FUNCTION_INFO_V1(tlaw_plot);
Datum tlaw_plot(PG_FUNCTION_ARGS)
{
    struct plot plot = {0};
    struct tlaw_svg_figure figure = {0};
    MemoryContext caller;
    bool curves;
    int runs;

    tlaw_not_null(fcinfo, 0, "study");
    tlaw_not_null(fcinfo, 1, "x");
    plot.study = text_argument(fcinfo, 0, NULL);
    plot.x = quantity_named(text_argument(fcinfo, 1, NULL));
    curves = strcmp(plot.x.column, "step") == 0 || strcmp(plot.x.column, "tokens_seen") == 0;
    plot.y = quantity_named(text_argument(fcinfo, 2, curves ? "val_loss" : "test_loss"));
    plot.by = text_argument(fcinfo, 3, NULL);
    plot.context = tlaw_law_context(&plot.host);

    SPI_connect();
    if (!curves)
        require_column("x", "tlaw_runs", plot.x.column, true);
    require_column("y", curves ? "tlaw_losses" : "tlaw_runs", plot.y.column, true);
    if (plot.by)
        require_column("by", "tlaw_runs", plot.by, false);
    set_theory(fcinfo, &plot);
    if (curves)
        read_curves(&plot);
    else
        read_points(&plot);
    SPI_finish();

    caller = MemoryContextSwitchTo(plot.context);
    if (curves)
        runs = plot_curves(&plot);
    else
        plot_points(&plot);
    figure.title = utf8(plot.study);
    figure.note = curves ? psprintf("%d run%s, a line each", runs, runs == 1 ? "" : "s") : points_note(&plot);
    figure.x = (struct tlaw_svg_axis){utf8(plot.x.title), plot_all_positive(&plot, false)};
    figure.y = (struct tlaw_svg_axis){utf8(plot.y.title), plot_all_positive(&plot, true)};
    figure.series = plot.series;
    figure.n_series = plot.n_series;
    MemoryContextSwitchTo(caller);
    return finish(&plot, &figure);
}

/* ---- any query ---- */

/* Error unless the columns are x, y [, low, high] [, series]. */
static void check_columns(TupleDesc descriptor)
{
    int n = descriptor->natts, numbers = n >= 4 ? 4 : 2, i;

    if (n < 2 || n > 5)
        ereport(
            ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("the query has %d column%s", n, n == 1 ? "" : "s"),
             errdetail(
                 "It must have (x, y), (x, y, series), (x, y, low, high) or (x, y, low, high, series).")));
    for (i = 1; i <= numbers; i++)
        if (TypeCategory(SPI_gettypeid(descriptor, i)) != TYPCATEGORY_NUMERIC)
            ereport(ERROR,
                    (errcode(ERRCODE_DATATYPE_MISMATCH),
                     errmsg("column %d of the query, \"%s\", is not a number", i, SPI_fname(descriptor, i)),
                     errdetail("Its columns must be (x, y), (x, y, series), (x, y, low, high) or (x, y, low, "
                               "high, series).")));
}

/* A cell as a number, NAN where it is null; refused where it cannot be drawn. */
static double cell(HeapTuple tuple, TupleDesc descriptor, int column, bool logarithmic)
{
    char *value = SPI_getvalue(tuple, descriptor, column);
    double number;

    if (value == NULL)
        return NAN;
    number = DatumGetFloat8(DirectFunctionCall1(float8in, CStringGetDatum(value)));
    if (!(fabs(number) < LARGEST) || (logarithmic && number <= 0))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("column \"%s\" of the query is %s", SPI_fname(descriptor, column), value),
                        logarithmic ? errdetail("It must be positive on a logarithmic axis, and below 1e300.")
                                    : errdetail("It must be a number below 1e300 in size.")));
    return number;
}

static int compare_rows(const void *left, const void *right)
{
    const struct row *a = left, *b = right;

    if (a->series != b->series)
        return a->series - b->series;
    if (a->x != b->x)
        return a->x < b->x ? -1 : 1;
    return (a->y > b->y) - (a->y < b->y);
}

/* The rows of the last query; those without x or y are left out. */
static void read_cells(struct plot *plot, bool log_x, bool log_y)
{
    TupleDesc descriptor = SPI_tuptable->tupdesc;
    int n = descriptor->natts;
    uint64 i;

    check_columns(descriptor);
    check_row_count();
    plot->rows = MemoryContextAllocHuge(plot->context, sizeof(*plot->rows) * (SPI_processed + 1));
    for (i = 0; i < SPI_processed; i++) {
        HeapTuple tuple = SPI_tuptable->vals[i];
        struct row *row = &plot->rows[plot->n_rows];
        const char *name = n % 2 == 1 ? SPI_getvalue(tuple, descriptor, n) : NULL;

        row->x = cell(tuple, descriptor, 1, log_x);
        row->y = cell(tuple, descriptor, 2, log_y);
        row->low = n >= 4 ? cell(tuple, descriptor, 3, false) : NAN;
        row->high = n >= 4 ? cell(tuple, descriptor, 4, false) : NAN;
        if (isnan(row->x) || isnan(row->y))
            continue;
        row->series = n % 2 == 1 ? series_of(plot, utf8(name ? name : "NULL")) : 0;
        plot->n_rows++;
    }
    if (plot->n_rows == 0)
        ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND), errmsg("the query gave no row with both x and y")));
    if (n % 2 == 0)
        plot->n_names = 1;
    qsort(plot->rows, plot->n_rows, sizeof(*plot->rows), compare_rows);
}

static bool is_whole(Oid type)
{
    return type == INT2OID || type == INT4OID || type == INT8OID;
}

PG_FUNCTION_INFO_V1(tlaw_plot_query);
Datum tlaw_plot_query(PG_FUNCTION_ARGS)
{
    struct plot plot = {0};
    struct tlaw_svg_figure figure = {0};
    struct tlaw_svg_point *points, *line;
    const char *title = text_argument(fcinfo, 1, NULL), *x_title = text_argument(fcinfo, 2, NULL);
    const char *y_title = text_argument(fcinfo, 3, NULL);
    int first, last, i;

    tlaw_not_null(fcinfo, 0, "query");
    tlaw_not_null(fcinfo, 4, "log_x");
    tlaw_not_null(fcinfo, 5, "log_y");
    figure.x.logarithmic = PG_GETARG_BOOL(4);
    figure.y.logarithmic = PG_GETARG_BOOL(5);
    plot.context = tlaw_law_context(&plot.host);

    SPI_connect();
    if (SPI_execute(text_argument(fcinfo, 0, NULL), true, MAX_ROWS + 1) < 0 || SPI_tuptable == NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the query returns no rows"),
                        errdetail("It must be a SELECT.")));
    read_cells(&plot, figure.x.logarithmic, figure.y.logarithmic);
    figure.x.whole = is_whole(SPI_gettypeid(SPI_tuptable->tupdesc, 1));
    figure.y.whole = is_whole(SPI_gettypeid(SPI_tuptable->tupdesc, 2));
    figure.x.title =
        MemoryContextStrdup(plot.context, utf8(x_title ? x_title : SPI_fname(SPI_tuptable->tupdesc, 1)));
    figure.y.title =
        MemoryContextStrdup(plot.context, utf8(y_title ? y_title : SPI_fname(SPI_tuptable->tupdesc, 2)));
    SPI_finish();

    plot.series = MemoryContextAlloc(plot.context, sizeof(*plot.series) * TLAW_SVG_STYLES);
    points = plot_new_points(&plot, plot.n_rows);
    line = plot_new_points(&plot, plot.n_rows);
    for (first = 0; first < plot.n_rows; first = last) {
        struct tlaw_svg_series *series =
            plot_add_series(&plot, plot.names[plot.rows[first].series], plot.rows[first].series);

        last = plot_end_of_series(&plot, first);
        for (i = first; i < last; i++) {
            points[i] = line[i] = plot_bare_point(plot.rows[i].x, plot.rows[i].y);
            points[i].low = plot.rows[i].low;
            points[i].high = plot.rows[i].high;
        }
        series->points = (struct tlaw_svg_points){points + first, last - first};
        series->line = (struct tlaw_svg_points){line + first, last - first};
    }
    figure.title = title ? utf8(title) : NULL;
    figure.series = plot.series;
    figure.n_series = plot.n_series;
    return finish(&plot, &figure);
}
