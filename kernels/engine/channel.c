/*
 * Frames on the socket: what comes in is checked whole before anybody sees it, what goes out blocks until
 * taken.
 *
 * Invariant: the end of the other side's file ends this process with 0, at once.  Reads and writes notice by
 * themselves; during computation SIGIO arrives on the main thread and its handler looks.  The sockets of many
 * runs are not watched so: a run notices between two steps or batches, and ends alone.
 */
#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PROGRESS_INTERVAL 0.25
#define SHA256_SIZE       32

double engine_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
}

/* ---- the parent's end ---- */

static bool parent_is_gone(void)
{
    struct pollfd look = {.fd = TLAW_FD_SOCKET, .events = POLLRDHUP};

    return poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void on_terminate(int signal)
{
    (void) signal;
    _exit(0);
}

static void on_socket(int signal)
{
    int saved = errno;

    (void) signal;
    if (parent_is_gone())
        _exit(0);
    errno = saved;
}

void engine_watch_parent(struct engine *e)
{
    struct f_owner_ex owner = {.type = F_OWNER_TID, .pid = gettid()};
    struct sigaction action = {.sa_handler = on_terminate, .sa_flags = SA_RESTART};

    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = on_socket;
    sigaction(SIGIO, &action, NULL);
    if (fcntl(e->socket, F_SETOWN_EX, &owner) || fcntl(e->socket, F_SETFL, O_ASYNC))
        engine_fail(e, "internal", "cannot watch the socket: %s", strerror(errno));
    if (parent_is_gone())
        _exit(0);
}

/* ---- the end ---- */

void engine_end(struct engine *e, int status)
{
    if (e->serves)
        longjmp(e->end, 1);
    _exit(status); /* threads may be at work: no destructors */
}

int engine_attempt(struct engine *e, void (*step)(void *arg), void *arg)
{
    jmp_buf outer;
    int ended;

    memcpy(&outer, &e->end, sizeof outer);
    ended = setjmp(e->end);
    if (!ended)
        step(arg);
    memcpy(&e->end, &outer, sizeof outer);
    return ended ? -1 : 0;
}

/* ---- sending ---- */

static void send_bytes(struct engine *e, const unsigned char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(e->socket, data, size, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            engine_end(e, 0); /* EPIPE, ECONNRESET: an orphan */
        data += sent;
        size -= (size_t) sent;
    }
}

void engine_send(struct engine *e, enum tlaw_message type, const void *message)
{
    e->out.size = 0;
    if (tlaw_wire_encode(&e->out, type, message))
        engine_fail(e, "memory", "no memory to send a %s message", tlaw_wire_name(type));
    send_bytes(e, e->out.data, e->out.size);
}

void engine_send_checkpoint(struct engine *e, const char *kind, int64_t step, const void *data, size_t size)
{
    unsigned char digest[SHA256_SIZE];
    size_t first_chunk = size < TLAW_CHUNK_SIZE ? size : TLAW_CHUNK_SIZE;
    struct tlaw_checkpoint_message checkpoint = {
        .step = step, .bytes = (int64_t) size, .sha256 = {digest, sizeof digest}};

    if (!EVP_Digest(data, size, digest, NULL, EVP_sha256(), NULL))
        engine_fail(e, "internal", "SHA-256 is not available");
    /* room for the largest frame now, so that no ERROR comes between the announcement and its bytes */
    e->out.size = 0;
    if (tlaw_wire_encode(&e->out, TLAW_CHUNK, &(struct tlaw_chunk_message){{data, first_chunk}}))
        engine_fail(e, "memory", "no memory to send a checkpoint of %zu bytes", size);
    snprintf(checkpoint.kind, sizeof checkpoint.kind, "%s", kind);
    engine_send(e, TLAW_CHECKPOINT, &checkpoint);
    for (size_t at = 0; at < size; at += TLAW_CHUNK_SIZE) {
        size_t left = size - at;
        struct tlaw_chunk_message chunk = {
            .data = {(const char *) data + at, left < TLAW_CHUNK_SIZE ? left : TLAW_CHUNK_SIZE}};

        engine_send(e, TLAW_CHUNK, &chunk);
    }
}

void engine_send_document_losses(struct engine *e, const struct document_loss *records, int64_t count)
{
    const int64_t per_frame = TLAW_CHUNK_SIZE / sizeof *records;

    for (int64_t at = 0; at < count; at += per_frame) {
        int64_t left = count - at;
        struct tlaw_document_losses_message losses = {
            .records = {records + at, sizeof *records * (size_t) (left < per_frame ? left : per_frame)}};

        engine_send(e, TLAW_DOCUMENT_LOSSES, &losses);
    }
}

void engine_progress(struct engine *e, const struct tlaw_progress_message *message)
{
    double now = engine_now();

    if (now - e->progress_sent < PROGRESS_INTERVAL)
        return;
    e->progress_sent = now;
    engine_send(e, TLAW_PROGRESS, message);
}

/* ---- failing ---- */

static _Noreturn void send_error(struct engine *e, const struct tlaw_error_message *error)
{
    if (!e->serves) {
        /* the status tells of the failure, also when the parent closes on hearing of it */
        signal(SIGIO, SIG_IGN);
        fprintf(stderr, "tlaw_engine: %s: %s\n", error->code, error->message);
    }
    e->out.size = 0;
    if (tlaw_wire_encode(&e->out, TLAW_ERROR, error) == 0)
        send_bytes(e, e->out.data, e->out.size);
    engine_end(e, ENGINE_EXIT_FAILED);
}

void engine_fail(struct engine *e, const char *code, const char *format, ...)
{
    struct tlaw_error_message error = {.step = e->step, .grad_norm = e->grad_norm};
    va_list arguments;

    tlaw_wire_buffer_free(&e->out); /* room for the frame, should memory be the trouble */
    snprintf(error.code, sizeof error.code, "%s", code);
    va_start(arguments, format);
    vsnprintf(error.message, sizeof error.message, format, arguments);
    va_end(arguments);
    send_error(e, &error);
}

void engine_unexpected(struct engine *e, enum tlaw_message got, const char *expected)
{
    engine_fail(e, "protocol", "message %s is out of order: expected %s", tlaw_wire_name(got), expected);
}

void engine_fail_call(struct engine *e, const char *code, const char *message)
{
    engine_fail(e, errno == ENOMEM ? "memory" : code, "%s", message);
}

void *engine_alloc(struct engine *e, size_t bytes, const char *what)
{
    void *block = malloc(bytes ? bytes : 1);

    if (!block)
        engine_fail(e, "memory", "no memory for %s: %zu bytes", what, bytes);
    return block;
}

/* ---- receiving ---- */

static void receive_bytes(struct engine *e, unsigned char *data, size_t size)
{
    while (size > 0) {
        ssize_t got = recv(e->socket, data, size, MSG_WAITALL);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            engine_end(e, 0); /* end of file: an orphan */
        data += got;
        size -= (size_t) got;
    }
}

enum tlaw_message engine_receive(struct engine *e, union tlaw_any_message *message)
{
    unsigned char header[TLAW_WIRE_HEADER];
    enum tlaw_message type;
    const char *reason;

    receive_bytes(e, header, sizeof header);
    if (tlaw_wire_header(header, &type, &e->in.size, &reason))
        engine_fail(e, "protocol", "malformed message: %s", reason);
    if (e->in.size > e->in.capacity) {
        size_t size = e->in.size;

        tlaw_wire_buffer_free(&e->in);
        e->in.size = size;
        e->in.data = engine_alloc(e, size, "a message");
        e->in.capacity = e->in.size;
    }
    receive_bytes(e, e->in.data, e->in.size);
    if (tlaw_wire_decode(type, e->in.data, e->in.size, message, &reason))
        engine_fail(e, "protocol", "malformed message %s: %s", tlaw_wire_name(type), reason);
    return type;
}

void *engine_receive_chunks(struct engine *e, int64_t bytes, const char *what)
{
    union tlaw_any_message message;
    unsigned char *block;
    int64_t filled = 0;

    engine_check_range(e, what, (double) bytes, 0, 1e15);
    block = e->block = engine_alloc(e, (size_t) bytes, what);
    while (filled < bytes) {
        enum tlaw_message type = engine_receive(e, &message);
        const struct tlaw_blob *data = &message.chunk.data;

        if (type != TLAW_CHUNK)
            engine_unexpected(e, type, "CHUNK");
        if (data->size == 0 || (int64_t) data->size > bytes - filled)
            engine_fail(e, "protocol",
                        "a chunk of %zu bytes is not accepted: %" PRId64 " of %" PRId64
                        " bytes are outstanding",
                        data->size, bytes - filled, bytes);
        memcpy(block + filled, data->data, data->size);
        filled += (int64_t) data->size;
    }
    e->block = NULL;
    return block;
}

void engine_receive_run(struct engine *e, int descriptors[2])
{
    const size_t size = 2 * sizeof *descriptors;
    unsigned char header[TLAW_WIRE_HEADER];
    union {
        struct cmsghdr aligned;
        char space[CMSG_SPACE(2 * sizeof *descriptors)];
    } control;
    struct iovec part = {header, sizeof header};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    enum tlaw_message type;
    const char *reason = "it is cut short";
    ssize_t got;

    do
        got = recvmsg(e->socket, &message, MSG_WAITALL | MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        engine_end(e, 0);
    if (got < (ssize_t) sizeof header || tlaw_wire_header(header, &type, &e->in.size, &reason))
        engine_fail(e, "protocol", "malformed message: %s", reason);
    if (type != TLAW_RUN || e->in.size)
        engine_unexpected(e, type, "RUN");
    if (message.msg_controllen < CMSG_LEN(size) || control.aligned.cmsg_level != SOL_SOCKET ||
        control.aligned.cmsg_type != SCM_RIGHTS || control.aligned.cmsg_len != CMSG_LEN(size))
        engine_fail(e, "protocol", "message RUN came without its two descriptors");
    memcpy(descriptors, CMSG_DATA(&control.aligned), size);
}

int engine_poll(void *arg)
{
    struct engine *e = arg;
    struct pollfd look = {.fd = e->socket, .events = POLLIN};
    union tlaw_any_message message;

    while (poll(&look, 1, 0) > 0) {
        enum tlaw_message type = engine_receive(e, &message);

        if (type != TLAW_THREADS)
            engine_unexpected(e, type, "THREADS or nothing");
        engine_check_range(e, "threads", (double) message.threads.threads, 1, 1024);
        e->threads = (int) message.threads.threads;
        if (e->device)
            e->backend->set_threads(e->device, e->threads);
    }
    return 0;
}
