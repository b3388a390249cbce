/*
 * The fast CPU backend's device: memory, scratch, threads; and which instruction sets this machine has.
 *
 * Roof: the memory; gradients are zeroed and arrays copied by the C library, 0.2 % of a training step and
 * less (Zen 5, the share of all that is no operation), so no share of the roof is measured.
 */
#include "cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE (UINT64_C(2) << 20)

extern const struct backend cpu_backend_portable;
#if defined(__aarch64__)
extern const struct backend cpu_backend_neon;
#elif defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

extern const struct backend cpu_backend_avx2, cpu_backend_avx512, cpu_backend_avx512_bf16, cpu_backend_amx;

/* CPUID: the tile registers, bf16 products, and the one shape of tiles that there is so far. */
static bool chip_has_amx(void)
{
    unsigned a, b, c, d;

    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1u << 24) || !(d & 1u << 22))
        return false;
    return __get_cpuid_count(0x1d, 1, &a, &b, &c, &d) && b >> 16 >= 8 && (b & 0xffff) == 64 &&
           (c & 0xffff) == 16;
}

/*
 * Whether this process may use tile registers.  The system must save them (XCR0), and must be asked, once a
 * process and before threads start: a sandbox or an old kernel refuses, and then there is no AMX.
 */
static bool system_grants_amx(void)
{
    enum { req_xcomp_perm = 0x1023, get_xcomp_perm = 0x1022, tile_config = 17, tile_data = 18 };
    const uint64_t tiles = UINT64_C(1) << tile_config | UINT64_C(1) << tile_data;
    uint64_t granted = 0;
    unsigned a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & tiles) == tiles && syscall(SYS_arch_prctl, req_xcomp_perm, tile_data) == 0 &&
           syscall(SYS_arch_prctl, get_xcomp_perm, &granted) == 0 && (granted & tiles) == tiles;
}
#endif

/* The backends that this machine runs, from the least to the best in each precision; NULL ends them. */
static const struct backend *const *backends(void)
{
    static const struct backend *list[6];
    int count = 0;

    if (list[0])
        return list;

    list[count++] = &cpu_backend_portable;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        list[count++] = &cpu_backend_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        list[count++] = &cpu_backend_avx512;
        if (__builtin_cpu_supports("avx512bf16")) {
            list[count++] = &cpu_backend_avx512_bf16;
            if (chip_has_amx() && system_grants_amx())
                list[count++] = &cpu_backend_amx;
        }
    }
#elif defined(__aarch64__)
    list[count++] = &cpu_backend_neon; /* every such processor has it */
#endif
    return list;
}

const char *cpu_best_isa(const char *precision)
{
    const char *best = "";

    for (const struct backend *const *b = backends(); *b; b++)
        if (strcmp((*b)->precision, precision) == 0)
            best = (*b)->name;
    return best;
}

const struct backend *cpu_backend(const char *isa, const char *precision)
{
    for (const struct backend *const *b = backends(); *b; b++)
        if (strcmp((*b)->name, isa) == 0 && strcmp((*b)->precision, precision) == 0)
            return *b;
    return NULL;
}

/* Memory of at least a huge page is aligned to one and asks for them: fewer translations to look up. */
static void *allocate(size_t bytes)
{
    size_t alignment = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    size_t rounded = (bytes + 63) & ~(size_t) 63;
    void *memory;

    if (rounded < bytes || posix_memalign(&memory, alignment, rounded ? rounded : 64) != 0)
        return NULL;
    if (bytes >= HUGE_PAGE)
        madvise(memory, rounded & ~(HUGE_PAGE - 1), MADV_HUGEPAGE);
    return memory;
}

static void *grow(struct buffer *buffer, size_t bytes)
{
    if (buffer->size < bytes) {
        free(buffer->memory);
        buffer->memory = allocate(bytes);
        if (!buffer->memory) {
            char message[128];

            snprintf(message, sizeof message, "no memory for %zu bytes of scratch of the CPU backend", bytes);
            backend_no_memory(message);
        }
        buffer->size = bytes;
    }
    return buffer->memory;
}

void *device_shared(struct device *device, enum scratch which, size_t bytes)
{
    return grow(&device->shared[which], bytes);
}

void *device_own(struct device *device, int thread, size_t bytes)
{
    return grow(&device->own[thread], bytes);
}

static void free_shared(struct device *device)
{
    for (int i = 0; i < SCRATCH_COUNT; i++)
        free(device->shared[i].memory);
}

/* ---- threads ---- */

static void stop_threads(struct device *device);

static void drop_teams(struct device *device)
{
    for (int i = 0; i < device->n_teams; i++) {
        stop_threads(&device->teams[i]);
        free_shared(&device->teams[i]);
    }
    free(device->teams);
    device->teams = NULL;
    device->n_teams = 0;
}

static void stop_threads(struct device *device)
{
    for (int i = 0; device->own && i < pool_threads(device->pool); i++)
        free(device->own[i].memory);
    free(device->own);
    pool_free(device->pool);
    drop_teams(device);
}

/* 0, or -1: whoever asked calls stop_threads. */
static int start_threads(struct device *device, int threads)
{
    device->pool = pool_create(threads);
    device->own = device->pool ? calloc((size_t) threads, sizeof *device->own) : NULL;
    return device->own ? 0 : -1;
}

struct device *cpu_open(int threads, char *message, size_t message_size)
{
    struct device *device;

    if (threads < 1) {
        snprintf(message, message_size, "threads = %d: at least 1 is needed", threads);
        return NULL;
    }
    device = calloc(1, sizeof *device);
    if (!device || start_threads(device, threads) < 0) {
        snprintf(message, message_size, "could not start %d threads", threads);
        if (device)
            cpu_close(device);
        return NULL;
    }
    return device;
}

void cpu_close(struct device *device)
{
    stop_threads(device);
    free_shared(device);
    free(device);
}

/* The results do not depend on it, so a number that cannot be had leaves the old one. */
void cpu_set_threads(struct device *device, int threads)
{
    struct device next = {0};

    if (threads < 1 || threads == pool_threads(device->pool))
        return;
    if (start_threads(&next, threads) < 0) {
        fprintf(stderr, "could not start %d threads; staying with %d\n", threads, pool_threads(device->pool));
        stop_threads(&next);
        return;
    }
    stop_threads(device);
    device->pool = next.pool;
    device->own = next.own;
}

/* ---- lanes ---- */

/*
 * For every lane, or every thread where lanes are more, a device with its share of the threads; one of its
 * own where there are no more to be had, since results do not depend on it.
 */
static void form_teams(struct device *device, int lanes)
{
    int threads = pool_threads(device->pool), count = lanes < threads ? lanes : threads;

    if (device->n_teams == count)
        return;
    drop_teams(device);
    device->teams = calloc((size_t) count, sizeof *device->teams);
    for (device->n_teams = 0; device->n_teams < count; device->n_teams++) {
        struct device *team = device->teams ? &device->teams[device->n_teams] : NULL;

        if (team && start_threads(team, threads / count) < 0) {
            stop_threads(team);
            team = start_threads(team, 1) < 0 ? NULL : team;
        }
        if (!team)
            backend_no_memory("no memory for the lanes of the CPU backend");
    }
}

struct side_by_side {
    struct device *device;
    void (*body)(void *arg, struct device *, int lane, int place);
    void *arg;
};

/* A thread keeps to its place; where there are more threads than lanes, a lane does. */
static void side_by_side_unit(void *arg, long lane, int thread)
{
    const struct side_by_side *s = arg;
    int place = s->device->n_teams < pool_threads(s->device->pool) ? (int) lane : thread;
    struct device *team = &s->device->teams[place];

    team->weights = s->device->weights;
    s->body(s->arg, team, (int) lane, place);
}

void cpu_side_by_side(struct device *device, int lanes,
                      void (*body)(void *arg, struct device *, int lane, int place), void *arg)
{
    form_teams(device, lanes);
    pool_run(device->pool, lanes, side_by_side_unit, &(struct side_by_side){device, body, arg});
}

/* ---- memory ---- */

void *cpu_alloc(struct device *device, size_t bytes)
{
    void *memory = allocate(bytes);

    (void) device;
    return memory ? memset(memory, 0, bytes) : NULL;
}

real *cpu_alloc_weights(struct device *device, size_t n)
{
    struct weights *weights = calloc(1, sizeof *weights);

    if (!weights || !(weights->at = cpu_alloc(device, n * sizeof *weights->at)) ||
        !(weights->copy = cpu_alloc(device, n * sizeof *weights->copy))) {
        free(weights ? weights->at : NULL);
        free(weights);
        return NULL;
    }
    weights->n = n;
    weights->next = device->weights;
    device->weights = weights;
    return weights->at;
}

void cpu_free(struct device *device, void *memory)
{
    struct weights **link = weights_find(&device->weights, memory), *block = *link;

    if (block) {
        *link = block->next;
        free(block->copy);
        free(block);
    }
    free(memory);
}

void cpu_copy(struct device *device, void *to, const void *from, size_t bytes)
{
    (void) device;
    memcpy(to, from, bytes);
}

void cpu_zero(struct device *device, void *memory, size_t bytes)
{
    (void) device;
    memset(memory, 0, bytes);
}

void cpu_repeat(struct device *device, struct recording **recording, void (*body)(void *arg), void *arg)
{
    (void) device, (void) recording;
    body(arg);
}

void cpu_forget(struct device *device, struct recording *recording)
{
    (void) device, (void) recording;
}

/* One after the other: they are few. */
void cpu_add_losses(struct device *device, double *sum, const real *losses, size_t n)
{
    (void) device;
    for (size_t i = 0; i < n; i++)
        *sum += losses[i];
}
