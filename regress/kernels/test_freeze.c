/*
 * Freezing and the token file: what comes out is what went in, whatever the order of the rows; parts, groups,
 * subsets, errors, cancelling.
 */
#include <inttypes.h>
#include <math.h>
#include <sys/stat.h>

#include "../../kernels/text/freeze.h"
#include "../../kernels/text/tokenizer.h"
#include "tap.h"
#include "texts.h"

struct settings {
    const char *tokenizer;
    double validation, test;
    int64_t seed;
    const uint32_t *groups; /* by document; NULL: none */
    const void *definition;
    size_t definition_size;
    int reversed, pieces; /* order of the documents; bytes of a text that go in at once (0: all) */
};

static const struct settings plain = {.tokenizer = "bytes", .validation = 0.1, .test = 0.1};

struct frozen {
    int failed;
    int fd;
    struct tlaw_frozen_message report;
    uint8_t sha256[32];
    struct corpus corpus;
    char message[1024];
    int calls;
};

static int count_calls(const char *phase, int64_t done, int64_t total, void *arg)
{
    (void) phase;
    ++*(int *) arg;
    return done < 0 || done > total;
}

static int put_document(struct freeze *f, const struct texts *texts, const struct settings *s, size_t i,
                        char *message)
{
    const char *text = texts->bytes + texts->start[i];
    size_t size = texts->start[i + 1] - texts->start[i], piece = s->pieces ? (size_t) s->pieces : size,
           at = 0;
    const uint32_t *group = s->groups && s->groups[i] ? &s->groups[i] : NULL;

    do {
        size_t n = size - at < piece ? size - at : piece;

        if (freeze_document(f, group, group ? (int64_t) sizeof *group : -1, text + at, n, at + n < size,
                            message, 1024))
            return -1;
        at += n;
    } while (at < size);
    return 0;
}

/* Freezes and opens; on failure says why in message. */
static struct frozen freeze_texts(const struct texts *texts, const struct settings *s)
{
    struct frozen out = {.failed = 1, .fd = temporary_file()};
    int spool = temporary_file();
    struct freeze *f = freeze_begin(s->tokenizer, s->definition, s->definition_size, s->validation, s->test,
                                    s->seed, spool, out.message, sizeof out.message);
    int failed = !f;

    for (size_t i = 0; i < texts->n && !failed; i++)
        failed = put_document(f, texts, s, s->reversed ? texts->n - 1 - i : i, out.message);
    if (!failed &&
        !freeze_finish(f, out.fd, &out.report, count_calls, &out.calls, out.message, sizeof out.message)) {
        memcpy(out.sha256, out.report.sha256.data, sizeof out.sha256);
        out.failed = corpus_open(&out.corpus, out.fd, out.message, sizeof out.message);
    }
    freeze_free(f);
    close(spool);
    return out;
}

static void drop(struct frozen *frozen)
{
    corpus_close(&frozen->corpus);
    close(frozen->fd);
}

static int compare_texts(const void *a, const void *b)
{
    const struct {
        const char *text;
        size_t size;
    } *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->size < y->size ? x->size : y->size);

    return order ? order : (x->size > y->size) - (x->size < y->size);
}

/* Whether the parts together hold exactly the non-empty texts: both are sorted and compared. */
static bool same_texts(const struct frozen *frozen, const struct texts *texts)
{
    const struct corpus *c = &frozen->corpus;
    struct entry {
        const char *text;
        size_t size;
    } *in = malloc((texts->n + 1) * sizeof *in), *out = malloc((texts->n + 1) * sizeof *out);
    char message[256];
    struct tokenizer *t =
        tokenizer_load(c->tokenizer, (size_t) c->header->tokenizer_bytes, message, sizeof message);
    char *decoded = malloc(texts->size + 1);
    size_t n_in = 0, n_out = 0, at = 0;
    bool same = true;

    for (size_t i = 0; i < texts->n; i++)
        if (texts->start[i + 1] > texts->start[i])
            in[n_in++] =
                (struct entry){texts->bytes + texts->start[i], texts->start[i + 1] - texts->start[i]};
    for (int part = 0; part < PART_COUNT; part++)
        for (int64_t i = 0; i < c->header->documents[part] && n_out < n_in; i++) {
            const struct corpus_document *d = &c->documents[part][i];

            out[n_out] = (struct entry){decoded + at, d->bytes};
            for (uint32_t k = 0; k + 1 < d->tokens; k++) {
                size_t size;
                const void *bytes = tokenizer_token(t, c->tokens[d->token_start + k], &size);

                memcpy(decoded + at, bytes, size);
                at += size;
            }
            same = same && decoded + at == out[n_out].text + d->bytes;
            n_out++;
        }
    qsort(in, n_in, sizeof *in, compare_texts);
    qsort(out, n_out, sizeof *out, compare_texts);
    same = same && n_in == n_out;
    for (size_t i = 0; i < n_in && same; i++)
        same = compare_texts(&in[i], &out[i]) == 0;
    free(in);
    free(out);
    free(decoded);
    tokenizer_free(t);
    return same;
}

/* The part of a digest, or -1. */
static int part_of(const struct corpus *c, const uint8_t digest[16])
{
    for (int part = 0; part < PART_COUNT; part++)
        for (int64_t i = 0; i < c->header->documents[part]; i++)
            if (!memcmp(c->documents[part][i].digest, digest, 16))
                return part;
    return -1;
}

static void test_round_trip(void)
{
    struct texts texts = made_texts(500, 1);
    struct settings backwards = plain, pieces = plain, other = plain;
    struct frozen a, b, c, d;
    const struct tlaw_frozen_message *r = &a.report;

    texts_add(&texts, "", 0);
    texts_add(&texts, "\xff\0\x80 and more", 12);
    texts_add(&texts, "", 0);
    backwards.reversed = 1;
    pieces.pieces = 100;
    other.seed = 1;
    a = freeze_texts(&texts, &plain);
    b = freeze_texts(&texts, &backwards);
    c = freeze_texts(&texts, &pieces);
    d = freeze_texts(&texts, &other);
    ok(!a.failed, "a corpus is frozen and opens again%s%s", a.failed ? ": " : "", a.message);
    ok(same_texts(&a, &texts), "its parts hold every text, byte for byte");
    ok(r->documents == 501 && r->empty_documents == 2 && r->groups == 501 && r->tokenizer_documents == 0,
       "documents, empty documents and groups are counted");
    ok(r->bytes == (int64_t) texts.size && r->tokens == r->bytes + r->documents && r->vocab_size == 257 &&
           r->bytes == r->train_bytes + r->validation_bytes + r->test_bytes &&
           r->tokens == r->train_tokens + r->validation_tokens + r->test_tokens &&
           r->documents == r->train_documents + r->validation_documents + r->test_documents,
       "bytes, tokens and parts add up");
    ok(fabs((double) r->validation_bytes / (double) r->bytes - 0.1) < 0.01 &&
           fabs((double) r->test_bytes / (double) r->bytes - 0.1) < 0.01,
       "the parts have the fractions asked for (%.3f, %.3f)",
       (double) r->validation_bytes / (double) r->bytes, (double) r->test_bytes / (double) r->bytes);
    ok(!b.failed && !memcmp(a.sha256, b.sha256, 32), "the order of the rows does not change the sha256");
    ok(!c.failed && !memcmp(a.sha256, c.sha256, 32), "texts that come in pieces make the same file");
    ok(!d.failed && memcmp(a.sha256, d.sha256, 32), "another split_seed makes another file");
    ok(a.calls > 0, "progress was called and stayed within its total");
    drop(&a);
    drop(&b);
    drop(&c);
    drop(&d);
    texts_free(&texts);
}

/* A text of one byte each for 26 groups of 20 documents, and texts that link two groups. */
static void test_groups(void)
{
    struct texts texts = made_texts(520, 2);
    uint32_t groups[523];
    struct settings grouped = plain;
    struct frozen a, b;
    int part_of_group[27], mixed = 0;

    for (size_t i = 0; i < 520; i++)
        groups[i] = (uint32_t) (i % 26) + 1;
    grouped.groups = groups;
    a = freeze_texts(&texts, &grouped);
    memset(part_of_group, -1, sizeof part_of_group);
    ok(!a.failed && a.report.groups == 26, "26 groups are 26 groups");
    for (int part = 0; part < PART_COUNT && !a.failed; part++)
        for (int64_t d = 0; d < a.corpus.header->documents[part]; d++) {
            const uint16_t *tokens = a.corpus.tokens + a.corpus.documents[part][d].token_start;
            uint32_t group = 0;

            for (size_t i = 0; i < 520 && !group; i++) {
                size_t size = texts.start[i + 1] - texts.start[i], k = 0;

                while (k < size && k + 1 < a.corpus.documents[part][d].tokens &&
                       tokens[k] == (uint8_t) texts.bytes[texts.start[i] + k])
                    k++;
                if (k == size && size + 1 == a.corpus.documents[part][d].tokens)
                    group = groups[i];
            }
            mixed += part_of_group[group] >= 0 && part_of_group[group] != part;
            part_of_group[group] = part;
        }
    ok(!a.failed && mixed == 0, "no group is on two sides");
    groups[520] = 1; /* one text in groups 1, 2 and, without a key, alone: the three are one group */
    groups[521] = 2;
    groups[522] = 0;
    for (int i = 0; i < 3; i++)
        texts_add(&texts, "a text in two groups", 20);
    b = freeze_texts(&texts, &grouped);
    ok(!b.failed && b.report.groups == 25, "groups that share a text are one group (%" PRId64 ")",
       b.report.groups);
    grouped.reversed = 1;
    drop(&a);
    a = freeze_texts(&texts, &grouped);
    ok(!a.failed && !memcmp(a.sha256, b.sha256, 32), "also whatever the order of the rows");
    drop(&a);
    drop(&b);
    texts_free(&texts);
}

static void test_equal_documents(void)
{
    struct texts texts = {0};
    struct frozen a;
    int sides = 0;

    for (int i = 0; i < 3000; i++) {
        char text[32];

        texts_add(&texts, text, (size_t) sprintf(text, "document %d", i % 100));
    }
    a = freeze_texts(&texts, &plain);
    ok(!a.failed && a.report.groups == 100 && a.report.documents == 3000,
       "equal documents are one group, and kept");
    for (int part = 0; part < PART_COUNT && !a.failed; part++)
        for (int64_t i = 0; i < a.corpus.header->documents[part]; i++)
            sides += part_of(&a.corpus, a.corpus.documents[part][i].digest) != part;
    ok(sides == 0, "equal documents are on one side");
    drop(&a);
    texts_free(&texts);
}

static void test_subsets(void)
{
    struct texts texts = made_texts(2000, 3);
    struct frozen a = freeze_texts(&texts, &plain);
    int64_t available = a.corpus.header->tokens[PART_TRAIN], bytes, documents, n = available / 10;
    uint16_t *big = malloc((size_t) available * 2), *small = malloc((size_t) available * 2);
    char message[256];
    double share = 0, shares = 0;
    int64_t histogram[2][257] = {{0}, {0}};

    ok(!corpus_subset(&a.corpus, 7, available, big, &bytes, &documents, message, sizeof message) &&
           bytes == a.report.train_bytes && documents == a.report.train_documents,
       "the subset of all tokens is all of the text");
    ok(!corpus_subset(&a.corpus, 7, n, small, &bytes, &documents, message, sizeof message) &&
           !memcmp(small, big, (size_t) n * 2),
       "a subset is the first part of a larger one with the same seed");
    ok(bytes <= n && bytes + documents >= n - 1 && bytes + documents <= n + 1,
       "its bytes and documents are counted (%" PRId64 " + %" PRId64 " of %" PRId64 ")", bytes, documents, n);
    for (int64_t seed = 0; seed < 40;
         seed++) { /* the share of the first 10 % that is in another seed's 10 % */
        corpus_subset(&a.corpus, seed + 100, n, big, &bytes, &documents, message, sizeof message);
        share = 0;
        for (int64_t from = 0, to; from < n; from = to) {
            for (to = from; to < n && big[to] != 256;)
                to++;
            to++;
            if (to <= n && memmem(small, (size_t) n * 2, big + from, (size_t) (to - from) * 2))
                share += (double) (to - from) / (double) n;
        }
        shares += share / 40;
        for (int64_t i = 0; i < n; i++)
            histogram[0][big[i]]++;
    }
    ok(fabs(shares - 0.1) < 0.02, "subsets of different seeds overlap as random ones do (%.3f of 0.100)",
       shares);
    corpus_subset(&a.corpus, 7, available, big, &bytes, &documents, message, sizeof message);
    for (int64_t i = 0; i < available; i++)
        histogram[1][big[i]]++;
    share =
        (double) histogram[0]['e'] / (double) (40 * n) / ((double) histogram[1]['e'] / (double) available);
    ok(fabs(share - 1) < 0.02, "and have the text's letters (share of e: %.4f times the whole's)", share);
    ok(corpus_subset(&a.corpus, 7, available + 1, big, &bytes, &documents, message, sizeof message) &&
           strstr(message, "train_tokens"),
       "more tokens than there are: %s", message);
    ok(corpus_subset(&a.corpus, 7, 0, big, &bytes, &documents, message, sizeof message), "no tokens: %s",
       message);
    free(big);
    free(small);
    drop(&a);
    texts_free(&texts);
}

/* Documents of the text that are in the file, each once. */
static int64_t documents_found(const struct frozen *frozen, const struct texts *texts)
{
    struct settings everything = plain;
    struct frozen all = freeze_texts(texts, &everything);
    int64_t found = 0;

    for (int part = 0; part < PART_COUNT; part++)
        for (int64_t i = 0; i < frozen->corpus.header->documents[part]; i++)
            found += part_of(&all.corpus, frozen->corpus.documents[part][i].digest) >= 0;
    drop(&all);
    return found;
}

static void test_bpe(void)
{
    struct texts texts = made_texts(800, 10);
    struct settings bpe = plain, given = plain;
    struct frozen a, b, c;
    const struct tlaw_frozen_message *r = &a.report;

    bpe.tokenizer = "bpe:600";
    a = freeze_texts(&texts, &bpe);
    bpe.reversed = 1;
    b = freeze_texts(&texts, &bpe);
    ok(!a.failed && r->vocab_size == 600, "a corpus is frozen with bpe:600%s%s", a.failed ? ": " : "",
       a.message);
    ok(r->tokenizer_documents > 0 && r->documents + r->tokenizer_documents == 800 &&
           documents_found(&a, &texts) == r->documents,
       "the %" PRId64 " documents that the tokenizer is trained on are left out", r->tokenizer_documents);
    ok(fabs((double) (int64_t) (texts.size - (size_t) r->bytes) / (double) texts.size - 0.08) < 0.01,
       "a tenth of the training text");
    ok(!b.failed && !memcmp(a.sha256, b.sha256, 32), "the order of the rows does not change the sha256");
    given.tokenizer = "given";
    given.definition = a.corpus.tokenizer;
    given.definition_size = (size_t) a.corpus.header->tokenizer_bytes;
    c = freeze_texts(&texts, &given);
    ok(!c.failed && c.report.vocab_size == 600 && c.report.tokenizer_documents == 0 && same_texts(&c, &texts),
       "another corpus's tokenizer leaves nothing out, and every text comes back");
    ok((double) c.report.tokens < 0.7 * (double) c.report.bytes, "and %.2f bytes make a token",
       (double) c.report.bytes / (double) c.report.tokens);
    drop(&a);
    drop(&b);
    drop(&c);
    texts_free(&texts);
}

/* A text that is larger than a window, in few groups. */
static void test_long_documents(void)
{
    struct texts texts = made_texts(6000, 11), books = {0};
    struct settings bpe = plain;
    struct frozen a;

    bpe.tokenizer = "bpe:1024";
    bpe.pieces = 1000000;
    for (size_t i = 0; i < 4; i++)
        texts_add(&books, texts.bytes + texts.start[1500 * i],
                  texts.start[1500 * (i + 1)] - texts.start[1500 * i]);
    a = freeze_texts(&books, &bpe);
    ok(!a.failed && a.report.documents == 3 && a.report.tokenizer_documents == 1 && books.size > 4 << 20,
       "four long texts are one each of train, validation, test and tokenizer%s%s", a.failed ? ": " : "",
       a.message);
    drop(&a);
    bpe = plain;
    a = freeze_texts(&books, &bpe);
    ok(!a.failed && same_texts(&a, &books), "long texts come back");
    drop(&a);
    texts_free(&texts);
    texts_free(&books);
}

static void expect_error(const struct texts *texts, struct settings s, const char *part)
{
    struct frozen a = freeze_texts(texts, &s);

    ok(a.failed && strstr(a.message, part), "refused: %s", a.message);
    drop(&a);
}

static void test_errors(void)
{
    struct texts two = made_texts(2, 4), three = made_texts(3, 4), none = {0}, many = made_texts(300, 5);
    struct settings s = plain;

    expect_error(&two, plain, "2 groups");
    expect_error(&none, plain, "0 groups");
    s.validation = 0;
    expect_error(&many, s, "validation_fraction = 0 ");
    s.validation = 0.5;
    s.test = NAN;
    expect_error(&many, s, "test_fraction = nan");
    s.test = 0.5;
    expect_error(&many, s, "sum");
    s = plain;
    s.tokenizer = "bpe:511";
    expect_error(&many, s, "bpe:511");
    s.tokenizer = "bpe:65536";
    expect_error(&many, s, "bpe:65536");
    s.tokenizer = "bpe:600x";
    expect_error(&many, s, "bpe:600x");
    s.tokenizer = "words";
    expect_error(&many, s, "words");
    s.tokenizer = "bpe:20000";
    expect_error(&many, s, "it needs 19743 merges");
    s.tokenizer = "bpe:512";
    expect_error(&three, s, "at least 4 are needed");
    s.tokenizer = "given";
    s.definition = "nonsense";
    s.definition_size = 8;
    expect_error(&many, s, "malformed tokenizer");
    texts_free(&two);
    texts_free(&three);
    texts_free(&many);
}

static int stop_in_phase(const char *phase, int64_t done, int64_t total, void *arg)
{
    (void) done;
    (void) total;
    return !strcmp(phase, arg);
}

static void test_cancel(const struct texts *texts, const char *tokenizer, const char *phase)
{
    char message[1024] = "";
    struct settings s = plain;
    struct tlaw_frozen_message report;
    int spool = temporary_file(), fd = temporary_file(), failed;
    struct corpus corpus;
    struct freeze *f = freeze_begin(tokenizer, NULL, 0, 0.1, 0.1, 0, spool, message, sizeof message);

    for (size_t i = 0; i < texts->n; i++)
        put_document(f, texts, &s, i, message);
    failed = freeze_finish(f, fd, &report, stop_in_phase, (void *) phase, message, sizeof message);
    ok(failed && !strcmp(message, "cancelled"), "a freeze stops in phase %s: %s", phase, message);
    if (strcmp(phase, "hash"))
        ok(corpus_open(&corpus, fd, message, sizeof message), "what it left is no token file: %s", message);
    freeze_free(f);
    close(spool);
    close(fd);
}

static int64_t resident_kib(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long long kib = 0;

    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lld", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib;
}

/* A larger corpus: speed, and memory that does not grow with the text. */
static void test_large(void)
{
    struct texts texts = made_texts(50, 6);
    char *numbered = malloc(texts.size + 64), message[1024] = "";
    int spool = temporary_file(), fd = temporary_file(), calls = 0, failed = 0;
    struct freeze *f = freeze_begin("bytes", NULL, 0, 0.05, 0.05, 0, spool, message, sizeof message);
    struct tlaw_frozen_message report = {0};
    double start = seconds_now(), seconds;
    int64_t before = resident_kib(), bytes = 0;

    for (int i = 0; i < 40000 && !failed; i++) {
        size_t d = (size_t) i % 50, size = texts.start[d + 1] - texts.start[d];
        int head = sprintf(numbered, "%d: ", i);

        memcpy(numbered + head, texts.bytes + texts.start[d], size);
        failed = freeze_document(f, NULL, -1, numbered, size + (size_t) head, 0, message, sizeof message);
        bytes += (int64_t) size + head;
    }
    failed = failed || freeze_finish(f, fd, &report, count_calls, &calls, message, sizeof message);
    seconds = seconds_now() - start;
    ok(!failed && report.bytes == bytes && report.documents == 40000,
       "%.0f MB are frozen in %.2f s (%.0f MB/s) %s", (double) bytes / 1e6, seconds,
       (double) bytes / 1e6 / seconds, message);
    ok(resident_kib() - before < 16 * 1024, "with %" PRId64 " KiB of memory", resident_kib() - before);
    freeze_free(f);
    free(numbered);
    close(spool);
    close(fd);
    texts_free(&texts);
}

int main(void)
{
    struct texts texts = made_texts(400, 9);

    test_large();
    test_round_trip();
    test_groups();
    test_equal_documents();
    test_subsets();
    test_bpe();
    test_long_documents();
    test_errors();
    test_cancel(&texts, "bytes", "sort");
    test_cancel(&texts, "bpe:600", "tokenizer");
    test_cancel(&texts, "bytes", "encode");
    test_cancel(&texts, "bytes", "hash");
    texts_free(&texts);
    return tap_end();
}
