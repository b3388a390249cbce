/*
 * Nearest neighbours, what depends on the instruction set: rounding of rows, integer products of blocks of
 * points, the search of products for pairs within reach, products with what was rounded off, exact distances.
 *
 * Roof: the units that multiply bytes.  Products are of signed with unsigned ones.  With VNNI one instruction
 * multiplies 64 pairs and adds; on a Zen 5 core, `multiply` at 768 coordinates does 88 to 94 % of the
 * products that it does without loads (4.8 to 5.1 of 5.4e11 a second).  AVX2 has a saturating pair of
 * instructions, hence its smaller integers; elsewhere it is plain C.
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
#define FETCHED   4096 /* bytes of a row fetched ahead: the processor sees the rest coming */
#define CHUNK     192  /* quads of a panel that stay in the first cache */

static void distances2(const struct tlaw_points *points, int64_t i, const int32_t *to, int count, double *out)
{
    size_t row = (size_t) points->width * (size_t) points->element_size;

    for (int j = 0; j < count; j++) {
        if (j + 1 < count)
            for (size_t line = 0; line < row && line < FETCHED; line += 64)
                __builtin_prefetch((const char *) points->data + (size_t) to[j + 1] * row + line);
        out[j] = points_distance2(points, i, to[j]);
    }
}

/* ---- rounding ---- */

#define ROUNDING  2e-6  /* of the float32 arithmetic here, relative to a row's length */
#define SMALLEST  1e-18 /* an error at least: its square is far from underflow */
#define TOO_LONG  1e15F /* rows whose squares float32 may not hold */
#define ROW_LANES 16

/* Adds v, and with its sign changed in the upper half of every 2 half lanes, to the v of the other half. */
inline_always vf butterfly(vf v, int half)
{
    vi other = {0};
    vf sign = {0};

    for (int lane = 0; lane < VW; lane++) {
        other[lane] = lane ^ half;
        sign[lane] = lane & half ? -1.0F : 1.0F;
    }
    return __builtin_shuffle(v, other) + sign * v;
}

/* Walsh-Hadamard transform of x[n], n a power of two from 64, times sqrt(n). */
static void hadamard(float *x, int n)
{
    for (int i = 0; i < n; i += VW) {
        vf v = *(vf_any *) (x + i);

#pragma GCC unroll 4
        for (int half = 1; half < VW; half *= 2)
            v = butterfly(v, half);
        *(vf_any *) (x + i) = v;
    }
    for (int half = VW; half < n; half *= 2)
        for (int from = 0; from < n; from += 2 * half)
            for (int i = from; i < from + half; i += VW) {
                vf a = *(vf_any *) (x + i), b = *(vf_any *) (x + i + half);

                *(vf_any *) (x + i) = a + b;
                *(vf_any *) (x + i + half) = a - b;
            }
}

/* Row i centred, in the unit of length, rotated, and with zeros to the end of the plane. */
static void prepare_row(const struct tlaw_points *points, int64_t i, const struct knn_frame *frame,
                        float *row)
{
    int width = points->width;
    const double *restrict centre = frame->centre, *restrict factor = frame->factor;
    double scale = points->scale ? points->scale[i] : 1;

    if (points->element_size == 4) {
        const float *x = (const float *) points->data + i * width;

        for (int c = 0; c < width; c++)
            row[c] = (float) ((scale * (double) x[c] - centre[c]) * factor[c]);
    } else {
        const double *x = (const double *) points->data + i * width;

        for (int c = 0; c < width; c++)
            row[c] = (float) ((scale * x[c] - centre[c]) * factor[c]);
    }
    for (int c = width; c < frame->plane; c++)
        row[c] = 0;
    for (int c = 0; frame->turn > 1 && c < frame->plane; c += frame->turn)
        hadamard(row + c, frame->turn);
}

/* The largest coordinate and the length. */
static void measure_row(const float *row, int plane, float *largest, float *length)
{
    float most[ROW_LANES] = {0}, sum[ROW_LANES] = {0};

    for (int c = 0; c < plane; c += ROW_LANES)
        for (int lane = 0; lane < ROW_LANES; lane++) {
            float y = row[c + lane];

            most[lane] = fabsf(y) > most[lane] ? fabsf(y) : most[lane];
            sum[lane] += y * y;
        }
    for (int lane = 1; lane < ROW_LANES; lane++) {
        most[0] = most[lane] > most[0] ? most[lane] : most[0];
        sum[0] += sum[lane];
    }
    *largest = most[0];
    *length = sqrtf(sum[0]);
}

static inline float nearest_integer(float x) /* |x| < 2^22 */
{
    return x + 12582912.0F - 12582912.0F;
}

static void round_row(const struct tlaw_points *points, int64_t i, const struct knn_frame *frame, float *row,
                      int8_t *restrict record, struct knn_rounded *out)
{
    int plane = frame->plane;
    int8_t *restrict fine = record + plane;
    int32_t sum = 0, fine_sum = 0, squares = 0, mixed = 0, fine_squares = 0;
    float error2[ROW_LANES] = {0}, fine_error2[ROW_LANES] = {0}, largest, length, inverse;
    float finer = (float) frame->fine, coarser = 1 / finer, most = frame->fine < 256 ? finer / 2 : 127;
    double loss, norm, wider, shorter;

    prepare_row(points, i, frame, row);
    measure_row(row, plane, &largest, &length);
    *out = (struct knn_rounded){.error = INFINITY, .fine_error = INFINITY, .length = INFINITY};
    if (!(length < TOO_LONG))
        return;
    out->step = largest / (float) frame->limit;
    inverse = largest > 0 ? (float) frame->limit / largest : 0;
    for (int c = 0; c < plane; c += ROW_LANES)
        for (int lane = 0; lane < ROW_LANES; lane++) {
            float y = row[c + lane] * inverse, q = nearest_integer(y), e = y - q;
            float r = nearest_integer(e * finer), rest;

            r = r > most ? most : r;
            rest = e - r * coarser;
            error2[lane] += e * e;
            fine_error2[lane] += rest * rest;
            record[c + lane] = (int8_t) (int32_t) q;
            fine[c + lane] = (int8_t) (int32_t) r;
        }
    for (int lane = 1; lane < ROW_LANES; lane++) {
        error2[0] += error2[lane];
        fine_error2[0] += fine_error2[lane];
    }
    for (int c = 0; c < plane; c++) {
        sum += record[c];
        fine_sum += fine[c];
        squares += record[c] * record[c];
        mixed += record[c] * fine[c];
        fine_squares += fine[c] * fine[c];
    }
    loss = frame->absolute + ROUNDING * length + SMALLEST;
    out->norm2 = (double) out->step * out->step * squares;
    norm = sqrt(out->norm2);
    wider = 1 + plane * 6e-8 + 2e-6;
    out->error = (float) ((out->step * sqrt(error2[0]) + loss) * wider);
    out->fine_error = (float) ((out->step * sqrt(fine_error2[0]) + loss) * wider);
    out->length = (float) (((norm > length ? norm : length) + loss) * wider);
    shorter = length > loss * wider ? length / wider - loss : 0;
    norm = out->norm2 - (double) out->error * out->error;
    out->base = (float) ((norm < shorter * shorter ? norm : shorter * shorter) / 2);
    out->fine_norm2 = (double) out->step * out->step *
                      (squares + 2.0 / finer * mixed + 1.0 / ((double) finer * finer) * fine_squares);
    out->sum = sum;
    out->fine_sum = fine_sum;
}

/* ---- products: a tile is TILE_ROWS rows times a whole panel, added to out (rows of KNN_PANEL) ---- */

static inline int32_t quad_at(const int8_t *from)
{
    int32_t quad;

    memcpy(&quad, from, 4);
    return quad;
}

#if defined(__AVX512F__)

/* Sums in named variables: an array of them goes through memory at every step. */
#define EACH_ROW(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define LOAD_ROW(r)                                                                                          \
    __m512i sum##r##0 = _mm512_loadu_si512(out + r * KNN_PANEL);                                             \
    __m512i sum##r##1 = _mm512_loadu_si512(out + r * KNN_PANEL + 16);                                        \
    __m512i sum##r##2 = _mm512_loadu_si512(out + r * KNN_PANEL + 32);
#define ADD_BYTES(r)                                                                                         \
    row = _mm512_set1_epi32(quad_at(rows + 4 * r));                                                          \
    MULTIPLY_ADD("vpdpbusd", sum##r##0, column0);                                                            \
    MULTIPLY_ADD("vpdpbusd", sum##r##1, column1);                                                            \
    MULTIPLY_ADD("vpdpbusd", sum##r##2, column2);
/* As assembler: around the intrinsics, gcc 12 copies every sum to the stack and back. */
#define MULTIPLY_ADD(instruction, sum, column)                                                               \
    __asm__(instruction " %2, %1, %0" : "+v"(sum) : "v"(column), "v"(row))
#define STORE_ROW(r)                                                                                         \
    _mm512_storeu_si512(out + r * KNN_PANEL, sum##r##0);                                                     \
    _mm512_storeu_si512(out + r * KNN_PANEL + 16, sum##r##1);                                                \
    _mm512_storeu_si512(out + r * KNN_PANEL + 32, sum##r##2);

static void tile_bytes(int32_t *out, const int8_t *rows, const int8_t *columns, int quads)
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

#define LIMIT  127
#define OFFSET 128

#elif defined(__AVX2__)

/* Sums of two products stay within 2 * 127 * 63 < 2^15. */
static void tile_bytes(int32_t *out, const int8_t *rows, const int8_t *columns, int quads)
{
    const __m256i offset = _mm256_set1_epi8(64), ones = _mm256_set1_epi16(1);

    for (int half = 0; half < TILE_ROWS; half += 2)
        for (int side = 0; side < KNN_PANEL; side += 24) {
            const int8_t *left = rows + 4 * half, *right = columns + 4 * side;
            int32_t *to = out + half * KNN_PANEL + side;
            __m256i sum[2][3];

            for (int r = 0; r < 2; r++)
                for (int c = 0; c < 3; c++)
                    sum[r][c] = _mm256_loadu_si256((const __m256i *) (to + r * KNN_PANEL + 8 * c));
            for (int q = 0; q < quads; q++, left += 4 * KNN_PANEL, right += 4 * KNN_PANEL)
                for (int c = 0; c < 3; c++) {
                    __m256i column =
                        _mm256_add_epi8(_mm256_load_si256((const __m256i *) (right + 32 * c)), offset);

                    for (int r = 0; r < 2; r++) {
                        __m256i row = _mm256_set1_epi32(quad_at(left + 4 * r));
                        __m256i product = _mm256_madd_epi16(_mm256_maddubs_epi16(column, row), ones);

                        sum[r][c] = _mm256_add_epi32(sum[r][c], product);
                    }
                }
            for (int r = 0; r < 2; r++)
                for (int c = 0; c < 3; c++)
                    _mm256_storeu_si256((__m256i *) (to + r * KNN_PANEL + 8 * c), sum[r][c]);
        }
}

#define LIMIT  63
#define OFFSET 64

#else

static void tile_bytes(int32_t *out, const int8_t *rows, const int8_t *columns, int quads)
{
    for (int q = 0; q < quads; q++, rows += 4 * KNN_PANEL, columns += 4 * KNN_PANEL)
        for (int r = 0; r < TILE_ROWS; r++)
            for (int c = 0; c < KNN_PANEL; c++) {
                int32_t sum = 0;

                for (int i = 0; i < 4; i++)
                    sum += (int16_t) rows[4 * r + i] * (int16_t) columns[4 * c + i];
                out[r * KNN_PANEL + c] += sum;
            }
}

#define LIMIT  127
#define OFFSET 0

#endif

static void multiply(int32_t *out, const int32_t *start, const int8_t *rows, const int8_t *columns, int quads,
                     const int8_t *ahead, size_t bytes)
{
    size_t panel = (size_t) quads * 4 * KNN_PANEL, each = bytes / (KNN_BLOCK / TILE_ROWS);

    for (int row = 0; row < KNN_BLOCK; row++)
        for (int c = 0; c < KNN_PANEL; c++)
            out[row * KNN_PANEL + c] = start[row];
    for (int from = 0; from < quads; from += CHUNK) {
        int some = quads - from < CHUNK ? quads - from : CHUNK;
        size_t skip = (size_t) from * 4 * KNN_PANEL;

        for (int row = 0; row < KNN_BLOCK; row += TILE_ROWS) {
            for (size_t line = 0; from == 0 && line < each; line += 64)
                __builtin_prefetch(ahead + (size_t) (row / TILE_ROWS) * each + line, 0, 2);
            tile_bytes(out + row * KNN_PANEL,
                       rows + (size_t) (row / KNN_PANEL) * panel + skip + row % KNN_PANEL * 4, columns + skip,
                       some);
        }
    }
}

/* ---- the search ---- */

#define STRIDE 16

/* Bit c: whether the row's pair with column from + c may be within reach of either. */
inline_always uint32_t compare_stride(const int32_t *product, const struct knn_side *rows, int i,
                                      const struct knn_side *columns, int from)
{
#if defined(__AVX512F__)
#define COLUMNS(what) _mm512_load_ps(columns->what + from)
#define ROW(what)     _mm512_set1_ps(rows->what[i])
    __m512 near = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_loadu_si512(product)), COLUMNS(step));
    __m512 for_row = _mm512_add_ps(ROW(beyond), COLUMNS(base));
    __m512 for_column = _mm512_add_ps(ROW(base), COLUMNS(beyond));

    near = _mm512_mul_ps(near, ROW(step));
    for_row = _mm512_fnmadd_ps(ROW(by_error), COLUMNS(error), for_row);
    for_column = _mm512_fnmadd_ps(ROW(error), COLUMNS(by_error), for_column);
    for_row = _mm512_fnmadd_ps(ROW(by_length), COLUMNS(length), for_row);
    for_column = _mm512_fnmadd_ps(ROW(length), COLUMNS(by_length), for_column);
    return _mm512_cmp_ps_mask(_mm512_min_ps(for_row, for_column), near, _CMP_LE_OQ);
#else
    uint32_t any = 0, bits[STRIDE];

    for (int c = 0; c < STRIDE; c++) {
        int j = from + c;
        float near = (float) product[c] * columns->step[j] * rows->step[i];
        float for_row = rows->beyond[i] + columns->base[j] - rows->by_error[i] * columns->error[j] -
                        rows->by_length[i] * columns->length[j];
        float for_column = rows->base[i] + columns->beyond[j] - rows->error[i] * columns->by_error[j] -
                           rows->length[i] * columns->by_length[j];

        bits[c] = (for_row < for_column ? for_row : for_column) <= near;
        any |= bits[c];
    }
    for (int c = 1; any && c < STRIDE; c++)
        bits[0] |= bits[c] << c;
    return bits[0];
#endif
}

static int scan(const int32_t *product, const struct knn_side *rows, const struct knn_side *columns,
                int first, bool diagonal, struct knn_hit *hits)
{
    int count = 0;

    for (int row = 0; row < KNN_BLOCK; row++, product += KNN_PANEL) {
        uint64_t within = 0; /* bit c: column first + c */

        for (int c = 0; c < KNN_PANEL; c += STRIDE)
            within |= (uint64_t) compare_stride(product + c, rows, row, columns, first + c) << c;
        if (diagonal && first <= row) /* columns beyond the row */
            within &= row - first < KNN_PANEL ? ~(uint64_t) 1 << (row - first) : 0;
        for (; within; within &= within - 1) {
            int c = __builtin_ctzll(within);

            hits[count++] = (struct knn_hit){(uint8_t) row, (uint8_t) (first + c), product[c]};
        }
    }
    return count;
}

/* ---- products with what was rounded off ---- */

/* out[0] = sum of q_i r_j + r_i q_j, out[1] = sum of r_i r_j */
inline_always void fine_products(const int8_t *x, const int8_t *y, int plane, int32_t x_sum, int32_t y_sum,
                                 int32_t *out)
{
#if defined(__AVX512F__)
    const __m512i flip = _mm512_set1_epi8((char) 0x80); /* + 128 as an unsigned byte */
    __m512i left = _mm512_setzero_si512(), right = left, both = left;
    __m256i halves;
    __m128i quarters;

    for (int c = 0; c < plane; c += 64) {
        __m512i xq = _mm512_xor_si512(_mm512_load_si512(x + c), flip), xr = _mm512_load_si512(x + plane + c);
        __m512i yq = _mm512_xor_si512(_mm512_load_si512(y + c), flip), yr = _mm512_load_si512(y + plane + c);
        __m512i xf = _mm512_xor_si512(xr, flip);

        __asm__("vpdpbusd %2, %1, %0" : "+v"(left) : "v"(xq), "v"(yr));
        __asm__("vpdpbusd %2, %1, %0" : "+v"(right) : "v"(yq), "v"(xr));
        __asm__("vpdpbusd %2, %1, %0" : "+v"(both) : "v"(xf), "v"(yr));
    }
    left = _mm512_add_epi32(left, right);
    left = _mm512_add_epi32(_mm512_unpacklo_epi32(left, both), _mm512_unpackhi_epi32(left, both));
    halves = _mm256_add_epi32(_mm512_castsi512_si256(left), _mm512_extracti64x4_epi64(left, 1));
    quarters = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    quarters = _mm_add_epi32(quarters, _mm_unpackhi_epi64(quarters, quarters));
    out[0] = _mm_cvtsi128_si32(quarters) - 128 * (x_sum + y_sum);
    out[1] = _mm_extract_epi32(quarters, 1) - 128 * y_sum;
#else
    int32_t mixed = 0, both = 0;

    (void) x_sum;
    (void) y_sum;
    for (int c = 0; c < plane; c++) {
        mixed += x[c] * y[plane + c] + x[plane + c] * y[c];
        both += x[plane + c] * y[plane + c];
    }
    out[0] = mixed;
    out[1] = both;
#endif
}

static void refine(const struct knn_hit *hits, int count, const struct knn_frame *frame, const int8_t *rows,
                   const int8_t *columns, const int32_t *row_sums, const int32_t *column_sums,
                   int32_t (*out)[2])
{
    size_t record = 2 * (size_t) frame->plane;

    for (int h = 0; h < count; h++)
        fine_products(rows + hits[h].row * record, columns + hits[h].column * record, frame->plane,
                      row_sums[hits[h].row], column_sums[hits[h].column], out[h]);
}

const struct knn_kernel ISA_NAME(knn_kernel) = {
    .limit = LIMIT,
    .offset = OFFSET,
    .round = round_row,
    .multiply = multiply,
    .scan = scan,
    .refine = refine,
    .distances2 = distances2,
};
