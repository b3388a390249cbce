/*
 * A model's parameter block (weights, and with training gradients and AdamW's moments, in one allocation
 * each) and the training step.
 *
 * Invariants: the blocks are always whole; a caller sees them only through copies (get, set).  Whatever
 * changes from step to step reaches a recorded micro-batch through memory (the inbox); its arguments are
 * those of the model.
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

/* Neighbours that both decay, or both do not, are one segment. */
static int allocate_segments(struct model *model)
{
    struct segment *list = malloc(model->n_parameters * sizeof *list);
    size_t bytes;

    if (!list)
        return -1;
    for (int i = 0; i < model->n_parameters; i++) {
        const struct parameter *p = &model->parameters[i];

        if (!model->n_segments || list[model->n_segments - 1].decays != p->decay)
            list[model->n_segments++].decays = p->decay;
        list[model->n_segments - 1].end = p->offset + p->size;
    }
    bytes = model->n_segments * sizeof *list;
    model->segments = model->backend->alloc(model->device, bytes);
    if (model->segments)
        model->backend->upload(model->device, model->segments, list, bytes);
    free(list);
    return model->segments ? 0 : -1;
}

static int list_parameters(struct model *model)
{
    model->parameters = model_parameters(&model->spec, &model->n_parameters);
    for (int i = 0; model->parameters && i < model->n_parameters; i++)
        model->size += model->parameters[i].size;
    return model->parameters ? 0 : -1;
}

static int allocate_parameters(struct model *model)
{
    real **blocks[] = {&model->weights, &model->gradients, &model->m, &model->v};

    for (int i = 0; i < (model->training ? 4 : 1); i++) {
        *blocks[i] = i == 0 ? model->backend->alloc_weights(model->device, model->size)
                            : model->backend->alloc(model->device, model->size * sizeof(real));
        if (!*blocks[i])
            return -1;
    }
    return model->training && allocate_segments(model) < 0 ? -1 : gpt2_bind(model);
}

struct model *model_create(const struct tlaw_spec *spec, const struct backend *backend, struct device *device,
                           int batch, bool training, char *message, size_t message_size)
{
    struct model *model;
    size_t activations = 0, parameters = 0;

    if (check_spec(spec, batch, message, message_size) < 0)
        return NULL;
    model = calloc(1, sizeof *model);
    if (model) {
        model->spec = *spec;
        model->backend = backend;
        model->device = device;
        model->batch = batch;
        model->training = training;
        if (list_parameters(model) == 0 && gpt2_plan(model, &activations) == 0 &&
            allocate_parameters(model) == 0)
            return model;
        parameters = (training ? 4 : 1) * model->size * sizeof(real);
    }
    snprintf(message, message_size,
             "a model of %lld layers of %lld with a batch of %d x %lld tokens does not fit in memory: its %s "
             "take %zu MB, its activations %zu MB",
             (long long) spec->n_layer, (long long) spec->d_model, batch, (long long) spec->context_length,
             training ? "weights, gradients and moments" : "weights", (parameters >> 20) + 1,
             (activations >> 20) + 1);
    model_free(model);
    return NULL;
}

void model_free(struct model *model)
{
    if (!model)
        return;
    void *on_device[] = {model->weights, model->gradients, model->m,
                         model->v,       model->segments,  model->activation_memory};

    for (int i = 0; i < 4; i++)
        model->backend->forget(model->device, model->recordings[i / 2][i % 2]);
    for (size_t i = 0; i < sizeof on_device / sizeof *on_device; i++)
        if (on_device[i])
            model->backend->free(model->device, on_device[i]);
    free(model->parameters);
    free(model->tensors);
    free(model->blocks);
    free(model->places);
    free(model->inbox.memory);
    free(model->host_memory);
    free(model);
}

void *model_host_memory(struct model *model, size_t bytes)
{
    free(model->host_memory);
    model->host_memory = malloc(bytes);
    return model->host_memory;
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

/* ---- the update and the step ---- */

static struct update update_of(const struct model *model, int64_t step, double learning_rate)
{
    return (struct update){.learning_rate = learning_rate,
                           .correction1 = 1 - pow(model->spec.beta1, (double) step),
                           .correction2 = 1 - pow(model->spec.beta2, (double) step)};
}

/* By the numbers in model->update: operations only. */
static void update_weights(struct model *model)
{
    const struct tlaw_spec *spec = &model->spec;
    struct update *update = model->update;
    const struct adamw constants = {spec->beta1, spec->beta2, 1e-8, spec->weight_decay, spec->grad_clip};

    model->backend->sum_squares(model->device, &update->squares, model->gradients, model->size);
    model->backend->adamw(model->device, model->weights, model->gradients, model->m, model->v, model->size,
                          model->segments, model->n_segments, &constants, update);
}

double model_update(struct model *model, int64_t step, double learning_rate)
{
    struct update update = update_of(model, step, learning_rate);

    model->backend->upload(model->device, model->update, &update, sizeof update);
    update_weights(model);
    model->backend->download(model->device, &update, model->update, sizeof update);
    return sqrt(update.squares);
}

void model_step_begin(struct model *model, int64_t step, double learning_rate)
{
    *model->inbox.update = update_of(model, step, learning_rate);
    model->micro_batches = 0;
}

static double loss_scale(const struct model *model)
{
    return 1 / (double) (model->spec.batch_size * model->spec.context_length);
}

struct micro_batch {
    struct model *model;
    bool first, last; /* of its step */
};

static void run_micro_batch(void *arg)
{
    const struct micro_batch *micro = arg;
    struct model *model = micro->model;
    int T = (int) model->spec.context_length;

    if (micro->first)
        model_zero_gradients(model);
    gpt2_backward(model, model->batch, T, loss_scale(model));
    model->backend->add_losses(model->device, &model->update->loss, model->losses, (size_t) model->batch * T);
    if (micro->last)
        update_weights(model);
}

void model_step_add(struct model *model, const int32_t *tokens, const int32_t *targets)
{
    const struct backend *backend = model->backend;
    struct inbox *inbox = &model->inbox;
    size_t bytes = model->batch * model->spec.context_length * sizeof *tokens, skipped;
    struct micro_batch micro = {model, model->micro_batches == 0, false};

    micro.last = ++model->micro_batches == model->spec.batch_size / model->batch;
    memcpy(inbox->tokens, tokens, bytes);
    memcpy(inbox->targets, targets, bytes);
    /* the losses so far stay on the device */
    skipped = micro.first ? 0 : (size_t) ((char *) inbox->tokens - inbox->memory);
    backend->upload(model->device, (char *) model->activation_memory + skipped, inbox->memory + skipped,
                    inbox->bytes - skipped);
    backend->repeat(model->device, &model->recordings[micro.first][micro.last], run_micro_batch, &micro);
    if (micro.last)
        backend->begin_download(model->device, &model->answers[model->begun++ % 2], model->update,
                                sizeof(struct update));
}

struct step_result model_step_end(struct model *model)
{
    struct step_result result = {.grad_norm = NAN};
    struct update update;

    model->backend->end_download(model->device);
    update = model->answers[model->ended++ % 2];
    result.learning_rate = update.learning_rate;
    result.loss = update.loss * loss_scale(model);
    if (isfinite(result.loss))
        result.grad_norm = sqrt(update.squares);
    result.diverged = !isfinite(result.grad_norm);
    return result;
}
