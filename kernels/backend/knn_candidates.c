/*
 * Exact k-NN: the candidates of a point, and what becomes of them.  See knn_internal.h.
 */
#include "knn_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TINY 1e-30 /* added where float32 may underflow */

static float below(double distance)
{
    return (float) (distance * (1 - KNN_SLACK) - TINY);
}

static float above(double distance)
{
    return (float) (distance * (1 + KNN_SLACK) + TINY);
}

/* Takes an upper end of the distance of a point not met before. */
static void lower_reach(struct search *s, int64_t i, float high)
{
    int k = s->out->k;
    float *nearest = s->nearest + i * k;

    if (high >= nearest[k - 1])
        return;
    for (int j = k - 1; j > 0; j--) { /* without a branch: where it goes cannot be foretold */
        float larger = nearest[j - 1] > high ? nearest[j - 1] : high;

        nearest[j] = nearest[j] < larger ? nearest[j] : larger;
    }
    nearest[0] = nearest[0] < high ? nearest[0] : high;
    s->reach[i] = nearest[k - 1] < s->reach[i] ? nearest[k - 1] : s->reach[i];
}

static void drop_far(struct search *s, int64_t i)
{
    struct candidate *c = s->candidates + i * s->room;
    float reach = s->reach[i];
    int kept = 0;

    for (int j = 0; j < s->count[i]; j++) {
        c[kept] = c[j];
        kept += c[j].low <= reach;
    }
    s->count[i] = kept;
}

static int by_distance(const void *a, const void *b)
{
    const struct exact *x = a, *y = b;

    if (x->distance2 != y->distance2)
        return x->distance2 < y->distance2 ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

/* Exact distances of all candidates, sorted into w->exact. */
static void measure(struct search *s, int64_t i, struct workspace *w)
{
    const struct candidate *c = s->candidates + i * s->room;
    int count = s->count[i];

    for (int j = 0; j < count; j++)
        w->to[j] = c[j].index;
    s->kernel->distances2(s->points, i, w->to, count, w->distance2);
    for (int j = 0; j < count; j++)
        w->exact[j] = (struct exact){w->distance2[j], w->to[j]};
    w->exact_distances += count;
    qsort(w->exact, (size_t) count, sizeof *w->exact, by_distance);
}

/* Too many at nearly one distance: only the exact one, and the index, tell them apart. */
static void keep_exact(struct search *s, int64_t i, struct workspace *w)
{
    struct candidate *c = s->candidates + i * s->room;
    int k = s->out->k, last = 0;
    float *nearest = s->nearest + i * k;

    measure(s, i, w);
    for (int j = 0; j < k; j++) {
        double distance = sqrt(w->exact[j].distance2) / s->unit;

        c[j] = (struct candidate){below(distance), w->exact[j].index};
        nearest[j] = fminf(nearest[j], above(distance));
        last = w->exact[j].index > last ? w->exact[j].index : last;
    }
    s->count[i] = k;
    s->reach[i] = nearest[k - 1] < s->reach[i] ? nearest[k - 1] : s->reach[i];
    if (w->exact[k - 1].distance2 == 0)
        s->cutoff[i] = last;
}

void knn_meet(struct search *s, int64_t i, int64_t j, float low, float high, struct workspace *w)
{
    if (!(low <= s->reach[i]) || j > s->cutoff[i] || (s->group && s->group[i] == s->group[j]))
        return;
    if (s->count[i] == s->room) {
        drop_far(s, i);
        if (s->count[i] > s->room * 3 / 4)
            keep_exact(s, i, w);
    }
    s->candidates[i * s->room + s->count[i]++] = (struct candidate){low, (int32_t) j};
    lower_reach(s, i, high);
}

void knn_settle(struct search *s, int64_t i, struct workspace *w)
{
    int k = s->out->k;

    drop_far(s, i);
    measure(s, i, w);
    for (int j = 0; j < k; j++) {
        bool found = j < s->count[i];

        s->out->distance[i * k + j] =
            found ? tlaw_metric_distance(s->metric, w->exact[j].distance2) : INFINITY;
        s->out->index[i * k + j] = found ? w->exact[j].index : -1;
    }
}
