/*
 * Tokenizers: lossless maps between byte strings and token ids below 65,536.
 * "bytes": ids 0..255 are the bytes, 256 is end-of-text.  "bpe": byte-level byte-pair encoding with GPT-2's
 * pre-tokenisation; ids 0..255 bytes, then merges in order of training, end-of-text last.
 */
#ifndef TLAW_TOKENIZER_H
#define TLAW_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* From its stored definition (the bytes tokenizer_save wrote); NULL and a message when malformed. */
struct tokenizer *tokenizer_load(const void *definition, size_t size, char *message, size_t message_size);
struct tokenizer *tokenizer_bytes(void);
void tokenizer_free(struct tokenizer *);
/* Writes the definition to a malloc'd block. */
void *tokenizer_save(const struct tokenizer *, size_t *size);
int tokenizer_vocab_size(const struct tokenizer *);
int tokenizer_end_of_text(const struct tokenizer *);
/* Encodes; out holds at least size tokens.  Returns the number written (end-of-text not added). */
size_t tokenizer_encode(struct tokenizer *, const void *text, size_t size, uint16_t *out);
/* The bytes of one token (end-of-text: none). */
const void *tokenizer_token(const struct tokenizer *, int token, size_t *size);

#endif
