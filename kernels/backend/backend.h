/*
 * The table of operations that a device must fill, and nothing else: models are sequences of these.
 *
 * Shapes: B sequences of T tokens, rows = B * T, C = d_model, H heads of C / H, V = vocab_size; row-major.
 * Two kinds of array: `real` (parameters, gradients, residual stream, statistics; float, or double in the
 * test build with -DTLAW_DOUBLE) and `act` (what only matrix products and attention read; its element is the
 * backend's choice, act_size bytes, so that a bf16 backend keeps it in bf16).  All pointers come from alloc,
 * or point into such a block at any whole element, and may be device memory: only upload and download cross
 * over. Operations may be still under way when their call returns; download waits. Invariants: gradients of
 * parameters are accumulated (+=), every other output is overwritten unless said; inputs and outputs of a
 * call do not overlap; results do not depend on the number of threads; the same call gives the same bits.
 */
#ifndef TLAW_BACKEND_H
#define TLAW_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef TLAW_DOUBLE
typedef double real;
#else
typedef float real;
#endif
typedef void act;

struct backend;
struct device;    /* an opened backend: its threads, scratch, streams; used by the thread that opened it */
struct recording; /* what a device keeps of a sequence of operations, to repeat it */

/* AdamW's constants of a run. */
struct adamw {
    double beta1, beta2, eps, decay;
    double grad_clip; /* the gradient is scaled down to this global norm; 0: never */
};

/*
 * What changes from step to step, in device memory: the caller uploads the first three (and zeros), the
 * operations fill in the rest and the caller downloads it.
 */
struct update {
    double learning_rate, correction1, correction2; /* 1 - beta1^t, 1 - beta2^t; t counted from 1 */
    double loss;                                    /* sum of the batch's losses */
    double squares;                                 /* sum of squares of the gradient */
};

/* From where the last segment ends to before `end`, weights decay or they do not. */
struct segment {
    uint64_t end, decays;
};

struct backend {
    const char *name;      /* "reference", "portable", "neon", "avx2", "avx512", "amx", "cuda" */
    const char *precision; /* "float32" or "bf16" */
    size_t act_size;       /* bytes of one act element */

    /* NULL and a message when the device cannot be had. */
    struct device *(*open)(int threads, char *message, size_t message_size);
    void (*close)(struct device *);
    void (*set_threads)(struct device *, int threads);

    void *(*alloc)(struct device *,
                   size_t bytes); /* 64-byte aligned, zeroed; NULL and ENOMEM when it does not fit */
    /*
     * As alloc, for n weights that only upload and adamw change: a backend may keep them as products want
     * them.
     */
    real *(*alloc_weights)(struct device *, size_t n);
    void (*free)(struct device *, void *);
    void (*upload)(struct device *, void *to, const void *from, size_t bytes);
    void (*download)(struct device *, void *to, const void *from, size_t bytes);
    /*
     * A download of at most DOWNLOAD_AHEAD bytes in two halves: `to` holds what `from` held where the first
     * was called, at the latest when the second returns.  At most two are under way; they end in their order.
     */
    void (*begin_download)(struct device *, void *to, const void *from, size_t bytes);
    void (*end_download)(struct device *);
    void (*zero)(struct device *, void *, size_t bytes);
    void (*act_to_real)(struct device *, real *out, const act *in, size_t n);

    /*
     * Does what body(arg) does: a sequence of operations (zero among them; no upload, download, alloc, free
     * or repeat) that is the same, with the same arguments, at every call with the same *recording, so that
     * only the contents of memory differ.  A GPU records it and launches it as one; others call body.
     * *recording is NULL at first and goes to forget before the memory that the operations use is freed.
     */
    void (*repeat)(struct device *, struct recording **, void (*body)(void *arg), void *arg);
    void (*forget)(struct device *, struct recording *); /* NULL: nothing */

    /*
     * Lanes, where a device has threads that are better off with work of their own (NULL both: it has not).
     * Calls body(arg, device, lane, place) for every lane < lanes: operations on the device that body is
     * given, on memory that no other lane touches.  place < lanes is of no other lane meanwhile, and those
     * that are taken most are in a cache.
     */
    void (*side_by_side)(struct device *, int lanes,
                         void (*body)(void *arg, struct device *, int lane, int place), void *arg);
    /* sum[n] += parts[0][n] + parts[1][n] + ..., in this order */
    void (*add_lanes)(struct device *, real *sum, const real *parts, int lanes, size_t n);

    /* x[rows,C] = wte[tokens] + wpe[position]; position of row r is r mod T */
    void (*embedding_forward)(struct device *, real *x, const int32_t *tokens, const real *wte,
                              const real *wpe, int B, int T, int C);
    /* dwte, dwpe += dx */
    void (*embedding_backward)(struct device *, real *dwte, real *dwpe, const real *dx, const int32_t *tokens,
                               int B, int T, int C, int V);

    /*
     * x (+= branch when not NULL, in place; branch is only read); y = (x - mean) rstd gamma + beta; beta may
     * be NULL; eps 1e-5
     */
    void (*layernorm_forward)(struct device *, act *y, real *mean, real *rstd, real *x, const real *branch,
                              const real *gamma, const real *beta, int rows, int C);
    /* dx += d(layernorm)/dx dy; dgamma, dbeta += (dbeta NULL: none); dy is real; x as layernorm_forward left
     * it */
    void (*layernorm_backward)(struct device *, real *dx, real *dgamma, real *dbeta, const real *dy,
                               const real *x, const real *mean, const real *rstd, const real *gamma, int rows,
                               int C);

    /*
     * y[rows,N] = x[rows,K] w[K,N] + bias.  Exactly one of y_act, y_real is given.  With gelu (act[rows,N])
     * given, y_act = gelu(sum), GPT-2's tanh form, and gelu keeps what the backward pass needs of the sum:
     * the sum itself or the slope there, as the backend chooses.
     */
    void (*linear_forward)(struct device *, act *y_act, real *y_real, act *gelu, const act *x, const real *w,
                           const real *bias, int rows, int K, int N);
    /*
     * dw += x^T dy; dbias += column sums of dy (NULL: none).  dx = dy w^T, times the slope of gelu when gelu
     * (act[rows,K], as linear_forward left it) is given.  dy comes as act or as real; dx goes to dx_act or
     * dx_real (both NULL: not wanted).
     */
    void (*linear_backward)(struct device *, act *dx_act, real *dx_real, real *dw, real *dbias,
                            const act *dy_act, const real *dy_real, const act *gelu, const act *x,
                            const real *w, int rows, int K, int N);

    /* causal softmax attention, scale 1/sqrt(C/H).  qkv[rows,3C] = q | k | v; y[rows,C]; lse[B,H,T] */
    void (*attention_forward)(struct device *, act *y, real *lse, const act *qkv, int B, int T, int C, int H);
    void (*attention_backward)(struct device *, act *dqkv, const act *dy, const act *y, const real *lse,
                               const act *qkv, int B, int T, int C, int H);
    /* one new position of one sequence: appends k, v of qkv[3C] to caches [T,C] at `position`, y[C] */
    void (*attention_decode)(struct device *, act *y, act *k_cache, act *v_cache, const act *qkv,
                             int position, int C, int H);

    /*
     * losses[rows] = -log softmax(x wte^T)[target]; a target of -1 counts nothing (its loss and dx are 0).
     * With dx given also dx[rows,C] and dwte += of scale * sum(losses), else both are NULL.  Never needs more
     * than a bounded block of logits.
     */
    void (*cross_entropy)(struct device *, real *losses, real *dx, real *dwte, const act *x, const real *wte,
                          const int32_t *targets, double scale, int rows, int C, int V);
    /* logits[rows,V] = x wte^T */
    void (*logits)(struct device *, real *logits, const act *x, const real *wte, int rows, int C, int V);

    /* *sum += the losses, *sum = the sum of squares; both in double and in a fixed order */
    void (*add_losses)(struct device *, double *sum, const real *losses, size_t n);
    void (*sum_squares)(struct device *, double *sum, const real *x, size_t n);
    /*
     * AdamW (Loshchilov & Hutter 2019) over n elements, which segments[count] (device memory) cut up, with g
     * scaled by min(1, grad_clip / (sqrt(squares) + 1e-6)), as PyTorch's clip_grad_norm_:
     * m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
     * p -= lr (m/correction1 / (sqrt(v/correction2) + eps) + decay p), decay 0 where segments do not decay.
     * Nothing is changed when the update's loss or squares are not finite: the step diverged.
     */
    void (*adamw)(struct device *, real *p, const real *g, real *m, real *v, size_t n,
                  const struct segment *segments, int count, const struct adamw *constants,
                  const struct update *update);
};

#define DOWNLOAD_AHEAD 256

/* end_download where begin_download copies at once. */
void backend_end_download(struct device *);

/* A GPU, as PROBE names it; unusable: why not, or "". */
struct backend_device {
    char device[16], isa[16]; /* "cuda:0", "sm_90" */
    char name[512], unusable[256];
    int cores; /* multiprocessors */
    int64_t memory;
};

#define BACKEND_MOST 16
/* Every backend that this machine's CPU runs, the reference first, the best last; returns how many. */
int backend_list(const struct backend *list[BACKEND_MOST]);
/*
 * The backend for a specification's device, isa and precision; NULL and a message when this machine has none.
 * isa
 * "" is whatever the device has.
 */
const struct backend *backend_find(const char *device, const char *isa, const char *precision, char *message,
                                   size_t message_size);
/*
 * The GPUs of this machine, usable or not; returns how many, 0 and why when there is none to be seen.  The
 * first call loads tlaw_cuda.so from beside the program.
 */
#define BACKEND_GPUS_MOST 16
int backend_gpus(struct backend_device list[BACKEND_GPUS_MOST], char *message, size_t message_size);
/* Bytes free on the GPU "cuda:N", which is usable, counting what its open device holds as used. */
int64_t backend_gpu_memory(const char *device);
/* What an update scales the gradient by; NaN when the step diverged.  On the host. */
double update_grad_scale(const struct update *update, double grad_clip);
/* The best instruction set that this machine runs in that precision: what isa "" is on the CPU; "": none. */
const char *backend_cpu_isa(const char *precision);
/*
 * Where an operation goes that finds no memory for its scratch; does not return.  Says so on stderr and exits
 * 1 unless the program sets another; may be called on any of the device's threads.
 */
extern void (*backend_no_memory)(const char *message);

#endif
