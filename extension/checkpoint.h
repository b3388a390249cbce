/*
 * Checkpoints of runs as rows: one of each kind ("resume", "model") a run (checkpoint.c).
 */
#ifndef TLAW_CHECKPOINT_H
#define TLAW_CHECKPOINT_H

#include "engine_client.h"

/* All of these run in a transaction of the caller's. */

/* Whether the run has a checkpoint of that kind; its step and bytes (each may be NULL). */
extern bool checkpoint_find(int64 run_id, const char *kind, int64 *step, int64 *bytes);

/*
 * Sends the checkpoint as CHUNK frames, one in memory at a time.  An error when there is none, or when its
 * bytes are not those whose sha256 was stored; the engine is then not to be used any further.
 */
extern void checkpoint_send(struct engine *engine, int64 run_id, const char *kind);

/* Copies the checkpoint into a block of as many bytes as checkpoint_find said; errors as checkpoint_send. */
extern void checkpoint_read(int64 run_id, const char *kind, char *into, int64 bytes);

/* Whether all of its bytes are there and have the stored sha256. */
extern bool checkpoint_intact(int64 run_id, const char *kind);
extern void checkpoint_drop(int64 run_id, const char *kind);

/*
 * Stores what an engine announced, replacing the predecessor: checkpoint_begin, then checkpoint_add for each
 * CHUNK in order, then checkpoint_finish, all in one transaction.  An error when length or sha256 is not as
 * announced.
 */
struct checkpoint_writer;
extern struct checkpoint_writer *checkpoint_begin(int64 run_id,
                                                  const struct tlaw_checkpoint_message *announced);
/* True when this was the last. */
extern bool checkpoint_add(struct checkpoint_writer *writer, const struct tlaw_blob *data);
extern void checkpoint_finish(struct checkpoint_writer *writer);

#endif
