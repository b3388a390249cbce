/*
 * Blocks and warps: a launch of cuda_shim's runtime, done with the PTX beside the program or library that has
 * the kernel (its path with ".ptx" added).
 *
 * Blocks run one after the other.  A warp runs until all its lanes wait for the block or have ended; of its
 * lanes those that are behind in the code go first, so that lanes that parted meet again where their paths
 * do. Warps go forwards in one launch and backwards in the next.
 */
#include "ptx.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>

#define MOST_SHARED 49152 /* bytes that a kernel has without asking for more */
#define UNWRITTEN   0x7ff8dead7fc0deadull

static const struct kernel *running;
static uint3 block;

void ptx_refuse(const struct instruction &i, const char *format, ...)
{
    char what[500];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    shim_refuse("%s, block %u %u: %s: %s", running ? running->name.c_str() : "no kernel", block.x, block.y,
                what, i.text.c_str());
}

/* ---- a warp ---- */

/* Of `lanes`, those for which the instruction's guard holds. */
static uint32_t guarded(struct warp &warp, const struct instruction &i, uint32_t lanes)
{
    uint32_t on = 0;

    if (i.guard < 0)
        return lanes;
    for (uint32_t lane = 0; lane < WARP; lane++)
        on |= (uint32_t) ((warp.at(i.guard, lane) & 1) != i.negated) << lane;
    return on & lanes;
}

static void move_to(struct warp &warp, uint32_t lanes, uint32_t pc)
{
    for (; lanes; lanes &= lanes - 1)
        warp.pc[__builtin_ctz(lanes)] = pc;
}

/* The lanes that go next, all at one instruction. */
static uint32_t hindmost(const struct warp &warp, uint32_t ready)
{
    uint32_t least = UINT32_MAX, lanes = 0;

    for (uint32_t left = ready; left; left &= left - 1)
        least = std::min(least, warp.pc[__builtin_ctz(left)]);
    for (uint32_t left = ready; left; left &= left - 1)
        if (warp.pc[__builtin_ctz(left)] == least)
            lanes |= left & -left;
    return lanes;
}

/* A branch, the end or a barrier: where lanes part. */
static void flow(struct warp &warp, const struct instruction &i, uint32_t lanes, uint32_t on, uint32_t pc)
{
    move_to(warp, lanes, pc + 1);
    if (i.flow == BRANCH)
        move_to(warp, on, i.target);
    if (i.flow == RETURN) {
        warp.live &= ~on;
        for (; on; on &= on - 1)
            if (!warp.copies[__builtin_ctz(on)].empty())
                ptx_refuse(i, "a thread that ends before its copies");
    }
    if (i.flow == BARRIER) {
        if (on != ALL_LANES)
            ptx_refuse(i, "only lanes %#x of a warp reach a barrier of the block together", on);
        warp.waiting = on;
    }
}

static void run_warp(struct warp &warp)
{
    for (uint32_t ready; (ready = warp.live & ~warp.waiting);) {
        uint32_t lanes = hindmost(warp, ready), pc = warp.pc[__builtin_ctz(lanes)];
        bool apart = lanes != ready;

        for (;; pc++) {
            const struct instruction &i = running->code[pc];
            uint32_t on = guarded(warp, i, lanes);

            if (i.flow != NEXT) {
                flow(warp, i, lanes, on, pc);
                break;
            }
            if (on)
                i.run(warp, i, on);
            if (apart) {
                move_to(warp, lanes, pc + 1);
                break;
            }
        }
    }
}

/* ---- a block ---- */

/* Slots as they are when a warp begins, but for what depends on block and thread. */
static std::vector<uint64_t> first_slots(const struct kernel &k)
{
    std::vector<uint64_t> slots(k.slot_of.size() * WARP, UNWRITTEN);

    for (const auto &[slot, value] : k.constants)
        std::fill_n(&slots[(size_t) slot * WARP], WARP, value);
    return slots;
}

/* The registers of the chip; the same for all lanes but %tid.x. */
static void fill_registers(const struct kernel &k, struct warp &warp, dim3 blocks, dim3 threads)
{
    const std::map<std::string, uint32_t> values = {{"%ctaid.x", block.x},   {"%ctaid.y", block.y},
                                                    {"%ntid.x", threads.x},  {"%nctaid.x", blocks.x},
                                                    {"%nctaid.y", blocks.y}, {"%tid.x", warp.number * WARP}};

    for (const auto &[name, slot] : k.slot_of) {
        auto value = values.find(name);

        if (value != values.end())
            for (uint32_t lane = 0; lane < WARP; lane++)
                warp.at(slot, lane) = value->second + (name == "%tid.x" ? lane : 0);
    }
}

static void run_block(std::vector<struct warp> &warps, bool backwards)
{
    uint32_t live, waiting;

    do {
        live = waiting = 0;
        for (size_t n = 0; n < warps.size(); n++)
            run_warp(warps[backwards ? warps.size() - 1 - n : n]);
        for (struct warp &warp : warps) {
            live += warp.live != 0;
            waiting += warp.waiting != 0;
            warp.waiting = 0;
            warp.passes++;
        }
        if (waiting && waiting != warps.size())
            shim_refuse("%s, block %u %u: %u of %zu warps end before a barrier of the block",
                        running->name.c_str(), block.x, block.y, (unsigned) (warps.size() - waiting),
                        warps.size());
        shared_barrier();
    } while (live);
}

/* ---- a launch ---- */

static const struct kernel &kernel_of(const struct shim_kernel &call)
{
    Dl_info info;

    if (!dladdr(call.function, &info) || info.dli_saddr != call.function)
        shim_refuse("a kernel at %p that has no name", call.function);
    return ptx_kernel(std::string(info.dli_fname) + ".ptx", info.dli_sname);
}

static void check_launch(const struct kernel &k, dim3 blocks, dim3 threads, const struct shim_kernel &call)
{
    const char *name = k.name.c_str();

    if (threads.x % WARP || threads.y != 1 || threads.z != 1 || blocks.z != 1)
        shim_refuse("%s: a launch of %u x %u x %u blocks of %u x %u x %u threads", name, blocks.x, blocks.y,
                    blocks.z, threads.x, threads.y, threads.z);
    if (k.most_threads && threads.x > k.most_threads)
        shim_refuse("%s: %u threads of at most %u", name, threads.x, k.most_threads);
    if (k.shared_bytes > MOST_SHARED)
        shim_refuse("%s: %u bytes of shared memory", name, k.shared_bytes);
    if (call.arguments.size() != k.parameters.size())
        shim_refuse("%s: %zu of %zu arguments", name, call.arguments.size(), k.parameters.size());
    for (size_t n = 0; n < k.parameters.size(); n++)
        if (call.arguments[n].bytes != k.parameters[n])
            shim_refuse("%s: argument %zu of %zu bytes, %zu are wanted", name, n, call.arguments[n].bytes,
                        k.parameters[n]);
}

void shim_launch(dim3 blocks, dim3 threads, const struct shim_kernel &call)
{
    static bool backwards;
    const struct kernel &k = kernel_of(call);
    std::vector<struct warp> warps(threads.x / WARP);
    std::vector<uint64_t> slots = first_slots(k);

    check_launch(k, blocks, threads, call);
    running = &k;
    backwards = !backwards;
    global_begin();
    for (block.y = 0; block.y < blocks.y; block.y++)
        for (block.x = 0; block.x < blocks.x; block.x++) {
            shared_begin(k.shared_bytes);
            for (size_t n = 0; n < warps.size(); n++) {
                warps[n] = {(uint32_t) n, ALL_LANES, 0, 0, {}, slots, {}, &call};
                fill_registers(k, warps[n], blocks, threads);
            }
            run_block(warps, backwards);
        }
}
