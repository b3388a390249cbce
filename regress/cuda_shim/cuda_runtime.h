/*
 * A small CUDA for the host: enough of its language, runtime, (instruction.h) instructions and (cublasLt.h,
 * cuda_bf16.h) libraries to run the kernels of kernels/backend/cuda in a test.  A thread of a block is a
 * fiber; blocks run one after the other; memory that was not written holds NaN and ends at a page that nobody
 * may touch.  The order in which threads run changes from launch to launch, so that a missing barrier changes
 * bits (shim.cpp); a stream does nothing before somebody waits for it (runtime.cpp).
 */
#ifndef SHIM_CUDA_RUNTIME_H
#define SHIM_CUDA_RUNTIME_H

#include <algorithm>
#include <functional>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <vector>

#define __global__ __attribute__((visibility("default"))) /* regress/ptx finds their names */
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

using std::max;
using std::min;

/* ---- types ---- */
struct uint3 {
    unsigned x, y, z;
};
/* Loads and stores of a vector that is not aligned as CUDA asks end the test: -fsanitize=alignment. */
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(8) float2 {
    float x, y;
};
struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z)
    {
    }
};

static inline float2 make_float2(float x, float y)
{
    return {x, y};
}

static inline float4 make_float4(float x, float y, float z, float w)
{
    return {x, y, z, w};
}

static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return {x, y};
}

static inline float __int_as_float(int bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- inside a kernel ---- */
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

void __syncthreads();
void __syncwarp();

/* Ends the test: what the chip would fault at, or what is undefined there. */
[[noreturn]] void shim_refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Gives `size` bytes (at most 32) to the warp and returns what its 32 lanes gave, all at that instruction. */
struct shim_given {
    unsigned char bytes[32];
};
const shim_given *shim_exchange(const char *instruction, const void *mine, size_t size);

template <class V> V __shfl_xor_sync(unsigned, V value, int step)
{
    V other;

    memcpy(&other, shim_exchange("shfl", &value, sizeof value)[threadIdx.x % 32 ^ step].bytes, sizeof other);
    return other;
}

static inline unsigned __ballot_sync(unsigned, int mine)
{
    const shim_given *all = shim_exchange("vote", &mine, sizeof mine);
    unsigned votes = 0;

    for (int lane = 0; lane < 32; lane++) {
        int vote;

        memcpy(&vote, all[lane].bytes, sizeof vote);
        votes |= (vote ? 1u : 0u) << lane;
    }
    return votes;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

/* Arithmetic that is not contracted, as all of it is here: the shim is compiled without FMA. */
static inline double __dadd_rn(double a, double b)
{
    return a + b;
}

static inline double __dsub_rn(double a, double b)
{
    return a - b;
}

static inline double __dmul_rn(double a, double b)
{
    return a * b;
}

static inline int atomicAdd(int *to, int value)
{
    int before = *to;

    *to += value;
    return before;
}

/* ---- the runtime ---- */
enum cudaError_t {
    cudaSuccess,
    cudaErrorInvalidValue,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNotReady = 600,
    cudaErrorStreamCaptureUnsupported = 900
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
typedef struct shim_stream *cudaStream_t;
typedef struct shim_event *cudaEvent_t;
typedef struct shim_graph *cudaGraph_t, *cudaGraphExec_t;
#define cudaStreamNonBlocking  1
#define cudaEventDisableTiming 2
#define cudaHostAllocDefault   0

struct cudaDeviceProp {
    char name[256];
    int major, minor, multiProcessorCount;
    size_t totalGlobalMem;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};

const char *cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *, int ordinal);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaSetDevice(int ordinal);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamQuery(cudaStream_t);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventQuery(cudaEvent_t);
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *, cudaGraph_t, unsigned long long flags);
cudaError_t cudaGraphDestroy(cudaGraph_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaMalloc(void **, size_t);
cudaError_t cudaFree(void *);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *all);
cudaError_t cudaHostAlloc(void **, size_t, unsigned flags);
cudaError_t cudaFreeHost(void *);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void *, int value, size_t, cudaStream_t);

/* Whether it is memory of the device, and so many bytes of it. */
bool shim_is_device(const void *at, size_t bytes);
/* The allocation that a byte belongs to, as it was asked for; false: none. */
bool shim_find_block(const void *at, uintptr_t *begin, uintptr_t *end);
/* What waits for the whole device: fails while any stream is captured. */
cudaError_t shim_finish_all();
/* Puts something to do at the end of a stream, or of the graph that is being captured from it. */
cudaError_t shim_submit(cudaStream_t, const std::function<void()> &task);

/* A kernel and its arguments, as its PTX takes them (regress/ptx) and as the host calls it (shim.cpp). */
struct shim_argument {
    const void *at;
    size_t bytes;
};
struct shim_kernel {
    const void *function;
    std::vector<shim_argument> arguments;
    std::function<void()> call;
};
void shim_launch(dim3 blocks, dim3 threads, const struct shim_kernel &kernel);

/* What every device allows; a grid of no blocks is an error as well. */
static inline bool shim_is_possible(dim3 blocks, dim3 threads)
{
    return blocks.x && blocks.x <= INT32_MAX && blocks.y && blocks.y < 65536 && blocks.z &&
           blocks.z < 65536 && threads.x && threads.y && threads.z &&
           (size_t) threads.x * threads.y * threads.z <= 1024;
}

/* What a kernel is given by its address is the device's. */
static inline void shim_check_argument(const void *at)
{
    if (at && !shim_is_device(at, 1))
        shim_refuse("a kernel that is given %p, which is not memory of the device", at);
}

template <class V> std::enable_if_t<!std::is_pointer_v<V>> shim_check_argument(const V &)
{
}

template <class... Wanted, class... Given>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Wanted...), Given... given)
{
    std::tuple<Wanted...> arguments(given...);
    dim3 blocks = config->gridDim, threads = config->blockDim;

    if (!shim_is_possible(blocks, threads))
        return cudaErrorInvalidConfiguration;
    std::apply([](auto... argument) { (shim_check_argument(argument), ...); }, arguments);
    return shim_submit(config->stream, [=] {
        std::apply(
            [&](const Wanted &...argument) {
                shim_launch(blocks, threads,
                            {(const void *) kernel, {{(const void *) &argument, sizeof argument}...}, [&] {
                                 kernel(argument...);
                             }});
            },
            arguments);
    });
}

#endif
