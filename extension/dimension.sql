-- Intrinsic dimension: of any column of arrays, of scales and samples, of the activations of runs.

CREATE TYPE @extschema@.tlaw_dimension_estimate AS (
    dimension float8, dimension_se float8, dimension_low float8, dimension_high float8,
    n int8, k int4, metric text, estimator text,
    duplicates int8, ties int8, zero_distances int8, message text
);
COMMENT ON TYPE @extschema@.tlaw_dimension_estimate IS
    'an intrinsic dimension with its 95 % interval, how it was had, and what was odd about the points';

CREATE FUNCTION @extschema@.tlaw_estimators(OUT estimator text, OUT usual_k int4, OUT convention text)
    RETURNS SETOF record AS 'MODULE_PATHNAME', 'tlaw_estimators' LANGUAGE c IMMUTABLE;
COMMENT ON FUNCTION @extschema@.tlaw_estimators IS
    'the estimators of the intrinsic dimension: name, neighbours by default, convention and source';

CREATE FUNCTION @extschema@.tlaw_dimension_add(state internal, point real[]) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_dimension_add' LANGUAGE c IMMUTABLE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_add(internal, real[]) IS 'part of tlaw_intrinsic_dimension';

CREATE FUNCTION @extschema@.tlaw_dimension_add(state internal, point real[], estimator text) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_dimension_add' LANGUAGE c IMMUTABLE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_add(internal, real[], text) IS 'part of tlaw_intrinsic_dimension';

CREATE FUNCTION @extschema@.tlaw_dimension_add(state internal, point real[], estimator text, k float8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_dimension_add' LANGUAGE c IMMUTABLE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_add(internal, real[], text, float8) IS 'part of tlaw_intrinsic_dimension';

CREATE FUNCTION @extschema@.tlaw_dimension_add(state internal, point real[], estimator text, k float8, metric text) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_dimension_add' LANGUAGE c IMMUTABLE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_add(internal, real[], text, float8, text) IS 'part of tlaw_intrinsic_dimension';

CREATE FUNCTION @extschema@.tlaw_dimension_add(state internal, point float8[]) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_dimension_add' LANGUAGE c IMMUTABLE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_add(internal, float8[]) IS 'part of tlaw_intrinsic_dimension';

CREATE FUNCTION @extschema@.tlaw_dimension_add(state internal, point float8[], estimator text) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_dimension_add' LANGUAGE c IMMUTABLE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_add(internal, float8[], text) IS 'part of tlaw_intrinsic_dimension';

CREATE FUNCTION @extschema@.tlaw_dimension_add(state internal, point float8[], estimator text, k float8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_dimension_add' LANGUAGE c IMMUTABLE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_add(internal, float8[], text, float8) IS 'part of tlaw_intrinsic_dimension';

CREATE FUNCTION @extschema@.tlaw_dimension_add(state internal, point float8[], estimator text, k float8, metric text) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_dimension_add' LANGUAGE c IMMUTABLE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_add(internal, float8[], text, float8, text) IS 'part of tlaw_intrinsic_dimension';

CREATE FUNCTION @extschema@.tlaw_dimension_finish(state internal) RETURNS @extschema@.tlaw_dimension_estimate
    AS 'MODULE_PATHNAME', 'tlaw_dimension_finish' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_finish IS 'part of tlaw_intrinsic_dimension';

CREATE AGGREGATE @extschema@.tlaw_intrinsic_dimension(point real[]) (
    SFUNC = @extschema@.tlaw_dimension_add, STYPE = internal, SSPACE = 1000000,
    FINALFUNC = @extschema@.tlaw_dimension_finish, FINALFUNC_MODIFY = READ_WRITE);
COMMENT ON AGGREGATE @extschema@.tlaw_intrinsic_dimension(real[]) IS
    'intrinsic dimension of a set of points, with a 95 % interval';
REVOKE ALL ON FUNCTION @extschema@.tlaw_intrinsic_dimension(real[]) FROM PUBLIC;

CREATE AGGREGATE @extschema@.tlaw_intrinsic_dimension(point real[], estimator text) (
    SFUNC = @extschema@.tlaw_dimension_add, STYPE = internal, SSPACE = 1000000,
    FINALFUNC = @extschema@.tlaw_dimension_finish, FINALFUNC_MODIFY = READ_WRITE);
COMMENT ON AGGREGATE @extschema@.tlaw_intrinsic_dimension(real[], text) IS
    'intrinsic dimension of a set of points, with a 95 % interval';
REVOKE ALL ON FUNCTION @extschema@.tlaw_intrinsic_dimension(real[], text) FROM PUBLIC;

CREATE AGGREGATE @extschema@.tlaw_intrinsic_dimension(point real[], estimator text, k float8) (
    SFUNC = @extschema@.tlaw_dimension_add, STYPE = internal, SSPACE = 1000000,
    FINALFUNC = @extschema@.tlaw_dimension_finish, FINALFUNC_MODIFY = READ_WRITE);
COMMENT ON AGGREGATE @extschema@.tlaw_intrinsic_dimension(real[], text, float8) IS
    'intrinsic dimension of a set of points, with a 95 % interval';
REVOKE ALL ON FUNCTION @extschema@.tlaw_intrinsic_dimension(real[], text, float8) FROM PUBLIC;

CREATE AGGREGATE @extschema@.tlaw_intrinsic_dimension(point real[], estimator text, k float8, metric text) (
    SFUNC = @extschema@.tlaw_dimension_add, STYPE = internal, SSPACE = 1000000,
    FINALFUNC = @extschema@.tlaw_dimension_finish, FINALFUNC_MODIFY = READ_WRITE);
COMMENT ON AGGREGATE @extschema@.tlaw_intrinsic_dimension(real[], text, float8, text) IS
    'intrinsic dimension of a set of points, with a 95 % interval';
REVOKE ALL ON FUNCTION @extschema@.tlaw_intrinsic_dimension(real[], text, float8, text) FROM PUBLIC;

CREATE AGGREGATE @extschema@.tlaw_intrinsic_dimension(point float8[]) (
    SFUNC = @extschema@.tlaw_dimension_add, STYPE = internal, SSPACE = 1000000,
    FINALFUNC = @extschema@.tlaw_dimension_finish, FINALFUNC_MODIFY = READ_WRITE);
COMMENT ON AGGREGATE @extschema@.tlaw_intrinsic_dimension(float8[]) IS
    'intrinsic dimension of a set of points, with a 95 % interval';
REVOKE ALL ON FUNCTION @extschema@.tlaw_intrinsic_dimension(float8[]) FROM PUBLIC;

CREATE AGGREGATE @extschema@.tlaw_intrinsic_dimension(point float8[], estimator text) (
    SFUNC = @extschema@.tlaw_dimension_add, STYPE = internal, SSPACE = 1000000,
    FINALFUNC = @extschema@.tlaw_dimension_finish, FINALFUNC_MODIFY = READ_WRITE);
COMMENT ON AGGREGATE @extschema@.tlaw_intrinsic_dimension(float8[], text) IS
    'intrinsic dimension of a set of points, with a 95 % interval';
REVOKE ALL ON FUNCTION @extschema@.tlaw_intrinsic_dimension(float8[], text) FROM PUBLIC;

CREATE AGGREGATE @extschema@.tlaw_intrinsic_dimension(point float8[], estimator text, k float8) (
    SFUNC = @extschema@.tlaw_dimension_add, STYPE = internal, SSPACE = 1000000,
    FINALFUNC = @extschema@.tlaw_dimension_finish, FINALFUNC_MODIFY = READ_WRITE);
COMMENT ON AGGREGATE @extschema@.tlaw_intrinsic_dimension(float8[], text, float8) IS
    'intrinsic dimension of a set of points, with a 95 % interval';
REVOKE ALL ON FUNCTION @extschema@.tlaw_intrinsic_dimension(float8[], text, float8) FROM PUBLIC;

CREATE AGGREGATE @extschema@.tlaw_intrinsic_dimension(point float8[], estimator text, k float8, metric text) (
    SFUNC = @extschema@.tlaw_dimension_add, STYPE = internal, SSPACE = 1000000,
    FINALFUNC = @extschema@.tlaw_dimension_finish, FINALFUNC_MODIFY = READ_WRITE);
COMMENT ON AGGREGATE @extschema@.tlaw_intrinsic_dimension(float8[], text, float8, text) IS
    'intrinsic dimension of a set of points, with a 95 % interval';
REVOKE ALL ON FUNCTION @extschema@.tlaw_intrinsic_dimension(float8[], text, float8, text) FROM PUBLIC;
