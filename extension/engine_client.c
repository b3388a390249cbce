/*
 * One engine, from fork to reaping: the spawn contract, the framing, and the reason of its death.
 *
 * Invariants:
 * 1. Every engine that this process started is in `engines` from before its fork until it has been waited
 * for, so that the resource-owner callback and the exit callback find all of them: no path leaves an engine
 * or a zombie.
 * 2. The engine inherits nothing but its descriptors: no data files, no client's socket, no signal handlers
 * or mask, no process group, no environment of the server's.
 * 3. The socket is non-blocking. While this side waits to write it keeps reading, so that the two never wait
 * for each other; it drains the engine's stderr at least every 100 ms, so that the engine never waits for
 * that.
 * 4. A frame that is not as wire.h lists it kills the engine; nothing of it is used.
 * 5. A run of an engine that serves many has a socket of its own; process and last words are the host's.
 *
 * States: alive -> (end of file, a malformed frame, engine_stop) -> dead: reaped, `reason` set.
 */
#include "engine_client.h"

#include <ctype.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/ilist.h"
#include "mb/pg_wchar.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#define SLICE_MS       100       /* longest wait */
#define READ_SIZE      (1 << 18) /* bytes asked of the socket at once */
#define BUFFER_SIZE    (1 << 18) /* bytes that engine_buffer gathers */
#define LAST_WORDS     2048      /* bytes of stderr that are kept */
#define EXIT_PATIENCE  5000      /* ms between an engine's end of file and its end */
#define LOWEST_FREE_FD 16        /* where descriptors wait before they get their numbers */

/* Room for any decoded message. */
#define MESSAGE_MEMBER(NAME, name) struct tlaw_##name##_message name;
union any_message {
    TLAW_WIRE_MESSAGES(MESSAGE_MEMBER)
};

struct engine {
    dlist_node node; /* in engines */
    MemoryContext context;
    ResourceOwner owner; /* NULL: started outside a transaction */
    struct engine *host; /* whose process serves this run; NULL: it has its own */
    int runs;            /* that were opened in this process */
    pid_t pid;           /* 0: not started, or reaped, or the host's */
    int socket, words;   /* -1: closed */

    struct tlaw_wire_buffer out;
    unsigned char *in; /* in[in_start .. in_end) is what came and was not taken */
    size_t in_start, in_end, in_capacity;
    union any_message message;

    bool end_of_file;      /* of the socket: nothing more will come */
    const char *malformed; /* what was wrong with a frame */
    int status;            /* of waitpid */
    char *reason;          /* why it died, once that was found out */
    char last_words[LAST_WORDS];
    size_t last_words_size;
};

static dlist_head engines = DLIST_STATIC_INIT(engines);

/* ---- the child, between fork and exec ---- */

/* Says why on stderr, which is the pipe to the parent, and leaves. */
static void child_die(const char *what, const char *path)
{
    char text[MAXPGPATH + 200];
    int size = snprintf(text, sizeof(text), "could not %s%s%s: %s\n", what, path ? " " : "", path ? path : "",
                        strerror(errno));

    if (size > 0 && write(STDERR_FILENO, text, size) < 0)
        _exit(126);
    _exit(127);
}

/* Puts `fd` (-1: nothing) at the number `to`. */
static void child_place(int fd, int to)
{
    if (fd < 0)
        close(to);
    else if (dup2(fd, to) < 0)
        child_die("place a descriptor", NULL);
}

static void child_descriptors(int socket, int words, int tokens, int spool)
{
    int from[] = {open("/dev/null", O_RDWR), words, socket, tokens, spool};
    int i;

    for (i = 0; i < lengthof(from); i++) { /* out of the way of the numbers they will get */
        if (from[i] >= 0 && (from[i] = fcntl(from[i], F_DUPFD, LOWEST_FREE_FD)) < 0)
            child_die("duplicate a descriptor", NULL);
    }
    child_place(from[1], STDERR_FILENO); /* first: it carries our last words */
    child_place(from[0], STDIN_FILENO);
    child_place(from[0], STDOUT_FILENO);
    child_place(from[2], TLAW_FD_SOCKET);
    child_place(from[3], TLAW_FD_TOKENS);
    child_place(from[4], TLAW_FD_SPOOL);
    if (close_range(TLAW_FD_SPOOL + 1, ~0U, 0) != 0) { /* kernels before 5.9 */
        for (i = TLAW_FD_SPOOL + 1; i < sysconf(_SC_OPEN_MAX); i++)
            close(i);
    }
}

/* The variables that an engine gets: where programs and CUDA are, and no locale. */
static char **child_environment(void)
{
    static const char *const passed[] = {"LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_CACHE_PATH"};
    static char *environment[lengthof(passed) + 3];
    int n = 0;
    int i;

    environment[n++] = "PATH=/usr/local/bin:/usr/bin:/bin";
    environment[n++] = "LC_ALL=C";
    for (i = 0; i < lengthof(passed); i++) {
        if (getenv(passed[i]))
            environment[n++] = psprintf("%s=%s", passed[i], getenv(passed[i]));
    }
    return environment;
}

/* All that the child does; returns never. All signals are blocked when it starts. */
static void child_main(const char *path, char **environment, pid_t parent, int socket, int words, int tokens,
                       int spool, int64 memory_limit)
{
    char *arguments[] = {"tlaw_engine", NULL};
    static const char default_action[64]; /* the kernel's struct sigaction: SIG_DFL, no flags, no mask */
    sigset_t none;
    int i;

    for (i = 1; i < NSIG; i++) /* not by signal(), which leaves out the C library's own 32 and 33 */
        syscall(SYS_rt_sigaction, i, default_action, NULL, (size_t) (NSIG - 1) / 8);
    child_descriptors(socket, words, tokens, spool);
    setsid();
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0)
        child_die("set the parent-death signal", NULL);
    if (getppid() != parent) /* it died before prctl */
        _exit(0);
    if (memory_limit > 0) {
        struct rlimit limit = {memory_limit, memory_limit};

        if (setrlimit(RLIMIT_DATA, &limit) != 0)
            child_die("limit the engine's memory", NULL);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(path, arguments, environment);
    child_die("execute", path);
}

/* ---- the parent: life and death ---- */

/* Closes a descriptor that ReserveExternalFD counted. */
static void close_counted(int *fd)
{
    if (*fd < 0)
        return;
    close(*fd);
    ReleaseExternalFD();
    *fd = -1;
}

/* Kills the engine and waits for it.  Never raises. */
static void reap(struct engine *engine)
{
    if (engine->pid == 0)
        return;
    kill(engine->pid, SIGKILL);
    while (waitpid(engine->pid, &engine->status, 0) < 0 && errno == EINTR)
        ;
    engine->pid = 0;
}

void engine_stop(struct engine *engine)
{
    if (engine == NULL)
        return;
    reap(engine);
    close_counted(&engine->socket);
    close_counted(&engine->words);
    tlaw_wire_buffer_free(&engine->out);
    dlist_delete(&engine->node);
    MemoryContextDelete(engine->context);
}

pid_t engine_pid(const struct engine *engine)
{
    return engine->host ? engine->host->pid : engine->pid;
}

int engine_runs(const struct engine *engine)
{
    return engine->host ? engine->host->runs : engine->runs;
}

int engine_socket(const struct engine *engine)
{
    return engine->socket;
}

/* The resource owner of a query or transaction goes, and the engines that it owns with it. */
static void release_engines(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
    dlist_mutable_iter i;

    if (phase != RESOURCE_RELEASE_BEFORE_LOCKS)
        return;
    dlist_foreach_modify(i, &engines)
    {
        struct engine *engine = dlist_container(struct engine, node, i.cur);

        if (engine->owner != NULL && engine->owner == CurrentResourceOwner)
            engine_stop(engine);
    }
}

/* The process exits. */
static void stop_all_engines(int code, Datum arg)
{
    while (!dlist_is_empty(&engines))
        engine_stop(dlist_head_element(struct engine, node, &engines));
}

/* tlaw_engine in the folder of this library, wherever that was loaded from. */
static char *engine_path(void)
{
    Dl_info info;
    char *path;

    if (dladdr((void *) engine_start, &info) == 0 || info.dli_fname == NULL)
        elog(ERROR, "could not find the folder of the tlaw library");
    path = palloc(MAXPGPATH);
    strlcpy(path, info.dli_fname, MAXPGPATH);
    get_parent_directory(path);
    join_path_components(path, path, "tlaw_engine");
    return path;
}

static struct engine *engine_new(void)
{
    static bool registered = false;
    MemoryContext context;
    struct engine *engine;

    if (!registered) {
        before_shmem_exit(stop_all_engines, (Datum) 0);
        RegisterResourceReleaseCallback(release_engines, NULL);
        registered = true;
    }
    context = AllocSetContextCreate(TopMemoryContext, "tlaw engine", ALLOCSET_DEFAULT_SIZES);
    engine = MemoryContextAllocZero(context, sizeof(struct engine));
    engine->context = context;
    engine->owner = CurrentResourceOwner;
    engine->socket = engine->words = -1;
    dlist_push_tail(&engines, &engine->node);
    return engine;
}

/* In both channels [0] is ours and non-blocking, [1] the engine's. */
static void open_socket(struct engine *engine, int sockets[2])
{
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0)
        ereport(ERROR, (errcode_for_socket_access(), errmsg("could not create a socket pair: %m")));
    engine->socket = sockets[0];
    ReserveExternalFD();
    if (!pg_set_noblock(sockets[0]))
        ereport(ERROR, (errcode_for_socket_access(), errmsg("could not make a socket non-blocking: %m")));
}

static void open_words(struct engine *engine, int pipes[2])
{
    if (pipe2(pipes, O_CLOEXEC) != 0)
        ereport(ERROR, (errcode_for_socket_access(), errmsg("could not create a pipe: %m")));
    engine->words = pipes[0];
    ReserveExternalFD();
    if (!pg_set_noblock(pipes[0]))
        ereport(ERROR, (errcode_for_socket_access(), errmsg("could not make a pipe non-blocking: %m")));
}

static void engine_fork(struct engine *engine, int socket, int words, int tokens_fd, int spool_fd,
                        int64 memory_limit)
{
    char *path = engine_path();
    char **environment = child_environment();
    pid_t parent = getpid();
    sigset_t all, before;
    pid_t pid;

    fflush(stdout);
    fflush(stderr);
    sigfillset(&all); /* so that none of the server's handlers ever runs in the child */
    sigprocmask(SIG_SETMASK, &all, &before);
    pid = fork();
    if (pid == 0)
        child_main(path, environment, parent, socket, words, tokens_fd, spool_fd, memory_limit);
    if (pid > 0)
        engine->pid = pid;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (pid < 0)
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_RESOURCES), errmsg("could not start the engine: %m")));
}

static void close_if_open(int fd)
{
    if (fd >= 0)
        close(fd);
}

struct engine *engine_start(int tokens_fd, int spool_fd, int64 memory_limit)
{
    struct engine *volatile engine = NULL;
    int sockets[2] = {-1, -1};
    int pipes[2] = {-1, -1};

    PG_TRY();
    {
        engine = engine_new();
        open_socket(engine, sockets);
        open_words(engine, pipes);
        engine_fork(engine, sockets[1], pipes[1], tokens_fd, spool_fd, memory_limit);
    }
    PG_CATCH();
    {
        close_if_open(sockets[1]);
        close_if_open(pipes[1]);
        close_if_open(tokens_fd);
        close_if_open(spool_fd);
        engine_stop(engine);
        PG_RE_THROW();
    }
    PG_END_TRY();
    close(sockets[1]);
    close(pipes[1]);
    close_if_open(tokens_fd);
    close_if_open(spool_fd);
    return engine;
}

/* ---- the parent: reading and writing ---- */

static struct engine *process_of(struct engine *engine)
{
    return engine->host ? engine->host : engine;
}

/* Takes what the engine wrote to stderr; keeps the last of it. */
static void drain_words(struct engine *engine)
{
    char text[LAST_WORDS];
    ssize_t n;

    engine = process_of(engine);
    while (engine->words >= 0 && (n = read(engine->words, text, sizeof(text))) > 0) {
        size_t kept = Min(engine->last_words_size, LAST_WORDS - (size_t) n);

        memmove(engine->last_words, engine->last_words + engine->last_words_size - kept, kept);
        memcpy(engine->last_words + kept, text, n);
        engine->last_words_size = kept + n;
    }
}

/* Waits for the socket at most `ms`, a slice at most.  True when the latch was set. */
static bool wait_socket(struct engine *engine, int events, long ms)
{
    int happened =
        WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH | events,
                          events ? engine->socket : PGINVALID_SOCKET, Min(ms, SLICE_MS), PG_WAIT_EXTENSION);

    if (happened & WL_LATCH_SET)
        ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
    return (happened & WL_LATCH_SET) != 0;
}

/* Room for READ_SIZE more bytes at in_end. */
static void make_room(struct engine *engine)
{
    if (engine->in_start == engine->in_end)
        engine->in_start = engine->in_end = 0;
    if (engine->in_capacity - engine->in_end >= READ_SIZE)
        return;
    if (engine->in_start > 0) {
        memmove(engine->in, engine->in + engine->in_start, engine->in_end - engine->in_start);
        engine->in_end -= engine->in_start;
        engine->in_start = 0;
    }
    if (engine->in_capacity - engine->in_end < READ_SIZE) {
        size_t capacity = Max(engine->in_capacity * 2, 2 * READ_SIZE);

        engine->in = engine->in ? repalloc_huge(engine->in, capacity)
                                : MemoryContextAllocHuge(engine->context, capacity);
        engine->in_capacity = capacity;
    }
}

/* Takes what has come, without waiting.  False when there was nothing. */
static bool read_some(struct engine *engine)
{
    ssize_t n;

    drain_words(engine);
    if (engine->end_of_file)
        return false;
    make_room(engine);
    n = recv(engine->socket, engine->in + engine->in_end, READ_SIZE, MSG_DONTWAIT);
    if (n > 0)
        engine->in_end += n;
    else if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        engine->end_of_file = true;
    return n > 0;
}

/* Decodes the frame at in_start into engine->message when all of it is there.  TLAW_NO_MESSAGE: not yet, or
 * malformed. */
static enum tlaw_message take_frame(struct engine *engine)
{
    const unsigned char *frame = engine->in + engine->in_start;
    size_t available = engine->in_end - engine->in_start;
    enum tlaw_message type;
    size_t payload;

    if (engine->malformed || available < TLAW_WIRE_HEADER)
        return TLAW_NO_MESSAGE;
    if (tlaw_wire_header(frame, &type, &payload, &engine->malformed) != 0 ||
        (available >= TLAW_WIRE_HEADER + payload &&
         tlaw_wire_decode(type, frame + TLAW_WIRE_HEADER, payload, &engine->message, &engine->malformed) !=
             0)) {
        process_of(engine)->malformed = engine->malformed;
        reap(process_of(engine));
        return TLAW_NO_MESSAGE;
    }
    if (available < TLAW_WIRE_HEADER + payload)
        return TLAW_NO_MESSAGE;
    engine->in_start += TLAW_WIRE_HEADER + payload;
    return type;
}

static void encode(struct engine *engine, enum tlaw_message type, const void *message)
{
    if (tlaw_wire_encode(&engine->out, type, message) != 0)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("a message of type %s to the engine is too large", tlaw_wire_name(type))));
}

/* Sends what was encoded. */
static void flush(struct engine *engine)
{
    size_t sent = 0;

    CHECK_FOR_INTERRUPTS();
    while (sent < engine->out.size && !engine->end_of_file) {
        ssize_t n = send(engine->socket, engine->out.data + sent, engine->out.size - sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n > 0)
            sent += n;
        else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            break; /* it has gone; what it still said is read by engine_receive */
        else if (!read_some(engine) && !engine->end_of_file)
            wait_socket(engine, WL_SOCKET_READABLE | WL_SOCKET_WRITEABLE, SLICE_MS);
    }
    engine->out.size = 0;
}

void engine_send(struct engine *engine, enum tlaw_message type, const void *message)
{
    encode(engine, type, message);
    flush(engine);
}

void engine_buffer(struct engine *engine, enum tlaw_message type, const void *message)
{
    encode(engine, type, message);
    if (engine->out.size >= BUFFER_SIZE)
        flush(engine);
}

void engine_send_chunks(struct engine *engine, const void *data, size_t size)
{
    size_t start;

    for (start = 0; start < size; start += TLAW_CHUNK_SIZE) {
        struct tlaw_chunk_message chunk;

        chunk.data.data = (const char *) data + start;
        chunk.data.size = Min(size - start, TLAW_CHUNK_SIZE);
        engine_send(engine, TLAW_CHUNK, &chunk);
    }
}

/* ---- many runs in one engine ---- */

/* Sends a RUN with two descriptors.  A frame that small is taken whole or not at all. */
static void hand_over(struct engine *host, const int descriptors[2])
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(2 * sizeof(int))];
    } control = {0};
    struct iovec part;
    struct msghdr message = {0};
    struct tlaw_run_message run;

    encode(host, TLAW_RUN, &run);
    part.iov_base = host->out.data;
    part.iov_len = host->out.size;
    host->out.size = 0;
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = &control;
    message.msg_controllen = sizeof(control.space);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(2 * sizeof(int));
    memcpy(CMSG_DATA(&control.header), descriptors, 2 * sizeof(int));
    while (sendmsg(host->socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        if (errno == EPIPE || errno == ECONNRESET)
            break; /* it has gone: the run's engine_receive tells why */
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            ereport(ERROR, (errcode_for_socket_access(), errmsg("could not hand a run to the engine: %m")));
        wait_socket(host, WL_SOCKET_WRITEABLE, SLICE_MS);
    }
    host->runs++;
}

struct engine *engine_open_run(struct engine *host, int tokens_fd)
{
    struct engine *volatile run = NULL;
    int sockets[2] = {-1, -1};

    PG_TRY();
    {
        int descriptors[2];

        run = engine_new();
        run->host = host;
        open_socket(run, sockets);
        descriptors[0] = sockets[1];
        descriptors[1] = tokens_fd;
        hand_over(host, descriptors);
    }
    PG_CATCH();
    {
        close_if_open(sockets[1]);
        close(tokens_fd);
        engine_stop(run);
        PG_RE_THROW();
    }
    PG_END_TRY();
    close(sockets[1]);
    close(tokens_fd);
    return run;
}

void engine_leave(struct engine *run)
{
    shutdown(run->socket, SHUT_WR);
}

bool engine_left(struct engine *run)
{
    do
        run->in_start = run->in_end = 0; /* nobody reads what still comes */
    while (read_some(run));
    return run->end_of_file;
}

/* ---- the parent: what was said, and why it died ---- */

/* Text from the engine that can be shown: one line, in the database's encoding. */
static char *printable(const char *text, size_t size)
{
    char *out = pnstrdup(text, size);
    bool valid;
    char *p;

    size = strlen(out);
    while (size > 0 && isspace((unsigned char) out[size - 1]))
        out[--size] = '\0';
    valid = pg_verifymbstr(out, size, true);
    for (p = out; *p; p++) {
        if ((unsigned char) *p < ' ' || (!valid && (unsigned char) *p > '~'))
            *p = (*p == '\n' || *p == '\t') ? ' ' : '?';
    }
    return out;
}

/* "engine killed by signal 9", "engine exited with code 1: what it wrote last" */
static char *describe_end(struct engine *engine, bool hung)
{
    char *words = printable(engine->last_words, engine->last_words_size);
    char *what;

    if (engine->malformed)
        what = psprintf("engine sent a malformed message: %s", engine->malformed);
    else if (hung)
        what = pstrdup("engine closed its socket and did not exit");
    else if (WIFSIGNALED(engine->status))
        what = psprintf("engine killed by signal %d", WTERMSIG(engine->status));
    else
        what = psprintf("engine exited with code %d", WEXITSTATUS(engine->status));
    return words[0] ? psprintf("%s: %s", what, words) : what;
}

/* Waits for an engine that has closed its socket or was killed, and keeps why. */
static void bury(struct engine *engine)
{
    TimestampTz start = GetCurrentTimestamp();
    bool hung = false;
    pid_t pid;

    if (engine->reason)
        return;
    while (engine->pid != 0 && (pid = waitpid(engine->pid, &engine->status, WNOHANG)) != engine->pid) {
        drain_words(engine);
        hung = TimestampDifferenceExceeds(start, GetCurrentTimestamp(), EXIT_PATIENCE);
        if (hung || (pid < 0 && errno != EINTR))
            reap(engine);
        else
            wait_socket(engine, 0, 10);
    }
    engine->pid = 0;
    drain_words(engine);
    engine->reason = MemoryContextStrdup(engine->context, describe_end(engine, hung));
}

char *engine_death(struct engine *engine)
{
    bury(process_of(engine));
    return pstrdup(process_of(engine)->reason);
}

static void raise_death(struct engine *engine)
{
    char *reason = engine_death(engine);
    bool killed = strncmp(reason, "engine killed by signal 9", 25) == 0;

    ereport(ERROR, (errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION), errmsg("%s", reason),
                    killed ? errhint("Linux kills processes this way when memory runs out.") : 0));
}

enum tlaw_message engine_receive(struct engine *engine, int timeout_ms, const void **message, bool *died)
{
    TimestampTz start = GetCurrentTimestamp();
    enum tlaw_message type;

    CHECK_FOR_INTERRUPTS();
    *message = &engine->message;
    for (;;) {
        long left = SLICE_MS;

        if ((type = take_frame(engine)) != TLAW_NO_MESSAGE)
            return type;
        if (engine->malformed || engine->end_of_file)
            break;
        if (read_some(engine) || engine->end_of_file)
            continue;
        if (timeout_ms >= 0)
            left = timeout_ms - TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
        if (left <= 0 || wait_socket(engine, WL_SOCKET_READABLE, left))
            return TLAW_NO_MESSAGE;
    }
    if (died == NULL)
        raise_death(engine);
    bury(process_of(engine));
    *died = true;
    return TLAW_NO_MESSAGE;
}

void engine_raise(const struct tlaw_error_message *error)
{
    static const struct {
        const char *code;
        int state;
    } states[] = {{"input", ERRCODE_INVALID_PARAMETER_VALUE},
                  {"memory", ERRCODE_OUT_OF_MEMORY},
                  {"io", ERRCODE_IO_ERROR},
                  {"checkpoint", ERRCODE_DATA_CORRUPTED},
                  {"protocol", ERRCODE_PROTOCOL_VIOLATION}};
    int state = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
    int i;

    for (i = 0; i < lengthof(states); i++) {
        if (strcmp(error->code, states[i].code) == 0)
            state = states[i].state;
    }
    ereport(ERROR, (errcode(state), errmsg("%s", printable(error->message, strlen(error->message)))));
}

/* What every reader of a stream does with the two messages that may come at any time.  True: handled. */
static bool handle_common(enum tlaw_message type, const void *message,
                          void (*progress)(const struct tlaw_progress_message *))
{
    if (type == TLAW_ERROR)
        engine_raise(message);
    if (type == TLAW_PROGRESS && progress)
        progress(message);
    return type == TLAW_PROGRESS;
}

enum tlaw_message engine_next(struct engine *engine, const void **message,
                              void (*progress)(const struct tlaw_progress_message *))
{
    enum tlaw_message type;

    do
        type = engine_receive(engine, -1, message, NULL);
    while (type == TLAW_NO_MESSAGE || handle_common(type, *message, progress));
    return type;
}

void engine_unexpected(enum tlaw_message type)
{
    ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                    errmsg("the engine sent a message of type %s out of turn", tlaw_wire_name(type))));
}

const void *engine_expect(struct engine *engine, enum tlaw_message type,
                          void (*progress)(const struct tlaw_progress_message *))
{
    const void *message;
    enum tlaw_message got = engine_next(engine, &message, progress);

    if (got != type)
        engine_unexpected(got);
    return message;
}

void engine_poll(struct engine *engine, void (*progress)(const struct tlaw_progress_message *))
{
    const void *message;
    enum tlaw_message type;

    while ((type = engine_receive(engine, 0, &message, NULL)) != TLAW_NO_MESSAGE) {
        if (!handle_common(type, message, progress))
            engine_unexpected(type);
    }
}
