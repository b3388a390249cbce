/*
 * What the plot*.c files share: rows read for a figure, and the series made of them.
 */
#ifndef TLAW_PLOT_H
#define TLAW_PLOT_H

#include "law.h"

#include "../kernels/stats/svg.h"

/* What may be plotted, by the names of the views' columns; laws are of losses against data or parameters. */
enum quantity_kind { OTHER, LOSS, COUNT, DATA, PARAMETERS }; /* the last three count something */
struct quantity {
    const char *column, *title;
    enum quantity_kind kind;
};
struct row {
    double x, y, low, high; /* low, high: NAN where there is none */
    int series;
    int64 run_id, setting; /* runs of one setting differ in nothing but seeds */
    int64 subset_seed;
    bool has_subset_seed;
};

struct plot {
    MemoryContext context;
    struct tlaw_host host;
    const char *study, *by; /* by: NULL: one series */
    struct quantity x, y;
    double exponent; /* of the theory; 0: none asked for */
    double dimension, smoothness;
    struct row *rows; /* by series, then x (curves: then run and step) */
    int n_rows;
    const char *names[TLAW_SVG_STYLES]; /* of the series, UTF-8 */
    int n_names;
    struct tlaw_svg_series *series; /* to draw */
    int n_series;
    bool replicates, bars, bands; /* some are drawn */
};

/* ---- series of the rows (plot_series.c); all in plot->context, which is current ---- */

extern struct tlaw_svg_series *plot_add_series(struct plot *plot, const char *name, int style);
extern struct tlaw_svg_point *plot_new_points(const struct plot *plot, size_t n);
/* A point without error bar. */
extern struct tlaw_svg_point plot_bare_point(double x, double y);
/* Whether all x, or all y, are positive. */
extern bool plot_all_positive(const struct plot *plot, bool y);
/* One past the last row of the series that starts at row `first`. */
extern int plot_end_of_series(const struct plot *plot, int first);

/* Points of runs with their laws, the theory's line, the compute frontier. */
extern void plot_points(struct plot *plot);
/* Loss curves; returns how many runs. */
extern int plot_curves(struct plot *plot);

#endif
