/*
 * What isa_gemm.c and isa_amx_gemm.c share: what becomes of the sums of an element, a packed panel of B, and
 * how C is cut into units of work.
 */
#ifndef TLAW_ISA_GEMM_H
#define TLAW_ISA_GEMM_H

#include "isa.h"

/* What becomes of the sums of an element: the epilogue's parts, known when a case is compiled. */
struct epilogue {
    bool c_real, bias, gelu, slope, accumulate;
};

inline_always vf finish(const struct product *p, struct epilogue e, vf x, long at, long column, long n)
{
    if (e.bias)
        x += load_n(p->bias + column, n);
    if (e.gelu) {
        vf slope;

        gelu(1, &x, &slope);
        store_act_n(p->gelu + at, slope, n);
    }
    if (e.slope)
        x *= load_act_n(p->slope + at, n);
    if (e.accumulate)
        x += load_of(p->c, true, at, n);
    return x;
}

/* Rows first .. end <= VW of a tile of sums at `row`, `column`, where c is their exponentials. */
inline_always void exponentials_of(bool whole, bool kept, const struct product *p, const float *sums,
                                   long row, long first, long end, long column)
{
    const struct product own = *p; /* that no store can change */
    long n = whole ? NR : own.N - column;
    float of_rows[VW];
    vf total[VW] = {{0}};

#pragma GCC unroll 2
    for (long i = first; i < end; i++) {
        long at = (row + i) * own.c_row + column;
        vf e[2];

#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            vf x = (load(sums + i * NR + v * VW) - own.shift[row + i]) * 1.44269504f;

            e[v] = vexp2(vmin(splat(EXP2_MOST), vmax(splat(-EXP2_MOST), x)));
            if (!whole)
                e[v] = choose(lanes_below(n - v * VW), e[v], (vf){0});
        }
        total[i] = e[0] + e[1];
        if (kept && whole)
            store_act_row((act_t *) own.c + at, e[0], e[1]);
        else if (kept)
            for (long v = 0; v * VW < n; v++)
                store_act_n((act_t *) own.c + at + v * VW, e[v], n - v * VW);
    }
    store(of_rows, vsums(total));
    store_n(own.panel_sums + column / NR * own.panel_row + row + first, load_n(of_rows + first, end - first),
            end - first);
}

static inline void finish_exponentials(const struct product *p, const float *sums, long row, long first,
                                       long end, long column)
{
    if (p->N - column < NR)
        exponentials_of(false, p->c, p, sums, row, first, end, column);
    else if (p->c)
        exponentials_of(true, true, p, sums, row, first, end, column);
    else
        exponentials_of(true, false, p, sums, row, first, end, column);
}

/*
 * Columns panel * NR .. of K rows of B, from row k on, to a panel [cells of K][NR]; with `sums` it adds to
 * their column sums where the product wants them.
 */
static inline void pack_b(const struct product *p, cell *to, long panel, long k, long K, bool sums)
{
    long column = panel * NR, n = least(p->N - column, NR);
    const void *from = element(p->b.at, p->b.real, k * p->b.row + column * p->b.col);

    if (p->b.col == 1 && p->column_sums && sums) {
        float *column_sums = p->column_sums + column;
        vf sum[2] = {{0}};

        pack_rows(to, NR, from, p->b.real, p->b.row, n, K, sum);
        for (long v = 0; v < 2 && v * VW < n; v++)
            store_n(column_sums + v * VW, load_n(column_sums + v * VW, n - v * VW) + sum[v], n - v * VW);
    } else if (p->b.col == 1)
        pack_rows(to, NR, from, p->b.real, p->b.row, n, K, NULL);
    else
        for (long v = 0; v < NR; v += VW)
            pack_transposed(to + v, NR, element(from, p->b.real, v * p->b.col), p->b.real, p->b.col, n - v,
                            K);
}

/* A unit of work: so many tiles of rows, so many panels; row_blocks units lie below each other. */
struct cut {
    long tiles, panels, row_blocks, units;
};

struct place {
    long row_block, panel_block;
};

/*
 * Where unit i of a cut lies.  Rows are dealt out to the threads' shares of the units, so that a thread goes
 * on with the rows that it computed before; within a share, units of the same panels follow each other.
 */
static inline struct place cut_place(struct device *device, const struct cut *cut, long i)
{
    long threads = pool_threads(device->pool), columns = cut->units / cut->row_blocks, share = 0;

    while (i >= cut->row_blocks * (share + 1) / threads * columns)
        share++;
    long first = cut->row_blocks * share / threads, rows = cut->row_blocks * (share + 1) / threads - first;

    i -= first * columns;
    return (struct place){first + i % rows, i / rows};
}

/* Units for each of several threads, so that they end together; one thread has nobody to wait for. */
static inline long units_wanted(struct device *device, long each)
{
    long threads = pool_threads(device->pool);

    return threads > 1 ? each * threads : 1;
}

/* Cuts all of C into units of at most that many tiles and panels, enough of them to go round. */
static inline struct cut cut_units(long all_tiles, long all_panels, long tiles, long panels, long wanted)
{
    struct cut cut = {.tiles = tiles, .panels = panels};

    for (;;) {
        cut.row_blocks = (all_tiles + cut.tiles - 1) / cut.tiles;
        cut.units = cut.row_blocks * ((all_panels + cut.panels - 1) / cut.panels);
        if (cut.units >= wanted || (cut.tiles == 1 && cut.panels == 1))
            return cut;
        if (cut.panels > 3 || cut.tiles == 1)
            cut.panels = (cut.panels + 1) / 2;
        else
            cut.tiles /= 2;
    }
}

#endif
