/*
 * Devices: what an engine finds on this machine (tlaw_devices), and the choice of one for a specification.
 *
 * Invariants: nothing is computed here; an engine is asked once a session, without measuring, and the answer
 * is kept; it names the CPU once for each instruction set and precision that it has, the best first, then the
 * GPUs.  The choice is made where a run is submitted and stored with it.
 */
#include "device.h"

#include "engine_client.h"
#include "funcapi.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#define MOST_DEVICES 32

PG_FUNCTION_INFO_V1(tlaw_devices);

static struct tlaw_device_message *devices; /* in TopMemoryContext */
static int device_count;

/* ---- settings ---- */

bool device_check_isa(char **value, void **extra, GucSource source)
{
    static const char *const names[] = {"", "auto", "amx", "avx512", "avx2", "neon", "portable", "reference"};
    int i;

    for (i = 0; i < lengthof(names); i++) {
        if (strcmp(*value, names[i]) == 0)
            return true;
    }
    GUC_check_errdetail(
        "\"%s\" is not an instruction set: auto, amx, avx512, avx2, neon, portable and reference are.",
        *value);
    return false;
}

/* The instruction set that tlaw.cpu_isa names; NULL: whatever is best. */
static const char *forced_isa(void)
{
    return tlaw_cpu_isa[0] == '\0' || strcmp(tlaw_cpu_isa, "auto") == 0 ? NULL : tlaw_cpu_isa;
}

/* ---- what there is ---- */

static void probe_devices(void)
{
    struct tlaw_device_message *found;
    struct tlaw_probe_message probe;
    const void *message;
    struct engine *engine;
    enum tlaw_message type;
    int count = 0;

    if (devices != NULL)
        return;
    memset(&probe, 0, sizeof(probe));
    found = palloc(MOST_DEVICES * sizeof(*found));
    engine = engine_start(-1, -1, 0);
    engine_send(engine, TLAW_PROBE, &probe);
    while ((type = engine_next(engine, &message, NULL)) == TLAW_DEVICE && count < MOST_DEVICES)
        found[count++] = *(const struct tlaw_device_message *) message;
    if (type != TLAW_DONE || count == 0)
        elog(ERROR, "the engine named no device");
    engine_stop(engine);
    devices = MemoryContextAlloc(TopMemoryContext, count * sizeof(*devices));
    memcpy(devices, found, count * sizeof(*devices));
    device_count = count;
    pfree(found);
}

static bool is_cpu(const char *device)
{
    return strcmp(device, "cpu") == 0;
}

/* Whether a device of that name, or "cuda" for any GPU, is what was asked for. */
static bool device_matches(const struct tlaw_device_message *device, const char *wanted)
{
    return strcmp(device->device, wanted) == 0 ||
           (strcmp(wanted, "cuda") == 0 && strncmp(device->device, "cuda", 4) == 0);
}

/* The CPU is listed once a precision; a GPU once, with its own precision, and has float32 too. */
static bool has_precision(const struct tlaw_device_message *device, const char *precision)
{
    return strcmp(device->precision, precision) == 0 ||
           (!is_cpu(device->device) && strcmp(precision, "float32") == 0);
}

/* The first usable device of those wanted; of the CPU that with the instruction set, of all that with the
 * precision, where these are not NULL. */
static const struct tlaw_device_message *find_device(const char *wanted, const char *isa,
                                                     const char *precision)
{
    int i;

    for (i = 0; i < device_count; i++) {
        const struct tlaw_device_message *device = &devices[i];

        if (device_matches(device, wanted) && device->unusable[0] == '\0' &&
            (isa == NULL || !is_cpu(device->device) || strcmp(device->isa, isa) == 0) &&
            (precision == NULL || has_precision(device, precision)))
            return device;
    }
    return NULL;
}

/* ---- refusals ---- */

/* Adds ", word" unless the list has it. */
static void add_word(StringInfo list, const char *word)
{
    char *entry = psprintf(", %s", word);
    const char *found = strstr(list->data, entry);

    if (found == NULL || (found[strlen(entry)] != '\0' && found[strlen(entry)] != ','))
        appendStringInfoString(list, entry);
    pfree(entry);
}

static void refuse_device(const char *wanted)
{
    StringInfoData list;
    const char *reason = NULL;
    int i;

    initStringInfo(&list);
    for (i = 0; i < device_count; i++) {
        if (device_matches(&devices[i], wanted) && devices[i].unusable[0] != '\0')
            reason = devices[i].unusable;
        if (devices[i].unusable[0] == '\0')
            add_word(&list, devices[i].device);
    }
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("device = \"%s\" cannot be used here: one of auto%s", wanted, list.data),
                    reason ? errdetail("%s", reason) : 0));
}

static void refuse_isa(const char *isa)
{
    StringInfoData list;
    int i;

    initStringInfo(&list);
    for (i = 0; i < device_count; i++) {
        if (is_cpu(devices[i].device))
            add_word(&list, devices[i].isa);
    }
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("tlaw.cpu_isa = \"%s\" cannot be used here: this machine has auto%s", isa, list.data)));
}

/* A word that is no precision passes: tlaw_spec_resolve refuses it. */
static void refuse_precision(const char *precision, const char *device, const char *isa)
{
    static const char *const precisions[] = {"bf16", "float32"};
    StringInfoData list;
    bool known = false;
    int i;

    initStringInfo(&list);
    for (i = 0; i < lengthof(precisions); i++) {
        known |= strcmp(precision, precisions[i]) == 0;
        if (find_device(device, isa, precisions[i]) != NULL)
            add_word(&list, precisions[i]);
    }
    if (!known)
        return;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("precision = \"%s\" is not available on device \"%s\"%s: one of %s", precision,
                           device, isa && is_cpu(device) ? psprintf(" with tlaw.cpu_isa = \"%s\"", isa) : "",
                           list.data + 2)));
}

/* ---- the choice ---- */

/* That "auto" came to mean the CPU, once a session. */
static void say_no_gpu(void)
{
    static bool said;
    const char *reason = "";
    int i;

    if (said)
        return;
    said = true;
    for (i = 0; i < device_count; i++) {
        if (device_matches(&devices[i], "cuda"))
            reason = devices[i].unusable;
    }
    ereport(NOTICE, (errmsg("no GPU can be used here: device \"auto\" is the CPU"), errdetail("%s.", reason),
                     errhint("Set tlaw.device to cpu, and this is not said.")));
}

void device_resolve(struct tlaw_spec *spec)
{
    const char *wanted = spec->device[0] ? spec->device : tlaw_device;
    const char *precision = spec->precision[0] ? spec->precision : NULL;
    const char *isa = forced_isa();
    const struct tlaw_device_message *device;

    probe_devices();
    if (strcmp(wanted, "auto") == 0) {
        wanted = find_device("cuda", NULL, NULL) ? "cuda" : "cpu";
        if (is_cpu(wanted))
            say_no_gpu();
    }
    if (find_device(wanted, NULL, NULL) == NULL)
        refuse_device(wanted);
    if (find_device(wanted, isa, NULL) == NULL)
        refuse_isa(isa);
    device = find_device(wanted, isa, precision);
    if (device == NULL) {
        refuse_precision(precision, wanted, isa);
        device = find_device(wanted, isa, NULL);
    }
    strlcpy(spec->device, device->device, TLAW_NAME_SIZE);
    strlcpy(spec->isa, device->isa, TLAW_NAME_SIZE);
    if (precision == NULL)
        strlcpy(spec->precision, device->precision, TLAW_NAME_SIZE);
}

int64 device_memory(const char *device)
{
    int i;

    for (i = 0; i < device_count; i++) {
        if (!is_cpu(device) && strcmp(devices[i].device, device) == 0)
            return devices[i].memory;
    }
    return (int64) tlaw_max_run_memory << 20;
}

void device_resolve_use(struct tlaw_spec *spec)
{
    const char *isa = forced_isa();
    const struct tlaw_device_message *device;

    if (isa == NULL || !is_cpu(spec->device))
        return;
    probe_devices();
    device = find_device("cpu", isa, spec->precision);
    if (device == NULL)
        device = find_device("cpu", isa, NULL);
    if (device == NULL)
        refuse_isa(isa);
    strlcpy(spec->isa, device->isa, TLAW_NAME_SIZE);
    strlcpy(spec->precision, device->precision, TLAW_NAME_SIZE);
}

/* ---- tlaw_devices() ---- */

static void put_device(ReturnSetInfo *result, const struct tlaw_device_message *device)
{
    bool usable = device->unusable[0] == '\0';
    Datum values[] = {CStringGetTextDatum(device->device),    CStringGetTextDatum(device->isa),
                      CStringGetTextDatum(device->precision), CStringGetTextDatum(device->name),
                      Int32GetDatum(device->cores),           Int64GetDatum(device->memory),
                      Float8GetDatum(device->gflops),         BoolGetDatum(usable),
                      CStringGetTextDatum(device->unusable)};
    bool nulls[] = {false, false, false, false, false, false, !usable, false, usable};

    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

Datum tlaw_devices(PG_FUNCTION_ARGS)
{
    struct tlaw_probe_message message;
    struct engine *engine;
    const void *reply;
    enum tlaw_message type;

    memset(&message, 0, sizeof(message));
    message.measure = 1;
    InitMaterializedSRF(fcinfo, 0);
    engine = engine_start(-1, -1, 0);
    engine_send(engine, TLAW_PROBE, &message);
    while ((type = engine_next(engine, &reply, NULL)) == TLAW_DEVICE)
        put_device((ReturnSetInfo *) fcinfo->resultinfo, reply);
    if (type != TLAW_DONE)
        elog(ERROR, "the engine sent message %d instead of its devices", (int) type);
    engine_stop(engine);
    return (Datum) 0;
}
