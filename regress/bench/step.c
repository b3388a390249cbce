/*
 * Times training steps of the real model on a backend: ISA is an instruction set of the CPU, or "cuda:N".
 *
 * - step ISA PRECISION THREADS L D_MODEL HEADS T B V: a line "seconds" in, a line "tokens/s" out, until end
 * of file (bench.py takes turns so).
 * - the same and "profile": time of every operation and its share of the peak.
 *
 * A step is what a trainer does: zero the gradients, forward and backward, norm, clip and AdamW.
 */
#include "../../kernels/model/model.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

/* ---- operations with a clock around them ---- */
enum {
    EMBEDDING_FORWARD,
    EMBEDDING_BACKWARD,
    LAYERNORM_FORWARD,
    LAYERNORM_BACKWARD,
    LINEAR_FORWARD,
    LINEAR_BACKWARD,
    ATTENTION_FORWARD,
    ATTENTION_BACKWARD,
    CROSS_ENTROPY,
    SUM_SQUARES,
    ADAMW,
    OPERATIONS
};
static const char *const operation_names[OPERATIONS] = {
    "embedding_forward",
    "embedding_backward",
    "layernorm_forward",
    "layernorm_backward",
    "linear_forward",
    "linear_backward",
    "attention_forward",
    "attention_backward",
    "cross_entropy",
    "sum_squares",
    "adamw",
};
static const struct backend *plain;                /* the backend that is timed */
static double spent[OPERATIONS], work[OPERATIONS]; /* seconds; floating-point operations of products */
static pthread_mutex_t adding = PTHREAD_MUTEX_INITIALIZER;
static int lane_threads;           /* of the device that is timed */
static _Thread_local bool in_lane; /* this thread's operations are its own: of the step's time, a share */

/* Waits until the device has done what it was asked for. */
static void *settled; /* a byte on the device */
static void settle(struct device *device)
{
    char byte;

    plain->download(device, &byte, settled, 1);
}

static void account(int operation, double time, double flops)
{
    pthread_mutex_lock(&adding);
    spent[operation] += in_lane ? time / lane_threads : time;
    work[operation] += flops;
    pthread_mutex_unlock(&adding);
}

#define TIMED(operation, flops, call)                                                                        \
    do {                                                                                                     \
        double start_ = seconds();                                                                           \
        call;                                                                                                \
        settle(device);                                                                                      \
        account(operation, seconds() - start_, flops);                                                       \
    } while (0)

static void timed_embedding_forward(struct device *device, real *x, const int32_t *tokens, const real *wte,
                                    const real *wpe, int B, int T, int C)
{
    TIMED(EMBEDDING_FORWARD, 0, plain->embedding_forward(device, x, tokens, wte, wpe, B, T, C));
}

static void timed_embedding_backward(struct device *device, real *dwte, real *dwpe, const real *dx,
                                     const int32_t *tokens, int B, int T, int C, int V)
{
    TIMED(EMBEDDING_BACKWARD, 0, plain->embedding_backward(device, dwte, dwpe, dx, tokens, B, T, C, V));
}

static void timed_layernorm_forward(struct device *device, act *y, real *mean, real *rstd, real *x,
                                    const real *branch, const real *gamma, const real *beta, int rows, int C)
{
    TIMED(LAYERNORM_FORWARD, 0,
          plain->layernorm_forward(device, y, mean, rstd, x, branch, gamma, beta, rows, C));
}

static void timed_layernorm_backward(struct device *device, real *dx, real *dgamma, real *dbeta,
                                     const real *dy, const real *x, const real *mean, const real *rstd,
                                     const real *gamma, int rows, int C)
{
    TIMED(LAYERNORM_BACKWARD, 0,
          plain->layernorm_backward(device, dx, dgamma, dbeta, dy, x, mean, rstd, gamma, rows, C));
}

static void timed_linear_forward(struct device *device, act *y_act, real *y_real, act *gelu, const act *x,
                                 const real *w, const real *bias, int rows, int K, int N)
{
    TIMED(LINEAR_FORWARD, 2.0 * rows * K * N,
          plain->linear_forward(device, y_act, y_real, gelu, x, w, bias, rows, K, N));
}

static void timed_linear_backward(struct device *device, act *dx_act, real *dx_real, real *dw, real *dbias,
                                  const act *dy_act, const real *dy_real, const act *gelu, const act *x,
                                  const real *w, int rows, int K, int N)
{
    TIMED(
        LINEAR_BACKWARD, 4.0 * rows * K * N,
        plain->linear_backward(device, dx_act, dx_real, dw, dbias, dy_act, dy_real, gelu, x, w, rows, K, N));
}

static void timed_attention_forward(struct device *device, act *y, real *lse, const act *qkv, int B, int T,
                                    int C, int H)
{
    TIMED(ATTENTION_FORWARD, 2.0 * B * T * (T + 1) * C,
          plain->attention_forward(device, y, lse, qkv, B, T, C, H));
}

static void timed_attention_backward(struct device *device, act *dqkv, const act *dy, const act *y,
                                     const real *lse, const act *qkv, int B, int T, int C, int H)
{
    TIMED(ATTENTION_BACKWARD, 5.0 * B * T * (T + 1) * C,
          plain->attention_backward(device, dqkv, dy, y, lse, qkv, B, T, C, H));
}

static void timed_cross_entropy(struct device *device, real *losses, real *dx, real *dwte, const act *x,
                                const real *wte, const int32_t *targets, double scale, int rows, int C, int V)
{
    TIMED(CROSS_ENTROPY, 6.0 * rows * C * V,
          plain->cross_entropy(device, losses, dx, dwte, x, wte, targets, scale, rows, C, V));
}

static void timed_sum_squares(struct device *device, double *sum, const real *x, size_t n)
{
    TIMED(SUM_SQUARES, 0, plain->sum_squares(device, sum, x, n));
}

static void timed_adamw(struct device *device, real *p, const real *g, real *m, real *v, size_t n,
                        const struct segment *segments, int count, const struct adamw *constants,
                        const struct update *update)
{
    TIMED(ADAMW, 0, plain->adamw(device, p, g, m, v, n, segments, count, constants, update));
}

/* One after the other, so that each has its time. */
static void timed_repeat(struct device *device, struct recording **recording, void (*body)(void *arg),
                         void *arg)
{
    (void) device, (void) recording;
    body(arg);
}

struct timed_lane {
    void (*body)(void *arg, struct device *, int lane, int place);
    void *arg;
};

static void timed_lane(void *arg, struct device *device, int lane, int place)
{
    const struct timed_lane *timed = arg;

    in_lane = true;
    timed->body(timed->arg, device, lane, place);
    in_lane = false;
}

static void timed_side_by_side(struct device *device, int lanes,
                               void (*body)(void *arg, struct device *, int lane, int place), void *arg)
{
    plain->side_by_side(device, lanes, timed_lane, &(struct timed_lane){body, arg});
}

static struct backend timed_backend(const struct backend *backend, int threads)
{
    struct backend timed = *backend;

    plain = backend;
    lane_threads = threads;
    timed.embedding_forward = timed_embedding_forward;
    timed.embedding_backward = timed_embedding_backward;
    timed.layernorm_forward = timed_layernorm_forward;
    timed.layernorm_backward = timed_layernorm_backward;
    timed.linear_forward = timed_linear_forward;
    timed.linear_backward = timed_linear_backward;
    timed.attention_forward = timed_attention_forward;
    timed.attention_backward = timed_attention_backward;
    timed.cross_entropy = timed_cross_entropy;
    timed.repeat = timed_repeat;
    if (backend->side_by_side)
        timed.side_by_side = timed_side_by_side;
    timed.sum_squares = timed_sum_squares;
    timed.adamw = timed_adamw;
    return timed;
}

/* ---- the peak: multiply-adds in registers, one thread, times threads ---- */
#define PEAK(name, lanes, attribute)                                                                         \
    typedef float lanes_##name __attribute__((vector_size(4 * lanes)));                                      \
    attribute static double peak_##name(void)                                                                \
    {                                                                                                        \
        lanes_##name sum[14] = {{0}}, x, y;                                                                  \
        const long repeats = 2000000;                                                                        \
        for (int i = 0; i < lanes; i++)                                                                      \
            x[i] = 0.999f, y[i] = 1e-3f;                                                                     \
        __asm__ volatile("" : "+m"(x), "+m"(y));                                                             \
        double start = seconds();                                                                            \
        for (long n = 0; n < repeats; n++)                                                                   \
            _Pragma("GCC unroll 14") for (int i = 0; i < 14; i++) sum[i] = sum[i] * x + y;                   \
        double flops = 2.0 * lanes * 14 * (double) repeats / (seconds() - start);                            \
        __asm__ volatile("" : : "m"(sum));                                                                   \
        return flops;                                                                                        \
    }
PEAK(portable, 4, )
#if defined(__x86_64__)
PEAK(avx2, 8, __attribute__((target("avx2,fma"))))
PEAK(avx512, 16, __attribute__((target("avx512f,prefer-vector-width=512"))))
#endif

/* Of a GPU: the rate of a large product. */
static double product_peak(const struct backend *backend, struct device *device)
{
    enum { ROWS = 16384, N = 8192 };
    act *x = backend->alloc(device, (size_t) ROWS * N * backend->act_size);
    act *y = backend->alloc(device, (size_t) ROWS * N * backend->act_size);
    real *w = backend->alloc(device, (size_t) N * N * sizeof(real));
    double best = 0;

    for (int i = 0; x && y && w && i < 10; i++) {
        double start = seconds();

        backend->linear_forward(device, y, NULL, NULL, x, w, NULL, ROWS, N, N);
        settle(device);
        start = 2.0 * ROWS * N * N / (seconds() - start);
        best = start > best ? start : best;
    }
    backend->free(device, x);
    backend->free(device, y);
    backend->free(device, w);
    return best;
}

static double peak(const struct backend *backend)
{
    double best = 0;

    for (int i = 0; i < 5; i++) {
        double flops = peak_portable();

#if defined(__x86_64__)
        if (strcmp(backend->name, "avx2") == 0)
            flops = peak_avx2();
        if (strcmp(backend->name, "avx512") == 0)
            flops = peak_avx512();
#endif
        best = flops > best ? flops : best;
    }
    return best * (strcmp(backend->precision, "bf16") == 0 ? 2 : 1);
}

/* ---- steps ---- */
struct bench {
    struct tlaw_spec spec;
    struct model *model;
    int32_t *tokens, *targets;
    int64_t step;
};

static void begin_step(struct bench *b)
{
    model_step_begin(b->model, ++b->step, 1e-4);
    model_step_add(b->model, b->tokens, b->targets);
}

/* Tokens a second over at least `limit` seconds; as in a run, a step begins before the one before it ends. */
static double run(struct bench *b, double limit)
{
    double start = seconds(), elapsed;
    int steps = 0;

    begin_step(b);
    do {
        begin_step(b);
        model_step_end(b->model);
        steps++;
    } while (seconds() - start < limit);
    model_step_end(b->model);
    steps++;
    elapsed = seconds() - start;
    return steps * (double) (b->spec.batch_size * b->spec.context_length) / elapsed;
}

static void profile(struct bench *b, const struct backend *backend, struct device *device, int threads)
{
    double start, total, accounted = 0, steps = 0;
    double flops =
        strcmp(backend->name, "cuda") == 0 ? product_peak(backend, device) : peak(backend) * threads;

    run(b, 0.5);
    memset(spent, 0, sizeof spent);
    memset(work, 0, sizeof work);
    start = seconds();
    do {
        begin_step(b);
        model_step_end(b->model);
        steps++;
    } while ((total = seconds() - start) < 3);
    printf("%s %s, %d threads, L%d d%d h%d T%d B%d V%d: %.0f tokens/s, %.2f ms a step, %.1f %% of the peak "
           "(%.0f GFLOP/s)\n",
           backend->name, backend->precision, threads, (int) b->spec.n_layer, (int) b->spec.d_model,
           (int) b->spec.n_head, (int) b->spec.context_length, (int) b->spec.batch_size,
           (int) b->spec.vocab_size, steps * (double) (b->spec.batch_size * b->spec.context_length) / total,
           1e3 * total / steps,
           100 * tlaw_spec_flops_per_token(&b->spec) * steps *
               (double) (b->spec.batch_size * b->spec.context_length) / total / flops,
           flops / 1e9);
    for (int i = 0; i < OPERATIONS; i++) {
        accounted += spent[i];
        printf("  %-20s %8.3f ms  %5.1f %%", operation_names[i], 1e3 * spent[i] / steps,
               100 * spent[i] / total);
        if (work[i] > 0)
            printf("  %6.0f GFLOP/s  %5.1f %% of the peak", work[i] / spent[i] / 1e9,
                   100 * work[i] / spent[i] / flops);
        printf("\n");
    }
    printf("  %-20s %8.3f ms  %5.1f %%\n", "everything else", 1e3 * (total - accounted) / steps,
           100 * (total - accounted) / total);
}

static void fill_spec(struct tlaw_spec *spec, char **argument)
{
    *spec = (struct tlaw_spec){.arch = "gpt2",
                               .bias = 1,
                               .seed = 1,
                               .beta1 = 0.9,
                               .beta2 = 0.95,
                               .weight_decay = 0.1,
                               .grad_clip = 1};
    spec->n_layer = atoi(argument[0]);
    spec->d_model = atoi(argument[1]);
    spec->n_head = atoi(argument[2]);
    spec->context_length = atoi(argument[3]);
    spec->batch_size = spec->micro_batch = atoi(argument[4]);
    spec->vocab_size = atoi(argument[5]);
}

int main(int argc, char **argv)
{
    char message[512], line[64];
    struct bench b = {0};

    if (argc != 10 && argc != 11) {
        fprintf(stderr, "usage: step ISA PRECISION THREADS L D_MODEL HEADS T B V [profile]\n");
        return 2;
    }
    bool gpu = strncmp(argv[1], "cuda", 4) == 0;
    const struct backend *backend =
        backend_find(gpu ? argv[1] : "cpu", gpu ? "" : argv[1], argv[2], message, sizeof message);
    struct backend timed;
    struct device *device = backend ? backend->open(atoi(argv[3]), message, sizeof message) : NULL;

    fill_spec(&b.spec, argv + 4);
    if (device) {
        timed = timed_backend(backend, atoi(argv[3]));
        settled = backend->alloc(device, 1);
        b.model = model_create(&b.spec, argc == 11 ? &timed : backend, device, (int) b.spec.batch_size, true,
                               message, sizeof message);
    }
    if (!b.model) {
        fprintf(stderr, "step: %s\n", message);
        return 1;
    }
    size_t rows = (size_t) (b.spec.batch_size * b.spec.context_length);

    b.tokens = calloc(rows + 1, sizeof *b.tokens);
    for (size_t i = 0; i <= rows; i++)
        b.tokens[i] = (int32_t) (i * 2654435761u % (uint32_t) b.spec.vocab_size);
    b.targets = b.tokens + 1;
    model_init(b.model);
    if (argc == 11)
        profile(&b, backend, device, atoi(argv[3]));
    else
        while (fgets(line, sizeof line, stdin)) {
            printf("%.1f\n", run(&b, atof(line)));
            fflush(stdout);
        }
    model_free(b.model);
    backend->free(device, settled);
    backend->close(device);
    free(b.tokens);
    return 0;
}
