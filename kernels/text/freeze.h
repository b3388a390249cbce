/*
 * Freezing: documents come in one by one, are spooled to a file, and become a token file when all are there.
 * Memory: about 72 bytes a document at the most (32 kept throughout), and a few fixed buffers.
 */
#ifndef TLAW_FREEZE_H
#define TLAW_FREEZE_H

#include "corpus_file.h"
#include "../engine/wire.h"

struct freeze;

/*
 * tokenizer: "bytes", "bpe:N" or "given" (definition of definition_size bytes). NULL and a message on bad
 * input. Fractions are shares of the text's bytes.  spool_fd: an empty file, read and write; it stays the
 * caller's.
 */
struct freeze *freeze_begin(const char *tokenizer, const void *definition, size_t definition_size,
                            double validation_fraction, double test_fraction, int64_t split_seed,
                            int spool_fd, char *message, size_t message_size);
/*
 * One document of a group (group_bytes -1: none, its content is its group).  more: the next call continues
 * this document; its group is then ignored.  Empty documents are counted and skipped.  0, or -1 and a
 * message.
 */
int freeze_document(struct freeze *, const void *group, int64_t group_bytes, const void *text, size_t size,
                    int more, char *message, size_t message_size);
/*
 * Splits, trains the tokenizer if asked, encodes, writes the token file to fd (empty, read and write) and
 * fills the FROZEN message (its sha256 blob points into the struct freeze).  progress(phase, done, total,
 * arg) is called at least every 100 ms of work and stops the freeze when it returns non-zero; phases: "sort",
 * "tokenizer", "encode", "hash".  0, or -1 and a message ("cancelled" when progress stopped it); nothing may
 * follow but freeze_free.
 *
 * bpe:N is trained on whole groups of the training part, about a tenth of its bytes and at most 20 MB, but up
 * to half of them where a tenth has too few pairs for N; those groups are left out of the file.
 */
int freeze_finish(struct freeze *, int fd, struct tlaw_frozen_message *frozen,
                  int (*progress)(const char *phase, int64_t done, int64_t total, void *arg), void *arg,
                  char *message, size_t message_size);
/* NULL is allowed. */
void freeze_free(struct freeze *);

#endif
