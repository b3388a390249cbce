/*
 * One attempt at one run: from its claim to its next state (attempt.c), and what that shares with the
 * worker's loop (worker.c).
 */
#ifndef TLAW_ATTEMPT_H
#define TLAW_ATTEMPT_H

#include "tlaw.h"

/* A claimed run: its liveness lock is held and "running, attempt number" is committed. */
struct attempt {
    MemoryContext context; /* of what belongs to it */
    int64 run_id;
    int number;         /* claims so far */
    int failures;       /* deaths of engines without a new checkpoint before this one */
    int wanted_threads; /* 0: tlaw.threads */
    char *corpus;
    struct tlaw_spec spec;
};

/* Has an engine train the run and writes what it reports, until the run has its next state.  Raises nothing
 * about the run. */
extern void attempt_make(const struct attempt *attempt);

/*
 * done, failed or cancelled, with an error or NULL; false when the run was not the attempt's any more.
 * Between worker_begin and worker_commit.
 */
extern bool attempt_end(const struct attempt *attempt, const char *status, const char *error);

/*
 * A short transaction as the extension's owner.  The process ends quietly when the extension is not the one
 * that it began with any more: dropped, or made anew.
 */
extern void worker_begin(struct tlaw_session *session);
extern void worker_commit(struct tlaw_session *session);
extern void worker_serve_reload(void);

#endif
