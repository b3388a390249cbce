/*
 * Loads tlaw_cuda.so, and finds devices and tables in it.
 *
 * Invariants: nothing of CUDA is loaded before somebody asks for a GPU or for the list of them; the library
 * is the one beside the program and was compiled with the same table, or there is none, with the reason.
 */
#include "cuda_find.h"
#include "library.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The library of that path, or NULL and a message. */
static const struct cuda_library *load(const char *path, char *message, size_t message_size)
{
    const struct cuda_library *library;
    void *handle;

    if (access(path, R_OK) != 0) {
        snprintf(message, message_size, "this tlaw was built without CUDA (there is no %.200s)", path);
        return NULL;
    }
    /* the driver's queues: with the usual 8, streams of more runs wait for each other; not if the user says
     */
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
    handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
    library = handle ? dlsym(handle, "tlaw_cuda") : NULL;
    if (!library)
        snprintf(message, message_size, "%.300s", dlerror());
    else if (library->size != CUDA_LIBRARY_SIZE) {
        snprintf(message, message_size, "%.200s is of another version of tlaw", path);
        library = NULL;
    }
    return library;
}

/* The library, loaded once; NULL and why not. */
static const struct cuda_library *cuda_library(char *message, size_t message_size)
{
    static const struct cuda_library *library;
    static char why[512];
    char path[PATH_MAX + 20];
    ssize_t length;

    if (!library && !why[0]) {
        length = readlink("/proc/self/exe", path, PATH_MAX);
        path[length < 0 ? 0 : length] = 0;
        strcpy(strrchr(path, '/') ? strrchr(path, '/') + 1 : path, "tlaw_cuda.so");
        library = load(path, why, sizeof why);
    }
    if (!library)
        snprintf(message, message_size, "%s", why);
    return library;
}

int backend_gpus(struct backend_device list[BACKEND_GPUS_MOST], char *message, size_t message_size)
{
    const struct cuda_library *library = cuda_library(message, message_size);
    int count = library ? library->count(message, message_size) : 0;

    for (int i = 0; i < count; i++)
        library->describe(i, &list[i]);
    return count;
}

int64_t backend_gpu_memory(const char *device)
{
    char why[512];
    const struct cuda_library *library = cuda_library(why, sizeof why);

    return library ? library->free_memory(atoi(device + strlen("cuda:"))) : 0;
}

const struct backend *cuda_find(const char *device, const char *isa, const char *precision, char *message,
                                size_t message_size)
{
    struct backend_device list[BACKEND_GPUS_MOST];
    char why[512];
    int count = backend_gpus(list, why, sizeof why), i = 0;
    const struct backend *backend;

    while (i < count && strcmp(list[i].device, device) != 0)
        i++;
    if (i == count) {
        if (count)
            snprintf(why, sizeof why, "this machine has cuda:0 to cuda:%d", count - 1);
        snprintf(message, message_size, "device \"%.60s\" is not available: %s", device, why);
        return NULL;
    }
    if (list[i].unusable[0]) {
        snprintf(message, message_size, "device \"%.60s\" is not usable: %s", device, list[i].unusable);
        return NULL;
    }
    if (isa[0] && strcmp(isa, list[i].isa) != 0) {
        snprintf(message, message_size, "instruction set \"%.60s\" is not that of %.60s, \"%s\"", isa, device,
                 list[i].isa);
        return NULL;
    }
    backend = cuda_library(why, sizeof why)->find(i, precision, backend_no_memory);
    if (!backend)
        snprintf(message, message_size,
                 "precision \"%.60s\" is not known on %.60s; \"float32\" and \"bf16\" are", precision,
                 device);
    return backend;
}

int cuda_knn(const struct tlaw_points *points, enum tlaw_metric metric, const int32_t *group,
             struct tlaw_neighbours *out, struct tlaw_poll poll, void *arg, char *message)
{
    struct cuda_knn_request *request = arg;
    const struct cuda_library *library = cuda_library(message, TLAW_DIMENSION_MESSAGE);

    if (!library || library->neighbours(request->device, points, group, out, poll, request->progress,
                                        request->progress_arg, message))
        return -1;
    for (int64_t i = 0; i < out->n * out->k; i++)
        if (out->index[i] >= 0)
            out->distance[i] = tlaw_metric_distance(metric, out->distance[i]);
    return 0;
}
