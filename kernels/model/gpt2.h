/*
 * Inside of a model, shared by model.c (the parameter block) and gpt2.c (the architecture).
 *
 * A model owns two blocks on its device: the parameters (weights; with training also gradients and both
 * moments) and the activations, planned once for `batch` sequences of context_length.
 *
 * What a training step is told lies at the start of the activations: the update's numbers, tokens, targets.
 * The host keeps the same block (inbox), so that one copy brings all of it.
 *
 * A batch of a small model goes through the layers in lanes: each takes consecutive sequences, `chunk` at a
 * time, through the whole model and adds up gradients of its own, which are then added in the order of the
 * lanes.  Invariant: lanes and chunk follow from the specification and the batch alone, so that the bits do
 * not depend on how many lanes go side by side.
 */
#ifndef TLAW_GPT2_H
#define TLAW_GPT2_H

#include "model.h"

/* A parameter where it lies; w is NULL for a bias that the specification leaves out. */
struct tensor {
    real *w;
    size_t offset;     /* in the parameter block, and in one of gradients */
    int rows, columns; /* a vector has one row */
};

/* A layer norm: its place in the residual stream, and what comes out. */
struct norm {
    real *x; /* first the output of the branch that ends here, then the stream itself */
    real *mean, *rstd;
    act *y;
};

struct block {
    struct norm ln_1, ln_2;
    act *qkv, *attended, *gelu, *hidden; /* [rows,3C], [rows,C], [rows,4C], [rows,4C] */
    real *lse;
    act *k_cache, *v_cache; /* [T,C]; without training only */
};

/* Where the sequences of a chunk stand on their way through the layers. */
struct activations {
    struct block *blocks;
    struct norm ln_f;
    real *dx, *dnormed;     /* gradients: of the residual stream, and of a layer norm's or block's output */
    act *dwide, *dattended; /* [rows,4C], [rows,C] */
};

struct model {
    struct tlaw_spec spec;
    const struct backend *backend;
    struct device *device;
    int batch;
    bool training;
    struct parameter *parameters;
    int n_parameters;
    size_t size; /* elements of the parameter block */
    real *weights, *gradients, *m, *v;
    struct segment *segments; /* of the parameter block, on the device */
    int n_segments;
    struct tensor *tensors;
    int lanes, chunk;           /* parts of a batch; sequences of a lane at a time */
    real *lane_gradients;       /* [lanes][size]; NULL with one lane, which adds to gradients */
    struct activations *places; /* as many as lanes; a lane takes one that no other uses */
    struct block *blocks;       /* of all places */
    void *activation_memory;    /* all that is below, then the places */
    struct update *update;
    int32_t *tokens, *targets; /* of the batch */
    real *losses, *logits;
    struct inbox { /* on the host */
        char *memory;
        size_t bytes;
        struct update *update;
        int32_t *tokens, *targets;
    } inbox;
    void *host_memory;                  /* of model_host_memory */
    int64_t micro_batches;              /* of this step so far */
    struct update answers[2];           /* of the steps under way, by turns */
    unsigned begun, ended;              /* steps */
    struct recording *recordings[2][2]; /* a micro-batch: the first of its step? the last? */
};

/* Points model->tensors at the parameters. 0, or -1 when memory is short. */
int gpt2_bind(struct model *model);
/* Chooses the lanes, plans and allocates the activations and the inbox. 0, or -1 when they do not fit;
 * *bytes: their size. */
int gpt2_plan(struct model *model, size_t *bytes);
/*
 * Forward and backward of what lies in the model's tokens and targets: operations only.  Losses in the
 * model's, gradients += of scale * their sum.
 */
void gpt2_backward(struct model *model, int B, int T, double scale);

#endif
