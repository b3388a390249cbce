/*
 * Evaluation: a stream of tokens in fixed windows, and documents with the standard error of their mean loss.
 *
 * Windows do not overlap and know nothing of each other; a token's loss therefore depends on the stream up to
 * it within its window and on nothing else (not on the batch, not on what follows).
 */
#include "evaluate.h"
#include "trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int evaluate_stream(struct model *model, const struct tlaw_spec *spec, int batch, const uint16_t *stream,
                    int64_t n, int32_t end_of_text, void (*sink)(void *, const real *losses, int count),
                    void *sink_arg, int (*poll)(void *), void *arg)
{
    int64_t T = spec->context_length, most = batch * T;
    real *losses = model_host_memory(model, most * (sizeof *losses + 2 * sizeof(int32_t)));
    int32_t *inputs, *targets;

    if (!losses)
        return -1;
    inputs = (int32_t *) (void *) (losses + most);
    targets = inputs + most;
    for (int64_t start = 0; start < n; start += most) {
        int64_t count = n - start < most ? n - start : most, windows = (count + T - 1) / T;

        if (poll && poll(arg))
            return -1;
        for (int64_t i = 0; i < windows * T; i++) {
            inputs[i] = i >= count ? end_of_text : start + i ? stream[start + i - 1] : end_of_text;
            targets[i] = i >= count ? -1 : stream[start + i];
        }
        model_forward(model, inputs, targets, (int) windows, (int) T, losses);
        sink(sink_arg, losses, (int) count);
    }
    return 0;
}

struct cursor {
    const struct corpus_document *documents;
    struct document_loss *records;
    int64_t document, inside; /* tokens of that document already scored */
};

static void add_to_documents(void *arg, const real *losses, int count)
{
    struct cursor *cursor = arg;

    for (int i = 0; i < count; i++) {
        while (cursor->inside == cursor->documents[cursor->document].tokens) {
            cursor->document++;
            cursor->inside = 0;
        }
        cursor->records[cursor->document].loss_sum += losses[i];
        cursor->inside++;
    }
}

/*
 * The ratio of two sums over documents and its standard error by linearisation (Cochran, Sampling Techniques,
 * 6.4): sqrt(n / (n - 1) sum (y - ratio x)^2) / sum x.  One document has no standard error (NaN).
 */
static double ratio(const struct document_loss *records, int64_t count, bool bytes, double *standard_error)
{
    double sum_y = 0, sum_x = 0, squares = 0;

    for (int64_t i = 0; i < count; i++) {
        sum_y += records[i].loss_sum;
        sum_x += (double) (bytes ? records[i].bytes : records[i].tokens);
    }
    double value = sum_x > 0 ? sum_y / sum_x : NAN;
    for (int64_t i = 0; i < count; i++) {
        double rest = records[i].loss_sum - value * (double) (bytes ? records[i].bytes : records[i].tokens);

        squares += rest * rest;
    }
    *standard_error = count > 1 ? sqrt((double) count / (double) (count - 1) * squares) / sum_x : NAN;
    return value;
}

int evaluate_documents(struct model *model, const struct tlaw_spec *spec, int batch, const uint16_t *tokens,
                       const struct corpus_document *documents, int64_t count, int32_t end_of_text,
                       struct document_loss *records, struct evaluation *out, int (*poll)(void *), void *arg)
{
    struct cursor cursor = {.documents = documents, .records = records};

    memset(out, 0, sizeof *out);
    for (int64_t i = 0; i < count; i++) {
        records[i] =
            (struct document_loss){.document = i, .tokens = documents[i].tokens, .bytes = documents[i].bytes};
        out->tokens += records[i].tokens;
        out->bytes += records[i].bytes;
    }
    out->documents = count;
    if (count > 0 && evaluate_stream(model, spec, batch, tokens + documents[0].token_start, out->tokens,
                                     end_of_text, add_to_documents, &cursor, poll, arg) < 0)
        return -1;
    out->loss = ratio(records, count, false, &out->loss_se);
    out->bits_per_byte = ratio(records, count, true, &out->bits_per_byte_se) / M_LN2;
    out->bits_per_byte_se /= M_LN2;
    return 0;
}
