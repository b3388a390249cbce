/*
 * Inside of a model, shared by model.c (the parameter block) and gpt2.c (the architecture).
 *
 * A model owns two blocks on its device: the parameters (weights; with training also gradients and both
 * moments) and the activations, planned once for `batch` sequences of context_length.
 *
 * What a training step is told lies at the start of the activations: the update's numbers, tokens, targets.
 * The host keeps the same block (inbox), so that one copy brings all of it.
 */
#ifndef TLAW_GPT2_H
#define TLAW_GPT2_H

#include "model.h"

/* A parameter where it lies; w is NULL for a bias that the specification leaves out, dw without training. */
struct tensor {
    real *w, *dw;
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

struct activations {
    struct update *update;
    int32_t *tokens, *targets;
    real *losses, *logits;
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
    struct activations activations;
    void *activation_memory;
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
/* Plans and allocates the activations and the inbox. 0, or -1 when they do not fit; *bytes: their size. */
int gpt2_plan(struct model *model, size_t *bytes);
/*
 * Forward and backward of what lies in the activations' tokens and targets: operations only.  Losses in
 * activations, gradients += of scale * their sum.
 */
void gpt2_backward(struct model *model, int B, int T, double scale);

#endif
