/*
 * A set of points on its way to an answer: gathered row by row, kept in memory or in a temporary file, and
 * asked questions, in this process when they are small and of an engine when they are not.
 */
#ifndef TLAW_POINTS_H
#define TLAW_POINTS_H

#include "engine_client.h"

#include "../kernels/stats/dimension.h"
#include "utils/array.h"

struct point_set {
    MemoryContext context; /* everything below lives and dies with it, the file too */
    int64 n;
    int width, element_size; /* 0 until the first point */
    char *buffer;            /* the last rows */
    Size used, capacity;
    int fd;         /* the rows before them, or -1 */
    int32 *cluster; /* one a point when clusters are given, else NULL */
    int64 cluster_capacity;
};

extern struct point_set *point_set_create(MemoryContext context);
/* A real[] or float8[] without nulls, of finite values, as wide as those before it; the error numbers the
 * point. */
extern void point_set_add_array(struct point_set *set, ArrayType *array);
/* A row of floats; finite or an error. */
extern void point_set_add_floats(struct point_set *set, const float *row, int width);
/* The cluster (0, 1, ...) of the point added last; for all points or for none. */
extern void point_set_cluster(struct point_set *set, int32 cluster);

/*
 * Answers questions about a set, which must not be added to afterwards.  questions: about how many there will
 * be, to choose where to compute.
 */
struct asker;
extern struct asker *asker_open(struct point_set *set, int questions);
extern void asker_ask(struct asker *asker, const struct tlaw_question *question,
                      struct tlaw_dimension *answer);
extern void asker_close(struct asker *asker);

#endif
