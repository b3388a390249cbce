/*
 * Matrix products through cuBLASLt, and the operations that are products.
 *
 * All matrices here are row-major; cuBLASLt's are column-major, so Y[M,N] = X[M,K] W[K,N] is asked for as
 * Y^T = W^T X^T.  Invariants:
 * - An operand begins at a multiple of 16 bytes and so do its rows; whatever does not is copied first.
 * - A product's algorithm is the first that cuBLASLt's heuristic names for the shape and that is sound, asked
 * with 16-byte alignment whatever the pointers are, and with no reduction that depends on timing: it is the
 * same in every process on the same device and library, and so are the bits.
 * - Inputs are of type T, sums are float32 (no TF32).
 * - Bias, GELU and its derivative are cuBLASLt's epilogues where T is bf16, the arrays are aligned and it has
 * an algorithm for them; else the product goes to scratch in float32 and finish_kernel does the rest.
 */
#include "product.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT      16 /* bytes */
#define WORKSPACE_MOST ((size_t) 64 << 20)
#define THREADS        256
#define CANDIDATES     8 /* algorithms that are asked for */

template <class T> static cudaDataType_t type_of();
template <> cudaDataType_t type_of<float>()
{
    return CUDA_R_32F;
}
template <> cudaDataType_t type_of<bf16>()
{
    return CUDA_R_16BF;
}

static void check_product(cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return;
    fprintf(stderr, "cuBLASLt: %s: %s\n", what, cublasLtGetStatusString(status));
    fflush(stdout);
    _Exit(EXIT_FAILURE); /* as check does */
}

/* ---- plans: a shape's description and algorithm ---- */

/* What decides a plan; compared as bytes, so it is zeroed before it is filled. */
struct shape {
    int M, N, K, x_ld, w_ld, y_ld;
    int x_transposed, w_transposed, accumulate;
    cudaDataType_t type, result;
    cublasLtEpilogue_t epilogue;
};

struct plan {
    struct shape shape;
    struct plan *next;
    cublasLtMatmulDesc_t description;
    cublasLtMatrixLayout_t x, w, y;
    cublasLtMatmulHeuristicResult_t candidates[CANDIDATES];
    int chosen, count; /* of the candidates; equal: there is no algorithm */
};

template <class V> static void set(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t attribute, V value)
{
    check_product(cublasLtMatmulDescSetAttribute(d, attribute, &value, sizeof value), "describing a product");
}

template <class V>
static void prefer(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t attribute, V value)
{
    check_product(cublasLtMatmulPreferenceSetAttribute(p, attribute, &value, sizeof value),
                  "describing a preference");
}

/* The layout of a row-major matrix as cuBLASLt sees it: its transpose. */
static cublasLtMatrixLayout_t layout(cudaDataType_t type, int rows, int columns, int ld)
{
    cublasLtMatrixLayout_t out;

    check_product(cublasLtMatrixLayoutCreate(&out, type, columns, rows, ld), "describing a matrix");
    return out;
}

static void set_pointers(struct plan *plan, const void *bias, const void *aux)
{
    if (plan->shape.epilogue & CUBLASLT_EPILOGUE_BIAS)
        set(plan->description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    if (plan->shape.epilogue & 128) /* the bit of every epilogue with an auxiliary matrix */
        set(plan->description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux);
}

/*
 * Whether cuBLAS 12.6.3 to 13.7.0 would leave out the end of sums over K (issue 6580689 of its release
 * notes): where they are cut into parts that do not divide K and are yet whole stages, of 8 terms at least.
 */
static bool loses_terms(const cublasLtMatmulAlgo_t *algorithm, int K)
{
    int32_t id, parts;
    size_t size;

    check_product(
        cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_ID, &id, sizeof id, &size),
        "asking which algorithm it is");
    check_product(cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts,
                                                       sizeof parts, &size),
                  "asking how sums are split");
    return id == 66 && parts > 1 && K % parts != 0 && K / parts % 8 == 0;
}

/*
 * Lets the heuristic name algorithms, the fastest first; sums over K may be split into parts in float32 that
 * are added in a fixed order.  It may look at the device's streams, so not while one is recorded (cuBLAS 13.5
 * and 13.6 then fail).
 */
static void choose_algorithm(struct device *device, struct plan *plan)
{
    if (device->recording)
        check(cudaErrorStreamCaptureUnsupported, "planning a product");
    std::lock_guard<std::mutex> turn(whole_device);
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];

    /* it takes the alignment from the pointers' values */
    set_pointers(plan, (const void *) ALIGNMENT, (const void *) ALIGNMENT);
    check_product(cublasLtMatmulPreferenceCreate(&preference), "describing a preference");
    prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t) WORKSPACE_MOST);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t) ALIGNMENT);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t) ALIGNMENT);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t) ALIGNMENT);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t) ALIGNMENT);
    for (uint32_t reductions : {CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, CUBLASLT_REDUCTION_SCHEME_NONE}) {
        int count = 0;

        prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions);
        if (cublasLtMatmulAlgoGetHeuristic(device->products, plan->description, plan->w, plan->x, plan->y,
                                           plan->y, preference, CANDIDATES, found,
                                           &count) != CUBLAS_STATUS_SUCCESS)
            break;
        for (int i = 0; i < count; i++)
            if (found[i].state == CUBLAS_STATUS_SUCCESS && !loses_terms(&found[i].algo, plan->shape.K))
                plan->candidates[plan->count++] = found[i];
        if (plan->count)
            break;
    }
    check_product(cublasLtMatmulPreferenceDestroy(preference), "forgetting a preference");
}

static struct plan *plan_for(struct device *device, const struct shape *s)
{
    struct plan *plan = device->plans;

    while (plan && memcmp(&plan->shape, s, sizeof *s) != 0)
        plan = plan->next;
    if (plan)
        return plan;
    plan = (struct plan *) calloc(1, sizeof *plan);
    if (!plan)
        check(cudaErrorMemoryAllocation, "planning a product");
    plan->shape = *s;
    plan->next = device->plans;
    device->plans = plan;
    check_product(cublasLtMatmulDescCreate(&plan->description, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                  "describing a product");
    set(plan->description, CUBLASLT_MATMUL_DESC_TRANSA, s->w_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan->description, CUBLASLT_MATMUL_DESC_TRANSB, s->x_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan->description, CUBLASLT_MATMUL_DESC_EPILOGUE, s->epilogue);
    if (s->epilogue & 128)
        set(plan->description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, (int64_t) s->y_ld);
    plan->x = s->x_transposed ? layout(s->type, s->K, s->M, s->x_ld) : layout(s->type, s->M, s->K, s->x_ld);
    plan->w = s->w_transposed ? layout(s->type, s->N, s->K, s->w_ld) : layout(s->type, s->K, s->N, s->w_ld);
    plan->y = layout(s->result, s->M, s->N, s->y_ld);
    choose_algorithm(device, plan);
    return plan;
}

void product_close(struct device *device)
{
    while (device->plans) {
        struct plan *plan = device->plans;

        device->plans = plan->next;
        cublasLtMatrixLayoutDestroy(plan->x);
        cublasLtMatrixLayoutDestroy(plan->w);
        cublasLtMatrixLayoutDestroy(plan->y);
        cublasLtMatmulDescDestroy(plan->description);
        free(plan);
    }
}

/*
 * y[M,N] (+)= x w by a plan; false when cuBLASLt has no algorithm for it.  One that it refuses when it comes
 * to it (cuBLAS 13.5 and 13.6: some products with one vector) is not asked again, and has launched nothing:
 * the same bits always.
 */
static bool run(struct device *device, const struct shape *s, void *y, const void *x, const void *w,
                const void *bias, const void *aux)
{
    struct plan *plan = plan_for(device, s);
    float one = 1, add = s->accumulate ? 1 : 0;

    for (; plan->chosen < plan->count; plan->chosen++) {
        const cublasLtMatmulHeuristicResult_t *candidate = &plan->candidates[plan->chosen];
        void *workspace = scratch(device, SCRATCH_WORKSPACE, candidate->workspaceSize);
        cublasStatus_t status;

        set_pointers(plan, bias, aux);
        status = cublasLtMatmul(device->products, plan->description, &one, w, plan->w, x, plan->x, &add, y,
                                plan->y, y, plan->y, &candidate->algo, workspace, candidate->workspaceSize,
                                device->stream);
        if (status == CUBLAS_STATUS_NOT_SUPPORTED)
            continue;
        check_product(status, "a product");
        return true;
    }
    return false;
}

/* ---- operands ---- */

/* out[rows, ld] = in[rows, columns] in the type T, zeros beyond; a last row of extra[columns] when given; a
 * thread an element of out */
template <class T, class From>
__global__ void __launch_bounds__(THREADS)
    operand_kernel(T *out, int ld, const From *in, const float *extra, int rows, int columns)
{
    size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x;
    size_t row = i / ld, column = i % ld;

    if (row >= rows + (extra ? 1 : 0))
        return;
    if (column >= columns)
        out[i] = from_float<T>(0);
    else
        out[i] = from_float<T>(row < rows ? as_float(in[row * columns + column]) : extra[column]);
}

template <class T> int padded(int columns)
{
    int each = ALIGNMENT / sizeof(T);

    return (columns + each - 1) / each * each;
}

template <class T, class From>
static struct operand copy_operand(struct device *device, enum scratch which, const From *in,
                                   const float *extra, int rows, int columns)
{
    int ld = padded<T>(columns);
    size_t lines = (size_t) rows + (extra ? 1 : 0);
    T *out = (T *) scratch(device, which, lines * ld * sizeof(T));

    launch(device, operand_kernel<T, From>, blocks_for(lines * ld, THREADS), THREADS, out, ld, in, extra,
           rows, columns);
    return operand{out, ld, false};
}

template <class T> static bool is_ready(const void *at, int columns)
{
    return is_aligned(at, ALIGNMENT) && padded<T>(columns) == columns;
}

template <class T>
struct operand act_operand(struct device *device, enum scratch which, const act *in, int rows, int columns)
{
    if (is_ready<T>(in, columns))
        return operand{in, columns, false};
    return copy_operand<T>(device, which, (const T *) in, NULL, rows, columns);
}

template <class T>
struct operand real_operand(struct device *device, enum scratch which, const real *in, int rows, int columns)
{
    if (sizeof(T) == sizeof(float))
        return act_operand<T>(device, which, in, rows, columns);
    return copy_operand<T>(device, which, in, NULL, rows, columns);
}

template <class T>
struct operand weight_operand(struct device *device, enum scratch which, const real *w, int rows, int columns)
{
    const bf16 *copy = sizeof(T) == sizeof(bf16) ? weights_copy(device, w) : NULL;

    return copy ? act_operand<T>(device, which, copy, rows, columns)
                : real_operand<T>(device, which, w, rows, columns);
}

/* ---- results ---- */

/* What product.h promises of `result`, from sum[M, ld]; a thread an element of [M,N] */
template <class T>
__global__ void __launch_bounds__(THREADS)
    finish_kernel(struct result out, const float *sum, size_t ld, int M, int N)
{
    size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x;
    size_t row = i / N, column = i % N;

    if (row >= M)
        return;
    i = row * out.ld + column;
    float x = sum[row * ld + column];
    if (out.bias)
        x += out.bias[column];
    if (out.pre) {
        ((T *) out.pre)[i] = from_float<T>(x);
        x = gelu(x);
    }
    if (out.slope)
        x *= gelu_slope(as_float(((const T *) out.slope)[i]));
    if (out.as_act)
        ((T *) out.as_act)[i] = from_float<T>(x);
    else
        out.as_real[i] = out.accumulate ? out.as_real[i] + x : x;
}

/* Whether cuBLASLt could write the result of M rows itself. */
template <class T> static bool is_direct(const struct result *out, int M)
{
    int ld = out->ld;
    bool fused = out->bias || out->pre || out->slope;

    if (out->bias && M == 1 && cublasLtGetVersion() < 120804)
        return false; /* which might be wrong: issue 5104822 */
    if (fused && sizeof(T) == sizeof(float))
        return false;
    if (out->bias && out->as_real && !is_aligned(out->bias, ALIGNMENT))
        return false;
    if (out->pre || out->slope)
        return out->as_act && is_ready<T>(out->pre ? out->pre : out->slope, ld) &&
               is_ready<T>(out->as_act, ld);
    return out->as_act ? is_ready<T>(out->as_act, ld) : is_ready<float>(out->as_real, ld);
}

static cublasLtEpilogue_t epilogue_of(const struct result *out)
{
    if (out->slope)
        return CUBLASLT_EPILOGUE_DGELU;
    if (out->pre)
        return out->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    return out->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

template <class T>
void multiply(struct device *device, int M, int N, int K, struct operand x, struct operand w,
              struct result out)
{
    struct shape s;

    out.ld = out.ld ? out.ld : N;
    memset(&s, 0, sizeof s);
    s.M = M, s.N = N, s.K = K;
    s.x_ld = x.ld, s.w_ld = w.ld, s.y_ld = out.ld;
    s.x_transposed = x.transposed, s.w_transposed = w.transposed;
    s.accumulate = out.accumulate;
    s.type = type_of<T>();
    s.result = out.as_act ? type_of<T>() : CUDA_R_32F;
    s.epilogue = epilogue_of(&out);
    if (is_direct<T>(&out, M) &&
        run(device, &s, out.as_act ? out.as_act : out.as_real, x.at, w.at,
            out.as_act ? out.bias_in_t : (const void *) out.bias, out.pre ? out.pre : out.slope))
        return;

    float *sum;

    s.y_ld = padded<float>(N);
    s.accumulate = 0;
    s.result = CUDA_R_32F;
    s.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    sum = (float *) scratch(device, SCRATCH_SUM, sizeof(float) * M * s.y_ld);
    if (!run(device, &s, sum, x.at, w.at, NULL, NULL))
        check_product(CUBLAS_STATUS_NOT_SUPPORTED, "a plain product");
    launch(device, finish_kernel<T>, blocks_for((size_t) M * N, THREADS), THREADS, out, (const float *) sum,
           (size_t) s.y_ld, M, N);
}

/* ---- the operations ---- */

template <class T>
void linear_forward(struct device *device, act *y_act, real *y_real, act *pre, const act *x, const real *w,
                    const real *bias, int rows, int K, int N)
{
    struct operand xs = act_operand<T>(device, SCRATCH_X, x, rows, K), ws;
    struct result out = {};
    const bf16 *bias_copy = sizeof(T) == sizeof(bf16) && bias ? weights_copy(device, bias) : NULL;

    /* an epilogue takes the bias as T: from the copy of the weights, or it comes along as a last row of w */
    if (sizeof(T) == sizeof(float) || !bias || (bias_copy && is_aligned(bias_copy, ALIGNMENT))) {
        ws = weight_operand<T>(device, SCRATCH_W, w, K, N);
        out.bias_in_t = bias_copy;
    } else {
        ws = copy_operand<T>(device, SCRATCH_W, w, bias, K, N);
        out.bias_in_t = (const T *) ws.at + (size_t) K * ws.ld;
    }
    out.as_act = y_act;
    out.as_real = y_real;
    out.bias = bias;
    out.pre = pre;
    multiply<T>(device, rows, N, K, xs, ws, out);
}

template <class T>
void linear_backward(struct device *device, act *dx_act, real *dx_real, real *dw, real *dbias,
                     const act *dy_act, const real *dy_real, const act *pre, const act *x, const real *w,
                     int rows, int K, int N)
{
    struct operand xs = act_operand<T>(device, SCRATCH_X, x, rows, K);
    struct operand dys = dy_act ? act_operand<T>(device, SCRATCH_DY, dy_act, rows, N)
                                : real_operand<T>(device, SCRATCH_DY, dy_real, rows, N);
    struct result gradient = {}, back = {};

    gradient.as_real = dw;
    gradient.accumulate = true;
    multiply<T>(device, K, N, rows, xs.turned(), dys, gradient);
    if (dbias && dy_real)
        add_columns(device, dbias, dy_real, rows, N, N);
    else if (dbias)
        add_columns(device, dbias, (const T *) dys.at, rows, N, dys.ld);
    if (!dx_act && !dx_real)
        return;
    back.as_act = dx_act;
    back.as_real = dx_real;
    back.slope = pre;
    multiply<T>(device, rows, K, N, dys, weight_operand<T>(device, SCRATCH_W, w, K, N).turned(), back);
}

template <class T>
void logits(struct device *device, real *out, const act *x, const real *wte, int rows, int C, int V)
{
    struct result result = {};

    result.as_real = out;
    multiply<T>(device, rows, V, C, act_operand<T>(device, SCRATCH_X, x, rows, C),
                weight_operand<T>(device, SCRATCH_W, wte, V, C).turned(), result);
}

#define INSTANTIATE(T)                                                                                       \
    template int padded<T>(int);                                                                             \
    template struct operand act_operand<T>(struct device *, enum scratch, const act *, int, int);            \
    template struct operand real_operand<T>(struct device *, enum scratch, const real *, int, int);          \
    template struct operand weight_operand<T>(struct device *, enum scratch, const real *, int, int);        \
    template void multiply<T>(struct device *, int, int, int, struct operand, struct operand,                \
                              struct result);                                                                \
    template void linear_forward<T>(struct device *, act *, real *, act *, const act *, const real *,        \
                                    const real *, int, int, int);                                            \
    template void linear_backward<T>(struct device *, act *, real *, real *, real *, const act *,            \
                                     const real *, const act *, const act *, const real *, int, int, int);   \
    template void logits<T>(struct device *, real *, const act *, const real *, int, int, int);

INSTANTIATE(float)
INSTANTIATE(bf16)
