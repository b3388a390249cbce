/* The part of the registry that knows GPUs; see backend.h. */
#ifndef TLAW_CUDA_FIND_H
#define TLAW_CUDA_FIND_H

#include "../backend.h"

/* backend_find for the device "cuda:N". */
const struct backend *cuda_find(const char *device, const char *isa, const char *precision, char *message,
                                size_t message_size);

#endif
