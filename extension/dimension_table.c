/*
 * Intrinsic dimension of the points in a table's column: any number of questions about each group of rows.
 *
 * The table is read once, by the caller, with the caller's rights, ordered by group; one group is in memory
 * (or in its file) at a time, and asked all questions before the next is read.
 */
#include "dimension.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "parser/parse_coerce.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#define FETCH_ROWS 1000

/* ---- the query ---- */

/* The expression that makes a real[] or float8[] of the column. */
static char *point_expression(Oid relation, const char *column)
{
    AttrNumber number = get_attnum(relation, column);
    Oid type, element, cast;

    if (number <= 0)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                        errmsg("point_column: \"%s\" has no column \"%s\"", get_rel_name(relation), column)));
    type = getBaseType(get_atttype(relation, number));
    element = get_element_type(type);
    if (type == FLOAT4ARRAYOID || type == FLOAT8ARRAYOID)
        return pstrdup(quote_identifier(column));
    if (element == INT2OID || element == INT4OID || element == INT8OID || element == NUMERICOID)
        return psprintf("%s::pg_catalog.float8[]", quote_identifier(column));
    if (find_coercion_pathway(FLOAT4ARRAYOID, type, COERCION_EXPLICIT, &cast) == COERCION_PATH_FUNC)
        return psprintf("%s::pg_catalog.float4[]", quote_identifier(column));
    ereport(ERROR,
            (errcode(ERRCODE_DATATYPE_MISMATCH),
             errmsg("point_column: column \"%s\" of \"%s\" is of type %s; arrays of numbers and types with a "
                    "cast to real[] (as \"vector\" and \"halfvec\" have) are accepted",
                    column, get_rel_name(relation), format_type_be(type))));
}

static const char *optional_column(Oid relation, const char *argument, const char *column)
{
    if (column == NULL)
        return NULL;
    if (get_attnum(relation, column) <= 0)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                        errmsg("%s: \"%s\" has no column \"%s\"", argument, get_rel_name(relation), column)));
    return quote_identifier(column);
}

/* SELECT point, group, cluster (0, 1, ... within the group, or null), in the order of groups. */
static char *point_query(Oid relation, const char *point, const char *group, const char *cluster)
{
    char *name = get_rel_name(relation), *column;
    StringInfoData sql;

    if (name == NULL)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
                        errmsg("source: there is no relation with OID %u", relation)));
    column = point_expression(relation, point);
    group = optional_column(relation, "group_column", group);
    cluster = optional_column(relation, "cluster_column", cluster);
    initStringInfo(&sql);
    appendStringInfo(&sql, "SELECT %s, %s, ", column,
                     group ? psprintf("%s::pg_catalog.text", group) : "NULL::pg_catalog.text");
    if (cluster)
        appendStringInfo(&sql, "pg_catalog.dense_rank() OVER (%s%s ORDER BY %s) - 1, %s IS NULL",
                         group ? "PARTITION BY " : "", group ? group : "", cluster, cluster);
    else
        appendStringInfoString(&sql, "NULL::pg_catalog.int8, false");
    appendStringInfo(&sql, " FROM %s WHERE %s IS NOT NULL",
                     quote_qualified_identifier(get_namespace_name(get_rel_namespace(relation)), name),
                     quote_identifier(point));
    if (group)
        appendStringInfo(&sql, " ORDER BY %s", group);
    return sql.data;
}

/* ---- questions ---- */

struct questions {
    struct tlaw_question *list;
    int count;
};

static struct tlaw_question question_of(Datum composite)
{
    HeapTupleHeader row = DatumGetHeapTupleHeader(composite);
    struct tlaw_question question = {0};
    Datum values[8];
    bool nulls[8];
    HeapTupleData tuple;
    TupleDesc descriptor =
        lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row), HeapTupleHeaderGetTypMod(row));
    char *control;
    int i;

    tuple.t_len = HeapTupleHeaderGetDatumLength(row);
    tuple.t_data = row;
    ItemPointerSetInvalid(&tuple.t_self);
    tuple.t_tableOid = InvalidOid;
    heap_deform_tuple(&tuple, descriptor, values, nulls);
    ReleaseTupleDesc(descriptor);
    question.options.estimator = dimension_estimator(nulls[0] ? NULL : TextDatumGetCString(values[0]));
    question.options.k = nulls[1] ? 0 : (int) tlaw_count_argument("k", DatumGetFloat8(values[1]), 1, MAX_K);
    question.options.metric = dimension_metric(nulls[2] ? NULL : TextDatumGetCString(values[2]));
    question.options.exclude_cluster = !nulls[3] && DatumGetBool(values[3]);
    control = nulls[4] ? "" : TextDatumGetCString(values[4]);
    i = tlaw_control_find(control);
    if (i < 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("control = \"%s\" is not known", control),
                 errhint("There are: \"gaussian\", \"shuffled\", \"known\".")));
    question.control = i;
    if (question.control == TLAW_CONTROL_KNOWN && nulls[5])
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("known_dimension is missing: the control \"known\" needs it")));
    question.known_dimension =
        nulls[5] ? 0 : (int) tlaw_count_argument("known_dimension", DatumGetFloat8(values[5]), 1, 100000);
    question.sample =
        nulls[6] ? 0 : tlaw_count_argument("sample", DatumGetFloat8(values[6]), 2, PG_INT32_MAX);
    question.options.seed =
        nulls[7] ? 0 : (uint64) tlaw_count_argument("seed", DatumGetFloat8(values[7]), 0, TLAW_MAX_SEED);
    return question;
}

static struct questions read_questions(ArrayType *array)
{
    struct questions questions;
    Datum *elements;
    bool *nulls, by_value;
    int16 length;
    char align;
    int i;

    get_typlenbyvalalign(ARR_ELEMTYPE(array), &length, &by_value, &align);
    deconstruct_array(array, ARR_ELEMTYPE(array), length, by_value, align, &elements, &nulls,
                      &questions.count);
    questions.list = palloc0(Max(questions.count, 1) * sizeof *questions.list);
    for (i = 0; i < questions.count; i++) {
        if (nulls[i])
            ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("question %d is null", i + 1)));
        questions.list[i] = question_of(elements[i]);
    }
    return questions;
}

/* ---- groups ---- */

struct reading {
    struct questions questions;
    ReturnSetInfo *result;
    MemoryContext context; /* of one group */
    MemoryContext row_context;
    struct point_set *set; /* NULL: no group begun */
    char *key;             /* of the group; NULL: null, or no groups */
};

/* Asks everything about the group read last. */
static void finish_group(struct reading *r)
{
    struct asker *asker = asker_open(r->set, r->questions.count);
    int i;

    for (i = 0; i < r->questions.count; i++) {
        struct tlaw_dimension answer;
        Datum values[2 + DIMENSION_COLUMNS];
        bool nulls[2 + DIMENSION_COLUMNS] = {false};

        CHECK_FOR_INTERRUPTS();
        asker_ask(asker, &r->questions.list[i], &answer);
        values[0] = r->key ? CStringGetTextDatum(r->key) : (Datum) 0;
        nulls[0] = r->key == NULL;
        values[1] = Int32GetDatum(i + 1);
        dimension_columns(&answer, &r->questions.list[i].options, values + 2, nulls + 2);
        tuplestore_putvalues(r->result->setResult, r->result->setDesc, values, nulls);
    }
    asker_close(asker);
    MemoryContextReset(r->context);
    r->set = NULL;
}

static void take_row(struct reading *r, HeapTuple tuple, TupleDesc descriptor)
{
    bool null, no_cluster;
    Datum point = SPI_getbinval(tuple, descriptor, 1, &null);
    char *key = SPI_getvalue(tuple, descriptor, 2);
    int64 cluster = DatumGetInt64(SPI_getbinval(tuple, descriptor, 3, &no_cluster));

    if (r->set && ((key == NULL) != (r->key == NULL) || (key && strcmp(key, r->key) != 0)))
        finish_group(r);
    if (r->set == NULL) {
        r->set = point_set_create(r->context);
        r->key = key ? MemoryContextStrdup(r->context, key) : NULL;
    }
    if (DatumGetBool(SPI_getbinval(tuple, descriptor, 4, &null)))
        ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
                        errmsg("cluster_column: a point has no cluster; all must have one")));
    point_set_add_array(r->set, DatumGetArrayTypeP(point));
    if (!no_cluster)
        point_set_cluster(r->set, (int32) cluster);
}

static void read_groups(struct reading *r, const char *query, bool grouped)
{
    SPIPlanPtr plan = SPI_prepare(query, 0, NULL);
    Portal portal;

    if (plan == NULL)
        elog(ERROR, "could not prepare \"%s\": %s", query, SPI_result_code_string(SPI_result));
    portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
    for (;;) {
        uint64 i;

        SPI_cursor_fetch(portal, true, FETCH_ROWS);
        for (i = 0; i < SPI_processed; i++) {
            MemoryContext before = MemoryContextSwitchTo(r->row_context);

            take_row(r, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
            MemoryContextSwitchTo(before);
            MemoryContextReset(r->row_context);
        }
        if (SPI_processed == 0)
            break;
        SPI_freetuptable(SPI_tuptable);
        CHECK_FOR_INTERRUPTS();
    }
    if (r->set == NULL && !grouped) { /* no points at all: said as an answer */
        r->set = point_set_create(r->context);
        r->key = NULL;
    }
    if (r->set)
        finish_group(r);
    SPI_cursor_close(portal);
}

static char *name_argument(FunctionCallInfo fcinfo, int i)
{
    return PG_ARGISNULL(i) ? NULL : pstrdup(NameStr(*PG_GETARG_NAME(i)));
}

PG_FUNCTION_INFO_V1(tlaw_dimension_answers);
Datum tlaw_dimension_answers(PG_FUNCTION_ARGS)
{
    struct reading reading = {0};
    char *group, *query;

    tlaw_not_null(fcinfo, 0, "source");
    tlaw_not_null(fcinfo, 1, "point_column");
    tlaw_not_null(fcinfo, 4, "questions");
    group = name_argument(fcinfo, 2);
    InitMaterializedSRF(fcinfo, 0);
    reading.result = (ReturnSetInfo *) fcinfo->resultinfo;
    reading.questions = read_questions(PG_GETARG_ARRAYTYPE_P(4));
    query = point_query(PG_GETARG_OID(0), name_argument(fcinfo, 1), group, name_argument(fcinfo, 3));
    reading.context = AllocSetContextCreate(CurrentMemoryContext, "tlaw points", ALLOCSET_DEFAULT_SIZES);
    reading.row_context = AllocSetContextCreate(CurrentMemoryContext, "tlaw point", ALLOCSET_DEFAULT_SIZES);
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    read_groups(&reading, query, group != NULL);
    SPI_finish();
    MemoryContextDelete(reading.context);
    MemoryContextDelete(reading.row_context);
    PG_RETURN_VOID();
}
