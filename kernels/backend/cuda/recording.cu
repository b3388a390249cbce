/*
 * Sequences of operations as CUDA graphs.
 *
 * The first call of a recording is plain: it sizes scratch, chooses algorithms and loads kernels, none of
 * which a stream may do while it is captured.  The second captures, and from then on a call is one launch.
 * A graph holds addresses of scratch; when that has moved since, the sequence is captured again.
 */
#include "cuda.h"

#include <stdlib.h>

struct recording {
    cudaGraphExec_t graph; /* NULL before the second call */
    uint64_t moves;        /* the device's when it was captured */
};

/* Once it is not under way any more. */
static void destroy(struct device *device, struct recording *recording)
{
    if (!recording->graph)
        return;
    settle(device);
    check(cudaGraphExecDestroy(recording->graph), "forgetting a graph");
    recording->graph = NULL;
}

static void capture(struct device *device, struct recording *recording, void (*body)(void *arg), void *arg)
{
    destroy(device, recording);
    std::lock_guard<std::mutex> turn(whole_device);
    cudaGraph_t graph;

    recording->moves = device->moves;
    /* of this thread: others may allocate and launch meanwhile */
    check(cudaStreamBeginCapture(device->stream, cudaStreamCaptureModeThreadLocal), "recording a graph");
    device->recording = true;
    body(arg);
    device->recording = false;
    check(cudaStreamEndCapture(device->stream, &graph), "recording a graph");
    check(cudaGraphInstantiate(&recording->graph, graph, 0), "making a graph");
    check(cudaGraphDestroy(graph), "forgetting a graph");
}

void repeat(struct device *device, struct recording **slot, void (*body)(void *arg), void *arg)
{
    struct recording *recording = *slot;

    if (!recording) {
        recording = *slot = (struct recording *) calloc(1, sizeof *recording);
        if (!recording)
            check(cudaErrorMemoryAllocation, "recording a graph");
        body(arg);
        return;
    }
    if (!recording->graph || recording->moves != device->moves)
        capture(device, recording, body, arg);
    check(cudaGraphLaunch(recording->graph, device->stream), "launching a graph");
}

void forget(struct device *device, struct recording *recording)
{
    if (recording)
        destroy(device, recording);
    free(recording);
}
