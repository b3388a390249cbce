/* Distribution functions and quantiles: normal, Student, chi-squared, F.  Relative accuracy about 1e-12. */
#ifndef TLAW_DISTRIBUTIONS_H
#define TLAW_DISTRIBUTIONS_H

double tlaw_normal_cdf(double x);
double tlaw_normal_quantile(double p); /* p in (0, 1) */

/* Regularised incomplete beta I_x(a, b) and lower gamma P(a, x). */
double tlaw_incomplete_beta(double a, double b, double x);
double tlaw_incomplete_gamma(double a, double x);

/* Degrees of freedom are real and positive; INFINITY is the normal distribution. */
double tlaw_student_cdf(double t, double df);
double tlaw_student_two_sided(double t, double df); /* P(|T| >= |t|) */
double tlaw_student_quantile(double p, double df);

double tlaw_chi_squared_cdf(double x, double df);
double tlaw_chi_squared_quantile(double p, double df);
double tlaw_f_upper(double f, double df1, double df2); /* P(F >= f) */

#endif
