/*
 * See knn.h.  Rounding, the schedule of block pairs, candidates and their exact distances.
 *
 * All lengths here are in units of the step s, except those named "distance" in the points' own units.  State
 * of a point: up to `room` candidates (index, low), where the distance is at least low - |e_i| and at most
 * low + 2 |e_j| + |e_i|; and reach, at least its k-th smallest distance plus |e_i|: a pair with low > reach
 * is out. reach only falls.  A block's state is changed under the block's lock.
 */
#include "knn.h"

#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LARGEST_DISTANCE2 (1 << 29)       /* of integers */
#define MISSING           ((1 << 30) - 1) /* the norm of a missing point: out of everybody's reach */
#define CLIPPED           0.01            /* share of points whose largest coordinate may be cut off */
#define CREST             4    /* largest of a row's rotated coordinates over their root mean square */
#define ROUNDING          2e-6 /* of float32 sums over a row, relative to its length */
#define BEYOND            1e12 /* a row this long in steps is not rounded: everybody may be its neighbour */
#define SLACK             1e-6 /* of float32 arithmetic in bounds, relative */
#define MEAN_ROWS         1024 /* whose mean is the centre: any centre will do */
#define SAMPLE_ROWS       512  /* looked at to choose the integers, from SAMPLE_QUERIES points */
#define SAMPLE_QUERIES    8
#define DENSE             4 /* candidates a neighbour from which 16 bits are worth their cost */
#define HUGE_PAGE         ((size_t) 2 << 20)
#define FLOAT_RANGE       1e15 /* coordinates whose squares float32 holds */

struct candidate {
    float low;
    int32_t index; /* ~index when low comes from float32: then the upper end follows from it, see high_end */
};

struct search {
    const struct tlaw_points *points;
    enum tlaw_metric metric;
    const int32_t *group;
    struct tlaw_neighbours *out;
    const struct knn_kernel *kernel;
    struct knn_request *request;

    const struct knn_product *product;
    int depth, turn; /* width of a prepared row; length of the rotated pieces, 1: none */
    int quads;       /* of four bytes in a packed row */
    int limit;       /* largest integer */
    int64_t blocks;
    double step;
    double *centre;                        /* [width] */
    double *height;                        /* [n] what the largest coordinate of a row is taken for */
    bool rough_is_exact;                   /* rows are not floats, or beyond their range */
    double rough_relative, rough_absolute; /* error of a float32 distance */
    int8_t *packed;                        /* [blocks][KNN_PANELS][quads][KNN_PANEL][4] */
    int32_t *norm, *sum; /* [blocks * KNN_BLOCK] of the integers' squares, and of the integers */
    float *error;        /* |e|; of missing points 0 */
    float *block_error;  /* [blocks] the largest */

    struct candidate *candidates; /* [n][room] */
    int32_t *count;
    float *reach;
    int32_t *cutoff; /* k neighbours at distance 0 with indices up to this are known: a higher index is out */
    int room;
    pthread_mutex_t *lock; /* [blocks] */
    pthread_mutexattr_t spinning;

    struct workspace *workspace; /* one a thread */
    int64_t first_unit;          /* of the batch in progress */
};

struct exact {
    double distance2;
    int32_t index;
};

struct workspace {
    int32_t product[KNN_BLOCK * KNN_BLOCK];
    struct knn_hit row_hits[KNN_BLOCK * KNN_BLOCK + 1], column_hits[KNN_BLOCK * KNN_BLOCK + 1];
    float *row;          /* [depth] */
    struct exact *exact; /* [room] */
    int64_t rough_distances, exact_distances;
};

/* Memory for a thread or for all: contents undefined, huge pages where they help. */
static void *aligned(size_t bytes)
{
    size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    void *memory;

    if (posix_memalign(&memory, alignment, (bytes + 63) / 64 * 64 + 64))
        return NULL;
    if (bytes >= HUGE_PAGE)
        madvise(memory, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return memory;
}

/* ------------------------------------------------ rounding
 * ------------------------------------------------------- */

static double coordinate(const struct tlaw_points *points, int64_t i, int c)
{
    int64_t at = i * points->width + c;

    return points->element_size == 4 ? (double) ((const float *) points->data)[at]
                                     : ((const double *) points->data)[at];
}

static double scale_of(const struct tlaw_points *points, int64_t i)
{
    return points->scale ? points->scale[i] : 1;
}

static void find_centre(struct search *s)
{
    const struct tlaw_points *points = s->points;
    int64_t rows = points->n < MEAN_ROWS ? points->n : MEAN_ROWS;

    for (int64_t r = 0; r < rows; r++) {
        int64_t i = r * points->n / rows;
        double scale = scale_of(points, i) / (double) rows;

        for (int c = 0; c < points->width; c++)
            s->centre[c] += scale * coordinate(points, i, c);
    }
}

static int64_t block_end(const struct search *s, int64_t block)
{
    return (block + 1) * KNN_BLOCK < s->points->n ? (block + 1) * KNN_BLOCK : s->points->n;
}

/* height of a block's rows: what rotation makes of the length, or the largest coordinate as it is */
static void measure_block(void *arg, long block, int thread)
{
    struct search *s = arg;
    int width = s->points->width;

    (void) thread;
    for (int64_t i = block * KNN_BLOCK; i < block_end(s, block); i++) {
        double scale = scale_of(s->points, i), length2 = 0, largest = 0;

        for (int c = 0; c < width; c++) {
            double y = scale * coordinate(s->points, i, c) - s->centre[c];

            length2 += y * y;
            largest = fabs(y) > largest ? fabs(y) : largest;
        }
        s->height[i] =
            s->turn > 1 ? fmin(largest * sqrt(s->turn), CREST * sqrt(length2 / s->depth)) : largest;
    }
}

/* A fixed random sign a coordinate. */
static float sign_of(int column)
{
    uint64_t z = ((uint64_t) column + 1) * 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    return z >> 63 ? -1 : 1;
}

/* Walsh-Hadamard transform of x[n], n a power of two from 64, times sqrt(n). */
static void hadamard(float *x, int n)
{
    for (int half = 1; half < 16; half *= 2)
        for (int from = 0; from < n; from += 2 * half)
            for (int i = from; i < from + half; i++) {
                float a = x[i], b = x[i + half];

                x[i] = a + b;
                x[i + half] = a - b;
            }
    for (int half = 16; half < n; half *= 2)
        for (int from = 0; from < n; from += 2 * half)
            for (int i = from; i < from + half; i += 16)
                for (int lane = i; lane < i + 16; lane++) {
                    float a = x[lane], b = x[lane + half];

                    x[lane] = a + b;
                    x[lane + half] = a - b;
                }
}

/* Row i centred, in steps, and rotated. */
static void prepare_row(const struct search *s, int64_t i, const float *sign, float *row)
{
    const struct tlaw_points *points = s->points;
    double unit = 1 / (s->step * sqrt(s->turn)), scale = scale_of(points, i) * unit;

    for (int c = 0; c < points->width; c++)
        row[c] = (float) (scale * coordinate(points, i, c) - s->centre[c] * unit) * sign[c];
    for (int c = points->width; c < s->depth; c++)
        row[c] = 0;
    for (int c = 0; s->turn > 1 && c < s->depth; c += s->turn)
        hadamard(row + c, s->turn);
}

/* Rounds a row into its place in the packed block; its norm, sum and error. */
static void pack_row(struct search *s, int64_t i, const float *row, int8_t *panel, int slot)
{
    int fours = s->product->fours;
    float error2 = 0, length2 = 0, limit = (float) s->limit;
    int32_t norm = 0, sum = 0;

    for (int c = 0; c < s->depth; c += fours) {
        int8_t *quad = panel + (c / fours * KNN_PANEL + slot) * 4;

        for (int j = 0; j < fours; j++) {
            float y = row[c + j], q = rintf(y < -limit ? -limit : y > limit ? limit : y), e = y - q;
            int32_t integer = (int32_t) q;

            error2 += e * e;
            length2 += y * y;
            norm += integer * integer;
            sum += integer;
            if (fours == 4)
                quad[j] = (int8_t) integer;
            else
                ((int16_t *) (void *) quad)[j] = (int16_t) integer;
        }
    }
    s->norm[i] = norm;
    s->sum[i] = sum;
    /* the sums themselves are off by a relative depth * 2^-24 at most */
    s->error[i] = (float) ((sqrt(error2) + ROUNDING * sqrt(length2)) * (1 + s->depth * 6e-8 + SLACK));
}

static void pack_block(void *arg, long block, int thread)
{
    struct search *s = arg;
    size_t panel = (size_t) s->quads * 4 * KNN_PANEL;
    float *row = s->workspace[thread].row, *sign = row + s->depth;

    memset(s->packed + (size_t) block * KNN_PANELS * panel, 0, KNN_PANELS * panel);
    for (int c = 0; c < s->depth; c++)
        sign[c] = s->turn > 1 ? sign_of(c) : 1;
    for (int slot = 0; slot < KNN_BLOCK; slot++) {
        int64_t i = block * KNN_BLOCK + slot;

        if (i >= s->points->n) {
            s->norm[i] = MISSING;
        } else if (s->height[i] > BEYOND * s->step) {
            s->error[i] = FLT_MAX / 16; /* its integers stay 0 */
        } else {
            prepare_row(s, i, sign, row);
            pack_row(s, i, row,
                     s->packed + ((size_t) block * KNN_PANELS + (size_t) (slot / KNN_PANEL)) * panel,
                     slot % KNN_PANEL);
        }
        s->block_error[block] = fmaxf(s->block_error[block], s->error[i]);
    }
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}

/* The largest coordinate that must fit: the highest row's, unless it is one of a few that stand out. */
static int usual_height(struct search *s, double *height)
{
    int64_t n = s->points->n;
    double *sorted = malloc((size_t) n * sizeof *sorted), usual, highest;

    if (!sorted)
        return -1;
    memcpy(sorted, s->height, (size_t) n * sizeof *sorted);
    qsort(sorted, (size_t) n, sizeof *sorted, by_size);
    usual = sorted[(int64_t) ((1 - CLIPPED) * (double) (n - 1))];
    highest = sorted[n - 1];
    free(sorted);
    *height = fmax(highest <= 2 * usual ? highest : usual > 0 ? usual : highest, DBL_MIN * 1e30);
    s->rough_is_exact = s->points->element_size == 8 || !(highest < FLOAT_RANGE) ||
                        !(highest > 1 / FLOAT_RANGE); /* nor do squares vanish */
    for (int c = 0; c < s->points->width; c++)
        s->rough_is_exact |= !(fabs(s->centre[c]) < FLOAT_RANGE);
    s->rough_relative =
        s->rough_is_exact ? 1e-14 * s->points->width : (s->points->width / 64.0 + 16) * 1.2e-7;
    s->rough_absolute = s->points->scale ? 4e-7 : 0; /* of unit rows, whose scaling is rounded too */
    return 0;
}

/* Integers of that kind, as large as their distances^2 allow. */
static void use_product(struct search *s, const struct knn_product *product, double height)
{
    s->product = product;
    s->limit = (int) fmin(product->limit, sqrt(LARGEST_DISTANCE2 / (4.0 * s->depth)));
    s->limit = s->limit < 1 ? 1 : s->limit;
    s->quads = s->depth / product->fours;
    s->step = height / s->limit;
}

/*
 * How many candidates a neighbour costs with integers of the present step, guessed from a few points'
 * distances to a sample: those within twice both errors of the distance to the neighbour that corresponds to
 * the k-th.
 */
static double candidates_each(struct search *s)
{
    int64_t n = s->points->n, sample = n < SAMPLE_ROWS ? n : SAMPLE_ROWS;
    int64_t rank = (int64_t) ((double) s->out->k * (double) sample / (double) n);
    double distance[SAMPLE_ROWS], margin = 4 * s->step * sqrt(s->depth / 12.0), ratio = 0;

    for (int64_t q = 0; q < SAMPLE_QUERIES; q++) {
        int64_t i = q * n / SAMPLE_QUERIES, within = 0;

        for (int64_t j = 0; j < sample; j++)
            distance[j] = sqrt(s->kernel->distance2(s->points, i, (j * n / sample + 1) % n));
        /* cppcheck-suppress uninitvar; n > 0 */
        qsort(distance, (size_t) sample, sizeof *distance, by_size);
        for (int64_t j = 0; j < sample; j++)
            within += distance[j] <= distance[rank + 1 < sample ? rank + 1 : sample - 1] + margin;
        ratio += (double) within / (double) (rank + 2) / SAMPLE_QUERIES;
    }
    return ratio;
}

static int round_points(struct search *s)
{
    double height;

    find_centre(s);
    pool_run(s->request->pool, s->blocks, measure_block, s);
    if (usual_height(s, &height))
        return -1;
    use_product(s, &s->kernel->coarse, height);
    if (s->request->bits == 16 || (s->request->bits == 0 && candidates_each(s) > DENSE))
        use_product(s, &s->kernel->fine, height);
    s->packed = aligned((size_t) s->blocks * KNN_BLOCK * (size_t) s->quads * 4);
    if (!s->packed)
        return -1;
    pool_run(s->request->pool, s->blocks, pack_block, s);
    return 0;
}

/* ------------------------------------------------ candidates
 * ---------------------------------------------------- */

/*
 * Permutes c[n] so that the first have the smallest low, and returns how many: k or a few more.  Halves the
 * range of low until it is there: counting has no branches to mispredict.
 */
static int select_smallest(struct candidate *c, int n, int k)
{
    float below = FLT_MAX, above = -FLT_MAX;
    int first = 0, count = n;

    for (int j = 0; j < n; j++) {
        below = c[j].low < below ? c[j].low : below;
        above = c[j].low > above ? c[j].low : above;
    }
    for (int halving = 0; halving < 24 && count > k + k / 8; halving++) {
        float middle = below + (above - below) / 2;
        int within = 0;

        for (int j = 0; j < n; j++)
            within += c[j].low <= middle;
        if (within >= k) {
            above = middle;
            count = within;
        } else {
            below = middle;
        }
    }
    for (int j = 0; j < n; j++) {
        struct candidate swap = c[j];
        bool small = swap.low <= above;

        c[j] = c[first];
        c[first] = swap;
        first += small;
    }
    return first;
}

static int keep_within(struct candidate *c, int from, int n, float reach)
{
    int kept = from;

    for (int j = from; j < n; j++)
        if (c[j].low <= reach)
            c[kept++] = c[j];
    return kept;
}

static int32_t index_of(struct candidate c)
{
    return c.index < 0 ? ~c.index : c.index;
}

/* The distance's upper end plus |e_i|. */
static float high_end(const struct search *s, int64_t i, struct candidate c)
{
    double low;

    if (c.index >= 0)
        return (c.low + 2 * (s->error[c.index] + s->error[i])) * (float) (1 + 2 * SLACK);
    low = (double) c.low * (1 + 2 * SLACK) - (double) s->error[i]; /* (1 - relative) d - absolute, undone */
    low = (low + s->rough_absolute / s->step) / (1 - s->rough_relative);
    low = low * (1 + s->rough_relative) + s->rough_absolute / s->step;
    return (float) ((low + (double) s->error[i]) * (1 + SLACK));
}

/*
 * Takes the distance in float32 in place of what the integers said: low becomes its lower end plus |e_i|, so
 * that it compares with reach as before.
 */
static void sharpen(struct search *s, int64_t i, struct candidate *c, struct workspace *w)
{
    double distance;

    if (c->index < 0)
        return;
    distance = s->rough_is_exact ? sqrt(s->kernel->distance2(s->points, i, c->index))
                                 : sqrt((double) s->kernel->rough2(s->points, i, c->index));
    distance = distance * (1 - s->rough_relative) - s->rough_absolute;
    c->low = (float) ((distance / s->step + (double) s->error[i]) * (1 - SLACK));
    c->index = ~c->index;
    w->rough_distances++;
}

/* Lowers reach to the upper end of the first `count` candidates, k or more. */
static void lower_reach(struct search *s, int64_t i, const struct candidate *c, int count)
{
    float highest = 0;

    for (int j = 0; j < count; j++)
        highest = fmaxf(highest, high_end(s, i, c[j]));
    s->reach[i] = fminf(s->reach[i], highest);
}

static void fetch_row(const struct search *s, struct candidate c)
{
    size_t row = (size_t) s->points->width * (size_t) s->points->element_size;
    const char *at = (const char *) s->points->data + (size_t) index_of(c) * row;

    for (size_t line = 0; line < row && line < 4096; line += 64)
        __builtin_prefetch(at + line);
}

#define FETCH_AHEAD 2

static void sharpen_range(struct search *s, int64_t i, struct candidate *c, int from, int to,
                          struct workspace *w)
{
    for (int j = from; j < to; j++) {
        if (j + 1 < to)
            fetch_row(s, c[j + 1]);
        sharpen(s, i, c + j, w);
    }
}

/* Puts the nearest candidates first, lowers reach to what they allow, drops those beyond it; how many are
 * first. */
static int drop_far(struct search *s, int64_t i)
{
    struct candidate *c = s->candidates + i * s->room;
    int first;

    if (s->count[i] < s->out->k)
        return s->count[i];
    first = select_smallest(c, s->count[i], s->out->k);
    lower_reach(s, i, c, first);
    s->count[i] = keep_within(c, 0, s->count[i], s->reach[i]);
    return first;
}

/* Float32 distances of the `first` candidates, k or more, which lower reach further; drops those then beyond
 * it. */
static void sharpen_nearest(struct search *s, int64_t i, int first, struct workspace *w)
{
    struct candidate *c = s->candidates + i * s->room;

    sharpen_range(s, i, c, 0, first, w);
    lower_reach(s, i, c, first);
    s->count[i] = keep_within(c, 0, s->count[i], s->reach[i]);
}

/* The same for all candidates that can still count. */
static void sharpen_all(struct search *s, int64_t i, int first, struct workspace *w)
{
    struct candidate *c = s->candidates + i * s->room;

    sharpen_nearest(s, i, first, w);
    sharpen_range(s, i, c, 0, s->count[i], w);
    drop_far(s, i);
}

static int by_distance(const void *a, const void *b)
{
    const struct exact *x = a, *y = b;

    if (x->distance2 != y->distance2)
        return x->distance2 < y->distance2 ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* Exact distances of all candidates, sorted into w->exact. */
static void settle(struct search *s, int64_t i, struct workspace *w)
{
    const struct candidate *c = s->candidates + i * s->room;

    for (int j = 0; j < s->count[i] && j < FETCH_AHEAD; j++)
        fetch_row(s, c[j]);
    for (int j = 0; j < s->count[i]; j++) {
        if (j + FETCH_AHEAD < s->count[i])
            fetch_row(s, c[j + FETCH_AHEAD]);
        w->exact[j] = (struct exact){s->kernel->distance2(s->points, i, index_of(c[j])), index_of(c[j])};
    }
    w->exact_distances += s->count[i];
    qsort(w->exact, (size_t) s->count[i], sizeof *w->exact, by_distance);
}

/* Too many at nearly one distance: only the exact one, and the index, tell them apart. */
static void keep_exact(struct search *s, int64_t i, struct workspace *w)
{
    struct candidate *c = s->candidates + i * s->room;
    int k = s->out->k, last = 0;

    settle(s, i, w);
    for (int j = 0; j < k; j++) {
        double low = sqrt(w->exact[j].distance2) / s->step + (double) s->error[i];

        c[j] = (struct candidate){(float) (low * (1 - SLACK)), w->exact[j].index};
        last = w->exact[j].index > last ? w->exact[j].index : last;
    }
    s->count[i] = k;
    if (w->exact[k - 1].distance2 == 0)
        s->cutoff[i] = last;
}

/* Makes room: lowers reach to what the candidates allow and drops those beyond it. */
static void shrink(struct search *s, int64_t i, struct workspace *w)
{
    int first = drop_far(s, i);

    if (s->count[i] > s->room / 2)
        sharpen_nearest(s, i, first, w);
    if (s->count[i] > s->room * 3 / 4)
        sharpen_all(s, i, drop_far(s, i), w);
    if (s->count[i] > s->room * 3 / 4)
        keep_exact(s, i, w);
}

static void add_candidate(struct search *s, int64_t i, int64_t j, int32_t distance2, struct workspace *w)
{
    float low = sqrtf((float) distance2) * (float) (1 - SLACK) - s->error[j];

    if (low > s->reach[i] || j > s->cutoff[i] || (s->group && s->group[i] == s->group[j]))
        return;
    if (s->count[i] == s->room)
        shrink(s, i, w);
    s->candidates[i * s->room + s->count[i]++] = (struct candidate){low, (int32_t) j};
}

/* ------------------------------------------------ pairs of blocks
 * ----------------------------------------------- */

/* The largest integer distance^2 at which a point of `block` may reach one of `other`. */
static void find_reach(struct search *s, int64_t block, int64_t other, int32_t *reach)
{
    for (int slot = 0; slot < KNN_BLOCK; slot++) {
        int64_t i = block * KNN_BLOCK + slot;
        float steps = (s->reach[i] + s->block_error[other]) * (float) (1 + 4 * SLACK);

        reach[slot] = i >= s->points->n                           ? -1
                      : steps * steps < (float) LARGEST_DISTANCE2 ? (int32_t) (steps * steps) + 1
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

    return s->blocks % 2 ? s->blocks * (half + 1)
                         : s->blocks * half + half; /* the last distance: each pair once */
}

/* The smallest integer (or little more) that k + 1 of a block's distances^2 do not exceed. */
static int32_t reached_by(const int32_t *distance2, int k)
{
    int32_t below = -1, above = LARGEST_DISTANCE2;

    for (int halving = 0; halving < 20; halving++) {
        int32_t middle = below + (above - below) / 2;
        int within = 0;

        for (int c = 0; c < KNN_BLOCK; c++)
            within += distance2[c] <= middle;
        if (within > k)
            above = middle;
        else
            below = middle;
    }
    return above;
}

/* A first reach for the points of a block from the distances among themselves, theirs to themselves included.
 */
static void first_reach(struct search *s, int64_t block, const int32_t *product, const int32_t *base)
{
    const int32_t *norm = s->norm + block * KNN_BLOCK;

    for (int64_t i = block * KNN_BLOCK; i < block_end(s, block); i++) {
        int32_t distance2[KNN_BLOCK], reached;
        int row = (int) (i - block * KNN_BLOCK);

        for (int c = 0; c < KNN_BLOCK; c++)
            distance2[c] = (int32_t) ((uint32_t) base[row] + (uint32_t) norm[c] -
                                      2u * (uint32_t) product[row * KNN_BLOCK + c]);
        reached = reached_by(distance2, s->out->k);
        if (reached < LARGEST_DISTANCE2)
            s->reach[i] =
                fminf(s->reach[i], (sqrtf((float) reached) + 2 * s->error[i] + s->block_error[block]) *
                                       (float) (1 + 4 * SLACK));
    }
}

static void compare_blocks(void *arg, long unit, int thread)
{
    struct search *s = arg;
    struct workspace *w = s->workspace + thread;
    int64_t left, right;
    int32_t base[KNN_BLOCK], reach_left[KNN_BLOCK], reach_right[KNN_BLOCK];
    size_t size = (size_t) KNN_BLOCK * (size_t) s->quads * 4;
    int rows, columns;

    pair_of(s, s->first_unit + unit, &left, &right);
    s->product->block(w->product, s->packed + (size_t) left * size, s->packed + (size_t) right * size,
                      s->quads);
    for (int slot = 0; slot < KNN_BLOCK; slot++)
        base[slot] =
            (int32_t) ((uint32_t) s->norm[left * KNN_BLOCK + slot] +
                       2u * (uint32_t) s->product->offset * (uint32_t) s->sum[left * KNN_BLOCK + slot]);
    pthread_mutex_lock(s->lock + left);
    if (left == right && !s->group)
        first_reach(s, left, w->product, base);
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
        add_candidate(s, right * KNN_BLOCK + w->column_hits[h].column,
                      left * KNN_BLOCK + w->column_hits[h].row, w->column_hits[h].distance2, w);
    pthread_mutex_unlock(s->lock + right);
}

static void finish_block(void *arg, long block, int thread)
{
    struct search *s = arg;
    struct workspace *w = s->workspace + thread;
    int k = s->out->k;

    for (int64_t i = block * KNN_BLOCK; i < block_end(s, block); i++) {
        int first = drop_far(s, i);

        if (s->count[i] > 2 * k)
            sharpen_all(s, i, first, w);
        settle(s, i, w);
        for (int j = 0; j < k; j++) {
            bool found = j < s->count[i];

            s->out->distance[i * k + j] =
                found ? tlaw_metric_distance(s->metric, w->exact[j].distance2) : INFINITY;
            s->out->index[i * k + j] = found ? w->exact[j].index : -1;
        }
    }
}

/* ------------------------------------------------ the whole
 * ----------------------------------------------------- */

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
    s->blocks = (s->points->n + KNN_BLOCK - 1) / KNN_BLOCK;
    s->room = 8 * k > 256 ? 8 * k : 256;
}

static int allocate(struct search *s)
{
    size_t rows = (size_t) s->blocks * KNN_BLOCK, n = (size_t) s->points->n;
    int threads = pool_threads(s->request->pool), status = 0;

    s->centre = calloc((size_t) s->points->width, sizeof *s->centre);
    s->height = malloc(n * sizeof *s->height);
    s->norm = calloc(rows, sizeof *s->norm);
    s->sum = calloc(rows, sizeof *s->sum);
    s->error = calloc(rows, sizeof *s->error);
    s->block_error = calloc((size_t) s->blocks, sizeof *s->block_error);
    s->candidates = aligned(n * (size_t) s->room * sizeof *s->candidates);
    s->count = calloc(n, sizeof *s->count);
    s->cutoff = malloc(n * sizeof *s->cutoff);
    s->reach = malloc(rows * sizeof *s->reach);
    s->lock = malloc((size_t) s->blocks * sizeof *s->lock);
    s->workspace = calloc((size_t) threads, sizeof *s->workspace);
    if (!s->centre || !s->height || !s->norm || !s->sum || !s->error || !s->block_error || !s->candidates ||
        !s->count || !s->cutoff || !s->reach || !s->lock || !s->workspace)
        return -1;
    for (size_t i = 0; i < rows; i++)
        s->reach[i] = INFINITY;
    for (size_t i = 0; i < n; i++)
        s->cutoff[i] = INT32_MAX;
    pthread_mutexattr_init(&s->spinning);
    pthread_mutexattr_settype(&s->spinning, PTHREAD_MUTEX_ADAPTIVE_NP); /* held for microseconds */
    for (int64_t b = 0; b < s->blocks; b++)
        pthread_mutex_init(s->lock + b, &s->spinning);
    for (int t = 0; t < threads; t++) {
        s->workspace[t].row = aligned(2 * (size_t) s->depth * sizeof(float)); /* and signs */
        s->workspace[t].exact = aligned((size_t) s->room * sizeof(struct exact));
        status |= s->workspace[t].row && s->workspace[t].exact ? 0 : -1;
    }
    return status;
}

static void release(struct search *s)
{
    for (int t = 0; s->workspace && t < pool_threads(s->request->pool); t++) {
        s->request->rough_distances += s->workspace[t].rough_distances;
        s->request->exact_distances += s->workspace[t].exact_distances;
        free(s->workspace[t].row);
        free(s->workspace[t].exact);
    }
    free(s->centre);
    free(s->height);
    free(s->packed);
    free(s->norm);
    free(s->sum);
    free(s->error);
    free(s->block_error);
    free(s->candidates);
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
    int64_t batch =
        (int64_t) (1e10 * pool_threads(s->request->pool) / ((double) KNN_BLOCK * KNN_BLOCK * s->quads * 4)) +
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
    choose_shape(&s);
    message[0] = '\0';
    s.request->rough_distances = s.request->exact_distances = 0;
    if (allocate(&s) || round_points(&s)) {
        snprintf(message, TLAW_DIMENSION_MESSAGE, "out of memory for the neighbours of %lld points",
                 (long long) points->n);
    } else {
        status = compare_all(&s, poll);
        if (!status)
            pool_run(s.request->pool, s.blocks, finish_block, &s);
    }
    release(&s);
    return status;
}

/* ------------------------------------------------ instruction sets
 * ---------------------------------------------- */

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
