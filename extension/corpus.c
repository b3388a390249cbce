/*
 * Corpora: freezing a table's text, handing out the tokenizer, and dropping what was frozen.
 *
 * tlaw_create_corpus: checks -> a freeze engine -> the documents, read as the caller -> the engine splits,
 * tokenises and writes a token file that has no name -> the corpus's row and shards, written as the
 * extension's owner, all in the caller's transaction. Invariant: whatever fails or rolls back leaves no row,
 * file or process: the files are unlinked from the start (the cache is filled by the first run,
 * token_file.c), the engine belongs to the query's resource owner.
 */
#include "documents.h"
#include "token_file.h"

#include <math.h>
#include <unistd.h>

#include "catalog/pg_type.h"
#include "utils/float.h"
#include "utils/lsyscache.h"

#define MIN_BPE_VOCABULARY 512
#define MAX_BPE_VOCABULARY 65535

/* The arguments of tlaw_create_corpus, checked. */
struct corpus_arguments {
    struct document_source source;
    char *name, *text_column, *group_column, *tokenizer;
    double validation_fraction, test_fraction;
    int64 split_seed;
};

/* ---- arguments ---- */

/* One row with columns of a corpus; an error when there is none. SPI is connected. */
static void select_corpus(const char *sql, const char *name)
{
    Oid types[] = {TEXTOID};
    Datum values[] = {CStringGetTextDatum(name)};

    if (tlaw_execute(SPI_OK_SELECT, sql, 1, types, values, NULL) == 0)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("corpus \"%s\" does not exist", name),
                        errhint("The view tlaw_corpora lists corpora.")));
}

static char *row_text(int column)
{
    return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column);
}

static int64 row_int8(int column)
{
    bool null;

    return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &null));
}

/* An error unless the current row's first column is a role of the caller's. */
static void require_corpus_owner(const char *name)
{
    tlaw_require_owner(row_text(1), "corpus", psprintf("\"%s\"", name));
}

static void check_name(const char *name)
{
    Oid types[] = {TEXTOID};
    Datum values[] = {CStringGetTextDatum(name)};
    struct tlaw_session session;

    if (name[0] == '\0' || strlen(name) >= NAMEDATALEN)
        ereport(ERROR, (errcode(ERRCODE_INVALID_NAME), errmsg("name must have 1 to %d bytes, \"%s\" has %zu",
                                                              NAMEDATALEN - 1, name, strlen(name))));
    tlaw_begin(&session);
    if (tlaw_execute(SPI_OK_SELECT, "SELECT 1 FROM @.tlaw_corpus WHERE corpus = $1", 1, types, values, NULL) >
        0)
        ereport(ERROR, (errcode(ERRCODE_DUPLICATE_OBJECT), errmsg("corpus \"%s\" already exists", name),
                        errhint("Give another name, or drop it with tlaw_drop_corpus.")));
    tlaw_end(&session);
}

/* 'bytes', 'bpe:N', or 'corpus:NAME' of a corpus of the caller's. */
static void check_tokenizer(const char *tokenizer)
{
    struct tlaw_session session;

    if (strcmp(tokenizer, "bytes") == 0)
        return;
    if (strncmp(tokenizer, "bpe:", 4) == 0 && strlen(tokenizer) <= 9 && tokenizer[4] != '\0' &&
        strspn(tokenizer + 4, "0123456789") == strlen(tokenizer + 4)) {
        if (atoi(tokenizer + 4) >= MIN_BPE_VOCABULARY && atoi(tokenizer + 4) <= MAX_BPE_VOCABULARY)
            return;
    } else if (strncmp(tokenizer, "corpus:", 7) == 0) {
        tlaw_begin(&session);
        select_corpus("SELECT owner FROM @.tlaw_corpus WHERE corpus = $1", tokenizer + 7);
        require_corpus_owner(tokenizer + 7);
        tlaw_end(&session);
        return;
    }
    ereport(ERROR,
            (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
             errmsg("tokenizer must be 'bytes', 'bpe:N' with N from %d to %d, or 'corpus:NAME', not '%s'",
                    MIN_BPE_VOCABULARY, MAX_BPE_VOCABULARY, tokenizer)));
}

static double check_fraction(const char *name, float8 value)
{
    if (!(value > 0 && value < 1))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("%s must be greater than 0 and less than 1, not %s", name,
                               float8out_internal(value))));
    return value;
}

static void check_arguments(FunctionCallInfo fcinfo, struct corpus_arguments *a)
{
    static const char *const names[] = {"source",        "text_column", NULL,
                                        "tokenizer",     NULL,          "validation_fraction",
                                        "test_fraction", "split_seed"};
    int i;

    for (i = 0; i < lengthof(names); i++) {
        if (names[i])
            tlaw_not_null(fcinfo, i, names[i]);
    }
    a->text_column = NameStr(*PG_GETARG_NAME(1));
    a->group_column = PG_ARGISNULL(4) ? NULL : NameStr(*PG_GETARG_NAME(4));
    a->tokenizer = text_to_cstring(PG_GETARG_TEXT_PP(3));
    a->validation_fraction = check_fraction("validation_fraction", PG_GETARG_FLOAT8(5));
    a->test_fraction = check_fraction("test_fraction", PG_GETARG_FLOAT8(6));
    if (a->validation_fraction + a->test_fraction >= 1)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("validation_fraction and test_fraction must leave something to train on: %s + %s is "
                        "not less than 1",
                        float8out_internal(a->validation_fraction), float8out_internal(a->test_fraction))));
    a->split_seed = tlaw_count_argument("split_seed", PG_GETARG_FLOAT8(7), 0, TLAW_MAX_SEED);
    document_source_open(&a->source, PG_GETARG_OID(0), a->text_column, a->group_column);
    a->name = PG_ARGISNULL(2) ? get_rel_name(PG_GETARG_OID(0)) : text_to_cstring(PG_GETARG_TEXT_PP(2));
    check_name(a->name);
    check_tokenizer(a->tokenizer);
}

/* ---- freezing ---- */

/* The stored definition of another corpus's tokenizer. */
static char *read_tokenizer(const char *corpus, size_t *size)
{
    struct tlaw_session session;
    int64 offset;
    char *definition;
    ssize_t got;
    int fd;

    tlaw_begin(&session);
    select_corpus("SELECT tokenizer_offset, tokenizer_bytes FROM @.tlaw_corpus WHERE corpus = $1", corpus);
    offset = row_int8(1);
    *size = row_int8(2);
    tlaw_end(&session);
    definition = palloc(*size);
    fd = corpus_token_file(corpus);
    got = pread(fd, definition, *size, offset);
    close(fd);
    if (got != (ssize_t) *size)
        ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
                        errmsg("could not read the tokenizer of corpus \"%s\"", corpus)));
    return definition;
}

static void send_freeze(struct engine *engine, const struct corpus_arguments *a)
{
    struct tlaw_freeze_message freeze = {.validation_fraction = a->validation_fraction,
                                         .test_fraction = a->test_fraction,
                                         .split_seed = a->split_seed,
                                         .threads = tlaw_threads};

    if (strncmp(a->tokenizer, "corpus:", 7) == 0) {
        size_t size;
        char *definition = read_tokenizer(a->tokenizer + 7, &size);

        strcpy(freeze.tokenizer, "given");
        freeze.tokenizer_bytes = size;
        engine_send(engine, TLAW_FREEZE, &freeze);
        engine_send_chunks(engine, definition, size);
    } else {
        strlcpy(freeze.tokenizer, a->tokenizer, sizeof(freeze.tokenizer));
        engine_send(engine, TLAW_FREEZE, &freeze);
    }
}

static void insert_corpus(const struct corpus_arguments *a, const struct document_counts *counts,
                          const struct tlaw_frozen_message *f, bytea *sha256)
{
    const int64 numbers[] = {f->file_bytes,
                             f->tokenizer_offset,
                             f->tokenizer_bytes,
                             f->vocab_size,
                             f->documents,
                             f->tokens,
                             f->bytes,
                             f->train_documents,
                             f->train_tokens,
                             f->train_bytes,
                             f->validation_documents,
                             f->validation_tokens,
                             f->validation_bytes,
                             f->test_documents,
                             f->test_tokens,
                             f->test_bytes,
                             f->tokenizer_documents,
                             counts->nulls,
                             counts->empties};
    Oid types[10 + lengthof(numbers)] = {TEXTOID, NAMEOID,   TEXTOID,   NAMEOID, NAMEOID,
                                         TEXTOID, FLOAT8OID, FLOAT8OID, INT8OID, BYTEAOID};
    Datum values[lengthof(types)];
    char nulls[lengthof(types)];
    struct tlaw_session session;
    int i;

    memset(nulls, ' ', sizeof(nulls));
    values[0] = CStringGetTextDatum(a->name);
    values[1] = DirectFunctionCall1(namein, CStringGetDatum(tlaw_caller_name()));
    values[2] = CStringGetTextDatum(a->source.relation);
    values[3] = DirectFunctionCall1(namein, CStringGetDatum(a->text_column));
    values[4] = a->group_column ? DirectFunctionCall1(namein, CStringGetDatum(a->group_column)) : (Datum) 0;
    nulls[4] = a->group_column ? ' ' : 'n';
    values[5] = CStringGetTextDatum(a->tokenizer);
    values[6] = Float8GetDatum(a->validation_fraction);
    values[7] = Float8GetDatum(a->test_fraction);
    values[8] = Int64GetDatum(a->split_seed);
    values[9] = PointerGetDatum(sha256);
    for (i = 0; i < lengthof(numbers); i++) {
        types[10 + i] = INT8OID;
        values[10 + i] = Int64GetDatum(numbers[i]);
    }
    tlaw_begin(&session);
    tlaw_execute(
        SPI_OK_INSERT,
        "INSERT INTO @.tlaw_corpus (corpus, owner, source, text_column, group_column, tokenizer,"
        " validation_fraction, test_fraction, split_seed, sha256, file_bytes, tokenizer_offset,"
        " tokenizer_bytes, vocab_size, documents, tokens, bytes, train_documents, train_tokens, train_bytes,"
        " validation_documents, validation_tokens, validation_bytes, test_documents, test_tokens, test_bytes,"
        " tokenizer_documents, null_documents, empty_documents)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,"
        " $21, $22, $23, $24, $25, $26, $27, $28, $29)",
        lengthof(types), types, values, nulls);
    tlaw_end(&session);
}

/* Losses on a part that is far smaller than asked for are of a few documents' accidents. */
static void warn_about_part(const char *part, int64 bytes, double fraction, int64 total)
{
    if (bytes < 0.1 * fraction * total)
        ereport(
            WARNING,
            (errmsg("the %s part has " INT64_FORMAT " of " INT64_FORMAT
                    " bytes, far less than the share %g that was asked for",
                    part, bytes, total, fraction),
             errdetail("Few documents, or groups, hold most of the text, and they are not split."),
             errhint(
                 "Split long texts into rows, with regexp_split_to_table(text, E'\\n\\n') or the like.")));
}

/* Freezes into the file `fd`, which stays open, and stores what came out. */
static void freeze(const struct corpus_arguments *a, int fd)
{
    int spool_fd = tlaw_temporary_file();
    struct engine *engine;
    struct document_counts counts;
    struct tlaw_frozen_message frozen;
    bytea *sha256;

    engine = engine_start(dup(fd), spool_fd, (int64) tlaw_max_run_memory << 20);
    send_freeze(engine, a);
    counts = documents_send(engine, &a->source, 0);
    if (counts.documents == 0)
        ereport(ERROR, (errcode(ERRCODE_NO_DATA),
                        errmsg("source: %s has no text in column \"%s\"", a->source.relation, a->text_column),
                        errdetail(INT64_FORMAT " rows are null, " INT64_FORMAT " are empty.", counts.nulls,
                                  counts.empties)));
    frozen = *(const struct tlaw_frozen_message *) engine_expect(engine, TLAW_FROZEN, progress_notice);
    if (frozen.sha256.size != 32)
        ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                        errmsg("the engine sent a sha256 of %zu bytes", frozen.sha256.size)));
    sha256 = palloc(VARHDRSZ + 32);
    SET_VARSIZE(sha256, VARHDRSZ + 32);
    memcpy(VARDATA(sha256), frozen.sha256.data, 32);
    engine_stop(engine);
    warn_about_part("validation", frozen.validation_bytes, a->validation_fraction, frozen.bytes);
    warn_about_part("test", frozen.test_bytes, a->test_fraction, frozen.bytes);
    insert_corpus(a, &counts, &frozen, sha256);
    token_file_store(a->name, fd, frozen.file_bytes, (unsigned char *) VARDATA(sha256));
}

PG_FUNCTION_INFO_V1(tlaw_create_corpus);
/* tlaw_create_corpus(source, text_column, name, tokenizer, group_column, validation_fraction, test_fraction,
 * split_seed) */
Datum tlaw_create_corpus(PG_FUNCTION_ARGS)
{
    struct corpus_arguments arguments;
    int fd;

    PreventCommandIfReadOnly("tlaw_create_corpus()");
    check_arguments(fcinfo, &arguments);
    fd = tlaw_temporary_file();
    PG_TRY();
    {
        freeze(&arguments, fd);
    }
    PG_FINALLY();
    {
        close(fd);
    }
    PG_END_TRY();
    PG_RETURN_TEXT_P(cstring_to_text(arguments.name));
}

/* ---- dropping ---- */

static void refuse_used(const char *name)
{
    Oid types[] = {TEXTOID};
    Datum values[] = {CStringGetTextDatum(name)};
    int64 runs;

    tlaw_execute(SPI_OK_SELECT, "SELECT count(*) FROM @.tlaw_run WHERE corpus = $1", 1, types, values, NULL);
    runs = row_int8(1);
    if (runs > 0)
        ereport(ERROR,
                (errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
                 errmsg("corpus \"%s\" has " INT64_FORMAT " %s", name, runs, runs == 1 ? "run" : "runs"),
                 errhint("Drop them first with tlaw_drop_run or tlaw_drop_study.")));
}

PG_FUNCTION_INFO_V1(tlaw_drop_corpus);
/* tlaw_drop_corpus(name) */
Datum tlaw_drop_corpus(PG_FUNCTION_ARGS)
{
    char *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
    Oid types[] = {TEXTOID};
    Datum values[] = {CStringGetTextDatum(name)};
    struct tlaw_session session;
    bool null;
    Datum sha256;

    PreventCommandIfReadOnly("tlaw_drop_corpus()");
    tlaw_begin(&session);
    /* locked first: a run that is being submitted holds the row until it commits */
    select_corpus("SELECT owner, sha256 FROM @.tlaw_corpus WHERE corpus = $1 FOR UPDATE", name);
    require_corpus_owner(name);
    sha256 = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null);
    token_file_forget((unsigned char *) VARDATA_ANY(DatumGetByteaPP(sha256)));
    refuse_used(name);
    tlaw_execute(SPI_OK_DELETE, "DELETE FROM @.tlaw_corpus_shard WHERE corpus = $1", 1, types, values, NULL);
    tlaw_execute(SPI_OK_DELETE, "DELETE FROM @.tlaw_corpus WHERE corpus = $1", 1, types, values, NULL);
    tlaw_end(&session);
    PG_RETURN_VOID();
}

/* ---- the tokenizer, for others ---- */

struct token {
    int size; /* bytes */
    char *bytes;
};

/* GPT-2's printable stand-in of a byte. */
static int stand_in(unsigned char byte)
{
    if ((byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173))
        return byte;
    return byte <= 32 ? 256 + byte : byte <= 160 ? 256 + 33 + byte - 127 : 256 + 33 + 34;
}

/* A token as Hugging Face writes it, inside a JSON string; ASCII, so that every encoding has it. */
static void put_token(StringInfo json, const struct token *token)
{
    int i;

    for (i = 0; i < token->size; i++) {
        int c = stand_in((unsigned char) token->bytes[i]);

        if (c == '"' || c == '\\' || c >= 127)
            appendStringInfo(json, "\\u%04x", c);
        else
            appendStringInfoChar(json, (char) c);
    }
}

static void malformed_tokenizer(const char *corpus)
{
    ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
                    errmsg("the stored tokenizer of corpus \"%s\" is malformed", corpus)));
}

/* The tokens of a stored tokenizer: 256 bytes, then what merges join.  Which each merge joins: joins. */
static struct token *read_tokens(const char *corpus, struct token (**joins)[2], int *merges)
{
    size_t size;
    char *stored = read_tokenizer(corpus, &size);
    struct token *tokens;
    int i, k;

    if (size < TLAW_TOKENIZER_NAME_SIZE)
        malformed_tokenizer(corpus);
    *merges = (int) ((size - TLAW_TOKENIZER_NAME_SIZE) / (2 * sizeof(uint16)));
    tokens = palloc(sizeof(*tokens) * (256 + *merges));
    *joins = palloc(sizeof(**joins) * Max(*merges, 1));
    for (i = 0; i < 256; i++) {
        tokens[i].size = 1;
        tokens[i].bytes = palloc(1);
        tokens[i].bytes[0] = (char) i;
    }
    for (i = 0; i < *merges; i++) {
        struct token *new = &tokens[256 + i], *pair = (*joins)[i];
        uint16 ids[2];

        memcpy(ids, stored + TLAW_TOKENIZER_NAME_SIZE + i * sizeof(ids), sizeof(ids));
        for (k = 0; k < 2; k++) {
            if (ids[k] >= 256 + i)
                malformed_tokenizer(corpus);
            pair[k] = tokens[ids[k]];
        }
        new->size = pair[0].size + pair[1].size;
        new->bytes = palloc(new->size);
        memcpy(new->bytes, pair[0].bytes, pair[0].size);
        memcpy(new->bytes + pair[0].size, pair[1].bytes, pair[1].size);
    }
    return tokens;
}

static int compare_tokens(const void *left, const void *right)
{
    const struct token *a = left, *b = right;
    int order = memcmp(a->bytes, b->bytes, Min(a->size, b->size));

    return order != 0 ? order : a->size - b->size;
}

/* Hugging Face's tokens are strings: two of the same bytes, joined in two ways, would become one. */
static void refuse_equal_tokens(const char *corpus, const struct token *tokens, int n)
{
    struct token *sorted = palloc(sizeof(*sorted) * n);
    int i;

    memcpy(sorted, tokens, sizeof(*sorted) * n);
    qsort(sorted, n, sizeof(*sorted), compare_tokens);
    for (i = 1; i < n; i++)
        if (compare_tokens(&sorted[i], &sorted[i - 1]) == 0)
            ereport(ERROR,
                    (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                     errmsg("corpus \"%s\" has two tokens of the same bytes, which tokenizer.json cannot "
                            "tell apart",
                            corpus)));
    pfree(sorted);
}

PG_FUNCTION_INFO_V1(tlaw_export_tokenizer);
/* tlaw_export_tokenizer(corpus): tokenizer.json of Hugging Face tokenizers */
Datum tlaw_export_tokenizer(PG_FUNCTION_ARGS)
{
    static const char byte_level[] =
        "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"
        "\"use_regex\":true}";
    char *corpus = text_to_cstring(PG_GETARG_TEXT_PP(0));
    struct tlaw_session session;
    struct token(*joins)[2], *tokens;
    StringInfoData json;
    int merges, i;

    tlaw_begin(&session);
    select_corpus("SELECT owner FROM @.tlaw_corpus WHERE corpus = $1", corpus);
    require_corpus_owner(corpus);
    tlaw_end(&session);
    tokens = read_tokens(corpus, &joins, &merges);
    refuse_equal_tokens(corpus, tokens, 256 + merges);
    initStringInfo(&json);
    appendStringInfo(&json,
                     "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[{\"id\":%d,"
                     "\"content\":\"<|endoftext|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                     "\"normalized\":false,\"special\":true}],\"normalizer\":null,\"pre_tokenizer\":%s,"
                     "\"post_processor\":null,\"decoder\":%s,\"model\":{\"type\":\"BPE\",\"dropout\":null,"
                     "\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
                     "\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{",
                     256 + merges, byte_level, byte_level);
    for (i = 0; i < 256 + merges; i++) {
        CHECK_FOR_INTERRUPTS();
        appendStringInfoChar(&json, '"');
        put_token(&json, &tokens[i]);
        appendStringInfo(&json, "\":%d%s", i, i < 255 + merges ? "," : "},\"merges\":[");
    }
    for (i = 0; i < merges; i++) {
        appendStringInfoString(&json, i > 0 ? ",\"" : "\"");
        put_token(&json, &joins[i][0]);
        appendStringInfoChar(&json, ' ');
        put_token(&json, &joins[i][1]);
        appendStringInfoChar(&json, '"');
    }
    appendStringInfoString(&json, "]}}");
    PG_RETURN_TEXT_P(cstring_to_text_with_len(json.data, json.len));
}
