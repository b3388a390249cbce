/*
 * Fits of scaling laws: data in, certified parameters with intervals out.
 *
 * A fit is a pure function of the set of rows and the options: rows are sorted before anything else.  What
 * cannot be identified is NaN, with the reason in `message`.
 */
#ifndef TLAW_FIT_H
#define TLAW_FIT_H

#include "fit_forms.h"

struct tlaw_row {
    double x[TLAW_MAX_VARIABLES]; /* natural units, > 0 */
    double loss;                  /* > 0 */
    double weight;                /* > 0; 1: equal */
    int64_t cluster;
    bool clustered; /* false: the row is a cluster of its own */
};

enum tlaw_loss {
    TLAW_LOSS_OF_FORM, /* Huber with delta 1e-3 for surfaces, squares of log residuals for one variable */
    TLAW_LOSS_HUBER,   /* Huber on log residuals */
    TLAW_LOSS_LOG_SQUARED,
    TLAW_LOSS_SQUARED /* squares of the loss itself (a power law stays a line in log-log) */
};

struct tlaw_fit_options {
    enum tlaw_loss loss;
    double delta;        /* of Huber; 0: 1e-3 */
    double level;        /* of intervals, e.g. 0.95 */
    const double *start; /* natural parameters, the only start; NULL: multi-start */
    int max_iterations;  /* a start; < 0: enough. 0 certifies `start` as it is */
    bool intervals;      /* covariance, intervals and tests; else parameters and certificate only */
    bool alike; /* squares: rows are taken to be independent with one variance (Gauss-Newton covariance, F
                 * statistic of the profile); else the variance may differ from row to row */
};

/* Where rows lie: the range of each variable of the form, then of N D where it has both.  NaN without rows.
 */
enum { TLAW_MAX_EXTENTS = TLAW_MAX_VARIABLES + 1 };
struct tlaw_extents {
    double smallest[TLAW_MAX_EXTENTS], largest[TLAW_MAX_EXTENTS];
};
int tlaw_extent_count(enum tlaw_form form);

/* What the rows become: sorted, centred logarithms. */
struct tlaw_data {
    enum tlaw_form form;
    struct tlaw_extents extents;
    bool log_residuals;
    double delta;
    size_t n;
    double centre[TLAW_MAX_VARIABLES];
    double (*x)[TLAW_MAX_VARIABLES]; /* centred logarithms */
    double *loss, *log_loss, *weights;
    int32_t *cluster; /* 0 .. n_clusters - 1 */
    int n_clusters;
    bool clustered; /* clusters were given */
};

struct tlaw_fit {
    enum tlaw_form form;
    bool log_residuals;
    double delta, level;
    size_t n;
    struct tlaw_extents extents;
    int n_clusters; /* 0: none given */
    bool fitted;    /* the parameters hold something */

    /* certificate */
    bool converged, alike;
    double objective; /* sum of Huber's function, or of squares */
    double gradient_norm, relative_offset;
    int iterations, starts, starts_reached;
    double second_objective,
        second_distance; /* next basin, and its distance in standard errors; NaN: none seen */

    /* parameters: working at `centre`, natural (fit_forms.h); NaN where not identified */
    double centre[TLAW_MAX_VARIABLES];
    double working[TLAW_MAX_PARAMS], natural[TLAW_MAX_PARAMS];
    uint32_t unseen; /* bit j: no row depends on parameter j, it is held where the search left it */
    bool at_bound;   /* the irreducible loss would be negative and is held at 0 */
    double unbound[TLAW_MAX_PARAMS]; /* working parameters without that bound */
    double unbound_objective;
    bool unbound_converged;

    /* inference, of natural parameters */
    double covariance[TLAW_MAX_PARAMS * TLAW_MAX_PARAMS];
    double se[TLAW_MAX_PARAMS], low[TLAW_MAX_PARAMS], high[TLAW_MAX_PARAMS];
    double df;            /* of Student's t behind se */
    double noise;         /* standard deviation of log residuals */
    double irreducible_p; /* of E = 0 against E > 0 */
    double curvature_p;   /* of no quadratic term in the logarithms */
    double lack_of_fit_p; /* of means of replicates lying on the law; NAN without replicates that differ, with
                             Huber's loss */
    char message[512];
};

/* Sorts, checks and centres; NULL with the reason in `message` (512 bytes) when a value is out of range. */
struct tlaw_data *tlaw_fit_data(const struct tlaw_host *host, const struct tlaw_row *rows, size_t n,
                                enum tlaw_form form, const struct tlaw_fit_options *options, char *message);

/* The problem of a data set; data must outlive it. */
void tlaw_fit_problem(const struct tlaw_host *host, const struct tlaw_data *data,
                      struct tlaw_problem *problem);

/* Fits. Never fails: fit->fitted and fit->message say what happened. */
void tlaw_fit_run(const struct tlaw_host *host, const struct tlaw_row *rows, size_t n, enum tlaw_form form,
                  const struct tlaw_fit_options *options, struct tlaw_fit *fit);
/* The same on prepared data (weights may have been changed: a weight of 0 leaves a row out). */
void tlaw_fit_prepared(const struct tlaw_host *host, const struct tlaw_data *data,
                       const struct tlaw_fit_options *options, struct tlaw_fit *fit);

/* Starting points, best first: working parameters; at most `most` (fit_start.c). */
int tlaw_fit_starts(const struct tlaw_host *host, const struct tlaw_data *data, int most,
                    double (*starts)[TLAW_MAX_PARAMS]);

/* Covariance, standard errors, intervals and tests of a fit made on data (fit_inference.c). */
void tlaw_fit_infer(const struct tlaw_host *host, const struct tlaw_data *data, struct tlaw_fit *fit);

/* fit->lack_of_fit_p, of a fit that has converged (fit_lack.c). */
void tlaw_fit_test_lack(const struct tlaw_host *host, const struct tlaw_data *data, struct tlaw_fit *fit);

/* Whether the rows do not follow the form: curvature_p below 0.05, or lack_of_fit_p below 0.01 (replicates
 * may differ in their noise, which makes small p a few times as frequent). */
static inline bool tlaw_fit_is_refused(const struct tlaw_fit *fit)
{
    return fit->curvature_p < 0.05 || fit->lack_of_fit_p < 0.01;
}

struct tlaw_prediction {
    double loss, se;          /* se: of the law, by the delta method */
    double low, high;         /* interval of the law at fit->level */
    double run_low, run_high; /* interval of one new run: its noise added */
};
/* variables: natural units. All NaN where the law or its covariance is not known. */
void tlaw_fit_predict(const struct tlaw_fit *fit, const double *variables,
                      struct tlaw_prediction *prediction);

/* How many times beyond the fitted rows variables are, above the largest or below the smallest, in whichever
 * of the extents that is most; 1: within all. */
double tlaw_fit_extrapolation(const struct tlaw_fit *fit, const double *variables);

/* Appends to fit->message, "; " between reasons. */
void tlaw_fit_say(char *message, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
