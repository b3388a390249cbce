/*
 * The matrix primitive of the tensor cores: a warp multiplies a 16x16 fragment by a 16x8 one (PTX ISA,
 * "Matrix fragments for mma.m16n8k16").  With q = lane / 4 and r = lane % 4, a lane holds A[16][16]: x[0] =
 * rows q, columns 2r, 2r+1; x[1] = row q+8; x[2] = row q, columns 2r+8, 2r+9; x[3] = both B[16][8]:  x[0] =
 * rows 2r, 2r+1 of column q; x[1] = rows 2r+8, 2r+9 C[16][8]:  c[0], c[1] = row q, columns 2r, 2r+1; c[2],
 * c[3] = row q+8 Two C side by side, packed to bf16, are an A.  regress/cuda_shim has the same header for the
 * host.
 */
#ifndef TLAW_CUDA_FRAGMENT_H
#define TLAW_CUDA_FRAGMENT_H

#include <cuda_bf16.h>

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

/* The 16x16 at `tile` in shared memory, rows ld elements apart; rows begin at multiples of 16 bytes. */
__device__ inline struct fragment_a load_a(const __nv_bfloat16 *tile, int ld)
{
    int lane = threadIdx.x % 32;
    uint32_t at = (uint32_t) __cvta_generic_to_shared(tile + lane % 16 * ld + lane / 16 * 8);
    struct fragment_a a;

    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a.x[0]), "=r"(a.x[1]), "=r"(a.x[2]), "=r"(a.x[3])
                 : "r"(at)
                 : "memory");
    return a;
}

/* Two 16x8, whose columns are 8 each of the 16 rows at `tile`, of 16 elements each. */
__device__ inline void load_b(struct fragment_b b[2], const __nv_bfloat16 *tile, int ld)
{
    int lane = threadIdx.x % 32;
    uint32_t at =
        (uint32_t) __cvta_generic_to_shared(tile + (lane % 8 + lane / 16 * 8) * ld + lane / 8 % 2 * 8);

    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0].x[0]), "=r"(b[0].x[1]), "=r"(b[1].x[0]), "=r"(b[1].x[1])
                 : "r"(at)
                 : "memory");
}

/* Two 16x8 side by side: 16 rows of 16 elements at `tile`. */
__device__ inline void load_b_rows(struct fragment_b b[2], const __nv_bfloat16 *tile, int ld)
{
    int lane = threadIdx.x % 32;
    uint32_t at = (uint32_t) __cvta_generic_to_shared(tile + lane % 16 * ld + lane / 16 * 8);

    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0].x[0]), "=r"(b[0].x[1]), "=r"(b[1].x[0]), "=r"(b[1].x[1])
                 : "r"(at)
                 : "memory");
}

/* c += a b */
__device__ inline void multiply_add(float c[4], struct fragment_a a, struct fragment_b b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
                 "{%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]));
}

/*
 * Begins to copy 16 (or 4) bytes from global to shared memory, both aligned so, or zeros there unless
 * `exists`. The thread's copies are there after its wait_copies, and for others after a barrier behind that.
 */
__device__ inline void copy_16(void *to, const void *from, bool exists)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"((uint32_t) __cvta_generic_to_shared(to)), "l"(__cvta_generic_to_global(from)),
                   "r"(exists ? 16 : 0)
                 : "memory");
}

__device__ inline void copy_4(void *to, const void *from, bool exists)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 :
                 : "r"((uint32_t) __cvta_generic_to_shared(to)), "l"(__cvta_generic_to_global(from)),
                   "r"(exists ? 4 : 0)
                 : "memory");
}

__device__ inline void wait_copies()
{
    asm volatile("cp.async.wait_all;" : : : "memory");
}

/* 2^x, 0 where that is below 2^-126 */
__device__ inline float power_of_two(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif
