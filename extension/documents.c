/* See documents.h. */
#include "documents.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#define PIECE_SIZE      (8 << 20) /* bytes of text in one DOCUMENT frame */
#define MAX_GROUP_BYTES (1 << 20)
#define POLL_BYTES      (1 << 20) /* between two looks at what the engine says */
#define POLL_MS         100
#define NOTICE_MS       3000

/* ---- what may be read ---- */

static bool is_text_type(Oid type)
{
    char category;
    bool preferred;

    if (type == JSONOID || type == JSONBOID || type == XMLOID)
        return true;
    get_type_category_preferred(type, &category, &preferred);
    return category == TYPCATEGORY_STRING;
}

/* "a, b" of the columns, or of those that text_column could be; "none". */
static char *column_names(Relation relation, bool only_text)
{
    StringInfoData out;
    int i;

    initStringInfo(&out);
    for (i = 0; i < relation->rd_att->natts; i++) {
        Form_pg_attribute column = TupleDescAttr(relation->rd_att, i);
        Oid type;

        if (column->attisdropped)
            continue;
        type = getBaseType(column->atttypid);
        if (!only_text || is_text_type(type) || type == BYTEAOID)
            appendStringInfo(&out, "%s%s", out.len ? ", " : "", NameStr(column->attname));
    }
    return out.len ? out.data : "none";
}

static void check_relation(Relation relation)
{
    switch (relation->rd_rel->relkind) {
    case RELKIND_RELATION:
    case RELKIND_PARTITIONED_TABLE:
    case RELKIND_VIEW:
    case RELKIND_MATVIEW:
    case RELKIND_FOREIGN_TABLE:
        return;
    default:
        ereport(ERROR,
                (errcode(ERRCODE_WRONG_OBJECT_TYPE),
                 errmsg("source must be a table, partitioned table, view, materialized view or foreign "
                        "table, which \"%s\" is not",
                        RelationGetRelationName(relation))));
    }
}

/* The base type of a column that must exist. */
static Oid column_type(Relation relation, const char *argument, const char *column)
{
    AttrNumber number = get_attnum(RelationGetRelid(relation), column);

    if (number <= 0)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_COLUMN),
                        errmsg("%s: \"%s\" has no column \"%s\"", argument, RelationGetRelationName(relation),
                               column),
                        errhint("Its columns are: %s.", column_names(relation, false))));
    return getBaseType(get_atttype(RelationGetRelid(relation), number));
}

static void build_query(struct document_source *source, Relation relation, const char *text_column,
                        const char *group_column)
{
    Oid type = column_type(relation, "text_column", text_column);

    source->is_text = type != BYTEAOID;
    if (source->is_text && !is_text_type(type))
        ereport(ERROR, (errcode(ERRCODE_DATATYPE_MISMATCH),
                        errmsg("text_column: column \"%s\" of \"%s\" is of type %s, which is not text",
                               text_column, RelationGetRelationName(relation), format_type_be(type)),
                        errhint("Its columns of text are: %s.", column_names(relation, true))));
    if (group_column)
        column_type(relation, "group_column", group_column);
    source->relation = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
                                                  RelationGetRelationName(relation));
    source->query = psprintf("SELECT %s::pg_catalog.%s, %s::pg_catalog.text FROM %s",
                             quote_identifier(text_column), source->is_text ? "text" : "bytea",
                             group_column ? quote_identifier(group_column) : "NULL", source->relation);
}

void document_source_open(struct document_source *source, Oid oid, const char *text_column,
                          const char *group_column)
{
    Relation relation = try_relation_open(oid, AccessShareLock);

    if (relation == NULL)
        ereport(ERROR,
                (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("source: there is no relation with OID %u", oid)));
    check_relation(relation);
    build_query(source, relation, text_column, group_column);
    relation_close(relation, AccessShareLock);
}

/* ---- progress ---- */

static TimestampTz last_notice;

void progress_begin(void)
{
    last_notice = GetCurrentTimestamp();
}

static bool notice_due(void)
{
    TimestampTz now = GetCurrentTimestamp();

    if (!TimestampDifferenceExceeds(last_notice, now, NOTICE_MS))
        return false;
    last_notice = now;
    return true;
}

void progress_notice(const struct tlaw_progress_message *progress)
{
    if (!notice_due())
        return;
    if (progress->total > 0)
        ereport(NOTICE, (errmsg("%s: %.0f %%", progress->phase, 100.0 * progress->step / progress->total)));
    else
        ereport(NOTICE, (errmsg("%s", progress->phase)));
}

/* ---- sending ---- */

/* Takes the rows of the query one by one. */
struct document_receiver {
    DestReceiver base;
    struct engine *engine;
    const struct document_source *source;
    int64 limit;
    struct document_counts counts;
    MemoryContext row_context;
    TimestampTz polled_at;
    int64 bytes_since_poll;
};

struct tlaw_blob document_bytes(Datum value, bool is_text)
{
    struct varlena *packed = PG_DETOAST_DATUM_PACKED(value);
    struct tlaw_blob bytes = {VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed)};

    if (is_text && GetDatabaseEncoding() != PG_SQL_ASCII && GetDatabaseEncoding() != PG_UTF8) {
        char *converted = pg_server_to_any(bytes.data, bytes.size, PG_UTF8);

        if (converted != bytes.data) {
            bytes.data = converted;
            bytes.size = strlen(converted);
        }
    }
    return bytes;
}

/* One document, in pieces when it is large.  group.data is NULL where there is none. */
static void send_document(struct engine *engine, struct tlaw_blob group, struct tlaw_blob text)
{
    struct tlaw_document_message message;
    size_t done = 0;

    if (group.size > MAX_GROUP_BYTES)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("group_column: a key of %zu bytes is too long; at most %d are accepted",
                               group.size, MAX_GROUP_BYTES)));
    message.group_bytes = group.data ? (int64) group.size : -1;
    do {
        size_t piece = Min(text.size - done, PIECE_SIZE);

        message.more = done + piece < text.size;
        message.data.data = (const char *) text.data + done;
        message.data.size = piece;
        if (message.group_bytes > 0) {
            char *joined = palloc(group.size + piece);

            memcpy(joined, group.data, group.size);
            memcpy(joined + group.size, (const char *) text.data + done, piece);
            message.data.data = joined;
            message.data.size += group.size;
        }
        engine_buffer(engine, TLAW_DOCUMENT, &message);
        message.group_bytes = -1;
        done += piece;
    } while (done < text.size);
}

/* Listens to the engine now and then, so that its failure ends the reading. */
static void poll_sometimes(struct document_receiver *receiver, size_t bytes)
{
    TimestampTz now = GetCurrentTimestamp();

    receiver->bytes_since_poll += bytes;
    if (receiver->bytes_since_poll < POLL_BYTES &&
        !TimestampDifferenceExceeds(receiver->polled_at, now, POLL_MS))
        return;
    receiver->polled_at = now;
    receiver->bytes_since_poll = 0;
    engine_poll(receiver->engine, NULL);
    if (notice_due())
        ereport(NOTICE, (errmsg("read " INT64_FORMAT " documents, %.1f MB", receiver->counts.documents,
                                receiver->counts.bytes / 1e6)));
}

static bool receive_row(TupleTableSlot *slot, DestReceiver *self)
{
    struct document_receiver *receiver = (struct document_receiver *) self;
    struct document_counts *counts = &receiver->counts;
    MemoryContext before = MemoryContextSwitchTo(receiver->row_context);
    struct tlaw_blob text = {"", 0};
    struct tlaw_blob group = {NULL, 0};

    slot_getallattrs(slot);
    if (!slot->tts_isnull[0])
        text = document_bytes(slot->tts_values[0], receiver->source->is_text);
    if (!slot->tts_isnull[1])
        group = document_bytes(slot->tts_values[1], true);
    if (slot->tts_isnull[0])
        counts->nulls++;
    else if (text.size == 0)
        counts->empties++;
    else
        counts->documents++;
    counts->bytes += text.size;
    send_document(receiver->engine, group, text);
    poll_sometimes(receiver, text.size);
    MemoryContextSwitchTo(before);
    MemoryContextReset(receiver->row_context);
    return receiver->limit == 0 || counts->documents < receiver->limit; /* false: the query stops */
}

static void receiver_startup(DestReceiver *self, int operation, TupleDesc type)
{
}

static void receiver_nothing(DestReceiver *self)
{
}

struct document_counts documents_send(struct engine *engine, const struct document_source *source,
                                      int64 limit)
{
    struct document_receiver receiver = {
        .base = {receive_row, receiver_startup, receiver_nothing, receiver_nothing, DestTuplestore},
        .engine = engine,
        .source = source,
        .limit = limit};
    SPIExecuteOptions options = {.must_return_tuples = true, .dest = &receiver.base};
    struct tlaw_end_message end;
    int result;

    receiver.row_context =
        AllocSetContextCreate(CurrentMemoryContext, "tlaw document", ALLOCSET_DEFAULT_SIZES);
    progress_begin();
    if (SPI_connect() != SPI_OK_CONNECT)
        elog(ERROR, "SPI_connect failed");
    result = SPI_execute_extended(source->query, &options);
    if (result != SPI_OK_SELECT)
        elog(ERROR, "could not read %s: %s", source->relation, SPI_result_code_string(result));
    SPI_finish();
    MemoryContextDelete(receiver.row_context);
    engine_send(engine, TLAW_END, &end);
    return receiver.counts;
}
