/*
 * Coverage by simulation: draws known laws with the noise of runs and counts how often nominal 95 % intervals hold the
 * truth and how often tests at 5 % raise a false alarm.
 *
 *   coverage [draws]        one line a design; exit status 1 when a count leaves 93 .. 97 % (or 3 .. 7 %) by more than
 *                           the sampling error of the count allows
 *
 * Noise: "rows": independent from run to run.  "nested": every subset_seed has one order of documents of which each
 * size is a prefix; what a subset is worth is shared along it, correlation sqrt(n1/n2), and all its runs share it.
 * "subsets": a subset of its own for every size and replicate, some runs on each.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernels/stats/distributions.h"
#include "../../kernels/stats/fit_bootstrap.h"

/* Memory of one draw: a bump allocator that is emptied between draws. */
static char *arena;
static size_t arena_used;
enum { ARENA = 1 << 28 };

static void *arena_allocate(void *argument, size_t bytes)
{
    (void) argument;
    void *start = arena + arena_used;
    arena_used += (bytes + 15) / 16 * 16;
    if (arena_used > ARENA)
        abort();
    return start;
}

static void breathe(void *argument)
{
    (void) argument;
}

static const struct tlaw_host host = {arena_allocate, breathe, NULL};

struct design {
    const char *name;
    enum tlaw_form form;
    double truth[TLAW_MAX_PARAMS]; /* natural */
    double first, last;            /* sizes */
    int sizes, subsets, runs;      /* subsets a size (or nested over all), runs on each */
    char noise;                    /* 'r'ows, 'n'ested, 's'ubsets */
    double row_sd, subset_sd;
    bool grid; /* two variables: sizes x sizes */
    enum tlaw_loss loss;
};

static uint64_t counter;
static double normal(uint64_t draw)
{
    return tlaw_draw_normal(20260101, draw, counter++);
}

/* Log size of the i-th of `sizes`. */
static double log_size(const struct design *design, int i)
{
    double low = log(design->first), high = log(design->last);
    return low + (high - low) * i / (design->sizes - 1);
}

static size_t add_runs(const struct design *design, const double *x, double shared, int64_t cluster, uint64_t draw,
                       struct tlaw_row *rows, size_t n)
{
    for (int run = 0; run < design->runs; run++) {
        struct tlaw_row *row = &rows[n++];
        *row = (struct tlaw_row){.weight = 1, .clustered = design->noise != 'r', .cluster = cluster};
        memcpy(row->x, x, sizeof row->x);
        row->loss = tlaw_form_predict(design->form, design->truth, x, NULL) *
                    exp(shared + design->row_sd * normal(draw));
    }
    return n;
}

static size_t draw_rows(const struct design *design, uint64_t draw, struct tlaw_row *rows)
{
    size_t n = 0;
    counter = 0;
    for (int k = 0; k < design->subsets; k++) {
        double shared = 0;
        for (int i = 0; i < design->sizes; i++) {
            double rho = i == 0 || design->noise != 'n'
                             ? 0
                             : exp(-0.5 * (log_size(design, i) - log_size(design, i - 1)));
            int64_t cluster = design->noise == 'n' ? k : k * 1000 + i;
            double x[TLAW_MAX_VARIABLES] = {exp(log_size(design, i)), 1, 1};
            shared = rho * shared + sqrt(1 - rho * rho) * design->subset_sd * normal(draw);
            for (int j = 0; j < (design->grid ? design->sizes : 1); j++) {
                if (design->grid)
                    x[1] = 20 * exp(log_size(design, j));
                n = add_runs(design, x, shared, cluster, draw, rows, n);
            }
        }
    }
    return n;
}

struct tally {
    int covered, alarms_e, alarms_curvature, open, failed;
    double mean_se, estimates, squares;
};

static void report(const struct design *design, const char *what, int hits, int draws, double low, double high, int *bad)
{
    double share = (double) hits / draws, slack = 2.6 * sqrt(0.05 * 0.95 / draws);
    int out = share < low - slack || share > high + slack;
    printf("%-44s %-22s %5.1f %%%s\n", design->name, what, 100 * share, out ? "   OUT" : "");
    *bad += out;
}

/* Covers of alpha, of beta where there is one, of the compute-optimal N; false alarms of the tests that apply. */
static void simulate(const struct design *design, int draws, int *bad)
{
    const struct tlaw_form_info *info = tlaw_form_info(design->form);
    struct tlaw_fit_options options = {.level = 0.95, .max_iterations = -1, .intervals = true, .loss = design->loss};
    struct tlaw_row rows[5000];
    int alpha = 0, beta = 0, irreducible = 0, zero = 0, curvature = 0, used = 0, tested = 0, open = 0;
    double sum = 0, square = 0, se = 0;

    for (int d = 0; d < draws; d++) {
        struct tlaw_fit fit;
        arena_used = 0;
        size_t n = draw_rows(design, (uint64_t) d, rows);
        tlaw_fit_run(&host, rows, n, design->form, &options, &fit);
        if (!fit.converged)
            continue;
        used++;
        int j = info->alpha;
        open += isnan(fit.low[j]) || isnan(fit.high[j]);
        alpha += !(fit.low[j] > design->truth[j]) && !(fit.high[j] < design->truth[j]);
        sum += fit.natural[j];
        square += fit.natural[j] * fit.natural[j];
        se += fit.se[j] / draws;
        if ((j = info->beta) >= 0)
            beta += !(fit.low[j] > design->truth[j]) && !(fit.high[j] < design->truth[j]);
        if ((j = info->irreducible) >= 0)
            irreducible += !(fit.low[j] > design->truth[j]) && !(fit.high[j] < design->truth[j]);
        tested += !isnan(fit.curvature_p);
        curvature += fit.curvature_p < 0.05;
        zero += fit.irreducible_p < 0.05;
    }
    printf("-- %s: %d of %d converged, alpha sd %.4f, mean se %.4f, %d open\n", design->name, used, draws,
           sqrt(fmax(square / used - sum / used * sum / used, 0)), se, open);
    report(design, "alpha covered", alpha, used, 0.93, 0.97, bad);
    if (info->beta >= 0)
        report(design, "beta covered", beta, used, 0.93, 0.97, bad);
    if (info->irreducible >= 0 && design->truth[info->irreducible] > 0)
        report(design, "irreducible covered", irreducible, used, 0.93, 0.97, bad);
    if (info->irreducible >= 0 && design->truth[info->irreducible] == 0)
        report(design, "E = 0: false alarms", zero, used, 0.03, 0.07, bad);
    report(design, "curvature: false alarms", curvature, tested, 0.03, 0.07, bad);
}

#define LINE   TLAW_POWER_LAW, .truth = {3.0, 0.17}
#define HALF   TLAW_POWER_LAW_OFFSET, .truth = {1.6, 3.0, 0.17}   /* E about half of the last loss */
#define ZERO   TLAW_POWER_LAW_OFFSET, .truth = {0, 3.0, 0.17}
#define SHARP  TLAW_POWER_LAW_OFFSET, .truth = {1.5, 4.0, 0.35}
#define PLANE  TLAW_CHINCHILLA, .truth = {1.8, 6.2, 7.6, 0.35, 0.37}

static const struct design designs[] = {
    {"line, rows", LINE, 1e5, 1e8, 10, 3, 1, 'r', 0.005, 0},
    {"line, nested, 3 subsets", LINE, 1e5, 1e8, 8, 3, 1, 'n', 0.003, 0.005},
    {"line, nested, 5 subsets x 2 runs", LINE, 1e5, 1e8, 8, 5, 2, 'n', 0.003, 0.005},
    {"line, own subsets x 2 runs", LINE, 1e5, 1e8, 8, 3, 2, 's', 0.003, 0.005},
    {"offset, rows", HALF, 1e5, 1e8, 10, 3, 1, 'r', 0.005, 0},
    {"offset, rows, 1 %", HALF, 1e5, 1e8, 10, 3, 1, 'r', 0.01, 0},
    {"offset, sharp, rows", SHARP, 1e5, 1e8, 8, 3, 1, 'r', 0.005, 0},
    {"offset, squared loss", SHARP, 1e5, 1e8, 8, 4, 1, 'r', 0.005, 0, .loss = TLAW_LOSS_SQUARED},
    {"offset, E = 0, rows", ZERO, 1e5, 1e8, 10, 3, 1, 'r', 0.005, 0},
    {"offset, nested, 4 subsets", HALF, 1e5, 1e8, 8, 4, 1, 'n', 0.003, 0.005},
    {"offset, nested, 5 subsets x 2 runs", SHARP, 1e5, 1e8, 8, 5, 2, 'n', 0.003, 0.005},
    {"offset, own subsets x 2 runs", SHARP, 1e5, 1e8, 8, 4, 2, 's', 0.003, 0.005},
    {"offset, E = 0, nested, 5 subsets", ZERO, 1e5, 1e8, 8, 5, 1, 'n', 0.003, 0.005},
    {"Chinchilla, Huber, rows", PLANE, 1e7, 1e10, 10, 2, 1, 'r', 0.005, 0, true},
    {"Chinchilla, log squares, rows", PLANE, 1e7, 1e10, 8, 1, 1, 'r', 0.005, 0, true, TLAW_LOSS_LOG_SQUARED},
};

int main(int argc, char **argv)
{
    int draws = argc > 1 ? atoi(argv[1]) : 1000, bad = 0;
    arena = malloc(ARENA);
    for (size_t i = 0; i < sizeof designs / sizeof *designs; i++)
        simulate(&designs[i], draws, &bad);
    printf("%d figures out of bounds\n", bad);
    return bad > 0;
}
