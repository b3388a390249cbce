/* Bootstrap of fits; see fit_bootstrap.h. */
#include "fit_bootstrap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { P = TLAW_MAX_PARAMS };

static uint64_t scramble(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t tlaw_draw_bits(uint64_t seed, uint64_t stream, uint64_t index)
{
    const uint64_t weyl = 0x9e3779b97f4a7c15u;
    return scramble(scramble(scramble(seed + weyl) + (stream + 1) * weyl) + (index + 1) * weyl);
}

uint64_t tlaw_draw_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n)
{
    return (uint64_t) ((unsigned __int128) tlaw_draw_bits(seed, stream, index) * n >> 64);
}

double tlaw_draw_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    return (double) (tlaw_draw_bits(seed, stream, index) >> 11) * 0x1p-53;
}

double tlaw_draw_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
    double radius = sqrt(-2 * log1p(-tlaw_draw_uniform(seed, stream, 2 * index)));
    return radius * cos(2 * M_PI * tlaw_draw_uniform(seed, stream, 2 * index + 1));
}

/* A resampled data set: rows drawn at least once, weighted by how often. */
struct sample {
    struct tlaw_data data;
    int32_t *counts; /* per row or cluster */
};

static void resample(const struct tlaw_data *data, const struct tlaw_bootstrap *bootstrap, uint64_t draw,
                     struct sample *sample)
{
    size_t units = bootstrap->by_cluster ? (size_t) data->n_clusters : data->n, kept = 0;
    memset(sample->counts, 0, sizeof *sample->counts * units);
    for (size_t i = 0; i < units; i++)
        sample->counts[tlaw_draw_below(bootstrap->seed, draw, i, units)]++;
    for (size_t i = 0; i < data->n; i++) {
        int32_t count = sample->counts[bootstrap->by_cluster ? (size_t) data->cluster[i] : i];
        if (count == 0 || data->weights[i] == 0)
            continue;
        memcpy(sample->data.x[kept], data->x[i], sizeof *data->x);
        sample->data.loss[kept] = data->loss[i];
        sample->data.log_loss[kept] = data->log_loss[i];
        sample->data.weights[kept] = count * data->weights[i];
        sample->data.cluster[kept++] = data->cluster[i];
    }
    sample->data.n = kept;
}

/* Refits from the estimate; from several starts where that fails. False when nothing converged. */
static bool refit(const struct tlaw_host *host, const struct sample *sample, const struct tlaw_fit *fit,
                  double *natural)
{
    const struct tlaw_form_info *info = tlaw_form_info(fit->form);
    struct tlaw_problem problem;
    struct tlaw_solution solution;

    tlaw_fit_problem(host, &sample->data, &problem);
    problem.enough = 1e-7;
    tlaw_solve(&problem, fit->working, 200, &solution);
    if (solution.valid && info->irreducible >= 0 && solution.params[info->irreducible] < 0) {
        double start[P];
        memcpy(start, fit->working, sizeof start);
        start[info->irreducible] = 0;
        problem.fixed = 1u << info->irreducible;
        tlaw_solve(&problem, start, 200, &solution);
    }
    if (!solution.valid || !solution.converged) {
        struct tlaw_fit_options options = {.max_iterations = -1, .level = fit->level};
        struct tlaw_fit again;
        tlaw_fit_prepared(host, &sample->data, &options, &again);
        if (!again.converged)
            return false;
        memcpy(natural, again.natural, sizeof again.natural);
        return true;
    }
    return tlaw_form_to_natural(fit->form, solution.params, sample->data.centre, natural);
}

void tlaw_fit_bootstrap(const struct tlaw_host *host, const struct tlaw_data *data,
                        const struct tlaw_fit *fit, struct tlaw_bootstrap *bootstrap)
{
    struct sample sample = {.data = *data};
    size_t n = data->n + 1;

    bootstrap->params = host->allocate(host->argument, sizeof *bootstrap->params * (size_t) bootstrap->draws);
    bootstrap->failed = 0;
    sample.counts = host->allocate(host->argument, sizeof *sample.counts * n);
    sample.data.x = host->allocate(host->argument, sizeof *sample.data.x * n);
    sample.data.loss = host->allocate(host->argument, sizeof(double) * n);
    sample.data.log_loss = host->allocate(host->argument, sizeof(double) * n);
    sample.data.weights = host->allocate(host->argument, sizeof(double) * n);
    sample.data.cluster = host->allocate(host->argument, sizeof(int32_t) * n);
    for (int draw = 0; draw < bootstrap->draws; draw++) {
        host->breathe(host->argument);
        resample(data, bootstrap, (uint64_t) draw, &sample);
        memset(bootstrap->params[draw], 0, sizeof *bootstrap->params);
        if (refit(host, &sample, fit, bootstrap->params[draw]))
            continue;
        bootstrap->failed++;
        for (int j = 0; j < P; j++)
            bootstrap->params[draw][j] = NAN;
    }
}

static int compare_numbers(const void *left, const void *right)
{
    double a = *(const double *) left, b = *(const double *) right;
    return (a > b) - (a < b);
}

void tlaw_sort_numbers(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare_numbers);
}

double tlaw_sorted_quantile(const double *sorted, size_t n, double p)
{
    double place = p * (double) (n - 1);
    size_t below = (size_t) fmin(fmax(place, 0), (double) (n - 1)), above = below + 1 < n ? below + 1 : below;
    return sorted[below] + (place - (double) below) * (sorted[above] - sorted[below]);
}

void tlaw_fit_use_bootstrap(const struct tlaw_host *host, const struct tlaw_bootstrap *bootstrap,
                            struct tlaw_fit *fit)
{
    int n_params = tlaw_form_info(fit->form)->n_params, n = 0;
    double mean[P] = {0},
           *values = host->allocate(host->argument, sizeof(double) * (size_t) bootstrap->draws);

    if (bootstrap->draws - bootstrap->failed < 2 || bootstrap->failed > bootstrap->draws / 2) {
        tlaw_fit_say(fit->message, "%d of %d bootstrap refits did not converge: no intervals from them",
                     bootstrap->failed, bootstrap->draws);
        return;
    }
    n = bootstrap->draws - bootstrap->failed;
    memset(fit->covariance, 0, sizeof fit->covariance);
    for (int d = 0; d < bootstrap->draws; d++)
        for (int j = 0; j < n_params && !isnan(bootstrap->params[d][0]); j++)
            mean[j] += bootstrap->params[d][j] / n;
    for (int d = 0; d < bootstrap->draws; d++)
        for (int i = 0; i < n_params && !isnan(bootstrap->params[d][0]); i++)
            for (int j = 0; j < n_params; j++)
                fit->covariance[i * n_params + j] +=
                    (bootstrap->params[d][i] - mean[i]) * (bootstrap->params[d][j] - mean[j]) / (n - 1);
    for (int j = 0; j < n_params; j++) {
        int used = 0;
        for (int d = 0; d < bootstrap->draws; d++)
            if (!isnan(bootstrap->params[d][0]))
                values[used++] = bootstrap->params[d][j];
        tlaw_sort_numbers(values, (size_t) used);
        fit->se[j] = sqrt(fit->covariance[j * n_params + j]);
        fit->low[j] = tlaw_sorted_quantile(values, (size_t) used, 0.5 - 0.5 * fit->level);
        fit->high[j] = tlaw_sorted_quantile(values, (size_t) used, 0.5 + 0.5 * fit->level);
    }
    if (bootstrap->failed > 0)
        tlaw_fit_say(fit->message, "%d of %d bootstrap refits did not converge", bootstrap->failed,
                     bootstrap->draws);
}
