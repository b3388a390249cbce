/*
 * Coverage by simulation: over 1,000 draws of known laws with the noise of runs, nominal 95 % intervals hold
 * the truth in 93 to 97 %, tests at 5 % raise a false alarm in 3 to 7 %, and the power of a plan is right
 * within 10 %.
 *
 * Noise: "rows": independent from run to run.  "nested": every subset_seed has one order of documents of
 * which each size is a prefix; what a subset is worth is shared along it, correlation sqrt(n1/n2), and all
 * its runs share it. "subsets": a subset of its own for every size and replicate, some runs on each.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernels/stats/distributions.h"
#include "../../kernels/stats/fit_bootstrap.h"
#include "../../kernels/stats/fit_theory.h"
#include "../../kernels/stats/fit_use.h"
#include "tap.h"

enum { ARENA = 1 << 28 };
#include "arena.h"

struct design {
    const char *name;
    enum tlaw_form form;
    double truth[TLAW_MAX_PARAMS];   /* natural */
    double first, last;              /* sizes */
    int sizes, subsets, runs;        /* subsets a size (or nested over all), runs on each */
    char noise;                      /* 'r'ows, 'n'ested, 's'ubsets */
    double row_sd, subset_sd, decay; /* noise of a row: row_sd (x / first)^-decay */
    bool grid;                       /* two variables: sizes x sizes */
    bool weak;                       /* alpha is far from normal: no standard error describes it */
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

static size_t add_runs(const struct design *design, const double *x, double shared, int64_t cluster,
                       uint64_t draw, struct tlaw_row *rows, size_t n)
{
    for (int run = 0; run < design->runs; run++) {
        struct tlaw_row *row = &rows[n++];
        *row = (struct tlaw_row){.weight = 1, .clustered = design->noise != 'r', .cluster = cluster};
        memcpy(row->x, x, sizeof row->x);
        row->loss = tlaw_form_predict(design->form, design->truth, x, NULL) *
                    exp(shared + design->row_sd * pow(x[0] / design->first, -design->decay) * normal(draw));
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

static void check_share(const struct design *design, const char *what, int hits, int draws, double low,
                        double high)
{
    double share = (double) hits / draws;
    ok(share >= low && share <= high, "%s: %s %.1f %%", design->name, what, 100 * share);
}

static bool covers(double low, double high, double truth)
{
    return !(low > truth) && !(high < truth); /* an open end covers */
}

/* The theory test where the bound is exact: d is estimated with an error, too. Alarm: a significant
 * difference. */
static bool theory_alarm(const struct design *design, const struct tlaw_fit *fit, uint64_t draw)
{
    int j = tlaw_form_info(design->form)->alpha;
    double alpha = design->truth[j], d = 2 * (1 - alpha) / alpha, se = 0.02 * d;
    struct tlaw_theory_test test = {.theory = TLAW_THEORY_DATA,
                                    .alpha = fit->natural[j],
                                    .alpha_low = fit->low[j],
                                    .alpha_high = fit->high[j],
                                    .alpha_df = fit->df,
                                    .smoothness = 1,
                                    .level = 0.95,
                                    .tolerance = 0.02};
    test.dimension = d + se * tlaw_draw_normal(7, draw, 1);
    test.dimension_low = test.dimension - 1.959963984540054 * se;
    test.dimension_high = test.dimension + 1.959963984540054 * se;
    return tlaw_test_theory(&test) && test.p < 0.05;
}

static bool optimum_covered(const struct design *design, const struct tlaw_fit *fit)
{
    double flops = 6 * 1e9 * 2e10; /* twice the middle of the grid's budgets */
    struct tlaw_optimum optimum;
    tlaw_fit_optimum(&host, fit, NULL, 0, flops, &optimum);
    return covers(optimum.n_params.low, optimum.n_params.high,
                  exp(tlaw_optimal_log_params(design->form, design->truth, flops)));
}

/* tlaw_power's standard error of alpha over the simulated one. */
static void check_power(const struct design *design, double sd)
{
    double sizes[100], se, df, half, last = exp(log_size(design, design->sizes - 1)), x[3] = {last, 1, 1};
    bool offset = design->form == TLAW_POWER_LAW_OFFSET;
    struct tlaw_plan plan = {.sizes = sizes,
                             .n_sizes = design->sizes,
                             .replicates = design->subsets,
                             .alpha = design->truth[tlaw_form_info(design->form)->alpha],
                             .irreducible_share = -1,
                             .noise = design->row_sd / sqrt(design->runs),
                             .subset_noise = design->subset_sd,
                             .level = 0.95};
    for (int i = 0; i < design->sizes; i++)
        sizes[i] = exp(log_size(design, i));
    if (offset)
        plan.irreducible_share = design->truth[0] / tlaw_form_predict(design->form, design->truth, x, NULL);
    tlaw_plan_power(&host, &plan, &se, &df, &half);
    ok(fabs(se / sd - 1) <= 0.1, "%s: standard error by the plan over the simulated one %.3f", design->name,
       se / sd);
}

/* How often intervals hold the truth and tests raise false alarms. */
static void simulate(const struct design *design, int draws)
{
    const struct tlaw_form_info *info = tlaw_form_info(design->form);
    struct tlaw_fit_options options = {
        .level = 0.95, .max_iterations = -1, .intervals = true, .loss = design->loss};
    struct tlaw_row rows[5000];
    int alpha = 0, beta = 0, irreducible = 0, zero = 0, curvature = 0, lack = 0, lacking = 0, theory = 0,
        optimum = 0, used = 0;
    double sum = 0, square = 0, truth = design->truth[info->alpha];

    for (int d = 0; d < draws; d++) {
        struct tlaw_fit fit;
        arena_used = 0;
        size_t n = draw_rows(design, (uint64_t) d, rows);
        tlaw_fit_run(&host, rows, n, design->form, &options, &fit);
        if (!fit.converged)
            continue;
        used++;
        alpha += covers(fit.low[info->alpha], fit.high[info->alpha], truth);
        sum += fit.natural[info->alpha] - truth;
        square += pow(fit.natural[info->alpha] - truth, 2);
        if (info->beta >= 0)
            beta += covers(fit.low[info->beta], fit.high[info->beta], design->truth[info->beta]);
        if (info->irreducible >= 0)
            irreducible += covers(fit.low[info->irreducible], fit.high[info->irreducible], design->truth[0]);
        curvature += fit.curvature_p < 0.05;
        lacking += !isnan(fit.lack_of_fit_p);
        lack += fit.lack_of_fit_p < 0.05;
        zero += fit.irreducible_p < 0.05;
        theory += info->n_variables == 1 && theory_alarm(design, &fit, (uint64_t) d);
        optimum += design->grid && optimum_covered(design, &fit);
    }
    ok(used == draws, "%s: %d of %d converged", design->name, used, draws);
    check_share(design, "alpha covered", alpha, used, 0.93, 0.97);
    if (info->beta >= 0)
        check_share(design, "beta covered", beta, used, 0.93, 0.97);
    if (design->grid)
        check_share(design, "optimal N covered", optimum, used, 0.93, 0.97);
    if (info->irreducible >= 0 && design->truth[0] > 0)
        check_share(design, "irreducible covered", irreducible, used, 0.93, 0.97);
    if (info->irreducible >= 0 && design->truth[0] == 0)
        check_share(design, "E = 0: false alarms", zero, used, 0.03, 0.07);
    check_share(design, "curvature: false alarms", curvature, used, 0.03, 0.07);
    if (lacking > 0)
        check_share(design, "lack of fit: false alarms", lack, lacking, 0, 0.07);
    if (info->n_variables == 1)
        check_share(design, "theory: false alarms", theory, used, 0.03, 0.07);
    if (design->noise != 's' && info->n_variables == 1 && !design->weak &&
        (info->irreducible < 0 || design->truth[0] > 0) && design->loss == TLAW_LOSS_OF_FORM &&
        design->decay == 0)
        check_power(design, sqrt((square - sum * sum / used) / used));
}

#define LINE  .form = TLAW_POWER_LAW, .truth = {3.0, 0.17}
#define HALF  .form = TLAW_POWER_LAW_OFFSET, .truth = {1.6, 3.0, 0.17} /* E about half of the last loss */
#define ZERO  .form = TLAW_POWER_LAW_OFFSET, .truth = {0, 3.0, 0.17}
#define SHARP .form = TLAW_POWER_LAW_OFFSET, .truth = {1.5, 4.0, 0.35}
#define FLAT  .form = TLAW_POWER_LAW_OFFSET, .truth = {4, 2.54, 0.17} /* E 80 % of the last loss */
#define PLANE .form = TLAW_CHINCHILLA, .truth = {1.8, 6.2, 7.6, 0.35, 0.37}

static const struct design designs[] = {
    {.name = "line, rows",
     LINE,
     .first = 1e5,
     .last = 1e8,
     .sizes = 10,
     .subsets = 3,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.005,
     .subset_sd = 0},
    {.name = "line, nested, 3 subsets",
     LINE,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 3,
     .runs = 1,
     .noise = 'n',
     .row_sd = 0.003,
     .subset_sd = 0.005},
    {.name = "line, nested, 5 subsets x 2 runs",
     LINE,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 5,
     .runs = 2,
     .noise = 'n',
     .row_sd = 0.003,
     .subset_sd = 0.005},
    {.name = "line, own subsets x 2 runs",
     LINE,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 3,
     .runs = 2,
     .noise = 's',
     .row_sd = 0.003,
     .subset_sd = 0.005},
    {.name = "offset, rows",
     HALF,
     .first = 1e5,
     .last = 1e8,
     .sizes = 10,
     .subsets = 3,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.005,
     .subset_sd = 0},
    {.name = "offset, rows, 1 %",
     HALF,
     .first = 1e5,
     .last = 1e8,
     .sizes = 10,
     .subsets = 3,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.01,
     .subset_sd = 0},
    {.name = "offset, sharp, rows",
     SHARP,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 3,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.005,
     .subset_sd = 0},
    {.name = "offset, squared loss",
     SHARP,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 4,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.005,
     .subset_sd = 0,
     .loss = TLAW_LOSS_SQUARED},
    {.name = "offset, E = 0, rows",
     ZERO,
     .first = 1e5,
     .last = 1e8,
     .sizes = 10,
     .subsets = 3,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.005,
     .subset_sd = 0},
    {.name = "offset, 2 decades, 1 %",
     HALF,
     .first = 1e6,
     .last = 1e8,
     .sizes = 10,
     .subsets = 2,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.01,
     .subset_sd = 0},
    {.name = "offset, nested, 4 subsets",
     HALF,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 4,
     .runs = 1,
     .noise = 'n',
     .row_sd = 0.003,
     .subset_sd = 0.005},
    {.name = "offset, nested, 5 subsets x 2 runs",
     SHARP,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 5,
     .runs = 2,
     .noise = 'n',
     .row_sd = 0.003,
     .subset_sd = 0.005},
    {.name = "offset, own subsets x 2 runs",
     SHARP,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 4,
     .runs = 2,
     .noise = 's',
     .row_sd = 0.003,
     .subset_sd = 0.005},
    {.name = "offset, E = 0, nested, 5 subsets",
     ZERO,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 5,
     .runs = 1,
     .noise = 'n',
     .row_sd = 0.003,
     .subset_sd = 0.005},
    {.name = "Chinchilla, Huber, rows",
     PLANE,
     .first = 1e7,
     .last = 1e10,
     .sizes = 10,
     .subsets = 2,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.005,
     .subset_sd = 0,
     .grid = true},
    {.name = "Chinchilla, log squares, rows",
     PLANE,
     .first = 1e7,
     .last = 1e10,
     .sizes = 8,
     .subsets = 1,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.005,
     .subset_sd = 0,
     .grid = true,
     .loss = TLAW_LOSS_LOG_SQUARED},
    {.name = "offset, E = 0, nested, 3 subsets",
     ZERO,
     .first = 1e5,
     .last = 1e8,
     .sizes = 7,
     .subsets = 3,
     .runs = 1,
     .noise = 'n',
     .row_sd = 0.003,
     .subset_sd = 0.01},
    {.name = "offset, nearly flat, 6 subsets",
     FLAT,
     .first = 1e5,
     .last = 3e6,
     .sizes = 8,
     .subsets = 6,
     .runs = 1,
     .noise = 'n',
     .row_sd = 0.01,
     .subset_sd = 0.03,
     .weak = true},
    /* noise that falls with size */
    {.name = "line, uneven noise",
     LINE,
     .first = 1e5,
     .last = 1e8,
     .sizes = 10,
     .subsets = 3,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.01,
     .decay = 0.15},
    {.name = "offset, uneven noise",
     HALF,
     .first = 1e5,
     .last = 1e8,
     .sizes = 10,
     .subsets = 3,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.01,
     .decay = 0.15},
    {.name = "offset, sharp, uneven noise",
     SHARP,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 3,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.01,
     .decay = 0.15},
    {.name = "Chinchilla, uneven noise",
     PLANE,
     .first = 1e7,
     .last = 1e10,
     .sizes = 8,
     .subsets = 1,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.01,
     .decay = 0.15,
     .grid = true,
     .loss = TLAW_LOSS_LOG_SQUARED},
    /* few rows */
    {.name = "line, 6 rows",
     LINE,
     .first = 1e5,
     .last = 1e8,
     .sizes = 6,
     .subsets = 1,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.005},
    {.name = "offset, 8 rows",
     HALF,
     .first = 1e5,
     .last = 1e8,
     .sizes = 8,
     .subsets = 1,
     .runs = 1,
     .noise = 'r',
     .row_sd = 0.005},
};

int main(void)
{
    arena = malloc(ARENA);
    for (size_t i = 0; i < sizeof designs / sizeof *designs; i++)
        simulate(&designs[i], 1000);
    return tap_end();
}
