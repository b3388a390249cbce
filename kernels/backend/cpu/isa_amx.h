/*
 * The product of blocks of cells by AMX: up to 32 x 32 floats in four tiles, two tiles each of A and of B.
 *
 * A lies in blocks [16 rows][16 cells], B in rows of cells as isa.h packs it; both are padded with zeros to
 * whole tiles, so that one configuration of all tiles does for every shape.
 */
#ifndef TLAW_CPU_ISA_AMX_H
#define TLAW_CPU_ISA_AMX_H

#include "isa.h"

#include <tiles.h>

#define TILE_CELLS 16                /* rows of a tile, and cells in a row */
#define TILE_BLOCK (TILE_CELLS * 16) /* cells in a tile */

/* Before the first tile_product of a unit of work; tile_release after the last. */
inline_always void tiles_begin(void)
{
    static const struct tile_config all = {.palette = 1,
                                           .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                           .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

    tile_configure(&all);
}

/*
 * out[16 row_tiles][16 column_tiles], its rows out_row floats apart, = A B, or += when resume.
 * A: rows 0 to 15 at a[0], 16 to 31 at a[1] (row_tiles 2), a_step cells from one block of K to the next.
 * B: [16 blocks][b_row] cells.
 */
inline_always void tile_product_of(int row_tiles, int column_tiles, float *out, long out_row, bool resume,
                                   const cell *const a[2], long a_step, const cell *b, long b_row,
                                   long blocks)
{
    const cell *first = a[0], *second = a[1];
    long stride = out_row * (long) sizeof *out, b_stride = b_row * (long) sizeof *b;
    float *low = out + 16 * out_row;

    if (resume) {
        tile_load(0, out, stride);
        if (column_tiles > 1)
            tile_load(1, out + 16, stride);
        if (row_tiles > 1)
            tile_load(2, low, stride);
        if (row_tiles > 1 && column_tiles > 1)
            tile_load(3, low + 16, stride);
    } else {
        tile_zero(0);
        tile_zero(1);
        tile_zero(2);
        tile_zero(3);
    }
    for (long i = 0; i < blocks; i++, first += a_step, second += a_step, b += TILE_CELLS * b_row) {
        tile_load(6, b, b_stride);
        tile_load(4, first, 64);
        tile_multiply_add(0, 4, 6);
        if (column_tiles > 1) {
            tile_load(7, b + 16, b_stride);
            tile_multiply_add(1, 4, 7);
        }
        if (row_tiles > 1) {
            tile_load(5, second, 64);
            tile_multiply_add(2, 5, 6);
        }
        if (row_tiles > 1 && column_tiles > 1)
            tile_multiply_add(3, 5, 7);
    }
    tile_store(0, out, stride);
    if (column_tiles > 1)
        tile_store(1, out + 16, stride);
    if (row_tiles > 1)
        tile_store(2, low, stride);
    if (row_tiles > 1 && column_tiles > 1)
        tile_store(3, low + 16, stride);
}

/* The same for so many rows and columns, 1 to 32, of which whole tiles are written. */
static inline void tile_product(long rows, long columns, float *out, long out_row, bool resume,
                                const cell *const a[2], long a_step, const cell *b, long b_row, long blocks)
{
    if (rows > 16 && columns > 16)
        tile_product_of(2, 2, out, out_row, resume, a, a_step, b, b_row, blocks);
    else if (rows > 16)
        tile_product_of(2, 1, out, out_row, resume, a, a_step, b, b_row, blocks);
    else if (columns > 16)
        tile_product_of(1, 2, out, out_row, resume, a, a_step, b, b_row, blocks);
    else
        tile_product_of(1, 1, out, out_row, resume, a, a_step, b, b_row, blocks);
}

/*
 * Packs a block of A for 16 rows, of which n exist (0 or less: none), and 16 cells, K elements of which
 * exist: row i is elements at from + i * ld on.
 */
inline_always void pack_tile(cell *to, const void *from, bool real, long ld, long n, long K)
{
    for (long i = 0; i < 16; i++)
        store(to + i * TILE_CELLS, i < n ? cells_along(from, real, i * ld, K) : (vf){0});
}

/* The same where element k of row i is at from + k * ld + i. */
inline_always void pack_tile_transposed(cell *to, const void *from, bool real, long ld, long n, long K)
{
    vf r[VW];

#pragma GCC unroll 16
    for (long k = 0; k < VW; k++)
        r[k] = n > 0 && STEP * k < K ? cells_down(from, real, STEP * k * ld, ld, K - STEP * k, n) : (vf){0};
    transpose(r);
#pragma GCC unroll 16
    for (long i = 0; i < VW; i++)
        store(to + i * TILE_CELLS, r[i]);
}

#endif
