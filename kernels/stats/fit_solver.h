/*
 * Non-linear regression: minimises sum_i w_i rho(r_i(theta)), rho(r) = r^2/2, or Huber's with threshold delta
 * (r^2/2 inside, delta (|r| - delta/2) outside), and says whether it did.
 */
#ifndef TLAW_FIT_SOLVER_H
#define TLAW_FIT_SOLVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLAW_SOLVER_MAX_PARAMS 9
#define TLAW_SOLVER_BLOCK      128 /* rows evaluated at a time */

/* Memory and interrupts come from whoever calls; allocate never returns NULL and both may leave by longjmp:
 * nothing in kernels/stats holds anything that only it could free. */
struct tlaw_host {
    void *(*allocate)(void *argument, size_t bytes);
    void (*breathe)(void *argument); /* called at least every few milliseconds */
    void *argument;
};

struct tlaw_problem {
    size_t n_rows;
    int n_params;
    /* residuals (count) and, unless NULL, jacobian (count x n_params, row-major) of rows first .. first +
     * count - 1. False outside the domain of the model; non-finite residuals count as outside. */
    bool (*evaluate)(const struct tlaw_problem *problem, const double *params, size_t first, size_t count,
                     double *residuals, double *jacobian);
    const void *data;
    const double *weights; /* per row, >= 0; NULL: all 1 */
    double delta;          /* INFINITY: least squares */
    uint32_t fixed;        /* bit j: parameter j stays as it is */
    uint32_t linear; /* least squares only, bit j: residuals are affine in these parameters taken together */
    const struct tlaw_host *host;
    double enough; /* relative offset at which to stop; 0: go on to the limit of rounding */
    bool warm;     /* Huber: the start is near the minimum, skip IRLS */
};

struct tlaw_solution {
    double params[TLAW_SOLVER_MAX_PARAMS];
    double objective;
    /* Largest cosine between a free parameter's column of the Jacobian and the vector of rho'(r): 0 at a
     * minimum, free of units and of the number of rows. */
    double gradient_norm;
    /* Length of the Gauss-Newton step over that of the residuals, in the metric of the curvature (Bates &
     * Watts, Technometrics 23, 1981): the distance to the minimum, whatever the parametrisation. */
    double relative_offset;
    int iterations;
    bool valid;     /* the model could be evaluated at params */
    bool converged; /* both below their tolerances */
};

#define TLAW_GRADIENT_TOLERANCE 1e-6
#define TLAW_OFFSET_TOLERANCE   1e-4

/*
 * Damped Gauss-Newton (Levenberg-Marquardt, columns scaled as in MINPACK, Nielsen's rule for the damping) on
 * a QR factorisation of the Jacobian; for Huber's loss IRLS weights first, then the Hessian's own weights
 * (rho''), which converge quadratically.  Linear parameters are projected out: solved for exactly at every
 * trial point, so that the search runs over the others (variable projection; a Gauss-Newton step in all
 * parameters followed by the exact solve has the rate of Kaufman's: Ruhe & Wedin, SIAM Review 22, 1980).
 * Where parameters are linear, the search without projection is run as well and the lower objective kept:
 * from a poor start either can run away.  At most max_iterations steps: 0 only evaluates and certifies
 * `start`.
 */
void tlaw_solve(const struct tlaw_problem *problem, const double *start, int max_iterations,
                struct tlaw_solution *solution);

#endif
