/*
 * Corrupted token files and tokenizers: each is refused, or is safe to use; none crashes.  Run it under
 * -fsanitize=address,undefined after a change of what it tests.
 */
#include "../../kernels/text/freeze.h"
#include "../../kernels/text/tokenizer.h"
#include "tap.h"
#include "texts.h"

static int go_on(const char *phase, int64_t done, int64_t total, void *arg)
{
    (void) phase;
    (void) done;
    (void) total;
    (void) arg;
    return 0;
}

/* A token file of a few documents, in memory. */
static char *make_file(const char *tokenizer, size_t *size)
{
    struct texts texts = made_texts(60, 1);
    char message[1024] = "", *bytes;
    struct tlaw_frozen_message report = {0};
    int spool = temporary_file(), fd = temporary_file();
    struct freeze *f = freeze_begin(tokenizer, NULL, 0, 0.1, 0.1, 0, spool, message, sizeof message);

    for (size_t i = 0; i < texts.n; i++)
        freeze_document(f, NULL, -1, texts.bytes + texts.start[i], texts.start[i + 1] - texts.start[i], 0,
                        message, sizeof message);
    ok(!freeze_finish(f, fd, &report, go_on, NULL, message, sizeof message), "a token file with %s %s",
       tokenizer, message);
    *size = (size_t) report.file_bytes;
    bytes = malloc(*size);
    ok(pread(fd, bytes, *size, 0) == (ssize_t) *size, "is %zu bytes", *size);
    freeze_free(f);
    close(spool);
    close(fd);
    texts_free(&texts);
    return bytes;
}

/* Changes some bytes: anywhere, in the header, or a whole number of it. */
static void corrupt(char *bytes, size_t size, size_t head, uint64_t *random)
{
    static const int64_t odd[] = {0, 1, -1, 7, 8, INT64_MAX, INT64_MIN, INT64_MAX / 2, UINT32_MAX, 1 << 20};
    size_t changes = 1 + next_random(random) % 3;

    while (changes--) {
        uint64_t kind = next_random(random) % 4;
        size_t at = next_random(random) % (kind == 0 ? size : head);

        if (kind < 2 || head < 16) {
            bytes[at] ^= (char) (1 << next_random(random) % 8);
        } else {
            uint64_t value, which = next_random(random) % (sizeof odd / sizeof *odd);

            at = at / 8 * 8 + 8 <= head ? at / 8 * 8 : 0;
            memcpy(&value, bytes + at, 8);
            value = kind == 2 ? (uint64_t) odd[which] : value + next_random(random) % 65 - 32;
            memcpy(bytes + at, &value, 8);
        }
    }
}

/* Everything that a run does with a corpus that opened. */
static int64_t use(const struct corpus *c)
{
    int64_t sum = 0, bytes, documents, n = c->header->tokens[PART_TRAIN];
    uint16_t *tokens = malloc((size_t) (n + 1) * sizeof *tokens);
    char message[256];
    struct tokenizer *t =
        tokenizer_load(c->tokenizer, (size_t) c->header->tokenizer_bytes, message, sizeof message);

    for (int part = 0; part < PART_COUNT; part++)
        for (int64_t i = 0; i < c->header->documents[part]; i++)
            for (uint32_t k = 0; k < c->documents[part][i].tokens; k++) {
                size_t size;

                tokenizer_token(t, c->tokens[c->documents[part][i].token_start + k], &size);
                sum += (int64_t) size;
            }
    if (n > 0)
        corpus_subset(c, 1, n, tokens, &bytes, &documents, message, sizeof message);
    tokenizer_free(t);
    free(tokens);
    return sum;
}

static void test_files(const char *tokenizer, int rounds)
{
    size_t size, length;
    char *bytes = make_file(tokenizer, &size), *copy = malloc(size + 64), message[1024];
    int opened = 0, silent = 0;
    uint64_t random = 2;

    for (int i = 0; i < rounds; i++) {
        int fd = temporary_file();
        struct corpus corpus;

        memset(copy + size, 0, 64);
        memcpy(copy, bytes, size);
        length = next_random(&random) % 8 ? size : next_random(&random) % (size + 64);
        if (length == size)
            corrupt(copy, size, sizeof(struct corpus_header) + 16, &random);
        message[0] = 0;
        if (write(fd, copy, length) != (ssize_t) length) {
            perror("write");
        } else if (!corpus_open(&corpus, fd, message, sizeof message)) {
            opened++;
            use(&corpus);
            corpus_close(&corpus);
        } else {
            silent += message[0] == 0;
        }
        close(fd);
    }
    ok(opened > 0 && opened < rounds, "%d of %d corrupted files are refused, the others used",
       rounds - opened, rounds);
    ok(silent == 0, "each refusal says why");
    free(bytes);
    free(copy);
}

static void test_tokenizers(int rounds)
{
    size_t size;
    char *bytes = make_file("bpe:700", &size), *copy = malloc(size), message[1024], text[300];
    const struct corpus_header *header = (const struct corpus_header *) bytes;
    const char *definition = bytes + header->tokenizer_offset;
    size_t definition_size = (size_t) header->tokenizer_bytes;
    int loaded = 0, lossy = 0;
    uint64_t random = 3;

    for (int i = 0; i < rounds; i++) {
        size_t length =
            next_random(&random) % 4 ? definition_size : next_random(&random) % (definition_size + 1);
        char *exact = malloc(length + 1);
        struct tokenizer *t;

        memcpy(copy, definition, definition_size);
        corrupt(copy, definition_size, definition_size, &random);
        memcpy(exact, copy, length);
        if ((t = tokenizer_load(exact, length, message, sizeof message))) {
            uint16_t tokens[sizeof text];
            size_t at = 0, n;

            loaded++;
            for (size_t k = 0; k < sizeof text; k++)
                text[k] = (char) (next_random(&random) % 3 ? 'a' + next_random(&random) % 26 : ' ');
            n = tokenizer_encode(t, text, sizeof text, tokens);
            for (size_t k = 0, part; k < n; k++, at += part) {
                const void *spelled = tokenizer_token(t, tokens[k], &part);

                lossy += at + part > sizeof text || memcmp(text + at, spelled, part);
            }
            lossy += at != sizeof text;
            tokenizer_free(t);
        }
        free(exact);
    }
    ok(loaded > 0 && loaded < rounds, "%d of %d corrupted tokenizers are refused", rounds - loaded, rounds);
    ok(lossy == 0, "and what the others encode comes back");
    free(bytes);
    free(copy);
}

int main(void)
{
    test_files("bytes", 4000);
    test_files("bpe:600", 1000);
    test_tokenizers(3000);
    return tap_end();
}
