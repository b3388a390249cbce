/* See split.h.  Orders: rng_block(split_seed, RNG_SPLIT or RNG_TOKENIZER, the group's key). */
#include "split.h"

#include <stdlib.h>
#include <string.h>

#include "../model/rng.h"
#include "radix_sort.h"

#define STEPS_A_TICK 4096

/* `key` comes first, big-endian, for radix_sort. */
struct ordered_group {
    uint8_t key[8];
    uint32_t group, unused;
};

static int grow(void **block, size_t *capacity, size_t needed, size_t size)
{
    size_t larger = *capacity ? *capacity + *capacity / 2 : 1024;
    void *grown;

    if (needed <= *capacity)
        return 0;
    if (!(grown = realloc(*block, larger * size)))
        return -1;
    *block = grown;
    *capacity = larger;
    return 0;
}

static int new_group(struct split *split, uint64_t key, uint32_t *group)
{
    if (split->n_groups >= SPLIT_NO_GROUP - 1 ||
        grow((void **) &split->groups, &split->group_capacity, split->n_groups + 1, sizeof *split->groups))
        return -1;
    *group = (uint32_t) split->n_groups++;
    split->groups[*group] = (struct split_group){key, 0, *group, PART_TRAIN};
    return 0;
}

/* The slot of a key: its own, or the empty one where it belongs. */
static uint32_t *table_slot(const struct split *split, uint64_t key)
{
    size_t mask = split->table_size - 1, at = key & mask;

    while (split->table[at] && split->groups[split->table[at] - 1].key != key)
        at = (at + 1) & mask;
    return &split->table[at];
}

static int table_grow(struct split *split)
{
    size_t size = split->table_size ? 2 * split->table_size : 1024;
    uint32_t *table = calloc(size, sizeof *table);

    if (!table)
        return -1;
    free(split->table);
    split->table = table;
    split->table_size = size;
    for (size_t i = 0; i < split->n_groups; i++)
        *table_slot(split, split->groups[i].key) = (uint32_t) i + 1;
    return 0;
}

static int find_key(struct split *split, uint64_t key, uint32_t *group)
{
    uint32_t *slot;

    if (2 * split->n_groups >= split->table_size && table_grow(split))
        return -1;
    slot = table_slot(split, key);
    if (!*slot) {
        if (new_group(split, key, group))
            return -1;
        *slot = *group + 1;
    }
    *group = *slot - 1;
    return 0;
}

int split_add(struct split *split, const uint8_t digest[16], int64_t spool_offset, uint32_t bytes,
              const uint64_t *group_key)
{
    uint32_t group = SPLIT_NO_GROUP;
    struct split_document *document;

    if ((group_key && find_key(split, *group_key, &group)) ||
        grow((void **) &split->documents, &split->document_capacity, split->n_documents + 1,
             sizeof *split->documents))
        return -1;
    document = &split->documents[split->n_documents++];
    memcpy(document->digest, digest, sizeof document->digest);
    document->spool_offset = spool_offset;
    document->bytes = bytes;
    document->group = group;
    split->bytes += bytes;
    return 0;
}

static uint32_t find_root(struct split *split, uint32_t group)
{
    struct split_group *groups = split->groups;

    while (groups[group].parent != group)
        group = groups[group].parent = groups[groups[group].parent].parent;
    return group;
}

/* The smaller key is the root, so that the joined group's key does not depend on the order of the rows. */
static uint32_t unite(struct split *split, uint32_t a, uint32_t b)
{
    a = find_root(split, a);
    b = find_root(split, b);
    if (split->groups[b].key < split->groups[a].key) {
        uint32_t swapped = a;

        a = b;
        b = swapped;
    }
    split->groups[b].parent = a;
    return a;
}

/* The documents [from, to) have one content: they get one group. */
static int join_equal(struct split *split, size_t from, size_t to)
{
    uint32_t root = SPLIT_NO_GROUP;

    for (size_t i = from; i < to; i++) {
        uint32_t group = split->documents[i].group;

        if (group != SPLIT_NO_GROUP)
            root = root == SPLIT_NO_GROUP ? group : unite(split, root, group);
    }
    if (root == SPLIT_NO_GROUP) {
        uint64_t key;

        memcpy(&key, split->documents[from].digest, sizeof key);
        if (new_group(split, key, &root))
            return -1;
    }
    for (size_t i = from; i < to; i++)
        split->documents[i].group = root;
    return 0;
}

int split_groups(struct split *split, int (*tick)(void *), void *arg)
{
    struct split_document *documents = split->documents;
    size_t n = split->n_documents;

    free(split->table);
    split->table = NULL;
    split->table_size = 0;
    if (radix_sort(documents, n, sizeof *documents, sizeof documents->digest, tick, arg))
        return -1;
    for (size_t from = 0, to, runs = 0; from < n; from = to, runs++) {
        for (to = from + 1; to < n && !memcmp(documents[from].digest, documents[to].digest, 16);)
            to++;
        if (join_equal(split, from, to) || (runs % STEPS_A_TICK == 0 && tick(arg)))
            return -1;
    }
    for (size_t i = 0; i < n; i++) {
        if (i % STEPS_A_TICK == 0 && tick(arg))
            return -1;
        documents[i].group = find_root(split, documents[i].group);
        split->groups[documents[i].group].bytes += documents[i].bytes;
    }
    split->n_roots = 0;
    for (size_t i = 0; i < split->n_groups; i++)
        split->n_roots += split->groups[i].parent == i;
    return 0;
}

/* The roots of a part in the order of a keyed hash; *n their number. NULL when out of memory or stopped. */
static struct ordered_group *order_groups(const struct split *split, uint32_t part, int64_t seed,
                                          enum rng_purpose purpose, size_t *n, int (*tick)(void *), void *arg)
{
    struct ordered_group *order = malloc((split->n_roots + 1) * sizeof *order);

    if (!order)
        return NULL;
    *n = 0;
    for (size_t i = 0; i < split->n_groups; i++) {
        uint32_t bits[4];

        if (i % STEPS_A_TICK == 0 && tick(arg))
            goto stopped;
        if (split->groups[i].parent != i || split->groups[i].part != part)
            continue;
        rng_block((uint64_t) seed, purpose, split->groups[i].key, 0, bits);
        for (int b = 0; b < 8; b++)
            order[*n].key[b] = (uint8_t) (bits[b / 4] >> (24 - 8 * (b % 4)));
        order[(*n)++].group = (uint32_t) i;
    }
    if (!radix_sort(order, *n, sizeof *order, sizeof order->key, tick, arg))
        return order;
stopped:
    free(order);
    return NULL;
}

/* Takes groups from order[*at] on, at least one, until their bytes reach the target or *at the end. */
static int64_t take(struct split *split, const struct ordered_group *order, size_t *at, size_t end,
                    uint32_t part, double target)
{
    int64_t bytes = 0;

    do {
        struct split_group *group = &split->groups[order[*at].group];

        group->part = part;
        bytes += group->bytes;
        (*at)++;
    } while ((double) bytes < target && *at < end);
    return bytes;
}

/* Moves groups above a size behind the others, both in the order in which they were. -1: memory is short. */
static int large_last(const struct split *split, struct ordered_group *order, size_t n, double size)
{
    struct ordered_group *large = malloc((n + 1) * sizeof *large);
    size_t kept = 0, moved = 0;

    if (!large)
        return -1;
    for (size_t i = 0; i < n; i++)
        if ((double) split->groups[order[i].group].bytes > size)
            large[moved++] = order[i];
        else
            order[kept++] = order[i];
    memcpy(order + kept, large, moved * sizeof *large);
    free(large);
    return 0;
}

int split_parts(struct split *split, double validation_fraction, double test_fraction, int64_t seed,
                size_t train_groups, int (*tick)(void *), void *arg)
{
    double fraction = validation_fraction > test_fraction ? validation_fraction : test_fraction;
    size_t n, at = 0;
    struct ordered_group *order = order_groups(split, PART_TRAIN, seed, RNG_SPLIT, &n, tick, arg);

    if (!order || large_last(split, order, n, fraction * (double) split->bytes)) {
        free(order);
        return -1;
    }
    take(split, order, &at, n - train_groups - 1, PART_VALIDATION,
         validation_fraction * (double) split->bytes);
    take(split, order, &at, n - train_groups, PART_TEST, test_fraction * (double) split->bytes);
    free(order);
    return 0;
}

int64_t split_tokenizer(struct split *split, int64_t target, int64_t seed, int (*tick)(void *), void *arg)
{
    size_t n, at = 0;
    int64_t bytes;
    struct ordered_group *order;

    for (size_t i = 0; i < split->n_groups; i++)
        if (split->groups[i].part == PART_TOKENIZER)
            split->groups[i].part = PART_TRAIN;
    if (!(order = order_groups(split, PART_TRAIN, seed, RNG_TOKENIZER, &n, tick, arg)))
        return -1;
    bytes = take(split, order, &at, n - 1, PART_TOKENIZER, (double) target);
    free(order);
    return bytes;
}

int64_t split_part_bytes(const struct split *split, int part)
{
    int64_t bytes = 0;

    for (size_t i = 0; i < split->n_groups; i++)
        if (split->groups[i].parent == i && split->groups[i].part == (uint32_t) part)
            bytes += split->groups[i].bytes;
    return bytes;
}

int split_part(const struct split *split, size_t document)
{
    return (int) split->groups[split->documents[document].group].part;
}

void split_free(struct split *split)
{
    free(split->documents);
    free(split->groups);
    free(split->table);
    memset(split, 0, sizeof *split);
}
