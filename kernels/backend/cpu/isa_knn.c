/*
 * Nearest neighbours, what depends on the instruction set: integer products of blocks of points, the search
 * of a block of products for pairs within reach, exact distances.
 *
 * Products are of signed bytes with unsigned ones.  With VNNI one instruction multiplies 64 pairs and adds;
 * AVX2 has a saturating pair of instructions, hence its smaller integers; elsewhere it is plain C.
 */
#include "isa.h"
#include "../knn.h"

/* The exact distance must have the same bits everywhere. */
#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif
#include "../../stats/distance.h"

#define TILE_ROWS 8
#define CHUNK     512 /* depth of what stays in the first cache */

static double exact_distance2(const struct tlaw_points *points, int64_t i, int64_t j)
{
    return points_distance2(points, i, j);
}

#define ROUGH_LANES 64

static float rough_distance2(const struct tlaw_points *points, int64_t i, int64_t j)
{
    const float *x = (const float *) points->data + i * points->width;
    const float *y = (const float *) points->data + j * points->width;
    float a = points->scale ? (float) points->scale[i] : 1, b = points->scale ? (float) points->scale[j] : 1;
    float sum[ROUGH_LANES] = {0};
    int c = 0;

    for (; c + ROUGH_LANES <= points->width; c += ROUGH_LANES)
        for (int lane = 0; lane < ROUGH_LANES; lane++) {
            float difference = a * x[c + lane] - b * y[c + lane];
            sum[lane] += difference * difference;
        }
    for (; c < points->width; c++) {
        float difference = a * x[c] - b * y[c];
        sum[0] += difference * difference;
    }
    for (int half = ROUGH_LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++)
            sum[lane] += sum[lane + half];
    return sum[0];
}

/* ---- products: TILE_ROWS rows of a panel times a whole panel ---- */

/* Adds to out (rows of KNN_BLOCK) over `quads` groups of four. */
typedef void tile_function(int32_t *out, const int8_t *rows, const int8_t *columns, int quads);

static inline __attribute__((always_inline)) void
block_products(int32_t *out, const int8_t *rows, const int8_t *columns, int depth, tile_function *tile)
{
    size_t panel = (size_t) depth * KNN_PANEL;

    memset(out, 0, sizeof *out * KNN_BLOCK * KNN_BLOCK);
    for (int from = 0; from < depth; from += CHUNK) {
        int quads = (depth - from < CHUNK ? depth - from : CHUNK) / 4;
        size_t skip = (size_t) from * KNN_PANEL;

        for (int right = 0; right < KNN_PANELS; right++)
            for (int row = 0; row < KNN_BLOCK; row += TILE_ROWS)
                tile(out + row * KNN_BLOCK + right * KNN_PANEL,
                     rows + (size_t) (row / KNN_PANEL) * panel + skip + row % KNN_PANEL * 4,
                     columns + (size_t) right * panel + skip, quads);
    }
}

#if defined(__AVX512F__)

static inline __attribute__((always_inline, target("avx512vnni"))) void
tile_vnni(int32_t *out, const int8_t *rows, const int8_t *columns, int quads)
{
    const __m512i flip = _mm512_set1_epi8((char) 0x80); /* q + 128 as an unsigned byte */
    __m512i sum[TILE_ROWS][3];

    for (int r = 0; r < TILE_ROWS; r++)
        for (int c = 0; c < 3; c++)
            sum[r][c] = _mm512_loadu_si512(out + r * KNN_BLOCK + 16 * c);
    for (int q = 0; q < quads; q++, rows += 4 * KNN_PANEL, columns += 4 * KNN_PANEL) {
        __m512i column[3];

        for (int c = 0; c < 3; c++)
            column[c] = _mm512_xor_si512(_mm512_load_si512(columns + 64 * c), flip);
        for (int r = 0; r < TILE_ROWS; r++) {
            int32_t four;

            memcpy(&four, rows + 4 * r, 4);
            __m512i row = _mm512_set1_epi32(four);
            for (int c = 0; c < 3; c++)
                sum[r][c] = _mm512_dpbusd_epi32(sum[r][c], column[c], row);
        }
    }
    for (int r = 0; r < TILE_ROWS; r++)
        for (int c = 0; c < 3; c++)
            _mm512_storeu_si512(out + r * KNN_BLOCK + 16 * c, sum[r][c]);
}

__attribute__((target("avx512vnni"))) static void products(int32_t *out, const int8_t *rows,
                                                           const int8_t *columns, int depth)
{
    block_products(out, rows, columns, depth, tile_vnni);
}
#define LIMIT  127
#define OFFSET 128

#elif defined(__AVX2__)

/* Sums of two products stay within 2 * 127 * 63 < 2^15. */
static inline __attribute__((always_inline)) void tile_avx2(int32_t *out, const int8_t *rows,
                                                            const int8_t *columns, int quads)
{
    const __m256i offset = _mm256_set1_epi8(64), ones = _mm256_set1_epi16(1);

    for (int half = 0; half < TILE_ROWS; half += 2)
        for (int side = 0; side < KNN_PANEL; side += 24) {
            const int8_t *left = rows + 4 * half, *right = columns + 4 * side;
            int32_t *to = out + half * KNN_BLOCK + side;
            __m256i sum[2][3];

            for (int r = 0; r < 2; r++)
                for (int c = 0; c < 3; c++)
                    sum[r][c] = _mm256_loadu_si256((const __m256i *) (to + r * KNN_BLOCK + 8 * c));
            for (int q = 0; q < quads; q++, left += 4 * KNN_PANEL, right += 4 * KNN_PANEL)
                for (int c = 0; c < 3; c++) {
                    __m256i column =
                        _mm256_add_epi8(_mm256_load_si256((const __m256i *) (right + 32 * c)), offset);

                    for (int r = 0; r < 2; r++) {
                        int32_t four;

                        memcpy(&four, left + 4 * r, 4);
                        __m256i pairs = _mm256_maddubs_epi16(column, _mm256_set1_epi32(four));
                        sum[r][c] = _mm256_add_epi32(sum[r][c], _mm256_madd_epi16(pairs, ones));
                    }
                }
            for (int r = 0; r < 2; r++)
                for (int c = 0; c < 3; c++)
                    _mm256_storeu_si256((__m256i *) (to + r * KNN_BLOCK + 8 * c), sum[r][c]);
        }
}

static void products(int32_t *out, const int8_t *rows, const int8_t *columns, int depth)
{
    block_products(out, rows, columns, depth, tile_avx2);
}
#define LIMIT  63
#define OFFSET 64

#else

static inline __attribute__((always_inline)) void tile_plain(int32_t *out, const int8_t *rows,
                                                             const int8_t *columns, int quads)
{
    for (int q = 0; q < quads; q++, rows += 4 * KNN_PANEL, columns += 4 * KNN_PANEL)
        for (int r = 0; r < TILE_ROWS; r++)
            for (int c = 0; c < KNN_PANEL; c++) {
                int32_t sum = 0;

                for (int i = 0; i < 4; i++)
                    sum += (int16_t) rows[4 * r + i] * (int16_t) columns[4 * c + i];
                out[r * KNN_BLOCK + c] += sum;
            }
}

static void products(int32_t *out, const int8_t *rows, const int8_t *columns, int depth)
{
    block_products(out, rows, columns, depth, tile_plain);
}
#define LIMIT  127
#define OFFSET 0

#endif

/* ---- the search ---- */

#define STRIDE 16

static void scan(const int32_t *product, const int32_t *base, const int32_t *norm, const int32_t *reach_rows,
                 const int32_t *reach_columns, bool diagonal, struct knn_hit *row_hits, int *rows_found,
                 struct knn_hit *column_hits, int *columns_found)
{
    int in_rows = 0, in_columns = 0;

    for (int row = 0; row < KNN_BLOCK; row++) {
        int32_t reach = reach_rows[row];

        for (int from = diagonal ? row / STRIDE * STRIDE : 0; from < KNN_BLOCK; from += STRIDE) {
            int32_t distance2[STRIDE], any = 0;

            for (int c = 0; c < STRIDE; c++) {
                uint32_t doubled = 2u * (uint32_t) product[row * KNN_BLOCK + from + c];

                distance2[c] = (int32_t) ((uint32_t) base[row] + (uint32_t) norm[from + c] - doubled);
                any |= (distance2[c] <= reach) | (distance2[c] <= reach_columns[from + c]);
            }
            if (!any)
                continue;
            for (int c = 0; c < STRIDE; c++) {
                struct knn_hit hit = {(uint16_t) row, (uint16_t) (from + c), distance2[c]};

                if (diagonal && from + c <= row)
                    continue;
                row_hits[in_rows] = hit; /* kept when counted */
                column_hits[in_columns] = hit;
                in_rows += distance2[c] <= reach;
                in_columns += distance2[c] <= reach_columns[from + c];
            }
        }
    }
    *rows_found = in_rows;
    *columns_found = in_columns;
}

const struct knn_kernel ISA_NAME(knn_kernel) = {LIMIT, OFFSET,          products,
                                                scan,  exact_distance2, rough_distance2};
