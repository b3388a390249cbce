/*
 * Rows for fits: the finished runs of a study, or whatever a query returns, read with the caller's own
 * rights.
 */
#include "law.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/array.h"
#include "utils/lsyscache.h"

static SPITupleTable *table_of(const struct law_source *source)
{
    return (SPITupleTable *) source->table;
}

bool law_looks_like_query(const char *source)
{
    return strpbrk(source, " \t\r\n(") != NULL;
}

struct law_source *law_open(const char *source)
{
    struct law_source *result = palloc0(sizeof(*result));
    Oid type = TEXTOID;
    Datum value = CStringGetTextDatum(source);

    result->source = source;
    result->context = CurrentMemoryContext;
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    /* a recorded run may say only its train_tokens: it saw them once */
    result->is_study = tlaw_execute(SPI_OK_SELECT,
                                    "SELECT *, COALESCE(tokens_seen, train_tokens) AS n_tokens "
                                    "FROM @.tlaw_runs WHERE study = $1 AND status = 'done'",
                                    1, &type, &value, NULL) > 0;
    if (!result->is_study && !law_looks_like_query(source))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("source: no finished run of a study \"%s\" that you may read", source),
                        errhint("Give the name of a study, or a query that returns one row a result.")));
    if (!result->is_study) {
        SPIPlanPtr plan = SPI_prepare(source, 0, NULL);

        if (plan == NULL || !SPI_is_cursor_plan(plan) ||
            SPI_execute_plan(plan, NULL, NULL, true, 0) != SPI_OK_SELECT)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("source: not a query that returns rows"),
                            errhint("Give the name of a study, or a SELECT.")));
    }
    result->n = (int64) SPI_processed;
    result->table = SPI_tuptable;
    return result;
}

void law_close(struct law_source *source)
{
    SPI_finish();
    source->table = NULL;
}

bool law_has_column(const struct law_source *source, const char *name)
{
    return SPI_fnumber(table_of(source)->tupdesc, name) > 0;
}

const char *law_first_column(const struct law_source *source, const char *const *names, int n)
{
    int i;

    for (i = 0; i < n; i++)
        if (law_has_column(source, names[i]))
            return names[i];
    return NULL;
}

static bool is_number(Oid type)
{
    return type == FLOAT8OID || type == FLOAT4OID || type == INT8OID || type == INT4OID || type == INT2OID ||
           type == NUMERICOID;
}

/* A hint that lists the columns of numbers, or all. */
static int hint_columns(const struct law_source *source, bool numbers)
{
    TupleDesc descriptor = table_of(source)->tupdesc;
    StringInfoData known;
    int i;

    initStringInfo(&known);
    for (i = 0; i < descriptor->natts; i++)
        if (!numbers || is_number(TupleDescAttr(descriptor, i)->atttypid))
            appendStringInfo(&known, "%s%s", known.len ? ", " : "",
                             NameStr(TupleDescAttr(descriptor, i)->attname));
    return errhint("Columns%s of the rows: %s.", numbers ? " of numbers" : "", known.data);
}

/* The column of that name; numbers: one of numbers.  Errors name the argument that asks for it. */
static int column_number(const struct law_source *source, const char *argument, const char *name,
                         bool numbers)
{
    int number = SPI_fnumber(table_of(source)->tupdesc, name);
    Oid type = number > 0 ? SPI_gettypeid(table_of(source)->tupdesc, number) : InvalidOid;

    if (number <= 0)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                        errmsg("%s: the rows have no column \"%s\"", argument, name),
                        hint_columns(source, numbers)));
    if (numbers && !is_number(type))
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                        errmsg("%s: column \"%s\" is of type %s, not a number", argument, name,
                               format_type_be(type)),
                        hint_columns(source, numbers)));
    return number;
}

static double number_of(Datum value, Oid type)
{
    switch (type) {
    case FLOAT8OID:
        return DatumGetFloat8(value);
    case FLOAT4OID:
        return DatumGetFloat4(value);
    case INT8OID:
        return (double) DatumGetInt64(value);
    case INT4OID:
        return DatumGetInt32(value);
    case INT2OID:
        return DatumGetInt16(value);
    default:
        return DatumGetFloat8(DirectFunctionCall1(numeric_float8, value));
    }
}

double *law_column(const struct law_source *source, const char *argument, const char *name, bool **nulls)
{
    int number = column_number(source, argument, name, true);
    TupleDesc descriptor = table_of(source)->tupdesc;
    Oid type = SPI_gettypeid(descriptor, number);
    double *values = MemoryContextAllocHuge(source->context, sizeof(double) * Max(source->n, 1));
    int64 i;

    *nulls = MemoryContextAllocHuge(source->context, Max(source->n, 1));
    for (i = 0; i < source->n; i++) {
        Datum value = SPI_getbinval(table_of(source)->vals[i], descriptor, number, *nulls + i);

        values[i] = (*nulls)[i] ? 0 : number_of(value, type);
    }
    return values;
}

static int compare_text(const void *left, const void *right)
{
    return strcmp(*(char *const *) left, *(char *const *) right);
}

int law_distinct(const struct law_source *source, const char *name)
{
    char **values;
    int64 i, n = 0;
    int distinct = 0, number;

    if (!law_has_column(source, name))
        return 0;
    number = SPI_fnumber(table_of(source)->tupdesc, name);
    values = palloc(sizeof(char *) * Max(source->n, 1));
    for (i = 0; i < source->n; i++) {
        char *value = SPI_getvalue(table_of(source)->vals[i], table_of(source)->tupdesc, number);

        if (value != NULL)
            values[n++] = value;
    }
    qsort(values, n, sizeof(char *), compare_text);
    for (i = 0; i < n; i++)
        distinct += i == 0 || strcmp(values[i], values[i - 1]) != 0;
    return distinct;
}

/* Whole numbers count as they are, anything else by a hash of its text. */
static void set_cluster(const struct law_source *source, int number, int64 i, struct tlaw_row *row)
{
    TupleDesc descriptor = table_of(source)->tupdesc;
    Oid type = SPI_gettypeid(descriptor, number);
    bool is_null;
    Datum value = SPI_getbinval(table_of(source)->vals[i], descriptor, number, &is_null);

    row->clustered = !is_null;
    if (is_null)
        return;
    if (type == INT8OID || type == INT4OID || type == INT2OID) {
        row->cluster = (int64) number_of(value, type);
    } else {
        char *text = SPI_getvalue(table_of(source)->vals[i], descriptor, number);

        row->cluster = (int64) hash_bytes_extended((unsigned char *) text, strlen(text), 0);
    }
}

/* The column of a variable, by the names that studies and papers use; fills in request->x. */
static const char *variable_column(const struct law_source *source, const char *variable,
                                   struct law_request *request)
{
    static const char *const x[] = {"x", "train_tokens"}, *const params[] = {"n_params"},
                             *const tokens[] = {"n_tokens", "tokens_seen", "train_tokens"},
                             *const unique[] = {"unique_tokens", "train_tokens"};
    const char *found;

    if (strcmp(variable, "x") == 0)
        found = request->x = request->x ? request->x : law_first_column(source, x, lengthof(x));
    else if (strcmp(variable, "n_params") == 0)
        found = request->n_params ? request->n_params : law_first_column(source, params, lengthof(params));
    else if (strcmp(variable, "n_tokens") == 0)
        found = law_first_column(source, tokens, lengthof(tokens));
    else
        found = law_first_column(source, unique, lengthof(unique));
    return found ? found : variable; /* the error will name it */
}

static void resolve(const struct law_source *source, struct law_request *request)
{
    static const char *const losses[] = {"loss", "test_loss"}, *const clusters[] = {"cluster", "subset_seed"};

    if (request->y == NULL)
        request->y = law_first_column(source, losses, lengthof(losses));
    if (request->y == NULL)
        request->y = "loss";
    if (request->cluster == NULL)
        request->cluster = law_first_column(source, clusters, lengthof(clusters));
    if (request->cluster == NULL)
        request->cluster = "none";
}

struct tlaw_row *law_rows(const struct law_source *source, enum tlaw_form form, struct law_request *request,
                          int64 *n, int64 **index)
{
    const struct tlaw_form_info *info = tlaw_form_info(form);
    struct tlaw_row *rows = MemoryContextAllocHuge(source->context, sizeof(*rows) * Max(source->n, 1));
    const char *x = request->x ? "x" : "source", *y = request->y ? "y" : "source",
               *asks_cluster = request->cluster ? "cluster" : "source";
    double *columns[TLAW_MAX_VARIABLES + 1];
    bool *nulls[TLAW_MAX_VARIABLES + 1];
    int v, cluster = 0;
    int64 i;

    resolve(source, request);
    for (v = 0; v < info->n_variables; v++)
        columns[v] = law_column(source, strcmp(info->variables[v], "x") == 0 ? x : "source",
                                variable_column(source, info->variables[v], request), &nulls[v]);
    columns[v] = law_column(source, y, request->y, &nulls[v]);
    if (strcmp(request->cluster, "none") != 0)
        cluster = column_number(source, asks_cluster, request->cluster, false);
    if (index)
        *index = MemoryContextAllocHuge(source->context, sizeof(int64) * Max(source->n, 1));
    *n = 0;
    for (i = 0; i < source->n; i++) {
        struct tlaw_row row = {.weight = 1};
        bool missing = false;

        for (v = 0; v <= info->n_variables; v++)
            missing |= nulls[v][i];
        if (missing)
            continue;
        for (v = 0; v < info->n_variables; v++)
            row.x[v] = columns[v][i];
        row.loss = columns[v][i];
        tlaw_check_law_row("rows", form, &row);
        if (cluster > 0)
            set_cluster(source, cluster, i, &row);
        if (index)
            (*index)[*n] = i;
        rows[(*n)++] = row;
    }
    return rows;
}

double law_flops(const struct law_source *source, enum tlaw_form form, const struct tlaw_row *row,
                 int64 index)
{
    bool is_null = true;
    Datum value = 0;
    int number = 0;

    if (law_has_column(source, "flops")) {
        number = column_number(source, "source", "flops", true);
        value = SPI_getbinval(table_of(source)->vals[index], table_of(source)->tupdesc, number, &is_null);
    }
    if (!is_null)
        return number_of(value, SPI_gettypeid(table_of(source)->tupdesc, number));
    return tlaw_form_info(form)->n_variables >= 2 ? 6 * row->x[0] * row->x[1] : row->x[0];
}

/* ---- arguments ---- */

char *law_text_argument(FunctionCallInfo fcinfo, int i)
{
    return PG_ARGISNULL(i) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(i));
}

enum tlaw_form law_form_argument(const char *argument, const char *name)
{
    enum tlaw_form form = tlaw_form_named(name);
    StringInfoData known;
    int i;

    if (form != TLAW_FORMS)
        return form;
    initStringInfo(&known);
    for (i = 0; i < TLAW_FORMS; i++)
        appendStringInfo(&known, "%s%s", i ? ", " : "", tlaw_form_info(i)->name);
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s: \"%s\" is not one", argument, name),
                    errhint("Forms are %s.", known.data)));
}

/* Does the source have the columns of a form's variables? */
static bool has_variables(const struct law_source *source, enum tlaw_form form)
{
    struct law_request request = {0};
    int v;

    for (v = 0; v < tlaw_form_info(form)->n_variables; v++)
        if (!law_has_column(source, variable_column(source, tlaw_form_info(form)->variables[v], &request)))
            return false;
    return true;
}

int law_forms_argument(FunctionCallInfo fcinfo, int i, const struct law_source *source, enum tlaw_form *forms)
{
    Datum *names;
    bool *nulls;
    int n = 0, k;

    if (PG_ARGISNULL(i)) {
        for (k = 0; k < TLAW_FORMS; k++)
            if (source ? has_variables(source, k) : k == TLAW_POWER_LAW || k == TLAW_POWER_LAW_OFFSET)
                forms[n++] = k;
        if (n == 0)
            ereport(ERROR,
                    (errcode(ERRCODE_UNDEFINED_COLUMN), errmsg("the rows have the variables of no form"),
                     errhint("x, or n_params and n_tokens.")));
        return n;
    }
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(i), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &n);
    if (n < 1 || n > TLAW_FORMS)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("forms: %d names, 1 to %d are accepted", n, TLAW_FORMS)));
    for (k = 0; k < n; k++)
        forms[k] = law_form_argument("forms", nulls[k] ? "" : TextDatumGetCString(names[k]));
    return n;
}

enum tlaw_loss law_loss_argument(const char *loss)
{
    if (loss == NULL)
        return TLAW_LOSS_OF_FORM;
    if (strcmp(loss, "huber") == 0)
        return TLAW_LOSS_HUBER;
    if (strcmp(loss, "squared") == 0)
        return TLAW_LOSS_SQUARED;
    if (strcmp(loss, "log_squared") == 0)
        return TLAW_LOSS_LOG_SQUARED;
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("loss: \"%s\" is not one", loss),
             errhint("'huber' (log residuals), 'squared', 'log_squared', or NULL for the form's own.")));
}

const char *law_loss_name(const struct tlaw_fit *fit)
{
    return isfinite(fit->delta) ? "huber" : fit->log_residuals ? "log_squared" : "squared";
}
