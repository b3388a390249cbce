/*
 * Shared and global memory of what launch.cpp runs.
 *
 * Two accesses to a byte of shared memory of which one writes are in order if a thread made both, if all
 * threads of the block met in between, or if both threads are of a warp whose lanes met (bar.warp.sync) in
 * between; else they are a race, whatever order this run gave them.  Of global memory only bounds and
 * alignment are checked.
 */
#include "ptx.h"

#define NOBODY        (-1)
#define SEVERAL_LANES (-2) /* of one warp */
#define SEVERAL_WARPS (-3)

/* Who used a byte of shared memory last, and when: barriers of the block, then of the warp. */
struct use {
    uint32_t barriers, passes;
    int thread, warp;
};
struct byte {
    bool written;
    struct use write, read;
};

static std::vector<char> memory;
static std::vector<struct byte> bytes_of;
static uint32_t barriers;

void shared_begin(uint32_t bytes)
{
    memory.assign(bytes, (char) 0xff);
    bytes_of.assign(bytes, {false, {0, 0, NOBODY, NOBODY}, {0, 0, NOBODY, NOBODY}});
    barriers = 0;
}

void shared_barrier()
{
    barriers++;
}

/* Whether a use of that byte before and one now are in no order. */
static bool is_race(const struct use &before, const struct use &now)
{
    if (before.thread == NOBODY || before.barriers != now.barriers || before.thread == now.thread)
        return false;
    return before.thread == SEVERAL_WARPS || before.warp != now.warp || before.passes == now.passes;
}

static void note_reader(struct use *read, const struct use &now)
{
    if (read->thread == NOBODY || read->barriers != now.barriers)
        *read = now;
    else if (read->thread == SEVERAL_WARPS || read->warp != now.warp)
        read->thread = SEVERAL_WARPS;
    else if (read->passes != now.passes)
        *read = now;
    else if (read->thread != now.thread)
        read->thread = SEVERAL_LANES;
}

char *shared_access(const struct instruction &i, const struct warp &warp, uint32_t lane, uint32_t at,
                    uint32_t bytes, bool write)
{
    struct use now = {barriers, warp.passes, (int) (warp.number * WARP + lane), (int) warp.number};

    if (at % bytes)
        ptx_refuse(i, "%u bytes of shared memory at %u, which is not aligned", bytes, at);
    if ((uint64_t) at + bytes > memory.size())
        ptx_refuse(i, "%u bytes at %u of %zu bytes of shared memory", bytes, at, memory.size());
    for (uint32_t b = at; b < at + bytes; b++) {
        struct byte *byte = &bytes_of[b];

        if (is_race(byte->write, now))
            ptx_refuse(i, "a race: thread %d %s shared memory at %u, which thread %d writes", now.thread,
                       write ? "writes" : "reads", b, byte->write.thread);
        if (!write && !byte->written)
            ptx_refuse(i, "thread %d reads shared memory at %u, which nobody wrote", now.thread, b);
        if (write && is_race(byte->read, now))
            ptx_refuse(i, "a race: thread %d writes shared memory at %u, which another reads", now.thread, b);
        if (write)
            byte->write = now, byte->written = true;
        else
            note_reader(&byte->read, now);
    }
    return &memory[at];
}

void shared_forget(uint32_t at, uint32_t bytes)
{
    for (uint32_t b = at; b < at + bytes; b++)
        memory[b] = (char) 0xff, bytes_of[b].written = false;
}

/* ---- global ---- */

static uintptr_t begin, end; /* of the allocation that was used last */

void global_begin()
{
    begin = end = 0;
}

char *global_access(const struct instruction &i, uint64_t at, uint32_t bytes)
{
    if (at % bytes)
        ptx_refuse(i, "%u bytes at %#lx, which is not aligned", bytes, (unsigned long) at);
    if (at < begin || at + bytes > end)
        if (!shim_find_block((const void *) at, &begin, &end) || at + bytes > end)
            ptx_refuse(i, "%u bytes at %#lx, which is not memory of the device", bytes, (unsigned long) at);
    return (char *) at;
}
