/*
 * Freezing: documents come in one by one, are spooled to a file, and become a token file when all are there.
 */
#ifndef TLAW_FREEZE_H
#define TLAW_FREEZE_H

#include "corpus_file.h"
#include "../engine/wire.h"

struct freeze;

/* tokenizer: "bytes", "bpe:N" or "given" (definition of definition_size bytes). NULL and a message on bad input. */
struct freeze *freeze_begin(const char *tokenizer, const void *definition, size_t definition_size,
                            double validation_fraction, double test_fraction, int64_t split_seed, int spool_fd,
                            char *message, size_t message_size);
/* more: the next call continues this document.  Empty documents are counted and skipped. */
int freeze_document(struct freeze *, const void *group, int64_t group_bytes, const void *text, size_t size,
                    int more, char *message, size_t message_size);
/*
 * Splits, trains the tokenizer if asked, encodes, writes the token file to fd and fills the FROZEN message (its
 * sha256 blob points into the struct freeze).  progress(phase, done, total, arg) is called at least every 100 ms of
 * work and stops the freeze when it returns non-zero.
 */
int freeze_finish(struct freeze *, int fd, struct tlaw_frozen_message *frozen,
                  int (*progress)(const char *phase, int64_t done, int64_t total, void *arg), void *arg,
                  char *message, size_t message_size);
void freeze_free(struct freeze *);

#endif
