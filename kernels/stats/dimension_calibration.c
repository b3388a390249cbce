/*
 * The default estimator: MacKay & Ghahramani's reading with k/4 and with k neighbours, extrapolated to none;
 * and whether there is one dimension to extrapolate to.
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
 *
 * None of that holds where the readings depend on the scale for another reason: noise, a spectrum without an
 * end, clusters, a lattice.  Three signs tell (kernels/stats/README.md counts them): a correction larger than
 * 4 % of the reading a dimension; inverse local readings, which at one dimension are means of near_k - 1
 * exponentials (Levina & Bickel 2004), of more than twice the variance; a reading with 2 neighbours more than
 * three errors off the extrapolation.  Then nothing is extrapolated.
 */
#include "dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LARGEST          100 /* dimension simulated */
#define CORRECTION_DOUBT 0.6
#define PLATEAU_POINTS   15 /* points a neighbour, from which a plateau is looked for: calibrated's default */
#define LARGEST_LOSS     0.04 /* of a reading, a dimension, to boundaries, bends and uneven density */
#define LARGEST_SCATTER  2

double tlaw_bias_growth(double d, double n, int k)
{
    return fmax(1 / d, (0.85 - 0.13 * log10(n / k)) / sqrt(d));
}

/* What a set of points reads; of 1 - cos twice that: what chords read, whose bias is the one simulated. */
struct readings {
    double n, unit;         /* unit: readings are that many times the metric's own */
    double pair, near, far; /* with 2, k/4 and k neighbours */
    double pair_error;
    double scatter; /* variance of the inverse local readings at near_k, over that at one dimension */
    double dimension, error; /* extrapolated to no neighbours (NaN: beyond LARGEST), and its sampling error */
    int near_k, k;
    int64_t used; /* points with a reading */
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

/* The sampling error of r->dimension, from the influence that every point has on it through both readings. */
static double sampling_error(const struct dimension_problem *problem, const struct readings *r, double *psi)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;
    double d = r->dimension, step = 1e-4 * d, factor = leverage(r, d),
           slope = (leverage(r, d + step) - leverage(r, d - step)) / (2 * step),
           scale = 1 / (1 - (r->near - r->far) * slope);

    for (int64_t i = 0; i < graph->n; i++) {
        const double *distance = graph->distance + i * graph->k;
        double near = tlaw_inverse_local(distance, r->near_k) / r->unit,
               far = tlaw_inverse_local(distance, r->k) / r->unit;

        psi[i] = isnan(far) ? 0
                            : scale * ((1 + factor) * r->near * (1 - r->near * near) -
                                       factor * r->far * (1 - r->far * far));
    }
    return tlaw_graph_deviation(problem, psi) / (double) r->used;
}

static double pair_error(const struct dimension_problem *problem, const struct readings *r, double *psi)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;

    for (int64_t i = 0; i < graph->n; i++) {
        const double *distance = graph->distance + i * graph->k;

        psi[i] = isnan(tlaw_inverse_local(distance, r->k))
                     ? 0
                     : r->pair * (1 - r->pair * tlaw_inverse_local(distance, 2) / r->unit);
    }
    return tlaw_graph_deviation(problem, psi) / (double) r->used;
}

/* Fills everything but the errors and the extrapolated dimension; used is 0 where no point has a reading. */
static void read_scales(const struct dimension_problem *problem, struct readings *r)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;
    double pair = 0, near = 0, far = 0, squares = 0;

    *r = (struct readings){.n = (double) graph->n,
                           .unit = problem->options.metric == TLAW_METRIC_COSINE ? 2 : 1,
                           .near_k = problem->options.k / 4,
                           .k = problem->options.k};
    for (int64_t i = 0; i < graph->n; i++) {
        const double *distance = graph->distance + i * graph->k;
        double local = tlaw_inverse_local(distance, r->near_k), wide = tlaw_inverse_local(distance, r->k);

        if (isnan(wide))
            continue;
        pair += tlaw_inverse_local(distance, 2);
        near += local;
        squares += local * local;
        far += wide;
        r->used++;
    }
    if (!(near > 0 && far > 0))
        r->used = 0;
    r->pair = r->unit * (double) r->used / pair; /* infinite where every nearest distance occurs twice */
    r->near = r->unit * (double) r->used / near;
    r->far = r->unit * (double) r->used / far;
    r->scatter = (squares * (double) r->used / (near * near) - 1) * (r->near_k - 1);
}

/* 1; 0: no point has a reading; -1: no memory */
static int read_points(const struct dimension_problem *problem, struct readings *r,
                       struct tlaw_dimension *result)
{
    double *psi = malloc((size_t) problem->neighbours.n * sizeof *psi);

    if (!psi)
        return tlaw_dimension_no_memory(result);
    read_scales(problem, r);
    if (r->used > 0) {
        r->dimension = extrapolate(r);
        r->error = isnan(r->dimension) ? NAN : sampling_error(problem, r, psi);
        r->pair_error = pair_error(problem, r, psi);
    }
    free(psi);
    return r->used > 0;
}

/* The error of the extrapolation, with the doubt about its correction. */
static double whole_error(const struct readings *r)
{
    return hypot(r->error, CORRECTION_DOUBT * (r->dimension - r->near));
}

/* Whether a smooth set of one dimension reads so; -1: too few points a neighbour to tell. */
static int has_plateau(const struct readings *r)
{
    double apart = fabs(log(r->pair / r->dimension)),
           errors = r->pair_error / r->pair + whole_error(r) / r->dimension;

    if (r->n < PLATEAU_POINTS * r->k)
        return -1;
    return fabs(r->dimension - r->near) <= LARGEST_LOSS * r->near * r->near + NORMAL_975 * r->error &&
           r->scatter <= LARGEST_SCATTER && apart <= 3 * errors;
}

/*
 * The standard deviation of ln(local dimension) over the points: of what the variance of the inverse local
 * readings is more than that at one dimension, v of (1 + v)(1 + 1/m) - 1, m = near_k - 1.
 */
static double spread(const struct readings *r)
{
    return sqrt(fmax(0, r->scatter - 1) / r->near_k);
}

static void say_no_plateau(struct tlaw_dimension *result, const struct readings *r)
{
    char near[40] = "";

    if (r->near_k > 2)
        snprintf(near, sizeof near, ", %.4g with %d", r->near / r->unit, r->near_k);
    tlaw_dimension_say(result, "no plateau: read %.4g with 2 neighbours%s, %.4g with %d", r->pair / r->unit,
                       near, r->far / r->unit, r->k);
    if (!isnan(r->dimension))
        tlaw_dimension_say(result, "extrapolated to none %.4g", r->dimension / r->unit);
    if (r->scatter > LARGEST_SCATTER)
        tlaw_dimension_say(result, "points differ by a factor of %.2g", exp(spread(r)));
}

/*
 * Without a plateau: the reading with k/4 neighbours.  Its interval holds those with 2 (and its interval)
 * and with k, the extrapolation (and its interval), and the dimensions of 95 % of the points, up to the
 * number of coordinates that vary.
 */
static void answer_range(const struct dimension_problem *problem, const struct readings *r,
                         struct tlaw_dimension *result)
{
    double points = exp(NORMAL_975 * spread(r));
    double beyond = exp(NORMAL_975 * whole_error(r) / r->dimension);
    double pair = exp(NORMAL_975 * r->pair_error / r->pair);
    double low = fmin(fmin(r->pair / pair, r->far), fmin(r->near / points, r->dimension / beyond));
    double high = fmax(fmax(r->pair * pair, r->far), fmax(r->near * points, r->dimension * beyond));

    result->dimension = r->near / r->unit;
    result->low = low / r->unit;
    result->high = fmax(result->dimension, fmin(high, problem->varying) / r->unit);
    result->standard_error = result->dimension * log(result->high / result->low) / (2 * NORMAL_975);
}

int tlaw_dimension_calibrated(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    struct readings r;
    int status = read_points(problem, &r, result);

    if (status <= 0)
        return status ? status : tlaw_dimension_no_ratio(result);
    tlaw_dimension_note_unusable(result, problem->neighbours.n - r.used);
    result->plateau = has_plateau(&r);
    if (isnan(r.dimension))
        tlaw_dimension_say(result, "no dimension: extrapolates beyond %d, where nothing was simulated",
                           LARGEST);
    if (result->plateau == 0) {
        say_no_plateau(result, &r);
        if (!isnan(r.dimension))
            answer_range(problem, &r, result);
        return 0;
    }
    result->dimension = r.dimension / r.unit;
    result->standard_error = whole_error(&r) / r.unit;
    tlaw_dimension_say(result, "%s %.4g with %d neighbours and %.4g with %d%s",
                       isnan(r.dimension) ? "read" : "extrapolated from", r.near / r.unit, r.near_k,
                       r.far / r.unit, r.k, isnan(r.dimension) ? "" : " to none");
    return 0;
}

int tlaw_dimension_find_plateau(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    struct readings r;
    int status = read_points(problem, &r, result);

    if (status <= 0)
        return status;
    result->plateau = has_plateau(&r);
    if (result->plateau == 0) {
        say_no_plateau(result, &r);
        tlaw_dimension_say(result, "the interval does not hold that");
    }
    return 0;
}
