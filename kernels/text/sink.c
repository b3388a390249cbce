/* See sink.h. */
#include "sink.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int write_range(int fd, const void *data, size_t size, int64_t offset)
{
    const char *from = data;

    while (size > 0) {
        ssize_t n = pwrite(fd, from, size, offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            errno = n ? errno : ENOSPC;
            return -1;
        }
        from += n;
        offset += n;
        size -= (size_t) n;
    }
    return 0;
}

int read_range(int fd, void *data, size_t size, int64_t offset)
{
    char *to = data;

    while (size > 0) {
        ssize_t n = pread(fd, to, size, offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            errno = n ? errno : EIO;
            return -1;
        }
        to += n;
        offset += n;
        size -= (size_t) n;
    }
    return 0;
}

int sink_flush(struct sink *sink)
{
    size_t used = sink->used;

    sink->used = 0;
    return write_range(sink->fd, sink->data, used, sink->offset - (int64_t) used);
}

int sink_put(struct sink *sink, const void *data, size_t size)
{
    const char *from = data;

    while (size > 0) {
        size_t room = SINK_SIZE - sink->used, n = size < room ? size : room;

        memcpy(sink->data + sink->used, from, n);
        sink->used += n;
        sink->offset += (int64_t) n;
        from += n;
        size -= n;
        if (sink->used == SINK_SIZE && sink_flush(sink))
            return -1;
    }
    return 0;
}
