/* The instructions of the chip, lane by lane; see instruction.h. */
#include "instruction.h"

#include <cuda_bf16.h>

#include <vector>

/* Where this library's static variables are, and so its kernels' shared memory. */
extern char __bss_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));

static void check_shared(const char *instruction, const void *at, size_t bytes)
{
    if ((uintptr_t) at % bytes)
        shim_refuse("%s of %zu bytes at %p, which is not aligned", instruction, bytes, at);
    if ((const char *) at < __bss_start || (const char *) at + bytes > _end)
        shim_refuse("%s at %p, which is not in shared memory", instruction, at);
}

/* ---- matrices ---- */

/* A lane's part of ldmatrix: the 8 elements of one row. */
struct row {
    const void *at;
    uint16_t element[8];
};

/* The eight rows of a matrix are read at once if all have banks of their own: 16 bytes each of 128. */
static void check_banks(const shim_given *rows)
{
    unsigned banks = 0;
    struct row row;

    for (int i = 0; i < 8; i++) {
        memcpy(&row, rows[i].bytes, sizeof row);
        banks |= 1u << (uintptr_t) row.at / 16 % 8;
    }
    if (banks != 0xff)
        shim_refuse("ldmatrix of rows in the same banks: %x of ff", banks);
}

static void ldmatrix(uint32_t out[4], const char *instruction, const void *at, bool transposed)
{
    struct row row = {at, {}};
    int q = threadIdx.x % 32 / 4, r = threadIdx.x % 4;
    const shim_given *rows;

    check_shared(instruction, at, sizeof row.element);
    memcpy(row.element, at, sizeof row.element);
    rows = shim_exchange(instruction, &row, sizeof row);
    for (int matrix = 0; matrix < 4; matrix++) {
        uint16_t pair[2];

        check_banks(rows + 8 * matrix);
        for (int i = 0; i < 2; i++) {
            memcpy(&row, rows[8 * matrix + (transposed ? 2 * r + i : q)].bytes, sizeof row);
            pair[i] = row.element[transposed ? q : 2 * r + i];
        }
        out[matrix] = pair[0] | (uint32_t) pair[1] << 16;
    }
}

void ldmatrix_x4(uint32_t out[4], const void *row)
{
    ldmatrix(out, "ldmatrix", row, false);
}

void ldmatrix_x4_trans(uint32_t out[4], const void *row)
{
    ldmatrix(out, "ldmatrix.trans", row, true);
}

struct operands {
    uint32_t a[4], b[2];
};

static float element(uint32_t pair, int half)
{
    return __bfloat162float({(uint16_t) (pair >> 16 * half)});
}

void mma_m16n8k16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    struct operands mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, all[32];
    const shim_given *given = shim_exchange("mma", &mine, sizeof mine);
    int q = threadIdx.x % 32 / 4, r = threadIdx.x % 4;

    for (int lane = 0; lane < 32; lane++)
        memcpy(&all[lane], given[lane].bytes, sizeof mine);
    for (int i = 0; i < 4; i++) {
        int row = q + i / 2 * 8, column = 2 * r + i % 2;

        for (int k = 0; k < 16; k++)
            c[i] += element(all[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2], k % 2) *
                    element(all[column * 4 + k % 8 / 2].b[k / 8], k % 2);
    }
}

/* ---- copies: done when their thread waits for them; until then there is NaN ---- */

struct copy {
    void *to;
    const void *from;
    size_t size, bytes;
};
static std::vector<struct copy> copies[1024];

static void begin_copy(void *to, const void *from, size_t size, size_t bytes)
{
    check_shared("cp.async", to, size);
    if ((uintptr_t) from % size || bytes > size)
        shim_refuse("cp.async of %zu of %zu bytes from %p", bytes, size, from);
    memset(to, 0xff, size);
    copies[threadIdx.x].push_back({to, from, size, bytes});
}

void cp_async_16(void *to, const void *from, int bytes)
{
    begin_copy(to, from, 16, bytes);
}

void cp_async_4(void *to, const void *from, int bytes)
{
    begin_copy(to, from, 4, bytes);
}

void cp_async_wait_all()
{
    for (const struct copy &copy : copies[threadIdx.x]) {
        memset(copy.to, 0, copy.size);
        memcpy(copy.to, copy.from, copy.bytes);
    }
    copies[threadIdx.x].clear();
}

bool shim_copies_wait(unsigned thread)
{
    return !copies[thread].empty();
}

/* ---- arithmetic ---- */

static float flushed(float x)
{
    return fabsf(x) < 1.1754944e-38f ? 0 : x;
}

float ex2(float x)
{
    return flushed(exp2f(flushed(x)));
}
