/*
 * Points as 8-bit integers, a step for each: centred, rotated in shared memory, divided by the largest
 * coordinate; with the length of what rounding left over.
 *
 * A block has a point.  The rotation is a fixed change of signs and Walsh-Hadamard transforms of pieces, so
 * that no coordinate stands out; it keeps distances.  It is done twice rather than stored: once for the
 * largest coordinate, once to round.
 */
#include "knn_search.h"

#define THREADS   256
#define MEAN_ROWS 1024  /* whose mean is the centre: any centre will do */
#define PIECE     1024  /* coordinates in shared memory */
#define ROUNDING  2e-6  /* of float32 sums over a piece, relative to the point's length */
#define BEYOND    1e12  /* a point this many units away is not rounded */
#define PARALLEL  1e-15 /* distance of unit rows below which stats/distance.h calls them one direction */

/* A coordinate, scaled: the value that stats/distance.h works on. */
__device__ static double coordinate(const struct knn_points &points, int64_t i, int c)
{
    int64_t at = i * points.width + c;
    double x = points.element_size == 4 ? (double) ((const float *) points.data)[at]
                                        : ((const double *) points.data)[at];

    return points.scale ? __dmul_rn(points.scale[i], x) : x;
}

/* A block's sum, the same bits in every thread. */
template <class V> __device__ static V block_total(V x)
{
    __shared__ V of_warp[THREADS / WARP];
    V all = 0;

    for (int step = WARP / 2; step; step /= 2)
        x += __shfl_xor_sync(ALL, x, step);
    __syncthreads(); /* the last call's have been read */
    if (threadIdx.x % WARP == 0)
        of_warp[threadIdx.x / WARP] = x;
    __syncthreads();
    for (int i = 0; i < THREADS / WARP; i++)
        all += of_warp[i];
    return all;
}

__device__ static float block_largest(float x)
{
    __shared__ float of_warp[THREADS / WARP];

    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        of_warp[threadIdx.x / WARP] = x;
    __syncthreads();
    for (int i = 0; i < THREADS / WARP; i++)
        x = fmaxf(x, of_warp[i]);
    return x;
}

/* ---- centre and lengths ---- */

__global__ void __launch_bounds__(THREADS) centre_kernel(struct knn_points points, double *centre)
{
    int c = blockIdx.x * THREADS + threadIdx.x;
    int64_t rows = min(points.n, (int64_t) MEAN_ROWS);
    double sum = 0;

    if (c >= points.width)
        return;
    for (int64_t r = 0; r < rows; r++)
        sum += coordinate(points, r * points.n / rows, c) / (double) rows;
    centre[c] = sum;
}

__global__ void __launch_bounds__(THREADS) length_kernel(struct knn_points points, double *length)
{
    int64_t i = blockIdx.x;
    double sum = 0;

    for (int c = threadIdx.x; c < points.width; c += THREADS) {
        double y = __dsub_rn(coordinate(points, i, c), points.centre[c]);

        sum += y * y;
    }
    sum = block_total(sum);
    if (threadIdx.x == 0)
        length[i] = sqrt(sum);
}

void knn_measure(struct device *device, const struct knn_points *points, double *centre, double *length)
{
    launch(device, centre_kernel, blocks_for(points->width, THREADS), THREADS, *points, centre);
    launch(device, length_kernel, (unsigned) points->n, THREADS, *points, length);
}

/* ---- rounding ---- */

/* A fixed random sign a coordinate. */
__device__ static float sign_of(int column)
{
    uint64_t z = ((uint64_t) column + 1) * 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    return z >> 63 ? -1.f : 1.f;
}

/* piece[..] = `count` rotated coordinates of point i from `first` on, times factor */
__device__ static void rotate_piece(const struct knn_points &points, struct knn_shape shape, int64_t i,
                                    int first, int count, double factor, float *piece)
{
    __syncthreads(); /* the last one's have been read */
    for (int c = threadIdx.x; c < count; c += THREADS) {
        int column = first + c;
        float y = 0;

        if (column < points.width)
            y = (float) (__dsub_rn(coordinate(points, i, column), points.centre[column]) * factor);
        piece[c] = shape.turn > 1 ? y * sign_of(column) : y;
    }
    __syncthreads();
    for (int half = 1; half < shape.turn; half *= 2) {
        for (int pair = threadIdx.x; pair < count / 2; pair += THREADS) {
            int at = pair / half * 2 * half + pair % half;
            float a = piece[at], b = piece[at + half];

            piece[at] = a + b;
            piece[at + half] = a - b;
        }
        __syncthreads();
    }
}

/* Rounds `count` coordinates; returns this thread's part of |e|^2 and of the integers' squares. */
__device__ static double round_piece(const float *piece, int count, float step, int limit, int8_t *packed,
                                     int *square)
{
    double error2 = 0;

    for (int c = threadIdx.x; c < count; c += THREADS) {
        float q = step > 0 ? rintf(piece[c] / step) : 0;

        q = fminf(fmaxf(q, (float) -limit), (float) limit);
        error2 += (double) (piece[c] - step * q) * (piece[c] - step * q);
        *square += (int) q * (int) q;
        packed[c] = (int8_t) q;
    }
    return error2;
}

__global__ void __launch_bounds__(THREADS)
    round_kernel(struct knn_points points, struct knn_shape shape, double unit, const double *length,
                 const int32_t *group, struct knn_column *columns, int8_t *packed)
{
    __shared__ float piece[PIECE];
    int64_t i = blockIdx.x;
    double away = length[i] / unit, factor = 1 / (unit * sqrt((double) shape.turn)), error2 = 0;
    int each = shape.turn > 1 ? shape.turn : PIECE, square = 0;
    float largest = 0, step;
    struct knn_column out = {0, 0, INFINITE, group ? group[i] : (int32_t) i};

    if (!(away < BEYOND)) {
        if (threadIdx.x == 0)
            columns[i] = out;
        return;
    }
    for (int first = 0; first < shape.depth; first += each) {
        int count = min(each, shape.depth - first);

        rotate_piece(points, shape, i, first, count, factor, piece);
        for (int c = threadIdx.x; c < count; c += THREADS)
            largest = fmaxf(largest, fabsf(piece[c]));
    }
    step = block_largest(largest) / (float) shape.limit;
    for (int first = 0; first < shape.depth; first += each) {
        int count = min(each, shape.depth - first);

        rotate_piece(points, shape, i, first, count, factor, piece);
        error2 += round_piece(piece, count, step, shape.limit, packed + i * shape.depth + first, &square);
    }
    error2 = block_total(error2);
    square = block_total(square);
    if (threadIdx.x == 0) {
        double error = sqrt(error2) + ROUNDING * away + (points.scale ? PARALLEL / unit : 0);

        columns[i] = {step, step * step * (float) square, (float) (error * (1 + 4 * (double) SLACK)) + 1e-30f,
                      out.group};
    }
}

void knn_round(struct device *device, const struct knn_points *points, struct knn_shape shape, double unit,
               const double *length, const int32_t *group, struct knn_column *columns, int8_t *packed)
{
    launch(device, round_kernel, (unsigned) points->n, THREADS, *points, shape, unit, length, group, columns,
           packed);
}
