/*
 * The fits as aggregates: rows are collected, sorted and fitted by kernels/stats; the result is one tlaw_law.
 *
 * Invariants: the final functions leave the state as it is (window frames call them again and again); rows
 * are sorted before anything else, so that the order in which a plan delivers them does not matter.
 */
#include "law.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/memutils.h"

/* ---- what the law_*.c files share ---- */

static void *context_allocate(void *argument, size_t bytes)
{
    return MemoryContextAllocHuge(argument, Max(bytes, 1));
}

static void check_interrupts(void *argument)
{
    CHECK_FOR_INTERRUPTS();
}

MemoryContext tlaw_law_context(struct tlaw_host *host)
{
    MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "tlaw fit", ALLOCSET_DEFAULT_SIZES);

    host->allocate = context_allocate;
    host->breathe = check_interrupts;
    host->argument = context;
    return context;
}

void tlaw_set_number(Datum *values, bool *nulls, int i, double value)
{
    nulls[i] = isnan(value);
    values[i] = Float8GetDatum(value);
}

void tlaw_set_text(Datum *values, bool *nulls, int i, const char *value)
{
    nulls[i] = value == NULL || value[0] == '\0';
    if (!nulls[i])
        values[i] = CStringGetTextDatum(value);
}

Datum tlaw_number_array(const double *values, int n)
{
    Datum *datums = palloc(sizeof(Datum) * Max(n, 1));
    bool *nulls = palloc(sizeof(bool) * Max(n, 1));
    int lower = 1, i;

    for (i = 0; i < n; i++)
        tlaw_set_number(datums, nulls, i, values[i]);
    return PointerGetDatum(construct_md_array(datums, nulls, 1, &n, &lower, FLOAT8OID, sizeof(float8),
                                              FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

Datum tlaw_text_array(const char *const *values, int n)
{
    Datum *datums = palloc(sizeof(Datum) * Max(n, 1));
    int i;

    for (i = 0; i < n; i++)
        datums[i] = CStringGetTextDatum(values[i]);
    return PointerGetDatum(construct_array(datums, n, TEXTOID, -1, false, TYPALIGN_INT));
}

void tlaw_shown_parameter(const struct tlaw_fit *fit, int index, double shown[4])
{
    const struct tlaw_form_info *info = tlaw_form_info(fit->form);
    int i;

    for (i = 0; i < 4; i++)
        shown[i] = NAN;
    if (index < 0)
        return;
    shown[0] = fit->natural[index];
    shown[1] = fit->se[index];
    shown[2] = fit->low[index];
    shown[3] = fit->high[index];
    if (strncmp(info->params[index], "ln_", 3) != 0)
        return;
    shown[0] = exp(shown[0]);
    shown[1] *= shown[0];
    shown[2] = exp(shown[2]);
    shown[3] = exp(shown[3]);
}

void tlaw_check_law_row(const char *what, enum tlaw_form form, const struct tlaw_row *row)
{
    const struct tlaw_form_info *info = tlaw_form_info(form);
    int v;

    for (v = 0; v <= info->n_variables; v++) {
        double value = v < info->n_variables ? row->x[v] : row->loss;

        if (!(value > 0) || isinf(value))
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("%s: %s is %g, positive finite values are accepted", what,
                                   v < info->n_variables ? info->variables[v] : "loss", value),
                            errdetail("Rows where it is NULL are left out.")));
    }
}

/* ---- the aggregates ---- */

struct law_state {
    int64 n, capacity;
    struct tlaw_row *rows;
};

static void add_row(struct law_state *state, MemoryContext context, const struct tlaw_row *row)
{
    if (state->n == state->capacity) {
        int64 capacity = Max(64, state->capacity * 2);

        state->rows = state->rows == NULL ? MemoryContextAllocHuge(context, sizeof(*row) * capacity)
                                          : repalloc_huge(state->rows, sizeof(*row) * capacity);
        state->capacity = capacity;
    }
    state->rows[state->n++] = *row;
}

/* (state, variables..., loss [, cluster]) */
static Datum accumulate(FunctionCallInfo fcinfo, int n_variables)
{
    MemoryContext context;
    struct law_state *state = PG_ARGISNULL(0) ? NULL : (struct law_state *) PG_GETARG_POINTER(0);
    struct tlaw_row row = {.weight = 1};
    int v;

    if (!AggCheckCallContext(fcinfo, &context))
        elog(ERROR, "called outside an aggregate");
    if (state == NULL)
        state = MemoryContextAllocZero(context, sizeof(*state));
    for (v = 0; v <= n_variables; v++)
        if (PG_ARGISNULL(v + 1))
            PG_RETURN_POINTER(state);
    for (v = 0; v < n_variables; v++)
        row.x[v] = PG_GETARG_FLOAT8(v + 1);
    row.loss = PG_GETARG_FLOAT8(n_variables + 1);
    if (PG_NARGS() > n_variables + 2 && !PG_ARGISNULL(n_variables + 2)) {
        row.clustered = true;
        row.cluster = PG_GETARG_INT64(n_variables + 2);
    }
    add_row(state, context, &row);
    PG_RETURN_POINTER(state);
}

/* The composite of a fit; the order of its columns is that of the type tlaw_law. */
static Datum law_datum(FunctionCallInfo fcinfo, const struct tlaw_fit *fit)
{
    const struct tlaw_form_info *info = tlaw_form_info(fit->form);
    const int places[5] = {info->alpha, info->beta, info->a, info->b, info->irreducible};
    TupleDesc descriptor;
    Datum values[30];
    bool nulls[30] = {false};
    double shown[4];
    int i, k, column = 0;

    if (get_call_result_type(fcinfo, NULL, &descriptor) != TYPEFUNC_COMPOSITE || descriptor->natts != 30)
        elog(ERROR, "tlaw_law is not what this version of tlaw expects");
    tlaw_set_text(values, nulls, column++, info->name);
    for (i = 0; i < 5; i++) {
        tlaw_shown_parameter(fit, fit->fitted ? places[i] : -1, shown);
        for (k = 0; k < 4; k++)
            tlaw_set_number(values, nulls, column++, shown[k]);
    }
    values[column++] = Int64GetDatum((int64) fit->n);
    tlaw_set_number(values, nulls, column++, fit->objective);
    values[column++] = BoolGetDatum(fit->converged);
    tlaw_set_number(values, nulls, column++, fit->gradient_norm);
    tlaw_set_number(values, nulls, column++, fit->irreducible_p);
    tlaw_set_number(values, nulls, column++, fit->curvature_p);
    tlaw_set_number(values, nulls, column++, fit->lack_of_fit_p);
    nulls[column] = !fit->fitted;
    values[column++] = tlaw_number_array(fit->natural, info->n_params);
    tlaw_set_text(values, nulls, column++, fit->message);
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
}

static Datum finish(FunctionCallInfo fcinfo, enum tlaw_form form)
{
    struct law_state empty = {0},
                     *state = PG_ARGISNULL(0) ? &empty : (struct law_state *) PG_GETARG_POINTER(0);
    struct tlaw_fit_options options = {.level = 0.95, .max_iterations = -1, .intervals = true};
    struct tlaw_host host;
    struct tlaw_fit fit;
    MemoryContext context = tlaw_law_context(&host);
    char what[NAMEDATALEN];
    int64 i;

    snprintf(what, sizeof(what), "tlaw_%s", tlaw_form_info(form)->name);
    for (i = 0; i < state->n; i++)
        tlaw_check_law_row(what, form, &state->rows[i]);
    tlaw_fit_run(&host, state->rows, state->n, form, &options, &fit);
    MemoryContextDelete(context);
    PG_RETURN_DATUM(law_datum(fcinfo, &fit));
}

#define TRANSITION(variables)                                                                                \
    PG_FUNCTION_INFO_V1(tlaw_law_accumulate_##variables);                                                    \
    Datum tlaw_law_accumulate_##variables(PG_FUNCTION_ARGS)                                                  \
    {                                                                                                        \
        return accumulate(fcinfo, variables);                                                                \
    }
TRANSITION(1)
TRANSITION(2)
TRANSITION(3)

#define FINAL(name, form)                                                                                    \
    PG_FUNCTION_INFO_V1(tlaw_law_final_##name);                                                              \
    Datum tlaw_law_final_##name(PG_FUNCTION_ARGS)                                                            \
    {                                                                                                        \
        return finish(fcinfo, form);                                                                         \
    }
FINAL(power_law, TLAW_POWER_LAW)
FINAL(power_law_offset, TLAW_POWER_LAW_OFFSET)
FINAL(chinchilla, TLAW_CHINCHILLA)
FINAL(kaplan, TLAW_KAPLAN)
FINAL(data_constrained, TLAW_DATA_CONSTRAINED)
FINAL(farseer, TLAW_FARSEER)
FINAL(saturating, TLAW_SATURATING)
