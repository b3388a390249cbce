/*
 * See knn.h.  Rounding, the schedule of block pairs, candidates and their exact distances.
 *
 * State of a point: up to `room` candidates (integer distance, index), the k best exact distances so far (in the
 * output lists), and `reach`, an upper bound on its k-th smallest distance plus its own rounding error: a pair is
 * out of reach of point i when s |q_i - q_j| - |e_j| > reach_i.  reach only falls.  A block's state is changed under
 * the block's lock.
 */
#include "knn.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST_DISTANCE2 (1 << 29)       /* of integers */
#define MISSING           ((1 << 30) - 1) /* the norm of a missing point: out of everybody's reach */
#define CLIPPED           0.01            /* share of points whose largest coordinate may be cut off */
#define ROUNDING          2e-6            /* of float32 sums over a row, relative to its length */
#define SLACK             (1 + 1e-9)      /* of float64 arithmetic in bounds */

struct candidate {
    int32_t distance2, index;
};

struct search {
    const struct tlaw_points *points;
    enum tlaw_metric metric;
    const int32_t *group;
    struct tlaw_neighbours *out; /* distance holds squares until a point is finished */
    const struct knn_kernel *kernel;
    struct knn_request *request;

    int depth;      /* width rounded up: of the packed rows */
    int turn;       /* length of the rotated pieces; 1: none */
    int limit;      /* largest integer */
    int64_t blocks;
    double step;    /* s */
    double *mean;   /* [width] */
    double largest; /* |centred coordinate|: rows are divided by it */
    int8_t *packed; /* [blocks][KNN_PANELS][depth / 4][KNN_PANEL][4] */
    int32_t *norm, *sum; /* [blocks * KNN_BLOCK] of the integers' squares, and of the integers */
    float *error;        /* |e|; of missing points 0 */
    float *block_error;  /* [blocks] the largest */
    float *highest;      /* largest |coordinate| of a row */

    struct candidate *candidates; /* [n][room] */
    int32_t *count;               /* of candidates */
    int32_t *exact;               /* of exact distances in out, at most k */
    double *reach;
    int room;
    pthread_mutex_t *lock; /* [blocks] */

    struct workspace *workspace; /* one a thread */
    int64_t first_unit;          /* of the batch in progress */
};

struct workspace {
    int32_t product[KNN_BLOCK * KNN_BLOCK];
    struct knn_hit row_hits[KNN_BLOCK * KNN_BLOCK + 1], column_hits[KNN_BLOCK * KNN_BLOCK + 1];
    float *row;   /* [depth] */
    double *high; /* [room] */
    int64_t exact_distances;
};

/* ------------------------------------------------ rounding ------------------------------------------------------- */

/* A fixed random sign a coordinate. */
static float sign_of(int column)
{
    uint64_t z = ((uint64_t) column + 1) * 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    return z >> 63 ? -1 : 1;
}

/* Walsh-Hadamard transform of x[n], n a power of two, orthonormal. */
static void hadamard(float *x, int n)
{
    float scale = 1 / sqrtf((float) n);

    for (int half = 1; half < n; half *= 2)
        for (int from = 0; from < n; from += 2 * half)
            for (int i = from; i < from + half; i++) {
                float a = x[i], b = x[i + half];

                x[i] = a + b;
                x[i + half] = a - b;
            }
    for (int i = 0; i < n; i++)
        x[i] *= scale;
}

/* Row i centred, divided by `largest` and rotated: distances are those of the points over `largest`. */
static void prepared_row(const struct search *s, int64_t i, float *row)
{
    const struct tlaw_points *points = s->points;
    double scale = points->scale ? points->scale[i] : 1, unit = 1 / s->largest;
    int64_t at = i * points->width;

    for (int c = 0; c < points->width; c++) {
        double value = points->element_size == 4 ? (double) ((const float *) points->data)[at + c]
                                                 : ((const double *) points->data)[at + c];
        row[c] = (float) ((scale * value - s->mean[c]) * unit);
    }
    for (int c = points->width; c < s->depth; c++)
        row[c] = 0;
    if (s->turn > 1) {
        for (int c = 0; c < points->width; c++)
            row[c] *= sign_of(c);
        for (int c = 0; c < s->depth; c += s->turn)
            hadamard(row + c, s->turn);
    }
}

static void find_centre(struct search *s)
{
    const struct tlaw_points *points = s->points;

    for (int64_t i = 0; i < points->n; i++) {
        double scale = (points->scale ? points->scale[i] : 1) / (double) points->n;

        for (int c = 0; c < points->width; c++)
            s->mean[c] += scale * (points->element_size == 4
                                       ? (double) ((const float *) points->data)[i * points->width + c]
                                       : ((const double *) points->data)[i * points->width + c]);
    }
    for (int64_t i = 0; i < points->n; i++) {
        double scale = points->scale ? points->scale[i] : 1;

        for (int c = 0; c < points->width; c++) {
            double value = points->element_size == 4 ? (double) ((const float *) points->data)[i * points->width + c]
                                                     : ((const double *) points->data)[i * points->width + c];
            s->largest = fmax(s->largest, fabs(scale * value - s->mean[c]));
        }
    }
    if (!(s->largest > 0))
        s->largest = 1;
}

static void find_highest(void *arg, long block, int thread)
{
    struct search *s = arg;
    float *row = s->workspace[thread].row;
    int64_t end = (block + 1) * KNN_BLOCK < s->points->n ? (block + 1) * KNN_BLOCK : s->points->n;

    for (int64_t i = block * KNN_BLOCK; i < end; i++) {
        prepared_row(s, i, row);
        s->highest[i] = 0;
        for (int c = 0; c < s->depth; c++)
            s->highest[i] = fmaxf(s->highest[i], fabsf(row[c]));
    }
}

/* Rounds a row into its place in the packed block; its norm, sum and error. */
static void pack_row(struct search *s, int64_t i, float *row, int8_t *panel, int slot)
{
    double error2 = 0, length2 = 0;
    float inverse = (float) (1 / s->step), step = (float) s->step, limit = (float) s->limit;
    int32_t norm = 0, sum = 0;

    prepared_row(s, i, row);
    for (int c = 0; c < s->depth; c++) {
        float q = rintf(fminf(limit, fmaxf(-limit, row[c] * inverse)));
        double e = (double) row[c] - (double) q * (double) step;

        error2 += e * e;
        length2 += (double) row[c] * (double) row[c];
        norm += (int32_t) q * (int32_t) q;
        sum += (int32_t) q;
        panel[(c / 4 * KNN_PANEL + slot) * 4 + c % 4] = (int8_t) q;
    }
    s->norm[i] = norm;
    s->sum[i] = sum;
    s->error[i] = (float) ((sqrt(error2) + ROUNDING * sqrt(length2)) * (1 + 1e-6)) + FLT_MIN;
}

static void pack_block(void *arg, long block, int thread)
{
    struct search *s = arg;
    size_t panel = (size_t) s->depth * KNN_PANEL;

    for (int slot = 0; slot < KNN_BLOCK; slot++) {
        int64_t i = block * KNN_BLOCK + slot;

        if (i < s->points->n)
            pack_row(s, i, s->workspace[thread].row,
                     s->packed + ((size_t) block * KNN_PANELS + (size_t) (slot / KNN_PANEL)) * panel,
                     slot % KNN_PANEL);
        else
            s->norm[i] = MISSING;
        s->block_error[block] = fmaxf(s->block_error[block], s->error[i]);
    }
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *) a, y = *(const float *) b;

    return (x > y) - (x < y);
}

static void round_points(struct search *s)
{
    int64_t n = s->points->n;

    find_centre(s);
    pool_run(s->request->pool, s->blocks, find_highest, s);
    qsort(s->highest, (size_t) n, sizeof *s->highest, by_size);
    s->step = (double) s->highest[(int64_t) ((1 - CLIPPED) * (double) (n - 1))] / s->limit;
    if (!(s->step > 1e-30))
        s->step = fmax((double) s->highest[n - 1] / s->limit, 1e-30);
    s->step = (float) s->step;
    pool_run(s->request->pool, s->blocks, pack_block, s);
}

/* ------------------------------------------------ candidates ---------------------------------------------------- */

/* The `which`-th smallest (from 0) of x[n]; x is permuted. */
static double select_smallest(double *x, int n, int which)
{
    int low = 0, high = n - 1;

    while (low < high) {
        double pivot = x[(low + high) / 2];
        int i = low, j = high;

        while (i <= j) {
            while (x[i] < pivot)
                i++;
            while (x[j] > pivot)
                j--;
            if (i <= j) {
                double swap = x[i];
                x[i++] = x[j];
                x[j--] = swap;
            }
        }
        if (which <= j)
            high = j;
        else if (which >= i)
            low = i;
        else
            break;
    }
    return x[which];
}

/* s |q_i - q_j| - |e_j|: the distance is at least this less |e_i| */
static double low_end(const struct search *s, struct candidate c)
{
    return s->step * sqrt((double) c.distance2) - (double) s->error[c.index];
}

static void insert_exact(struct search *s, int64_t i, double distance2, int32_t index)
{
    int k = s->out->k, at = s->exact[i] < k ? s->exact[i] : k - 1;
    double *distance = s->out->distance + i * k;
    int32_t *other = s->out->index + i * k;

    if (s->exact[i] == k &&
        !(distance2 < distance[k - 1] || (distance2 == distance[k - 1] && index < other[k - 1])))
        return;
    for (; at > 0 && (distance2 < distance[at - 1] || (distance2 == distance[at - 1] && index < other[at - 1]));
         at--) {
        distance[at] = distance[at - 1];
        other[at] = other[at - 1];
    }
    distance[at] = distance2;
    other[at] = index;
    s->exact[i] += s->exact[i] < k;
}

static int by_low_end(const void *a, const void *b, void *arg)
{
    double x = low_end(arg, *(const struct candidate *) a), y = low_end(arg, *(const struct candidate *) b);

    return (x > y) - (x < y);
}

/* Replaces all candidates of a point by exact distances, nearest first, as long as they can still count. */
static void resolve(struct search *s, int64_t i, struct workspace *w)
{
    struct candidate *c = s->candidates + i * s->room;
    int k = s->out->k;
    double error = (double) s->error[i];

    qsort_r(c, (size_t) s->count[i], sizeof *c, by_low_end, s);
    for (int j = 0; j < s->count[i]; j++) {
        if (s->exact[i] == k &&
            (low_end(s, c[j]) - error) * s->largest > sqrt(s->out->distance[i * k + k - 1]) * SLACK)
            break;
        insert_exact(s, i, s->kernel->distance2(s->points, i, c[j].index), c[j].index);
        w->exact_distances++;
    }
    s->count[i] = 0;
    if (s->exact[i] == k)
        s->reach[i] = fmin(s->reach[i], sqrt(s->out->distance[i * k + k - 1]) / s->largest * SLACK + error);
}

/* Lowers reach to what the candidates allow, and drops those beyond it. */
static void shrink(struct search *s, int64_t i, struct workspace *w)
{
    struct candidate *c = s->candidates + i * s->room;
    int k = s->out->k, kept = 0;

    if (s->count[i] >= k) {
        for (int j = 0; j < s->count[i]; j++)
            w->high[j] = s->step * sqrt((double) c[j].distance2) + (double) s->error[c[j].index];
        s->reach[i] = fmin(s->reach[i], select_smallest(w->high, s->count[i], k - 1) * SLACK + 2 * (double) s->error[i]);
    }
    for (int j = 0; j < s->count[i]; j++)
        if (low_end(s, c[j]) <= s->reach[i])
            c[kept++] = c[j];
    s->count[i] = kept;
    if (kept > s->room * 3 / 4)
        resolve(s, i, w);
}

static void add_candidate(struct search *s, int64_t i, int64_t j, int32_t distance2, struct workspace *w)
{
    if (s->group && s->group[i] == s->group[j])
        return;
    if (s->count[i] == s->room)
        shrink(s, i, w);
    s->candidates[i * s->room + s->count[i]++] = (struct candidate) {distance2, (int32_t) j};
}

/* ------------------------------------------------ pairs of blocks ----------------------------------------------- */

/* The largest integer distance^2 at which a point of `block` may reach one of `other`. */
static void find_reach(struct search *s, int64_t block, int64_t other, int32_t *reach)
{
    for (int slot = 0; slot < KNN_BLOCK; slot++) {
        int64_t i = block * KNN_BLOCK + slot;
        double steps = (s->reach[i] + (double) s->block_error[other]) / s->step * SLACK;

        reach[slot] = i >= s->points->n                           ? -1
                      : steps * steps < (double) LARGEST_DISTANCE2 - 1 ? (int32_t) (steps * steps) + 1
                                                                       : LARGEST_DISTANCE2;
    }
}

/* Unit u of the schedule: block u mod blocks with the one u / blocks behind it, round the clock. */
static void pair_of(const struct search *s, int64_t unit, int64_t *left, int64_t *right)
{
    *left = unit % s->blocks;
    *right = (*left + unit / s->blocks) % s->blocks;
}

static int64_t unit_count(const struct search *s)
{
    int64_t half = s->blocks / 2;

    return s->blocks % 2 ? s->blocks * (half + 1) : s->blocks * half + half; /* the last distance: each pair once */
}

static void compare_blocks(void *arg, long unit, int thread)
{
    struct search *s = arg;
    struct workspace *w = s->workspace + thread;
    int64_t left, right;
    int32_t base[KNN_BLOCK], reach_left[KNN_BLOCK], reach_right[KNN_BLOCK];
    size_t size = (size_t) KNN_PANELS * KNN_PANEL * (size_t) s->depth;
    int rows, columns;

    pair_of(s, s->first_unit + unit, &left, &right);
    s->kernel->products(w->product, s->packed + (size_t) left * size, s->packed + (size_t) right * size, s->depth);
    for (int slot = 0; slot < KNN_BLOCK; slot++)
        base[slot] = (int32_t) ((uint32_t) s->norm[left * KNN_BLOCK + slot] +
                                2u * (uint32_t) s->kernel->offset * (uint32_t) s->sum[left * KNN_BLOCK + slot]);
    pthread_mutex_lock(s->lock + left);
    find_reach(s, left, right, reach_left);
    pthread_mutex_unlock(s->lock + left);
    pthread_mutex_lock(s->lock + right);
    find_reach(s, right, left, reach_right);
    pthread_mutex_unlock(s->lock + right);
    s->kernel->scan(w->product, base, s->norm + right * KNN_BLOCK, reach_left, reach_right, left == right,
                    w->row_hits, &rows, w->column_hits, &columns);
    pthread_mutex_lock(s->lock + left);
    for (int h = 0; h < rows; h++)
        add_candidate(s, left * KNN_BLOCK + w->row_hits[h].row, right * KNN_BLOCK + w->row_hits[h].column,
                      w->row_hits[h].distance2, w);
    pthread_mutex_unlock(s->lock + left);
    pthread_mutex_lock(s->lock + right);
    for (int h = 0; h < columns; h++)
        add_candidate(s, right * KNN_BLOCK + w->column_hits[h].column, left * KNN_BLOCK + w->column_hits[h].row,
                      w->column_hits[h].distance2, w);
    pthread_mutex_unlock(s->lock + right);
}

static void finish_block(void *arg, long block, int thread)
{
    struct search *s = arg;
    int k = s->out->k;
    int64_t end = (block + 1) * KNN_BLOCK < s->points->n ? (block + 1) * KNN_BLOCK : s->points->n;

    for (int64_t i = block * KNN_BLOCK; i < end; i++) {
        resolve(s, i, s->workspace + thread);
        for (int j = 0; j < k; j++) {
            bool found = j < s->exact[i];
            double *distance = s->out->distance + i * k + j;

            *distance = found ? tlaw_metric_distance(s->metric, *distance) : INFINITY;
            if (!found)
                s->out->index[i * k + j] = -1;
        }
    }
}

/* ------------------------------------------------ the whole ----------------------------------------------------- */

static void choose_shape(struct search *s)
{
    int width = s->points->width, k = s->out->k;

    s->depth = (width + 3) / 4 * 4;
    s->turn = 1;
    if (width >= 64) {
        s->depth = (width + 63) / 64 * 64;
        s->turn = s->depth & -s->depth;
        s->turn = s->turn > 1024 ? 1024 : s->turn;
    }
    s->limit = s->kernel->limit;
    while (s->limit > 1 && 4.0 * s->depth * s->limit * s->limit > LARGEST_DISTANCE2)
        s->limit--;
    s->blocks = (s->points->n + KNN_BLOCK - 1) / KNN_BLOCK;
    s->room = 8 * k > 128 ? 8 * k : 128;
    s->largest = 0;
}

static void *aligned(size_t bytes)
{
    void *memory;

    if (posix_memalign(&memory, 64, bytes ? bytes : 64))
        return NULL;
    memset(memory, 0, bytes);
    return memory;
}

static int allocate(struct search *s)
{
    size_t rows = (size_t) s->blocks * KNN_BLOCK, n = (size_t) s->points->n;
    int threads = pool_threads(s->request->pool), status = 0;

    s->mean = calloc((size_t) s->points->width, sizeof *s->mean);
    s->packed = aligned(rows * (size_t) s->depth);
    s->norm = calloc(rows, sizeof *s->norm);
    s->sum = calloc(rows, sizeof *s->sum);
    s->error = calloc(rows, sizeof *s->error);
    s->block_error = calloc((size_t) s->blocks, sizeof *s->block_error);
    s->highest = calloc(rows, sizeof *s->highest);
    s->candidates = malloc(n * (size_t) s->room * sizeof *s->candidates);
    s->count = calloc(n, sizeof *s->count);
    s->exact = calloc(n, sizeof *s->exact);
    s->reach = malloc(rows * sizeof *s->reach);
    s->lock = malloc((size_t) s->blocks * sizeof *s->lock);
    s->workspace = calloc((size_t) threads, sizeof *s->workspace);
    if (!s->mean || !s->packed || !s->norm || !s->sum || !s->error || !s->block_error || !s->highest ||
        !s->candidates || !s->count || !s->exact || !s->reach || !s->lock || !s->workspace)
        return -1;
    for (size_t i = 0; i < rows; i++)
        s->reach[i] = INFINITY;
    for (int64_t b = 0; b < s->blocks; b++)
        pthread_mutex_init(s->lock + b, NULL);
    for (int t = 0; t < threads; t++) {
        s->workspace[t].row = aligned((size_t) s->depth * sizeof(float));
        s->workspace[t].high = aligned((size_t) s->room * sizeof(double));
        status |= s->workspace[t].row && s->workspace[t].high ? 0 : -1;
    }
    return status;
}

static void release(struct search *s)
{
    for (int t = 0; s->workspace && t < pool_threads(s->request->pool); t++) {
        s->request->exact_distances += s->workspace[t].exact_distances;
        free(s->workspace[t].row);
        free(s->workspace[t].high);
    }
    free(s->mean);
    free(s->packed);
    free(s->norm);
    free(s->sum);
    free(s->error);
    free(s->block_error);
    free(s->highest);
    free(s->candidates);
    free(s->count);
    free(s->exact);
    free(s->reach);
    free(s->lock);
    free(s->workspace);
}

/* Compares all pairs of blocks in batches of some 50 ms, so that it can be stopped between two. */
static int compare_all(struct search *s, struct tlaw_poll poll)
{
    int64_t units = unit_count(s);
    int64_t batch = (int64_t) (1e10 * pool_threads(s->request->pool) / ((double) KNN_BLOCK * KNN_BLOCK * s->depth)) + 1;

    for (s->first_unit = 0; s->first_unit < units; s->first_unit += batch) {
        int64_t left = units - s->first_unit;

        if (poll.stop && poll.stop(poll.arg))
            return -1;
        if (s->request->progress)
            s->request->progress((double) s->first_unit / (double) units, s->request->progress_arg);
        pool_run(s->request->pool, left < batch ? left : batch, compare_blocks, s);
    }
    return 0;
}

int knn_exact(const struct tlaw_points *points, enum tlaw_metric metric, const int32_t *group,
              struct tlaw_neighbours *out, struct tlaw_poll poll, void *arg, char *message)
{
    struct search s = {.points = points, .metric = metric, .group = group, .out = out, .request = arg};
    int status = -1;

    s.kernel = s.request->kernel ? s.request->kernel : knn_best_kernel();
    choose_shape(&s);
    message[0] = '\0';
    s.request->exact_distances = 0;
    if (allocate(&s)) {
        snprintf(message, TLAW_DIMENSION_MESSAGE, "out of memory for the neighbours of %lld points",
                 (long long) points->n);
    } else {
        round_points(&s);
        status = compare_all(&s, poll);
        if (!status)
            pool_run(s.request->pool, s.blocks, finish_block, &s);
    }
    release(&s);
    return status;
}

/* ------------------------------------------------ instruction sets ---------------------------------------------- */

extern const struct knn_kernel knn_kernel_portable;
#if defined(__x86_64__)
extern const struct knn_kernel knn_kernel_avx2, knn_kernel_avx512;
#endif

const struct knn_kernel *knn_find_kernel(const char *isa)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(isa, "avx512"))
        return !strcmp(cpu_best_isa(), "avx512") && __builtin_cpu_supports("avx512vnni") ? &knn_kernel_avx512 : NULL;
    if (!strcmp(isa, "avx2"))
        return strcmp(cpu_best_isa(), "portable") ? &knn_kernel_avx2 : NULL;
#endif
    return !strcmp(isa, "portable") ? &knn_kernel_portable : NULL;
}

const struct knn_kernel *knn_best_kernel(void)
{
    const struct knn_kernel *best = knn_find_kernel("avx512");

    best = best ? best : knn_find_kernel("avx2");
    return best ? best : &knn_kernel_portable;
}
