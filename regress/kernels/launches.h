/*
 * Launches of one block, for tests of kernels that are compiled with them: what it makes of some words, and
 * what it says when it ends the process, as regress/cuda_shim and regress/ptx do.
 */
#ifndef LAUNCHES_H
#define LAUNCHES_H

#include "tap.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 1024

typedef uint32_t word;
typedef void kernel(word *out, const word *in);

static inline void check(cudaError_t error)
{
    if (error == cudaSuccess)
        return;
    printf("Bail out! %s\n", cudaGetErrorString(error));
    exit(1);
}

/* out[MOST] = what the threads make of in[MOST] */
static inline void run(kernel *k, word *out, const word *in, unsigned threads = 32)
{
    cudaLaunchConfig_t config = {};
    word *device_in, *device_out;

    config.gridDim = 1;
    config.blockDim = threads;
    check(cudaStreamCreateWithFlags(&config.stream, cudaStreamNonBlocking));
    check(cudaMalloc((void **) &device_in, MOST * sizeof(word)));
    check(cudaMalloc((void **) &device_out, MOST * sizeof(word)));
    check(cudaMemcpyAsync(device_in, in, MOST * sizeof(word), cudaMemcpyHostToDevice, config.stream));
    check(cudaLaunchKernelEx(&config, k, device_out, (const word *) device_in));
    check(cudaMemcpyAsync(out, device_out, MOST * sizeof(word), cudaMemcpyDeviceToHost, config.stream));
    check(cudaStreamSynchronize(config.stream));
    check(cudaFree(device_in));
    check(cudaFree(device_out));
    check(cudaStreamDestroy(config.stream));
}

/* The kernel ends the process, saying `message`. */
static inline void check_refusal(kernel *k, const char *message, unsigned threads = 32)
{
    char said[1000] = "";
    word words[MOST] = {};
    ssize_t length;
    int ends[2], status;

    if (pipe(ends) < 0)
        exit(1);
    if (fork() == 0) {
        dup2(ends[1], STDERR_FILENO);
        run(k, words, words, threads);
        _exit(0);
    }
    close(ends[1]);
    length = read(ends[0], said, sizeof said - 1);
    close(ends[0]);
    wait(&status);
    ok(WIFSIGNALED(status) && length > 0 && strstr(said, message), "ends the process: %s", message);
}

#endif
