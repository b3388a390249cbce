/*
 * Who may run what: the locks of the queue, and how its workers are started.
 *
 * Locks are advisory ones whose fourth field (objsubid) SQL cannot set; the lock manager frees them however a
 * process ends, so that nothing is believed of a process that has gone.
 *   slot       (no database, 0, slot, 3)      one of tlaw.max_workers in the whole cluster
 *   run        (database, run_id, 4)          somebody works on this run
 *   wait       (database, 0, slot?, 5)        this database's worker that waits for a slot (1) or a GPU (0)
 *   device     (no database, 0, number, 6)    one engine of the whole cluster serves this GPU
 *
 * Starting: the commit of a transaction that queued a run registers one worker; a worker that has claimed a
 * run registers one more while there are queued runs and free slots.  A worker that finds nothing gives its
 * slot back and then looks once more, so that a run committed in between is not left.  One that is
 * terminated, or sees tlaw.max_workers raised, registers another.  The launcher (preloaded) starts a worker
 * in each database when the server starts or tlaw.max_workers is raised; without preload the next commit or
 * tlaw_wait does.
 */
#include "queue.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define SLOT_LOCK        3
#define RUN_LOCK         4
#define WAIT_LOCK        5
#define DEVICE_LOCK      6
#define LAUNCHER_RESTART 5    /* seconds */
#define VISIT_MS         1000 /* longest wait for one database's worker before the next is visited */

PGDLLEXPORT void tlaw_launcher_main(Datum argument);

/* ---- locks ---- */

static bool take(LOCKTAG *tag, bool session)
{
    return LockAcquire(tag, ExclusiveLock, session, true) != LOCKACQUIRE_NOT_AVAIL;
}

static LOCKTAG slot_tag(int slot)
{
    LOCKTAG tag;

    SET_LOCKTAG_ADVISORY(tag, InvalidOid, 0, slot, SLOT_LOCK);
    return tag;
}

static LOCKTAG run_tag(int64 run_id)
{
    LOCKTAG tag;

    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (run_id >> 32), (uint32) run_id, RUN_LOCK);
    return tag;
}

static LOCKTAG wait_tag(bool for_slot)
{
    LOCKTAG tag;

    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, for_slot, WAIT_LOCK);
    return tag;
}

static LOCKTAG device_tag(const char *device)
{
    LOCKTAG tag;

    SET_LOCKTAG_ADVISORY(tag, InvalidOid, 0, atoi(device + strlen("cuda:")), DEVICE_LOCK);
    return tag;
}

int queue_take_slot(void)
{
    int slot;

    for (slot = 0; slot < tlaw_max_workers; slot++) {
        LOCKTAG tag = slot_tag(slot);

        if (take(&tag, true))
            return slot;
    }
    return -1;
}

void queue_release_slot(int slot)
{
    LOCKTAG tag = slot_tag(slot);

    LockRelease(&tag, ExclusiveLock, true);
}

/* Whether it is a cluster-wide lock of that kind that a session of the database (InvalidOid: any) holds. */
static bool is_held(const LockInstanceData *lock, int kind, Oid database)
{
    PGPROC *holder;

    if (lock->locktag.locktag_type != LOCKTAG_ADVISORY || lock->locktag.locktag_field1 != InvalidOid ||
        lock->locktag.locktag_field4 != kind || lock->holdMask == 0)
        return false;
    return !OidIsValid(database) ||
           ((holder = BackendPidGetProc(lock->pid)) != NULL && holder->databaseId == database);
}

int queue_slots_held(Oid database)
{
    LockData *locks = GetLockStatusData();
    int held = 0;
    int i;

    for (i = 0; i < locks->nelements; i++)
        held += is_held(&locks->locks[i], SLOT_LOCK, database);
    pfree(locks->locks); /* who asks may keep its memory context for long */
    pfree(locks);
    return held;
}

bool queue_hold_device(const char *device)
{
    LOCKTAG tag = device_tag(device);

    return take(&tag, true);
}

void queue_release_device(const char *device)
{
    LOCKTAG tag = device_tag(device);

    LockRelease(&tag, ExclusiveLock, true);
}

Datum queue_devices_held(Oid database)
{
    LockData *locks = GetLockStatusData();
    Datum *devices = palloc((locks->nelements + 1) * sizeof(Datum));
    int held = 0;
    int i;

    for (i = 0; i < locks->nelements; i++) {
        const LockInstanceData *lock = &locks->locks[i];

        if (is_held(lock, DEVICE_LOCK, database))
            devices[held++] = CStringGetTextDatum(psprintf("cuda:%u", lock->locktag.locktag_field3));
    }
    return PointerGetDatum(construct_array(devices, held, TEXTOID, -1, false, TYPALIGN_INT));
}

bool queue_take_wait(bool for_slot)
{
    LOCKTAG tag = wait_tag(for_slot);

    return take(&tag, true);
}

void queue_release_wait(bool for_slot)
{
    LOCKTAG tag = wait_tag(for_slot);

    LockRelease(&tag, ExclusiveLock, true);
}

bool queue_others_wait(void)
{
    LockData *locks = GetLockStatusData();
    bool found = false;
    int i;

    for (i = 0; i < locks->nelements; i++) {
        const LOCKTAG *tag = &locks->locks[i].locktag;

        found |= tag->locktag_type == LOCKTAG_ADVISORY && tag->locktag_field4 == WAIT_LOCK &&
                 tag->locktag_field3 == true && tag->locktag_field1 != MyDatabaseId &&
                 locks->locks[i].holdMask != 0 &&
                 queue_slots_held(tag->locktag_field1) < queue_slots_held(MyDatabaseId);
    }
    pfree(locks->locks);
    pfree(locks);
    return found;
}

bool queue_hold_run(int64 run_id)
{
    LOCKTAG tag = run_tag(run_id);

    return take(&tag, true);
}

bool queue_holds_run(int64 run_id)
{
    LOCKTAG tag = run_tag(run_id);

    return LockHeldByMe(&tag, ExclusiveLock, false);
}

void queue_release_run(int64 run_id)
{
    LOCKTAG tag = run_tag(run_id);

    LockRelease(&tag, ExclusiveLock, true);
}

bool queue_run_is_idle(int64 run_id)
{
    LOCKTAG tag = run_tag(run_id);

    return take(&tag, false);
}

int64 queue_identifier(void)
{
    return (int64) hash_combine64(GetSystemIdentifier(), MyDatabaseId);
}

/* ---- starting workers ---- */

static void describe_worker(BackgroundWorker *worker, const char *type, const char *function, Oid database,
                            int restart, pid_t notify)
{
    memset(worker, 0, sizeof(*worker));
    strlcpy(worker->bgw_name, type, BGW_MAXLEN);
    strlcpy(worker->bgw_type, type, BGW_MAXLEN);
    strlcpy(worker->bgw_library_name, "tlaw", BGW_MAXLEN);
    strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
    worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
    worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
    worker->bgw_restart_time = restart;
    worker->bgw_main_arg = ObjectIdGetDatum(database);
    worker->bgw_notify_pid = notify;
}

bool queue_launch_worker(void)
{
    BackgroundWorker worker;

    describe_worker(&worker, "tlaw worker", "tlaw_worker_main", MyDatabaseId, BGW_NEVER_RESTART, 0);
    return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* The outermost transaction level that queued a run and has not been rolled back; 0: none did. */
static int submit_level;

/* Never raises once the transaction is committed, and allocates nothing. */
static void at_transaction_end(XactEvent event, void *argument)
{
    if (submit_level == 0)
        return;
    if (event == XACT_EVENT_PRE_PREPARE)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("cannot PREPARE a transaction that has queued a run"),
                        errdetail("Workers are started when the transaction commits.")));
    if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT) {
        submit_level = 0;
        if (event == XACT_EVENT_COMMIT)
            queue_launch_worker();
    }
}

static void at_savepoint_end(SubXactEvent event, SubTransactionId sub, SubTransactionId parent,
                             void *argument)
{
    int level = GetCurrentTransactionNestLevel();

    if (event == SUBXACT_EVENT_ABORT_SUB && submit_level >= level)
        submit_level = 0;
    else if (event == SUBXACT_EVENT_COMMIT_SUB && submit_level >= level)
        submit_level = level - 1;
}

void queue_note_submit(void)
{
    static bool registered = false;
    int level = GetCurrentTransactionNestLevel();

    if (!registered) {
        RegisterXactCallback(at_transaction_end, NULL);
        RegisterSubXactCallback(at_savepoint_end, NULL);
        registered = true;
    }
    submit_level = submit_level == 0 ? level : Min(submit_level, level);
}

/* ---- the launcher ---- */

void queue_init(void)
{
    BackgroundWorker worker;

    if (!process_shared_preload_libraries_in_progress)
        return;
    describe_worker(&worker, "tlaw launcher", "tlaw_launcher_main", InvalidOid, LAUNCHER_RESTART, 0);
    RegisterBackgroundWorker(&worker);
}

/* The databases that can be connected to, as an array in `context`. */
static Oid *databases(MemoryContext context, int *count)
{
    Oid *oids = NULL;
    int capacity = 0;
    Relation relation;
    TableScanDesc scan;
    HeapTuple tuple;

    *count = 0;
    StartTransactionCommand();
    (void) GetTransactionSnapshot();
    relation = table_open(DatabaseRelationId, AccessShareLock);
    scan = table_beginscan_catalog(relation, 0, NULL);
    while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection))) {
        Form_pg_database row = (Form_pg_database) GETSTRUCT(tuple);

        if (!row->datallowconn)
            continue;
        if (*count == capacity) {
            capacity = Max(capacity * 2, 16);
            oids = oids ? repalloc(oids, capacity * sizeof(Oid))
                        : MemoryContextAlloc(context, capacity * sizeof(Oid));
        }
        oids[(*count)++] = row->oid;
    }
    table_endscan(scan);
    table_close(relation, AccessShareLock);
    CommitTransactionCommand();
    return oids;
}

static void nap(long milliseconds)
{
    (void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (milliseconds < 0 ? 0 : WL_TIMEOUT),
                     milliseconds, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
    CHECK_FOR_INTERRUPTS();
    if (ConfigReloadPending) {
        ConfigReloadPending = false;
        ProcessConfigFile(PGC_SIGHUP);
    }
}

/* Starts a worker in one database; goes on when it has ended (nothing to do there) or after VISIT_MS. */
static void visit(Oid database)
{
    BackgroundWorker worker;
    BackgroundWorkerHandle *handle;
    pid_t pid;
    int waited;

    describe_worker(&worker, "tlaw worker", "tlaw_worker_main", database, BGW_NEVER_RESTART, MyProcPid);
    while (!RegisterDynamicBackgroundWorker(&worker, &handle))
        nap(VISIT_MS);
    for (waited = 0; waited < VISIT_MS && GetBackgroundWorkerPid(handle, &pid) != BGWH_STOPPED; waited += 50)
        nap(50);
    pfree(handle);
}

static void visit_all(void)
{
    MemoryContext context = AllocSetContextCreate(TopMemoryContext, "tlaw databases", ALLOCSET_DEFAULT_SIZES);
    int count, i;
    Oid *oids = databases(context, &count);

    for (i = 0; i < count; i++)
        visit(oids[i]);
    MemoryContextDelete(context);
}

/*
 * Visits every database once, and again when tlaw.max_workers was raised; lives on so that a crash of the
 * cluster starts it again.
 */
void tlaw_launcher_main(Datum argument)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, die);
    BackgroundWorkerUnblockSignals();
    BackgroundWorkerInitializeConnection(NULL, NULL, 0);
    for (;;) {
        int workers = tlaw_max_workers;

        visit_all();
        while (tlaw_max_workers <= workers) {
            workers = tlaw_max_workers;
            nap(-1);
        }
    }
}
