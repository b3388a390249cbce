/*
 * See tokenizer.h.  Owns the stored form, the table of merges and the encoder.
 *
 * Encoding takes a piece (pretokenize.h) at a time: from the cache of short pieces; else by merging the pair
 * that was trained first, leftmost first, until none is left - a scan for short pieces, a heap for long ones,
 * so that no input takes quadratic time.
 *
 * Stored form, little-endian: 8 bytes "tlawbyte", or 8 bytes "tlaw-bpe" and uint16 pairs, a merge each.
 */
#include "tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pretokenize.h"

#define MAGIC_BYTES "tlawbyte"
#define MAGIC_BPE   "tlaw-bpe"

#define SHORT_PIECE   64 /* bytes; longer pieces are merged with a heap */
#define CACHE_BITS    16
#define CACHED_BYTES  23
#define CACHED_TOKENS 11
#define NO_POSITION   UINT32_MAX
#define DEAD          UINT16_MAX /* the symbol of a node that was merged away; never a token id */

/* Direct-mapped; key[CACHED_BYTES] is the length, so that equal keys are equal pieces. */
struct cached_piece {
    uint8_t key[CACHED_BYTES + 1];
    uint16_t tokens[CACHED_TOKENS];
    uint16_t n;
};

struct merge_slot {
    uint32_t pair;
    uint32_t token; /* 0: empty */
};

struct node {
    uint32_t previous, next;
    uint16_t symbol;
};

struct tokenizer {
    int is_bpe;
    size_t n_merges;
    uint16_t (*merges)[2];
    uint32_t *token_start; /* into token_bytes, of every token and one past the last */
    uint8_t *token_bytes;
    struct merge_slot *table;
    int table_bits;
    struct cached_piece *cache;
    struct node *nodes; /* of a long piece */
    uint64_t *heap;     /* token << 32 | position: the merge trained first, leftmost, on top */
    size_t heap_size;
};

static struct merge_slot *merge_slot(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    uint32_t pair = left << 16 | right, mask = (1u << t->table_bits) - 1;
    uint32_t at = (pair * 0x9E3779B1u) >> (32 - t->table_bits);

    while (t->table[at].token && t->table[at].pair != pair)
        at = (at + 1) & mask;
    return &t->table[at];
}

/* The token that two tokens merge to, or 0. */
static inline uint32_t find_merge(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    return merge_slot(t, left, right)->token;
}

/* ---- making and storing ---- */

static size_t token_length(const struct tokenizer *t, uint32_t token)
{
    return t->token_start[token + 1] - t->token_start[token];
}

/* Spells out tokens 0..255 and the merges; each merge is entered into the table. */
static int spell_tokens(struct tokenizer *t, char *message, size_t message_size)
{
    uint32_t at = 256;

    for (int b = 0; b < 256; b++) {
        t->token_bytes[b] = (uint8_t) b;
        t->token_start[b] = (uint32_t) b;
    }
    t->token_start[256] = at;
    for (size_t i = 0; i < t->n_merges; i++) {
        uint32_t left = t->merges[i][0], right = t->merges[i][1], token = 256 + (uint32_t) i;
        struct merge_slot *slot = merge_slot(t, left, right);
        const char *fault = left >= token || right >= token ? "a token that is not there yet"
                            : slot->token                   ? "a pair that was merged before"
                            : token_length(t, left) + token_length(t, right) > TOKENIZER_MAX_TOKEN
                                ? "a token that is too long"
                                : NULL;

        if (fault) {
            snprintf(message, message_size, "malformed tokenizer: merge %zu, of %u and %u, makes or uses %s",
                     i, left, right, fault);
            return -1;
        }
        slot->pair = left << 16 | right;
        slot->token = token;
        memcpy(t->token_bytes + at, t->token_bytes + t->token_start[left], token_length(t, left));
        at += (uint32_t) token_length(t, left);
        memcpy(t->token_bytes + at, t->token_bytes + t->token_start[right], token_length(t, right));
        at += (uint32_t) token_length(t, right);
        t->token_start[token + 1] = at;
    }
    t->token_start[256 + t->n_merges + 1] = at; /* end-of-text has no bytes */
    return 0;
}

/* Everything but the merges themselves; is_bpe and n_merges are set. */
static int allocate(struct tokenizer *t)
{
    t->merges = malloc((t->n_merges + 1) * sizeof *t->merges);
    t->token_start = malloc((256 + t->n_merges + 2) * sizeof *t->token_start);
    t->token_bytes = malloc(256 + t->n_merges * TOKENIZER_MAX_TOKEN);
    for (t->table_bits = 8; (size_t) 1 << t->table_bits < 4 * t->n_merges;)
        t->table_bits++;
    t->table = calloc((size_t) 1 << t->table_bits, sizeof *t->table);
    if (!t->merges || !t->token_start || !t->token_bytes || !t->table)
        return -1;
    if (!t->is_bpe)
        return 0;
    t->cache = calloc((size_t) 1 << CACHE_BITS, sizeof *t->cache);
    t->nodes = malloc(PRETOKEN_MAX * sizeof *t->nodes);
    t->heap = malloc(2 * PRETOKEN_MAX * sizeof *t->heap);
    return t->cache && t->nodes && t->heap ? 0 : -1;
}

static struct tokenizer *make(int is_bpe, const void *merges, size_t n, char *message, size_t message_size)
{
    struct tokenizer *t = calloc(1, sizeof *t);

    if (t) {
        t->is_bpe = is_bpe;
        t->n_merges = n;
    }
    if (!t || allocate(t)) {
        snprintf(message, message_size, "out of memory for a tokenizer of %zu merges", n);
        tokenizer_free(t);
        return NULL;
    }
    memcpy(t->merges, merges, n * sizeof *t->merges);
    if (spell_tokens(t, message, message_size) || (is_bpe && pretokenize_init(message, message_size))) {
        tokenizer_free(t);
        return NULL;
    }
    return t;
}

struct tokenizer *tokenizer_bytes(void)
{
    char message[256];

    return make(0, "", 0, message, sizeof message);
}

struct tokenizer *tokenizer_bpe(const uint16_t (*merges)[2], size_t n, char *message, size_t message_size)
{
    if (n > TOKENIZER_MAX_VOCAB - TOKENIZER_BYTES_VOCAB) {
        snprintf(message, message_size, "malformed tokenizer: %zu merges; at most %d fit", n,
                 TOKENIZER_MAX_VOCAB - TOKENIZER_BYTES_VOCAB);
        return NULL;
    }
    return make(1, merges, n, message, message_size);
}

struct tokenizer *tokenizer_load(const void *definition, size_t size, char *message, size_t message_size)
{
    if (size == TOKENIZER_NAME_SIZE && !memcmp(definition, MAGIC_BYTES, TOKENIZER_NAME_SIZE))
        return make(0, "", 0, message, message_size);
    if (size >= TOKENIZER_NAME_SIZE && (size - TOKENIZER_NAME_SIZE) % 4 == 0 &&
        !memcmp(definition, MAGIC_BPE, TOKENIZER_NAME_SIZE))
        return tokenizer_bpe((const void *) ((const char *) definition + TOKENIZER_NAME_SIZE),
                             (size - TOKENIZER_NAME_SIZE) / 4, message, message_size);
    snprintf(message, message_size,
             "malformed tokenizer: %zu bytes that start with neither form of definition", size);
    return NULL;
}

void *tokenizer_save(const struct tokenizer *t, size_t *size)
{
    char *definition = malloc(TOKENIZER_NAME_SIZE + t->n_merges * sizeof *t->merges);

    if (!definition)
        return NULL;
    *size = TOKENIZER_NAME_SIZE + t->n_merges * sizeof *t->merges;
    memcpy(definition, t->is_bpe ? MAGIC_BPE : MAGIC_BYTES, TOKENIZER_NAME_SIZE);
    memcpy(definition + TOKENIZER_NAME_SIZE, t->merges, t->n_merges * sizeof *t->merges);
    return definition;
}

void tokenizer_free(struct tokenizer *t)
{
    if (!t)
        return;
    free(t->merges);
    free(t->token_start);
    free(t->token_bytes);
    free(t->table);
    free(t->cache);
    free(t->nodes);
    free(t->heap);
    free(t);
}

int tokenizer_vocab_size(const struct tokenizer *t)
{
    return TOKENIZER_BYTES_VOCAB + (int) t->n_merges;
}

int tokenizer_end_of_text(const struct tokenizer *t)
{
    return tokenizer_vocab_size(t) - 1;
}

const void *tokenizer_token(const struct tokenizer *t, int token, size_t *size)
{
    *size = token_length(t, (uint32_t) token);
    return t->token_bytes + t->token_start[token];
}

/* ---- encoding ---- */

static size_t encode_short(const struct tokenizer *t, const uint8_t *piece, size_t n, uint16_t *out)
{
    uint32_t merged[SHORT_PIECE]; /* the token that out[i] and out[i + 1] merge to, or UINT32_MAX */

#define MERGED(i) ((i) + 1 < n ? find_merge(t, out[i], out[(i) + 1]) - 1u : UINT32_MAX)
    for (size_t i = 0; i < n; i++)
        out[i] = piece[i];
    for (size_t i = 0; i < n; i++)
        merged[i] = MERGED(i);
    for (;;) {
        size_t best = 0;

        for (size_t i = 1; i + 1 < n; i++)
            if (merged[i] < merged[best])
                best = i;
        /* cppcheck-suppress uninitvar; n > 0 */
        if (merged[best] == UINT32_MAX)
            return n;
        out[best] = (uint16_t) (merged[best] + 1);
        n--;
        memmove(out + best + 1, out + best + 2, (n - best - 1) * sizeof *out);
        memmove(merged + best + 1, merged + best + 2, (n - best - 1) * sizeof *merged);
        merged[best] = MERGED(best);
        if (best > 0)
            merged[best - 1] = MERGED(best - 1);
    }
#undef MERGED
}

static void heap_push(struct tokenizer *t, uint64_t entry)
{
    size_t at = t->heap_size++;

    for (; at > 0 && t->heap[(at - 1) / 2] > entry; at = (at - 1) / 2)
        t->heap[at] = t->heap[(at - 1) / 2];
    t->heap[at] = entry;
}

static uint64_t heap_pop(struct tokenizer *t)
{
    uint64_t top = t->heap[0], entry = t->heap[--t->heap_size];
    size_t at = 0, child;

    while ((child = 2 * at + 1) < t->heap_size) {
        if (child + 1 < t->heap_size && t->heap[child + 1] < t->heap[child])
            child++;
        if (t->heap[child] >= entry)
            break;
        t->heap[at] = t->heap[child];
        at = child;
    }
    t->heap[at] = entry;
    return top;
}

/* The token that the node at a position and its successor merge to, or 0. */
static uint32_t node_merge(const struct tokenizer *t, uint32_t at)
{
    uint32_t next = t->nodes[at].next;

    return next == NO_POSITION ? 0 : find_merge(t, t->nodes[at].symbol, t->nodes[next].symbol);
}

static void push_merge(struct tokenizer *t, uint32_t at)
{
    uint32_t token = node_merge(t, at);

    if (token)
        heap_push(t, (uint64_t) token << 32 | at);
}

static size_t encode_long(struct tokenizer *t, const uint8_t *piece, size_t n, uint16_t *out)
{
    struct node *nodes = t->nodes;
    size_t written = 0;

    t->heap_size = 0;
    for (size_t i = 0; i < n; i++)
        nodes[i] = (struct node){(uint32_t) i - 1, i + 1 < n ? (uint32_t) i + 1 : NO_POSITION, piece[i]};
    for (uint32_t i = 0; i < n; i++)
        push_merge(t, i);
    while (t->heap_size) {
        uint64_t top = heap_pop(t);
        uint32_t at = (uint32_t) top, token = (uint32_t) (top >> 32), next;

        if (nodes[at].symbol == DEAD || node_merge(t, at) != token)
            continue; /* a neighbour was merged since */
        next = nodes[at].next;
        nodes[at].symbol = (uint16_t) token;
        nodes[at].next = nodes[next].next;
        nodes[next].symbol = DEAD;
        if (nodes[at].next != NO_POSITION)
            nodes[nodes[at].next].previous = at;
        push_merge(t, at);
        if (nodes[at].previous != NO_POSITION)
            push_merge(t, nodes[at].previous);
    }
    for (uint32_t at = 0; at != NO_POSITION; at = nodes[at].next)
        out[written++] = nodes[at].symbol;
    return written;
}

static size_t encode_piece(struct tokenizer *t, const uint8_t *piece, size_t n, uint16_t *out)
{
    uint64_t word[3] = {0, 0, 0}, hash;
    struct cached_piece *cached;
    size_t written;

    if (n == 1) {
        out[0] = piece[0];
        return 1;
    }
    if (n > CACHED_BYTES)
        return n <= SHORT_PIECE ? encode_short(t, piece, n, out) : encode_long(t, piece, n, out);
    memcpy(word, piece, n);
    ((uint8_t *) word)[CACHED_BYTES] = (uint8_t) n;
    hash = (word[0] * 0x9E3779B97F4A7C15u ^ word[1]) * 0xC2B2AE3D27D4EB4Fu ^ word[2];
    cached = &t->cache[(hash * 0x9E3779B97F4A7C15u) >> (64 - CACHE_BITS)];
    if (!memcmp(cached->key, word, sizeof cached->key)) {
        memcpy(out, cached->tokens, cached->n * sizeof *out);
        return cached->n;
    }
    written = encode_short(t, piece, n, out);
    if (written <= CACHED_TOKENS) {
        memcpy(cached->key, word, sizeof cached->key);
        memcpy(cached->tokens, out, written * sizeof *out);
        cached->n = (uint16_t) written;
    }
    return written;
}

size_t tokenizer_encode_window(struct tokenizer *t, const void *text, size_t size, int last, uint16_t *out,
                               size_t *used)
{
    const uint8_t *bytes = text;
    size_t written = 0, at = 0;

    if (!t->is_bpe) {
        for (; at < size; at++)
            out[at] = bytes[at];
        *used = size;
        return size;
    }
    while (at < size) {
        size_t end = pretoken_end(bytes, size, at);

        if (!last && end + PRETOKEN_LOOKAHEAD > size)
            break;
        written += encode_piece(t, bytes + at, end - at, out + written);
        at = end;
    }
    *used = at;
    return written;
}

size_t tokenizer_encode(struct tokenizer *t, const void *text, size_t size, uint16_t *out)
{
    size_t used;

    return tokenizer_encode_window(t, text, size, 1, out, &used);
}
