/*
 * One attempt at one run: from its claim to its next state (attempt.c); claiming (claim.c); what a worker
 * trains at once (serve.c); and the transactions that all of them use (worker.c).
 */
#ifndef TLAW_ATTEMPT_H
#define TLAW_ATTEMPT_H

#include "engine_client.h"

/* A claimed run: its liveness lock is held and "running, attempt number" is committed. */
struct attempt {
    MemoryContext context; /* of what belongs to it, this struct included */
    int64 run_id;
    int number;         /* claims so far */
    int failures;       /* deaths of engines without a new checkpoint before this one */
    int wanted_threads; /* 0: tlaw.threads */
    bool alone;         /* an engine died under it: the next serves it alone */
    int64 memory;       /* estimated peak, bytes */
    char *corpus;
    struct tlaw_spec spec;
};

/* ---- attempt.c ---- */

struct work;

/*
 * Begins an attempt.  host NULL: the run gets an engine; else a channel into *host, which serves many and is
 * started when it is NULL.  What follows is one attempt_turn after the other, each of which takes what the
 * engine has said and writes it into tables, until the attempt has ended: then the run has its next state and
 * its liveness lock is free.  None of these raises anything about the run.
 */
extern struct work *attempt_begin(const struct attempt *attempt, struct engine **host);
extern void attempt_turn(struct work *work);
extern void attempt_cancel(struct work *work, const char *reason);
extern void attempt_put_back(struct work *work); /* into the queue; it goes on from its last checkpoint */
extern bool attempt_ended(const struct work *work);
/* Becomes readable when the engine has said something. */
extern int attempt_socket(const struct work *work);
/* Whether it has ended and an engine that serves many has let go of it. */
extern bool attempt_left(struct work *work);
extern void attempt_free(struct work *work); /* with the struct attempt */
/* pg_cancel_backend came in a turn: it is meant for all runs of this worker. */
extern bool attempt_interrupted;

/*
 * done, failed or cancelled, with an error or NULL; false when the run was not the attempt's any more.
 * Between worker_begin and worker_commit.
 */
extern bool attempt_end(const struct attempt *attempt, const char *status, const char *error);

/*
 * Back into the queue, or cancelled where that was asked for meanwhile; error: why, or NULL.  Nothing where
 * it is not this attempt that runs.  Between worker_begin and worker_commit.
 */
extern void attempt_requeue(int64 run_id, int32 number, const char *error);

/* ---- claim.c ---- */

/*
 * Claims the next queued run: of any device that no worker serves (device NULL; a GPU is then held until
 * queue_release_device), or for an engine that serves that GPU: not one that must be alone or whose estimate
 * is above `memory`.  Allocated in a context of its own; NULL: there is none.
 */
extern struct attempt *claim_run(const char *device, int64 memory);
/*
 * Whether runs are queued that this database may start, but for those of GPUs that workers of one database
 * (InvalidOid: any) serve.  Between worker_begin and worker_commit.
 */
extern bool claim_is_possible(Oid database);

/* ---- serve.c ---- */

/* Trains the claimed run, and on a GPU others with it, until none is left. */
extern void serve_runs(struct attempt *first);

/* ---- worker.c ---- */

/*
 * A short transaction as the extension's owner.  The process ends quietly when the extension is not the one
 * that it began with any more: dropped, or made anew.  worker_commit_soon: one whose loss in a crash of the
 * server would be made good.
 */
extern void worker_begin(struct tlaw_session *session);
extern void worker_commit(struct tlaw_session *session);
extern void worker_commit_soon(struct tlaw_session *session);
extern void worker_serve_reload(void);
extern void worker_nap(long milliseconds);
/* Whether the worker's slot is one of tlaw.max_workers, which may have become fewer. */
extern bool worker_has_slot(void);

#endif
