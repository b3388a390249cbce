/*
 * EVALUATE: a stored model on a part of its corpus, or on documents that the parent sends.
 */
#include "engine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct scoring {
    struct engine *e;
    int64_t batch_tokens;
    struct tlaw_progress_message progress;
};

/* Called before each batch. */
static int report(void *arg)
{
    struct scoring *s = arg;

    engine_poll(s->e);
    engine_progress(s->e, &s->progress);
    s->progress.step += s->batch_tokens;
    return 0;
}

static int64_t count_tokens(const struct documents *d)
{
    int64_t tokens = 0;

    for (int64_t i = 0; i < d->count; i++)
        tokens += d->documents[i].tokens;
    return tokens;
}

static void send_evaluation(struct engine *e, const struct evaluation *result)
{
    struct tlaw_evaluated_message evaluated = {
        .loss = result->loss,
        .loss_se = result->loss_se,
        .bits_per_byte = result->bits_per_byte,
        .bits_per_byte_se = result->bits_per_byte_se,
        .tokens = result->tokens,
        .bytes = result->bytes,
        .documents = result->documents,
    };

    engine_send(e, TLAW_EVALUATED, &evaluated);
}

void job_evaluate(struct engine *e, const union tlaw_any_message *request)
{
    struct tlaw_evaluate_message m = request->evaluate;
    struct document_loss *records;
    struct documents documents;
    struct scoring scoring = {.e = e,
                              .progress = {.loss = NAN, .tokens_per_second = NAN, .seconds_left = NAN}};
    struct evaluation result;
    struct model *model;

    engine_open_corpus(e, &m.spec);
    engine_check_spec(e, &m.spec, INT64_MAX, INT64_MAX);
    engine_open_device(e, &m.spec, m.threads);
    engine_check_range(e, "model_bytes", (double) m.model_bytes, 1, 1e15);
    model = engine_open_model(e, &m.spec, m.model_bytes);
    engine_read_documents(e, m.part, &documents);
    if (documents.count == 0)
        engine_fail(e, "input", "there is no text to score: every document is empty");
    snprintf(scoring.progress.phase, sizeof scoring.progress.phase, "evaluate");
    scoring.progress.total = count_tokens(&documents);
    scoring.batch_tokens = m.spec.micro_batch * m.spec.context_length;
    records = engine_alloc(e, (size_t) documents.count * sizeof *records, "the losses of the documents");
    if (evaluate_documents(model, &m.spec, (int) m.spec.micro_batch, documents.tokens, documents.documents,
                           documents.count, (int32_t) e->corpus.header->end_of_text, records, &result, report,
                           &scoring))
        engine_fail(e, "memory", "no memory to score %lld documents", (long long) documents.count);
    for (int64_t i = 0; documents.numbers && i < documents.count; i++)
        records[i].document = documents.numbers[i];
    engine_send_document_losses(e, records, documents.count);
    send_evaluation(e, &result);
    free(records);
    engine_free_documents(&documents);
    model_free(model);
}
