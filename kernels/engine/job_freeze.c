/*
 * FREEZE: documents in, token file out.  DOCUMENT frames and END follow the request; FROZEN answers.
 */
#include "engine.h"
#include "../text/freeze.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(TLAW_TOKENIZER_NAME_SIZE == TOKENIZER_NAME_SIZE, "one stored form of tokenizers");

static int report(const char *phase, int64_t done, int64_t total, void *arg)
{
    struct engine *e = arg;
    struct tlaw_progress_message progress = {.step = done, .total = total};

    engine_poll(e);
    snprintf(progress.phase, sizeof progress.phase, "%s", phase);
    engine_progress(e, &progress);
    return 0;
}

static void add_document(struct engine *e, struct freeze *freeze, const struct tlaw_document_message *m)
{
    char message[TLAW_TEXT_SIZE];
    size_t group = m->group_bytes > 0 ? (size_t) m->group_bytes : 0;

    if (m->group_bytes < -1 || group > m->data.size)
        engine_fail(e, "protocol", "group_bytes = %lld is not accepted: -1 to %zu",
                    (long long) m->group_bytes, m->data.size);
    errno = 0;
    if (freeze_document(freeze, m->data.data, m->group_bytes, (const char *) m->data.data + group,
                        m->data.size - group, m->more != 0, message, sizeof message))
        engine_fail_call(e, "io", message);
}

void job_freeze(struct engine *e, const union tlaw_any_message *request)
{
    struct tlaw_freeze_message m = request->freeze;
    bool given = strcmp(m.tokenizer, "given") == 0;
    void *definition = given ? engine_receive_chunks(e, m.tokenizer_bytes, "tokenizer_bytes") : NULL;
    char message[TLAW_TEXT_SIZE];
    struct tlaw_frozen_message frozen = {0};
    union tlaw_any_message next;
    enum tlaw_message type;
    struct freeze *freeze;
    bool inside = false; /* a text whose last frame said `more` */

    errno = 0;
    freeze =
        freeze_begin(m.tokenizer, definition, given ? (size_t) m.tokenizer_bytes : 0, m.validation_fraction,
                     m.test_fraction, m.split_seed, TLAW_FD_SPOOL, message, sizeof message);
    if (!freeze)
        engine_fail_call(e, "input", message);
    while ((type = engine_receive(e, &next)) == TLAW_DOCUMENT) {
        add_document(e, freeze, &next.document);
        inside = next.document.more != 0;
    }
    if (type != TLAW_END || inside)
        engine_unexpected(e, type, inside ? "the rest of a DOCUMENT" : "DOCUMENT or END");
    errno = 0;
    if (freeze_finish(freeze, TLAW_FD_TOKENS, &frozen, report, e, message, sizeof message))
        engine_fail_call(e, errno ? "io" : "input", message);
    engine_send(e, TLAW_FROZEN, &frozen);
    freeze_free(freeze);
    free(definition);
}
