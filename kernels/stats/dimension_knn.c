/*
 * Points and their distances, and the plain exact search: every pair, in float64.
 */
#include "dimension_internal.h"
#include "distance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LARGEST_VALUE   1e150  /* squares of differences stay finite */
#define SMALLEST_VALUE  1e-130 /* of the largest coordinate: squares of differences keep their digits */
#define SMALLEST_SQUARE 1e-280 /* the same of a row's length */

double tlaw_points_distance2(const struct tlaw_points *points, int64_t i, int64_t j)
{
    return points_distance2(points, i, j);
}

void tlaw_points_row(const struct tlaw_points *points, int64_t i, double *out)
{
    double scale = points->scale ? points->scale[i] : 1;

    for (int c = 0; c < points->width; c++)
        out[c] = scale * point_value(points, i, c);
}

int tlaw_points_check(const struct tlaw_points *points, char *message)
{
    double largest = 0;

    for (int64_t i = 0; i < points->n; i++)
        for (int c = 0; c < points->width; c++) {
            double value = point_value(points, i, c);

            if (!(fabs(value) <= LARGEST_VALUE)) {
                snprintf(message, TLAW_DIMENSION_MESSAGE,
                         "point %lld, coordinate %d is %g; finite values up to 1e150 are accepted",
                         (long long) i + 1, c + 1, value);
                return -1;
            }
            largest = fmax(largest, fabs(value));
        }
    if (largest > 0 && largest < SMALLEST_VALUE) {
        snprintf(message, TLAW_DIMENSION_MESSAGE,
                 "the largest coordinate of all points is %g; it must be 1e-130 to 1e150, or all 0", largest);
        return -1;
    }
    return 0;
}

int tlaw_points_normalise(const struct tlaw_points *points, double *scale, int64_t *bad_row)
{
    for (int64_t i = 0; i < points->n; i++) {
        double sum = 0;

        for (int c = 0; c < points->width; c++) {
            double value = point_value(points, i, c);

            sum += value * value;
        }
        scale[i] = 1 / sqrt(sum);
        if (!(sum > SMALLEST_SQUARE && isfinite(sum))) {
            *bad_row = i;
            return -1;
        }
    }
    return 0;
}

double tlaw_metric_distance(enum tlaw_metric metric, double distance2)
{
    switch (metric) {
    case TLAW_METRIC_COSINE:
        return distance2 / 2;
    case TLAW_METRIC_ANGULAR:
        return 2 * asin(fmin(1, sqrt(distance2) / 2));
    default:
        return sqrt(distance2);
    }
}

int tlaw_knn_plain(const struct tlaw_points *points, enum tlaw_metric metric, const int32_t *group,
                   struct tlaw_neighbours *out, struct tlaw_poll poll, void *arg, char *message)
{
    int64_t n = points->n, since_poll = 0;
    int k = out->k;

    (void) arg;
    for (int64_t i = 0; i < n; i++) {
        double *best = out->distance + i * k;
        int32_t *index = out->index + i * k;

        for (int j = 0; j < k; j++) {
            best[j] = INFINITY;
            index[j] = -1;
        }
        for (int64_t other = 0; other < n; other++) { /* ascending, so equal distances keep their order */
            if (other == i || (group && group[i] == group[other]))
                continue;
            double distance2 = tlaw_points_distance2(points, i, other);
            int at = k;

            if (!(distance2 < best[k - 1]))
                continue;
            for (at = k - 1; at > 0 && distance2 < best[at - 1]; at--) {
                best[at] = best[at - 1];
                index[at] = index[at - 1];
            }
            best[at] = distance2;
            index[at] = (int32_t) other;
        }
        for (int j = 0; j < k; j++)
            if (index[j] >= 0)
                best[j] = tlaw_metric_distance(metric, best[j]);
        since_poll += n * points->width;
        if (since_poll > 20000000) {
            since_poll = 0;
            if (poll.stop && poll.stop(poll.arg)) {
                message[0] = '\0';
                return -1;
            }
        }
    }
    return 0;
}
