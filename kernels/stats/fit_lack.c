/*
 * Lack of fit: do the means of replicates lie further from the law than the replicates from each other?
 *
 * Rows with equal variables are one place; those of one cluster there (one subset, several seeds) are one
 * replicate, their mean.  F compares, each over its degrees of freedom, the places' means about the law with
 * the replicates about their place's mean (Draper & Smith, Applied Regression Analysis, 1998, section 2.1).
 * Exact for balanced replicates with one variance; what the replicates of one subset share along the law
 * makes it conservative.  A law that is refused here has intervals that mean little: they hold the noise, and
 * not the distance of the law from what it describes.
 */
#include "fit.h"

#include <math.h>
#include <string.h>

#include "distributions.h"

struct lack {
    double between, within; /* sums of squares, in replicates */
    double places, within_df;
    double *mean;                 /* residual, for every cluster; 0 between places */
    int32_t *rows, *here, n_here; /* likewise rows; the clusters that this place has */
};

/* Residuals at the fit, times the roots of the weights; NULL where the law cannot be evaluated. */
static double *residuals_of(const struct tlaw_host *host, const struct tlaw_data *data,
                            const struct tlaw_fit *fit)
{
    struct tlaw_problem problem;
    double *residuals = host->allocate(host->argument, sizeof(double) * (data->n + 1));
    double jacobian[TLAW_SOLVER_BLOCK * TLAW_MAX_PARAMS];
    tlaw_fit_problem(host, data, &problem);
    for (size_t first = 0; first < data->n; first += TLAW_SOLVER_BLOCK) {
        size_t count = data->n - first < TLAW_SOLVER_BLOCK ? data->n - first : TLAW_SOLVER_BLOCK;
        if (!problem.evaluate(&problem, fit->working, first, count, residuals + first, jacobian))
            return NULL;
    }
    for (size_t i = 0; i < data->n; i++)
        residuals[i] *= sqrt(data->weights[i]);
    return residuals;
}

/* One place: rows first .. last - 1.  Means grow row by row, so that equal residuals have exactly theirs. */
static void add_place(struct lack *lack, const struct tlaw_data *data, const double *residuals, size_t first,
                      size_t last)
{
    double mean = 0;
    lack->n_here = 0;
    for (size_t i = first; i < last; i++) {
        int32_t c = data->cluster[i];
        if (data->weights[i] == 0)
            continue;
        if (lack->rows[c] == 0)
            lack->here[lack->n_here++] = c;
        lack->mean[c] += (residuals[i] - lack->mean[c]) / ++lack->rows[c];
    }
    for (int32_t k = 0; k < lack->n_here; k++)
        mean += (lack->mean[lack->here[k]] - mean) / (k + 1);
    for (int32_t k = 0; k < lack->n_here; k++) {
        int32_t c = lack->here[k];
        double off = lack->mean[c] - mean;
        lack->within += off * off;
        lack->between += mean * mean;
        lack->mean[c] = lack->rows[c] = 0;
    }
    lack->places += lack->n_here > 0;
    lack->within_df += lack->n_here > 0 ? lack->n_here - 1 : 0;
}

void tlaw_fit_test_lack(const struct tlaw_host *host, const struct tlaw_data *data, struct tlaw_fit *fit)
{
    const struct tlaw_form_info *info = tlaw_form_info(data->form);
    struct lack lack = {.mean = host->allocate(host->argument, sizeof(double) * (data->n_clusters + 1)),
                        .rows = host->allocate(host->argument, sizeof(int32_t) * (data->n_clusters + 1)),
                        .here = host->allocate(host->argument, sizeof(int32_t) * (data->n_clusters + 1))};
    double *residuals;
    if (isfinite(data->delta) || (residuals = residuals_of(host, data, fit)) == NULL)
        return;
    memset(lack.mean, 0, sizeof(double) * data->n_clusters);
    memset(lack.rows, 0, sizeof(int32_t) * data->n_clusters);
    for (size_t first = 0, last; first < data->n; first = last) {
        for (last = first + 1; last < data->n && memcmp(data->x[last], data->x[first], sizeof *data->x) == 0;)
            last++;
        add_place(&lack, data, residuals, first, last);
    }
    double df = lack.places - info->n_params + __builtin_popcount(fit->unseen) + fit->at_bound;
    if (df < 1 || lack.within_df < 1 || !(lack.within > 0))
        return;
    fit->lack_of_fit_p = tlaw_f_upper(lack.between / df / (lack.within / lack.within_df), df, lack.within_df);
    if (tlaw_fit_is_refused(fit) && !(fit->curvature_p < 0.05))
        tlaw_fit_say(
            fit->message,
            "lack of fit: means of replicates lie further from %s than replicates from each other (p "
            "= %.2g), which the intervals do not hold",
            info->name, fit->lack_of_fit_p);
}
