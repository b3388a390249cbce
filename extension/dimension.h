/*
 * What the files about intrinsic dimension share: arguments and result columns.
 */
#ifndef TLAW_EXTENSION_DIMENSION_H
#define TLAW_EXTENSION_DIMENSION_H

#include "points.h"

#define DIMENSION_COLUMNS 13 /* of the type tlaw_dimension_estimate */
#define MAX_K             10000

/* By name; NULL: the default.  Errors list the names. */
extern enum tlaw_estimator dimension_estimator(const char *name);
extern enum tlaw_metric dimension_metric(const char *name);
/* Argument i, "k"; 0 when it is null or absent: the estimator's usual one. */
extern int dimension_k(FunctionCallInfo fcinfo, int i);
/* Fills values and nulls [DIMENSION_COLUMNS]. */
extern void dimension_columns(const struct tlaw_dimension *d, const struct tlaw_dimension_options *options,
                              Datum *values, bool *nulls);

#endif
