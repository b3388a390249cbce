/*
 * Estimators that read nothing but ratios of neighbour distances, and the variance they share.
 *
 * All are maximum-likelihood or least-squares estimates under locally constant density, where ln(r_k / r_j)
 * is a sum of independent exponentials of rate d.  Points whose ratio is undefined (a distance 0 or infinite)
 * are left out, with a note in the message. Standard errors: the influence of every point is summed over the
 * neighbour graph (tlaw_graph_deviation), because points that are neighbours share distances.
 */
#include "dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_neighbour(const struct tlaw_neighbours *graph, int64_t of, int64_t point)
{
    for (int j = 0; j < graph->k; j++)
        if (graph->index[of * graph->k + j] == point)
            return true;
    return false;
}

/* sum over clusters of (sum of psi)^2; without clusters: the sum of squares. */
static double cluster_squares(const struct dimension_problem *problem, const double *psi)
{
    const int32_t *cluster = problem->options.cluster;
    int64_t n = problem->points.n;
    double total = 0;

    if (!cluster) {
        for (int64_t i = 0; i < n; i++)
            total += psi[i] * psi[i];
        return total;
    }
    int32_t largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = cluster[i] > largest ? cluster[i] : largest;
    double *sums = calloc((size_t) largest + 1, sizeof *sums);
    if (!sums)
        return NAN;
    for (int64_t i = 0; i < n; i++)
        sums[cluster[i]] += psi[i];
    for (int32_t c = 0; c <= largest; c++)
        total += sums[c] * sums[c];
    free(sums);
    return total;
}

double tlaw_graph_deviation(const struct dimension_problem *problem, double *psi)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;
    const int32_t *cluster = problem->options.cluster;
    int64_t n = problem->points.n;
    double mean = 0, pairs = 0, alone;

    for (int64_t i = 0; i < n; i++)
        mean += psi[i] / (double) n;
    for (int64_t i = 0; i < n; i++)
        psi[i] -= mean;
    alone = cluster_squares(problem, psi);
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < graph->k; j++) {
            int64_t other = graph->index[i * graph->k + j];

            if (other < 0 || (cluster && cluster[i] == cluster[other]))
                continue;
            if (i < other || !is_neighbour(graph, other, i)) /* each pair once */
                pairs += psi[i] * psi[other];
        }
    return sqrt(fmax(alone + 2 * pairs, alone / 4));
}

void tlaw_dimension_note_unusable(struct tlaw_dimension *result, int64_t count)
{
    if (count > 0)
        tlaw_dimension_say(result, "%lld points without usable neighbour distances left out",
                           (long long) count);
}

int tlaw_dimension_no_memory(struct tlaw_dimension *result)
{
    snprintf(result->message, sizeof result->message, "out of memory");
    return -1;
}

int tlaw_dimension_no_ratio(struct tlaw_dimension *result)
{
    snprintf(result->message, sizeof result->message,
             "no dimension: no point has two neighbours at different, positive distances");
    return 0;
}

/* ------------------------------------------------ Levina & Bickel
 * ------------------------------------------------ */

double tlaw_inverse_local(const double *r, int k)
{
    double sum = 0;

    if (!(r[0] > 0) || !isfinite(r[k - 1]))
        return NAN;
    for (int j = 0; j < k - 1; j++)
        sum += log(r[k - 1] / r[j]);
    return sum / (k - 1);
}

int tlaw_dimension_levina_bickel(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    int64_t n = problem->points.n, used = 0;
    double *psi = malloc((size_t) n * sizeof *psi), sum = 0;

    if (!psi)
        return tlaw_dimension_no_memory(result);
    for (int64_t i = 0; i < n; i++) {
        psi[i] = 1 / tlaw_inverse_local(problem->neighbours.distance + i * problem->neighbours.k,
                                        problem->neighbours.k);
        if (!isfinite(psi[i]))
            psi[i] = NAN;
        else
            sum += psi[i], used++;
    }
    if (used > 0) {
        result->dimension = sum / (double) used;
        for (int64_t i = 0; i < n; i++)
            psi[i] = isnan(psi[i]) ? 0 : psi[i] - result->dimension;
        result->standard_error = tlaw_graph_deviation(problem, psi) / (double) used;
        tlaw_dimension_note_unusable(result, n - used);
    }
    free(psi);
    return used > 0 ? 0 : tlaw_dimension_no_ratio(result);
}

int tlaw_dimension_mackay(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    int64_t n = problem->points.n, used = 0;
    double *psi = malloc((size_t) n * sizeof *psi), sum = 0;

    if (!psi)
        return tlaw_dimension_no_memory(result);
    for (int64_t i = 0; i < n; i++) {
        psi[i] = tlaw_inverse_local(problem->neighbours.distance + i * problem->neighbours.k,
                                    problem->neighbours.k);
        if (!isnan(psi[i]))
            sum += psi[i], used++;
    }
    if (sum > 0) {
        result->dimension = (double) used / sum;
        for (int64_t i = 0; i < n; i++)
            psi[i] = isnan(psi[i]) ? 0 : psi[i] - sum / (double) used;
        result->standard_error = result->dimension * tlaw_graph_deviation(problem, psi) / sum;
        tlaw_dimension_note_unusable(result, n - used);
    }
    free(psi);
    return sum > 0 ? 0 : tlaw_dimension_no_ratio(result);
}

/* ------------------------------------------------ ratios of two distances
 * ---------------------------------------- */

/* ln(r_k2 / r_k1) of every usable point into x, its point's number into owner; returns how many */
static int64_t log_ratios(const struct dimension_problem *problem, int k1, int k2, double *x, int64_t *owner)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;
    int64_t used = 0;

    for (int64_t i = 0; i < graph->n; i++) {
        double inner = graph->distance[i * graph->k + k1 - 1], outer = graph->distance[i * graph->k + k2 - 1];

        if (!(inner > 0) || !isfinite(outer) || (k2 > k1 + 1 && outer == inner))
            continue;
        x[used] = log(outer / inner);
        owner[used++] = i;
    }
    return used;
}

struct ratios {
    double *x;   /* ln mu */
    double *psi; /* room for the influence of every point */
    int64_t *owner;
    int64_t count;
    double sum;
};

static int ratios_open(const struct dimension_problem *problem, int k1, int k2, struct ratios *ratios,
                       struct tlaw_dimension *result)
{
    size_t n = (size_t) problem->points.n;

    ratios->x = malloc(n * sizeof *ratios->x);
    ratios->psi = calloc(n, sizeof *ratios->psi);
    ratios->owner = malloc(n * sizeof *ratios->owner);
    if (!ratios->x || !ratios->psi || !ratios->owner)
        return tlaw_dimension_no_memory(result);
    ratios->count = log_ratios(problem, k1, k2, ratios->x, ratios->owner);
    ratios->sum = 0;
    for (int64_t i = 0; i < ratios->count; i++)
        ratios->sum += ratios->x[i];
    tlaw_dimension_note_unusable(result, problem->points.n - ratios->count);
    return ratios->sum > 0 ? 1 : tlaw_dimension_no_ratio(result);
}

static void ratios_close(struct ratios *ratios)
{
    free(ratios->x);
    free(ratios->psi);
    free(ratios->owner);
}

/* SE of c / mean(x): the same for the estimates that depend on the sum alone */
static double deviation_of_mean(const struct dimension_problem *problem, struct ratios *ratios,
                                double dimension)
{
    for (int64_t i = 0; i < ratios->count; i++)
        ratios->psi[ratios->owner[i]] = ratios->x[i] - ratios->sum / (double) ratios->count;
    return dimension * tlaw_graph_deviation(problem, ratios->psi) / ratios->sum;
}

static int twonn_from_sum(const struct dimension_problem *problem, struct tlaw_dimension *result,
                          double n_added, double sum_added)
{
    struct ratios ratios;
    int status = ratios_open(problem, 1, 2, &ratios, result);

    if (status > 0) {
        result->dimension = ((double) ratios.count + n_added) / (ratios.sum + sum_added);
        result->standard_error = deviation_of_mean(problem, &ratios, result->dimension);
        status = 0;
    }
    ratios_close(&ratios);
    return status;
}

int tlaw_dimension_twonn_mle(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    return twonn_from_sum(problem, result, -1, 0);
}

int tlaw_dimension_twonn_bayes(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    return twonn_from_sum(problem, result, 2, 5);
}

struct ranked {
    double x;
    int64_t owner;
};

static int by_x(const void *a, const void *b)
{
    const struct ranked *left = a, *right = b;

    return left->x != right->x ? (left->x > right->x) - (left->x < right->x)
                               : (left->owner > right->owner) - (left->owner < right->owner);
}

/*
 * Slope through the origin of y_i = -ln(1 - i/n) on the sorted x_i, i <= .9 n.  Influence of a point at t,
 * with dy = dF / (1 - F): sum over kept x_j of x_j (1{t <= x_j} - F_j) / (1 - F_j), over sum x_j^2.
 */
static double twonn_slope(const struct ranked *sorted, int64_t n, int64_t kept, double *psi)
{
    double xy = 0, xx = 0, all = 0, above = 0;

    for (int64_t i = 0; i < kept; i++) {
        double f = (double) (i + 1) / (double) n;

        xy += sorted[i].x * -log1p(-f);
        xx += sorted[i].x * sorted[i].x;
        all += sorted[i].x * f / (1 - f);
    }
    for (int64_t i = n - 1; i >= 0; i--) {
        if (i < kept)
            above += sorted[i].x / (1 - (double) (i + 1) / (double) n);
        psi[sorted[i].owner] = (above - all) / xx / (double) n;
    }
    return xy / xx;
}

int tlaw_dimension_twonn(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    struct ratios ratios;
    int status = ratios_open(problem, 1, 2, &ratios, result);
    struct ranked *sorted = malloc((size_t) problem->points.n * sizeof *sorted);
    int64_t kept = (int64_t) ((double) ratios.count * 0.9);

    if (status > 0 && !sorted) {
        status = tlaw_dimension_no_memory(result);
    } else if (status > 0 && kept < 2) {
        snprintf(result->message, sizeof result->message, "no dimension: fewer than 3 ratios to fit");
        status = 0;
    } else if (status > 0) {
        for (int64_t i = 0; i < ratios.count; i++)
            sorted[i] = (struct ranked){ratios.x[i], ratios.owner[i]};
        qsort(sorted, (size_t) ratios.count, sizeof *sorted, by_x);
        result->dimension = twonn_slope(sorted, ratios.count, kept, ratios.psi);
        result->standard_error = tlaw_graph_deviation(problem, ratios.psi);
        status = isfinite(result->dimension) ? 0 : tlaw_dimension_no_ratio(result);
    }
    free(sorted);
    ratios_close(&ratios);
    return status;
}

/* ------------------------------------------------ likelihoods that need a root
 * ----------------------------------- */

/* d ln(likelihood of one x) / dd for Gride(n1, n2), and minus its derivative */
static double gride_score(double x, double d, int n1, int n2, double *information)
{
    double inverse = -1 / expm1(-d * x); /* mu^d / (mu^d - 1) */

    *information = 1 / (d * d) + (n2 - n1 - 1) * x * x * exp(-d * x) * inverse * inverse;
    return 1 / d + (n2 - n1 - 1) * x * inverse - (n2 - 1) * x;
}

/* for n2 = n1 + 1 the second term is absent, and x may be 0 */
static double score_sum(const double *x, int64_t n, double d, int n1, int n2, double *information)
{
    double total = 0, one;

    *information = 0;
    for (int64_t i = 0; i < n; i++) {
        if (n2 == n1 + 1)
            total += 1 / d - n1 * x[i], one = 1 / (d * d);
        else
            total += gride_score(x[i], d, n1, n2, &one);
        *information += one;
    }
    return total;
}

double tlaw_gride(const double *log_mu, int64_t n, int n1, int n2, double *information)
{
    double low = 1e-6, high = 1;

    while (score_sum(log_mu, n, high, n1, n2, information) > 0) {
        low = high;
        high *= 2;
        if (high > 1e9)
            return NAN;
    }
    while (score_sum(log_mu, n, low, n1, n2, information) < 0) {
        high = low;
        low /= 2;
        if (low < 1e-300)
            return NAN;
    }
    double d = (low + high) / 2;
    for (int i = 0; i < 200; i++) { /* Newton, kept inside the bracket */
        double score = score_sum(log_mu, n, d, n1, n2, information), next = d + score / *information;

        if (score > 0)
            low = d;
        else
            high = d;
        if (!(next > low && next < high))
            next = (low + high) / 2;
        if (fabs(next - d) <= 1e-15 * d)
            break;
        d = next;
    }
    score_sum(log_mu, n, d, n1, n2, information);
    return d;
}

static int gride_estimate(const struct dimension_problem *problem, int n1, int n2,
                          struct tlaw_dimension *result)
{
    struct ratios ratios;
    int status = ratios_open(problem, n1, n2, &ratios, result);

    if (status > 0) {
        double information, one, d = tlaw_gride(ratios.x, ratios.count, n1, n2, &information);

        result->dimension = d;
        for (int64_t i = 0; i < ratios.count; i++)
            ratios.psi[ratios.owner[i]] = score_sum(ratios.x + i, 1, d, n1, n2, &one);
        result->standard_error = tlaw_graph_deviation(problem, ratios.psi) / information;
        status = isfinite(d) ? 0 : tlaw_dimension_no_ratio(result);
    }
    ratios_close(&ratios);
    return status;
}

int tlaw_dimension_gride(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    int n1 = problem->options.k / 2;

    return gride_estimate(problem, n1, 2 * n1, result);
}

/* MiND_MLk's likelihood of r_1 / r_k is Gride's with n1 = 1, n2 = k. */
int tlaw_dimension_mind(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    return gride_estimate(problem, 1, problem->options.k, result);
}
