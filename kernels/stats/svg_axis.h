/*
 * Scales of figures: range, ticks and their labels, from numbers to pixels.
 */
#ifndef TLAW_SVG_AXIS_H
#define TLAW_SVG_AXIS_H

#include "svg.h"

enum { TLAW_SVG_TICKS = 96, TLAW_SVG_LABEL = 40 };

struct tlaw_svg_tick {
    double value;
    char label[TLAW_SVG_LABEL]; /* "": a minor tick */
};

struct tlaw_svg_scale {
    bool logarithmic, whole;
    double low, high; /* ends of the axis, natural units */
    double from, to;  /* their pixels */
    int n_ticks;
    struct tlaw_svg_tick ticks[TLAW_SVG_TICKS];
};

/* Ends of an axis that shows low .. high, with a margin. */
void tlaw_svg_scale_span(struct tlaw_svg_scale *scale, bool logarithmic, double low, double high);

/* Pixel of a value. */
double tlaw_svg_scale_at(const struct tlaw_svg_scale *scale, double value);

/* Chooses ticks: 1, 2, 5 or powers of ten on logarithmic axes (even steps where less than a decade shows), 1,
 * 2, 5 steps on linear ones; as many labels as fit without touching.  size: of the labels' text. */
void tlaw_svg_scale_ticks(struct tlaw_svg_scale *scale, double size);

#endif
