-- Intrinsic dimension: arguments, messages and the shape of answers; numbers are in regress/pgtap/dimension.sql.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS tlaw;
CREATE TABLE cloud AS
SELECT i, i % 2 AS part, i / 10 AS document,
       ARRAY[sin(i * 12.9898) * 43758.5453 - floor(sin(i * 12.9898) * 43758.5453),
             sin(i * 78.233) * 24634.6345 - floor(sin(i * 78.233) * 24634.6345), 0] AS x
  FROM generate_series(1, 600) i;

-- the estimators
SELECT estimator, usual_k, convention <> '' AS convention FROM tlaw_estimators() ORDER BY estimator;

-- the aggregate
SELECT round(dimension::numeric, 1) AS d, dimension_low < dimension AND dimension < dimension_high AS inside, plateau, n, k, metric,
       estimator, duplicates, ties, zero_distances, message ~ '^extrapolated from .* with 10 neighbours and .* with 40 to none$' AS said
  FROM (SELECT (tlaw_intrinsic_dimension(x)).* FROM cloud) t;
SELECT (tlaw_intrinsic_dimension(x, 'mackay', 10, 'angular')).metric,
       (tlaw_intrinsic_dimension(x::real[], 'twonn')).k FROM cloud;
-- one answer a group, whatever the order of rows
SELECT part, (a).n, (a) = (b) AS same
  FROM (SELECT part, tlaw_intrinsic_dimension(x, 'geomle', 6 ORDER BY i) AS a, tlaw_intrinsic_dimension(x, 'geomle', 6 ORDER BY -i) AS b
          FROM cloud GROUP BY part) t ORDER BY part;
-- degenerate sets: a stated result
SELECT (tlaw_intrinsic_dimension(x)).n, (tlaw_intrinsic_dimension(x)).message FROM cloud WHERE i = 1;
SELECT (tlaw_intrinsic_dimension(x)).message FROM cloud WHERE i <= 5;
SELECT (tlaw_intrinsic_dimension(x)).* FROM cloud WHERE false;
SELECT (tlaw_intrinsic_dimension(NULL::real[])).message;
SELECT (tlaw_intrinsic_dimension(ARRAY[1.5, 2]::real[])).* FROM generate_series(1, 20);
SELECT (t.a).n, (t.a).duplicates, (t.a).zero_distances, round((t.a).dimension::numeric, 3) = round((u.a).dimension::numeric, 3) AS same
  FROM (SELECT tlaw_intrinsic_dimension(x, 'twonn_mle') AS a FROM (SELECT x FROM cloud UNION ALL SELECT x FROM cloud WHERE i <= 7) t) t,
       (SELECT tlaw_intrinsic_dimension(x, 'twonn_mle') AS a FROM cloud) u;
SELECT round((tlaw_intrinsic_dimension(ARRAY[x[1]], 'mackay')).dimension) AS one FROM cloud;
SELECT (tlaw_intrinsic_dimension(ARRAY(SELECT random() FROM generate_series(1, 16000) WHERE i > 0), 'twonn')).n FROM generate_series(1, 4) i;
-- no single dimension: lines of ten points at 60 places, 1 within a place and 2 beyond; copies are spoken of
CREATE TABLE places AS SELECT ARRAY[x[1] + 1e-4 * sin(j * 12.9898 + i), x[2], 0] AS x FROM cloud, generate_series(1, 10) j WHERE i <= 60;
SELECT plateau, dimension_low < 0.15 AND dimension_high > 1 AS inside, regexp_replace(message, '[0-9]+[.][0-9e-]+', '#', 'g') AS message FROM tlaw_dimension('places', 'x');
SELECT (t.a).plateau, regexp_replace((t.a).message, '[0-9]+[.][0-9e-]+', '#', 'g') AS message FROM (SELECT tlaw_intrinsic_dimension(x, 'levina_bickel') AS a FROM places) t;
SELECT (t.a).plateau, (t.a).message FROM (SELECT tlaw_intrinsic_dimension(x, 'twonn') AS a FROM cloud, generate_series(1, 2)) t;
SELECT profile, dimension, dimension_se, dimension_low, dimension_high, regexp_replace(message, '[0-9]+[.][0-9e-]+', '#', 'g') AS message
  FROM tlaw_dimension_profile('places', 'x', largest_k => 8) WHERE profile IN ('plateau', 'extrapolation') AND control IS NULL;
-- and errors
SELECT tlaw_intrinsic_dimension(ARRAY[i, 'NaN']::float8[]) FROM generate_series(1, 5) i;
SELECT tlaw_intrinsic_dimension(ARRAY[1, 'Infinity']::real[]);
SELECT tlaw_intrinsic_dimension(CASE WHEN i = 3 THEN ARRAY[1] ELSE ARRAY[i, 2] END::float8[]) FROM generate_series(1, 5) i;
SELECT tlaw_intrinsic_dimension(ARRAY[1, NULL]::float8[]);
SELECT tlaw_intrinsic_dimension('{}'::float8[]);
SELECT tlaw_intrinsic_dimension('{{1,2},{3,4}}'::float8[]);
SELECT tlaw_intrinsic_dimension(x, 'twonm') FROM cloud;
SELECT tlaw_intrinsic_dimension(x, 'mackay', 10, 'manhattan') FROM cloud;
SELECT tlaw_intrinsic_dimension(x, 'mackay', 0) FROM cloud;
SELECT tlaw_intrinsic_dimension(x, 'levina_bickel', 2) FROM cloud;
SELECT tlaw_intrinsic_dimension(x, 'mackay', i) FROM cloud;
SELECT tlaw_intrinsic_dimension(ARRAY[i - 3, 0]::float8[], 'mackay', 2, 'cosine') FROM generate_series(1, 9) i;

-- tables
SELECT group_key, round(dimension::numeric, 1) AS d, n, neighbours FROM tlaw_dimension('cloud', 'x', 'part', estimator => 'mackay', k => 10);
SELECT round(dimension::numeric, 1) AS d, n FROM tlaw_dimension('cloud', 'x', cluster_column => 'document', exclude_cluster => true, sample => 300);
SELECT group_key, n, message FROM tlaw_dimension('cloud', 'x', 'part', estimator => 'pca');
SELECT count(*) FROM tlaw_dimension('cloud', 'y');
SELECT count(*) FROM tlaw_dimension('cloud', 'i');
SELECT count(*) FROM tlaw_dimension('cloud', 'x', 'nowhere');
SELECT count(*) FROM tlaw_dimension('cloud', 'x', k => 2.5);
SELECT count(*) FROM tlaw_dimension('cloud', 'x', sample => 1);
SELECT count(*) FROM tlaw_dimension(NULL, 'x');
SELECT profile, control, count(*), bool_and(dimension IS NOT NULL OR message LIKE 'no %') AS said
  FROM tlaw_dimension_profile('cloud', 'x') GROUP BY profile, control ORDER BY control NULLS FIRST, profile;
SELECT count(*) FROM tlaw_run_dimension(987654);
\set SHOW_CONTEXT never
-- controls by name; what cannot be profiled is said in its rows; degenerate points in all entry points
SELECT profile, control, n, dimension, message FROM tlaw_dimension_profile('cloud', 'x', controls => '{shuffled}', largest_k => 4) WHERE profile = 'plateau';
SELECT count(*) FROM tlaw_dimension_profile('cloud', 'x', controls => '{gauss}');
CREATE TABLE odd AS SELECT * FROM (VALUES ('one', ARRAY[1, 2, 3]::float8[]), ('NaN', ARRAY[1, 'NaN', 3]::float8[]), ('ragged', ARRAY[1, 2]::float8[]),
    ('ragged', ARRAY[1, 2, 3]::float8[]), ('null', NULL)) v(kind, x);
INSERT INTO odd SELECT 'equal', ARRAY[1, 2, 3] FROM generate_series(1, 100) UNION ALL SELECT 'few', ARRAY[i, i * i, 1] FROM generate_series(1, 5) i;
CREATE FUNCTION asked(kind text, function text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text;
BEGIN
    EXECUTE format('CREATE OR REPLACE VIEW odd_points AS SELECT x FROM odd WHERE kind = %L', kind);
    EXECUTE format('SELECT string_agg(concat_ws('', '', n, dimension, message), ''; '') FROM %s', function) INTO answer;
    RETURN answer;
EXCEPTION WHEN OTHERS THEN
    RETURN 'ERROR: ' || sqlerrm;
END $$;
SELECT kind, asked(kind, '(SELECT (tlaw_intrinsic_dimension(x)).* FROM odd_points) t') AS aggregate FROM unnest('{empty,"null",one,equal,few,NaN,ragged}'::text[]) kind;
SELECT kind, asked(kind, 'tlaw_dimension(''odd_points'', ''x'')') AS dimension FROM unnest('{empty,"null",one,equal,few,NaN,ragged}'::text[]) kind;
SELECT kind, asked(kind, 'tlaw_dimension_profile(''odd_points'', ''x'')') AS profile FROM unnest('{empty,"null",one,equal,few,NaN,ragged}'::text[]) kind;
-- more coordinates than points: the Gaussian is made of the points; beyond 100 dimensions the default gives no answer
CREATE TABLE broad AS SELECT ARRAY(SELECT v - floor(v) FROM generate_series(1, 16000) j, LATERAL (SELECT sin(i * 12.9898 + j * 78.233) * 43758.5453 AS v) t)::real[] AS x FROM generate_series(1, 40) i;
SELECT control, n, dimension > 10 AS many FROM tlaw_dimension_profile('broad', 'x', estimator => 'mackay', controls => '{gaussian}') WHERE profile = 'n';
SELECT n, dimension, regexp_replace(message, 'read.*', '') AS message FROM tlaw_dimension('broad', 'x');
-- types with a cast to real[] count as points; others do not
CREATE TYPE triple AS (a real, b real, c real);
CREATE FUNCTION triple_points(triple) RETURNS real[] LANGUAGE sql IMMUTABLE AS 'SELECT ARRAY[$1.a, $1.b, $1.c]';
CREATE TABLE triples AS SELECT i, ROW(x[1], x[2], x[3])::triple AS t, x::text AS written FROM cloud;
SELECT count(*) FROM tlaw_dimension('triples', 't');
CREATE CAST (triple AS real[]) WITH FUNCTION triple_points(triple) AS IMPLICIT;
SELECT a.n, a.dimension = b.dimension AS same FROM tlaw_dimension('triples', 't') a, (SELECT (tlaw_intrinsic_dimension(t)).* FROM triples) b;
SELECT count(*) FROM tlaw_dimension('triples', 'written');
DROP TABLE triples;
DROP TYPE triple CASCADE;
SELECT count(*) FROM tlaw_run_dimension_profile(987654);
SELECT tlaw_plot_dimension(987654);
SELECT tlaw_plot_dimension(987654, 'height');
DROP TABLE odd CASCADE;
DROP TABLE broad;
\set SHOW_CONTEXT errors
CREATE ROLE tlaw_stranger;
SET ROLE tlaw_stranger;
SELECT count(*) FROM tlaw_dimension('cloud', 'x');
SELECT tlaw_intrinsic_dimension(ARRAY[1.0]::real[]);
SELECT count(*) FROM tlaw_run_dimensions;
RESET ROLE;
DROP ROLE tlaw_stranger;
DROP TABLE cloud, places;
