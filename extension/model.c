/*
 * Using a model: losses, text, hidden states and weights of a run that was trained here.
 *
 * Every call checks that the run is one of the caller's and has weights, starts an engine on the run's corpus
 * (for its tokenizer and parts), sends the weights, and turns what comes back into SQL values.  Tables named
 * by the caller are read as the caller.  Results of any length go to a tuplestore, one row in memory at a
 * time.
 */
#include "checkpoint.h"
#include "device.h"
#include "documents.h"
#include "run.h"

#include <math.h>

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#define MAX_GENERATED_TOKENS 1000000

PG_FUNCTION_INFO_V1(tlaw_validation_loss);
PG_FUNCTION_INFO_V1(tlaw_generate);
PG_FUNCTION_INFO_V1(tlaw_embeddings);
PG_FUNCTION_INFO_V1(tlaw_export);

/* ---- a run's model ---- */

struct trained {
    int64 run_id;
    char *corpus;
    struct tlaw_spec spec;
    int64 bytes; /* of the weights */
};

static void no_weights(int64 run_id, const char *status)
{
    ereport(ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             strcmp(status, "done") == 0
                 ? errmsg("run " INT64_FORMAT " kept no weights: it was trained with checkpoint => 'none'",
                          run_id)
                 : errmsg("run " INT64_FORMAT " has no weights: it is %s", run_id, status)));
}

/* The run's specification and the size of its weights; an error unless it is the caller's and has some. */
static void find_trained(int64 run_id, struct trained *trained)
{
    struct run_row row;

    run_require(run_id, false, &row);
    if (row.corpus == NULL)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("run " INT64_FORMAT " has no weights: it was recorded, not trained here", run_id)));
    if (!checkpoint_find(run_id, "model", NULL, &trained->bytes))
        no_weights(run_id, row.status);
    trained->run_id = run_id;
    trained->corpus = row.corpus;
    run_load_spec(run_id, &trained->spec);
}

/* The same for a use that computes, with the instruction set that it takes. */
static void find_usable(int64 run_id, struct trained *trained)
{
    find_trained(run_id, trained);
    device_resolve_use(&trained->spec);
}

/* An engine on the run's corpus. */
static struct engine *start_engine(const struct trained *trained)
{
    bool on_cpu = strncmp(trained->spec.device, "cpu", 3) == 0;

    return engine_start(corpus_token_file(trained->corpus), -1,
                        on_cpu ? (int64) tlaw_max_run_memory << 20 : 0);
}

/* Starts an engine, sends the request, which announces the weights, and the weights. */
static struct engine *request(const struct trained *trained, enum tlaw_message type, const void *message)
{
    struct engine *engine = start_engine(trained);

    progress_begin();
    engine_send(engine, type, message);
    checkpoint_send(engine, trained->run_id, "model");
    return engine;
}

/* Arguments i (source) and i + 1 (text_column): both or neither. True when given. */
static bool source_arguments(FunctionCallInfo fcinfo, int i, struct document_source *source)
{
    if (PG_ARGISNULL(i) != PG_ARGISNULL(i + 1))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("source and text_column must be given together, and %s is null",
                               PG_ARGISNULL(i) ? "source" : "text_column")));
    if (PG_ARGISNULL(i))
        return false;
    document_source_open(source, PG_GETARG_OID(i), NameStr(*PG_GETARG_NAME(i + 1)), NULL);
    return true;
}

/* ---- losses ---- */

static Datum evaluation_row(FunctionCallInfo fcinfo, const struct tlaw_evaluated_message *e)
{
    Datum values[] = {Float8GetDatum(e->loss),          Float8GetDatum(e->loss_se),
                      Float8GetDatum(e->bits_per_byte), Float8GetDatum(e->bits_per_byte_se),
                      Int64GetDatum(e->tokens),         Int64GetDatum(e->bytes),
                      Int64GetDatum(e->documents)};
    bool nulls[lengthof(values)] = {0};
    TupleDesc type;

    if (get_call_result_type(fcinfo, NULL, &type) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "a row is expected to be returned");
    nulls[1] = isnan(e->loss_se); /* of a single document */
    nulls[3] = isnan(e->bits_per_byte_se);
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(type), values, nulls));
}

/* tlaw_validation_loss(run_id, source, text_column) */
Datum tlaw_validation_loss(PG_FUNCTION_ARGS)
{
    struct tlaw_evaluate_message message = {.threads = tlaw_threads};
    struct document_source source;
    struct trained trained;
    struct engine *engine;
    const void *reply;
    enum tlaw_message type;
    bool from_table;
    Datum row;

    tlaw_not_null(fcinfo, 0, "run_id");
    from_table = source_arguments(fcinfo, 1, &source);
    find_usable(PG_GETARG_INT64(0), &trained);
    message.spec = trained.spec;
    message.model_bytes = trained.bytes;
    strcpy(message.part, from_table ? "documents" : "validation");
    engine = request(&trained, TLAW_EVALUATE, &message);
    if (from_table)
        documents_send(engine, &source, 0);
    do
        type = engine_next(engine, &reply, progress_notice);
    while (type == TLAW_DOCUMENT_LOSSES);
    if (type != TLAW_EVALUATED)
        engine_unexpected(type);
    row = evaluation_row(fcinfo, reply);
    engine_stop(engine);
    return row;
}

/* ---- text ---- */

/* UTF-8 with U+FFFD for every byte that is part of no character, and for NUL, which no text may hold. */
static void append_legal_utf8(StringInfo out, const unsigned char *text, size_t size)
{
    size_t i = 0;

    while (i < size) {
        int length = pg_utf_mblen(text + i);

        if (text[i] != '\0' && i + length <= size && pg_utf8_islegal(text + i, length)) {
            appendBinaryStringInfo(out, (const char *) text + i, length);
            i += length;
        } else {
            appendStringInfoString(out, "\xEF\xBF\xBD");
            i++;
        }
    }
}

/* Text of the database from UTF-8; characters that its encoding lacks become '?'. */
static text *text_from_utf8(const char *utf8, size_t size)
{
    StringInfoData out;
    Oid conversion;
    char *piece;

    if (GetDatabaseEncoding() == PG_UTF8 || GetDatabaseEncoding() == PG_SQL_ASCII)
        return cstring_to_text_with_len(utf8, size);
    conversion = FindDefaultConversionProc(PG_UTF8, GetDatabaseEncoding());
    if (!OidIsValid(conversion))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
                        errmsg("there is no conversion from UTF8 to the database's encoding")));
    initStringInfo(&out);
    piece = palloc(size * MAX_CONVERSION_GROWTH + 1);
    while (size > 0) {
        int done = pg_do_encoding_conversion_buf(conversion, PG_UTF8, GetDatabaseEncoding(),
                                                 (unsigned char *) utf8, size, (unsigned char *) piece,
                                                 size * MAX_CONVERSION_GROWTH + 1, true);

        appendStringInfoString(&out, piece);
        if (done < size) {
            appendStringInfoChar(&out, '?');
            done += pg_utf_mblen((const unsigned char *) utf8 + done);
        }
        utf8 += done;
        size -= done;
    }
    return cstring_to_text_with_len(out.data, out.len);
}

/* The generated bytes up to DONE. */
static void collect_text(struct engine *engine, StringInfo out)
{
    const void *reply;
    enum tlaw_message type;

    while ((type = engine_next(engine, &reply, NULL)) == TLAW_TEXT) {
        const struct tlaw_text_message *piece = reply;

        appendBinaryStringInfo(out, piece->text.data, piece->text.size);
    }
    if (type != TLAW_DONE)
        engine_unexpected(type);
}

/* tlaw_generate(run_id, prompt, max_tokens, temperature, top_k, top_p, seed) */
Datum tlaw_generate(PG_FUNCTION_ARGS)
{
    text *prompt = PG_GETARG_TEXT_PP(1);
    struct tlaw_generate_message message = {
        .threads = tlaw_threads,
        .max_tokens = tlaw_count_argument("max_tokens", PG_GETARG_FLOAT8(2), 1, MAX_GENERATED_TOKENS),
        .temperature = tlaw_number_argument("temperature", PG_GETARG_FLOAT8(3), 0, 100),
        .top_k = tlaw_count_argument("top_k", PG_GETARG_FLOAT8(4), 0, 65536),
        .top_p = tlaw_number_argument("top_p", PG_GETARG_FLOAT8(5), 1e-6, 1),
        .seed = tlaw_count_argument("seed", PG_GETARG_FLOAT8(6), 0, TLAW_MAX_SEED)};
    StringInfoData bytes, utf8;
    struct trained trained;
    struct engine *engine;

    find_usable(PG_GETARG_INT64(0), &trained);
    message.spec = trained.spec;
    message.model_bytes = trained.bytes;
    message.prompt = document_bytes(PointerGetDatum(prompt), true);
    if (message.prompt.size > TLAW_CHUNK_SIZE)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("prompt has %zu bytes; at most %u are accepted", message.prompt.size,
                               TLAW_CHUNK_SIZE)));
    engine = request(&trained, TLAW_GENERATE, &message);
    initStringInfo(&bytes);
    initStringInfo(&utf8);
    collect_text(engine, &bytes);
    engine_stop(engine);
    append_legal_utf8(&utf8, (const unsigned char *) bytes.data, bytes.len);
    PG_RETURN_TEXT_P(text_from_utf8(utf8.data, utf8.len));
}

/* ---- hidden states ---- */

/* Argument i as a whole number in [low, high]; `missing` when it is null. */
static int64 optional_count(FunctionCallInfo fcinfo, int i, const char *name, int64 low, int64 high,
                            int64 missing)
{
    return PG_ARGISNULL(i) ? missing : tlaw_count_argument(name, PG_GETARG_FLOAT8(i), low, high);
}

/* The part that the arguments name: "documents" when a source is given. */
static void set_part(FunctionCallInfo fcinfo, int i, bool from_table, char *part)
{
    char *given = PG_ARGISNULL(i) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(i));

    if (given && from_table)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("part must be null when source is given, not '%s'", given)));
    if (given && strcmp(given, "validation") != 0 && strcmp(given, "test") != 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("part must be 'validation' or 'test', not '%s'", given)));
    strcpy(part, from_table ? "documents" : given ? given : "validation");
}

static void put_embedding(ReturnSetInfo *result, const struct tlaw_embedding_message *embedding, int d_model)
{
    Datum *elements = palloc(d_model * sizeof(Datum));
    Datum values[3];
    bool nulls[3] = {0};
    int i;

    if (embedding->vector.size != d_model * sizeof(float))
        ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                        errmsg("the engine sent a vector of %zu bytes for d_model = %d",
                               embedding->vector.size, d_model)));
    for (i = 0; i < d_model; i++) {
        float4 x;

        memcpy(&x, (const char *) embedding->vector.data + i * sizeof(x), sizeof(x));
        elements[i] = Float4GetDatum(x);
    }
    values[0] = Int64GetDatum(embedding->document + 1);
    values[1] = Int32GetDatum(embedding->position + 1);
    values[2] =
        PointerGetDatum(construct_array(elements, d_model, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT));
    tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/* Puts EMBEDDING messages into the result up to DONE. */
static void collect_embeddings(struct engine *engine, ReturnSetInfo *result, int d_model)
{
    MemoryContext row = AllocSetContextCreate(CurrentMemoryContext, "tlaw embedding", ALLOCSET_DEFAULT_SIZES);
    const void *reply;
    enum tlaw_message type;

    while ((type = engine_next(engine, &reply, progress_notice)) == TLAW_EMBEDDING) {
        MemoryContext before = MemoryContextSwitchTo(row);

        put_embedding(result, reply, d_model);
        MemoryContextSwitchTo(before);
        MemoryContextReset(row);
    }
    if (type != TLAW_DONE)
        engine_unexpected(type);
    MemoryContextDelete(row);
}

/* tlaw_embeddings(run_id, layer, source, text_column, part, positions, prefix, max_documents, seed,
 * untrained) */
Datum tlaw_embeddings(PG_FUNCTION_ARGS)
{
    struct tlaw_embed_message message = {.threads = tlaw_threads};
    struct document_source source;
    struct trained trained;
    struct engine *engine;
    int64 context;
    bool from_table, untrained;

    tlaw_not_null(fcinfo, 0, "run_id");
    tlaw_not_null(fcinfo, 1, "layer");
    tlaw_not_null(fcinfo, 8, "seed");
    tlaw_not_null(fcinfo, 9, "untrained");
    untrained = PG_GETARG_BOOL(9);
    from_table = source_arguments(fcinfo, 2, &source);
    set_part(fcinfo, 4, from_table, message.part);
    find_usable(PG_GETARG_INT64(0), &trained);
    context = trained.spec.context_length;
    message.spec = trained.spec;
    message.model_bytes = untrained ? 0 : trained.bytes;
    message.layer = tlaw_count_argument("layer", PG_GETARG_FLOAT8(1), 0, trained.spec.n_layer + 1);
    message.positions = optional_count(fcinfo, 5, "positions", 1, context, 0);
    message.prefix = optional_count(fcinfo, 6, "prefix", 1, context, context);
    message.max_documents = optional_count(fcinfo, 7, "max_documents", 1, PG_INT32_MAX, 0);
    message.seed = tlaw_count_argument("seed", PG_GETARG_FLOAT8(8), 0, TLAW_MAX_SEED);
    InitMaterializedSRF(fcinfo, 0);
    if (untrained) {
        engine = start_engine(&trained);
        engine_send(engine, TLAW_EMBED, &message);
    } else {
        engine = request(&trained, TLAW_EMBED, &message);
    }
    if (from_table)
        documents_send(engine, &source, message.max_documents);
    collect_embeddings(engine, (ReturnSetInfo *) fcinfo->resultinfo, trained.spec.d_model);
    engine_stop(engine);
    return (Datum) 0;
}

/* ---- weights ---- */

/* tlaw_export(run_id) */
Datum tlaw_export(PG_FUNCTION_ARGS)
{
    struct trained trained;
    bytea *file;

    find_trained(PG_GETARG_INT64(0), &trained);
    if (trained.bytes > MaxAllocSize - VARHDRSZ)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("the weights of run " INT64_FORMAT " have " INT64_FORMAT
                               " bytes, more than the 1 GB that a value may have",
                               trained.run_id, trained.bytes)));
    file = palloc(VARHDRSZ + trained.bytes);
    SET_VARSIZE(file, VARHDRSZ + trained.bytes);
    checkpoint_read(trained.run_id, "model", VARDATA(file), trained.bytes);
    PG_RETURN_BYTEA_P(file);
}
