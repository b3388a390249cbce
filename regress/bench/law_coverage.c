/*
 * Intervals of the exponent of loss = E + A x^-alpha where E >= 0: how often 95 % of each kind hold the truth
 * and how wide they are, over settings drawn at random before anything was measured: 3 to 12 families of runs
 * (nested subsets, what one is worth shared along it as sqrt(n1/n2); or as many independent replicates), 5 to
 * 9 sizes over 1.5 to 3 decades, 0.3 to 3 % of noise between families and a third of it or as much between
 * runs, alpha 0.1 to 0.6, E none or 20 to 80 % of the last loss.
 *
 * score: the efficient score with E free of its bound; bound: what tlaw does; split: the score's lower end in
 * 2 % or the line's in 0.5 %; F: the rise of the bounded objective, scaled by what clusters differ; Webb: the
 * score under wild cluster weights; percentile, BCa: clusters drawn again, fitted with E >= 0.  Width: that
 * of the median interval over that of the score's, its geometric mean over settings.
 *
 * usage: law_coverage [draws [seed of the settings [settings [draws with resampling]]]]
 */
#include <stdio.h>
#include <stdlib.h>

#define tlaw_fit_infer   bench_infer /* the candidates need the score behind them */
#define tlaw_fit_predict bench_predict
#include "../../kernels/stats/fit_inference.c"

#include "../../kernels/stats/fit_bootstrap.h"

enum { MAX_ROWS = 128, MAX_SETTINGS = 1000, WEBB_DRAWS = 399, RESAMPLES = 399, ALPHA = 2 };
static const double level = 0.95;

enum { ARENA = 1 << 26 };
#include "../kernels/arena.h"

/* ---- settings and their rows ---- */

struct setting {
    bool nested;
    int families, sizes;
    double decades, family_sd, row_sd, share, alpha;
};

static struct setting draw_setting(uint64_t seed, uint64_t which)
{
    static const int families[] = {3, 4, 5, 6, 8, 12};
    static const double decades[] = {1.5, 2, 3}, noise[] = {.003, .01, .03}, alphas[] = {.1, .17, .3, .6},
                        shares[] = {0, 0, .2, .5, .8};
    uint64_t d[8];
    for (int i = 0; i < 8; i++)
        d[i] = tlaw_draw_below(seed, which, (uint64_t) i, 60);
    struct setting setting = {.nested = d[0] % 3 > 0,
                              .families = families[d[1] % 6],
                              .sizes = 5 + (int) (d[2] % 5),
                              .decades = decades[d[3] % 3],
                              .family_sd = noise[d[4] % 3],
                              .share = shares[d[6] % 5],
                              .alpha = alphas[d[7] % 4]};
    setting.row_sd = setting.family_sd * (d[5] % 2 ? 1. / 3 : 1);
    if (!setting.nested)
        setting.family_sd = 0;
    return setting;
}

static size_t draw_rows(const struct setting *s, uint64_t seed, uint64_t draw, struct tlaw_row *rows)
{
    double step = s->decades * M_LN10 / (s->sizes - 1), rho = exp(-0.5 * step);
    uint64_t counter = 0;
    size_t n = 0;
    for (int family = 0; family < s->families; family++) {
        double shared = 0;
        for (int i = 0; i < s->sizes; i++) {
            double keep = i == 0 ? 0 : rho, x = exp(i * step);
            double reducible = exp(-s->alpha * (i - s->sizes + 1) * step); /* 1 at the largest size */
            shared = keep * shared +
                     sqrt(1 - keep * keep) * s->family_sd * tlaw_draw_normal(seed, draw, counter++);
            rows[n++] =
                (struct tlaw_row){.x = {1e5 * x, 1, 1},
                                  .loss = (s->share / (1 - s->share) + reducible) *
                                          exp(shared + s->row_sd * tlaw_draw_normal(seed, draw, counter++)),
                                  .weight = 1,
                                  .cluster = family,
                                  .clustered = s->nested};
        }
    }
    return n;
}

/* ---- the candidates ---- */

enum { SCORE, BOUND, SPLIT, PROFILE, WEBB, PERCENTILE, BCA, KINDS };
static const char *const names[KINDS] = {"score", "bound", "split", "F", "Webb", "percentile", "BCa"};

struct interval {
    double low, high;
};

static struct tlaw_fit fit_without_intervals(const struct tlaw_data *data)
{
    struct tlaw_fit_options options = {.level = level, .max_iterations = -1};
    struct tlaw_fit fit;
    tlaw_fit_prepared(&host, data, &options, &fit);
    return fit;
}

/* Inverts the score with E free of its bound, at a level. */
static struct interval by_score(const struct tlaw_data *data, const struct tlaw_fit *fit, double at_level)
{
    struct tlaw_fit copy = *fit;
    struct inference inf;
    copy.level = at_level;
    if (start_inference(&host, data, &copy, &inf))
        set_intervals(&inf);
    return (struct interval){copy.low[ALPHA], copy.high[ALPHA]};
}

static struct interval by_bound(const struct tlaw_data *data, const struct tlaw_fit *fit)
{
    struct tlaw_fit copy = *fit;
    struct inference inf;
    if (start_inference(&host, data, &copy, &inf)) {
        set_intervals(&inf);
        mind_bound(&inf);
    }
    return (struct interval){copy.low[ALPHA], copy.high[ALPHA]};
}

/* The larger of the score's lower end in 2 % and the line's in 0.5 %: Bonferroni. */
static struct interval by_split(const struct tlaw_data *data, const struct tlaw_fit *fit)
{
    struct interval wide = by_score(data, fit, 0.96), plain = by_score(data, fit, level);
    struct tlaw_data line = *data;
    struct tlaw_fit_options options = {.level = 0.99, .max_iterations = -1, .intervals = true};
    struct tlaw_fit straight;
    line.form = TLAW_POWER_LAW;
    tlaw_fit_prepared(&host, &line, &options, &straight);
    return (struct interval){fmin(fmax(wide.low, straight.low[1]), fit->natural[ALPHA]), plain.high};
}

/* Objective with alpha held and E >= 0. */
static double bounded_objective(const struct inference *inf, double alpha, double *params)
{
    struct tlaw_problem problem = inf->problem;
    struct tlaw_solution solution;
    problem.fixed |= 1u << ALPHA;
    problem.enough = 1e-6;
    params[ALPHA] = alpha;
    tlaw_solve(&problem, params, 100, &solution);
    if (solution.valid && solution.params[0] < 0) {
        problem.fixed |= 1;
        params[0] = 0;
        tlaw_solve(&problem, params, 100, &solution);
    }
    if (solution.valid)
        memcpy(params, solution.params, sizeof(double) * P);
    return solution.valid ? solution.objective : INFINITY;
}

/* Where `rejects` begins on one side of the estimate; 0 or 10 where it never does. */
static double edge(const struct inference *inf, double estimate, int side,
                   bool (*rejects)(const struct inference *, double, void *), void *argument)
{
    double inner = estimate, outer = side < 0 ? 1e-3 : 10;
    if (!rejects(inf, outer, argument))
        return side < 0 ? 0 : outer;
    for (int step = 0; step < 24; step++) {
        double middle = 0.5 * (inner + outer);
        if (rejects(inf, middle, argument))
            outer = middle;
        else
            inner = middle;
    }
    return 0.5 * (inner + outer);
}

struct rise {
    double base, factor, critical;
};

static bool rises(const struct inference *inf, double alpha, void *argument)
{
    const struct rise *rise = argument;
    double params[P];
    memcpy(params, inf->fit->working, sizeof params);
    double by = bounded_objective(inf, alpha, params) - rise->base;
    return 2 * by * rise->factor > rise->critical * rise->critical;
}

/* Inverted F of the bounded profile, scaled by what families differ. */
static struct interval by_profile(const struct tlaw_data *data, const struct tlaw_fit *fit)
{
    struct tlaw_fit copy = *fit;
    struct inference inf;
    struct statistic statistic;
    double params[P], information = 0;
    if (!start_inference(&host, data, &copy, &inf))
        return (struct interval){NAN, NAN};
    memcpy(params, copy.unbound, sizeof params);
    if (!score_statistic(&inf, params, inf.problem.fixed, (struct direction){ALPHA, -1}, true, &statistic))
        return (struct interval){NAN, NAN};
    for (int k = 0; k < data->n_clusters; k++)
        information += inf.clusters[k].information;
    struct rise rise = {copy.objective / 2, 1 / (statistic.scale * statistic.scale * information),
                        student_critical(level, statistic.df)};
    return (struct interval){edge(&inf, copy.natural[ALPHA], -1, rises, &rise),
                             edge(&inf, copy.natural[ALPHA], 1, rises, &rise)};
}

/* The score's t under Webb's six weights, families' scores drawn at alpha with E free of its bound. */
static bool webb_rejects(const struct inference *inf, double alpha, void *argument)
{
    static const double webb[6] = {-1.224744871391589, -1, -0.7071067811865476,
                                   0.7071067811865476, 1,  1.224744871391589};
    int g = inf->data->n_clusters, beyond = 0;
    double params[P], *a = inf->host->allocate(NULL, sizeof(double) * (size_t) g), total = 0;
    struct statistic statistic;
    size_t mark = arena_used;
    memcpy(params, inf->fit->unbound, sizeof params);
    (void) argument;
    if (!profile_statistic(inf, ALPHA, alpha, inf->fit->unbound[ALPHA], false, params, &statistic))
        return true;
    for (int k = 0; k < g; k++)
        total += inf->clusters[k].information;
    for (int k = 0; k < g; k++) {
        double w = inf->clusters[k].information;
        double own = w - dot(inf->clusters[k].z, inf->clusters[k].z, 2) - w * w / total;
        a[k] = own > 1e-8 * w ? w / own : 0;
    }
    for (int b = 0; b < WEBB_DRAWS; b++) {
        double sum = 0, variance = 0, part[MAX_ROWS];
        for (int k = 0; k < g; k++) {
            part[k] = webb[tlaw_draw_below(99, (uint64_t) b, (uint64_t) k, 6)] * inf->clusters[k].score;
            sum += part[k];
        }
        for (int k = 0; k < g; k++)
            variance += a[k] * pow(part[k] - inf->clusters[k].information / total * sum, 2);
        beyond += sum * sum >= statistic.t * statistic.t * variance;
    }
    arena_used = mark;
    return beyond + 1 <= (1 - level) * (WEBB_DRAWS + 1);
}

static struct interval by_webb(const struct tlaw_data *data, const struct tlaw_fit *fit)
{
    struct tlaw_fit copy = *fit;
    struct inference inf;
    if (!start_inference(&host, data, &copy, &inf))
        return (struct interval){NAN, NAN};
    return (struct interval){
        fmin(edge(&inf, copy.unbound[ALPHA], -1, webb_rejects, NULL), copy.natural[ALPHA]),
        fmax(edge(&inf, copy.unbound[ALPHA], 1, webb_rejects, NULL), copy.natural[ALPHA])};
}

/* Families drawn again, fitted with E >= 0: percentiles, and BCa's with the jackknife over families. */
static void by_bootstrap(const struct tlaw_data *data, const struct tlaw_fit *fit, struct interval *kinds)
{
    struct tlaw_bootstrap bootstrap = {.by_cluster = true, .draws = RESAMPLES, .seed = 5};
    double values[RESAMPLES], below = 0, mean = 0, cube = 0, square = 0, *weights = data->weights;
    double left[MAX_ROWS], ends[2];
    int n = 0, g = data->n_clusters;
    tlaw_fit_bootstrap(&host, data, fit, &bootstrap);
    for (int d = 0; d < RESAMPLES; d++)
        if (!isnan(bootstrap.params[d][ALPHA])) {
            values[n++] = bootstrap.params[d][ALPHA];
            below += bootstrap.params[d][ALPHA] < fit->natural[ALPHA]
                         ? 1
                         : 0.5 * (bootstrap.params[d][ALPHA] == fit->natural[ALPHA]);
        }
    tlaw_sort_numbers(values, (size_t) n);
    kinds[PERCENTILE] = (struct interval){tlaw_sorted_quantile(values, (size_t) n, 0.025),
                                          tlaw_sorted_quantile(values, (size_t) n, 0.975)};
    for (int k = 0; k < g; k++) {
        for (size_t i = 0; i < data->n; i++)
            weights[i] = data->cluster[i] != k;
        left[k] = fit_without_intervals(data).natural[ALPHA];
        mean += left[k] / g;
    }
    for (size_t i = 0; i < data->n; i++)
        weights[i] = 1;
    for (int k = 0; k < g; k++) {
        square += pow(mean - left[k], 2);
        cube += pow(mean - left[k], 3);
    }
    double a = square > 0 ? cube / (6 * pow(square, 1.5)) : 0;
    double z0 = tlaw_normal_quantile(fmin(fmax(below / n, 0.5 / n), 1 - 0.5 / n));
    for (int side = 0; side < 2; side++) {
        double z = z0 + (side ? 1.959963984540054 : -1.959963984540054);
        ends[side] = tlaw_sorted_quantile(values, (size_t) n, tlaw_normal_cdf(z0 + z / (1 - a * z)));
    }
    kinds[BCA] = (struct interval){ends[0], ends[1]};
}

/* ---- counting ---- */

struct count {
    double draws, below, above, to_zero; /* truth below, above the interval; intervals from 0 */
    double width;                        /* the median */
};

static double median(double *values, size_t n)
{
    tlaw_sort_numbers(values, n);
    return tlaw_sorted_quantile(values, n, 0.5);
}

/* One setting: kinds from WEBB on are asked of the first `resampled` draws. */
static void measure(const struct setting *setting, uint64_t seed, int draws, int resampled,
                    struct count *counts)
{
    struct tlaw_row rows[MAX_ROWS];
    struct tlaw_fit_options options = {.level = level, .max_iterations = -1};
    double *widths[KINDS];
    for (int kind = 0; kind < KINDS; kind++)
        widths[kind] = malloc(sizeof(double) * (size_t) draws);
    for (int draw = 0; draw < draws; draw++) {
        struct interval found[KINDS];
        char message[512] = "";
        arena_used = 0;
        size_t n = draw_rows(setting, seed, (uint64_t) draw, rows);
        struct tlaw_data *data = tlaw_fit_data(&host, rows, n, TLAW_POWER_LAW_OFFSET, &options, message);
        struct tlaw_fit fit = fit_without_intervals(data);
        if (!fit.converged)
            continue;
        int kinds = draw < resampled ? KINDS : WEBB;
        found[SCORE] = by_score(data, &fit, level);
        found[BOUND] = by_bound(data, &fit);
        found[SPLIT] = by_split(data, &fit);
        found[PROFILE] = by_profile(data, &fit);
        if (kinds == KINDS) {
            found[WEBB] = by_webb(data, &fit);
            by_bootstrap(data, &fit, found);
        }
        for (int kind = 0; kind < kinds; kind++) {
            struct count *count = &counts[kind];
            count->below += found[kind].high < setting->alpha;
            count->above += found[kind].low > setting->alpha;
            count->to_zero += found[kind].low <= 1e-3;
            widths[kind][(size_t) count->draws++] =
                fmin(found[kind].high, 10) - found[kind].low; /* NAN: no end */
        }
    }
    for (int kind = 0; kind < KINDS; kind++) {
        counts[kind].width = median(widths[kind], (size_t) counts[kind].draws);
        free(widths[kind]);
    }
}

struct group {
    const char *name;
    bool (*holds)(const struct setting *);
};

static bool is_any(const struct setting *s)
{
    return s->nested || !s->nested;
}
static bool is_zero(const struct setting *s)
{
    return s->share == 0;
}
static bool is_little(const struct setting *s)
{
    return s->share == 0.2;
}
static bool is_half(const struct setting *s)
{
    return s->share == 0.5;
}
static bool is_most(const struct setting *s)
{
    return s->share == 0.8;
}
static bool is_few(const struct setting *s)
{
    return s->nested && s->families <= 4;
}
static bool is_some(const struct setting *s)
{
    return s->nested && s->families > 4 && s->families <= 6;
}
static bool is_many(const struct setting *s)
{
    return s->nested && s->families > 6;
}
static bool is_rows(const struct setting *s)
{
    return !s->nested;
}

static const struct group groups[] = {{"all", is_any},
                                      {"E = 0", is_zero},
                                      {"E 20 %", is_little},
                                      {"E 50 %", is_half},
                                      {"E 80 %", is_most},
                                      {"3, 4 families", is_few},
                                      {"5, 6 families", is_some},
                                      {"8, 12 families", is_many},
                                      {"independent rows", is_rows}};

static void print_group(const struct group *group, const struct setting *settings,
                        struct count (*counts)[KINDS], int n)
{
    for (int kind = 0; kind < KINDS; kind++) {
        double used = 0, lowest = 1, below = 0, above = 0, zero = 0, ratio = 0;
        for (int i = 0; i < n; i++) {
            const struct count *c = &counts[i][kind];
            if (!group->holds(&settings[i]) || c->draws == 0)
                continue;
            used++;
            lowest = fmin(lowest, 1 - (c->below + c->above) / c->draws);
            below += c->below / c->draws;
            above += c->above / c->draws;
            zero += c->to_zero / c->draws;
            ratio += log(c->width / counts[i][SCORE].width);
        }
        if (used > 0)
            printf(
                "%-16s %-10s %3.0f settings: covered %.1f %%, least %.1f; low end above the truth %.1f, high "
                "end below it %.1f; from 0 %.1f; width %.2f\n",
                group->name, names[kind], used, 100 * (1 - (below + above) / used), 100 * lowest,
                100 * above / used, 100 * below / used, 100 * zero / used, exp(ratio / used));
    }
}

int main(int argc, char **argv)
{
    static struct setting settings[MAX_SETTINGS];
    static struct count counts[MAX_SETTINGS][KINDS];
    int draws = argc > 1 ? atoi(argv[1]) : 1000, n = argc > 3 ? atoi(argv[3]) : 60;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    int resampled = argc > 4 ? atoi(argv[4]) : 0;
    arena = malloc(ARENA);
    for (int i = 0; i < n; i++) {
        settings[i] = draw_setting(seed, (uint64_t) i);
        measure(&settings[i], seed + 1000 + (uint64_t) i, draws, resampled, counts[i]);
        fprintf(stderr, "\r%d of %d settings", i + 1, n);
    }
    fprintf(stderr, "\n");
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        print_group(&groups[g], settings, counts, n);
    return 0;
}
