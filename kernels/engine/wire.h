/*
 * The door between the wings: the messages that a PostgreSQL process and tlaw_engine exchange over one
 * socket.
 *
 * Owns: the frame (16 bytes: magic+version, type, payload length; then the payload), the list of messages
 * with their fields, and the checked encoder and decoder that this list generates. Invariants: fields travel
 * in the order written, little-endian; a frame whose magic, type, length or any field is not as listed is
 * refused with a reason, never trusted; a payload is at most TLAW_WIRE_MAX_PAYLOAD bytes; larger data
 * (weights, checkpoints) go as TLAW_CHUNK frames after the message that announces their length.
 *
 * Descriptors of an engine: 3 the socket, 4 the token file (read-only; a fresh read-write file for a freeze),
 * 5 a spool file (freeze, points), 2 a pipe whose last words the parent keeps.
 */
#ifndef TLAW_WIRE_H
#define TLAW_WIRE_H

#include "spec.h"

#define TLAW_FD_SOCKET 3
#define TLAW_FD_TOKENS 4
#define TLAW_FD_SPOOL  5

#define TLAW_WIRE_MAGIC       0x54574101u /* "TWA", version 1 */
#define TLAW_WIRE_MAX_PAYLOAD (16u << 20)
#define TLAW_CHUNK_SIZE       (8u << 20)
#define TLAW_TEXT_SIZE        1024
/* A stored tokenizer: so many bytes that name its form, then two uint16 a merge (text/tokenizer.h). */
#define TLAW_TOKENIZER_NAME_SIZE 8

/*
 * X(NAME, struct name) with a field list each.  I64, F64, STR (NUL-terminated, TLAW_NAME_SIZE), TXT (the
 * same, TLAW_TEXT_SIZE), SPEC (a struct tlaw_spec), BLOB (the rest of the payload: pointer and length; last
 * only).
 */

/* Fields stay on the lines that group them. */
/* clang-format off */

/* ---- parent to engine: one job a process ---- */
#define TLAW_TRAIN_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                    \
    SPEC(spec) I64(run_id) I64(threads) I64(memory_limit) F64(checkpoint_seconds) I64(resume_bytes)          \
    F64(thread_flops) /* FLOP/s of the device's product, a thread, as an earlier RESULT told; 0: measured */
#define TLAW_THREADS_FIELDS(I64, F64, STR, TXT, SPEC, BLOB) I64(threads)
#define TLAW_FREEZE_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                   \
    STR(tokenizer) /* "bytes", "bpe:N", or "given": tokenizer_bytes of definition follow as chunks */        \
    F64(validation_fraction) F64(test_fraction) I64(split_seed) I64(tokenizer_bytes) I64(threads)
#define TLAW_DOCUMENT_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                 \
    I64(group_bytes) /* the blob's first bytes are the group key; -1: none, the content is its own group */  \
    I64(more)        /* 1: the next DOCUMENT frame continues this text (texts above 8 MiB) */                \
    BLOB(data)
#define TLAW_END_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)
#define TLAW_EVALUATE_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                 \
    SPEC(spec) I64(model_bytes) I64(threads)                                                                 \
    STR(part)    /* "validation", "test", or "documents": DOCUMENT frames and END follow */
#define TLAW_GENERATE_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                 \
    SPEC(spec) I64(model_bytes) I64(threads) I64(max_tokens) F64(temperature) I64(top_k) F64(top_p)          \
    I64(seed) BLOB(prompt)
#define TLAW_EMBED_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                    \
    SPEC(spec) I64(model_bytes) /* 0: untrained weights of spec.seed */                                      \
    I64(threads) I64(layer)     /* 0: embeddings, l: after block l, n_layer + 1: after the final norm */     \
    I64(positions)              /* random positions a document; 0: all */                                    \
    I64(prefix)                 /* tokens of each document used, at most context_length */                   \
    I64(max_documents)          /* 0: all */                                                                 \
    I64(seed) STR(part)         /* as in EVALUATE */
#define TLAW_PROBE_FIELDS(I64, F64, STR, TXT, SPEC, BLOB) I64(measure) /* 0: gflops stay 0 */
#define TLAW_ESTIMATE_FIELDS(I64, F64, STR, TXT, SPEC, BLOB) SPEC(spec) I64(threads)
/* Points in TLAW_FD_SPOOL: rows of width elements of element_size bytes, then an int32 cluster each when clustered. */
#define TLAW_POINTS_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                   \
    I64(points) I64(width) I64(element_size) /* 4: float, 8: double */                                       \
    I64(clustered) I64(threads)                                                                              \
    I64(memory_limit) /* bytes of data where it is computed on the CPU; 0: none */                           \
    STR(device) /* "auto", "cpu", "cuda", "cuda:N"; MEASUREs follow, each answered by a DIMENSION; then END */
/* A struct tlaw_question (kernels/stats/dimension.h); k 0: the usual; sample 0: all. */
#define TLAW_MEASURE_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                  \
    STR(estimator) I64(k) STR(metric) I64(exclude_cluster) I64(seed) STR(control) I64(known_dimension) I64(sample)

/* A GPU's engine serves many runs: it answers with that DEVICE and its free memory, and takes RUNs until the socket is closed. */
#define TLAW_SERVE_FIELDS(I64, F64, STR, TXT, SPEC, BLOB) STR(device)
/* With two descriptors (SCM_RIGHTS): a socket on which one TRAIN follows as in an engine of its own, and its token file. */
#define TLAW_RUN_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)

/* ---- engine to parent ---- */
#define TLAW_PROGRESS_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                 \
    I64(step) I64(total) F64(loss) F64(tokens_per_second) F64(seconds_left) STR(phase)
#define TLAW_LOSS_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                     \
    I64(step) I64(tokens_seen) F64(train_loss) F64(val_loss) F64(learning_rate) F64(grad_norm) F64(seconds)
#define TLAW_CHECKPOINT_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                               \
    STR(kind) /* "resume": trainer state; "model": the scored weights as safetensors */                      \
    I64(step) I64(bytes) BLOB(sha256)
#define TLAW_CHUNK_FIELDS(I64, F64, STR, TXT, SPEC, BLOB) BLOB(data)
#define TLAW_RESULT_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                   \
    I64(best_step) F64(train_loss) F64(test_loss) F64(test_loss_se) F64(bits_per_byte) I64(test_tokens)      \
    I64(test_bytes) I64(test_documents) I64(train_bytes) I64(train_documents) F64(tokens_per_second)         \
    F64(train_seconds) F64(eval_seconds) F64(mfu) I64(peak_memory) F64(thread_flops)
/* One BLOB of (int64 document, int64 tokens, int64 bytes, double loss_sum) per record, documents in file order. */
#define TLAW_DOCUMENT_LOSSES_FIELDS(I64, F64, STR, TXT, SPEC, BLOB) BLOB(records)
#define TLAW_EVALUATED_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                \
    F64(loss) F64(loss_se) F64(bits_per_byte) F64(bits_per_byte_se) I64(tokens) I64(bytes) I64(documents)
#define TLAW_TEXT_FIELDS(I64, F64, STR, TXT, SPEC, BLOB) I64(tokens) BLOB(text)
/* BLOB: d_model float32 */
#define TLAW_EMBEDDING_FIELDS(I64, F64, STR, TXT, SPEC, BLOB) I64(document) I64(position) BLOB(vector)
#define TLAW_FROZEN_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                   \
    I64(documents) I64(tokens) I64(bytes) I64(vocab_size) I64(train_documents) I64(train_tokens)             \
    I64(train_bytes) I64(validation_documents) I64(validation_tokens) I64(validation_bytes)                  \
    I64(test_documents) I64(test_tokens) I64(test_bytes) I64(tokenizer_documents) I64(empty_documents)       \
    I64(groups) I64(file_bytes) I64(tokenizer_offset) I64(tokenizer_bytes) BLOB(sha256)
#define TLAW_DEVICE_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                   \
    STR(device) STR(isa) STR(precision) /* it trains in by default */ TXT(name) I64(cores) I64(memory) F64(gflops) TXT(unusable)
#define TLAW_ESTIMATED_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                \
    F64(seconds_per_step) F64(seconds_per_eval_token) I64(memory)
/* A struct tlaw_dimension; unknown numbers are NaN, duplicates -1. */
#define TLAW_DIMENSION_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                \
    F64(dimension) F64(standard_error) F64(low) F64(high) I64(plateau) I64(n) I64(k) I64(duplicates)         \
    I64(ties) I64(zero_distances) TXT(message)
#define TLAW_DONE_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)
#define TLAW_ERROR_FIELDS(I64, F64, STR, TXT, SPEC, BLOB)                                                    \
    STR(code) /* "input", "memory", "diverged", "checkpoint", "protocol", "io", "internal" */                \
    I64(step) F64(grad_norm) TXT(message)

/* clang-format on */

#define TLAW_WIRE_MESSAGES(X)                                                                                \
    X(TRAIN, train)                                                                                          \
    X(THREADS, threads)                                                                                      \
    X(FREEZE, freeze)                                                                                        \
    X(DOCUMENT, document)                                                                                    \
    X(END, end)                                                                                              \
    X(EVALUATE, evaluate)                                                                                    \
    X(GENERATE, generate)                                                                                    \
    X(EMBED, embed)                                                                                          \
    X(PROBE, probe)                                                                                          \
    X(ESTIMATE, estimate)                                                                                    \
    X(POINTS, points)                                                                                        \
    X(MEASURE, measure)                                                                                      \
    X(SERVE, serve)                                                                                          \
    X(RUN, run)                                                                                              \
    X(PROGRESS, progress)                                                                                    \
    X(LOSS, loss)                                                                                            \
    X(CHECKPOINT, checkpoint)                                                                                \
    X(CHUNK, chunk)                                                                                          \
    X(RESULT, result)                                                                                        \
    X(DOCUMENT_LOSSES, document_losses)                                                                      \
    X(EVALUATED, evaluated)                                                                                  \
    X(TEXT, text)                                                                                            \
    X(EMBEDDING, embedding)                                                                                  \
    X(FROZEN, frozen)                                                                                        \
    X(DEVICE, device)                                                                                        \
    X(ESTIMATED, estimated)                                                                                  \
    X(DIMENSION, dimension)                                                                                  \
    X(DONE, done)                                                                                            \
    X(ERROR, error)

#define TLAW_WIRE_ENUM(NAME, name) TLAW_##NAME,
enum tlaw_message { TLAW_NO_MESSAGE, TLAW_WIRE_MESSAGES(TLAW_WIRE_ENUM) TLAW_MESSAGE_COUNT };

struct tlaw_blob {
    const void *data;
    size_t size;
};

#define TLAW_WIRE_I64(name)  int64_t name;
#define TLAW_WIRE_F64(name)  double name;
#define TLAW_WIRE_STR(name)  char name[TLAW_NAME_SIZE];
#define TLAW_WIRE_TXT(name)  char name[TLAW_TEXT_SIZE];
#define TLAW_WIRE_SPEC(name) struct tlaw_spec name;
#define TLAW_WIRE_BLOB(name) struct tlaw_blob name;
#define TLAW_WIRE_STRUCT(NAME, name)                                                                         \
    struct tlaw_##name##_message {                                                                           \
        TLAW_##NAME##_FIELDS(TLAW_WIRE_I64, TLAW_WIRE_F64, TLAW_WIRE_STR, TLAW_WIRE_TXT, TLAW_WIRE_SPEC,     \
                             TLAW_WIRE_BLOB)                                                                 \
    };
TLAW_WIRE_MESSAGES(TLAW_WIRE_STRUCT)

/* Room for any decoded message. */
#define TLAW_WIRE_MEMBER(NAME, name) struct tlaw_##name##_message name;
union tlaw_any_message {
    TLAW_WIRE_MESSAGES(TLAW_WIRE_MEMBER)
};

/* Bytes of a frame's header. */
#define TLAW_WIRE_HEADER 16

/*
 * Appends one frame to a growing buffer.  message: the struct of that type.  Returns 0, or -1 when the
 * payload would be too large or memory is short (nothing appended).
 */
struct tlaw_wire_buffer {
    unsigned char *data;
    size_t size, capacity;
};
int tlaw_wire_encode(struct tlaw_wire_buffer *out, enum tlaw_message type, const void *message);
void tlaw_wire_buffer_free(struct tlaw_wire_buffer *buffer);

/*
 * Reads the header.  Returns 0 and the type and payload size, or -1 and a reason (a static string).
 */
int tlaw_wire_header(const unsigned char header[TLAW_WIRE_HEADER], enum tlaw_message *type, size_t *payload,
                     const char **reason);

/*
 * Decodes a payload into the struct of that type; blobs point into the payload.  Every field is checked for
 * presence, string fields for a terminator; trailing bytes are refused.  Returns 0, or -1 and a reason.
 */
int tlaw_wire_decode(enum tlaw_message type, const unsigned char *payload, size_t size, void *message,
                     const char **reason);

const char *tlaw_wire_name(enum tlaw_message type);

#endif
