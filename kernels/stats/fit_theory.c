/*
 * Theory against observation; see fit_theory.h.  The interval of a difference is put together from those of
 * its parts side by side (MOVER: Zou & Donner, Statistics in Medicine 27, 2008), so that their asymmetry is
 * kept; degrees of freedom by Welch and Satterthwaite.
 */
#include "fit_theory.h"

#include <math.h>

#include "distributions.h"

double tlaw_theory_exponent(enum tlaw_theory theory, double dimension, double smoothness)
{
    return theory == TLAW_THEORY_DATA ? 2 * smoothness / (2 * smoothness + dimension)
                                      : 2 * smoothness / dimension;
}

/* Half width at `level` of a sum of an estimate with df degrees of freedom (half width w at critical value c)
 * and a normal one (standard error s). */
static double combined_half_width(double w, double c, double df, double s, double level, double *se,
                                  double *df_out)
{
    double a = w / c * (w / c), b = s * s;
    *se = sqrt(a + b);
    *df_out = isfinite(df) && a > 0 ? (a + b) * (a + b) / (a * a / df) : INFINITY;
    return *se > 0 ? tlaw_student_quantile(0.5 + 0.5 * level, *df_out) * *se : 0;
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
    double z = tlaw_normal_quantile(0.5 + 0.5 * test->level), se, df;
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

    double below = combined_half_width(test->alpha - test->alpha_low, c, test->alpha_df,
                                       (test->predicted_high - test->predicted) / z, test->level, &se, &df);
    double tail = test->difference > 0 ? tlaw_student_two_sided(test->difference / se, df) : NAN;
    double above = combined_half_width(test->alpha_high - test->alpha, c, test->alpha_df,
                                       (test->predicted - test->predicted_low) / z, test->level, &se, &df);
    test->low = test->difference - below;
    test->high = test->difference + above;
    test->p = test->difference > 0 ? tail : tlaw_student_two_sided(test->difference / se, df);
    reconcile(test);
    decide(test, fmax(test->alpha_high - test->alpha, test->alpha - test->alpha_low),
           fmax(test->predicted_high - test->predicted, test->predicted - test->predicted_low));
    return true;
}
