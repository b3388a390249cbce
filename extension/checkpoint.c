/*
 * Checkpoints of runs as rows: at most one of each kind a run, in chunks of at most 8 MiB with a header.
 *
 * Invariants: chunks belong to a generation that no earlier checkpoint used; the header, written last in the
 * transaction that deletes the predecessor, names the generation, the length and the sha256 of all bytes;
 * what is read is checked against them.  No more than one chunk is in memory at a time.
 */
#include "checkpoint.h"

#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "utils/memutils.h"

struct header {
    int64 generation, step, bytes;
    uint8 sha256[PG_SHA256_DIGEST_LENGTH];
};

struct checkpoint_writer {
    int64 run_id;
    char kind[TLAW_NAME_SIZE];
    struct header header;
    int64 received;
    int chunk;
    pg_cryptohash_ctx *hash;
    MemoryContext scratch; /* one chunk */
};

/* ---- hashing ---- */

static pg_cryptohash_ctx *hash_begin(void)
{
    pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);

    if (hash == NULL || pg_cryptohash_init(hash) < 0)
        elog(ERROR, "could not start a sha256: %s", pg_cryptohash_error(hash));
    return hash;
}

static void hash_add(pg_cryptohash_ctx *hash, const void *data, size_t size)
{
    if (pg_cryptohash_update(hash, data, size) < 0)
        elog(ERROR, "could not compute a sha256: %s", pg_cryptohash_error(hash));
}

/* Ends it; whether it is the expected one. */
static bool hash_equals(pg_cryptohash_ctx *hash, const uint8 *expected)
{
    uint8 digest[PG_SHA256_DIGEST_LENGTH];

    if (pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
        elog(ERROR, "could not compute a sha256: %s", pg_cryptohash_error(hash));
    pg_cryptohash_free(hash);
    return memcmp(digest, expected, sizeof(digest)) == 0;
}

/* ---- reading ---- */

/* Between tlaw_begin and tlaw_end. */
static bool read_header(int64 run_id, const char *kind, struct header *header)
{
    Oid types[] = {INT8OID, TEXTOID};
    Datum values[] = {Int64GetDatum(run_id), CStringGetTextDatum(kind)};
    bool null;
    bytea *sha256;

    if (tlaw_execute(SPI_OK_SELECT,
                     "SELECT generation, step, bytes, sha256 FROM @.tlaw_checkpoint"
                     " WHERE run_id = $1 AND kind = $2",
                     2, types, values, NULL) == 0)
        return false;
#define COLUMN(i) SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i, &null)
    header->generation = DatumGetInt64(COLUMN(1));
    header->step = DatumGetInt64(COLUMN(2));
    header->bytes = DatumGetInt64(COLUMN(3));
    sha256 = DatumGetByteaPP(COLUMN(4));
#undef COLUMN
    if (VARSIZE_ANY_EXHDR(sha256) != sizeof(header->sha256))
        return false;
    memcpy(header->sha256, VARDATA_ANY(sha256), sizeof(header->sha256));
    return true;
}

/*
 * Passes every chunk in order to the engine, or copies it into a block of header->bytes bytes (both may be
 * NULL: only checks).  Whether length and sha256 are the header's.
 */
static bool read_chunks(struct engine *engine, char *into, int64 run_id, const char *kind,
                        const struct header *header)
{
    MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "tlaw chunk", ALLOCSET_DEFAULT_SIZES);
    char *sql = tlaw_sql("SELECT data FROM @.tlaw_checkpoint_chunk"
                         " WHERE run_id = $1 AND kind = $2 AND generation = $3 AND chunk = $4");
    Oid types[] = {INT8OID, TEXTOID, INT8OID, INT4OID};
    Datum values[] = {Int64GetDatum(run_id), CStringGetTextDatum(kind), Int64GetDatum(header->generation), 0};
    SPIPlanPtr plan = SPI_prepare(sql, 4, types);
    pg_cryptohash_ctx *hash = hash_begin();
    int64 bytes = 0;
    int chunk;

    if (plan == NULL)
        elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
    for (chunk = 0; bytes < header->bytes; chunk++) {
        MemoryContext caller = MemoryContextSwitchTo(scratch);
        bool null;
        bytea *data;

        values[3] = Int32GetDatum(chunk);
        if (SPI_execute_plan(plan, values, NULL, false, 1) != SPI_OK_SELECT)
            elog(ERROR, "a chunk of a checkpoint could not be read");
        if (SPI_processed == 0) {
            MemoryContextSwitchTo(caller);
            break;
        }
        data = DatumGetByteaPP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
        hash_add(hash, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data));
        if (into != NULL && bytes + VARSIZE_ANY_EXHDR(data) <= header->bytes)
            memcpy(into + bytes, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data));
        bytes += VARSIZE_ANY_EXHDR(data);
        if (engine != NULL)
            engine_send_chunks(engine, VARDATA_ANY(data), VARSIZE_ANY_EXHDR(data));
        SPI_freetuptable(SPI_tuptable);
        MemoryContextSwitchTo(caller);
        MemoryContextReset(scratch);
    }
    MemoryContextDelete(scratch);
    return hash_equals(hash, header->sha256) && bytes == header->bytes;
}

bool checkpoint_find(int64 run_id, const char *kind, int64 *step, int64 *bytes)
{
    struct tlaw_session session;
    struct header header;
    bool found;

    tlaw_begin(&session);
    found = read_header(run_id, kind, &header);
    tlaw_end(&session);
    if (found && step != NULL)
        *step = header.step;
    if (found && bytes != NULL)
        *bytes = header.bytes;
    return found;
}

bool checkpoint_intact(int64 run_id, const char *kind)
{
    struct tlaw_session session;
    struct header header;
    bool intact;

    tlaw_begin(&session);
    intact = read_header(run_id, kind, &header) && read_chunks(NULL, NULL, run_id, kind, &header);
    tlaw_end(&session);
    return intact;
}

/* Sends or copies a checkpoint; an error when there is none or it is damaged. */
static void take_checkpoint(struct engine *engine, char *into, int64 size, int64 run_id, const char *kind)
{
    struct tlaw_session session;
    struct header header;

    tlaw_begin(&session);
    if (!read_header(run_id, kind, &header))
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT),
                        errmsg("run " INT64_FORMAT " has no checkpoint of kind \"%s\"", run_id, kind)));
    if ((into != NULL && header.bytes != size) || !read_chunks(engine, into, run_id, kind, &header))
        ereport(ERROR,
                (errcode(ERRCODE_DATA_CORRUPTED),
                 errmsg("the checkpoint of kind \"%s\" of run " INT64_FORMAT " is damaged", kind, run_id),
                 errdetail("Its length or sha256 is not what was stored with it.")));
    tlaw_end(&session);
}

void checkpoint_send(struct engine *engine, int64 run_id, const char *kind)
{
    take_checkpoint(engine, NULL, 0, run_id, kind);
}

void checkpoint_read(int64 run_id, const char *kind, char *into, int64 bytes)
{
    take_checkpoint(NULL, into, bytes, run_id, kind);
}

/* ---- writing ---- */

void checkpoint_drop(int64 run_id, const char *kind)
{
    Oid types[] = {INT8OID, TEXTOID};
    Datum values[] = {Int64GetDatum(run_id), CStringGetTextDatum(kind)};
    struct tlaw_session session;

    tlaw_begin(&session);
    tlaw_execute(SPI_OK_DELETE, "DELETE FROM @.tlaw_checkpoint_chunk WHERE run_id = $1 AND kind = $2", 2,
                 types, values, NULL);
    tlaw_execute(SPI_OK_DELETE, "DELETE FROM @.tlaw_checkpoint WHERE run_id = $1 AND kind = $2", 2, types,
                 values, NULL);
    tlaw_end(&session);
}

struct checkpoint_writer *checkpoint_begin(int64 run_id, const struct tlaw_checkpoint_message *announced)
{
    struct checkpoint_writer *writer = palloc0(sizeof(*writer));
    struct tlaw_session session;
    struct header before;

    if (announced->bytes <= 0 || announced->sha256.size != sizeof(writer->header.sha256) ||
        (strcmp(announced->kind, "resume") != 0 && strcmp(announced->kind, "model") != 0))
        ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
                        errmsg("the engine announced a checkpoint of kind \"%s\" with " INT64_FORMAT
                               " bytes and a sha256 of %zu bytes",
                               announced->kind, (int64) announced->bytes, announced->sha256.size)));
    writer->run_id = run_id;
    strlcpy(writer->kind, announced->kind, sizeof(writer->kind));
    writer->header.step = announced->step;
    writer->header.bytes = announced->bytes;
    memcpy(writer->header.sha256, announced->sha256.data, sizeof(writer->header.sha256));
    tlaw_begin(&session);
    writer->header.generation = read_header(run_id, writer->kind, &before) ? before.generation + 1 : 1;
    tlaw_end(&session);
    writer->hash = hash_begin();
    writer->scratch = AllocSetContextCreate(CurrentMemoryContext, "tlaw chunk", ALLOCSET_DEFAULT_SIZES);
    return writer;
}

bool checkpoint_add(struct checkpoint_writer *writer, const struct tlaw_blob *data)
{
    Oid types[] = {INT8OID, TEXTOID, INT8OID, INT4OID, BYTEAOID};
    MemoryContext caller = MemoryContextSwitchTo(writer->scratch);
    bytea *copy = palloc(VARHDRSZ + data->size);
    Datum values[] = {Int64GetDatum(writer->run_id), CStringGetTextDatum(writer->kind),
                      Int64GetDatum(writer->header.generation), Int32GetDatum(writer->chunk++),
                      PointerGetDatum(copy)};
    struct tlaw_session session;

    SET_VARSIZE(copy, VARHDRSZ + data->size);
    memcpy(VARDATA(copy), data->data, data->size);
    hash_add(writer->hash, data->data, data->size);
    writer->received += data->size;
    if (data->size == 0 || writer->received > writer->header.bytes)
        ereport(ERROR,
                (errcode(ERRCODE_PROTOCOL_VIOLATION),
                 errmsg("the engine announced a checkpoint of " INT64_FORMAT " bytes and sent " INT64_FORMAT,
                        writer->header.bytes, writer->received)));
    tlaw_begin(&session);
    tlaw_execute(SPI_OK_INSERT, "INSERT INTO @.tlaw_checkpoint_chunk VALUES ($1, $2, $3, $4, $5)", 5, types,
                 values, NULL);
    tlaw_end(&session);
    MemoryContextSwitchTo(caller);
    MemoryContextReset(writer->scratch);
    return writer->received == writer->header.bytes;
}

void checkpoint_finish(struct checkpoint_writer *writer)
{
    Oid types[] = {INT8OID, TEXTOID, INT8OID, INT8OID, INT8OID, BYTEAOID};
    bytea *sha256 = palloc(VARHDRSZ + sizeof(writer->header.sha256));
    Datum values[] = {Int64GetDatum(writer->run_id),
                      CStringGetTextDatum(writer->kind),
                      Int64GetDatum(writer->header.generation),
                      Int64GetDatum(writer->header.step),
                      Int64GetDatum(writer->header.bytes),
                      PointerGetDatum(sha256)};
    struct tlaw_session session;

    SET_VARSIZE(sha256, VARHDRSZ + sizeof(writer->header.sha256));
    memcpy(VARDATA(sha256), writer->header.sha256, sizeof(writer->header.sha256));
    if (!hash_equals(writer->hash, writer->header.sha256))
        ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
                        errmsg("a checkpoint of run " INT64_FORMAT " arrived damaged", writer->run_id)));
    tlaw_begin(&session);
    tlaw_execute(SPI_OK_DELETE,
                 "DELETE FROM @.tlaw_checkpoint_chunk WHERE run_id = $1 AND kind = $2 AND generation < $3", 3,
                 types, values, NULL);
    tlaw_execute(
        SPI_OK_INSERT,
        "INSERT INTO @.tlaw_checkpoint (run_id, kind, generation, step, bytes, sha256)"
        " VALUES ($1, $2, $3, $4, $5, $6)"
        " ON CONFLICT (run_id, kind) DO UPDATE SET generation = $3, step = $4, bytes = $5, sha256 = $6,"
        " created_at = pg_catalog.now()",
        6, types, values, NULL);
    tlaw_end(&session);
    MemoryContextDelete(writer->scratch);
    pfree(writer);
}
