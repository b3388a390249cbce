/*
 * What the law_*.c files share: fits in a memory context of their own, interruptible, and the pieces of results.
 */
#ifndef TLAW_LAW_H
#define TLAW_LAW_H

#include "tlaw.h"

#include "../kernels/stats/fit.h"

/* A context for one computation, child of the current one, and the host that allocates in it. */
extern MemoryContext tlaw_law_context(struct tlaw_host *host);

/* A float8 or NULL where it is not a number. */
extern void tlaw_set_number(Datum *values, bool *nulls, int i, double value);
extern void tlaw_set_text(Datum *values, bool *nulls, int i, const char *value); /* NULL or "": NULL */
/* A float8[] with NULL where an entry is not a number. */
extern Datum tlaw_number_array(const double *values, int n);
extern Datum tlaw_text_array(const char *const *values, int n);

/* A parameter as users see it: "ln_..." undone. value, se, low, high; NAN all when index < 0. */
extern void tlaw_shown_parameter(const struct tlaw_fit *fit, int index, double shown[4]);

/* Error when a row cannot be used: what: name of the function, for the message. */
extern void tlaw_check_law_row(const char *what, enum tlaw_form form, const struct tlaw_row *row);

#endif
