/*
 * A host for statistics and figures: memory of one draw, fit or figure from a block of ARENA bytes, which the
 * including file defines and allocates; emptied by arena_used = 0.
 */
#ifndef TLAW_TEST_ARENA_H
#define TLAW_TEST_ARENA_H

#include <stddef.h>
#include <stdlib.h>

static char *arena;
static size_t arena_used;

static void *arena_allocate(void *argument, size_t bytes)
{
    (void) argument;
    void *start = arena + arena_used;
    arena_used += (bytes + 15) / 16 * 16;
    if (arena_used > ARENA)
        abort();
    return start;
}

static void breathe(void *argument)
{
    (void) argument;
}

static const struct tlaw_host host = {arena_allocate, breathe, NULL};

#endif
