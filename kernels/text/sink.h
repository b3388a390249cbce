/* A buffered writer at its own offset of a file, so that several can fill one file. */
#ifndef TLAW_SINK_H
#define TLAW_SINK_H

#include <stddef.h>
#include <stdint.h>

#define SINK_SIZE (256 * 1024)

struct sink {
    int fd;
    int64_t offset; /* in the file, of the next byte put */
    size_t used;
    unsigned char data[SINK_SIZE]; /* the last `used` bytes before offset, not yet written */
};

/* 0, or -1 and errno. */
int sink_put(struct sink *sink, const void *data, size_t size);
int sink_flush(struct sink *sink);
/* Reads or writes the whole range; 0, or -1 and errno (EIO where the file ends early). */
int read_range(int fd, void *data, size_t size, int64_t offset);
int write_range(int fd, const void *data, size_t size, int64_t offset);

#endif
