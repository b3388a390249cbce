/*
 * Philox 4x32-10: ten rounds of two 32 x 32 -> 64 multiplies over a 128-bit counter.
 *
 * The key is the seed; the purpose is the top byte of the counter, so that two purposes never share a block.
 */
#include "rng.h"

#include <math.h>

static void philox_round(uint32_t counter[4], const uint32_t key[2])
{
    uint64_t even = (uint64_t) 0xD2511F53u * counter[0], odd = (uint64_t) 0xCD9E8D57u * counter[2];
    uint32_t next[4] = {(uint32_t) (odd >> 32) ^ counter[1] ^ key[0], (uint32_t) odd,
                        (uint32_t) (even >> 32) ^ counter[3] ^ key[1], (uint32_t) even};

    for (int i = 0; i < 4; i++)
        counter[i] = next[i];
}

void rng_block(uint64_t seed, enum rng_purpose purpose, uint64_t counter_low, uint64_t counter_high,
               uint32_t out[4])
{
    uint32_t key[2] = {(uint32_t) seed, (uint32_t) (seed >> 32)};

    counter_high |= (uint64_t) purpose << 56;
    out[0] = (uint32_t) counter_low;
    out[1] = (uint32_t) (counter_low >> 32);
    out[2] = (uint32_t) counter_high;
    out[3] = (uint32_t) (counter_high >> 32);
    for (int round = 0; round < 10; round++) {
        philox_round(out, key);
        key[0] += 0x9E3779B9u;
        key[1] += 0xBB67AE85u;
    }
}

static void two_words(uint64_t seed, enum rng_purpose purpose, uint64_t index, uint64_t words[2])
{
    uint32_t block[4];

    rng_block(seed, purpose, index, 0, block);
    words[0] = (uint64_t) block[1] << 32 | block[0];
    words[1] = (uint64_t) block[3] << 32 | block[2];
}

uint64_t rng_below(uint64_t seed, enum rng_purpose purpose, uint64_t index, uint64_t n)
{
    uint64_t words[2];

    two_words(seed, purpose, index, words);
    return (uint64_t) ((unsigned __int128) words[0] * n >> 64);
}

double rng_uniform(uint64_t seed, enum rng_purpose purpose, uint64_t index)
{
    uint64_t words[2];

    two_words(seed, purpose, index, words);
    return (double) (words[0] >> 11) * 0x1p-53;
}

double rng_normal(uint64_t seed, enum rng_purpose purpose, uint64_t index)
{
    uint64_t words[2];

    two_words(seed, purpose, index, words);
    double radius = sqrt(-2 * log((double) ((words[0] >> 11) + 1) * 0x1p-53)); /* of a uniform in (0, 1] */
    return radius * cos(2 * M_PI * ((double) (words[1] >> 11) * 0x1p-53));
}
