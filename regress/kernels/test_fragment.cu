/*
 * The instructions of kernels/backend/cuda/instruction.h, and fragment.h, which is made of them, against
 * which elements CUTLASS says that the lanes of a warp hold (regress/oracle/fragments.py).  In `make test` it
 * is compiled for the host, where the instructions are those of regress/cuda_shim, and what a chip leaves
 * undefined must end the process; and, where there is nvcc, its PTX is run (regress/ptx); in `make gpu-test`
 * it is compiled for the device.
 */
#include "../../kernels/backend/cuda/fragment.h"
#include "../oracle/fragments.h"
#include "launches.h"

#include <math.h>

#define LD 24 /* elements from row to row of a tile */

static uint16_t half_of(const word *registers, int value)
{
    return (uint16_t) (registers[value / 2] >> value % 2 * 16);
}

/* Whole numbers below 256 are themselves in bf16. */
static uint16_t as_bits(int x)
{
    float value = (float) x;
    word bits;

    memcpy(&bits, &value, sizeof bits);
    return (uint16_t) (bits >> 16);
}

/* ---- the instructions ---- */

/* in: 32 rows of 8 elements, four words each */
template <bool transposed> __global__ void ldmatrix_kernel(word *out, const word *in)
{
    __shared__ __align__(16) word rows[32][4];
    int lane = threadIdx.x;

    for (int i = 0; i < 4; i++)
        rows[lane][i] = in[4 * lane + i];
    __syncwarp();
    (transposed ? ldmatrix_x4_trans : ldmatrix_x4)(out + 4 * lane, rows[lane]);
}

static void check_ldmatrix(kernel *k, const char *name, const int oracle[32][8])
{
    word in[MOST] = {}, out[MOST];
    int wrong = 0;

    for (int i = 0; i < 128; i++)
        in[i] = (word) (2 * i) | (word) (2 * i + 1) << 16;
    run(k, out, in);
    for (int lane = 0; lane < 32; lane++)
        for (int value = 0; value < 8; value++)
            wrong += half_of(out + 4 * lane, value) != oracle[lane][value];
    ok(wrong == 0, "%s: %d of 256 elements are not where CUTLASS says", name, wrong);
}

/* in: a lane's a[4], b[2], c[4] */
__global__ void mma_kernel(word *out, const word *in)
{
    float c[4];

    in += 10 * threadIdx.x;
    memcpy(c, in + 6, sizeof c);
    mma_m16n8k16(c, in, in + 4);
    memcpy(out + 4 * threadIdx.x, c, sizeof c);
}

/* Whole numbers, so that sums are exact in any order. */
static void check_mma()
{
    int a[16][16], b[16][8], c[16][8], wrong = 0;

    for (int trial = 0; trial < 20; trial++) {
        word in[MOST] = {}, out[MOST];

        for (int i = 0; i < 256; i++)
            a[i / 16][i % 16] = rand() % 256 - 128;
        for (int i = 0; i < 128; i++)
            b[i / 8][i % 8] = rand() % 256 - 128, c[i / 8][i % 8] = rand() % 256 - 128;
        for (int lane = 0; lane < 32; lane++) {
            float sums[4];

            for (int i = 0; i < 8; i++)
                in[10 * lane + i / 2] |= (word) as_bits(a[0][oracle_a[lane][i]]) << i % 2 * 16;
            for (int i = 0; i < 4; i++)
                in[10 * lane + 4 + i / 2] |= (word) as_bits(b[0][oracle_b[lane][i]]) << i % 2 * 16;
            for (int i = 0; i < 4; i++)
                sums[i] = (float) c[0][oracle_c[lane][i]];
            memcpy(in + 10 * lane + 6, sums, sizeof sums);
        }
        run(mma_kernel, out, in);
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++)
                for (int k = 0; k < 16; k++)
                    c[row][column] += a[row][k] * b[k][column];
        for (int i = 0; i < 128; i++) {
            float sum;

            memcpy(&sum, out + i, sizeof sum);
            wrong += sum != (float) c[0][oracle_c[i / 4][i % 4]];
        }
    }
    ok(wrong == 0, "mma: %d of 2560 sums are wrong", wrong);
}

/* Lanes have 16 and 4 bytes copied, the odd ones get zeros. */
__global__ void copy_kernel(word *out, const word *in)
{
    __shared__ __align__(16) word sixteen[32][4], four[32];
    int lane = threadIdx.x;

    copy_16(sixteen[lane], in + 4 * lane, lane % 2 == 0);
    copy_4(four + lane, in + 128 + lane, lane % 2 == 0);
#ifndef __CUDACC__
    out[192 + lane] = four[lane];
#endif
    wait_copies();
    __syncwarp();
    for (int i = 0; i < 4; i++)
        out[4 * lane + i] = sixteen[31 - lane][i];
    out[128 + lane] = four[31 - lane];
}

static void check_copies()
{
    word in[MOST], out[MOST];
    int wrong = 0, early = 0;

    for (int i = 0; i < MOST; i++)
        in[i] = (word) rand();
    run(copy_kernel, out, in);
    for (int lane = 0; lane < 32; lane++) {
        int from = 31 - lane;

        for (int i = 0; i < 4; i++)
            wrong += out[4 * lane + i] != (from % 2 ? 0 : in[4 * from + i]);
        wrong += out[128 + lane] != (from % 2 ? 0 : in[128 + from]);
        early += out[192 + lane] != UINT32_MAX;
    }
    ok(wrong == 0, "cp.async: %d of 160 words are wrong", wrong);
#ifndef __CUDACC__
    ok(early == 0, "cp.async: %d of 32 words are there before anybody waits", early);
#else
    (void) early;
#endif
}

__global__ void power_kernel(word *out, const word *in)
{
    for (int i = threadIdx.x; i < MOST; i += 32) {
        float x, y;

        memcpy(&x, in + i, sizeof x);
        y = power_of_two(x);
        memcpy(out + i, &y, sizeof y);
    }
}

static void check_powers()
{
    float x[MOST], y[MOST], worst = 0;
    word in[MOST], out[MOST];

    for (int i = 0; i < MOST; i++)
        x[i] = i == 0 ? -INFINITY : i == 1 ? -127 : i == 2 ? -1e30f : i == 3 ? 0 : (float) (i - 900) / 7.03f;
    memcpy(in, x, sizeof in);
    run(power_kernel, out, in);
    memcpy(y, out, sizeof y);
    for (int i = 3; i < MOST; i++)
        worst = fmaxf(worst, x[i] < -126 ? y[i] : fabsf(y[i] / exp2f(x[i]) - 1));
    ok(worst < 5e-7f && y[3] == 1, "2^x is off by at most %.1e of itself, 2^0 is %g", worst, y[3]);
    ok(y[0] == 0 && y[1] == 0 && y[2] == 0, "2^-inf is %g, 2^-127 %g, 2^-1e30 %g", y[0], y[1], y[2]);
}

/* ---- fragments of a tile: in is 16 rows of LD elements ---- */

__global__ void load_kernel(word *out, const word *in)
{
    __shared__ __align__(16) __nv_bfloat16 tile[16 * LD];
    struct fragment_a a;
    struct fragment_b b[2], b_rows[2];

    for (int i = threadIdx.x; i < 16 * LD; i += 32)
        tile[i] = ((const __nv_bfloat16 *) in)[i];
    __syncwarp();
    a = load_a(tile, LD);
    load_b(b, tile, LD);
    load_b_rows(b_rows, tile, LD);
    memcpy(out + 12 * threadIdx.x, &a, sizeof a);
    memcpy(out + 12 * threadIdx.x + 4, b, sizeof b);
    memcpy(out + 12 * threadIdx.x + 8, b_rows, sizeof b_rows);
}

static void check_loads()
{
    word in[MOST] = {}, out[MOST];
    int wrong_a = 0, wrong_b = 0, wrong_rows = 0;

    for (int i = 0; i < 16 * LD; i++)
        in[i / 2] |= (word) i << i % 2 * 16;
    run(load_kernel, out, in);
    for (int lane = 0; lane < 32; lane++) {
        const word *got = out + 12 * lane;

        for (int value = 0; value < 8; value++) {
            int of_a = oracle_a[lane][value], of_b = oracle_b[lane][value % 4];
            int k = of_b / 8, n = of_b % 8 + value / 4 * 8;

            wrong_a += half_of(got, value) != of_a / 16 * LD + of_a % 16;
            wrong_b += half_of(got + 4, value) != n * LD + k;
            wrong_rows += half_of(got + 8, value) != k * LD + n;
        }
    }
    ok(wrong_a == 0, "load_a: %d of 256 elements are wrong", wrong_a);
    ok(wrong_b == 0, "load_b: %d of 256 elements are wrong", wrong_b);
    ok(wrong_rows == 0, "load_b_rows: %d of 256 elements are wrong", wrong_rows);
}

/* in: a lane's left[4] and right[4] */
__global__ void as_a_kernel(word *out, const word *in)
{
    float c[8];

    memcpy(c, in + 8 * threadIdx.x, sizeof c);
    struct fragment_a a = as_a(c, c + 4);
    memcpy(out + 4 * threadIdx.x, &a, sizeof a);
}

static void check_as_a()
{
    word in[MOST] = {}, out[MOST];
    int wrong = 0;

    for (int i = 0; i < 256; i++) {
        int at = oracle_c[i / 8][i % 4];
        float x = (float) (at / 8 * 16 + at % 8 + i % 8 / 4 * 8);

        memcpy(in + i, &x, sizeof x);
    }
    run(as_a_kernel, out, in);
    for (int i = 0; i < 256; i++)
        wrong += half_of(out + i / 8 * 4, i % 8) != as_bits(oracle_a[i / 8][i % 8]);
    ok(wrong == 0, "as_a: %d of 256 elements are wrong", wrong);
}

/* ---- what a chip leaves undefined ---- */

#ifndef __CUDACC__
static __align__(16) word tile[32][36]; /* as shared memory is */

static void lane_ended(word *out, const word *)
{
    if (threadIdx.x != 5)
        ldmatrix_x4(out + 4 * threadIdx.x, tile[threadIdx.x]);
}

static void lane_elsewhere(word *out, const word *)
{
    (threadIdx.x == 5 ? ldmatrix_x4_trans : ldmatrix_x4)(out + 4 * threadIdx.x, tile[threadIdx.x]);
}

static void row_not_aligned(word *out, const word *)
{
    ldmatrix_x4(out + 4 * threadIdx.x, &tile[threadIdx.x][2]);
}

static void row_not_shared(word *out, const word *in)
{
    ldmatrix_x4(out + 4 * threadIdx.x, in + 4 * threadIdx.x);
}

static void rows_in_the_same_banks(word *out, const word *)
{
    ldmatrix_x4(out + 4 * threadIdx.x, tile[0] + 32 * threadIdx.x);
}

static void copy_not_aligned(word *, const word *in)
{
    copy_16(tile[threadIdx.x], in + 1, true);
}

static void copy_not_shared(word *out, const word *in)
{
    copy_16(out + 4 * threadIdx.x, in, true);
}

static void copy_without_end(word *, const word *in)
{
    copy_4(tile[threadIdx.x], in, true);
}

static void check_refusals()
{
    check_refusal(lane_ended, "lanes of a warp at ldmatrix, and one that has ended");
    check_refusal(lane_elsewhere, "lanes of a warp at ldmatrix and at ldmatrix.trans");
    check_refusal(row_not_aligned, "which is not aligned");
    check_refusal(row_not_shared, "which is not in shared memory");
    check_refusal(rows_in_the_same_banks, "rows in the same banks");
    check_refusal(copy_not_aligned, "cp.async of 16 of 16 bytes");
    check_refusal(copy_not_shared, "which is not in shared memory");
    check_refusal(copy_without_end, "a thread that has ended before its copies");
}
#endif

int main()
{
    int devices = 0;

    if (cudaGetDeviceCount(&devices) != cudaSuccess || !devices) {
        printf("1..0 # SKIP no device here\n");
        return 0;
    }
    check_ldmatrix(ldmatrix_kernel<false>, "ldmatrix", oracle_ldmatrix);
    check_ldmatrix(ldmatrix_kernel<true>, "ldmatrix.trans", oracle_ldmatrix_trans);
    check_mma();
    check_copies();
    check_powers();
    check_loads();
    check_as_a();
#ifndef __CUDACC__
    check_refusals();
#endif
    return tap_end();
}
