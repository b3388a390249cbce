/*
 * A training run as a pure function of (corpus, specification): batches, schedule, steps, evaluation, state.
 * The engine drives it and ships what it returns; it does no input or output of its own.
 */
#ifndef TLAW_TRAINER_H
#define TLAW_TRAINER_H

#include "model.h"
#include "../text/corpus_file.h"

struct trainer;

struct document_loss { /* the wire's DOCUMENT_LOSSES record */
    int64_t document, tokens, bytes;
    double loss_sum;
};

struct evaluation {
    double loss, loss_se; /* nats per token; standard error over documents (ratio estimator) */
    double bits_per_byte, bits_per_byte_se;
    int64_t tokens, bytes, documents;
};

struct trainer *trainer_create(const struct tlaw_spec *spec, const struct corpus *corpus,
                               const struct backend *backend, struct device *device, char *message,
                               size_t message_size);
void trainer_free(struct trainer *);
struct model *trainer_model(struct trainer *);
int64_t trainer_step_number(const struct trainer *); /* steps done */
void trainer_subset(const struct trainer *, int64_t *bytes, int64_t *documents);
/* One step.  When it diverged, weights, moments and the step number are what they were before. */
struct step_result trainer_step(struct trainer *);
/*
 * The same in two halves: begin gives the device its work, end waits for it and counts the step.  A second
 * step may begin before the first ends, if nothing is asked of the trainer between them; where the first
 * diverged the trainer is of no use then.
 */
void trainer_begin_step(struct trainer *);
struct step_result trainer_end_step(struct trainer *);
/* Whether the specification evaluates after `step` steps (0 and the last always). */
bool trainer_evaluates(const struct tlaw_spec *spec, int64_t step);
/*
 * Of the step that follows `step` done ones.  Warm-up reaches learning_rate at its last step; the decay would
 * reach min_learning_rate at the step after the last, so that no step is wasted on a rate of zero.
 */
double trainer_learning_rate(const struct tlaw_spec *spec, int64_t step);

/*
 * Mean validation loss over the fixed windows; keeps a copy of the weights when it is the lowest so far.
 * poll(arg) is called between batches; non-zero stops the evaluation (the result is then NaN).
 */
double trainer_validate(struct trainer *, int (*poll)(void *), void *arg);
int64_t trainer_best_step(const struct trainer *);
void trainer_use_best(struct trainer *); /* puts the kept weights into the model */

/*
 * Scores documents in fixed windows of context_length over their concatenation, starting after an
 * end-of-text. Documents lie one after the other in tokens, from documents[0].token_start on; every token is
 * below vocab_size. batch: windows at once, at most the model's.  records[count] is filled.  0, or -1 when
 * poll asked to stop or memory is short.  Works on any model; used for validation, test and foreign text.
 */
int evaluate_documents(struct model *model, const struct tlaw_spec *spec, int batch, const uint16_t *tokens,
                       const struct corpus_document *documents, int64_t count, int32_t end_of_text,
                       struct document_loss *records, struct evaluation *out, int (*poll)(void *), void *arg);

/*
 * The whole state (weights, moments, kept weights, step) as one malloc'd block (NULL: memory is short), and
 * back. Bits are preserved.  A state of another specification or of the wrong size is refused, and nothing
 * changes.  The memory is aligned as malloc's.
 */
void *trainer_save(struct trainer *, size_t *size);
int trainer_load(struct trainer *, const void *state, size_t size, char *message, size_t message_size);

/*
 * The model's weights as a safetensors file (GPT-2's names; absent biases as zeros), malloc'd (NULL: memory
 * is short), and back.  The memory is aligned as malloc's. Import accepts exactly what export writes for the
 * model's specification.
 */
void *model_export(struct model *, size_t *size);
int model_import(struct model *, const void *file, size_t size, char *message, size_t message_size);

#endif
