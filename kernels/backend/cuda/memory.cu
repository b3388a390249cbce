/*
 * Device memory, scratch, weights with their bf16 copy, and copies between host and device.
 *
 * A small copy goes through pinned memory: upload returns at once, and where the host must wait it polls, so
 * that a signal is taken and a thread with nothing to do sleeps.
 */
#include "cuda.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SPINS          500 /* polls before a wait sleeps between them: a fraction of a millisecond */
#define NAP_NANOSECOND 20000

std::mutex whole_device;

/* Pinned memory with the event of its last copy. */
static cudaError_t pin(void **memory, cudaEvent_t *done, size_t bytes)
{
    cudaError_t error = cudaEventCreateWithFlags(done, cudaEventDisableTiming);

    return error == cudaSuccess ? cudaHostAlloc(memory, bytes, cudaHostAllocDefault) : error;
}

static void unpin(void *memory, cudaEvent_t done)
{
    if (memory)
        cudaFreeHost(memory);
    if (done)
        cudaEventDestroy(done);
}

cudaError_t memory_open(struct device *device)
{
    std::lock_guard<std::mutex> turn(whole_device);
    cudaError_t error = cudaSuccess;

    for (auto &stage : device->stages)
        if (error == cudaSuccess)
            error = pin(&stage.memory, &stage.done, STAGE_BYTES);
    for (auto &landing : device->landings)
        if (error == cudaSuccess)
            error = pin(&landing.memory, &landing.done, DOWNLOAD_AHEAD);
    return error;
}

void memory_close(struct device *device)
{
    std::lock_guard<std::mutex> turn(whole_device);

    for (auto &buffer : device->scratch)
        cudaFree(buffer.memory); /* waits for the device */
    for (auto &stage : device->stages)
        unpin(stage.memory, stage.done);
    for (auto &landing : device->landings)
        unpin(landing.memory, landing.done);
}

/* ---- waiting ---- */

static void wait_for(cudaEvent_t event)
{
    const struct timespec nap = {0, NAP_NANOSECOND};
    cudaError_t error;

    for (int polls = 0; (error = cudaEventQuery(event)) == cudaErrorNotReady; polls++)
        if (polls < SPINS)
            sched_yield();
        else
            nanosleep(&nap, NULL);
    check(error, "waiting for the device");
}

void settle(struct device *device)
{
    struct stage *stage = &device->stages[device->staged++ % STAGES];

    check(cudaEventRecord(stage->done, device->stream), "waiting for the device");
    wait_for(stage->done);
}

/* The stage whose turn it is, when its last copy is done.  A recording would repeat a copy of old contents.
 */
static struct stage *next_stage(struct device *device)
{
    struct stage *stage = &device->stages[device->staged++ % STAGES];

    if (device->recording)
        check(cudaErrorStreamCaptureUnsupported, "a copy between host and device");
    wait_for(stage->done);
    return stage;
}

/* ---- scratch ---- */

/* False when there is not enough; there is none then. */
static bool regrow(struct scratch_memory *buffer, size_t bytes)
{
    std::lock_guard<std::mutex> turn(whole_device);

    check(cudaFree(buffer->memory), "giving scratch memory back");
    *buffer = {};
    if (cudaMalloc(&buffer->memory, bytes) != cudaSuccess) {
        (void) cudaGetLastError(); /* forgets it: the engine is told */
        buffer->memory = NULL;
        return false;
    }
    buffer->size = bytes;
    return true;
}

void *scratch(struct device *device, enum scratch which, size_t bytes)
{
    struct scratch_memory *buffer = &device->scratch[which];

    if (buffer->size < bytes) {
        if (device->recording)
            check(cudaErrorMemoryAllocation, "scratch that grows while operations are recorded");
        device->moves++;
        if (!regrow(buffer, bytes)) {
            char message[100];

            snprintf(message, sizeof message, "out of memory: %zu bytes of scratch on the GPU", bytes);
            no_memory(message); /* may leave by longjmp: no lock is held here */
        }
    }
    return buffer->memory;
}

/* ---- memory ---- */

void *alloc(struct device *device, size_t bytes)
{
    std::lock_guard<std::mutex> turn(whole_device);
    void *memory = NULL;

    if (cudaMalloc(&memory, bytes ? bytes : 1) != cudaSuccess) {
        (void) cudaGetLastError(); /* forgets it: the caller is told */
        errno = ENOMEM;
        return NULL;
    }
    check(cudaMemsetAsync(memory, 0, bytes, device->stream), "clearing memory");
    return memory;
}

template <> real *alloc_weights<float>(struct device *device, size_t n)
{
    return (real *) alloc(device, n * sizeof(real));
}

template <> real *alloc_weights<bf16>(struct device *device, size_t n)
{
    struct weights *weights = (struct weights *) calloc(1, sizeof *weights);

    if (!weights)
        return NULL;
    weights->n = n;
    weights->at = (real *) alloc(device, n * sizeof(real));
    weights->copy = weights->at ? (uint16_t *) alloc(device, n * sizeof(bf16)) : NULL;
    if (!weights->copy) {
        free_memory(device, weights->at);
        free(weights);
        return NULL;
    }
    weights->next = device->weights;
    device->weights = weights;
    return weights->at;
}

bf16 *weights_copy(struct device *device, const real *w)
{
    return (bf16 *) weights_find_copy(device->weights, w);
}

void free_memory(struct device *device, void *memory)
{
    struct weights **link = weights_find(&device->weights, memory), *block = *link;
    std::lock_guard<std::mutex> turn(whole_device);

    if (block) {
        *link = block->next;
        check(cudaFree(block->copy), "giving memory back");
        free(block);
    }
    check(cudaFree(memory), "giving memory back");
}

/* ---- copies ---- */

void upload(struct device *device, void *to, const void *from, size_t bytes)
{
    bf16 *copy = weights_copy(device, (const real *) to);
    struct stage *stage = next_stage(device);

    if (bytes <= STAGE_BYTES) {
        memcpy(stage->memory, from, bytes);
        check(cudaMemcpyAsync(to, stage->memory, bytes, cudaMemcpyHostToDevice, device->stream),
              "copying to the device");
        check(cudaEventRecord(stage->done, device->stream), "copying to the device");
    } else {
        /* from pageable memory it returns when the source has been read */
        check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, device->stream),
              "copying to the device");
    }
    if (copy)
        real_to_bf16(device, copy, (const real *) to, bytes / sizeof(real));
}

void download(struct device *device, void *to, const void *from, size_t bytes)
{
    struct stage *stage = next_stage(device);
    bool small = bytes <= STAGE_BYTES;

    if (small)
        check(cudaMemcpyAsync(stage->memory, from, bytes, cudaMemcpyDeviceToHost, device->stream),
              "copying from the device");
    check(cudaEventRecord(stage->done, device->stream), "copying from the device");
    wait_for(stage->done);
    if (small) {
        memcpy(to, stage->memory, bytes);
        return;
    }
    /* to pageable memory it returns when the copy is done */
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, device->stream),
          "copying from the device");
    check(cudaStreamSynchronize(device->stream), "copying from the device");
}

void begin_download(struct device *device, void *to, const void *from, size_t bytes)
{
    struct landing *landing = &device->landings[device->begun++ % LANDINGS];

    if (device->recording)
        check(cudaErrorStreamCaptureUnsupported, "a copy between host and device");
    landing->to = to;
    landing->bytes = bytes;
    check(cudaMemcpyAsync(landing->memory, from, bytes, cudaMemcpyDeviceToHost, device->stream),
          "copying from the device");
    check(cudaEventRecord(landing->done, device->stream), "copying from the device");
}

void end_download(struct device *device)
{
    struct landing *landing = &device->landings[device->ended++ % LANDINGS];

    wait_for(landing->done);
    memcpy(landing->to, landing->memory, landing->bytes);
}

void zero(struct device *device, void *to, size_t bytes)
{
    check(cudaMemsetAsync(to, 0, bytes, device->stream), "clearing memory");
}
