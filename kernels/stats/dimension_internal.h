/*
 * What the estimators share: the problem handed to each of them, and small numerics.
 */
#ifndef TLAW_DIMENSION_INTERNAL_H
#define TLAW_DIMENSION_INTERNAL_H

#include "dimension.h"

#define NORMAL_975 1.959963984540054

/* The distinct points, their neighbours, and the options with k filled in. */
struct dimension_problem {
    struct tlaw_points points;
    int varying; /* coordinates that are not the same of all points: no dimension is larger */
    struct tlaw_neighbours neighbours;
    struct tlaw_dimension_options options;
    tlaw_knn *knn;
    void *knn_arg;
    struct tlaw_poll poll;
};

/*
 * An estimator fills dimension and standard_error (NaN: unknown) and may add to the message.  0, or -1:
 * memory (message set) or stopped (message "").
 */
typedef int tlaw_estimator_function(const struct dimension_problem *, struct tlaw_dimension *);

tlaw_estimator_function tlaw_dimension_levina_bickel, tlaw_dimension_mackay, tlaw_dimension_calibrated,
    tlaw_dimension_twonn, tlaw_dimension_twonn_mle, tlaw_dimension_twonn_bayes, tlaw_dimension_gride,
    tlaw_dimension_mind, tlaw_dimension_correlation, tlaw_dimension_pca, tlaw_dimension_local_pca,
    tlaw_dimension_participation_ratio, tlaw_dimension_persistent_homology, tlaw_dimension_danco,
    tlaw_dimension_geomle;

/*
 * Whether the readings with k/4 and k neighbours are those of one dimension: result->plateau, and the message
 * where they are not.  Asked of every estimator with 8 neighbours or more.  0, or -1: no memory.
 */
int tlaw_dimension_find_plateau(const struct dimension_problem *problem, struct tlaw_dimension *result);

/*
 * sqrt(sum_ij A_ij psi_i psi_j): the standard deviation of a sum of dependent terms psi (centred here) when i
 * and j are dependent if one is a neighbour of the other, or if they share a cluster.  Never below the value
 * for independent clusters.  NaN without memory.
 */
double tlaw_graph_deviation(const struct dimension_problem *problem, double *psi);

/* The mean over j < k of ln(r_k / r_j), the inverse of a local estimate; NaN where it is undefined. */
double tlaw_inverse_local(const double *r, int k);
/* Adds to result->message, after "; " where it says something already. */
void tlaw_dimension_say(struct tlaw_dimension *result, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Says how many points an estimator could not use, if any. */
void tlaw_dimension_note_unusable(struct tlaw_dimension *result, int64_t count);
/* -1, and 0: what an estimator returns then; the message says it. */
int tlaw_dimension_no_memory(struct tlaw_dimension *result);
int tlaw_dimension_no_ratio(struct tlaw_dimension *result);

/* Eigenvalues of a symmetric matrix a[n][n] (destroyed), descending. */
void tlaw_eigenvalues(double *a, int n, double *values);

/* One coordinate, not scaled. */
static inline double point_value(const struct tlaw_points *points, int64_t row, int column)
{
    int64_t at = row * points->width + column;

    return points->element_size == 4 ? (double) ((const float *) points->data)[at]
                                     : ((const double *) points->data)[at];
}

/* A stream of random 64-bit words (splitmix64, Steele et al. 2014) and what is drawn from it. */
static inline uint64_t random_word(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static inline double random_uniform(uint64_t *state) /* (0, 1] */
{
    return (double) ((random_word(state) >> 11) + 1) * 0x1p-53;
}

static inline int64_t random_below(uint64_t *state, int64_t n)
{
    return (int64_t) ((unsigned __int128) random_word(state) * (uint64_t) n >> 64);
}

double tlaw_random_normal(uint64_t *state);
/* A point uniform in the unit ball of R^d. */
void tlaw_random_ball(uint64_t *state, int d, double *out);

static inline int poll_stopped(const struct dimension_problem *problem)
{
    return problem->poll.stop && problem->poll.stop(problem->poll.arg);
}

#endif
