/* Scoring a stream of tokens; shared by validation (trainer.c) and documents (evaluate.c). */
#ifndef TLAW_EVALUATE_H
#define TLAW_EVALUATE_H

#include "model.h"

/*
 * Scores stream[n] in windows of the specification's context_length, `batch` at once: the input of the first
 * starts with end_of_text, every token is a target once.  sink gets the losses in the order of the stream. 0,
 * or -1 when poll (called before every batch, may be NULL) asked to stop or memory is short.
 */
int evaluate_stream(struct model *model, const struct tlaw_spec *spec, int batch, const uint16_t *stream,
                    int64_t n, int32_t end_of_text, void (*sink)(void *, const real *losses, int count),
                    void *sink_arg, int (*poll)(void *), void *arg);

#endif
