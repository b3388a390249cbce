/* bfloat16 on the host: the upper half of a float, rounded to nearest even. */
#ifndef SHIM_CUDA_BF16_H
#define SHIM_CUDA_BF16_H

#include <cuda_runtime.h>

/* Visible, or templates of it were not (see __global__). */
struct __attribute__((visibility("default"))) __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 x)
{
    return __int_as_float((int) ((uint32_t) x.bits << 16));
}

static inline __nv_bfloat16 __float2bfloat16(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    if (x != x)
        return {0x7fff};
    return {(uint16_t) ((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16(x), __float2bfloat16(y)};
}

#endif
