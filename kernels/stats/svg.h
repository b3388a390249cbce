/*
 * Figures as SVG text: series of points, error bars, lines and bands on linear or logarithmic axes.
 *
 * The document is valid on its own and plain ASCII whatever the texts hold (characters beyond it become
 * references, what XML cannot carry becomes U+FFFD).  Series differ in colour (Okabe and Ito's palette, safe
 * for colour-blindness), in marker and in dashes, so that each can be told in greyscale too.  Texts are
 * UTF-8; TLAW_SVG_RAISE and TLAW_SVG_LOWER enclose a superscript.
 */
#ifndef TLAW_SVG_H
#define TLAW_SVG_H

#include <stdbool.h>
#include <stddef.h>

#include "fit_solver.h"

#define TLAW_SVG_RAISE "\1"
#define TLAW_SVG_LOWER "\2"

enum {
    TLAW_SVG_STYLES = 12,    /* series that can be told apart */
    TLAW_SVG_REFERENCE = -1, /* style of a theory's line or a frontier: dark, dotted, no marker */
    TLAW_SVG_MANY = -2       /* style of one of many lines that need not be told apart: thin, no marker */
};

struct tlaw_svg_point {
    double x, y, low, high; /* low, high: of an error bar or a band; NAN: none */
};

struct tlaw_svg_points {
    const struct tlaw_svg_point *at;
    size_t n;
};

struct tlaw_svg_series {
    const char *name;              /* in the legend; NULL: not there */
    int style;                     /* 0 .. TLAW_SVG_STYLES - 1, or one of the above */
    struct tlaw_svg_points points; /* markers with error bars */
    struct tlaw_svg_points dots;   /* small and pale: what the points summarise */
    struct tlaw_svg_points line;   /* in the order given, with a band where low and high are numbers */
};

struct tlaw_svg_axis {
    const char *title;
    bool logarithmic; /* then every coordinate along it must be positive */
    bool whole;       /* ticks at whole numbers only (on a linear axis) */
};

struct tlaw_svg_figure {
    const char *title, *note; /* NULL: none */
    struct tlaw_svg_axis x, y;
    const struct tlaw_svg_series *series;
    int n_series;
};

/*
 * The document, allocated by the host; NUL-terminated.  Coordinates are finite and below 1e300 in size.  The
 * axes span points, error bars and dots, or the lines where there are none of them: a band or a line may
 * leave the frame and is cut there.
 */
char *tlaw_svg(const struct tlaw_host *host, const struct tlaw_svg_figure *figure);

/* Width in pixels of a text, somewhat generous: no font is known here. */
double tlaw_svg_text_width(const char *text, double size);

/* A number as ticks show it: 0.25, 20k, 1.5M, 3×10 to the 18; at most `digits` significant digits. */
void tlaw_svg_number(double value, int digits, char *text, size_t size);

#endif
