/*
 * Studies: named sets of runs (study.c).
 */
#ifndef TLAW_STUDY_H
#define TLAW_STUDY_H

#include "tlaw.h"

/*
 * Makes sure that the study exists and that the caller may add to it: made for the caller when it is new, an
 * error when it belongs to a role whose privileges the caller does not have.  Between tlaw_begin and
 * tlaw_end.
 */
extern void study_use(const char *study);

/* Error unless the study exists and the caller has the privileges of its owner.  lock: its row, so that no
 * run joins it before this transaction ends. */
extern void study_require(const char *study, bool lock);

/* Error unless the study exists, whoever owns it; it is not dropped before this transaction ends. */
extern void study_hold(const char *study);

#endif
