/*
 * Scales of figures; see svg_axis.h.
 */
#include "svg_axis.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LABELS = 10, FEWEST_LABELS = 4 };

void tlaw_svg_scale_span(struct tlaw_svg_scale *scale, bool logarithmic, double low, double high)
{
    scale->logarithmic = logarithmic;
    if (logarithmic) {
        double from = log10(low), to = log10(high), margin = fmax(0.04 * (to - from), 0.004);
        scale->low = pow(10, fmax(from - margin, -307));
        scale->high = pow(10, fmin(to + margin, 307));
    } else {
        double margin = 0.04 * (high - low);
        if (high - low <= 1e-9 * fmax(fabs(low), fabs(high)))
            margin = low == 0 ? 1 : 0.02 * fmax(fabs(low), fabs(high));
        scale->low = low - margin;
        scale->high = high + margin;
    }
}

double tlaw_svg_scale_at(const struct tlaw_svg_scale *scale, double value)
{
    double part = scale->logarithmic ? log(value / scale->low) / log(scale->high / scale->low)
                                     : (value - scale->low) / (scale->high - scale->low);
    return scale->from + part * (scale->to - scale->from);
}

/* ---- labels ---- */

/* "3×10^18" with a superscript, 10^18 where the factor is 1. */
static void power_label(double value, int digits, char *text, size_t size)
{
    char scientific[32], *e;
    snprintf(scientific, sizeof scientific, "%.*e", digits - 1, fabs(value));
    e = strchr(scientific, 'e');
    double factor = strtod(scientific, NULL) / pow(10, atoi(e + 1));
    int exponent = atoi(e + 1);
    snprintf(text, size, "%s", value < 0 ? "−" : "");
    if (fabs(factor - 1) > 1e-9)
        snprintf(text + strlen(text), size - strlen(text), "%.*g×", digits, factor);
    snprintf(text + strlen(text), size - strlen(text), "10" TLAW_SVG_RAISE "%s%d" TLAW_SVG_LOWER,
             exponent < 0 ? "−" : "", abs(exponent));
}

void tlaw_svg_number(double value, int digits, char *text, size_t size)
{
    static const char *const prefixes[] = {"", "k", "M", "G", "T"};
    double magnitude = fabs(value);
    int prefix = 0;

    if (magnitude >= 1e15 || (magnitude < 1e-3 && magnitude > 0)) {
        power_label(value, digits, text, size);
        return;
    }
    if (magnitude >= 1e4)
        while (prefix < 4 && magnitude >= 1e3 * (1 - 1e-12)) {
            magnitude /= 1e3;
            prefix++;
        }
    snprintf(text, size, "%s%.*g%s", value < 0 ? "−" : "", digits, magnitude, prefixes[prefix]);
    if (strchr(text, 'e')) /* %g rounded up to a power that it writes so */
        snprintf(text, size, "%s%.0f%s", value < 0 ? "−" : "", magnitude, prefixes[prefix]);
}

/* How the labels of one axis look: all alike. */
enum label_style { PLAIN, PREFIXED, POWERS };

static enum label_style label_style(const struct tlaw_svg_scale *scale)
{
    double top = fmax(fabs(scale->low), fabs(scale->high));
    double bottom = scale->logarithmic ? scale->low : top;
    if (top >= 1e15 || bottom < 1e-3)
        return POWERS;
    return top < 1e4 ? PLAIN : PREFIXED;
}

/* step: between ticks, for the decimals; 0: as many as the value needs. */
static void label_tick(const struct tlaw_svg_scale *scale, double step, struct tlaw_svg_tick *tick)
{
    double value = tick->value;
    enum label_style style = label_style(scale);

    if (style == POWERS && value != 0) {
        int digits = step > 0 ? (int) (floor(log10(fabs(value))) - floor(log10(step) + 1e-9)) + 1 : 1;
        power_label(value, digits < 1 ? 1 : digits, tick->label, sizeof tick->label);
    } else if (style == PLAIN && step > 0) {
        int decimals = (int) fmax(0, -floor(log10(step) + 1e-9));
        snprintf(tick->label, sizeof tick->label, "%s%.*f", value < 0 ? "−" : "", decimals, fabs(value));
    } else if (style == PREFIXED && fabs(value) >= 1e3 && fabs(value) < 1e4) {
        snprintf(tick->label, sizeof tick->label, "%s%.10gk", value < 0 ? "−" : "", fabs(value) / 1e3);
    } else {
        tlaw_svg_number(value, 10, tick->label, sizeof tick->label);
    }
}

/* ---- choice ---- */

static void add_tick(struct tlaw_svg_scale *scale, double value, bool labelled, double step)
{
    double slack = 1e-9 * (scale->logarithmic ? value : scale->high - scale->low);
    if (value < scale->low - slack || value > scale->high + slack || scale->n_ticks == TLAW_SVG_TICKS)
        return;
    struct tlaw_svg_tick *tick = &scale->ticks[scale->n_ticks++];
    tick->value = value;
    tick->label[0] = '\0';
    if (labelled)
        label_tick(scale, step, tick);
}

static int labels(const struct tlaw_svg_scale *scale)
{
    int n = 0;
    for (int i = 0; i < scale->n_ticks; i++)
        n += scale->ticks[i].label[0] != '\0';
    return n;
}

/* Whether the labels are few enough and none touches the next. */
static bool fits(const struct tlaw_svg_scale *scale, bool upright, double size)
{
    double last_pixel = 0, last_half = 0;
    int n = 0;
    for (int i = 0; i < scale->n_ticks; i++) {
        const struct tlaw_svg_tick *tick = &scale->ticks[i];
        if (tick->label[0] == '\0')
            continue;
        double pixel = tlaw_svg_scale_at(scale, tick->value);
        double half = upright ? size * 0.8 : tlaw_svg_text_width(tick->label, size) / 2 + 4;
        if (n > 0 && fabs(pixel - last_pixel) < half + last_half)
            return false;
        last_pixel = pixel;
        last_half = half;
        n++;
    }
    return n <= MOST_LABELS;
}

/* Multiples of a step of 1, 2 or 5 times a power of ten that gives about `target` ticks. */
static void even_ticks(struct tlaw_svg_scale *scale, int target)
{
    double raw = (scale->high - scale->low) / target, unit = pow(10, floor(log10(raw)));
    double step = raw <= unit * 1.0001 ? unit
                  : raw <= 2 * unit    ? 2 * unit
                  : raw <= 5 * unit    ? 5 * unit
                                       : 10 * unit;
    if (scale->whole)
        step = fmax(1, step);
    double first = ceil(scale->low / step - 1e-9);
    scale->n_ticks = 0;
    for (int i = 0; i <= 2 * target + 2; i++)
        if ((first + i) * step <= scale->high + 1e-9 * step)
            add_tick(scale, (first + i) * step, true, step);
}

/* Powers of ten, every `stride`-th with a label, with 2 and 5 where halves, and unlabelled ticks in between.
 */
static void decade_ticks(struct tlaw_svg_scale *scale, int stride, bool halves)
{
    int first = (int) floor(log10(scale->low)), last = (int) floor(log10(scale->high));
    scale->n_ticks = 0;
    for (int e = first; e <= last; e++)
        for (int m = 1; m <= 9; m++) {
            char exact[16];
            if (m > 1 && last - first > 7) /* powers only; a selection of them before they are too many */
                break;
            if (last - first > TLAW_SVG_TICKS / 2 && e % stride != 0)
                break;
            snprintf(exact, sizeof exact, "%de%d", m, e);
            add_tick(scale, strtod(exact, NULL), m == 1 ? e % stride == 0 : halves && (m == 2 || m == 5), 0);
        }
}

void tlaw_svg_scale_ticks(struct tlaw_svg_scale *scale, double size)
{
    bool upright = scale->from > scale->to; /* a y axis grows upwards: its labels stand above each other */

    if (scale->logarithmic) {
        decade_ticks(scale, 1, true);
        if (labels(scale) >= FEWEST_LABELS) {
            if (fits(scale, upright, size))
                return;
            for (int stride = 1; stride < 400; stride++) {
                decade_ticks(scale, stride, false);
                if (fits(scale, upright, size))
                    return;
            }
        }
    }
    for (int target = 9; target > 1; target--) {
        even_ticks(scale, target);
        if (fits(scale, upright, size))
            return;
    }
}
