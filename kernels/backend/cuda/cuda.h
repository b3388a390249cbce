/*
 * The CUDA backend, seen from inside: the opened device, launches, scratch memory, and what the kernel files
 * share.
 *
 * Invariants: everything goes through the device's one stream in the order of the calls; an opened device
 * shares nothing with another but a lock, so that many, each in a thread of its own, serve as many runs;
 * launch shapes and orders of addition follow from an operation's shape alone and nothing floating is added
 * atomically, so the same call gives the same bits.  An operation cannot fail: what CUDA refuses ends the
 * process with a message, which the parent keeps.
 *
 * T is the element of act: bf16 for precision bf16, float for float32.  The sources compile with nvcc, and
 * with g++ against the headers in regress/cuda_shim.
 */
#ifndef TLAW_CUDA_H
#define TLAW_CUDA_H

extern "C" {
#include "../weights.h"
#include "library.h"
}

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <mutex>

typedef __nv_bfloat16 bf16;

enum scratch {
    SCRATCH_X, /* operands of products, made ready for the tensor cores */
    SCRATCH_W,
    SCRATCH_DY,
    SCRATCH_SUM, /* a product that needs finishing */
    SCRATCH_LOGITS,
    SCRATCH_DLOGITS,
    SCRATCH_PARTIAL,   /* partial sums over rows */
    SCRATCH_DELTA,     /* attention */
    SCRATCH_ORDER,     /* embedding */
    SCRATCH_WORKSPACE, /* cuBLASLt's */
    SCRATCH_COUNT
};

struct scratch_memory {
    void *memory;
    size_t size;
};

struct plan; /* a cuBLASLt product: product.cu */

/* A download that has begun. */
#define LANDINGS 2
struct landing {
    void *memory; /* pinned, DOWNLOAD_AHEAD bytes */
    cudaEvent_t done;
    void *to;
    size_t bytes;
};

/* Pinned memory that a small copy goes through. */
#define STAGES      4
#define STAGE_BYTES ((size_t) 1 << 20)
struct stage {
    void *memory;     /* STAGE_BYTES */
    cudaEvent_t done; /* the last copy */
};

struct device {
    cudaStream_t stream;
    cublasLtHandle_t products;
    struct plan *plans;
    struct weights *weights;
    struct scratch_memory scratch[SCRATCH_COUNT];
    uint64_t moves; /* of scratch memory: a recording made before one is stale */
    bool recording;
    struct stage stages[STAGES];
    unsigned staged; /* copies so far: stages take turns, so that nobody waits for them */
    struct landing landings[LANDINGS];
    unsigned begun, ended; /* downloads; they take turns as well */
};

/* ---- device.cu ---- */

/* Ends the process, naming `what`, unless all is well. */
void check(cudaError_t error, const char *what);
/* backend_no_memory of the engine */
extern void (*no_memory)(const char *message);

/* ---- memory.cu ---- */
/*
 * What may wait for a whole GPU (allocation and its opposite) and the recording of a stream take turns in the
 * process: a wait for a GPU of which some stream is being recorded fails and spoils the recording.
 */
extern std::mutex whole_device;
cudaError_t memory_open(struct device *);
void memory_close(struct device *);
/* Device memory of at least that size, 256-byte aligned, undefined contents; a later call may move it. */
void *scratch(struct device *, enum scratch which, size_t bytes);
/* The same weights as bf16; NULL when they are not in a block of alloc_weights. */
bf16 *weights_copy(struct device *, const real *w);
void *alloc(struct device *, size_t bytes);
template <class T> real *alloc_weights(struct device *, size_t n);
void free_memory(struct device *, void *memory);
void upload(struct device *, void *to, const void *from, size_t bytes);
void download(struct device *, void *to, const void *from, size_t bytes);
void begin_download(struct device *, void *to, const void *from, size_t bytes);
void end_download(struct device *);
void zero(struct device *, void *to, size_t bytes);
/* Waits until the device has done all it was given. */
void settle(struct device *);

/* ---- recording.cu ---- */
void repeat(struct device *, struct recording **recording, void (*body)(void *arg), void *arg);
void forget(struct device *, struct recording *recording);

template <class... Wanted, class... Given>
void launch(struct device *device, void (*kernel)(Wanted...), dim3 blocks, int threads, Given... given)
{
    cudaLaunchConfig_t config = {};

    config.gridDim = blocks;
    config.blockDim = dim3(threads);
    config.stream = device->stream;
    check(cudaLaunchKernelEx(&config, kernel, given...), "a kernel launch");
}

static inline unsigned blocks_for(size_t items, size_t each)
{
    return (unsigned) ((items + each - 1) / each);
}

static inline bool is_aligned(const void *at, size_t bytes)
{
    return (uintptr_t) at % bytes == 0;
}

/* ---- product.cu ---- */
void product_close(struct device *);
template <class T>
void linear_forward(struct device *, act *y_act, real *y_real, act *pre, const act *x, const real *w,
                    const real *bias, int rows, int K, int N);
template <class T>
void linear_backward(struct device *, act *dx_act, real *dx_real, real *dw, real *dbias, const act *dy_act,
                     const real *dy_real, const act *pre, const act *x, const real *w, int rows, int K,
                     int N);
template <class T>
void logits(struct device *, real *out, const act *x, const real *wte, int rows, int C, int V);

/* ---- the other operations ---- */
template <class T>
void cross_entropy(struct device *, real *losses, real *dx, real *dwte, const act *x, const real *wte,
                   const int32_t *targets, double scale, int rows, int C, int V);
template <class T>
void layernorm_forward(struct device *, act *y, real *mean, real *rstd, real *x, const real *branch,
                       const real *gamma, const real *beta, int rows, int C);
void layernorm_backward(struct device *, real *dx, real *dgamma, real *dbeta, const real *dy, const real *x,
                        const real *mean, const real *rstd, const real *gamma, int rows, int C);
template <class T>
void attention_forward(struct device *, act *y, real *lse, const act *qkv, int B, int T_, int C, int H);
template <class T>
void attention_backward(struct device *, act *dqkv, const act *dy, const act *y, const real *lse,
                        const act *qkv, int B, int T_, int C, int H);
template <class T>
void attention_decode(struct device *, act *y, act *k_cache, act *v_cache, const act *qkv, int position,
                      int C, int H);
/* Attention on tensor cores, for heads of at most ATTENTION_TENSOR_MOST columns; the others: attention.cu */
#define ATTENTION_TENSOR_MOST 128
void attention_tensor_forward(struct device *, bf16 *y, float *lse, const bf16 *qkv, int B, int T, int C,
                              int H);
void attention_tensor_backward(struct device *, bf16 *dqkv, const bf16 *dy, const float *delta,
                               const float *lse, const bf16 *qkv, int B, int T, int C, int H);
void embedding_forward(struct device *, real *x, const int32_t *tokens, const real *wte, const real *wpe,
                       int B, int T, int C);
void embedding_backward(struct device *, real *dwte, real *dwpe, const real *dx, const int32_t *tokens, int B,
                        int T, int C, int V);
template <class T> void act_to_real(struct device *, real *out, const act *in, size_t n);
void real_to_bf16(struct device *, bf16 *out, const real *in, size_t n);
void add_losses(struct device *, double *sum, const real *losses, size_t n);
void sum_squares(struct device *, double *sum, const real *x, size_t n);
void adamw(struct device *, real *p, const real *g, real *m, real *v, size_t n,
           const struct segment *segments, int count, const struct adamw *constants,
           const struct update *update);

/* ---- knn.cu ---- */

/* struct cuda_library's neighbours */
int knn_neighbours(struct device *, const struct tlaw_points *points, const int32_t *group,
                   struct tlaw_neighbours *out, struct tlaw_poll poll,
                   void (*progress)(double share, void *arg), void *progress_arg, char *message);

/* ---- reduce.cu ---- */

/* out[columns] += the sums of in's columns: rows in slabs, then slabs, each in their order */
template <class T>
void add_columns(struct device *, float *out, const T *in, int rows, int columns, size_t ld);
/* out[columns] += the sums of partial[slabs, columns] over slabs, in their order; second: of the slabs behind
 */
void add_slabs(struct device *, float *out, float *second, const float *partial, int slabs, int columns);

#endif
