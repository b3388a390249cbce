/*
 * EMBED: hidden states of documents at random positions, one EMBEDDING frame each.
 *
 * A document is read alone from position 0, without an end-of-text before it; a batch is padded behind, which
 * a causal model does not see.  Positions depend on (seed, number of the document) only.
 */
#include "engine.h"
#include "../model/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct embedding {
    struct engine *e;
    struct model *model;
    struct tlaw_embed_message m;
    struct documents documents;
    int64_t count;      /* documents to embed */
    int32_t *tokens;    /* [batch, T] */
    int32_t *positions; /* [prefix] */
    real *hidden;       /* [batch, T, C] */
    float *vector;      /* [C] */
};

static int used_tokens(const struct embedding *g, int64_t document)
{
    int64_t tokens = g->documents.documents[document].tokens;

    return (int) (tokens < g->m.prefix ? tokens : g->m.prefix);
}

static int ascending(const void *a, const void *b)
{
    int32_t x = *(const int32_t *) a, y = *(const int32_t *) b;

    return (x > y) - (x < y);
}

/* Fills positions: all of them, or m.positions drawn without replacement (Fisher-Yates), ascending. */
static int draw_positions(const struct embedding *g, int64_t number, int available)
{
    int wanted = g->m.positions > 0 && g->m.positions < available ? (int) g->m.positions : available;

    for (int i = 0; i < available; i++)
        g->positions[i] = i;
    if (wanted == available)
        return available;
    for (int i = 0; i < wanted; i++) {
        uint64_t index = (uint64_t) number * 65536 + (uint64_t) i;
        int other =
            i + (int) rng_below((uint64_t) g->m.seed, RNG_POSITIONS, index, (uint64_t) (available - i));
        int32_t swap = g->positions[i];

        g->positions[i] = g->positions[other];
        g->positions[other] = swap;
    }
    qsort(g->positions, (size_t) wanted, sizeof *g->positions, ascending);
    return wanted;
}

static void send_document(struct embedding *g, int64_t document, const real *hidden)
{
    int C = (int) g->m.spec.d_model;
    int64_t number = g->documents.numbers ? g->documents.numbers[document] : document;
    int count = draw_positions(g, number, used_tokens(g, document));

    for (int i = 0; i < count; i++) {
        const real *row = hidden + (size_t) g->positions[i] * (size_t) C;
        struct tlaw_embedding_message embedding = {.document = number,
                                                   .position = g->positions[i],
                                                   .vector = {g->vector, sizeof(float) * (size_t) C}};

        for (int c = 0; c < C; c++)
            g->vector[c] = (float) row[c];
        engine_send(g->e, TLAW_EMBEDDING, &embedding);
    }
}

static void embed_batch(struct embedding *g, int64_t first, int batch)
{
    int T = 0, C = (int) g->m.spec.d_model;

    for (int b = 0; b < batch; b++)
        T = used_tokens(g, first + b) > T ? used_tokens(g, first + b) : T;
    for (int b = 0; b < batch; b++) {
        const struct corpus_document *d = &g->documents.documents[first + b];
        int used = used_tokens(g, first + b);

        for (int t = 0; t < T; t++)
            g->tokens[b * T + t] = t < used ? g->documents.tokens[d->token_start + t]
                                            : (int32_t) g->e->corpus.header->end_of_text;
    }
    model_hidden(g->model, g->tokens, batch, T, (int) g->m.layer, g->hidden);
    for (int b = 0; b < batch; b++)
        send_document(g, first + b, g->hidden + (size_t) b * (size_t) T * (size_t) C);
}

static void embed_all(struct embedding *g)
{
    const struct tlaw_spec *s = &g->m.spec;
    size_t rows = (size_t) s->micro_batch * (size_t) g->m.prefix;

    g->tokens = engine_alloc(g->e, rows * sizeof *g->tokens, "tokens");
    g->positions = engine_alloc(g->e, (size_t) g->m.prefix * sizeof *g->positions, "positions");
    g->hidden = engine_alloc(g->e, rows * (size_t) s->d_model * sizeof *g->hidden, "hidden states");
    g->vector = engine_alloc(g->e, (size_t) s->d_model * sizeof *g->vector, "a vector");
    for (int64_t first = 0; first < g->count; first += s->micro_batch) {
        int64_t left = g->count - first;
        struct tlaw_progress_message progress = {.step = first, .total = g->count, .phase = "embed"};

        engine_poll(g->e);
        engine_progress(g->e, &progress);
        embed_batch(g, first, (int) (left < s->micro_batch ? left : s->micro_batch));
    }
    free(g->tokens);
    free(g->positions);
    free(g->hidden);
    free(g->vector);
}

void job_embed(struct engine *e, const union tlaw_any_message *request)
{
    struct embedding g = {.e = e, .m = request->embed};

    engine_open_corpus(e, &g.m.spec);
    engine_check_spec(e, &g.m.spec, INT64_MAX, INT64_MAX);
    engine_check_range(e, "layer", (double) g.m.layer, 0, (double) g.m.spec.n_layer + 1);
    engine_check_range(e, "positions", (double) g.m.positions, 0, 65536);
    engine_check_range(e, "prefix", (double) g.m.prefix, 1, (double) g.m.spec.context_length);
    engine_check_range(e, "max_documents", (double) g.m.max_documents, 0, 1e15);
    engine_check_range(e, "model_bytes", (double) g.m.model_bytes, 0, 1e15);
    engine_open_device(e, &g.m.spec, g.m.threads);
    g.model = engine_open_model(e, &g.m.spec, g.m.model_bytes);
    engine_read_documents(e, g.m.part, &g.documents);
    g.count = g.documents.count;
    if (g.m.max_documents > 0 && g.m.max_documents < g.count)
        g.count = g.m.max_documents;
    embed_all(&g);
    engine_free_documents(&g.documents);
    model_free(g.model);
}
