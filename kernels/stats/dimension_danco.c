/*
 * DANCo (Ceruti et al., Pattern Recognition 2014): the dimension whose uniform ball, sampled with as many
 * points, has the same distribution of nearest-neighbour norms and of angles between neighbours.
 *
 * Conventions: lists of k neighbours; the norm part is the likelihood of r_1 / r_k (MiND_MLk), the angles are
 * those between the first k - 1.  Each point's angles get a von Mises fit (nu, tau), averaged over points.
 * The two Kullback-Leibler divergences are added.  The reference is simulated for integer dimensions, with at
 * least 4,000 neighbourhoods each, and its statistics are interpolated linearly between them, so the answer
 * is real. Also here: uniform samples of a ball.
 */
#include "dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEIGHBOURHOODS 4000
#define LARGEST        200 /* dimension tried */

struct statistics {
    double d, nu, tau;
};

double tlaw_random_normal(uint64_t *state)
{
    double radius = sqrt(-2 * log(random_uniform(state)));

    return radius * cos(2 * M_PI * random_uniform(state));
}

void tlaw_random_ball(uint64_t *state, int d, double *out)
{
    double length2 = 0;

    for (int c = 0; c < d; c++) {
        out[c] = tlaw_random_normal(state);
        length2 += out[c] * out[c];
    }
    double scale = pow(random_uniform(state), 1.0 / d) / sqrt(length2);
    for (int c = 0; c < d; c++)
        out[c] *= scale;
}

/* ------------------------------------------------ special functions
 * ---------------------------------------------- */

/* ln I_0(x), and I_1(x) / I_0(x); power series, asymptotic beyond 30 (Abramowitz & Stegun 9.6.10, 9.7.1) */
static double log_bessel(double x, double *ratio)
{
    double i0 = 1, i1 = 1, term0 = 1, term1 = 1;

    if (x <= 30) {
        for (int m = 1; m < 100; m++) {
            term0 *= x * x / 4 / ((double) m * m);
            term1 *= x * x / 4 / ((double) m * (m + 1));
            i0 += term0;
            i1 += term1;
        }
        *ratio = x / 2 * i1 / i0;
        return log(i0);
    }
    for (int m = 1; m <= 8; m++) {
        double odd = 2 * m - 1;

        term0 *= odd * odd / (8 * x * m);
        term1 *= (odd * odd - 4) / (8 * x * m);
        i0 += term0;
        i1 += term1;
    }
    *ratio = i1 / i0;
    return x - 0.5 * log(2 * M_PI * x) + log(i0);
}

static double digamma(double x)
{
    double shift = 0;

    for (; x < 10; x++)
        shift -= 1 / x;
    double y = 1 / (x * x);
    return shift + log(x) - 0.5 / x -
           y * (1.0 / 12 - y * (1.0 / 120 - y * (1.0 / 252 - y * (1.0 / 240 - y / 132))));
}

/* ------------------------------------------------ the statistics of a set
 * ---------------------------------------- */

/* concentration from the resultant length (Fisher 1993, 4.5.1) */
static double von_mises_tau(double eta)
{
    if (eta < 0.53)
        return 2 * eta + pow(eta, 3) + 5 * pow(eta, 5) / 6;
    if (eta < 0.85)
        return -0.4 + 1.39 * eta + 0.43 / (1 - eta);
    return 1 / (pow(eta, 3) - 4 * eta * eta + 3 * eta);
}

/* rows[0] the point, rows[1..count] its neighbours: adds the fit of the angles between them */
static void add_angles(double *rows, int count, int width, struct statistics *sum)
{
    double sines = 0, cosines = 0;

    for (int j = 1; j <= count; j++) {
        double *row = rows + (size_t) j * width, length2 = 0;

        for (int c = 0; c < width; c++) {
            row[c] -= rows[c];
            length2 += row[c] * row[c];
        }
        for (int c = 0; c < width; c++)
            row[c] /= sqrt(length2);
    }
    for (int a = 1; a <= count; a++)
        for (int b = 1; b < a; b++) {
            double cosine = 0;

            for (int c = 0; c < width; c++)
                cosine += rows[(size_t) a * width + c] * rows[(size_t) b * width + c];
            cosine = fmax(-1, fmin(1, cosine));
            cosines += cosine;
            sines += sqrt(1 - cosine * cosine);
        }
    double pairs = count * (count - 1) / 2.0;
    sum->nu += atan(sines / cosines);
    sum->tau += von_mises_tau(fmin(1 - 1e-12, sqrt(sines * sines + cosines * cosines) / pairs));
}

/* One sample of n points in a ball: log ratios and angles of `queries` of them. -1: stopped, or no memory. */
static int ball_sample(const struct dimension_problem *problem, int d, int64_t n, int64_t queries,
                       uint64_t *state, double *log_mu, struct statistics *sum)
{
    int k = problem->options.k, status = 0;
    double *x = malloc((size_t) n * d * sizeof *x), *rows = malloc((size_t) (k + 1) * d * sizeof *rows);
    double *best = malloc((size_t) k * sizeof *best);
    int64_t *index = malloc((size_t) k * sizeof *index);

    if (!x || !rows || !best || !index)
        status = -1;
    for (int64_t i = 0; i < n && !status; i++)
        tlaw_random_ball(state, d, x + i * d);
    for (int64_t i = 0; i < queries && !status; i++) {
        for (int j = 0; j < k; j++)
            best[j] = INFINITY;
        for (int64_t other = 0; other < n; other++) {
            double distance2 = 0;
            int at;

            for (int c = 0; c < d; c++)
                distance2 += (x[i * d + c] - x[other * d + c]) * (x[i * d + c] - x[other * d + c]);
            if (!(distance2 < best[k - 1]) || other == i)
                continue;
            for (at = k - 1; at > 0 && distance2 < best[at - 1]; at--) {
                best[at] = best[at - 1];
                index[at] = index[at - 1];
            }
            best[at] = distance2;
            index[at] = other;
        }
        log_mu[i] = 0.5 * log(best[k - 1] / best[0]);
        memcpy(rows, x + i * d, (size_t) d * sizeof *rows);
        for (int j = 0; j < k - 1; j++)
            memcpy(rows + (size_t) (j + 1) * d, x + index[j] * d, (size_t) d * sizeof *rows);
        add_angles(rows, k - 1, d, sum);
        if (i % 64 == 0)
            status = poll_stopped(problem) ? -1 : 0;
    }
    free(x);
    free(rows);
    free(best);
    free(index);
    return status;
}

/* The reference statistics of dimension d. */
static int ball_statistics(const struct dimension_problem *problem, int d, struct statistics *out)
{
    int64_t n = problem->points.n, queries = n < NEIGHBOURHOODS ? n : NEIGHBOURHOODS;
    int samples = (int) ((NEIGHBOURHOODS + queries - 1) / queries);
    uint64_t state = problem->options.seed * 1000003 + (uint64_t) d;
    double *log_mu = malloc((size_t) (samples * queries) * sizeof *log_mu), information;
    int status = log_mu ? 0 : -1;

    *out = (struct statistics){0};
    for (int s = 0; s < samples && !status; s++)
        status = ball_sample(problem, d, n, queries, &state, log_mu + s * queries, out);
    if (!status) {
        out->d = tlaw_gride(log_mu, samples * queries, 1, problem->options.k, &information);
        out->nu /= (double) (samples * queries);
        out->tau /= (double) (samples * queries);
        if (d == 1)
            out->tau = 1; /* directions are +-1: no angles to fit */
    }
    free(log_mu);
    return status;
}

static int data_statistics(const struct dimension_problem *problem, struct statistics *out)
{
    const struct tlaw_neighbours *graph = &problem->neighbours;
    int width = problem->points.width, k = problem->options.k;
    double *rows = malloc((size_t) (k + 1) * width * sizeof *rows);
    int64_t used = 0;
    int status = rows ? 0 : -1;

    out->nu = out->tau = 0;
    for (int64_t i = 0; i < graph->n && !status; i++) {
        if (graph->index[i * graph->k + k - 1] < 0 || !(graph->distance[i * graph->k] > 0))
            continue;
        tlaw_points_row(&problem->points, i, rows);
        for (int j = 0; j < k - 1; j++)
            tlaw_points_row(&problem->points, graph->index[i * graph->k + j],
                            rows + (size_t) (j + 1) * width);
        add_angles(rows, k - 1, width, out);
        used++;
        if (i % 64 == 0)
            status = poll_stopped(problem) ? -1 : 0;
    }
    out->nu /= (double) used;
    out->tau /= (double) used;
    free(rows);
    return status;
}

/* ------------------------------------------------ divergence and search
 * ------------------------------------------ */

/* Between the laws of r_1 / r_k for dimensions a (data) and b (reference); `inner` = k - 1 as in the paper.
 */
static double norm_divergence(double a, double b, int inner)
{
    double quotient = b / a, harmonic = 0, sum = 0, binomial = 1;

    for (int i = 1; i <= inner; i++)
        harmonic += 1.0 / i;
    for (int i = 0; i <= inner; i++) {
        sum += (i % 2 ? -1 : 1) * binomial * digamma(1 + i / quotient);
        binomial *= (double) (inner - i) / (i + 1);
    }
    return harmonic * quotient - log(quotient) - (inner - 1) * sum;
}

static double divergence(const struct statistics *data, const struct statistics *reference, int inner)
{
    double ratio, unused;
    double angles = log_bessel(reference->tau, &unused) - log_bessel(data->tau, &ratio) +
                    ratio * (data->tau - reference->tau * cos(data->nu - reference->nu));

    return norm_divergence(data->d, reference->d, inner) + angles;
}

/* The least divergence over [d, d + 1], statistics interpolated linearly; its place in *at. */
static double least_between(const struct statistics *data, const struct statistics *low,
                            const struct statistics *high, int d, int inner, double *at)
{
    double least = INFINITY;

    for (int step = 0; step <= 100; step++) {
        double t = step / 100.0;
        struct statistics mixed = {low->d + t * (high->d - low->d), low->nu + t * (high->nu - low->nu),
                                   low->tau + t * (high->tau - low->tau)};
        double value = divergence(data, &mixed, inner);

        if (value < least) {
            least = value;
            *at = d + t;
        }
    }
    return least;
}

/* Tries integer dimensions upward from below the norm's own estimate, until the divergence has risen for
 * long. */
static int search(const struct dimension_problem *problem, const struct statistics *data, double *answer)
{
    int top = problem->varying < LARGEST ? problem->varying : LARGEST, inner = problem->options.k - 1;
    int first = (int) fmax(1, fmin(top, floor(0.7 * data->d))), rising = 0;
    double least = INFINITY;
    struct statistics previous, next;

    if (ball_statistics(problem, first, &previous))
        return -1;
    *answer = first;
    least = divergence(data, &previous, inner);
    for (int d = first; d < top && rising < 6; d++) {
        double at = d, value;

        if (ball_statistics(problem, d + 1, &next))
            return -1;
        value = least_between(data, &previous, &next, d, inner, &at);
        rising = value < least ? 0 : rising + 1;
        if (value < least) {
            least = value;
            *answer = at;
        }
        previous = next;
    }
    return 0;
}

int tlaw_dimension_danco(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    struct statistics data;
    struct tlaw_dimension norms = *result;

    if (tlaw_dimension_mind(problem, &norms))
        return -1;
    if (isnan(norms.dimension)) {
        memcpy(result->message, norms.message, sizeof result->message);
        return 0;
    }
    if (data_statistics(problem, &data))
        return -1;
    data.d = norms.dimension;
    if (search(problem, &data, &result->dimension))
        return -1;
    result->standard_error = norms.standard_error * result->dimension / norms.dimension;
    snprintf(result->message, sizeof result->message, "interval from the norms' part alone");
    return 0;
}
