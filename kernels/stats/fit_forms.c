/* The forms of scaling laws; see fit_forms.h. */
#include "fit_forms.h"

#include <math.h>
#include <string.h>

static const struct tlaw_form_info forms[TLAW_FORMS] = {
    [TLAW_POWER_LAW] = {.name = "power_law",
                        .n_variables = 1,
                        .n_params = 2,
                        .variables = {"x"},
                        .params = {"ln_a", "alpha"},
                        .irreducible = -1,
                        .a = 0,
                        .b = -1,
                        .alpha = 1,
                        .beta = -1,
                        .distinct = 2,
                        .delta = INFINITY},
    [TLAW_POWER_LAW_OFFSET] = {.name = "power_law_offset",
                               .n_variables = 1,
                               .n_params = 3,
                               .variables = {"x"},
                               .params = {"irreducible", "ln_a", "alpha"},
                               .irreducible = 0,
                               .a = 1,
                               .b = -1,
                               .alpha = 2,
                               .beta = -1,
                               .distinct = 3,
                               .delta = INFINITY},
    [TLAW_CHINCHILLA] = {.name = "chinchilla",
                         .n_variables = 2,
                         .n_params = 5,
                         .variables = {"n_params", "n_tokens"},
                         .params = {"irreducible", "ln_a", "ln_b", "alpha", "beta"},
                         .irreducible = 0,
                         .a = 1,
                         .b = 2,
                         .alpha = 3,
                         .beta = 4,
                         .distinct = 3,
                         .delta = 1e-3},
    [TLAW_KAPLAN] = {.name = "kaplan",
                     .n_variables = 2,
                     .n_params = 4,
                     .variables = {"n_params", "n_tokens"},
                     .params = {"ln_a", "ln_b", "alpha", "beta"},
                     .irreducible = -1,
                     .a = 0,
                     .b = 1,
                     .alpha = 2,
                     .beta = 3,
                     .distinct = 2,
                     .delta = 1e-3},
    [TLAW_DATA_CONSTRAINED] = {.name = "data_constrained",
                               .n_variables = 3,
                               .n_params = 7,
                               .variables = {"n_params", "n_tokens", "unique_tokens"},
                               .params = {"irreducible", "ln_a", "ln_b", "alpha", "beta", "ln_repeat_tokens",
                                          "ln_repeat_params"},
                               .irreducible = 0,
                               .a = 1,
                               .b = 2,
                               .alpha = 3,
                               .beta = 4,
                               .distinct = 3,
                               .delta = 1e-3},
    [TLAW_FARSEER] = {.name = "farseer",
                      .n_variables = 2,
                      .n_params = 9,
                      .variables = {"n_params", "n_tokens"},
                      .params = {"s", "q", "S", "B", "b", "Q", "A", "a", "E"},
                      .irreducible = -1,
                      .a = -1,
                      .b = -1,
                      .alpha = -1,
                      .beta = -1,
                      .distinct = 4,
                      .delta = 1e-3},
    [TLAW_SATURATING] = {.name = "saturating",
                         .n_variables = 1,
                         .n_params = 4,
                         .variables = {"x"},
                         .params = {"irreducible", "ln_a", "ln_b", "alpha"},
                         .irreducible = 0,
                         .a = 1,
                         .b = 2,
                         .alpha = 3,
                         .beta = -1,
                         .distinct = 4,
                         .delta = INFINITY},
};

const struct tlaw_form_info *tlaw_form_info(enum tlaw_form form)
{
    return (int) form >= 0 && form < TLAW_FORMS ? &forms[form] : NULL;
}

enum tlaw_form tlaw_form_named(const char *name)
{
    int form = 0;
    while (form < TLAW_FORMS && strcmp(forms[form].name, name) != 0)
        form++;
    return form;
}

/* ---- values; p: working parameters, x: centred logarithms, g: gradient ---- */

static double power_law(const double *p, const double *x, double *g)
{
    double f = exp(p[0] - p[1] * x[0]);
    if (g) {
        g[0] = f;
        g[1] = -f * x[0];
    }
    return f;
}

static double power_law_offset(const double *p, const double *x, double *g)
{
    double f = exp(p[1] - p[2] * x[0]);
    if (g) {
        g[0] = 1;
        g[1] = f;
        g[2] = -f * x[0];
    }
    return p[0] + f;
}

static double chinchilla(const double *p, const double *x, double *g)
{
    double a = exp(p[1] - p[3] * x[0]), b = exp(p[2] - p[4] * x[1]);
    if (g) {
        g[0] = 1;
        g[1] = a;
        g[2] = b;
        g[3] = -a * x[0];
        g[4] = -b * x[1];
    }
    return p[0] + a + b;
}

/* Working: ln L = beta ln(exp(p0 - p2 n) + exp(p1 - d)), p2 = alpha / beta. */
static double kaplan(const double *p, const double *x, double *g)
{
    double u = p[0] - p[2] * x[0], v = p[1] - x[1], top = fmax(u, v);
    double eu = exp(u - top), ev = exp(v - top), sum = eu + ev, lse = top + log(sum), f = exp(p[3] * lse);
    if (g) {
        g[0] = f * p[3] * eu / sum;
        g[1] = f * p[3] * ev / sum;
        g[2] = -g[0] * x[0];
        g[3] = f * lse;
    }
    return f;
}

/*
 * Effective size ln(U (1 + R* (1 - exp(-R/R*)))), R = exp(x - u) - 1 repetitions of u = ln U; by_u and by_r:
 * its derivatives by u and by ln R*.
 */
static double effective(double x, double u, double r_star, double *by_u, double *by_r)
{
    double r = expm1(fmax(x - u, 0)), t = r / r_star, e = exp(-t), sum = 1 - r_star * expm1(-t);
    *by_u = 1 - e * (r + 1) / sum;
    *by_r =
        (t < 1e-4 ? r * t * (0.5 - t / 3) : -r_star * expm1(-t) - r * e) / sum; /* the difference cancels */
    return u + log(sum);
}

/* x: ln N, ln D, ln U.  U_N = min(N, the compute-optimal N of U tokens): Muennighoff et al., appendix A. */
static double data_constrained(const double *p, const double *x, double *g)
{
    if (!(p[3] > 0 && p[4] > 0))
        return NAN;
    double optimal = (log(p[3] / p[4]) + p[1] - p[2] + p[4] * x[2]) / p[3];
    bool excess = optimal < x[0];
    double n_by_u, n_by_r, d_by_u, d_by_r;
    double n = effective(x[0], excess ? optimal : x[0], exp(p[6]), &n_by_u, &n_by_r);
    double d = effective(x[1], fmin(x[2], x[1]), exp(p[5]), &d_by_u, &d_by_r);
    double a = exp(p[1] - p[3] * n), b = exp(p[2] - p[4] * d);
    if (g) {
        double slope = excess ? -a * p[3] * n_by_u / p[3] : 0; /* d f / d optimal, times 1 / alpha */
        g[0] = 1;
        g[1] = a + slope;
        g[2] = b - slope;
        g[3] = -a * n + slope * (1 / p[3] - optimal);
        g[4] = -b * d + slope * (x[2] - 1 / p[4]);
        g[5] = -b * p[4] * d_by_r;
        g[6] = -a * p[3] * n_by_r;
    }
    return p[0] + a + b;
}

/* (exp(q x) - 1) / q, x where q is 0; *by_q: its derivative by q. */
static double box_cox(double x, double q, double *by_q)
{
    double t = q * x;
    if (fabs(t) < 1e-4) {
        *by_q = x * x * (0.5 + t / 3 + t * t / 8);
        return x * (1 + t / 2 + t * t / 6);
    }
    *by_q = (t * exp(t) - expm1(t)) / (q * q);
    return expm1(t) / q;
}

/* Working: three functions p0 + p1 box_cox(n, p2) for ln of the floor, ln of the data term, ln of the data
 * exponent. */
static double farseer(const double *p, const double *x, double *g)
{
    double c[3], by_q[3], u[3];
    for (int i = 0; i < 3; i++) {
        c[i] = box_cox(x[0], p[3 * i + 2], &by_q[i]);
        u[i] = p[3 * i] + p[3 * i + 1] * c[i];
    }
    double exponent = exp(u[2]), floor = exp(u[0]), data = exp(u[1] - exponent * x[1]);
    for (int i = 0; g && i < 3; i++) {
        double by_u = i == 0 ? floor : i == 1 ? data : -data * exponent * x[1];
        g[3 * i] = by_u;
        g[3 * i + 1] = by_u * c[i];
        g[3 * i + 2] = by_u * p[3 * i + 1] * by_q[i];
    }
    return floor + data;
}

/* Working: E + exp(p1) / (exp(p3 x) + exp(p2)). */
static double saturating(const double *p, const double *x, double *g)
{
    double top = fmax(p[3] * x[0], p[2]), rise = exp(p[3] * x[0] - top), knee = exp(p[2] - top);
    double f = exp(p[1] - top) / (rise + knee);
    if (g) {
        g[0] = 1;
        g[1] = f;
        g[2] = -f * knee / (rise + knee);
        g[3] = -f * x[0] * rise / (rise + knee);
    }
    return p[0] + f;
}

double tlaw_form_value(enum tlaw_form form, const double *working, const double *x, double *gradient)
{
    switch (form) {
    case TLAW_POWER_LAW:
        return power_law(working, x, gradient);
    case TLAW_POWER_LAW_OFFSET:
        return power_law_offset(working, x, gradient);
    case TLAW_CHINCHILLA:
        return chinchilla(working, x, gradient);
    case TLAW_KAPLAN:
        return kaplan(working, x, gradient);
    case TLAW_DATA_CONSTRAINED:
        return data_constrained(working, x, gradient);
    case TLAW_FARSEER:
        return farseer(working, x, gradient);
    case TLAW_SATURATING:
        return saturating(working, x, gradient);
    default:
        return NAN;
    }
}

/* ---- working <-> natural; c: centre, the mean logarithms ---- */

bool tlaw_form_to_natural(enum tlaw_form form, const double *p, const double *c, double *natural)
{
    memcpy(natural, p, sizeof(double) * forms[form].n_params);
    switch (form) {
    case TLAW_POWER_LAW:
        natural[0] += p[1] * c[0];
        return true;
    case TLAW_POWER_LAW_OFFSET:
        natural[1] += p[2] * c[0];
        return true;
    case TLAW_CHINCHILLA:
    case TLAW_DATA_CONSTRAINED:
        natural[1] += p[3] * c[0];
        natural[2] += p[4] * c[1];
        return true;
    case TLAW_KAPLAN:
        natural[0] = p[0] / p[2] + c[0];
        natural[1] = p[1] + c[1];
        natural[2] = p[2] * p[3];
        natural[3] = p[3];
        return p[2] != 0;
    case TLAW_FARSEER:
        for (int i = 0; i < 3; i++) { /* s N^q + S */
            double q = p[3 * i + 2], ratio = q != 0 ? p[3 * i + 1] / q : 0;
            natural[3 * i] = ratio * exp(-q * c[0]);
            natural[3 * i + 1] = q;
            natural[3 * i + 2] = p[3 * i] - ratio;
        }
        return p[2] != 0 && p[5] != 0 && p[8] != 0;
    case TLAW_SATURATING:
        natural[1] += p[3] * c[0];
        natural[2] += p[3] * c[0];
        return true;
    default:
        return false;
    }
}

bool tlaw_form_from_natural(enum tlaw_form form, const double *natural, const double *c, double *p)
{
    memcpy(p, natural, sizeof(double) * forms[form].n_params);
    switch (form) {
    case TLAW_POWER_LAW:
        p[0] -= p[1] * c[0];
        return true;
    case TLAW_POWER_LAW_OFFSET:
        p[1] -= p[2] * c[0];
        return true;
    case TLAW_CHINCHILLA:
    case TLAW_DATA_CONSTRAINED:
        p[1] -= p[3] * c[0];
        p[2] -= p[4] * c[1];
        return true;
    case TLAW_KAPLAN:
        p[3] = natural[3];
        p[2] = natural[2] / natural[3];
        p[1] = natural[1] - c[1];
        p[0] = (natural[0] - c[0]) * p[2];
        return natural[3] != 0;
    case TLAW_FARSEER:
        for (int i = 0; i < 3; i++) {
            double s = natural[3 * i] * exp(natural[3 * i + 1] * c[0]);
            p[3 * i] = natural[3 * i + 2] + s;
            p[3 * i + 1] = s * natural[3 * i + 1];
            p[3 * i + 2] = natural[3 * i + 1];
        }
        return true;
    case TLAW_SATURATING:
        p[1] -= p[3] * c[0];
        p[2] -= p[3] * c[0];
        return true;
    default:
        return false;
    }
}

double tlaw_form_predict(enum tlaw_form form, const double *natural, const double *variables,
                         double *gradient)
{
    static const double zero[TLAW_MAX_VARIABLES];
    double x[TLAW_MAX_VARIABLES] = {0}, working[TLAW_MAX_PARAMS], moved[TLAW_MAX_PARAMS];

    for (int v = 0; v < forms[form].n_variables; v++) {
        if (!(variables[v] > 0) || !isfinite(variables[v]))
            return NAN;
        x[v] = log(variables[v]);
    }
    for (int j = 0; gradient && j < forms[form].n_params; j++) {
        double h = 1e-5 * fmax(fabs(natural[j]), 1e-2), ends[2];
        memcpy(moved, natural, sizeof(double) * forms[form].n_params);
        for (int side = 0; side < 2; side++) {
            moved[j] = natural[j] + (side ? h : -h);
            tlaw_form_from_natural(form, moved, zero, working);
            ends[side] = tlaw_form_value(form, working, x, NULL);
        }
        gradient[j] = (ends[1] - ends[0]) / (2 * h);
    }
    if (!tlaw_form_from_natural(form, natural, zero, working))
        return NAN;
    return tlaw_form_value(form, working, x, NULL);
}
