/*
 * Distribution functions; see distributions.h.  Incomplete beta by Lentz's continued fraction, incomplete
 * gamma by series or continued fraction (Abramowitz & Stegun 26.5.8, 6.5.29, 6.5.31); quantiles by bisection
 * on the distribution function, which is monotone and cheap.
 */
#include "distributions.h"

#include <math.h>

double tlaw_normal_cdf(double x)
{
    return 0.5 * erfc(-x / M_SQRT2);
}

/* The x at which an increasing cdf reaches p, in [low, high]. */
static double invert(double (*cdf)(double, double), double parameter, double p, double low, double high)
{
    for (int i = 0; i < 200 && high - low > 1e-15 * (fabs(low) + fabs(high)); i++) {
        double middle = 0.5 * (low + high);
        if (cdf(middle, parameter) < p)
            low = middle;
        else
            high = middle;
    }
    return 0.5 * (low + high);
}

static double normal_cdf_of(double x, double unused)
{
    (void) unused;
    return tlaw_normal_cdf(x);
}

double tlaw_normal_quantile(double p)
{
    if (p > 0.5) /* keep the accuracy of the lower tail */
        return -tlaw_normal_quantile(1 - p);
    return invert(normal_cdf_of, 0, p, -40, 0);
}

static double beta_fraction(double a, double b, double x)
{
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double value = d;
    for (int m = 1; m <= 10000; m++) {
        for (int odd = 0; odd < 2; odd++) {
            double term = odd ? -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
                              : m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
            d = 1 + term * d;
            d = 1 / (fabs(d) < tiny ? tiny : d);
            c = 1 + term / c;
            c = fabs(c) < tiny ? tiny : c;
            value *= d * c;
        }
        if (fabs(d * c - 1) < 1e-15)
            break;
    }
    return value;
}

double tlaw_incomplete_beta(double a, double b, double x)
{
    if (x <= 0 || x >= 1)
        return x <= 0 ? 0 : 1;
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1) / (a + b + 2))
        return front * beta_fraction(a, b, x) / a;
    return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double tlaw_incomplete_gamma(double a, double x)
{
    if (!(x > 0))
        return 0;
    double front = exp(a * log(x) - x - lgamma(a));
    if (x < a + 1) {
        double term = 1 / a, sum = term;
        for (int n = 1; n < 100000 && term > 1e-17 * sum; n++) {
            term *= x / (a + n);
            sum += term;
        }
        return front * sum;
    }
    double b = x + 1 - a, c = 1e300, d = 1 / b, value = d;
    for (int n = 1; n < 100000; n++) {
        double factor = -n * (n - a);
        b += 2;
        d = 1 / (factor * d + b);
        c = b + factor / c;
        value *= d * c;
        if (fabs(d * c - 1) < 1e-15)
            break;
    }
    return 1 - front * value;
}

double tlaw_student_two_sided(double t, double df)
{
    if (!isfinite(df) || df > 1e10)
        return erfc(fabs(t) / M_SQRT2);
    return isinf(t) ? 0 : tlaw_incomplete_beta(0.5 * df, 0.5, df / (df + t * t));
}

double tlaw_student_cdf(double t, double df)
{
    double tail = 0.5 * tlaw_student_two_sided(t, df);
    return t > 0 ? 1 - tail : tail;
}

double tlaw_student_quantile(double p, double df)
{
    if (p > 0.5)
        return -tlaw_student_quantile(1 - p, df);
    double low = -1;
    while (tlaw_student_cdf(low, df) > p && low > -1e300)
        low *= 2;
    return invert(tlaw_student_cdf, df, p, low, 0);
}

double tlaw_chi_squared_cdf(double x, double df)
{
    return tlaw_incomplete_gamma(0.5 * df, 0.5 * x);
}

double tlaw_chi_squared_quantile(double p, double df)
{
    double high = df + 1;
    while (tlaw_chi_squared_cdf(high, df) < p && high < 1e300)
        high *= 2;
    return invert(tlaw_chi_squared_cdf, df, p, 0, high);
}

double tlaw_f_upper(double f, double df1, double df2)
{
    if (!(f > 0))
        return 1;
    return tlaw_incomplete_beta(0.5 * df2, 0.5 * df1, df2 / (df2 + df1 * f));
}
