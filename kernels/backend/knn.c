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
#define STRIP     4 /* blocks compared with one while that stays in the second cache */

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

/* What the scan needs of a block at this moment. */
static void face(struct search *s, int64_t block, struct knn_side *side)
{
    const float slack = (float) (1 + 2 * KNN_SLACK);
    const size_t from = (size_t) block * KNN_BLOCK;

    memcpy(side->step, s->step + from, sizeof side->step);
    memcpy(side->base, s->base + from, sizeof side->base);
    memcpy(side->length, s->length + from, sizeof side->length);
    memcpy(side->error, s->error + from, sizeof side->error);
    pthread_mutex_lock(s->lock + block);
    memcpy(side->reach, s->reach + from, sizeof side->reach);
    pthread_mutex_unlock(s->lock + block);
    for (int slot = 0; slot < KNN_BLOCK; slot++) {
        float reach = side->reach[slot] * slack, error = side->error[slot], length = side->length[slot];
        bool longer = reach > length;
        float within = longer ? reach : reach + error;

        within = within < KNN_FARTHEST ? within : KNN_FARTHEST;
        side->by_length[slot] = longer ? error : 0;
        side->by_error[slot] = longer ? length : within;
        side->beyond[slot] = side->base[slot] - within * within / 2;
    }
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
    float distance[KNN_BLOCK], reached;
    const float *step = s->step + from, *error = s->error + from;
    const double *norm2 = s->norm2 + from;

    for (int64_t row = 0; row < members; row++) {
        for (int64_t c = 0; c < KNN_BLOCK; c++) {
            int32_t q = product[(c / KNN_PANEL * KNN_BLOCK + row) * KNN_PANEL + c % KNN_PANEL];
            double apart2 = norm2[row] + norm2[c] - 2.0 * step[row] * step[c] * q;

            distance[c] = (float) sqrt(apart2 > 0 ? apart2 : 0) + error[row] + error[c];
            distance[c] = c == row || c >= members || distance[c] > KNN_FARTHEST ? KNN_FARTHEST : distance[c];
        }
        reached = reached_by(distance, s->out->k) * (float) (1 + KNN_SLACK);
        if (reached < KNN_FARTHEST / 2 && reached < s->reach[from + row])
            s->reach[from + row] = reached;
    }
}

/* Hands pairs to the points within whose reach they are: the rows' or the columns'. */
static void meet_all(struct search *s, int64_t left, int64_t right, int count, int within,
                     struct workspace *w)
{
    pthread_mutex_t *lock = s->lock + (within == OF_ROW ? left : right);

    pthread_mutex_lock(lock);
    for (int h = 0; h < count; h++)
        if (w->near[h].within & within) {
            const struct near *near = w->near + h;
            int64_t i = left * KNN_BLOCK + near->row, j = right * KNN_BLOCK + near->column;

            knn_meet(s, within == OF_ROW ? i : j, within == OF_ROW ? j : i, near->low, near->high, w);
        }
    pthread_mutex_unlock(lock);
}

/* Computes the hits' distances between finely rounded rows, and keeps what is still within reach in w->near;
 * how many. */
static int refine(struct search *s, int64_t left, int64_t right, const struct knn_side *columns, int count,
                  struct workspace *w)
{
    const size_t rows = (size_t) left * KNN_BLOCK, others = (size_t) right * KNN_BLOCK;
    const size_t record = 2 * (size_t) s->frame.plane;
    const double finer = 1.0 / s->frame.fine;
    int kept = 0;

    s->kernel->refine(w->hits, count, &s->frame, s->record + rows * record, s->record + others * record,
                      s->fine_sum + rows, s->fine_sum + others, w->refined);
    for (int h = 0; h < count; h++) {
        int row = w->hits[h].row, column = w->hits[h].column;
        size_t i = rows + (size_t) row, j = others + (size_t) column;
        double product = w->hits[h].product + finer * (w->refined[h][0] + finer * w->refined[h][1]);
        double apart2 = s->fine_norm2[i] + s->fine_norm2[j] - 2.0 * s->step[i] * s->step[j] * product;
        double apart = sqrt(apart2 > 0 ? apart2 : 0), either = (double) s->fine_error[i] + s->fine_error[j];
        float low = (float) (apart * (1 - KNN_SLACK) - either * (1 + KNN_SLACK));
        int within = (low <= w->rows.reach[row]) * OF_ROW + (low <= columns->reach[column]) * OF_COLUMN;

        w->near[kept] = (struct near){low, (float) ((apart + either) * (1 + KNN_SLACK)), (uint8_t) row,
                                      (uint8_t) column, (uint8_t) within};
        kept += within != 0;
    }
    w->fine_distances += count;
    return kept;
}

/* Takes from a panel of products what is within reach. */
static void take_hits(struct search *s, int64_t left, int64_t right, const int32_t *product, int panel,
                      struct workspace *w)
{
    const struct knn_side *columns = left == right ? &w->rows : &w->columns;
    int count = s->kernel->scan(product, &w->rows, columns, panel * KNN_PANEL, left == right, w->hits);

    count = refine(s, left, right, columns, count, w);
    meet_all(s, left, right, count, OF_ROW, w);
    meet_all(s, left, right, count, OF_COLUMN, w);
}

/* Products of a block's rows with one of a block's panels of columns. */
static void multiply(struct search *s, int64_t left, int64_t right, int panel, int32_t *product)
{
    size_t bytes = (size_t) s->quads * 4 * KNN_PANEL,
           records = (size_t) KNN_PANEL * 2 * (size_t) s->frame.plane;
    int32_t start[KNN_BLOCK];

    for (int slot = 0; slot < KNN_BLOCK; slot++)
        start[slot] = -s->kernel->offset * s->sum[left * KNN_BLOCK + slot];
    s->kernel->multiply(product, start, s->packed + (size_t) left * KNN_PANELS * bytes,
                        s->packed + ((size_t) right * KNN_PANELS + (size_t) panel) * bytes, s->quads,
                        s->record + ((size_t) right * KNN_PANELS + (size_t) panel) * records, records);
}

/* A block with itself. */
static void start_block(void *arg, long block, int thread)
{
    struct search *s = arg;
    struct workspace *w = s->workspace + thread;

    for (int p = 0; p < KNN_PANELS; p++)
        multiply(s, block, block, p, w->product + p * KNN_BLOCK * KNN_PANEL);
    if (!s->group)
        first_reach(s, block, w->product);
    face(s, block, &w->rows);
    for (int p = 0; p < KNN_PANELS; p++)
        take_hits(s, block, block, w->product + p * KNN_BLOCK * KNN_PANEL, p, w);
}

/*
 * Unit u of the schedule: block u mod blocks with those a strip's distances behind it, round the clock; of an
 * even number, half the blocks have an opposite one to be compared with.
 */
static void compare_strip(void *arg, long unit, int thread)
{
    struct search *s = arg;
    struct workspace *w = s->workspace + thread;
    int64_t left = (s->first_unit + unit) % s->blocks, from = (s->first_unit + unit) / s->blocks * STRIP + 1;

    for (int64_t behind = from; behind < from + STRIP; behind++) {
        int64_t right = (left + behind) % s->blocks;

        if (2 * behind > s->blocks || (2 * behind == s->blocks && left >= behind))
            return;
        face(s, right, &w->columns);
        for (int p = 0; p < KNN_PANELS; p++) {
            face(s, left, &w->rows);
            multiply(s, left, right, p, w->product);
            take_hits(s, left, right, w->product, p, w);
        }
    }
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
    size_t n = (size_t) s->points->n, k = (size_t) s->out->k, rows;
    int threads = pool_threads(s->request->pool);

    s->blocks = (s->points->n + KNN_BLOCK - 1) / KNN_BLOCK;
    rows = (size_t) s->blocks * KNN_BLOCK;
    s->room = 2 * s->out->k > 48 ? 2 * s->out->k : 48;
    s->candidates = knn_memory(n * (size_t) s->room * sizeof *s->candidates);
    s->nearest = knn_memory(n * k * sizeof *s->nearest);
    s->count = calloc(n, sizeof *s->count);
    s->cutoff = malloc(n * sizeof *s->cutoff);
    s->reach = malloc(rows * sizeof *s->reach);
    s->lock = malloc((size_t) s->blocks * sizeof *s->lock);
    s->workspace = calloc((size_t) threads, sizeof *s->workspace);
    if (!s->candidates || !s->nearest || !s->count || !s->cutoff || !s->reach || !s->lock || !s->workspace)
        return -1;
    for (size_t i = 0; i < rows; i++)
        s->reach[i] = i < n ? INFINITY : 0;
    for (size_t i = 0; i < n; i++)
        s->cutoff[i] = INT32_MAX;
    for (size_t j = 0; j < n * k; j++)
        s->nearest[j] = INFINITY;
    for (int64_t b = 0; b < s->blocks; b++)
        pthread_mutex_init(s->lock + b, NULL);
    for (int t = 0; t < threads; t++) {
        struct workspace *w = s->workspace + t;

        w->to = malloc((size_t) s->room * sizeof *w->to);
        w->distance2 = malloc((size_t) s->room * sizeof *w->distance2);
        w->exact = malloc((size_t) s->room * sizeof *w->exact);
        if (!w->to || !w->distance2 || !w->exact)
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
        free(s->workspace[t].to);
        free(s->workspace[t].distance2);
        free(s->workspace[t].exact);
    }
    free((void *) s->frame.centre);
    free((void *) s->frame.factor);
    free(s->packed);
    free(s->record);
    free(s->norm2);
    free(s->fine_norm2);
    free(s->step);
    free(s->error);
    free(s->fine_error);
    free(s->length);
    free(s->base);
    free(s->sum);
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
    int64_t units = s->blocks * ((s->blocks / 2 + STRIP - 1) / STRIP);
    int64_t batch = (int64_t) (1e10 * pool_threads(s->request->pool) /
                               ((double) STRIP * KNN_BLOCK * KNN_BLOCK * (s->quads * 4 + 32))) +
                    1;

    pool_run(s->request->pool, s->blocks, start_block, s);
    for (s->first_unit = 0; s->first_unit < units; s->first_unit += batch) {
        int64_t left = units - s->first_unit;

        if (poll.stop && poll.stop(poll.arg))
            return -1;
        if (s->request->progress)
            s->request->progress((double) s->first_unit / (double) units, s->request->progress_arg);
        pool_run(s->request->pool, left < batch ? left : batch, compare_strip, s);
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
