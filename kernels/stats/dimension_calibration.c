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
 * end, clusters, a lattice.  Four signs tell (kernels/stats/README.md counts them):
 * - the reading with 2 neighbours is not where the extrapolation through those with k/4 and k puts it: over
 *   balls, spheres, cubes and Gaussians of 2 to 70 dimensions ln(reading / place) has mean 0 (within .025)
 *   and a deviation of about 1.15 / sqrt(n), of which 3.5 are allowed;
 * - the correction is larger than 4 % of the reading a dimension;
 * - inverse local readings, which at one dimension are means of near_k - 1 exponentials (Levina & Bickel
 *   2004), have more than 1.6 times the variance of these;
 * - most neighbours are exactly as far away as the one before.
 * Then nothing is extrapolated.
 */
#include "dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LARGEST          100 /* dimension simulated */
#define CORRECTION_DOUBT 0.6
#define PLATEAU_POINTS   15 /* points a neighbour, from which a plateau is looked for: calibrated's default */
#define LARGEST_LOSS     0.04 /* of a reading, a dimension, to boundaries, bends and uneven density */
#define LARGEST_SCATTER  1.6
#define LARGEST_TIED     0.5
#define PAIR_DEVIATION   1.15 /* of ln(reading with 2 / its place), times sqrt(n) */
#define PAIR_DEVIATIONS  3.5
#define PAIR_MISFIT      0.01 /* of the law of growth */

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
    double off, off_error;   /* ln(pair / where the extrapolation puts it), and its sampling error */
    double tied; /* share of the neighbours, but the first, that are exactly as far away as the one before */
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

/* What the extrapolation to d says that 2 neighbours read: its bias is the share (2 / near_k)^s of near's. */
static double expected_pair(const struct readings *r, double d, double near)
{
    return d + (near - d) * pow(2.0 / r->near_k, tlaw_bias_growth(d, r->n, r->k));
}

/* The sampling error of a sum of the three readings with these weights, from every point's influence on it.
 */
static double sampling_error(const struct dimension_problem *problem, const struct readings *r, double pair,
                             double near, double far, double *psi)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;

    for (int64_t i = 0; i < graph->n; i++) {
        const double *distance = graph->distance + i * graph->k;
        double wide = tlaw_inverse_local(distance, r->k) / r->unit;

        psi[i] = 0;
        if (isnan(wide))
            continue;
        psi[i] = near * r->near * (1 - r->near * tlaw_inverse_local(distance, r->near_k) / r->unit) +
                 far * r->far * (1 - r->far * wide);
        if (pair > 0)
            psi[i] += pair * r->pair * (1 - r->pair * tlaw_inverse_local(distance, 2) / r->unit);
    }
    return tlaw_graph_deviation(problem, psi) / (double) r->used;
}

/* The extrapolation, how far the reading with 2 is off it, and the sampling errors of all. */
static void follow(const struct dimension_problem *problem, struct readings *r, double *psi)
{
    double d = r->dimension = extrapolate(r), step = 1e-4 * d, factor = leverage(r, d),
           slope = (leverage(r, d + step) - leverage(r, d - step)) / (2 * step),
           scale = 1 / (1 - (r->near - r->far) * slope), pair = expected_pair(r, d, r->near),
           by_d = (expected_pair(r, d + step, r->near) - expected_pair(r, d - step, r->near)) / (2 * step),
           by_near = (expected_pair(r, d, r->near + step) - pair) / step;
    double near = scale * (1 + factor), far = -scale * factor; /* derivatives of d */

    r->pair_error = sampling_error(problem, r, 1, 0, 0, psi);
    r->error = r->off = r->off_error = NAN;
    if (isnan(d))
        return;
    r->error = sampling_error(problem, r, 0, near, far, psi);
    r->off = log(r->pair / pair);
    r->off_error =
        sampling_error(problem, r, 1 / r->pair, -(by_d * near + by_near) / pair, -by_d * far / pair, psi);
}

/* Fills everything but the errors and the extrapolated dimension; used is 0 where no point has a reading. */
static void read_scales(const struct dimension_problem *problem, struct readings *r)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;
    double pair = 0, near = 0, far = 0, squares = 0, tied = 0;

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
        for (int j = 1; j < r->k; j++)
            tied += distance[j] == distance[j - 1];
        r->used++;
    }
    if (!(near > 0 && far > 0))
        r->used = 0;
    r->pair = r->unit * (double) r->used / pair; /* infinite where every nearest distance occurs twice */
    r->near = r->unit * (double) r->used / near;
    r->far = r->unit * (double) r->used / far;
    r->tied = tied / (double) (r->used * (r->k - 1));
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
    if (r->used > 0)
        follow(problem, r, psi);
    free(psi);
    return r->used > 0;
}

/* The error of the extrapolation, with the doubt about its correction. */
static double whole_error(const struct readings *r)
{
    return hypot(r->error, CORRECTION_DOUBT * (r->dimension - r->near));
}

/* How far r->off may be from 0 where there is one dimension. */
static double pair_allowance(const struct readings *r)
{
    return PAIR_MISFIT + PAIR_DEVIATIONS * fmax(r->off_error, PAIR_DEVIATION / sqrt((double) r->used));
}

/* Whether a smooth set of one dimension reads so; -1: too few points a neighbour to tell. */
static int has_plateau(const struct readings *r)
{
    if (r->n < PLATEAU_POINTS * r->k)
        return -1;
    return fabs(r->off) <= pair_allowance(r) &&
           fabs(r->dimension - r->near) <= LARGEST_LOSS * r->near * r->near + NORMAL_975 * r->error &&
           r->scatter <= LARGEST_SCATTER && r->tied <= LARGEST_TIED;
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
    if (isnan(r->dimension))
        tlaw_dimension_say(result, "extrapolated to none beyond %d", LARGEST);
    else
        tlaw_dimension_say(result, "extrapolated to none %.4g", r->dimension / r->unit);
    if (r->scatter > LARGEST_SCATTER)
        tlaw_dimension_say(result, "points differ by a factor of %.2g", exp(spread(r)));
    if (r->tied > LARGEST_TIED)
        tlaw_dimension_say(result, "%.0f %% of the neighbours are exactly as far away as the one before",
                           100 * r->tied);
}

/*
 * Without a plateau: the reading with k/4 neighbours.  Its interval holds those with 2 (and its interval)
 * and with k, what 4 k would read if the trend went on (noise ends at larger scales), the extrapolation (and
 * its interval), and the dimensions of 95 % of the points, up to the number of coordinates that vary.
 */
static void answer_range(const struct dimension_problem *problem, const struct readings *r,
                         struct tlaw_dimension *result)
{
    double points = exp(NORMAL_975 * spread(r)), onward = r->far * r->far / r->near;
    double doubt = exp(NORMAL_975 * whole_error(r) / r->dimension);
    double pair = exp(NORMAL_975 * r->pair_error / r->pair);
    double beyond = isnan(r->dimension) ? INFINITY : r->dimension * doubt;
    double low = fmin(fmin(r->pair / pair, r->near / points), r->dimension / doubt);
    double high = fmax(fmax(r->pair * pair, r->near * points), beyond);

    low = fmin(low, fmin(r->far, onward));
    high = fmax(high, fmax(r->far, onward));
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
    if (result->plateau == 0) {
        say_no_plateau(result, &r);
        answer_range(problem, &r, result);
    } else if (isnan(r.dimension)) {
        tlaw_dimension_say(
            result,
            "no dimension: extrapolates beyond %d, where nothing was simulated; read %.4g with "
            "%d neighbours and %.4g with %d",
            LARGEST, r.near / r.unit, r.near_k, r.far / r.unit, r.k);
    } else {
        result->dimension = r.dimension / r.unit;
        result->standard_error = whole_error(&r) / r.unit;
        tlaw_dimension_say(result, "extrapolated from %.4g with %d neighbours and %.4g with %d to none",
                           r.near / r.unit, r.near_k, r.far / r.unit, r.k);
    }
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
