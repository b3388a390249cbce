/* Matrix products as cuBLASLt describes them: column-major, with epilogues; plain loops. */
#include <cublasLt.h>
#include <cuda_bf16.h>

#include <stdio.h>
#include <stdlib.h>
#include <vector>

#define STAGE 8 /* terms of a sum */

struct shim_product {
    cublasComputeType_t compute;
    cublasOperation_t transa, transb;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    void *aux;
    int64_t aux_ld;
};

struct shim_layout {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t ld;

    size_t element() const
    {
        return type == CUDA_R_8I ? 1 : type == CUDA_R_16BF ? 2 : 4;
    }
};

struct shim_preference {
    uint64_t values[6]; /* by attribute */
};

/* 13.7.0, unless a test says otherwise. */
size_t cublasLtGetVersion()
{
    const char *said = getenv("SHIM_CUBLAS_VERSION");

    return said ? strtoul(said, NULL, 10) : 130700;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported" : "invalid value or internal error";
}

/* All may wait for the device, or fail while any stream is captured. */
static cublasStatus_t alone()
{
    return shim_finish_all() == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INTERNAL_ERROR;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *)
{
    return alone();
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t)
{
    return alone();
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t)
{
    *out = new shim_product{compute, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, NULL, NULL, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product)
{
    delete product;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product,
                                              cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t size)
{
    const struct {
        void *field;
        size_t size;
    } fields[] = {{&product->transa, 4}, {&product->transb, 4}, {&product->epilogue, 4},
                  {&product->bias, 8},   {&product->aux, 8},    {&product->aux_ld, 8}};

    if (size != fields[attribute].size)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(fields[attribute].field, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t ld)
{
    *out = new shim_layout{type, rows, columns, ld};
    return ld >= (int64_t) rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t matrix)
{
    delete matrix;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    *out = new shim_preference{};
    (*out)->values[CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK] = CUBLASLT_REDUCTION_SCHEME_MASK;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t size)
{
    if (size != (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES ? 8 : 4))
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&preference->values[attribute], value, size);
    return CUBLAS_STATUS_SUCCESS;
}

static bool is_aligned(const void *at)
{
    return (uintptr_t) at % 16 == 0;
}

/* What the documentation asks of a product; the tests' tensor cores know nothing that is less aligned. */
static bool is_possible(const shim_product *product, const shim_layout *a, const shim_layout *b,
                        const shim_layout *d)
{
    uint64_t k = product->transa == CUBLAS_OP_T ? a->rows : a->columns;
    uint64_t k_of_b = product->transb == CUBLAS_OP_T ? b->columns : b->rows;
    uint64_t m = product->transa == CUBLAS_OP_T ? a->columns : a->rows;
    uint64_t n = product->transb == CUBLAS_OP_T ? b->rows : b->columns;

    for (const shim_layout *matrix : {a, b, d})
        if (matrix->ld * matrix->element() % 16 != 0)
            return false;
    if (k != k_of_b || m != d->rows || n != d->columns || a->type != b->type)
        return false;
    if (product->compute == CUBLAS_COMPUTE_32I)
        return a->type == CUDA_R_8I && d->type == CUDA_R_32I && product->transa == CUBLAS_OP_T &&
               product->transb == CUBLAS_OP_N;
    if (product->epilogue & 128 &&
        (product->aux_ld % 8 != 0 || product->aux_ld < (int64_t) m || d->type != CUDA_R_16BF))
        return false;
    /* now and then there is no algorithm */
    return !(product->epilogue == CUBLASLT_EPILOGUE_DGELU && n % 4 == 1);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t *out, int *found)
{
    uint64_t k = product->transa == CUBLAS_OP_T ? a->rows : a->columns;
    uint64_t parts = k / STAGE, workspace = parts * d->rows * d->columns * sizeof(float);
    bool splits = preference->values[CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK] && parts >= 2 &&
                  workspace <= preference->values[CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES];

    for (int i = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES; i <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES;
         i++)
        if (preference->values[i] != 16)
            return CUBLAS_STATUS_INVALID_VALUE;
    if (alone() != CUBLAS_STATUS_SUCCESS)
        return CUBLAS_STATUS_INTERNAL_ERROR;
    *found = is_possible(product, a, b, d) ? std::min(wanted, 2) : 0;
    for (int i = 0; i < *found; i++) {
        out[i] = {};
        out[i].algo.data[0] = splits ? parts : 1;
        out[i].algo.data[1] = i;
        out[i].algo.data[2] = out[i].workspaceSize = splits ? workspace : 0;
    }
    return *found ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void *value, size_t size, size_t *written)
{
    int32_t found = attribute == CUBLASLT_ALGO_CONFIG_ID ? 66 : (int32_t) algorithm->data[0];

    if (size != sizeof found)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, &found, *written = size);
    return CUBLAS_STATUS_SUCCESS;
}

static float get(const void *at, size_t i, cudaDataType_t type)
{
    return type == CUDA_R_16BF ? __bfloat162float(((const __nv_bfloat16 *) at)[i]) : ((const float *) at)[i];
}

static void put(void *at, size_t i, cudaDataType_t type, float x)
{
    if (type == CUDA_R_16BF)
        ((__nv_bfloat16 *) at)[i] = __float2bfloat16(x);
    else
        ((float *) at)[i] = x;
}

/* The matrix as the product reads it, one row of `length` after the other. */
static std::vector<float> lines(const void *at, const shim_layout *matrix, bool by_rows)
{
    uint64_t count = by_rows ? matrix->rows : matrix->columns,
             length = by_rows ? matrix->columns : matrix->rows;
    std::vector<float> out(count * length);

    for (uint64_t i = 0; i < count; i++)
        for (uint64_t j = 0; j < length; j++)
            out[i * length + j] = get(at, by_rows ? j * matrix->ld + i : i * matrix->ld + j, matrix->type);
    return out;
}

static float epilogue(const shim_product *product, cudaDataType_t type, float x, size_t row, size_t column,
                      bool loses_bias)
{
    size_t aux = column * product->aux_ld + row;
    float t;

    if (product->epilogue & CUBLASLT_EPILOGUE_BIAS && !loses_bias)
        x += get(product->bias, row, type);
    if (product->epilogue & 32) {
        put(product->aux, aux, type, x);
        return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    }
    if (product->epilogue != CUBLASLT_EPILOGUE_DGELU)
        return x;
    float before = get(product->aux, aux, type);
    t = tanhf(0.7978845608f * (before + 0.044715f * before * before * before));
    return x * (0.5f * (1 + t) +
                0.5f * before * (1 - t * t) * 0.7978845608f * (1 + 3 * 0.044715f * before * before));
}

/* How many of k terms are summed: as in versions of the real one, not all where parts are unequal stages. */
static uint64_t summed(uint64_t k, uint64_t parts)
{
    return k % parts != 0 && k / parts % STAGE == 0 ? k / parts * parts : k;
}

/* out[n][m] = columns' products with rows, all of bytes and one after the other */
static void multiply_bytes(const int8_t *rows, const shim_layout *a, const int8_t *columns,
                           const shim_layout *b, int32_t *out, const shim_layout *d, uint64_t terms)
{
    for (uint64_t j = 0; j < d->columns; j++)
        for (uint64_t i = 0; i < d->rows; i++) {
            const int8_t *x = rows + i * a->ld, *y = columns + j * b->ld;
            int32_t sum = 0;

            for (uint64_t c = 0; c < terms; c++)
                sum += x[c] * y[c];
            out[j * d->ld + i] = sum;
        }
}

/* One product, with everything that cublasLtMatmul takes at the call. */
struct multiplication {
    shim_product product;
    shim_layout a, b, d;
    float alpha, beta;
    const void *A, *B, *C;
    void *D, *workspace;
    uint64_t parts, workspace_size;

    void run() const
    {
        if (workspace_size)
            memset(workspace, 0xff, workspace_size);
        if (product.compute == CUBLAS_COMPUTE_32I)
            multiply_bytes((const int8_t *) A, &a, (const int8_t *) B, &b, (int32_t *) D, &d,
                           summed(a.rows, parts));
        else
            multiply_floats();
    }

    void multiply_floats() const
    {
        uint64_t k = product.transa == CUBLAS_OP_T ? a.rows : a.columns, terms = summed(k, parts);
        std::vector<float> rows = lines(A, &a, product.transa == CUBLAS_OP_N);
        std::vector<float> columns = lines(B, &b, product.transb == CUBLAS_OP_T);
        bool loses_bias = d.columns == 1 && cublasLtGetVersion() < 120804; /* as those versions may */

        for (uint64_t j = 0; j < d.columns; j++)
            for (uint64_t i = 0; i < d.rows; i++) {
                size_t at = j * d.ld + i;
                float sum = 0;

                for (uint64_t x = 0; x < terms; x++)
                    sum += rows[i * k + x] * columns[j * k + x];
                sum *= alpha;
                if (beta != 0)
                    sum += beta * get(C, at, d.type);
                put(D, at, d.type, epilogue(&product, d.type, sum, i, j, loses_bias));
            }
    }
};

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t a, const void *B,
                              cublasLtMatrixLayout_t b, const void *beta, const void *C,
                              cublasLtMatrixLayout_t, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_size,
                              cudaStream_t stream)
{
    struct multiplication all = {
        *product, *a, *b, *d,        *(const float *) alpha, *(const float *) beta, A,
        B,        C,  D,  workspace, algorithm->data[0],     algorithm->data[2]};

    if (workspace_size < all.workspace_size || !is_aligned(workspace) ||
        (all.workspace_size && !shim_is_device(workspace, all.workspace_size)))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_possible(product, a, b, d) || !is_aligned(A) || !is_aligned(B) || !is_aligned(C) ||
        !is_aligned(D) || (product->epilogue & 4 && !is_aligned(product->bias)) ||
        (product->epilogue & 128 && !is_aligned(product->aux)))
        return CUBLAS_STATUS_INVALID_VALUE;
    /* now and then it is refused, or one algorithm is */
    if ((product->epilogue & 32 && d->columns % 4 == 3) || (d->columns == 1 && algorithm->data[1] == 0))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (product->compute == CUBLAS_COMPUTE_32I &&
        (*(const int32_t *) alpha != 1 || *(const int32_t *) beta != 0))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return shim_submit(stream, [=] { all.run(); }) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                                  : CUBLAS_STATUS_INVALID_VALUE;
}
