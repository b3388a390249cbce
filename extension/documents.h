/*
 * A user's table as a stream of documents for an engine.
 *
 * Read once, by a query of the caller's with the caller's rights (row-level security and column privileges
 * apply), one row at a time: never more than one text is in memory.
 */
#ifndef TLAW_DOCUMENTS_H
#define TLAW_DOCUMENTS_H

#include "engine_client.h"

struct document_source {
    char *relation; /* qualified and quoted, as in SQL */
    char *query;    /* SELECT text, group key */
    bool is_text;   /* else bytea: taken as it is */
};

struct document_counts {
    int64 documents, bytes; /* with text */
    int64 nulls, empties;
};

/*
 * Checks that relation has rows and text_column holds text (text, varchar, char, name, json, jsonb, xml or a
 * type of the string category) or bytea; group_column: NULL, or a column of any type.  Errors name the
 * argument.
 */
extern void document_source_open(struct document_source *source, Oid relation, const char *text_column,
                                 const char *group_column);
/*
 * Sends every row (or those up to the limit-th that has text, unless that is 0) as DOCUMENT frames, NULL as
 * an empty text, so that the engine numbers rows from 0; then END.  Text goes as UTF-8.  A NOTICE every few
 * seconds; cancellable.  SPI must not be connected as another user.
 */
extern struct document_counts documents_send(struct engine *engine, const struct document_source *source,
                                             int64 limit);
/* A text (in UTF-8) or bytea value as bytes. */
extern struct tlaw_blob document_bytes(Datum value, bool is_text);
/* Something long begins: its first NOTICE comes after a few seconds. */
extern void progress_begin(void);
/* Reports PROGRESS as a NOTICE every few seconds; for engine_expect and engine_next. */
extern void progress_notice(const struct tlaw_progress_message *progress);

#endif
