/*
 * The fast CPU backend, seen from inside: the opened device (thread pool, scratch) and the choice of an
 * instruction set.
 *
 * The operations are in isa_*.c, compiled once an instruction set (portable, neon, avx2, avx512, amx); isa.h
 * is what these share.  Invariants: an operation is cut into units by its shape, each unit writes its own
 * outputs and adds up in an order that only the shape decides, so the bits do not depend on the number of
 * threads.
 */
#ifndef TLAW_CPU_H
#define TLAW_CPU_H

#include "../weights.h"

/*
 * NULL when this machine or this build has not got it.  isa: "portable", "neon", "avx2", "avx512", "amx". The
 * first call asks the system for the tile registers of AMX, so it comes before threads start.
 */
const struct backend *cpu_backend(const char *isa, const char *precision);
/* The best instruction set that this machine runs in that precision; "": none. */
const char *cpu_best_isa(const char *precision);

/* ---- threads.c: a pool that runs the units of one job at a time ---- */
struct pool;

/* threads - 1 workers, signals blocked in them; NULL when a thread or memory cannot be had. */
struct pool *pool_create(int threads);
void pool_free(struct pool *);
int pool_threads(const struct pool *);
/*
 * Calls unit(arg, i, thread) for every i < units on whichever thread is free, and returns when all are done.
 * thread < pool_threads: which scratch to use.  With one thread or one unit: a plain loop in the caller.
 */
void pool_run(struct pool *, long units, void (*unit)(void *arg, long i, int thread), void *arg);

/* ---- cpu.c: the device ---- */
enum scratch {
    SCRATCH_PACKED,
    SCRATCH_COLUMNS,
    SCRATCH_HEAD,       /* of a block of rows of the head */
    SCRATCH_WORDS,      /* wte packed for logits */
    SCRATCH_WORDS_BACK, /* wte packed for the gradient of the head's input */
    SCRATCH_PARTIAL,
    SCRATCH_COUNT
};

struct device {
    struct pool *pool;
    struct weights *weights; /* of a bf16 backend */
    struct buffer {
        void *memory;
        size_t size;
    } shared[SCRATCH_COUNT], *own; /* own: one a thread */
    struct device *teams;          /* that lanes go on, formed when the first do */
    int n_teams;
};

/*
 * Scratch memory, 64-byte aligned, contents undefined, kept until the device is closed; a later call may move
 * it. An operation cannot fail, so a scratch that cannot be had ends the process with a message.
 */
void *device_shared(struct device *, enum scratch which, size_t bytes);
void *device_own(struct device *, int thread, size_t bytes);

struct device *cpu_open(int threads, char *message, size_t message_size);
void cpu_close(struct device *);
void cpu_set_threads(struct device *, int threads);
void *cpu_alloc(struct device *, size_t bytes);
/* Weights with a copy: the caller keeps it as it changes them. */
real *cpu_alloc_weights(struct device *, size_t n);
void cpu_free(struct device *, void *);
void cpu_copy(struct device *, void *to, const void *from, size_t bytes);
void cpu_zero(struct device *, void *, size_t bytes);
void cpu_repeat(struct device *, struct recording **, void (*body)(void *arg), void *arg);
void cpu_forget(struct device *, struct recording *);
void cpu_side_by_side(struct device *, int lanes,
                      void (*body)(void *arg, struct device *, int lane, int place), void *arg);
void cpu_add_losses(struct device *, double *sum, const real *losses, size_t n);

#endif
