/*
 * Exact k-NN: the frame (centre, unit of length, rotation) and the rounding of all points.  See knn.h.
 *
 * Any frame gives the right answer; a good one gives it fast.  So the centre and the unit come from a sample,
 * less its farthest rows, which may be no points of the kind at all.
 */
#include "knn_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LARGEST_SUM   (1 << 29) /* of products of integers */
#define MISSING       1e37F     /* the base of a missing point: out of everybody's reach */
#define SAMPLE_ROWS   256
#define SAMPLE_KEPT   (SAMPLE_ROWS * 7 / 8)
#define LARGEST_UNIT  1e160  /* in which what squares lose to underflow is still a number */
#define UNDERFLOW     1e-155 /* the loss in a float64 distance */
#define UNIT_ROW_LOSS 4e-15  /* of rows scaled to length 1: their rounding, and DISTANCE_PARALLEL */

static double coordinate(const struct tlaw_points *points, int64_t i, int c)
{
    int64_t at = i * points->width + c;

    return points->element_size == 4 ? (double) ((const float *) points->data)[at]
                                     : ((const double *) points->data)[at];
}

struct sampled {
    int64_t index;
    double length2; /* from the centre */
};

static int by_length(const void *a, const void *b)
{
    const struct sampled *x = a, *y = b;

    return (x->length2 > y->length2) - (x->length2 < y->length2);
}

static void mean_of(const struct tlaw_points *points, const struct sampled *sample, int count, double *centre)
{
    memset(centre, 0, sizeof *centre * (size_t) points->width);
    for (int r = 0; r < count; r++) {
        double weight = (points->scale ? points->scale[sample[r].index] : 1) / count;

        for (int c = 0; c < points->width; c++)
            centre[c] += weight * coordinate(points, sample[r].index, c);
    }
}

static void sort_by_length(const struct tlaw_points *points, struct sampled *sample, int count,
                           const double *centre)
{
    for (int r = 0; r < count; r++) {
        double scale = points->scale ? points->scale[sample[r].index] : 1;

        sample[r].length2 = 0;
        for (int c = 0; c < points->width; c++) {
            double y = scale * coordinate(points, sample[r].index, c) - centre[c];

            sample[r].length2 += y * y;
        }
    }
    qsort(sample, (size_t) count, sizeof *sample, by_length);
}

/* Centre and unit: the mean and the median distance from it. */
static void find_centre(struct search *s, double *centre)
{
    const struct tlaw_points *points = s->points;
    int count = (int) (points->n < SAMPLE_ROWS ? points->n : SAMPLE_ROWS);
    struct sampled sample[SAMPLE_ROWS];
    double length;

    for (int r = 0; r < count; r++)
        sample[r].index = r * points->n / count;
    mean_of(points, sample, count, centre);
    sort_by_length(points, sample, count, centre);
    mean_of(points, sample, count < SAMPLE_KEPT ? count : SAMPLE_KEPT, centre);
    sort_by_length(points, sample, count, centre);
    length = sqrt(sample[count / 2].length2);
    length = length > 0 ? length : sqrt(sample[count - 1].length2);
    s->unit = fmin(fmax(length, 1 / LARGEST_UNIT), LARGEST_UNIT);
}

/* A fixed random sign a coordinate. */
static double sign_of(int column)
{
    uint64_t z = ((uint64_t) column + 1) * 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    return z >> 63 ? -1 : 1;
}

static int choose_frame(struct search *s)
{
    int width = s->points->width;
    struct knn_frame *frame = &s->frame;
    double *centre = malloc(sizeof *centre * (size_t) width),
           *factor = malloc(sizeof *factor * (size_t) width);

    frame->centre = centre;
    frame->factor = factor;
    if (!centre || !factor)
        return -1;
    frame->plane = (width + 63) / 64 * 64;
    frame->turn = width < 64 ? 1 : frame->plane & -frame->plane;
    frame->turn = frame->turn > 1024 ? 1024 : frame->turn;
    frame->limit = (int) fmin(s->kernel->limit, sqrt(LARGEST_SUM / (4.0 * frame->plane)));
    frame->limit = frame->limit < 1 ? 1 : frame->limit;
    frame->fine = 2 * (int) fmin(128, sqrt(LARGEST_SUM / (double) frame->plane));
    find_centre(s, centre);
    for (int c = 0; c < width; c++)
        factor[c] = (frame->turn > 1 ? sign_of(c) : 1) / (s->unit * sqrt(frame->turn));
    frame->absolute = (UNDERFLOW + (s->points->scale ? UNIT_ROW_LOSS : 0)) / s->unit;
    s->quads = width < 64 ? (width + 3) / 4 : frame->plane / 4;
    return 0;
}

/* Puts the q of a block's records into its panels. */
static void pack(const struct search *s, int64_t block)
{
    size_t plane = (size_t) s->frame.plane;
    const int8_t *record = s->record + (size_t) block * KNN_BLOCK * 2 * plane;
    int8_t *panel = s->packed + (size_t) block * KNN_BLOCK * (size_t) s->quads * 4;

    for (int slot = 0; slot < KNN_BLOCK; slot++) {
        const int8_t *from = record + (size_t) slot * 2 * plane;
        int8_t *to = panel + (slot / KNN_PANEL * KNN_PANEL * s->quads + slot % KNN_PANEL) * 4;

        for (int quad = 0; quad < s->quads; quad++, from += 4, to += 4 * KNN_PANEL)
            memcpy(to, from, 4);
    }
}

static void round_block(void *arg, long block, int thread)
{
    struct search *s = arg;

    for (int64_t i = block * KNN_BLOCK; i < (block + 1) * KNN_BLOCK; i++) {
        int8_t *record = s->record + (size_t) i * 2 * (size_t) s->frame.plane;

        struct knn_rounded rounded = {.base = MISSING};

        memset(record, 0, 2 * (size_t) s->frame.plane);
        if (i < s->points->n)
            s->kernel->round(s->points, i, &s->frame, s->workspace[thread].row, record, &rounded);
        s->norm2[i] = rounded.norm2;
        s->fine_norm2[i] = rounded.fine_norm2;
        s->step[i] = rounded.step;
        s->error[i] = fminf(rounded.error, KNN_FARTHEST);
        s->fine_error[i] = rounded.fine_error;
        s->length[i] = fminf(rounded.length, KNN_FARTHEST);
        s->base[i] = rounded.base;
        s->sum[i] = rounded.sum;
        s->fine_sum[i] = rounded.fine_sum;
    }
    pack(s, block);
}

int knn_round_points(struct search *s)
{
    size_t rows = (size_t) s->blocks * KNN_BLOCK;

    if (choose_frame(s))
        return -1;
    s->packed = knn_memory(rows * (size_t) s->quads * 4);
    s->record = knn_memory(rows * 2 * (size_t) s->frame.plane);
    s->norm2 = malloc(rows * sizeof *s->norm2);
    s->fine_norm2 = malloc(rows * sizeof *s->fine_norm2);
    s->step = malloc(rows * sizeof *s->step);
    s->error = malloc(rows * sizeof *s->error);
    s->fine_error = malloc(rows * sizeof *s->fine_error);
    s->length = malloc(rows * sizeof *s->length);
    s->base = malloc(rows * sizeof *s->base);
    s->sum = malloc(rows * sizeof *s->sum);
    s->fine_sum = malloc(rows * sizeof *s->fine_sum);
    for (int t = 0; t < pool_threads(s->request->pool); t++) {
        s->workspace[t].row = knn_memory((size_t) s->frame.plane * sizeof(float));
        if (!s->workspace[t].row)
            return -1;
    }
    if (!s->packed || !s->record || !s->norm2 || !s->fine_norm2 || !s->step || !s->error || !s->fine_error ||
        !s->length || !s->base || !s->sum || !s->fine_sum)
        return -1;
    pool_run(s->request->pool, s->blocks, round_block, s);
    return 0;
}
