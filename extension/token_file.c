/*
 * The cache of token files: base/pgsql_tmp/pgsql_tmp_tlaw/<sha256 in hex>.
 *
 * Invariants: the tables are the truth and the cache may vanish at any time (PostgreSQL leaves pgsql_tmp out
 * of base backups and wipes it when it starts); a file has its final name only after its sha256 was checked,
 * by an atomic rename, so that any number of processes may build the same one at once; a file that is open
 * stays readable when it is removed.
 */
#include "token_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/file_perm.h"
#include "common/file_utils.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#define CACHE_PARENT "base/" PG_TEMP_FILES_DIR
#define CACHE        CACHE_PARENT "/" PG_TEMP_FILE_PREFIX "_tlaw"

#define SHA256_SIZE 32

/* Cache files to remove when the transaction commits; lives in TopTransactionContext. */
struct removal {
    struct removal *next;
    char path[MAXPGPATH];
};
static struct removal *removals = NULL;

static void make_folder(const char *path)
{
    if (MakePGDirectory(path) != 0 && errno != EEXIST)
        ereport(ERROR, (errcode_for_file_access(), errmsg("could not create directory \"%s\": %m", path)));
}

static void make_cache(void)
{
    make_folder(CACHE_PARENT);
    make_folder(CACHE);
}

static char *cache_path(const unsigned char *sha256)
{
    char hex[2 * SHA256_SIZE + 1];

    hex[hex_encode((const char *) sha256, SHA256_SIZE, hex)] = '\0';
    return psprintf("%s/%s", CACHE, hex);
}

/* A new file with a name of its own. */
static int create_file(char **path)
{
    static unsigned int counter = 0;
    int fd;

    make_cache();
    *path = psprintf("%s/new.%d.%u", CACHE, MyProcPid, counter++);
    fd = BasicOpenFile(*path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | PG_BINARY);
    if (fd < 0)
        ereport(ERROR, (errcode_for_file_access(), errmsg("could not create file \"%s\": %m", *path)));
    return fd;
}

int tlaw_temporary_file(void)
{
    char *path;
    int fd = create_file(&path);

    unlink(path);
    pfree(path);
    return fd;
}

/* ---- shards ---- */

/* A running SHA-256; an error frees it with the resource owner. */
static pg_cryptohash_ctx *hash_start(void)
{
    pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);

    if (hash == NULL || pg_cryptohash_init(hash) < 0)
        elog(ERROR, "could not start SHA-256");
    return hash;
}

static void hash_add(pg_cryptohash_ctx *hash, const void *data, size_t size)
{
    if (pg_cryptohash_update(hash, data, size) < 0)
        elog(ERROR, "could not compute SHA-256: %s", pg_cryptohash_error(hash));
}

/* Ends it; whether it is the expected one. */
static bool hash_is(pg_cryptohash_ctx *hash, const unsigned char *expected)
{
    unsigned char sha256[SHA256_SIZE];

    if (pg_cryptohash_final(hash, sha256, sizeof(sha256)) < 0)
        elog(ERROR, "could not compute SHA-256: %s", pg_cryptohash_error(hash));
    pg_cryptohash_free(hash);
    return memcmp(sha256, expected, SHA256_SIZE) == 0;
}

static void read_exactly(int fd, char *data, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = read(fd, data + done, size - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            ereport(ERROR,
                    (errcode_for_file_access(),
                     n < 0 ? errmsg("could not read a token file: %m")
                           : errmsg("a token file ended after %zu of %zu bytes of a shard", done, size)));
        done += n;
    }
}

static void write_exactly(int fd, const char *path, const char *data, size_t size)
{
    size_t done = 0;

    while (done < size) {
        ssize_t n = write(fd, data + done, size - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            ereport(ERROR, (errcode_for_file_access(), errmsg("could not write file \"%s\": %m", path)));
        done += n;
    }
}

void token_file_store(const char *corpus, int fd, int64 file_bytes, const unsigned char *sha256)
{
    Oid types[] = {TEXTOID, INT4OID, BYTEAOID};
    pg_cryptohash_ctx *hash = hash_start();
    bytea *data = palloc(TLAW_CHUNK_SIZE + VARHDRSZ);
    struct tlaw_session session;
    int64 done;
    int32 shard = 0;

    if (lseek(fd, 0, SEEK_SET) < 0)
        ereport(ERROR, (errcode_for_file_access(), errmsg("could not rewind a token file: %m")));
    for (done = 0; done < file_bytes; done += VARSIZE(data) - VARHDRSZ) {
        size_t size = Min(file_bytes - done, TLAW_CHUNK_SIZE);
        Datum values[3];

        CHECK_FOR_INTERRUPTS();
        SET_VARSIZE(data, size + VARHDRSZ);
        read_exactly(fd, VARDATA(data), size);
        hash_add(hash, VARDATA(data), size);
        tlaw_begin(&session); /* once a shard, so that SPI's memory is freed */
        values[0] = CStringGetTextDatum(corpus);
        values[1] = Int32GetDatum(shard++);
        values[2] = PointerGetDatum(data);
        tlaw_execute(SPI_OK_INSERT,
                     "INSERT INTO @.tlaw_corpus_shard (corpus, shard, data) VALUES ($1, $2, $3)", 3, types,
                     values, NULL);
        tlaw_end(&session);
    }
    if (!hash_is(hash, sha256))
        ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
                        errmsg("the token file of corpus \"%s\" changed after the engine wrote it", corpus)));
    pfree(data);
}

/* Shard `shard` of a corpus, appended to the file and the hash; its size, 0 when there is none. */
static size_t write_shard(const char *corpus, int32 shard, int fd, const char *path, pg_cryptohash_ctx *hash)
{
    Oid types[] = {TEXTOID, INT4OID};
    Datum values[2];
    struct tlaw_session session;
    size_t size = 0;

    CHECK_FOR_INTERRUPTS();
    tlaw_begin(&session);
    values[0] = CStringGetTextDatum(corpus);
    values[1] = Int32GetDatum(shard);
    if (tlaw_execute(SPI_OK_SELECT, "SELECT data FROM @.tlaw_corpus_shard WHERE corpus = $1 AND shard = $2",
                     2, types, values, NULL) > 0) {
        bool null;
        bytea *data = DatumGetByteaPP(
            SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null)); /* NOT NULL */

        size = VARSIZE_ANY_EXHDR(data);
        write_exactly(fd, path, VARDATA_ANY(data), size);
        hash_add(hash, VARDATA_ANY(data), size);
    }
    tlaw_end(&session);
    return size;
}

/* Writes the token file from the shards under its final name. */
static void rebuild(const char *corpus, const char *path, int64 file_bytes, const unsigned char *sha256)
{
    char *building;
    volatile int fd = create_file(&building);

    PG_TRY();
    {
        pg_cryptohash_ctx *hash = hash_start();
        int64 done = 0;
        int32 shard = 0;
        size_t size;

        while ((size = write_shard(corpus, shard++, fd, building, hash)) > 0)
            done += size;
        if (!hash_is(hash, sha256) || done != file_bytes)
            ereport(ERROR,
                    (errcode(ERRCODE_DATA_CORRUPTED),
                     errmsg("the stored shards of corpus \"%s\" are damaged", corpus),
                     errdetail("Their " INT64_FORMAT " bytes do not have the corpus's sha256 or its length "
                               "of " INT64_FORMAT " bytes.",
                               done, file_bytes)));
        if (rename(building, path) != 0)
            ereport(ERROR, (errcode_for_file_access(),
                            errmsg("could not rename file \"%s\" to \"%s\": %m", building, path)));
    }
    PG_CATCH();
    {
        close(fd);
        unlink(building);
        PG_RE_THROW();
    }
    PG_END_TRY();
    close(fd);
}

/* The file when it is there and complete, else -1. */
static int open_cached(const char *path, int64 file_bytes)
{
    int fd = BasicOpenFile(path, O_RDONLY | O_CLOEXEC | PG_BINARY);
    struct stat about;

    if (fd < 0 && errno != ENOENT)
        ereport(ERROR, (errcode_for_file_access(), errmsg("could not open file \"%s\": %m", path)));
    if (fd >= 0 && (fstat(fd, &about) != 0 || about.st_size != file_bytes)) {
        close(fd);
        return -1;
    }
    return fd;
}

int corpus_token_file(const char *corpus)
{
    Oid types[] = {TEXTOID};
    Datum values[] = {CStringGetTextDatum(corpus)};
    struct tlaw_session session;
    unsigned char sha256[SHA256_SIZE];
    int64 file_bytes;
    char *path;
    bool null;
    int fd;

    tlaw_begin(&session);
    if (tlaw_execute(SPI_OK_SELECT, "SELECT sha256, file_bytes FROM @.tlaw_corpus WHERE corpus = $1", 1,
                     types, values, NULL) == 0)
        ereport(ERROR, (errcode(ERRCODE_UNDEFINED_OBJECT), errmsg("corpus \"%s\" does not exist", corpus)));
    memcpy(
        sha256,
        VARDATA_ANY(DatumGetByteaPP(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null))),
        SHA256_SIZE);
    file_bytes = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &null));
    tlaw_end(&session);

    path = cache_path(sha256);
    while ((fd = open_cached(path, file_bytes)) < 0)
        rebuild(corpus, path, file_bytes, sha256);
    pfree(path);
    return fd;
}

/* ---- removal ---- */

/* A commit callback: raises nothing, allocates nothing. */
static void remove_at_commit(XactEvent event, void *arg)
{
    struct removal *r;

    if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
        return;
    for (r = removals; r && event == XACT_EVENT_COMMIT; r = r->next)
        unlink(r->path);
    removals = NULL; /* the memory goes with the transaction */
}

void token_file_forget(const unsigned char *sha256)
{
    static bool registered = false;
    struct removal *r = MemoryContextAlloc(TopTransactionContext, sizeof(struct removal));

    if (!registered) {
        RegisterXactCallback(remove_at_commit, NULL);
        registered = true;
    }
    strlcpy(r->path, cache_path(sha256), sizeof(r->path));
    r->next = removals;
    removals = r;
}
