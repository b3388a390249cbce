/*
 * The thread pool: every unit runs exactly once on a thread of its own scratch, whatever the number of
 * threads, of units and of jobs; workers take no signals; a device changes its threads between operations.
 */
#include "../../kernels/backend/cpu/cpu.h"
#include "tap.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_UNITS   1000
#define MOST_THREADS 16

struct job {
    int runs[MOST_UNITS], threads;
    _Atomic int bad_thread, inside[MOST_THREADS], shared;
};

static void count_unit(void *arg, long i, int thread)
{
    struct job *job = arg;

    if (thread < 0 || thread >= job->threads) {
        job->bad_thread++;
        return;
    }
    job->shared += job->inside[thread]++ != 0; /* two units at once with one scratch */
    job->runs[i]++;
    job->inside[thread]--;
}

/* `jobs` jobs of 0 .. MOST_UNITS units; pauses now and then, so that workers go to sleep. */
static bool run_jobs(int threads, int jobs)
{
    struct pool *pool = pool_create(threads);
    struct job *job = calloc(1, sizeof *job);
    bool good = pool != NULL;

    for (int n = 0; n < jobs && good; n++) {
        long units = n * 37 % (MOST_UNITS + 1);

        memset(job, 0, sizeof *job);
        job->threads = threads;
        pool_run(pool, units, count_unit, job);
        for (long i = 0; i < MOST_UNITS; i++)
            good = good && job->runs[i] == (i < units);
        good = good && !job->bad_thread && !job->shared;
        if (n % 500 == 0)
            usleep(2000);
    }
    pool_free(pool);
    free(job);
    return good;
}

static _Atomic int signals, signals_elsewhere;
static pthread_t main_thread;

static void on_signal(int number)
{
    (void) number;
    signals++;
    signals_elsewhere += !pthread_equal(pthread_self(), main_thread);
}

static void spend(void *arg, long i, int thread)
{
    double *sums = arg;

    (void) thread;
    for (int n = 0; n < 20000; n++)
        sums[i] += 1.0 / (n + 1);
}

static bool signals_stay_out(void)
{
    struct pool *pool = pool_create(4);
    double sums[64] = {0};

    main_thread = pthread_self();
    signal(SIGUSR1, on_signal);
    for (int i = 0; i < 200; i++) {
        kill(getpid(), SIGUSR1);
        pool_run(pool, 64, spend, sums);
    }
    pool_free(pool);
    return signals > 0 && signals_elsewhere == 0;
}

/* The gradient of a linear layer with 1, 3, 2, 5 threads in turn on one device: the same bits. */
static bool set_threads_keeps_bits(void)
{
    enum { ROWS = 300, K = 70, N = 130 };
    const struct backend *backend = cpu_backend(cpu_best_isa("float32"), "float32");
    char message[256];
    struct device *device = backend->open(1, message, sizeof message);
    float *x = backend->alloc(device, ROWS * K * sizeof *x),
          *dy = backend->alloc(device, ROWS * N * sizeof *x);
    float *w = backend->alloc(device, K * N * sizeof *x), *first = backend->alloc(device, K * N * sizeof *x);
    float *dw = backend->alloc(device, K * N * sizeof *x), *dx = backend->alloc(device, ROWS * K * sizeof *x);
    const int threads[] = {1, 3, 2, 5};
    bool same = true;

    for (int i = 0; i < ROWS * K; i++)
        x[i] = (float) (i * 7919u % 1000) / 1000 - 0.5f;
    for (int i = 0; i < ROWS * N; i++)
        dy[i] = (float) (i * 104729u % 1000) / 1000 - 0.5f;
    for (int n = 0; n < 4; n++) {
        backend->set_threads(device, threads[n]);
        backend->zero(device, dw, K * N * sizeof *dw);
        backend->linear_backward(device, NULL, dx, dw, NULL, NULL, dy, NULL, x, w, ROWS, K, N);
        if (n == 0)
            backend->download(device, first, dw, K * N * sizeof *dw);
        same = same && memcmp(first, dw, K * N * sizeof *dw) == 0 && pool_threads(device->pool) == threads[n];
    }
    float *arrays[] = {x, dy, w, first, dw, dx};
    for (int i = 0; i < 6; i++)
        backend->free(device, arrays[i]);
    backend->close(device);
    return same;
}

/* Which lanes were run, and who is at each place; several threads write. */
struct lanes {
    _Atomic int runs[9], at[9], wrong;
    struct device *outer;
    int count, team; /* lanes; threads of each */
};

static void stay(void *arg, struct device *device, int lane, int place)
{
    struct lanes *l = arg;
    double sums[1] = {0};

    l->wrong += place < 0 || place >= l->count || device == l->outer || pool_threads(device->pool) != l->team;
    l->wrong += l->at[place]++ != 0;
    spend(sums, 0, 0);
    l->at[place]--;
    l->runs[lane]++;
}

static bool lanes_have_places(int threads, int count)
{
    char message[256];
    struct device *device = cpu_open(threads, message, sizeof message);
    struct lanes l = {.outer = device, .count = count, .team = threads > count ? threads / count : 1};
    bool right = true;

    for (int i = 0; i < 50; i++)
        cpu_side_by_side(device, count, stay, &l);
    for (int lane = 0; lane < 9; lane++)
        right = right && l.runs[lane] == (lane < count ? 50 : 0);
    cpu_close(device);
    return right && l.wrong == 0;
}

int main(void)
{
    const int threads[] = {1, 2, 3, 8};
    char message[256] = "";

    for (int i = 0; i < 4; i++)
        ok(run_jobs(threads[i], 3000), "3000 jobs on %d threads: every unit once", threads[i]);
    ok(signals_stay_out(), "signals are taken by the caller's thread only");
    ok(set_threads_keeps_bits(), "set_threads between operations: the same bits");
    for (int i = 0; i < 4; i++)
        for (int count = 2; count <= 9; count += 7)
            ok(lanes_have_places(threads[i], count),
               "%d lanes on %d threads: each once, alone at a place below %d", count, threads[i], count);
    ok(!cpu_open(0, message, sizeof message) && strstr(message, "threads = 0"),
       "no device with 0 threads: %s", message);
    return tap_end();
}
