/*
 * tlaw_engine: the process that computes.  Started by a PostgreSQL process (or a test) with a socket as
 * descriptor 3; takes one job, answers, exits.  Owns the set-up after exec and the table of jobs.
 *
 * Environment and arguments are not read; descriptors are as in wire.h; exit codes as in README.md.
 */
#include "engine.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct job {
    enum tlaw_message request;
    void (*run)(struct engine *, const union tlaw_any_message *);
} jobs[] = {
    {TLAW_TRAIN, job_train},       {TLAW_FREEZE, job_freeze},    {TLAW_EVALUATE, job_evaluate},
    {TLAW_GENERATE, job_generate}, {TLAW_EMBED, job_embed},      {TLAW_PROBE, job_probe},
    {TLAW_ESTIMATE, job_estimate}, {TLAW_POINTS, job_dimension}, {TLAW_SERVE, job_serve},
};

/* When memory runs out, this process is the one to go: never the server's. */
static void volunteer_for_oom_killer(void)
{
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        if (write(fd, "1000", 4) != 4)
            fprintf(stderr, "tlaw_engine: oom_score_adj could not be raised\n");
        close(fd);
    }
}

static void run_job(struct engine *e)
{
    union tlaw_any_message request;
    enum tlaw_message type = engine_receive(e, &request);

    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++)
        if (jobs[i].request == type) {
            jobs[i].run(e, &request);
            engine_send(e, TLAW_DONE, &(struct tlaw_done_message){});
            return;
        }
    engine_unexpected(e, type, "a job");
}

int main(void)
{
    struct engine e = {.socket = TLAW_FD_SOCKET, .tokens = TLAW_FD_TOKENS};
    struct stat status;

    if (fstat(TLAW_FD_SOCKET, &status) || !S_ISSOCK(status.st_mode)) {
        fprintf(stderr, "tlaw_engine: descriptor %d is not a socket; PostgreSQL starts this program\n",
                TLAW_FD_SOCKET);
        return ENGINE_EXIT_STARTED_WRONGLY;
    }
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* again: a parent may have left it out */
    engine_watch_parent(&e);
    volunteer_for_oom_killer();
    run_job(&e);
    engine_free(&e);
    return 0;
}
