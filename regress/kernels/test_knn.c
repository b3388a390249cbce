/* Exact neighbours: the same bits as comparing all pairs in float64, on every instruction set, however
 * awkward the set. */
#include "points.h"
#include "tap.h"
#include "../../kernels/backend/knn.h"

static const char *const isas[] = {"portable", "avx2", "avx512"};

/* Compares with the plain search on every instruction set and on 1, 2 and 3 threads. */
static void check(const char *what, const struct tlaw_points *points, enum tlaw_metric metric,
                  const int32_t *group, int k)
{
    struct tlaw_neighbours expected = lists_of(points->n, k), got = lists_of(points->n, k);
    size_t entries = (size_t) (points->n * k);
    char message[TLAW_DIMENSION_MESSAGE];

    tlaw_knn_plain(points, metric, group, &expected, (struct tlaw_poll){0}, NULL, message);
    for (int threads = 1; threads <= 3; threads++) {
        struct pool *pool = pool_create(threads);

        for (int i = 0; i < 3; i++) {
            struct knn_request request = {.pool = pool, .kernel = knn_find_kernel(isas[i])};

            if (!request.kernel) {
                skip("%s, %s: not on this machine", what, isas[i]);
                continue;
            }
            memset(got.distance, 0, entries * sizeof *got.distance);
            knn_exact(points, metric, group, &got, (struct tlaw_poll){0}, &request, message);
            bool same = !memcmp(got.distance, expected.distance, entries * sizeof *got.distance) &&
                        !memcmp(got.index, expected.index, entries * sizeof *got.index);
            ok(same,
               "%s (n %lld, width %d, k %d), %s, %d threads: %.1f finer distances a point, "
               "%.1f in float64",
               what, (long long) points->n, points->width, k, isas[i], threads,
               (double) request.fine_distances / (double) points->n,
               (double) request.exact_distances / (double) points->n);
        }
        pool_free(pool);
    }
    free_lists(&expected);
    free_lists(&got);
}

static void test_sets(void)
{
    uint64_t state = 1;
    struct tlaw_points points = make_shape(CUBE, 900, 3, &state);
    int32_t group[900];

    check("a cube", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    check("one neighbour", &points, TLAW_METRIC_EUCLIDEAN, NULL, 1);
    for (int i = 0; i < 900; i++)
        group[i] = i % 7 ? i / 9 : 0;
    check("groups excluded", &points, TLAW_METRIC_EUCLIDEAN, group, 20);
    for (int i = 0; i < 900; i++)
        group[i] = i >= 10;
    check("too few outside the group", &points, TLAW_METRIC_EUCLIDEAN, group, 20);
    for (int i = 0; i < 2700; i++)
        ((double *) points.data)[i] = floor(((double *) points.data)[i] * 6);
    check("a grid of ties and duplicates", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    for (int i = 0; i < 2700; i++)
        ((double *) points.data)[i] = 7;
    check("all equal", &points, TLAW_METRIC_EUCLIDEAN, NULL, 5);
    free((void *) points.data);
    points = make_shape(CUBE, 1500, 1, &state);
    check("a line", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    points.n = 2;
    check("two points", &points, TLAW_METRIC_EUCLIDEAN, NULL, 1);
    free((void *) points.data);
    points = mixed(700, 100, 5, 0, &state);
    for (int i = 0; i < 700; i++) { /* one far away, one huge coordinate, two tight clusters */
        ((float *) points.data)[100 * i + 17] *= 1000;
        ((float *) points.data)[100 * i + 3] += i % 2 ? 1e5f : 0;
    }
    ((float *) points.data)[5] = 1e9f;
    check("outliers", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    free((void *) points.data);
}

/* Rows of doubles: noise times a factor a row, times one for all. */
static struct tlaw_points scaled_noise(int64_t n, int width, double decades, double unit, uint64_t *state)
{
    double *data = malloc(sizeof *data * (size_t) (n * width));

    for (int64_t i = 0; i < n; i++) {
        double factor = unit * pow(10, decades * random_uniform(state));

        for (int c = 0; c < width; c++)
            data[i * width + c] = factor * tlaw_random_normal(state);
    }
    return (struct tlaw_points){n, width, 8, data, NULL};
}

/* What rounding and float32 could get wrong: sizes, and distances far smaller than the rows are long. */
static void test_awkward(void)
{
    static const struct {
        const char *what;
        int64_t n;
        int width;
        double decades, unit;
    } sets[] = {{"noise in float64", 900, 80, 0, 1},
                {"rows of all sizes", 900, 80, 6, 1},
                {"rows too far apart for float32", 500, 80, 60, 1e-30},
                {"huge coordinates", 500, 80, 1, 1e148},
                {"squares that vanish", 300, 80, 2, 1e-163},
                {"70,000 coordinates", 60, 70000, 0, 1}};
    uint64_t state = 4;
    struct tlaw_points points;
    float *data;

    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        points = scaled_noise(sets[i].n, sets[i].width, sets[i].decades, sets[i].unit, &state);
        check(sets[i].what, &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
        free((void *) points.data);
    }
    points = noise(900, 96, &state);
    data = (float *) points.data;
    for (int i = 0; i < 900 * 96; i++) /* three clusters, each far smaller than a step of its rows */
        data[i] = data[i] * 1e-6f + (float) (i / 96 % 3 * (i % 2 ? 5 : -7));
    check("tight clusters", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    for (int i = 0; i < 900; i++) /* pairs and triples of equal rows among noise */
        memcpy(data + 96 * i, data + 96 * (i / 5 * 5 + i % 5 / 2), 96 * sizeof *data);
    check("duplicates in clusters", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    for (int i = 0; i < 900 * 96; i++)
        data[i] = data[i] * 100 + 1e7f;
    check("a large offset", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    free(data);
}

static void test_activations(void)
{
    uint64_t state = 2;
    struct tlaw_points points = mixed(1200, 768, 10, 0, &state), shifted = points, unit = points;
    double *scale = malloc(sizeof *scale * 1200);
    int64_t row;
    char message[TLAW_DIMENSION_MESSAGE];
    struct tlaw_neighbours plain = lists_of(1200, 20), offset = lists_of(1200, 20);
    struct pool *pool = pool_create(2);
    struct knn_request request = {.pool = pool};
    float *moved = malloc(sizeof *moved * 1200 * 768);

    check("ten dimensions in 768", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    tlaw_points_normalise(&points, scale, &row);
    unit.scale = scale;
    check("by cosine", &unit, TLAW_METRIC_COSINE, NULL, 20);
    check("by angle", &unit, TLAW_METRIC_ANGULAR, NULL, 20);
    for (int i = 0; i < 1200 * 768; i++) /* coordinates that keep their bits when 1,000 is added */
        ((float *) points.data)[i] = roundf(((float *) points.data)[i] * 512) / 512;
    for (int i = 0; i < 1200 * 768; i++)
        moved[i] = ((float *) points.data)[i] + 1000;
    shifted.data = moved;
    knn_exact(&points, TLAW_METRIC_EUCLIDEAN, NULL, &plain, (struct tlaw_poll){0}, &request, message);
    knn_exact(&shifted, TLAW_METRIC_EUCLIDEAN, NULL, &offset, (struct tlaw_poll){0}, &request, message);
    ok(!memcmp(plain.distance, offset.distance, sizeof(double) * 24000) &&
           !memcmp(plain.index, offset.index, 4 * 24000),
       "an offset of 1,000 in every coordinate changes nothing");
    pool_free(pool);
    free_lists(&plain);
    free_lists(&offset);
    free(scale);
    free(moved);
    free((void *) points.data);
    points = noise(300, 16000, &state);
    check("16,000 coordinates of noise", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    free((void *) points.data);
}

static int stop_at_once(void *arg)
{
    (void) arg;
    return 1;
}

static void test_stop(void)
{
    uint64_t state = 3;
    struct tlaw_points points = noise(3000, 64, &state);
    struct tlaw_neighbours lists = lists_of(3000, 5);
    struct pool *pool = pool_create(2);
    struct knn_request request = {.pool = pool};
    char message[TLAW_DIMENSION_MESSAGE] = "x";

    ok(knn_exact(&points, TLAW_METRIC_EUCLIDEAN, NULL, &lists, (struct tlaw_poll){stop_at_once, NULL},
                 &request, message) < 0 &&
           !message[0],
       "it can be stopped");
    pool_free(pool);
    free_lists(&lists);
    free((void *) points.data);
}

int main(void)
{
    test_sets();
    test_awkward();
    test_activations();
    test_stop();
    return tap_end();
}
