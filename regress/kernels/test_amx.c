/*
 * The AMX backend where there is no AMX: the same sources, with a model of the tile instructions in C that
 * ends the process where the chip would fault.  Every operation against the reference, and the trainer's
 * bits.
 *
 * The backend's memory is fenced: blocks end before a page that cannot be touched, and are NaN to begin with,
 * so that what is read beyond or before it was written shows.  Where the chip has AMX, test_operations and
 * test_trainer check the instructions themselves.
 */
#include "operations.h"
#include "trainer_bits.h"

#if defined(__x86_64__)
#include "../amx_model/tiles.h"

#include "../../kernels/backend/cpu/cpu.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

extern const struct backend cpu_backend_amx_model;

/* ---- fenced memory: the linker sends the library's calls here ---- */
int __real_posix_memalign(void **memory, size_t alignment, size_t size);
void __real_free(void *memory);
int __wrap_posix_memalign(void **memory, size_t alignment, size_t size);
void __wrap_free(void *memory);

#define PAGE   4096
#define BLOCKS 4096

static struct {
    void *memory, *pages;
    size_t size;
} blocks[BLOCKS];
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;

int __wrap_posix_memalign(void **memory, size_t alignment, size_t size)
{
    size_t whole = (size + PAGE - 1) / PAGE * PAGE + PAGE;
    char *pages;
    int i = 0;

    if (alignment > PAGE) { /* huge pages */
        int status = __real_posix_memalign(memory, alignment, size);

        return status ? status : (memset(*memory, 0xff, size), 0);
    }
    pages = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages + whole - PAGE, PAGE, PROT_NONE))
        abort();
    memset(pages, 0xff, whole - PAGE); /* NaN in float32 and in bf16 */
    *memory = pages + whole - PAGE - (size + alignment - 1) / alignment * alignment;
    pthread_mutex_lock(&blocks_lock);
    while (blocks[i].memory)
        if (++i == BLOCKS)
            abort();
    blocks[i].memory = *memory;
    blocks[i].pages = pages;
    blocks[i].size = whole;
    pthread_mutex_unlock(&blocks_lock);
    return 0;
}

void __wrap_free(void *memory)
{
    bool found = false;

    pthread_mutex_lock(&blocks_lock);
    for (int i = 0; memory && !found && i < BLOCKS; i++)
        if (blocks[i].memory == memory) {
            munmap(blocks[i].pages, blocks[i].size);
            blocks[i].memory = NULL;
            found = true;
        }
    pthread_mutex_unlock(&blocks_lock);
    if (!found)
        __real_free(memory);
}

/* ---- the model itself ---- */

static const struct tile_config small = {
    .palette = 1, .row_bytes = {12, 20, 12, 64}, .rows = {7, 7, 5, 1}}; /* 7 x 3 += 7 x 10 times 5 x 6 */

static void without_configuration(void)
{
    tile_zero(0);
}

static void after_release(void)
{
    tile_configure(&small);
    tile_release();
    tile_zero(0);
}

static void tile_that_is_not_configured(void)
{
    tile_configure(&small);
    tile_zero(4);
}

static void shapes_that_do_not_fit(void)
{
    tile_configure(&small);
    tile_multiply_add(0, 1, 3);
}

static void too_many_rows(void)
{
    struct tile_config config = small;

    config.rows[1] = 17;
    tile_configure(&config);
}

/* Whether it ends a process. */
static bool aborts(void (*what)(void))
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        fclose(stderr);
        what();
        _exit(0);
    }
    return waitpid(child, &status, 0) == child && WIFSIGNALED(status);
}

static void test_model(void)
{
    uint16_t a[7][10], b[5][6];
    float c[7][3];
    bool right = true;

    for (int i = 0; i < 70; i++)
        a[i / 10][i % 10] = (uint16_t) (0x3f80 + i % 64 - (i % 3 << 15)); /* 1 to 2, some negative */
    for (int i = 0; i < 30; i++)
        b[i / 6][i % 6] = (uint16_t) (0x3f80 + i * 7 % 64);
    a[0][0] = 1; /* subnormal: zero */
    for (int i = 0; i < 21; i++)
        c[i / 3][i % 3] = (float) i;
    tile_configure(&small);
    tile_load(0, c, 12);
    tile_load(1, a, 20);
    tile_load(2, b, 12);
    tile_multiply_add(0, 1, 2);
    memset(c, 0xff, sizeof c);
    tile_store(0, c, 12);
    for (int m = 0; m < 7; m++)
        for (int n = 0; n < 3; n++) {
            double sum = m * 3 + n;

            for (int k = 0; k < 10; k++) /* element k of column n is half k % 2 of pair k / 2 */
                sum += (m + k ? (double) tile_float((unsigned char *) &a[m][k]) : 0) *
                       (double) tile_float((unsigned char *) &b[k / 2][2 * n + k % 2]);
            right &= fabs(sum - c[m][n]) < 1e-5;
        }
    tile_release();
    ok(right, "the model multiplies 7 x 10 by 10 x 3");
    ok(aborts(without_configuration), "the model faults without a configuration");
    ok(aborts(after_release), "the model faults after a release");
    ok(aborts(tile_that_is_not_configured), "the model faults on a tile that is not configured");
    ok(aborts(shapes_that_do_not_fit), "the model faults on shapes that do not fit");
    ok(aborts(too_many_rows), "the model faults on 17 rows");
}

int main(void)
{
    test_model();
    if (!cpu_backend("avx512", "bf16")) {
        skip("the AMX backend: its other instructions need AVX-512 with bf16");
        return tap_end();
    }
    make_corpus();
    check_backend(&cpu_backend_amx_model);
    test_training(&cpu_backend_amx_model);
    return tap_end();
}
#else
int main(void)
{
    skip("AMX: not an x86-64 machine");
    return tap_end();
}
#endif
