/*
 * The solver core; see fit_solver.h.
 *
 * Invariants: the objective never rises; a solution is certified from a fresh evaluation at its parameters;
 * the order of additions depends on the order of the rows only.
 */
#include "fit_solver.h"

#include <math.h>
#include <string.h>

#include "linalg.h"

enum { P = TLAW_SOLVER_MAX_PARAMS };

/* One pass over the rows. */
struct pass {
    double r[(P + 1) * (P + 1)]; /* triangle of [sqrt(w') J | sqrt(w') psi], free columns only */
    double gradient[P];
    double column[P]; /* norms of the columns of sqrt(w) J */
    double psi_norm, residual_norm, objective;
    double inside; /* weight of the rows with |r| <= delta */
};

static int free_parameters(const struct tlaw_problem *problem, int *index)
{
    int n = 0;
    for (int j = 0; j < problem->n_params; j++)
        if (!(problem->fixed >> j & 1))
            index[n++] = j;
    return n;
}

/* Adds one row; packed: its place in the block that goes into the QR. False when it has no curvature and
 * needs none. */
static bool add_row(const struct tlaw_problem *problem, double w, double r, const double *jacobian,
                    const int *index, int n, bool newton, struct pass *pass, double *packed)
{
    double size = fabs(r), delta = problem->delta;
    bool inside = size <= delta;
    double psi = inside ? r : copysign(delta, r);
    double curvature = inside ? w : newton ? 0 : w * delta / size;
    double root = sqrt(curvature);

    pass->objective += w * (inside ? 0.5 * r * r : delta * (size - 0.5 * delta));
    pass->psi_norm += w * psi * psi;
    pass->residual_norm += w * r * r;
    pass->inside += inside ? w : 0;
    for (int k = 0; k < n; k++) {
        double j = jacobian[index[k]];
        pass->gradient[k] += w * psi * j;
        pass->column[k] += w * j * j;
        packed[k] = root * j;
    }
    packed[n] = root * r;
    return curvature > 0;
}

static bool run_pass(const struct tlaw_problem *problem, const double *params, bool newton, struct pass *pass)
{
    int index[P], n = free_parameters(problem, index), columns = n + 1;
    double residuals[TLAW_SOLVER_BLOCK], jacobian[TLAW_SOLVER_BLOCK * P], packed[TLAW_SOLVER_BLOCK * (P + 1)];

    memset(pass, 0, sizeof *pass);
    for (size_t first = 0; first < problem->n_rows; first += TLAW_SOLVER_BLOCK) {
        size_t count = problem->n_rows - first, used = 0;
        count = count < TLAW_SOLVER_BLOCK ? count : TLAW_SOLVER_BLOCK;
        if (first % (64 * TLAW_SOLVER_BLOCK) == 0)
            problem->host->breathe(problem->host->argument);
        if (!problem->evaluate(problem, params, first, count, residuals, jacobian))
            return false;
        for (size_t i = 0; i < count; i++) {
            double w = problem->weights ? problem->weights[first + i] : 1;
            if (w == 0)
                continue;
            if (!isfinite(residuals[i]))
                return false;
            used += add_row(problem, w, residuals[i], jacobian + i * problem->n_params, index, n, newton,
                            pass, packed + used * columns);
        }
        tlaw_qr_fold(pass->r, columns, packed, used);
    }
    for (int k = 0; k < n; k++) {
        pass->column[k] = sqrt(pass->column[k]);
        if (!isfinite(pass->gradient[k]) || !isfinite(pass->column[k]))
            return false;
    }
    pass->psi_norm = sqrt(pass->psi_norm);
    pass->residual_norm = sqrt(pass->residual_norm);
    return isfinite(pass->objective);
}

static double gradient_cosine(const struct pass *pass, int n)
{
    double largest = 0;
    for (int k = 0; k < n; k++) {
        double scale = pass->column[k] * pass->psi_norm;
        if (scale > 0)
            largest = fmax(largest, fabs(pass->gradient[k]) / scale);
    }
    return largest;
}

/* Length of the undamped step in the metric of the curvature over that of the residuals (the relative offset
 * of Bates and Watts, Technometrics 23, 1981): how far from the minimum, whatever the parametrisation. */
static double relative_offset(const struct pass *pass, int n, bool newton)
{
    double z = 0, half[P];
    if (newton) { /* rows without curvature are not in the factorisation, their gradient is */
        if (!tlaw_solve_upper_transposed(pass->r, n + 1, n, pass->gradient, half))
            return INFINITY;
        for (int k = 0; k < n; k++)
            z += half[k] * half[k];
        return pass->psi_norm > 0 ? sqrt(z) / pass->psi_norm : 0;
    }
    for (int k = 0; k < n; k++)
        z += pass->r[k * (n + 1) + n] * pass->r[k * (n + 1) + n];
    return pass->residual_norm > 0 ? sqrt(z) / pass->residual_norm : 0;
}

/*
 * The step that minimises |R d + z|^2 + lambda |D d|^2, z from the factorisation (least squares, IRLS) or
 * R^-T g (newton, whose gradient has rows without curvature).  Returns the predicted decrease of the
 * objective, < 0 if none.
 */
static double damped_step(const struct pass *pass, int n, bool newton, const double *scale, double lambda,
                          double *step)
{
    double r[(P + 1) * (P + 1)], block[P * (P + 1)], z[P], rd = 0, dd = 0;
    int columns = n + 1;

    memcpy(r, pass->r, sizeof(double) * columns * columns);
    memset(block, 0, sizeof block);
    for (int k = 0; k < n; k++)
        block[k * columns + k] = sqrt(lambda) * scale[k];
    if (newton) /* (R'R + lambda D^2) d = -g by the factor of the sum */
        for (int k = 0; k < n; k++)
            r[k * columns + n] = 0;
    r[n * columns + n] = 0;
    tlaw_qr_fold(r, columns, block, n);
    if (newton) {
        if (!tlaw_solve_upper_transposed(r, columns, n, pass->gradient, z))
            return -1;
    } else {
        for (int k = 0; k < n; k++)
            z[k] = r[k * columns + n];
    }
    if (!tlaw_solve_upper(r, columns, n, z, step))
        return -1;
    for (int k = 0; k < n; k++) {
        double row = 0;
        for (int l = k; l < n; l++)
            row += pass->r[k * columns + l] * step[l];
        rd += row * row;
        dd += scale[k] * scale[k] * step[k] * step[k];
        step[k] = -step[k];
    }
    return 0.5 * rd + lambda * dd;
}

/* Solves for the linear parameters with the others held; leaves params alone when they are not determined. */
static bool project(const struct tlaw_problem *problem, double *params)
{
    struct tlaw_problem linear = *problem;
    struct pass pass;
    int index[P], n;
    double step[P], z[P];

    linear.fixed |= ~linear.linear;
    n = free_parameters(&linear, index);
    if (n == 0 || isfinite(problem->delta))
        return true;
    if (!run_pass(&linear, params, false, &pass))
        return false;
    for (int k = 0; k < n; k++)
        z[k] = pass.r[k * (n + 1) + n];
    if (tlaw_solve_upper(pass.r, n + 1, n, z, step))
        for (int k = 0; k < n; k++)
            params[index[k]] -= step[k];
    return true;
}

/* State of the iteration: the current point, its pass, the damping. */
struct search {
    double params[P], scale[P];
    struct pass pass;
    double lambda, growth;
    bool newton;
};

static void update_scale(struct search *search, int n)
{
    for (int k = 0; k < n; k++) {
        search->scale[k] = fmax(search->scale[k], search->pass.column[k]);
        if (search->scale[k] == 0)
            search->scale[k] = 1;
    }
}

/* Switches between IRLS and Newton weights; the point stays. */
static bool set_weights(const struct tlaw_problem *problem, struct search *search, bool newton)
{
    search->newton = newton;
    search->lambda = newton ? 1e-8 : 1e-4;
    search->growth = 2;
    return run_pass(problem, search->params, newton, &search->pass);
}

/* One damped step. Returns the relative size of the step taken, 0 when it was refused. */
static double advance(const struct tlaw_problem *problem, struct search *search, const int *index, int n)
{
    double step[P], trial[P], moved = 0;
    struct pass next;
    double predicted = damped_step(&search->pass, n, search->newton, search->scale, search->lambda, step);
    bool accepted = false;

    memcpy(trial, search->params, sizeof trial);
    for (int k = 0; k < n; k++) {
        trial[index[k]] += step[k];
        moved = fmax(moved, fabs(step[k]) / (fabs(trial[index[k]]) + 1e-30));
    }
    if (predicted >= 0 && project(problem, trial) && run_pass(problem, trial, search->newton, &next)) {
        double gain = (search->pass.objective - next.objective) / predicted;
        /* where rounding hides the step's effect on the objective, the gradient decides */
        bool rounding = predicted <= 1e-8 * search->pass.objective &&
                        fabs(next.objective - search->pass.objective) <= 1e-8 * search->pass.objective &&
                        relative_offset(&next, n, search->newton) <
                            0.99 * relative_offset(&search->pass, n, search->newton);
        accepted = gain > 1e-4 || rounding;
        if (accepted) {
            memcpy(search->params, trial, sizeof trial);
            search->pass = next;
            search->lambda *= rounding ? 0.1 : fmax(0.1, 1 - pow(2 * fmin(gain, 1) - 1, 3));
            search->growth = 2;
            update_scale(search, n);
            return fmax(moved, 1e-300);
        }
    }
    search->lambda = fmax(search->lambda, 1e-20) * search->growth;
    search->growth *= 2;
    return 0;
}

/* Iterates until the gradient vanishes, no step helps, or the count is reached; returns the steps tried. */
static int iterate(const struct tlaw_problem *problem, struct search *search, const int *index, int n,
                   int max_iterations)
{
    bool robust = isfinite(problem->delta), stuck = false;
    int iteration = 0, irls_steps = 0;

    for (; iteration < max_iterations; iteration++) {
        double before = search->pass.objective;
        if (before == 0)
            break;
        double moved = advance(problem, search, index, n);
        if (moved == 0 && search->lambda > 1e14) { /* no step helps */
            if (!robust || stuck || !set_weights(problem, search, !search->newton))
                break;
            stuck = true; /* the other weights get one try */
            continue;
        }
        if (moved == 0) {
            if (search->newton && search->lambda > 1e2 && !stuck) {
                set_weights(problem, search, false);
                irls_steps = 0;
            }
            continue;
        }
        stuck = false;
        if (problem->enough > 0 && relative_offset(&search->pass, n, search->newton) < problem->enough)
            break;
        if (moved < 1e-15 || (moved < 1e-13 && gradient_cosine(&search->pass, n) < 1e-13))
            break;
        if (robust && !search->newton && ++irls_steps >= 5 &&
            before - search->pass.objective < 0.02 * before && search->pass.inside > n)
            set_weights(problem, search, true);
    }
    return iteration;
}

static void solve_from(const struct tlaw_problem *problem, const double *start, int max_iterations,
                       struct tlaw_solution *solution)
{
    int index[P], n = free_parameters(problem, index);
    struct search search = {.lambda = 1, .growth = 2};

    memset(solution, 0, sizeof *solution);
    memcpy(search.params, start, sizeof(double) * problem->n_params);
    memcpy(solution->params, start, sizeof(double) * problem->n_params);
    solution->objective = solution->gradient_norm = INFINITY;
    if ((max_iterations > 0 && !project(problem, search.params)) ||
        !run_pass(problem, search.params, false, &search.pass))
        return;
    update_scale(&search, n);
    if (problem->warm && isfinite(problem->delta) && search.pass.inside > n)
        set_weights(problem, &search, true);
    solution->iterations = iterate(problem, &search, index, n, max_iterations);
    if (search.newton) /* certify by the same weights whatever the path */
        run_pass(problem, search.params, false, &search.pass);
    memcpy(solution->params, search.params, sizeof(double) * problem->n_params);
    solution->valid = true;
    solution->objective = search.pass.objective;
    solution->gradient_norm = gradient_cosine(&search.pass, n);
    solution->relative_offset = relative_offset(&search.pass, n, false);
    solution->converged = solution->gradient_norm < TLAW_GRADIENT_TOLERANCE &&
                          solution->relative_offset < TLAW_OFFSET_TOLERANCE;
}

void tlaw_solve(const struct tlaw_problem *problem, const double *start, int max_iterations,
                struct tlaw_solution *solution)
{
    struct tlaw_problem plain = *problem;
    struct tlaw_solution other;

    solve_from(problem, start, max_iterations, solution);
    plain.linear = 0;
    if (!(problem->linear & ~problem->fixed) || isfinite(problem->delta) || max_iterations == 0)
        return;
    solve_from(&plain, start, max_iterations, &other);
    if (other.objective < solution->objective * (1 - 1e-9))
        *solution = other;
}
