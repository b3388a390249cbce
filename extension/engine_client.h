/*
 * One engine, from fork to reaping: what a worker and a backend use alike.
 *
 * An engine belongs to the resource owner it was started under: it is killed and waited for by engine_stop,
 * by an error, at the end of the transaction, and at the exit of the process (before_shmem_exit).  Started
 * outside a transaction (workers), it lives until engine_stop or exit.  All waits are WaitLatchOrSocket of at
 * most 100 ms with CHECK_FOR_INTERRUPTS.
 */
#ifndef TLAW_ENGINE_CLIENT_H
#define TLAW_ENGINE_CLIENT_H

#include "tlaw.h"

struct engine;

/*
 * Starts tlaw_engine with descriptors tokens_fd and spool_fd (-1: none) as TLAW_FD_TOKENS and TLAW_FD_SPOOL,
 * and closes both in this process, also when it fails.  memory_limit: bytes of data the engine may have (0:
 * no limit). Allocated in TopMemoryContext.
 */
extern struct engine *engine_start(int tokens_fd, int spool_fd, int64 memory_limit);
extern void engine_stop(struct engine *engine); /* kill, reap, free; safe on NULL */
extern pid_t engine_pid(const struct engine *engine);

/*
 * An engine that serves many runs (TLAW_SERVE was sent): each has a struct engine of its own, which is that
 * run's channel into the same process.  It is used like any other, and stopped before the host is; the death
 * of the process is the death of all of them.  tokens_fd as in engine_start.
 */
extern struct engine *engine_open_run(struct engine *host, int tokens_fd);
/* Runs that were opened in its process since that started; 0: an engine of one job. */
extern int engine_runs(const struct engine *engine);
/* Tells the engine to let go of a run, which takes it up to a step; engine_left: whether it has, not waiting.
 */
extern void engine_leave(struct engine *run);
extern bool engine_left(struct engine *run);
/* The descriptor that becomes readable when something comes. */
extern int engine_socket(const struct engine *engine);

/*
 * Sends one message; blocks (interruptibly) until the socket took it.  What comes in meanwhile is kept.
 * Nothing is raised when the engine has gone: the next engine_receive tells why.
 */
extern void engine_send(struct engine *engine, enum tlaw_message type, const void *message);
/* The same for many small messages: gathers them, and sends when there are 256 kB or with the next
 * engine_send. */
extern void engine_buffer(struct engine *engine, enum tlaw_message type, const void *message);
/* Streams bytes as CHUNK frames. */
extern void engine_send_chunks(struct engine *engine, const void *data, size_t size);

/*
 * Waits for the next message at most timeout_ms (-1: for ever).  Returns its type, TLAW_NO_MESSAGE on
 * time-out or a set latch.  *message points to a decoded struct valid until the next call of a function of
 * this file.  An engine that died or sent something malformed is an ERROR with its reason (engine_death)
 * unless `died` is given: then *died is set and TLAW_NO_MESSAGE returned.  A TLAW_ERROR message is returned
 * like any other.
 */
extern enum tlaw_message engine_receive(struct engine *engine, int timeout_ms, const void **message,
                                        bool *died);
/* The same, but raises a TLAW_ERROR message as an ERROR and insists on a message of the given type, passing
 * PROGRESS to progress (may be NULL). */
extern const void *engine_expect(struct engine *engine, enum tlaw_message type,
                                 void (*progress)(const struct tlaw_progress_message *));
/* For a stream of messages of several types: the next that is not PROGRESS; a TLAW_ERROR is raised. */
extern enum tlaw_message engine_next(struct engine *engine, const void **message,
                                     void (*progress)(const struct tlaw_progress_message *));
/* While sending: takes what has come without waiting. PROGRESS goes to progress, all else must be an error
 * and is raised. */
extern void engine_poll(struct engine *engine, void (*progress)(const struct tlaw_progress_message *));
/* Raises that a message of that type came out of turn. */
_Noreturn extern void engine_unexpected(enum tlaw_message type);
/* Raises a TLAW_ERROR message as an ERROR. */
_Noreturn extern void engine_raise(const struct tlaw_error_message *error);
/* Why it died: exit code or signal, and its last words on stderr; palloc'd. */
extern char *engine_death(struct engine *engine);

/*
 * The token file of a corpus, from the cache under base/pgsql_tmp/pgsql_tmp_tlaw/, rebuilt from
 * tlaw_corpus_shard when it is missing (token_file.c).  Returns an open read-only descriptor that the caller
 * closes.
 */
extern int corpus_token_file(const char *corpus);
/* A fresh temporary file there, already unlinked (token_file.c). */
extern int tlaw_temporary_file(void);

#endif
