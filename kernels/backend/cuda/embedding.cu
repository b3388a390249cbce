/*
 * Token and position embeddings.
 *
 * Backward without atomics on floats: the rows are ordered by (token, row), cut into pieces of PIECE places,
 * and each piece adds up its runs of one token.  A run belongs to the piece where it begins; what a run has
 * in later pieces is put aside and added in their order.
 */
#include "kernel.h"

#define THREADS 128
#define PIECE   32
#define SEGMENT 4096 /* rows that one block compares with its own */

/* x[rows,C] = wte[tokens] + wpe[row mod T]; a block a row */
__global__ void __launch_bounds__(THREADS)
    embedding_kernel(float *x, const int32_t *tokens, const float *wte, const float *wpe, int T, int C)
{
    size_t row = blockIdx.x, token = tokens[row], position = row % T;

    for (int c = threadIdx.x; c < C; c += THREADS)
        x[row * C + c] = wte[token * C + c] + wpe[position * C + c];
}

void embedding_forward(struct device *device, real *x, const int32_t *tokens, const real *wte,
                       const real *wpe, int B, int T, int C)
{
    launch(device, embedding_kernel, B * T, THREADS, x, tokens, wte, wpe, T, C);
}

/* dwpe[T,C] += sums of dx[B,T,C] over B; a thread an element */
__global__ void __launch_bounds__(THREADS)
    position_gradient_kernel(float *dwpe, const float *dx, int B, size_t n)
{
    size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x;
    float sum = 0;

    if (i >= n)
        return;
    for (int b = 0; b < B; b++)
        sum += dx[b * n + i];
    dwpe[i] += sum;
}

/* place[row] += how many rows of a segment come before it in the order of (token, row); place starts at 0 */
__global__ void __launch_bounds__(THREADS) place_kernel(int *place, const int32_t *tokens, int rows)
{
    __shared__ int32_t others[THREADS];
    int row = blockIdx.x * THREADS + threadIdx.x, count = 0;
    int first = blockIdx.y * SEGMENT, end = min(first + SEGMENT, rows);
    int32_t token = row < rows ? tokens[row] : 0;

    for (int base = first; base < end; base += THREADS) {
        int n = min(THREADS, end - base);

        __syncthreads();
        if (threadIdx.x < n)
            others[threadIdx.x] = tokens[base + threadIdx.x];
        __syncthreads();
        for (int i = 0; i < n; i++)
            count += others[i] < token + (base + i < row); /* an equal token comes before in an earlier row */
    }
    if (row < rows)
        atomicAdd(&place[row], count); /* whole numbers: the order does not matter */
}

__global__ void __launch_bounds__(THREADS) order_kernel(int *order, const int *place, int rows)
{
    int row = blockIdx.x * THREADS + threadIdx.x;

    if (row < rows)
        order[place[row]] = row;
}

/* Whether the run of tokens at this place began before it. */
__device__ static bool continues(const int *order, const int32_t *tokens, int place)
{
    return place > 0 && tokens[order[place - 1]] == tokens[order[place]];
}

/*
 * dwte[V,C] += the runs that begin in this piece; aside[pieces,C] = what the piece has of a run from before.
 * blockIdx.x: the piece; a thread a column.
 */
__global__ void __launch_bounds__(THREADS)
    runs_kernel(float *dwte, float *aside, const float *dx, const int *order, const int32_t *tokens, int rows,
                int C)
{
    int first = blockIdx.x * PIECE, end = min(first + PIECE, rows), c = blockIdx.y * THREADS + threadIdx.x;
    bool began_before = continues(order, tokens, first);
    int32_t token = tokens[order[first]];
    float sum = 0;

    if (c >= C)
        return;
    for (int place = first; place < end; place++) {
        int row = order[place];

        sum += dx[(size_t) row * C + c];
        if (place + 1 < end && tokens[order[place + 1]] == token)
            continue;
        if (began_before)
            aside[(size_t) blockIdx.x * C + c] = sum;
        else
            dwte[(size_t) token * C + c] += sum;
        began_before = false;
        sum = 0;
        if (place + 1 < end)
            token = tokens[order[place + 1]];
    }
}

/* dwte[V,C] += what was put aside of a run, by the first piece that did */
__global__ void __launch_bounds__(THREADS)
    aside_kernel(float *dwte, const float *aside, const int *order, const int32_t *tokens, int rows, int C)
{
    int piece = blockIdx.x, first = piece * PIECE, c = blockIdx.y * THREADS + threadIdx.x;
    int32_t token = tokens[order[first]];
    float sum = 0;

    if (c >= C || !continues(order, tokens, first))
        return;
    if (tokens[order[first - PIECE]] == token && continues(order, tokens, first - PIECE))
        return;
    for (; first < rows && tokens[order[first]] == token; first += PIECE)
        sum += aside[(size_t) (first / PIECE) * C + c];
    dwte[(size_t) token * C + c] += sum;
}

void embedding_backward(struct device *device, real *dwte, real *dwpe, const real *dx, const int32_t *tokens,
                        int B, int T, int C, int V)
{
    int rows = B * T, pieces = (rows + PIECE - 1) / PIECE;
    dim3 by_row = blocks_for(rows, THREADS), by_piece(pieces, blocks_for(C, THREADS));
    int *place = (int *) scratch(device, SCRATCH_ORDER, 2 * sizeof(int) * rows), *order = place + rows;
    float *aside = (float *) scratch(device, SCRATCH_PARTIAL, sizeof(float) * pieces * C);

    (void) V;
    launch(device, position_gradient_kernel, blocks_for((size_t) T * C, THREADS), THREADS, dwpe, dx, B,
           (size_t) T * C);
    check(cudaMemsetAsync(place, 0, sizeof(int) * rows, device->stream), "clearing the order of tokens");
    launch(device, place_kernel, dim3(by_row.x, blocks_for(rows, SEGMENT)), THREADS, place, tokens, rows);
    launch(device, order_kernel, by_row, THREADS, order, place, rows);
    launch(device, runs_kernel, by_piece, THREADS, dwte, aside, dx, order, tokens, rows, C);
    launch(device, aside_kernel, by_piece, THREADS, dwte, aside, order, tokens, rows, C);
}
