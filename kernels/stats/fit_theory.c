/*
 * Theory against observation; see fit_theory.h.  The interval of a difference is put together from those of
 * its parts side by side (MOVER: Zou & Donner, Statistics in Medicine 27, 2008), so that their asymmetry is
 * kept and the difference is never known better than its worse part.
 */
#include "fit_theory.h"

#include <math.h>

#include "distributions.h"

double tlaw_theory_exponent(enum tlaw_theory theory, double dimension, double smoothness)
{
    return theory == TLAW_THEORY_DATA ? 2 * smoothness / (2 * smoothness + dimension)
                                      : 2 * smoothness / dimension;
}

/* p-value, two-sided, of a sum that is off by `off`: the level at which the half widths t a and z b, t and z
 * of that level, reach it side by side. */
static double tail_of(double off, double a, double df, double b)
{
    double low = 0, high = 1;
    for (int i = 0; i < 50; i++) {
        double p = 0.5 * (low + high), q = 1 - 0.5 * p;
        if (hypot(tlaw_student_quantile(q, df) * a, tlaw_normal_quantile(q) * b) > fabs(off))
            low = p;
        else
            high = p;
    }
    return high;
}

/* The smoothness that gives exponent alpha at dimension d, as its logarithm. */
static double log_smoothness(enum tlaw_theory theory, double alpha, double log_dimension)
{
    double odds = theory == TLAW_THEORY_DATA ? alpha / (1 - alpha) : alpha;
    return log(odds) + log_dimension - M_LN2;
}

static void reconcile(struct tlaw_theory_test *test)
{
    double log_d = log(test->dimension);
    bool data = test->theory == TLAW_THEORY_DATA, open_low = test->alpha_low <= 0;
    bool open_high = data && test->alpha_high >= 1;
    double middle = log_smoothness(test->theory, test->alpha, log_d);

    test->smoothness_low = 0;
    test->smoothness_high = INFINITY;
    if (!(test->alpha > 0) || (data && test->alpha >= 1))
        return;
    if (!open_low)
        test->smoothness_low =
            exp(middle - hypot(middle - log_smoothness(test->theory, test->alpha_low, log_d),
                               log_d - log(test->dimension_low)));
    if (!open_high)
        test->smoothness_high =
            exp(middle + hypot(log_smoothness(test->theory, test->alpha_high, log_d) - middle,
                               log(test->dimension_high) - log_d));
}

static void decide(struct tlaw_theory_test *test, double half_alpha, double half_predicted)
{
    test->runs_factor = NAN;
    test->dimension_limits = false;
    if (test->low > 0) {
        test->verdict = TLAW_STEEPER;
    } else if (test->high < 0) {
        test->verdict = TLAW_VIOLATES;
    } else if (fmax(-test->low, test->high) <= test->tolerance) {
        test->verdict = TLAW_TIGHT;
    } else {
        double room = test->tolerance * test->tolerance - half_predicted * half_predicted;
        test->verdict = TLAW_UNDECIDED;
        test->dimension_limits = room <= 0;
        if (room > 0)
            test->runs_factor = fmax(1, half_alpha * half_alpha / room);
    }
}

bool tlaw_test_theory(struct tlaw_theory_test *test)
{
    double z = tlaw_normal_quantile(0.5 + 0.5 * test->level);
    double c = tlaw_student_quantile(0.5 + 0.5 * test->level, test->alpha_df);

    if (!(test->dimension_low > 0) || !(test->dimension >= test->dimension_low) ||
        !(test->dimension_high >= test->dimension) || !isfinite(test->dimension_high) ||
        !(test->smoothness > 0) || !isfinite(test->alpha) || !isfinite(test->alpha_low) ||
        !isfinite(test->alpha_high) || !(test->alpha_df > 0))
        return false;
    test->predicted = tlaw_theory_exponent(test->theory, test->dimension, test->smoothness);
    test->predicted_low = tlaw_theory_exponent(test->theory, test->dimension_high, test->smoothness);
    test->predicted_high = tlaw_theory_exponent(test->theory, test->dimension_low, test->smoothness);
    test->difference = test->alpha - test->predicted;

    double fall = test->alpha - test->alpha_low, rise = test->alpha_high - test->alpha;
    double up = test->predicted_high - test->predicted, down = test->predicted - test->predicted_low;
    test->low = test->difference - hypot(fall, up);
    test->high = test->difference + hypot(rise, down);
    test->p = test->difference > 0 ? tail_of(test->difference, fall / c, test->alpha_df, up / z)
                                   : tail_of(test->difference, rise / c, test->alpha_df, down / z);
    reconcile(test);
    decide(test, fmax(test->alpha_high - test->alpha, test->alpha - test->alpha_low),
           fmax(test->predicted_high - test->predicted, test->predicted - test->predicted_low));
    return true;
}
