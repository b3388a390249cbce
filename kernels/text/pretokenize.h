/*
 * GPT-2's pre-tokenisation: the pieces that byte-pair merges never cross.
 *
 *   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * Character classes are PCRE2's.  A byte that is not part of a well-formed UTF-8 character counts as a
 * character that is no letter, number or space.  A piece is cut at PRETOKEN_MAX bytes, which bounds memory on
 * any input.
 */
#ifndef TLAW_PRETOKENIZE_H
#define TLAW_PRETOKENIZE_H

#include <stddef.h>

#define PRETOKEN_MAX 65536
/* A piece that ends this many bytes before the end of a window does not depend on what follows the window. */
#define PRETOKEN_LOOKAHEAD 8

/* Builds the character classes, once a process.  0, or -1 and a message. */
int pretokenize_init(char *message, size_t message_size);
/* The end of the piece that starts at `at` < size. */
size_t pretoken_end(const unsigned char *text, size_t size, size_t at);

#endif
