/*
 * The specification of a run: everything that shapes its result, resolved when the run is submitted and never
 * changed after.  One list of fields serves the struct, the wire and the run's row.
 *
 * Owns: struct tlaw_spec, the counts and costs that follow from it, and the defaults rule
 * (tlaw_spec_resolve). Pure C, no allocation; compiled into tlaw.so and into the engine.
 */
#ifndef TLAW_SPEC_H
#define TLAW_SPEC_H

#include <stddef.h>
#include <stdint.h>

#define TLAW_NAME_SIZE 64

/* I64(name), F64(name), STR(name): in the order in which they travel. */
#define TLAW_SPEC_FIELDS(I64, F64, STR)                                                                      \
    STR(arch) /* "gpt2" */                                                                                   \
    I64(n_layer)                                                                                             \
    I64(n_head)                                                                                              \
    I64(d_model)                                                                                             \
    I64(context_length)                                                                                      \
    I64(vocab_size)   /* the corpus's, end-of-text included */                                               \
    I64(bias)         /* 1: linear layers and layer norms carry a bias */                                    \
    I64(train_tokens) /* size of the training subset */                                                      \
    I64(subset_seed)                                                                                         \
    I64(seed) /* initial weights and batch order */                                                          \
    I64(steps)                                                                                               \
    I64(batch_size)  /* sequences a step */                                                                  \
    I64(micro_batch) /* sequences in memory at once; divides batch_size (gradient accumulation) */           \
    F64(learning_rate)                                                                                       \
    F64(min_learning_rate)                                                                                   \
    I64(warmup_steps)                                                                                        \
    STR(schedule) /* "cosine" or "constant" (with a linear cooldown over cooldown_steps) */                  \
    I64(cooldown_steps)                                                                                      \
    F64(weight_decay)                                                                                        \
    F64(beta1)                                                                                               \
    F64(beta2)                                                                                               \
    F64(grad_clip)     /* 0: none */                                                                         \
    I64(eval_interval) /* steps; 0: at eval_points steps evenly spaced in log(step) */                       \
    I64(eval_points)                                                                                         \
    I64(eval_tokens) /* validation tokens scored each time */                                                \
    STR(checkpoint)  /* "best": the scored weights are kept; "none": dropped after the test */               \
    STR(device)      /* "cpu" or "cuda:N" */                                                                 \
    STR(isa)         /* "avx512", "avx2", "portable"; "reference" for the plain backend */                   \
    STR(precision)   /* "float32" or "bf16" */                                                               \
    I64(recompute)   /* 1: the backward pass makes activations again instead of keeping them */

#define TLAW_SPEC_I64(name) int64_t name;
#define TLAW_SPEC_F64(name) double name;
#define TLAW_SPEC_STR(name) char name[TLAW_NAME_SIZE];
struct tlaw_spec {
    TLAW_SPEC_FIELDS(TLAW_SPEC_I64, TLAW_SPEC_F64, TLAW_SPEC_STR)
};

/* A count or rate that the user left out. */
#define TLAW_UNSET (-1)

/*
 * Fills every field that is TLAW_UNSET (numbers) or "" (strings) by the documented rule and checks the rest.
 * train_available, val_available: tokens of the corpus in those parts; device_memory: bytes of the GPU that
 * the run is for, which only a micro_batch left out depends on.  Returns 0, or -1 with a message that names
 * the argument, the value and what would be accepted.
 */
int tlaw_spec_resolve(struct tlaw_spec *spec, int64_t train_available, int64_t val_available,
                      int64_t device_memory, char *message, size_t message_size);

/* What a number's field accepts on its own, in words ("a whole number from 1 to 1000"). */
const char *tlaw_spec_accepted(const char *field);

int64_t tlaw_spec_params(const struct tlaw_spec *spec); /* all weights, tied head counted once */
int64_t tlaw_spec_params_non_embedding(const struct tlaw_spec *spec); /* without token and position tables */
double tlaw_spec_flops_per_token(const struct tlaw_spec *spec); /* training: 6 (12 L d^2 + V d) + 6 L d T */
double tlaw_spec_flops(const struct tlaw_spec *spec);           /* of the whole run's training steps */
/*
 * Lanes that a batch of sequences goes through the model in where the device has them (a CPU), a power of
 * two, each with gradients of its own, and how many sequences of a lane go at a time.  A large model's batch
 * goes in one lane, all at a time.
 */
struct tlaw_lanes {
    int lanes, chunk;
};
struct tlaw_lanes tlaw_spec_lanes(const struct tlaw_spec *spec, int64_t batch);
/* Peak bytes of an engine that trains it; on a GPU, of that GPU's memory. */
int64_t tlaw_spec_memory(const struct tlaw_spec *spec);

#endif
