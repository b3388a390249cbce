/*
 * Fits as rows of tlaw_fit_record: saved and loaded with the extension's rights, for the roles of their
 * owner.
 */
#include "law.h"
#include "study.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/array.h"

PG_FUNCTION_INFO_V1(tlaw_drop_fit);

enum { MOST = 48 };

/* Columns of an INSERT, collected one by one. */
struct columns {
    int n;
    Oid types[MOST];
    Datum values[MOST];
    char nulls[MOST + 1];
    StringInfoData names, places;
};

static void put(struct columns *columns, const char *name, Oid type, Datum value, bool null)
{
    columns->types[columns->n] = type;
    columns->values[columns->n] = value;
    columns->nulls[columns->n++] = null ? 'n' : ' ';
    appendStringInfo(&columns->names, "%s%s", columns->n > 1 ? ", " : "", name);
    appendStringInfo(&columns->places, "%s$%d", columns->n > 1 ? ", " : "", columns->n);
}

static void put_text(struct columns *columns, const char *name, const char *value)
{
    bool null = value == NULL || value[0] == '\0';

    put(columns, name, TEXTOID, null ? (Datum) 0 : CStringGetTextDatum(value), null);
}

static void put_number(struct columns *columns, const char *name, double value)
{
    put(columns, name, FLOAT8OID, Float8GetDatum(value), isnan(value));
}

static void put_count(struct columns *columns, const char *name, int64 value)
{
    put(columns, name, INT8OID, Int64GetDatum(value), false);
}

static void put_numbers(struct columns *columns, const char *name, const double *values, int n, bool null)
{
    put(columns, name, FLOAT8ARRAYOID, null ? (Datum) 0 : tlaw_number_array(values, n), null);
}

static void put_flag(struct columns *columns, const char *name, bool value)
{
    put(columns, name, BOOLOID, BoolGetDatum(value), false);
}

static void put_bootstrap(struct columns *columns, const struct law_record *record, int n_params)
{
    double *flat;
    int d;

    if (record->bootstrap == NULL) {
        put_numbers(columns, "bootstrap", NULL, 0, true);
        return;
    }
    flat = palloc(sizeof(double) * record->draws * n_params);
    for (d = 0; d < record->draws; d++)
        memcpy(flat + d * n_params, record->bootstrap[d], sizeof(double) * n_params);
    put_numbers(columns, "bootstrap", flat, record->draws * n_params, false);
}

static void put_request(struct columns *columns, const struct tlaw_fit *fit, const struct law_record *record)
{
    const struct law_request *request = record->request;
    bytea *hash = palloc(VARHDRSZ + 32);

    SET_VARSIZE(hash, VARHDRSZ + 32);
    memcpy(VARDATA(hash), record->sha256, 32);
    put_text(columns, "owner", tlaw_caller_name());
    put_text(columns, "study", record->study);
    put_text(columns, "source", record->source);
    put_text(columns, "x", request->x);
    put_text(columns, "y", request->y);
    put_text(columns, "cluster", request->cluster);
    put_text(columns, "loss", law_loss_name(fit));
    put_number(columns, "delta", isfinite(fit->delta) ? fit->delta : NAN);
    put_text(columns, "weights", request->replicate_weights ? "replicates" : "equal");
    put_text(columns, "uncertainty", record->uncertainty);
    put_number(columns, "level", fit->level);
    put_count(columns, "draws", record->bootstrap ? record->draws : 0);
    put_count(columns, "seed", record->seed);
    put_numbers(columns, "start", record->start, tlaw_form_info(fit->form)->n_params, record->start == NULL);
    put(columns, "max_iterations", INT8OID, Int64GetDatum(record->max_iterations),
        record->max_iterations < 0);
    put(columns, "rows_sha256", BYTEAOID, PointerGetDatum(hash), false);
    put_text(columns, "analysis", record->analysis);
    put_text(columns, "code_version", TLAW_VERSION);
}

static void put_fit(struct columns *columns, const struct tlaw_fit *fit)
{
    const struct tlaw_form_info *info = tlaw_form_info(fit->form);
    int p = info->n_params;

    put_text(columns, "form", info->name);
    put_count(columns, "n", (int64) fit->n);
    put_count(columns, "clusters", fit->n_clusters);
    put_numbers(columns, "smallest", fit->extents.smallest, tlaw_extent_count(fit->form), false);
    put_numbers(columns, "largest", fit->extents.largest, tlaw_extent_count(fit->form), false);
    put(columns, "params", TEXTARRAYOID, tlaw_text_array(info->params, p), false);
    put_numbers(columns, "parameters", fit->natural, p, !fit->fitted);
    put_numbers(columns, "se", fit->se, p, !fit->fitted);
    put_numbers(columns, "low", fit->low, p, !fit->fitted);
    put_numbers(columns, "high", fit->high, p, !fit->fitted);
    put_numbers(columns, "covariance", fit->covariance, p * p, !fit->fitted);
    put_number(columns, "df", fit->df);
    put_number(columns, "noise", fit->noise);
    put_flag(columns, "converged", fit->converged);
    put_flag(columns, "at_bound", fit->at_bound);
    put_number(columns, "objective", fit->objective);
    put_number(columns, "gradient_norm", fit->gradient_norm);
    put_number(columns, "relative_offset", fit->relative_offset);
    put_count(columns, "iterations", fit->iterations);
    put_count(columns, "starts", fit->starts);
    put_count(columns, "starts_reached", fit->starts_reached);
    put_number(columns, "second_objective", fit->second_objective);
    put_number(columns, "second_distance", fit->second_distance);
    put_number(columns, "irreducible_p", fit->irreducible_p);
    put_number(columns, "curvature_p", fit->curvature_p);
    put_number(columns, "lack_of_fit_p", fit->lack_of_fit_p);
    put_text(columns, "message", fit->message);
}

int64 law_save(const struct tlaw_fit *fit, const struct law_record *record)
{
    struct columns columns = {0};
    struct tlaw_session session;
    int64 fit_id;
    bool is_null;

    tlaw_begin(&session);
    if (record->study)
        study_hold(record->study);
    initStringInfo(&columns.names);
    initStringInfo(&columns.places);
    put_request(&columns, fit, record);
    put_fit(&columns, fit);
    put_number(&columns, "alpha_dropped", record->alpha_dropped);
    put_number(&columns, "beta_dropped", record->beta_dropped);
    put_bootstrap(&columns, record, tlaw_form_info(fit->form)->n_params);
    tlaw_execute(SPI_OK_INSERT_RETURNING,
                 psprintf("INSERT INTO @.tlaw_fit_record (%s) VALUES (%s) RETURNING fit_id",
                          columns.names.data, columns.places.data),
                 columns.n, columns.types, columns.values, columns.nulls);
    fit_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &is_null));
    tlaw_end(&session);
    return fit_id;
}

/* ---- loading ---- */

/* Column `name` of the row that SPI holds. */
static Datum column(const char *name, bool *is_null)
{
    return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
                         SPI_fnumber(SPI_tuptable->tupdesc, name), is_null);
}

static double number_column(const char *name)
{
    bool is_null;
    Datum value = column(name, &is_null);

    return is_null ? NAN : DatumGetFloat8(value);
}

/* Text that outlives SPI. */
static const char *text_column(const char *name, MemoryContext context)
{
    bool is_null;
    Datum value = column(name, &is_null);

    return is_null ? NULL : MemoryContextStrdup(context, TextDatumGetCString(value));
}

/* The array's entries, NaN for NULL; *n: how many (0 for a NULL array). */
static double *numbers_column(const char *name, int *n)
{
    bool is_null, *nulls;
    Datum value = column(name, &is_null), *datums;
    double *numbers;
    int i;

    *n = 0;
    if (is_null)
        return NULL;
    deconstruct_array(DatumGetArrayTypeP(value), FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
                      &datums, &nulls, n);
    numbers = palloc(sizeof(double) * Max(*n, 1));
    for (i = 0; i < *n; i++)
        numbers[i] = nulls[i] ? NAN : DatumGetFloat8(datums[i]);
    return numbers;
}

static void copy_numbers(const char *name, double *to, int n)
{
    int found, i;
    double *numbers = numbers_column(name, &found);

    for (i = 0; i < n; i++)
        to[i] = i < found ? numbers[i] : NAN;
}

static void load_draws(MemoryContext context, int n_params, double (**draws)[TLAW_MAX_PARAMS], int *n_draws)
{
    int found, d;
    double *numbers = numbers_column("bootstrap", &found);

    *n_draws = found / n_params;
    *draws = MemoryContextAllocHuge(context, sizeof(**draws) * Max(*n_draws, 1));
    for (d = 0; d < *n_draws; d++)
        memcpy((*draws)[d], numbers + d * n_params, sizeof(double) * n_params);
}

static void no_such_fit(int64 fit_id)
{
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("fit: there is no fit " INT64_FORMAT, fit_id),
                    errhint("The view tlaw_fits lists yours.")));
}

void law_load(int64 fit_id, struct tlaw_fit *fit, double (**draws)[TLAW_MAX_PARAMS], int *n_draws,
              struct law_request *request)
{
    MemoryContext context = CurrentMemoryContext;
    struct tlaw_session session;
    Oid type = INT8OID;
    Datum value = Int64GetDatum(fit_id);
    bool is_null;
    int p;

    tlaw_begin(&session);
    if (tlaw_execute(SPI_OK_SELECT,
                     "SELECT owner::text AS owner_name, * FROM @.tlaw_fit_record WHERE fit_id = $1", 1, &type,
                     &value, NULL) == 0)
        no_such_fit(fit_id);
    tlaw_require_owner(text_column("owner_name", context), "fit", psprintf(INT64_FORMAT, fit_id));
    memset(fit, 0, sizeof(*fit));
    fit->form = law_form_argument("form", text_column("form", context));
    p = tlaw_form_info(fit->form)->n_params;
    copy_numbers("parameters", fit->natural, p);
    copy_numbers("covariance", fit->covariance, p * p);
    copy_numbers("se", fit->se, p);
    copy_numbers("low", fit->low, p);
    copy_numbers("high", fit->high, p);
    copy_numbers("smallest", fit->extents.smallest, tlaw_extent_count(fit->form));
    copy_numbers("largest", fit->extents.largest, tlaw_extent_count(fit->form));
    fit->df = number_column("df");
    fit->noise = number_column("noise");
    fit->level = number_column("level");
    fit->n = (size_t) DatumGetInt64(column("n", &is_null));
    fit->converged = DatumGetBool(column("converged", &is_null));
    fit->fitted = !isnan(fit->natural[0]);
    if (draws)
        load_draws(context, p, draws, n_draws);
    if (request) {
        request->x = text_column("x", context);
        request->y = text_column("y", context);
        request->cluster = text_column("cluster", context);
    }
    tlaw_end(&session);
}

/* (fit) */
Datum tlaw_drop_fit(PG_FUNCTION_ARGS)
{
    int64 fit_id = PG_GETARG_INT64(0);
    Oid type = INT8OID;
    Datum value = Int64GetDatum(fit_id);
    struct tlaw_session session;
    bool is_null;

    PreventCommandIfReadOnly("tlaw_drop_fit()");
    tlaw_begin(&session);
    if (tlaw_execute(SPI_OK_DELETE_RETURNING,
                     "DELETE FROM @.tlaw_fit_record WHERE fit_id = $1 RETURNING owner::text AS owner_name", 1,
                     &type, &value, NULL) == 0)
        no_such_fit(fit_id);
    tlaw_require_owner(TextDatumGetCString(column("owner_name", &is_null)), "fit",
                       psprintf(INT64_FORMAT, fit_id));
    tlaw_end(&session);
    PG_RETURN_VOID();
}

void law_variables(FunctionCallInfo fcinfo, int i, enum tlaw_form form, double *variables)
{
    static const char *const names[4] = {"n_params", "n_tokens", "unique_tokens", "x"};
    const struct tlaw_form_info *info = tlaw_form_info(form);
    int v, k;

    for (v = 0; v < info->n_variables; v++) {
        for (k = 0; strcmp(names[k], info->variables[v]) != 0; k++)
            ;
        if (PG_ARGISNULL(i + k))
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("%s is missing: the fit is a law of it", names[k]),
                            errhint("Give %s => a number.", names[k])));
        variables[v] = tlaw_number_argument(names[k], PG_GETARG_FLOAT8(i + k), 1e-300, 1e300);
    }
}
