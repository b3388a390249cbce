/*
 * The frozen corpus as one file: written once by a freeze, mapped read-only by every run, named by its
 * sha256.
 *
 * Layout, little-endian: struct corpus_header | tokenizer definition | struct corpus_document[documents] |
 * uint16 tokens.  Documents are ordered by (part, digest), so the file does not depend on the order in which
 * rows were read.  Every document ends with the end-of-text token, which is counted in its tokens.
 */
#ifndef TLAW_CORPUS_FILE_H
#define TLAW_CORPUS_FILE_H

#include <stddef.h>
#include <stdint.h>

enum corpus_part { PART_TRAIN, PART_VALIDATION, PART_TEST, PART_COUNT };

struct corpus_header {
    char magic[8]; /* "tlawtok1" */
    int64_t file_bytes;
    int64_t vocab_size;
    int64_t end_of_text; /* token id */
    int64_t tokenizer_offset, tokenizer_bytes;
    int64_t document_offset; /* of the index, in bytes */
    int64_t documents[PART_COUNT], tokens[PART_COUNT], bytes[PART_COUNT];
    int64_t token_offset; /* of the first token, in bytes */
};

struct corpus_document {
    int64_t token_start; /* index into the tokens */
    uint32_t tokens;     /* end-of-text included */
    uint32_t bytes;      /* of the text, end-of-text not counted */
    uint8_t digest[16];  /* first half of the text's SHA-256 */
};

struct corpus {
    const struct corpus_header *header;
    const void *tokenizer;
    const struct corpus_document *documents[PART_COUNT]; /* first document of each part */
    const uint16_t *tokens;
    size_t mapped;
};

#define CORPUS_MAGIC "tlawtok1"

/*
 * Maps and checks a token file: every offset, count and sum, every document and token, the tokenizer.  0, or
 * -1 and a message.  The descriptor may be closed afterwards; the file must not be changed while it is open
 * here.
 */
int corpus_open(struct corpus *corpus, int fd, char *message, size_t message_size);
/* Unmaps; a struct corpus of zeros is allowed. */
void corpus_close(struct corpus *corpus);

/*
 * The training subset: the first n tokens of the training documents in the order of a keyed hash of (digest,
 * subset_seed); thus the first tokens of the subset of any larger n.  Fills tokens[n]; *bytes, *documents:
 * how much text that is (of a cut document its share of the bytes, and one document).  0, or -1 and a
 * message.
 */
int corpus_subset(const struct corpus *corpus, int64_t subset_seed, int64_t n, uint16_t *tokens,
                  int64_t *bytes, int64_t *documents, char *message, size_t message_size);

#endif
