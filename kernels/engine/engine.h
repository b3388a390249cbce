/*
 * One job: its socket, its device, its corpus, and what every job uses.  A process runs one job, or (SERVE)
 * many runs of one GPU, each in a thread with a struct engine of its own.
 *
 * Invariants: nothing that arrived is used before it was checked.  In a process of one job whoever loses the
 * socket's other end is an orphan and exits 0 at once, wherever it is, and every failure goes through
 * engine_fail, which sends one ERROR and exits 1.  Of many runs a lost socket or a failure ends that run
 * alone: its thread leaves by engine_end, and what it had is given back.
 */
#ifndef TLAW_ENGINE_H
#define TLAW_ENGINE_H

#include "../backend/backend.h"
#include "../model/trainer.h"
#include "../text/corpus_file.h"
#include "../text/tokenizer.h"
#include "wire.h"

#include <setjmp.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "token files and loss records are little-endian");
_Static_assert(sizeof(struct document_loss) == 32, "the record of DOCUMENT_LOSSES");

/* Exit codes; 0: done, or nobody is left to talk to. */
#define ENGINE_EXIT_FAILED          1 /* an ERROR was sent */
#define ENGINE_EXIT_STARTED_WRONGLY 2 /* no socket: nothing could be sent */

struct engine {
    int socket, tokens;              /* descriptors: of the parent's channel, of the token file */
    const char *serves;              /* one of many runs of this GPU; NULL: alone in the process */
    jmp_buf end;                     /* where engine_end goes, when it serves */
    struct tlaw_wire_buffer in, out; /* the payload received last; the frame being sent */
    const struct backend *backend;
    struct device *device; /* NULL until engine_open_device */
    int threads;
    struct corpus corpus; /* mapped by engine_open_corpus */
    struct tokenizer *tokenizer;
    struct trainer *trainer; /* of a run */
    void *block;             /* the one large block that a run or a message at hand holds */
    double progress_sent;    /* engine_now() of the last PROGRESS */
    int64_t step;            /* reported with an ERROR */
    double grad_norm;        /* likewise */
};

/* ---- channel.c: frames on the socket ---- */

/* Arranges that a closed socket or SIGTERM ends the process with 0 from here on, in whatever it does. */
void engine_watch_parent(struct engine *);
/* Sends one message; blocks until the socket took it. */
void engine_send(struct engine *, enum tlaw_message type, const void *message);
/* Announces a checkpoint of `kind` with its sha256 and sends its bytes. */
void engine_send_checkpoint(struct engine *, const char *kind, int64_t step, const void *data, size_t size);
/* Document losses, split into frames of at most 8 MiB. */
void engine_send_document_losses(struct engine *, const struct document_loss *records, int64_t count);
/* At most four a second: drops the message when the last one is younger than 250 ms. */
void engine_progress(struct engine *, const struct tlaw_progress_message *message);
/* Waits for a message and checks it; blobs stay valid until the next receive. */
enum tlaw_message engine_receive(struct engine *, union tlaw_any_message *message);
/* bytes of CHUNK frames as one malloc'd block; what: for the error message. */
void *engine_receive_chunks(struct engine *, int64_t bytes, const char *what);
/*
 * To be called between pieces of work (its shape is that of the poll callbacks, arg is the struct engine):
 * takes THREADS messages, which change the device at once; any other message is out of order.  Returns 0.
 */
int engine_poll(void *arg);
/* ERROR with that code (see wire.h), then engine_end. */
void engine_fail(struct engine *, const char *code, const char *format, ...)
    __attribute__((noreturn, format(printf, 3, 4)));
/* A message of the wrong type came: ERROR "protocol". */
void engine_unexpected(struct engine *, enum tlaw_message got, const char *expected)
    __attribute__((noreturn));
/* ERROR "memory" when the call before set errno to ENOMEM, else with `code`.  Callers clear errno first. */
void engine_fail_call(struct engine *, const char *code, const char *message) __attribute__((noreturn));
/* malloc that fails with ERROR "memory", naming what and how much. */
void *engine_alloc(struct engine *, size_t bytes, const char *what);
/*
 * Ends one of many runs: goes to where its thread began, which gives back what the struct engine holds.  In a
 * process of one job: _exit(status).
 */
void engine_end(struct engine *, int status) __attribute__((noreturn));
/*
 * For callers that hold what the struct engine does not: -1 when step(arg) ended one of many runs; the caller
 * then cleans up and calls engine_end.
 */
int engine_attempt(struct engine *, void (*step)(void *arg), void *arg);
/* Waits for a RUN and takes the two descriptors that came with it: its socket, its token file. */
void engine_receive_run(struct engine *, int descriptors[2]);
/* Gives back everything but the descriptors. */
void engine_free(struct engine *);
double engine_now(void); /* seconds, monotonic */

/* ---- inputs.c: what jobs work on ---- */

/* Error unless every field of the specification is set and accepted by tlaw_spec_resolve. */
void engine_check_spec(struct engine *, const struct tlaw_spec *spec, int64_t train_available,
                       int64_t val_available);
/* Error unless value is in [low, high]. */
void engine_check_range(struct engine *, const char *name, double value, double low, double high);
void engine_open_device(struct engine *, const struct tlaw_spec *spec, int64_t threads);
/* Maps the token file and loads its tokenizer; spec: vocab_size must agree (NULL: not checked). */
void engine_open_corpus(struct engine *, const struct tlaw_spec *spec);
/* A model for inference: weights from model_bytes of CHUNK frames, or random ones of spec.seed when that is
 * 0. */
struct model *engine_open_model(struct engine *, const struct tlaw_spec *spec, int64_t model_bytes);

/* Documents to score or embed: a part of the corpus, or texts that the parent sent. */
struct documents {
    const uint16_t *tokens;
    const struct corpus_document *documents;
    const int64_t *numbers; /* the parent's number of each; NULL: 0, 1, ... */
    int64_t count;
    void *owned[3]; /* malloc'd behind the above */
};
/*
 * part: "validation", "test", or "documents": then DOCUMENT frames are read up to END and encoded with the
 * corpus's tokenizer, an end-of-text after each; empty texts are skipped but numbered.
 */
void engine_read_documents(struct engine *, const char *part, struct documents *out);
void engine_free_documents(struct documents *);

/*
 * FLOP/s of the backend's own large matrix product on the open device, the best call within about `seconds`.
 * Many runs share one measurement.
 */
double engine_matrix_flops(struct engine *, double seconds);

/* ---- the jobs, one file each; DONE is sent by the caller ---- */
void job_train(struct engine *, const union tlaw_any_message *);
void job_freeze(struct engine *, const union tlaw_any_message *);
void job_evaluate(struct engine *, const union tlaw_any_message *);
void job_generate(struct engine *, const union tlaw_any_message *);
void job_embed(struct engine *, const union tlaw_any_message *);
void job_probe(struct engine *, const union tlaw_any_message *);
void job_estimate(struct engine *, const union tlaw_any_message *);
void job_dimension(struct engine *, const union tlaw_any_message *);
void job_serve(struct engine *, const union tlaw_any_message *) __attribute__((noreturn));

#endif
