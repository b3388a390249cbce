/*
 * The extension's base: settings, where the extension lives, whose rights SQL runs with, how arguments are
 * checked.
 *
 * Invariants: the schema and owner come from pg_extension, never from search_path; SQL on tlaw's tables runs
 * as the extension's owner between tlaw_begin and tlaw_end, and tlaw_caller() is then still the user who
 * called; an error in between leaves nothing behind, because the transaction's abort undoes all of it.
 */
#include "tlaw.h"
#include "../kernels/engine/machine.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "device.h"
#include "postmaster/postmaster.h"
#include "queue.h"
#include "utils/acl.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

PG_MODULE_MAGIC;

int tlaw_max_workers;
int tlaw_threads;
int tlaw_max_run_memory;
int tlaw_checkpoint_seconds;
int tlaw_max_attempts;
int tlaw_gpu_runs;
char *tlaw_device;
char *tlaw_cpu_isa;

/* Who called, while a tlaw_session switched to the owner; the nesting level of the transaction that it began
 * in. */
static Oid session_caller = InvalidOid;
static int session_nest_level;

void _PG_init(void);

/* auto, cpu, cuda or cuda:N */
static bool check_device(char **value, void **extra, GucSource source)
{
    const char *device = *value;

    if (strcmp(device, "auto") == 0 || strcmp(device, "cpu") == 0 || strcmp(device, "cuda") == 0)
        return true;
    if (strncmp(device, "cuda:", 5) == 0 && device[5] != '\0' && strlen(device) <= 8 &&
        strspn(device + 5, "0123456789") == strlen(device + 5))
        return true;
    GUC_check_errdetail("\"%s\" is not a device: auto, cpu, cuda or cuda:N are.", device);
    return false;
}

void _PG_init(void)
{
    int cpus = tlaw_usable_cpus();
    int workers = Max(Min(cpus, max_worker_processes / 2), 1);
    int memory = (int) Min(tlaw_usable_memory() * 0.6 / workers / (1 << 20), (double) INT_MAX);

    if (IsBinaryUpgrade)
        return;

    DefineCustomIntVariable("tlaw.max_workers", "Runs that train at once in the whole cluster.",
                            "Each takes one of max_worker_processes.", &tlaw_max_workers, workers, 0,
                            MAX_BACKENDS, PGC_SIGHUP, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("tlaw.threads", "Most threads that one run may use.", NULL, &tlaw_threads, cpus,
                            1, 1024, PGC_SIGHUP, 0, NULL, NULL, NULL);
    DefineCustomIntVariable(
        "tlaw.max_run_memory", "Most memory that one engine may use.",
        "By default the engines of tlaw.max_workers runs take 60 % of the memory together.",
        &tlaw_max_run_memory, Max(memory, 64), 64, INT_MAX, PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL, NULL);
    DefineCustomIntVariable("tlaw.checkpoint_seconds", "Seconds between checkpoints of a run.", NULL,
                            &tlaw_checkpoint_seconds, 60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
    DefineCustomIntVariable("tlaw.max_attempts", "Deaths of its engine after which a run has failed.",
                            "Only deaths without a new checkpoint in between count.", &tlaw_max_attempts, 3,
                            1, 1000, PGC_SIGHUP, 0, NULL, NULL, NULL);
    DefineCustomIntVariable("tlaw.gpu_runs", "Most runs that one engine trains at once on a GPU.",
                            "Fewer, where their estimates add up to more than its memory.", &tlaw_gpu_runs,
                            16, 1, TLAW_GPU_RUNS_MOST, PGC_SIGHUP, 0, NULL, NULL, NULL);
    DefineCustomStringVariable(
        "tlaw.device", "Device of runs that name none, and of exact neighbours: auto, cpu, cuda or cuda:N.",
        NULL, &tlaw_device, "auto", PGC_USERSET, 0, check_device, NULL, NULL);
    DefineCustomStringVariable("tlaw.cpu_isa", "Instruction set on the CPU: auto, or one of tlaw_devices().",
                               "Of new runs, which keep it, and of the use of models.", &tlaw_cpu_isa, "auto",
                               PGC_USERSET, 0, device_check_isa, NULL, NULL);
    MarkGUCPrefixReserved("tlaw");
    queue_init();
}

/* The extension's row: its OID, and schema and owner where wanted. */
static Oid extension_row(Oid *schema, Oid *owner)
{
    Relation relation = table_open(ExtensionRelationId, AccessShareLock);
    ScanKeyData key;
    SysScanDesc scan;
    HeapTuple tuple;
    Oid oid = InvalidOid;

    ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("tlaw"));
    scan = systable_beginscan(relation, ExtensionNameIndexId, true, NULL, 1, &key);
    tuple = systable_getnext(scan);
    if (HeapTupleIsValid(tuple)) {
        Form_pg_extension row = (Form_pg_extension) GETSTRUCT(tuple);

        oid = row->oid;
        *schema = row->extnamespace;
        *owner = row->extowner;
    }
    systable_endscan(scan);
    table_close(relation, AccessShareLock);
    return oid;
}

static void extension_row_required(Oid *schema, Oid *owner)
{
    if (!OidIsValid(extension_row(schema, owner)))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("extension \"tlaw\" is not installed in this database"),
                        errhint("CREATE EXTENSION tlaw installs it.")));
}

Oid tlaw_extension_oid(bool missing_ok)
{
    return get_extension_oid("tlaw", missing_ok);
}

char *tlaw_schema(void)
{
    Oid schema = InvalidOid;
    Oid owner;
    char *name;

    extension_row_required(&schema, &owner);
    name = get_namespace_name(schema);
    if (name == NULL)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_SCHEMA), errmsg("the schema of extension \"tlaw\" is gone")));
    return pstrdup(quote_identifier(name));
}

Oid tlaw_extension_owner(void)
{
    Oid schema;
    Oid owner = InvalidOid;

    extension_row_required(&schema, &owner);
    return owner;
}

char *tlaw_sql(const char *sql)
{
    char *schema = tlaw_schema();
    StringInfoData out;
    const char *p;

    initStringInfo(&out);
    for (p = sql; *p; p++) {
        if (p[0] == '@' && p[1] == '.')
            appendStringInfoString(&out, schema);
        else
            appendStringInfoChar(&out, *p);
    }
    pfree(schema);
    return out.data;
}

/* An aborted (sub)transaction has put the user back; forget who had called. */
static void forget_caller(XactEvent event, void *arg)
{
    if (event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT)
        session_caller = InvalidOid;
}

static void forget_caller_sub(SubXactEvent event, SubTransactionId sub, SubTransactionId parent, void *arg)
{
    if (event == SUBXACT_EVENT_ABORT_SUB && GetCurrentTransactionNestLevel() <= session_nest_level)
        session_caller = InvalidOid;
}

void tlaw_begin(struct tlaw_session *session)
{
    static bool registered = false;
    Oid owner = tlaw_extension_owner();

    if (!registered) {
        RegisterXactCallback(forget_caller, NULL);
        RegisterSubXactCallback(forget_caller_sub, NULL);
        registered = true;
    }
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    session->caller = session_caller;
    GetUserIdAndSecContext(&session->user, &session->security_context);
    if (!OidIsValid(session_caller)) {
        session_caller = session->user;
        session_nest_level = GetCurrentTransactionNestLevel();
    }
    SetUserIdAndSecContext(owner, session->security_context | SECURITY_LOCAL_USERID_CHANGE);
    session->guc_level = NewGUCNestLevel();
    set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true,
                      0, false);
}

void tlaw_end(struct tlaw_session *session)
{
    AtEOXact_GUC(false, session->guc_level);
    SetUserIdAndSecContext(session->user, session->security_context);
    session_caller = session->caller;
    SPI_finish();
}

uint64 tlaw_execute(int expected, const char *sql, int nargs, const Oid *types, const Datum *values,
                    const char *nulls)
{
    char *text = tlaw_sql(sql);
    int result = SPI_execute_with_args(text, nargs, (Oid *) types, (Datum *) values, nulls, false, 0);

    if (result != expected)
        elog(ERROR, "unexpected result of a query of tlaw: %s: %s", SPI_result_code_string(result), text);
    pfree(text);
    return SPI_processed;
}

Oid tlaw_caller(void)
{
    return OidIsValid(session_caller) ? session_caller : GetUserId();
}

char *tlaw_caller_name(void)
{
    return GetUserNameFromId(tlaw_caller(), false);
}

void tlaw_require_owner(const char *owner, const char *what, const char *name)
{
    Oid role = get_role_oid(owner, true);

    if (superuser_arg(tlaw_caller()) || (OidIsValid(role) && has_privs_of_role(tlaw_caller(), role)))
        return;
    ereport(ERROR,
            (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("permission denied for %s %s", what, name),
             errdetail("It belongs to role \"%s\".", owner)));
}

void tlaw_not_null(FunctionCallInfo fcinfo, int i, const char *name)
{
    if (PG_ARGISNULL(i))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", name)));
}

int64 tlaw_count_argument(const char *name, float8 value, int64 low, int64 high)
{
    /* 2^63 itself is a float8, so the upper comparison is made in float8 and is strict there */
    if (!(value >= (float8) low && value <= (float8) high && value == floor(value) &&
          value < 9223372036854775808.0))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("%s must be a whole number from " INT64_FORMAT " to " INT64_FORMAT ", not %s",
                               name, low, high, float8out_internal(value))));
    return (int64) value;
}

float8 tlaw_number_argument(const char *name, float8 value, float8 low, float8 high)
{
    if (!(isfinite(value) && value >= low && value <= high))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("%s must be a number from %s to %s, not %s", name, float8out_internal(low),
                               float8out_internal(high), float8out_internal(value))));
    return value;
}
