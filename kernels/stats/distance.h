/*
 * The exact squared distance of two rows: float64, sixteen running sums, added in one fixed order, so that
 * whoever includes this gets the same bits: multiply-adds must not be contracted to FMA.
 */
#ifndef TLAW_DISTANCE_H
#define TLAW_DISTANCE_H

#include "dimension.h"

#define DISTANCE_LANES    16
#define DISTANCE_PARALLEL 1e-30 /* squared chord of unit vectors below which they are one direction */

#define DISTANCE2(x, a, y, b, width)                                                                         \
    double sum[DISTANCE_LANES] = {0};                                                                        \
    int c = 0;                                                                                               \
    for (; c + DISTANCE_LANES <= (width); c += DISTANCE_LANES)                                               \
        for (int lane = 0; lane < DISTANCE_LANES; lane++) {                                                  \
            double difference = (a) * (double) (x)[c + lane] - (b) * (double) (y)[c + lane];                 \
            sum[lane] += difference * difference;                                                            \
        }                                                                                                    \
    for (; c < (width); c++) {                                                                               \
        double difference = (a) * (double) (x)[c] - (b) * (double) (y)[c];                                   \
        sum[0] += difference * difference;                                                                   \
    }                                                                                                        \
    for (int half = DISTANCE_LANES / 2; half > 0; half /= 2)                                                 \
        for (int lane = 0; lane < half; lane++)                                                              \
            sum[lane] += sum[lane + half];                                                                   \
    return sum[0];

static inline double distance2_float(const float *x, double a, const float *y, double b, int width)
{
    DISTANCE2(x, a, y, b, width)
}

static inline double distance2_double(const double *x, double a, const double *y, double b, int width)
{
    DISTANCE2(x, a, y, b, width)
}

static inline double distance2_float_plain(const float *x, const float *y, int width)
{
    DISTANCE2(x, 1, y, 1, width)
}

static inline double points_distance2(const struct tlaw_points *points, int64_t i, int64_t j)
{
    int width = points->width;
    double distance2;

    if (points->element_size == 4) {
        const float *x = (const float *) points->data + i * width,
                    *y = (const float *) points->data + j * width;

        if (!points->scale)
            return distance2_float_plain(x, y, width);
        distance2 = distance2_float(x, points->scale[i], y, points->scale[j], width);
    } else {
        const double *x = (const double *) points->data + i * width,
                     *y = (const double *) points->data + j * width;

        if (!points->scale)
            return distance2_double(x, 1, y, 1, width);
        distance2 = distance2_double(x, points->scale[i], y, points->scale[j], width);
    }
    return distance2 < DISTANCE_PARALLEL ? 0 : distance2; /* x and 3 x differ by rounding only */
}

#endif
