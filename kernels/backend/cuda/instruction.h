/*
 * Instructions of the chip that CUDA C++ has no function for, one each, as the PTX ISA defines them; what
 * they are put to is in fragment.h.  All lanes of a warp execute one of ldmatrix and mma together.  For the
 * host regress/cuda_shim has the same header, where each does what the ISA says.
 */
#ifndef TLAW_CUDA_INSTRUCTION_H
#define TLAW_CUDA_INSTRUCTION_H

#include <stdint.h>

__device__ inline uint32_t in_shared(const void *at)
{
    return (uint32_t) __cvta_generic_to_shared(at);
}

/*
 * Four 8x8 matrices of 16-bit elements: row i of matrix j is the 16 bytes, aligned so, at the `row` of lane
 * 8 j + i; out[j] is the lane's pair of matrix j: of row lane / 4, columns 2 (lane % 4) and the next.
 */
__device__ inline void ldmatrix_x4(uint32_t out[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(in_shared(row))
                 : "memory");
}

/* The same of the matrices transposed. */
__device__ inline void ldmatrix_x4_trans(uint32_t out[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(in_shared(row))
                 : "memory");
}

/* c[16][8] += a[16][16] b[16][8] in bf16 with float32 sums; which elements a lane has: fragment.h */
__device__ inline void mma_m16n8k16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/*
 * Begins to copy 16 (or 4) bytes from global to shared memory, both aligned so: the first `bytes` of them,
 * and zeros behind.
 */
__device__ inline void cp_async_16(void *to, const void *from, int bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(in_shared(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
}

__device__ inline void cp_async_4(void *to, const void *from, int bytes)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :
                 : "r"(in_shared(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
}

/* Waits for the thread's own copies. */
__device__ inline void cp_async_wait_all()
{
    asm volatile("cp.async.wait_all;" : : : "memory");
}

/* 2^x; subnormal arguments and results are 0 */
__device__ inline float ex2(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
