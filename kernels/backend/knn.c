/*
 * See knn.h.  The schedule: all pairs of blocks, a pair at a time on one thread.
 */
#include "knn_internal.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t) 2 << 20)
#define MISSING   1e37F /* half the squared length of a missing point: out of everybody's reach */

void *knn_memory(size_t bytes)
{
    size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    void *memory;

    if (posix_memalign(&memory, alignment, (bytes + 63) / 64 * 64 + 64))
        return NULL;
    if (bytes >= HUGE_PAGE)
        madvise(memory, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return memory;
}

/* ---- a pair of blocks ---- */

static int64_t block_end(const struct search *s, int64_t block)
{
    return (block + 1) * KNN_BLOCK < s->points->n ? (block + 1) * KNN_BLOCK : s->points->n;
}

/* The pair's distance; product: of what they were rounded to, with squared lengths norm2. */
static double distance_of(const struct search *s, double norm2, double other_norm2, int64_t i, int64_t j,
                          double product)
{
    double distance2 = norm2 + other_norm2 - 2.0 * (double) s->rounded[i].step * (double) s->rounded[j].step * product;

    return sqrt(fmax(distance2, 0));
}

/* What the scan needs of a block at this moment. */
static void face(struct search *s, int64_t block, struct knn_side *side)
{
    memset(side, 0, sizeof *side);
    pthread_mutex_lock(s->lock + block);
    for (int slot = 0; slot < KNN_BLOCK; slot++) {
        int64_t i = block * KNN_BLOCK + slot;
        const struct knn_rounded *rounded = s->rounded + i;
        float half = (float) (rounded->norm2 / 2 * (1 - 2 * KNN_SLACK));

        if (i >= s->points->n) {
            side->beyond_error[slot] = side->beyond_reach[slot] = MISSING;
            continue;
        }
        side->step[slot] = rounded->step;
        side->error[slot] = fminf(rounded->error, KNN_FARTHEST);
        side->reach[slot] = fminf(s->reach[i] + side->error[slot], KNN_FARTHEST) * (float) (1 + 2 * KNN_SLACK);
        side->beyond_error[slot] = half - side->error[slot] * side->error[slot] / 2;
        side->beyond_reach[slot] = half - side->reach[slot] * side->reach[slot] / 2;
    }
    pthread_mutex_unlock(s->lock + block);
}

/* About the k-th smallest of distance[KNN_BLOCK], and not less. */
static float reached_by(const float *distance, int k)
{
    float below = FLT_MAX, above = 0;

    for (int c = 0; c < KNN_BLOCK; c++) {
        below = distance[c] < below ? distance[c] : below;
        above = distance[c] > above ? distance[c] : above;
    }
    for (int halving = 0; halving < 12; halving++) {
        float middle = below + (above - below) / 2;
        int within = 0;

        for (int c = 0; c < KNN_BLOCK; c++)
            within += distance[c] <= middle;
        if (within >= k)
            above = middle;
        else
            below = middle;
    }
    return above;
}

/* A first reach for the points of a block from the products among themselves. */
static void first_reach(struct search *s, int64_t block, const int32_t *product)
{
    int64_t from = block * KNN_BLOCK, members = block_end(s, block) - from;

    for (int64_t row = 0; row < members; row++) {
        float distance[KNN_BLOCK], reached;
        const struct knn_rounded *x = s->rounded + from + row;

        for (int64_t c = 0; c < KNN_BLOCK; c++) {
            const struct knn_rounded *y = s->rounded + from + c;
            int32_t q = product[(c / KNN_PANEL * KNN_BLOCK + row) * KNN_PANEL + c % KNN_PANEL];

            distance[c] = c == row || c >= members
                              ? KNN_FARTHEST
                              : (float) distance_of(s, x->norm2, y->norm2, from + row, from + c, q) + x->error +
                                    y->error;
            distance[c] = fminf(distance[c], KNN_FARTHEST);
        }
        reached = reached_by(distance, s->out->k) * (float) (1 + KNN_SLACK);
        if (reached < KNN_FARTHEST / 2)
            s->reach[from + row] = fminf(s->reach[from + row], reached);
    }
}

/* Hands the distances of a pair of blocks to the points within whose reach they are: the row's or the column's. */
static void meet_all(struct search *s, int64_t left, int64_t right, int count, int within, struct workspace *w)
{
    pthread_mutex_t *lock = s->lock + (within == KNN_OF_ROW ? left : right);

    pthread_mutex_lock(lock);
    for (int h = 0; h < count; h++)
        if (w->hits[h].within & within) {
            int64_t i = left * KNN_BLOCK + w->hits[h].row, j = right * KNN_BLOCK + w->hits[h].column;
            double distance =
                distance_of(s, s->rounded[i].fine_norm2, s->rounded[j].fine_norm2, i, j, w->refined[h]);

            knn_meet(s, within == KNN_OF_ROW ? i : j, within == KNN_OF_ROW ? j : i, distance, w);
        }
    pthread_mutex_unlock(lock);
}

/* Finds the pairs of two blocks that are within reach; how many. */
static int find_hits(struct search *s, int64_t left, int64_t right, struct workspace *w)
{
    size_t panel = (size_t) s->quads * 4 * KNN_PANEL, product = (size_t) KNN_BLOCK * KNN_PANEL;
    const int8_t *rows = s->packed + (size_t) left * KNN_PANELS * panel;
    const int8_t *columns = s->packed + (size_t) right * KNN_PANELS * panel;
    int32_t start[KNN_BLOCK];
    int count = 0;

    for (int slot = 0; slot < KNN_BLOCK; slot++)
        start[slot] = -s->kernel->offset * s->rounded[left * KNN_BLOCK + slot].sum;
    if (left == right) {
        for (int p = 0; p < KNN_PANELS; p++)
            s->kernel->multiply(w->product + p * product, start, rows, columns + p * panel, s->quads);
        pthread_mutex_lock(s->lock + left);
        if (!s->group)
            first_reach(s, left, w->product);
        pthread_mutex_unlock(s->lock + left);
        face(s, left, &w->rows);
        for (int p = 0; p < KNN_PANELS; p++)
            count = s->kernel->scan(w->product + p * product, &w->rows, &w->rows, p * KNN_PANEL, true, w->hits, count);
        return count;
    }
    face(s, left, &w->rows);
    face(s, right, &w->columns);
    for (int p = 0; p < KNN_PANELS; p++) {
        s->kernel->multiply(w->product, start, rows, columns + p * panel, s->quads);
        count = s->kernel->scan(w->product, &w->rows, &w->columns, p * KNN_PANEL, false, w->hits, count);
    }
    return count;
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

    return s->blocks % 2 ? s->blocks * (half + 1)
                         : s->blocks * half + half; /* the last distance: each pair once */
}

static void compare_blocks(void *arg, long unit, int thread)
{
    struct search *s = arg;
    struct workspace *w = s->workspace + thread;
    size_t records = (size_t) KNN_BLOCK * 2 * (size_t) s->frame.plane;
    int64_t left, right;
    int count;

    pair_of(s, s->first_unit + unit, &left, &right);
    count = find_hits(s, left, right, w);
    s->kernel->refine(w->hits, count, &s->frame, s->record + (size_t) left * records,
                      s->record + (size_t) right * records, s->fine_sum + left * KNN_BLOCK,
                      s->fine_sum + right * KNN_BLOCK, w->refined);
    w->fine_distances += count;
    meet_all(s, left, right, count, KNN_OF_ROW, w);
    meet_all(s, left, right, count, KNN_OF_COLUMN, w);
}

static void settle_block(void *arg, long block, int thread)
{
    struct search *s = arg;

    for (int64_t i = block * KNN_BLOCK; i < block_end(s, block); i++)
        knn_settle(s, i, s->workspace + thread);
}

/* ---- the whole ---- */

static int allocate(struct search *s)
{
    size_t n = (size_t) s->points->n, k = (size_t) s->out->k;
    int threads = pool_threads(s->request->pool);

    s->blocks = (s->points->n + KNN_BLOCK - 1) / KNN_BLOCK;
    s->room = 2 * s->out->k > 48 ? 2 * s->out->k : 48;
    s->candidates = knn_memory(n * (size_t) s->room * sizeof *s->candidates);
    s->nearest = knn_memory(n * k * sizeof *s->nearest);
    s->count = calloc(n, sizeof *s->count);
    s->cutoff = malloc(n * sizeof *s->cutoff);
    s->reach = malloc(n * sizeof *s->reach);
    s->lock = malloc((size_t) s->blocks * sizeof *s->lock);
    s->workspace = calloc((size_t) threads, sizeof *s->workspace);
    if (!s->candidates || !s->nearest || !s->count || !s->cutoff || !s->reach || !s->lock || !s->workspace)
        return -1;
    for (size_t i = 0; i < n; i++) {
        s->reach[i] = INFINITY;
        s->cutoff[i] = INT32_MAX;
    }
    for (size_t j = 0; j < n * k; j++)
        s->nearest[j] = INFINITY;
    for (int64_t b = 0; b < s->blocks; b++)
        pthread_mutex_init(s->lock + b, NULL);
    for (int t = 0; t < threads; t++) {
        s->workspace[t].exact = malloc((size_t) s->room * sizeof(struct exact));
        if (!s->workspace[t].exact)
            return -1;
    }
    return 0;
}

static void release(struct search *s)
{
    for (int t = 0; s->workspace && t < pool_threads(s->request->pool); t++) {
        s->request->fine_distances += s->workspace[t].fine_distances;
        s->request->exact_distances += s->workspace[t].exact_distances;
        free(s->workspace[t].row);
        free(s->workspace[t].exact);
    }
    free((void *) s->frame.centre);
    free((void *) s->frame.factor);
    free(s->packed);
    free(s->record);
    free(s->rounded);
    free(s->fine_sum);
    free(s->candidates);
    free(s->nearest);
    free(s->count);
    free(s->cutoff);
    free(s->reach);
    free(s->lock);
    free(s->workspace);
}

/* Compares all pairs of blocks in batches of some 50 ms, so that it can be stopped between two. */
static int compare_all(struct search *s, struct tlaw_poll poll)
{
    int64_t units = unit_count(s);
    int64_t batch = (int64_t) (1e10 * pool_threads(s->request->pool) /
                               ((double) KNN_BLOCK * KNN_BLOCK * (s->quads * 4 + 32))) +
                    1;

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
    message[0] = '\0';
    s.request->fine_distances = s.request->exact_distances = 0;
    if (allocate(&s) || knn_round_points(&s)) {
        snprintf(message, TLAW_DIMENSION_MESSAGE, "out of memory for the neighbours of %lld points",
                 (long long) points->n);
    } else {
        status = compare_all(&s, poll);
        if (!status)
            pool_run(s.request->pool, s.blocks, settle_block, &s);
    }
    release(&s);
    return status;
}

/* ---- instruction sets ---- */

extern const struct knn_kernel knn_kernel_portable;
#if defined(__x86_64__)
extern const struct knn_kernel knn_kernel_avx2, knn_kernel_avx512;
#endif

const struct knn_kernel *knn_find_kernel(const char *isa)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!strcmp(isa, "avx512"))
        return cpu_backend("avx512", "float32") && __builtin_cpu_supports("avx512vnni") ? &knn_kernel_avx512
                                                                                        : NULL;
    if (!strcmp(isa, "avx2"))
        return cpu_backend("avx2", "float32") ? &knn_kernel_avx2 : NULL;
#endif
    return !strcmp(isa, "portable") ? &knn_kernel_portable : NULL;
}

const struct knn_kernel *knn_best_kernel(void)
{
    const struct knn_kernel *best = knn_find_kernel("avx512");

    best = best ? best : knn_find_kernel("avx2");
    return best ? best : &knn_kernel_portable;
}
