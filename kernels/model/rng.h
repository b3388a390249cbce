/*
 * Counter-based random numbers: Philox 4x32-10 (Salmon et al., SC 2011), keyed by (seed, purpose) and
 * indexed, so that any number can be had without those before it.
 */
#ifndef TLAW_RNG_H
#define TLAW_RNG_H

#include <stdint.h>

enum rng_purpose {
    RNG_INIT,      /* initial weights; index: parameter element */
    RNG_BATCH,     /* window starts; index: sequence number over the whole run */
    RNG_SUBSET,    /* order of training documents */
    RNG_SPLIT,     /* train, validation, test */
    RNG_SAMPLE,    /* generation; index: position */
    RNG_POSITIONS, /* positions embedded of a document */
    RNG_TOKENIZER  /* documents a tokenizer is trained on */
};

/* 128 random bits of (seed, purpose, counter); counter_high is below 2^56. */
void rng_block(uint64_t seed, enum rng_purpose purpose, uint64_t counter_low, uint64_t counter_high,
               uint32_t out[4]);
/* Uniform in [0, n), without modulo bias worth the name (64 x 64 -> 128 multiply). */
uint64_t rng_below(uint64_t seed, enum rng_purpose purpose, uint64_t index, uint64_t n);
double rng_uniform(uint64_t seed, enum rng_purpose purpose, uint64_t index); /* [0, 1) */
double rng_normal(uint64_t seed, enum rng_purpose purpose, uint64_t index);  /* Box-Muller */

#endif
