/* See radix_sort.h. */
#include "radix_sort.h"

#include <stdint.h>
#include <string.h>

#define SMALL_BUCKET   32
#define RECORDS_A_TICK 4096

struct sort {
    size_t size, key_size, moved;
    int (*tick)(void *);
    void *arg;
};

static void insertion_sort(const struct sort *sort, unsigned char *base, size_t n)
{
    unsigned char held[RADIX_MAX_RECORD];
    size_t size = sort->size;

    for (size_t i = 1; i < n; i++) {
        size_t at = i;

        memcpy(held, base + i * size, size);
        while (at > 0 && memcmp(base + (at - 1) * size, held, sort->key_size) > 0) {
            memcpy(base + at * size, base + (at - 1) * size, size);
            at--;
        }
        memcpy(base + at * size, held, size);
    }
}

static int count_records(struct sort *sort, size_t n)
{
    sort->moved += n;
    if (sort->moved < RECORDS_A_TICK)
        return 0;
    sort->moved = 0;
    return sort->tick ? sort->tick(sort->arg) : 0;
}

/* Moves every record into the bucket of its key byte at `depth`; first[b] is where bucket b starts. */
static int permute(struct sort *sort, unsigned char *base, size_t n, size_t depth, size_t first[257])
{
    size_t next[256], size = sort->size;
    unsigned char held[RADIX_MAX_RECORD];

    memset(first, 0, 257 * sizeof first[0]);
    for (size_t i = 0; i < n; i++)
        first[base[i * size + depth] + 1]++;
    for (int b = 0; b < 256; b++)
        first[b + 1] += first[b];
    memcpy(next, first, sizeof next);
    for (int b = 0; b < 256; b++) {
        while (next[b] < first[b + 1]) {
            unsigned char *record = base + next[b] * size;
            size_t to = next[record[depth]]++;

            if (record[depth] != b) {
                memcpy(held, base + to * size, size);
                memcpy(base + to * size, record, size);
                memcpy(record, held, size);
            }
            if (count_records(sort, 1))
                return -1;
        }
    }
    return 0;
}

static int sort_bucket(struct sort *sort, unsigned char *base, size_t n, size_t depth)
{
    size_t first[257];

    if (n <= SMALL_BUCKET) {
        insertion_sort(sort, base, n);
        return count_records(sort, n);
    }
    if (depth == sort->key_size)
        return 0;
    if (permute(sort, base, n, depth, first))
        return -1;
    for (int b = 0; b < 256; b++) {
        size_t count = first[b + 1] - first[b];

        if (count > 1 && sort_bucket(sort, base + first[b] * sort->size, count, depth + 1))
            return -1;
    }
    return 0;
}

int radix_sort(void *records, size_t n, size_t size, size_t key_size, int (*tick)(void *), void *arg)
{
    struct sort sort = {size, key_size, 0, tick, arg};

    return sort_bucket(&sort, records, n, 0);
}
