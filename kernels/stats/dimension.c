/*
 * One estimate from start to end: checks, duplicates, neighbours, the estimator, its interval.
 *
 * Duplicates are left out before anything is estimated: a point that occurs twice has a neighbour at distance
 * 0, of which no ratio can be taken, and says nothing about the dimension of the set it lies in.
 */
#include "dimension_internal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DISCRETE_SHARE 0.1 /* of duplicates, from which they are spoken of */

const char *const tlaw_metric_names[TLAW_METRIC_COUNT] = {"euclidean", "cosine", "angular"};

#define ESTIMATOR_ROW(NAME, name, fewest, usual) {name, fewest, usual},
static const struct {
    const char *name;
    int fewest_k, usual_k;
} estimators[TLAW_ESTIMATOR_COUNT] = {TLAW_ESTIMATORS(ESTIMATOR_ROW)};

static tlaw_estimator_function *const functions[TLAW_ESTIMATOR_COUNT] = {
    [TLAW_ESTIMATOR_CALIBRATED] = tlaw_dimension_calibrated,
    [TLAW_ESTIMATOR_LEVINA_BICKEL] = tlaw_dimension_levina_bickel,
    [TLAW_ESTIMATOR_MACKAY] = tlaw_dimension_mackay,
    [TLAW_ESTIMATOR_TWONN] = tlaw_dimension_twonn,
    [TLAW_ESTIMATOR_TWONN_MLE] = tlaw_dimension_twonn_mle,
    [TLAW_ESTIMATOR_TWONN_BAYES] = tlaw_dimension_twonn_bayes,
    [TLAW_ESTIMATOR_GRIDE] = tlaw_dimension_gride,
    [TLAW_ESTIMATOR_CORRELATION] = tlaw_dimension_correlation,
    [TLAW_ESTIMATOR_PCA] = tlaw_dimension_pca,
    [TLAW_ESTIMATOR_LOCAL_PCA] = tlaw_dimension_local_pca,
    [TLAW_ESTIMATOR_PARTICIPATION_RATIO] = tlaw_dimension_participation_ratio,
    [TLAW_ESTIMATOR_PERSISTENT_HOMOLOGY] = tlaw_dimension_persistent_homology,
    [TLAW_ESTIMATOR_MIND] = tlaw_dimension_mind,
    [TLAW_ESTIMATOR_DANCO] = tlaw_dimension_danco,
    [TLAW_ESTIMATOR_GEOMLE] = tlaw_dimension_geomle,
};

const char *tlaw_estimator_name(enum tlaw_estimator estimator)
{
    return estimators[estimator].name;
}

int tlaw_estimator_usual_k(enum tlaw_estimator estimator)
{
    return estimators[estimator].usual_k;
}

int tlaw_estimator_find(const char *name)
{
    for (int i = 0; i < TLAW_ESTIMATOR_COUNT; i++)
        if (!strcmp(name, estimators[i].name))
            return i;
    return -1;
}

int tlaw_metric_find(const char *name)
{
    for (int i = 0; i < TLAW_METRIC_COUNT; i++)
        if (!strcmp(name, tlaw_metric_names[i]))
            return i;
    return -1;
}

void tlaw_dimension_say(struct tlaw_dimension *result, const char *format, ...)
{
    size_t said = strlen(result->message), room = sizeof result->message;
    va_list arguments;

    if (said && said + 2 < room) {
        memcpy(result->message + said, "; ", 3);
        said += 2;
    }
    va_start(arguments, format);
    vsnprintf(result->message + said, room - said, format, arguments);
    va_end(arguments);
}

/* k when none was asked for.  "calibrated" was calibrated with 15 points or more a neighbour. */
static int default_k(enum tlaw_estimator estimator, int64_t n)
{
    int k = estimators[estimator].usual_k;

    if (estimator == TLAW_ESTIMATOR_CALIBRATED && n < 15 * k)
        k = n < 15 * 8 ? 8 : (int) (n / 60) * 4;
    return k;
}

/* The lists that an estimator with k reads may be longer than k. */
static int list_length(enum tlaw_estimator estimator, int k)
{
    return estimator == TLAW_ESTIMATOR_GEOMLE ? 4 * k + 8 : k;
}

/* Runs the search; the lists are exactly what was asked for or the call fails. */
static int find_neighbours(struct dimension_problem *problem, int k, struct tlaw_dimension *result)
{
    struct tlaw_neighbours *lists = &problem->neighbours;
    size_t entries = (size_t) problem->points.n * (size_t) k;
    const int32_t *group = problem->options.exclude_cluster ? problem->options.cluster : NULL;

    free(lists->distance);
    free(lists->index);
    *lists = (struct tlaw_neighbours){.n = problem->points.n, .k = k};
    lists->distance = malloc(entries * sizeof *lists->distance);
    lists->index = malloc(entries * sizeof *lists->index);
    if (!lists->distance || !lists->index)
        return tlaw_dimension_no_memory(result);
    return problem->knn(&problem->points, problem->options.metric, group, lists, problem->poll,
                        problem->knn_arg, result->message);
}

/* Whether a point is equal to one before it: its nearest neighbours at distance 0 have ascending indices. */
static bool is_duplicate(const struct tlaw_neighbours *lists, int64_t i)
{
    return lists->distance[i * lists->k] == 0 && lists->index[i * lists->k] < i;
}

struct distinct {
    char *data;
    double *scale;
    int32_t *cluster;
};

static void distinct_free(struct distinct *copy)
{
    free(copy->data);
    free(copy->scale);
    free(copy->cluster);
}

/* Replaces the problem's points by their first occurrences. */
static int keep_distinct(struct dimension_problem *problem, struct distinct *copy,
                         struct tlaw_dimension *result)
{
    struct tlaw_points *points = &problem->points;
    size_t row = (size_t) points->width * (size_t) points->element_size, kept = 0;
    size_t left = (size_t) (points->n - result->duplicates);

    copy->data = malloc(left * row);
    copy->scale = points->scale ? malloc(left * sizeof *copy->scale) : NULL;
    copy->cluster = problem->options.cluster ? malloc(left * sizeof *copy->cluster) : NULL;
    if (!copy->data || (points->scale && !copy->scale) || (problem->options.cluster && !copy->cluster))
        return tlaw_dimension_no_memory(result);
    for (int64_t i = 0; i < points->n; i++) {
        if (is_duplicate(&problem->neighbours, i))
            continue;
        memcpy(copy->data + kept * row, (const char *) points->data + (size_t) i * row, row);
        if (points->scale)
            copy->scale[kept] = points->scale[i];
        if (problem->options.cluster)
            copy->cluster[kept] = problem->options.cluster[i];
        kept++;
    }
    points->n = (int64_t) kept;
    points->data = copy->data;
    points->scale = copy->scale;
    problem->options.cluster = copy->cluster;
    return 0;
}

static void count_ties(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    const struct tlaw_neighbours *lists = &problem->neighbours;

    for (int64_t i = 0; i < lists->n; i++) {
        const double *r = lists->distance + i * lists->k;
        int j = 1;

        while (j < result->k && !(r[j] == r[j - 1] && isfinite(r[j])))
            j++;
        result->ties += j < result->k;
    }
}

/* 1: neighbours found; 0: there is nothing to estimate (message says why); -1: failed */
static int prepare_neighbours(struct dimension_problem *problem, struct distinct *copy,
                              struct tlaw_dimension *result)
{
    int64_t n = problem->points.n;
    int wanted = list_length(problem->options.estimator, result->k);
    int k = wanted < n - 1 ? wanted : (int) (n - 1);

    result->duplicates = 0;
    if (n > 1 && find_neighbours(problem, k, result))
        return -1;
    for (int64_t i = 0; n > 1 && i < n; i++) {
        result->duplicates += is_duplicate(&problem->neighbours, i);
        result->zero_distances += problem->neighbours.distance[i * k] == 0;
    }
    result->n = n - result->duplicates;
    if (result->n <= result->k) {
        snprintf(result->message, sizeof result->message,
                 "no dimension: %lld distinct points are too few for k = %d (at least %d)",
                 (long long) result->n, result->k, result->k + 1);
        return 0;
    }
    if (result->duplicates > 0) {
        if (keep_distinct(problem, copy, result))
            return -1;
        k = wanted < result->n - 1 ? wanted : (int) (result->n - 1);
        if (find_neighbours(problem, k, result))
            return -1;
    }
    count_ties(problem, result);
    return 1;
}

static int check_input(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    if (tlaw_points_check(&problem->points, result->message))
        return -1;
    if (problem->options.metric != TLAW_METRIC_EUCLIDEAN && !problem->points.scale) {
        snprintf(result->message, sizeof result->message, "the metric \"%s\" needs normalised points",
                 tlaw_metric_names[problem->options.metric]);
        return -1;
    }
    return 0;
}

static double scaled_value(const struct tlaw_points *points, int64_t row, int column)
{
    return (points->scale ? points->scale[row] : 1) * point_value(points, row, column);
}

/* How many coordinates are not the same of all points. */
static int count_varying(const struct tlaw_points *points)
{
    int varying = 0;

    for (int c = 0; c < points->width; c++) {
        double first = scaled_value(points, 0, c);
        int64_t i = 1;

        while (i < points->n && scaled_value(points, i, c) == first)
            i++;
        varying += i < points->n;
    }
    return varying;
}

/* The estimator on distinct points and their neighbours, what is to be said of them, and the interval. */
static int run_estimator(const struct dimension_problem *problem, int64_t n, struct tlaw_dimension *result)
{
    enum tlaw_estimator estimator = problem->options.estimator;
    int status = functions[estimator](problem, result);

    if (!status && result->k >= 8 && estimator != TLAW_ESTIMATOR_CALIBRATED && result->dimension > 0)
        status = tlaw_dimension_find_plateau(problem, result);
    if (status)
        return status;
    if (result->duplicates >= DISCRETE_SHARE * (double) n)
        tlaw_dimension_say(result,
                           "%lld of %lld points repeat another: of a discrete set, whose dimension is 0, "
                           "this measures the distinct points",
                           (long long) result->duplicates, (long long) n);
    if (result->dimension > 0 && result->standard_error >= 0 && isnan(result->low)) {
        double ratio = exp(NORMAL_975 * result->standard_error / result->dimension);

        result->low = result->dimension / ratio; /* symmetric in ln d: stays positive */
        result->high = result->dimension * ratio;
    }
    return 0;
}

int tlaw_dimension_estimate(const struct tlaw_points *points, const struct tlaw_dimension_options *options,
                            tlaw_knn *knn, void *knn_arg, struct tlaw_poll poll,
                            struct tlaw_dimension *result)
{
    struct dimension_problem problem = {
        .points = *points, .options = *options, .knn = knn, .knn_arg = knn_arg, .poll = poll};
    struct distinct copy = {0};
    int fewest = estimators[options->estimator].fewest_k, status = 1;

    *result = (struct tlaw_dimension){.dimension = NAN,
                                      .standard_error = NAN,
                                      .low = NAN,
                                      .high = NAN,
                                      .plateau = -1,
                                      .n = points->n,
                                      .duplicates = -1};
    result->k = problem.options.k = fewest == 0  ? 0
                                    : options->k ? options->k
                                                 : default_k(options->estimator, points->n);
    if (points->n == 0) {
        snprintf(result->message, sizeof result->message, "no dimension: no points");
        return 0;
    }
    if (check_input(&problem, result))
        return -1;
    if (result->k < fewest) {
        snprintf(result->message, sizeof result->message, "k is %d: \"%s\" takes %d or more", result->k,
                 estimators[options->estimator].name, fewest);
        return -1;
    }
    problem.varying = count_varying(points);
    if (fewest > 0)
        status = prepare_neighbours(&problem, &copy, result);
    if (status > 0)
        status = run_estimator(&problem, points->n, result);
    distinct_free(&copy);
    free(problem.neighbours.distance);
    free(problem.neighbours.index);
    return status;
}
