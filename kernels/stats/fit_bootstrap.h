/*
 * Bootstrap of fits: rows or clusters drawn with replacement, each draw refitted.
 */
#ifndef TLAW_FIT_BOOTSTRAP_H
#define TLAW_FIT_BOOTSTRAP_H

#include "fit.h"

struct tlaw_bootstrap {
    bool by_cluster;
    int draws;
    uint64_t seed;
    /* out: natural parameters of every draw (draws x TLAW_MAX_PARAMS), NaN where a draw did not converge */
    double (*params)[TLAW_MAX_PARAMS];
    int failed;
};

/* 64 random bits, a pure function of its arguments (SplitMix64's finaliser over a Weyl sequence). */
uint64_t tlaw_draw_bits(uint64_t seed, uint64_t stream, uint64_t index);
/* Uniform in [0, n), and standard normal. */
uint64_t tlaw_draw_below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t n);
double tlaw_draw_uniform(uint64_t seed, uint64_t stream, uint64_t index);
double tlaw_draw_normal(uint64_t seed, uint64_t stream, uint64_t index);

/* Fills bootstrap->params. fit: converged, made on data. A pure function of data, fit, draws and seed. */
void tlaw_fit_bootstrap(const struct tlaw_host *host, const struct tlaw_data *data,
                        const struct tlaw_fit *fit, struct tlaw_bootstrap *bootstrap);

/* Puts standard deviations, percentile intervals and the covariance of the draws into fit. Says why not when
 * fewer than half converged. */
void tlaw_fit_use_bootstrap(const struct tlaw_host *host, const struct tlaw_bootstrap *bootstrap,
                            struct tlaw_fit *fit);

/* The p-quantile of sorted values (linear interpolation, type 7 of Hyndman and Fan). */
double tlaw_sorted_quantile(const double *sorted, size_t n, double p);
void tlaw_sort_numbers(double *values, size_t n);

#endif
