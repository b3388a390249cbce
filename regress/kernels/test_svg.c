/* Figures: well-formed whatever they are given, axes that can be read, as many marks as points. */
#include "tap.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernels/stats/svg_axis.h"

enum { ARENA = 1 << 26 };
#include "arena.h"

static char *draw(const struct tlaw_svg_figure *figure)
{
    arena_used = 0;
    return tlaw_svg(&host, figure);
}

static uint64_t random_state = 1;

static double uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double) (random_state >> 11) / 9007199254740992.0;
}

/* ---- XML ---- */

/* Elements nest, attributes are quoted, references end, all is printable ASCII. */
static bool well_formed(const char *text)
{
    char open[32][16];
    int depth = 0, roots = 0;
    for (const char *p = text; *p; p++) {
        if ((unsigned char) *p >= 0x7F || (*p < 0x20 && *p != '\n'))
            return false;
        if (*p == '&' && strspn(p + 2, "0123456789") > 0 && p[1] == '#') {
            if (p[2 + strspn(p + 2, "0123456789")] != ';')
                return false;
        } else if (*p == '&' || *p == '>') {
            return false;
        } else if (*p == '<') {
            bool closing = p[1] == '/';
            size_t length = strcspn(p + 1 + closing, " >/");
            const char *name = p + 1 + closing;
            if (length == 0 || length >= sizeof open[0])
                return false;
            p = name + length;
            while (*p == ' ') { /* attributes */
                p += 1 + strcspn(p + 1, "= >");
                if (p[0] != '=' || p[1] != '"')
                    return false;
                p += 2 + strcspn(p + 2, "\"<");
                if (*p++ != '"')
                    return false;
            }
            bool empty = *p == '/';
            if (p[empty] != '>' || (closing && empty))
                return false;
            p += empty;
            if (closing &&
                (depth == 0 || strlen(open[--depth]) != length || memcmp(open[depth], name, length) != 0))
                return false;
            if (!closing && !empty) {
                roots += depth == 0;
                if (depth == 32)
                    return false;
                snprintf(open[depth++], sizeof open[0], "%.*s", (int) length, name);
            }
        }
    }
    return depth == 0 && roots == 1;
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what))
        n++;
    return n;
}

static bool finite_numbers(const char *text)
{
    return !strstr(text, "=\"nan") && !strstr(text, "=\"-nan") && !strstr(text, "inf,") &&
           !strstr(text, "nan,") && !strstr(text, ",inf") && !strstr(text, ",nan") &&
           !strstr(text, "=\"inf") && !strstr(text, "=\"-inf");
}

/* ---- axes ---- */

enum kind { LINEAR, LOGARITHMIC, WHOLE };

static bool labels_are(enum kind kind, double low, double high, bool upright, const char *wanted)
{
    struct tlaw_svg_scale scale = {
        .from = upright ? 500 : 60, .to = upright ? 80 : 770, .whole = kind == WHOLE};
    bool logarithmic = kind == LOGARITHMIC;
    char got[400] = "";
    tlaw_svg_scale_span(&scale, logarithmic, low, high);
    tlaw_svg_scale_ticks(&scale, 13);
    for (int i = 0; i < scale.n_ticks; i++)
        if (scale.ticks[i].label[0])
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s", got[0] ? " " : "",
                     scale.ticks[i].label);
    return ok(strcmp(got, wanted) == 0, "%s axis %g to %g: %s", logarithmic ? "log" : "linear", low, high,
              strcmp(got, wanted) == 0 ? "" : got);
}

/* Two to ten labels, all different, none touching, all between the axis's ends. */
static bool readable(const struct tlaw_svg_scale *scale, bool upright)
{
    const struct tlaw_svg_tick *last = NULL;
    int labels = 0;
    for (int i = 0; i < scale->n_ticks; i++) {
        const struct tlaw_svg_tick *tick = &scale->ticks[i];
        if (tick->label[0] == '\0')
            continue;
        double pixel = tlaw_svg_scale_at(scale, tick->value);
        if (pixel < fmin(scale->from, scale->to) - 0.01 || pixel > fmax(scale->from, scale->to) + 0.01)
            return false;
        if (last) {
            double gap = fabs(pixel - tlaw_svg_scale_at(scale, last->value));
            double wide = (tlaw_svg_text_width(tick->label, 13) + tlaw_svg_text_width(last->label, 13)) / 2;
            if (strcmp(tick->label, last->label) == 0 || gap < (upright ? 15 : wide))
                return false;
        }
        last = tick;
        labels++;
    }
    return labels >= 2 && labels <= 10;
}

static void test_axes(void)
{
    int bad = 0;
    labels_are(LOGARITHMIC, 2e4, 2e6, false, "20k 50k 100k 200k 500k 1M 2M");
    labels_are(LOGARITHMIC, 1e4, 1e8, false, "10k 100k 1M 10M 100M");
    labels_are(LOGARITHMIC, 3.2, 4.1, true, "3.2 3.4 3.6 3.8 4.0");
    labels_are(LOGARITHMIC, 1e15, 4e15, false,
               "10\1"
               "15\2 1.5×10\1"
               "15\2 2×10\1"
               "15\2 2.5×10\1"
               "15\2 3×10\1"
               "15\2 3.5×10\1"
               "15\2 4×10\1"
               "15\2");
    labels_are(LOGARITHMIC, 1e-6, 1, true,
               "10\1−6\2 10\1−5\2 10\1−4\2 10\1−3\2 10\1−2\2 10\1−1\2 10\1"
               "0\2");
    labels_are(LINEAR, 0, 12, false, "0 2 4 6 8 10 12");
    labels_are(LINEAR, -1, 1, true, "−1.0 −0.5 0.0 0.5 1.0");
    labels_are(LINEAR, 5, 5, true, "4.90 4.95 5.00 5.05 5.10");
    labels_are(WHOLE, 0, 3, false, "0 1 2 3");
    labels_are(WHOLE, 1, 1, false, "1");
    labels_are(WHOLE, 0, 12, false, "0 2 4 6 8 10 12");
    for (int i = 0; i < 20000; i++) {
        bool upright = i & 1, logarithmic = i & 2;
        double size = pow(10, (uniform() - 0.5) * (i % 5 ? 30 : 500)),
               ratio = pow(10, pow(10, uniform() * 4 - 3));
        struct tlaw_svg_scale scale = {.from = upright ? 500 : 60, .to = upright ? 80 : 770};
        double low = logarithmic ? size : size * (uniform() - 0.5),
               high = logarithmic ? size * ratio : low + size * uniform();
        if (!(high < 1e300))
            continue;
        tlaw_svg_scale_span(&scale, logarithmic, low, high);
        tlaw_svg_scale_ticks(&scale, 13);
        if (!readable(&scale, upright) && ++bad < 5) {
            printf("# %s %s %g to %g:", upright ? "y" : "x", logarithmic ? "log" : "linear", low, high);
            for (int t = 0; t < scale.n_ticks; t++)
                printf(" %s", scale.ticks[t].label);
            printf("\n");
        }
    }
    ok(bad == 0, "20,000 random axes are readable (%d are not)", bad);
}

static void test_numbers(void)
{
    static const struct {
        double value;
        int digits;
        const char *text;
    } cases[] = {{0, 3, "0"},
                 {1, 3, "1"},
                 {0.25, 3, "0.25"},
                 {-2.5, 3, "−2.5"},
                 {9999, 4, "9999"},
                 {10000, 4, "10k"},
                 {1500000, 4, "1.5M"},
                 {1e9, 4, "1G"},
                 {5e14, 4, "500T"},
                 {1e15, 4,
                  "10\1"
                  "15\2"},
                 {3e18, 4,
                  "3×10\1"
                  "18\2"},
                 {-2e-5, 3, "−2×10\1−5\2"},
                 {999999, 3, "1000k"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[40];
        tlaw_svg_number(cases[i].value, cases[i].digits, text, sizeof text);
        ok(strcmp(text, cases[i].text) == 0, "%g is shown as %s", cases[i].value, text);
    }
}

/* ---- documents ---- */

static void test_texts(void)
{
    static const char *const texts[] = {"a<b>&\"c\"'",
                                        "caf\xC3\xA9 \xE2\x88\x92 \xF0\x9F\x98\x80",
                                        "\xC3",
                                        "\xFF\xFE\xC0\x80",
                                        "\xED\xA0\x80\xEF\xBF\xBF",
                                        "bell\a tab\t nul",
                                        "x\1"
                                        "2\2 y\1\1z",
                                        "\2\2",
                                        "]]>",
                                        "%s%n",
                                        ""};
    struct tlaw_svg_point at = {1, 1, NAN, NAN};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct tlaw_svg_series series = {.name = texts[i], .points = {&at, 1}};
        struct tlaw_svg_figure figure = {.title = texts[i],
                                         .note = texts[i],
                                         .x = {texts[i], true},
                                         .y = {texts[i], false},
                                         .series = &series,
                                         .n_series = 1};
        ok(well_formed(draw(&figure)), "text %zu is carried", i);
    }
    char *lengthy = malloc(5001);
    memset(lengthy, 'W', 5000);
    lengthy[5000] = '\0';
    struct tlaw_svg_series series = {.name = lengthy, .points = {&at, 1}};
    struct tlaw_svg_figure figure = {
        .title = lengthy, .x = {lengthy, true}, .y = {lengthy, true}, &series, 1};
    char *text = draw(&figure);
    ok(well_formed(text) && count(text, "&#8230;") == 4 && strlen(text) < 12000, "long texts are cut");
    free(lengthy);
}

static void test_marks(void)
{
    enum { N = 9 };
    struct tlaw_svg_point points[N], dots[2 * N], line[N];
    struct tlaw_svg_series series[TLAW_SVG_STYLES + 1] = {0};
    for (int i = 0; i < N; i++) {
        points[i] =
            (struct tlaw_svg_point){pow(10, i), 5 - 0.4 * i, 4.9 - 0.4 * i, i % 2 ? 5.1 - 0.4 * i : NAN};
        line[i] = (struct tlaw_svg_point){pow(10, i), 5 - 0.4 * i, i < 4 ? 1e-300 : NAN, 1e300};
        dots[2 * i] = dots[2 * i + 1] = points[i];
    }
    for (int s = 0; s < TLAW_SVG_STYLES; s++)
        series[s] = (struct tlaw_svg_series){"series", s, {points, N}, {dots, 2 * N}, {line, N}};
    series[TLAW_SVG_STYLES] = (struct tlaw_svg_series){"theory", TLAW_SVG_REFERENCE, .line = {line, N}};
    struct tlaw_svg_figure figure = {
        "t", "n", {"x", true, false}, {"y", true, false}, series, TLAW_SVG_STYLES + 1};
    char *text = draw(&figure);
    ok(well_formed(text) && finite_numbers(text), "12 series and a reference are drawn");
    ok(count(text, "class=\"point\"") == TLAW_SVG_STYLES * (N + 1),
       "a marker a point and one a legend entry");
    ok(count(text, "class=\"dot\"") == TLAW_SVG_STYLES * 2 * N, "a dot each");
    ok(count(text, "class=\"bar\"") == TLAW_SVG_STYLES * (N / 2), "a bar where both ends are known");
    ok(count(text, "class=\"line\"") == TLAW_SVG_STYLES + 1, "a line each");
    ok(count(text, "class=\"band\"") == TLAW_SVG_STYLES + 1, "a band where both edges are known");
    ok(count(text, "class=\"legend\"") == TLAW_SVG_STYLES + 1, "a legend entry each");

    figure.n_series = 0;
    ok(well_formed(draw(&figure)), "no series");
    series[0].points.n = 1;
    series[0].dots.n = series[0].line.n = 0;
    figure.n_series = 1;
    text = draw(&figure);
    ok(well_formed(text) && finite_numbers(text), "one point");
}

static void test_sizes(void)
{
    enum { N = 1000000 };
    struct tlaw_svg_point *points = malloc(sizeof *points * N);
    struct tlaw_svg_series series = {.name = "run", .line = {points, N}};
    struct tlaw_svg_figure figure = {"t", NULL, {"step", true, false}, {"loss", true, false}, &series, 1};
    for (int i = 0; i < N; i++)
        points[i] = (struct tlaw_svg_point){i + 1, 2 + pow(i + 1, -0.3), NAN, NAN};
    char *text = draw(&figure);
    ok(well_formed(text) && strlen(text) < 60000, "a curve of a million steps takes %zu bytes", strlen(text));
    free(points);

    struct tlaw_svg_point extreme[4] = {
        {-1e299, 1e-299, -1e299, 1e299}, {1e299, 1e299, 0, 1}, {0, 1, NAN, NAN}, {1, 1, 1, 1}};
    series = (struct tlaw_svg_series){"extreme", 0, {extreme, 4}, {extreme, 4}, {extreme, 4}};
    figure.x.logarithmic = false;
    text = draw(&figure);
    ok(well_formed(text) && finite_numbers(text), "numbers of every size");
}

int main(void)
{
    arena = malloc(ARENA);
    test_axes();
    test_numbers();
    test_texts();
    test_marks();
    test_sizes();
    free(arena);
    return tap_end();
}
