/*
 * What tlaw_cuda.so shows to the engine: one symbol, tlaw_cuda.  C, so that the registry (backend.c) needs no
 * CUDA header.
 */
#ifndef TLAW_CUDA_LIBRARY_H
#define TLAW_CUDA_LIBRARY_H

#include "../backend.h"

struct cuda_library {
    size_t table_size; /* sizeof(struct backend) that it was compiled with: a stale file is refused */
    /* How many devices the driver shows, at most BACKEND_GPUS_MOST; 0 and why when it shows none. */
    int (*count)(char *message, size_t message_size);
    void (*describe)(int ordinal, struct backend_device *out);
    /* NULL when there is no such precision.  no_memory: backend_no_memory, for all tables from here on. */
    const struct backend *(*find)(int ordinal, const char *precision, void (*no_memory)(const char *message));
};

extern __attribute__((visibility("default"))) const struct cuda_library tlaw_cuda;

#endif
