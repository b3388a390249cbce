/* See points.h. */
#include "points.h"
#include "documents.h"

#include "catalog/pg_type.h"
#include "utils/memutils.h"

#include <math.h>
#include <unistd.h>

#define IN_MEMORY       ((Size) 64 << 20) /* bytes of rows before they go to a file */
#define IN_PROCESS_WORK 1e9               /* multiplications of distances done here: about half a second */
#define PAIR_WORK       50                /* what a pair costs whatever its width, in multiplications */
#define LARGEST_VALUE   1e150
#define LARGEST_WIDTH   1000000

/* ---- gathering ---- */

static void close_file(void *arg)
{
    struct point_set *set = arg;

    if (set->fd >= 0)
        close(set->fd);
    set->fd = -1;
}

struct point_set *point_set_create(MemoryContext context)
{
    struct point_set *set = MemoryContextAllocZero(context, sizeof *set);
    MemoryContextCallback *callback = MemoryContextAllocZero(context, sizeof *callback);

    set->context = context;
    set->fd = -1;
    callback->func = close_file;
    callback->arg = set;
    MemoryContextRegisterResetCallback(context, callback);
    return set;
}

static void write_file(int fd, const char *data, Size size)
{
    while (size > 0) {
        ssize_t written;

        CHECK_FOR_INTERRUPTS();
        written = write(fd, data, Min(size, (Size) 8 << 20));
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            ereport(ERROR,
                    (errcode_for_file_access(), errmsg("could not write points to a temporary file: %m")));
        data += written;
        size -= written;
    }
}

static void spill(struct point_set *set)
{
    if (set->fd < 0)
        set->fd = tlaw_temporary_file();
    write_file(set->fd, set->buffer, set->used);
    set->used = 0;
}

/* Room for one more row; the first decides width and element size. */
static char *next_row(struct point_set *set, int width, int element_size)
{
    Size row = (Size) width * element_size;

    if (set->n == 0) {
        if (width < 1 || width > LARGEST_WIDTH)
            ereport(ERROR,
                    (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                     errmsg("point 1 has %d coordinates; 1 to %d are accepted", width, LARGEST_WIDTH)));
        set->width = width;
        set->element_size = element_size;
    }
    if (width != set->width)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
                        errmsg("point " INT64_FORMAT " has %d coordinates and the points before it have %d; "
                               "all must have the same number",
                               set->n + 1, width, set->width)));
    if (set->used + row > IN_MEMORY)
        spill(set);
    if (set->used + row > set->capacity) {
        set->capacity = Max(set->used + row, Min(2 * set->capacity, IN_MEMORY));
        set->capacity = Max(set->capacity, 8192);
        set->buffer = set->buffer ? repalloc_huge(set->buffer, set->capacity)
                                  : MemoryContextAllocHuge(set->context, set->capacity);
    }
    set->used += row;
    set->n++;
    if (set->n > PG_INT32_MAX)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("there are more than %d points; measure a sample", PG_INT32_MAX)));
    return set->buffer + set->used - row;
}

static void check_value(const struct point_set *set, int column, double value)
{
    if (!(fabs(value) <= LARGEST_VALUE))
        ereport(ERROR,
                (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
                 errmsg("point " INT64_FORMAT ", coordinate %d is %g; finite values up to 1e150 are accepted",
                        set->n, column + 1, value)));
}

void point_set_add_floats(struct point_set *set, const float *row, int width)
{
    float *to = (float *) next_row(set, width, sizeof *to);
    int i;

    for (i = 0; i < width; i++) {
        check_value(set, i, row[i]);
        to[i] = row[i];
    }
}

void point_set_add_array(struct point_set *set, ArrayType *array)
{
    int width = ARR_NDIM(array) == 1 ? ARR_DIMS(array)[0] : 0, i;

    if (ARR_NDIM(array) > 1)
        ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
                        errmsg("point " INT64_FORMAT
                               " is an array of %d dimensions; a point is a plain array of numbers",
                               set->n + 1, ARR_NDIM(array))));
    if (array_contains_nulls(array))
        ereport(ERROR,
                (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                 errmsg("point " INT64_FORMAT " has a NULL coordinate; all must be numbers", set->n + 1)));
    if (ARR_ELEMTYPE(array) == FLOAT4OID) {
        point_set_add_floats(set, (float *) ARR_DATA_PTR(array), width);
    } else {
        const double *from = (double *) ARR_DATA_PTR(array);
        double *to = (double *) next_row(set, width, sizeof *to);

        for (i = 0; i < width; i++) {
            check_value(set, i, from[i]);
            to[i] = from[i];
        }
    }
}

void point_set_cluster(struct point_set *set, int32 cluster)
{
    if (set->n > set->cluster_capacity) {
        set->cluster_capacity = Max(1024, 2 * set->cluster_capacity);
        set->cluster =
            set->cluster ? repalloc_huge(set->cluster, set->cluster_capacity * sizeof *set->cluster)
                         : MemoryContextAllocHuge(set->context, set->cluster_capacity * sizeof *set->cluster);
    }
    set->cluster[set->n - 1] = cluster;
}

/* ---- asking ---- */

struct asker {
    struct engine *engine;     /* NULL: computed here */
    struct tlaw_points points; /* sorted, when computed here */
    int32 *cluster;
};

/* Only what CHECK_FOR_INTERRUPTS will raise: other interrupts are handled, and the work goes on. */
static int interrupted(void *arg)
{
    return QueryCancelPending || ProcDiePending;
}

/* The whole set as the engine finds it in its spool file: rows, then clusters. */
static void start_engine(struct asker *asker, struct point_set *set)
{
    struct tlaw_points_message points = {.points = set->n,
                                         .width = set->width,
                                         .element_size = set->element_size,
                                         .clustered = set->cluster != NULL,
                                         .threads = tlaw_threads,
                                         .memory_limit = (int64) tlaw_max_run_memory << 20};
    int fd;

    progress_begin();
    strlcpy(points.device, tlaw_device, sizeof points.device);
    spill(set);
    if (set->cluster)
        write_file(set->fd, (char *) set->cluster, set->n * sizeof *set->cluster);
    fd = set->fd;
    set->fd = -1; /* engine_start closes it */
    asker->engine = engine_start(-1, fd, 0);
    engine_send(asker->engine, TLAW_POINTS, &points);
}

struct asker *asker_open(struct point_set *set, int questions)
{
    struct asker *asker = palloc0(sizeof *asker);
    double work = (double) set->n * set->n * (set->width + PAIR_WORK) * questions;

    if (set->fd >= 0 || work > IN_PROCESS_WORK) {
        start_engine(asker, set);
        return asker;
    }
    asker->points = (struct tlaw_points){
        .n = set->n, .width = set->width, .element_size = set->element_size, .data = set->buffer};
    asker->cluster = set->cluster;
    if (set->n > 0 && tlaw_points_sort(&asker->points, set->buffer, asker->cluster))
        ereport(ERROR, (errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
    return asker;
}

static void ask_here(struct asker *asker, const struct tlaw_question *question, struct tlaw_dimension *answer)
{
    struct tlaw_poll poll = {interrupted, NULL};

    if (tlaw_dimension_answer(&asker->points, asker->cluster, question, tlaw_knn_plain, NULL, poll, answer)) {
        CHECK_FOR_INTERRUPTS();
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("%s", answer->message[0] ? answer->message : "out of memory")));
    }
}

static void ask_engine(struct asker *asker, const struct tlaw_question *question,
                       struct tlaw_dimension *answer)
{
    struct tlaw_measure_message message = {.k = question->options.k,
                                           .exclude_cluster = question->options.exclude_cluster,
                                           .seed = (int64) question->options.seed,
                                           .known_dimension = question->known_dimension,
                                           .sample = question->sample};
    const struct tlaw_dimension_message *reply;

    strlcpy(message.estimator, tlaw_estimator_name(question->options.estimator), sizeof message.estimator);
    strlcpy(message.metric, tlaw_metric_names[question->options.metric], sizeof message.metric);
    strlcpy(message.control, tlaw_control_names[question->control], sizeof message.control);
    engine_send(asker->engine, TLAW_MEASURE, &message);
    reply = engine_expect(asker->engine, TLAW_DIMENSION, progress_notice);
    *answer = (struct tlaw_dimension){.dimension = reply->dimension,
                                      .standard_error = reply->standard_error,
                                      .low = reply->low,
                                      .high = reply->high,
                                      .plateau = (int) reply->plateau,
                                      .n = reply->n,
                                      .k = (int) reply->k,
                                      .duplicates = reply->duplicates,
                                      .ties = reply->ties,
                                      .zero_distances = reply->zero_distances};
    strlcpy(answer->message, reply->message, sizeof answer->message);
}

void asker_ask(struct asker *asker, const struct tlaw_question *question, struct tlaw_dimension *answer)
{
    if (asker->engine)
        ask_engine(asker, question, answer);
    else
        ask_here(asker, question, answer);
}

void asker_close(struct asker *asker)
{
    engine_stop(asker->engine);
    pfree(asker);
}
