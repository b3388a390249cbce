/*
 * What a worker trains at once: one run, or on a GPU as many as one engine takes.
 *
 * Invariants:
 * 1. A GPU's engine is started for the first run and given more as long as tlaw.gpu_runs, the GPU's memory
 * and the queue allow: when it starts, when a run has ended, and once a second.  It is stopped before the GPU
 * is let go of.
 * 2. A run under which an engine has died is served alone: its engine is given no other.
 * 3. All waiting is for whatever comes first of all runs, and at most WAIT_MS.  Interrupts are served in
 * turns (attempt.c), so that their errors are known to be theirs.
 */
#include "attempt.h"

#include "compat.h"
#include "pgstat.h"
#include "queue.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#define WAIT_MS      100
#define LOOK_MS      1000 /* between two looks at the queue for more */
#define PATIENCE_MS  1000 /* for the engine to let go of the last runs */
#define MEMORY_SHARE 0.9  /* of what was free on the GPU, that estimates may add up to */

static struct {
    char device[TLAW_NAME_SIZE];
    bool gpu, alone;     /* the first run must be alone */
    struct engine *host; /* serves the runs of a GPU */
    double memory;       /* free on the GPU when the engine started; 0: not known yet */
    int count;           /* of runs, those included that the engine has not let go of yet */
    struct attempt *claims[TLAW_GPU_RUNS_MOST];
    struct work *works[TLAW_GPU_RUNS_MOST];
    WaitEventSet *events;     /* of these works; NULL: to be made */
    TimestampTz looked, busy; /* when the queue was looked at, when a run was last trained */
} serving;

/* ---- waiting ---- */

static void forget_events(void)
{
    if (serving.events != NULL)
        FreeWaitEventSet(serving.events);
    serving.events = NULL;
}

static void make_events(void)
{
    int i;

    serving.events = CreateWaitEventSet(NULL, serving.count + 2);
    AddWaitEventToSet(serving.events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
    AddWaitEventToSet(serving.events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
    for (i = 0; i < serving.count; i++) {
        int socket = attempt_socket(serving.works[i]);

        if (socket >= 0)
            AddWaitEventToSet(serving.events, WL_SOCKET_READABLE, socket, NULL, NULL);
    }
}

static void wait_for_news(void)
{
    WaitEvent event;

    if (serving.events == NULL)
        make_events();
    WaitEventSetWait(serving.events, WAIT_MS, &event, 1, PG_WAIT_EXTENSION);
    ResetLatch(MyLatch);
}

/* ---- runs ---- */

static void begin_run(struct attempt *claim)
{
    serving.claims[serving.count] = claim;
    serving.works[serving.count++] = attempt_begin(claim, serving.gpu ? &serving.host : NULL);
    forget_events();
}

/* A turn for every run. */
static void take_turns(void)
{
    int i;

    for (i = 0; i < serving.count; i++) {
        if (!attempt_ended(serving.works[i]))
            attempt_turn(serving.works[i]);
    }
    for (i = 0; i < serving.count; i++) {
        if (attempt_interrupted && !attempt_ended(serving.works[i]))
            attempt_cancel(serving.works[i], "canceling statement due to user request");
        if (!attempt_ended(serving.works[i]))
            serving.busy = GetCurrentTimestamp();
    }
    attempt_interrupted = false;
}

/* tlaw.max_workers was lowered below this worker's slot: all runs go back into the queue. */
static void put_back(void)
{
    int i;

    for (i = 0; i < serving.count; i++) {
        if (!attempt_ended(serving.works[i]))
            attempt_put_back(serving.works[i]);
    }
}

/* Frees what the engine has let go of, or all. */
static void clear_away(bool all)
{
    int i;

    for (i = serving.count - 1; i >= 0; i--) {
        if (!all && !attempt_left(serving.works[i]))
            continue;
        forget_events();
        attempt_free(serving.works[i]);
        serving.count--;
        serving.claims[i] = serving.claims[serving.count];
        serving.works[i] = serving.works[serving.count];
        serving.looked = 0; /* there is room again */
    }
}

/* ---- a GPU ---- */

/* What the engine has told of the GPU. */
static void learn_memory(void)
{
    const void *message;
    bool died = false;

    if (serving.memory == 0 && engine_receive(serving.host, 0, &message, &died) == TLAW_DEVICE)
        serving.memory = (double) ((const struct tlaw_device_message *) message)->memory;
}

/* Memory that further runs may have; 0: none may come. */
static int64 room(void)
{
    double left = MEMORY_SHARE * serving.memory;
    int i;

    if (serving.alone || serving.count >= tlaw_gpu_runs || tlaw_gpu_runs == 1 ||
        engine_pid(serving.host) == 0 || !worker_has_slot())
        return 0;
    for (i = 0; i < serving.count; i++)
        left -= (double) serving.claims[i]->memory;
    return (int64) Max(left, 0);
}

/* Claims for the engine what it has room for, at most once a second unless room was made. */
static void claim_more(void)
{
    struct attempt *claim;
    int64 memory;

    if (serving.host == NULL || !TimestampDifferenceExceeds(serving.looked, GetCurrentTimestamp(), LOOK_MS))
        return;
    learn_memory();
    if (serving.memory == 0)
        return;
    while ((memory = room()) > 0 && (claim = claim_run(serving.device, memory)) != NULL)
        begin_run(claim);
    serving.looked = GetCurrentTimestamp();
}

void serve_runs(struct attempt *first)
{
    memset(&serving, 0, sizeof(serving));
    strlcpy(serving.device, first->spec.device, sizeof(serving.device));
    serving.gpu = strcmp(serving.device, "cpu") != 0;
    serving.alone = first->alone;
    begin_run(first);
    for (;;) {
        take_turns();
        clear_away(false);
        claim_more();
        if (serving.count == 0 ||
            TimestampDifferenceExceeds(serving.busy, GetCurrentTimestamp(), PATIENCE_MS))
            break;
        wait_for_news();
        worker_serve_reload();
        if (!worker_has_slot())
            put_back();
    }
    clear_away(true);
    engine_stop(serving.host);
    if (serving.gpu)
        queue_release_device(serving.device);
    pgstat_report_activity(STATE_IDLE, NULL);
}
