/*
 * GENERATE: continues a prompt, token by token, as TEXT frames of whole UTF-8 characters.
 *
 * A document begins after an end-of-text, so the prompt is read after one.  When the context is full the last
 * half of it is read again from position 0.  Bytes that cannot begin or continue a character are passed on as
 * they are.
 */
#include "engine.h"
#include "../model/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct generation {
    struct engine *e;
    struct model *model;
    struct tlaw_generate_message m;
    int V, T;
    int32_t *history; /* every token so far */
    int64_t length;
    int position; /* in the context */
    real *logits; /* of the next token */
    struct candidate {
        double weight; /* probability, not normalised */
        int32_t token;
    } * candidates;
    unsigned char pending[8]; /* the beginning of a character */
    size_t pending_size;
    int64_t produced; /* tokens */
};

/* ---- the model ---- */

static void feed(struct generation *g, int32_t token)
{
    if (g->position == g->T) {
        g->position = 0;
        for (int64_t i = g->length - g->T / 2; i < g->length; i++)
            model_decode(g->model, g->history[i], g->position++, g->logits);
    }
    g->history[g->length++] = token;
    model_decode(g->model, token, g->position++, g->logits);
    engine_poll(g->e);
}

static void feed_prompt(struct generation *g, const void *prompt, size_t size)
{
    uint16_t *tokens = engine_alloc(g->e, sizeof *tokens * (size + 1), "the prompt");
    int64_t count = 1 + (int64_t) tokenizer_encode(g->e->tokenizer, prompt, size, tokens + 1);
    int64_t first = count > g->T ? count - g->T / 2 : 0; /* of a long prompt, what the context would hold */

    tokens[0] = (uint16_t) g->e->corpus.header->end_of_text;
    g->history = engine_alloc(g->e, sizeof *g->history * (size_t) (count + g->m.max_tokens), "the text");
    for (int64_t i = first; i < count; i++)
        feed(g, tokens[i]);
    free(tokens);
}

/* ---- choosing ---- */

static int by_weight(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    if (x->weight != y->weight)
        return x->weight > y->weight ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

static int32_t most_likely(const struct generation *g)
{
    int32_t best = 0;

    for (int32_t i = 1; i < g->V; i++)
        if (g->logits[i] > g->logits[best])
            best = i;
    return best;
}

/* Temperature, then the top_k most likely, then the fewest that hold top_p of the probability. */
static int32_t sample(struct generation *g)
{
    int count = g->m.top_k > 0 && g->m.top_k < g->V ? (int) g->m.top_k : g->V;
    double highest = g->logits[most_likely(g)], total = 0, kept = 0, draw;

    for (int32_t i = 0; i < g->V; i++)
        g->candidates[i] = (struct candidate){exp((g->logits[i] - highest) / g->m.temperature), i};
    if (count < g->V || g->m.top_p < 1)
        qsort(g->candidates, (size_t) g->V, sizeof *g->candidates, by_weight);
    for (int i = 0; i < count; i++)
        total += g->candidates[i].weight;
    for (int i = 0; i < count; i++) {
        kept += g->candidates[i].weight;
        if (kept >= g->m.top_p * total)
            count = i + 1;
    }
    draw = rng_uniform((uint64_t) g->m.seed, RNG_SAMPLE, (uint64_t) g->produced) * kept;
    for (int i = 0; i < count - 1; i++) {
        draw -= g->candidates[i].weight;
        if (draw < 0)
            return g->candidates[i].token;
    }
    return g->candidates[count - 1].token;
}

/* ---- text ---- */

/* Bytes of the character that `first` begins; 1 for a byte that begins none. */
static size_t character_size(unsigned char first)
{
    return first >= 0xF0 && first < 0xF5 ? 4 : first >= 0xE0 ? (first < 0xF0 ? 3 : 1) : first >= 0xC2 ? 2 : 1;
}

/* Bytes at the end that begin a character and are continued, if at all, by what comes next. */
static size_t unfinished(const unsigned char *text, size_t size)
{
    for (size_t back = 1; back <= 3 && back <= size; back++) {
        unsigned char byte = text[size - back];

        if (byte >= 0xC0)
            return character_size(byte) > back ? back : 0;
        if (byte < 0x80)
            break;
    }
    return 0;
}

/* Sends what is whole of pending and text, and keeps the rest; last: everything. */
static void emit(struct generation *g, const void *text, size_t size, bool last)
{
    size_t total = g->pending_size + size, rest;
    unsigned char *joined = engine_alloc(g->e, total, "text");
    struct tlaw_text_message message = {.tokens = g->produced};

    memcpy(joined, g->pending, g->pending_size);
    if (size)
        memcpy(joined + g->pending_size, text, size);
    rest = last ? 0 : unfinished(joined, total);
    memcpy(g->pending, joined + total - rest, rest);
    g->pending_size = rest;
    message.text = (struct tlaw_blob){joined, total - rest};
    if (total > rest)
        engine_send(g->e, TLAW_TEXT, &message);
    free(joined);
}

static void generate(struct generation *g)
{
    while (g->produced < g->m.max_tokens) {
        int32_t token = g->m.temperature > 0 ? sample(g) : most_likely(g);
        size_t size;
        const void *text;

        g->produced++;
        if (token == g->e->corpus.header->end_of_text)
            break;
        text = tokenizer_token(g->e->tokenizer, token, &size);
        emit(g, text, size, false);
        if (g->produced < g->m.max_tokens)
            feed(g, token);
    }
    emit(g, NULL, 0, true);
}

void job_generate(struct engine *e, const union tlaw_any_message *request)
{
    struct generation g = {.e = e, .m = request->generate};
    size_t size = g.m.prompt.size;
    void *prompt = engine_alloc(e, size, "the prompt");

    memcpy(prompt, g.m.prompt.data, size); /* the request's frame goes when the next one comes */
    engine_check_range(e, "max_tokens", (double) g.m.max_tokens, 0, 1e8);
    engine_check_range(e, "temperature", g.m.temperature, 0, 1e6);
    engine_check_range(e, "top_k", (double) g.m.top_k, 0, 65536);
    engine_check_range(e, "top_p", g.m.top_p, 1e-9, 1);
    engine_open_corpus(e, &g.m.spec);
    engine_check_spec(e, &g.m.spec, INT64_MAX, INT64_MAX);
    engine_open_device(e, &g.m.spec, g.m.threads);
    engine_check_range(e, "model_bytes", (double) g.m.model_bytes, 1, 1e15);
    g.m.spec.micro_batch = g.m.spec.batch_size = 1;
    g.model = engine_open_model(e, &g.m.spec, g.m.model_bytes);
    g.V = (int) g.m.spec.vocab_size;
    g.T = (int) g.m.spec.context_length;
    g.logits = engine_alloc(e, sizeof *g.logits * (size_t) g.V, "logits");
    g.candidates = engine_alloc(e, sizeof *g.candidates * (size_t) g.V, "candidates");
    feed_prompt(&g, prompt, size);
    generate(&g);
    free(prompt);
    free(g.history);
    free(g.logits);
    free(g.candidates);
    model_free(g.model);
}
