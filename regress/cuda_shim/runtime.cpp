/*
 * The runtime on the host: memory, streams, events, graphs.
 *
 * A stream is a list of things to do, and nothing is done when it is asked for: only when somebody waits, or
 * asks an event again and again.  So what a real device would read too late is read too late here: pinned
 * memory that was overwritten, an argument that went out of date.  While a stream is captured, what CUDA
 * forbids fails.
 */
#include <cuda_runtime.h>

#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#define LARGE   ((size_t) 8 << 20) /* bytes of new memory that are NaN; the rest is left untouched */
#define WAITING 4096               /* things that a stream may have to do before it begins by itself */
#define AT_ONCE 8                  /* done when an event is asked for */

typedef std::function<void()> task;

struct shim_graph {
    std::vector<task> tasks;
};

struct shim_stream {
    std::deque<task> waiting;
    uint64_t given, done; /* tasks */
    shim_graph *captured;
};

struct shim_event {
    shim_stream *stream;
    uint64_t given; /* the stream's, when it was recorded */
};

static std::recursive_mutex lock;
static std::set<shim_stream *> streams;
static thread_local shim_stream *capturing;

typedef std::lock_guard<std::recursive_mutex> holding;

static void work(shim_stream *stream, size_t most)
{
    for (; most && !stream->waiting.empty(); most--) {
        stream->waiting.front()();
        stream->waiting.pop_front();
        stream->done++;
    }
}

/* Waits for the whole device, which nobody may while any of its streams is captured. */
cudaError_t shim_finish_all()
{
    holding all(lock);

    for (shim_stream *stream : streams)
        if (stream->captured)
            return cudaErrorStreamCaptureUnsupported;
    for (shim_stream *stream : streams)
        work(stream, SIZE_MAX);
    return cudaSuccess;
}

cudaError_t shim_submit(shim_stream *stream, const task &what)
{
    holding all(lock);

    if (capturing && capturing != stream)
        return cudaErrorStreamCaptureUnsupported;
    if (stream->captured) {
        stream->captured->tasks.push_back(what);
        return cudaSuccess;
    }
    stream->waiting.push_back(what);
    stream->given++;
    if (stream->waiting.size() > WAITING)
        work(stream, SIZE_MAX);
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaSuccess                         ? "no error"
           : error == cudaErrorMemoryAllocation         ? "out of memory"
           : error == cudaErrorStreamCaptureUnsupported ? "not permitted while a stream is captured"
                                                        : "an error";
}

cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int)
{
    *out = {"host", 9, 0, 1, (size_t) 1 << 30};
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int)
{
    return cudaSuccess;
}

/* ---- streams, events, graphs ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned)
{
    holding all(lock);

    streams.insert(*out = new shim_stream{});
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    holding all(lock);

    work(stream, SIZE_MAX);
    streams.erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    holding all(lock);

    if (capturing)
        return cudaErrorStreamCaptureUnsupported;
    work(stream, SIZE_MAX);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    holding all(lock);

    if (capturing)
        return cudaErrorStreamCaptureUnsupported;
    if (stream->waiting.empty())
        return cudaSuccess;
    work(stream, AT_ONCE);
    return cudaErrorNotReady;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned)
{
    *out = new shim_event{};
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    holding all(lock);

    if (capturing)
        return cudaErrorStreamCaptureUnsupported;
    *event = {stream, stream->given};
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    holding all(lock);

    if (capturing)
        return cudaErrorStreamCaptureUnsupported;
    if (!event->stream || event->stream->done >= event->given)
        return cudaSuccess;
    work(event->stream, AT_ONCE);
    return cudaErrorNotReady;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    holding all(lock);

    if (capturing)
        return cudaErrorStreamCaptureUnsupported;
    stream->captured = new shim_graph;
    capturing = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    holding all(lock);

    if (capturing != stream)
        return cudaErrorStreamCaptureUnsupported;
    *out = stream->captured;
    stream->captured = NULL;
    capturing = NULL;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long)
{
    *out = new shim_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

/* Launches that wait keep what they need of it. */
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    holding all(lock);
    cudaError_t error = cudaSuccess;

    for (const task &what : graph->tasks)
        if (error == cudaSuccess)
            error = shim_submit(stream, what);
    return error;
}

/* ---- memory ---- */

/* Memory ends where a page without access begins, so that reading or writing beyond it is a segmentation
 * fault.  It is of a file named "device", so that /proc/PID/maps shows how much a process holds. */
struct mapping {
    void *at;
    size_t size, asked;
};
static std::map<const void *, mapping> mappings;
static std::map<const char *, size_t> pinned;

bool shim_is_device(const void *at, size_t bytes)
{
    holding all(lock);
    auto after = mappings.upper_bound(at);

    if (after == mappings.begin())
        return false;
    const mapping &found = (--after)->second;
    return (const char *) at + bytes <= (const char *) found.at + found.size - sysconf(_SC_PAGESIZE);
}

bool shim_find_block(const void *at, uintptr_t *begin, uintptr_t *end)
{
    holding all(lock);
    auto after = mappings.upper_bound(at);

    if (after == mappings.begin())
        return false;
    --after;
    *begin = (uintptr_t) after->first;
    *end = *begin + after->second.asked;
    return (uintptr_t) at < *end;
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    holding all(lock);
    size_t page = (size_t) sysconf(_SC_PAGESIZE), rounded = (bytes + 15) / 16 * 16;
    size_t usable = (rounded + page - 1) / page * page;

    if (capturing)
        return cudaErrorStreamCaptureUnsupported;
    static int file = memfd_create("device", MFD_CLOEXEC), sized = ftruncate(file, (off_t) 1 << 40);
    char *at = (char *) mmap(NULL, usable + page, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (sized || rounded < bytes || usable < rounded || at == MAP_FAILED)
        return cudaErrorMemoryAllocation;
    mprotect(at + usable, page, PROT_NONE);
    memset(at, 0xff, usable < LARGE ? usable : LARGE);
    *out = at + usable - rounded;
    mappings[*out] = {at, usable + page, bytes};
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    holding all(lock);

    if (shim_finish_all() != cudaSuccess)
        return cudaErrorStreamCaptureUnsupported;
    if (memory) {
        munmap(mappings.at(memory).at, mappings.at(memory).size);
        mappings.erase(memory);
    }
    return cudaSuccess;
}

/* What is left of the 1 GiB that cudaGetDeviceProperties says. */
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all)
{
    holding held(lock);
    size_t used = 0;

    for (const auto &[at, mapping] : mappings)
        used += mapping.size;
    *all = (size_t) 1 << 30;
    *free_bytes = used < *all ? *all - used : 0;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned)
{
    holding all(lock);

    *out = malloc(bytes);
    pinned[(char *) *out] = bytes;
    return *out ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void *memory)
{
    holding all(lock);

    if (shim_finish_all() != cudaSuccess)
        return cudaErrorStreamCaptureUnsupported;
    pinned.erase((char *) memory);
    free(memory);
    return cudaSuccess;
}

static bool is_pinned(const void *at)
{
    auto after = pinned.upper_bound((const char *) at);

    return after != pinned.begin() && (--after, (const char *) at < after->first + after->second);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    holding all(lock);

    if (!shim_is_device(kind == cudaMemcpyHostToDevice ? to : from, bytes))
        return cudaErrorInvalidValue;
    if (is_pinned(kind == cudaMemcpyHostToDevice ? from : to))
        return shim_submit(stream, [=] { memcpy(to, from, bytes); });
    if (capturing)
        return cudaErrorStreamCaptureUnsupported;
    work(stream, SIZE_MAX);
    memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    if (!shim_is_device(to, bytes))
        return cudaErrorInvalidValue;
    return shim_submit(stream, [=] { memset(to, value, bytes); });
}
