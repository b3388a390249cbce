/*
 * Text for kernel tests: generated documents, and the corpora of the folder TLAW_CORPORA (PostgreSQL COPY
 * text format, xz) where they are.
 */
#ifndef TLAW_TEXTS_H
#define TLAW_TEXTS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct texts {
    char *bytes;
    size_t size, n; /* bytes, documents */
    size_t *start;  /* n + 1 offsets */
};

static inline uint64_t next_random(uint64_t *state) /* SplitMix64 */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static inline double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

/* An unnamed temporary file. */
static inline int temporary_file(void)
{
    char path[] = "/tmp/tlaw-test-XXXXXX";
    int fd = mkstemp(path);

    if (fd >= 0)
        unlink(path);
    else
        perror("mkstemp");
    return fd;
}

static inline void texts_add(struct texts *texts, const void *text, size_t size)
{
    texts->bytes = realloc(texts->bytes, texts->size + size + 1);
    texts->start = realloc(texts->start, (texts->n + 2) * sizeof *texts->start);
    memcpy(texts->bytes + texts->size, text, size);
    texts->start[texts->n] = texts->size;
    texts->start[++texts->n] = texts->size += size;
}

static inline void texts_free(struct texts *texts)
{
    free(texts->bytes);
    free(texts->start);
    memset(texts, 0, sizeof *texts);
}

/* n documents of words with Zipf-like frequencies, 5 to 400 words each, all different. */
static inline struct texts made_texts(size_t n, uint64_t seed)
{
    struct texts texts = {0};
    char *document = malloc(400 * 20);

    for (size_t i = 0; i < n; i++) {
        size_t words = 5 + next_random(&seed) % 396, size = 0;

        for (size_t w = 0; w < words; w++) {
            uint64_t rank = (uint64_t) 1 << next_random(&seed) % 12, word = next_random(&seed) % rank + rank;
            uint64_t letters = word * 0x9E3779B97F4A7C15u;

            if (w > 0)
                document[size++] = w % 17 == 0 ? '\n' : ' ';
            for (size_t length = 2 + word % 7; length > 0; length--, letters /= 26)
                document[size++] = (char) ('a' + letters % 26);
            if (word % 31 == 0)
                size += (size_t) sprintf(document + size, "'s, %d", (int) (word % 1000));
        }
        texts_add(&texts, document, size);
    }
    free(document);
    return texts;
}

/* The documents of a corpus; none where it is missing. */
static inline struct texts corpus_texts(const char *name)
{
    struct texts texts = {0};
    const char *folder = getenv("TLAW_CORPORA");
    char path[4096], command[5000], *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    FILE *file;

    snprintf(path, sizeof path, "%s/%s.copy.xz", folder ? folder : "../shared/corpora", name);
    if (access(path, R_OK))
        return texts;
    snprintf(command, sizeof command, "xz -dc '%s'", path);
    file = popen(command, "r");
    while (file && (length = getline(&line, &capacity, file)) > 0) {
        size_t size = 0;

        for (ssize_t i = 0; i < length && line[i] != '\n'; i++) {
            char c = line[i];

            if (c == '\\') {
                c = line[++i];
                c = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
            }
            line[size++] = c;
        }
        texts_add(&texts, line, size);
    }
    free(line);
    if (file)
        pclose(file);
    return texts;
}

#endif
