-- Scaling laws in numbers: Epoch's 240 points through SQL, plans, cancelling, speed, rights, comparison of runs.
\pset fieldsep '\n'
SELECT no_plan();
\set points `cat "${TLAW_REFERENCE:-../shared/reference}/chinchilla_epoch/points.csv" 2>/dev/null`
SELECT length(:'points') > 0 AS have_points \gset
\if :have_points
CREATE TABLE epoch AS
SELECT f[4]::float8 AS n_params, f[5]::float8 / (6 * f[4]::float8) AS n_tokens, f[5]::float8 AS flops, f[7]::float8 AS loss
  FROM (SELECT string_to_array(l, ',') FROM regexp_split_to_table(:'points', '\r?\n') WITH ORDINALITY s(l, i)
         WHERE i > 1 AND l <> '') t(f)
 WHERE f[7]::float8 < 3.4469;
SELECT is(count(*), 240::bigint, '240 points') FROM epoch;
SELECT (tlaw_chinchilla(n_params, n_tokens, loss)).* FROM epoch \gset e_
SELECT ok(:'e_converged'::boolean AND :e_objective <= 1.01827402e-3, 'tlaw_chinchilla reaches the minimum');
SELECT ok(abs(found / known - 1) < 1e-6, name || ' to 6 digits')
  FROM (VALUES ('a', :e_a, 477.8259), ('b', :e_b, 2143.4174), ('irreducible', :e_irreducible, 1.8172181),
               ('alpha', :e_alpha, 0.3473105), ('beta', :e_beta, 0.36717243)) v(name, found, known);
SELECT fit_id, converged FROM tlaw_fit('SELECT * FROM epoch', forms => '{chinchilla}', uncertainty => 'row_bootstrap',
                                       draws => 4000, seed => 9) \gset boot_
-- the published errors have a sampling error themselves (5 % for b): this seed's draws agree with all five
SELECT ok(abs(s / known - 1) < 0.03, name || ': bootstrap standard error ' || round(s::numeric, 4))
  FROM (SELECT stddev(exp(p[2])), stddev(exp(p[3])), stddev(p[1]), stddev(p[4]), stddev(p[5])
          FROM (SELECT bootstrap[5 * i + 1:5 * i + 5] AS p FROM tlaw_fits, generate_series(0, 3999) i
                 WHERE fit_id = :boot_fit_id) draws) d(a, b, e, alpha, beta),
       LATERAL (VALUES ('a', a, 124.5), ('b', b, 1293), ('irreducible', e, 0.0257), ('alpha', alpha, 0.0154),
                       ('beta', beta, 0.0206)) v(name, s, known);
SELECT ok(NOT converged AND message LIKE 'not converged%', 'the published point is flagged')
  FROM tlaw_fit('SELECT * FROM epoch', forms => '{chinchilla}', max_iterations => 0,
                start => ARRAY[1.81686, ln(482.00572), ln(2085.43420), 0.34781, 0.36585]);
SELECT ok(abs(mean_abs_error_pct - known) < 0.001, 'holdout below ' || c || ': ' || round(mean_abs_error_pct::numeric, 3))
  FROM (VALUES (1e20, 0.890), (3e20, 1.002), (1e21, 1.051)) v(c, known),
       LATERAL tlaw_holdout('SELECT * FROM epoch', forms => '{chinchilla}', train_below => c);
SELECT ok(abs(n_params / 7.397e10 - 1) < 1e-4 AND abs(tokens_per_param - 17.911) < 0.001, 'compute-optimal at 5.88e23'),
       ok(tokens_per_param_low BETWEEN 7 AND 8.2 AND tokens_per_param_high BETWEEN 34 AND 38, 'its bootstrap interval')
  FROM tlaw_compute_optimal(:boot_fit_id, 5.88e23);
\else
SELECT skip('no chinchilla_epoch/points.csv in TLAW_REFERENCE', 1);
\endif

-- a million rows, and the same bits from a parallel plan
CREATE TABLE many AS
SELECT n, d, (1.8 + 480 * power(n, -0.35::float8) + 2000 * power(d, -0.37::float8)) *
             (1 + 0.01 * (hashint8(i) / 2147483648.0)) AS loss, i % 7 AS cluster
  FROM generate_series(1, 1000000) i,
       LATERAL (SELECT exp(10 + (hashint8(i + 7000000) + 2147483648.0) / 8e8),
                       exp(15 + (hashint8(i + 9000000) + 2147483648.0) / 8e8)) s(n, d);
ANALYZE many;
CREATE FUNCTION seconds_of(query text) RETURNS float8 LANGUAGE plpgsql AS
$$DECLARE start timestamptz := clock_timestamp(); BEGIN EXECUTE query; RETURN extract(epoch FROM clock_timestamp() - start); END$$;
SET max_parallel_workers_per_gather = 0;
CREATE TABLE seconds AS SELECT seconds_of('SELECT tlaw_chinchilla(n, d, loss) FROM many') AS s;
SELECT ok(s < 20, 'a million rows in one aggregate: ' || round(s::numeric, 2) || ' s (2 on a quiet machine)') FROM seconds;
CREATE TABLE serial AS SELECT tlaw_power_law_offset(d, loss, cluster)::text AS f FROM many;
SET max_parallel_workers_per_gather = 2;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
CREATE FUNCTION plan_of(query text) RETURNS text LANGUAGE plpgsql AS
$$DECLARE line text; whole text := ''; BEGIN FOR line IN EXECUTE 'EXPLAIN ' || query LOOP whole := whole || line || E'\n'; END LOOP; RETURN whole; END$$;
SELECT ok(plan_of('SELECT tlaw_power_law_offset(d, loss, cluster) FROM many') LIKE '%Parallel Seq Scan%', 'the plan is parallel');
SELECT is((SELECT tlaw_power_law_offset(d, loss, cluster)::text FROM many), f, 'a parallel plan gives the same bits') FROM serial;
RESET max_parallel_workers_per_gather;
WITH few AS MATERIALIZED (SELECT * FROM many LIMIT 1000)
SELECT is((SELECT tlaw_power_law(d, loss ORDER BY md5(loss::text))::text FROM few),
          (SELECT tlaw_power_law(d, loss ORDER BY loss DESC)::text FROM few), 'so does any order');

-- cancelling
SET statement_timeout = '300ms';
CREATE FUNCTION cancelled_after(query text) RETURNS float8 LANGUAGE plpgsql AS
$$DECLARE start timestamptz := clock_timestamp(); BEGIN EXECUTE query; RETURN NULL;
EXCEPTION WHEN query_canceled THEN RETURN extract(epoch FROM clock_timestamp() - start); END$$;
SELECT ok(cancelled_after($$SELECT tlaw_fit('SELECT n AS n_params, d AS n_tokens, loss FROM many LIMIT 2000',
                                            forms => '{chinchilla}', uncertainty => 'row_bootstrap', draws => 100000)$$) < 8,
          'a bootstrap is cancelled at once');
RESET statement_timeout;

-- determinism of what is random
SELECT is(a.low, b.low, 'the same seed, the same interval')
  FROM (SELECT alpha_low FROM tlaw_fit('SELECT d AS x, loss FROM many LIMIT 300', uncertainty => 'row_bootstrap', draws => 200)
         WHERE form = 'power_law') a(low),
       (SELECT alpha_low FROM tlaw_fit('SELECT d AS x, loss FROM many LIMIT 300', uncertainty => 'row_bootstrap', draws => 200)
         WHERE form = 'power_law') b(low);
SELECT is(count(DISTINCT rows_sha256), 1::bigint, 'the same rows, the same hash') FROM tlaw_fits WHERE source LIKE '%LIMIT 300';

-- rights
CREATE ROLE law_reader;
CREATE ROLE law_other;
GRANT USAGE ON SCHEMA public TO law_reader, law_other;
GRANT SELECT ON many TO law_reader;
SET ROLE law_reader;
SELECT fit_id AS mine FROM tlaw_fit('SELECT d AS x, loss FROM many LIMIT 50', forms => '{power_law}') \gset
SELECT is(count(*), 1::bigint, 'one sees one''s own fits') FROM tlaw_fits;
SELECT throws_ok('SELECT * FROM tlaw_fit_record', '42501', NULL, 'not the table');
SET ROLE law_other;
SELECT is(count(*), 0::bigint, 'not those of others') FROM tlaw_fits;
SELECT throws_ok('SELECT tlaw_predict(' || :mine || ', x => 5)', '42501', NULL, 'nor their predictions');
SELECT throws_ok($$SELECT tlaw_fit('SELECT d AS x, loss FROM many')$$, '42501', NULL, 'a query runs with the caller''s rights');
RESET ROLE;

-- two runs over the same documents
CREATE TABLE words AS SELECT md5(i::text) || ' ' || md5((i / 3)::text) AS body FROM generate_series(1, 60) i;
SELECT tlaw_create_corpus('words', 'body', 'law_corpus', test_fraction => 0.3) \g /dev/null
SELECT tlaw_record_run('law_pair', test_loss => 2) AS a, tlaw_record_run('law_pair', test_loss => 2) AS b \gset
SELECT throws_ok('SELECT tlaw_compare_runs(' || :a || ', ' || :b || ')', '55000', NULL, 'recorded runs have no documents');
UPDATE tlaw_run SET corpus = 'law_corpus' WHERE run_id IN (:a, :b);
INSERT INTO tlaw_run_document_loss VALUES
    (:a, ARRAY[20, 30, 41, 9.5, 22], ARRAY[10, 15, 20, 5, 10], ARRAY[40, 60, 80, 20, 40]),
    (:b, ARRAY[21, 31, 42, 9.0, 23], ARRAY[10, 15, 20, 5, 10], ARRAY[40, 60, 80, 20, 40]);
-- by hand: sums 122.5 and 126 over 60 tokens
SELECT ok(abs(loss_a - 122.5 / 60) < 1e-12 AND abs(loss_b - 126.0 / 60) < 1e-12, 'losses per token'),
       ok(abs(difference + 3.5 / 60) < 1e-12, 'their difference'),
       ok(abs(se - sqrt(5 / 4.0 * ((-1 + 3.5 / 6) ^ 2 + (-1 + 3.5 / 4) ^ 2 + (-1 + 3.5 / 3) ^ 2 + (0.5 + 3.5 / 12) ^ 2 +
                                   (-1 + 3.5 / 6) ^ 2)) / 60) < 1e-12, 'its standard error'),
       ok(low < difference AND high > difference AND p BETWEEN 0 AND 1, 'interval and p'), is(a_better, 0.8::float8, 'share of documents')
  FROM tlaw_compare_runs(:a, :b);
SELECT * FROM finish();
