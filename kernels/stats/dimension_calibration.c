/*
 * The default estimator: MacKay & Ghahramani's reading with few neighbours, corrected for the bias that it
 * has on a set with a boundary.
 *
 * On n points uniform in a d-ball the reading is R(d) < d, because at practical n a neighbourhood in many
 * dimensions reaches the boundary; R depends on n and k through n / k alone, to .3 %.  R was simulated
 * (regress/bench/dimension_calibration.c) for d = 1..100 and n = 100..100,000, and ln(d / R) fitted by a
 * polynomial in log10 d and log10 n/k.  The answer is the d with R(d) = the reading. What it cannot know: a
 * set without boundary (a sphere, a torus) has less of this bias, or the opposite one, and is read too high;
 * tlaw's documentation gives the figures.
 */
#include "dimension_internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define DEGREE_D 5
#define DEGREE_N 3
#define LARGEST  100 /* dimension simulated */

/* ln(d / R): coefficient of (log10 d)^i (log10 n/k)^j */
static const double coefficient[DEGREE_D + 1][DEGREE_N + 1] = {
    {0.069545, -0.076408, 0.025605, -0.002578}, {0.467305, -0.508785, 0.187127, -0.023655},
    {-0.728373, 1.345841, -0.593673, 0.080214}, {1.057149, -1.753493, 0.769748, -0.104270},
    {-0.448087, 0.894544, -0.404135, 0.055602}, {0.063950, -0.158725, 0.074878, -0.010527},
};

double tlaw_calibration(double d, double n, int k)
{
    double x = log10(fmin(LARGEST, fmax(1, d))), y = log10(fmin(20000, fmax(15, n / k))), g = 0;

    for (int i = DEGREE_D; i >= 0; i--) {
        double inner = 0;

        for (int j = DEGREE_N; j >= 0; j--)
            inner = inner * y + coefficient[i][j];
        g = g * x + inner;
    }
    return d * exp(-fmax(0, g));
}

int tlaw_dimension_calibrated(const struct dimension_problem *problem, struct tlaw_dimension *result)
{
    double n = (double) problem->points.n, low = 0, high = 4 * LARGEST;
    int k = problem->options.k, status = tlaw_dimension_mackay(problem, result);
    double reading = result->dimension;

    if (status || isnan(reading))
        return status;
    for (int i = 0; i < 100; i++) { /* R grows with d */
        double middle = (low + high) / 2;

        if (tlaw_calibration(middle, n, k) < reading)
            low = middle;
        else
            high = middle;
    }
    double step = 1e-4 * high,
           slope = (tlaw_calibration(high + step, n, k) - tlaw_calibration(high - step, n, k)) / (2 * step);
    size_t used = strlen(result->message);
    result->dimension = high;
    result->standard_error /= slope;
    snprintf(result->message + used, sizeof result->message - used, "%sread %.4g before calibration%s",
             used ? "; " : "", reading, high > LARGEST ? "; above 100, where it was not simulated" : "");
    return 0;
}
