/*
 * Tokenizers: the scanner against PCRE2's own match, lossless round trips, merges against a plain
 * implementation, speed.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "../oracle/bpe.h"
#include "../../kernels/text/bpe_train.h"
#include "../../kernels/text/pretokenize.h"
#include "../../kernels/text/tokenizer.h"
#include "tap.h"
#include "texts.h"

static const char *const pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static size_t put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char) code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char) (0xC0 | code >> 6);
        out[1] = (char) (0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char) (0xE0 | code >> 12);
        out[1] = (char) (0x80 | (code >> 6 & 63));
        out[2] = (char) (0x80 | (code & 63));
        return 3;
    }
    out[0] = (char) (0xF0 | code >> 18);
    out[1] = (char) (0x80 | (code >> 12 & 63));
    out[2] = (char) (0x80 | (code >> 6 & 63));
    out[3] = (char) (0x80 | (code & 63));
    return 4;
}

/* ---- the scanner ---- */

static pcre2_code *compile(void)
{
    int error;
    size_t offset;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR) pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                                     &error, &offset, NULL);

    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    return code;
}

/* The position where the scanner and PCRE2 first differ, or -1.  The text is well-formed UTF-8. */
static long first_difference(const pcre2_code *code, const char *text, size_t size, size_t *pieces)
{
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(code, NULL);
    PCRE2_SIZE *ovector = pcre2_get_ovector_pointer(match);
    size_t at = 0;

    for (; at < size; ++*pieces) {
        if (pcre2_match(code, (PCRE2_SPTR) text, size, at, PCRE2_NO_UTF_CHECK, match, NULL) < 1 ||
            ovector[0] != at || pretoken_end((const unsigned char *) text, size, at) != ovector[1])
            break;
        at = ovector[1];
    }
    pcre2_match_data_free(match);
    return at < size ? (long) at : -1;
}

/* Characters that meet: all classes, contractions, several spaces, some of every script. */
static size_t random_text(char *out, size_t characters, uint64_t *random)
{
    static const char *const common[] = {
        " ", " ",  " ",    "  ", "\n", "\t", "\r\n", "'s",       "'re",          "'ll",      "'",
        "a", "re", "Word", "12", "3",  ".",  "--",   "\xC2\xA0", "\xE3\x80\x80", "\xCC\x81", "\xE2\x80\x99s"};
    size_t size = 0;

    for (size_t i = 0; i < characters; i++) {
        uint64_t draw = next_random(random);
        uint32_t code = (uint32_t) (draw >> 32) % (draw & 8 ? 0x110000u : draw & 16 ? 0x3000u : 0x20000u);

        if (draw % 8 < 6) {
            const char *text = common[(draw >> 8) % (sizeof common / sizeof *common)];

            memcpy(out + size, text, strlen(text));
            size += strlen(text);
        } else if (code < 0xD800 || code > 0xDFFF) {
            size += put_utf8(out + size, code);
        }
    }
    return size;
}

/* With a line end every 100 characters, so that no piece is as long as the longest allowed. */
static char *all_of_unicode(size_t *size)
{
    char *text = malloc(5 * 0x110000);

    *size = 0;
    for (uint32_t code = 0; code < 0x110000; code++) {
        if (code < 0xD800 || code > 0xDFFF)
            *size += put_utf8(text + *size, code);
        if (code % 100 == 99)
            text[(*size)++] = '\n';
    }
    return text;
}

static void test_scanner(const struct texts *texts, const char *what)
{
    pcre2_code *code = compile();
    size_t pieces = 0, size;
    uint64_t random = 1;
    char *text = all_of_unicode(&size), *mixed = malloc(1 << 20);
    long at = first_difference(code, text, size, &pieces);

    ok(at < 0, "all of Unicode in order is cut as PCRE2 cuts it (%zu pieces, first difference at %ld)",
       pieces, at);
    for (int i = 0; i < 50 && at < 0; i++) {
        size = random_text(mixed, 20000, &random);
        at = first_difference(code, mixed, size, &pieces);
    }
    ok(at < 0, "random mixtures too (%zu pieces)", pieces);
    pieces = 0;
    at = first_difference(code, texts->bytes, texts->start[texts->n / 4], &pieces);
    ok(at < 0, "%s too (%zu pieces)", what, pieces);
    free(text);
    free(mixed);
    pcre2_code_free(code);
}

/* Bytes that are no UTF-8 are cut like U+F8FF, which is no letter, number or space either. */
static void test_broken_utf8(void)
{
    static const char *const broken[] = {"\x80",
                                         "\xBF",
                                         "\xC0\x80",
                                         "\xC1\xBF",
                                         "\xE0\x80\x80",
                                         "\xED\xA0\x80",
                                         "\xED\xBF\xBF",
                                         "\xF0\x80\x80\x80",
                                         "\xF4\x90\x80\x80",
                                         "\xF5",
                                         "\xFF",
                                         "\xE2\x82",
                                         "\xF0\x9F\x98",
                                         "\xC3"};
    pcre2_code *code = compile();
    uint64_t random = 2;
    size_t wrong = 0, n = sizeof broken / sizeof *broken;

    for (int i = 0; i < 20000; i++) {
        char text[200], image[600];
        size_t size = 0, image_size = 0, ends[200] = {0}, pieces = 0;

        for (int k = 0; k < 8; k++) {
            char good[64];
            const char *bad = broken[next_random(&random) % n];
            size_t length = random_text(good, 2, &random), bytes = strlen(bad);

            memcpy(text + size, good, length);
            memcpy(image + image_size, good, length);
            for (size_t c = 0; c < length; c++)
                ends[size + c + 1] = image_size + c + 1;
            size += length;
            image_size += length;
            if (length > 0 && (good[0] & 0xC0) == 0x80)
                continue;
            for (size_t c = 0; c < bytes; c++) {
                text[size++] = bad[c];
                image_size += put_utf8(image + image_size, 0xF8FF);
                ends[size] = image_size;
            }
            text[size++] = '!'; /* so that the bytes that follow do not complete a character */
            image[image_size++] = '!';
            ends[size] = image_size;
        }
        for (size_t at = 0, image_at = 0; at < size; at = pieces) {
            pieces = pretoken_end((unsigned char *) text, size, at);
            image_at = pretoken_end((unsigned char *) image, image_size, image_at);
            if (ends[pieces] != image_at) {
                wrong++;
                break;
            }
        }
        if (first_difference(code, image, image_size, &(size_t){0}) >= 0)
            wrong++;
    }
    ok(wrong == 0, "bytes that are no UTF-8 count as characters of no class (%zu of 20000 texts wrong)",
       wrong);
    pcre2_code_free(code);
}

/* ---- round trips ---- */

static bool round_trip(struct tokenizer *t, const char *text, size_t size)
{
    uint16_t *tokens = malloc((size + 1) * sizeof *tokens);
    size_t n = tokenizer_encode(t, text, size, tokens), at = 0;
    bool same = true;

    for (size_t i = 0; i < n && same; i++) {
        size_t length;
        const void *bytes = tokenizer_token(t, tokens[i], &length);

        same =
            tokens[i] < tokenizer_end_of_text(t) && length <= size - at && !memcmp(text + at, bytes, length);
        at += length;
    }
    free(tokens);
    return same && at == size;
}

static void test_round_trips(struct tokenizer *t, const char *name)
{
    uint64_t random = 3;
    size_t size, wrong = 0;
    char *text = all_of_unicode(&size);

    ok(round_trip(t, text, size), "%s: all of Unicode comes back", name);
    for (size_t i = 0; i < size; i++)
        text[i] = (char) next_random(&random);
    ok(round_trip(t, text, size), "%s: random bytes come back", name);
    for (int i = 0; i < 3000; i++) {
        char few[64];
        size_t n = next_random(&random) % 64;

        for (size_t k = 0; k < n; k++)
            few[k] =
                next_random(&random) % 3 ? (char) next_random(&random) : "a \xe2'"[next_random(&random) % 4];
        wrong += !round_trip(t, few, n);
    }
    ok(wrong == 0, "%s: short random byte strings come back, the empty one too", name);
    free(text);
}

/* Windows of a few sizes give the tokens that the whole text gives. */
static void test_windows(struct tokenizer *t, const struct texts *texts)
{
    size_t size = texts->size < 2000000 ? texts->size : 2000000, n, wrong = 0;
    uint16_t *whole = malloc(size * sizeof *whole), *pieces = malloc((size + 1) * sizeof *pieces);
    uint64_t random = 4;

    n = tokenizer_encode(t, texts->bytes, size, whole);
    for (int i = 0; i < 20; i++) {
        size_t at = 0, written = 0, window = 1 + next_random(&random) % 500;

        while (at < size) {
            size_t left = size - at, take = left < window ? left : window, used;

            written +=
                tokenizer_encode_window(t, texts->bytes + at, take, take == left, pieces + written, &used);
            at += used;
            window = used ? 1 + next_random(&random) % 500 : 2 * window;
        }
        wrong += written != n || memcmp(whole, pieces, n * sizeof *whole);
    }
    ok(wrong == 0, "encoding by windows gives the tokens of the whole text");
    free(whole);
    free(pieces);
}

/* ---- merges ---- */

static int never_stop(void *arg)
{
    (void) arg;
    return 0;
}

static int64_t train(const char *text, size_t size, size_t n, uint16_t (*merges)[2])
{
    struct bpe_trainer *trainer = bpe_trainer_new();
    int64_t found = bpe_trainer_count(trainer, text, size, 1);

    found = found == (int64_t) size ? bpe_trainer_run(trainer, n, merges, never_stop, NULL) : -1;
    bpe_trainer_free(trainer);
    return found;
}

/* The textbook: count all pairs in all pieces anew for every merge. */
static size_t train_plainly(const char *text, size_t size, size_t n, uint16_t (*merges)[2])
{
    uint16_t *tokens = malloc(size * sizeof *tokens);
    uint32_t *piece = malloc(size * sizeof *piece), *count = malloc(sizeof *count << 20), id = 0;
    size_t found = 0;

    for (size_t at = 0, end; at < size; at = end, id++) {
        end = pretoken_end((const unsigned char *) text, size, at);
        for (size_t i = at; i < end; i++) {
            tokens[i] = (uint8_t) text[i];
            piece[i] = id;
        }
    }
    for (; found < n; found++) {
        uint32_t best = 0;
        size_t kept = 0;

        memset(count, 0, sizeof *count << 20);
        for (size_t i = 0; i + 1 < size; i++)
            if (piece[i] == piece[i + 1])
                count[tokens[i] << 10 | tokens[i + 1]]++;
        for (uint32_t key = 1; key < 1 << 20; key++)
            best = count[key] > count[best] ? key : best;
        if (count[best] < 2)
            break;
        merges[found][0] = (uint16_t) (best >> 10);
        merges[found][1] = best & 1023;
        for (size_t i = 0; i < size; i++, kept++) {
            bool pair = i + 1 < size && piece[i] == piece[i + 1] &&
                        (uint32_t) (tokens[i] << 10 | tokens[i + 1]) == best;

            piece[kept] = piece[i];
            tokens[kept] = pair ? (uint16_t) (256 + found) : tokens[i];
            i += pair;
        }
        size = kept;
    }
    free(tokens);
    free(piece);
    free(count);
    return found;
}

/* The textbook: merge after merge over the whole piece, in order of training. */
static size_t encode_plainly(uint16_t (*merges)[2], size_t n_merges, const char *text, size_t size,
                             uint16_t *out)
{
    size_t written = 0;

    for (size_t at = 0, end; at < size; at = end) {
        uint16_t *piece = out + written;
        size_t n = 0;

        end = pretoken_end((const unsigned char *) text, size, at);
        for (size_t i = at; i < end; i++)
            piece[n++] = (uint8_t) text[i];
        for (size_t m = 0; m < n_merges; m++) {
            size_t kept = 0;

            for (size_t i = 0; i < n; i++, kept++) {
                bool pair = i + 1 < n && piece[i] == merges[m][0] && piece[i + 1] == merges[m][1];

                piece[kept] = pair ? (uint16_t) (256 + m) : piece[i];
                i += pair;
            }
            n = kept;
        }
        written += n;
    }
    return written;
}

static void test_training(const struct texts *texts)
{
    enum { N = 300 };
    uint16_t fast[N][2], plain[N][2];
    size_t size = texts->size < 150000 ? texts->size : 150000;
    char runs[4000], message[256];
    struct tokenizer *t;
    uint16_t *a = malloc(size * 2), *b = malloc(size * 2);
    size_t n;
    uint64_t random = 5;

    ok(train(texts->bytes, size, N, fast) == N && train_plainly(texts->bytes, size, N, plain) == N &&
           !memcmp(fast, plain, sizeof fast),
       "training finds the merges that counting anew each time finds");
    t = tokenizer_bpe(fast, N, message, sizeof message);
    n = tokenizer_encode(t, texts->bytes, size, a);
    ok(n == encode_plainly(fast, N, texts->bytes, size, b) && !memcmp(a, b, n * 2),
       "encoding gives the tokens that merging in order gives");
    for (size_t i = 0; i < sizeof runs; i++) /* long runs of few letters: overlapping pairs, long pieces */
        runs[i] = i % 701 == 0 ? ' ' : next_random(&random) % 9 ? 'a' : 'b';
    n = (size_t) train(runs, sizeof runs, 60, fast);
    ok(n == train_plainly(runs, sizeof runs, n, plain) && n > 20 && !memcmp(fast, plain, n * 4),
       "training on runs of a letter too (%zu merges)", n);
    tokenizer_free(t);
    t = tokenizer_bpe(fast, n, message, sizeof message);
    size = tokenizer_encode(t, runs, sizeof runs, a);
    ok(size == encode_plainly(fast, n, runs, sizeof runs, b) && !memcmp(a, b, size * 2),
       "encoding runs of a letter too");
    tokenizer_free(t);
    free(a);
    free(b);
}

/* Whether the text encodes to exactly the expected tokens. */
static bool encodes_to(struct tokenizer *t, const uint8_t *text, size_t size, const uint16_t *expected,
                       size_t n)
{
    uint16_t *tokens = malloc(size * sizeof *tokens);
    bool same = tokenizer_encode(t, text, size, tokens) == n && !memcmp(tokens, expected, n * sizeof *tokens);

    free(tokens);
    return same;
}

/* Numbers made with Hugging Face tokenizers, see regress/oracle/bpe.py. */
static void test_oracle(void)
{
    char message[256] = "";
    uint16_t merges[ORACLE_MERGES][2], ours[sizeof oracle_text];
    struct tokenizer *t = tokenizer_bpe((const void *) oracle_merges, ORACLE_MERGES, message, sizeof message);
    size_t n = sizeof oracle_text_tokens / 2, n_ours;
    int64_t found;

    ok(t && encodes_to(t, oracle_text, sizeof oracle_text, oracle_text_tokens, n),
       "the merges of Hugging Face tokenizers give its tokens on the text they are trained on %s", message);
    ok(t && encodes_to(t, oracle_other, sizeof oracle_other, oracle_other_tokens,
                       sizeof oracle_other_tokens / 2),
       "and on a text of other words, numbers, spaces and scripts");
    tokenizer_free(t);
    found = train((const char *) oracle_text, sizeof oracle_text, ORACLE_MERGES, merges);
    t = tokenizer_bpe((const void *) merges, found < 0 ? 0 : (size_t) found, message, sizeof message);
    n_ours = tokenizer_encode(t, oracle_text, sizeof oracle_text, ours);
    ok(found == ORACLE_MERGES && labs((long) n_ours - (long) n) <= (long) n / 100,
       "training here finds %lld merges that make %zu tokens of it, there %d and %zu (ties are broken "
       "otherwise)",
       (long long) found, n_ours, ORACLE_MERGES, n);
    tokenizer_free(t);
}

static void expect_malformed(const void *definition, size_t size, const char *why)
{
    char message[256] = "";
    struct tokenizer *t = tokenizer_load(definition, size, message, sizeof message);

    ok(!t, "%s: %s", why, message);
    tokenizer_free(t);
}

static void test_definitions(struct tokenizer *t)
{
    char message[256];
    size_t size, again_size;
    char *definition = tokenizer_save(t, &size), *again;
    struct tokenizer *loaded = tokenizer_load(definition, size, message, sizeof message);
    uint16_t doubling[8 + 4] = {0};

    again = tokenizer_save(loaded, &again_size);
    ok(size == again_size && !memcmp(definition, again, size) &&
           tokenizer_vocab_size(t) == tokenizer_vocab_size(loaded) &&
           tokenizer_end_of_text(t) == tokenizer_vocab_size(t) - 1,
       "a definition is saved and loaded");
    expect_malformed(definition, size - 1, "cut short");
    expect_malformed(definition, 0, "empty");
    memcpy(again + size - 4, again + 8, 4);
    expect_malformed(again, size, "a pair twice");
    memcpy(again + 8, "\xff\xff\x00\x00", 4);
    expect_malformed(again, size, "a token that is not there yet");
    again = realloc(again, 8 + 4 * 10);
    memcpy(again, definition, 8);
    for (int i = 0; i < 8; i++) {
        doubling[0] = doubling[1] = (uint16_t) (i ? 255 + i : 'a');
        memcpy(again + 8 + 4 * i, doubling, 4);
    }
    expect_malformed(again, 8 + 4 * 8, "a token of 256 bytes");
    tokenizer_free(loaded);
    free(definition);
    free(again);
}

static void test_speed(const struct texts *texts)
{
    enum { VOCAB = 4096 };
    static uint16_t merges[VOCAB - 257][2];
    char message[256];
    size_t size = texts->size < 20000000 ? texts->size : 20000000, n;
    uint16_t *tokens = malloc(texts->size * sizeof *tokens);
    double start = seconds_now(), seconds;
    int64_t found = train(texts->bytes, size, VOCAB - 257, merges);
    struct tokenizer *t;

    seconds = seconds_now() - start;
    ok(found == VOCAB - 257 && seconds < 200, "bpe:4096 is trained on %.1f MB in %.2f s", (double) size / 1e6,
       seconds);
    start = seconds_now();
    t = tokenizer_bpe(merges, VOCAB - 257, message, sizeof message);
    n = tokenizer_encode(t, texts->bytes, texts->size, tokens);
    seconds = seconds_now() - start;
    ok((double) texts->size / 1e6 / seconds > 1, "and encodes %.1f MB at %.1f MB/s, %.3f bytes a token",
       (double) texts->size / 1e6, (double) texts->size / 1e6 / seconds, (double) texts->size / (double) n);
    test_round_trips(t, "bpe:4096");
    test_windows(t, texts);
    test_definitions(t);
    tokenizer_free(t);
    free(tokens);
}

/* Long pieces: nothing takes quadratic time. */
static void test_long_pieces(void)
{
    enum { SIZE = 10000000, N = 400 };
    uint16_t merges[N][2], *tokens = malloc(SIZE * sizeof *tokens);
    char *run = malloc(SIZE), message[256];
    uint64_t random = 6;

    for (int letters = 1; letters <= 4; letters += 3) {
        double start, trained, encoded;
        int64_t found;
        struct tokenizer *t;
        size_t n;

        for (size_t i = 0; i < SIZE; i++)
            run[i] = "acgt"[next_random(&random) % (unsigned) letters];
        start = seconds_now();
        found = train(run, SIZE, N, merges);
        trained = seconds_now() - start;
        t = tokenizer_bpe(merges, found < 0 ? 0 : (size_t) found, message, sizeof message);
        n = tokenizer_encode(t, run, SIZE, tokens);
        encoded = seconds_now() - start - trained;
        ok(found >= 7 && n < SIZE / 3 && trained < 100 && encoded < 100,
           "10 MB in one run of %d letters: %lld merges in %.2f s, %zu tokens in %.2f s", letters,
           (long long) found, trained, n, encoded);
        ok(round_trip(t, run, SIZE), "and they come back");
        tokenizer_free(t);
    }
    free(run);
    free(tokens);
}

int main(void)
{
    char message[256] = "";
    struct texts web = corpus_texts("web"), texts = web.n ? web : made_texts(20000, 8);
    struct tokenizer *bytes = tokenizer_bytes();
    double start = seconds_now();
    int failed;

    failed = pretokenize_init(message, sizeof message);
    ok(!failed, "character classes are built in %.0f ms %s", 1e3 * (seconds_now() - start), message);
    test_scanner(&texts, web.n ? "a quarter of the corpus web" : "generated text");
    test_broken_utf8();
    test_round_trips(bytes, "bytes");
    test_training(&texts);
    test_oracle();
    test_speed(&texts);
    test_long_pieces();
    tokenizer_free(bytes);
    texts_free(&texts);
    return tap_end();
}
