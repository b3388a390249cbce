/*
 * Figures as SVG text; see svg.h.  Layout: title and note, the plot, its axes, the legend below it in as many
 * columns as fit: it can never cover what is shown.
 */
#include "svg.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "svg_axis.h"

enum { N_COLOURS = 7, N_DASHES = 6, N_SHAPES = 6 };

static const double width = 800, right = 776, plot_height = 420;
static const double title_size = 17, note_size = 12.5, axis_size = 14.5, tick_size = 13, legend_size = 13;
static const double legend_row = 21, key_width = 34;

/* Okabe and Ito without yellow, which is lost on white. */
static const char *const colours[N_COLOURS] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                               "#E69F00", "#56B4E9", "#000000"};
static const char *const dashes[N_DASHES] = {"", "9 4", "10 3 2.5 3", "5 2.5", "10 3 2.5 3 2.5 3", "2.5 3"};

struct canvas {
    const struct tlaw_host *host;
    const struct tlaw_svg_figure *figure;
    char *text;
    size_t n, capacity;
    struct tlaw_svg_scale x, y;
};

/* ---- text ---- */

static void reserve(struct canvas *c, size_t more)
{
    if (c->n + more + 1 <= c->capacity)
        return;
    size_t capacity = c->capacity * 2 > c->n + more + 1 ? c->capacity * 2 : c->n + more + 1;
    char *text = c->host->allocate(c->host->argument, capacity);
    memcpy(text, c->text, c->n);
    c->text = text;
    c->capacity = capacity;
}

__attribute__((format(printf, 2, 3))) static void put(struct canvas *c, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    reserve(c, (size_t) length);
    vsnprintf(c->text + c->n, (size_t) length + 1, format, again);
    c->n += (size_t) length;
    va_end(again);
    va_end(arguments);
}

/* The next character of UTF-8; U+FFFD for what is none, and at least one byte further. */
static uint32_t next_character(const unsigned char **text)
{
    const unsigned char *s = *text;
    int more = s[0] < 0x80 ? 0 : s[0] >= 0xF0 ? 3 : s[0] >= 0xE0 ? 2 : 1;
    uint32_t code = more == 0 ? s[0] : s[0] & (0x3F >> more);

    *text = s + 1;
    if (more > 0 && (s[0] < 0xC2 || s[0] > 0xF4))
        return 0xFFFD;
    for (int i = 1; i <= more; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 0xFFFD;
        code = code << 6 | (s[i] & 0x3F);
    }
    if ((more == 2 && code < 0x800) || (more == 3 && (code < 0x10000 || code > 0x10FFFF)) ||
        (code >= 0xD800 && code < 0xE000) || code == 0xFFFE || code == 0xFFFF)
        return 0xFFFD;
    *text = s + 1 + more;
    return code;
}

/* In hundredths of the text's size, after Helvetica and DejaVu Sans, whichever is wider. */
static int character_width(uint32_t code)
{
    if (code < 0x20)
        return 0;
    if (code >= 0x1100)
        return code == 0x2026 || (code >= 0x2010 && code <= 0x2030) ? 80 : 105;
    if (code >= 0x80)
        return 68;
    if (strchr("ijl|'", (int) code))
        return 29;
    if (strchr(" ft.,:;!I[](){}/\\-r`", (int) code))
        return 40;
    if (strchr("mwMW@%", (int) code))
        return 97;
    if ((code >= 'A' && code <= 'Z') || strchr("=+<>~^#&", (int) code))
        return 76;
    return 63;
}

double tlaw_svg_text_width(const char *text, double size)
{
    const unsigned char *s = (const unsigned char *) text;
    double sum = 0, scale = size / 100;
    while (*s) {
        uint32_t code = next_character(&s);
        if (code == 1 || code == 2)
            scale = size / 100 * (code == 1 ? 0.75 : 1);
        sum += scale * character_width(code);
    }
    return sum;
}

/* Bytes of the longest beginning of a text that is at most `room` pixels wide. */
static size_t beginning(const char *text, double size, double room)
{
    const unsigned char *s = (const unsigned char *) text, *last = s;
    for (double sum = 0; *s; last = s) {
        sum += size / 100 * character_width(next_character(&s));
        if (sum > room)
            break;
    }
    return *s ? (size_t) (last - (const unsigned char *) text) : strlen(text);
}

/* n bytes of UTF-8 as the contents of a text element. */
static void put_characters(struct canvas *c, const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *) text, *end = s + n;
    bool raised = false;
    int open = 0;
    while (s < end) {
        uint32_t code = next_character(&s);
        if (code == 1 && !raised) {
            put(c, "<tspan dy=\"-0.42em\" font-size=\"75%%\">");
            raised = true;
        } else if (code == 2 && raised) {
            put(c, "</tspan><tspan dy=\"0.315em\">");
            raised = false;
            open++;
        } else if (code == '<' || code == '>' || code == '&' || code == '"' || code >= 0x7F) {
            put(c, "&#%u;", code);
        } else if (code >= 0x20) {
            put(c, "%c", (int) code);
        } else if (code > 2) {
            put(c, code == '\t' || code == '\n' || code == '\r' ? " " : "&#65533;");
        }
    }
    for (open += raised; open > 0; open--)
        put(c, "</tspan>");
}

/* A text element, cut with an ellipsis where it is wider than room.  attributes: of the element. */
__attribute__((format(printf, 7, 8))) static void put_text(struct canvas *c, double x, double y, double size,
                                                           double room, const char *text,
                                                           const char *attributes, ...)
{
    char extra[160];
    va_list arguments;
    va_start(arguments, attributes);
    vsnprintf(extra, sizeof extra, attributes, arguments);
    va_end(arguments);
    put(c, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%g\"%s%s>", x, y, size, extra[0] ? " " : "", extra);
    if (tlaw_svg_text_width(text, size) <= room) {
        put_characters(c, text, strlen(text));
    } else {
        put_characters(c, text, beginning(text, size, room - size));
        put(c, "&#8230;");
    }
    put(c, "</text>\n");
}

/* ---- styles ---- */

static const char *colour(int style)
{
    return style == TLAW_SVG_REFERENCE ? "#333333"
           : style == TLAW_SVG_MANY    ? colours[0]
                                       : colours[style % N_COLOURS];
}

/* Attributes of a series' line. */
static void put_line_style(struct canvas *c, int style)
{
    const char *dash = style == TLAW_SVG_REFERENCE ? "1 5"
                       : style == TLAW_SVG_MANY    ? ""
                                                   : dashes[style % N_DASHES];
    put(c, " fill=\"none\" stroke=\"%s\" stroke-width=\"%s\" stroke-linejoin=\"round\"", colour(style),
        style == TLAW_SVG_REFERENCE ? "2.4"
        : style == TLAW_SVG_MANY    ? "1"
                                    : "1.9");
    if (style == TLAW_SVG_REFERENCE)
        put(c, " stroke-linecap=\"round\"");
    if (style == TLAW_SVG_MANY)
        put(c, " stroke-opacity=\"0.45\"");
    if (dash[0])
        put(c, " stroke-dasharray=\"%s\"", dash);
}

/* The marker of a style: one of six shapes, filled for the first six styles and hollow for the rest. */
static void put_marker(struct canvas *c, int style, double x, double y)
{
    static const double corners[N_SHAPES][11] = {
        {0},                                                  /* circle */
        {4, 45, 135, 225, 315},                               /* square: corners, then their angles */
        {3, 90, 210, 330},                                    /* triangle */
        {4, 0, 90, 180, 270},                                 /* diamond */
        {3, 270, 30, 150},                                    /* triangle on its tip */
        {10, 90, 126, 162, 198, 234, 270, 306, 342, 18, 54}}; /* star: every second corner inside */
    static const double radius[N_SHAPES] = {4.6, 5.6, 6.4, 6, 6.4, 7};
    const double *shape = corners[style % N_SHAPES];
    bool hollow = style >= N_SHAPES;

    if (shape[0] == 0)
        put(c, "<circle class=\"point\" cx=\"%.1f\" cy=\"%.1f\" r=\"%g\"", x, y, radius[0]);
    else
        put(c, "<polygon class=\"point\" points=\"");
    for (int i = 1; i <= (int) shape[0]; i++) {
        double r = radius[style % N_SHAPES] * (shape[0] == 10 && i % 2 == 0 ? 0.45 : 1),
               angle = shape[i] * M_PI / 180;
        put(c, "%s%.1f,%.1f", i > 1 ? " " : "", x + r * cos(angle), y - r * sin(angle));
    }
    put(c, "%s fill=\"%s\" stroke=\"%s\" stroke-width=\"%s\"/>\n", shape[0] == 0 ? "" : "\"",
        hollow ? "#ffffff" : colour(style), hollow ? colour(style) : "#ffffff", hollow ? "1.8" : "0.8");
}

/* ---- series ---- */

static double at_x(const struct canvas *c, const struct tlaw_svg_point *p)
{
    return tlaw_svg_scale_at(&c->x, p->x);
}

/* Pixel of y, held near the plot so that coordinates stay short: what lies further is cut anyway. */
static double at_y(const struct canvas *c, double y)
{
    double pixel = c->y.logarithmic && y <= 0 ? INFINITY : tlaw_svg_scale_at(&c->y, y);
    return fmin(fmax(pixel, c->y.to - 2000), c->y.from + 2000);
}

static bool has_interval(const struct tlaw_svg_point *p)
{
    return isfinite(p->low) && isfinite(p->high);
}

static void put_band(struct canvas *c, const struct tlaw_svg_series *series)
{
    const struct tlaw_svg_points *line = &series->line;
    size_t first = 0;

    while (first < line->n) { /* a stretch at a time */
        size_t last = first;
        while (last < line->n && has_interval(&line->at[last]))
            last++;
        if (last > first + 1) {
            put(c, "<polygon class=\"band\" fill=\"%s\" fill-opacity=\"0.16\" points=\"",
                colour(series->style));
            for (size_t i = first; i < last; i++)
                put(c, "%.1f,%.1f ", at_x(c, &line->at[i]), at_y(c, line->at[i].high));
            for (size_t i = last; i > first; i--)
                put(c, "%.1f,%.1f ", at_x(c, &line->at[i - 1]), at_y(c, line->at[i - 1].low));
            put(c, "\"/>\n");
        }
        first = last + 1;
    }
}

/* Points closer than half a pixel to the last are left out: a curve of a million steps is as short as it
 * looks. */
static void put_line(struct canvas *c, const struct tlaw_svg_series *series)
{
    double last_x = -INFINITY, last_y = -INFINITY;
    if (series->line.n < 2)
        return;
    put(c, "<polyline class=\"line\"");
    put_line_style(c, series->style);
    put(c, " points=\"");
    for (size_t i = 0; i < series->line.n; i++) {
        double x = at_x(c, &series->line.at[i]), y = at_y(c, series->line.at[i].y);
        if (i > 0 && i + 1 < series->line.n && hypot(x - last_x, y - last_y) < 0.5)
            continue;
        put(c, "%s%.1f,%.1f", i > 0 ? " " : "", x, y);
        last_x = x;
        last_y = y;
    }
    put(c, "\"/>\n");
}

/* Markers here and there on a line without points, at places of the style's own, so that greyscale tells them
 * apart. */
static void put_line_markers(struct canvas *c, const struct tlaw_svg_series *series)
{
    const struct tlaw_svg_points *line = &series->line;
    double stride = (c->x.to - c->x.from) / 4;
    double next = c->x.from + stride * (0.15 + (series->style % TLAW_SVG_STYLES) / (1.25 * TLAW_SVG_STYLES));

    if (series->points.n > 0 || series->style < 0)
        return;
    for (size_t i = 0; i < line->n; i++) {
        double x = at_x(c, &line->at[i]);
        if (x < next && i + 1 < line->n)
            continue;
        put_marker(c, series->style, x, at_y(c, line->at[i].y));
        while (next <= x)
            next += stride;
    }
}

static void put_dots(struct canvas *c, const struct tlaw_svg_series *series)
{
    for (size_t i = 0; i < series->dots.n; i++)
        put(c, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"2\" fill=\"%s\" fill-opacity=\"0.5\"/>\n",
            at_x(c, &series->dots.at[i]), at_y(c, series->dots.at[i].y), colour(series->style));
}

static void put_bars(struct canvas *c, const struct tlaw_svg_series *series)
{
    for (size_t i = 0; i < series->points.n; i++) {
        const struct tlaw_svg_point *p = &series->points.at[i];
        if (!has_interval(p))
            continue;
        double x = at_x(c, p), low = at_y(c, p->low), high = at_y(c, p->high);
        put(c,
            "<path class=\"bar\" d=\"M%.1f %.1fh7M%.1f %.1fV%.1fM%.1f %.1fh7\" stroke=\"%s\" "
            "stroke-width=\"1.3\"/>\n",
            x - 3.5, low, x, low, high, x - 3.5, high, colour(series->style));
    }
}

static void put_points(struct canvas *c, const struct tlaw_svg_series *series)
{
    for (size_t i = 0; i < series->points.n; i++)
        put_marker(c, series->style, at_x(c, &series->points.at[i]), at_y(c, series->points.at[i].y));
}

/* Bands below lines below bars below dots below points; the first three are cut at the frame. */
static void put_series(struct canvas *c)
{
    const struct tlaw_svg_series *series = c->figure->series;
    int n = c->figure->n_series;

    put(c, "<svg x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" viewBox=\"%.1f %.1f %.1f %.1f\">\n",
        c->x.from, c->y.to, c->x.to - c->x.from, c->y.from - c->y.to, c->x.from, c->y.to, c->x.to - c->x.from,
        c->y.from - c->y.to);
    for (int i = 0; i < n; i++)
        put_band(c, &series[i]);
    for (int i = 0; i < n; i++)
        put_line(c, &series[i]);
    for (int i = 0; i < n; i++)
        put_bars(c, &series[i]);
    put(c, "</svg>\n");
    for (int i = 0; i < n; i++) {
        c->host->breathe(c->host->argument);
        put_dots(c, &series[i]);
    }
    for (int i = 0; i < n; i++) {
        put_line_markers(c, &series[i]);
        put_points(c, &series[i]);
    }
}

/* ---- axes ---- */

struct range {
    double low, high;
};

static void widen(struct range *range, double value, bool logarithmic)
{
    if (!isfinite(value) || (logarithmic && value <= 0))
        return;
    range->low = fmin(range->low, value);
    range->high = fmax(range->high, value);
}

static void widen_by(const struct canvas *c, const struct tlaw_svg_points *points, bool bars, struct range *x,
                     struct range *y)
{
    for (size_t i = 0; i < points->n; i++) {
        const struct tlaw_svg_point *p = &points->at[i];
        widen(x, p->x, c->figure->x.logarithmic);
        widen(y, p->y, c->figure->y.logarithmic);
        if (bars && has_interval(p)) {
            widen(y, p->low, c->figure->y.logarithmic);
            widen(y, p->high, c->figure->y.logarithmic);
        }
    }
}

static void find_ranges(struct canvas *c)
{
    struct range x = {INFINITY, -INFINITY}, y = {INFINITY, -INFINITY};
    const struct tlaw_svg_figure *figure = c->figure;

    for (int i = 0; i < figure->n_series; i++) {
        widen_by(c, &figure->series[i].points, true, &x, &y);
        widen_by(c, &figure->series[i].dots, false, &x, &y);
    }
    if (!(x.low <= x.high))
        for (int i = 0; i < figure->n_series; i++)
            widen_by(c, &figure->series[i].line, false, &x, &y);
    if (!(x.low <= x.high)) /* an empty figure still has axes */
        x = y = (struct range){1, 10};
    tlaw_svg_scale_span(&c->x, figure->x.logarithmic, x.low, x.high);
    tlaw_svg_scale_span(&c->y, figure->y.logarithmic, y.low, y.high);
    c->x.whole = figure->x.whole;
    c->y.whole = figure->y.whole;
}

/* Lays out the plot's frame: the left margin is as wide as the labels of y need. */
static void lay_out(struct canvas *c, double top)
{
    double widest = 0;

    find_ranges(c);
    c->y.from = top + plot_height;
    c->y.to = top;
    tlaw_svg_scale_ticks(&c->y, tick_size);
    for (int i = 0; i < c->y.n_ticks; i++)
        widest = fmax(widest, tlaw_svg_text_width(c->y.ticks[i].label, tick_size));
    c->x.from = 46 + widest;
    c->x.to = right;
    tlaw_svg_scale_ticks(&c->x, tick_size);
}

static void put_grid(struct canvas *c)
{
    for (int i = 0; i < c->x.n_ticks; i++) {
        double x = tlaw_svg_scale_at(&c->x, c->x.ticks[i].value);
        put(c, "<path d=\"M%.1f %.1fV%.1f\" stroke=\"%s\"/>\n", x, c->y.from, c->y.to,
            c->x.ticks[i].label[0] ? "#dedede" : "#f1f1f1");
    }
    for (int i = 0; i < c->y.n_ticks; i++) {
        double y = tlaw_svg_scale_at(&c->y, c->y.ticks[i].value);
        put(c, "<path d=\"M%.1f %.1fH%.1f\" stroke=\"%s\"/>\n", c->x.from, y, c->x.to,
            c->y.ticks[i].label[0] ? "#dedede" : "#f1f1f1");
    }
}

static void put_axes(struct canvas *c)
{
    double left = c->x.from, bottom = c->y.from, middle = (c->y.from + c->y.to) / 2;

    put(c, "<path d=\"M%.1f %.1fV%.1fH%.1f\" fill=\"none\" stroke=\"#333333\" stroke-width=\"1.2\"/>\n", left,
        c->y.to, bottom, c->x.to);
    for (int i = 0; i < c->x.n_ticks; i++) {
        const struct tlaw_svg_tick *tick = &c->x.ticks[i];
        double x = tlaw_svg_scale_at(&c->x, tick->value);
        put(c, "<path d=\"M%.1f %.1fv%d\" stroke=\"#333333\"/>\n", x, bottom, tick->label[0] ? 6 : 3);
        if (tick->label[0])
            put_text(c, x, bottom + 21, tick_size, INFINITY, tick->label,
                     "text-anchor=\"middle\" class=\"tick\"");
    }
    for (int i = 0; i < c->y.n_ticks; i++) {
        const struct tlaw_svg_tick *tick = &c->y.ticks[i];
        double y = tlaw_svg_scale_at(&c->y, tick->value);
        put(c, "<path d=\"M%.1f %.1fh%d\" stroke=\"#333333\"/>\n", left, y, tick->label[0] ? -6 : -3);
        if (tick->label[0])
            put_text(c, left - 10, y + tick_size * 0.35, tick_size, INFINITY, tick->label,
                     "text-anchor=\"end\" class=\"tick\"");
    }
    put_text(c, (left + c->x.to) / 2, bottom + 46, axis_size, c->x.to - left, c->figure->x.title,
             "text-anchor=\"middle\"");
    put_text(c, 22, middle, axis_size, plot_height, c->figure->y.title,
             "text-anchor=\"middle\" transform=\"rotate(-90 22 %.1f)\"", middle);
}

/* ---- legend ---- */

struct legend {
    double top, column_width;
    int entries, columns, rows;
};

static struct legend lay_out_legend(const struct canvas *c, double top)
{
    struct legend legend = {.top = top};
    double widest = 0, room = right - c->x.from;
    for (int i = 0; i < c->figure->n_series; i++) {
        const char *name = c->figure->series[i].name;
        if (name == NULL)
            continue;
        legend.entries++;
        widest = fmax(widest, key_width + 8 + tlaw_svg_text_width(name, legend_size));
    }
    if (legend.entries == 0)
        return legend;
    legend.columns = (int) ((room + 26) / (fmin(widest, room) + 26));
    legend.rows = (legend.entries + legend.columns - 1) / legend.columns;
    legend.columns = (legend.entries + legend.rows - 1) / legend.rows;
    legend.column_width = legend.columns == 1 ? room + 26 : fmin(widest, room) + 26;
    return legend;
}

static void put_key(struct canvas *c, const struct tlaw_svg_series *series, double x, double y)
{
    bool band = false;
    for (size_t i = 0; i < series->line.n; i++)
        band = band || has_interval(&series->line.at[i]);
    if (band)
        put(c, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%g\" height=\"12\" fill=\"%s\" fill-opacity=\"0.16\"/>\n",
            x, y - 6, key_width, colour(series->style));
    if (series->line.n > 1) {
        put(c, "<path d=\"M%.1f %.1fh%g\"", x, y, key_width);
        put_line_style(c, series->style);
        put(c, "/>\n");
    }
    if (series->style >= 0)
        put_marker(c, series->style, x + key_width / 2, y);
}

static void put_legend(struct canvas *c, const struct legend *legend)
{
    int entry = 0;
    for (int i = 0; i < c->figure->n_series; i++) {
        const struct tlaw_svg_series *series = &c->figure->series[i];
        if (series->name == NULL)
            continue;
        double x = c->x.from + entry / legend->rows * legend->column_width;
        double y = legend->top + (entry % legend->rows + 0.5) * legend_row;
        put_key(c, series, x, y);
        put_text(c, x + key_width + 8, y + legend_size * 0.35, legend_size,
                 legend->column_width - 26 - key_width - 8 + 0.5, series->name, "class=\"legend\"");
        entry++;
    }
}

/* ---- the document ---- */

char *tlaw_svg(const struct tlaw_host *host, const struct tlaw_svg_figure *figure)
{
    struct canvas c = {.host = host, .figure = figure, .capacity = 1 << 14};
    const char *title = figure->title ? figure->title : "";
    double top = 24 + (title[0] ? 24 : 0) + (figure->note ? 20 : 0);

    c.text = host->allocate(host->argument, c.capacity);
    lay_out(&c, top);
    struct legend legend = lay_out_legend(&c, top + plot_height + 62);
    double height = legend.top + legend.rows * legend_row + (legend.rows > 0 ? 14 : 0);
    put(&c,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" width=\"%g\" height=\"%g\" "
        "role=\"img\" "
        "font-family=\"Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif\" "
        "fill=\"#1a1a1a\">\n<title>",
        width, height, width, height);
    put_characters(&c, title, strlen(title));
    put(&c, "</title>\n<rect width=\"%g\" height=\"%g\" fill=\"#ffffff\"/>\n", width, height);
    if (title[0])
        put_text(&c, c.x.from, 34, title_size, right - c.x.from, title, "font-weight=\"bold\"");
    if (figure->note)
        put_text(&c, c.x.from, top - 14, note_size, right - c.x.from, figure->note, "fill=\"#555555\"");
    put_grid(&c);
    put_series(&c);
    put_axes(&c);
    put_legend(&c, &legend);
    put(&c, "</svg>");
    return c.text;
}
