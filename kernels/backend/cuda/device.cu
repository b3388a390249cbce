/* The CUDA device: which there are, opening and closing; and the two tables of each device. */
#include "cuda.h"

#include <dlfcn.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utility>

#define LEAST_CAPABILITY 80 /* bf16 on tensor cores */
#ifndef CUBLASLT_LIBRARY
#define QUOTE(x)         #x
#define LIBRARY(major)   "libcublasLt.so." QUOTE(major)
#define CUBLASLT_LIBRARY LIBRARY(CUBLAS_VER_MAJOR)
#define TOOLKITS         "/usr/local/cuda*/lib64/" CUBLASLT_LIBRARY
#endif

void check(cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return;
    fprintf(stderr, "CUDA: %s: %s\n", what, cudaGetErrorString(error));
    fflush(stdout);
    _Exit(EXIT_FAILURE); /* other threads may be at work: no destructors of the driver's */
}

void (*no_memory)(const char *message);

/* ---- which there are ---- */

static int count(char *message, size_t message_size)
{
    int found = 0;
    cudaError_t error = cudaGetDeviceCount(&found);

    if (error == cudaSuccess && found > 0)
        return found < BACKEND_GPUS_MOST ? found : BACKEND_GPUS_MOST;
    snprintf(message, message_size, "%s",
             error == cudaErrorInsufficientDriver
                 ? "this machine has no NVIDIA driver, or one that is too old"
             : error != cudaSuccess ? cudaGetErrorString(error)
                                    : "the NVIDIA driver shows no device");
    return 0;
}

static void describe(int ordinal, struct backend_device *out)
{
    struct cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, ordinal);
    int driver = 0;

    *out = (struct backend_device){};
    snprintf(out->device, sizeof out->device, "cuda:%d", ordinal);
    if (error != cudaSuccess) {
        snprintf(out->unusable, sizeof out->unusable, "%s", cudaGetErrorString(error));
        return;
    }
    cudaDriverGetVersion(&driver);
    snprintf(out->isa, sizeof out->isa, "sm_%d%d", properties.major, properties.minor);
    snprintf(out->name, sizeof out->name, "%s (compute capability %d.%d, driver for CUDA %d.%d)",
             properties.name, properties.major, properties.minor, driver / 1000, driver % 1000 / 10);
    out->cores = properties.multiProcessorCount;
    out->memory = (int64_t) properties.totalGlobalMem;
    if (properties.major * 10 + properties.minor < LEAST_CAPABILITY)
        snprintf(out->unusable, sizeof out->unusable, "compute capability %d.%d, at least 8.0 is needed",
                 properties.major, properties.minor);
}

static int64_t free_memory(int ordinal)
{
    size_t left = 0, all = 0;

    check(cudaSetDevice(ordinal), "choosing a device");
    check(cudaMemGetInfo(&left, &all), "asking for free memory");
    return (int64_t) left;
}

/* ---- life ---- */

static void close_device(struct device *device)
{
    product_close(device);
    memory_close(device);
    std::lock_guard<std::mutex> turn(whole_device); /* cuBLASLt may wait for the GPU */
    if (device->products)
        cublasLtDestroy(device->products);
    if (device->stream)
        cudaStreamDestroy(device->stream);
    free(device);
}

/*
 * cuBLASLt is large, so it is not loaded with this library (to list devices) but when a device is opened: its
 * functions are bound when they are first called.  Looked for where the loader looks (LD_LIBRARY_PATH, where
 * nvcc was, the system), then in toolkits.  NULL: it is nowhere, and dlerror says so.
 */
static void *load_products(void)
{
    void *found = dlopen(CUBLASLT_LIBRARY, RTLD_NOW | RTLD_GLOBAL);
    glob_t toolkits = {};

    if (!found && glob(TOOLKITS, 0, NULL, &toolkits) == 0)
        for (size_t i = 0; i < toolkits.gl_pathc && !found; i++)
            found = dlopen(toolkits.gl_pathv[i], RTLD_NOW | RTLD_GLOBAL);
    globfree(&toolkits);
    return found ? found : dlopen(CUBLASLT_LIBRARY, RTLD_NOW | RTLD_GLOBAL);
}

/* 0, or -1 and a message. */
static int open_products(struct device *device, char *message, size_t message_size)
{
    cublasStatus_t status;

    if (!load_products()) {
        snprintf(message, message_size, "%s", dlerror());
        return -1;
    }
    {
        std::lock_guard<std::mutex> turn(whole_device);
        status = cublasLtCreate(&device->products);
    }
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    snprintf(message, message_size, "cuBLASLt: %s", cublasLtGetStatusString(status));
    return -1;
}

template <int ordinal> static struct device *open_device(int threads, char *message, size_t message_size)
{
    struct device *device = (struct device *) calloc(1, sizeof *device);
    cudaError_t error = cudaErrorMemoryAllocation;

    (void) threads;
    if (device && (error = cudaSetDevice(ordinal)) == cudaSuccess)
        error = cudaStreamCreateWithFlags(&device->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = memory_open(device);
    if (error == cudaSuccess && open_products(device, message, message_size) == 0)
        return device;
    if (error != cudaSuccess)
        snprintf(message, message_size, "cuda:%d: %s", ordinal, cudaGetErrorString(error));
    if (device)
        close_device(device);
    if (error == cudaErrorMemoryAllocation)
        errno = ENOMEM;
    return NULL;
}

/* The host computes nothing. */
static void set_threads(struct device *device, int threads)
{
    (void) device, (void) threads;
}

/* ---- the tables ---- */

template <int ordinal, class T>
static const struct backend table = {
    .name = "cuda",
    .precision = sizeof(T) == sizeof(float) ? "float32" : "bf16",
    .act_size = sizeof(T),
    .open = open_device<ordinal>,
    .close = close_device,
    .set_threads = set_threads,
    .alloc = alloc,
    .alloc_weights = alloc_weights<T>,
    .free = free_memory,
    .upload = upload,
    .download = download,
    .begin_download = begin_download,
    .end_download = end_download,
    .zero = zero,
    .act_to_real = act_to_real<T>,
    .repeat = repeat,
    .forget = forget,
    .side_by_side = nullptr, /* a GPU's threads share every operation */
    .add_lanes = nullptr,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .layernorm_forward = layernorm_forward<T>,
    .layernorm_backward = layernorm_backward,
    .linear_forward = linear_forward<T>,
    .linear_backward = linear_backward<T>,
    .attention_forward = attention_forward<T>,
    .attention_backward = attention_backward<T>,
    .attention_decode = attention_decode<T>,
    .cross_entropy = cross_entropy<T>,
    .logits = logits<T>,
    .add_losses = add_losses,
    .sum_squares = sum_squares,
    .adamw = adamw,
};

/* Tables carry no state, so each device has its own, whose open knows the number. */
template <int... ordinal>
static const struct backend *table_of(int wanted, bool exact, std::integer_sequence<int, ordinal...>)
{
    static const struct backend *const float32[] = {&table<ordinal, float>...};
    static const struct backend *const reduced[] = {&table<ordinal, bf16>...};

    return exact ? float32[wanted] : reduced[wanted];
}

static const struct backend *find(int ordinal, const char *precision, void (*report)(const char *message))
{
    bool exact = strcmp(precision, "float32") == 0;

    no_memory = report;
    if (!exact && strcmp(precision, "bf16") != 0)
        return NULL;
    return table_of(ordinal, exact, std::make_integer_sequence<int, BACKEND_GPUS_MOST>());
}

const struct cuda_library tlaw_cuda = {CUDA_LIBRARY_SIZE, count, describe, free_memory, find, knn_neighbours};
