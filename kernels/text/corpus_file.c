/* See corpus_file.h.  Nothing in a file is used before it was checked. */
#include "corpus_file.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "../model/rng.h"
#include "radix_sort.h"
#include "tokenizer.h"

_Static_assert(sizeof(struct corpus_header) == 136, "the header is what is in the file");
_Static_assert(sizeof(struct corpus_document) == 32, "an index entry is what is in the file");

static int refuse(char *message, size_t message_size, const char *reason)
{
    snprintf(message, message_size, "malformed token file: %s", reason);
    return -1;
}

/* Whether count items of size bytes at an offset lie within the file. */
static int within(int64_t file_bytes, int64_t offset, int64_t count, int64_t size)
{
    return offset >= 0 && count >= 0 && offset <= file_bytes && count <= (file_bytes - offset) / size;
}

/* The reason why a header does not describe a file of file_bytes, or NULL. */
static const char *check_header(const struct corpus_header *h, int64_t file_bytes)
{
    int64_t documents = 0, tokens = 0;

    if (memcmp(h->magic, CORPUS_MAGIC, sizeof h->magic))
        return "its magic is not " CORPUS_MAGIC;
    if (h->file_bytes != file_bytes)
        return "its length is not the one in its header";
    if (h->vocab_size < TOKENIZER_BYTES_VOCAB || h->vocab_size > TOKENIZER_MAX_VOCAB)
        return "the vocabulary size is out of range";
    if (h->end_of_text != h->vocab_size - 1)
        return "end-of-text is not the last token";
    if (h->tokenizer_offset != (int64_t) sizeof *h ||
        !within(file_bytes, h->tokenizer_offset, h->tokenizer_bytes, 1))
        return "the tokenizer lies outside";
    for (int part = 0; part < PART_COUNT; part++) {
        if (!within(file_bytes, 0, h->documents[part], sizeof(struct corpus_document)) ||
            !within(file_bytes, 0, h->tokens[part], sizeof(uint16_t)) || h->bytes[part] < 0)
            return "a count is out of range";
        documents += h->documents[part];
        tokens += h->tokens[part];
    }
    if (h->document_offset % 8 || h->document_offset < h->tokenizer_offset + h->tokenizer_bytes ||
        !within(file_bytes, h->document_offset, documents, sizeof(struct corpus_document)))
        return "the index lies outside";
    if (h->token_offset != h->document_offset + documents * (int64_t) sizeof(struct corpus_document) ||
        file_bytes != h->token_offset + tokens * (int64_t) sizeof(uint16_t))
        return "the tokens do not fill the rest of the file";
    return NULL;
}

/* The reason why a document is malformed, or NULL: its tokens are below end-of-text, but for the last one. */
static const char *check_tokens(const uint16_t *tokens, uint32_t n, uint16_t end_of_text)
{
    unsigned wrong = 0;

    for (uint32_t i = 0; i + 1 < n; i++)
        wrong |= tokens[i] >= end_of_text;
    if (wrong)
        return "a token is outside the vocabulary";
    return tokens[n - 1] == end_of_text ? NULL : "a document does not end with end-of-text";
}

/* The reason why the documents of a part are malformed, or NULL.  *start: of the first token; then past the
 * last. */
static const char *check_part(const struct corpus *corpus, int part, int64_t *start)
{
    const struct corpus_header *h = corpus->header;
    const struct corpus_document *documents = corpus->documents[part];
    int64_t end = *start + h->tokens[part], bytes = 0;

    for (int64_t i = 0; i < h->documents[part]; i++) {
        const struct corpus_document *document = &documents[i];
        const char *reason;

        if (document->token_start != *start || document->tokens < 1 || document->tokens > end - *start)
            return "the documents are not contiguous";
        if (i > 0 && memcmp(documents[i - 1].digest, document->digest, sizeof document->digest) > 0)
            return "the documents are not in the order of their digests";
        reason = check_tokens(corpus->tokens + *start, document->tokens, (uint16_t) h->end_of_text);
        if (reason)
            return reason;
        *start += document->tokens;
        bytes += document->bytes;
    }
    if (*start != end || bytes != h->bytes[part])
        return "the documents of a part do not add up to its tokens or bytes";
    return NULL;
}

static const char *check_documents(struct corpus *corpus)
{
    const struct corpus_header *h = corpus->header;
    const struct corpus_document *documents = (const void *) ((const char *) h + h->document_offset);
    int64_t start = 0;

    for (int part = 0; part < PART_COUNT; part++) {
        const char *reason;

        corpus->documents[part] = documents;
        documents += h->documents[part];
        if ((reason = check_part(corpus, part, &start)))
            return reason;
    }
    return NULL;
}

static int check_tokenizer(const struct corpus *corpus, char *message, size_t message_size)
{
    const struct corpus_header *h = corpus->header;
    struct tokenizer *t =
        tokenizer_load(corpus->tokenizer, (size_t) h->tokenizer_bytes, message, message_size);
    int64_t vocab_size;

    if (!t)
        return -1;
    vocab_size = tokenizer_vocab_size(t);
    tokenizer_free(t);
    return vocab_size == h->vocab_size
               ? 0
               : refuse(message, message_size, "its tokenizer has another vocabulary size");
}

int corpus_open(struct corpus *corpus, int fd, char *message, size_t message_size)
{
    struct stat status;
    const char *reason;
    void *map;

    memset(corpus, 0, sizeof *corpus);
    if (fstat(fd, &status)) {
        snprintf(message, message_size, "cannot read the token file: %s", strerror(errno));
        return -1;
    }
    if (status.st_size < (off_t) sizeof *corpus->header)
        return refuse(message, message_size, "it is shorter than a header");
    map = mmap(NULL, (size_t) status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) {
        snprintf(message, message_size, "cannot map the token file: %s", strerror(errno));
        return -1;
    }
    corpus->header = map;
    corpus->mapped = (size_t) status.st_size;
    if (!(reason = check_header(corpus->header, status.st_size))) {
        corpus->tokenizer = (const char *) map + corpus->header->tokenizer_offset;
        corpus->tokens = (const void *) ((const char *) map + corpus->header->token_offset);
        reason = check_documents(corpus);
    }
    if (reason)
        refuse(message, message_size, reason);
    if (reason || check_tokenizer(corpus, message, message_size)) {
        corpus_close(corpus);
        return -1;
    }
    return 0;
}

void corpus_close(struct corpus *corpus)
{
    if (corpus->header)
        munmap((void *) corpus->header, corpus->mapped);
    memset(corpus, 0, sizeof *corpus);
}

/* `key` comes first, big-endian, for radix_sort; the document's number makes the order of equal keys
 * definite. */
struct ordered_document {
    uint8_t key[8];
    uint8_t document[8];
};

static void put_big_endian(uint8_t out[8], uint64_t value)
{
    for (int b = 0; b < 8; b++)
        out[b] = (uint8_t) (value >> (56 - 8 * b));
}

static struct ordered_document *subset_order(const struct corpus *corpus, int64_t subset_seed)
{
    size_t n = (size_t) corpus->header->documents[PART_TRAIN];
    struct ordered_document *order = malloc((n + 1) * sizeof *order);

    if (!order)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        uint64_t digest[2];
        uint32_t bits[4];

        memcpy(digest, corpus->documents[PART_TRAIN][i].digest, sizeof digest);
        rng_block((uint64_t) subset_seed, RNG_SUBSET, digest[0], digest[1] >> 8, bits);
        put_big_endian(order[i].key, (uint64_t) bits[1] << 32 | bits[0]);
        put_big_endian(order[i].document, i);
    }
    radix_sort(order, n, sizeof *order, sizeof *order, NULL, NULL);
    return order;
}

int corpus_subset(const struct corpus *corpus, int64_t subset_seed, int64_t n, uint16_t *tokens,
                  int64_t *bytes, int64_t *documents, char *message, size_t message_size)
{
    struct ordered_document *order;

    *bytes = *documents = 0;
    if (n < 1 || n > corpus->header->tokens[PART_TRAIN]) {
        snprintf(message, message_size,
                 "train_tokens is %" PRId64 "; the corpus has %" PRId64 " training tokens", n,
                 corpus->header->tokens[PART_TRAIN]);
        return -1;
    }
    if (!(order = subset_order(corpus, subset_seed))) {
        snprintf(message, message_size, "out of memory for the order of %" PRId64 " training documents",
                 corpus->header->documents[PART_TRAIN]);
        return -1;
    }
    for (int64_t filled = 0; filled < n; ++*documents) {
        uint64_t index = 0;
        const struct corpus_document *document;
        int64_t used;

        for (int b = 0; b < 8; b++)
            index = index << 8 | order[*documents].document[b];
        document = &corpus->documents[PART_TRAIN][index];
        used = document->tokens < n - filled ? document->tokens : n - filled;
        memcpy(tokens + filled, corpus->tokens + document->token_start, (size_t) used * sizeof *tokens);
        filled += used;
        *bytes += (int64_t) (((__int128) document->bytes * used + document->tokens / 2) / document->tokens);
    }
    free(order);
    return 0;
}
