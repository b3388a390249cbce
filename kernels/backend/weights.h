/*
 * Weights that have a bf16 copy for products: which of a device's blocks an address lies in.  The backend
 * allocates both, and writes the copy whenever it changes the weights.
 */
#ifndef TLAW_WEIGHTS_H
#define TLAW_WEIGHTS_H

#include "backend.h"

struct weights {
    real *at;
    uint16_t *copy; /* rounded to nearest even */
    size_t n;       /* elements of each */
    struct weights *next;
};

/* The block that an address lies in, by the link to it, or the NULL at the end. */
static inline struct weights **weights_find(struct weights **list, const void *at)
{
    while (*list && !((const real *) at >= (*list)->at && (const real *) at < (*list)->at + (*list)->n))
        list = &(*list)->next;
    return list;
}

/* The copy of the weights at an address; NULL when they have none. */
static inline uint16_t *weights_find_copy(struct weights *list, const real *w)
{
    const struct weights *block = *weights_find(&list, w);

    return block ? block->copy + (w - block->at) : NULL;
}

#endif
