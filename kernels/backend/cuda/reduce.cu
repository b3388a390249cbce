/*
 * Sums over many elements in an order that only the shape decides: columns of a matrix (gradients of biases
 * and of layer norms), losses, and the squares of a gradient.
 */
#include "kernel.h"

#define SLABS_MOST 256 /* of rows, in add_columns */
#define TILE_ROWS  8
#define PARTS      512 /* blocks of a total, at most */
#define THREADS    256

/*
 * partial[slab, columns] = sums over a slab of rows, blockIdx.y; with `add` all rows are one slab,
 * out[columns] +=, and blockIdx.y = 1 does the same with `second` for the rows that follow.  A block has WARP
 * columns and TILE_ROWS rows at once.
 */
template <class T, bool add>
__global__ void __launch_bounds__(WARP *TILE_ROWS)
    column_sums_kernel(float *out, float *second, const T *in, int rows, int columns, size_t ld, int slab)
{
    __shared__ float part[TILE_ROWS][WARP];
    int lane = threadIdx.x % WARP, line = threadIdx.x / WARP, column = blockIdx.x * WARP + lane;
    int first = add ? 0 : blockIdx.y * slab, end = min(first + slab, rows);
    float sum = 0;

    if (add && blockIdx.y) {
        out = second;
        in += rows * ld;
    }
    if (column < columns)
        for (int row = first + line; row < end; row += TILE_ROWS)
            sum += as_float(in[row * ld + column]);
    part[line][lane] = sum;
    __syncthreads();
    if (line == 0 && column < columns) {
        for (int i = 1; i < TILE_ROWS; i++)
            sum += part[i][lane];
        if (add)
            out[column] += sum;
        else
            out[(size_t) blockIdx.y * columns + column] = sum;
    }
}

void add_slabs(struct device *device, float *out, float *second, const float *partial, int slabs, int columns)
{
    launch(device, column_sums_kernel<float, true>, dim3(blocks_for(columns, WARP), second ? 2 : 1),
           WARP * TILE_ROWS, out, second, partial, slabs, columns, (size_t) columns, slabs);
}

template <class T>
void add_columns(struct device *device, float *out, const T *in, int rows, int columns, size_t ld)
{
    int slab = max(4 * TILE_ROWS, (rows + SLABS_MOST - 1) / SLABS_MOST), slabs = (rows + slab - 1) / slab;
    float *partial = (float *) scratch(device, SCRATCH_PARTIAL, sizeof(float) * slabs * columns);

    launch(device, column_sums_kernel<T, false>, dim3(blocks_for(columns, WARP), slabs), WARP * TILE_ROWS,
           partial, (float *) NULL, in, rows, columns, ld, slab);
    add_slabs(device, out, NULL, partial, slabs, columns);
}

template void add_columns<float>(struct device *, float *, const float *, int, int, size_t);
template void add_columns<bf16>(struct device *, float *, const bf16 *, int, int, size_t);

/* ---- totals in double ---- */

/* The sum over a block in double, in thread 0. */
__device__ static double block_sum(double x)
{
    __shared__ double part[THREADS];

    part[threadIdx.x] = x;
    __syncthreads();
    for (int half = THREADS / 2; half; half /= 2) {
        if (threadIdx.x < half)
            part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    return part[0];
}

/* part[gridDim.x] = sums of x[n] or of their squares, every gridDim.x * THREADS-th element to a thread */
template <bool squares>
__global__ void __launch_bounds__(THREADS) parts_kernel(double *part, const float *x, size_t n)
{
    double sum = 0;

    for (size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t) gridDim.x * THREADS)
        sum += squares ? (double) x[i] * x[i] : x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        part[blockIdx.x] = sum;
}

/* *out (+)= the sum of part[parts]; one block */
template <bool add>
__global__ void __launch_bounds__(THREADS) total_kernel(double *out, const double *part, int parts)
{
    double sum = 0;

    for (int i = threadIdx.x; i < parts; i += THREADS)
        sum += part[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0)
        *out = add ? *out + sum : sum;
}

template <bool squares, bool add>
static void total(struct device *device, double *out, const real *x, size_t n)
{
    int parts = (int) min((size_t) PARTS, (n + THREADS - 1) / THREADS);
    double *part = (double *) scratch(device, SCRATCH_PARTIAL, PARTS * sizeof(double));

    launch(device, parts_kernel<squares>, parts, THREADS, part, x, n);
    launch(device, total_kernel<add>, 1, THREADS, out, (const double *) part, parts);
}

void add_losses(struct device *device, double *sum, const real *losses, size_t n)
{
    total<false, true>(device, sum, losses, n);
}

void sum_squares(struct device *device, double *sum, const real *x, size_t n)
{
    total<true, false>(device, sum, x, n);
}
