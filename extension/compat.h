/*
 * Where the API of PostgreSQL differs between the versions that tlaw is built for, 15 to 18: tlaw is written
 * for the newest, and here what it uses of that is translated for the older ones.
 */
#ifndef TLAW_COMPAT_H
#define TLAW_COMPAT_H

#include "postgres.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/memutils.h"

#if PG_VERSION_NUM < 150000
#error "tlaw needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM < 170000
#define LockHeldByMe(tag, mode, or_stronger) LockHeldByMe(tag, mode)
/* without an owner: until FreeWaitEventSet or the end of the process */
#define CreateWaitEventSet(owner, n) CreateWaitEventSet(TopMemoryContext, n)
#endif

#endif
