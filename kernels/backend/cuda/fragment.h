/*
 * The matrix primitive of the tensor cores: a warp multiplies a 16x16 fragment by a 16x8 one (PTX ISA,
 * "Matrix fragments for mma.m16n8k16").
 *
 * With q = lane / 4 and r = lane % 4 a lane holds, pairs with the first element in the low half:
 *
 *      A[16][16]   x[0]: row q,     columns 2r,     2r + 1       x[2]: row q,     columns 2r + 8, 2r + 9
 *                  x[1]: row q + 8, columns 2r,     2r + 1       x[3]: row q + 8, columns 2r + 8, 2r + 9
 *
 *      B[16][8]    x[0]: rows 2r,     2r + 1 of column q
 *                  x[1]: rows 2r + 8, 2r + 9 of column q
 *
 *      C[16][8]    c[0], c[1]: row q,     columns 2r, 2r + 1
 *                  c[2], c[3]: row q + 8, columns 2r, 2r + 1
 *
 * regress/kernels/test_fragment.cu holds all that is here to the layouts of NVIDIA's CUTLASS, on the host
 * (with the instructions of regress/cuda_shim/instruction.h) and on a device.
 */
#ifndef TLAW_CUDA_FRAGMENT_H
#define TLAW_CUDA_FRAGMENT_H

#include <cuda_bf16.h>
#include <instruction.h>

#include <stdint.h>

struct fragment_a {
    uint32_t x[4];
};

struct fragment_b {
    uint32_t x[2];
};

/* Two floats, rounded to nearest even; the first in the low half. */
__device__ inline uint32_t pack(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);

    return *reinterpret_cast<uint32_t *>(&pair);
}

/* Two C side by side, in bf16, are an A. */
__device__ inline struct fragment_a as_a(const float left[4], const float right[4])
{
    return {
        {pack(left[0], left[1]), pack(left[2], left[3]), pack(right[0], right[1]), pack(right[2], right[3])}};
}

/* The 16x16 at `tile` in shared memory, rows ld elements apart; rows begin at multiples of 16 bytes. */
__device__ inline struct fragment_a load_a(const __nv_bfloat16 *tile, int ld)
{
    int lane = threadIdx.x % 32;
    struct fragment_a a;

    ldmatrix_x4(a.x, tile + lane % 16 * ld + lane / 16 * 8);
    return a;
}

/* Two 16x8, whose columns are 8 each of the 16 rows at `tile`, of 16 elements each. */
__device__ inline void load_b(struct fragment_b b[2], const __nv_bfloat16 *tile, int ld)
{
    int lane = threadIdx.x % 32;
    uint32_t x[4];

    ldmatrix_x4(x, tile + (lane % 8 + lane / 16 * 8) * ld + lane / 8 % 2 * 8);
    b[0] = {{x[0], x[1]}};
    b[1] = {{x[2], x[3]}};
}

/* Two 16x8 side by side: 16 rows of 16 elements at `tile`. */
__device__ inline void load_b_rows(struct fragment_b b[2], const __nv_bfloat16 *tile, int ld)
{
    int lane = threadIdx.x % 32;
    uint32_t x[4];

    ldmatrix_x4_trans(x, tile + lane % 16 * ld + lane / 16 * 8);
    b[0] = {{x[0], x[1]}};
    b[1] = {{x[2], x[3]}};
}

/* c += a b */
__device__ inline void multiply_add(float c[4], struct fragment_a a, struct fragment_b b)
{
    mma_m16n8k16(c, a.x, b.x);
}

/*
 * Begins to copy 16 (or 4) bytes from global to shared memory, both aligned so, or zeros there unless
 * `exists`. The thread's copies are there after its wait_copies, and for others after a barrier behind that.
 */
__device__ inline void copy_16(void *to, const void *from, bool exists)
{
    cp_async_16(to, from, exists ? 16 : 0);
}

__device__ inline void copy_4(void *to, const void *from, bool exists)
{
    cp_async_4(to, from, exists ? 4 : 0);
}

__device__ inline void wait_copies()
{
    cp_async_wait_all();
}

/* 2^x, 0 where that is below 2^-126 */
__device__ inline float power_of_two(float x)
{
    return ex2(x);
}

#endif
