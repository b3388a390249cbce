/*
 * Who may run what: the locks of the queue, and how its workers are started (queue.c).
 */
#ifndef TLAW_QUEUE_H
#define TLAW_QUEUE_H

#include "tlaw.h"

/* Of _PG_init: registers the launcher where the library is preloaded. */
extern void queue_init(void);

/* This transaction queued a run: its commit starts a worker, its rollback does not, PREPARE is refused. */
extern void queue_note_submit(void);
/* Starts a worker for this database now.  False when no background worker is to be had. Never raises. */
extern bool queue_launch_worker(void);

/*
 * This database of this cluster, stored with what is queued: a run starts by itself only where it was queued,
 * not where its row was restored or replicated to.
 */
extern int64 queue_identifier(void);

/* Slots: tlaw.max_workers locks for the whole cluster, one a worker that has an engine.  -1: all are taken.
 */
extern int queue_take_slot(void);
extern void queue_release_slot(int slot);
/* Slots that are held: in the whole cluster (InvalidOid) or by sessions of one database. */
extern int queue_slots_held(Oid database);
/* One worker a database may wait for a slot, and one for a GPU, that workers of other databases hold. */
extern bool queue_take_wait(bool for_slot);
extern void queue_release_wait(bool for_slot);
/* Whether a worker of another database, which holds fewer slots than this one, waits for a slot. */
extern bool queue_others_wait(void);

/*
 * GPUs: one worker in the whole cluster serves a GPU, "cuda:N", with one engine.  queue_hold_device does not
 * wait; held for the session.  queue_devices_held: those that sessions of one database (InvalidOid: any)
 * serve, as text[].
 */
extern bool queue_hold_device(const char *device);
extern void queue_release_device(const char *device);
extern Datum queue_devices_held(Oid database);

/*
 * Liveness: whoever works on a run holds its lock for as long as the process lives.  Neither waits.
 * queue_hold_run: for the session, until queue_release_run; queue_holds_run: whether this session does.
 * queue_run_is_idle: true when nobody works on it, and then nobody begins to before this transaction ends.
 */
extern bool queue_hold_run(int64 run_id);
extern bool queue_holds_run(int64 run_id);
extern void queue_release_run(int64 run_id);
extern bool queue_run_is_idle(int64 run_id);

#endif
