/*
 * Approaches 1 and 2 of Hoffmann et al. to the compute-optimal size; see fit_use.h.  Approach 3 is the fit of
 * the surface.  Approach 2 reads a curve as a parabola: with alpha != beta it is biased without any noise,
 * which the caller finds by running it on the fitted surface's own losses.
 */
#include "fit_use.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "linalg.h"

struct spot {
    double log_flops, log_params, log_loss;
};

static int by_flops(const void *left, const void *right)
{
    const struct spot *a = left, *b = right;
    if (a->log_flops != b->log_flops)
        return a->log_flops < b->log_flops ? -1 : 1;
    if (a->log_params != b->log_params)
        return a->log_params < b->log_params ? -1 : 1;
    return (a->log_loss > b->log_loss) - (a->log_loss < b->log_loss);
}

static int by_params(const void *left, const void *right)
{
    const struct spot *a = left, *b = right;
    if (a->log_params != b->log_params)
        return a->log_params < b->log_params ? -1 : 1;
    return by_flops(left, right);
}

static struct spot *spots_of(const struct tlaw_host *host, const struct tlaw_row *rows, size_t n,
                             int (*order)(const void *, const void *))
{
    struct spot *spots = host->allocate(host->argument, sizeof *spots * (n + 1));
    for (size_t i = 0; i < n; i++)
        spots[i] = (struct spot){log(TLAW_FLOPS_PER_PARAM_TOKEN * rows[i].x[0] * rows[i].x[1]),
                                 log(rows[i].x[0]), log(rows[i].loss)};
    qsort(spots, n, sizeof *spots, order);
    return spots;
}

/* Sizes among spots[0 .. n - 1]; three are counted for more. */
static int distinct_sizes(const struct spot *spots, size_t n)
{
    double seen[3];
    int distinct = 0;
    for (size_t i = 0; i < n && distinct < 3; i++) {
        int known = 0;
        for (int k = 0; k < distinct; k++)
            known |= seen[k] == spots[i].log_params;
        if (!known)
            seen[distinct++] = spots[i].log_params;
    }
    return distinct;
}

/* Vertex of the least-squares parabola through spots[0 .. n - 1]; NAN when it does not open upwards inside
 * them, or replicates of fewer than three sizes leave it open. */
static double vertex(const struct spot *spots, size_t n)
{
    double r[16] = {0}, z[3], coef[3], mean = 0, low = INFINITY, high = -INFINITY;
    if (distinct_sizes(spots, n) < 3)
        return NAN;
    for (size_t i = 0; i < n; i++) {
        mean += spots[i].log_params / (double) n;
        low = fmin(low, spots[i].log_params);
        high = fmax(high, spots[i].log_params);
    }
    for (size_t i = 0; i < n; i++) {
        double u = spots[i].log_params - mean, row[4] = {1, u, u * u, spots[i].log_loss};
        tlaw_qr_fold(r, 4, row, 1);
    }
    for (int k = 0; k < 3; k++)
        z[k] = r[k * 4 + 3];
    if (!tlaw_solve_upper(r, 4, 3, z, coef) || !(coef[2] > 0))
        return NAN;
    double at = mean - coef[1] / (2 * coef[2]);
    return at > low && at < high ? at : NAN;
}

int tlaw_isoflop_minima(const struct tlaw_host *host, const struct tlaw_row *rows, size_t n,
                        struct tlaw_frontier_point *points)
{
    struct spot *spots = spots_of(host, rows, n, by_flops);
    int found = 0;
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && spots[end].log_flops - spots[i].log_flops < 0.05; end++)
            ;
        double at = vertex(spots + i, end - i), mean = 0;
        for (size_t k = i; k < end; k++)
            mean += spots[k].log_flops / (double) (end - i);
        if (!isnan(at))
            points[found++] = (struct tlaw_frontier_point){exp(mean), exp(at)};
    }
    return found;
}

/* ln loss of one curve (spots of equal N, by flops) at a budget; NAN outside it. */
static double curve_at(const struct spot *curve, size_t n, double log_flops)
{
    if (n < 2 || log_flops < curve[0].log_flops || log_flops > curve[n - 1].log_flops)
        return NAN;
    size_t k = 1;
    while (k < n - 1 && curve[k].log_flops < log_flops)
        k++;
    double width = curve[k].log_flops - curve[k - 1].log_flops;
    double t = width > 0 ? (log_flops - curve[k - 1].log_flops) / width : 0;
    return curve[k - 1].log_loss + t * (curve[k].log_loss - curve[k - 1].log_loss);
}

/* ln N of the lowest curve at a budget; NAN when fewer than three curves reach it or the lowest is the
 * smallest or largest of them: then the envelope is not seen. */
static double envelope_at(const struct spot *spots, size_t n, double log_flops)
{
    double lowest = INFINITY, best = NAN, smallest = NAN, largest = NAN;
    int curves = 0;
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && spots[end].log_params == spots[i].log_params; end++)
            ;
        double loss = curve_at(spots + i, end - i, log_flops);
        if (isnan(loss))
            continue;
        smallest = curves++ == 0 ? spots[i].log_params : smallest;
        largest = spots[i].log_params;
        if (loss < lowest) {
            lowest = loss;
            best = spots[i].log_params;
        }
    }
    return curves < 3 || best == smallest || best == largest ? NAN : best;
}

int tlaw_envelope(const struct tlaw_host *host, const struct tlaw_row *rows, size_t n,
                  struct tlaw_frontier_point *points, int most)
{
    struct spot *spots = spots_of(host, rows, n, by_params);
    double low = INFINITY, high = -INFINITY;
    int found = 0;
    for (size_t i = 0; i < n; i++) {
        low = fmin(low, spots[i].log_flops);
        high = fmax(high, spots[i].log_flops);
    }
    int budgets = n > 0 ? 1 + (int) (8 * (high - low) / M_LN10) : 0;
    budgets = budgets < most ? budgets : most;
    for (int b = 0; b < budgets; b++) {
        double at = low + (high - low) * (b + 0.5) / budgets, best = envelope_at(spots, n, at);
        if (!isnan(best))
            points[found++] = (struct tlaw_frontier_point){exp(at), exp(best)};
    }
    return found;
}

bool tlaw_frontier_slope(const struct tlaw_frontier_point *points, int n, double *slope, double *se)
{
    double mx = 0, my = 0, xx = 0, xy = 0, yy = 0;
    *slope = *se = NAN;
    for (int i = 0; i < n; i++) {
        mx += log(points[i].flops) / n;
        my += log(points[i].n_params) / n;
    }
    for (int i = 0; i < n; i++) {
        double x = log(points[i].flops) - mx, y = log(points[i].n_params) - my;
        xx += x * x;
        xy += x * y;
        yy += y * y;
    }
    if (n < 2 || !(xx > 0))
        return false;
    *slope = xy / xx;
    if (n > 2)
        *se = sqrt(fmax(yy - xy * xy / xx, 0) / (n - 2) / xx);
    return true;
}
