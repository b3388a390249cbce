/*
 * Starting points: a grid over the exponents, where the rest (E, A, B) is linear and solved for exactly with
 * nothing negative, by relative squares of the loss.  The best of the grid and further points apart from it
 * are handed on.
 */
#include "fit.h"

#include <math.h>
#include <string.h>

#include "linalg.h"

enum { MAX_GRID = 400, MAX_BASIS = 3, GRID_ROWS = 300 };

struct point {
    double working[TLAW_MAX_PARAMS];
    double key[2]; /* logarithms of the exponents, by which points are told apart */
    double score;
};

struct grid {
    const struct tlaw_data *data;
    size_t stride; /* rows looked at: every stride-th */
    struct point *points;
    int n;
};

/* Basis functions of one row; returns the target (usually the loss). */
typedef double (*basis_function)(const double *shape, const double *x, double loss, double *basis);

/* Non-negative coefficients of the basis by relative least squares; returns the mean square. */
static double solve_basis(const struct grid *grid, basis_function function, const double *shape, int q,
                          double *coef)
{
    double r[(MAX_BASIS + 1) * (MAX_BASIS + 1)] = {0}, block[64 * (MAX_BASIS + 1)];
    int columns = q + 1, used = 0, rows = 0, map[MAX_BASIS], kept = q;
    for (size_t i = 0; i < grid->data->n; i += grid->stride) {
        double basis[MAX_BASIS];
        if (grid->data->weights[i] == 0)
            continue;
        double target = function(shape, grid->data->x[i], grid->data->loss[i], basis);
        for (int k = 0; k < q; k++)
            block[used * columns + k] = basis[k] / target;
        block[used++ * columns + q] = 1;
        rows++;
        if (used == 64) {
            tlaw_qr_fold(r, columns, block, used);
            used = 0;
        }
    }
    tlaw_qr_fold(r, columns, block, used);
    for (int k = 0; k < q; k++)
        map[k] = k;
    for (;;) { /* drop the most negative until none is */
        double small[(MAX_BASIS + 1) * (MAX_BASIS + 1)] = {0}, chosen[(MAX_BASIS + 1) * (MAX_BASIS + 1)];
        double z[MAX_BASIS], solution[MAX_BASIS];
        int worst = -1, width = kept + 1;
        for (int row = 0; row < columns; row++) {
            for (int k = 0; k < kept; k++)
                chosen[row * width + k] = r[row * columns + map[k]];
            chosen[row * width + kept] = r[row * columns + q];
        }
        tlaw_qr_fold(small, width, chosen, columns);
        for (int k = 0; k < kept; k++)
            z[k] = small[k * width + kept];
        if (kept == 0 || !tlaw_solve_upper(small, width, kept, z, solution))
            return INFINITY;
        for (int k = 0; k < kept; k++)
            if (solution[k] < 0 && (worst < 0 || solution[k] < solution[worst]))
                worst = k;
        if (worst < 0) {
            for (int k = 0; k < q; k++)
                coef[k] = 0;
            for (int k = 0; k < kept; k++)
                coef[map[k]] = solution[k];
            return small[kept * width + kept] * small[kept * width + kept] / rows;
        }
        memmove(map + worst, map + worst + 1, sizeof(int) * (kept - worst - 1));
        kept--;
    }
}

/* ln of a coefficient that may have come out as nothing. */
static double log_of(double coefficient, double scale)
{
    return log(fmax(coefficient, 1e-3 * scale));
}

static void add_point(struct grid *grid, double score, double key0, double key1, const double *working)
{
    if (!isfinite(score) || grid->n == MAX_GRID)
        return;
    struct point *point = &grid->points[grid->n++];
    point->score = score;
    point->key[0] = key0;
    point->key[1] = key1;
    memcpy(point->working, working, sizeof point->working);
}

static double basis_offset(const double *shape, const double *x, double loss, double *basis)
{
    basis[0] = 1;
    basis[1] = exp(-shape[0] * x[0]);
    return loss;
}

static double basis_saturating(const double *shape, const double *x, double loss, double *basis)
{
    basis[0] = 1;
    basis[1] = 1 / (exp(shape[0] * x[0]) + exp(shape[1]));
    return loss;
}

static double basis_chinchilla(const double *shape, const double *x, double loss, double *basis)
{
    basis[0] = 1;
    basis[1] = exp(-shape[0] * x[0]);
    basis[2] = exp(-shape[1] * x[1]);
    return loss;
}

/* D with shape[2] useful repetitions. */
static double basis_repeated(const double *shape, const double *x, double loss, double *basis)
{
    double r = expm1(fmax(x[1] - x[2], 0)), u = fmin(x[2], x[1]);
    basis[0] = 1;
    basis[1] = exp(-shape[0] * x[0]);
    basis[2] = exp(-shape[1] * (u + log(1 - shape[2] * expm1(-r / shape[2]))));
    return loss;
}

/* L^(1/beta), shape: alpha / beta, 1 / beta. */
static double basis_kaplan(const double *shape, const double *x, double loss, double *basis)
{
    basis[0] = exp(-shape[0] * x[0]);
    basis[1] = exp(-x[1]);
    return pow(loss, shape[1]);
}

static const double line_grid[] = {.02, .04, .07, .1, .15, .2, .27, .36, .5, .7, 1, 1.4, 2, 3};
static const double surface_grid[] = {.04, .1, .2, .34, .5, .75, 1.2, 2};

enum { LINE = sizeof line_grid / sizeof *line_grid, SURFACE = sizeof surface_grid / sizeof *surface_grid };

static void grid_offset(struct grid *grid, double scale)
{
    for (int i = 0; i < LINE; i++) {
        double coef[MAX_BASIS], working[TLAW_MAX_PARAMS] = {0};
        double score = solve_basis(grid, basis_offset, &line_grid[i], 2, coef);
        working[0] = coef[0];
        working[1] = log_of(coef[1], scale);
        working[2] = line_grid[i];
        add_point(grid, score, log(line_grid[i]), 0, working);
    }
}

static void grid_saturating(struct grid *grid, double scale)
{
    double first = grid->data->x[0][0], last = grid->data->x[grid->data->n - 1][0]; /* sorted by x */
    for (int i = 0; i < LINE; i++)
        for (int knee = -2; knee <= 8; knee++) {
            double coef[MAX_BASIS], working[TLAW_MAX_PARAMS] = {0};
            double shape[2] = {line_grid[i], line_grid[i] * (first + (last - first) * knee / 10)};
            double score = solve_basis(grid, basis_saturating, shape, 2, coef);
            working[0] = coef[0];
            working[1] = log_of(coef[1], scale);
            working[2] = shape[1];
            working[3] = shape[0];
            add_point(grid, score, log(shape[0]), 0.2 * knee, working);
        }
}

static void grid_chinchilla(struct grid *grid, double scale, double repeats)
{
    for (int i = 0; i < SURFACE; i++)
        for (int j = 0; j < SURFACE; j++) {
            double coef[MAX_BASIS], working[TLAW_MAX_PARAMS] = {0};
            double shape[3] = {surface_grid[i], surface_grid[j], repeats};
            double score = solve_basis(grid, repeats > 0 ? basis_repeated : basis_chinchilla, shape, 3, coef);
            working[0] = coef[0];
            working[1] = log_of(coef[1], scale);
            working[2] = log_of(coef[2], scale);
            working[3] = shape[0];
            working[4] = shape[1];
            working[5] = working[6] = log(fmax(repeats, 1));
            add_point(grid, score, log(shape[0]), log(shape[1]), working);
        }
}

static void grid_kaplan(struct grid *grid)
{
    static const double betas[] = {.03, .06, .1, .16, .25, .4, .7}, ratios[] = {.3, .5, .8, 1.2, 2};
    for (int i = 0; i < (int) (sizeof betas / sizeof *betas); i++)
        for (int j = 0; j < (int) (sizeof ratios / sizeof *ratios); j++) {
            double coef[MAX_BASIS], working[TLAW_MAX_PARAMS] = {0}, shape[2] = {ratios[j], 1 / betas[i]};
            double score = solve_basis(grid, basis_kaplan, shape, 2, coef) * betas[i] * betas[i];
            working[0] = log_of(coef[0], coef[1]);
            working[1] = log_of(coef[1], coef[0]);
            working[2] = ratios[j];
            working[3] = betas[i];
            add_point(grid, score, log(betas[i]), log(ratios[j]), working);
        }
}

/* Farseer from Chinchilla's grid: floor E + A N^-alpha as a Box-Cox function of N, data term B D^-beta. */
static void grid_farseer(struct grid *grid, double scale)
{
    static const double bends[] = {-.3, -.05, .1};
    int from = grid->n;
    grid_chinchilla(grid, scale, 0);
    int to = grid->n;
    for (int p = from; p < to; p++) {
        const double *base = grid->points[p].working;
        double floor = base[0] + exp(base[1]), slope = -base[3] * exp(base[1]) / floor;
        for (int k = 0; k < 3 && p - from < 100; k++) {
            double working[TLAW_MAX_PARAMS] = {log(floor), slope,        bends[k], base[2], 0,
                                               .05,        log(base[4]), 0,        .05};
            add_point(grid, grid->points[p].score * (1 + 1e-3 * k), log(base[3]), log(base[4]) + k, working);
        }
    }
    memmove(grid->points, grid->points + to, sizeof *grid->points * (grid->n - to));
    grid->n -= to;
}

/* The plain power law is linear in logarithms: any start does. */
static void start_power_law(struct grid *grid)
{
    double working[TLAW_MAX_PARAMS] = {0, 0.1};
    for (size_t i = 0; i < grid->data->n; i++)
        working[0] += grid->data->log_loss[i] / (double) grid->data->n;
    add_point(grid, 0, 0, 0, working);
}

static bool apart(const struct point *a, const struct point *b)
{
    return fmax(fabs(a->key[0] - b->key[0]), fabs(a->key[1] - b->key[1])) > 0.8;
}

/* Takes the best point, then each further one that is apart from all taken. */
static int choose(struct grid *grid, int most, double (*starts)[TLAW_MAX_PARAMS])
{
    struct point taken[16];
    int n = 0;
    while (n < most && n < 16) {
        int best = -1;
        for (int i = 0; i < grid->n; i++) {
            bool free = best < 0 || grid->points[i].score < grid->points[best].score;
            for (int t = 0; t < n && free; t++)
                free = apart(&grid->points[i], &taken[t]);
            if (free)
                best = i;
        }
        if (best < 0)
            break;
        taken[n] = grid->points[best];
        memcpy(starts[n++], grid->points[best].working, sizeof *starts);
    }
    return n;
}

int tlaw_fit_starts(const struct tlaw_host *host, const struct tlaw_data *data, int most,
                    double (*starts)[TLAW_MAX_PARAMS])
{
    struct grid grid = {data, 1 + data->n / GRID_ROWS, NULL, 0};
    double scale = 0;

    grid.points = host->allocate(host->argument, sizeof *grid.points * MAX_GRID);
    for (size_t i = 0; i < data->n; i++)
        scale += data->loss[i] / (double) data->n;
    switch (data->form) {
    case TLAW_POWER_LAW:
        start_power_law(&grid);
        break;
    case TLAW_POWER_LAW_OFFSET:
        grid_offset(&grid, scale);
        break;
    case TLAW_CHINCHILLA:
        grid_chinchilla(&grid, scale, 0);
        break;
    case TLAW_KAPLAN:
        grid_kaplan(&grid);
        break;
    case TLAW_DATA_CONSTRAINED:
        grid_chinchilla(&grid, scale, 3);
        grid_chinchilla(&grid, scale, 15);
        break;
    case TLAW_FARSEER:
        grid_farseer(&grid, scale);
        break;
    case TLAW_SATURATING:
        grid_saturating(&grid, scale);
        break;
    default:
        break;
    }
    return choose(&grid, most, starts);
}
