/*
 * What is not a product: embeddings, layer norms, sums.  Roof: the memory moved.  Measured (Zen 5, one
 * thread): layer norm 77 GB/s where a copy makes 128 (L3).
 *
 * Reductions over rows are taken in chunks of fixed size whose partial sums are added in order.
 */
#include "isa.h"

#define ROWS_A_UNIT     32
#define ELEMENTS_A_UNIT 16384

/* ---- embeddings ---- */
struct embedding {
    float *x, *dwte, *dwpe;
    const float *dx, *wte, *wpe;
    const int32_t *tokens;
    long rows, T, C;
};

static void embedding_forward_unit(void *arg, long unit, int thread)
{
    const struct embedding *e = arg;
    long end = least((unit + 1) * ROWS_A_UNIT, e->rows);

    (void) thread;
    for (long row = unit * ROWS_A_UNIT; row < end; row++) {
        const float *token = e->wte + e->tokens[row] * e->C, *position = e->wpe + row % e->T * e->C;

        for (long c = 0; c < e->C; c += VW)
            store_n(e->x + row * e->C + c, load_n(token + c, e->C - c) + load_n(position + c, e->C - c),
                    e->C - c);
    }
}

void ISA_NAME(embedding_forward)(struct device *device, real *x, const int32_t *tokens, const real *wte,
                                 const real *wpe, int B, int T, int C)
{
    struct embedding e = {
        .x = x, .wte = wte, .wpe = wpe, .tokens = tokens, .rows = (long) B * T, .T = T, .C = C};

    pool_run(device->pool, (e.rows + ROWS_A_UNIT - 1) / ROWS_A_UNIT, embedding_forward_unit, &e);
}

#define COLUMNS_A_UNIT 32

/* A unit owns some columns of both tables and walks all rows in order: no two threads meet. */
static void embedding_backward_unit(void *arg, long unit, int thread)
{
    const struct embedding *e = arg;
    long first = unit * COLUMNS_A_UNIT, end = least(first + COLUMNS_A_UNIT, e->C);

    (void) thread;
    for (long row = 0; row < e->rows; row++)
        for (long c = first; c < end; c += VW) {
            float *token = e->dwte + e->tokens[row] * e->C + c, *position = e->dwpe + row % e->T * e->C + c;
            vf dx = load_n(e->dx + row * e->C + c, end - c);

            store_n(token, load_n(token, end - c) + dx, end - c);
            store_n(position, load_n(position, end - c) + dx, end - c);
        }
}

void ISA_NAME(embedding_backward)(struct device *device, real *dwte, real *dwpe, const real *dx,
                                  const int32_t *tokens, int B, int T, int C, int V)
{
    struct embedding e = {
        .dwte = dwte, .dwpe = dwpe, .dx = dx, .tokens = tokens, .rows = (long) B * T, .T = T, .C = C};

    (void) V;
    pool_run(device->pool, (C + COLUMNS_A_UNIT - 1) / COLUMNS_A_UNIT, embedding_backward_unit, &e);
}

/* ---- layer norm ---- */
struct layernorm {
    act_t *y;
    float *mean, *rstd, *x, *dx, *partial, *dgamma, *dbeta;
    const float *branch, *gamma, *beta, *dy, *x_in, *mean_in, *rstd_in;
    long rows, C, chunks;
};

/* Rows that take each step together, as one row's sums and root are a long chain; more of short ones. */
#define ROWS_AT_ONCE(C) ((C) > 128 ? 4 : 8)

/* x += branch; the row's sum. */
inline_always float row_sum(const struct layernorm *l, long row)
{
    float *x = l->x + row * l->C;
    vf sum = {0};

    for (long c = 0; c < l->C; c += VW) {
        vf value = load_n(x + c, l->C - c);

        if (l->branch) {
            value += load_n(l->branch + row * l->C + c, l->C - c);
            store_n(x + c, value, l->C - c);
        }
        sum += value;
    }
    return vsum(sum);
}

inline_always float row_squares(const float *x, float mean, long C)
{
    vf squares = {0};

    for (long c = 0; c < C; c += VW) {
        vf centred = load_n(x + c, C - c) - mean;

        if (C - c < VW)
            centred = load_n((float *) &centred, C - c);
        squares += centred * centred;
    }
    return vsum(squares);
}

static void layernorm_forward_unit(void *arg, long unit, int thread)
{
    const struct layernorm *l = arg;
    long C = l->C, end = least((unit + 1) * ROWS_A_UNIT, l->rows);

    (void) thread;
    for (long first = unit * ROWS_A_UNIT; first < end; first += ROWS_AT_ONCE(C)) {
        long stop = least(first + ROWS_AT_ONCE(C), end);

        for (long row = first; row < stop; row++)
            l->mean[row] = row_sum(l, row) / C;
        for (long row = first; row < stop; row++)
            l->rstd[row] = 1.0f / sqrtf(row_squares(l->x + row * C, l->mean[row], C) / C + 1e-5f);
        for (long row = first; row < stop; row++) {
            const float *x = l->x + row * C;
            float mean = l->mean[row], rstd = l->rstd[row];

            for (long c = 0; c < C; c += VW) {
                vf normed = (load_n(x + c, C - c) - mean) * rstd * load_n(l->gamma + c, C - c);

                store_act_n(l->y + row * C + c, l->beta ? normed + load_n(l->beta + c, C - c) : normed,
                            C - c);
            }
        }
    }
}

void ISA_NAME(layernorm_forward)(struct device *device, act *y, real *mean, real *rstd, real *x,
                                 const real *branch, const real *gamma, const real *beta, int rows, int C)
{
    struct layernorm l = {.y = y,
                          .mean = mean,
                          .rstd = rstd,
                          .x = x,
                          .branch = branch,
                          .gamma = gamma,
                          .beta = beta,
                          .rows = rows,
                          .C = C};

    pool_run(device->pool, (rows + ROWS_A_UNIT - 1) / ROWS_A_UNIT, layernorm_forward_unit, &l);
}

/* dx of a chunk's rows; its sums for dgamma and dbeta go to its own place in partial [chunks][2][C]. */
static void layernorm_backward_unit(void *arg, long unit, int thread)
{
    const struct layernorm *l = arg;
    long C = l->C, end = least((unit + 1) * ROWS_A_UNIT, l->rows);
    float *dgamma = l->partial + unit * 2 * C, *dbeta = dgamma + C;

    (void) thread;
    memset(dgamma, 0, (size_t) (2 * C) * sizeof *dgamma);
    for (long row = unit * ROWS_A_UNIT; row < end; row++) {
        const float *x = l->x_in + row * C, *dy = l->dy + row * C;
        float mean = l->mean_in[row], rstd = l->rstd_in[row], *dx = l->dx + row * C;
        vf sum = {0}, projection = {0};

        for (long c = 0; c < C; c += VW) {
            vf normed = (load_n(x + c, C - c) - mean) * rstd, d = load_n(dy + c, C - c);
            vf scaled = d * load_n(l->gamma + c, C - c);

            sum += scaled;
            projection += scaled * normed;
            store_n(dgamma + c, load_n(dgamma + c, C - c) + d * normed, C - c);
            store_n(dbeta + c, load_n(dbeta + c, C - c) + d, C - c);
        }
        float mean_sum = vsum(sum) / C, mean_projection = vsum(projection) / C;
        for (long c = 0; c < C; c += VW) {
            vf normed = (load_n(x + c, C - c) - mean) * rstd;
            vf scaled = load_n(dy + c, C - c) * load_n(l->gamma + c, C - c);

            store_n(dx + c, load_n(dx + c, C - c) + (scaled - mean_sum - normed * mean_projection) * rstd,
                    C - c);
        }
    }
}

static void layernorm_sum_unit(void *arg, long unit, int thread)
{
    const struct layernorm *l = arg;
    long end = least((unit + 1) * COLUMNS_A_UNIT, l->C);

    (void) thread;
    for (long c = unit * COLUMNS_A_UNIT; c < end; c += VW) {
        vf dgamma = {0}, dbeta = {0};

        for (long i = 0; i < l->chunks; i++) {
            dgamma += load_n(l->partial + i * 2 * l->C + c, end - c);
            dbeta += load_n(l->partial + (i * 2 + 1) * l->C + c, end - c);
        }
        store_n(l->dgamma + c, load_n(l->dgamma + c, end - c) + dgamma, end - c);
        if (l->dbeta)
            store_n(l->dbeta + c, load_n(l->dbeta + c, end - c) + dbeta, end - c);
    }
}

void ISA_NAME(layernorm_backward)(struct device *device, real *dx, real *dgamma, real *dbeta, const real *dy,
                                  const real *x, const real *mean, const real *rstd, const real *gamma,
                                  int rows, int C)
{
    struct layernorm l = {.dx = dx,
                          .dgamma = dgamma,
                          .dbeta = dbeta,
                          .dy = dy,
                          .x_in = x,
                          .mean_in = mean,
                          .rstd_in = rstd,
                          .gamma = gamma,
                          .rows = rows,
                          .C = C,
                          .chunks = (rows + ROWS_A_UNIT - 1) / ROWS_A_UNIT};

    l.partial = device_shared(device, SCRATCH_PARTIAL, (size_t) (l.chunks * 2 * C) * sizeof(float));
    pool_run(device->pool, l.chunks, layernorm_backward_unit, &l);
    pool_run(device->pool, (C + COLUMNS_A_UNIT - 1) / COLUMNS_A_UNIT, layernorm_sum_unit, &l);
}

/* ---- flat arrays ---- */
void ISA_NAME(act_to_real)(struct device *device, real *out, const act *in, size_t n)
{
    const act_t *from = in;

    (void) device;
    for (long i = 0; i < (long) n; i += VW)
        store_n(out + i, load_act_n(from + i, (long) n - i), (long) n - i);
}

struct lanes {
    float *sum;
    const float *parts;
    int lanes;
    long n;
};

static void add_lanes_unit(void *arg, long unit, int thread)
{
    const struct lanes *l = arg;
    long i = unit * ELEMENTS_A_UNIT, end = least(i + ELEMENTS_A_UNIT, l->n);

    (void) thread;
    for (; i < end; i += VW) {
        vf sum = load_n(l->sum + i, end - i);

        for (int lane = 0; lane < l->lanes; lane++)
            sum += load_n(l->parts + lane * l->n + i, end - i);
        store_n(l->sum + i, sum, end - i);
    }
}

void ISA_NAME(add_lanes)(struct device *device, real *sum, const real *parts, int lanes, size_t n)
{
    pool_run(device->pool, ((long) n + ELEMENTS_A_UNIT - 1) / ELEMENTS_A_UNIT, add_lanes_unit,
             &(struct lanes){sum, parts, lanes, (long) n});
}

struct squares {
    const float *x;
    double *partial;
    size_t n;
};

static void sum_squares_unit(void *arg, long unit, int thread)
{
    const struct squares *s = arg;
    long end = least((unit + 1) * ELEMENTS_A_UNIT, (long) s->n);
    double sums[VW] = {0}, sum = 0;
    long i = unit * ELEMENTS_A_UNIT;

    (void) thread;
    for (; i + VW <= end; i += VW)
        for (int lane = 0; lane < VW; lane++)
            sums[lane] += (double) s->x[i + lane] * s->x[i + lane];
    for (; i < end; i++)
        sums[0] += (double) s->x[i] * s->x[i];
    for (int lane = 0; lane < VW; lane++)
        sum += sums[lane];
    s->partial[unit] = sum;
}

void ISA_NAME(sum_squares)(struct device *device, double *sum, const real *x, size_t n)
{
    long units = (long) ((n + ELEMENTS_A_UNIT - 1) / ELEMENTS_A_UNIT);
    struct squares s = {x, device_shared(device, SCRATCH_PARTIAL, (size_t) units * sizeof(double)), n};

    pool_run(device->pool, units, sum_squares_unit, &s);
    *sum = 0;
    for (long i = 0; i < units; i++)
        *sum += s.partial[i];
}
