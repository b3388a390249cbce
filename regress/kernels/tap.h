/*
 * TAP for kernel tests: ok(condition, what, ...) a check, skip(why, ...) for one that cannot be made here,
 * and return tap_end() from main.
 */
#ifndef TLAW_TAP_H
#define TLAW_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int tap_count, tap_failures;

__attribute__((format(printf, 2, 3), unused)) static bool ok(bool condition, const char *what, ...)
{
    va_list arguments;

    tap_count++;
    tap_failures += !condition;
    printf("%s %d - ", condition ? "ok" : "not ok", tap_count);
    va_start(arguments, what);
    vprintf(what, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    return condition;
}

__attribute__((format(printf, 1, 2), unused)) static void skip(const char *why, ...)
{
    va_list arguments;

    printf("ok %d # SKIP ", ++tap_count);
    va_start(arguments, why);
    vprintf(why, arguments);
    va_end(arguments);
    printf("\n");
}

/* Prints the plan; the exit status. */
__attribute__((unused)) static int tap_end(void)
{
    printf("1..%d\n", tap_count);
    return tap_failures > 0;
}

#endif
