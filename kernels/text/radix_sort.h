/*
 * In-place sort of fixed-size records by a leading key of bytes (American flag sort: most significant byte
 * first). Needs no memory beyond the records, whatever their number.
 */
#ifndef TLAW_RADIX_SORT_H
#define TLAW_RADIX_SORT_H

#include <stddef.h>

#define RADIX_MAX_RECORD 64

/*
 * Sorts n records of `size` bytes (at most RADIX_MAX_RECORD) in memcmp order of their first key_size bytes;
 * not stable.  tick(arg), where given, is called every few thousand records; when it returns non-zero the
 * sort stops, the records in some order, and returns -1.
 */
int radix_sort(void *records, size_t n, size_t size, size_t key_size, int (*tick)(void *), void *arg);

#endif
