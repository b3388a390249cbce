/*
 * What jobs work on: the checked specification, the device, the corpus, a model, documents.
 *
 * Invariant: everything returned here was checked; whatever is wrong ended the job through engine_fail.
 */
#include "engine.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void engine_check_range(struct engine *e, const char *name, double value, double low, double high)
{
    if (!(value >= low && value <= high))
        engine_fail(e, "input", "%s = %.15g is not accepted: between %.15g and %.15g", name, value, low,
                    high);
}

/* ---- specification ---- */

#define SET_I64(name)                                                                                        \
    if (spec->name == TLAW_UNSET)                                                                            \
        return #name;
#define SET_F64(name) SET_I64(name)
#define SET_STR(name)                                                                                        \
    if (!spec->name[0] && spec->name != spec->isa)                                                           \
        return #name;

/* The first field left out; NULL when all are set.  isa may be "": the best of this machine. */
static const char *unset_field(const struct tlaw_spec *spec)
{
    TLAW_SPEC_FIELDS(SET_I64, SET_F64, SET_STR)
    return NULL;
}

void engine_check_spec(struct engine *e, const struct tlaw_spec *spec, int64_t train_available,
                       int64_t val_available)
{
    const char *unset = unset_field(spec);
    struct tlaw_spec copy = *spec; /* with nothing unset, tlaw_spec_resolve only checks */
    char message[TLAW_TEXT_SIZE];

    if (unset)
        engine_fail(e, "input", "the specification lacks %s", unset);
    if (tlaw_spec_resolve(&copy, train_available, val_available, 0, message, sizeof message))
        engine_fail(e, "input", "%s", message);
}

/* ---- device ---- */

/*
 * Who reports it: backend_no_memory takes no argument.  Of many runs the one whose thread asks; else the only
 * one, also on the threads of its device.
 */
static struct engine *out_of_memory;
static _Thread_local struct engine *served;

static void report_no_memory(const char *message)
{
    engine_fail(served ? served : out_of_memory, "memory", "%s", message);
}

void engine_open_device(struct engine *e, const struct tlaw_spec *spec, int64_t threads)
{
    char message[TLAW_TEXT_SIZE];

    engine_check_range(e, "threads", (double) threads, 1, 1024);
    e->backend = backend_find(spec->device, spec->isa, spec->precision, message, sizeof message);
    if (!e->backend)
        engine_fail(e, "input", "%s", message);
    e->threads = (int) threads;
    if (e->serves)
        served = e;
    else
        out_of_memory = e;
    backend_no_memory = report_no_memory;
    errno = 0;
    e->device = e->backend->open(e->threads, message, sizeof message);
    if (!e->device)
        engine_fail_call(e, "internal", message);
}

/* The product that is measured: [rows, width] by [width, width]. */
#define CALL_SECONDS 1e-3
enum { FIRST_ROWS = 32, MOST_ROWS = 4096, WIDTH = 512, MOST_WIDTH = 8192 };

struct measurement {
    struct engine *e;
    double seconds, best;
    int rows, width;
    double taken; /* by the last call */
    act *x;
    real *w, *y;
};

/* Random bits that are numbers between -1 and 1 as floats and as pairs of bf16: zeros would be quicker. */
static void fill(struct measurement *m, void *array, size_t bytes)
{
    const struct backend *b = m->e->backend;
    uint32_t block[16384], x = 1;

    for (size_t i = 0; i < sizeof block / sizeof *block; i++) {
        x = x * 1664525u + 1013904223u;
        block[i] = (x & 0x807f807f) | 0x3f003f00;
    }
    for (size_t at = 0; at < bytes; at += sizeof block)
        b->upload(m->e->device, (char *) array + at, block,
                  bytes - at < sizeof block ? bytes - at : sizeof block);
}

static void multiply(struct measurement *m)
{
    const struct backend *b = m->e->backend;
    real first;

    b->linear_forward(m->e->device, NULL, m->y, NULL, m->x, m->w, NULL, m->rows, m->width, m->width);
    b->download(m->e->device, &first, m->y, sizeof first); /* waits for the device */
}

/* Rows grow until a call is long enough to measure; on a processor not beyond CALL_SECONDS, for the best of
 * short calls had the processor to itself even where other engines compute. */
static void measure_product(void *arg)
{
    struct measurement *m = arg;
    double start, longest = strcmp(m->e->backend->name, "cuda") == 0 ? INFINITY : CALL_SECONDS;

    multiply(m); /* loads and chooses kernels */
    for (start = engine_now(), m->taken = 0; engine_now() - start + m->taken < m->seconds;
         engine_poll(m->e)) {
        double begin = engine_now(), flops = 2.0 * m->rows * m->width * m->width;

        multiply(m);
        m->taken = engine_now() - begin;
        if (flops / m->taken > m->best)
            m->best = flops / m->taken;
        if (m->rows < MOST_ROWS && 2 * m->taken < fmin((m->seconds - (engine_now() - start)) / 2, longest))
            m->rows *= 2;
    }
}

/* The measurement with its arrays, if there is memory for them; -1 when it ended one of many runs. */
static int measure(struct measurement *m)
{
    const struct backend *b = m->e->backend;
    struct device *device = m->e->device;
    size_t elements = (size_t) MOST_ROWS * (size_t) m->width, weights = (size_t) m->width * (size_t) m->width;
    void *arrays[3];
    int result = 0;

    arrays[0] = m->x = b->alloc(device, elements * b->act_size);
    arrays[1] = m->w = b->alloc(device, weights * sizeof(real));
    arrays[2] = m->y = b->alloc(device, elements * sizeof(real));
    if (m->x && m->w && m->y) {
        fill(m, m->x, elements * b->act_size);
        fill(m, m->w, weights * sizeof(real));
        result = engine_attempt(m->e, measure_product, m);
    } else {
        m->taken = INFINITY;
    }
    for (int i = 0; i < 3; i++)
        if (arrays[i])
            b->free(device, arrays[i]);
    return result;
}

/* A processor is measured on a product as wide as its layers; a GPU, where that takes no time, on wider ones.
 */
static int measure_device(struct measurement *m)
{
    int result;

    m->rows = FIRST_ROWS;
    m->width = WIDTH;
    result = measure(m);
    while (!result && strcmp(m->e->backend->name, "cuda") == 0 && m->rows == MOST_ROWS &&
           m->width < MOST_WIDTH && 4 * m->taken < m->seconds / 4) {
        m->width *= 2;
        result = measure(m);
    }
    return result;
}

double engine_matrix_flops(struct engine *e, double seconds)
{
    static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
    static struct {
        const struct backend *backend;
        double flops;
    } measured[2]; /* by precision; kept for the runs to come, which would find the device busy */
    struct measurement m = {.e = e, .seconds = seconds};
    int which = strcmp(e->backend->precision, "float32") == 0, result = 0;

    pthread_mutex_lock(&one_at_a_time);
    if (!e->serves || measured[which].backend != e->backend) {
        result = measure_device(&m);
        if (m.best > 0)
            measured[which].backend = e->backend, measured[which].flops = m.best;
    } else {
        m.best = measured[which].flops;
    }
    pthread_mutex_unlock(&one_at_a_time);
    if (result)
        engine_end(e, 0);
    if (m.best == 0)
        engine_fail(e, "memory", "no memory to measure the device");
    return m.best;
}

/* ---- corpus and model ---- */

void engine_open_corpus(struct engine *e, const struct tlaw_spec *spec)
{
    char message[TLAW_TEXT_SIZE];

    errno = 0;
    if (corpus_open(&e->corpus, e->tokens, message, sizeof message))
        engine_fail_call(e, "input", message);
    errno = 0;
    e->tokenizer = tokenizer_load(e->corpus.tokenizer, (size_t) e->corpus.header->tokenizer_bytes, message,
                                  sizeof message);
    if (!e->tokenizer)
        engine_fail_call(e, "input", message);
    if (spec && spec->vocab_size != e->corpus.header->vocab_size)
        engine_fail(e, "input", "vocab_size = %" PRId64 " is not accepted: the corpus has %" PRId64 " tokens",
                    spec->vocab_size, e->corpus.header->vocab_size);
}

struct model *engine_open_model(struct engine *e, const struct tlaw_spec *spec, int64_t model_bytes)
{
    void *file = model_bytes ? engine_receive_chunks(e, model_bytes, "model_bytes") : NULL;
    char message[TLAW_TEXT_SIZE];
    struct model *model;

    errno = 0;
    model =
        model_create(spec, e->backend, e->device, (int) spec->micro_batch, false, message, sizeof message);
    if (!model)
        engine_fail_call(e, "input", message);
    errno = 0;
    if (!file)
        model_init(model);
    else if (model_import(model, file, (size_t) model_bytes, message, sizeof message))
        engine_fail_call(e, "checkpoint", message);
    free(file);
    return model;
}

/* ---- documents ---- */

/* What has been read so far: texts become tokens one by one, so that only one text is held. */
struct reading {
    unsigned char *text;
    uint16_t *tokens;
    struct corpus_document *documents;
    int64_t *numbers;
    size_t text_size, text_capacity;
    int64_t token_count, token_capacity, count, capacity, number;
};

/* Doubles an array that is full; *capacity and needed in elements. */
static void *grow(struct engine *e, void *array, size_t element, int64_t *capacity, int64_t needed)
{
    int64_t larger = *capacity ? *capacity : 1024;
    void *grown;

    while (larger < needed)
        larger *= 2;
    if (larger == *capacity)
        return array;
    grown = realloc(array, element * (size_t) larger);
    if (!grown)
        engine_fail(e, "memory", "no memory for the documents: %zu bytes", element * (size_t) larger);
    *capacity = larger;
    return grown;
}

static void add_text(struct engine *e, struct reading *r, const struct tlaw_document_message *frame)
{
    size_t group = frame->group_bytes > 0 ? (size_t) frame->group_bytes : 0;
    int64_t capacity = (int64_t) r->text_capacity;

    if (frame->group_bytes < -1 || group > frame->data.size)
        engine_fail(e, "protocol", "group_bytes = %" PRId64 " is not accepted: -1 to %zu", frame->group_bytes,
                    frame->data.size);
    r->text = grow(e, r->text, 1, &capacity, (int64_t) (r->text_size + frame->data.size - group));
    r->text_capacity = (size_t) capacity;
    memcpy(r->text + r->text_size, (const char *) frame->data.data + group, frame->data.size - group);
    r->text_size += frame->data.size - group;
    if (r->text_size >= UINT32_MAX)
        engine_fail(e, "input", "a document of %zu bytes is not accepted: less than 4 GiB", r->text_size);
}

static void end_document(struct engine *e, struct reading *r)
{
    struct corpus_document document = {.token_start = r->token_count, .bytes = (uint32_t) r->text_size};
    int64_t capacity = r->capacity;

    if (r->text_size > 0) {
        r->tokens = grow(e, r->tokens, sizeof *r->tokens, &r->token_capacity,
                         r->token_count + (int64_t) r->text_size + 1);
        document.tokens =
            (uint32_t) tokenizer_encode(e->tokenizer, r->text, r->text_size, r->tokens + r->token_count);
        r->tokens[r->token_count + document.tokens++] = (uint16_t) e->corpus.header->end_of_text;
        r->token_count += document.tokens;
        r->documents = grow(e, r->documents, sizeof *r->documents, &capacity, r->count + 1);
        r->numbers = grow(e, r->numbers, sizeof *r->numbers, &r->capacity, r->count + 1);
        r->documents[r->count] = document;
        r->numbers[r->count++] = r->number;
    }
    r->number++;
    r->text_size = 0;
}

static void read_texts(struct engine *e, struct documents *out)
{
    struct reading r = {0};
    union tlaw_any_message message;
    enum tlaw_message type;
    bool inside = false; /* a text whose last frame said `more` */

    while ((type = engine_receive(e, &message)) != TLAW_END) {
        if (type != TLAW_DOCUMENT)
            engine_unexpected(e, type, "DOCUMENT or END");
        add_text(e, &r, &message.document);
        inside = message.document.more;
        if (!inside)
            end_document(e, &r);
    }
    if (inside)
        engine_unexpected(e, type, "the rest of a DOCUMENT");
    free(r.text);
    *out = (struct documents){r.tokens, r.documents, r.numbers, r.count, {r.tokens, r.documents, r.numbers}};
}

void engine_read_documents(struct engine *e, const char *part, struct documents *out)
{
    const struct corpus *c = &e->corpus;
    enum corpus_part p = strcmp(part, "validation") == 0 ? PART_VALIDATION : PART_TEST;

    if (strcmp(part, "documents") == 0) {
        read_texts(e, out);
        return;
    }
    if (p == PART_TEST && strcmp(part, "test") != 0)
        engine_fail(e, "input", "part = \"%s\" is not accepted: validation, test or documents", part);
    *out = (struct documents){c->tokens, c->documents[p], NULL, c->header->documents[p], {NULL}};
}

void engine_free_documents(struct documents *d)
{
    for (size_t i = 0; i < sizeof d->owned / sizeof *d->owned; i++)
        free(d->owned[i]);
}

void engine_free(struct engine *e)
{
    trainer_free(e->trainer);
    free(e->block);
    tokenizer_free(e->tokenizer);
    if (e->corpus.header)
        corpus_close(&e->corpus);
    if (e->device)
        e->backend->close(e->device);
    tlaw_wire_buffer_free(&e->in);
    tlaw_wire_buffer_free(&e->out);
}
