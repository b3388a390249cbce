/*
 * GPT-2 (Radford et al. 2019) as a sequence of backend operations.
 *
 *     x = wte[token] + wpe[position]
 *     for every block:  x += c_proj(attention(c_attn(ln_1(x))));  x += c_proj(gelu(c_fc(ln_2(x))))
 *     logits = ln_f(x) wte^T
 *
 * The residual stream is kept at every layer norm ("site": ln_1 and ln_2 of every block, then ln_f), because
 * the backward pass reads it there.  A branch writes its output into the x of the next site and that site's
 * layer norm adds the stream of the site before, so nothing is copied.  Without training two buffers take
 * turns and all blocks share the rest.  With recomputation (Chen et al. 2016) a block keeps the stream that
 * it begins with, all blocks share the rest, and the backward pass makes it again: the same operations on the
 * same numbers, so the same bits.
 */
#include "gpt2.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Parameters of one block in the order of the state dict: every weight is followed by its bias. */
enum { LN_1 = 0, ATTN = 2, ATTN_PROJ = 4, LN_2 = 6, FC = 8, MLP_PROJ = 10, BLOCK_SLOTS = 12 };
enum { WTE, WPE, FIRST_BLOCK };

/* Shapes in units of d_model; rows = 0: a vector. */
static const struct {
    const char *name;
    int rows, columns;
} block_slots[BLOCK_SLOTS] = {
    {"ln_1.weight", 0, 1},      {"ln_1.bias", 0, 1},          {"attn.c_attn.weight", 1, 3},
    {"attn.c_attn.bias", 0, 3}, {"attn.c_proj.weight", 1, 1}, {"attn.c_proj.bias", 0, 1},
    {"ln_2.weight", 0, 1},      {"ln_2.bias", 0, 1},          {"mlp.c_fc.weight", 1, 4},
    {"mlp.c_fc.bias", 0, 4},    {"mlp.c_proj.weight", 4, 1},  {"mlp.c_proj.bias", 0, 1},
};

static int block_slot(int layer, int slot)
{
    return FIRST_BLOCK + layer * BLOCK_SLOTS + slot;
}

static int slot_count(const struct tlaw_spec *spec)
{
    return block_slot((int) spec->n_layer, 2);
}

/* Describes the parameter of a slot, without its offset; false when the specification leaves it out. */
static bool describe(const struct tlaw_spec *spec, int slot, struct parameter *p)
{
    int C = (int) spec->d_model, layer = (slot - FIRST_BLOCK) / BLOCK_SLOTS,
        inner = (slot - FIRST_BLOCK) % BLOCK_SLOTS;
    int rows, columns = C;

    memset(p, 0, sizeof *p);
    if (slot < FIRST_BLOCK) {
        rows = (int) (slot == WTE ? spec->vocab_size : spec->context_length);
        strcpy(p->name, slot == WTE ? "wte.weight" : "wpe.weight");
    } else {
        rows = block_slots[inner].rows * C;
        columns = block_slots[inner].columns * C;
        if (layer < spec->n_layer)
            snprintf(p->name, sizeof p->name, "h.%d.%s", layer, block_slots[inner].name);
        else
            strcpy(p->name, inner == LN_1 ? "ln_f.weight" : "ln_f.bias");
        if (inner % 2 && !spec->bias)
            return false;
        if (inner == LN_1 || inner == LN_2)
            p->init_value = 1;
    }
    p->dims = rows ? 2 : 1;
    p->shape[0] = rows ? rows : columns;
    p->shape[1] = rows ? columns : 1;
    p->size = (size_t) p->shape[0] * p->shape[1];
    p->decay = p->dims == 2;
    if (p->dims == 2)
        p->init_std = 0.02;
    if (slot >= FIRST_BLOCK && (inner == ATTN_PROJ || inner == MLP_PROJ))
        p->init_std /= sqrt(2.0 * spec->n_layer);
    return true;
}

struct parameter *model_parameters(const struct tlaw_spec *spec, int *count)
{
    int slots = slot_count(spec);
    struct parameter *list = malloc(slots * sizeof *list);
    size_t offset = 0;

    *count = 0;
    for (int slot = 0; list && slot < slots; slot++) {
        struct parameter *p = &list[*count];

        if (!describe(spec, slot, p))
            continue;
        p->offset = offset;
        offset += p->size;
        (*count)++;
    }
    return list;
}

int gpt2_bind(struct model *model)
{
    int slots = slot_count(&model->spec);
    const struct parameter *p = model->parameters;

    model->tensors = calloc(slots, sizeof *model->tensors);
    if (!model->tensors)
        return -1;
    for (int slot = 0; slot < slots; slot++) {
        struct tensor *t = &model->tensors[slot];
        struct parameter described;

        if (!describe(&model->spec, slot, &described))
            continue;
        t->w = model->weights + p->offset;
        t->offset = p->offset;
        t->rows = p->dims == 2 ? p->shape[0] : 1;
        t->columns = p->dims == 2 ? p->shape[1] : p->shape[0];
        p++;
    }
    return 0;
}

/* ---- the plan of a batch ---- */

/* A chunk of a lane's sequences on its way through the layers. */
struct pass {
    struct model *model;
    struct device *device;
    struct activations *a;
    real *gradients;
    int first, B, T; /* sequences first to before first + B of the batch */
};

static void choose_lanes(struct model *model)
{
    struct tlaw_lanes all = {1, model->batch};

    if (model->backend->side_by_side)
        all = tlaw_spec_lanes(&model->spec, model->batch);
    model->lanes = all.lanes;
    model->chunk = all.chunk;
}

/* ---- memory ---- */

/* Hands out 64-byte aligned pieces of a block; with base NULL it only adds up. */
struct planner {
    char *base;
    size_t used;
};

static void *take(struct planner *planner, size_t count, size_t element)
{
    size_t at = planner->used;

    planner->used += (count * element + 63) / 64 * 64;
    return planner->base ? planner->base + at : NULL;
}

static void plan_norm(struct planner *planner, struct norm *norm, size_t rows, size_t C, size_t act_size)
{
    norm->x = take(planner, rows * C, sizeof(real));
    norm->mean = take(planner, rows, sizeof(real));
    norm->rstd = take(planner, rows, sizeof(real));
    norm->y = take(planner, rows * C, act_size);
}

static void plan_block(struct planner *planner, struct block *block, size_t rows, size_t C, size_t H,
                       size_t act_size)
{
    plan_norm(planner, &block->ln_1, rows, C, act_size);
    plan_norm(planner, &block->ln_2, rows, C, act_size);
    block->qkv = take(planner, rows * 3 * C, act_size);
    block->attended = take(planner, rows * C, act_size);
    block->gelu = take(planner, rows * 4 * C, act_size);
    block->hidden = take(planner, rows * 4 * C, act_size);
    block->lse = take(planner, rows * H, sizeof(real));
}

/* The same places on the device and on the host. */
static void plan_inbox(struct model *model, struct planner *planner)
{
    struct inbox *inbox = &model->inbox;
    size_t rows = model->batch * model->spec.context_length;

    model->update = take(planner, 1, sizeof *model->update);
    model->tokens = take(planner, rows, sizeof *model->tokens);
    model->targets = take(planner, rows, sizeof *model->targets);
    inbox->bytes = planner->used;
    if (!inbox->memory)
        return;
    inbox->update = (struct update *) inbox->memory;
    inbox->tokens = (int32_t *) (inbox->memory + ((char *) model->tokens - (char *) model->update));
    inbox->targets = (int32_t *) (inbox->memory + ((char *) model->targets - (char *) model->update));
}

/* For a chunk; only the first place has a key-value cache. */
static void plan_place(struct model *model, struct planner *planner, struct activations *a)
{
    size_t T = model->spec.context_length, C = model->spec.d_model, act_size = model->backend->act_size;
    size_t rows = model->chunk * T, layers = model->spec.n_layer;

    for (size_t l = 0; l < layers; l++)
        if (l == 0 || (model->training && !model->spec.recompute))
            plan_block(planner, &a->blocks[l], rows, C, model->spec.n_head, act_size);
        else {
            a->blocks[l] = a->blocks[0];
            if (model->training)
                a->blocks[l].ln_1.x = take(planner, rows * C, sizeof(real));
        }
    if (model->training) {
        plan_norm(planner, &a->ln_f, rows, C, act_size);
        a->dx = take(planner, rows * C, sizeof(real));
        a->dnormed = take(planner, rows * C, sizeof(real));
        a->dwide = take(planner, rows * 4 * C, act_size);
        a->dattended = take(planner, rows * C, act_size);
        return;
    }
    a->ln_f = a->blocks[0].ln_1;
    for (size_t l = 0; l < layers && a == model->places; l++) {
        a->blocks[l].k_cache = take(planner, T * C, act_size);
        a->blocks[l].v_cache = take(planner, T * C, act_size);
    }
}

static void plan(struct model *model, struct planner *planner)
{
    plan_inbox(model, planner);
    model->losses = take(planner, model->batch * model->spec.context_length, sizeof(real));
    if (!model->training)
        model->logits = take(planner, model->spec.vocab_size, sizeof(real));
    else if (model->lanes > 1)
        model->lane_gradients = take(planner, model->lanes * model->size, sizeof(real));
    for (int i = 0; i < model->lanes; i++) {
        model->places[i].blocks = model->blocks + i * model->spec.n_layer;
        plan_place(model, planner, &model->places[i]);
    }
}

int gpt2_plan(struct model *model, size_t *bytes)
{
    struct planner planner = {0};

    *bytes = 0;
    choose_lanes(model);
    model->places = calloc(model->lanes, sizeof *model->places);
    model->blocks = calloc(model->lanes * model->spec.n_layer, sizeof *model->blocks);
    if (!model->places || !model->blocks)
        return -1;
    plan(model, &planner);
    *bytes = planner.used;
    model->activation_memory = model->backend->alloc(model->device, planner.used);
    model->inbox.memory = calloc(1, model->inbox.bytes);
    if (!model->activation_memory || !model->inbox.memory)
        return -1;
    planner = (struct planner){.base = model->activation_memory};
    plan(model, &planner);
    return 0;
}

/* ---- forward ---- */

static int rows_of(const struct pass *p)
{
    return p->B * p->T;
}

/* Where the residual stream stands after `layer` blocks. */
static struct norm *site(const struct pass *p, int layer)
{
    return layer < p->model->spec.n_layer ? &p->a->blocks[layer].ln_1 : &p->a->ln_f;
}

static void norm_forward(const struct pass *p, int slot, struct norm *norm, const real *stream)
{
    const struct tensor *t = &p->model->tensors[slot];

    p->model->backend->layernorm_forward(p->device, norm->y, norm->mean, norm->rstd, norm->x, stream, t[0].w,
                                         t[1].w, rows_of(p), (int) p->model->spec.d_model);
}

static void linear(const struct pass *p, int slot, act *y_act, real *y_real, act *gelu, const act *x)
{
    const struct tensor *t = &p->model->tensors[slot];

    p->model->backend->linear_forward(p->device, y_act, y_real, gelu, x, t[0].w, t[1].w, rows_of(p),
                                      t[0].rows, t[0].columns);
}

/* Block `layer` up to its hidden layer.  position < 0: whole sequences, else one row at that position. */
static void block_inside(const struct pass *p, int layer, int position)
{
    const struct backend *backend = p->model->backend;
    struct block *block = &p->a->blocks[layer];
    int C = (int) p->model->spec.d_model, H = (int) p->model->spec.n_head;

    linear(p, block_slot(layer, ATTN), block->qkv, NULL, NULL, block->ln_1.y);
    if (position < 0)
        backend->attention_forward(p->device, block->attended, block->lse, block->qkv, p->B, p->T, C, H);
    else
        backend->attention_decode(p->device, block->attended, block->k_cache, block->v_cache, block->qkv,
                                  position, C, H);
    linear(p, block_slot(layer, ATTN_PROJ), NULL, block->ln_2.x, NULL, block->attended);
    norm_forward(p, block_slot(layer, LN_2), &block->ln_2, block->ln_1.x);
    linear(p, block_slot(layer, FC), block->hidden, NULL, block->gelu, block->ln_2.y);
}

/* The whole block, and the layer norm after it. */
static void block_forward(const struct pass *p, int layer, int position)
{
    struct block *block = &p->a->blocks[layer];
    struct norm *next = site(p, layer + 1);

    block_inside(p, layer, position);
    linear(p, block_slot(layer, MLP_PROJ), NULL, next->x, NULL, block->hidden);
    norm_forward(p, block_slot(layer + 1, LN_1), next, block->ln_2.x);
}

/* The batch's tokens, targets or losses from the pass's first on. */
static size_t first_row(const struct pass *p)
{
    return (size_t) p->first * p->T;
}

/* Embeddings of the tokens and the first `layers` blocks; the result stands at site(layers). */
static void forward(const struct pass *p, int layers)
{
    struct model *model = p->model;
    struct norm *first = site(p, 0);

    model->backend->embedding_forward(p->device, first->x, model->tokens + first_row(p),
                                      model->tensors[WTE].w, model->tensors[WPE].w, p->B, p->T,
                                      (int) model->spec.d_model);
    norm_forward(p, block_slot(0, LN_1), first, NULL);
    for (int layer = 0; layer < layers; layer++)
        block_forward(p, layer, -1);
}

/* The gradient of a tensor; NULL for a bias that there is not. */
static real *gradient(const struct pass *p, const struct tensor *t)
{
    return t->w ? p->gradients + t->offset : NULL;
}

/* The loss of every row at the output, and with a scale its gradient in dnormed and wte's. */
static void output_loss(const struct pass *p, double scale)
{
    struct model *model = p->model;
    const struct tensor *wte = &model->tensors[WTE];

    model->backend->cross_entropy(p->device, model->losses + first_row(p), scale ? p->a->dnormed : NULL,
                                  scale ? gradient(p, wte) : NULL, p->a->ln_f.y, wte->w,
                                  model->targets + first_row(p), scale, rows_of(p), wte->columns, wte->rows);
}

/* ---- backward ---- */

/* dx of the stream += what came through the layer norm (dnormed). */
static void norm_backward(const struct pass *p, int slot, const struct norm *norm)
{
    const struct tensor *t = &p->model->tensors[slot];

    p->model->backend->layernorm_backward(p->device, p->a->dx, gradient(p, &t[0]), gradient(p, &t[1]),
                                          p->a->dnormed, norm->x, norm->mean, norm->rstd, t[0].w, rows_of(p),
                                          (int) p->model->spec.d_model);
}

static void linear_backward(const struct pass *p, int slot, act *dx_act, real *dx_real, const act *dy_act,
                            const real *dy_real, const act *gelu, const act *x)
{
    const struct tensor *t = &p->model->tensors[slot];

    p->model->backend->linear_backward(p->device, dx_act, dx_real, gradient(p, &t[0]), gradient(p, &t[1]),
                                       dy_act, dy_real, gelu, x, t[0].w, rows_of(p), t[0].rows, t[0].columns);
}

static void block_backward(const struct pass *p, int layer)
{
    const struct tlaw_spec *spec = &p->model->spec;
    struct activations *a = p->a;
    struct block *block = &a->blocks[layer];

    if (spec->recompute && layer < spec->n_layer - 1) { /* the last one's is still there */
        norm_forward(p, block_slot(layer, LN_1), &block->ln_1, NULL);
        block_inside(p, layer, -1);
    }
    linear_backward(p, block_slot(layer, MLP_PROJ), a->dwide, NULL, NULL, a->dx, block->gelu, block->hidden);
    linear_backward(p, block_slot(layer, FC), NULL, a->dnormed, a->dwide, NULL, NULL, block->ln_2.y);
    norm_backward(p, block_slot(layer, LN_2), &block->ln_2);
    linear_backward(p, block_slot(layer, ATTN_PROJ), a->dattended, NULL, NULL, a->dx, NULL, block->attended);
    p->model->backend->attention_backward(p->device, a->dwide, a->dattended, block->attended, block->lse,
                                          block->qkv, p->B, p->T, (int) spec->d_model, (int) spec->n_head);
    linear_backward(p, block_slot(layer, ATTN), NULL, a->dnormed, a->dwide, NULL, NULL, block->ln_1.y);
    norm_backward(p, block_slot(layer, LN_1), &block->ln_1);
}

static void backward(const struct pass *p)
{
    struct model *model = p->model;
    const struct tensor *wte = &model->tensors[WTE], *wpe = &model->tensors[WPE];
    int layers = (int) model->spec.n_layer;

    model->backend->zero(p->device, p->a->dx, (size_t) rows_of(p) * wte->columns * sizeof(real));
    norm_backward(p, block_slot(layers, LN_1), &p->a->ln_f);
    for (int layer = layers - 1; layer >= 0; layer--)
        block_backward(p, layer);
    model->backend->embedding_backward(p->device, gradient(p, wte), gradient(p, wpe), p->a->dx,
                                       model->tokens + first_row(p), p->B, p->T, wte->columns, wte->rows);
}

/* ---- lanes ---- */

/* A batch's way through the model, of which every lane takes a part. */
struct sweep {
    struct model *model;
    int B, T;
    void (*chunk)(const struct pass *, const struct sweep *);
    double scale; /* of the losses' gradient */
    int layer;    /* model_hidden's arguments */
    real *hidden;
};

static void run_lane(void *arg, struct device *device, int lane, int place)
{
    const struct sweep *s = arg;
    struct model *model = s->model;
    int end = s->B * (lane + 1) / model->lanes;
    struct pass p = {.model = model, .device = device, .a = &model->places[place], .T = s->T};

    p.gradients = model->gradients;
    if (model->lane_gradients) {
        p.gradients = model->lane_gradients + lane * model->size;
        if (s->scale)
            model->backend->zero(device, p.gradients, model->size * sizeof(real));
    }
    for (p.first = s->B * lane / model->lanes; p.first < end; p.first += p.B) {
        p.B = end - p.first < model->chunk ? end - p.first : model->chunk;
        s->chunk(&p, s);
    }
}

static void run_lanes(const struct sweep *s)
{
    struct model *model = s->model;

    if (model->lanes > 1)
        model->backend->side_by_side(model->device, model->lanes, run_lane, (void *) s);
    else
        run_lane((void *) s, model->device, 0, 0);
}

static void upload_tokens(struct model *model, int32_t *to, const int32_t *tokens, int B, int T)
{
    model->backend->upload(model->device, to, tokens, (size_t) B * T * sizeof *tokens);
}

static void download_losses(struct model *model, real *losses, int rows)
{
    model->backend->download(model->device, losses, model->losses, rows * sizeof(real));
}

static void losses_chunk(const struct pass *p, const struct sweep *s)
{
    (void) s;
    forward(p, (int) p->model->spec.n_layer);
    output_loss(p, 0);
}

void model_forward(struct model *model, const int32_t *tokens, const int32_t *targets, int B, int T,
                   real *losses)
{
    upload_tokens(model, model->tokens, tokens, B, T);
    upload_tokens(model, model->targets, targets, B, T);
    run_lanes(&(struct sweep){.model = model, .B = B, .T = T, .chunk = losses_chunk});
    download_losses(model, losses, B * T);
}

static void backward_chunk(const struct pass *p, const struct sweep *s)
{
    forward(p, (int) p->model->spec.n_layer);
    output_loss(p, s->scale);
    backward(p);
}

void gpt2_backward(struct model *model, int B, int T, double scale)
{
    run_lanes(&(struct sweep){.model = model, .B = B, .T = T, .chunk = backward_chunk, .scale = scale});
    if (model->lane_gradients)
        model->backend->add_lanes(model->device, model->gradients, model->lane_gradients, model->lanes,
                                  model->size);
}

void model_backward(struct model *model, const int32_t *tokens, const int32_t *targets, int B, int T,
                    double scale, real *losses)
{
    upload_tokens(model, model->tokens, tokens, B, T);
    upload_tokens(model, model->targets, targets, B, T);
    gpt2_backward(model, B, T, scale);
    download_losses(model, losses, B * T);
}

static void hidden_chunk(const struct pass *p, const struct sweep *s)
{
    const struct backend *backend = p->model->backend;
    int n_layer = (int) p->model->spec.n_layer, layers = s->layer > n_layer ? n_layer : s->layer;
    size_t C = p->model->spec.d_model, n = rows_of(p) * C;
    real *stream = site(p, layers)->x;

    forward(p, layers);
    if (s->layer > n_layer)
        backend->act_to_real(p->device, stream, p->a->ln_f.y, n);
    backend->download(p->device, s->hidden + first_row(p) * C, stream, n * sizeof(real));
}

void model_hidden(struct model *model, const int32_t *tokens, int B, int T, int layer, real *hidden)
{
    upload_tokens(model, model->tokens, tokens, B, T);
    run_lanes(&(struct sweep){
        .model = model, .B = B, .T = T, .chunk = hidden_chunk, .layer = layer, .hidden = hidden});
}

/* ---- token by token ---- */

void model_decode(struct model *model, int32_t token, int position, real *logits)
{
    const struct backend *backend = model->backend;
    const struct tensor *wte = &model->tensors[WTE], *wpe = &model->tensors[WPE];
    struct pass p = {.model = model, .device = model->device, .a = model->places, .B = 1, .T = 1};
    int C = wte->columns, V = wte->rows;

    backend->upload(model->device, model->tokens, &token, sizeof token);
    backend->embedding_forward(model->device, site(&p, 0)->x, model->tokens, wte->w,
                               wpe->w + (size_t) position * C, 1, 1, C);
    norm_forward(&p, block_slot(0, LN_1), site(&p, 0), NULL);
    for (int layer = 0; layer < model->spec.n_layer; layer++)
        block_forward(&p, layer, position);
    backend->logits(model->device, model->logits, p.a->ln_f.y, wte->w, 1, C, V);
    backend->download(model->device, logits, model->logits, V * sizeof(real));
}
