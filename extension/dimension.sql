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

-- ---- tables ----

CREATE TYPE @extschema@.tlaw_dimension_question AS (
    estimator text, k float8, metric text,
    exclude_cluster boolean,            -- points of one cluster are not each other's neighbours
    control text,                       -- measured instead: 'gaussian', 'shuffled', 'known'
    known_dimension float8,
    sample float8,                      -- as many points, drawn by seed
    seed float8
);
COMMENT ON TYPE @extschema@.tlaw_dimension_question IS 'what to measure; nulls are defaults';

CREATE FUNCTION @extschema@.tlaw_dimension_answers(source regclass, point_column name, group_column name,
    cluster_column name, questions @extschema@.tlaw_dimension_question[],
    OUT group_key text, OUT question int4,
    OUT dimension float8, OUT dimension_se float8, OUT dimension_low float8, OUT dimension_high float8,
    OUT n int8, OUT k int4, OUT metric text, OUT estimator text,
    OUT duplicates int8, OUT ties int8, OUT zero_distances int8, OUT message text)
    RETURNS SETOF record AS 'MODULE_PATHNAME', 'tlaw_dimension_answers' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_answers IS
    'reads the points of a table once and answers several questions about each group of them';
REVOKE ALL ON FUNCTION @extschema@.tlaw_dimension_answers FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_dimension(source regclass, point_column name, group_column name DEFAULT NULL,
    estimator text DEFAULT 'calibrated', k float8 DEFAULT NULL, metric text DEFAULT 'euclidean',
    cluster_column name DEFAULT NULL, exclude_cluster boolean DEFAULT false, sample float8 DEFAULT NULL,
    seed float8 DEFAULT 0,
    OUT group_key text, OUT dimension float8, OUT dimension_se float8, OUT dimension_low float8,
    OUT dimension_high float8, OUT n int8, OUT neighbours int4, OUT duplicates int8, OUT ties int8,
    OUT zero_distances int8, OUT message text)
    RETURNS SETOF record LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT a.group_key, a.dimension, a.dimension_se, a.dimension_low, a.dimension_high, a.n, a.k, a.duplicates,
           a.ties, a.zero_distances, a.message
      FROM @extschema@.tlaw_dimension_answers(source, point_column, group_column, cluster_column,
               ARRAY[ROW(estimator, k, metric, exclude_cluster, NULL, NULL, sample, seed)::@extschema@.tlaw_dimension_question]) a;
END;
COMMENT ON FUNCTION @extschema@.tlaw_dimension IS
    'intrinsic dimension of the points in a column (arrays, or a type that casts to real[]), a row a group';
REVOKE ALL ON FUNCTION @extschema@.tlaw_dimension FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_dimension_profile(source regclass, point_column name,
    estimator text DEFAULT 'calibrated', k float8 DEFAULT NULL, metric text DEFAULT 'euclidean',
    cluster_column name DEFAULT NULL, exclude_cluster boolean DEFAULT false, largest_k float8 DEFAULT 64,
    known_dimension float8 DEFAULT NULL, seed float8 DEFAULT 0,
    OUT profile text, OUT control text, OUT n int8, OUT neighbours int4, OUT dimension float8,
    OUT dimension_se float8, OUT dimension_low float8, OUT dimension_high float8, OUT message text)
    RETURNS SETOF record LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    main record;
    known float8 := known_dimension;
    scales int[];
    questions @extschema@.tlaw_dimension_question[];
    labels text[] := '{}';      -- profile of each question
    controls text[] := '{}';
    c text;
    s int;
    draw int;
BEGIN
    SELECT * INTO main FROM @extschema@.tlaw_dimension_answers(source, point_column, NULL, cluster_column,
        ARRAY[ROW(estimator, k, metric, exclude_cluster, NULL, NULL, NULL, seed)::@extschema@.tlaw_dimension_question]);
    known := COALESCE(known, GREATEST(1, pg_catalog.round(main.dimension)));
    SELECT pg_catalog.array_agg(j ORDER BY j DESC) INTO scales
      FROM (SELECT (2 ^ i)::int AS j FROM pg_catalog.generate_series(1, 13) i) t
     WHERE j <= largest_k AND j < main.n / 4;
    FOREACH c IN ARRAY ARRAY['', 'gaussian', 'shuffled', 'known'] LOOP
        CONTINUE WHEN c = 'known' AND known IS NULL;
        FOREACH s IN ARRAY COALESCE(scales, '{}') LOOP     -- the longest lists first: they serve the shorter ones
            questions := questions || ROW('gride', s, metric, exclude_cluster, c, known, NULL, seed)::@extschema@.tlaw_dimension_question;
            labels := labels || 'scale'::text;
            controls := controls || c;
        END LOOP;
        FOR s IN 0 .. 3 LOOP
            CONTINUE WHEN main.n / (2 ^ s) < 64;
            FOR draw IN 1 .. (2 ^ s)::int LOOP
                questions := questions || ROW(estimator, k, metric, exclude_cluster, c, known,
                    CASE WHEN s > 0 THEN pg_catalog.floor(main.n / 2 ^ s) END, seed + draw - 1)::@extschema@.tlaw_dimension_question;
                labels := labels || 'n'::text;
                controls := controls || c;
            END LOOP;
        END LOOP;
    END LOOP;
    RETURN QUERY
    WITH answers AS MATERIALIZED (
        SELECT labels[a.question] AS profile, controls[a.question] AS control, a.*
          FROM @extschema@.tlaw_dimension_answers(source, point_column, NULL, cluster_column, questions) a
    ), scale AS (
        SELECT a.control, a.n, a.k, a.dimension, a.dimension_se, a.dimension_low, a.dimension_high, a.message
          FROM answers a WHERE a.profile = 'scale'
    ), size AS (                -- the mean over the draws of a size; they share points, so its error is that of one
        SELECT a.control, a.n, pg_catalog.max(a.k) AS k, pg_catalog.avg(a.dimension) AS dimension,
               pg_catalog.avg(a.dimension_se) AS dimension_se, pg_catalog.avg(a.dimension_low) AS low,
               pg_catalog.avg(a.dimension_high) AS high, pg_catalog.count(*) AS draws
          FROM answers a WHERE a.profile = 'n' GROUP BY a.control, a.n
    ), window3 AS (             -- three successive scales whose estimates agree within their errors
        SELECT w.control, w.k, w.n, w.mean, w.se, w.high - w.low AS spread,
               w.high - w.low <= 1.96 * pg_catalog.sqrt(2) * w.largest_se AS flat
          FROM (SELECT x.control, x.k, x.n, pg_catalog.count(*) OVER v AS members,
                       pg_catalog.max(x.dimension) OVER v AS high, pg_catalog.min(x.dimension) OVER v AS low,
                       pg_catalog.max(x.dimension_se) OVER v AS largest_se,
                       pg_catalog.sum(x.dimension / x.dimension_se ^ 2) OVER v / pg_catalog.sum(x.dimension_se ^ -2) OVER v AS mean,
                       pg_catalog.min(x.dimension_se) OVER v AS se
                  FROM scale x WHERE x.dimension_se > 0
                WINDOW v AS (PARTITION BY x.control ORDER BY x.k ROWS 2 PRECEDING)) w
         WHERE w.members = 3
    ), plateau AS (
        SELECT DISTINCT ON (w.control) w.control, w.n, w.k, w.mean, w.se, w.flat, w.spread
          FROM window3 w ORDER BY w.control, w.flat DESC, w.spread / w.mean
    ), regression AS (          -- d(n) = d + b n^(-1/d0), weighted by 1 / se^2
        SELECT z.control, pg_catalog.max(z.n) AS n, pg_catalog.max(z.k) AS k, pg_catalog.count(*) AS sizes,
               pg_catalog.sum(z.w) AS w, pg_catalog.sum(z.w * z.x) AS wx, pg_catalog.sum(z.w * z.x * z.x) AS wxx,
               pg_catalog.sum(z.w * z.dimension) AS wy, pg_catalog.sum(z.w * z.x * z.dimension) AS wxy
          FROM (SELECT t.*, t.dimension_se ^ -2 AS w,
                       t.n::float8 ^ (-1 / pg_catalog.first_value(t.dimension) OVER (PARTITION BY t.control ORDER BY t.n DESC)) AS x
                  FROM size t WHERE t.dimension_se > 0) z
         GROUP BY z.control
    ), extrapolated AS (
        SELECT r.*, (r.wxx * r.wy - r.wx * r.wxy) / NULLIF(r.w * r.wxx - r.wx ^ 2, 0) AS d,
               pg_catalog.sqrt(r.wxx / NULLIF(r.w * r.wxx - r.wx ^ 2, 0)) AS se
          FROM regression r
    ), result AS (
        SELECT 1 AS part, 'scale' AS profile, x.control, x.n, x.k, x.dimension, x.dimension_se, x.dimension_low AS low,
               x.dimension_high AS high, x.message FROM scale x
        UNION ALL
        SELECT 2, 'plateau', p.control, p.n, p.k, CASE WHEN p.flat THEN p.mean END, CASE WHEN p.flat THEN p.se END,
               CASE WHEN p.flat THEN p.mean - 1.96 * p.se END, CASE WHEN p.flat THEN p.mean + 1.96 * p.se END,
               CASE WHEN p.flat THEN pg_catalog.format('three scales up to k = %s agree', p.k)
                    ELSE pg_catalog.format('no plateau: the flattest three scales, up to k = %s, differ by %s', p.k, pg_catalog.round(p.spread::numeric, 3)) END
          FROM plateau p
        UNION ALL
        SELECT 3, 'n', t.control, t.n, t.k, t.dimension, t.dimension_se, t.low, t.high,
               CASE WHEN t.draws > 1 THEN pg_catalog.format('mean over %s draws', t.draws) END FROM size t
        UNION ALL
        SELECT 4, 'extrapolation', e.control, e.n, e.k, CASE WHEN e.sizes >= 3 THEN e.d END,
               CASE WHEN e.sizes >= 3 THEN e.se END, CASE WHEN e.sizes >= 3 THEN e.d - 1.96 * e.se END,
               CASE WHEN e.sizes >= 3 THEN e.d + 1.96 * e.se END,
               CASE WHEN e.sizes >= 3 THEN 'to infinite n, on n^(-1/d)' ELSE 'no extrapolation: fewer than 3 sizes' END
          FROM extrapolated e
    )
    SELECT r.profile, NULLIF(r.control, ''), r.n, r.k, r.dimension, r.dimension_se, r.low, r.high, r.message
      FROM result r ORDER BY r.control, r.part, r.k, r.n;
END $$;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_profile IS
    'intrinsic dimension against scale (Gride) and against n, with their plateau and extrapolation, for the points and for controls: a Gaussian of the same covariance, shuffled coordinates, a known dimension';
REVOKE ALL ON FUNCTION @extschema@.tlaw_dimension_profile FROM PUBLIC;
