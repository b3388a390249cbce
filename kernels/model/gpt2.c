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
        t->dw = model->training ? model->gradients + p->offset : NULL;
        t->rows = p->dims == 2 ? p->shape[0] : 1;
        t->columns = p->dims == 2 ? p->shape[1] : p->shape[0];
        p++;
    }
    return 0;
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
    struct activations *a = &model->activations;
    struct inbox *inbox = &model->inbox;
    size_t rows = model->batch * model->spec.context_length;

    a->update = take(planner, 1, sizeof *a->update);
    a->tokens = take(planner, rows, sizeof *a->tokens);
    a->targets = take(planner, rows, sizeof *a->targets);
    inbox->bytes = planner->used;
    if (!inbox->memory)
        return;
    inbox->update = (struct update *) inbox->memory;
    inbox->tokens = (int32_t *) (inbox->memory + ((char *) a->tokens - (char *) a->update));
    inbox->targets = (int32_t *) (inbox->memory + ((char *) a->targets - (char *) a->update));
}

static void plan(struct model *model, struct planner *planner)
{
    struct activations *a = &model->activations;
    size_t T = model->spec.context_length, C = model->spec.d_model, act_size = model->backend->act_size;
    size_t rows = model->batch * T, layers = model->spec.n_layer;

    plan_inbox(model, planner);
    a->losses = take(planner, rows, sizeof(real));
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
    a->logits = take(planner, model->spec.vocab_size, sizeof(real));
    for (size_t l = 0; l < layers; l++) {
        a->blocks[l].k_cache = take(planner, T * C, act_size);
        a->blocks[l].v_cache = take(planner, T * C, act_size);
    }
}

int gpt2_plan(struct model *model, size_t *bytes)
{
    struct planner planner = {0};

    *bytes = 0;
    model->activations.blocks = calloc(model->spec.n_layer, sizeof(struct block));
    if (!model->activations.blocks)
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

/* Where the residual stream stands after `layer` blocks. */
static struct norm *site(struct model *model, int layer)
{
    return layer < model->spec.n_layer ? &model->activations.blocks[layer].ln_1 : &model->activations.ln_f;
}

static void norm_forward(struct model *model, int slot, struct norm *norm, const real *stream, int rows)
{
    struct tensor *t = &model->tensors[slot];

    model->backend->layernorm_forward(model->device, norm->y, norm->mean, norm->rstd, norm->x, stream, t[0].w,
                                      t[1].w, rows, (int) model->spec.d_model);
}

static void linear(struct model *model, int slot, act *y_act, real *y_real, act *gelu, const act *x, int rows)
{
    struct tensor *t = &model->tensors[slot];

    model->backend->linear_forward(model->device, y_act, y_real, gelu, x, t[0].w, t[1].w, rows, t[0].rows,
                                   t[0].columns);
}

/* Block `layer` up to its hidden layer.  position < 0: whole sequences, else one row at that position. */
static void block_inside(struct model *model, int layer, int B, int T, int position)
{
    const struct backend *backend = model->backend;
    struct block *block = &model->activations.blocks[layer];
    int rows = B * T, C = (int) model->spec.d_model, H = (int) model->spec.n_head;

    linear(model, block_slot(layer, ATTN), block->qkv, NULL, NULL, block->ln_1.y, rows);
    if (position < 0)
        backend->attention_forward(model->device, block->attended, block->lse, block->qkv, B, T, C, H);
    else
        backend->attention_decode(model->device, block->attended, block->k_cache, block->v_cache, block->qkv,
                                  position, C, H);
    linear(model, block_slot(layer, ATTN_PROJ), NULL, block->ln_2.x, NULL, block->attended, rows);
    norm_forward(model, block_slot(layer, LN_2), &block->ln_2, block->ln_1.x, rows);
    linear(model, block_slot(layer, FC), block->hidden, NULL, block->gelu, block->ln_2.y, rows);
}

/* The whole block, and the layer norm after it. */
static void block_forward(struct model *model, int layer, int B, int T, int position)
{
    struct block *block = &model->activations.blocks[layer];
    struct norm *next = site(model, layer + 1);

    block_inside(model, layer, B, T, position);
    linear(model, block_slot(layer, MLP_PROJ), NULL, next->x, NULL, block->hidden, B * T);
    norm_forward(model, block_slot(layer + 1, LN_1), next, block->ln_2.x, B * T);
}

static void upload_tokens(struct model *model, int32_t *to, const int32_t *tokens, int B, int T)
{
    model->backend->upload(model->device, to, tokens, (size_t) B * T * sizeof *tokens);
}

/* Embeddings of activations.tokens and the first `layers` blocks; the result stands at site(layers). */
static void forward(struct model *model, int B, int T, int layers)
{
    struct activations *a = &model->activations;
    struct norm *first = site(model, 0);

    model->backend->embedding_forward(model->device, first->x, a->tokens, model->tensors[WTE].w,
                                      model->tensors[WPE].w, B, T, (int) model->spec.d_model);
    norm_forward(model, block_slot(0, LN_1), first, NULL, B * T);
    for (int layer = 0; layer < layers; layer++)
        block_forward(model, layer, B, T, -1);
}

/* The loss of every row at the output, and with scale its gradient in dnormed and wte's. */
static void output_loss(struct model *model, int rows, const double *scale)
{
    struct activations *a = &model->activations;
    struct tensor *wte = &model->tensors[WTE];

    model->backend->cross_entropy(model->device, a->losses, scale ? a->dnormed : NULL, scale ? wte->dw : NULL,
                                  a->ln_f.y, wte->w, a->targets, scale ? *scale : 0, rows, wte->columns,
                                  wte->rows);
}

static void download_losses(struct model *model, real *losses, int rows)
{
    model->backend->download(model->device, losses, model->activations.losses, rows * sizeof(real));
}

void model_forward(struct model *model, const int32_t *tokens, const int32_t *targets, int B, int T,
                   real *losses)
{
    upload_tokens(model, model->activations.tokens, tokens, B, T);
    upload_tokens(model, model->activations.targets, targets, B, T);
    forward(model, B, T, (int) model->spec.n_layer);
    output_loss(model, B * T, NULL);
    download_losses(model, losses, B * T);
}

void model_hidden(struct model *model, const int32_t *tokens, int B, int T, int layer, real *hidden)
{
    const struct backend *backend = model->backend;
    struct activations *a = &model->activations;
    int layers = layer > model->spec.n_layer ? (int) model->spec.n_layer : layer;
    size_t n = (size_t) B * T * model->spec.d_model;
    real *stream = site(model, layers)->x;

    upload_tokens(model, a->tokens, tokens, B, T);
    forward(model, B, T, layers);
    if (layer > model->spec.n_layer)
        backend->act_to_real(model->device, stream, a->ln_f.y, n);
    backend->download(model->device, hidden, stream, n * sizeof(real));
}

void model_decode(struct model *model, int32_t token, int position, real *logits)
{
    const struct backend *backend = model->backend;
    struct activations *a = &model->activations;
    struct tensor *wte = &model->tensors[WTE], *wpe = &model->tensors[WPE];
    int C = wte->columns, V = wte->rows;

    backend->upload(model->device, a->tokens, &token, sizeof token);
    backend->embedding_forward(model->device, site(model, 0)->x, a->tokens, wte->w,
                               wpe->w + (size_t) position * C, 1, 1, C);
    norm_forward(model, block_slot(0, LN_1), site(model, 0), NULL, 1);
    for (int layer = 0; layer < model->spec.n_layer; layer++)
        block_forward(model, layer, 1, 1, position);
    backend->logits(model->device, a->logits, a->ln_f.y, wte->w, 1, C, V);
    backend->download(model->device, logits, a->logits, V * sizeof(real));
}

/* ---- backward ---- */

/* dx of the stream += what came through the layer norm (dnormed). */
static void norm_backward(struct model *model, int slot, const struct norm *norm, int rows)
{
    struct activations *a = &model->activations;
    struct tensor *t = &model->tensors[slot];

    model->backend->layernorm_backward(model->device, a->dx, t[0].dw, t[1].dw, a->dnormed, norm->x,
                                       norm->mean, norm->rstd, t[0].w, rows, (int) model->spec.d_model);
}

static void linear_backward(struct model *model, int slot, act *dx_act, real *dx_real, const act *dy_act,
                            const real *dy_real, const act *gelu, const act *x, int rows)
{
    struct tensor *t = &model->tensors[slot];

    model->backend->linear_backward(model->device, dx_act, dx_real, t[0].dw, t[1].dw, dy_act, dy_real, gelu,
                                    x, t[0].w, rows, t[0].rows, t[0].columns);
}

static void block_backward(struct model *model, int layer, int B, int T)
{
    struct activations *a = &model->activations;
    struct block *block = &a->blocks[layer];
    int rows = B * T;

    if (model->spec.recompute && layer < model->spec.n_layer - 1) { /* the last one's is still there */
        norm_forward(model, block_slot(layer, LN_1), &block->ln_1, NULL, rows);
        block_inside(model, layer, B, T, -1);
    }
    linear_backward(model, block_slot(layer, MLP_PROJ), a->dwide, NULL, NULL, a->dx, block->gelu,
                    block->hidden, rows);
    linear_backward(model, block_slot(layer, FC), NULL, a->dnormed, a->dwide, NULL, NULL, block->ln_2.y,
                    rows);
    norm_backward(model, block_slot(layer, LN_2), &block->ln_2, rows);
    linear_backward(model, block_slot(layer, ATTN_PROJ), a->dattended, NULL, NULL, a->dx, NULL,
                    block->attended, rows);
    model->backend->attention_backward(model->device, a->dwide, a->dattended, block->attended, block->lse,
                                       block->qkv, B, T, (int) model->spec.d_model, (int) model->spec.n_head);
    linear_backward(model, block_slot(layer, ATTN), NULL, a->dnormed, a->dwide, NULL, NULL, block->ln_1.y,
                    rows);
    norm_backward(model, block_slot(layer, LN_1), &block->ln_1, rows);
}

void gpt2_backward(struct model *model, int B, int T, double scale)
{
    struct activations *a = &model->activations;
    struct tensor *wte = &model->tensors[WTE], *wpe = &model->tensors[WPE];
    int layers = (int) model->spec.n_layer, rows = B * T;

    forward(model, B, T, layers);
    output_loss(model, rows, &scale);
    model->backend->zero(model->device, a->dx, (size_t) rows * wte->columns * sizeof(real));
    norm_backward(model, block_slot(layers, LN_1), &a->ln_f, rows);
    for (int layer = layers - 1; layer >= 0; layer--)
        block_backward(model, layer, B, T);
    model->backend->embedding_backward(model->device, wte->dw, wpe->dw, a->dx, a->tokens, B, T, wte->columns,
                                       wte->rows);
}

void model_backward(struct model *model, const int32_t *tokens, const int32_t *targets, int B, int T,
                    double scale, real *losses)
{
    upload_tokens(model, model->activations.tokens, tokens, B, T);
    upload_tokens(model, model->activations.targets, targets, B, T);
    gpt2_backward(model, B, T, scale);
    download_losses(model, losses, B * T);
}
