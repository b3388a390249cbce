/*
 * The forms of scaling laws: their variables, parameters, values and gradients.
 *
 * A form is fitted in working parameters, over logarithms of the variables less their means ("centred"): that
 * takes the correlation of prefactor and exponent away.  Users see natural parameters, with ln in front of
 * those that are stored as logarithms.
 */
#ifndef TLAW_FIT_FORMS_H
#define TLAW_FIT_FORMS_H

#include "fit_solver.h"

enum tlaw_form {
    TLAW_POWER_LAW,        /* A x^-alpha */
    TLAW_POWER_LAW_OFFSET, /* E + A x^-alpha */
    TLAW_CHINCHILLA,       /* E + A N^-alpha + B D^-beta */
    TLAW_KAPLAN,           /* ((Nc/N)^(alpha/beta) + Dc/D)^beta */
    TLAW_DATA_CONSTRAINED, /* Chinchilla in effective N' and D' (Muennighoff et al. 2023) */
    TLAW_FARSEER,          /* exp(s N^q + S) + exp(B N^b + Q) D^-exp(A N^a + E) */
    TLAW_SATURATING,       /* E + A / (x^alpha + b): a plateau E + A/b before the power law */
    TLAW_FORMS
};

enum { TLAW_MAX_VARIABLES = 3, TLAW_MAX_PARAMS = TLAW_SOLVER_MAX_PARAMS };

/* Places of the parameters that the composite type of the aggregates names; -1: the form has none. */
struct tlaw_form_info {
    const char *name;
    int n_variables, n_params;
    const char *variables[TLAW_MAX_VARIABLES];
    const char *params[TLAW_MAX_PARAMS]; /* natural; "ln_..." are logarithms */
    int irreducible, a, b, alpha, beta;
    int distinct; /* distinct values that each of the first two variables must have */
    uint32_t linear;
    bool log_residuals; /* the form's own loss: Huber or squares of log residuals */
    double delta;       /* the form's own Huber threshold; INFINITY: squares */
};

/* NULL unless 0 <= form < TLAW_FORMS. */
const struct tlaw_form_info *tlaw_form_info(enum tlaw_form form);
/* TLAW_FORMS when there is no such name. */
enum tlaw_form tlaw_form_named(const char *name);

/*
 * Value of the law at centred log variables x, and its gradient by working parameters unless NULL. NaN
 * outside the form's domain.
 */
double tlaw_form_value(enum tlaw_form form, const double *working, const double *x, double *gradient);

/* Between working parameters at a centre and natural ones. False where the natural form does not exist. */
bool tlaw_form_to_natural(enum tlaw_form form, const double *working, const double *centre, double *natural);
bool tlaw_form_from_natural(enum tlaw_form form, const double *natural, const double *centre,
                            double *working);

/* The law at natural parameters and positive variables; its gradient by natural parameters unless NULL
 * (central differences). NaN outside the domain. */
double tlaw_form_predict(enum tlaw_form form, const double *natural, const double *variables,
                         double *gradient);

#endif
