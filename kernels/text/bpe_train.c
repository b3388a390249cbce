/*
 * See bpe_train.h.  Owns the table of counted pieces and the pairs found in them.
 *
 * Tokens live in place in the bytes of the distinct pieces: a token is known by the position of its first
 * byte, and its length stands at its first and at its last position, so that both neighbours are found at
 * once.  All positions where a pair starts are linked in a list, headed in the table of pairs; a merge visits
 * just these.  The heap may hold outdated counts, which are never too small: a pair's count grows only in the
 * merge that makes it.
 */
#include "bpe_train.h"

#include <stdlib.h>
#include <string.h>

#include "pretokenize.h"
#include "tokenizer.h"

#define NONE         UINT32_MAX
#define NO_PAIR      UINT32_MAX /* no token has id 65535 */
#define STEPS_A_TICK 4096
#define PIECE_BITS_0 16
#define MAX_TOKENS   (TOKENIZER_MAX_VOCAB + 1)

struct piece {
    uint32_t start, length, count;
};

struct pair {
    uint32_t key;   /* left << 16 | right, or NO_PAIR */
    uint32_t first; /* position of an occurrence, or NONE */
    uint32_t count;
};

struct bpe_trainer {
    uint8_t *text; /* of the distinct pieces, one after the other */
    size_t text_size;
    struct piece *pieces;
    size_t n_pieces, piece_capacity;
    uint32_t *piece_table; /* 1 + index of a piece */
    int piece_bits;

    uint16_t *token; /* these five by position */
    uint8_t *length;
    uint32_t *piece_of, *next, *previous;
    struct pair *pairs; /* open addressing; pairs that no longer occur stay until the table is rebuilt */
    size_t pairs_used, pairs_size;
    uint64_t *heap; /* count << 32 | ~key: most frequent, then lowest ids, on top */
    size_t heap_size, heap_capacity;
    uint32_t *fresh; /* keys of the pairs that a merge made */
    size_t n_fresh, fresh_capacity;
    uint8_t token_bytes[MAX_TOKENS];

    size_t steps;
    int (*tick)(void *);
    void *tick_arg;
};

static int reserve(void **block, size_t *capacity, size_t needed, size_t size)
{
    size_t larger = 2 * *capacity > 1024 ? 2 * *capacity : 1024;
    void *grown;

    if (needed <= *capacity)
        return 0;
    if (!(grown = realloc(*block, larger * size)))
        return -1;
    *block = grown;
    *capacity = larger;
    return 0;
}

/* ---- counting pieces ---- */

struct bpe_trainer *bpe_trainer_new(void)
{
    struct bpe_trainer *t = calloc(1, sizeof *t);

    if (!t)
        return NULL;
    t->piece_bits = PIECE_BITS_0;
    t->text = malloc(BPE_DISTINCT_BYTES);
    t->piece_table = calloc((size_t) 1 << t->piece_bits, sizeof *t->piece_table);
    if (t->text && t->piece_table)
        return t;
    bpe_trainer_free(t);
    return NULL;
}

void bpe_trainer_free(struct bpe_trainer *t)
{
    if (!t)
        return;
    free(t->text);
    free(t->pieces);
    free(t->piece_table);
    free(t->token);
    free(t->length);
    free(t->piece_of);
    free(t->next);
    free(t->previous);
    free(t->pairs);
    free(t->heap);
    free(t->fresh);
    free(t);
}

static uint64_t hash_piece(const uint8_t *piece, size_t length)
{
    uint64_t hash = length, word;

    for (; length >= 8; piece += 8, length -= 8) {
        memcpy(&word, piece, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 32;
    }
    word = 0;
    memcpy(&word, piece, length);
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

static uint32_t *piece_slot(const struct bpe_trainer *t, const uint8_t *piece, size_t length)
{
    size_t mask = ((size_t) 1 << t->piece_bits) - 1, at = hash_piece(piece, length) & mask;

    for (; t->piece_table[at]; at = (at + 1) & mask) {
        const struct piece *other = &t->pieces[t->piece_table[at] - 1];

        if (other->length == length && !memcmp(t->text + other->start, piece, length))
            break;
    }
    return &t->piece_table[at];
}

static int grow_piece_table(struct bpe_trainer *t)
{
    uint32_t *table = calloc((size_t) 2 << t->piece_bits, sizeof *table);

    if (!table)
        return -1;
    free(t->piece_table);
    t->piece_table = table;
    t->piece_bits++;
    for (size_t i = 0; i < t->n_pieces; i++)
        *piece_slot(t, t->text + t->pieces[i].start, t->pieces[i].length) = (uint32_t) i + 1;
    return 0;
}

static int count_piece(struct bpe_trainer *t, const uint8_t *piece, size_t length)
{
    uint32_t *slot = piece_slot(t, piece, length);

    if (*slot) {
        t->pieces[*slot - 1].count++;
        return 0;
    }
    if (t->text_size + length > BPE_DISTINCT_BYTES)
        return 0;
    if (reserve((void **) &t->pieces, &t->piece_capacity, t->n_pieces + 1, sizeof *t->pieces))
        return -1;
    memcpy(t->text + t->text_size, piece, length);
    t->pieces[t->n_pieces++] = (struct piece){(uint32_t) t->text_size, (uint32_t) length, 1};
    t->text_size += length;
    *slot = (uint32_t) t->n_pieces;
    return t->n_pieces * 2 > (size_t) 1 << t->piece_bits ? grow_piece_table(t) : 0;
}

int64_t bpe_trainer_count(struct bpe_trainer *t, const void *text, size_t size, int last)
{
    size_t at = 0;

    while (at < size) {
        size_t end = pretoken_end(text, size, at);

        if (!last && end + PRETOKEN_LOOKAHEAD > size)
            break;
        if (end - at > 1 && count_piece(t, (const uint8_t *) text + at, end - at))
            return -1;
        at = end;
    }
    return (int64_t) at;
}

/* ---- pairs and where they occur ---- */

static struct pair *pair_slot(const struct bpe_trainer *t, uint32_t key)
{
    size_t mask = t->pairs_size - 1, at = (key * 0x9E3779B97F4A7C15u) >> 32 & mask;

    while (t->pairs[at].key != key && t->pairs[at].key != NO_PAIR)
        at = (at + 1) & mask;
    return &t->pairs[at];
}

/* Rebuilds the table with the pairs that still occur, and room to double their number. */
static int rebuild_pairs(struct bpe_trainer *t)
{
    struct pair *old = t->pairs;
    size_t old_size = t->pairs_size, live = 0, size = 1 << 16;

    for (size_t i = 0; i < old_size; i++)
        live += old[i].key != NO_PAIR && old[i].count > 0;
    while (size < 3 * live)
        size *= 2;
    if (!(t->pairs = malloc(size * sizeof *t->pairs))) {
        t->pairs = old;
        return -1;
    }
    t->pairs_size = size;
    t->pairs_used = live;
    for (size_t i = 0; i < size; i++)
        t->pairs[i] = (struct pair){NO_PAIR, NONE, 0};
    for (size_t i = 0; i < old_size; i++)
        if (old[i].key != NO_PAIR && old[i].count > 0)
            *pair_slot(t, old[i].key) = old[i];
    free(old);
    return 0;
}

static uint32_t right_of(const struct bpe_trainer *t, uint32_t at)
{
    uint32_t right = at + t->length[at];

    return right < t->text_size && t->piece_of[right] == t->piece_of[at] ? right : NONE;
}

static uint32_t left_of(const struct bpe_trainer *t, uint32_t at)
{
    return at > 0 && t->piece_of[at - 1] == t->piece_of[at] ? at - t->length[at - 1] : NONE;
}

static uint32_t pair_key(const struct bpe_trainer *t, uint32_t at)
{
    return (uint32_t) t->token[at] << 16 | t->token[right_of(t, at)];
}

static void remove_occurrence(struct bpe_trainer *t, uint32_t at)
{
    struct pair *pair = pair_slot(t, pair_key(t, at));

    pair->count -= t->pieces[t->piece_of[at]].count;
    if (t->previous[at] == NONE)
        pair->first = t->next[at];
    else
        t->next[t->previous[at]] = t->next[at];
    if (t->next[at] != NONE)
        t->previous[t->next[at]] = t->previous[at];
}

static int add_occurrence(struct bpe_trainer *t, uint32_t at)
{
    uint32_t key = pair_key(t, at);
    struct pair *pair;

    if (2 * t->pairs_used >= t->pairs_size && rebuild_pairs(t))
        return -1;
    pair = pair_slot(t, key);
    if (pair->key == NO_PAIR) {
        pair->key = key;
        t->pairs_used++;
    }
    if (pair->count == 0) {
        if (reserve((void **) &t->fresh, &t->fresh_capacity, t->n_fresh + 1, sizeof *t->fresh))
            return -1;
        t->fresh[t->n_fresh++] = key;
    }
    pair->count += t->pieces[t->piece_of[at]].count;
    t->previous[at] = NONE;
    t->next[at] = pair->first;
    if (pair->first != NONE)
        t->previous[pair->first] = at;
    pair->first = at;
    return 0;
}

/* Every byte becomes a token, every two neighbours an occurrence. */
static int lay_out_tokens(struct bpe_trainer *t)
{
    size_t n = t->text_size + 1;

    t->token = malloc(n * sizeof *t->token);
    t->length = malloc(n * sizeof *t->length);
    t->piece_of = malloc(n * sizeof *t->piece_of);
    t->next = malloc(n * sizeof *t->next);
    t->previous = malloc(n * sizeof *t->previous);
    if (!t->token || !t->length || !t->piece_of || !t->next || !t->previous || rebuild_pairs(t))
        return -1;
    for (size_t p = 0; p < t->n_pieces; p++)
        for (size_t i = t->pieces[p].start; i < t->pieces[p].start + t->pieces[p].length; i++) {
            t->token[i] = t->text[i];
            t->length[i] = 1;
            t->piece_of[i] = (uint32_t) p;
        }
    for (int b = 0; b < 256; b++)
        t->token_bytes[b] = 1;
    for (uint32_t i = 0; i < t->text_size; i++)
        if (right_of(t, i) != NONE && add_occurrence(t, i))
            return -1;
    return 0;
}

/* ---- merging ---- */

static int heap_push(struct bpe_trainer *t, uint64_t entry)
{
    size_t at = t->heap_size;

    if (reserve((void **) &t->heap, &t->heap_capacity, t->heap_size + 1, sizeof *t->heap))
        return -1;
    t->heap_size++;
    for (; at > 0 && t->heap[(at - 1) / 2] < entry; at = (at - 1) / 2)
        t->heap[at] = t->heap[(at - 1) / 2];
    t->heap[at] = entry;
    return 0;
}

static uint64_t heap_pop(struct bpe_trainer *t)
{
    uint64_t top = t->heap[0], entry = t->heap[--t->heap_size];
    size_t at = 0, child;

    while ((child = 2 * at + 1) < t->heap_size) {
        if (child + 1 < t->heap_size && t->heap[child + 1] > t->heap[child])
            child++;
        if (t->heap[child] <= entry)
            break;
        t->heap[at] = t->heap[child];
        at = child;
    }
    t->heap[at] = entry;
    return top;
}

/* Puts a pair on the heap if it occurs twice and its token is not too long. */
static int propose(struct bpe_trainer *t, uint32_t key)
{
    uint32_t count = pair_slot(t, key)->count;

    if (count < 2 || t->token_bytes[key >> 16] + t->token_bytes[key & 0xFFFF] > TOKENIZER_MAX_TOKEN)
        return 0;
    return heap_push(t, (uint64_t) count << 32 | (uint32_t) ~key);
}

static int propose_fresh(struct bpe_trainer *t)
{
    for (size_t i = 0; i < t->n_fresh; i++)
        if (propose(t, t->fresh[i]))
            return -1;
    t->n_fresh = 0;
    return 0;
}

/* The token at a position and its right neighbour become one. */
static int merge_at(struct bpe_trainer *t, uint32_t at, uint16_t token)
{
    uint32_t left = left_of(t, at), right = right_of(t, at), after = right_of(t, right);
    uint8_t length = (uint8_t) (t->length[at] + t->length[right]);

    if (left != NONE)
        remove_occurrence(t, left);
    remove_occurrence(t, at);
    if (after != NONE)
        remove_occurrence(t, right);
    t->token[at] = token;
    t->length[at] = t->length[at + length - 1] = length;
    if ((left != NONE && add_occurrence(t, left)) || (after != NONE && add_occurrence(t, at)))
        return -1;
    if (++t->steps % STEPS_A_TICK == 0)
        return t->tick(t->tick_arg);
    return 0;
}

/*
 * Merges every occurrence.  Where a token is paired with itself, occurrences overlap and a run of it is
 * merged from its left end, as encoding does it.
 */
static int merge_pair(struct bpe_trainer *t, uint32_t key, uint16_t token)
{
    uint16_t left = (uint16_t) (key >> 16), right = (uint16_t) key;
    uint32_t at, other;

    while ((at = pair_slot(t, key)->first) != NONE) {
        if (left != right) {
            if (merge_at(t, at, token))
                return -1;
            continue;
        }
        while ((other = left_of(t, at)) != NONE && t->token[other] == left)
            at = other;
        while (at != NONE && t->token[at] == left && (other = right_of(t, at)) != NONE &&
               t->token[other] == right) {
            if (merge_at(t, at, token))
                return -1;
            at = right_of(t, at);
        }
    }
    return 0;
}

int64_t bpe_trainer_run(struct bpe_trainer *t, size_t n, uint16_t (*merges)[2], int (*tick)(void *),
                        void *arg)
{
    size_t found = 0;

    t->tick = tick;
    t->tick_arg = arg;
    if (lay_out_tokens(t) || propose_fresh(t))
        return -1;
    while (found < n && t->heap_size > 0) {
        uint64_t top = heap_pop(t);
        uint32_t key = ~(uint32_t) top, count = pair_slot(t, key)->count;
        uint16_t token = (uint16_t) (256 + found);

        if (count != top >> 32) {
            if (propose(t, key))
                return -1;
            continue;
        }
        merges[found][0] = (uint16_t) (key >> 16);
        merges[found][1] = (uint16_t) key;
        found++;
        t->token_bytes[token] = (uint8_t) (t->token_bytes[key >> 16] + t->token_bytes[key & 0xFFFF]);
        if (merge_pair(t, key, token) || propose_fresh(t))
            return -1;
    }
    return (int64_t) found;
}
