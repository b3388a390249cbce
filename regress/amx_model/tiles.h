/*
 * A model of AMX's tiles for machines without them: kernels/backend/cpu/amx/tiles.h in plain C, after the
 * operations in Intel's Software Developer's Manual, volume 2.  What faults on the chip ends the process with
 * the reason: no configuration, one that is not valid, shapes that do not fit each other.  Every thread has
 * tiles of its own.
 */
#ifndef TLAW_TILES_H
#define TLAW_TILES_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

#define TILE_COUNT     8
#define TILE_ROWS      16
#define TILE_ROW_BYTES 64

static _Thread_local struct {
    struct tile_config config; /* palette 0: none */
    unsigned char tile[TILE_COUNT][TILE_ROWS][TILE_ROW_BYTES];
} tiles_model;

static inline void tile_fault(const char *what, int t)
{
    fprintf(stderr, "AMX model: %s (tile %d)\n", what, t);
    abort();
}

/* Faults unless the tile is there. */
static inline void tile_check(int t)
{
    if (tiles_model.config.palette != 1)
        tile_fault("tiles are not configured in this thread", t);
    if (t < 0 || t >= TILE_COUNT || !tiles_model.config.rows[t])
        tile_fault("no such tile", t);
}

static inline void tile_configure(const struct tile_config *config)
{
    static const uint8_t zero[16];

    if (config->palette != 1 || config->start_row || memcmp(config->reserved, zero, sizeof config->reserved))
        tile_fault("ldtilecfg: palette, start row or reserved bytes", -1);
    for (int t = 0; t < 16; t++) {
        if (t >= TILE_COUNT ? config->rows[t] || config->row_bytes[t]
                            : config->rows[t] > TILE_ROWS || config->row_bytes[t] > TILE_ROW_BYTES)
            tile_fault("ldtilecfg: rows or bytes a row", t);
        if (!config->rows[t] != !config->row_bytes[t])
            tile_fault("ldtilecfg: rows without bytes or bytes without rows", t);
    }
    tiles_model.config = *config;
    memset(tiles_model.tile, 0, sizeof tiles_model.tile);
}

static inline void tile_release(void)
{
    memset(&tiles_model, 0, sizeof tiles_model);
}

static inline void tile_zero(int t)
{
    tile_check(t);
    memset(tiles_model.tile[t], 0, sizeof tiles_model.tile[t]);
}

/* What is beyond the configured rows and bytes becomes zero. */
static inline void tile_load(int t, const void *from, long stride)
{
    tile_check(t);
    tile_zero(t);
    for (int row = 0; row < tiles_model.config.rows[t]; row++)
        memcpy(tiles_model.tile[t][row], (const char *) from + row * stride, tiles_model.config.row_bytes[t]);
}

static inline void tile_store(int t, void *to, long stride)
{
    tile_check(t);
    for (int row = 0; row < tiles_model.config.rows[t]; row++)
        memcpy((char *) to + row * stride, tiles_model.tile[t][row], tiles_model.config.row_bytes[t]);
}

/* A subnormal number counts as zero, as operand and as result. */
static inline float tile_flush(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7f800000) == 0)
        bits &= 0x80000000;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float tile_float(const unsigned char *bf16)
{
    uint32_t bits = (uint32_t) bf16[0] << 16 | (uint32_t) bf16[1] << 24;
    float x;

    memcpy(&x, &bits, sizeof x);
    return tile_flush(x);
}

/* Row m of c: the sums over even and over odd elements run apart, by fused multiply-adds, and meet at the
 * end. */
static inline void tile_multiply_row(int c, int a, int b, int m)
{
    int depth = tiles_model.config.row_bytes[a] / 4, width = tiles_model.config.row_bytes[c] / 4;
    float sums[2][TILE_ROW_BYTES / 4] = {{0}};

    for (int k = 0; k < depth; k++)
        for (int odd = 0; odd < 2; odd++) {
            float x = tile_float(&tiles_model.tile[a][m][4 * k + 2 * odd]);

            for (int n = 0; n < width; n++)
                sums[odd][n] = tile_flush(
                    __builtin_fmaf(x, tile_float(&tiles_model.tile[b][k][4 * n + 2 * odd]), sums[odd][n]));
        }
    for (int n = 0; n < width; n++) {
        float sum;

        memcpy(&sum, &tiles_model.tile[c][m][4 * n], sizeof sum);
        sum = tile_flush(tile_flush(sum) + tile_flush(sums[0][n] + sums[1][n]));
        memcpy(&tiles_model.tile[c][m][4 * n], &sum, sizeof sum);
    }
}

static inline void tile_multiply_add(int c, int a, int b)
{
    const struct tile_config *config = &tiles_model.config;

    tile_check(a);
    tile_check(b);
    tile_check(c);
    if (a == b || a == c || b == c)
        tile_fault("tdpbf16ps: one tile twice", c);
    if (config->row_bytes[a] % 4 || config->row_bytes[b] % 4 || config->row_bytes[c] % 4)
        tile_fault("tdpbf16ps: half a pair", c);
    if (config->rows[c] != config->rows[a] || config->row_bytes[c] != config->row_bytes[b] ||
        config->row_bytes[a] / 4 != config->rows[b])
        tile_fault("tdpbf16ps: shapes that do not fit", c);
    for (int m = 0; m < config->rows[c]; m++)
        tile_multiply_row(c, a, b, m);
}

#endif
