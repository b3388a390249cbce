/*
 * Token files: the cache under base/pgsql_tmp, and the shards that it is rebuilt from.  corpus_token_file and
 * tlaw_temporary_file, which other files use, are declared in engine_client.h.
 */
#ifndef TLAW_TOKEN_FILE_H
#define TLAW_TOKEN_FILE_H

#include "engine_client.h"

/* Stores the file as the shards of a corpus whose row exists; an error unless it has that sha256. */
extern void token_file_store(const char *corpus, int fd, int64 file_bytes, const unsigned char *sha256);
/* Removes the cached file of that hash when the transaction commits. */
extern void token_file_forget(const unsigned char *sha256);

#endif
