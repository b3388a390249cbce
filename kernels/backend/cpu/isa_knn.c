/*
 * Nearest neighbours, what depends on the instruction set: integer products of blocks of points, the search
 * of a block of products for pairs within reach, exact distances.
 *
 * Products of bytes are of signed with unsigned ones.  With VNNI one instruction multiplies 64 pairs and
 * adds; AVX2 has a saturating pair of instructions, hence its smaller integers; elsewhere it is plain C.
 * Products of 16-bit words are half as fast.
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
#define CHUNK     128 /* quads that stay in the first cache */

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

/* Adds to out (rows of KNN_BLOCK) over `quads` quads. */
typedef void tile_function(int32_t *out, const int8_t *rows, const int8_t *columns, int quads);

static inline __attribute__((always_inline)) void
block_products(int32_t *out, const int8_t *rows, const int8_t *columns, int quads, tile_function *tile)
{
    size_t panel = (size_t) quads * 4 * KNN_PANEL;

    memset(out, 0, sizeof *out * KNN_BLOCK * KNN_BLOCK);
    for (int from = 0; from < quads; from += CHUNK) {
        int some = quads - from < CHUNK ? quads - from : CHUNK;
        size_t skip = (size_t) from * 4 * KNN_PANEL;

        for (int right = 0; right < KNN_PANELS; right++)
            for (int row = 0; row < KNN_BLOCK; row += TILE_ROWS)
                tile(out + row * KNN_BLOCK + right * KNN_PANEL,
                     rows + (size_t) (row / KNN_PANEL) * panel + skip + row % KNN_PANEL * 4,
                     columns + (size_t) right * panel + skip, some);
    }
}

static inline int32_t quad_at(const int8_t *from)
{
    int32_t quad;

    memcpy(&quad, from, 4);
    return quad;
}

#if defined(__AVX512F__)

#define VNNI

/* Sums in named variables: an array of them goes through memory at every step. */
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define LOAD_ROW(r)                                                                                          \
    __m512i sum##r##0 = _mm512_loadu_si512(out + r * KNN_BLOCK);                                             \
    __m512i sum##r##1 = _mm512_loadu_si512(out + r * KNN_BLOCK + 16);                                        \
    __m512i sum##r##2 = _mm512_loadu_si512(out + r * KNN_BLOCK + 32);
#define ADD_BYTES(r)                                                                                         \
    row = _mm512_set1_epi32(quad_at(rows + 4 * r));                                                          \
    MULTIPLY_ADD("vpdpbusd", sum##r##0, column0);                                                            \
    MULTIPLY_ADD("vpdpbusd", sum##r##1, column1);                                                            \
    MULTIPLY_ADD("vpdpbusd", sum##r##2, column2);
#define ADD_WORDS(r)                                                                                         \
    row = _mm512_set1_epi32(quad_at(rows + 4 * r));                                                          \
    MULTIPLY_ADD("vpdpwssd", sum##r##0, column0);                                                            \
    MULTIPLY_ADD("vpdpwssd", sum##r##1, column1);                                                            \
    MULTIPLY_ADD("vpdpwssd", sum##r##2, column2);
/* As assembler: around the intrinsics, gcc 12 copies every sum to the stack and back. */
#define MULTIPLY_ADD(instruction, sum, column)                                                               \
    __asm__(instruction " %2, %1, %0" : "+v"(sum) : "v"(column), "v"(row))
#define STORE_ROW(r)                                                                                         \
    _mm512_storeu_si512(out + r * KNN_BLOCK, sum##r##0);                                                     \
    _mm512_storeu_si512(out + r * KNN_BLOCK + 16, sum##r##1);                                                \
    _mm512_storeu_si512(out + r * KNN_BLOCK + 32, sum##r##2);

VNNI static void tile_bytes(int32_t *out, const int8_t *rows, const int8_t *columns, int quads)
{
    const __m512i flip = _mm512_set1_epi8((char) 0x80); /* q + 128 as an unsigned byte */
    __m512i row;

    EACH_ROW(LOAD_ROW)
    for (int q = 0; q < quads; q++, rows += 4 * KNN_PANEL, columns += 4 * KNN_PANEL) {
        __m512i column0 = _mm512_xor_si512(_mm512_load_si512(columns), flip);
        __m512i column1 = _mm512_xor_si512(_mm512_load_si512(columns + 64), flip);
        __m512i column2 = _mm512_xor_si512(_mm512_load_si512(columns + 128), flip);

        EACH_ROW(ADD_BYTES)
    }
    EACH_ROW(STORE_ROW)
}

VNNI static void tile_words(int32_t *out, const int8_t *rows, const int8_t *columns, int quads)
{
    __m512i row;

    EACH_ROW(LOAD_ROW)
    for (int q = 0; q < quads; q++, rows += 4 * KNN_PANEL, columns += 4 * KNN_PANEL) {
        __m512i column0 = _mm512_load_si512(columns);
        __m512i column1 = _mm512_load_si512(columns + 64);
        __m512i column2 = _mm512_load_si512(columns + 128);

        EACH_ROW(ADD_WORDS)
    }
    EACH_ROW(STORE_ROW)
}
#define LIMIT  127
#define OFFSET 128

#elif defined(__AVX2__)

#define VNNI

/* Coarse: sums of two products stay within 2 * 127 * 63 < 2^15. */
static inline __attribute__((always_inline)) void tile_avx2(int32_t *out, const int8_t *rows,
                                                            const int8_t *columns, int quads, bool fine)
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
                    __m256i column = _mm256_load_si256((const __m256i *) (right + 32 * c));

                    column = fine ? column : _mm256_add_epi8(column, offset);
                    for (int r = 0; r < 2; r++) {
                        __m256i row = _mm256_set1_epi32(quad_at(left + 4 * r));
                        __m256i product = fine ? _mm256_madd_epi16(column, row)
                                               : _mm256_madd_epi16(_mm256_maddubs_epi16(column, row), ones);

                        sum[r][c] = _mm256_add_epi32(sum[r][c], product);
                    }
                }
            for (int r = 0; r < 2; r++)
                for (int c = 0; c < 3; c++)
                    _mm256_storeu_si256((__m256i *) (to + r * KNN_BLOCK + 8 * c), sum[r][c]);
        }
}

static inline __attribute__((always_inline)) void tile_bytes(int32_t *out, const int8_t *rows,
                                                             const int8_t *columns, int quads)
{
    tile_avx2(out, rows, columns, quads, false);
}

static inline __attribute__((always_inline)) void tile_words(int32_t *out, const int8_t *rows,
                                                             const int8_t *columns, int quads)
{
    tile_avx2(out, rows, columns, quads, true);
}
#define LIMIT  63
#define OFFSET 64

#else

#define VNNI

static inline __attribute__((always_inline)) void tile_bytes(int32_t *out, const int8_t *rows,
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

static inline __attribute__((always_inline)) void tile_words(int32_t *out, const int8_t *rows,
                                                             const int8_t *columns, int quads)
{
    for (int q = 0; q < quads; q++, rows += 4 * KNN_PANEL, columns += 4 * KNN_PANEL)
        for (int r = 0; r < TILE_ROWS; r++) {
            const int16_t *left = (const int16_t *) (const void *) (rows + 4 * r);
            const int16_t *right = (const int16_t *) (const void *) columns;

            for (int c = 0; c < KNN_PANEL; c++)
                out[r * KNN_BLOCK + c] += left[0] * right[2 * c] + left[1] * right[2 * c + 1];
        }
}
#define LIMIT  127
#define OFFSET 0

#endif

VNNI static void products_of_bytes(int32_t *out, const int8_t *rows, const int8_t *columns, int quads)
{
    block_products(out, rows, columns, quads, tile_bytes);
}

VNNI static void products_of_words(int32_t *out, const int8_t *rows, const int8_t *columns, int quads)
{
    block_products(out, rows, columns, quads, tile_words);
}

/* ---- the search ---- */

#define STRIDE 16

/*
 * Distances of STRIDE pairs of a row; bit c of *in_row, *in_column: pair c is within reach of its row, of its
 * column.
 */
static inline __attribute__((always_inline)) void compare_stride(const int32_t *product, const int32_t *norm,
                                                                 const int32_t *reach_columns, int32_t base,
                                                                 int32_t reach, int32_t distance2[STRIDE],
                                                                 uint32_t *in_row, uint32_t *in_column)
{
#if defined(__AVX512F__)
    __m512i from = _mm512_add_epi32(_mm512_loadu_si512(norm), _mm512_set1_epi32(base));
    __m512i apart = _mm512_sub_epi32(from, _mm512_slli_epi32(_mm512_loadu_si512(product), 1));

    _mm512_storeu_si512(distance2, apart);
    *in_row = _mm512_cmple_epi32_mask(apart, _mm512_set1_epi32(reach));
    *in_column = _mm512_cmple_epi32_mask(apart, _mm512_loadu_si512(reach_columns));
#else
    int32_t any = 0;

    *in_row = *in_column = 0;
    for (int c = 0; c < STRIDE; c++) {
        uint32_t doubled = 2u * (uint32_t) product[c];

        distance2[c] = (int32_t) ((uint32_t) base + (uint32_t) norm[c] - doubled);
        any |= (distance2[c] <= reach) | (distance2[c] <= reach_columns[c]);
    }
    for (int c = 0; any && c < STRIDE; c++) {
        *in_row |= (uint32_t) (distance2[c] <= reach) << c;
        *in_column |= (uint32_t) (distance2[c] <= reach_columns[c]) << c;
    }
#endif
}

static inline __attribute__((always_inline)) int add_hits(struct knn_hit *hits, int count, uint32_t in,
                                                          int row, int from, const int32_t *distance2)
{
    for (; in; in &= in - 1) {
        int c = __builtin_ctz(in);

        hits[count++] = (struct knn_hit){(uint16_t) row, (uint16_t) (from + c), distance2[c]};
    }
    return count;
}

static void scan(const int32_t *product, const int32_t *base, const int32_t *norm, const int32_t *reach_rows,
                 const int32_t *reach_columns, bool diagonal, struct knn_hit *row_hits, int *rows_found,
                 struct knn_hit *column_hits, int *columns_found)
{
    int in_rows = 0, in_columns = 0;

    for (int row = 0; row < KNN_BLOCK; row++)
        for (int from = diagonal ? row / STRIDE * STRIDE : 0; from < KNN_BLOCK; from += STRIDE) {
            int32_t distance2[STRIDE];
            uint32_t in_row, in_column, above = 0xffff;

            compare_stride(product + row * KNN_BLOCK + from, norm + from, reach_columns + from, base[row],
                           reach_rows[row], distance2, &in_row, &in_column);
            if (diagonal && from <= row)
                above = 0xfffeu << (row - from); /* columns beyond the row */
            in_rows = add_hits(row_hits, in_rows, in_row & above, row, from, distance2);
            in_columns = add_hits(column_hits, in_columns, in_column & above, row, from, distance2);
        }
    *rows_found = in_rows;
    *columns_found = in_columns;
}

const struct knn_kernel ISA_NAME(knn_kernel) = {
    .coarse = {.limit = LIMIT, .offset = OFFSET, .fours = 4, .block = products_of_bytes},
    .fine = {.limit = INT16_MAX, .offset = 0, .fours = 2, .block = products_of_words},
    .scan = scan,
    .distance2 = exact_distance2,
    .rough2 = rough_distance2,
};
