/*
 * GeoMLE (Gomtsyan, Mokrov, Panov & Yanovich, ACML 2019): Levina & Bickel's local estimate at many
 * neighbourhood sizes, extrapolated to radius 0 by a regression on the neighbourhood's radius, so that
 * curvature and uneven density cancel to first order.
 *
 * Conventions: sizes k/2 .. 2k; 20 bootstrap samples of the points (their distinct members); per point and
 * size the mean estimate and mean radius over samples; weights 1 / variance over samples; a quadratic in the
 * radius relative to the largest one, its two slopes with a ridge of 0.005 of the total weight; the intercept
 * is the local estimate; the mean over points is the answer.  A size is used where at least 10 samples reach
 * it within the point's list of 4k + 8 neighbours.
 */
#include "dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define SAMPLES 20
#define ENOUGH  10
#define RIDGE   0.005

struct size_sums { /* of one neighbourhood size, over samples */
    double estimate, estimate2, radius;
    int count;
};

/* Adds one bootstrap sample's estimates at sizes [smallest, largest] around point i. */
static void add_sample(const struct tlaw_neighbours *graph, int64_t i, const uint32_t *samples_with,
                       int sample, int smallest, int largest, struct size_sums *sums)
{
    const double *distance = graph->distance + i * graph->k;
    const int32_t *index = graph->index + i * graph->k;
    double log_sum = 0; /* of the neighbours before this one */
    int size = 0;

    for (int j = 0; j < graph->k && size < largest; j++) {
        if (index[j] < 0 || !(samples_with[index[j]] >> sample & 1))
            continue;
        double log_r = log(distance[j]);
        size++;
        if (size >= smallest && size >= 2) {
            struct size_sums *at = sums + size - smallest;
            double inverse = ((size - 1) * log_r - log_sum) / (size - 1);

            if (inverse > 0) {
                at->estimate += 1 / inverse;
                at->estimate2 += 1 / inverse / inverse;
                at->radius += distance[j];
                at->count++;
            }
        }
        log_sum += log_r;
    }
}

/* Solves the 3 x 3 symmetric system a x = b for x[0], by elimination. */
static double first_unknown(double a[3][3], double b[3])
{
    for (int pivot = 2; pivot > 0; pivot--)
        for (int row = pivot - 1; row >= 0; row--) {
            double factor = a[row][pivot] / a[pivot][pivot];

            for (int column = 0; column <= pivot; column++)
                a[row][column] -= factor * a[pivot][column];
            b[row] -= factor * b[pivot];
        }
    return b[0] / a[0][0];
}

/* The weighted ridge regression; NaN when too few sizes were reached. */
static double intercept(const struct size_sums *sums, int sizes)
{
    double a[3][3] = {{0}}, b[3] = {0}, total = 0, largest = 0;
    int used = 0;

    for (int s = 0; s < sizes; s++)
        if (sums[s].count >= ENOUGH)
            largest = fmax(largest, sums[s].radius / sums[s].count);
    for (int s = 0; s < sizes; s++) {
        if (sums[s].count < ENOUGH)
            continue;
        double count = sums[s].count, mean = sums[s].estimate / count, t = sums[s].radius / count / largest;
        double variance = fmax(sums[s].estimate2 / count - mean * mean, 1e-6 * mean * mean);
        double weight = 1 / variance, power[3] = {1, t, t * t};

        for (int row = 0; row < 3; row++) {
            for (int column = 0; column < 3; column++)
                a[row][column] += weight * power[row] * power[column];
            b[row] += weight * power[row] * mean;
        }
        total += weight;
        used++;
    }
    a[1][1] += RIDGE * total;
    a[2][2] += RIDGE * total;
    return used >= 3 ? first_unknown(a, b) : NAN;
}

int tlaw_dimension_geomle(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    int64_t n = problem->points.n, used = 0;
    int smallest = problem->options.k / 2, sizes = 2 * problem->options.k - smallest + 1, status = 0;
    uint32_t *samples_with = calloc((size_t) n, sizeof *samples_with); /* bit s: the point is in sample s */
    double *psi = malloc((size_t) n * sizeof *psi), sum = 0;
    struct size_sums *sums = malloc((size_t) sizes * sizeof *sums);
    uint64_t state = problem->options.seed;

    if (!samples_with || !psi || !sums) {
        snprintf(result->message, sizeof result->message, "out of memory");
        status = -1;
    }
    for (int sample = 0; sample < SAMPLES && !status; sample++)
        for (int64_t draw = 0; draw < n; draw++)
            samples_with[random_below(&state, n)] |= 1u << sample;
    for (int64_t i = 0; i < n && !status; i++) {
        for (int s = 0; s < sizes; s++)
            sums[s] = (struct size_sums){0};
        for (int sample = 0; sample < SAMPLES; sample++)
            add_sample(&problem->neighbours, i, samples_with, sample, smallest, smallest + sizes - 1, sums);
        psi[i] = intercept(sums, sizes);
        if (isfinite(psi[i]))
            sum += psi[i], used++;
        else
            psi[i] = NAN;
        if (i % 256 == 0 && poll_stopped(problem))
            status = -1;
    }
    if (!status && used > 0) {
        result->dimension = sum / (double) used;
        for (int64_t i = 0; i < n; i++)
            psi[i] = isnan(psi[i]) ? 0 : psi[i] - result->dimension;
        result->standard_error = tlaw_graph_deviation(problem, psi) / (double) used;
    } else if (!status) {
        snprintf(result->message, sizeof result->message,
                 "no dimension: neighbourhoods of %d to %d points need more than %lld points", smallest,
                 smallest + sizes - 1, (long long) n);
    }
    free(samples_with);
    free(psi);
    free(sums);
    return status;
}
