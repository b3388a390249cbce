/*
 * The trainer on a small corpus made here: bits (twice, threads, stop and resume) on every backend of this
 * machine; batches, schedules, validation, documents, state and refusals on the reference.
 */
#include "trainer_bits.h"

/* ---- steps, on the reference ---- */

static struct device *reference;

/* The first step's loss by hand: windows from the documented rule. */
static void test_batches(void)
{
    struct tlaw_spec spec = small_spec();
    struct trainer *trainer = create(&spec, &reference_backend, reference);
    int64_t T = spec.context_length, bytes, n_documents, subset_bytes, subset_documents;
    uint16_t subset[400];
    int32_t inputs[9], targets[9];
    real losses[9];
    double sum = 0;
    struct step_result result;

    corpus_subset(&corpus, spec.subset_seed, spec.train_tokens, subset, &bytes, &n_documents, message,
                  sizeof message);
    for (int64_t b = 0; b < spec.batch_size; b++) {
        const uint16_t *window = subset + rng_below(5, RNG_BATCH, (uint64_t) b, (uint64_t) (400 - T));

        for (int64_t t = 0; t < T; t++) {
            inputs[t] = window[t];
            targets[t] = window[t + 1];
        }
        model_forward(trainer_model(trainer), inputs, targets, 1, (int) T, losses);
        for (int64_t t = 0; t < T; t++)
            sum += losses[t];
    }
    result = trainer_step(trainer);
    ok(fabs(result.loss / (sum / (6 * 9)) - 1) < 1e-6, "the first batch is what the rule says");
    ok(result.learning_rate == trainer_learning_rate(&spec, 0) && result.grad_norm > 0 && !result.diverged &&
           trainer_step_number(trainer) == 1,
       "a step reports its rate and norm");
    trainer_subset(trainer, &subset_bytes, &subset_documents);
    ok(subset_bytes == bytes && subset_documents == n_documents, "and the subset its bytes and documents");
    trainer_free(trainer);
}

static void test_accumulation(void)
{
    struct tlaw_spec spec = small_spec();
    double loss[2], norm[2];

    for (int i = 0; i < 2; i++) {
        spec.micro_batch = i ? 6 : 1;
        struct trainer *trainer = create(&spec, &reference_backend, reference);

        advance(trainer, &spec, 5);
        struct step_result result = trainer_step(trainer);
        loss[i] = result.loss;
        norm[i] = result.grad_norm;
        trainer_free(trainer);
    }
    ok(fabs(loss[0] / loss[1] - 1) < 1e-5 && fabs(norm[0] / norm[1] - 1) < 1e-4,
       "micro-batches of 1 and of 6 agree after five steps");
}

static void test_schedules(void)
{
    struct tlaw_spec spec = {
        .steps = 100, .learning_rate = 1, .min_learning_rate = 0.1, .warmup_steps = 10, .schedule = "cosine"};
    bool falls = true;

    ok(trainer_learning_rate(&spec, 0) == 0.1 && trainer_learning_rate(&spec, 9) == 1, "linear warm-up");
    for (int64_t step = 10; step < 100; step++)
        falls &= trainer_learning_rate(&spec, step + 1) < trainer_learning_rate(&spec, step);
    ok(falls && trainer_learning_rate(&spec, 10) == 1 &&
           fabs(trainer_learning_rate(&spec, 55) - 0.55) < 1e-12 &&
           fabs(trainer_learning_rate(&spec, 100) - 0.1) < 1e-12,
       "cosine from learning_rate to min_learning_rate at `steps`");
    strcpy(spec.schedule, "constant");
    spec.cooldown_steps = 20;
    ok(trainer_learning_rate(&spec, 10) == 1 && trainer_learning_rate(&spec, 80) == 1 &&
           fabs(trainer_learning_rate(&spec, 90) - 0.55) < 1e-12 &&
           fabs(trainer_learning_rate(&spec, 100) - 0.1) < 1e-12,
       "constant with a linear cooldown");
    spec.cooldown_steps = 0;
    ok(trainer_learning_rate(&spec, 99) == 1 && trainer_learning_rate(&spec, 100) == 1,
       "constant to the end");
    spec.warmup_steps = 100;
    ok(trainer_learning_rate(&spec, 99) == 1 && trainer_learning_rate(&spec, 100) == 1,
       "warm-up all the way");
}

static void test_evaluation_steps(void)
{
    struct tlaw_spec spec = {.steps = 1000, .eval_interval = 300, .eval_points = 7};
    const int64_t regular[] = {0, 300, 600, 900, 1000}, logarithmic[] = {0, 1, 3, 10, 32, 100, 316, 1000};
    size_t found = 0, wrong = 0;

    for (int64_t step = 0; step <= 1000; step++)
        if (trainer_evaluates(&spec, step))
            wrong += found >= 5 || regular[found++] != step;
    ok(found == 5 && !wrong, "evaluation at an interval");
    spec.eval_interval = 0;
    found = 0;
    for (int64_t step = 0; step <= 1000; step++)
        if (trainer_evaluates(&spec, step))
            wrong += found >= 8 || logarithmic[found++] != step;
    ok(found == 8 && !wrong, "evaluation evenly spaced in log(step)");
    spec = (struct tlaw_spec){.steps = 3, .eval_points = 50};
    ok(trainer_evaluates(&spec, 0) && trainer_evaluates(&spec, 1) && trainer_evaluates(&spec, 2) &&
           trainer_evaluates(&spec, 3),
       "more points than steps: every step");
    spec = (struct tlaw_spec){.steps = 9, .eval_points = 1};
    ok(trainer_evaluates(&spec, 0) && !trainer_evaluates(&spec, 1) && trainer_evaluates(&spec, 9),
       "one point: first and last");
}

static void test_divergence(void)
{
    struct tlaw_spec spec = small_spec();
    struct trainer *trainer;
    struct step_result result = {0};
    size_t size, n;
    real *before, *after;

    spec.learning_rate = 1e30;
    spec.warmup_steps = 0;
    trainer = create(&spec, &reference_backend, reference);
    n = model_size(trainer_model(trainer));
    before = malloc(n * sizeof(real));
    after = malloc(n * sizeof(real));
    for (int step = 0; step < 4 && !result.diverged; step++) {
        void *state = trainer_save(trainer, &size);

        model_get(trainer_model(trainer), before);
        result = trainer_step(trainer);
        ok(!result.diverged || same_state(trainer, state, size),
           "step %d with learning rate 1e30: loss %g, norm %g%s", step + 1, result.loss, result.grad_norm,
           result.diverged ? ": diverged, nothing changed" : "");
        free(state);
    }
    ok(result.diverged && !(isfinite(result.loss) && isfinite(result.grad_norm)),
       "a run that diverges says so");
    model_get(trainer_model(trainer), after);
    ok(memcmp(before, after, n * sizeof(real)) == 0, "and keeps its weights");
    free(before);
    free(after);
    trainer_free(trainer);
}

/* ---- evaluation ---- */

/* Losses of the first n tokens of a part, one window at a time. */
static void losses_by_hand(struct model *model, int part, int64_t n, double *losses)
{
    const uint16_t *stream = tokens + corpus.documents[part]->token_start;

    for (int64_t start = 0; start < n; start += 9) {
        int T = n - start < 9 ? (int) (n - start) : 9;
        int32_t inputs[9], targets[9];
        real window[9];

        for (int t = 0; t < T; t++) {
            inputs[t] = start + t ? stream[start + t - 1] : VOCABULARY - 1;
            targets[t] = stream[start + t];
        }
        model_forward(model, inputs, targets, 1, T, window);
        for (int t = 0; t < T; t++)
            losses[start + t] = window[t];
    }
}

static void test_validation(void)
{
    struct tlaw_spec spec = small_spec();
    struct trainer *trainer = create(&spec, &reference_backend, reference);
    double losses[100], sum = 0, loss, best;

    losses_by_hand(trainer_model(trainer), PART_VALIDATION, 100, losses);
    for (int i = 0; i < 100; i++)
        sum += losses[i];
    loss = trainer_validate(trainer, NULL, NULL);
    ok(fabs(loss / (sum / 100) - 1) < 1e-6, "validation loss is that of the first 100 tokens: %.4f", loss);
    ok(trainer_best_step(trainer) == 0, "the first evaluation is the best so far");
    advance(trainer, &spec, 10);
    best = trainer_validate(trainer, NULL, NULL);
    ok(trainer_best_step(trainer) == 10 && best < loss, "a better one takes its place");
    model_init(trainer_model(trainer));
    trainer_step(trainer);
    loss = trainer_validate(trainer, NULL, NULL);
    ok(loss > best && trainer_best_step(trainer) == 10, "a worse one does not");
    trainer_use_best(trainer);
    ok(trainer_validate(trainer, NULL, NULL) == best,
       "the kept weights give the loss that they were kept for");
    trainer_free(trainer);
}

static int stop_at_once(void *arg)
{
    ++*(int *) arg;
    return 1;
}

static void test_documents(void)
{
    struct tlaw_spec spec = small_spec();
    struct trainer *trainer = create(&spec, &reference_backend, reference);
    struct model *model = trainer_model(trainer);
    const struct corpus_document *test = corpus.documents[PART_TEST];
    struct document_loss records[DOCUMENTS], again[DOCUMENTS];
    struct evaluation result, other;
    double losses[DOCUMENTS * 40], sum = 0, squares = 0;
    int64_t at = 0;
    int polls = 0, asked = 0, wrong = 0;

    losses_by_hand(model, PART_TEST, header.tokens[PART_TEST], losses);
    ok(evaluate_documents(model, &spec, 3, tokens, test, DOCUMENTS, VOCABULARY - 1, records, &result, NULL,
                          NULL) == 0,
       "documents are scored");
    for (int i = 0; i < DOCUMENTS; i++) {
        double document = 0;

        for (uint32_t t = 0; t < test[i].tokens; t++)
            document += losses[at++];
        wrong += fabs(records[i].loss_sum / document - 1) > 1e-6 || records[i].document != i ||
                 records[i].tokens != test[i].tokens || records[i].bytes != test[i].bytes;
        sum += records[i].loss_sum;
    }
    ok(wrong == 0, "each has its own tokens' losses");
    for (int i = 0; i < DOCUMENTS; i++)
        squares += pow(records[i].loss_sum - sum / (double) at * (double) records[i].tokens, 2);
    ok(result.tokens == at && result.documents == DOCUMENTS && result.bytes == header.bytes[PART_TEST] &&
           fabs(result.loss / (sum / (double) at) - 1) < 1e-12 &&
           fabs(result.loss_se / (sqrt(squares * DOCUMENTS / (DOCUMENTS - 1)) / (double) at) - 1) < 1e-12,
       "mean loss %.4f with standard error %.4f", result.loss, result.loss_se);
    ok(fabs(result.bits_per_byte / (sum / log(2) / (double) result.bytes) - 1) < 1e-12 &&
           result.bits_per_byte_se > 0 && result.bits_per_byte_se < result.bits_per_byte,
       "%.4f bits per byte with standard error %.4f", result.bits_per_byte, result.bits_per_byte_se);
    evaluate_documents(model, &spec, 1, tokens, test, DOCUMENTS, VOCABULARY - 1, again, &other, NULL, NULL);
    ok(memcmp(records, again, sizeof records) == 0, "the batch does not matter");
    evaluate_documents(model, &spec, 3, tokens, test, 1, VOCABULARY - 1, again, &other, NULL, NULL);
    ok(fabs(again->loss_sum / records->loss_sum - 1) < 1e-6 && isnan(other.loss_se),
       "one document has no standard error");
    evaluate_documents(model, &spec, 3, tokens, test, 0, VOCABULARY - 1, again, &other, NULL, NULL);
    ok(other.documents == 0 && isnan(other.loss), "no document has no loss");
    ok(evaluate_documents(model, &spec, 3, tokens, test, DOCUMENTS, VOCABULARY - 1, again, &other,
                          stop_at_once, &polls) < 0 &&
           polls == 1,
       "scoring stops when asked");
    ok(isnan(trainer_validate(trainer, stop_at_once, &asked)) && trainer_best_step(trainer) == -1,
       "validation too, and keeps nothing");
    trainer_free(trainer);
}

/* ---- state ---- */

static void load_fails(struct trainer *trainer, const void *state, size_t size, const char *what)
{
    message[0] = 0;
    ok(trainer_load(trainer, state, size, message, sizeof message) < 0 && message[0], "refused, %s: %s", what,
       message);
}

static void test_state(void)
{
    struct tlaw_spec spec = small_spec(), other = spec;
    struct trainer *trainer = create(&spec, &reference_backend, reference), *fresh, *reseeded;
    size_t size, untouched_size, numbers = 24, spec_start = 48;
    unsigned char *state, *untouched;
    int accepted = 0;

    advance(trainer, &spec, 5);
    state = trainer_save(trainer, &size);
    memset(spec.schedule + strlen(spec.schedule) + 1, 'x', 5); /* beyond a string's end nothing counts */
    fresh = create(&spec, &reference_backend, reference);
    untouched = trainer_save(fresh, &untouched_size);
    other.seed++;
    reseeded = create(&other, &reference_backend, reference);
    load_fails(reseeded, state, size, "another seed");
    load_fails(fresh, state, size - 1, "one byte short");
    load_fails(fresh, state, 10, "ten bytes");
    load_fails(fresh, state, 0, "nothing");
    /* magic, size, element; then the step, the best step and its loss; then the specification */
    for (size_t i = 0; i < spec_start + sizeof spec; i++) {
        if (i >= numbers && i < spec_start)
            continue;
        state[i] ^= 1 << i % 8;
        accepted += trainer_load(fresh, state, size, message, sizeof message) == 0;
        state[i] ^= 1 << i % 8;
    }
    ok(accepted == 0, "a changed bit in the magic, the sizes or the specification is refused");
    state[numbers] = STEPS + 1;
    load_fails(fresh, state, size, "a step beyond the last");
    state[numbers] = 5;
    state[numbers + 8] = 6;
    load_fails(fresh, state, size, "a best step in the future");
    state[numbers + 8] = 4;
    ok(same_state(fresh, untouched, untouched_size), "a refused state changes nothing");
    ok(trainer_load(fresh, state, size, message, sizeof message) == 0 && same_state(fresh, state, size),
       "a state that is loaded is saved as the same bytes");
    trainer_free(trainer);
    trainer_free(fresh);
    trainer_free(reseeded);
    free(state);
    free(untouched);
}

static void create_fails(struct tlaw_spec spec, const char *word)
{
    struct trainer *trainer =
        trainer_create(&spec, &corpus, &reference_backend, reference, message, sizeof message);

    ok(!trainer && strstr(message, word), "refused: %s", trainer ? "" : message);
    trainer_free(trainer);
}

static void test_refusals(void)
{
    struct tlaw_spec spec = small_spec();

    spec.vocab_size = 18;
    create_fails(spec, "vocab_size");
    spec = small_spec();
    spec.train_tokens = header.tokens[PART_TRAIN] + 1;
    create_fails(spec, "train_tokens");
    spec.train_tokens = spec.context_length;
    create_fails(spec, "train_tokens");
    spec = small_spec();
    spec.eval_tokens = header.tokens[PART_VALIDATION] + 1;
    create_fails(spec, "eval_tokens");
    spec = small_spec();
    spec.micro_batch = 4;
    create_fails(spec, "micro_batch");
    spec = small_spec();
    strcpy(spec.arch, "other");
    create_fails(spec, "arch");
}

int main(void)
{
    const struct backend *backends[BACKEND_MOST];
    int count = backend_list(backends);

    make_corpus();
    reference = reference_backend.open(1, message, sizeof message);
    for (int i = 0; i < count; i++)
        test_training(backends[i]);
    test_batches();
    test_accumulation();
    test_schedules();
    test_evaluation_steps();
    test_divergence();
    test_validation();
    test_documents();
    test_state();
    test_refusals();
    reference_backend.close(reference);
    return tap_end();
}
