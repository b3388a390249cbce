/*
 * The solver core on the 27 certified regressions of NIST's StRD, from both starting points: at least 9
 * digits of every parameter where double precision allows.  Jacobians by complex step, so that they are
 * exact.
 */
#include <complex.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernels/stats/distributions.h"
#include "../../kernels/stats/fit_solver.h"
#include "tap.h"

static void *host_allocate(void *argument, size_t bytes)
{
    (void) argument;
    return malloc(bytes);
}

static void host_breathe(void *argument)
{
    (void) argument;
}

static const struct tlaw_host host = {host_allocate, host_breathe, NULL};

typedef double complex cd;
typedef cd (*model_function)(const cd *b, const double *x);

struct set {
    const char *name;
    model_function model;
    int n_params;
    uint32_t linear; /* parameters in which the model is linear */
    size_t n;
    double start[2][9], certified[9], y[300], x[300][2];
};

#define X x[0]
#define MODEL(name, expression)                                                                              \
    static cd name(const cd *b, const double *x)                                                             \
    {                                                                                                        \
        return expression;                                                                                   \
    }
MODEL(Bennett5, b[0] * cpow(b[1] + X, -1 / b[2]))
MODEL(BoxBOD, b[0] * (1 - cexp(-b[1] * X)))
MODEL(Chwirut, cexp(-b[0] * X) / (b[1] + b[2] * X))
MODEL(DanWood, b[0] * cpow(X, b[1]))
MODEL(ENSO, b[0] + b[1] * cos(2 * M_PI * X / 12) + b[2] * sin(2 * M_PI * X / 12) +
                b[4] * ccos(2 * M_PI * X / b[3]) + b[5] * csin(2 * M_PI * X / b[3]) +
                b[7] * ccos(2 * M_PI * X / b[6]) + b[8] * csin(2 * M_PI * X / b[6]))
MODEL(Eckerle4, b[0] / b[1] * cexp(-0.5 * ((X - b[2]) / b[1]) * ((X - b[2]) / b[1])))
MODEL(Gauss, b[0] * cexp(-b[1] * X) + b[2] * cexp(-(X - b[3]) * (X - b[3]) / (b[4] * b[4])) +
                 b[5] * cexp(-(X - b[6]) * (X - b[6]) / (b[7] * b[7])))
MODEL(Cubic, (b[0] + X * (b[1] + X * (b[2] + X * b[3]))) / (1 + X * (b[4] + X * (b[5] + X * b[6]))))
MODEL(Kirby2, (b[0] + X * (b[1] + X * b[2])) / (1 + X * (b[3] + X * b[4])))
MODEL(Lanczos, b[0] * cexp(-b[1] * X) + b[2] * cexp(-b[3] * X) + b[4] * cexp(-b[5] * X))
MODEL(MGH09, b[0] * (X * X + X * b[1]) / (X * X + X * b[2] + b[3]))
MODEL(MGH10, b[0] * cexp(b[1] / (X + b[2])))
MODEL(MGH17, b[0] + b[1] * cexp(-X * b[3]) + b[2] * cexp(-X * b[4]))
MODEL(Misra1b, b[0] * (1 - 1 / ((1 + b[1] * X / 2) * (1 + b[1] * X / 2))))
MODEL(Misra1c, b[0] * (1 - 1 / csqrt(1 + 2 * b[1] * X)))
MODEL(Misra1d, b[0] * b[1] * X / (1 + b[1] * X))
MODEL(Nelson, b[0] - b[1] * x[0] * cexp(-b[2] * x[1]))
MODEL(Rat42, b[0] / (1 + cexp(b[1] - b[2] * X)))
MODEL(Rat43, b[0] / cpow(1 + cexp(b[1] - b[2] * X), 1 / b[3]))
MODEL(Roszman1, b[0] - b[1] * X - catan(b[2] / (X - b[3])) / M_PI)

static struct set sets[] = {
    {.name = "Bennett5", .model = Bennett5, .n_params = 3, .linear = 0x1},
    {.name = "BoxBOD", .model = BoxBOD, .n_params = 2, .linear = 0x1},
    {.name = "Chwirut1", .model = Chwirut, .n_params = 3, .linear = 0x0},
    {.name = "Chwirut2", .model = Chwirut, .n_params = 3, .linear = 0x0},
    {.name = "DanWood", .model = DanWood, .n_params = 2, .linear = 0x1},
    {.name = "ENSO", .model = ENSO, .n_params = 9, .linear = 0x1b7},
    {.name = "Eckerle4", .model = Eckerle4, .n_params = 3, .linear = 0x1},
    {.name = "Gauss1", .model = Gauss, .n_params = 8, .linear = 0x25},
    {.name = "Gauss2", .model = Gauss, .n_params = 8, .linear = 0x25},
    {.name = "Gauss3", .model = Gauss, .n_params = 8, .linear = 0x25},
    {.name = "Hahn1", .model = Cubic, .n_params = 7, .linear = 0xf},
    {.name = "Kirby2", .model = Kirby2, .n_params = 5, .linear = 0x7},
    {.name = "Lanczos1", .model = Lanczos, .n_params = 6, .linear = 0x15},
    {.name = "Lanczos2", .model = Lanczos, .n_params = 6, .linear = 0x15},
    {.name = "Lanczos3", .model = Lanczos, .n_params = 6, .linear = 0x15},
    {.name = "MGH09", .model = MGH09, .n_params = 4, .linear = 0x1},
    {.name = "MGH10", .model = MGH10, .n_params = 3, .linear = 0x1},
    {.name = "MGH17", .model = MGH17, .n_params = 5, .linear = 0x7},
    {.name = "Misra1a", .model = BoxBOD, .n_params = 2, .linear = 0x1},
    {.name = "Misra1b", .model = Misra1b, .n_params = 2, .linear = 0x1},
    {.name = "Misra1c", .model = Misra1c, .n_params = 2, .linear = 0x1},
    {.name = "Misra1d", .model = Misra1d, .n_params = 2, .linear = 0x1},
    {.name = "Nelson", .model = Nelson, .n_params = 3, .linear = 0x3},
    {.name = "Rat42", .model = Rat42, .n_params = 3, .linear = 0x1},
    {.name = "Rat43", .model = Rat43, .n_params = 4, .linear = 0x1},
    {.name = "Roszman1", .model = Roszman1, .n_params = 4, .linear = 0x3},
    {.name = "Thurber", .model = Cubic, .n_params = 7, .linear = 0xf},
};

static bool evaluate(const struct tlaw_problem *problem, const double *params, size_t first, size_t count,
                     double *residuals, double *jacobian)
{
    const struct set *set = problem->data;
    int n = set->n_params;
    cd b[9];
    for (int j = 0; j < n; j++)
        b[j] = params[j];
    for (size_t i = 0; i < count; i++) {
        const double *x = set->x[first + i];
        residuals[i] = creal(set->model(b, x)) - set->y[first + i];
        for (int j = 0; jacobian && j < n; j++) {
            double h = 1e-20 * fmax(fabs(params[j]), 1e-30);
            b[j] = params[j] + I * h;
            jacobian[i * n + j] = cimag(set->model(b, x)) / h;
            b[j] = params[j];
        }
    }
    return true;
}

/* Parses a file of NIST: "b1 = start1 start2 certified deviation", data from line 61. */
static int load(struct set *set, const char *folder)
{
    char path[4096], line[512];
    snprintf(path, sizeof path, "%s/nist_strd/%s.dat", folder, set->name);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    for (int number = 1; fgets(line, sizeof line, file); number++) {
        int j;
        double a, b, c, values[3];
        if (number <= 60 && sscanf(line, " b%d = %lf %lf %lf", &j, &a, &b, &c) == 4) {
            set->start[0][j - 1] = a;
            set->start[1][j - 1] = b;
            set->certified[j - 1] = c;
        }
        int got = sscanf(line, "%lf %lf %lf", values, values + 1, values + 2);
        if (number > 60 && got >= 2) {
            set->y[set->n] = set->model == Nelson ? log(values[0]) : values[0];
            set->x[set->n][0] = values[1];
            set->x[set->n++][1] = got > 2 ? values[2] : 0;
        }
    }
    fclose(file);
    return set->n > 0;
}

static void solve_set(struct set *set)
{
    for (int start = 0; start < 2; start++) {
        struct tlaw_problem problem = {.n_rows = set->n,
                                       .n_params = set->n_params,
                                       .evaluate = evaluate,
                                       .data = set,
                                       .delta = INFINITY,
                                       .linear = set->linear,
                                       .host = &host};
        struct tlaw_solution solution;
        double digits = 11;
        tlaw_solve(&problem, set->start[start], 20000, &solution);
        for (int j = 0; j < set->n_params; j++) {
            double error = fabs(solution.params[j] / set->certified[j] - 1);
            digits = fmin(digits, error > 0 ? -log10(error) : 11);
        }
        /* Lanczos1 has no noise: at its minimum nothing is left to certify but rounding */
        ok(digits >= 9 && (solution.converged || solution.objective < 1e-24),
           "%s from start %d: %.1f digits, %d steps, gradient %.0e", set->name, start + 1, digits,
           solution.iterations, solution.gradient_norm);
    }
}

static void test_distributions(void)
{
    ok(fabs(tlaw_normal_quantile(0.975) - 1.959963984540054) < 1e-12, "normal quantile");
    ok(fabs(tlaw_student_quantile(0.975, 3) - 3.182446305284263) < 1e-10, "Student quantile, 3 degrees");
    ok(fabs(tlaw_student_two_sided(2.0, 7.5) - 0.08297338) < 1e-4, "Student tail, 7.5 degrees");
    ok(fabs(tlaw_chi_squared_quantile(0.95, 5) - 11.070497693516351) < 1e-9, "chi-squared quantile");
    ok(fabs(tlaw_f_upper(3.0, 2, 10) - 0.09536743) < 1e-7, "F tail");
}

int main(void)
{
    const char *folder = getenv("TLAW_REFERENCE");
    folder = folder ? folder : "../shared/reference";
    test_distributions();
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        if (load(&sets[i], folder))
            solve_set(&sets[i]);
        else
            skip("%s: no file under %s", sets[i].name, folder);
    }
    return tap_end();
}
