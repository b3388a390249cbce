/*
 * The intrinsic dimensions of runs as rows: tlaw_run_dimension measures, this keeps.
 */
#include "run.h"

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "dimension.h"

/* tlaw_record_run_dimension(run_id, results) */
PG_FUNCTION_INFO_V1(tlaw_record_run_dimension);
Datum tlaw_record_run_dimension(PG_FUNCTION_ARGS)
{
    ArrayType *results = PG_GETARG_ARRAYTYPE_P(1);
    Datum values[2] = {PG_GETARG_DATUM(0), PointerGetDatum(results)};
    Oid types[2] = {INT8OID, get_fn_expr_argtype(fcinfo->flinfo, 1)};
    struct tlaw_session session;
    struct run_row row;

    run_require(PG_GETARG_INT64(0), true, &row); /* it is not dropped meanwhile */
    tlaw_begin(&session);
    tlaw_execute(SPI_OK_INSERT,
                 "INSERT INTO @.tlaw_run_dimension_record (run_id, layer, protocol, position_group, "
                 "position_low, position_high, exclude_document, "
                 "untrained, metric, estimator, k, dimension, dimension_se, dimension_low, dimension_high, "
                 "plateau, n, documents, positions, prefix, batches, part, seed, duplicates, ties, message) "
                 "SELECT $1, (r).* FROM pg_catalog.unnest($2) r",
                 2, types, values, NULL);
    tlaw_end(&session);
    PG_RETURN_VOID();
}
