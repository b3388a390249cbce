/* Estimators of the intrinsic dimension: published answers, conventions, and what is said of unusable data.
 */
#include "points.h"
#include "tap.h"

static struct tlaw_dimension estimate(struct tlaw_points points, enum tlaw_estimator estimator, int k)
{
    struct tlaw_dimension_options options = {.estimator = estimator, .k = k, .seed = 1};
    struct tlaw_dimension result;

    if (tlaw_dimension_estimate(&points, &options, tlaw_knn_plain, NULL, (struct tlaw_poll){0}, &result))
        printf("# refused: %s\n", result.message);
    return result;
}

static bool near(double value, double expected, double tolerance)
{
    if (fabs(value - expected) <= tolerance)
        return true;
    printf("# %.12g, expected %.12g\n", value, expected);
    return false;
}

/* ---- reference_n1000.csv: a column of the table, and how it is had here ---- */
static const struct {
    const char *column;
    enum tlaw_estimator estimator;
    int k;
} columns[] = {
    {"twonn_lsq_disc0.1", TLAW_ESTIMATOR_TWONN, 0},
    {"twonn_skdim", TLAW_ESTIMATOR_TWONN, 0},
    {"twonn_mle_unb", TLAW_ESTIMATOR_TWONN_MLE, 0},
    {"twonn_mle", TLAW_ESTIMATOR_GRIDE, 2},
    {"lb_mackay_k5", TLAW_ESTIMATOR_MACKAY, 5},
    {"lb_mackay_k10", TLAW_ESTIMATOR_MACKAY, 10},
    {"lb_mackay_k20", TLAW_ESTIMATOR_MACKAY, 20},
    {"lb_mackay_k50", TLAW_ESTIMATOR_MACKAY, 50},
    {"mle_skdim_k20", TLAW_ESTIMATOR_MACKAY, 20},
    {"lb_mean_k5", TLAW_ESTIMATOR_LEVINA_BICKEL, 5},
    {"lb_mean_k10", TLAW_ESTIMATOR_LEVINA_BICKEL, 10},
    {"lb_mean_k20", TLAW_ESTIMATOR_LEVINA_BICKEL, 20},
    {"lb_mean_k50", TLAW_ESTIMATOR_LEVINA_BICKEL, 50},
    {"gride_n1_1", TLAW_ESTIMATOR_GRIDE, 2},
    {"gride_n1_2", TLAW_ESTIMATOR_GRIDE, 4},
    {"gride_n1_4", TLAW_ESTIMATOR_GRIDE, 8},
    {"gride_n1_8", TLAW_ESTIMATOR_GRIDE, 16},
    {"gride_n1_16", TLAW_ESTIMATOR_GRIDE, 32},
    {"gride_n1_32", TLAW_ESTIMATOR_GRIDE, 64},
    {"mind_ml_skdim", TLAW_ESTIMATOR_MIND, 21},
    {"corrint_skdim", TLAW_ESTIMATOR_CORRELATION, 20},
    {"lpca_FO_skdim", TLAW_ESTIMATOR_PCA, 0},
    {"lpca_part_ratio_skdim", TLAW_ESTIMATOR_PARTICIPATION_RATIO, 0},
};
#define COLUMNS   (int) (sizeof columns / sizeof columns[0])
#define MANIFOLDS 12

struct table {
    char names[MANIFOLDS][64];
    double true_d[MANIFOLDS], answers[MANIFOLDS][COLUMNS], gride_se[MANIFOLDS][6], mean_r[MANIFOLDS][2];
    int rows;
};

static int column_of(char *header, const char *name)
{
    char copy[4096], *save;
    int at = 0;

    snprintf(copy, sizeof copy, "%s", header);
    for (char *word = strtok_r(copy, ",\r\n", &save); word; word = strtok_r(NULL, ",\r\n", &save), at++)
        if (!strcmp(word, name))
            return at;
    return -1;
}

static const char *field(const char *line, int at)
{
    for (; at > 0; at--)
        line = strchr(line, ',') + 1;
    return line;
}

static struct table read_table(void)
{
    static struct table table;
    char path[1000], header[4096], line[4096], se[32];
    FILE *file;

    snprintf(path, sizeof path, "%s/id_manifolds/reference_n1000.csv", reference_folder());
    file = fopen(path, "r");
    if (!file || !fgets(header, sizeof header, file))
        return table;
    while (table.rows < MANIFOLDS && fgets(line, sizeof line, file)) {
        int row = table.rows++;

        snprintf(table.names[row], sizeof table.names[row], "%.*s", (int) strcspn(line, ","), line);
        table.true_d[row] = strtod(field(line, column_of(header, "true_d")), NULL);
        for (int c = 0; c < COLUMNS; c++)
            table.answers[row][c] = strtod(field(line, column_of(header, columns[c].column)), NULL);
        for (int s = 0; s < 6; s++) {
            snprintf(se, sizeof se, "gride_se_%d", 1 << s);
            table.gride_se[row][s] = strtod(field(line, column_of(header, se)), NULL);
        }
        table.mean_r[row][0] = strtod(field(line, column_of(header, "r1_mean")), NULL);
        table.mean_r[row][1] = strtod(field(line, column_of(header, "r2_mean")), NULL);
    }
    fclose(file);
    return table;
}

/* The information of Gride's likelihood, for independent points, against two libraries; mean distances. */
static double plain_gride(struct tlaw_points points, int n1, double *deviation, double mean_r[2])
{
    struct tlaw_neighbours lists = {points.n, 2 * n1, malloc(sizeof(double) * (size_t) (points.n * 2 * n1)),
                                    malloc(sizeof(int32_t) * (size_t) (points.n * 2 * n1))};
    double *x = malloc(sizeof *x * (size_t) points.n), information, d;
    char message[TLAW_DIMENSION_MESSAGE];

    tlaw_knn_plain(&points, TLAW_METRIC_EUCLIDEAN, NULL, &lists, (struct tlaw_poll){0}, NULL, message);
    mean_r[0] = mean_r[1] = 0;
    for (int64_t i = 0; i < points.n; i++) {
        const double *r = lists.distance + i * lists.k;

        x[i] = log(r[2 * n1 - 1] / r[n1 - 1]);
        mean_r[0] += r[n1 - 1] / (double) points.n;
        mean_r[1] += r[2 * n1 - 1] / (double) points.n;
    }
    d = tlaw_gride(x, points.n, n1, 2 * n1, &information);
    *deviation = 1 / sqrt(information);
    free(lists.distance);
    free(lists.index);
    free(x);
    return d;
}

static void test_manifolds(void)
{
    struct table table = read_table();
    struct tlaw_points sets[MANIFOLDS];
    double error[TLAW_ESTIMATOR_COUNT] = {0};

    if (!table.rows) {
        skip("no %s/id_manifolds: set TLAW_REFERENCE", reference_folder());
        return;
    }
    for (int m = 0; m < MANIFOLDS; m++) {
        char name[200];

        snprintf(name, sizeof name, "id_manifolds/%s_n1000.csv.gz", table.names[m]);
        sets[m] = read_points(name);
        for (int e = 0; e < TLAW_ESTIMATOR_COUNT; e++)
            error[e] +=
                fabs(estimate(sets[m], (enum tlaw_estimator) e, 0).dimension - table.true_d[m]) / MANIFOLDS;
    }
    for (int c = 0; c < COLUMNS; c++) {
        double worst = 0;

        for (int m = 0; m < MANIFOLDS; m++) {
            double answer = table.answers[m][c];

            if (columns[c].estimator == TLAW_ESTIMATOR_MIND && answer == floor(answer))
                continue; /* the library's search stopped at its integer start, or at its bound of 10 */
            worst =
                fmax(worst, fabs(estimate(sets[m], columns[c].estimator, columns[c].k).dimension - answer));
        }
        ok(worst < 1e-6, "%s on 12 manifolds: \"%s\" differs by at most %.1e", columns[c].column,
           tlaw_estimator_name(columns[c].estimator), worst);
    }
    double worst_se = 0, worst_r = 0, deviation, mean_r[2];
    for (int m = 0; m < MANIFOLDS; m++)
        for (int s = 0; s < 6; s++) {
            plain_gride(sets[m], 1 << s, &deviation, mean_r);
            worst_se = fmax(worst_se, fabs(deviation - table.gride_se[m][s]));
            for (int j = 0; j < 2 && s == 0; j++)
                worst_r = fmax(worst_r, fabs(mean_r[j] - table.mean_r[m][j]));
        }
    ok(worst_r < 1e-6, "r1_mean and r2_mean differ by at most %.1e", worst_r);
    ok(worst_se < 1e-6, "gride_se_1 .. 32, for independent points, differ by at most %.1e", worst_se);
    for (int e = 0; e < TLAW_ESTIMATOR_COUNT; e++)
        printf("# mean absolute error over 12 manifolds, n = 1000: %-20s %.3f\n",
               tlaw_estimator_name((enum tlaw_estimator) e), error[e]);
    for (int e = 1; e < TLAW_ESTIMATOR_COUNT; e++)
        ok(error[TLAW_ESTIMATOR_CALIBRATED] < error[e], "the default is nearer than \"%s\" on average",
           tlaw_estimator_name((enum tlaw_estimator) e));
    ok(error[TLAW_ESTIMATOR_MIND] < 2.2483, "MiND as a real number: nearer than the integer one (2.248)");
    for (int m = 0; m < MANIFOLDS; m++)
        free((void *) sets[m].data);
}

static double least_squares(const double *x, const double *y, int n)
{
    double mean_x = 0, mean_y = 0, xy = 0, xx = 0;

    for (int i = 0; i < n; i++) {
        mean_x += x[i] / n;
        mean_y += y[i] / n;
    }
    for (int i = 0; i < n; i++) {
        xy += (x[i] - mean_x) * (y[i] - mean_y);
        xx += (x[i] - mean_x) * (x[i] - mean_x);
    }
    return xy / xx;
}

static void test_two_gaussians(void)
{
    static const double gride[6] = {2.0209649482, 2.0427765129, 1.9168368038,
                                    2.0031692898, 1.6758166281, 0.7210556207};
    static const double gride_se[6] = {.2001, .1466, .0976, .0722, .0427, .0130};
    static const double correlation[9] = {1.88925, 1.87676,  1.9144,  1.90752, 1.89357,
                                          1.87727, 1.854341, 1.83551, 1.81872};
    struct tlaw_points points = read_points("id_dadapy/2gaussians_in_2d.csv");
    static const double scales[6] = {.3947, .5674, .8013, 1.1345, 1.6477, 3.5726};
    double deviation, mean_r[2], share[2], worst = 0;

    if (!points.n) {
        skip("no %s/id_dadapy: set TLAW_REFERENCE", reference_folder());
        return;
    }
    ok(near(estimate(points, TLAW_ESTIMATOR_TWONN, 0).dimension, 1.8549132954537941, 1e-9),
       "DADApy: TwoNN, least squares");
    ok(near(estimate(points, TLAW_ESTIMATOR_TWONN_MLE, 0).dimension, 2.0007552986718955, 1e-9),
       "DADApy: TwoNN, MLE");
    ok(near(estimate(points, TLAW_ESTIMATOR_TWONN_BAYES, 0).dimension, 1.872201560621762, 1e-9),
       "DADApy: TwoNN, Bayes");
    for (int s = 0; s < 6; s++) {
        double d = plain_gride(points, 1 << s, &deviation, mean_r);

        ok(near(d, gride[s], 1e-6), "Gride at n1 = %d: the exact MLE (DADApy has n - 1 for n)", 1 << s);
        ok(near(deviation, gride_se[s], 0.011 * gride_se[s]), "its deviation for independent points");
        ok(near((mean_r[0] + mean_r[1]) / 2, scales[s], 1e-4), "its scale, printed with four digits");
    }
    double x[10], y[10];
    for (int s = 0; s < 10; s++) { /* DADApy: least squares of ln C on ln r over the first radii */
        double radius[2] = {.25 + 1.5 * s / 9, 10}, slope;

        tlaw_correlation_integral(&points, TLAW_METRIC_EUCLIDEAN, radius, 0, 1, (struct tlaw_poll){0}, share,
                                  NULL);
        x[s] = log(radius[0]);
        y[s] = log(share[0]);
        slope = least_squares(x, y, s + 1);
        worst = s ? fmax(worst, fabs(slope - correlation[s - 1])) : 0;
    }
    ok(worst < 1e-5, "DADApy: correlation dimension from r = .25 to nine radii differs by at most %.1e",
       worst);
    free((void *) points.data);
}

static void test_fixture(void)
{
    struct tlaw_points points = read_points("id_manifolds/skdim_test_hyperball_n30_d5_D10.csv");

    if (!points.n) {
        skip("no %s/id_manifolds: set TLAW_REFERENCE", reference_folder());
        return;
    }
    ok(near(estimate(points, TLAW_ESTIMATOR_MACKAY, 20).dimension, 3.341161830518472, 1e-9),
       "scikit-dimension: MLE, k = 20");
    ok(near(estimate(points, TLAW_ESTIMATOR_MACKAY, 5).dimension, 4.350132038093711, 1e-9), "MLE, k = 5");
    ok(near(estimate(points, TLAW_ESTIMATOR_MACKAY, 20).dimension * 18 / 19, 3.1653112078596046, 1e-9),
       "MLE with k - 2 for k - 1");
    ok(near(estimate(points, TLAW_ESTIMATOR_LEVINA_BICKEL, 20).dimension, 3.4389424541367437, 1e-9),
       "MLE, mean over points");
    ok(near(estimate(points, TLAW_ESTIMATOR_CORRELATION, 20).dimension, 2.9309171335492548, 1e-9), "CorrInt");
    ok(estimate(points, TLAW_ESTIMATOR_PCA, 0).dimension == 5, "PCA, Fukunaga & Olsen");
    ok(near(estimate(points, TLAW_ESTIMATOR_MIND, 21).dimension, 3.696083548872364, 1e-6), "MiND_MLk");
    ok(round(estimate(points, TLAW_ESTIMATOR_MIND, 21).dimension) == 4,
       "MiND_MLi is the whole number next to it");
    ok(near(estimate(points, TLAW_ESTIMATOR_TWONN, 0).dimension, 4.522311661670988, 1e-9), "TwoNN");
    free((void *) points.data);
}

/* ---- data that need a word ---- */
static void test_messages(void)
{
    double x[60], same[40] = {0}, bad[4] = {1, 2, NAN, 3};
    struct tlaw_points line = {60, 1, 8, x, NULL}, none = {0, 3, 8, x, NULL}, one = {1, 3, 8, x, NULL};
    struct tlaw_points equal = {20, 2, 8, same, NULL}, broken = {2, 2, 8, bad, NULL},
                       few = {20, 3, 8, x, NULL};
    struct tlaw_dimension result;
    uint64_t state = 5;

    for (int i = 0; i < 60; i++)
        x[i] = random_uniform(&state);
    ok(near(estimate(line, TLAW_ESTIMATOR_MACKAY, 10).dimension, 1, .35), "points on a line (width 1)");
    result = estimate(none, TLAW_ESTIMATOR_CALIBRATED, 0);
    ok(isnan(result.dimension) && strstr(result.message, "no points"), "no points: %s", result.message);
    result = estimate(one, TLAW_ESTIMATOR_TWONN, 0);
    ok(isnan(result.dimension) && strstr(result.message, "too few"), "one point: %s", result.message);
    result = estimate(equal, TLAW_ESTIMATOR_TWONN, 0);
    ok(isnan(result.dimension) && result.duplicates == 19 && result.zero_distances == 20, "all equal: %s",
       result.message);
    result = estimate(few, TLAW_ESTIMATOR_MACKAY, 20);
    ok(isnan(result.dimension) && strstr(result.message, "at least 21"), "n <= k: %s", result.message);
    result = estimate(broken, TLAW_ESTIMATOR_TWONN, 0);
    ok(strstr(result.message, "point 2, coordinate 1 is nan; ") != NULL, "NaN: %s", result.message);
    result = estimate(line, TLAW_ESTIMATOR_LEVINA_BICKEL, 2);
    ok(strstr(result.message, "takes 3 or more") != NULL, "k too small: %s", result.message);
}

/* ---- what must not matter ---- */
enum change { LARGE, TINY, HUGE, SMALLEST, FAR, TURNED, CONSTANTS, LARGE_CONSTANT, MIRRORED, CHANGES };
static const char *const changes[CHANGES] = {
    [LARGE] = "times 1e30",
    [TINY] = "times 1e-30",
    [HUGE] = "times 1e140",
    [SMALLEST] = "times 1e-120",
    [FAR] = "1e4 added",
    [TURNED] = "turned",
    [CONSTANTS] = "with two constant columns",
    [LARGE_CONSTANT] = "with a column of 1e30",
    [MIRRORED] = "columns in another order",
};
#define NARROW 8

static void turn(double *row)
{
    for (int c = 0; c < NARROW - 1; c++) {
        double x = row[c], y = row[c + 1];

        row[c] = x * cos(1 + c) - y * sin(1 + c);
        row[c + 1] = x * sin(1 + c) + y * cos(1 + c);
    }
}

/* A sphere of 5 dimensions that lies askew in NARROW columns. */
static struct tlaw_points make_askew(int64_t n, uint64_t *state)
{
    struct tlaw_points sphere = make_shape(SPHERE, n, 5, state);
    double *data = calloc((size_t) (n * NARROW), sizeof *data);

    for (int64_t i = 0; i < n; i++) {
        memcpy(data + i * NARROW, (const double *) sphere.data + i * sphere.width,
               (size_t) sphere.width * sizeof *data);
        turn(data + i * NARROW);
    }
    free((void *) sphere.data);
    return (struct tlaw_points){n, NARROW, 8, data, NULL};
}

/* The points changed, in NARROW + 2 columns. */
static struct tlaw_points changed(const struct tlaw_points *points, enum change change)
{
    static const double factor[CHANGES] = {
        [LARGE] = 1e30, [TINY] = 1e-30, [HUGE] = 1e140, [SMALLEST] = 1e-120};
    int width = NARROW + 2;
    double *data = calloc((size_t) (points->n * width), sizeof *data);

    for (int64_t i = 0; i < points->n; i++) {
        const double *from = (const double *) points->data + i * NARROW;
        double *to = data + i * width;

        for (int c = 0; c < NARROW; c++)
            to[change == MIRRORED ? width - 1 - c : c] =
                from[c] * (factor[change] > 0 ? factor[change] : 1) + (change == FAR ? 1e4 : 0);
        if (change == TURNED)
            turn(to);
        to[NARROW] += change == CONSTANTS ? 7.3 : change == LARGE_CONSTANT ? 1e30 : 0;
        to[NARROW + 1] += change == CONSTANTS ? -1 : 0;
    }
    return (struct tlaw_points){points->n, width, 8, data, NULL};
}

static bool alike(const struct tlaw_dimension *a, const struct tlaw_dimension *b)
{
    return near(a->dimension, b->dimension, 1e-8 * b->dimension) && a->plateau == b->plateau &&
           (isnan(b->low) ? isnan(a->low) && isnan(a->high)
                          : near(a->low, b->low, 1e-8 * b->low) && near(a->high, b->high, 1e-8 * b->high));
}

static void test_invariance(void)
{
    uint64_t state = 29;
    struct tlaw_points points = make_askew(300, &state), rows = points;
    struct tlaw_question question = {.options = {.seed = 1}};
    struct tlaw_dimension result[2];
    double *data = malloc(sizeof *data * 300 * NARROW);

    for (int e = 0; e < TLAW_ESTIMATOR_COUNT; e++) {
        struct tlaw_dimension plain = estimate(points, (enum tlaw_estimator) e, 0);
        bool same = plain.dimension > 3;

        for (int change = 0; change < CHANGES; change++) {
            struct tlaw_points other = changed(&points, (enum change) change);
            struct tlaw_dimension after = estimate(other, (enum tlaw_estimator) e, 0);

            if (!alike(&after, &plain)) {
                printf("# %s: %g, not %g; %s\n", changes[change], after.dimension, plain.dimension,
                       after.message);
                same = false;
            }
            free((void *) other.data);
        }
        ok(same, "\"%s\" (%.3f) depends on no unit, origin, rotation, constant or order of columns",
           tlaw_estimator_name((enum tlaw_estimator) e), plain.dimension);
    }
    rows.data = data;
    for (int e = 0; e < TLAW_ESTIMATOR_COUNT; e++) {
        question.options.estimator = (enum tlaw_estimator) e;
        for (int order = 0; order < 2; order++) {
            for (int i = 0; i < 300; i++)
                memcpy(data + i * NARROW, (const double *) points.data + (order ? i * 7 % 300 : i) * NARROW,
                       NARROW * sizeof *data);
            tlaw_points_sort(&rows, data, NULL);
            tlaw_dimension_answer(&rows, NULL, &question, tlaw_knn_plain, NULL, (struct tlaw_poll){0},
                                  result + order);
        }
        ok(!memcmp(&result[0].dimension, &result[1].dimension, sizeof(double)) &&
               !memcmp(&result[0].high, &result[1].high, sizeof(double)),
           "\"%s\": nor on the order of rows, to the bit", tlaw_estimator_name((enum tlaw_estimator) e));
    }
    free(data);
    free((void *) points.data);
}

static void test_range(void)
{
    double x[60], y[120];
    struct tlaw_points points = {60, 1, 8, x, NULL}, plane = {60, 2, 8, y, NULL};
    double scale[60];
    struct tlaw_dimension result;
    uint64_t state = 31;
    int64_t row;

    for (int i = 0; i < 60; i++)
        x[i] = 1e-131 * random_uniform(&state);
    result = estimate(points, TLAW_ESTIMATOR_TWONN, 0);
    ok(strstr(result.message, "it must be 1e-130 to 1e150") != NULL, "too small to square: %s",
       result.message);
    x[0] = 1e151;
    result = estimate(points, TLAW_ESTIMATOR_PCA, 0);
    ok(strstr(result.message, "point 1, coordinate 1 is 1e+151; ") != NULL, "too large: %s", result.message);
    for (int i = 0; i < 120; i++)
        y[i] = i < 118 ? random_uniform(&state) : 1e-141;
    ok(tlaw_points_normalise(&plane, scale, &row) && row == 59, "too short for a direction");
}

static void test_duplicates(void)
{
    uint64_t state = 9;
    struct tlaw_points points = make_shape(CUBE, 400, 3, &state), twice = points, grid = points;
    double *copies = malloc(sizeof *copies * 3 * 800), *steps = malloc(sizeof *steps * 3 * 400);
    struct tlaw_dimension alone = estimate(points, TLAW_ESTIMATOR_MACKAY, 10), result;

    for (int i = 0; i < 400; i++) { /* every point and a copy; 30 copies of the first */
        memcpy(copies + 3 * i, (const double *) points.data + 3 * i, 3 * sizeof *copies);
        memcpy(copies + 3 * (400 + i), (const double *) points.data + 3 * (i < 30 ? 0 : i),
               3 * sizeof *copies);
    }
    twice.data = copies;
    twice.n = 800;
    result = estimate(twice, TLAW_ESTIMATOR_MACKAY, 10);
    ok(result.dimension == alone.dimension && result.n == 400, "copies change nothing");
    ok(result.duplicates == 400 && result.zero_distances == 800 - 29,
       "and are counted: %lld duplicates, %lld at distance 0", (long long) result.duplicates,
       (long long) result.zero_distances);
    ok(strstr(result.message, "400 of 800 points repeat another: of a discrete set") && !alone.message[0],
       "and spoken of: %s", result.message);
    for (int i = 0; i < 1200; i++)
        steps[i] = i < 1200 ? (double) ((i % 3 == 0   ? i / 3 / 64
                                         : i % 3 == 1 ? i / 3 / 8 % 8
                                                      : i / 3 % 8))
                            : 0;
    grid.data = steps;
    result = estimate(grid, TLAW_ESTIMATOR_MACKAY, 10);
    ok(result.ties == 400 && isfinite(result.dimension), "a grid: all points have tied neighbours");
    result = estimate(grid, TLAW_ESTIMATOR_CALIBRATED, 0);
    ok(result.plateau == 0 && strstr(result.message, "exactly as far away as the one before"),
       "and no plateau: %s", result.message);
    for (int i = 0; i < 1200; i++)
        steps[i] = rint(((const double *) points.data)[i] * 255);
    result = estimate(grid, TLAW_ESTIMATOR_CALIBRATED, 0);
    ok(result.ties > 20 && result.plateau == 1, "a cube in bytes has one, though %lld points have ties",
       (long long) result.ties);
    free((void *) points.data);
    free(copies);
    free(steps);
}

static void test_metrics(void)
{
    uint64_t state = 3;
    struct tlaw_points points = make_shape(SPHERE, 1500, 3, &state);
    double scale[1500];
    int64_t row;
    struct tlaw_dimension_options options = {.estimator = TLAW_ESTIMATOR_MACKAY, .k = 20};
    struct tlaw_dimension result[3];

    for (int64_t i = 0; i < points.n * points.width; i++)
        ((double *) points.data)[i] *= 1 + (double) (i / points.width % 7); /* lengths must not matter */
    tlaw_points_normalise(&points, scale, &row);
    points.scale = scale;
    for (int m = 0; m < 3; m++) {
        options.metric = (enum tlaw_metric) m;
        tlaw_dimension_estimate(&points, &options, tlaw_knn_plain, NULL, (struct tlaw_poll){0}, result + m);
    }
    ok(near(2 * result[1].dimension, result[0].dimension, 1e-9),
       "1 - cos halves the estimate exactly: %.4f, %.4f", result[1].dimension, result[0].dimension);
    for (int m = 0; m < 2; m++) {
        struct tlaw_dimension_options usual = {.metric = (enum tlaw_metric) m};

        tlaw_dimension_estimate(&points, &usual, tlaw_knn_plain, NULL, (struct tlaw_poll){0}, result + m);
    }
    ok(near(2 * result[1].dimension, result[0].dimension, 1e-9) &&
           near(2 * result[1].high, result[0].high, 1e-9) && result[1].plateau == 1,
       "the default's too, and its interval: %.4f, %.4f", result[1].dimension, result[0].dimension);
    ok(near(result[2].dimension, 3, .2), "as an angle it does not: %.4f", result[2].dimension);
    ((double *) points.data)[4] = ((double *) points.data)[5] = ((double *) points.data)[6] =
        ((double *) points.data)[7] = 0;
    ok(tlaw_points_normalise(&points, scale, &row) && row == 1, "a zero vector has no direction");
    free((void *) points.data);
}

static void test_excluded_clusters(void)
{
    uint64_t state = 11;
    struct tlaw_points points = make_shape(CUBE, 1000, 2, &state);
    int32_t cluster[1000];
    double *data = (double *) points.data;
    struct tlaw_dimension_options options = {.estimator = TLAW_ESTIMATOR_MACKAY, .k = 10, .cluster = cluster};
    struct tlaw_dimension with, without;

    for (int i = 0; i < 1000; i++) { /* 100 documents: ten points each along a short line */
        cluster[i] = i / 10;
        data[2 * i] = data[2 * (i / 10 * 10)] + 1e-3 * (i % 10) + 1e-5 * random_uniform(&state);
        data[2 * i + 1] = data[2 * (i / 10 * 10) + 1] + 1e-5 * random_uniform(&state);
    }
    tlaw_dimension_estimate(&points, &options, tlaw_knn_plain, NULL, (struct tlaw_poll){0}, &with);
    options.exclude_cluster = true;
    tlaw_dimension_estimate(&points, &options, tlaw_knn_plain, NULL, (struct tlaw_poll){0}, &without);
    ok(with.dimension < 1 && without.dimension > 1.5,
       "points of one document halve the estimate, %.2f, unless excluded, %.2f", with.dimension,
       without.dimension);
    free((void *) points.data);
}

/* ---- sets without a dimension: their readings depend on the scale, or on the place ---- */
enum unplain { CLUSTERS, LATTICE, SPECTRUM, NOISE, UNION, COPIES, UNPLAIN };
static const struct {
    const char *name;
    double dimensions[2]; /* that the interval must hold; 0: none to name */
} unplain[UNPLAIN] = {
    [CLUSTERS] = {"clusters of 8 dimensions, sizes by Zipf's law", {8, 0}},
    [LATTICE] = {"sums of 500 tokens and 64 positions", {0, 0}},
    [SPECTRUM] = {"a Gaussian of variances 1/j^2", {0, 0}},
    [NOISE] = {"a ball of 5 dimensions with noise in 32", {0, 0}},
    [UNION] = {"a ball of 3 dimensions beside one of 8", {3, 8}},
    [COPIES] = {"a ball of 8 dimensions, a quarter of it twice, nearly", {0, 0}},
};
#define WIDE 32

/* Which of `count` things, by Zipf's law. */
static int zipf(int count, uint64_t *state)
{
    return (int) pow(count + 1, random_uniform(state)) - 1;
}

static void unplain_row(enum unplain kind, int64_t i, double *row, const double *centres, uint64_t *state)
{
    int token = zipf(500, state), at = (int) random_below(state, 64);

    for (int c = 0; c < WIDE; c++)
        switch (kind) {
        case CLUSTERS:
            row[c] = centres[token * WIDE + c] + (c / 8 == token % 4 ? .3 * tlaw_random_normal(state) : 0);
            break;
        case LATTICE:
            row[c] = centres[token * WIDE + c] + .3 * centres[(500 + at) * WIDE + c];
            break;
        case SPECTRUM:
            row[c] = tlaw_random_normal(state) / (c + 1);
            break;
        default:
            row[c] = kind == NOISE ? .03 * tlaw_random_normal(state) : 0;
        }
    if (kind == NOISE || kind == UNION || kind == COPIES) {
        double ball[8];
        int d = kind == NOISE ? 5 : kind == UNION && i % 2 ? 3 : 8;

        tlaw_random_ball(state, d, ball);
        for (int c = 0; c < d; c++)
            row[c] += ball[c];
        row[8] += kind == UNION && i % 2 ? 10 : 0;
    }
    for (int c = 0; kind == COPIES && i % 4 == 3 && c < 8; c++)
        row[c] = row[c - WIDE] + 1e-4 * tlaw_random_normal(state);
}

static struct tlaw_points make_unplain(enum unplain kind, int64_t n, uint64_t *state)
{
    double *data = malloc(sizeof *data * (size_t) n * WIDE), *centres = malloc(sizeof *centres * 564 * WIDE);

    for (int i = 0; i < 564 * WIDE; i++)
        centres[i] = tlaw_random_normal(state);
    for (int64_t i = 0; i < n; i++)
        unplain_row(kind, i, data + i * WIDE, centres, state);
    free(centres);
    return (struct tlaw_points){n, WIDE, 8, data, NULL};
}

static bool holds(const struct tlaw_dimension *result, double value)
{
    return result->low <= value && value <= result->high;
}

static void test_no_plateau(void)
{
    uint64_t state = 17;

    for (int kind = 0; kind < UNPLAIN; kind++) {
        struct tlaw_points points = make_unplain((enum unplain) kind, 2000, &state);
        struct tlaw_dimension result = estimate(points, TLAW_ESTIMATOR_CALIBRATED, 0),
                              pair = estimate(points, TLAW_ESTIMATOR_MACKAY, 2),
                              near = estimate(points, TLAW_ESTIMATOR_MACKAY, 10),
                              far = estimate(points, TLAW_ESTIMATOR_MACKAY, 40);

        ok(result.plateau == 0 && strstr(result.message, "no plateau: read "), "%s: %.3g [%.3g, %.3g], %s",
           unplain[kind].name, result.dimension, result.low, result.high, result.message);
        ok(result.dimension == near.dimension && holds(&result, pair.dimension) &&
               holds(&result, near.dimension) && holds(&result, far.dimension) && result.high <= WIDE,
           "the reading with k/4; the interval holds those with 2, k/4 and k, and ends at the coordinates");
        for (int t = 0; t < 2 && unplain[kind].dimensions[t] > 0; t++)
            ok(holds(&result, unplain[kind].dimensions[t]), "and %.0f", unplain[kind].dimensions[t]);
        ok(far.plateau == 0 && strstr(far.message, "the interval does not hold that") && pair.plateau == -1,
           "said with other estimators of 8 neighbours or more");
        free((void *) points.data);
    }
}

static void test_noise(void)
{
    uint64_t state = 23;
    int told = 0, held = 0;

    for (int draw = 0; draw < 5; draw++) {
        struct tlaw_points sphere = make_shape(SPHERE, 1500, 3, &state);
        double *data = malloc(sizeof *data * 1500 * WIDE);
        struct tlaw_points points = {1500, WIDE, 8, data, NULL};

        for (int64_t i = 0; i < 1500 * WIDE; i++) /* a tenth of the radius in all */
            data[i] = .1 / sqrt(WIDE) * tlaw_random_normal(&state) +
                      (i % WIDE < 4 ? ((const double *) sphere.data)[i / WIDE * 4 + i % WIDE] : 0);
        struct tlaw_dimension result = estimate(points, TLAW_ESTIMATOR_CALIBRATED, 0);

        told += result.plateau == 0;
        held += holds(&result, 3);
        free(data);
        free((void *) sphere.data);
    }
    ok(told == 5 && held >= 4,
       "a sphere of 3 dimensions with noise of a tenth of the radius: no plateau in %d of 5 draws, the "
       "interval "
       "holds 3 in %d",
       told, held);
    struct tlaw_points cube = make_shape(CUBE, 600, 150, &state);
    struct tlaw_dimension result = estimate(cube, TLAW_ESTIMATOR_CALIBRATED, 0);

    ok(result.plateau == 0 && strstr(result.message, "extrapolated to none beyond 100") &&
           result.dimension > 30 && result.high == 150,
       "a cube of 150 dimensions: %.3g [%.3g, %.3g], %s", result.dimension, result.low, result.high,
       result.message);
    free((void *) cube.data);
}

static void test_plateau(void)
{
    uint64_t state = 19;

    for (int shape = 0; shape < SHAPES; shape++)
        for (int d = 2; d <= 10; d += 4) {
            struct tlaw_points points = make_shape((enum shape) shape, 2000, d, &state), few = points;
            struct tlaw_dimension result = estimate(points, TLAW_ESTIMATOR_CALIBRATED, 0);

            few.n = 599;
            ok(result.plateau == 1 && strstr(result.message, "extrapolated from "),
               "a %s of %d dimensions has a plateau: %.3g, %s", shape_names[shape], d, result.dimension,
               result.message);
            ok(estimate(few, TLAW_ESTIMATOR_CALIBRATED, 40).plateau == -1,
               "15 points a neighbour tell, not fewer");
            free((void *) points.data);
        }
}

int main(void)
{
    test_manifolds();
    test_two_gaussians();
    test_fixture();
    test_messages();
    test_invariance();
    test_range();
    test_duplicates();
    test_metrics();
    test_excluded_clusters();
    test_no_plateau();
    test_noise();
    test_plateau();
    return tap_end();
}
