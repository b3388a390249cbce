/*
 * SERVE: many runs at once on one GPU, in one process and one CUDA context.
 *
 * Every RUN brings a socket and a token file; a thread with a struct engine of its own answers the TRAIN that
 * comes on that socket, exactly as an engine of one run does.  The main thread only takes RUNs.
 *
 * Invariants: runs share nothing that is written but the measured speed of the device; a run that fails, or
 * whose socket is lost, ends alone and gives its device, memory and descriptors back, the socket last, so
 * that its end of file says that all of it is free; the end of the first socket is the end of the process.
 */
#include "engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void answer(struct engine *e)
{
    union tlaw_any_message request;
    enum tlaw_message type = engine_receive(e, &request);

    if (type != TLAW_TRAIN)
        engine_unexpected(e, type, "TRAIN");
    job_train(e, &request);
    engine_send(e, TLAW_DONE, &(struct tlaw_done_message){});
}

static void *run_main(void *arg)
{
    struct engine *e = arg;

    if (setjmp(e->end) == 0)
        answer(e);
    engine_free(e);
    close(e->tokens);
    close(e->socket);
    free(e);
    return NULL;
}

static void start_run(struct engine *main, const char *device, const int descriptors[2])
{
    struct engine *e = engine_alloc(main, sizeof *e, "a run");
    pthread_attr_t detached;
    pthread_t thread;

    *e = (struct engine){.socket = descriptors[0], .tokens = descriptors[1], .serves = device};
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &detached, run_main, e))
        engine_fail(main, "memory", "cannot start a thread for a run");
    pthread_attr_destroy(&detached);
}

/* What the GPU is, with the memory that is free; one that is not to be had has none, and its runs are told
 * why. */
static void announce(struct engine *e, const char *device)
{
    struct backend_device gpus[BACKEND_GPUS_MOST];
    struct tlaw_device_message message = {0};
    int count = backend_gpus(gpus, message.unusable, sizeof message.unusable);

    snprintf(message.device, sizeof message.device, "%s", device);
    for (int i = 0; i < count; i++)
        if (strcmp(gpus[i].device, device) == 0) {
            message.cores = gpus[i].cores;
            message.memory = gpus[i].unusable[0] ? 0 : backend_gpu_memory(device);
            snprintf(message.isa, sizeof message.isa, "%.15s", gpus[i].isa);
            snprintf(message.name, sizeof message.name, "%.500s", gpus[i].name);
            snprintf(message.unusable, sizeof message.unusable, "%s", gpus[i].unusable);
        }
    engine_send(e, TLAW_DEVICE, &message);
}

void job_serve(struct engine *e, const union tlaw_any_message *request)
{
    char device[TLAW_NAME_SIZE];

    memcpy(device, request->serve.device, sizeof device);
    if (strncmp(device, "cuda:", 5) != 0)
        engine_fail(e, "input", "device = \"%s\" is not accepted: an engine serves many runs on a GPU",
                    device);
    announce(e, device); /* also loads the CUDA backend, before there are threads */
    for (;;) {
        int descriptors[2];

        engine_receive_run(e, descriptors);
        start_run(e, device, descriptors);
    }
}
