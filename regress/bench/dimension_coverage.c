/*
 * How often 95 % intervals hold the true dimension: 200 draws of n = 2,000 points of sets of dimension 2, 5,
 * 10; for every estimator the coverage, the bias, the ratio of the mean standard error to the estimates'
 * deviation, and how many draws are said to have no plateau.
 *
 * usage: dimension_coverage [draws [n]]
 */
#include "../kernels/points.h"

#define LIST 40

static const struct {
    enum tlaw_estimator estimator;
    int k;
} measured[] = {{TLAW_ESTIMATOR_CALIBRATED, 40}, {TLAW_ESTIMATOR_MACKAY, 5},
                {TLAW_ESTIMATOR_MACKAY, 10},     {TLAW_ESTIMATOR_MACKAY, 20},
                {TLAW_ESTIMATOR_TWONN_MLE, 2},   {TLAW_ESTIMATOR_TWONN, 2},
                {TLAW_ESTIMATOR_GRIDE, 4},       {TLAW_ESTIMATOR_LEVINA_BICKEL, 20}};
#define MEASURED (int) (sizeof measured / sizeof *measured)

/* Distances on the unit cube with opposite faces glued: a torus without curvature. */
static int periodic(const struct tlaw_points *points, enum tlaw_metric metric, const int32_t *group,
                    struct tlaw_neighbours *out, struct tlaw_poll poll, void *arg, char *message)
{
    const double *x = points->data;

    (void) metric, (void) group, (void) poll, (void) arg, (void) message;
    for (int64_t i = 0; i < points->n; i++) {
        double *best = out->distance + i * out->k;
        int32_t *index = out->index + i * out->k;

        for (int j = 0; j < out->k; j++)
            best[j] = INFINITY;
        for (int64_t other = 0; other < points->n; other++) {
            double sum = 0;
            int at;

            for (int c = 0; c < points->width; c++) {
                double apart = fabs(x[i * points->width + c] - x[other * points->width + c]);
                apart = apart > .5 ? 1 - apart : apart;
                sum += apart * apart;
            }
            if (other == i || !(sum < best[out->k - 1]))
                continue;
            for (at = out->k - 1; at > 0 && sum < best[at - 1]; at--) {
                best[at] = best[at - 1];
                index[at] = index[at - 1];
            }
            best[at] = sum;
            index[at] = (int32_t) other;
        }
        for (int j = 0; j < out->k; j++)
            best[j] = sqrt(best[j]);
    }
    return 0;
}

/* Lists found once, cut for each estimator. */
static int cut(const struct tlaw_points *points, enum tlaw_metric metric, const int32_t *group,
               struct tlaw_neighbours *out, struct tlaw_poll poll, void *arg, char *message)
{
    const struct tlaw_neighbours *lists = arg;

    (void) points, (void) metric, (void) group, (void) poll, (void) message;
    for (int64_t i = 0; i < out->n; i++) {
        memcpy(out->distance + i * out->k, lists->distance + i * lists->k, (size_t) out->k * sizeof(double));
        memcpy(out->index + i * out->k, lists->index + i * lists->k, (size_t) out->k * sizeof(int32_t));
    }
    return 0;
}

static void measure(const char *name, int shape, int d, int draws, int64_t n)
{
    double sum[MEASURED] = {0}, squares[MEASURED] = {0}, errors[MEASURED] = {0};
    int covered[MEASURED] = {0}, bent[MEASURED] = {0};
    uint64_t state = (uint64_t) (1000 * d + shape);
    struct tlaw_neighbours lists = {n, LIST, malloc(sizeof(double) * (size_t) (n * LIST)),
                                    malloc(sizeof(int32_t) * (size_t) (n * LIST))};
    char message[TLAW_DIMENSION_MESSAGE];

    for (int draw = 0; draw < draws; draw++) {
        struct tlaw_points points = make_shape(shape == SHAPES ? CUBE : (enum shape) shape, n, d, &state);

        (shape == SHAPES ? periodic : tlaw_knn_plain)(&points, TLAW_METRIC_EUCLIDEAN, NULL, &lists,
                                                      (struct tlaw_poll){0}, NULL, message);
        for (int m = 0; m < MEASURED; m++) {
            struct tlaw_dimension_options options = {.estimator = measured[m].estimator, .k = measured[m].k};
            struct tlaw_dimension result;

            tlaw_dimension_estimate(&points, &options, cut, &lists, (struct tlaw_poll){0}, &result);
            sum[m] += result.dimension;
            squares[m] += result.dimension * result.dimension;
            errors[m] += result.standard_error;
            covered[m] += result.low <= d && d <= result.high;
            bent[m] += result.plateau == 0;
        }
        free((void *) points.data);
    }
    for (int m = 0; m < MEASURED; m++) {
        double mean = sum[m] / draws, deviation = sqrt(squares[m] / draws - mean * mean);

        printf("%-9s d %2d %-13s k %2d  covered %5.1f %%  mean %6.3f  bias %+5.1f deviations  se/deviation "
               "%.2f  no plateau %d\n",
               name, d, tlaw_estimator_name(measured[m].estimator), measured[m].k, 100.0 * covered[m] / draws,
               mean, (mean - d) / deviation, errors[m] / draws / deviation, bent[m]);
    }
    fflush(stdout);
    free(lists.distance);
    free(lists.index);
}

int main(int argc, char **argv)
{
    static const int dimensions[] = {2, 5, 10};
    int draws = argc > 1 ? atoi(argv[1]) : 200;
    int64_t n = argc > 2 ? atoll(argv[2]) : 2000;

    for (int i = 0; i < 3; i++)
        for (int shape = 0; shape <= SHAPES; shape++)
            measure(shape == SHAPES ? "flat" : shape_names[shape], shape, dimensions[i], draws, n);
    return 0;
}
