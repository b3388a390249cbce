/*
 * The exact k nearest neighbours on the GPU, between its files: knn.cu (schedule and memory), knn_round.cu
 * (points as integers) and knn_select.cu (candidates and their exact distances).
 *
 * As ../knn.h says of the CPU: points are centred, rotated and rounded, products of integers are exact, and
 * the triangle inequality bounds every distance from both sides; what the bounds leave is settled in float64
 * with the additions of stats/distance.h in their order, so that the answer has the bits of comparing all
 * distances.  Other than there, every point has a step of its own, so that one far away costs the others
 * nothing, and the integers are always of 8 bits: exact distances cost little here.
 *
 * Lengths are in units of `unit`, a usual distance from the centre, so that float32 holds them.  With q the
 * integers of a point, scale its step and y = scale q + e: norm = |scale q|^2 and error >= |e|.  The float32
 * sum norm_i + norm_j - 2 scale_i scale_j (q_i q_j) is off by at most SPREAD (norm_i + norm_j) + TINY.
 */
#ifndef TLAW_CUDA_KNN_SEARCH_H
#define TLAW_CUDA_KNN_SEARCH_H

#include "kernel.h"

extern "C" {
#include "../../stats/dimension.h"
}

#define SLACK  1e-6f /* of float32 arithmetic in bounds, relative */
#define SPREAD 1e-6f
#define TINY   1e-36f /* where float32 underflows */

/* A point as the bounds see it.  error is infinite where the point is too far away to be rounded. */
struct __align__(16) knn_column
{
    float scale, norm, error;
    int32_t group; /* points of one group are not each other's neighbours; the point itself where there are
                      none */
};

/* The points on the device. */
struct knn_points {
    const void *data;             /* [n][width] of element_size bytes */
    const double *scale, *centre; /* [n] or NULL; [width] */
    int64_t n;
    int width, element_size;
};

/* distance2: of the integers, as a float32 sum; with ~index the exact one, rounded; both in units^2 */
struct knn_candidate {
    float distance2;
    int32_t index;
};

/* The rows of one tile: each has `room` candidates, `count` of them set; reach is at least the k-th distance;
 * from `cutoff` on an index is out: k neighbours at distance 0 with smaller ones are known. */
struct knn_rows {
    int64_t first;
    int rows, room, k;
    double unit;
    struct knn_candidate *candidates; /* [rows][room] */
    double *exact;                    /* [rows][room]: distances^2, or bounds while they are sorted out */
    int32_t *index;                   /* [rows][room]: whose */
    int *count;
    float *reach;
    int32_t *cutoff;
};

/* ---- knn_round.cu ---- */

/* How rows are rotated: `depth` coordinates, those beyond the width zero, in pieces of `turn` (1: not at
 * all). */
struct knn_shape {
    int depth, turn, limit; /* limit: the largest integer */
};

/* centre[width] = the mean of some points; length[n] = |y| in the points' own units */
void knn_measure(struct device *, const struct knn_points *points, double *centre, double *length);
/* columns[n] and packed[n][depth] (zeroed before), with columns.group set */
void knn_round(struct device *, const struct knn_points *points, struct knn_shape shape, double unit,
               const double *length, const int32_t *group, struct knn_column *columns, int8_t *packed);

/* ---- knn_select.cu ---- */

/* Sets the rows' state to "nothing known". */
void knn_begin(struct device *, const struct knn_rows *rows);
/* Takes product[rows][ld], of integers with those of the points first .. first + count - 1, into the rows'
 * candidates. */
void knn_select(struct device *, const struct knn_rows *rows, const struct knn_points *points,
                const struct knn_column *columns, const int32_t *product, size_t ld, int64_t first,
                int count);
/* distance2[rows][k] and index[rows][k], nearest first, equal ones by index; INFINITY and -1 where there are
 * fewer */
void knn_finish(struct device *, const struct knn_rows *rows, const struct knn_points *points,
                const struct knn_column *columns, double *distance2, int32_t *index);

#endif
