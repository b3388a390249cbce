/*
 * The model on every backend of this machine against PyTorch (numbers stored in ../oracle/gpt2.h): losses,
 * gradients, ten AdamW steps; then what the model says of itself: decoding, hidden states, parameters,
 * safetensors.
 *
 * `test_model export BIAS FILE` writes the oracle's start weights instead, for regress/oracle/huggingface.py.
 */
#include "../../kernels/backend/reference.h"
#include "../../kernels/model/rng.h"
#include "../../kernels/model/trainer.h"
#include "../oracle/gpt2.h"
#include "oracle_noise.h"
#include "steps.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS (ORACLE_BATCH * ORACLE_CONTEXT)

static char message[300];

static struct tlaw_spec oracle_spec(int bias)
{
    return (struct tlaw_spec){.arch = "gpt2",
                              .n_layer = ORACLE_LAYERS,
                              .n_head = ORACLE_HEADS,
                              .d_model = ORACLE_WIDTH,
                              .context_length = ORACLE_CONTEXT,
                              .vocab_size = ORACLE_VOCABULARY,
                              .bias = bias,
                              .beta1 = ORACLE_BETA1,
                              .beta2 = ORACLE_BETA2,
                              .weight_decay = ORACLE_DECAY,
                              .grad_clip = ORACLE_CLIP};
}

static void start_weights(const struct parameter *parameters, int count, real *weights)
{
    for (int i = 0; i < count; i++)
        for (size_t j = 0; j < parameters[i].size; j++)
            weights[parameters[i].offset + j] =
                (real) (parameters[i].init_value + noise((uint32_t) i, (uint32_t) j) * 0.25);
}

static void oracle_batch(int step, int32_t *tokens, int32_t *targets)
{
    for (int b = 0; b < ORACLE_BATCH; b++)
        for (int t = 0; t <= ORACLE_CONTEXT; t++) {
            double u =
                noise((uint32_t) (ORACLE_TOKENS + step), (uint32_t) (b * (ORACLE_CONTEXT + 1) + t)) + 0.5;

            if (t < ORACLE_CONTEXT)
                tokens[b * ORACLE_CONTEXT + t] = (int32_t) (u * ORACLE_VOCABULARY);
            if (t > 0)
                targets[b * ORACLE_CONTEXT + t - 1] = (int32_t) (u * ORACLE_VOCABULARY);
        }
}

/* The largest difference from the stored norm and products, relative to the norm. */
static double probe_error(const struct parameter *p, const real *values, const double *stored)
{
    double norm = 0, products[ORACLE_PROBES] = {0}, worst;

    for (uint32_t j = 0; j < p->size; j++) {
        bool keys = strstr(p->name, "c_attn.bias") && j >= ORACLE_WIDTH && j < 2 * ORACLE_WIDTH;
        double value = keys ? 0 : values[p->offset + j]; /* as gpt2.py leaves them out */

        norm += value * value;
        for (int i = 0; i < ORACLE_PROBES; i++)
            products[i] += noise((uint32_t) (ORACLE_PROBE + i), j) < 0 ? -value : value;
    }
    worst = fabs(sqrt(norm) - stored[0]);
    for (int i = 0; i < ORACLE_PROBES; i++)
        worst = fmax(worst, fabs(products[i] - stored[1 + i]));
    return isnan(norm) ? INFINITY : worst / stored[0];
}

/* The worst of all parameters; *which: its name. */
static double probe_errors(const struct parameter *parameters, int count, const real *values,
                           const double stored[][1 + ORACLE_PROBES], const char **which)
{
    double worst = -1;

    for (int i = 0; i < count; i++) {
        double error = probe_error(&parameters[i], values, stored[i]);

        if (error > worst) {
            worst = error;
            *which = parameters[i].name;
        }
    }
    return worst;
}

static double mean(const real *losses)
{
    double sum = 0;

    for (int row = 0; row < ROWS; row++)
        sum += losses[row];
    return sum / ROWS;
}

static void test_oracle(const struct backend *backend, struct device *device, int bias)
{
    const double(*gradients)[1 + ORACLE_PROBES] = bias ? oracle_gradients_bias : oracle_gradients_plain;
    const double(*changes)[1 + ORACLE_PROBES] = bias ? oracle_changes_bias : oracle_changes_plain;
    const double(*weights)[1 + ORACLE_PROBES] = bias ? oracle_weights_bias : oracle_weights_plain;
    const double *token_losses = bias ? oracle_token_losses_bias : oracle_token_losses_plain;
    const double *step_losses = bias ? oracle_losses_bias : oracle_losses_plain;
    const double *norms = bias ? oracle_norms_bias : oracle_norms_plain;
    bool exact = strcmp(backend->precision, "float32") == 0;
    double tolerance = exact ? 1e-5 : 2e-2, loss_error = 0, norm_error = 0, error;
    struct tlaw_spec spec = oracle_spec(bias);
    struct model *model = model_create(&spec, backend, device, ORACLE_BATCH, true, message, sizeof message);
    int32_t tokens[ROWS], targets[ROWS];
    real losses[ROWS];
    const char *which = "", *name = backend->name;
    int count;
    struct parameter *parameters = model_parameters(&spec, &count);
    size_t n = model_size(model);
    real *start = malloc(n * sizeof(real)), *now = malloc(n * sizeof(real));

    start_weights(parameters, count, start);
    model_set(model, start);
    oracle_batch(0, tokens, targets);
    model_forward(model, tokens, targets, ORACLE_BATCH, ORACLE_CONTEXT, losses);
    for (int row = 0; row < ROWS; row++)
        loss_error = fmax(loss_error, fabs(losses[row] / token_losses[row] - 1));
    ok(loss_error < tolerance, "%s, bias %d: loss of every token as in PyTorch: error %.1e", name, bias,
       loss_error);

    loss_error = 0;
    for (int step = 0; step < ORACLE_STEPS; step++) {
        oracle_batch(step, tokens, targets);
        model_zero_gradients(model);
        model_backward(model, tokens, targets, ORACLE_BATCH, ORACLE_CONTEXT, 1.0 / ROWS, losses);
        if (step == 0) {
            model_get_gradients(model, now);
            error = probe_errors(parameters, count, now, gradients, &which);
            ok(error < tolerance, "%s, bias %d: gradients as in PyTorch: error %.1e (%s)", name, bias, error,
               which);
        }
        loss_error = fmax(loss_error, fabs(mean(losses) / step_losses[step] - 1));
        norm_error =
            fmax(norm_error, fabs(model_update(model, step + 1, oracle_rates[step]) / norms[step] - 1));
    }
    ok(loss_error < tolerance, "%s, bias %d: losses of ten steps: error %.1e", name, bias, loss_error);
    ok(norm_error < tolerance, "%s, bias %d: gradient norms of ten steps: error %.1e", name, bias,
       norm_error);
    model_get(model, now);
    error = probe_errors(parameters, count, now, weights, &which);
    ok(error < tolerance, "%s, bias %d: weights after ten steps: error %.1e (%s)", name, bias, error, which);
    for (size_t i = 0; i < n; i++)
        now[i] -= start[i];
    error = probe_errors(parameters, count, now, changes, &which);
    /* sharper: a weight near 1 is rounded at every step, and the change is small */
    ok(error < (exact ? 1e-4 : 0.2), "%s, bias %d: change of the weights in ten steps: error %.1e (%s)", name,
       bias, error, which);
    model_free(model);
    free(parameters);
    free(start);
    free(now);
}

/* -log softmax(logits)[target] */
static double cross_entropy(const real *logits, int32_t target)
{
    double highest = -INFINITY, sum = 0;

    for (int v = 0; v < ORACLE_VOCABULARY; v++)
        highest = fmax(highest, logits[v]);
    for (int v = 0; v < ORACLE_VOCABULARY; v++)
        sum += exp(logits[v] - highest);
    return highest + log(sum) - logits[target];
}

/* A model for inference on the oracle's weights; *weights: a copy of them. */
static struct model *inference_model(const struct backend *backend, struct device *device, int bias,
                                     real **weights)
{
    struct tlaw_spec spec = oracle_spec(bias);
    int count;
    struct parameter *parameters = model_parameters(&spec, &count);
    struct model *model = model_create(&spec, backend, device, ORACLE_BATCH, false, message, sizeof message);

    *weights = malloc(model_size(model) * sizeof(real));
    start_weights(parameters, count, *weights);
    model_set(model, *weights);
    free(parameters);
    return model;
}

static void test_inference(const struct backend *backend, struct device *device)
{
    double tolerance = strcmp(backend->precision, "float32") == 0 ? 1e-5 : 2e-2, decode_error = 0,
           final_error = 0;
    real *weights, losses[ROWS], logits[ORACLE_VOCABULARY], hidden[ROWS * ORACLE_WIDTH];
    struct model *model = inference_model(backend, device, 1, &weights);
    int32_t tokens[ROWS], targets[ROWS];
    bool embedded = true;

    oracle_batch(0, tokens, targets);
    model_forward(model, tokens, targets, ORACLE_BATCH, ORACLE_CONTEXT, losses);
    for (int row = 0; row < ROWS; row++) {
        model_decode(model, tokens[row], row % ORACLE_CONTEXT, logits);
        decode_error = fmax(decode_error, fabs(cross_entropy(logits, targets[row]) / losses[row] - 1));
    }
    ok(decode_error < tolerance, "%s: token by token gives the losses of whole sequences: error %.1e",
       backend->name, decode_error);

    model_hidden(model, tokens, ORACLE_BATCH, ORACLE_CONTEXT, ORACLE_LAYERS + 1, hidden);
    for (int row = 0; row < ROWS; row++) {
        for (int v = 0; v < ORACLE_VOCABULARY; v++) {
            double sum = 0;

            for (int c = 0; c < ORACLE_WIDTH; c++)
                sum += (double) hidden[row * ORACLE_WIDTH + c] * weights[v * ORACLE_WIDTH + c];
            logits[v] = (real) sum;
        }
        final_error = fmax(final_error, fabs(cross_entropy(logits, targets[row]) / losses[row] - 1));
    }
    ok(final_error < tolerance, "%s: the last hidden state gives the losses: error %.1e", backend->name,
       final_error);

    model_hidden(model, tokens, ORACLE_BATCH, ORACLE_CONTEXT, 0, hidden);
    for (int i = 0; i < ROWS * ORACLE_WIDTH; i++) {
        int row = i / ORACLE_WIDTH, c = i % ORACLE_WIDTH;
        int position = ORACLE_VOCABULARY + row % ORACLE_CONTEXT;

        embedded &=
            hidden[i] == weights[tokens[row] * ORACLE_WIDTH + c] + weights[position * ORACLE_WIDTH + c];
    }
    ok(embedded, "%s: hidden state 0 is the sum of the embeddings", backend->name);
    model_free(model);
    free(weights);
}

/* What the trainer and the last block see of the stream must not depend on how the buffers are shared. */
static void test_hidden_layers(void)
{
    struct device *device = reference_backend.open(1, message, sizeof message);
    struct tlaw_spec spec = oracle_spec(1);
    real *weights, shared[ROWS * ORACLE_WIDTH], own[ROWS * ORACLE_WIDTH];
    struct model *inference = inference_model(&reference_backend, device, 1, &weights);
    struct model *training =
        model_create(&spec, &reference_backend, device, ORACLE_BATCH, true, message, sizeof message);
    int32_t tokens[ROWS], targets[ROWS];

    model_set(training, weights);
    oracle_batch(0, tokens, targets);
    for (int layer = 0; layer <= ORACLE_LAYERS + 1; layer++) {
        model_hidden(inference, tokens, ORACLE_BATCH, ORACLE_CONTEXT, layer, shared);
        model_hidden(training, tokens, ORACLE_BATCH, ORACLE_CONTEXT, layer, own);
        ok(memcmp(shared, own, sizeof own) == 0, "hidden state %d: same bits with and without training",
           layer);
    }
    model_free(inference);
    model_free(training);
    free(weights);
    reference_backend.close(device);
}

static void test_rng(void)
{
    uint32_t out[4];
    double sum = 0, squares = 0;
    bool inside = true;

    rng_block(0, RNG_INIT, 0, 0, out);
    ok(out[0] == 0x6627e8d5 && out[1] == 0xe169c58d && out[2] == 0xbc57ac4c && out[3] == 0x9b00dbd8,
       "Philox 4x32-10 of zeros is as published");
    rng_block(0x299f31d0a4093822, RNG_SPLIT, 0x85a308d3243f6a88, 0x0070734413198a2e, out);
    ok(out[0] == 0xd16cfe09 && out[1] == 0x94fdcceb && out[2] == 0x5001e420 && out[3] == 0x24126ea1,
       "Philox 4x32-10 of the digits of pi is as published");
    for (uint64_t i = 0; i < 20000; i++) {
        double z = rng_normal(3, RNG_INIT, i), u = rng_uniform(3, RNG_INIT, i);

        sum += z;
        squares += z * z;
        inside &= u >= 0 && u < 1 && rng_below(3, RNG_INIT, i, 7) < 7;
    }
    ok(inside && fabs(sum / 20000) < 0.03 && fabs(squares / 20000 - 1) < 0.04, "ranges, mean and variance");
}

static void test_initial_weights(void)
{
    struct device *device = reference_backend.open(1, message, sizeof message);

    for (int bias = 0; bias < 2; bias++) {
        struct tlaw_spec spec = oracle_spec(bias);
        struct model *model =
            model_create(&spec, &reference_backend, device, 1, false, message, sizeof message);
        size_t n = model_size(model);
        real *first = malloc(n * sizeof(real)), *second = malloc(n * sizeof(real));
        int count, wrong = 0;
        struct parameter *parameters = model_parameters(&spec, &count);

        ok((int64_t) n == tlaw_spec_params(&spec), "bias %d: %zu parameters, as counted by the specification",
           bias, n);
        model_init(model);
        model_get(model, first);
        model_init(model);
        model_get(model, second);
        ok(memcmp(first, second, n * sizeof(real)) == 0, "bias %d: a seed gives its weights again", bias);
        for (int i = 0; i < count; i++) {
            const struct parameter *p = &parameters[i];
            bool residual = strstr(p->name, "c_proj.weight");
            double squares = 0, expected = p->dims == 1 ? !strstr(p->name, "bias") : residual ? 0.01 : 0.02;

            for (size_t j = 0; j < p->size; j++)
                squares += (double) first[p->offset + j] * first[p->offset + j];
            wrong += fabs(sqrt(squares / (double) p->size) - expected) > 0.1 * expected;
        }
        ok(wrong == 0, "bias %d: 0.02, a half of it for 2 layers' projections, ones and zeros", bias);
        free(first);
        free(second);
        free(parameters);
        model_free(model);
    }
    reference_backend.close(device);
}

static void test_infinite_gradient(void)
{
    struct device *device = reference_backend.open(1, message, sizeof message);
    struct tlaw_spec spec = oracle_spec(0);
    struct model *model =
        model_create(&spec, &reference_backend, device, ORACLE_BATCH, true, message, sizeof message);
    size_t n = model_size(model);
    real *before = malloc(n * sizeof(real)), *after = malloc(n * sizeof(real)), losses[ROWS];
    int32_t tokens[ROWS], targets[ROWS];

    oracle_batch(0, tokens, targets);
    model_init(model);
    model_get(model, before);
    model_zero_gradients(model);
    model_backward(model, tokens, targets, ORACLE_BATCH, ORACLE_CONTEXT, 1e300, losses);
    ok(!isfinite(model_update(model, 1, 1e-3)), "a gradient that overflows is seen in its norm");
    model_get(model, after);
    ok(memcmp(before, after, n * sizeof(real)) == 0, "and leaves the weights as they are");
    free(before);
    free(after);
    model_free(model);
    reference_backend.close(device);
}

static void refuses(struct tlaw_spec spec, const char *word)
{
    struct device *device = reference_backend.open(1, message, sizeof message);
    struct model *model = model_create(&spec, &reference_backend, device, 1, true, message, sizeof message);

    ok(!model && strstr(message, word), "refused: %s", model ? "" : message);
    model_free(model);
    reference_backend.close(device);
}

static void test_refusals(void)
{
    struct tlaw_spec spec = oracle_spec(1);
    const struct backend *found;

    strcpy(spec.arch, "lstm");
    refuses(spec, "arch");
    spec = oracle_spec(1);
    spec.n_head = 5;
    refuses(spec, "n_head");
    spec = oracle_spec(1);
    spec.n_layer = 0;
    refuses(spec, "n_layer");
    spec = oracle_spec(1);
    spec.vocab_size = 65537;
    refuses(spec, "vocab_size");
    spec = oracle_spec(1);
    spec.context_length = 65536;
    spec.d_model = 65536;
    spec.n_head = 1;
    spec.n_layer = 1000;
    refuses(spec, "memory");
    found = backend_find("cpu", "mmx", "float32", message, sizeof message);
    ok(!found && strstr(message, "reference"), "refused: %s", message);
    found = backend_find("abacus", "reference", "float32", message, sizeof message);
    ok(!found && strstr(message, "cpu"), "refused: %s", message);
    ok(backend_find("cpu", backend_cpu_isa("float32"), "float32", message, sizeof message) != NULL,
       "the best instruction set, %s, is there", backend_cpu_isa("float32"));
}

/* ---- safetensors ---- */

static void import_fails(struct model *model, const void *file, size_t size, const char *what)
{
    ok(model_import(model, file, size, message, sizeof message) < 0 && message[0], "import refuses %s: %s",
       what, message);
}

static void test_safetensors(int bias)
{
    struct device *device = reference_backend.open(1, message, sizeof message);
    struct tlaw_spec other = oracle_spec(bias);
    real *weights, *back;
    struct model *model = inference_model(&reference_backend, device, bias, &weights), *wider;
    size_t n = model_size(model), size, header = 0;
    unsigned char *file = model_export(model, &size);
    const char *start =
        "{\"__metadata__\":{\"format\":\"pt\"},\"wte.weight\":{\"dtype\":\"F32\",\"shape\":[65,32],"
        "\"data_offsets\":[0,8320]},\"wpe.weight\":{\"dtype\":\"F32\",\"shape\":[16,32],"
        "\"data_offsets\":[8320,10368]},\"h.0.ln_1.weight\":{\"dtype\":\"F32\",\"shape\":[32],"
        "\"data_offsets\":[10368,10496]},\"h.0.ln_1.bias\":{";
    int accepted = 0;

    back = malloc(n * sizeof(real));
    for (int i = 7; i >= 0; i--)
        header = header << 8 | file[i];
    ok(header % 8 == 0 && memcmp(file + 8, start, strlen(start)) == 0,
       "bias %d: header is safetensors' and GPT-2's", bias);
    other.bias = 1;
    ok(size == 8 + header + 4 * tlaw_spec_params(&other), "bias %d: all parameters of GPT-2 are there", bias);
    model_init(model);
    ok(model_import(model, file, size, message, sizeof message) == 0,
       "bias %d: import takes what export wrote", bias);
    model_get(model, back);
    ok(memcmp(weights, back, n * sizeof(real)) == 0, "bias %d: and gives the same weights", bias);

    import_fails(model, file, size - 1, "a file that is cut");
    import_fails(model, file, 0, "an empty file");
    import_fails(model, file, 5, "a few bytes");
    for (size_t i = 0; i < 8 + header; i++) {
        file[i] ^= 1 << i % 8;
        accepted += model_import(model, file, size, message, sizeof message) == 0;
        file[i] ^= 1 << i % 8;
    }
    ok(accepted == 0, "bias %d: a changed bit anywhere in the header is refused", bias);
    if (!bias) {
        float one = 1;

        memcpy(file + 8 + header + 10496, &one, sizeof one);
        import_fails(model, file, size, "a bias where the specification has none");
    }
    other.context_length++;
    wider = model_create(&other, &reference_backend, device, 1, false, message, sizeof message);
    import_fails(wider, file, size, "another model's file");
    model_get(model, back);
    ok(memcmp(weights, back, n * sizeof(real)) == 0, "bias %d: a refused file changes nothing", bias);
    model_free(model);
    model_free(wider);
    free(file);
    free(weights);
    free(back);
    reference_backend.close(device);
}

static int export_to(const char *path, int bias)
{
    struct device *device = reference_backend.open(1, message, sizeof message);
    real *weights;
    struct model *model = inference_model(&reference_backend, device, bias, &weights);
    size_t size;
    void *file = model_export(model, &size);
    FILE *out = fopen(path, "wb");

    return !out || fwrite(file, 1, size, out) != size || fclose(out) != 0;
}

int main(int argc, char **argv)
{
    const struct backend *backends[BACKEND_MOST];
    int count = backend_list(backends);

    if (argc == 4 && strcmp(argv[1], "export") == 0)
        return export_to(argv[3], atoi(argv[2]));
    test_rng();
    for (int i = 0; i < count; i++) {
        struct device *device = backends[i]->open(2, message, sizeof message);

        if (!ok(device != NULL, "%s with %s opens %s", backends[i]->name, backends[i]->precision, message))
            continue;
        test_oracle(backends[i], device, 1);
        test_oracle(backends[i], device, 0);
        test_inference(backends[i], device);
        check_steps(backends[i]);
        backends[i]->close(device);
    }
    test_hidden_layers();
    test_initial_weights();
    test_infinite_gradient();
    test_refusals();
    test_safetensors(1);
    test_safetensors(0);
    return tap_end();
}
