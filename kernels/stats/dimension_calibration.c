/*
 * The default estimator: MacKay & Ghahramani's reading with k/4 and with k neighbours, extrapolated to none.
 *
 * A neighbourhood that reaches a boundary, bends, or has an uneven density biases every reading; the bias
 * grows with its size.  How fast is known of uniform balls of 1 to 100 dimensions with n = 100 .. 30,000
 * points (regress/bench/dimension_calibration.c): as (number of neighbours)^s,
 *
 *     s = max(1/d, (.85 - .13 log10(n/k)) / sqrt(d)),
 *
 * which gives back their dimension to 2 %.  How large it is, is read off the points: the correction is
 * (near - far) / (4^s - 1), nothing where the two readings agree.  On sets of other shapes (spheres, cubes,
 * simplices, Gaussians, cylinders) what is left of the bias is .6 of the correction (root mean square); the
 * standard error has that in it, beside the sampling error.
 */
#include "dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST          100 /* dimension simulated */
#define CORRECTION_DOUBT 0.6

double tlaw_bias_growth(double d, double n, int k)
{
    return fmax(1 / d, (0.85 - 0.13 * log10(n / k)) / sqrt(d));
}

/* The two readings of a set of points. */
struct readings {
    double n, near, far;
    int near_k, k;
};

/* The factor of near - far that the correction is, if the dimension is d. */
static double leverage(const struct readings *r, double d)
{
    return 1 / expm1(tlaw_bias_growth(d, r->n, r->k) * log((double) r->k / r->near_k));
}

static double excess(const struct readings *r, double d)
{
    return r->near + (r->near - r->far) * leverage(r, d) - d;
}

/* The least d that is its own corrected reading; NaN when there is none up to LARGEST. */
static double extrapolate(const struct readings *r)
{
    double low = 1e-3, high = r->near; /* excess(low) > 0 > excess(high) */

    while (excess(r, high) > 0) {
        low = high;
        high *= 1.01;
        if (high > LARGEST)
            return NAN;
    }
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;

        if (excess(r, middle) > 0)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The sampling error of d, from the influence that every point has on it through both readings. */
static double sampling_error(const struct dimension_problem *problem, const struct readings *r, int64_t used,
                             double d, double *psi)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;
    double step = 1e-4 * d, factor = leverage(r, d),
           slope = (leverage(r, d + step) - leverage(r, d - step)) / (2 * step),
           scale = 1 / (1 - (r->near - r->far) * slope);

    for (int64_t i = 0; i < graph->n; i++) {
        const double *distance = graph->distance + i * graph->k;
        double near = tlaw_inverse_local(distance, r->near_k), far = tlaw_inverse_local(distance, r->k);

        psi[i] = isnan(far) ? 0
                            : scale * ((1 + factor) * r->near * (1 - r->near * near) -
                                       factor * r->far * (1 - r->far * far));
    }
    return tlaw_graph_deviation(problem, psi) / (double) used;
}

int tlaw_dimension_calibrated(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;
    struct readings r = {(double) graph->n, 0, 0, problem->options.k / 4, problem->options.k};
    double *psi = malloc((size_t) graph->n * sizeof *psi);
    int64_t used = 0;

    if (!psi)
        return tlaw_dimension_no_memory(result);
    for (int64_t i = 0; i < graph->n; i++) {
        const double *distance = graph->distance + i * graph->k;
        double far = tlaw_inverse_local(distance, r.k);

        if (isnan(far))
            continue;
        r.near += tlaw_inverse_local(distance, r.near_k);
        r.far += far;
        used++;
    }
    r.near = (double) used / r.near;
    r.far = (double) used / r.far;
    if (!(used > 0 && isfinite(r.near) && isfinite(r.far))) {
        free(psi);
        return tlaw_dimension_no_ratio(result);
    }
    tlaw_dimension_note_unusable(result, graph->n - used);
    size_t said = strlen(result->message);
    double d = extrapolate(&r);
    if (!isnan(d)) {
        result->dimension = d;
        result->standard_error =
            hypot(sampling_error(problem, &r, used, d, psi), CORRECTION_DOUBT * (d - r.near));
    }
    snprintf(result->message + said, sizeof result->message - said,
             "%s%sread %.4g with %d neighbours, %.4g with %d", said ? "; " : "",
             isnan(d) ? "no dimension: extrapolates beyond 100, where nothing was simulated; " : "", r.near,
             r.near_k, r.far, r.k);
    free(psi);
    return 0;
}
