/*
 * Intrinsic dimension of a set of points: estimators, their standard errors, and what was wrong with the
 * data.
 *
 * Owns: the description of points and of neighbour lists, the list of estimators, and
 * tlaw_dimension_estimate, which removes duplicates, gets neighbours from whoever is able to find them, and
 * runs one estimator. Invariants: float64 throughout (points may be float32, they are widened exactly); no
 * threads; memory is malloc'd and freed before return; the same points and options give the same bits.
 *
 * Notation: n points in R^width; r_j the distance from a point to its j-th neighbour, itself not counted; the
 * distances of a neighbour list ascend, equal ones in the order of their indices.
 */
#ifndef TLAW_DIMENSION_H
#define TLAW_DIMENSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLAW_DIMENSION_MESSAGE 512

/* X(NAME, sql name, fewest neighbours it needs, neighbours by default) */
#define TLAW_ESTIMATORS(X)                                                                                   \
    X(CALIBRATED, "calibrated", 8, 40)       /* MacKay's at k/4 and k, extrapolated to no neighbours */      \
    X(LEVINA_BICKEL, "levina_bickel", 3, 20) /* mean of the local estimates (2004) */                        \
    X(MACKAY, "mackay", 2, 20)               /* mean of their inverses: MacKay & Ghahramani (2005) */        \
    X(TWONN, "twonn", 2, 2)                  /* Facco et al. (2017), least squares, 10 % dropped */          \
    X(TWONN_MLE, "twonn_mle", 2, 2)          /* (n - 1) / sum ln mu, unbiased */                             \
    X(TWONN_BAYES, "twonn_bayes", 2, 2)      /* posterior mean under Gamma(2, 5): DADApy's */                \
    X(GRIDE, "gride", 2, 4)                  /* Denti et al. (2022), n1 = k / 2, n2 = k */                   \
    X(CORRELATION, "correlation", 2, 20)     /* Grassberger & Procaccia between r_k/2 and r_k */             \
    X(PCA, "pca", 0, 0)                      /* Fukunaga & Olsen: eigenvalues above 5 % of the first */      \
    X(LOCAL_PCA, "local_pca", 3, 20)         /* the same in each neighbourhood, averaged */                  \
    X(PARTICIPATION_RATIO, "participation_ratio", 0, 0)                                                      \
    X(PERSISTENT_HOMOLOGY, "persistent_homology", 0, 0) /* growth of the minimum spanning tree */            \
    X(MIND, "mind", 2, 11)                              /* MiND_MLk: Rozza et al. (2012), r_1 / r_k */       \
    X(DANCO, "danco", 3, 11)                            /* Ceruti et al. (2014): norms and angles */         \
    X(GEOMLE, "geomle", 6, 20)                          /* Gomtsyan et al. (2019): extrapolated to radius 0 */

#define TLAW_ESTIMATOR_ENUM(NAME, name, fewest, usual) TLAW_ESTIMATOR_##NAME,
enum tlaw_estimator { TLAW_ESTIMATORS(TLAW_ESTIMATOR_ENUM) TLAW_ESTIMATOR_COUNT };

/* euclidean; 1 - cos; the angle in radians. */
enum tlaw_metric { TLAW_METRIC_EUCLIDEAN, TLAW_METRIC_COSINE, TLAW_METRIC_ANGULAR, TLAW_METRIC_COUNT };

extern const char *const tlaw_metric_names[TLAW_METRIC_COUNT];
const char *tlaw_estimator_name(enum tlaw_estimator estimator);
int tlaw_estimator_usual_k(enum tlaw_estimator estimator);
/* -1 when there is no such name. */
int tlaw_estimator_find(const char *name);
int tlaw_metric_find(const char *name);

/* Rows of width floats (element_size 4) or doubles (8); scale: a factor a row, or NULL (all 1). */
struct tlaw_points {
    int64_t n;
    int width;
    int element_size;
    const void *data;
    const double *scale;
};

/* distance[n][k], index[n][k]. */
struct tlaw_neighbours {
    int64_t n;
    int k;
    double *distance;
    int32_t *index;
};

/* Returns non-zero to stop; called at least every 50 ms of work or so. */
struct tlaw_poll {
    int (*stop)(void *arg);
    void *arg;
};

/*
 * Fills `out` (allocated by the caller for points->n and k) with the k nearest neighbours of every point in
 * the metric.  group: points with equal values do not count as each other's neighbours (NULL: all count); a
 * point with fewer than k others left gets infinite distances and index -1.  0, or -1 with a message;
 * stopped: -1 and "".
 */
typedef int tlaw_knn(const struct tlaw_points *points, enum tlaw_metric metric, const int32_t *group,
                     struct tlaw_neighbours *out, struct tlaw_poll poll, void *arg, char *message);
/* The plain one: n^2 width multiplications. */
tlaw_knn tlaw_knn_plain;

struct tlaw_dimension_options {
    enum tlaw_estimator estimator;
    int k; /* 0: the estimator's usual one */
    enum tlaw_metric metric;
    const int32_t *cluster; /* dependent points share a value: widens the interval; NULL: none */
    bool exclude_cluster;   /* points of one cluster are not each other's neighbours */
    uint64_t seed;          /* of the estimators that draw samples */
};

/* dimension is NaN when there is none to give: message says why.  standard_error, low, high: NaN when
 * unknown. */
struct tlaw_dimension {
    double dimension, standard_error, low, high;
    int plateau;            /* 1: one dimension explains the readings with k/4 and with k neighbours; 0: none
                               does, see message; -1: not asked (k below 8, n below 15 k) */
    int64_t n;              /* distinct points used */
    int k;                  /* neighbours used; 0: none */
    int64_t duplicates;     /* points equal to an earlier one, left out; -1: not looked for */
    int64_t ties;           /* points with two neighbours at the same distance */
    int64_t zero_distances; /* points at distance 0 from another, before duplicates were left out */
    char message[TLAW_DIMENSION_MESSAGE];
};

/*
 * One estimate with a 95 % interval.  Returns 0, or -1 with result->message when the input is refused (values
 * not finite, zero vectors under an angle) or memory is short; stopped by the poll: -1 and "".
 */
int tlaw_dimension_estimate(const struct tlaw_points *points, const struct tlaw_dimension_options *options,
                            tlaw_knn *knn, void *knn_arg, struct tlaw_poll poll,
                            struct tlaw_dimension *result);

/* ---- one question about a set of points: what a SQL function asks, in its own process or of an engine ----
 */

/* What is measured in place of the points: controls whose dimension is known, or what is left without
 * structure. */
enum tlaw_control {
    TLAW_CONTROL_NONE,
    TLAW_CONTROL_GAUSSIAN, /* Gaussian with the points' covariance */
    TLAW_CONTROL_SHUFFLED, /* every coordinate permuted over the points: marginals without dependence */
    TLAW_CONTROL_KNOWN,    /* uniform in a ball (on a sphere, for angles) of known_dimension */
    TLAW_CONTROL_COUNT
};
extern const char *const tlaw_control_names[TLAW_CONTROL_COUNT];
int tlaw_control_find(const char *name);

struct tlaw_question {
    struct tlaw_dimension_options options;
    enum tlaw_control control;
    int known_dimension;
    int64_t sample; /* as many points, drawn by options.seed; 0: all */
};

/*
 * Sorts the rows by value into data (points->data itself: in place), which they then are, and cluster (NULL:
 * none) with them, so that answers do not depend on the order in which they came.  -1: no memory.
 */
int tlaw_points_sort(struct tlaw_points *points, void *data, int32_t *cluster);
/* Answers one question about raw (unscaled) points: derives the set, normalises it, estimates. As the
 * estimate. */
int tlaw_dimension_answer(const struct tlaw_points *points, const int32_t *cluster,
                          const struct tlaw_question *question, tlaw_knn *knn, void *knn_arg,
                          struct tlaw_poll poll, struct tlaw_dimension *result);

/* 1 / |x| of every row into scale[n]; -1 and the row's number when a row has no direction. */
int tlaw_points_normalise(const struct tlaw_points *points, double *scale, int64_t *bad_row);
/*
 * 0, or -1 and in message (TLAW_DIMENSION_MESSAGE) the first coordinate that is NaN, infinite or beyond
 * 1e150, or the largest of all where it is below 1e-130.
 */
int tlaw_points_check(const struct tlaw_points *points, char *message);
/* Row i, scaled, as doubles. */
void tlaw_points_row(const struct tlaw_points *points, int64_t i, double *out);
/* Squared Euclidean distance of two (scaled) rows. */
double tlaw_points_distance2(const struct tlaw_points *points, int64_t i, int64_t j);
/* The metric's distance from a squared chord; for the angular ones the rows are unit vectors. */
double tlaw_metric_distance(enum tlaw_metric metric, double distance2);

/*
 * The share of all pairs closer than each of two radii: sampled over `rows` rows (0: all) drawn by seed.
 * Fills share[2]; with counts, also each of the n rows' own counts [n][2] (-1 where not sampled).  -1:
 * stopped.
 */
int tlaw_correlation_integral(const struct tlaw_points *points, enum tlaw_metric metric,
                              const double radius[2], int64_t rows, uint64_t seed, struct tlaw_poll poll,
                              double share[2], double *counts);

/*
 * The maximum-likelihood dimension of n values ln(r_n2 / r_n1) (Denti et al. 2022), and the observed
 * information. NaN when there is none.
 */
double tlaw_gride(const double *log_mu, int64_t n, int n1, int n2, double *information);

/*
 * The exponent with which the bias of a reading grows with the number of neighbours, between k/4 and k, on n
 * points uniform in a ball of dimension d: what "calibrated" extrapolates by.
 */
double tlaw_bias_growth(double d, double n, int k);

#endif
