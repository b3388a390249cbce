/*
 * Runs as rows: their specification, who may touch them (run.c).
 */
#ifndef TLAW_RUN_H
#define TLAW_RUN_H

#include "tlaw.h"

/* The fields of struct tlaw_spec, each also a column of tlaw_run. */
enum run_field_type { RUN_COUNT, RUN_NUMBER, RUN_TEXT };
struct run_field {
    const char *name;
    enum run_field_type type;
    size_t offset; /* in struct tlaw_spec: an int64_t, a double or a char[TLAW_NAME_SIZE] */
};
extern const struct run_field run_fields[];
extern const int run_field_count;

/* The stored specification of a run that was trained here; an error when there is none. */
extern void run_load_spec(int64 run_id, struct tlaw_spec *spec);

struct run_row {
    char *owner;
    char *study;  /* NULL: none */
    char *corpus; /* NULL: recorded, not trained here */
    char *status;
    bool foreign; /* queued elsewhere: restored or replicated to this database */
};
/*
 * The run's row, palloc'd in the caller's context; an error unless it exists and the caller has the
 * privileges of its owner.  lock: its row, so that no worker claims it and nobody else changes its state
 * in this transaction.
 */
extern void run_require(int64 run_id, bool lock, struct run_row *row);

#endif
