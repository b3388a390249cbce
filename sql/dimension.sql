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
SELECT round(dimension::numeric, 1) AS d, dimension_low < dimension AND dimension < dimension_high AS inside, n, k, metric,
       estimator, duplicates, ties, zero_distances, message ~ '^read .* before calibration$' AS read
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
CREATE ROLE tlaw_stranger;
SET ROLE tlaw_stranger;
SELECT count(*) FROM tlaw_dimension('cloud', 'x');
SELECT tlaw_intrinsic_dimension(ARRAY[1.0]::real[]);
SELECT count(*) FROM tlaw_run_dimensions;
RESET ROLE;
DROP ROLE tlaw_stranger;
DROP TABLE cloud;
