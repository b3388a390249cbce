/*
 * The worker: a background process that claims queued runs and trains them, one at a time, or on a GPU
 * several.
 *
 * Invariants:
 * 1. Every transaction starts with a look whether the extension is still the one that the worker started
 * with: if not, the worker ends quietly.
 * 2. A worker has a slot while it has an engine, however it ends: the engine is stopped and waited for first.
 */
#include "attempt.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "queue.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#define SLOT_MS 500 /* between two attempts to get a slot or a GPU that other databases hold */

PGDLLEXPORT void tlaw_worker_main(Datum argument);

static int slot = -1;
static volatile sig_atomic_t terminated;
static MemoryContext begun_in; /* where the transaction at hand was begun */

/* ---- transactions ---- */

void worker_begin(struct tlaw_session *session)
{
    static Oid installed = InvalidOid;
    Oid extension;

    begun_in = CurrentMemoryContext;
    SetCurrentStatementStartTimestamp();
    StartTransactionCommand();
    extension = tlaw_extension_oid(true);
    if (OidIsValid(extension)) {
        /* DROP EXTENSION waits for this transaction, or has ended before it */
        LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
        if (tlaw_extension_oid(true) != extension)
            extension = InvalidOid;
    }
    if (!OidIsValid(installed))
        installed = extension;
    if (!OidIsValid(extension) || extension != installed) {
        CommitTransactionCommand();
        proc_exit(0);
    }
    PushActiveSnapshot(GetTransactionSnapshot()); /* SPI insists on one */
    tlaw_begin(session);
}

static void commit(void)
{
    PopActiveSnapshot();
    CommitTransactionCommand();
    pgstat_report_stat(true);
    MemoryContextSwitchTo(begun_in);
}

void worker_commit(struct tlaw_session *session)
{
    tlaw_end(session);
    commit();
}

void worker_commit_soon(struct tlaw_session *session)
{
    tlaw_end(session); /* which undoes settings */
    set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
                      false);
    commit();
}

void worker_serve_reload(void)
{
    int before = tlaw_max_workers;

    if (!ConfigReloadPending)
        return;
    ConfigReloadPending = false;
    ProcessConfigFile(PGC_SIGHUP);
    if (tlaw_max_workers > before)
        queue_launch_worker();
}

void worker_nap(long milliseconds)
{
    (void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds,
                     PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
}

/* ---- the worker ---- */

bool worker_has_slot(void)
{
    return slot >= 0 && slot < tlaw_max_workers;
}

/* Takes a slot that is free, or that other databases give back; false: nothing to do, or others of this
 * database do it. */
static bool take_slot(void)
{
    struct tlaw_session session;
    bool waits;

    worker_begin(&session);
    slot = queue_take_slot();
    waits = slot < 0 && tlaw_max_workers > 0 && claim_is_possible(MyDatabaseId) &&
            queue_slots_held(MyDatabaseId) < queue_slots_held(InvalidOid) && queue_take_wait(true);
    worker_commit(&session);
    while (slot < 0 && waits) {
        worker_nap(SLOT_MS);
        worker_serve_reload();
        worker_begin(&session);
        slot = queue_take_slot();
        if (slot >= 0 || tlaw_max_workers == 0 || !claim_is_possible(MyDatabaseId)) {
            waits = false;
            queue_release_wait(true);
        }
        worker_commit(&session);
    }
    return slot >= 0;
}

/* Waits while all that is queued is for GPUs that other databases hold; whether there is something to do
 * then. */
static bool wait_for_device(void)
{
    struct tlaw_session session;
    bool more, waits;

    for (;;) {
        worker_begin(&session);
        more = claim_is_possible(InvalidOid);
        waits = !more && claim_is_possible(MyDatabaseId);
        worker_commit(&session);
        if (!waits)
            return more;
        worker_nap(SLOT_MS);
        worker_serve_reload();
    }
}

/* Gives the slot back, then looks whether something was queued in between. */
static bool release_slot(void)
{
    struct tlaw_session session;
    bool more, waits;

    queue_release_slot(slot);
    slot = -1;
    worker_begin(&session);
    more = claim_is_possible(InvalidOid);
    waits = !more && claim_is_possible(MyDatabaseId) && queue_take_wait(false);
    worker_commit(&session);
    if (waits) {
        more = wait_for_device();
        queue_release_wait(false);
    }
    return more;
}

/* What a database's or a role's settings must not change here. */
static void pin_settings(void)
{
    SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
    SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
    SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
#if PG_VERSION_NUM >= 170000
    SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
#endif
}

static void terminate(SIGNAL_ARGS)
{
    terminated = true;
    die(postgres_signal_arg);
}

/* Another goes on with the runs of a worker that was terminated.  While the server shuts down it starts none.
 */
static void launch_successor(int code, Datum argument)
{
    if (terminated && OidIsValid(MyDatabaseId))
        queue_launch_worker();
}

void tlaw_worker_main(Datum argument)
{
    bool more;

    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, terminate);
    before_shmem_exit(launch_successor, 0); /* runs last: when PostgreSQL has freed the locks */
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(argument), InvalidOid, 0);
    pin_settings();
    pgstat_report_activity(STATE_IDLE, NULL);
    do {
        struct attempt *attempt;
        bool served = false, yields = false; /* to another database, whose turn it is */

        if (!take_slot())
            break;
        while (worker_has_slot() && !yields && (attempt = claim_run(NULL, 0)) != NULL) {
            serve_runs(attempt);
            served = true;
            yields = queue_others_wait();
        }
        more = release_slot();
        if (more && (yields || !served)) /* !served: open transactions of users have locked what is queued */
            worker_nap(2 * SLOT_MS);
    } while (more);
    proc_exit(0);
}
