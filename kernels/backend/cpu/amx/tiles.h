/*
 * The instructions of AMX: the only file that has them.  Eight tile registers of 16 rows of 64 bytes, a state
 * of each thread: tile_configure before the first, tile_release after the last, so that idle threads carry no
 * tiles.  (The compiler's own intrinsics do not tell it that a load reads memory.)
 *
 * regress/amx_model/tiles.h is the same in plain C, for tests on machines without AMX.
 */
#ifndef TLAW_TILES_H
#define TLAW_TILES_H

#include <stdint.h>

/* What ldtilecfg reads: palette 1, then bytes a row and rows of each tile. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

static inline void tile_configure(const struct tile_config *config)
{
    __asm__ volatile("ldtilecfg %0" ::"m"(*config));
}

static inline void tile_release(void)
{
    __asm__ volatile("tilerelease" ::: "memory");
}

/* t, a, b, c: numbers of tiles, 0 to 7; the rows in memory are `stride` bytes apart */
#define tile_zero(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define tile_load(t, from, stride)                                                                           \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(from), "r"((long) (stride)) : "memory")
#define tile_store(t, to, stride)                                                                            \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(to), "r"((long) (stride)) : "memory")
/* c[m][n] += sum over k of a[m][2k] b[k][2n] + a[m][2k + 1] b[k][2n + 1]: floats of pairs of bf16 */
#define tile_multiply_add(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

#endif
