/*
 * The exact k nearest neighbours of every point of a set, certified, on all cores.
 *
 * Points are centred, rotated (so that no coordinate of a row stands out) and rounded, each row with its own
 * step s, to small integers q and, with a step some 256 times finer, what these leave to small integers r: y
 * = s (q + r / fine) + e.  Inner products of integers are exact, hence so are distances of rounded rows, and
 * by the triangle inequality | |y_i - y_j| - |z_i - z_j| | <= |e_i| + |e_j|, where z is what y was rounded to
 * and |e_i| is computed.  Of every pair the product of the q is formed, once for both of its points; of those
 * that this does not rule out as neighbours, the products with the r; of those that are left then, the
 * distance in float64 from the points as given.  So the answer is the one of comparing all distances in
 * float64 (equal distances: the lower index first), whatever the precision of the integers, the number of
 * threads or the instruction set.
 *
 * Memory: about n (3 width + 12 k + 400) bytes next to the points, for k up to 32.
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
    const struct knn_kernel *kernel;         /* NULL: the best of this machine */
    int64_t fine_distances, exact_distances; /* out: how many were computed with the r, and in float64 */
};

/* As tlaw_knn_plain, and the same bits. */
tlaw_knn knn_exact;

/* ---- what the instruction sets fill (cpu/isa_knn.c) ---- */

/*
 * A block is KNN_BLOCK points, rows beyond the last one zero.  Packed, the q of a block are KNN_PANELS panels
 * [quads][KNN_PANEL] of four coordinates each.  The record of a point is its q and then its r, as rows of
 * `plane` bytes.
 */
#define KNN_PANEL  48
#define KNN_PANELS 4
#define KNN_BLOCK  (KNN_PANEL * KNN_PANELS)
#define KNN_FINE   256

/* How rows are prepared: y = (scale x - centre) factor, rotated in pieces of `turn` (1: not). */
struct knn_frame {
    const double *centre, *factor; /* [width]; factor has signs, the unit of length and the rotation's norm */
    double absolute;               /* error of a float64 distance, in that unit */
    int plane, turn;
    int limit, fine; /* q in [-limit, limit], r in [-fine / 2, fine / 2] and in [-128, 127] */
};

/*
 * What rounding makes of a row y; lengths in the frame's unit; z = s q.  Of a row too long for float32, step
 * 0 and infinite errors.
 */
struct knn_rounded {
    double norm2, fine_norm2; /* of s q and of s (q + r / fine) */
    float step, error, fine_error;
    float length;          /* at least |y| and |z| */
    float base;            /* at most |y|^2 / 2 and (|z|^2 - error^2) / 2 */
    int32_t sum, fine_sum; /* of the q and of the r */
};

/*
 * What the scan needs of a block's points.  A pair may be within reach of j only if
 *     base_i + beyond_j - length_i by_length_j - error_i by_error_j <= s_i s_j (q_i q_j).
 * With R the reach and e the error of j, that is the triangle inequality |z_i - z_j| <= R + e_i + e_j for
 *     by_length 0,  by_error R + e,    beyond |z_j|^2 / 2 - (R + e)^2 / 2
 * and |y_i|^2 / 2 + |y_j|^2 / 2 - z_i z_j - z_i (y_j - z_j) - (y_i - z_i) y_j <= R^2 / 2 for
 *     by_length e,  by_error |y_j|,    beyond |y_j|^2 / 2 - R^2 / 2,
 * the narrower of the two where R is more than |y_j|.
 */
struct knn_side {
    float step[KNN_BLOCK], base[KNN_BLOCK], length[KNN_BLOCK], error[KNN_BLOCK];
    float reach[KNN_BLOCK], beyond[KNN_BLOCK], by_length[KNN_BLOCK], by_error[KNN_BLOCK];
} __attribute__((aligned(64)));

struct knn_hit {
    uint8_t row, column;
    int32_t product;
};

struct knn_kernel {
    int limit;  /* integers q are in [-limit, limit] */
    int offset; /* added to the columns' */
    /* Prepares and rounds row i; row: scratch [plane]. */
    void (*round)(const struct tlaw_points *points, int64_t i, const struct knn_frame *frame, float *row,
                  int8_t *record, struct knn_rounded *out);
    /*
     * out[KNN_BLOCK][KNN_PANEL] = start of the row + sum over coordinates of rows q (columns q + offset);
     * meanwhile brings the bytes that are needed next into the cache.
     */
    void (*multiply)(int32_t *out, const int32_t *start, const int8_t *rows, const int8_t *columns, int quads,
                     const int8_t *ahead, size_t bytes);
    /*
     * The pairs of a panel of products that may be within reach of their row or column; how many.  first: the
     * panel's first column.  diagonal: a block with itself; column > row only.
     */
    int (*scan)(const int32_t *product, const struct knn_side *rows, const struct knn_side *columns,
                int first, bool diagonal, struct knn_hit *hits);
    /* out[h] = sum of q_i r_j + r_i q_j and sum of r_i r_j of a hit's points, given their blocks' records and
     * fine_sum */
    void (*refine)(const struct knn_hit *hits, int count, const struct knn_frame *frame, const int8_t *rows,
                   const int8_t *columns, const int32_t *row_sums, const int32_t *column_sums,
                   int32_t (*out)[2]);
    /* out[j] = the squared distance of points i and to[j], as points_distance2 has it, and the same bits */
    void (*distances2)(const struct tlaw_points *points, int64_t i, const int32_t *to, int count,
                       double *out);
};

const struct knn_kernel *knn_best_kernel(void);
/* "portable", "avx2" or "avx512"; NULL when this machine or build has not got it. */
const struct knn_kernel *knn_find_kernel(const char *isa);

#endif
