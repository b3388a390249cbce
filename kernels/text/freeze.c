/*
 * See freeze.h.  Owns the intake (spool, digests), the order of the steps, and the writing of the token file;
 * the parts are split.h's, the merges bpe_train.h's.  The file's header is written last: a half-written file
 * has none.
 */
#include "freeze.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bpe_train.h"
#include "pretokenize.h"
#include "sink.h"
#include "split.h"
#include "tokenizer.h"

#define WINDOW         (1 << 20) /* bytes of a document in memory at once */
#define TOKENIZER_TEXT 20000000  /* bytes that a tokenizer is trained on at most */
#define STEPS_A_TICK   4096
#define PROGRESS_MS    50
#define DIGEST_SIZE    32
#define MAX_DOCUMENT   (UINT32_MAX - 1) /* bytes; with end-of-text its tokens fit a uint32 */

_Static_assert(WINDOW > 2 * (PRETOKEN_MAX + PRETOKEN_LOOKAHEAD), "a window must hold a piece and more");

struct freeze {
    struct split split;
    struct tokenizer *tokenizer; /* NULL until bpe_vocab is trained */
    int bpe_vocab;
    struct bpe_trainer *trainer;
    double validation_fraction, test_fraction;
    int64_t split_seed, empty_documents;
    struct sink *spool, *index, *tokens;
    EVP_MD *sha256;
    EVP_MD_CTX *hash; /* of the document that is coming in */
    int continued, has_group;
    uint64_t group_key;
    int64_t document_bytes;

    int (*progress)(const char *phase, int64_t done, int64_t total, void *arg);
    void *progress_arg;
    const char *phase;
    int64_t done, total, last_progress_ms;
    int cancelled;

    struct corpus_header header;
    uint8_t *window;
    uint16_t *encoded;
    uint8_t file_digest[DIGEST_SIZE];
};

__attribute__((format(printf, 3, 4))) static int fail(char *message, size_t message_size, const char *format,
                                                      ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(message, message_size, format, arguments);
    va_end(arguments);
    return -1;
}

/* ---- begin ---- */

static int parse_tokenizer(struct freeze *f, const char *name, const void *definition, size_t definition_size,
                           char *message, size_t message_size)
{
    char *end;
    long vocab;

    if (!strcmp(name, "given")) {
        f->tokenizer = tokenizer_load(definition, definition_size, message, message_size);
        return f->tokenizer ? 0 : -1;
    }
    if (!strcmp(name, "bytes")) {
        f->tokenizer = tokenizer_bytes();
        return f->tokenizer ? 0 : fail(message, message_size, "out of memory");
    }
    vocab = strncmp(name, "bpe:", 4) || name[4] < '1' || name[4] > '9' ? 0 : strtol(name + 4, &end, 10);
    if (vocab < TOKENIZER_MIN_BPE || vocab > TOKENIZER_MAX_VOCAB || *end)
        return fail(message, message_size,
                    "tokenizer = \"%.60s\" is not accepted: \"bytes\", or \"bpe:N\" with N "
                    "from %d to %d",
                    name, TOKENIZER_MIN_BPE, TOKENIZER_MAX_VOCAB);
    f->bpe_vocab = (int) vocab;
    return 0;
}

static int check_fractions(double validation, double test, char *message, size_t message_size)
{
    if (!(validation > 0 && validation < 1))
        return fail(message, message_size, "validation_fraction = %.15g is not accepted: above 0 and below 1",
                    validation);
    if (!(test > 0 && test < 1))
        return fail(message, message_size, "test_fraction = %.15g is not accepted: above 0 and below 1",
                    test);
    if (validation + test >= 1)
        return fail(message, message_size,
                    "validation_fraction = %.15g and test_fraction = %.15g are not accepted: "
                    "their sum must be below 1, so that text is left to train on",
                    validation, test);
    return 0;
}

struct freeze *freeze_begin(const char *tokenizer, const void *definition, size_t definition_size,
                            double validation_fraction, double test_fraction, int64_t split_seed,
                            int spool_fd, char *message, size_t message_size)
{
    struct freeze *f = calloc(1, sizeof *f);

    if (f) {
        f->validation_fraction = validation_fraction;
        f->test_fraction = test_fraction;
        f->split_seed = split_seed;
        f->spool = calloc(1, sizeof *f->spool);
        f->index = calloc(1, sizeof *f->index);
        f->tokens = calloc(1, sizeof *f->tokens);
        f->window = malloc(WINDOW);
        f->encoded = malloc(WINDOW * sizeof *f->encoded);
        f->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
        f->hash = EVP_MD_CTX_new();
    }
    if (!f || !f->spool || !f->index || !f->tokens || !f->window || !f->encoded || !f->sha256 || !f->hash) {
        fail(message, message_size, "cannot begin a freeze: out of memory, or no SHA-256 in OpenSSL");
    } else if (!check_fractions(validation_fraction, test_fraction, message, message_size) &&
               !parse_tokenizer(f, tokenizer, definition, definition_size, message, message_size)) {
        f->spool->fd = spool_fd;
        return f;
    }
    freeze_free(f);
    return NULL;
}

void freeze_free(struct freeze *f)
{
    if (!f)
        return;
    split_free(&f->split);
    tokenizer_free(f->tokenizer);
    bpe_trainer_free(f->trainer);
    EVP_MD_CTX_free(f->hash);
    EVP_MD_free(f->sha256);
    free(f->spool);
    free(f->index);
    free(f->tokens);
    free(f->window);
    free(f->encoded);
    free(f);
}

/* ---- documents ---- */

/* A group's key is hashed behind a byte that keeps it apart from a text of the same bytes. */
static int start_document(struct freeze *f, const void *group, int64_t group_bytes)
{
    uint8_t digest[DIGEST_SIZE];

    f->document_bytes = 0;
    f->has_group = group_bytes >= 0;
    if (f->has_group) {
        if (!EVP_DigestInit_ex2(f->hash, f->sha256, NULL) || !EVP_DigestUpdate(f->hash, "\1", 1) ||
            !EVP_DigestUpdate(f->hash, group, (size_t) group_bytes) ||
            !EVP_DigestFinal_ex(f->hash, digest, NULL))
            return -1;
        memcpy(&f->group_key, digest, sizeof f->group_key);
    }
    return EVP_DigestInit_ex2(f->hash, f->sha256, NULL) ? 0 : -1;
}

static int end_document(struct freeze *f, char *message, size_t message_size)
{
    uint8_t digest[DIGEST_SIZE];

    if (f->document_bytes == 0) {
        f->empty_documents++;
        return 0;
    }
    if (!EVP_DigestFinal_ex(f->hash, digest, NULL))
        return fail(message, message_size, "OpenSSL failed to hash a document");
    if (split_add(&f->split, digest, f->spool->offset - f->document_bytes, (uint32_t) f->document_bytes,
                  f->has_group ? &f->group_key : NULL))
        return fail(message, message_size, "out of memory after %zu documents", f->split.n_documents);
    return 0;
}

int freeze_document(struct freeze *f, const void *group, int64_t group_bytes, const void *text, size_t size,
                    int more, char *message, size_t message_size)
{
    if (!f->continued && start_document(f, group, group_bytes))
        return fail(message, message_size, "OpenSSL failed to hash a document");
    f->continued = more;
    f->document_bytes += (int64_t) size;
    if (f->document_bytes > MAX_DOCUMENT)
        return fail(message, message_size, "a document of more than %u bytes is not accepted", MAX_DOCUMENT);
    if (!EVP_DigestUpdate(f->hash, text, size))
        return fail(message, message_size, "OpenSSL failed to hash a document");
    if (sink_put(f->spool, text, size))
        return fail(message, message_size, "cannot write the spool file: %s", strerror(errno));
    return more ? 0 : end_document(f, message, message_size);
}

/* ---- progress ---- */

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Non-zero: stop. */
static int tick(void *arg)
{
    struct freeze *f = arg;
    int64_t now = now_ms();

    if (!f->cancelled && now - f->last_progress_ms >= PROGRESS_MS) {
        f->last_progress_ms = now;
        f->cancelled = f->progress(f->phase, f->done, f->total, f->progress_arg) != 0;
    }
    return f->cancelled;
}

static int begin_phase(struct freeze *f, const char *phase, int64_t total)
{
    f->phase = phase;
    f->done = 0;
    f->total = total;
    f->last_progress_ms = 0;
    return tick(f);
}

/* A step that has no other reason to fail was stopped or ran out of memory. */
static int stopped(const struct freeze *f, char *message, size_t message_size)
{
    return fail(message, message_size, "%s", f->cancelled ? "cancelled" : "out of memory");
}

/* ---- parts ---- */

static int assign_parts(struct freeze *f, char *message, size_t message_size)
{
    size_t train_groups = f->bpe_vocab ? 2 : 1;

    if (begin_phase(f, "sort", 1) || split_groups(&f->split, tick, f))
        return stopped(f, message, message_size);
    if (f->split.n_roots < train_groups + 2)
        return fail(message, message_size,
                    "the source has %zu group%s of non-empty documents (equal documents are "
                    "in one group); at least %zu are needed: for train, validation%s test; a long text can "
                    "be parted into rows",
                    f->split.n_roots, f->split.n_roots == 1 ? "" : "s", train_groups + 2,
                    f->bpe_vocab ? ", tokenizer and" : " and");
    if (split_parts(&f->split, f->validation_fraction, f->test_fraction, f->split_seed, train_groups, tick,
                    f))
        return stopped(f, message, message_size);
    return 0;
}

/* Calls each(f, window, size, last) on the document's text, a window at a time; each returns the bytes it
 * used. */
static int for_windows(struct freeze *f, const struct split_document *document,
                       int64_t (*each)(struct freeze *f, size_t size, int last), char *message,
                       size_t message_size)
{
    size_t have = 0, left = document->bytes;

    while (left > 0 || have > 0) {
        size_t n = left < WINDOW - have ? left : WINDOW - have;
        int64_t used;

        if (read_range(f->spool->fd, f->window + have, n,
                       document->spool_offset + document->bytes - (int64_t) left))
            return fail(message, message_size, "cannot read the spool file: %s", strerror(errno));
        have += n;
        left -= n;
        if ((used = each(f, have, left == 0)) < 0)
            return fail(message, message_size, "cannot %s the documents: %s",
                        f->tokenizer ? "encode" : "count the pairs of", strerror(errno));
        have -= (size_t) used;
        memmove(f->window, f->window + used, have);
        if (tick(f))
            return stopped(f, message, message_size);
    }
    return 0;
}

/* ---- the tokenizer ---- */

static int64_t count_window(struct freeze *f, size_t size, int last)
{
    int64_t used = bpe_trainer_count(f->trainer, f->window, size, last);

    if (used > 0)
        f->done += used;
    return used;
}

/* Finds merges in the documents of PART_TOKENIZER; their number, or -1 and a message. */
static int64_t find_merges(struct freeze *f, size_t n, uint16_t (*merges)[2], char *message,
                           size_t message_size)
{
    int64_t found;

    for (size_t i = 0; i < f->split.n_documents && f->done < TOKENIZER_TEXT; i++)
        if (split_part(&f->split, i) == PART_TOKENIZER &&
            for_windows(f, &f->split.documents[i], count_window, message, message_size))
            return -1;
    found = bpe_trainer_run(f->trainer, n, merges, tick, f);
    if (found < 0)
        stopped(f, message, message_size);
    return found;
}

/* What is accepted instead: a smaller vocabulary, where the text is enough for the smallest. */
static int too_few_merges(const struct freeze *f, int64_t wanted, int64_t found, char *message,
                          size_t message_size)
{
    int64_t most = found + TOKENIZER_BYTES_VOCAB;
    char smaller[64] = "";

    if (most >= TOKENIZER_MIN_BPE)
        snprintf(smaller, sizeof smaller, "at most bpe:%" PRId64 ", or ", most);
    return fail(message, message_size,
                "tokenizer = \"bpe:%d\" is not accepted: it needs %" PRId64 " merges, and the %" PRId64
                " bytes of text to train it on yield %" PRId64 "; use %smore text",
                f->bpe_vocab, wanted, f->done, found, smaller);
}

/* Doubles the text until it has enough merges, or until half of the training text is used. */
static int train_on_parts(struct freeze *f, uint16_t (*merges)[2], char *message, size_t message_size)
{
    int64_t wanted = f->bpe_vocab - TOKENIZER_BYTES_VOCAB, train = split_part_bytes(&f->split, PART_TRAIN),
            found;
    int64_t limit = train / 2 < TOKENIZER_TEXT ? train / 2 : TOKENIZER_TEXT, target = train / 10 + 1;

    for (;; target *= 2) {
        int64_t bytes = split_tokenizer(&f->split, target < limit ? target : limit, f->split_seed, tick, f);

        if (bytes < 0 || begin_phase(f, "tokenizer", bytes < TOKENIZER_TEXT ? bytes : TOKENIZER_TEXT) ||
            !(f->trainer = bpe_trainer_new()))
            return stopped(f, message, message_size);
        found = find_merges(f, (size_t) wanted, merges, message, message_size);
        bpe_trainer_free(f->trainer);
        f->trainer = NULL;
        if (found < 0)
            return -1;
        if (found == wanted)
            return 0;
        if (target >= limit)
            return too_few_merges(f, wanted, found, message, message_size);
    }
}

static int train_tokenizer(struct freeze *f, char *message, size_t message_size)
{
    size_t n = (size_t) f->bpe_vocab - TOKENIZER_BYTES_VOCAB;
    uint16_t(*merges)[2] = malloc(n * sizeof *merges);

    if (!merges)
        return fail(message, message_size, "out of memory for %zu merges", n);
    if (!pretokenize_init(message, message_size) && !train_on_parts(f, merges, message, message_size))
        f->tokenizer = tokenizer_bpe(merges, n, message, message_size);
    free(merges);
    return f->tokenizer ? 0 : -1;
}

/* ---- the file ---- */

static int64_t encode_window(struct freeze *f, size_t size, int last)
{
    size_t used, n = tokenizer_encode_window(f->tokenizer, f->window, size, last, f->encoded, &used);

    f->done += (int64_t) used;
    return sink_put(f->tokens, f->encoded, n * sizeof *f->encoded) ? -1 : (int64_t) used;
}

static int64_t tokens_put(const struct freeze *f)
{
    return (f->tokens->offset - f->header.token_offset) / (int64_t) sizeof(uint16_t);
}

static int write_document(struct freeze *f, const struct split_document *document, int part, char *message,
                          size_t message_size)
{
    struct corpus_document entry = {.token_start = tokens_put(f), .bytes = document->bytes};
    uint16_t end_of_text = (uint16_t) f->header.end_of_text;

    if (for_windows(f, document, encode_window, message, message_size))
        return -1;
    if (sink_put(f->tokens, &end_of_text, sizeof end_of_text))
        return fail(message, message_size, "cannot write the token file: %s", strerror(errno));
    entry.tokens = (uint32_t) (tokens_put(f) - entry.token_start);
    memcpy(entry.digest, document->digest, sizeof entry.digest);
    if (sink_put(f->index, &entry, sizeof entry))
        return fail(message, message_size, "cannot write the token file: %s", strerror(errno));
    f->header.tokens[part] += entry.tokens;
    return 0;
}

/* Counts documents and bytes a part, and lays the file out; the tokenizer's definition is written. */
static int lay_out(struct freeze *f, int fd, int64_t *tokenizer_documents, char *message, size_t message_size)
{
    struct corpus_header *h = &f->header;
    size_t size;
    void *definition = tokenizer_save(f->tokenizer, &size);
    int failed = !definition || write_range(fd, definition, size, sizeof *h);

    free(definition);
    if (failed)
        return fail(message, message_size, "cannot write the token file: %s", strerror(errno));
    for (size_t i = 0; i < f->split.n_documents; i++) {
        int part = split_part(&f->split, i);

        if (i % STEPS_A_TICK == 0 && tick(f))
            return stopped(f, message, message_size);
        if (part == PART_TOKENIZER) {
            ++*tokenizer_documents;
            continue;
        }
        h->documents[part]++;
        h->bytes[part] += f->split.documents[i].bytes;
    }
    memcpy(h->magic, CORPUS_MAGIC, sizeof h->magic);
    h->vocab_size = tokenizer_vocab_size(f->tokenizer);
    h->end_of_text = tokenizer_end_of_text(f->tokenizer);
    h->tokenizer_offset = sizeof *h;
    h->tokenizer_bytes = (int64_t) size;
    h->document_offset = (h->tokenizer_offset + h->tokenizer_bytes + 7) / 8 * 8;
    h->token_offset = h->document_offset + (int64_t) sizeof(struct corpus_document) *
                                               (h->documents[PART_TRAIN] + h->documents[PART_VALIDATION] +
                                                h->documents[PART_TEST]);
    f->index->fd = f->tokens->fd = fd;
    f->index->offset = h->document_offset;
    f->tokens->offset = h->token_offset;
    return 0;
}

static int write_parts(struct freeze *f, int fd, char *message, size_t message_size)
{
    struct corpus_header *h = &f->header;

    if (begin_phase(f, "encode", h->bytes[PART_TRAIN] + h->bytes[PART_VALIDATION] + h->bytes[PART_TEST]))
        return stopped(f, message, message_size);
    for (int part = 0; part < PART_COUNT; part++)
        for (size_t i = 0; i < f->split.n_documents; i++)
            if (split_part(&f->split, i) == part &&
                write_document(f, &f->split.documents[i], part, message, message_size))
                return -1;
    h->file_bytes = f->tokens->offset;
    if (sink_flush(f->tokens) || sink_flush(f->index) || write_range(fd, h, sizeof *h, 0))
        return fail(message, message_size, "cannot write the token file: %s", strerror(errno));
    return 0;
}

static int hash_file(struct freeze *f, int fd, char *message, size_t message_size)
{
    int64_t size = f->header.file_bytes;

    if (begin_phase(f, "hash", size))
        return stopped(f, message, message_size);
    if (!EVP_DigestInit_ex2(f->hash, f->sha256, NULL))
        return fail(message, message_size, "OpenSSL failed to hash the token file");
    while (f->done < size) {
        size_t n = size - f->done < WINDOW ? (size_t) (size - f->done) : WINDOW;

        if (read_range(fd, f->window, n, f->done))
            return fail(message, message_size, "cannot read the token file: %s", strerror(errno));
        if (!EVP_DigestUpdate(f->hash, f->window, n))
            return fail(message, message_size, "OpenSSL failed to hash the token file");
        f->done += (int64_t) n;
        if (tick(f))
            return stopped(f, message, message_size);
    }
    if (!EVP_DigestFinal_ex(f->hash, f->file_digest, NULL))
        return fail(message, message_size, "OpenSSL failed to hash the token file");
    return 0;
}

static void report(const struct freeze *f, int64_t tokenizer_documents, struct tlaw_frozen_message *frozen)
{
    const struct corpus_header *h = &f->header;

    memset(frozen, 0, sizeof *frozen);
    for (int part = 0; part < PART_COUNT; part++) {
        frozen->documents += h->documents[part];
        frozen->tokens += h->tokens[part];
        frozen->bytes += h->bytes[part];
    }
    frozen->vocab_size = h->vocab_size;
    frozen->train_documents = h->documents[PART_TRAIN];
    frozen->train_tokens = h->tokens[PART_TRAIN];
    frozen->train_bytes = h->bytes[PART_TRAIN];
    frozen->validation_documents = h->documents[PART_VALIDATION];
    frozen->validation_tokens = h->tokens[PART_VALIDATION];
    frozen->validation_bytes = h->bytes[PART_VALIDATION];
    frozen->test_documents = h->documents[PART_TEST];
    frozen->test_tokens = h->tokens[PART_TEST];
    frozen->test_bytes = h->bytes[PART_TEST];
    frozen->tokenizer_documents = tokenizer_documents;
    frozen->empty_documents = f->empty_documents;
    frozen->groups = (int64_t) f->split.n_roots;
    frozen->file_bytes = h->file_bytes;
    frozen->tokenizer_offset = h->tokenizer_offset;
    frozen->tokenizer_bytes = h->tokenizer_bytes;
    frozen->sha256 = (struct tlaw_blob){f->file_digest, sizeof f->file_digest};
}

int freeze_finish(struct freeze *f, int fd, struct tlaw_frozen_message *frozen,
                  int (*progress)(const char *phase, int64_t done, int64_t total, void *arg), void *arg,
                  char *message, size_t message_size)
{
    int64_t tokenizer_documents = 0;

    f->progress = progress;
    f->progress_arg = arg;
    if (f->continued)
        return fail(message, message_size, "the last document is not complete");
    if (sink_flush(f->spool))
        return fail(message, message_size, "cannot write the spool file: %s", strerror(errno));
    if (assign_parts(f, message, message_size) ||
        (f->bpe_vocab && train_tokenizer(f, message, message_size)) ||
        lay_out(f, fd, &tokenizer_documents, message, message_size) ||
        write_parts(f, fd, message, message_size) || hash_file(f, fd, message, message_size))
        return -1;
    report(f, tokenizer_documents, frozen);
    return 0;
}
