/*
 * Exact neighbours on the GPU that the registry finds beside this program (see test_cuda.c): the same bits as
 * comparing all pairs in float64, however awkward the set.
 */
#include "points.h"
#include "tap.h"
#include "../../kernels/backend/cuda/cuda_find.h"

static struct device *device;

static void count_progress(double share, void *arg)
{
    double *last = arg;

    *last = share >= *last ? share : 2; /* it does not go back */
}

static void check(const char *what, const struct tlaw_points *points, enum tlaw_metric metric,
                  const int32_t *group, int k)
{
    struct tlaw_neighbours expected = lists_of(points->n, k), got = lists_of(points->n, k);
    size_t entries = (size_t) (points->n * k), wrong = 0;
    char message[TLAW_DIMENSION_MESSAGE] = "";
    double progress = 0;
    struct cuda_knn_request request = {device, count_progress, &progress};

    tlaw_knn_plain(points, metric, group, &expected, (struct tlaw_poll){0}, NULL, message);
    memset(got.distance, 0, entries * sizeof *got.distance);
    int status = cuda_knn(points, metric, group, &got, (struct tlaw_poll){0}, &request, message);
    for (size_t i = 0; i < entries; i++)
        wrong += memcmp(got.distance + i, expected.distance + i, sizeof(double)) != 0 ||
                 got.index[i] != expected.index[i];
    ok(status == 0 && wrong == 0 && progress == 1,
       "%s (n %lld, width %d, k %d): %zu of %zu neighbours differ %s", what, (long long) points->n,
       points->width, k, wrong, entries, message);
    free_lists(&expected);
    free_lists(&got);
}

static void test_few_coordinates(void)
{
    uint64_t state = 1;
    struct tlaw_points points = make_shape(CUBE, 300, 3, &state);
    double *data = (double *) points.data;
    int32_t group[300];

    check("a cube", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    check("one neighbour", &points, TLAW_METRIC_EUCLIDEAN, NULL, 1);
    check("many neighbours", &points, TLAW_METRIC_EUCLIDEAN, NULL, 60);
    for (int i = 0; i < 300; i++)
        group[i] = i % 7 ? i / 9 : 0;
    check("groups excluded", &points, TLAW_METRIC_EUCLIDEAN, group, 20);
    for (int i = 0; i < 300; i++)
        group[i] = i >= 10;
    check("too few outside the group", &points, TLAW_METRIC_EUCLIDEAN, group, 20);
    for (int i = 0; i < 900; i++)
        data[i] = data[i] * 1e-9 + 1e6;
    check("a tiny cube far from the origin", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    for (int i = 0; i < 900; i++)
        data[i] = floor((data[i] - 1e6) * 6e9);
    check("a grid of ties and duplicates", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    for (int i = 0; i < 900; i++)
        data[i] = 7;
    check("all equal", &points, TLAW_METRIC_EUCLIDEAN, NULL, 5);
    data[3 * 299] = 8;
    check("all equal but the last", &points, TLAW_METRIC_EUCLIDEAN, NULL, 5);
    for (int i = 0; i < 900; i++)
        data[i] = i % 2 ? 1e150 : -1e150;
    check("the largest values", &points, TLAW_METRIC_EUCLIDEAN, NULL, 5);
    free(data);
    points = make_shape(CUBE, 400, 1, &state);
    check("a line", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    points.n = 2;
    check("two points", &points, TLAW_METRIC_EUCLIDEAN, NULL, 1);
    points.n = 1;
    check("one point", &points, TLAW_METRIC_EUCLIDEAN, NULL, 1);
    free((void *) points.data);
}

static void test_many_coordinates(void)
{
    uint64_t state = 2;
    struct tlaw_points points = mixed(350, 100, 5, 0, &state), unit;
    float *data = (float *) points.data;
    double *scale = malloc(sizeof *scale * 301);
    int64_t row;

    for (int i = 0; i < 350; i++) { /* one far away, one huge coordinate, two tight clusters */
        data[100 * i + 17] *= 1000;
        data[100 * i + 3] += i % 2 ? 1e5f : 0;
    }
    data[5] = 1e9f;
    check("outliers", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    data[5] = 3e38f;
    check("one too far away to be rounded", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    free(data);
    unit = points = mixed(301, 257, 10, 0, &state);
    check("ten dimensions in 257", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    tlaw_points_normalise(&points, scale, &row);
    unit.scale = scale;
    check("by cosine", &unit, TLAW_METRIC_COSINE, NULL, 20);
    check("by angle", &unit, TLAW_METRIC_ANGULAR, NULL, 20);
    data = (float *) points.data;
    for (int c = 0; c < 257 * 50; c++)
        data[257 * 200 + c] = 3 * data[c]; /* the same directions */
    tlaw_points_normalise(&points, scale, &row);
    check("by cosine, with equal directions", &unit, TLAW_METRIC_COSINE, NULL, 20);
    free(data);
    points = mixed(260, 768, 10, 1000, &state);
    check("768 coordinates, an offset of 1,000", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    free((void *) points.data);
    points = noise(400, 48, &state);
    check("noise", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    free((void *) points.data);
    points = noise(40, 5003, &state);
    check("5,003 coordinates of noise", &points, TLAW_METRIC_EUCLIDEAN, NULL, 20);
    free((void *) points.data);
    free(scale);
}

static int stop_at_once(void *arg)
{
    (void) arg;
    return 1;
}

static void test_ends(void)
{
    uint64_t state = 3;
    struct tlaw_points points = noise(300, 64, &state);
    struct tlaw_neighbours lists = lists_of(300, 5), large = {.n = 300, .k = 1 << 29};
    struct cuda_knn_request request = {.device = device};
    char message[TLAW_DIMENSION_MESSAGE] = "x";

    ok(cuda_knn(&points, TLAW_METRIC_EUCLIDEAN, NULL, &lists, (struct tlaw_poll){stop_at_once, NULL},
                &request, message) < 0 &&
           !message[0],
       "it can be stopped");
    ok(cuda_knn(&points, TLAW_METRIC_EUCLIDEAN, NULL, &large, (struct tlaw_poll){0}, &request, message) < 0 &&
           strstr(message, "MB on the GPU"),
       "what does not fit is refused with the number: %s", message);
    free_lists(&lists);
    free((void *) points.data);
}

/* The cuBLAS of CUDA 13.0 before its Update 1 multiplies bytes wrongly, and so is not asked. */
static void test_versions(void)
{
    static const struct {
        const char *version;
        bool refused;
    } tried[] = {{"120901", false}, {"130000", true}, {"130001", true}, {"130002", false}};
    uint64_t state = 4;
    struct tlaw_points points = noise(100, 64, &state);
    struct tlaw_neighbours lists = lists_of(100, 5);
    struct cuda_knn_request request = {.device = device};

    for (size_t i = 0; i < sizeof tried / sizeof *tried; i++) {
        char message[TLAW_DIMENSION_MESSAGE] = "";

        setenv("SHIM_CUBLAS_VERSION", tried[i].version, 1);
        bool refused = cuda_knn(&points, TLAW_METRIC_EUCLIDEAN, NULL, &lists, (struct tlaw_poll){0}, &request,
                                message) < 0;
        ok(refused == tried[i].refused && !strstr(message, "multiplies bytes wrongly") != refused,
           "cuBLAS %s: %s", tried[i].version, refused ? message : "taken");
    }
    unsetenv("SHIM_CUBLAS_VERSION");
    free_lists(&lists);
    free((void *) points.data);
}

int main(void)
{
    struct backend_device devices[BACKEND_GPUS_MOST];
    char message[512] = "";
    int count = backend_gpus(devices, message, sizeof message);
    const struct backend *backend;

    if (!count && NO_CUDA_HERE) {
        printf("1..0 # SKIP no g++ to compile the CUDA backend for the host\n");
        return 0;
    }
    backend = count ? backend_find("cuda:0", "", "bf16", message, sizeof message) : NULL;
    device = backend ? backend->open(1, message, sizeof message) : NULL;
    if (ok(device != NULL, "a device: %s %s", count ? devices[0].name : "none", message)) {
        test_few_coordinates();
        test_many_coordinates();
        test_ends();
        if (strncmp(devices[0].name, "host ", 5) == 0)
            test_versions();
        backend->close(device);
    }
    return tap_end();
}
