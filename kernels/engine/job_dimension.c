/*
 * POINTS: a set of points in the spool file, then questions about its intrinsic dimension, one answer each.
 *
 * The points are read into memory and sorted, so that answers do not depend on the order in which they were
 * sent. The neighbour lists of the set measured last (the points, a sample, a control) are kept between
 * questions and cut to the length that the next one needs.  Neighbours are found on the CPU or on a GPU, with
 * the same bits.
 */
#include "engine.h"
#include "../backend/cuda/cuda_find.h"
#include "../backend/knn.h"
#include "../stats/dimension.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* Multiplications of all pairs below which "auto" leaves a GPU alone: it takes longer to open. */
#define GPU_WORK 1e11

struct measurement {
    struct engine *e;
    struct pool *pool;
    struct tlaw_points points;
    void *data;
    int32_t *cluster;
    struct tlaw_measure_message question; /* the one being answered */
    struct {
        struct tlaw_neighbours lists;
        struct tlaw_measure_message question; /* that they were found for */
    } kept;
};

/* ---- input ---- */

static void check_clusters(struct measurement *g)
{
    for (int64_t i = 0; i < g->points.n; i++)
        if (g->cluster[i] < 0 || g->cluster[i] >= g->points.n)
            engine_fail(g->e, "input", "point %lld has cluster %d; 0 to %lld are accepted", (long long) i + 1,
                        g->cluster[i], (long long) g->points.n - 1);
}

static void read_points(struct measurement *g, const struct tlaw_points_message *m)
{
    struct stat file;
    int64_t row = m->width * m->element_size;

    engine_check_range(g->e, "points", (double) m->points, 0, INT32_MAX);
    engine_check_range(g->e, "width", (double) m->width, m->points > 0, 1000000);
    if (m->element_size != 4 && m->element_size != 8)
        engine_fail(g->e, "input", "element_size = %lld is not accepted: 4 or 8",
                    (long long) m->element_size);
    size_t bytes = (size_t) (m->points * row), total = bytes + (m->clustered ? (size_t) m->points * 4 : 0);
    if (fstat(TLAW_FD_SPOOL, &file) || (size_t) file.st_size != total)
        engine_fail(g->e, "io", "the file of points has %lld bytes, not %zu", (long long) file.st_size,
                    total);
    g->points =
        (struct tlaw_points){.n = m->points, .width = (int) m->width, .element_size = (int) m->element_size};
    if (!total)
        return;
    void *mapped = mmap(NULL, total, PROT_READ, MAP_PRIVATE, TLAW_FD_SPOOL, 0);
    if (mapped == MAP_FAILED)
        engine_fail(g->e, "io", "the file of points cannot be mapped: %s", strerror(errno));
    g->data = engine_alloc(g->e, bytes, "points");
    g->points.data = mapped;
    if (m->clustered) {
        g->cluster = engine_alloc(g->e, (size_t) m->points * 4, "clusters");
        memcpy(g->cluster, (const char *) mapped + bytes, (size_t) m->points * 4);
        check_clusters(g);
    }
    if (tlaw_points_sort(&g->points, g->data, g->cluster))
        engine_fail(g->e, "memory", "%zu bytes to sort the points cannot be had", bytes);
    munmap(mapped, total);
}

/* ---- device ---- */

/* Puts the first usable GPU into device; -1 and why not. */
static int first_gpu(char device[TLAW_NAME_SIZE], char *message, size_t message_size)
{
    struct backend_device list[BACKEND_GPUS_MOST];
    int count = backend_gpus(list, message, message_size);

    for (int i = 0; i < count; i++) {
        snprintf(device, TLAW_NAME_SIZE, "%s", list[i].device);
        if (!list[i].unusable[0])
            return 0;
        snprintf(message, message_size, "%s: %s", list[i].device, list[i].unusable);
    }
    return -1;
}

static void use_cpu(struct measurement *g, int64_t limit)
{
    struct rlimit data = {(rlim_t) limit, (rlim_t) limit};

    if (limit > 0 && setrlimit(RLIMIT_DATA, &data))
        engine_fail(g->e, "internal", "cannot set RLIMIT_DATA to %lld: %s", (long long) limit,
                    strerror(errno));
}

/* Opens a GPU when that is where the neighbours are to be found; else the device stays closed. */
static void choose_device(struct measurement *g, const struct tlaw_points_message *m)
{
    double work = (double) m->points * (double) m->points * (double) m->width;
    bool automatic = !strcmp(m->device, "auto");
    struct tlaw_spec spec = {.precision = "bf16"}; /* any of its tables */
    char message[TLAW_TEXT_SIZE];

    engine_check_range(g->e, "memory_limit", (double) m->memory_limit, 0, 1e15);
    if (!strcmp(m->device, "cpu") ||
        (automatic && (work < GPU_WORK || first_gpu(spec.device, message, sizeof message)))) {
        use_cpu(g, m->memory_limit);
        return;
    }
    if (!strcmp(m->device, "cuda") && first_gpu(spec.device, message, sizeof message))
        engine_fail(g->e, "input", "device \"cuda\" is not available: %s", message);
    if (!spec.device[0])
        memcpy(spec.device, m->device, sizeof spec.device);
    engine_open_device(g->e, &spec, m->threads);
}

/* ---- neighbours ---- */

static void copy_lists(const struct tlaw_neighbours *from, struct tlaw_neighbours *to)
{
    for (int64_t i = 0; i < to->n; i++) {
        memcpy(to->distance + i * to->k, from->distance + i * from->k, (size_t) to->k * sizeof *to->distance);
        memcpy(to->index + i * to->k, from->index + i * from->k, (size_t) to->k * sizeof *to->index);
    }
}

/* Whether two questions are about the same neighbours of the same points. */
static bool same_set(const struct tlaw_measure_message *a, const struct tlaw_measure_message *b)
{
    bool drawn = a->control[0] || a->sample > 0; /* then the seed decides */

    return !strcmp(a->metric, b->metric) && !strcmp(a->control, b->control) && a->sample == b->sample &&
           a->exclude_cluster == b->exclude_cluster && a->known_dimension == b->known_dimension &&
           (!drawn || a->seed == b->seed);
}

static void keep_lists(struct measurement *g, const struct tlaw_neighbours *lists)
{
    size_t entries = (size_t) lists->n * (size_t) lists->k;

    free(g->kept.lists.distance);
    free(g->kept.lists.index);
    g->kept.lists = *lists;
    g->kept.lists.distance = engine_alloc(g->e, entries * sizeof *lists->distance, "neighbour distances");
    g->kept.lists.index = engine_alloc(g->e, entries * sizeof *lists->index, "neighbour indices");
    copy_lists(lists, &g->kept.lists);
    g->kept.question = g->question;
}

static void report(double share, void *arg)
{
    struct measurement *g = arg;
    struct tlaw_progress_message progress = {
        .step = (int64_t) (1000 * share), .total = 1000, .phase = "neighbours"};

    engine_progress(g->e, &progress);
}

static int find_neighbours(const struct tlaw_points *points, enum tlaw_metric metric, const int32_t *group,
                           struct tlaw_neighbours *out, struct tlaw_poll poll, void *arg, char *message)
{
    struct measurement *g = arg;
    struct knn_request cpu = {.pool = g->pool, .progress = report, .progress_arg = g};
    struct cuda_knn_request gpu = {.device = g->e->device, .progress = report, .progress_arg = g};
    int64_t sample = g->question.sample;
    bool whole =
        points->n == (sample > 0 && sample < g->points.n ? sample : g->points.n); /* duplicates not yet out */

    if (whole && g->kept.lists.k >= out->k && same_set(&g->kept.question, &g->question)) {
        copy_lists(&g->kept.lists, out);
        return 0;
    }
    if (gpu.device ? cuda_knn(points, metric, group, out, poll, &gpu, message)
                   : knn_exact(points, metric, group, out, poll, &cpu, message))
        return -1;
    if (whole)
        keep_lists(g, out);
    return 0;
}

/* ---- questions ---- */

static struct tlaw_question read_question(struct measurement *g, const struct tlaw_measure_message *m)
{
    int estimator = tlaw_estimator_find(m->estimator), metric = tlaw_metric_find(m->metric);
    int control = tlaw_control_find(m->control);

    if (estimator < 0 || metric < 0 || control < 0)
        engine_fail(g->e, "input", "estimator \"%s\", metric \"%s\" or control \"%s\" is not known",
                    m->estimator, m->metric, m->control);
    engine_check_range(g->e, "k", (double) m->k, 0, 10000);
    engine_check_range(g->e, "sample", (double) m->sample, 0, INT32_MAX);
    engine_check_range(g->e, "known_dimension", (double) m->known_dimension, control == TLAW_CONTROL_KNOWN,
                       100000);
    return (struct tlaw_question){
        .options = {.estimator = (enum tlaw_estimator) estimator,
                    .k = (int) m->k,
                    .metric = (enum tlaw_metric) metric,
                    .exclude_cluster = m->exclude_cluster != 0,
                    .seed = (uint64_t) m->seed},
        .control = (enum tlaw_control) control,
        .known_dimension = (int) m->known_dimension,
        .sample = m->sample,
    };
}

static void answer(struct measurement *g, const struct tlaw_measure_message *m)
{
    struct tlaw_question question = read_question(g, m);
    struct tlaw_dimension d;

    g->question = *m;
    if (tlaw_dimension_answer(&g->points, g->cluster, &question, find_neighbours, g, (struct tlaw_poll){0},
                              &d))
        engine_fail(g->e, "input", "%s", d.message[0] ? d.message : "out of memory");
    struct tlaw_dimension_message reply = {.dimension = d.dimension,
                                           .standard_error = d.standard_error,
                                           .low = d.low,
                                           .high = d.high,
                                           .plateau = d.plateau,
                                           .n = d.n,
                                           .k = d.k,
                                           .duplicates = d.duplicates,
                                           .ties = d.ties,
                                           .zero_distances = d.zero_distances};
    memcpy(reply.message, d.message, sizeof d.message);
    engine_send(g->e, TLAW_DIMENSION, &reply);
}

void job_dimension(struct engine *e, const union tlaw_any_message *request)
{
    struct measurement g = {.e = e};
    union tlaw_any_message next;
    enum tlaw_message type;

    engine_check_range(e, "threads", (double) request->points.threads, 1, 1024);
    g.pool = pool_create((int) request->points.threads);
    if (!g.pool)
        engine_fail(e, "memory", "%lld threads cannot be had", (long long) request->points.threads);
    choose_device(&g, &request->points);
    read_points(&g, &request->points);
    while ((type = engine_receive(e, &next)) == TLAW_MEASURE)
        answer(&g, &next.measure);
    if (type != TLAW_END)
        engine_unexpected(e, type, "MEASURE or END");
    pool_free(g.pool);
    free(g.data);
    free(g.cluster);
    free(g.kept.lists.distance);
    free(g.kept.lists.index);
}
