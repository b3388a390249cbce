/*
 * Which document goes to which part of a corpus.
 *
 * A group is the documents that share a group key; a document without a key is in the group of its content.
 * Groups that hold an equal document are one group.  Parts are made of whole groups, taken in the order of a
 * keyed hash, so they do not depend on the order of the rows.  32 bytes a document and 24 a group are kept in
 * memory.
 */
#ifndef TLAW_SPLIT_H
#define TLAW_SPLIT_H

#include "corpus_file.h"

#define PART_TOKENIZER                                                                                       \
    PART_COUNT /* training groups that the tokenizer is trained on and that are left out                     \
                */
#define SPLIT_PARTS (PART_COUNT + 1)

/* `digest` comes first: documents are sorted by it. */
struct split_document {
    uint8_t digest[16];
    int64_t spool_offset;
    uint32_t bytes;
    uint32_t group; /* index into groups; SPLIT_NO_GROUP until split_groups */
};
#define SPLIT_NO_GROUP UINT32_MAX

struct split_group {
    uint64_t key; /* 64 bits of the digest of the group key, or of the content */
    int64_t bytes;
    uint32_t parent; /* union-find; a root is its own parent */
    uint32_t part;
};

struct split {
    struct split_document *documents;
    struct split_group *groups;
    uint32_t *table; /* open addressing: group keys to 1 + index into groups */
    size_t n_documents, document_capacity, n_groups, group_capacity, table_size;
    size_t n_roots;
    int64_t bytes;
};

/* group_key: NULL where the document has none.  0, or -1 when memory is short. */
int split_add(struct split *split, const uint8_t digest[16], int64_t spool_offset, uint32_t bytes,
              const uint64_t *group_key);
/*
 * Sorts the documents by digest and joins groups; every document's group is then a root, n_roots their
 * number. 0, or -1 when memory is short or tick returned non-zero.
 */
int split_groups(struct split *split, int (*tick)(void *), void *arg);
/*
 * Gives every root its part: validation takes groups until its share of the bytes reaches the fraction, then
 * test, the rest is train; each has at least one group, train at least train_groups.  A group above the
 * larger of these shares is trained on, as long as there are others.  Needs n_roots >= train_groups + 2.
 */
int split_parts(struct split *split, double validation_fraction, double test_fraction, int64_t seed,
                size_t train_groups, int (*tick)(void *), void *arg);
/*
 * Moves training groups to PART_TOKENIZER until their bytes reach `target` or one training group is left.
 * Returns their bytes, or -1 as split_groups.  Larger targets contain smaller ones.
 */
int64_t split_tokenizer(struct split *split, int64_t target, int64_t seed, int (*tick)(void *), void *arg);
/* Bytes of a part. */
int64_t split_part_bytes(const struct split *split, int part);
int split_part(const struct split *split, size_t document);
void split_free(struct split *split);

#endif
