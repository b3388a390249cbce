/*
 * The reference backend: every operation as its definition, one loop after the other, so that it can be read
 * against the formulas and checks every other backend.  One thread, no scratch; act is real; single sums are
 * taken in double.  With -DTLAW_DOUBLE all of it is float64, for finite differences.
 */
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct device {
    char stateless;
};

static struct device *reference_open(int threads, char *message, size_t message_size)
{
    static struct device device;

    (void) threads, (void) message, (void) message_size;
    return &device;
}

static void reference_close(struct device *device)
{
    (void) device;
}

static void reference_set_threads(struct device *device, int threads)
{
    (void) device, (void) threads;
}

static void *reference_alloc(struct device *device, size_t bytes)
{
    size_t rounded = bytes < 64 ? 64 : (bytes + 63) / 64 * 64;
    void *memory = rounded < bytes ? NULL : aligned_alloc(64, rounded);

    (void) device;
    return memory ? memset(memory, 0, rounded) : NULL;
}

static real *reference_alloc_weights(struct device *device, size_t n)
{
    return reference_alloc(device, n * sizeof(real));
}

static void reference_free(struct device *device, void *memory)
{
    (void) device;
    free(memory);
}

static void reference_copy(struct device *device, void *to, const void *from, size_t bytes)
{
    (void) device;
    memcpy(to, from, bytes);
}

static void reference_zero(struct device *device, void *to, size_t bytes)
{
    (void) device;
    memset(to, 0, bytes);
}

static void reference_act_to_real(struct device *device, real *out, const act *in, size_t n)
{
    reference_copy(device, out, in, n * sizeof(real));
}

static void reference_repeat(struct device *device, struct recording **recording, void (*body)(void *arg),
                             void *arg)
{
    (void) device, (void) recording;
    body(arg);
}

static void reference_forget(struct device *device, struct recording *recording)
{
    (void) device, (void) recording;
}

/* One after the other. */
static void reference_side_by_side(struct device *device, int lanes,
                                   void (*body)(void *arg, struct device *, int lane, int place), void *arg)
{
    for (int lane = 0; lane < lanes; lane++)
        body(arg, device, lane, 0);
}

static void reference_add_lanes(struct device *device, real *sum, const real *parts, int lanes, size_t n)
{
    (void) device;
    for (size_t i = 0; i < lanes * n; i++)
        sum[i % n] += parts[i];
}

static void reference_embedding_forward(struct device *device, real *x, const int32_t *tokens,
                                        const real *wte, const real *wpe, int B, int T, int C)
{
    (void) device;
    for (size_t row = 0; row < (size_t) B * T; row++) {
        const real *token = wte + (size_t) tokens[row] * C, *position = wpe + row % T * C;

        for (int c = 0; c < C; c++)
            x[row * C + c] = token[c] + position[c];
    }
}

static void reference_embedding_backward(struct device *device, real *dwte, real *dwpe, const real *dx,
                                         const int32_t *tokens, int B, int T, int C, int V)
{
    (void) device, (void) V;
    for (size_t row = 0; row < (size_t) B * T; row++) {
        real *token = dwte + (size_t) tokens[row] * C, *position = dwpe + row % T * C;

        for (int c = 0; c < C; c++) {
            token[c] += dx[row * C + c];
            position[c] += dx[row * C + c];
        }
    }
}

static void reference_layernorm_forward(struct device *device, act *y, real *mean, real *rstd, real *x,
                                        const real *branch, const real *gamma, const real *beta, int rows,
                                        int C)
{
    (void) device;
    for (int row = 0; row < rows; row++) {
        real *xs = x + (size_t) row * C, *ys = (real *) y + (size_t) row * C;
        double sum = 0, squares = 0;

        for (int c = 0; c < C; c++) {
            if (branch)
                xs[c] += branch[(size_t) row * C + c];
            sum += xs[c];
        }
        double mu = sum / C;
        for (int c = 0; c < C; c++)
            squares += (xs[c] - mu) * (xs[c] - mu);
        double scale = 1 / sqrt(squares / C + 1e-5);
        for (int c = 0; c < C; c++)
            ys[c] = (real) ((xs[c] - mu) * scale * gamma[c] + (beta ? beta[c] : 0));
        mean[row] = (real) mu;
        rstd[row] = (real) scale;
    }
}

static void reference_layernorm_backward(struct device *device, real *dx, real *dgamma, real *dbeta,
                                         const real *dy, const real *x, const real *mean, const real *rstd,
                                         const real *gamma, int rows, int C)
{
    (void) device;
    for (int row = 0; row < rows; row++) {
        const real *xs = x + (size_t) row * C, *dys = dy + (size_t) row * C;
        double mu = mean[row], scale = rstd[row], sum = 0, projection = 0;

        for (int c = 0; c < C; c++) {
            double normed = (xs[c] - mu) * scale;

            sum += (double) dys[c] * gamma[c];
            projection += (double) dys[c] * gamma[c] * normed;
            dgamma[c] += (real) (dys[c] * normed);
            if (dbeta)
                dbeta[c] += dys[c];
        }
        for (int c = 0; c < C; c++) {
            double normed = (xs[c] - mu) * scale;

            dx[(size_t) row * C + c] +=
                (real) (((double) dys[c] * gamma[c] - sum / C - normed * projection / C) * scale);
        }
    }
}

/* tanh form of the Gaussian error linear unit (Hendrycks & Gimpel 2016), as GPT-2 has it */
static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

static double gelu_slope(double x)
{
    double t = tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));

    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

/* sum of a[i * a_step] b[i * b_step] */
static double dot(const real *a, size_t a_step, const real *b, size_t b_step, int n)
{
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += (double) a[i * a_step] * b[i * b_step];
    return sum;
}

static void reference_linear_forward(struct device *device, act *y_act, real *y_real, act *pre, const act *x,
                                     const real *w, const real *bias, int rows, int K, int N)
{
    real *out = pre ? pre : y_act ? y_act : y_real;

    (void) device;
    for (int row = 0; row < rows; row++)
        for (int n = 0; n < N; n++)
            out[(size_t) row * N + n] =
                (real) (dot((const real *) x + (size_t) row * K, 1, w + n, N, K) + (bias ? bias[n] : 0));
    if (pre) {
        real *activated = y_act ? y_act : y_real;

        for (size_t i = 0; i < (size_t) rows * N; i++)
            activated[i] = (real) gelu(out[i]);
    }
}

static void reference_linear_backward(struct device *device, act *dx_act, real *dx_real, real *dw,
                                      real *dbias, const act *dy_act, const real *dy_real, const act *pre,
                                      const act *x, const real *w, int rows, int K, int N)
{
    const real *dy = dy_act ? dy_act : dy_real, *xs = x, *before = pre;
    real *dx = dx_act ? dx_act : dx_real;

    (void) device;
    for (int k = 0; k < K; k++)
        for (int n = 0; n < N; n++)
            dw[(size_t) k * N + n] += (real) dot(xs + k, K, dy + n, N, rows);
    for (int n = 0; dbias && n < N; n++)
        for (int row = 0; row < rows; row++)
            dbias[n] += dy[(size_t) row * N + n];
    for (int row = 0; dx && row < rows; row++)
        for (int k = 0; k < K; k++) {
            size_t at = (size_t) row * K + k;
            double sum = dot(dy + (size_t) row * N, 1, w + (size_t) k * N, 1, N);

            dx[at] = (real) (before ? sum * gelu_slope(before[at]) : sum);
        }
}

/*
 * y[D] = softmax(q k^T / sqrt(D)) v over rows 0 to `last`, a step apart; returns the log of the softmax's
 * denominator.
 */
static double attend(real *y, const real *q, const real *k, const real *v, size_t step, int last, int D)
{
    double scale = 1 / sqrt(D), highest = -INFINITY, sum = 0;

    for (int j = 0; j <= last; j++)
        highest = fmax(highest, scale * dot(q, 1, k + j * step, 1, D));
    for (int j = 0; j <= last; j++)
        sum += exp(scale * dot(q, 1, k + j * step, 1, D) - highest);
    memset(y, 0, D * sizeof(real));
    for (int j = 0; j <= last; j++) {
        double weight = exp(scale * dot(q, 1, k + j * step, 1, D) - highest) / sum;

        for (int d = 0; d < D; d++)
            y[d] += (real) (weight * v[j * step + d]);
    }
    /* cppcheck-suppress invalidFunctionArg ; there is a row 0, so sum is at least 1 */
    return highest + log(sum);
}

static void reference_attention_forward(struct device *device, act *y, real *lse, const act *qkv, int B,
                                        int T, int C, int H)
{
    int D = C / H;

    (void) device;
    for (int b = 0; b < B; b++)
        for (int h = 0; h < H; h++)
            for (int t = 0; t < T; t++) {
                const real *sequence = (const real *) qkv + (size_t) b * T * 3 * C + (size_t) h * D;

                lse[((size_t) b * H + h) * T + t] = (real) attend(
                    (real *) y + ((size_t) b * T + t) * C + (size_t) h * D, sequence + (size_t) t * 3 * C,
                    sequence + C, sequence + 2 * C, 3 * (size_t) C, t, D);
            }
}

/* One query's share of the gradient: all pointers to one head's D columns of rows `step` apart. */
static void attend_backward(real *dq, real *dk, real *dv, const real *dy, const real *y, double lse,
                            const real *q, const real *k, const real *v, size_t step, int keys, int D)
{
    double scale = 1 / sqrt(D), total = dot(dy, 1, y, 1, D);

    for (int j = 0; j < keys; j++) {
        double weight = exp(scale * dot(q, 1, k + j * step, 1, D) - lse);
        double dscore = weight * (dot(dy, 1, v + j * step, 1, D) - total) * scale;

        for (int d = 0; d < D; d++) {
            dq[d] += (real) (dscore * k[j * step + d]);
            dk[j * step + d] += (real) (dscore * q[d]);
            dv[j * step + d] += (real) (weight * dy[d]);
        }
    }
}

static void reference_attention_backward(struct device *device, act *dqkv, const act *dy, const act *y,
                                         const real *lse, const act *qkv, int B, int T, int C, int H)
{
    int D = C / H;
    size_t step = 3 * (size_t) C;

    (void) device;
    memset(dqkv, 0, B * T * step * sizeof(real));
    for (int b = 0; b < B; b++)
        for (int h = 0; h < H; h++)
            for (int t = 0; t < T; t++) {
                size_t first = b * T * step + (size_t) h * D, row = ((size_t) b * T + t) * C + (size_t) h * D;
                const real *in = (const real *) qkv + first;
                real *out = (real *) dqkv + first;

                attend_backward(out + t * step, out + C, out + 2 * C, (const real *) dy + row,
                                (const real *) y + row, lse[((size_t) b * H + h) * T + t], in + t * step,
                                in + C, in + 2 * C, step, t + 1, D);
            }
}

static void reference_attention_decode(struct device *device, act *y, act *k_cache, act *v_cache,
                                       const act *qkv, int position, int C, int H)
{
    const real *in = qkv;
    int D = C / H;

    (void) device;
    memcpy((real *) k_cache + (size_t) position * C, in + C, C * sizeof(real));
    memcpy((real *) v_cache + (size_t) position * C, in + 2 * C, C * sizeof(real));
    for (int h = 0; h < H; h++) {
        size_t head = (size_t) h * D;

        attend((real *) y + head, in + head, (real *) k_cache + head, (real *) v_cache + head, C, position,
               D);
    }
}

static void reference_cross_entropy(struct device *device, real *losses, real *dx, real *dwte, const act *x,
                                    const real *wte, const int32_t *targets, double scale, int rows, int C,
                                    int V)
{
    (void) device;
    for (int row = 0; row < rows; row++) {
        const real *xs = (const real *) x + (size_t) row * C;
        real *dxs = dx ? dx + (size_t) row * C : NULL;
        double highest = -INFINITY, sum = 0;

        losses[row] = 0;
        if (dx)
            memset(dxs, 0, C * sizeof(real));
        if (targets[row] < 0)
            continue;
        for (int v = 0; v < V; v++)
            highest = fmax(highest, dot(xs, 1, wte + (size_t) v * C, 1, C));
        for (int v = 0; v < V; v++)
            sum += exp(dot(xs, 1, wte + (size_t) v * C, 1, C) - highest);
        double lse = highest + log(sum);
        losses[row] = (real) (lse - dot(xs, 1, wte + (size_t) targets[row] * C, 1, C));
        for (int v = 0; dx && v < V; v++) {
            const real *w = wte + (size_t) v * C;
            double dlogit = scale * (exp(dot(xs, 1, w, 1, C) - lse) - (v == targets[row]));

            for (int c = 0; c < C; c++) {
                dxs[c] += (real) (dlogit * w[c]);
                dwte[(size_t) v * C + c] += (real) (dlogit * xs[c]);
            }
        }
    }
}

static void reference_logits(struct device *device, real *logits, const act *x, const real *wte, int rows,
                             int C, int V)
{
    (void) device;
    for (int row = 0; row < rows; row++)
        for (int v = 0; v < V; v++)
            logits[(size_t) row * V + v] =
                (real) dot((const real *) x + (size_t) row * C, 1, wte + (size_t) v * C, 1, C);
}

static void reference_add_losses(struct device *device, double *sum, const real *losses, size_t n)
{
    (void) device;
    for (size_t i = 0; i < n; i++)
        *sum += losses[i];
}

static void reference_sum_squares(struct device *device, double *sum, const real *x, size_t n)
{
    (void) device;
    *sum = 0;
    for (size_t i = 0; i < n; i++)
        *sum += (double) x[i] * x[i];
}

double update_grad_scale(const struct update *update, double grad_clip)
{
    if (!isfinite(update->loss) || !isfinite(update->squares))
        return NAN;
    return grad_clip > 0 ? fmin(1, grad_clip / (sqrt(update->squares) + 1e-6)) : 1;
}

static void reference_adamw(struct device *device, real *p, const real *g, real *m, real *v, size_t n,
                            const struct segment *segments, int count, const struct adamw *a,
                            const struct update *u)
{
    double grad_scale = update_grad_scale(u, a->grad_clip);

    (void) device, (void) count;
    if (isnan(grad_scale))
        return;
    for (size_t i = 0; i < n; i++) {
        while (segments->end <= i)
            segments++;
        double gradient = g[i] * grad_scale, decay = segments->decays ? a->decay : 0;

        m[i] = (real) (a->beta1 * m[i] + (1 - a->beta1) * gradient);
        v[i] = (real) (a->beta2 * v[i] + (1 - a->beta2) * gradient * gradient);
        p[i] = (real) (p[i] -
                       u->learning_rate *
                           (m[i] / u->correction1 / (sqrt(v[i] / u->correction2) + a->eps) + decay * p[i]));
    }
}

void backend_end_download(struct device *device)
{
    (void) device;
}

const struct backend reference_backend = {
    .name = "reference",
    .precision = "float32",
    .act_size = sizeof(real),
    .open = reference_open,
    .close = reference_close,
    .set_threads = reference_set_threads,
    .alloc = reference_alloc,
    .alloc_weights = reference_alloc_weights,
    .free = reference_free,
    .upload = reference_copy,
    .download = reference_copy,
    .begin_download = reference_copy,
    .end_download = backend_end_download,
    .zero = reference_zero,
    .act_to_real = reference_act_to_real,
    .repeat = reference_repeat,
    .forget = reference_forget,
    .side_by_side = reference_side_by_side,
    .add_lanes = reference_add_lanes,
    .embedding_forward = reference_embedding_forward,
    .embedding_backward = reference_embedding_backward,
    .layernorm_forward = reference_layernorm_forward,
    .layernorm_backward = reference_layernorm_backward,
    .linear_forward = reference_linear_forward,
    .linear_backward = reference_linear_backward,
    .attention_forward = reference_attention_forward,
    .attention_backward = reference_attention_backward,
    .attention_decode = reference_attention_decode,
    .cross_entropy = reference_cross_entropy,
    .logits = reference_logits,
    .add_losses = reference_add_losses,
    .sum_squares = reference_sum_squares,
    .adamw = reference_adamw,
};
