/*
 * What the law_*.c files share: fits in a memory context of their own, interruptible, and the pieces of
 * results.
 */
#ifndef TLAW_LAW_H
#define TLAW_LAW_H

#include "tlaw.h"

#include "../kernels/stats/fit.h"
#include "funcapi.h"

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

/* ---- rows of a study or a query (law_rows.c) ---- */

/* Column by column: NULL entries are flagged. */
struct law_source {
    const char *source; /* as given */
    bool is_study;
    int64 n;
    void *table; /* SPITupleTable */
    MemoryContext context;
};

/* Which columns a fit reads and how it is made; NULL: the first of the usual names that the rows have. */
struct law_request {
    const char *x, *y, *cluster, *n_params;
    enum tlaw_loss loss;
    double delta, level;
    bool replicate_weights;
};

/* Runs the query, or reads the finished runs of the study, with the caller's rights; until law_close, SPI is
 * connected. Results of the functions below live in the context that was current at law_open. */
extern struct law_source *law_open(const char *source);
extern void law_close(struct law_source *source);
/* A query has a blank or a parenthesis; a study's name may have one. */
extern bool law_looks_like_query(const char *source);
extern bool law_has_column(const struct law_source *source, const char *name);
/* The first of the names that is a column; NULL when none is. */
extern const char *law_first_column(const struct law_source *source, const char *const *names, int n);
/* Values of a numeric column, nulls flagged; an error names the argument that asks for it, and the columns
 * that there are, when it is missing or not a number. */
extern double *law_column(const struct law_source *source, const char *argument, const char *name,
                          bool **nulls);
/* Distinct non-null values of a column, as text, or 0 when there is no such column. */
extern int law_distinct(const struct law_source *source, const char *name);
/* The rows of a form, with request's names resolved (request is filled in); rows with a NULL are left out.
 * index: the source row of each, unless NULL. */
extern struct tlaw_row *law_rows(const struct law_source *source, enum tlaw_form form,
                                 struct law_request *request, int64 *n, int64 **index);
/* FLOPs of each row: column flops, else 6 N D, else the law's variable. */
extern double law_flops(const struct law_source *source, enum tlaw_form form, const struct tlaw_row *row,
                        int64 index);

/* ---- arguments ---- */

extern char *law_text_argument(FunctionCallInfo fcinfo, int i);                  /* NULL for NULL */
extern enum tlaw_form law_form_argument(const char *argument, const char *name); /* error lists the forms */
/* Forms of a text[] argument; for NULL the two power laws, or where a source is given all whose variables it
 * has. */
extern int law_forms_argument(FunctionCallInfo fcinfo, int i, const struct law_source *source,
                              enum tlaw_form *forms);
extern enum tlaw_loss law_loss_argument(const char *loss);
extern const char *law_loss_name(const struct tlaw_fit *fit);

/* ---- fits as rows (law_store.c) ---- */

struct law_record {
    const char *study, *source, *uncertainty, *analysis;
    const struct law_request *request;
    int draws;
    int64 seed;
    const double (*bootstrap)[TLAW_MAX_PARAMS];
    const double *start; /* NULL: several */
    int max_iterations;  /* < 0: enough */
    double alpha_dropped, beta_dropped;
    const uint8 *sha256; /* 32 bytes */
};

/* Saves a fit for the caller; returns its id. */
extern int64 law_save(const struct tlaw_fit *fit, const struct law_record *record);
/* Loads a fit that the caller may read. draws: bootstrap draws, if wanted and kept. */
extern void law_load(int64 fit_id, struct tlaw_fit *fit, double (**draws)[TLAW_MAX_PARAMS], int *n_draws,
                     struct law_request *request);
/* The variables of a form from the arguments n_params, n_tokens, unique_tokens, x at i .. i + 3; errors name
 * what is missing. */
extern void law_variables(FunctionCallInfo fcinfo, int i, enum tlaw_form form, double *variables);

#endif
