/* The part of the registry that knows GPUs; see backend.h. */
#ifndef TLAW_CUDA_FIND_H
#define TLAW_CUDA_FIND_H

#include "../../stats/dimension.h"
#include "../backend.h"

/* backend_find for the device "cuda:N". */
const struct backend *cuda_find(const char *device, const char *isa, const char *precision, char *message,
                                size_t message_size);

/* The last argument of cuda_knn. */
struct cuda_knn_request {
    struct device *device;                     /* of a backend that cuda_find found, open */
    void (*progress)(double share, void *arg); /* NULL: none */
    void *progress_arg;
};

/* knn_exact (../knn.h) on a GPU: the same bits.  Stops within a fraction of a second. */
tlaw_knn cuda_knn;

#endif
