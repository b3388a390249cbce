/*
 * The exact k nearest neighbours of every point of a set, certified, on all cores.
 *
 * Points are centred, rotated (so that no coordinate stands out) and rounded to small integers q with one
 * step s: y = s q + e.  Inner products of integers are exact, hence so is |q_i - q_j|, and by the triangle
 * inequality | |y_i - y_j| - s |q_i - q_j| | <= |e_i| + |e_j|, where |e_i| is computed.  A pair that this
 * rules out as neighbours is dropped; of the others the distance is computed in float32 from the points as
 * given, with its own bound, and of those that this leaves in float64.  So the answer is the one of comparing
 * all distances in float64 (equal distances: the lower index first), whatever the precision of the integers,
 * the number of threads or the instruction set.  Where distances are concentrated (noise in many dimensions),
 * integers of 16 bits are worth their cost, else 8 bits do.  Every pair's product is formed once, for both of
 * its points.
 *
 * Memory: about n (width + 2,200) bytes, for k up to 32, next to the points.
 */
#ifndef TLAW_KNN_H
#define TLAW_KNN_H

#include "../stats/dimension.h"
#include "cpu/cpu.h"

/* The last argument of knn_exact. */
struct knn_kernel;
struct knn_request {
    struct pool *pool;
    void (*progress)(double share, void *arg); /* NULL: none; called several times a second */
    void *progress_arg;
    const struct knn_kernel *kernel;          /* NULL: the best of this machine */
    int bits;                                 /* of the integers: 8, 16, or 0 to choose */
    int64_t rough_distances, exact_distances; /* out: how many were computed in float32 and in float64 */
};

/* As tlaw_knn_plain, and the same bits. */
tlaw_knn knn_exact;

/* ---- what the instruction sets fill (cpu/isa_knn.c) ---- */

/*
 * A block is KNN_BLOCK points, rows beyond the last one zero: KNN_PANELS panels [quads][KNN_PANEL] of four
 * bytes, which are four coordinates as int8 or two as int16.
 */
#define KNN_PANEL  48
#define KNN_PANELS 4
#define KNN_BLOCK  (KNN_PANEL * KNN_PANELS)

struct knn_hit {
    uint16_t row, column;
    int32_t distance2; /* of the integers */
};

struct knn_product {
    int limit;  /* integers are in [-limit, limit] */
    int offset; /* added to the columns' integers */
    int fours;  /* coordinates in four bytes: 4 or 2 */
    /* out[row][column] = sum over coordinates of rows q (columns q + offset), mod 2^32 */
    void (*block)(int32_t *out, const int8_t *rows, const int8_t *columns, int quads);
};

struct knn_kernel {
    struct knn_product coarse, fine; /* of int8, and of int16 at half the speed */
    /*
     * distance2 = base[row] + norm[column] - 2 product; those at most reach_rows[row] go to row_hits, those
     * at most reach_columns[column] to column_hits.  diagonal: a block with itself; column > row only.
     */
    void (*scan)(const int32_t *product, const int32_t *base, const int32_t *norm, const int32_t *reach_rows,
                 const int32_t *reach_columns, bool diagonal, struct knn_hit *row_hits, int *rows_found,
                 struct knn_hit *column_hits, int *columns_found);
    double (*distance2)(const struct tlaw_points *points, int64_t i, int64_t j);
    float (*rough2)(const struct tlaw_points *points, int64_t i,
                    int64_t j); /* the same in float32; rows of floats */
};

const struct knn_kernel *knn_best_kernel(void);
/* "portable", "avx2" or "avx512"; NULL when this machine or build has not got it. */
const struct knn_kernel *knn_find_kernel(const char *isa);

#endif
