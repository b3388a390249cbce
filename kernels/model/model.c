/*
 * A model's parameter block: weights, and with training gradients and AdamW's moments, in one allocation
 * each.
 *
 * Invariant: the blocks are always whole; a caller sees them only through copies (get, set).
 */
#include "gpt2.h"
#include "rng.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the operations' int sizes and a head's shape ask for; the user's arguments were checked long before.
 */
static int check_spec(const struct tlaw_spec *spec, int batch, char *message, size_t message_size)
{
    const struct {
        const char *name;
        int64_t value, most;
    } sizes[] = {{"n_layer", spec->n_layer, 1000},        {"n_head", spec->n_head, spec->d_model},
                 {"d_model", spec->d_model, 65536},       {"context_length", spec->context_length, 65536},
                 {"vocab_size", spec->vocab_size, 65536}, {"batch", batch, INT_MAX}};

    if (strcmp(spec->arch, "gpt2") != 0) {
        snprintf(message, message_size, "arch \"%.60s\" is not known; \"gpt2\" is", spec->arch);
        return -1;
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].most) {
            snprintf(message, message_size, "%s is %lld; accepted are 1 to %lld", sizes[i].name,
                     (long long) sizes[i].value, (long long) sizes[i].most);
            return -1;
        }
    if (spec->d_model % spec->n_head != 0) {
        snprintf(message, message_size, "d_model %lld is not a multiple of n_head %lld",
                 (long long) spec->d_model, (long long) spec->n_head);
        return -1;
    }
    if (batch * spec->context_length > INT_MAX / 2) {
        snprintf(message, message_size, "batch %d times context_length %lld is more than %d tokens at once",
                 batch, (long long) spec->context_length, INT_MAX / 2);
        return -1;
    }
    return 0;
}

static int allocate_parameters(struct model *model)
{
    real **blocks[] = {&model->weights, &model->gradients, &model->m, &model->v};

    model->parameters = model_parameters(&model->spec, &model->n_parameters);
    if (!model->parameters)
        return -1;
    for (int i = 0; i < model->n_parameters; i++)
        model->size += model->parameters[i].size;
    for (int i = 0; i < (model->training ? 4 : 1); i++) {
        *blocks[i] = model->backend->alloc(model->device, model->size * sizeof(real));
        if (!*blocks[i])
            return -1;
    }
    return gpt2_bind(model);
}

struct model *model_create(const struct tlaw_spec *spec, const struct backend *backend, struct device *device,
                           int batch, bool training, char *message, size_t message_size)
{
    struct model *model;
    size_t activations = 0;

    if (check_spec(spec, batch, message, message_size) < 0)
        return NULL;
    model = calloc(1, sizeof *model);
    if (model) {
        model->spec = *spec;
        model->backend = backend;
        model->device = device;
        model->batch = batch;
        model->training = training;
        if (allocate_parameters(model) == 0 && gpt2_plan(model, &activations) == 0)
            return model;
    }
    snprintf(message, message_size,
             "a model of %lld layers of %lld with a batch of %d x %lld tokens does not fit in memory",
             (long long) spec->n_layer, (long long) spec->d_model, batch, (long long) spec->context_length);
    model_free(model);
    return NULL;
}

void model_free(struct model *model)
{
    if (!model)
        return;
    void *on_device[] = {model->weights, model->gradients, model->m, model->v, model->activation_memory};

    for (size_t i = 0; i < sizeof on_device / sizeof *on_device; i++)
        if (on_device[i])
            model->backend->free(model->device, on_device[i]);
    free(model->parameters);
    free(model->tensors);
    free(model->activations.blocks);
    free(model);
}

size_t model_size(const struct model *model)
{
    return model->size;
}

void model_init(struct model *model)
{
    real values[4096];

    for (int i = 0; i < model->n_parameters; i++) {
        const struct parameter *p = &model->parameters[i];

        for (size_t at = 0, n; at < p->size; at += n) {
            n = p->size - at < 4096 ? p->size - at : 4096;
            for (size_t j = 0; j < n; j++)
                values[j] = (real) (p->init_std > 0 ? p->init_std * rng_normal((uint64_t) model->spec.seed,
                                                                               RNG_INIT, p->offset + at + j)
                                                    : p->init_value);
            model->backend->upload(model->device, model->weights + p->offset + at, values, n * sizeof(real));
        }
    }
}

static void download(struct model *model, real *to, const real *from)
{
    model->backend->download(model->device, to, from, model->size * sizeof(real));
}

static void upload(struct model *model, real *to, const real *from)
{
    model->backend->upload(model->device, to, from, model->size * sizeof(real));
}

void model_get(struct model *model, real *parameters)
{
    download(model, parameters, model->weights);
}

void model_set(struct model *model, const real *parameters)
{
    upload(model, model->weights, parameters);
}

void model_get_gradients(struct model *model, real *gradients)
{
    download(model, gradients, model->gradients);
}

void model_get_moments(struct model *model, real *m, real *v)
{
    download(model, m, model->m);
    download(model, v, model->v);
}

void model_set_moments(struct model *model, const real *m, const real *v)
{
    upload(model, model->m, m);
    upload(model, model->v, v);
}

void model_zero_gradients(struct model *model)
{
    model->backend->zero(model->device, model->gradients, model->size * sizeof(real));
}

double model_update(struct model *model, int64_t step, double learning_rate)
{
    const struct tlaw_spec *spec = &model->spec;
    double norm = sqrt(model->backend->sum_squares(model->device, model->gradients, model->size)), scale = 1;

    if (!isfinite(norm))
        return norm;
    if (spec->grad_clip > 0)
        scale = fmin(1, spec->grad_clip / (norm + 1e-6)); /* as PyTorch's clip_grad_norm_ */
    for (int i = 0; i < model->n_parameters; i++) {
        const struct parameter *p = &model->parameters[i];

        model->backend->adamw(model->device, model->weights + p->offset, model->gradients + p->offset,
                              model->m + p->offset, model->v + p->offset, p->size, step, learning_rate,
                              spec->beta1, spec->beta2, 1e-8, p->decay ? spec->weight_decay : 0, scale);
    }
    return norm;
}
