/* See pretokenize.h.  A hand-written scanner over a table of character classes, which PCRE2 fills at the
 * start. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "pretokenize.h"

#include <pcre2.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CODE_POINTS 0x110000
#define MAX_RUN     (PRETOKEN_MAX - 1) /* a space may come before it */

enum { OTHER, LETTER, NUMBER, SPACE };

static uint8_t *char_class; /* of every code point */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *init_error;

static size_t put_utf8(uint8_t *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (uint8_t) code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (uint8_t) (0xC0 | code >> 6);
        out[1] = (uint8_t) (0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (uint8_t) (0xE0 | code >> 12);
        out[1] = (uint8_t) (0x80 | (code >> 6 & 63));
        out[2] = (uint8_t) (0x80 | (code & 63));
        return 3;
    }
    out[0] = (uint8_t) (0xF0 | code >> 18);
    out[1] = (uint8_t) (0x80 | (code >> 12 & 63));
    out[2] = (uint8_t) (0x80 | (code >> 6 & 63));
    out[3] = (uint8_t) (0x80 | (code & 63));
    return 4;
}

/*
 * Decodes the character at `at`; its length, 1 for a byte that starts no well-formed character (code
 * OTHER_BYTE). Well-formed: Unicode's table 3-7, so no overlong forms, surrogates or code points above
 * 10FFFF.
 */
#define OTHER_BYTE 0xFFFF /* a noncharacter: no letter, number or space */
static size_t decode(const uint8_t *text, size_t left, uint32_t *code)
{
    uint8_t lead = text[0];
    size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    uint32_t value;

    *code = lead;
    if (lead < 0x80)
        return 1;
    *code = OTHER_BYTE;
    if (lead < 0xC2 || lead > 0xF4 || left < length)
        return 1;
    value = lead & (0x7Fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return 1;
        value = value << 6 | (text[i] & 63);
    }
    if ((length == 3 && (value < 0x800 || (value >= 0xD800 && value <= 0xDFFF))) ||
        (length == 4 && (value < 0x10000 || value >= CODE_POINTS)))
        return 1;
    *code = value;
    return length;
}

/* One match finds a run of characters of one class; capture group g is class g. */
static const char *classify(const uint8_t *all, size_t size, pcre2_code *code, pcre2_match_data *match)
{
    PCRE2_SIZE *ovector = pcre2_get_ovector_pointer(match);
    size_t at = 0;
    int groups;

    while ((groups = pcre2_match(code, all, size, at, PCRE2_NO_UTF_CHECK, match, NULL)) > 0) {
        for (at = ovector[0]; at < ovector[1];) {
            uint32_t point;

            at += decode(all + at, size - at, &point);
            char_class[point] = (uint8_t) (groups - 1);
        }
    }
    return groups == PCRE2_ERROR_NOMATCH ? NULL : "PCRE2 could not match its character classes";
}

static void build_classes(void)
{
    uint8_t *all = malloc(4 * CODE_POINTS);
    size_t size = 0, offset;
    int error;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR) "(\\p{L}+)|(\\p{N}+)|(\\s+)", PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_UCP, &error, &offset, NULL);
    pcre2_match_data *match = code ? pcre2_match_data_create_from_pattern(code, NULL) : NULL;

    char_class = calloc(CODE_POINTS, 1);
    if (!all || !match || !char_class) {
        init_error = "cannot build the character classes: out of memory, or PCRE2 without Unicode";
    } else {
        for (uint32_t point = 0; point < CODE_POINTS; point++)
            if (point < 0xD800 || point > 0xDFFF)
                size += put_utf8(all + size, point);
        pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without it the match is only slower */
        init_error = classify(all, size, code, match);
    }
    pcre2_match_data_free(match);
    pcre2_code_free(code);
    free(all);
}

int pretokenize_init(char *message, size_t message_size)
{
    pthread_once(&once, build_classes);
    if (init_error)
        snprintf(message, message_size, "%s", init_error);
    return init_error ? -1 : 0;
}

static int class_at(const uint8_t *text, size_t left, size_t *length)
{
    uint32_t code;

    *length = decode(text, left, &code);
    return char_class[code];
}

/* The end of the run of characters of one class that starts at `at`; *last: where its last character starts.
 */
static size_t run_end(const uint8_t *text, size_t size, size_t at, int class, size_t *last)
{
    size_t length, limit = size - at > MAX_RUN ? at + MAX_RUN : size;

    while (at < limit && class_at(text + at, size - at, &length) == class) {
        if (at + length > limit)
            break;
        *last = at;
        at += length;
    }
    return at;
}

/* Length of the contraction at text ('s 't 're 've 'm 'll 'd), or 0. */
static size_t contraction(const uint8_t *text, size_t left)
{
    if (left < 2 || text[0] != '\'')
        return 0;
    if (text[1] == 's' || text[1] == 't' || text[1] == 'm' || text[1] == 'd')
        return 2;
    if (left >= 3 && ((text[1] == 'r' && text[2] == 'e') || (text[1] == 'v' && text[2] == 'e') ||
                      (text[1] == 'l' && text[2] == 'l')))
        return 3;
    return 0;
}

size_t pretoken_end(const unsigned char *text, size_t size, size_t at)
{
    size_t length, last = at, end, start = at, short_form = contraction(text + at, size - at);
    int class;

    if (short_form)
        return at + short_form;
    if (text[at] == ' ' && at + 1 < size && class_at(text + at + 1, size - at - 1, &length) != SPACE)
        start = at + 1;
    class = class_at(text + start, size - start, &length);
    end = run_end(text, size, start, class, &last);
    if (class != SPACE || end == size || last == at || end - at > MAX_RUN - 4)
        return end;
    return last; /* \s+(?!\S): the run without the space that belongs to the next piece */
}
