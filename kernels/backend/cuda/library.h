/*
 * What tlaw_cuda.so shows to the engine: one symbol, tlaw_cuda.  C, so that the registry (backend.c) needs no
 * CUDA header.
 */
#ifndef TLAW_CUDA_LIBRARY_H
#define TLAW_CUDA_LIBRARY_H

#include "../../stats/dimension.h"
#include "../backend.h"

struct cuda_library {
    size_t size; /* CUDA_LIBRARY_SIZE that it was compiled with: a stale file is refused */
    /* How many devices the driver shows, at most BACKEND_GPUS_MOST; 0 and why when it shows none. */
    int (*count)(char *message, size_t message_size);
    void (*describe)(int ordinal, struct backend_device *out);
    int64_t (*free_memory)(int ordinal); /* bytes */
    /* NULL when there is no such precision.  no_memory: backend_no_memory, for all tables from here on. */
    const struct backend *(*find)(int ordinal, const char *precision, void (*no_memory)(const char *message));
    /*
     * The k nearest neighbours of every point, as tlaw_knn finds them, on an open device of any of the
     * tables; out->distance gets squared Euclidean distances of the scaled points.  progress (NULL: none)
     * hears the share that is done.
     */
    int (*neighbours)(struct device *, const struct tlaw_points *points, const int32_t *group,
                      struct tlaw_neighbours *out, struct tlaw_poll poll,
                      void (*progress)(double share, void *arg), void *progress_arg, char *message);
};

#define CUDA_LIBRARY_SIZE (sizeof(struct backend) + sizeof(struct cuda_library))

extern __attribute__((visibility("default"))) const struct cuda_library tlaw_cuda;

#endif
