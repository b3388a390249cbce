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

#define TOKENIZER_BYTES_VOCAB 257
#define TOKENIZER_MIN_BPE     512
#define TOKENIZER_MAX_VOCAB   65535
#define TOKENIZER_MAX_TOKEN   128 /* bytes of a token */

/*
 * The stored definition: so many bytes that name its form, then the merges, two uint16 each (none of bytes).
 * Exporting reads it too (engine/wire.h).
 */
#define TOKENIZER_NAME_SIZE 8
/* From its stored definition (the bytes tokenizer_save wrote); NULL and a message when malformed. */
struct tokenizer *tokenizer_load(const void *definition, size_t size, char *message, size_t message_size);
/* NULL when memory is short. */
struct tokenizer *tokenizer_bytes(void);
/*
 * Merge i joins the tokens merges[i][0] and [1], each below 256 + i, to token 256 + i.  NULL and a message
 * where a merge names a token that is not there yet, comes twice or makes a token longer than
 * TOKENIZER_MAX_TOKEN bytes.
 */
struct tokenizer *tokenizer_bpe(const uint16_t (*merges)[2], size_t n, char *message, size_t message_size);
void tokenizer_free(struct tokenizer *);
/* Writes the definition to a malloc'd block; NULL when memory is short. */
void *tokenizer_save(const struct tokenizer *, size_t *size);
int tokenizer_vocab_size(const struct tokenizer *);
int tokenizer_end_of_text(const struct tokenizer *);
/* Encodes; out holds at least size tokens.  Returns the number written (end-of-text not added). */
size_t tokenizer_encode(struct tokenizer *, const void *text, size_t size, uint16_t *out);
/*
 * Encodes a window of a longer text: as far as more text cannot change it, or all of it where it is the last.
 * *used: bytes encoded; at least size - PRETOKEN_MAX - PRETOKEN_LOOKAHEAD.
 */
size_t tokenizer_encode_window(struct tokenizer *, const void *text, size_t size, int last, uint16_t *out,
                               size_t *used);
/* The bytes of one token (end-of-text: none). */
const void *tokenizer_token(const struct tokenizer *, int token, size_t *size);

#endif
