/* What device code shares: conversions, and sums over a warp or block in a fixed order. */
#ifndef TLAW_CUDA_KERNEL_H
#define TLAW_CUDA_KERNEL_H

#include "cuda.h"

#define WARP     32
#define ALL      0xffffffffu
#define INFINITE __int_as_float(0x7f800000)

__device__ inline float as_float(float x)
{
    return x;
}

__device__ inline float as_float(bf16 x)
{
    return __bfloat162float(x);
}

template <class T> __device__ T from_float(float x);

template <> __device__ inline float from_float<float>(float x)
{
    return x;
}

template <> __device__ inline bf16 from_float<bf16>(float x)
{
    return __float2bfloat16(x);
}

/* The sum over a warp, the same bits in every lane. */
__device__ inline float warp_sum(float x)
{
    for (int step = WARP / 2; step; step /= 2)
        x += __shfl_xor_sync(ALL, x, step);
    return x;
}

__device__ inline float warp_max(float x)
{
    for (int step = WARP / 2; step; step /= 2)
        x = fmaxf(x, __shfl_xor_sync(ALL, x, step));
    return x;
}

/* The sums of x and y over a block of THREADS, the same bits in every thread. */
template <int THREADS> __device__ float2 block_sums(float x, float y)
{
    __shared__ float2 of_warp[THREADS / WARP];
    float2 all = {0, 0};

    x = warp_sum(x);
    y = warp_sum(y);
    __syncthreads(); /* the last call's have been read */
    if (threadIdx.x % WARP == 0)
        of_warp[threadIdx.x / WARP] = make_float2(x, y);
    __syncthreads();
    for (int i = 0; i < THREADS / WARP; i++) {
        all.x += of_warp[i].x;
        all.y += of_warp[i].y;
    }
    return all;
}

/* tanh form of the Gaussian error linear unit (Hendrycks & Gimpel 2016), as GPT-2 has it; and its derivative
 */
__device__ inline float gelu(float x)
{
    return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

__device__ inline float gelu_slope(float x)
{
    float t = tanhf(0.7978845608f * (x + 0.044715f * x * x * x));

    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.7978845608f * (1 + 3 * 0.044715f * x * x);
}

#endif
