/*
 * Series of plots: replicates summed up, laws with their bands, the theory's line, the compute frontier,
 * curves.
 */
#include "plot.h"

#include <math.h>

#include "utils/memutils.h"

#define LAW_POINTS 64

struct tlaw_svg_series *plot_add_series(struct plot *plot, const char *name, int style)
{
    struct tlaw_svg_series *series = &plot->series[plot->n_series++];

    memset(series, 0, sizeof(*series));
    series->name = name;
    series->style = style;
    return series;
}

struct tlaw_svg_point *plot_new_points(const struct plot *plot, size_t n)
{
    return plot->host.allocate(plot->host.argument, sizeof(struct tlaw_svg_point) * n);
}

struct tlaw_svg_point plot_bare_point(double x, double y)
{
    struct tlaw_svg_point point = {x, y, NAN, NAN};

    return point;
}

/* Points of n rows sorted by x and setting: one for each, the mean of its replicates with its standard error.
 */
static void summarise(struct plot *plot, const struct row *rows, int n, struct tlaw_svg_series *series)
{
    struct tlaw_svg_point *points = plot_new_points(plot, n), *dots = plot_new_points(plot, n);
    int first, last, i;

    for (first = 0; first < n; first = last) {
        struct tlaw_svg_point *point = &points[series->points.n++];
        double mean = 0, squares = 0, se;

        for (last = first;
             last < n && rows[last].x == rows[first].x && rows[last].setting == rows[first].setting; last++)
            mean += rows[last].y;
        mean /= last - first;
        *point = plot_bare_point(rows[first].x, mean);
        if (last == first + 1) {
            point->low = rows[first].low;
            point->high = rows[first].high;
        } else {
            for (i = first; i < last; i++) {
                squares += (rows[i].y - mean) * (rows[i].y - mean);
                dots[series->dots.n++] = plot_bare_point(rows[i].x, rows[i].y);
            }
            se = sqrt(squares / (last - first - 1) / (last - first));
            point->low = mean - se;
            point->high = mean + se;
            plot->replicates = true;
        }
        plot->bars = plot->bars || !isnan(point->low);
    }
    series->points.at = points;
    series->dots.at = dots;
}

/* Places of n points from low to high, a little beyond both, even in their logarithms. */
static double law_place(double low, double high, int i)
{
    double beyond = 0.03 * log(high / low);

    return low * exp(-beyond + (log(high / low) + 2 * beyond) * i / (LAW_POINTS - 1));
}

/* Whether runs that differ in more than seeds share an x: then one law cannot be theirs. */
static bool mixed(const struct row *rows, int n)
{
    int i;

    for (i = 1; i < n; i++)
        if (rows[i].x == rows[i - 1].x && rows[i].setting != rows[i - 1].setting)
            return true;
    return false;
}

/* Has every parameter a value? */
static bool identified(const struct tlaw_fit *fit)
{
    int i;

    for (i = 0; i < tlaw_form_info(fit->form)->n_params; i++)
        if (isnan(fit->natural[i]))
            return false;
    return true;
}

/* Fits the first of the two forms that the rows identify; false: neither, fit->message says why. */
static bool fit_law(struct plot *plot, const struct row *rows, int n, struct tlaw_fit *fit)
{
    struct tlaw_fit_options options = {.level = 0.95, .max_iterations = -1, .intervals = true};
    struct tlaw_row *law_rows = plot->host.allocate(plot->host.argument, sizeof(*law_rows) * n);
    int i;

    memset(law_rows, 0, sizeof(*law_rows) * n);
    for (i = 0; i < n; i++) {
        law_rows[i].x[0] = rows[i].x;
        law_rows[i].loss = rows[i].y;
        law_rows[i].weight = 1;
        law_rows[i].clustered = rows[i].has_subset_seed;
        law_rows[i].cluster = rows[i].subset_seed;
    }
    tlaw_fit_run(&plot->host, law_rows, n, TLAW_POWER_LAW_OFFSET, &options, fit);
    if (fit->converged && !fit->at_bound && identified(fit))
        return true;
    tlaw_fit_run(&plot->host, law_rows, n, TLAW_POWER_LAW, &options, fit);
    return fit->converged && identified(fit);
}

/* Three significant digits, zeros included where they fit: 0.280, 1.00, 12.3. */
static const char *three_digits(double value)
{
    char number[40];

    if (fabs(value) >= 1e-3 && fabs(value) < 100)
        return psprintf("%s%.*f", value < 0 ? "−" : "", 2 - (int) floor(log10(fabs(value))), fabs(value));
    tlaw_svg_number(value, 3, number, sizeof(number));
    return pstrdup(number);
}

/* "0.283 [0.251, 0.315]": value, standard error, low, high. */
static const char *shown_interval(const double shown[4])
{
    const char *value = three_digits(shown[0]);

    if (isnan(shown[2]) || isnan(shown[3]))
        return value;
    return psprintf("%s [%s, %s]", value, three_digits(shown[2]), three_digits(shown[3]));
}

/* What the legend says of a series: its name, if it has one, and more. */
static const char *named(const struct tlaw_svg_series *series, const char *more)
{
    return series->name ? psprintf("%s: %s", series->name, more) : more;
}

/* What the legend adds to a law that is not all it seems. */
static const char *doubts(const struct tlaw_fit *fit)
{
    if (fit->n_clusters == 1)
        return " (one subset_seed: no interval)";
    return tlaw_fit_is_refused(fit) ? " (the runs do not follow it)" : "";
}

/* The law of a series: its line, its band, its parameters in the legend. */
static void add_law(struct plot *plot, struct tlaw_svg_series *series, const struct row *rows, int n,
                    const struct tlaw_fit *fit)
{
    const struct tlaw_form_info *info = tlaw_form_info(fit->form);
    struct tlaw_svg_point *line = plot_new_points(plot, LAW_POINTS);
    double alpha[4], irreducible[4];
    int i;

    for (i = 0; i < LAW_POINTS; i++) {
        struct tlaw_prediction prediction;
        double x = law_place(rows[0].x, rows[n - 1].x, i);

        tlaw_fit_predict(fit, &x, &prediction);
        line[i] = plot_bare_point(x, prediction.loss);
        line[i].low = prediction.low;
        line[i].high = prediction.high;
        plot->bands = plot->bands || !isnan(prediction.low);
    }
    series->line.at = line;
    series->line.n = LAW_POINTS;
    tlaw_shown_parameter(fit, info->alpha, alpha);
    tlaw_shown_parameter(fit, info->irreducible, irreducible);
    series->name =
        named(series, psprintf("%sA x" TLAW_SVG_RAISE "−α" TLAW_SVG_LOWER ", α = %s%s%s%s",
                               info->irreducible < 0 ? "" : "E + ", shown_interval(alpha),
                               info->irreducible < 0 ? "" : ", E = ",
                               info->irreducible < 0 ? "" : shown_interval(irreducible), doubts(fit)));
}

/* The theory's line of a series: its excess over the fitted irreducible loss falls with the predicted
 * exponent, and it meets the law (or the runs, where there is none) at their centre. */
static void add_theory(struct plot *plot, const struct row *rows, int n, const struct tlaw_fit *fit,
                       bool fitted)
{
    struct tlaw_svg_series *series = plot_add_series(plot, NULL, TLAW_SVG_REFERENCE);
    struct tlaw_svg_point *line = plot_new_points(plot, LAW_POINTS);
    int place = fitted ? tlaw_form_info(fit->form)->irreducible : -1, i;
    double irreducible = place < 0 ? 0 : fit->natural[place], log_x = 0, log_y = 0, x, y;

    for (i = 0; i < n; i++) {
        log_x += log(rows[i].x) / n;
        log_y += log(rows[i].y) / n;
    }
    x = exp(log_x);
    y = fitted ? tlaw_form_predict(fit->form, fit->natural, &x, NULL) : exp(log_y);
    for (i = 0; i < LAW_POINTS; i++) {
        double at = law_place(rows[0].x, rows[n - 1].x, i);

        line[i] = plot_bare_point(at, irreducible + (y - irreducible) * pow(at / x, -plot->exponent));
    }
    series->line.at = line;
    series->line.n = LAW_POINTS;
}

/* One entry in the legend for all lines of the theory. */
static void name_theory(struct plot *plot)
{
    int i = plot->n_series - 1;

    while (i >= 0 && plot->series[i].style != TLAW_SVG_REFERENCE)
        i--;
    if (i >= 0)
        plot->series[i].name = psprintf("theory: α ≥ %s (dimension %g, smoothness %g)",
                                        three_digits(plot->exponent), plot->dimension, plot->smoothness);
}

static int compare_points(const void *left, const void *right)
{
    const struct tlaw_svg_point *a = left, *b = right;

    if (a->x != b->x)
        return a->x < b->x ? -1 : 1;
    return (a->y > b->y) - (a->y < b->y);
}

/* The compute frontier: the runs that no run of at most their compute beats. */
static void add_frontier(struct plot *plot)
{
    struct tlaw_svg_point *all = plot_new_points(plot, plot->n_rows);
    struct tlaw_svg_series *frontier;
    size_t n = 0, kept = 0, i;
    int s;

    for (s = 0; s < plot->n_series; s++)
        for (i = 0; i < plot->series[s].points.n; i++)
            all[n++] = plot_bare_point(plot->series[s].points.at[i].x, plot->series[s].points.at[i].y);
    qsort(all, n, sizeof(*all), compare_points);
    for (i = 0; i < n; i++)
        if (kept == 0 || all[i].y < all[kept - 1].y)
            all[kept++] = all[i];
    if (kept < 2)
        return;
    frontier = plot_add_series(plot, "compute frontier", TLAW_SVG_REFERENCE);
    frontier->line.at = all;
    frontier->line.n = kept;
}

bool plot_all_positive(const struct plot *plot, bool y)
{
    int i;

    for (i = 0; i < plot->n_rows; i++)
        if (!((y ? plot->rows[i].y : plot->rows[i].x) > 0))
            return false;
    return true;
}

/* Rows first .. returned - 1 are of one series. */
int plot_end_of_series(const struct plot *plot, int first)
{
    int last = first;

    while (last < plot->n_rows && plot->rows[last].series == plot->rows[first].series)
        last++;
    return last;
}

void plot_points(struct plot *plot)
{
    bool lawful = plot->y.kind == LOSS && (plot->x.kind == DATA || plot->x.kind == PARAMETERS) &&
                  plot_all_positive(plot, false) && plot_all_positive(plot, true);
    int first, last;

    plot->series = MemoryContextAlloc(plot->context, sizeof(*plot->series) * (2 * TLAW_SVG_STYLES + 1));
    for (first = 0; first < plot->n_rows; first = last) {
        struct tlaw_svg_series *series =
            plot_add_series(plot, plot->names[plot->rows[first].series], plot->rows[first].series);
        const struct row *rows = &plot->rows[first];
        struct tlaw_fit fit;
        bool fitted;

        last = plot_end_of_series(plot, first);
        summarise(plot, rows, last - first, series);
        if (!lawful)
            continue;
        if (mixed(rows, last - first)) {
            series->name =
                named(series, "no law (runs of several sizes or budgets at one x: make series by them)");
            continue;
        }
        fitted = fit_law(plot, rows, last - first, &fit);
        if (fitted)
            add_law(plot, series, rows, last - first, &fit);
        else
            series->name = named(series, psprintf("no law (%s)", fit.message));
        if (plot->exponent > 0)
            add_theory(plot, rows, last - first, &fit, fitted);
    }
    if (plot->exponent > 0)
        name_theory(plot);
    if (strcmp(plot->x.column, "flops") == 0)
        add_frontier(plot);
}

/* One line a run; without `by` the runs are the series as long as they can be told apart. Returns how many
 * runs. */
int plot_curves(struct plot *plot)
{
    int runs = 0, named = -1, first, last, i;

    for (i = 0; i < plot->n_rows; i++)
        runs += i == 0 || plot->rows[i].run_id != plot->rows[i - 1].run_id;
    plot->series = MemoryContextAllocHuge(plot->context, sizeof(*plot->series) * runs);
    for (first = 0; first < plot->n_rows; first = last) {
        const struct row *row = &plot->rows[first];
        struct tlaw_svg_point *line;
        const char *name = NULL;
        int style = row->series;

        for (last = first; last < plot->n_rows && plot->rows[last].run_id == row->run_id; last++)
            ;
        line = plot_new_points(plot, last - first);
        for (i = first; i < last; i++)
            line[i - first] = plot_bare_point(plot->rows[i].x, plot->rows[i].y);
        if (plot->by) {
            if (named != row->series)
                name = plot->names[row->series];
            named = row->series;
        } else if (runs > TLAW_SVG_STYLES) {
            style = TLAW_SVG_MANY;
        } else {
            style = plot->n_series;
            name = psprintf("run " INT64_FORMAT, row->run_id);
        }
        plot_add_series(plot, name, style)->line = (struct tlaw_svg_points){line, last - first};
    }
    return runs;
}
