/*
 * Gradients of every operation of the reference backend and of the whole model against central finite
 * differences, all in float64 (built with -DTLAW_DOUBLE).
 *
 * An operation's scalar is sum(r_i out_i) with fixed random r; its gradient is what the backward operation
 * gives for dy = r.  Error: |gradient - differences| / |differences|, over all elements of one array.
 */
#include "../../kernels/backend/reference.h"
#include "../../kernels/model/model.h"
#include "../../kernels/model/rng.h"
#include "tap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef TLAW_DOUBLE
#error "finite differences need float64"
#endif

#define TOLERANCE 1e-7

static const struct backend *backend = &reference_backend;
static struct device *device;

/* Every array of this program, freed at its end. */
static void *arrays[512];
static int n_arrays;

static real *zeros(size_t n)
{
    return arrays[n_arrays++] = calloc(n, sizeof(real));
}

/* n normal numbers; another array for every call of the program. */
static real *normals(size_t n)
{
    static uint64_t next;
    real *out = zeros(n);

    for (size_t i = 0; i < n; i++)
        out[i] = rng_normal(7, RNG_SAMPLE, next++);
    return out;
}

static double weighted(const real *r, const real *out, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += r[i] * out[i];
    return sum;
}

static void check(const char *what, real *input, const real *gradient, size_t n, double (*scalar)(void *),
                  void *arg)
{
    double wrong = 0, all = 0, h = 1e-5;

    for (size_t i = 0; i < n; i++) {
        real saved = input[i];

        input[i] = saved + h;
        double above = scalar(arg);
        input[i] = saved - h;
        double difference = (above - scalar(arg)) / (2 * h);
        input[i] = saved;
        wrong += (gradient[i] - difference) * (gradient[i] - difference);
        all += difference * difference;
    }
    double error = sqrt(wrong / all);
    ok(all > 0 && error < TOLERANCE, "%s: relative error %.1e over %zu elements", what, error, n);
}

/* ---- operations ---- */

struct embedding {
    int B, T, C, V;
    int32_t *tokens;
    real *wte, *wpe, *r, *x;
};

static double embedding_scalar(void *arg)
{
    struct embedding *e = arg;

    backend->embedding_forward(device, e->x, e->tokens, e->wte, e->wpe, e->B, e->T, e->C);
    return weighted(e->r, e->x, (size_t) e->B * e->T * e->C);
}

static void test_embedding(void)
{
    int32_t tokens[] = {4, 0, 2, 2, 4, 1};
    struct embedding e = {.B = 2, .T = 3, .C = 5, .V = 6, .tokens = tokens};
    real *dwte = zeros(30), *dwpe = zeros(15);

    e.wte = normals(30), e.wpe = normals(15), e.r = normals(30), e.x = normals(30);
    backend->embedding_backward(device, dwte, dwpe, e.r, tokens, e.B, e.T, e.C, e.V);
    check("embedding, dwte", e.wte, dwte, 30, embedding_scalar, &e);
    check("embedding, dwpe", e.wpe, dwpe, 15, embedding_scalar, &e);
}

struct layernorm {
    int rows, C;
    real *x, *branch, *gamma, *beta, *r, *y, *mean, *rstd, *sum;
};

static double layernorm_scalar(void *arg)
{
    struct layernorm *l = arg;
    size_t n = (size_t) l->rows * l->C;

    memcpy(l->sum, l->x, n * sizeof(real)); /* changed in place */
    backend->layernorm_forward(device, l->y, l->mean, l->rstd, l->sum, l->branch, l->gamma, l->beta, l->rows,
                               l->C);
    return weighted(l->r, l->y, n);
}

static void test_layernorm(bool beta, bool branch)
{
    struct layernorm l = {.rows = 4, .C = 7};
    real *dx = zeros(28), *dgamma = zeros(7), *dbeta = beta ? zeros(7) : NULL;
    char what[80];

    l.x = normals(28), l.branch = branch ? normals(28) : NULL, l.gamma = normals(7),
    l.beta = beta ? normals(7) : NULL;
    l.r = normals(28), l.y = normals(28), l.mean = zeros(4), l.rstd = zeros(4), l.sum = zeros(28);
    layernorm_scalar(&l);
    backend->layernorm_backward(device, dx, dgamma, dbeta, l.r, l.sum, l.mean, l.rstd, l.gamma, l.rows, l.C);
    snprintf(what, sizeof what, "layer norm%s%s, dx", beta ? "" : " without beta", branch ? " of a sum" : "");
    check(what, l.x, dx, 28, layernorm_scalar, &l);
    strcpy(strrchr(what, ' '), " dgamma");
    check(what, l.gamma, dgamma, 7, layernorm_scalar, &l);
    if (branch)
        check("layer norm of a sum, dbranch = dx", l.branch, dx, 28, layernorm_scalar, &l);
    if (beta)
        check("layer norm, dbeta", l.beta, dbeta, 7, layernorm_scalar, &l);
}

struct linear {
    int rows, K, N;
    real *x, *w, *bias, *r, *y, *pre;
};

static double linear_scalar(void *arg)
{
    struct linear *l = arg;

    backend->linear_forward(device, NULL, l->y, NULL, l->x, l->w, l->bias, l->rows, l->K, l->N);
    return weighted(l->r, l->y, (size_t) l->rows * l->N);
}

static void test_linear(bool bias)
{
    struct linear l = {.rows = 5, .K = 3, .N = 7};
    real *dx = normals(15), *dw = zeros(21), *dbias = bias ? zeros(7) : NULL;

    l.x = normals(15), l.w = normals(21), l.bias = bias ? normals(7) : NULL, l.r = normals(35),
    l.y = normals(35);
    backend->linear_backward(device, NULL, dx, dw, dbias, NULL, l.r, NULL, l.x, l.w, l.rows, l.K, l.N);
    check(bias ? "linear, dx" : "linear without bias, dx", l.x, dx, 15, linear_scalar, &l);
    check(bias ? "linear, dw" : "linear without bias, dw", l.w, dw, 21, linear_scalar, &l);
    if (bias)
        check("linear, dbias", l.bias, dbias, 7, linear_scalar, &l);
}

/* y = gelu(x w + bias) w2: the second layer's dx carries the slope of gelu back to the first. */
struct two_layers {
    struct linear first, second;
};

static double two_layers_scalar(void *arg)
{
    struct two_layers *l = arg;

    backend->linear_forward(device, l->first.y, NULL, l->first.pre, l->first.x, l->first.w, l->first.bias,
                            l->first.rows, l->first.K, l->first.N);
    return linear_scalar(&l->second);
}

static void test_gelu(void)
{
    struct two_layers l = {{.rows = 4, .K = 3, .N = 5}, {.rows = 4, .K = 5, .N = 2}};
    real *dx = zeros(12), *dw = zeros(15), *dbias = zeros(5), *dpre = normals(20), *dw2 = zeros(10);

    l.first.x = normals(12), l.first.w = normals(15), l.first.bias = normals(5);
    l.first.y = l.second.x = normals(20), l.first.pre = normals(20);
    l.second.w = normals(10), l.second.y = normals(8), l.second.r = normals(8);
    two_layers_scalar(&l);
    backend->linear_backward(device, dpre, NULL, dw2, NULL, NULL, l.second.r, l.first.pre, l.first.y,
                             l.second.w, 4, 5, 2);
    backend->linear_backward(device, NULL, dx, dw, dbias, dpre, NULL, NULL, l.first.x, l.first.w, 4, 3, 5);
    check("linear and gelu, dx", l.first.x, dx, 12, two_layers_scalar, &l);
    check("linear and gelu, dw", l.first.w, dw, 15, two_layers_scalar, &l);
    check("linear and gelu, dbias", l.first.bias, dbias, 5, two_layers_scalar, &l);
    check("linear after gelu, dw", l.second.w, dw2, 10, two_layers_scalar, &l);
}

struct attention {
    int B, T, C, H;
    real *qkv, *y, *lse, *r;
};

static double attention_scalar(void *arg)
{
    struct attention *a = arg;

    backend->attention_forward(device, a->y, a->lse, a->qkv, a->B, a->T, a->C, a->H);
    return weighted(a->r, a->y, (size_t) a->B * a->T * a->C);
}

static void test_attention(int B, int T, int C, int H)
{
    struct attention a = {.B = B, .T = T, .C = C, .H = H};
    size_t n = (size_t) B * T * C;
    real *dqkv = normals(3 * n);
    char what[80];

    a.qkv = normals(3 * n), a.y = normals(n), a.lse = normals((size_t) B * H * T), a.r = normals(n);
    attention_scalar(&a);
    backend->attention_backward(device, dqkv, a.r, a.y, a.lse, a.qkv, B, T, C, H);
    snprintf(what, sizeof what, "attention %d x %d, %d heads of %d", B, T, H, C / H);
    check(what, a.qkv, dqkv, 3 * n, attention_scalar, &a);
}

struct cross_entropy {
    int rows, C, V;
    double scale;
    int32_t *targets;
    real *x, *wte, *losses;
};

static double cross_entropy_scalar(void *arg)
{
    struct cross_entropy *c = arg;
    double sum = 0;

    backend->cross_entropy(device, c->losses, NULL, NULL, c->x, c->wte, c->targets, 0, c->rows, c->C, c->V);
    for (int row = 0; row < c->rows; row++)
        sum += c->losses[row];
    return c->scale * sum;
}

static void test_cross_entropy(void)
{
    int32_t targets[] = {3, -1, 0, 6, 3};
    struct cross_entropy c = {.rows = 5, .C = 3, .V = 7, .scale = 0.37, .targets = targets};
    real *dx = normals(15), *dwte = zeros(21);

    c.x = normals(15), c.wte = normals(21), c.losses = normals(5);
    backend->cross_entropy(device, c.losses, dx, dwte, c.x, c.wte, targets, c.scale, c.rows, c.C, c.V);
    check("cross-entropy, dx", c.x, dx, 15, cross_entropy_scalar, &c);
    check("cross-entropy, dwte", c.wte, dwte, 21, cross_entropy_scalar, &c);
    ok(c.losses[1] == 0 && dx[3] == 0 && dx[4] == 0 && dx[5] == 0,
       "cross-entropy: a target of -1 counts nothing");
}

/* ---- the model ---- */

struct whole {
    struct model *model;
    int32_t tokens[10], targets[10];
    real *weights, losses[10];
    double scale;
};

static double whole_scalar(void *arg)
{
    struct whole *w = arg;
    double sum = 0;

    model_set(w->model, w->weights);
    model_forward(w->model, w->tokens, w->targets, 2, 5, w->losses);
    for (int row = 0; row < 10; row++)
        sum += w->losses[row];
    return w->scale * sum;
}

static void test_model(int bias, int n_layer, int d_model, int n_head)
{
    struct tlaw_spec spec = {.arch = "gpt2",
                             .n_layer = n_layer,
                             .n_head = n_head,
                             .d_model = d_model,
                             .bias = bias,
                             .context_length = 6,
                             .vocab_size = 7};
    struct whole w = {.tokens = {0, 3, 3, 6, 2, 5, 1, 0, 4, 4}, .targets = {3, 3, 6, -1, 5, 1, 0, 4, 4, 6}};
    int count;
    struct parameter *parameters = model_parameters(&spec, &count);
    char message[200] = "", what[160];

    w.scale = 1.0 / 9;
    w.model = model_create(&spec, backend, device, 2, true, message, sizeof message);
    if (!ok(w.model != NULL, "model of %d layers of %d, bias %d %s", n_layer, d_model, bias, message))
        return;
    size_t n = model_size(w.model);
    real *gradient = zeros(n);
    w.weights = normals(n);
    for (size_t i = 0; i < n; i++)
        w.weights[i] = 0.5 * w.weights[i] + (i % 2 ? 0.1 : -0.1);
    model_set(w.model, w.weights);
    model_zero_gradients(w.model);
    model_backward(w.model, w.tokens, w.targets, 2, 5, w.scale, w.losses);
    model_get_gradients(w.model, gradient);
    for (int i = 0; i < count; i++) {
        if (strcmp(parameters[i].name, "wpe.weight") == 0)
            parameters[i].size -= d_model; /* the last position is not used: its gradient is 0 */
        snprintf(what, sizeof what, "model %d x %d, %d heads, bias %d: %s", n_layer, d_model, n_head, bias,
                 parameters[i].name);
        if (strstr(parameters[i].name,
                   "c_attn.bias")) { /* softmax does not see the keys' bias: true gradient 0 */
            real *g = gradient + parameters[i].offset;
            double keys = 0, all = 0;

            for (int c = 0; c < 3 * d_model; c++) {
                all += g[c] * g[c];
                keys += c >= d_model && c < 2 * d_model ? g[c] * g[c] : 0;
            }
            ok(keys < 1e-24 * all, "%s: the keys' bias has no gradient", what);
        }
        check(what, w.weights + parameters[i].offset, gradient + parameters[i].offset, parameters[i].size,
              whole_scalar, &w);
    }
    model_free(w.model);
    free(parameters);
}

static void test_accumulation(void)
{
    struct tlaw_spec spec = {.arch = "gpt2",
                             .n_layer = 1,
                             .n_head = 1,
                             .d_model = 4,
                             .bias = 1,
                             .context_length = 5,
                             .vocab_size = 7};
    int32_t tokens[10] = {0, 3, 3, 6, 2, 5, 1, 0, 4, 4}, targets[10] = {3, 3, 6, 2, 5, 1, 0, 4, 4, 6};
    char message[200];
    struct model *model = model_create(&spec, backend, device, 2, true, message, sizeof message);
    size_t n = model_size(model);
    real *at_once = zeros(n), *in_two = zeros(n), losses[10];
    double wrong = 0, all = 0;

    model_init(model);
    model_zero_gradients(model);
    model_backward(model, tokens, targets, 2, 5, 0.1, losses);
    model_get_gradients(model, at_once);
    model_zero_gradients(model);
    model_backward(model, tokens, targets, 1, 5, 0.1, losses);
    model_backward(model, tokens + 5, targets + 5, 1, 5, 0.1, losses);
    model_get_gradients(model, in_two);
    for (size_t i = 0; i < n; i++) {
        wrong += (at_once[i] - in_two[i]) * (at_once[i] - in_two[i]);
        all += at_once[i] * at_once[i];
    }
    ok(sqrt(wrong / all) < 1e-12, "two micro-batches add up to one batch: relative error %.1e",
       sqrt(wrong / all));
    model_free(model);
}

/* A batch in lanes without training, or with recomputation: the same bits as `losses` and, with it,
 * `gradients`. */
static void test_lanes_of(const struct tlaw_spec *spec, int B, bool training, const int32_t *tokens,
                          const int32_t *targets, const real *losses, const real *gradients)
{
    char message[200];
    struct model *model = model_create(spec, backend, device, B, training, message, sizeof message);
    int rows = B * (int) spec->context_length;
    real *own = zeros(rows), *gradient = zeros(model_size(model));

    model_init(model);
    if (training) {
        model_zero_gradients(model);
        model_backward(model, tokens, targets, B, (int) spec->context_length, 0.1, own);
        model_get_gradients(model, gradient);
    } else {
        model_forward(model, tokens, targets, B, (int) spec->context_length, own);
    }
    ok(memcmp(own, losses, rows * sizeof *own) == 0 &&
           (!training || memcmp(gradient, gradients, model_size(model) * sizeof *gradient) == 0),
       "lanes, %s: the same bits", training ? "recomputed" : "without training");
    model_free(model);
}

/*
 * Sequences in 16 lanes, some in two chunks, and then a few, which leave lanes empty, against the same ones
 * two by two: losses, hidden states, gradients.
 */
static void test_lanes(void)
{
    enum { B = 1700, FEW = 5, T = 5, C = 4 };
    struct tlaw_spec spec = {
        .arch = "gpt2", .n_layer = 2, .n_head = 1, .d_model = C, .context_length = T, .vocab_size = 7};
    char message[200];
    struct model *models[] = {model_create(&spec, backend, device, B, true, message, sizeof message),
                              model_create(&spec, backend, device, 2, true, message, sizeof message)};
    int32_t *tokens = (void *) zeros(B * T), *targets = (void *) zeros(B * T);
    size_t n = model_size(models[0]);
    real *gradients[2], *losses[2], *hidden[2], *whole = zeros(n);
    double wrong = 0, all = 0;

    for (int i = 0; i < B * T; i++) {
        tokens[i] = (int32_t) rng_below(8, RNG_SAMPLE, i, 7);
        targets[i] = (int32_t) rng_below(9, RNG_SAMPLE, i, 7);
    }
    for (int m = 0; m < 2; m++) {
        int step = m == 0 ? B : 2;

        gradients[m] = zeros(n), losses[m] = zeros(B * T), hidden[m] = zeros(B * T * C);
        model_init(models[m]);
        model_zero_gradients(models[m]);
        for (int b = 0; b < B; b += step) {
            model_hidden(models[m], tokens + b * T, step, T, 1, hidden[m] + b * T * C);
            model_backward(models[m], tokens + b * T, targets + b * T, step, T, 0.1, losses[m] + b * T);
        }
        if (m == 0)
            model_get_gradients(models[m], whole);
        for (int b = 0; b < FEW; b += m ? 1 : FEW)
            model_backward(models[m], tokens + b * T, targets + b * T, m ? 1 : FEW, T, 0.1,
                           losses[m] + b * T);
        model_get_gradients(models[m], gradients[m]);
        model_free(models[m]);
    }
    for (size_t i = 0; i < n; i++) {
        wrong += pow(gradients[0][i] - gradients[1][i], 2);
        all += pow(gradients[1][i], 2);
    }
    ok(sqrt(wrong / all) < 1e-12, "lanes' gradients add up to the batch's: relative error %.1e",
       sqrt(wrong / all));
    ok(memcmp(losses[0], losses[1], B * T * sizeof(real)) == 0 &&
           memcmp(hidden[0], hidden[1], B * T * C * sizeof(real)) == 0,
       "losses and hidden states in lanes: the same bits");
    test_lanes_of(&spec, B, false, tokens, targets, losses[0], NULL);
    spec.recompute = 1;
    test_lanes_of(&spec, B, true, tokens, targets, losses[0], whole);
}

int main(void)
{
    char message[200];

    device = backend->open(1, message, sizeof message);
    test_embedding();
    test_layernorm(true, false);
    test_layernorm(false, false);
    test_layernorm(true, true);
    test_linear(true);
    test_linear(false);
    test_gelu();
    test_attention(2, 5, 6, 2);
    test_attention(1, 1, 3, 1);
    test_attention(3, 4, 15, 3);
    test_cross_entropy();
    test_model(1, 2, 9, 3);
    test_model(0, 2, 9, 3);
    test_model(1, 1, 5, 1);
    test_model(0, 3, 4, 2);
    test_accumulation();
    test_lanes();
    backend->close(device);
    while (n_arrays > 0)
        free(arrays[--n_arrays]);
    return tap_end();
}
