/*
 * Covariance, intervals and tests of a fit.
 *
 * Every interval and test rests on one statistic: the efficient score of a direction (a parameter, or a
 * quadratic term that the law lacks), that is the part of its column of the Jacobian that the other
 * parameters cannot imitate, summed against rho'(residual).  Where its scale comes from:
 *
 * The clusters' own contributions, with the bias correction of Bell and McCaffrey (CR2, here for one
 * direction) and Satterthwaite's degrees of freedom: exact for balanced clusters.  Rows without a cluster are
 * clusters of one, for the noise of runs differs along a law.
 *
 * The variance of rho', with Huber's loss and no clusters: it is bounded, and so nearly the same everywhere.
 *
 * The signed root of the F statistic of the profile, where the caller says that rows are alike.
 *
 * Intervals invert that test along the profile of the parameter, so they follow the curvature of the law and
 * do not depend on its parametrisation.
 */
#include "fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "distributions.h"
#include "linalg.h"

enum {
    P = TLAW_MAX_PARAMS,
    PROFILE_ROWS = 4000, /* beyond, Wald's intervals: the law is as good as linear within them */
    NOISE_ROWS = 20000,  /* rows that the median of |residual| is taken from */
    SATTERTHWAITE = 400  /* clusters up to which the degrees of freedom are computed in full */
};

struct contribution {
    double score, information, z[P]; /* z: R^-T times the nuisance columns' product with the direction */
};

struct inference {
    const struct tlaw_host *host;
    const struct tlaw_data *data;
    struct tlaw_problem problem;
    struct tlaw_fit *fit;
    struct contribution *clusters;
    bool by_cluster;
    int n_params;
    double n, df;      /* rows with weight; n less parameters */
    double psi_square; /* sum of rho'(r)^2 at the minimum */
    double window;  /* rows with |residual| within it stand for the density at 0 (INFINITY: least squares) */
    double density; /* what each of them adds to the curvature (1: least squares) */
    double inside;  /* their share of the rows */
    double base_objective; /* without the bound at E = 0 */
};

/* A direction: parameter `param`, or where it is -1 the square of variable `square`. */
struct direction {
    int param, square;
};

struct statistic {
    double t, df, scale; /* scale: standard error of a step along the direction */
};

/* ---- the efficient score ---- */

static double target_column(const struct inference *inf, struct direction direction, const double *jacobian,
                            size_t i, double residual)
{
    if (direction.param >= 0)
        return jacobian[direction.param];
    double x = inf->data->x[i][direction.square];
    return x * x * (inf->data->log_residuals ? 1 : residual + inf->data->loss[i]);
}

struct block {
    double residuals[TLAW_SOLVER_BLOCK], jacobian[TLAW_SOLVER_BLOCK * P];
    size_t count;
};

static bool load_block(const struct inference *inf, const double *params, size_t first, struct block *block)
{
    size_t left = inf->problem.n_rows - first;
    block->count = left < TLAW_SOLVER_BLOCK ? left : TLAW_SOLVER_BLOCK;
    return inf->problem.evaluate(&inf->problem, params, first, block->count, block->residuals,
                                 block->jacobian);
}

/* QR triangle of [nuisance | target | psi] over the rows that have curvature (Powell's estimate: the noise
 * may vary along the law); false when the model cannot be evaluated. */
static bool triangle(const struct inference *inf, const double *params, const int *nuisance, int n,
                     struct direction direction, double *r)
{
    int columns = n + 2;
    double packed[TLAW_SOLVER_BLOCK * (P + 2)];
    struct block block;
    memset(r, 0, sizeof(double) * columns * columns);
    for (size_t first = 0; first < inf->problem.n_rows; first += block.count) {
        int used = 0;
        if (!load_block(inf, params, first, &block))
            return false;
        for (size_t i = 0; i < block.count; i++) {
            double root = sqrt(inf->data->weights[first + i]), *row = packed + used * columns;
            const double *jacobian = block.jacobian + i * inf->n_params;
            if (root == 0 || fabs(block.residuals[i]) > inf->window)
                continue;
            for (int k = 0; k < n; k++)
                row[k] = root * jacobian[nuisance[k]];
            row[n] = root * target_column(inf, direction, jacobian, first + i, block.residuals[i]);
            row[n + 1] = root * fmax(-inf->problem.delta, fmin(inf->problem.delta, block.residuals[i]));
            used++;
        }
        tlaw_qr_fold(r, columns, packed, used);
    }
    return true;
}

/* Sums of the score over all rows, in all and by cluster; coef: the target's projection on the nuisance
 * columns. */
static bool contributions(const struct inference *inf, const double *params, const int *nuisance, int n,
                          struct direction direction, const double *r, const double *coef,
                          struct contribution *total)
{
    struct block block;
    int g = inf->by_cluster ? inf->data->n_clusters : 0;
    memset(inf->clusters, 0, sizeof *inf->clusters * g);
    memset(total, 0, sizeof *total);
    for (size_t first = 0; first < inf->problem.n_rows; first += block.count) {
        if (!load_block(inf, params, first, &block))
            return false;
        for (size_t i = 0; i < block.count; i++) {
            double w = inf->data->weights[first + i];
            const double *jacobian = block.jacobian + i * inf->n_params;
            struct contribution *cluster = g > 0 ? &inf->clusters[inf->data->cluster[first + i]] : total;
            double part = target_column(inf, direction, jacobian, first + i, block.residuals[i]);
            for (int k = 0; k < n; k++)
                part -= coef[k] * jacobian[nuisance[k]];
            cluster->score +=
                w * part * fmax(-inf->problem.delta, fmin(inf->problem.delta, block.residuals[i]));
            cluster->information += w * part * part;
            for (int k = 0; k < n && g > 0; k++)
                cluster->z[k] += w * part * jacobian[nuisance[k]];
        }
    }
    for (int c = 0; c < g; c++) {
        double half[P];
        if (!tlaw_solve_upper_transposed(r, n + 2, n, inf->clusters[c].z, half))
            return false;
        for (int k = 0; k < n; k++)
            inf->clusters[c].z[k] = half[k] * sqrt(inf->inside);
        total->score += inf->clusters[c].score;
        total->information += inf->clusters[c].information;
    }
    return true;
}

static double dot(const double *a, const double *b, int n)
{
    double sum = 0;
    for (int k = 0; k < n; k++)
        sum += a[k] * b[k];
    return sum;
}

/*
 * Scale of the summed score by the clusters' contributions about their share of the sum: sum_k a_k (s_k - w_k
 * S / W)^2, a_k chosen so that every term is unbiased when rows are independent and alike.
 */
static bool cluster_scale(const struct inference *inf, int n, bool want_df, double *variance, double *df)
{
    const struct contribution *c = inf->clusters;
    int g = inf->data->n_clusters;
    double total = 0, score = 0, squares = 0;
    double *a = inf->host->allocate(inf->host->argument, sizeof(double) * g);

    for (int k = 0; k < g; k++) {
        total += c[k].information;
        score += c[k].score;
    }
    *variance = 0;
    for (int k = 0; k < g; k++) {
        double w = c[k].information, own = w - dot(c[k].z, c[k].z, n) - w * w / total;
        double part = c[k].score - w / total * score;
        a[k] = own > 1e-8 * w ? w / own : 0;
        *variance += a[k] * part * part;
        squares += w * w;
    }
    *df = total * total / squares - 1;
    if (want_df && g <= SATTERTHWAITE) {
        double trace = 0, square = 0;
        for (int k = 0; k < g; k++)
            for (int l = 0; l < g; l++) {
                double d = (k == l ? c[k].information : 0) - dot(c[k].z, c[l].z, n) -
                           c[k].information * c[l].information / total;
                trace += k == l ? a[k] * d : 0;
                square += a[k] * a[l] * d * d;
            }
        *df = trace * trace / square;
    }
    return *variance > 0 && *df > 0;
}

/* The statistic at params, where all parameters but `fixed` and the direction are at their restricted
 * minimum. */
static bool score_statistic(const struct inference *inf, const double *params, uint32_t fixed,
                            struct direction direction, bool want_df, struct statistic *out)
{
    int nuisance[P] = {0}, n = 0;
    double r[(P + 2) * (P + 2)], top[P], coef[P];

    for (int j = 0; j < inf->n_params; j++)
        if (j != direction.param && !(fixed >> j & 1))
            nuisance[n++] = j;
    if (!triangle(inf, params, nuisance, n, direction, r))
        return false;
    int columns = n + 2;
    for (int k = 0; k < n; k++)
        top[k] = r[k * columns + n];
    if (n > 0 && !tlaw_solve_upper(r, columns, n, top, coef))
        return false;
    struct contribution total;
    double width = r[n * columns + n];
    total.information = width * width; /* all that least squares on independent rows needs */
    total.score = width * r[n * columns + n + 1];
    bool needed = inf->by_cluster || isfinite(inf->problem.delta);
    if (!(total.information > 0) ||
        (needed && !contributions(inf, params, nuisance, n, direction, r, coef, &total)))
        return false;
    double variance = inf->psi_square / inf->df * total.information;
    out->df = inf->df;
    if (inf->by_cluster) {
        if (!cluster_scale(inf, n, want_df, &variance, &out->df))
            return false;
    } else if (!isfinite(inf->problem.delta) && direction.param < 0) {
        out->df = inf->df - 1; /* the noise of the model with the further term */
        variance =
            (inf->psi_square - total.score * total.score / total.information) / out->df * total.information;
    }
    out->t = -total.score / sqrt(variance);
    out->scale = sqrt(variance) / (width * width * inf->density);
    return isfinite(out->t) && out->df > 0;
}

/* ---- noise ---- */

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *) left, b = *(const double *) right;
    return (a > b) - (a < b);
}

/* Standard deviation of log residuals, psi_square and curvature at the fit. */
static bool measure_noise(struct inference *inf)
{
    double *size = inf->host->allocate(inf->host->argument, sizeof(double) * (inf->data->n + 1));
    double sum = 0;
    size_t n = 0;
    struct block block;

    inf->psi_square = 0;
    for (size_t first = 0; first < inf->problem.n_rows; first += block.count) {
        if (!load_block(inf, inf->fit->working, first, &block))
            return false;
        for (size_t i = 0; i < block.count; i++) {
            double w = inf->data->weights[first + i], r = block.residuals[i];
            double psi = fmax(-inf->problem.delta, fmin(inf->problem.delta, r));
            if (w == 0)
                continue;
            if (!inf->data->log_residuals)
                r = log1p(r / inf->data->loss[first + i]);
            inf->psi_square += w * psi * psi;
            sum += r * r;
            size[n++] = fabs(r);
        }
    }
    inf->fit->noise = sqrt(sum / inf->df);
    inf->density = inf->inside = 1;
    inf->window = INFINITY;
    if (isfinite(inf->problem.delta)) { /* density at 0 by a window wide enough to hold rows */
        size_t stride = 1 + n / NOISE_ROWS, sampled = 0, inside = 0, least = 2 * (size_t) inf->n_params;
        double *sample = inf->host->allocate(inf->host->argument, sizeof(double) * n);
        for (size_t i = 0; i < n; i += stride)
            sample[sampled++] = size[i];
        qsort(sample, sampled, sizeof(double), compare_doubles);
        double spread = 1.4826 * sample[sampled / 2];
        inf->window = fmax(inf->problem.delta, spread * pow((double) n, -0.2));
        inf->window = fmax(inf->window, sample[(least < sampled ? least : sampled) - 1]);
        for (size_t i = 0; i < n; i++)
            inside += size[i] <= inf->window;
        inf->fit->noise = spread * sqrt((double) n / inf->df);
        inf->inside = (double) inside / (double) n;
        inf->density = fmin(1, inf->problem.delta / inf->window);
    }
    return isfinite(inf->fit->noise);
}

/* ---- covariance ---- */

/* d natural / d working by central differences. */
static void natural_jacobian(const struct inference *inf, double *jacobian)
{
    int n = inf->n_params;
    for (int j = 0; j < n; j++) {
        double moved[P], ends[2][P], h = 1e-5 * fmax(fabs(inf->fit->working[j]), 1e-2);
        for (int side = 0; side < 2; side++) {
            memcpy(moved, inf->fit->working, sizeof moved);
            moved[j] += side ? h : -h;
            tlaw_form_to_natural(inf->data->form, moved, inf->data->centre, ends[side]);
        }
        for (int i = 0; i < n; i++)
            jacobian[i * n + j] = (ends[1][i] - ends[0][i]) / (2 * h);
    }
}

/* Sum over clusters of the outer products of their scores. */
static bool cluster_meat(const struct inference *inf, double *meat)
{
    int n = inf->n_params, g = inf->data->n_clusters;
    struct block block;
    memset(inf->clusters, 0, sizeof *inf->clusters * g);
    for (size_t first = 0; first < inf->problem.n_rows; first += block.count) {
        if (!load_block(inf, inf->fit->working, first, &block))
            return false;
        for (size_t i = 0; i < block.count; i++) {
            double psi = fmax(-inf->problem.delta, fmin(inf->problem.delta, block.residuals[i]));
            for (int j = 0; j < n; j++)
                inf->clusters[inf->data->cluster[first + i]].z[j] +=
                    inf->data->weights[first + i] * psi * block.jacobian[i * n + j];
        }
    }
    memset(meat, 0, sizeof(double) * n * n);
    for (int c = 0; c < g; c++)
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
                meat[i * n + j] += inf->clusters[c].z[i] * inf->clusters[c].z[j];
    double factor = g > 1 ? g / (g - 1.0) * (inf->n - 1) / inf->df : NAN;
    for (int i = 0; i < n * n; i++)
        meat[i] *= factor;
    return true;
}

/* c = a b a', all n x n. */
static void sandwich(const double *a, const double *b, int n, double *c)
{
    double half[P * P] = {0};
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            half[i * n + j] = 0;
            for (int k = 0; k < n; k++)
                half[i * n + j] += a[i * n + k] * b[k * n + j];
        }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            c[i * n + j] = 0;
            for (int k = 0; k < n; k++)
                c[i * n + j] += half[i * n + k] * a[j * n + k];
        }
}

/* Says which parameters the rows cannot tell apart; true when all can be told. */
static bool check_identified(const struct inference *inf, const double *r)
{
    int n = inf->n_params;
    const struct tlaw_form_info *info = tlaw_form_info(inf->data->form);
    double gram[P * P], norms[P], values[P], vectors[P * P];
    bool all = true;
    for (int i = 0; i < n; i++) {
        double column = 0;
        for (int k = 0; k < n; k++)
            column += r[k * n + i] * r[k * n + i];
        norms[i] = column > 0 ? sqrt(column) : 1;
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            gram[i * n + j] = 0;
            for (int k = 0; k < n; k++)
                gram[i * n + j] += r[k * n + i] * r[k * n + j] / (norms[i] * norms[j]);
        }
    tlaw_symmetric_eigen(gram, n, values, vectors);
    for (int e = 0; e < n && values[e] < 1e-11; e++)
        for (int j = 0; j < n; j++)
            if (fabs(vectors[j * n + e]) > 0.1) {
                if (!isnan(inf->fit->natural[j]))
                    tlaw_fit_say(inf->fit->message, "%s is not identified by these rows", info->params[j]);
                inf->fit->natural[j] = NAN;
                all = false;
            }
    return all;
}

/* Inverse of the curvature of the objective, sum rho'' J J'. */
static bool inverse_curvature(const struct inference *inf, double *inverse)
{
    int n = inf->n_params;
    double r[P * P] = {0}, packed[TLAW_SOLVER_BLOCK * P];
    struct block block;
    for (size_t first = 0; first < inf->problem.n_rows; first += block.count) {
        int used = 0;
        if (!load_block(inf, inf->fit->working, first, &block))
            return false;
        for (size_t i = 0; i < block.count; i++) {
            double root = sqrt(inf->density * inf->data->weights[first + i]);
            if (root == 0 || fabs(block.residuals[i]) > inf->window)
                continue;
            for (int j = 0; j < n; j++)
                packed[used * n + j] = inf->fit->unseen >> j & 1 ? 0 : root * block.jacobian[i * n + j];
            used++;
        }
        tlaw_qr_fold(r, n, packed, used);
    }
    for (int j = 0; j < n; j++)
        if (inf->fit->unseen >> j & 1)
            r[j * n + j] = 1;
    return check_identified(inf, r) && tlaw_inverse_of_gram(r, n, n, inverse);
}

static bool set_covariance(struct inference *inf)
{
    int n = inf->n_params;
    double bread[P * P], working[P * P], meat[P * P], jacobian[P * P];

    if (!inverse_curvature(inf, bread))
        return false;
    if (inf->by_cluster || isfinite(inf->problem.delta)) {
        if (!cluster_meat(inf, meat))
            return false;
        sandwich(bread, meat, n, working);
    } else {
        for (int i = 0; i < n * n; i++)
            working[i] = bread[i] * inf->psi_square / inf->df;
    }
    natural_jacobian(inf, jacobian);
    sandwich(jacobian, working, n, inf->fit->covariance);
    for (int i = 0; i < n * n; i++)
        if ((inf->fit->unseen >> i % n | inf->fit->unseen >> i / n) & 1)
            inf->fit->covariance[i] = NAN;
    for (int j = 0; j < n; j++)
        inf->fit->se[j] = sqrt(inf->fit->covariance[j * n + j]);
    inf->fit->df = inf->data->clustered ? inf->data->n_clusters - 1 : inf->df;
    return true;
}

/* ---- intervals ---- */

/* t of parameter j at `value`; params: warm start in, restricted minimum out. */
static bool profile_statistic(const struct inference *inf, int j, double value, double estimate, bool want_df,
                              double *params, struct statistic *out)
{
    struct tlaw_problem restricted = inf->problem;
    struct tlaw_solution solution;

    restricted.fixed |= 1u << j;
    restricted.linear = 0;
    restricted.enough = 1e-5;
    restricted.warm = true;
    params[j] = value;
    tlaw_solve(&restricted, params, 100, &solution);
    if (!solution.valid || !isfinite(solution.objective))
        return false;
    memcpy(params, solution.params, sizeof(double) * P);
    if (inf->by_cluster || isfinite(inf->problem.delta))
        return score_statistic(inf, params, inf->problem.fixed, (struct direction){j, -1}, want_df, out);
    double rise = solution.objective - inf->base_objective;
    out->df = inf->df;
    out->t = copysign(sqrt(fmax(rise, 0) * inf->df / inf->base_objective), estimate - value);
    return true;
}

/*
 * Where |t| reaches `critical` on one side (-1, 1) of the estimate: secant steps inside a bracket, halved
 * where the law cannot be followed so far at once.  NAN when it never does within 60 standard errors, or at
 * `floor` (then *open is set).  What is not below `ceiling` counts as refused.
 */
static double invert_profile(const struct inference *inf, int j, const double *base, int side, double se,
                             double critical, double floor, double ceiling, bool *open)
{
    double params[P], trial[P], estimate = base[j], inner = estimate, inner_t = 0, outer = NAN, outer_t = NAN;
    double value = estimate + side * critical * se;
    struct statistic statistic;

    memcpy(params, base, sizeof params);
    for (int step = 0; step < 60; step++) {
        bool at_floor = value <= floor, at_ceiling = value >= ceiling;
        value = fmin(fmax(value, floor), ceiling);
        memcpy(trial, params,
               sizeof trial); /* what is refused may lie in another basin: no start for the next */
        if (!at_ceiling && !profile_statistic(inf, j, value, estimate, false, trial, &statistic)) {
            value = 0.5 * (inner + value);
            continue;
        }
        double t = at_ceiling ? 2 * critical : fabs(statistic.t);
        if (t >= critical) {
            outer = value;
            outer_t = t;
        } else if (at_floor) {
            break;
        } else {
            inner = value;
            inner_t = t;
            memcpy(params, trial, sizeof params);
        }
        if (isnan(outer)) {
            double growth = inner_t > 0 ? fmin(4, fmax(1.3, critical / inner_t)) : 4;
            value = estimate + (inner - estimate) * growth;
            if (fabs(value - estimate) > 60 * critical * se)
                break;
            continue;
        }
        if (fabs(outer - inner) < 1e-3 * se || fabs(t - critical) < 2e-4 * critical)
            return value;
        value = inner + (outer - inner) * fmin(0.95, fmax(0.05, (critical - inner_t) / (outer_t - inner_t)));
    }
    *open = isnan(outer);
    return isnan(outer) ? NAN : 0.5 * (inner + outer);
}

/* Can natural parameter j be profiled as a working one? -1 no, 0 at the centre of the data, 1 at centre 0. */
static int profile_kind(const struct tlaw_data *data, int j)
{
    const struct tlaw_form_info *info = tlaw_form_info(data->form);
    if (data->n > PROFILE_ROWS || data->form == TLAW_FARSEER)
        return -1;
    if (j == info->irreducible || j == info->beta || (j == info->alpha && data->form != TLAW_KAPLAN))
        return 0;
    return (j == info->a || j == info->b) && data->form != TLAW_KAPLAN ? 1 : -1;
}

static double student_critical(double level, double df)
{
    return tlaw_student_quantile(0.5 + 0.5 * level, df);
}

static double largest_loss(const struct tlaw_data *data)
{
    double largest = 0;
    for (size_t i = 0; i < data->n; i++)
        if (data->weights[i] > 0)
            largest = fmax(largest, data->loss[i]);
    return largest;
}

/* The interval of natural parameter j by inversion; base: unbounded minimum in the working coordinates of
 * inf. */
static void profile_interval(const struct inference *inf, int j, const double *base)
{
    struct tlaw_fit *fit = inf->fit;
    const struct tlaw_form_info *info = tlaw_form_info(inf->data->form);
    struct statistic at_minimum;
    double params[P], se = fit->se[j], df = inf->df;
    bool exponent = (j == info->alpha || j == info->beta) && base[j] > 0, open_low = false, open_high = false;

    if (inf->by_cluster) {
        memcpy(params, base, sizeof params);
        if (!score_statistic(inf, params, inf->problem.fixed, (struct direction){j, -1}, true, &at_minimum))
            return;
        df = at_minimum.df;
        se = at_minimum.scale;
        if (df < 0.5)
            return;
    }
    double critical = student_critical(fit->level, df), ceiling = INFINITY;
    if (j == info->irreducible) /* above all losses no law falls to it */
        ceiling = largest_loss(inf->data);
    fit->low[j] = invert_profile(inf, j, base, -1, se, critical, exponent ? 1e-3 * base[j] : -INFINITY,
                                 INFINITY, &open_low);
    fit->high[j] = invert_profile(inf, j, base, 1, se, critical, -INFINITY, ceiling, &open_high);
    if (open_low && exponent)
        fit->low[j] = 0;
    if (j == info->irreducible) {
        fit->low[j] = open_low ? 0 : fmax(0, fit->low[j]);
        if (fit->high[j] < fit->low[j])
            fit->high[j] = fit->low[j];
    }
    if (fit->low[j] > fit->natural[j])
        fit->low[j] = fit->natural[j];
    if (fit->high[j] < fit->natural[j])
        fit->high[j] = fit->natural[j];
    if (open_high)
        tlaw_fit_say(fit->message, "the interval of %s has no upper end", info->params[j]);
}

/* The same problem with logarithms that are not centred: natural parameters are its working ones. */
static bool uncentred(const struct inference *inf, struct inference *moved, struct tlaw_data *data,
                      double *base)
{
    static const double zero[TLAW_MAX_VARIABLES];
    double natural[P];
    *moved = *inf;
    *data = *inf->data;
    data->x = inf->host->allocate(inf->host->argument, sizeof *data->x * (data->n + 1));
    for (size_t i = 0; i < data->n; i++)
        for (int v = 0; v < TLAW_MAX_VARIABLES; v++)
            data->x[i][v] = inf->data->x[i][v] + inf->data->centre[v];
    memset(data->centre, 0, sizeof data->centre);
    moved->data = data;
    moved->problem.data = data;
    return tlaw_form_to_natural(data->form, inf->fit->unbound, inf->data->centre, natural) &&
           tlaw_form_from_natural(data->form, natural, zero, base);
}

static void set_intervals(struct inference *inf)
{
    struct inference moved;
    struct tlaw_data data;
    double base[P];
    bool have_moved = inf->data->n <= PROFILE_ROWS && uncentred(inf, &moved, &data, base);
    const struct tlaw_form_info *info = tlaw_form_info(inf->data->form);
    struct tlaw_fit *fit = inf->fit;
    double critical = student_critical(fit->level, fit->df);

    for (int j = 0; j < inf->n_params; j++) {
        int kind = inf->problem.fixed >> j & 1 ? -1 : profile_kind(inf->data, j);
        if (kind == 0)
            profile_interval(inf, j, fit->unbound);
        else if (kind == 1 && have_moved)
            profile_interval(&moved, j, base);
        else if (kind < 0) {
            fit->low[j] = fit->natural[j] - critical * fit->se[j];
            fit->high[j] = fit->natural[j] + critical * fit->se[j];
            if (j == info->irreducible)
                fit->low[j] = fmax(0, fit->low[j]);
        }
    }
}

/*
 * Without the bound the law may have no minimum: rows bend the other way, E falls for ever and is held at 0.
 * That is no knowledge of E, and a test of an exponent that leaves E free may allow what it is refused with E
 * = 0: the interval holds both.
 */
static void release_irreducible(const struct inference *inf, int j)
{
    struct inference released = *inf;
    struct tlaw_fit fit = *inf->fit;

    released.fit = &fit;
    released.problem.fixed &= ~(1u << tlaw_form_info(inf->data->form)->irreducible);
    profile_interval(&released, j, fit.working);
    if (j == tlaw_form_info(inf->data->form)->irreducible) {
        inf->fit->low[j] = fit.low[j];
        inf->fit->high[j] = fit.high[j];
    } else {
        inf->fit->low[j] = fmin(fit.low[j], inf->fit->low[j]);
        inf->fit->high[j] = isnan(fit.high[j]) ? NAN : fmax(fit.high[j], inf->fit->high[j]);
    }
    memcpy(inf->fit->message, fit.message, sizeof fit.message);
}

/*
 * What E >= 0 says of the exponent of one variable.  Every secant of ln(E + A x^-alpha) on ln x has a slope
 * between 0 and -alpha, so that of the line (E = 0) is at most alpha, and its lower end one of alpha's: the
 * larger of both is taken.  Each exceeds alpha in (1 - level) / 2 of all cases, the line's only where E is
 * nearly 0.  What is wrong more often there is won back at the upper end: with E at its bound alpha is the
 * line's, and whatever that allows is allowed (`make bench-law`).
 */
static void use_bound(struct inference *inf)
{
    int alpha = tlaw_form_info(inf->data->form)->alpha, slope = tlaw_form_info(TLAW_POWER_LAW)->alpha;
    struct tlaw_fit *fit = inf->fit, line;
    struct tlaw_data data = *inf->data;
    struct tlaw_fit_options options = {
        .level = fit->level, .max_iterations = -1, .intervals = true, .alike = fit->alike};

    data.form = TLAW_POWER_LAW;
    data.log_residuals = true;
    tlaw_fit_prepared(inf->host, &data, &options, &line);
    if (fit->natural[alpha] > 0 && line.low[slope] > fit->low[alpha])
        fit->low[alpha] = fmin(line.low[slope], fit->natural[alpha]);
    if (fit->at_bound && fit->natural[alpha] < 0 && line.low[slope] < fit->low[alpha])
        fit->low[alpha] = line.low[slope];
    if (fit->at_bound && line.high[slope] > fit->high[alpha])
        fit->high[alpha] = line.high[slope];
}

/* What the bound at E = 0 takes from intervals, and gives. */
static void mind_bound(struct inference *inf)
{
    const struct tlaw_form_info *info = tlaw_form_info(inf->data->form);
    const int params[] = {info->irreducible, info->alpha, info->beta};

    if (info->irreducible < 0)
        return;
    for (int k = 0; k < 3 && inf->problem.fixed >> info->irreducible & 1; k++)
        if (params[k] >= 0 && profile_kind(inf->data, params[k]) == 0)
            release_irreducible(inf, params[k]);
    if (inf->data->form == TLAW_POWER_LAW_OFFSET)
        use_bound(inf);
}

/* ---- tests ---- */

static void test_irreducible(struct inference *inf)
{
    double params[P];
    struct statistic statistic;
    if (inf->problem.fixed & 1)
        return;
    if (inf->data->n > PROFILE_ROWS) {
        inf->fit->irreducible_p = 1 - tlaw_student_cdf(inf->fit->unbound[0] / inf->fit->se[0], inf->fit->df);
        return;
    }
    memcpy(params, inf->fit->at_bound ? inf->fit->working : inf->fit->unbound, sizeof params);
    double estimate = inf->fit->unbound[0];
    if (profile_statistic(inf, 0, 0, estimate, true, params, &statistic)) {
        double tail = 0.5 * tlaw_student_two_sided(statistic.t, statistic.df);
        inf->fit->irreducible_p = statistic.t > 0 ? tail : 1 - tail;
    }
}

static void test_curvature(struct inference *inf)
{
    const struct tlaw_form_info *info = tlaw_form_info(inf->data->form);
    int tests = info->n_variables < 2 ? 1 : 2;
    double smallest = 1;
    for (int v = 0; v < tests; v++) {
        struct statistic statistic;
        if (!score_statistic(inf, inf->fit->working,
                             inf->fit->unseen | (inf->fit->at_bound ? 1u << info->irreducible : 0),
                             (struct direction){-1, v}, true, &statistic))
            return;
        smallest = fmin(smallest, tlaw_student_two_sided(statistic.t, statistic.df));
    }
    double p = inf->fit->curvature_p = fmin(1, tests * smallest);
    if (p < 0.05 && inf->data->form == TLAW_POWER_LAW)
        tlaw_fit_say(
            inf->fit->message,
            "the line is curved in log-log (p = %.2g): alpha is an apparent slope, an irreducible loss "
            "makes it too small",
            p);
    else if (p < 0.05)
        tlaw_fit_say(inf->fit->message, "the rows bend as %s does not (p = %.2g)", info->name, p);
}

/* Noise and covariance; false where there are none, which the message says. */
static bool start_inference(const struct tlaw_host *host, const struct tlaw_data *data, struct tlaw_fit *fit,
                            struct inference *inf)
{
    const struct tlaw_form_info *info = tlaw_form_info(data->form);

    *inf = (struct inference){.host = host, .data = data, .fit = fit, .n_params = info->n_params};
    tlaw_fit_problem(host, data, &inf->problem);
    if (fit->at_bound &&
        !fit->unbound_converged) { /* without the bound the law has no minimum: E stays at 0 */
        inf->problem.fixed = 1u << info->irreducible;
        memcpy(fit->unbound, fit->working, sizeof fit->unbound);
        fit->unbound_objective = fit->objective * (isfinite(data->delta) ? 1 : 0.5);
    }
    inf->problem.fixed |= fit->unseen;
    inf->n = (double) fit->n;
    inf->df = inf->n - info->n_params + __builtin_popcount(fit->unseen);
    inf->by_cluster = data->clustered || (!isfinite(data->delta) && !fit->alike);
    inf->base_objective = fit->unbound_objective;
    inf->clusters = host->allocate(host->argument, sizeof *inf->clusters * (data->n_clusters + 1));
    if (!fit->converged || !measure_noise(inf))
        return false;
    if (fit->noise < 1e-12) {
        tlaw_fit_say(fit->message, "the fit is exact: without noise there are no intervals");
        return false;
    }
    if (data->clustered && data->n_clusters < 2) {
        tlaw_fit_say(fit->message,
                     "one cluster: its noise cannot be told from the law, so there are no intervals; without "
                     "a cluster rows count as independent");
        return false;
    }
    return set_covariance(inf);
}

void tlaw_fit_infer(const struct tlaw_host *host, const struct tlaw_data *data, struct tlaw_fit *fit)
{
    struct inference inf;

    if (!start_inference(host, data, fit, &inf))
        return;
    set_intervals(&inf);
    mind_bound(&inf);
    if (tlaw_form_info(data->form)->irreducible == 0)
        test_irreducible(&inf);
    test_curvature(&inf);
    tlaw_fit_test_lack(host, data, fit);
}

void tlaw_fit_predict(const struct tlaw_fit *fit, const double *variables, struct tlaw_prediction *prediction)
{
    const struct tlaw_form_info *info = tlaw_form_info(fit->form);
    double gradient[P];

    prediction->loss = fit->fitted ? tlaw_form_predict(fit->form, fit->natural, variables, gradient) : NAN;
    prediction->se = prediction->low = prediction->high = prediction->run_low = prediction->run_high = NAN;
    if (isnan(prediction->loss) || !(fit->df > 0))
        return;
    /* on the scale of logarithms, so that the interval stays positive */
    double se = sqrt(tlaw_quadratic_form(fit->covariance, info->n_params, gradient)) / prediction->loss;
    double critical = student_critical(fit->level, fit->df), run = sqrt(se * se + fit->noise * fit->noise);
    prediction->se = se * prediction->loss;
    prediction->low = prediction->loss * exp(-critical * se);
    prediction->high = prediction->loss * exp(critical * se);
    prediction->run_low = prediction->loss * exp(-critical * run);
    prediction->run_high = prediction->loss * exp(critical * run);
}
