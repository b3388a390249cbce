/*
 * Candidates: which pairs of a tile of products may be neighbours, and the exact distances of those that are
 * left.
 *
 * A warp has a row, and all of it is uniform over the warp but what `lane` touches.  A pair is a candidate
 * while its lower bound is within the row's reach.  A full list is shrunk: reach falls to the k-th smallest
 * upper bound, and what is then beyond it goes; where that does not empty half of the list, all distances in
 * it are computed exactly and the k best stay.  That rule alone would find the neighbours; bounds only save
 * work.
 */
#include "knn_search.h"

#define ROWS      8     /* warps of a block */
#define EACH      4     /* columns a lane looks at in one stride */
#define LANES     16    /* running sums of a distance: DISTANCE_LANES of stats/distance.h */
#define PARALLEL2 1e-30 /* DISTANCE_PARALLEL */

/* A row's state, in registers while a warp works on it. */
struct row {
    struct knn_candidate *candidates;
    double *exact;
    int32_t *index;
    struct knn_column mine;
    int64_t i;
    int count;
    float reach;
    int32_t cutoff;
};

__device__ static float spread(struct knn_column a, struct knn_column b)
{
    return SPREAD * (a.norm + b.norm) + TINY;
}

/* At most the distance. */
__device__ static float low_end(struct knn_column mine, const struct knn_column *columns,
                                struct knn_candidate c)
{
    struct knn_column other;

    if (c.index < 0)
        return sqrtf(c.distance2) * (1 - SLACK);
    other = columns[c.index];
    return sqrtf(fmaxf(c.distance2 - spread(mine, other), 0)) * (1 - SLACK) -
           (mine.error + other.error) * (1 + SLACK);
}

/* At least the distance. */
__device__ static float high_end(struct knn_column mine, const struct knn_column *columns,
                                 struct knn_candidate c)
{
    struct knn_column other;

    if (c.index < 0)
        return sqrtf(c.distance2) * (1 + SLACK);
    other = columns[c.index];
    return (sqrtf(fmaxf(c.distance2, 0) + spread(mine, other)) + mine.error + other.error) * (1 + 4 * SLACK);
}

/* ---- exact distances ---- */

/*
 * stats/distance.h: sixteen running sums, a lane each, added in its order; no multiply-add is contracted. The
 * half-warp's lanes return the same bits.
 */
template <class E>
__device__ static double distance2_of(const struct knn_points &points, int64_t i, int64_t j)
{
    const E *x = (const E *) points.data + i * points.width, *y = (const E *) points.data + j * points.width;
    double a = points.scale ? points.scale[i] : 1, b = points.scale ? points.scale[j] : 1, sum = 0;
    int lane = threadIdx.x % LANES, whole = points.width / LANES * LANES;

    for (int c = lane; c < whole; c += LANES) {
        double difference = __dsub_rn(__dmul_rn(a, (double) x[c]), __dmul_rn(b, (double) y[c]));

        sum = __dadd_rn(sum, __dmul_rn(difference, difference));
    }
    for (int c = whole; lane == 0 && c < points.width; c++) {
        double difference = __dsub_rn(__dmul_rn(a, (double) x[c]), __dmul_rn(b, (double) y[c]));

        sum = __dadd_rn(sum, __dmul_rn(difference, difference));
    }
    for (int half = LANES / 2; half; half /= 2)
        sum = __dadd_rn(sum, __shfl_xor_sync(ALL, sum, half));
    return points.scale && sum < PARALLEL2 ? 0 : sum;
}

__device__ static double exact_distance2(const struct knn_points &points, int64_t i, int64_t j)
{
    return points.element_size == 4 ? distance2_of<float>(points, i, j) : distance2_of<double>(points, i, j);
}

/* Whether (a, i) comes after (b, j): farther, or as far with the higher index. */
__device__ static bool is_after(double a, int32_t i, double b, int32_t j)
{
    return a > b || (a == b && i > j);
}

/* Sorts exact and index, `count` padded to a power of two with infinitely far ones: a bitonic network. */
__device__ static void sort(struct row *row, int lane)
{
    int size = WARP;

    while (size < row->count)
        size *= 2;
    for (int at = row->count + lane; at < size; at += WARP) {
        row->exact[at] = INFINITE;
        row->index[at] = INT32_MAX;
    }
    __syncwarp();
    for (int run = 2; run <= size; run *= 2)
        for (int apart = run / 2; apart; apart /= 2) {
            for (int pair = lane; pair < size / 2; pair += WARP) {
                int low = pair / apart * 2 * apart + pair % apart, high = low + apart;
                double a = row->exact[low], b = row->exact[high];
                int32_t i = row->index[low], j = row->index[high];
                bool ascending = (low & run) == 0;

                if (ascending ? is_after(a, i, b, j) : is_after(b, j, a, i)) {
                    row->exact[low] = b, row->exact[high] = a;
                    row->index[low] = j, row->index[high] = i;
                }
            }
            __syncwarp();
        }
}

/* Exact distances of all candidates, sorted into exact and index. */
__device__ static void settle(struct row *row, const struct knn_points &points, int lane)
{
    for (int pair = 0; pair < row->count; pair += 2) {
        int mine = pair + lane / LANES,
            at = min(mine, row->count - 1); /* of an odd count the last one twice */
        int32_t index = row->candidates[at].index;
        double distance2;

        index = index < 0 ? ~index : index;
        distance2 = exact_distance2(points, row->i, index);
        if (lane % LANES == 0 && mine == at) {
            row->exact[at] = distance2;
            row->index[at] = index;
        }
    }
    __syncwarp();
    sort(row, lane);
}

/* ---- shrinking ---- */

/* The k-th smallest upper bound of count >= k candidates, by bisection: bits of positive floats order as they
 * do. */
__device__ static float kth_high(struct row *row, const struct knn_column *columns, int k, int lane)
{
    unsigned below = 0, above = 0x7f800000; /* the answer is in (below - 1, above] */

    for (int at = lane; at < row->count; at += WARP)
        row->exact[at] = high_end(row->mine, columns, row->candidates[at]);
    __syncwarp();
    while (below < above) {
        unsigned middle = below + (above - below) / 2;
        int within = 0;

        for (int at = lane; at < row->count; at += WARP)
            within += (float) row->exact[at] <= __int_as_float((int) middle);
        for (int step = WARP / 2; step; step /= 2)
            within += __shfl_xor_sync(ALL, within, step);
        if (within >= k)
            above = middle;
        else
            below = middle + 1;
    }
    return __int_as_float((int) above);
}

/* Drops candidates beyond reach; the others keep their order. */
__device__ static void drop_far(struct row *row, const struct knn_column *columns, int lane)
{
    int kept = 0;

    for (int from = 0; from < row->count; from += WARP) {
        int at = from + lane;
        struct knn_candidate c = {0, 0};
        bool stays = false;
        unsigned votes;

        if (at < row->count) {
            c = row->candidates[at];
            stays = low_end(row->mine, columns, c) <= row->reach;
        }
        votes = __ballot_sync(ALL, stays);
        __syncwarp(); /* everybody has read before anybody writes: a vote orders no memory */
        if (stays)
            row->candidates[kept + __popc(votes & ((1u << lane) - 1))] = c;
        kept += __popc(votes);
        __syncwarp();
    }
    row->count = kept;
}

__device__ static void lower_reach(struct row *row, const struct knn_column *columns, int k, int lane)
{
    if (row->count < k)
        return;
    row->reach = fminf(row->reach, kth_high(row, columns, k, lane));
    drop_far(row, columns, lane);
}

/* Keeps the k nearest, k <= count: too many were at nearly one distance for bounds to tell. */
__device__ static void keep_exact(struct row *row, const struct knn_points &points, double unit, int k,
                                  int lane)
{
    int32_t last = 0;

    settle(row, points, lane);
    for (int at = lane; at < k; at += WARP) {
        double length = sqrt(row->exact[at]) / unit;

        row->candidates[at] = {(float) (length * length), ~row->index[at]};
        last = max(last, row->index[at]);
    }
    for (int step = WARP / 2; step; step /= 2)
        last = max(last, __shfl_xor_sync(ALL, last, step));
    if (row->exact[k - 1] == 0)
        row->cutoff = last;
    row->reach = fminf(row->reach, (float) (sqrt(row->exact[k - 1]) / unit) * (1 + 4 * SLACK));
    row->count = k;
    __syncwarp();
}

__device__ static void shrink(struct row *row, const struct knn_rows &rows, const struct knn_points &points,
                              const struct knn_column *columns, int lane)
{
    lower_reach(row, columns, rows.k, lane);
    if (row->count > rows.room / 2)
        keep_exact(row, points, rows.unit, rows.k, lane);
}

/* ---- the kernels ---- */

__device__ static struct row load_row(const struct knn_rows &rows, const struct knn_column *columns,
                                      int which)
{
    int64_t i = rows.first + which;
    size_t at = (size_t) which * rows.room;

    return {rows.candidates + at, rows.exact + at,   rows.index + at,   columns[i], i,
            rows.count[which],    rows.reach[which], rows.cutoff[which]};
}

__global__ void __launch_bounds__(ROWS *WARP) begin_kernel(struct knn_rows rows)
{
    int which = blockIdx.x * ROWS * WARP + threadIdx.x;

    if (which < rows.rows) {
        rows.count[which] = 0;
        rows.reach[which] = INFINITE;
        rows.cutoff[which] = INT32_MAX;
    }
}

/* The pairs of one stride that are within reach, a bit each of EACH; and their distances^2. */
__device__ static unsigned within_reach(const struct row &row, const struct knn_column *columns,
                                        const int32_t *product, int64_t first, int from, int count, int lane,
                                        float distance2[EACH])
{
    unsigned in = 0;

#pragma unroll
    for (int e = 0; e < EACH; e++) {
        int at = from + e * WARP + lane;
        struct knn_column other;
        float around, reach;

        if (at >= count)
            continue;
        other = columns[first + at];
        distance2[e] = row.mine.norm + other.norm - 2 * row.mine.scale * other.scale * (float) product[at];
        around = spread(row.mine, other);
        reach = (row.reach + row.mine.error + other.error) * (1 + 4 * SLACK);
        in |= (unsigned) (distance2[e] - around <= reach * reach * (1 + 4 * SLACK) &&
                          first + at <= row.cutoff && other.group != row.mine.group)
              << e;
    }
    return in;
}

__global__ void __launch_bounds__(ROWS *WARP)
    select_kernel(struct knn_rows rows, struct knn_points points, const struct knn_column *columns,
                  const int32_t *product, size_t ld, int64_t first, int count)
{
    int which = blockIdx.x * ROWS + threadIdx.x / WARP, lane = threadIdx.x % WARP;

    if (which >= rows.rows)
        return;
    struct row row = load_row(rows, columns, which);
    product += which * ld;
    for (int from = 0; from < count && first + from <= row.cutoff; from += EACH * WARP) {
        float distance2[EACH];
        unsigned in = within_reach(row, columns, product, first, from, count, lane, distance2);

        if (!__ballot_sync(ALL, in != 0))
            continue;
        /* what a stride can add fits in the half that shrinking frees */
        if (row.count + EACH * WARP > rows.room)
            shrink(&row, rows, points, columns, lane);
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            unsigned votes = __ballot_sync(ALL, in >> e & 1);

            if (in >> e & 1)
                row.candidates[row.count + __popc(votes & ((1u << lane) - 1))] = {
                    distance2[e], (int32_t) (first + from + e * WARP + lane)};
            row.count += __popc(votes);
        }
        __syncwarp();
    }
    __syncwarp(); /* all lanes have read what lane 0 overwrites */
    if (lane == 0) {
        rows.count[which] = row.count;
        rows.reach[which] = row.reach;
        rows.cutoff[which] = row.cutoff;
    }
}

__global__ void __launch_bounds__(ROWS *WARP)
    finish_kernel(struct knn_rows rows, struct knn_points points, const struct knn_column *columns,
                  double *distance2, int32_t *index)
{
    int which = blockIdx.x * ROWS + threadIdx.x / WARP, lane = threadIdx.x % WARP;

    if (which >= rows.rows)
        return;
    struct row row = load_row(rows, columns, which);
    size_t at = (size_t) which * rows.k;

    lower_reach(&row, columns, rows.k, lane);
    settle(&row, points, lane);
    for (int j = lane; j < rows.k; j += WARP) {
        distance2[at + j] = j < row.count ? row.exact[j] : (double) INFINITE;
        index[at + j] = j < row.count ? row.index[j] : -1;
    }
}

void knn_begin(struct device *device, const struct knn_rows *rows)
{
    launch(device, begin_kernel, blocks_for(rows->rows, ROWS * WARP), ROWS * WARP, *rows);
}

void knn_select(struct device *device, const struct knn_rows *rows, const struct knn_points *points,
                const struct knn_column *columns, const int32_t *product, size_t ld, int64_t first, int count)
{
    launch(device, select_kernel, blocks_for(rows->rows, ROWS), ROWS * WARP, *rows, *points, columns, product,
           ld, first, count);
}

void knn_finish(struct device *device, const struct knn_rows *rows, const struct knn_points *points,
                const struct knn_column *columns, double *distance2, int32_t *index)
{
    launch(device, finish_kernel, blocks_for(rows->rows, ROWS), ROWS * WARP, *rows, *points, columns,
           distance2, index);
}
