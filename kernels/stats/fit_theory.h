/*
 * The theory of low-dimensional data (Havrilla & Liao 2024; Sharma & Kaplan 2022) against a measured
 * exponent.
 *
 * For a beta-Hoelder target on a d-dimensional manifold the excess risk after n samples is at most of order
 * n^(-2s/(2s + d)), s the smoothness; in parameters N, at most N^(-2s/d).  These are upper bounds: a loss
 * that falls faster agrees with them, one that falls more slowly does not.
 */
#ifndef TLAW_FIT_THEORY_H
#define TLAW_FIT_THEORY_H

#include <stdbool.h>

enum tlaw_theory {
    TLAW_THEORY_DATA,  /* 2s / (2s + d) */
    TLAW_THEORY_PARAMS /* 2s / d */
};

double tlaw_theory_exponent(enum tlaw_theory theory, double dimension, double smoothness);

enum tlaw_verdict {
    TLAW_VIOLATES, /* slower than the bound allows */
    TLAW_STEEPER,  /* faster: consistent with an upper bound */
    TLAW_TIGHT,    /* equal within the tolerance, and known that well */
    TLAW_UNDECIDED /* cannot be told */
};

struct tlaw_theory_test {
    /* in: the exponent and the dimension with their intervals */
    enum tlaw_theory theory;
    double alpha, alpha_low, alpha_high; /* at `level` */
    double alpha_df;                     /* degrees of freedom of that interval; INFINITY: normal */
    double dimension, dimension_low, dimension_high; /* at `level`, too; all equal: known */
    double smoothness, level, tolerance; /* tolerance: a difference of exponents that does not matter */
    /* out */
    double predicted, predicted_low, predicted_high;
    double difference, low, high;           /* alpha - predicted, both uncertainties carried */
    double p;                               /* of no difference, two-sided */
    double smoothness_low, smoothness_high; /* that would reconcile them; high INFINITY: alpha may reach 1 */
    enum tlaw_verdict verdict;
    double runs_factor; /* undecided: so many times the runs bring alpha's half width to the tolerance; else
                           NAN */
    bool dimension_limits; /* undecided: no number of runs helps, the dimension is not known well enough */
};

/* Fills the outputs. False when an input is out of range (alpha's interval must be finite). */
bool tlaw_test_theory(struct tlaw_theory_test *test);

#endif
