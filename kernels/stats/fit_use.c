/* What fits are used for; see fit_use.h. */
#include "fit_use.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "distributions.h"
#include "fit_bootstrap.h"
#include "linalg.h"

enum { P = TLAW_MAX_PARAMS };

/* ---- compute-optimal ---- */

static double loss_at(enum tlaw_form form, const double *natural, double log_params, double flops)
{
    double x[TLAW_MAX_VARIABLES] = {exp(log_params), 0, 0};
    x[1] = flops / (TLAW_FLOPS_PER_PARAM_TOKEN * x[0]);
    x[2] = x[1]; /* never repeated */
    return tlaw_form_predict(form, natural, x, NULL);
}

/* Golden-section search after a coarse scan for a bracket. */
static double search_optimum(enum tlaw_form form, const double *natural, double flops)
{
    double top = log(flops / TLAW_FLOPS_PER_PARAM_TOKEN), step = top / 200, best = NAN, lowest = INFINITY;
    for (int i = 1; i < 200; i++) {
        double loss = loss_at(form, natural, i * step, flops);
        if (loss < lowest) {
            lowest = loss;
            best = i * step;
        }
    }
    if (isnan(best) || best <= step || best >= top - step * 1.5)
        return NAN; /* no interior minimum */
    double low = best - step, high = best + step, ratio = 0.5 * (sqrt(5) - 1);
    while (high - low > 1e-9) {
        double a = high - ratio * (high - low), b = low + ratio * (high - low);
        if (loss_at(form, natural, a, flops) < loss_at(form, natural, b, flops))
            high = b;
        else
            low = a;
    }
    return 0.5 * (low + high);
}

double tlaw_optimal_log_params(enum tlaw_form form, const double *natural, double flops)
{
    const struct tlaw_form_info *info = tlaw_form_info(form);
    if (info->n_variables < 2 || !(flops > 0) || !isfinite(flops))
        return NAN;
    if (form != TLAW_CHINCHILLA && form != TLAW_DATA_CONSTRAINED)
        return search_optimum(form, natural, flops);
    double alpha = natural[info->alpha], beta = natural[info->beta];
    if (!(alpha > 0 && beta > 0))
        return NAN;
    return (log(alpha / beta) + natural[info->a] - natural[info->b] +
            beta * log(flops / TLAW_FLOPS_PER_PARAM_TOKEN)) /
           (alpha + beta);
}

/* ln N*, ln D*, ln(D/N), ln L* at natural parameters. */
static bool optimum_logs(enum tlaw_form form, const double *natural, double flops, double logs[4])
{
    logs[0] = tlaw_optimal_log_params(form, natural, flops);
    logs[1] = log(flops / TLAW_FLOPS_PER_PARAM_TOKEN) - logs[0];
    logs[2] = logs[1] - logs[0];
    logs[3] = log(loss_at(form, natural, logs[0], flops));
    return isfinite(logs[3]);
}

static void intervals_of_draws(const struct tlaw_host *host, const struct tlaw_fit *fit,
                               const double (*draws)[TLAW_MAX_PARAMS], int n_draws, double flops,
                               struct tlaw_estimate *estimates[4])
{
    double *values = host->allocate(host->argument, sizeof(double) * 4 * (size_t) n_draws);
    int n = 0;
    for (int d = 0; d < n_draws; d++) {
        double logs[4];
        if (isnan(draws[d][0]) || !optimum_logs(fit->form, draws[d], flops, logs))
            continue;
        for (int k = 0; k < 4; k++)
            values[k * n_draws + n] = logs[k];
        n++;
    }
    for (int k = 0; k < 4 && n > 1; k++) {
        tlaw_sort_numbers(values + k * n_draws, (size_t) n);
        estimates[k]->low =
            exp(tlaw_sorted_quantile(values + k * n_draws, (size_t) n, 0.5 - 0.5 * fit->level));
        estimates[k]->high =
            exp(tlaw_sorted_quantile(values + k * n_draws, (size_t) n, 0.5 + 0.5 * fit->level));
    }
}

static void intervals_by_delta(const struct tlaw_fit *fit, double flops, const double logs[4],
                               struct tlaw_estimate *estimates[4])
{
    int n = tlaw_form_info(fit->form)->n_params;
    double gradients[4][P], critical = tlaw_student_quantile(0.5 + 0.5 * fit->level, fit->df);
    for (int j = 0; j < n; j++) {
        double moved[P], ends[2][4], h = 1e-5 * fmax(fabs(fit->natural[j]), 1e-2);
        for (int side = 0; side < 2; side++) {
            memcpy(moved, fit->natural, sizeof moved);
            moved[j] += side ? h : -h;
            if (!optimum_logs(fit->form, moved, flops, ends[side]))
                return;
        }
        for (int k = 0; k < 4; k++)
            gradients[k][j] = (ends[1][k] - ends[0][k]) / (2 * h);
    }
    for (int k = 0; k < 4; k++) {
        double se = sqrt(tlaw_quadratic_form(fit->covariance, n, gradients[k]));
        estimates[k]->low = exp(logs[k] - critical * se);
        estimates[k]->high = exp(logs[k] + critical * se);
    }
}

bool tlaw_fit_optimum(const struct tlaw_host *host, const struct tlaw_fit *fit,
                      const double (*draws)[TLAW_MAX_PARAMS], int n_draws, double flops,
                      struct tlaw_optimum *optimum)
{
    struct tlaw_estimate *estimates[4] = {&optimum->n_params, &optimum->n_tokens, &optimum->tokens_per_param,
                                          &optimum->loss};
    double logs[4];
    for (int k = 0; k < 4; k++)
        *estimates[k] = (struct tlaw_estimate){NAN, NAN, NAN};
    if (!fit->fitted || !optimum_logs(fit->form, fit->natural, flops, logs))
        return false;
    for (int k = 0; k < 4; k++)
        estimates[k]->value = exp(logs[k]);
    if (n_draws > 1)
        intervals_of_draws(host, fit, draws, n_draws, flops, estimates);
    else if (fit->df > 0)
        intervals_by_delta(fit, flops, logs, estimates);
    return true;
}

/* ---- the next run ---- */

double tlaw_fit_value_of_run(const struct tlaw_fit *fit, const double *candidate, const double *target,
                             double *variance_now)
{
    int n = tlaw_form_info(fit->form)->n_params;
    double run[P], aim[P];
    double at_run = tlaw_form_predict(fit->form, fit->natural, candidate, run);
    double at_aim = tlaw_form_predict(fit->form, fit->natural, target, aim);
    double cross = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++)
            cross += aim[i] / at_aim * fit->covariance[i * n + j] * run[j] / at_run;
    *variance_now = tlaw_quadratic_form(fit->covariance, n, aim) / (at_aim * at_aim);
    double at = tlaw_quadratic_form(fit->covariance, n, run) / (at_run * at_run);
    return cross * cross / (fit->noise * fit->noise + at);
}

/* ---- power ---- */

/* Columns of the Jacobian of ln loss at size i: (E,) ln A, alpha; L scaled to 1 at the largest size. */
static void plan_row(const struct tlaw_plan *plan, double centre, double reach, double x, double *row)
{
    double share = fmax(plan->irreducible_share, 0),
           reducible = (1 - share) * exp(-plan->alpha * (x - reach));
    double loss = share + reducible;
    int k = 0;
    if (plan->irreducible_share >= 0)
        row[k++] = 1 / loss;
    row[k++] = reducible / loss;
    row[k] = -reducible / loss * (x - centre);
}

bool tlaw_plan_power(const struct tlaw_host *host, const struct tlaw_plan *plan, double *se, double *df,
                     double *half_width)
{
    int n = plan->n_sizes, p = plan->irreducible_share >= 0 ? 3 : 2;
    double r[9] = {0}, inverse[9], centre = 0, reach = -INFINITY, variance = 0;
    double *x = host->allocate(host->argument, sizeof(double) * n), *rows, *block, *influence;

    rows = host->allocate(host->argument, sizeof(double) * n * p);
    block = host->allocate(host->argument, sizeof(double) * n * p);
    influence = host->allocate(host->argument, sizeof(double) * n);
    for (int i = 0; i < n; i++) {
        x[i] = log(plan->sizes[i]);
        centre += x[i] / n;
        reach = fmax(reach, x[i]);
    }
    for (int i = 0; i < n; i++)
        plan_row(plan, centre, reach, x[i], rows + i * p);
    memcpy(block, rows, sizeof(double) * n * p);
    tlaw_qr_fold(r, p, block, n);
    if (n < p || !tlaw_inverse_of_gram(r, p, p, inverse))
        return false;
    /* alpha is linear in the sizes' mean log losses near the truth; nested subsets correlate them */
    for (int i = 0; i < n; i++) {
        influence[i] = 0;
        for (int k = 0; k < p; k++)
            influence[i] += inverse[(p - 1) * p + k] * rows[i * p + k];
    }
    for (int i = 0; i < n; i++) {
        host->breathe(host->argument);
        for (int j = 0; j < n; j++) {
            double shared = plan->subset_noise * plan->subset_noise * exp(-0.5 * fabs(x[i] - x[j]));
            variance += influence[i] * influence[j] * (shared + (i == j ? plan->noise * plan->noise : 0));
        }
    }
    *se = sqrt(variance / plan->replicates);
    *df = plan->subset_noise > 0 ? plan->replicates - 1 : (double) n * plan->replicates - p;
    *half_width = *df > 0 ? tlaw_student_quantile(0.5 + 0.5 * plan->level, *df) * *se : NAN;
    return isfinite(*se);
}

/* ---- weights from replicates ---- */

struct group {
    double x, log_variance, df;
};

static int compare_indices(const void *left, const void *right, void *argument)
{
    const struct tlaw_row *rows = argument;
    size_t a = *(const size_t *) left, b = *(const size_t *) right;
    for (int v = 0; v < TLAW_MAX_VARIABLES; v++)
        if (rows[a].x[v] != rows[b].x[v])
            return rows[a].x[v] < rows[b].x[v] ? -1 : 1;
    return rows[a].loss < rows[b].loss ? -1 : rows[a].loss > rows[b].loss;
}

static bool same_place(const struct tlaw_row *a, const struct tlaw_row *b, int n_variables)
{
    for (int v = 0; v < n_variables; v++)
        if (a->x[v] != b->x[v])
            return false;
    return true;
}

bool tlaw_replicate_weights(const struct tlaw_host *host, struct tlaw_row *rows, size_t n, int n_variables)
{
    size_t *order = host->allocate(host->argument, sizeof *order * (n + 1));
    struct group *groups = host->allocate(host->argument, sizeof *groups * (n + 1));
    size_t n_groups = 0;
    double total = 0, mean_x = 0, mean_y = 0, xx = 0, xy = 0, sum = 0;

    for (size_t i = 0; i < n; i++)
        order[i] = i;
    qsort_r(order, n, sizeof *order, compare_indices, rows);
    for (size_t i = 0, end; i < n; i = end) {
        double mean = 0, square = 0;
        for (end = i; end < n && same_place(&rows[order[i]], &rows[order[end]], n_variables); end++)
            mean += log(rows[order[end]].loss);
        mean /= (double) (end - i);
        for (size_t k = i; k < end; k++)
            square += pow(log(rows[order[k]].loss) - mean, 2);
        if (end - i > 1 && square > 0)
            groups[n_groups++] = (struct group){log(rows[order[i]].x[0]),
                                                log(square / (double) (end - i - 1)), (double) (end - i - 1)};
    }
    for (size_t g = 0; g < n_groups; g++) {
        total += groups[g].df;
        mean_x += groups[g].df * groups[g].x;
        mean_y += groups[g].df * groups[g].log_variance;
    }
    mean_x /= total;
    mean_y /= total;
    for (size_t g = 0; g < n_groups; g++) {
        xx += groups[g].df * pow(groups[g].x - mean_x, 2);
        xy += groups[g].df * (groups[g].x - mean_x) * (groups[g].log_variance - mean_y);
    }
    if (n_groups < 2 || !(xx > 0))
        return false;
    for (size_t i = 0; i < n; i++) {
        rows[i].weight = exp(-(xy / xx) * (log(rows[i].x[0]) - mean_x));
        sum += rows[i].weight / (double) n;
    }
    for (size_t i = 0; i < n; i++)
        rows[i].weight /= sum;
    return true;
}
