/* The integer noise of regress/oracle/gpt2.py: the same weights, tokens and directions on both sides. */
#ifndef TLAW_ORACLE_NOISE_H
#define TLAW_ORACLE_NOISE_H

#include <stdint.h>

/* Element i of a stream: uniform in [-0.5, 0.5), exact in float32. */
static inline double noise(uint32_t stream, uint32_t i)
{
    uint32_t x = i * 0x9E3779B9u + stream * 0x85EBCA6Bu;

    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    x ^= x >> 16;
    return (x >> 8) / 16777216.0 - 0.5;
}

#endif
