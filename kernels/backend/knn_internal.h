/*
 * What the files of the exact k-NN share: the state of a search.
 *
 * Lengths are in the frame's unit.  A point's reach is at least its k-th smallest distance and only falls.
 * Its candidates are the points met so far whose lower end of the distance is within reach; nearest holds the
 * k smallest upper ends, ascending, of distinct points met, and reach is at most the last of them.  A block's
 * points are changed under the block's lock.
 */
#ifndef TLAW_KNN_INTERNAL_H
#define TLAW_KNN_INTERNAL_H

#include "knn.h"

#include <pthread.h>

#define KNN_SLACK    1e-6  /* of float32 arithmetic in bounds, relative */
#define KNN_FARTHEST 1e17f /* farther is taken for everywhere; its square is far from float32's end */

struct candidate {
    float low; /* of the distance */
    int32_t index;
};

/* A pair that is still within reach of its row or column, and the ends of its distance. */
enum { OF_ROW = 1, OF_COLUMN = 2 };
struct near {
    float low, high;
    uint8_t row, column, within; /* whose reach: OF_ROW | OF_COLUMN */
};

struct exact {
    double distance2; /* as the points are given */
    int32_t index;
};

struct workspace {
    int32_t product[KNN_PANELS * KNN_BLOCK * KNN_PANEL];
    struct knn_hit hits[KNN_BLOCK * KNN_PANEL];
    int32_t refined[KNN_BLOCK * KNN_PANEL][2]; /* of the hits */
    struct near near[KNN_BLOCK * KNN_PANEL];
    struct knn_side rows, columns;
    float *row;          /* [plane] */
    int32_t *to;         /* [room] */
    double *distance2;   /* [room] */
    struct exact *exact; /* [room] */
    int64_t fine_distances, exact_distances;
};

struct search {
    const struct tlaw_points *points;
    enum tlaw_metric metric;
    const int32_t *group;
    struct tlaw_neighbours *out;
    const struct knn_kernel *kernel;
    struct knn_request *request;

    struct knn_frame frame;
    int quads; /* of four bytes in a packed row */
    int64_t blocks;
    double unit;                /* of length: so many in the points' own */
    int8_t *packed;             /* [blocks][KNN_PANELS][quads][KNN_PANEL][4] */
    int8_t *record;             /* [blocks * KNN_BLOCK][2][plane] */
    double *norm2, *fine_norm2; /* [blocks * KNN_BLOCK], as are these: see knn_rounded */
    float *step, *error, *fine_error, *length, *base;
    int32_t *sum, *fine_sum;

    struct candidate *candidates; /* [n][room] */
    float *nearest;               /* [n][k] */
    int32_t *count;
    float *reach;
    int32_t *cutoff; /* k neighbours at distance 0 with indices up to this are known: a higher index is out */
    int room;
    pthread_mutex_t *lock; /* [blocks] */

    struct workspace *workspace; /* one a thread */
    int64_t first_unit;          /* of the batch in progress */
};

/* Chooses the frame and rounds all points.  0, or -1: no memory. */
int knn_round_points(struct search *s);

/* Point i has met point j, at a distance between low and high. */
void knn_meet(struct search *s, int64_t i, int64_t j, float low, float high, struct workspace *w);
/* Writes the neighbours of point i, which has met all. */
void knn_settle(struct search *s, int64_t i, struct workspace *w);

/* Memory for a thread or for all: contents undefined, huge pages where they help. */
void *knn_memory(size_t bytes);

#endif
