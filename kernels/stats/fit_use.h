/*
 * What fits are used for: compute-optimal sizes, the value of a further run, the power of a planned study,
 * isoFLOP analysis, weights from replicates.
 */
#ifndef TLAW_FIT_USE_H
#define TLAW_FIT_USE_H

#include "fit.h"

/* FLOPs of training: 6 N D. */
#define TLAW_FLOPS_PER_PARAM_TOKEN 6.0

struct tlaw_estimate {
    double value, low, high;
};

struct tlaw_optimum {
    struct tlaw_estimate n_params, n_tokens, tokens_per_param, loss;
};

/* ln N that minimises the law at 6 N D = flops: closed form for Chinchilla, Newton's method for the other
 * surfaces. NAN for laws of one variable, or without an interior minimum. */
double tlaw_optimal_log_params(enum tlaw_form form, const double *natural, double flops);

/* The optimum of a fit with intervals: from draws of the natural parameters where given, else by the delta
 * method on logarithms. False (all NAN) when there is none. */
bool tlaw_fit_optimum(const struct tlaw_host *host, const struct tlaw_fit *fit,
                      const double (*draws)[TLAW_MAX_PARAMS], int n_draws, double flops,
                      struct tlaw_optimum *optimum);

/* By how much the variance of ln(law at target) falls when one run at `candidate` is added (V-optimality; the
 * fit's covariance as it stands, the run's noise fit->noise). NAN when not known. */
double tlaw_fit_value_of_run(const struct tlaw_fit *fit, const double *candidate, const double *target,
                             double *variance_now);

/* A planned study of a law of one variable. */
struct tlaw_plan {
    const double *sizes;
    int n_sizes, replicates;
    double alpha;
    double irreducible_share; /* of the loss at the largest size; < 0: a power law without E is fitted */
    double noise;             /* standard deviation of ln loss from run to run */
    double
        subset_noise; /* of what replicates of one nested subset share; correlation sqrt(n1 / n2) along it */
    double level;
};
/* Standard error of alpha, degrees of freedom and half width of its interval. False when not identified. */
bool tlaw_plan_power(const struct tlaw_host *host, const struct tlaw_plan *plan, double *se, double *df,
                     double *half_width);

/* Weights by the inverse of the replicates' variance of ln loss, smoothed as a power of the first variable.
 * False when there are not two sizes with replicates. */
bool tlaw_replicate_weights(const struct tlaw_host *host, struct tlaw_row *rows, size_t n, int n_variables);

/* One point of an isoFLOP or envelope analysis: the optimum at a budget. */
struct tlaw_frontier_point {
    double flops, n_params;
};

/* Approach 2: a parabola of ln loss in ln N at every budget (rows whose flops agree within 5 %), its minimum
 * kept when it opens upwards and lies within the sizes tried. x: n_params, n_tokens. Returns the number of
 * points. */
int tlaw_isoflop_minima(const struct tlaw_host *host, const struct tlaw_row *rows, size_t n,
                        struct tlaw_frontier_point *points);
/* Approach 1: the lower envelope of the curves of equal N (ln loss interpolated in ln C), at 1 + 8
 * log10(range) budgets. */
int tlaw_envelope(const struct tlaw_host *host, const struct tlaw_row *rows, size_t n,
                  struct tlaw_frontier_point *points, int most);
/* Slope of ln N* on ln C by least squares, with its standard error (NAN below 3 points). */
bool tlaw_frontier_slope(const struct tlaw_frontier_point *points, int n, double *slope, double *se);

#endif
