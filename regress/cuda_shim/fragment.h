/* kernels/backend/cuda/fragment.h on the host, from the layout that its opening comment gives. */
#ifndef SHIM_FRAGMENT_H
#define SHIM_FRAGMENT_H

#include <cuda_bf16.h>

#include <stdlib.h>
#include <vector>

struct fragment_a {
    uint32_t x[4];
};

struct fragment_b {
    uint32_t x[2];
};

static inline uint32_t pack(float low, float high)
{
    return __float2bfloat16(low).bits | (uint32_t) __float2bfloat16(high).bits << 16;
}

static inline float unpack(uint32_t pair, int half)
{
    return __bfloat162float({(uint16_t) (pair >> 16 * half)});
}

static inline uint32_t two(__nv_bfloat16 first, __nv_bfloat16 second)
{
    return first.bits | (uint32_t) second.bits << 16;
}

/* ldmatrix takes rows at multiples of 16 bytes. */
static inline void check_rows(const __nv_bfloat16 *tile, int ld)
{
    if ((uintptr_t) tile % 16 || ld % 8)
        abort();
}

static inline struct fragment_a load_a(const __nv_bfloat16 *tile, int ld)
{
    int q = threadIdx.x % 32 / 4, r = threadIdx.x % 4;
    struct fragment_a a;

    check_rows(tile, ld);
    for (int i = 0; i < 4; i++) {
        const __nv_bfloat16 *at = tile + (q + i % 2 * 8) * ld + 2 * r + i / 2 * 8;

        a.x[i] = two(at[0], at[1]);
    }
    return a;
}

static inline void load_b(struct fragment_b b[2], const __nv_bfloat16 *tile, int ld)
{
    check_rows(tile, ld);
    for (int i = 0; i < 2; i++) {
        const __nv_bfloat16 *at = tile + (threadIdx.x % 32 / 4 + 8 * i) * ld + threadIdx.x % 4 * 2;

        b[i] = {{two(at[0], at[1]), two(at[8], at[9])}};
    }
}

static inline void load_b_rows(struct fragment_b b[2], const __nv_bfloat16 *tile, int ld)
{
    check_rows(tile, ld);
    for (int i = 0; i < 2; i++) {
        const __nv_bfloat16 *at = tile + threadIdx.x % 4 * 2 * ld + threadIdx.x % 32 / 4 + 8 * i;

        b[i] = {{two(at[0], at[ld]), two(at[8 * ld], at[9 * ld])}};
    }
}

static inline void multiply_add(float c[4], struct fragment_a a, struct fragment_b b)
{
    struct {
        struct fragment_a a;
        struct fragment_b b;
    } mine = {a, b};
    const shim_given *all = shim_exchange(&mine, sizeof mine);
    int q = threadIdx.x % 32 / 4, r = threadIdx.x % 4;

    for (int i = 0; i < 4; i++) {
        int row = q + i / 2 * 8, column = 2 * r + i % 2;

        for (int k = 0; k < 16; k++) {
            uint32_t of_a, of_b;

            memcpy(&of_a, all[row % 8 * 4 + k % 8 / 2].bytes + 4 * (row / 8 + k / 8 * 2), 4);
            memcpy(&of_b, all[column * 4 + k % 8 / 2].bytes + 16 + 4 * (k / 8), 4);
            c[i] += unpack(of_a, k % 2) * unpack(of_b, k % 2);
        }
    }
}

/* Copies are done when their thread waits for them; until then there is NaN. */
struct shim_copy {
    void *to;
    const void *from;
    size_t bytes;
    bool exists;
};
static std::vector<struct shim_copy> shim_copies[1024];

static inline void begin_copy(void *to, const void *from, size_t bytes, bool exists)
{
    if ((uintptr_t) to % bytes || (uintptr_t) from % bytes)
        abort();
    memset(to, 0xff, bytes);
    shim_copies[threadIdx.x].push_back({to, from, bytes, exists});
}

static inline void copy_16(void *to, const void *from, bool exists)
{
    begin_copy(to, from, 16, exists);
}

static inline void copy_4(void *to, const void *from, bool exists)
{
    begin_copy(to, from, 4, exists);
}

static inline void wait_copies()
{
    for (const struct shim_copy &copy : shim_copies[threadIdx.x])
        if (copy.exists)
            memcpy(copy.to, copy.from, copy.bytes);
        else
            memset(copy.to, 0, copy.bytes);
    shim_copies[threadIdx.x].clear();
}

static inline float power_of_two(float x)
{
    float y = exp2f(x);

    return y < 1.1754944e-38f ? 0 : y;
}

#endif
