/* The reference backend, for backend_find and for the tests that need it in float64. */
#ifndef TLAW_REFERENCE_H
#define TLAW_REFERENCE_H

#include "backend.h"

extern const struct backend reference_backend;

#endif
