/*
 * Running kernels on the host: fibers, barriers.
 *
 * Every thread of a block has a fiber that lives as long as the process; fibers switch by exchanging stack
 * pointers (where that is not written: by swapcontext, which makes two system calls each time).  A warp runs
 * until all its lanes wait for the block or are done.  A block in which nobody can go on (a barrier that not
 * all threads reach) ends the process, and so does a warp whose lanes meet at different instructions or are
 * not all there.  One launch runs at a time: the caller, runtime.cpp, holds its lock.
 */
#include "instruction.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#define MOST_THREADS 1024
#define WARP         32
#define STACK        (256 << 10)

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

void shim_refuse(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    abort();
}

/* ---- places: where a fiber or the scheduler stopped ---- */

#ifdef __x86_64__
struct place {
    void *stack_pointer;
};

__attribute__((naked, noinline, noipa)) static void exchange_stacks(void **, void *)
{
    __asm__("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
            "mov %rsp, (%rdi); mov %rsi, %rsp\n"
            "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}

static void switch_places(struct place *from, struct place *to)
{
    exchange_stacks(&from->stack_pointer, to->stack_pointer);
}

/* A place from which `main` begins: six registers, then where to return to. */
static void prepare(struct place *place, void (*main)())
{
    void **top = (void **) ((char *) aligned_alloc(64, STACK) + STACK);

    top[-2] = (void *) main;
    place->stack_pointer = top - 8;
}
#else
struct place {
    ucontext_t context;
};

static void switch_places(struct place *from, struct place *to)
{
    swapcontext(&from->context, &to->context);
}

static void prepare(struct place *place, void (*main)())
{
    getcontext(&place->context);
    place->context.uc_stack.ss_sp = aligned_alloc(64, STACK);
    place->context.uc_stack.ss_size = STACK;
    makecontext(&place->context, main, 0);
}
#endif

/* ---- fibers ---- */

struct barrier {
    unsigned members, arrived;
    unsigned long generation;
};

static struct fiber {
    struct place place;
    bool started, done;
    unsigned exchanges;
} fibers[MOST_THREADS];

static struct warp {
    struct barrier barrier;
    const char *instruction;   /* at which lanes wait for the others */
    shim_given given[2][WARP]; /* alternately, so that one barrier an exchange is enough */
} warps[MOST_THREADS / WARP];

static struct barrier block_barrier;
static struct place scheduler;
static const std::function<void()> *running;
static unsigned current; /* thread */
static unsigned long progress;

static void yield()
{
    switch_places(&fibers[current].place, &scheduler);
}

static void open_if_full(struct barrier *barrier)
{
    if (barrier->arrived == barrier->members) {
        barrier->arrived = 0;
        barrier->generation++;
    }
}

static void wait_for(struct barrier *barrier)
{
    unsigned long generation = barrier->generation;

    progress++;
    barrier->arrived++;
    open_if_full(barrier);
    while (barrier->generation == generation)
        yield();
}

void __syncthreads()
{
    wait_for(&block_barrier);
}

static void meet(struct warp *warp, const char *instruction)
{
    if (warp->barrier.members != WARP)
        shim_refuse("%s in a warp of %u lanes", instruction, warp->barrier.members);
    if (!warp->barrier.arrived)
        warp->instruction = instruction;
    if (strcmp(warp->instruction, instruction) != 0)
        shim_refuse("lanes of a warp at %s and at %s", warp->instruction, instruction);
    wait_for(&warp->barrier);
}

void __syncwarp()
{
    meet(&warps[current / WARP], "syncwarp");
}

const shim_given *shim_exchange(const char *instruction, const void *mine, size_t size)
{
    struct warp *warp = &warps[current / WARP];
    shim_given *given = warp->given[fibers[current].exchanges++ % 2];

    memcpy(given[current % WARP].bytes, mine, size);
    meet(warp, instruction);
    return given;
}

/* A thread has ended; nobody may count on it any more. */
static void leave()
{
    struct warp *warp = &warps[current / WARP];

    if (warp->barrier.arrived)
        shim_refuse("lanes of a warp at %s, and one that has ended", warp->instruction);
    if (shim_copies_wait(current))
        shim_refuse("a thread that has ended before its copies");
    fibers[current].done = true;
    progress++;
    warp->barrier.members--;
    block_barrier.members--;
    open_if_full(&block_barrier);
}

static void fiber_main()
{
    for (;;) {
        (*running)();
        leave();
        yield();
    }
}

static void resume(unsigned thread)
{
    struct fiber *fiber = &fibers[thread];

    current = thread;
    threadIdx.x = thread;
    if (!fiber->started)
        prepare(&fiber->place, fiber_main);
    fiber->started = true;
    switch_places(&scheduler, &fiber->place);
}

/* The i-th of n in this launch's order: forward, backward, or by odd steps. */
static unsigned in_order(unsigned i, unsigned n, unsigned long launch)
{
    return launch % 3 == 0 ? i : launch % 3 == 1 ? n - 1 - i : n % 7 ? (i * 7 + 3) % n : i;
}

static void run_warp(unsigned warp, unsigned lanes, unsigned long launch)
{
    unsigned long before;

    do {
        before = progress;
        for (unsigned i = 0; i < lanes; i++) {
            unsigned thread = warp * WARP + in_order(i, lanes, launch);

            if (!fibers[thread].done)
                resume(thread);
        }
    } while (progress != before);
}

static void run_block(unsigned threads, unsigned long launch)
{
    unsigned n_warps = (threads + WARP - 1) / WARP;

    block_barrier = {threads, 0, 0};
    for (unsigned i = 0; i < threads; i++)
        fibers[i].done = false;
    for (unsigned w = 0; w < n_warps; w++)
        warps[w].barrier = {std::min((unsigned) WARP, threads - w * WARP), 0, 0};
    while (block_barrier.members) {
        unsigned long before = progress;

        for (unsigned w = 0; w < n_warps; w++) {
            unsigned warp = in_order(w, n_warps, launch);

            run_warp(warp, std::min((unsigned) WARP, threads - warp * WARP), launch);
        }
        if (progress == before)
            shim_refuse("a barrier that not all threads of a block reach");
    }
}

/* Weak: regress/ptx has another. */
__attribute__((weak)) void shim_launch(dim3 blocks, dim3 threads, const struct shim_kernel &kernel)
{
    static unsigned long launch;

    if (threads.x > MOST_THREADS || threads.y != 1 || threads.z != 1 || !blocks.x || !blocks.y ||
        blocks.y > 65535 || blocks.z != 1)
        shim_refuse("a launch of %u x %u x %u blocks of %u x %u x %u threads", blocks.x, blocks.y, blocks.z,
                    threads.x, threads.y, threads.z);
    running = &kernel.call;
    gridDim = blocks;
    blockDim = threads;
    for (blockIdx.y = 0; blockIdx.y < blocks.y; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < blocks.x; blockIdx.x++)
            run_block(threads.x, launch);
    launch++;
}
