/*
 * Estimators that look at the points themselves: correlation sums, spectra, the minimum spanning tree.
 */
#include "dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUKUNAGA_OLSEN   0.05 /* an eigenvalue counts when above this share of the largest */
#define LARGEST_SPECTRUM 2048

static int stopped(struct tlaw_dimension *result)
{
    result->message[0] = '\0';
    return -1;
}

/* ------------------------------------------------ correlation dimension
 * ------------------------------------------ */

int tlaw_correlation_integral(const struct tlaw_points *points, enum tlaw_metric metric,
                              const double radius[2], int64_t rows, uint64_t seed, struct tlaw_poll poll,
                              double share[2], double *counts)
{
    int64_t n = points->n, sampled = 0, wanted = rows > 0 && rows < n ? rows : n, since_poll = 0;
    double total[2] = {0, 0};

    for (int64_t i = 0; i < n; i++) {
        int64_t within[2] = {0, 0};

        if (counts)
            counts[2 * i] = counts[2 * i + 1] = -1;
        /* Knuth's selection sampling: exactly `wanted` of n rows */
        if (sampled == wanted || random_below(&seed, n - i) >= wanted - sampled)
            continue;
        sampled++;
        for (int64_t j = 0; j < n; j++) {
            if (j == i)
                continue;
            double distance = tlaw_metric_distance(metric, tlaw_points_distance2(points, i, j));
            within[0] += distance < radius[0];
            within[1] += distance < radius[1];
        }
        for (int s = 0; s < 2; s++) {
            total[s] += (double) within[s];
            if (counts)
                counts[2 * i + s] = (double) within[s];
        }
        since_poll += n * points->width;
        if (since_poll > 10000000) {
            since_poll = 0;
            if (poll.stop && poll.stop(poll.arg))
                return -1;
        }
    }
    for (int s = 0; s < 2; s++)
        share[s] = total[s] / (double) sampled / (double) (n - 1);
    return 0;
}

static int ascending(const void *a, const void *b)
{
    double left = *(const double *) a, right = *(const double *) b;

    return (left > right) - (left < right);
}

static double median_distance(const struct tlaw_neighbours *graph, int k, double *room)
{
    int64_t n = graph->n;

    for (int64_t i = 0; i < n; i++)
        room[i] = graph->distance[i * graph->k + k - 1];
    qsort(room, (size_t) n, sizeof *room, ascending);
    return n % 2 ? room[n / 2] : (room[n / 2 - 1] + room[n / 2]) / 2;
}

/*
 * Slope of ln C(r) between the median distances to the k/2-th and the k-th neighbour, as scikit-dimension's
 * CorrInt has it (its k1 = 10, k2 = 20).  Beyond 2e11 multiplications it samples rows.  Standard error: the
 * first-order (Hajek) term of the two U-statistics.
 */
int tlaw_dimension_correlation(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    int64_t n = problem->points.n, rows = (int64_t) (2e11 / ((double) n * problem->points.width));
    double *counts = malloc((size_t) n * 2 * sizeof *counts), radius[2], share[2], sum = 0, squares = 0;
    int k = problem->options.k;

    if (!counts)
        return tlaw_dimension_no_memory(result);
    radius[0] = median_distance(&problem->neighbours, k / 2, counts);
    radius[1] = median_distance(&problem->neighbours, k, counts);
    rows = rows < 1000 ? 1000 : rows;
    if (tlaw_correlation_integral(&problem->points, problem->options.metric, radius, rows < n ? rows : 0,
                                  problem->options.seed, problem->poll, share, counts)) {
        free(counts);
        return stopped(result);
    }
    if (!(share[0] > 0) || !(radius[1] > radius[0]) || !isfinite(radius[1])) {
        snprintf(result->message, sizeof result->message,
                 "no dimension: no pairs, or no difference, between the two radii");
        free(counts);
        return 0;
    }
    double scale = log(radius[1] / radius[0]);
    int64_t sampled = 0;
    for (int64_t i = 0; i < n; i++) {
        if (counts[2 * i] < 0)
            continue;
        double psi = (counts[2 * i + 1] / share[1] - counts[2 * i] / share[0]) / (double) (n - 1) / scale;
        sum += psi;
        squares += psi * psi;
        sampled++;
    }
    result->dimension = log(share[1] / share[0]) / scale;
    result->standard_error = 2 * sqrt((squares - sum * sum / (double) sampled)) / (double) sampled;
    if (rows < n)
        snprintf(result->message, sizeof result->message, "pairs counted from %lld sampled points",
                 (long long) sampled);
    free(counts);
    return 0;
}

/* ------------------------------------------------ spectra
 * -------------------------------------------------------- */

/* Householder reduction of a[n][n] to diagonal d and off-diagonal e (e[0] = 0). */
static void tridiagonalise(double *a, int n, double *d, double *e)
{
    double *p = e; /* room: e[0..column) is not final until that column is done */

    for (int column = n - 1; column > 0; column--) {
        double *v = a + (size_t) column * n, norm = 0, h = 0, f;
        double first = v[column - 1];

        for (int i = 0; i < column; i++)
            norm += v[i] * v[i];
        norm = sqrt(norm);
        if (norm == 0 || norm == fabs(first)) {
            e[column] = first;
            continue;
        }
        e[column] = first > 0 ? -norm : norm;
        v[column - 1] -= e[column];
        h = norm * norm - first * e[column];
        f = 0;
        for (int i = 0; i < column; i++) {
            double sum = 0;
            for (int j = 0; j <= i; j++)
                sum += a[(size_t) i * n + j] * v[j];
            for (int j = i + 1; j < column; j++)
                sum += a[(size_t) j * n + i] * v[j];
            p[i] = sum / h;
            f += p[i] * v[i];
        }
        f /= 2 * h;
        for (int i = 0; i < column; i++)
            p[i] -= f * v[i];
        for (int i = 0; i < column; i++)
            for (int j = 0; j <= i; j++)
                a[(size_t) i * n + j] -= v[i] * p[j] + p[i] * v[j];
    }
    e[0] = 0;
    for (int i = 0; i < n; i++)
        d[i] = a[(size_t) i * n + i];
}

/* One implicit QL sweep with Wilkinson's shift over the unreduced block [l, m]. */
static void ql_sweep(double *d, double *e, int l, int m)
{
    double g = (d[l + 1] - d[l]) / (2 * e[l]), r = hypot(g, 1), s = 1, c = 1, p = 0;

    g = d[m] - d[l] + e[l] / (g + (g >= 0 ? r : -r));
    for (int i = m - 1; i >= l; i--) {
        double f = s * e[i], b = c * e[i];

        r = hypot(f, g);
        e[i + 1] = r;
        if (r == 0) {
            d[i + 1] -= p;
            e[m] = 0;
            return;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
    }
    d[l] -= p;
    e[l] = g;
    e[m] = 0;
}

static int descending(const void *a, const void *b)
{
    return ascending(b, a);
}

void tlaw_eigenvalues(double *a, int n, double *values)
{
    double *e = malloc(((size_t) n + 1) * sizeof *e);

    if (!e) {
        for (int i = 0; i < n; i++)
            values[i] = NAN;
        return;
    }
    tridiagonalise(a, n, values, e);
    memmove(e, e + 1, (size_t) (n - 1) * sizeof *e);
    e[n - 1] = 0;
    for (int l = 0; l < n; l++)
        for (int sweep = 0; sweep < 60; sweep++) {
            int m = l;

            while (m < n - 1 && fabs(e[m]) > 1e-16 * (fabs(values[m]) + fabs(values[m + 1])))
                m++;
            if (m == l)
                break;
            ql_sweep(values, e, l, m);
        }
    qsort(values, (size_t) n, sizeof *values, descending);
    free(e);
}

static int fukunaga_olsen(const double *values, int count)
{
    int above = 0;

    while (above < count && values[above] > FUKUNAGA_OLSEN * values[0])
        above++;
    return above;
}

/*
 * rows[count][width] minus their mean, times a power of two that brings the largest entry to .5 .. 1: all
 * that is read off them are ratios, and powers of the entries stay in range.  The first row goes first:
 * constant columns, however large, leave nothing.
 */
static void centre_rows(double *rows, int64_t count, int width)
{
    double largest = 0;
    int exponent;

    for (int c = 0; c < width; c++) {
        double first = rows[c], mean = 0;

        for (int64_t i = 0; i < count; i++)
            mean += (rows[i * width + c] -= first) / (double) count;
        for (int64_t i = 0; i < count; i++)
            largest = fmax(largest, fabs(rows[i * width + c] -= mean));
    }
    frexp(largest, &exponent);
    for (int64_t e = 0; e < count * width && largest > 0; e++)
        rows[e] = ldexp(rows[e], -exponent);
}

static double dot(const double *x, const double *y, int width)
{
    double sum[8] = {0};
    int c = 0;

    for (; c + 8 <= width; c += 8)
        for (int lane = 0; lane < 8; lane++)
            sum[lane] += x[c + lane] * y[c + lane];
    for (; c < width; c++)
        sum[0] += x[c] * y[c];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

struct spectrum {
    double *rows;   /* [n][width], centred */
    double *matrix; /* covariance [width][width], or inner products [n][n] when n < width */
    int64_t n;
    int width, size;
    bool inner;
};

static void spectrum_close(struct spectrum *s)
{
    free(s->rows);
    free(s->matrix);
}

/* The sums of products, not divided by n - 1. */
static int spectrum_open(const struct dimension_problem *problem, struct spectrum *s,
                         struct tlaw_dimension *result)
{
    s->n = problem->points.n;
    s->width = problem->points.width;
    s->inner = s->n < s->width;
    s->size = s->inner ? (int) s->n : s->width;
    s->rows = malloc((size_t) s->n * s->width * sizeof *s->rows);
    s->matrix = calloc((size_t) s->size * s->size, sizeof *s->matrix);
    if (!s->rows || !s->matrix)
        return tlaw_dimension_no_memory(result);
    for (int64_t i = 0; i < s->n; i++)
        tlaw_points_row(&problem->points, i, s->rows + i * s->width);
    centre_rows(s->rows, s->n, s->width);
    for (int64_t i = 0; i < s->n; i++) {
        if (poll_stopped(problem))
            return stopped(result);
        const double *row = s->rows + i * s->width;
        if (s->inner)
            for (int64_t j = 0; j <= i; j++)
                s->matrix[i * s->size + j] = s->matrix[j * s->size + i] =
                    dot(row, s->rows + j * s->width, s->width);
        else
            for (int a = 0; a < s->width; a++)
                for (int b = 0; b < s->width; b++)
                    s->matrix[(size_t) a * s->size + b] += row[a] * row[b];
    }
    return 0;
}

int tlaw_dimension_pca(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    struct spectrum s = {0};
    int status;

    if (problem->points.n > LARGEST_SPECTRUM && problem->points.width > LARGEST_SPECTRUM) {
        snprintf(result->message, sizeof result->message,
                 "no dimension: \"pca\" takes spectra of at most %d values; here %lld points of width %d",
                 LARGEST_SPECTRUM, (long long) problem->points.n, problem->points.width);
        return 0;
    }
    status = spectrum_open(problem, &s, result);
    if (!status) {
        double *values = malloc((size_t) s.size * sizeof *values);

        if (values) {
            tlaw_eigenvalues(s.matrix, s.size, values);
            if (values[0] > 0)
                result->dimension = fukunaga_olsen(values, s.size);
            snprintf(result->message, sizeof result->message, "%s",
                     values[0] > 0 ? "a count of directions: no sampling interval"
                                   : "no dimension: all points are equal");
            free(values);
        } else {
            status = tlaw_dimension_no_memory(result);
        }
    }
    spectrum_close(&s);
    return status;
}

/* y'My for a centred row: its share of the sum of squared eigenvalues */
static double quadratic(const struct spectrum *s, int64_t i)
{
    const double *y = s->rows + i * s->width;
    double sum = 0;

    if (s->inner)
        return dot(s->matrix + i * s->size, s->matrix + i * s->size, s->size);
    for (int a = 0; a < s->width; a++)
        sum += y[a] * dot(s->matrix + (size_t) a * s->size, y, s->width);
    return sum;
}

/* (sum of eigenvalues)^2 / sum of their squares; the SE from the influence of every point on both sums. */
int tlaw_dimension_participation_ratio(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    struct spectrum s = {0};
    int status = spectrum_open(problem, &s, result);

    if (!status) {
        double trace = 0, squares = 0, sum = 0, influence2 = 0, n = (double) s.n;

        for (int i = 0; i < s.size; i++)
            trace += s.matrix[(size_t) i * s.size + i];
        for (size_t i = 0; i < (size_t) s.size * s.size; i++)
            squares += s.matrix[i] * s.matrix[i];
        if (squares > 0) {
            result->dimension = trace * trace / squares;
            for (int64_t i = 0; i < s.n && !status; i++) {
                double length2 = dot(s.rows + i * s.width, s.rows + i * s.width, s.width);
                double psi = 2 * result->dimension * (n * length2 / trace - n * quadratic(&s, i) / squares);

                sum += psi;
                influence2 += psi * psi;
                if (i % 256 == 0 && poll_stopped(problem))
                    status = stopped(result);
            }
            result->standard_error = sqrt((influence2 - sum * sum / n)) / n;
        } else {
            snprintf(result->message, sizeof result->message, "no dimension: all points are equal");
        }
    }
    spectrum_close(&s);
    return status;
}

/* The number of directions of one neighbourhood, the point itself included; NaN when all coincide. */
static double neighbourhood_directions(const struct dimension_problem *problem, int64_t i, double *rows,
                                       double *matrix, double *values)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;
    int width = problem->points.width, count = 0;

    tlaw_points_row(&problem->points, i, rows);
    count++;
    for (int j = 0; j < graph->k; j++)
        if (graph->index[i * graph->k + j] >= 0)
            tlaw_points_row(&problem->points, graph->index[i * graph->k + j],
                            rows + (size_t) count++ * width);
    centre_rows(rows, count, width);
    for (int a = 0; a < count; a++)
        for (int b = 0; b <= a; b++)
            matrix[a * count + b] = matrix[b * count + a] =
                dot(rows + (size_t) a * width, rows + (size_t) b * width, width);
    tlaw_eigenvalues(matrix, count, values);
    return values[0] > 0 ? fukunaga_olsen(values, count) : NAN;
}

int tlaw_dimension_local_pca(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    int64_t n = problem->points.n, used = 0;
    int k = problem->options.k;
    size_t width = (size_t) problem->points.width;
    double *rows = malloc((size_t) (k + 1) * width * sizeof *rows);
    double *matrix = malloc((size_t) (k + 1) * (k + 2) * sizeof *matrix),
           *psi = malloc((size_t) n * sizeof *psi);
    double sum = 0;
    int status = 0;

    if (!rows || !matrix || !psi)
        status = tlaw_dimension_no_memory(result);
    for (int64_t i = 0; i < n && !status; i++) {
        psi[i] = neighbourhood_directions(problem, i, rows, matrix, matrix + (k + 1) * (k + 1));
        if (!isnan(psi[i]))
            sum += psi[i], used++;
        if (i % 64 == 0 && poll_stopped(problem))
            status = stopped(result);
    }
    if (!status && used > 0) {
        result->dimension = sum / (double) used;
        for (int64_t i = 0; i < n; i++)
            psi[i] = isnan(psi[i]) ? 0 : psi[i] - result->dimension;
        result->standard_error = tlaw_graph_deviation(problem, psi) / (double) used;
    }
    free(rows);
    free(matrix);
    free(psi);
    return status;
}

/* ------------------------------------------------ persistent homology
 * -------------------------------------------- */

/* Length of the minimum spanning tree of count points (Prim); NaN when stopped. */
static double tree_length(const struct dimension_problem *problem, const int64_t *members, int64_t count,
                          double *nearest, int64_t *outside)
{
    double length = 0;
    int64_t left = count - 1, last = members[0], since_poll = 0;

    for (int64_t i = 0; i < left; i++) {
        outside[i] = members[i + 1];
        nearest[i] = INFINITY;
    }
    while (left > 0) {
        int64_t best = 0;

        for (int64_t i = 0; i < left; i++) {
            double distance = tlaw_metric_distance(problem->options.metric,
                                                   tlaw_points_distance2(&problem->points, last, outside[i]));
            nearest[i] = fmin(nearest[i], distance);
            best = nearest[i] < nearest[best] ? i : best;
        }
        length += nearest[best];
        last = outside[best];
        left--;
        outside[best] = outside[left];
        nearest[best] = nearest[left];
        since_poll += left * problem->points.width;
        if (since_poll > 10000000) {
            since_poll = 0;
            if (poll_stopped(problem))
                return NAN;
        }
    }
    return length;
}

#define TREE_LEVELS 4 /* sizes n/8, n/4, n/2, n: 8 + 4 + 2 + 1 trees */

/* log2 of the lengths of every tree, by level (0: the whole); -1 when stopped */
static int tree_lengths(const struct dimension_problem *problem, const int64_t *order, double *nearest,
                        int64_t *outside, double logs[TREE_LEVELS][1 << (TREE_LEVELS - 1)])
{
    int64_t n = problem->points.n;

    for (int level = 0; level < TREE_LEVELS; level++)
        for (int piece = 0; piece < 1 << level; piece++) {
            int64_t from = n * piece >> level, to = n * (piece + 1) >> level;
            double length = tree_length(problem, order + from, to - from, nearest, outside);

            if (isnan(length))
                return -1;
            logs[level][piece] = log2(length);
        }
    return 0;
}

/*
 * Persistent homology of degree 0: the tree's length over m points grows as m^(1 - 1/d) (Steele 1988;
 * Schweinhart 2020), so d = 1 / (1 - slope).  The points are halved three times at random; the slope is the
 * least-squares one of mean ln length on ln m.  Its SE comes from the spread of the slopes of single halvings
 * about their level's mean, whose variance halves with every doubling of the points.
 */
static void tree_slope(double logs[TREE_LEVELS][1 << (TREE_LEVELS - 1)], double *slope,
                       double *standard_error)
{
    static const double weight[TREE_LEVELS - 1] = {.3, .4, .3}; /* least squares over four equal steps */
    double spread = 0, weights2 = 0;
    int freedom = 0;

    *slope = 0;
    for (int level = 0; level < TREE_LEVELS - 1; level++) {
        int pieces = 1 << level;
        double step[1 << (TREE_LEVELS - 2)], mean = 0;

        for (int i = 0; i < pieces; i++) {
            step[i] = logs[level][i] - (logs[level + 1][2 * i] + logs[level + 1][2 * i + 1]) / 2;
            mean += step[i] / pieces;
        }
        for (int i = 0; i < pieces; i++)
            spread += (step[i] - mean) * (step[i] - mean) / pieces; /* variance of a mean over its level */
        freedom += pieces - 1;
        *slope += weight[level] * mean;
        weights2 += weight[level] * weight[level];
    }
    *standard_error = sqrt(weights2 * spread / freedom);
}

int tlaw_dimension_persistent_homology(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    int64_t n = problem->points.n;
    double logs[TREE_LEVELS][1 << (TREE_LEVELS - 1)], slope, deviation;
    uint64_t state = problem->options.seed;
    int status = 0;

    if (n < 64) {
        snprintf(result->message, sizeof result->message,
                 "no dimension: \"persistent_homology\" needs 64 distinct points, there are %lld",
                 (long long) n);
        return 0;
    }
    int64_t *order = malloc((size_t) n * sizeof *order), *outside = malloc((size_t) n * sizeof *outside);
    double *nearest = malloc((size_t) n * sizeof *nearest);
    if (!order || !outside || !nearest) {
        status = tlaw_dimension_no_memory(result);
    } else {
        for (int64_t i = 0; i < n; i++) { /* inside-out shuffle */
            int64_t j = random_below(&state, i + 1);
            order[i] = order[j];
            order[j] = i;
        }
        status = tree_lengths(problem, order, nearest, outside, logs) ? stopped(result) : 0;
    }
    if (!status) {
        tree_slope(logs, &slope, &deviation);
        if (slope < 1 && isfinite(slope)) {
            result->dimension = 1 / (1 - slope);
            result->standard_error = result->dimension * result->dimension * deviation;
        } else {
            snprintf(result->message, sizeof result->message,
                     "no dimension: the tree grows as fast as the number of points, or has no length");
        }
    }
    free(order);
    free(outside);
    free(nearest);
    return status;
}
