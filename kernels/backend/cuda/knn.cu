/*
 * The schedule of the search for neighbours on the GPU; what is computed: knn_search.h.
 *
 * All pairs, in tiles: cuBLASLt multiplies the integers of a tile of rows with those of a tile of columns,
 * and the selection turns the products into candidates.  A tile of rows meets all columns, is finished, and
 * its neighbours are copied out.  So memory next to the points is n (depth + 24) bytes and at most some 800
 * MB for one tile's products and candidates.  The device is waited for by asking, so that a search can be
 * stopped at any time.
 */
#include "knn_search.h"

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <vector>

#ifndef KNN_TILE
#define KNN_TILE 8192 /* rows, and columns, of a tile at most */
#endif
#ifndef KNN_ROOM
#define KNN_ROOM 512 /* candidates of a row; twice what one stride of knn_select can add is enough */
#endif
#define ROOM_EACH    8 /* a neighbour */
#define LIST_BYTES   ((size_t) 512 << 20)
#define ALIGNED      16 /* bytes of a row of integers, and columns of a tile: what cuBLASLt asks of integers */
#define INTEGERS     127   /* the largest */
#define PRODUCT_MOST 2.1e9 /* of integers, summed over a row: int32 holds it */
#define PIECE_MOST   1024  /* coordinates that are rotated together */
#define WORK         5e12  /* multiply-adds between two looks at whether to stop */
#define WORKSPACE    ((size_t) 32 << 20)
#define USUAL        0.99 /* share of the points within the unit of length, where the farthest are far away */
#define LEAST_UNIT   1e-290
#define WAIT         50 /* microseconds between two questions whether the device is done */

struct search {
    struct device *device;
    const struct tlaw_points *points;
    struct tlaw_poll poll;
    char *message;
    size_t needed; /* bytes asked for so far */
    std::vector<void *> memory;
    struct knn_points there;
    struct knn_shape shape;
    struct knn_rows rows;
    int row_tile, column_tile; /* points */
    struct knn_column *columns;
    int8_t *packed;
    int32_t *product; /* [row_tile][column_tile] */
    double *distance2;
    int32_t *index; /* [row_tile][k], of a finished tile */
    void *workspace;
    cublasLtMatmulDesc_t description;
    cublasLtMatrixLayout_t x, y, out;
    cublasLtMatmulAlgo_t algorithm;
};

/* ---- memory ---- */

/* Device memory for the search; NULL when it does not fit, and from then on: needed goes on counting. */
template <class V> static V *allocate(struct search *s, size_t items)
{
    void *memory = NULL;
    size_t bytes = std::max<size_t>(items * sizeof(V), 1);

    s->needed += bytes;
    if (s->message[0] || cudaMalloc(&memory, bytes) != cudaSuccess) {
        (void) cudaGetLastError();
        snprintf(s->message, TLAW_DIMENSION_MESSAGE, "no memory");
        return NULL;
    }
    s->memory.push_back(memory);
    return (V *) memory;
}

template <class V> static V *copied(struct search *s, const V *from, size_t items)
{
    V *to = from ? allocate<V>(s, items) : NULL;

    if (to)
        check(cudaMemcpyAsync(to, from, items * sizeof(V), cudaMemcpyHostToDevice, s->device->stream),
              "copying points to the device");
    return to;
}

/* 0, or -1 and the message that says how much there should have been. */
static int allocated(struct search *s)
{
    size_t free_bytes = 0, all = 0;

    if (!s->message[0])
        return 0;
    check(cudaMemGetInfo(&free_bytes, &all), "asking for free memory");
    snprintf(s->message, TLAW_DIMENSION_MESSAGE,
             "the neighbours of %lld points need %zu MB on the GPU; %zu MB of its %zu MB were free: measure "
             "a sample, or "
             "set tlaw.device to cpu",
             (long long) s->points->n, (s->needed >> 20) + 1, free_bytes >> 20, all >> 20);
    return -1;
}

/* ---- shape ---- */

static struct knn_shape shape_of(int width)
{
    struct knn_shape shape = {(width + ALIGNED - 1) / ALIGNED * ALIGNED, 1, INTEGERS};

    if (width >= 64) {
        shape.depth = (width + 63) / 64 * 64;
        shape.turn = std::min(shape.depth & -shape.depth, PIECE_MOST);
    }
    shape.limit = std::max(1, (int) std::min<double>(INTEGERS, sqrt(PRODUCT_MOST / shape.depth)));
    return shape;
}

/* n split evenly into tiles of at most `most`, aligned. */
static int tile_of(int64_t n, int most)
{
    int64_t tiles = (n + most - 1) / most, each = (n + tiles - 1) / tiles;

    return (int) ((each + ALIGNED - 1) / ALIGNED * ALIGNED);
}

static void choose_tiles(struct search *s, int k)
{
    int rows = KNN_TILE, columns = KNN_TILE;
    size_t candidate = sizeof(struct knn_candidate) + sizeof(double) + sizeof(int32_t);

    s->rows.k = k;
    s->rows.room = KNN_ROOM;
    while (s->rows.room < ROOM_EACH * k)
        s->rows.room *= 2;
    while (rows > ALIGNED && rows * (s->rows.room * candidate) > LIST_BYTES)
        rows /= 2;
    while (columns > ALIGNED && (double) rows * columns * s->shape.depth > WORK)
        columns /= 2;
    s->row_tile = tile_of(s->points->n, rows);
    s->column_tile = tile_of(s->points->n, columns);
}

/* ---- the points ---- */

/* The length that most points do not exceed; the largest, unless few are much farther away than the others.
 */
static double usual_length(std::vector<double> length)
{
    size_t at = (size_t) (USUAL * (double) (length.size() - 1));
    double largest = *std::max_element(length.begin(), length.end()), usual;

    std::nth_element(length.begin(), length.begin() + (ptrdiff_t) at, length.end());
    usual = length[at];
    return std::max(largest <= 2 * usual || usual == 0 ? largest : usual, LEAST_UNIT);
}

/* Points to the device, and there to integers. */
static int prepare(struct search *s, const int32_t *group)
{
    const struct tlaw_points *points = s->points;
    size_t n = (size_t) points->n, row_end, column_end;
    struct device *device = s->device;
    std::vector<double> length(n);

    row_end = (n + s->row_tile - 1) / s->row_tile * s->row_tile;
    column_end = (n + s->column_tile - 1) / s->column_tile * s->column_tile;
    s->there = {copied(s, (const char *) points->data, n * points->width * points->element_size),
                copied(s, points->scale, n),
                allocate<double>(s, points->width),
                points->n,
                points->width,
                points->element_size};
    const int32_t *groups = copied(s, group, n);
    double *lengths = allocate<double>(s, n);
    s->columns = allocate<struct knn_column>(s, n);
    s->packed = allocate<int8_t>(s, std::max(row_end, column_end) * s->shape.depth);
    s->product = allocate<int32_t>(s, (size_t) s->row_tile * s->column_tile);
    s->workspace = allocate<char>(s, WORKSPACE);
    s->rows.candidates = allocate<struct knn_candidate>(s, (size_t) s->row_tile * s->rows.room);
    s->rows.exact = allocate<double>(s, (size_t) s->row_tile * s->rows.room);
    s->rows.index = allocate<int32_t>(s, (size_t) s->row_tile * s->rows.room);
    s->rows.count = allocate<int>(s, s->row_tile);
    s->rows.reach = allocate<float>(s, s->row_tile);
    s->rows.cutoff = allocate<int32_t>(s, s->row_tile);
    s->distance2 = allocate<double>(s, (size_t) s->row_tile * s->rows.k);
    s->index = allocate<int32_t>(s, (size_t) s->row_tile * s->rows.k);
    if (allocated(s))
        return -1;
    check(cudaMemsetAsync(s->packed, 0, std::max(row_end, column_end) * s->shape.depth, device->stream),
          "clearing memory");
    knn_measure(device, &s->there, (double *) s->there.centre, lengths);
    check(cudaMemcpyAsync(length.data(), lengths, n * sizeof(double), cudaMemcpyDeviceToHost, device->stream),
          "copying from the device");
    check(cudaStreamSynchronize(device->stream), "waiting for the points");
    s->rows.unit = usual_length(length);
    knn_round(device, &s->there, s->shape, s->rows.unit, lengths, groups, s->columns, s->packed);
    return 0;
}

/* ---- products ---- */

static int refuse(struct search *s, cublasStatus_t status, const char *what)
{
    if (status != CUBLAS_STATUS_SUCCESS)
        snprintf(s->message, TLAW_DIMENSION_MESSAGE, "cuBLASLt: %s: %s", what,
                 cublasLtGetStatusString(status));
    return status == CUBLAS_STATUS_SUCCESS ? 0 : -1;
}

/*
 * out[rows][columns] = the rows' integers times the columns' transposed.  cuBLASLt counts by columns, so it
 * forms out^T = columns^T rows: its one way to multiply bytes, with the first operand transposed.
 */
static int plan_products(struct search *s)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint64_t workspace = WORKSPACE;
    const uint32_t alignment = ALIGNED,
                   whole = CUBLASLT_REDUCTION_SCHEME_NONE; /* loses_terms of product.cu */
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found = {};
    int count = 0;
    cublasStatus_t status;

    if (cublasLtGetVersion() >= 130000 && cublasLtGetVersion() < 130002) {
        snprintf(s->message, TLAW_DIMENSION_MESSAGE,
                 "the cuBLAS of CUDA 13.0 before its Update 1 multiplies bytes wrongly: take a later one, or "
                 "set tlaw.device to cpu");
        return -1;
    }
    if (refuse(s, cublasLtMatmulDescCreate(&s->description, CUBLAS_COMPUTE_32I, CUDA_R_32I), "a product") ||
        refuse(s,
               cublasLtMatmulDescSetAttribute(s->description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                              sizeof transposed),
               "a product") ||
        refuse(s,
               cublasLtMatrixLayoutCreate(&s->x, CUDA_R_8I, s->shape.depth, s->column_tile, s->shape.depth),
               "a matrix") ||
        refuse(s, cublasLtMatrixLayoutCreate(&s->y, CUDA_R_8I, s->shape.depth, s->row_tile, s->shape.depth),
               "a matrix") ||
        refuse(s,
               cublasLtMatrixLayoutCreate(&s->out, CUDA_R_32I, s->column_tile, s->row_tile, s->column_tile),
               "a matrix") ||
        refuse(s, cublasLtMatmulPreferenceCreate(&preference), "a preference"))
        return -1;
    status = cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &workspace, sizeof workspace);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                      &whole, sizeof whole);
    for (auto matrix :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        if (status == CUBLAS_STATUS_SUCCESS)
            status = cublasLtMatmulPreferenceSetAttribute(preference, matrix, &alignment, sizeof alignment);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulAlgoGetHeuristic(s->device->products, s->description, s->x, s->y, s->out,
                                                s->out, preference, 1, &found, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status == CUBLAS_STATUS_SUCCESS && count == 0)
        status = CUBLAS_STATUS_NOT_SUPPORTED;
    s->algorithm = found.algo;
    return refuse(s, status, "products of bytes");
}

static int multiply_tile(struct search *s, int64_t row, int64_t column)
{
    const int32_t one = 1, none = 0;

    return refuse(s,
                  cublasLtMatmul(s->device->products, s->description, &one,
                                 s->packed + column * s->shape.depth, s->x, s->packed + row * s->shape.depth,
                                 s->y, &none, s->product, s->out, s->product, s->out, &s->algorithm,
                                 s->workspace, WORKSPACE, s->device->stream),
                  "products of bytes");
}

/* ---- the search ---- */

/* Until the device has done all it was given; -1 when it is to be stopped. */
static int wait(struct search *s)
{
    cudaError_t error;

    while ((error = cudaStreamQuery(s->device->stream)) == cudaErrorNotReady) {
        if (s->poll.stop && s->poll.stop(s->poll.arg))
            return -1;
        usleep(WAIT);
    }
    check(error, "the neighbours");
    return s->poll.stop && s->poll.stop(s->poll.arg) ? -1 : 0;
}

/* The neighbours of a tile of rows, copied to out. */
static int search_rows(struct search *s, int64_t first, struct tlaw_neighbours *out,
                       void (*progress)(double share, void *arg), void *progress_arg)
{
    double n = (double) s->points->n, work = 0;
    size_t entries;

    s->rows.first = first;
    s->rows.rows = (int) std::min<int64_t>(s->row_tile, s->points->n - first);
    entries = (size_t) s->rows.rows * s->rows.k;
    knn_begin(s->device, &s->rows);
    for (int64_t column = 0; column < s->points->n; column += s->column_tile) {
        int count = (int) std::min<int64_t>(s->column_tile, s->points->n - column);

        if (multiply_tile(s, first, column))
            return -1;
        knn_select(s->device, &s->rows, &s->there, s->columns, s->product, s->column_tile, column, count);
        work += (double) s->row_tile * s->column_tile * s->shape.depth;
        if (work < WORK)
            continue;
        work = 0;
        if (wait(s))
            return -1;
        if (progress)
            progress(((double) first * n + (double) s->rows.rows * (double) column) / (n * n), progress_arg);
    }
    knn_finish(s->device, &s->rows, &s->there, s->columns, s->distance2, s->index);
    if (wait(s))
        return -1;
    check(cudaMemcpyAsync(out->distance + first * out->k, s->distance2, entries * sizeof(double),
                          cudaMemcpyDeviceToHost, s->device->stream),
          "copying neighbours");
    check(cudaMemcpyAsync(out->index + first * out->k, s->index, entries * sizeof(int32_t),
                          cudaMemcpyDeviceToHost, s->device->stream),
          "copying neighbours");
    check(cudaStreamSynchronize(s->device->stream), "copying neighbours");
    if (progress)
        progress((double) (first + s->rows.rows) / n, progress_arg);
    return 0;
}

static void release(struct search *s)
{
    check(cudaStreamSynchronize(s->device->stream), "the neighbours"); /* when it was stopped */
    if (s->out)
        cublasLtMatrixLayoutDestroy(s->out);
    if (s->y)
        cublasLtMatrixLayoutDestroy(s->y);
    if (s->x)
        cublasLtMatrixLayoutDestroy(s->x);
    if (s->description)
        cublasLtMatmulDescDestroy(s->description);
    for (void *memory : s->memory)
        check(cudaFree(memory), "giving memory back");
}

int knn_neighbours(struct device *device, const struct tlaw_points *points, const int32_t *group,
                   struct tlaw_neighbours *out, struct tlaw_poll poll,
                   void (*progress)(double share, void *arg), void *progress_arg, char *message)
{
    struct search s = {};
    int status;

    message[0] = '\0';
    if (points->n == 0)
        return 0;
    s.device = device;
    s.points = points;
    s.poll = poll;
    s.message = message;
    s.shape = shape_of(points->width);
    choose_tiles(&s, out->k);
    status = prepare(&s, group);
    if (!status)
        status = plan_products(&s);
    for (int64_t first = 0; !status && first < points->n; first += s.row_tile)
        status = search_rows(&s, first, out, progress, progress_arg);
    release(&s);
    return status;
}
