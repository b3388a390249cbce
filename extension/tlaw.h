/*
 * What every file of the extension shares: settings, the schema, who writes, how arguments are checked.
 */
#ifndef TLAW_H
#define TLAW_H

#include "postgres.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "../kernels/engine/wire.h"

#define TLAW_VERSION "0.1.0"

/* settings (tlaw.c) */
extern int tlaw_max_workers;    /* engines at once in the whole cluster */
extern int tlaw_threads;        /* most threads of one run */
extern int tlaw_max_run_memory; /* MB an engine may use */
extern int tlaw_checkpoint_seconds;
extern int tlaw_max_attempts; /* engine deaths without progress before a run fails */
extern int tlaw_gpu_runs;     /* most runs of one engine on a GPU, at most TLAW_GPU_RUNS_MOST */
extern char *tlaw_device;     /* auto, cpu, cuda, cuda:N */
extern char *tlaw_cpu_isa;    /* "" or auto, amx, avx512, ... */
#define TLAW_GPU_RUNS_MOST 64

/* The extension's OID, schema and owner; an error when it is not installed in this database, or 0 / NULL when
 * missing_ok. Looked up from pg_extension, never from search_path. */
extern Oid tlaw_extension_oid(bool missing_ok);
extern char *tlaw_schema(void); /* quoted, ready for SQL */
extern Oid tlaw_extension_owner(void);

/* SQL with every "@." replaced by the extension's quoted schema and a dot; palloc'd. */
extern char *tlaw_sql(const char *sql);

/*
 * Runs SPI as the extension's owner: tlaw_begin() connects SPI and switches the user (search_path pinned to
 * pg_catalog); tlaw_end() undoes both.  An error in between is undone by the transaction.
 * tlaw_execute: tlaw_sql + SPI_execute_with_args with an error unless it returns `expected` (an SPI_OK_
 * code).
 */
struct tlaw_session {
    Oid caller;
    Oid user;
    int security_context;
    int guc_level;
};
extern void tlaw_begin(struct tlaw_session *session);
extern void tlaw_end(struct tlaw_session *session);
extern uint64 tlaw_execute(int expected, const char *sql, int nargs, const Oid *types, const Datum *values,
                           const char *nulls);

/* The user who called, also between tlaw_begin and tlaw_end. */
extern Oid tlaw_caller(void);
extern char *tlaw_caller_name(void);
/* Error unless the caller has the privileges of role `owner` (or is superuser). what, name: for the message,
 * name quoted by the caller where it should be. */
extern void tlaw_require_owner(const char *owner, const char *what, const char *name);

/* Error when argument i of a function that is not STRICT is null. */
extern void tlaw_not_null(FunctionCallInfo fcinfo, int i, const char *name);
/* Largest seed: the whole numbers that a float8 holds. */
#define TLAW_MAX_SEED (INT64CONST(1) << 53)
/* A float8 argument that must be a whole number in [low, high]; errors name it, the value and the range. */
extern int64 tlaw_count_argument(const char *name, float8 value, int64 low, int64 high);
/* A float8 argument in [low, high] (NaN and infinities refused). */
extern float8 tlaw_number_argument(const char *name, float8 value, float8 low, float8 high);

#endif
