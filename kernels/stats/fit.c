/*
 * Fits of scaling laws; see fit.h.  Preparation of the rows, the search from several starts, the bound at E =
 * 0 and the certificate.
 */
#include "fit.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_STARTS = 8,
    SEARCH_ROWS =
        2000, /* the search from several starts sees at most that many rows; the winner is polished on all */
    MAX_ITERATIONS = 400
};

void tlaw_fit_say(char *message, const char *format, ...)
{
    size_t used = strlen(message);
    va_list arguments;
    if (used > 0 && used + 3 < 512) {
        memcpy(message + used, "; ", 3);
        used += 2;
    }
    va_start(arguments, format);
    vsnprintf(message + used, 512 - used, format, arguments);
    va_end(arguments);
}

/* ---- rows ---- */

static int compare_rows(const void *left, const void *right)
{
    const struct tlaw_row *a = left, *b = right;
    for (int v = 0; v < TLAW_MAX_VARIABLES; v++)
        if (a->x[v] != b->x[v])
            return a->x[v] < b->x[v] ? -1 : 1;
    if (a->loss != b->loss)
        return a->loss < b->loss ? -1 : 1;
    if (a->clustered != b->clustered)
        return a->clustered ? -1 : 1;
    if (a->cluster != b->cluster)
        return a->cluster < b->cluster ? -1 : 1;
    return (a->weight > b->weight) - (a->weight < b->weight);
}

/*
 * Copies rows to sorted in the order of compare_rows: radix sort by the first variable (the bits of positive
 * doubles order like integers), then each group of equal ones.
 */
static void sort_rows(const struct tlaw_host *host, const struct tlaw_row *rows, size_t n,
                      struct tlaw_row *sorted)
{
    enum { BITS = 11, BUCKETS = 1 << BITS };
    struct key {
        uint64_t bits;
        size_t row;
    } *from = host->allocate(host->argument, sizeof *from * (n + 1)),
      *to = host->allocate(host->argument, sizeof *to * (n + 1));

    for (size_t i = 0; i < n; i++) {
        memcpy(&from[i].bits, &rows[i].x[0], sizeof from[i].bits);
        from[i].row = i;
    }
    for (int shift = 0; shift < 64; shift += BITS) {
        size_t start[BUCKETS + 1] = {0};
        for (size_t i = 0; i < n; i++)
            start[(from[i].bits >> shift) % BUCKETS + 1]++;
        for (int b = 0; b < BUCKETS; b++)
            start[b + 1] += start[b];
        for (size_t i = 0; i < n; i++)
            to[start[(from[i].bits >> shift) % BUCKETS]++] = from[i];
        struct key *swap = from;
        from = to;
        to = swap;
        host->breathe(host->argument);
    }
    for (size_t i = 0; i < n; i++)
        sorted[i] = rows[from[i].row];
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && sorted[end].x[0] == sorted[i].x[0]; end++)
            ;
        if (end - i > 1)
            qsort(sorted + i, end - i, sizeof *sorted, compare_rows);
    }
}

struct label {
    int64_t cluster;
    size_t row;
};

static int compare_labels(const void *left, const void *right)
{
    const struct label *a = left, *b = right;
    if (a->cluster != b->cluster)
        return a->cluster < b->cluster ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* Numbers the clusters 0, 1, ...; rows without one get their own number. */
static void number_clusters(const struct tlaw_host *host, const struct tlaw_row *rows, struct tlaw_data *data)
{
    struct label *labels = host->allocate(host->argument, sizeof *labels * (data->n + 1));
    size_t n_labels = 0;
    for (size_t i = 0; i < data->n; i++)
        if (rows[i].clustered)
            labels[n_labels++] = (struct label){rows[i].cluster, i};
    qsort(labels, n_labels, sizeof *labels, compare_labels);
    for (size_t i = 0; i < n_labels; i++) {
        if (i == 0 || labels[i].cluster != labels[i - 1].cluster)
            data->n_clusters++;
        data->cluster[labels[i].row] = data->n_clusters - 1;
    }
    data->clustered = n_labels > 0;
    for (size_t i = 0; i < data->n; i++)
        if (!rows[i].clustered)
            data->cluster[i] = data->n_clusters++;
}

/* The form's variables in order; N is clipped to nothing, U to at most D. False with a message on a bad
 * value. */
static bool check_row(const struct tlaw_form_info *info, const struct tlaw_row *row, char *message)
{
    for (int v = 0; v < info->n_variables; v++)
        if (!(row->x[v] > 0) || !isfinite(row->x[v])) {
            tlaw_fit_say(message, "%s is %g: it must be positive and finite", info->variables[v], row->x[v]);
            return false;
        }
    if (!(row->loss > 0) || !isfinite(row->loss)) {
        tlaw_fit_say(message, "loss is %g: it must be positive and finite", row->loss);
        return false;
    }
    return true;
}

static void set_loss(struct tlaw_data *data, const struct tlaw_fit_options *options)
{
    const struct tlaw_form_info *info = tlaw_form_info(data->form);
    double delta = options->delta > 0 ? options->delta : 1e-3;
    data->log_residuals = options->loss != TLAW_LOSS_SQUARED || data->form == TLAW_POWER_LAW;
    data->delta = options->loss == TLAW_LOSS_HUBER                              ? delta
                  : options->loss == TLAW_LOSS_OF_FORM && isfinite(info->delta) ? delta
                                                                                : INFINITY;
}

int tlaw_extent_count(enum tlaw_form form)
{
    int n = tlaw_form_info(form)->n_variables;
    return n < 2 ? n : n + 1;
}

static double extent(enum tlaw_form form, const double *variables, int i)
{
    return i < tlaw_form_info(form)->n_variables ? variables[i] : variables[0] * variables[1];
}

static struct tlaw_extents extents_of(const struct tlaw_row *rows, size_t n, enum tlaw_form form)
{
    struct tlaw_extents extents;
    for (int i = 0; i < TLAW_MAX_EXTENTS; i++)
        extents.smallest[i] = extents.largest[i] = NAN;
    for (size_t row = 0; row < n; row++)
        for (int i = 0; i < tlaw_extent_count(form); i++) {
            extents.smallest[i] = fmin(extents.smallest[i], extent(form, rows[row].x, i));
            extents.largest[i] = fmax(extents.largest[i], extent(form, rows[row].x, i));
        }
    return extents;
}

double tlaw_fit_extrapolation(const struct tlaw_fit *fit, const double *variables)
{
    double most = 1;
    for (int i = 0; i < tlaw_extent_count(fit->form); i++) {
        double at = extent(fit->form, variables, i);
        most = fmax(most, fmax(at / fit->extents.largest[i], fit->extents.smallest[i] / at));
    }
    return most;
}

struct tlaw_data *tlaw_fit_data(const struct tlaw_host *host, const struct tlaw_row *rows, size_t n,
                                enum tlaw_form form, const struct tlaw_fit_options *options, char *message)
{
    const struct tlaw_form_info *info = tlaw_form_info(form);
    struct tlaw_data *data = host->allocate(host->argument, sizeof *data);
    struct tlaw_row *sorted = host->allocate(host->argument, sizeof *sorted * (n + 1));

    memset(data, 0, sizeof *data);
    data->form = form;
    data->n = n;
    data->extents = extents_of(rows, n, form);
    for (size_t i = 0; i < n; i++)
        if (!check_row(info, &rows[i], message))
            return NULL;
    sort_rows(host, rows, n, sorted);
    host->breathe(host->argument);
    data->x = host->allocate(host->argument, sizeof *data->x * (n + 1));
    data->loss = host->allocate(host->argument, sizeof(double) * (n + 1));
    data->log_loss = host->allocate(host->argument, sizeof(double) * (n + 1));
    data->weights = host->allocate(host->argument, sizeof(double) * (n + 1));
    data->cluster = host->allocate(host->argument, sizeof(int32_t) * (n + 1));
    for (size_t i = 0; i < n; i++) {
        for (int v = 0; v < TLAW_MAX_VARIABLES; v++) {
            data->x[i][v] = v < info->n_variables ? log(sorted[i].x[v]) : 0;
            data->centre[v] += data->x[i][v] / (double) n;
        }
        data->loss[i] = sorted[i].loss;
        data->log_loss[i] = log(sorted[i].loss);
        data->weights[i] = sorted[i].weight;
    }
    if (form == TLAW_FARSEER) /* its exponent of D depends on N: D has no centre of its own */
        data->centre[1] = 0;
    if (form == TLAW_DATA_CONSTRAINED) /* U and D share a unit */
        data->centre[2] = data->centre[1];
    for (size_t i = 0; i < n; i++)
        for (int v = 0; v < TLAW_MAX_VARIABLES; v++)
            data->x[i][v] -= data->centre[v];
    number_clusters(host, sorted, data);
    set_loss(data, options);
    return data;
}

/* ---- the problem ---- */

static bool evaluate(const struct tlaw_problem *problem, const double *params, size_t first, size_t count,
                     double *residuals, double *jacobian)
{
    const struct tlaw_data *data = problem->data;
    int n_params = problem->n_params;
    for (size_t i = 0; i < count; i++) {
        double *gradient = jacobian + i * n_params;
        double value = tlaw_form_value(data->form, params, data->x[first + i], gradient);
        if (!data->log_residuals) {
            residuals[i] = value - data->loss[first + i];
            continue;
        }
        if (!(value > 0))
            return false;
        residuals[i] = log(value) - data->log_loss[first + i];
        for (int j = 0; j < n_params; j++)
            gradient[j] /= value;
    }
    return true;
}

void tlaw_fit_problem(const struct tlaw_host *host, const struct tlaw_data *data,
                      struct tlaw_problem *problem)
{
    const struct tlaw_form_info *info = tlaw_form_info(data->form);
    *problem = (struct tlaw_problem){.n_rows = data->n,
                                     .n_params = info->n_params,
                                     .evaluate = evaluate,
                                     .data = data,
                                     .weights = data->weights,
                                     .delta = data->delta,
                                     .linear = !data->log_residuals && info->irreducible == 0 ? 1 : 0,
                                     .host = host};
}

/* ---- what can be identified ---- */

/* Number of distinct values of a variable (or of the loss, v < 0) among the rows with weight, up to `enough`.
 */
static int distinct_values(const struct tlaw_data *data, int v, int enough)
{
    double seen[8];
    int distinct = 0;
    for (size_t i = 0; i < data->n && distinct < enough; i++) {
        double value = v < 0 ? data->log_loss[i] : data->x[i][v];
        bool fresh = data->weights[i] > 0;
        for (int k = 0; k < distinct && fresh; k++)
            fresh = fabs(value - seen[k]) > 1e-12;
        if (fresh)
            seen[distinct++] = value;
    }
    return distinct;
}

static bool identifiable(const struct tlaw_data *data, struct tlaw_fit *fit)
{
    const struct tlaw_form_info *info = tlaw_form_info(data->form);
    if (fit->n < (size_t) info->n_params + 1) {
        tlaw_fit_say(fit->message, "%zu row%s: %s has %d parameters and needs at least %d rows", fit->n,
                     fit->n == 1 ? "" : "s", info->name, info->n_params, info->n_params + 1);
        return false;
    }
    for (int v = 0; v < info->n_variables && v < 2; v++) {
        int distinct = distinct_values(data, v, info->distinct);
        if (distinct < info->distinct) {
            tlaw_fit_say(fit->message, "%d distinct value%s of %s: %s needs at least %d", distinct,
                         distinct == 1 ? "" : "s", info->variables[v], info->name, info->distinct);
            return false;
        }
    }
    if (distinct_values(data, -1, 2) < 2) {
        tlaw_fit_say(fit->message, "the loss does not vary: no exponent can be told");
        return false;
    }
    return true;
}

/* ---- the search ---- */

struct candidate {
    struct tlaw_solution unbound, bound; /* without and with E >= 0 */
    bool at_bound;
};

static void solve_candidate(const struct tlaw_problem *problem, int irreducible, const double *start,
                            int iterations, struct candidate *candidate)
{
    tlaw_solve(problem, start, iterations, &candidate->unbound);
    candidate->bound = candidate->unbound;
    candidate->at_bound = false;
    if (irreducible < 0 || iterations == 0)
        return;
    bool allowed = candidate->unbound.valid && candidate->unbound.params[irreducible] >= 0;
    if (allowed && candidate->unbound.converged)
        return;
    struct tlaw_problem restricted = *problem;
    double moved[TLAW_MAX_PARAMS];
    memcpy(moved, start, sizeof moved);
    moved[irreducible] = 0;
    restricted.fixed |= 1u << irreducible;
    tlaw_solve(&restricted, moved, iterations, &candidate->bound);
    candidate->at_bound = true;
    if (allowed && !(candidate->bound.objective <= candidate->unbound.objective)) {
        candidate->bound = candidate->unbound;
        candidate->at_bound = false;
    }
}

/* `rows` rows, evenly spaced; data itself when it has no more. */
static const struct tlaw_data *thin(const struct tlaw_host *host, const struct tlaw_data *data, size_t rows)
{
    if (data->n <= rows)
        return data;
    struct tlaw_data *thinned = host->allocate(host->argument, sizeof *thinned);
    *thinned = *data;
    thinned->n = rows;
    thinned->x = host->allocate(host->argument, sizeof *thinned->x * rows);
    thinned->loss = host->allocate(host->argument, sizeof(double) * rows);
    thinned->log_loss = host->allocate(host->argument, sizeof(double) * rows);
    thinned->weights = host->allocate(host->argument, sizeof(double) * rows);
    for (size_t i = 0; i < rows; i++) {
        size_t from = i * (data->n - 1) / (rows - 1);
        memcpy(thinned->x[i], data->x[from], sizeof *thinned->x);
        thinned->loss[i] = data->loss[from];
        thinned->log_loss[i] = data->log_loss[from];
        thinned->weights[i] = data->weights[from];
    }
    return thinned;
}

/* Bits of the parameters that no row depends on at params: moving one by its whole size moves no loss by
 * 1e-8. */
static uint32_t unseen_parameters(const struct tlaw_problem *problem, const struct tlaw_data *data,
                                  const double *params)
{
    double residuals[TLAW_SOLVER_BLOCK], jacobian[TLAW_SOLVER_BLOCK * TLAW_MAX_PARAMS];
    uint32_t unseen = (1u << problem->n_params) - 1;
    for (size_t first = 0; first < problem->n_rows && unseen; first += TLAW_SOLVER_BLOCK) {
        size_t left = problem->n_rows - first, count = left < TLAW_SOLVER_BLOCK ? left : TLAW_SOLVER_BLOCK;
        if (!problem->evaluate(problem, params, first, count, residuals, jacobian))
            return 0;
        for (size_t i = 0; i < count; i++)
            for (int j = 0; j < problem->n_params && data->weights[first + i] > 0; j++) {
                double scale = data->log_residuals ? 1 : data->loss[first + i];
                if (!(fabs(jacobian[i * problem->n_params + j]) * fmax(1, fabs(params[j])) <= 1e-8 * scale))
                    unseen &= ~(1u << j);
            }
    }
    return unseen;
}

/* Holds what the rows do not see and searches on from there: the rest may then have a minimum. */
static void hold_unseen(const struct tlaw_host *host, const struct tlaw_data *data, struct tlaw_fit *fit,
                        struct candidate *best)
{
    const struct tlaw_form_info *info = tlaw_form_info(data->form);
    struct tlaw_problem problem;
    tlaw_fit_problem(host, data, &problem);
    fit->unseen = unseen_parameters(&problem, data, best->bound.params);
    if (info->irreducible >= 0)
        fit->unseen &= ~(1u << info->irreducible);
    if (fit->unseen == 0)
        return;
    problem.fixed = fit->unseen;
    double start[TLAW_MAX_PARAMS];
    memcpy(start, best->bound.params, sizeof start);
    solve_candidate(&problem, info->irreducible, start, MAX_ITERATIONS, best);
    for (int j = 0; j < info->n_params; j++)
        if (fit->unseen >> j & 1)
            tlaw_fit_say(fit->message, "%s is not identified: no row depends on it", info->params[j]);
}

/* Searches from every start; the best ends in `best`, the rest in the fit's certificate. */
static bool search(const struct tlaw_host *host, const struct tlaw_data *data, struct tlaw_fit *fit,
                   struct candidate *best, struct tlaw_solution *second)
{
    const struct tlaw_data *thinned = thin(host, data, SEARCH_ROWS);
    int irreducible = tlaw_form_info(data->form)->irreducible, winner = -1;
    double starts[MAX_STARTS][TLAW_MAX_PARAMS];
    struct candidate found[MAX_STARTS];
    struct tlaw_problem problem;

    tlaw_fit_problem(host, thinned, &problem);
    fit->starts = tlaw_fit_starts(host, thinned, MAX_STARTS, starts);
    for (int s = 0; s < fit->starts; s++) {
        solve_candidate(&problem, irreducible, starts[s], MAX_ITERATIONS, &found[s]);
        if (found[s].bound.valid && (winner < 0 || found[s].bound.objective < found[winner].bound.objective))
            winner = s;
    }
    if (winner < 0)
        return false;
    *best = found[winner];
    second->valid = false;
    for (int s = 0; s < fit->starts; s++) {
        double excess = found[s].bound.objective - best->bound.objective;
        if (excess <= 1e-6 * best->bound.objective + 1e-18)
            fit->starts_reached++;
        else if (found[s].bound.converged && (!second->valid || found[s].bound.objective < second->objective))
            *second = found[s].bound;
        if (found[s].unbound.valid && found[s].unbound.objective < best->unbound.objective)
            best->unbound = found[s].unbound;
    }
    for (size_t rows = thinned->n; rows < data->n;) { /* polish on more rows, then all */
        rows = rows * 40 < data->n ? rows * 20 : data->n;
        thinned = thin(host, data, rows);
        tlaw_fit_problem(host, thinned, &problem);
        problem.warm = true;
        problem.enough = thinned == data ? 1e-9 : 1e-4;
        solve_candidate(&problem, irreducible, best->bound.params, MAX_ITERATIONS, best);
    }
    if (best->bound.valid)
        hold_unseen(host, data, fit, best);
    return best->bound.valid;
}

/* A single start handed in by the user. */
static bool from_start(const struct tlaw_host *host, const struct tlaw_data *data,
                       const struct tlaw_fit_options *options, struct tlaw_fit *fit, struct candidate *best)
{
    const struct tlaw_form_info *info = tlaw_form_info(data->form);
    double working[TLAW_MAX_PARAMS];
    struct tlaw_problem problem;

    fit->starts = 1;
    tlaw_fit_problem(host, data, &problem);
    if (!tlaw_form_from_natural(data->form, options->start, data->centre, working))
        return false;
    solve_candidate(&problem, info->irreducible, working,
                    options->max_iterations < 0 ? MAX_ITERATIONS : options->max_iterations, best);
    fit->starts_reached = best->bound.converged;
    return best->bound.valid;
}

static void certify(const struct tlaw_data *data, const struct candidate *best, struct tlaw_fit *fit)
{
    const struct tlaw_solution *solution = &best->bound;
    double exact = 1e-24; /* mean square below which the fit is exact and its gradient rounding */
    if (!data->log_residuals)
        exact *= data->loss[0] * data->loss[0];

    fit->fitted = true;
    fit->objective = solution->objective * (isfinite(data->delta) ? 1 : 2);
    fit->gradient_norm = solution->gradient_norm;
    fit->relative_offset = solution->relative_offset;
    fit->iterations = solution->iterations;
    fit->converged = solution->converged || fit->objective <= exact * (double) fit->n;
    fit->at_bound = best->at_bound;
    memcpy(fit->working, solution->params, sizeof fit->working);
    memcpy(fit->unbound, best->unbound.params, sizeof fit->unbound);
    fit->unbound_objective = best->unbound.objective;
    fit->unbound_converged = best->unbound.converged;
    if (!tlaw_form_to_natural(data->form, fit->working, data->centre, fit->natural)) {
        fit->converged = false;
        tlaw_fit_say(fit->message, "the natural form does not exist at the minimum");
    }
    for (int j = 0; j < tlaw_form_info(data->form)->n_params; j++)
        if (fit->unseen >> j & 1)
            fit->natural[j] = NAN;
    if (!fit->converged)
        tlaw_fit_say(
            fit->message, "not converged: scaled gradient %.1e (%.0e asked for), relative offset %.1e (%.0e)",
            fit->gradient_norm, TLAW_GRADIENT_TOLERANCE, fit->relative_offset, TLAW_OFFSET_TOLERANCE);
    if (fit->at_bound)
        tlaw_fit_say(fit->message, "the irreducible loss is at its bound, 0");
}

static void forget(struct tlaw_fit *fit)
{
    for (int j = 0; j < TLAW_MAX_PARAMS; j++) {
        fit->natural[j] = fit->working[j] = fit->unbound[j] = NAN;
        fit->se[j] = fit->low[j] = fit->high[j] = NAN;
    }
    for (int j = 0; j < TLAW_MAX_PARAMS * TLAW_MAX_PARAMS; j++)
        fit->covariance[j] = NAN;
    fit->objective = fit->gradient_norm = fit->relative_offset = NAN;
    fit->second_objective = fit->second_distance = NAN;
    fit->df = fit->noise = fit->irreducible_p = fit->curvature_p = fit->lack_of_fit_p = NAN;
}

void tlaw_fit_prepared(const struct tlaw_host *host, const struct tlaw_data *data,
                       const struct tlaw_fit_options *options, struct tlaw_fit *fit)
{
    struct candidate best;
    struct tlaw_solution second = {.valid = false};

    memset(fit, 0, sizeof *fit);
    forget(fit);
    fit->form = data->form;
    fit->extents = data->extents;
    fit->log_residuals = data->log_residuals;
    fit->delta = data->delta;
    fit->level = options->level;
    fit->alike = options->alike;
    fit->n_clusters = data->clustered ? data->n_clusters : 0;
    memcpy(fit->centre, data->centre, sizeof fit->centre);
    for (size_t i = 0; i < data->n; i++)
        fit->n += data->weights[i] > 0;
    if (!identifiable(data, fit))
        return;
    if (!(options->start ? from_start(host, data, options, fit, &best)
                         : search(host, data, fit, &best, &second))) {
        tlaw_fit_say(fit->message, "no start gave a finite objective");
        return;
    }
    certify(data, &best, fit);
    if (options->intervals)
        tlaw_fit_infer(host, data, fit);
    if (second.valid) {
        double natural[TLAW_MAX_PARAMS];
        fit->second_objective = second.objective * (isfinite(data->delta) ? 1 : 2);
        if (tlaw_form_to_natural(data->form, second.params, data->centre, natural))
            for (int j = 0; j < tlaw_form_info(data->form)->n_params; j++)
                fit->second_distance =
                    fmax(fit->second_distance, fabs(natural[j] - fit->natural[j]) / fit->se[j]);
    }
}

void tlaw_fit_run(const struct tlaw_host *host, const struct tlaw_row *rows, size_t n, enum tlaw_form form,
                  const struct tlaw_fit_options *options, struct tlaw_fit *fit)
{
    char message[512] = "";
    struct tlaw_data *data = tlaw_fit_data(host, rows, n, form, options, message);
    if (data) {
        tlaw_fit_prepared(host, data, options, fit);
        return;
    }
    memset(fit, 0, sizeof *fit);
    forget(fit);
    fit->form = form;
    fit->n = n;
    fit->level = options->level;
    memcpy(fit->message, message, sizeof message);
}
