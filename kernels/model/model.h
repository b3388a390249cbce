/*
 * A decoder-only transformer as a sequence of backend operations, forward and backward.
 *
 * gpt2: learned positions, pre-norm, tanh GELU, tied embeddings, optional bias.  Weights are stored in one
 * block, named and shaped as Hugging Face names them (c_attn.weight is [in, out]), so that export is a copy.
 */
#ifndef TLAW_MODEL_H
#define TLAW_MODEL_H

#include "../backend/backend.h"
#include "../engine/spec.h"

struct parameter {
    char name[64]; /* "h.0.attn.c_attn.weight" */
    int dims, shape[2];
    size_t offset, size; /* in elements of the parameter block */
    bool decay;          /* matrices only */
    double init_std;     /* 0 with init_value */
    double init_value;
};

struct model;

/* The parameters of a specification in the order of the block; malloc'd. */
struct parameter *model_parameters(const struct tlaw_spec *spec, int *count);

/*
 * training: with gradients and optimiser state, else with a key-value cache.  batch: sequences at once.  NULL
 * and a message on failure.
 */
struct model *model_create(const struct tlaw_spec *spec, const struct backend *backend, struct device *device,
                           int batch, bool training, char *message, size_t message_size);
void model_free(struct model *);
/*
 * Host memory of that size for whoever works with the model, until the next call; NULL when short.  It is the
 * model's, so that nothing is lost where an operation that finds no memory does not return.
 */
void *model_host_memory(struct model *, size_t bytes);
size_t model_size(const struct model *); /* parameters */
void model_init(struct model *);         /* random weights of spec.seed */
void model_get(struct model *, real *parameters);
void model_set(struct model *, const real *parameters);
void model_get_gradients(struct model *, real *gradients);
void model_get_moments(struct model *, real *m, real *v);
void model_set_moments(struct model *, const real *m, const real *v);

/* tokens, targets: [B, T], T <= context_length; losses [B*T] (target -1: 0). */
void model_forward(struct model *, const int32_t *tokens, const int32_t *targets, int B, int T, real *losses);
/* Forward and backward; gradients += of scale * sum(losses), where scale is not 0. */
void model_backward(struct model *, const int32_t *tokens, const int32_t *targets, int B, int T, double scale,
                    real *losses);
void model_zero_gradients(struct model *);
/* Global norm, clip, AdamW; returns the norm before clipping.  When that is not finite nothing is changed. */
double model_update(struct model *, int64_t step, double learning_rate);

struct step_result {
    double loss;      /* mean over the batch, nats per token */
    double grad_norm; /* before clipping; NaN when the loss is not finite */
    double learning_rate;
    bool diverged; /* loss or norm is not finite: weights and moments are as they were */
};

/*
 * A whole training step of spec.batch_size sequences, at the same bits as the calls above and on a GPU one
 * launch a micro-batch: begin, add batch_size / batch micro-batches of [batch, context_length], end.  Only
 * end waits for the device.  step counts from 1.  The next step may be begun and added before this one ends
 * (two are under way then, and end in their order), so that a GPU need not wait for the host; of a step that
 * diverged, the one that follows so is spoilt.
 */
void model_step_begin(struct model *, int64_t step, double learning_rate);
void model_step_add(struct model *, const int32_t *tokens, const int32_t *targets);
struct step_result model_step_end(struct model *);
/* hidden[B*T*C]: residual stream after `layer` blocks (0: embeddings), n_layer + 1: after the final norm. */
void model_hidden(struct model *, const int32_t *tokens, int B, int T, int layer, real *hidden);
/*
 * One token at `position` (all before it have been decoded) with the key-value cache; logits[V] of the next.
 * Only for a model created without training.
 */
void model_decode(struct model *, int32_t token, int position, real *logits);

#endif
