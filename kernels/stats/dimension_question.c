/*
 * One question about a set of points: the order of rows, subsamples, controls, and the metric's
 * normalisation.
 *
 * Invariant: an answer depends on the set of points (and clusters) and the question only, not on the order of
 * rows.
 */
#include "dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const tlaw_control_names[TLAW_CONTROL_COUNT] = {"", "gaussian", "shuffled", "known"};

int tlaw_control_find(const char *name)
{
    for (int i = 0; i < TLAW_CONTROL_COUNT; i++)
        if (!strcmp(name, tlaw_control_names[i]))
            return i;
    return -1;
}

/* ------------------------------------------------ order
 * ---------------------------------------------------------- */

struct order {
    const struct tlaw_points *points;
    const int32_t *cluster;
};

static int by_value(const void *a, const void *b, void *arg)
{
    const struct order *order = arg;
    int64_t i = *(const int64_t *) a, j = *(const int64_t *) b;

    for (int c = 0; c < order->points->width; c++) {
        double x = point_value(order->points, i, c), y = point_value(order->points, j, c);

        if (x != y)
            return x < y ? -1 : 1;
    }
    if (order->cluster && order->cluster[i] != order->cluster[j])
        return order->cluster[i] < order->cluster[j] ? -1 : 1;
    return 0;
}

int tlaw_points_sort(struct tlaw_points *points, void *data, int32_t *cluster)
{
    struct order order = {points, cluster};
    size_t n = (size_t) points->n, row = (size_t) points->width * (size_t) points->element_size;
    bool in_place = data == points->data;
    int64_t *rank = malloc((n + 1) * sizeof *rank);
    char *sorted = in_place ? malloc(n * row + 1) : data;
    int32_t *clusters = malloc((n + 1) * sizeof *clusters);
    int status = rank && sorted && clusters ? 0 : -1;

    for (size_t i = 0; i < n && !status; i++)
        rank[i] = (int64_t) i;
    if (!status) {
        qsort_r(rank, n, sizeof *rank, by_value, &order);
        for (size_t i = 0; i < n; i++) {
            memcpy(sorted + i * row, (const char *) points->data + (size_t) rank[i] * row, row);
            clusters[i] = cluster ? cluster[rank[i]] : 0;
        }
        if (in_place)
            memcpy(data, sorted, n * row);
        if (cluster)
            memcpy(cluster, clusters, n * sizeof *cluster);
        points->data = data;
    }
    free(rank);
    free(in_place ? sorted : NULL);
    free(clusters);
    return status;
}

/* ------------------------------------------------ derived sets
 * --------------------------------------------------- */

struct derived {
    struct tlaw_points points;
    double *data, *scale;
    int32_t *cluster;
};

static void derived_free(struct derived *set)
{
    free(set->data);
    free(set->scale);
    free(set->cluster);
}

static int derived_allocate(struct derived *set, int64_t n, int width)
{
    set->data = malloc((size_t) n * (size_t) width * sizeof *set->data + 1);
    set->points = (struct tlaw_points){n, width, 8, set->data, NULL};
    return set->data ? 0 : -1;
}

/* `wanted` of the rows in their order (Knuth's selection sampling), as doubles; clusters too. */
static int draw_sample(const struct tlaw_points *points, const int32_t *cluster, int64_t wanted,
                       uint64_t seed, struct derived *set)
{
    int64_t kept = 0;

    set->cluster = cluster ? malloc((size_t) wanted * sizeof *cluster + 1) : NULL;
    if (derived_allocate(set, wanted, points->width) || (cluster && !set->cluster))
        return -1;
    for (int64_t i = 0; i < points->n && kept < wanted; i++) {
        if (random_below(&seed, points->n - i) >= wanted - kept)
            continue;
        tlaw_points_row(points, i, set->data + kept * points->width);
        if (cluster)
            set->cluster[kept] = cluster[i];
        kept++;
    }
    return 0;
}

static void shuffle_columns(struct derived *set, uint64_t seed)
{
    int width = set->points.width;

    for (int c = 0; c < width; c++)
        for (int64_t i = set->points.n - 1; i > 0; i--) {
            int64_t j = random_below(&seed, i + 1);
            double swap = set->data[i * width + c];

            set->data[i * width + c] = set->data[j * width + c];
            set->data[j * width + c] = swap;
        }
}

/* Lower Cholesky factor of a[n][n] in place; a direction without variance gets a zero column. */
static void cholesky(double *a, int n)
{
    for (int j = 0; j < n; j++) {
        double pivot = a[(size_t) j * n + j], tiny = 1e-12 * fabs(pivot);

        for (int c = 0; c < j; c++)
            pivot -= a[(size_t) j * n + c] * a[(size_t) j * n + c];
        pivot = pivot > tiny ? sqrt(pivot) : 0;
        a[(size_t) j * n + j] = pivot;
        for (int i = j + 1; i < n; i++) {
            double sum = a[(size_t) i * n + j];

            for (int c = 0; c < j; c++)
                sum -= a[(size_t) i * n + c] * a[(size_t) j * n + c];
            a[(size_t) i * n + j] = pivot > 0 ? sum / pivot : 0;
        }
    }
}

/* Takes the mean of every column away, and keeps it. */
static void centre(struct derived *set, double *mean)
{
    int width = set->points.width;
    int64_t n = set->points.n;

    for (int64_t i = 0; i < n; i++)
        for (int c = 0; c < width; c++)
            mean[c] += set->data[i * width + c] / (double) n;
    for (int64_t i = 0; i < n; i++)
        for (int c = 0; c < width; c++)
            set->data[i * width + c] -= mean[c];
}

/* Sums of products of centred columns, over n - 1. */
static int covariance(const struct derived *set, double *matrix, struct tlaw_poll poll)
{
    int width = set->points.width;
    int64_t n = set->points.n;

    for (int64_t i = 0; i < n; i++) {
        const double *row = set->data + i * width;

        for (int a = 0; a < width; a++)
            for (int b = 0; b <= a; b++)
                matrix[(size_t) a * width + b] += row[a] * row[b] / (double) (n - 1);
        if (poll.stop && poll.stop(poll.arg))
            return -1;
    }
    return 0;
}

/* Every point a row of the covariance's root with random weights: more points than coordinates. */
static int mix_columns(struct derived *set, double *matrix, double *noise, uint64_t *seed,
                       struct tlaw_poll poll)
{
    int width = set->points.width;

    if (covariance(set, matrix, poll))
        return -1;
    cholesky(matrix, width);
    for (int64_t i = 0; i < set->points.n; i++) {
        for (int c = 0; c < width; c++)
            noise[c] = tlaw_random_normal(seed);
        for (int a = 0; a < width; a++) {
            double sum = 0;

            for (int b = 0; b <= a; b++)
                sum += matrix[(size_t) a * width + b] * noise[b];
            set->data[i * width + a] = sum;
        }
        if (poll.stop && poll.stop(poll.arg))
            return -1;
    }
    return 0;
}

/* Every point a sum of all (centred) points with random weights: the same law, where points are fewer. */
static int mix_rows(struct derived *set, double *rows, uint64_t *seed, struct tlaw_poll poll)
{
    int width = set->points.width;
    int64_t n = set->points.n;
    double scale = 1 / sqrt((double) (n > 1 ? n - 1 : 1));

    memcpy(rows, set->data, (size_t) n * (size_t) width * sizeof *rows);
    memset(set->data, 0, (size_t) n * (size_t) width * sizeof *rows);
    for (int64_t i = 0; i < n; i++) {
        double *to = set->data + i * width;

        for (int64_t other = 0; other < n; other++) {
            double weight = scale * tlaw_random_normal(seed);

            for (int c = 0; c < width; c++)
                to[c] += weight * rows[other * width + c];
        }
        if (poll.stop && poll.stop(poll.arg))
            return -1;
    }
    return 0;
}

/* Replaces the points by as many of a Gaussian with their mean and covariance. */
static int make_gaussian(struct derived *set, uint64_t seed, struct tlaw_poll poll, char *message)
{
    size_t width = (size_t) set->points.width, n = (size_t) set->points.n;
    double *room = calloc((n > width ? width : n) * width + 1, sizeof *room);
    double *noise = malloc(width * sizeof *noise), *mean = calloc(width, sizeof *mean);
    int status = -1;

    if (!room || !noise || !mean) {
        snprintf(message, TLAW_DIMENSION_MESSAGE, "out of memory");
    } else {
        centre(set, mean);
        status = n > width ? mix_columns(set, room, noise, &seed, poll) : mix_rows(set, room, &seed, poll);
    }
    for (size_t i = 0; i < n * width && !status; i++)
        set->data[i] += mean[i % width];
    free(room);
    free(noise);
    free(mean);
    return status;
}

/* n points uniform in a ball of dimension d; for angles, on a sphere of dimension d. */
static int make_known(struct derived *set, int64_t n, int d, bool sphere, uint64_t seed)
{
    if (derived_allocate(set, n, sphere ? d + 1 : d))
        return -1;
    for (int64_t i = 0; i < n; i++)
        tlaw_random_ball(&seed, set->points.width,
                         set->data + i * set->points.width); /* a direction, at least */
    return 0;
}

static int derive(const struct tlaw_points *points, const int32_t *cluster,
                  const struct tlaw_question *question, struct tlaw_poll poll, struct derived *set,
                  char *message)
{
    int64_t wanted = question->sample > 0 && question->sample < points->n ? question->sample : points->n;
    uint64_t seed = question->options.seed;

    snprintf(message, TLAW_DIMENSION_MESSAGE, "out of memory");
    if (question->control == TLAW_CONTROL_KNOWN) {
        if (make_known(set, wanted, question->known_dimension,
                       question->options.metric != TLAW_METRIC_EUCLIDEAN, seed))
            return -1;
    } else if (wanted == points->n && question->control == TLAW_CONTROL_NONE) {
        set->points = *points; /* as they are: nothing of it is owned */
        return 0;
    } else if (draw_sample(points, cluster, wanted, seed, set)) {
        return -1;
    }
    message[0] = '\0';
    if (question->control == TLAW_CONTROL_SHUFFLED)
        shuffle_columns(set, seed + 1);
    if (question->control == TLAW_CONTROL_GAUSSIAN)
        return make_gaussian(set, seed + 1, poll, message);
    return 0;
}

static int normalise(struct derived *set, struct tlaw_dimension *result)
{
    int64_t row;

    set->scale = malloc((size_t) set->points.n * sizeof *set->scale + 1);
    if (!set->scale) {
        snprintf(result->message, sizeof result->message, "out of memory");
        return -1;
    }
    if (tlaw_points_normalise(&set->points, set->scale, &row)) {
        snprintf(result->message, sizeof result->message,
                 "a point is zero (or its length is out of range): it has no direction, which the metrics "
                 "\"cosine\" "
                 "and \"angular\" need");
        return -1;
    }
    set->points.scale = set->scale;
    return 0;
}

int tlaw_dimension_answer(const struct tlaw_points *points, const int32_t *cluster,
                          const struct tlaw_question *question, tlaw_knn *knn, void *knn_arg,
                          struct tlaw_poll poll, struct tlaw_dimension *result)
{
    struct tlaw_dimension_options options = question->options;
    struct derived set = {0};
    int status;

    *result = (struct tlaw_dimension){
        .dimension = NAN, .standard_error = NAN, .low = NAN, .high = NAN, .plateau = -1};
    status = derive(points, cluster, question, poll, &set, result->message);
    if (!status && options.metric != TLAW_METRIC_EUCLIDEAN)
        status = normalise(&set, result);
    if (!status) {
        bool same_rows = question->control == TLAW_CONTROL_NONE;

        options.cluster = !same_rows ? NULL : set.cluster ? set.cluster : cluster;
        status = tlaw_dimension_estimate(&set.points, &options, knn, knn_arg, poll, result);
    }
    derived_free(&set);
    return status;
}
