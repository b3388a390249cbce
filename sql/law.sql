-- Scaling laws: the fits as aggregates, fits as rows, what fits are used for, the theory.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS tlaw;
RESET client_min_messages;

-- losses of known laws, with a ripple where intervals are wanted
CREATE TEMP TABLE points AS
SELECT k, x, 3 * power(x, -0.2::float8) * (1 + noise) AS line, (1.5 + 6 * power(x, -0.3::float8)) * (1 + noise) AS bent
  FROM generate_series(1, 10) i, generate_series(1, 4) k,
       LATERAL (SELECT 1e4 * power(2::float8, i), 0.002 * (hashint8(100 * i + k) / 2147483648.0)) s(x, noise);
CREATE TEMP TABLE surface AS
SELECT n AS n_params, d AS n_tokens, d / 4 AS unique_tokens, 6 * n * d AS flops,
       (1.8 + 400 * power(n, -0.34::float8) + 900 * power(d, -0.3::float8)) * (1 + 0.001 * sin(n + 7 * d)) AS loss
  FROM generate_series(0, 6) i, generate_series(0, 6) j,
       LATERAL (SELECT 1e6 * power(3::float8, i), 1e8 * power(3::float8, j)) s(n, d);

-- one row a form; NULL where the form has no such parameter
SELECT (f).form, round((f).alpha::numeric, 2) AS alpha, round((f).a::numeric, 1) AS a,
       (f).irreducible IS NULL AS no_irreducible, (f).beta IS NULL AS no_beta, (f).n, (f).converged,
       (f).alpha_low < 0.2 AND (f).alpha_high > 0.2 AS covers, (f).curvature_p > 0.05 AS straight
  FROM (SELECT tlaw_power_law(x, line, k) FROM points) s(f);
SELECT (f).form, round((f).alpha::numeric, 2) AS alpha, round((f).irreducible::numeric, 2) AS irreducible,
       (f).alpha_low < 0.3 AND (f).alpha_high > 0.3 AS covers, (f).irreducible_p < 0.001 AS e_is_there, (f).message
  FROM (SELECT tlaw_power_law_offset(x, bent, k) FROM points) s(f);
SELECT (f).form, round((f).alpha::numeric, 2) AS alpha, round((f).beta::numeric, 2) AS beta,
       round((f).irreducible::numeric, 2) AS irreducible, (f).converged, cardinality((f).parameters) AS parameters
  FROM (SELECT tlaw_chinchilla(n_params, n_tokens, loss) FROM surface
        UNION ALL SELECT tlaw_kaplan(n_params, n_tokens, loss) FROM surface) s(f);
SELECT (f).form, (f).converged, (f).alpha IS NULL AS no_alpha, cardinality((f).parameters) AS parameters
  FROM (SELECT tlaw_farseer(n_params, n_tokens, loss) FROM surface) s(f);
SELECT (tlaw_saturating(x, 1.4 + 5 / (power(x, 0.5::float8) + 80) * 60, k)).converged FROM points;

-- groups, windows, NULLs left out
SELECT k, round((tlaw_power_law(x, line)).alpha::numeric, 2) AS alpha FROM points GROUP BY k ORDER BY k;
SELECT x, round((tlaw_power_law(x, line) OVER (ORDER BY x ROWS 3 PRECEDING)).alpha::numeric, 2) AS alpha
  FROM points WHERE k = 1 ORDER BY x;
SELECT (tlaw_power_law(x, CASE WHEN k > 1 THEN line END)).n FROM points;

-- what cannot be identified is NULL, with the reason
SELECT (tlaw_power_law(x, 3)).message FROM points;
SELECT (tlaw_power_law(x, line)).message FROM (SELECT * FROM points LIMIT 2) s;
SELECT (tlaw_chinchilla(1e6, n_tokens, loss)).message FROM surface;
-- unique tokens that are enough, so that no repetition is discounted
SELECT (f).form, abs((f).alpha - 0.34) < 0.02 AS alpha, abs((f).beta - 0.3) < 0.02 AS beta, (f).n, (f).converged
  FROM (SELECT tlaw_data_constrained(n_params, n_tokens, n_tokens, loss) AS f FROM surface) s;
SELECT tlaw_data_constrained(n_params, n_tokens, -1, loss) FROM surface;
SELECT (tlaw_power_law(x, line, 1)).alpha_low, (tlaw_power_law(x, line, 1)).message FROM points;
SELECT (tlaw_power_law(x, line)).n, (tlaw_power_law(x, line)).message FROM points WHERE false;
SELECT tlaw_power_law(x, -line) FROM points;
SELECT tlaw_power_law(x, 'NaN') FROM points;
SELECT tlaw_saturating('Infinity', line) FROM points;
SELECT tlaw_chinchilla(n_params, 0, loss) FROM surface;

-- fits as rows
SELECT form, round(alpha::numeric, 2) AS alpha, n, converged, alpha_dropped IS NOT NULL AS dropped,
       split_part(message, ' (p =', 1) AS message
  FROM tlaw_fit('SELECT x, bent AS loss, k AS cluster FROM points');
SELECT round(alpha::numeric, 2) AS alpha, round(beta::numeric, 2) AS beta, converged
  FROM tlaw_fit('SELECT * FROM surface', forms => '{chinchilla}', uncertainty => 'row_bootstrap', draws => 200);
SELECT beta_low < beta AND beta < beta_high AS beta, irreducible_low < irreducible AND irreducible < irreducible_high AS irreducible
  FROM tlaw_fit('SELECT * FROM surface', forms => '{chinchilla}');
SELECT n, message FROM tlaw_fit('SELECT x, CASE WHEN x > 2e4 THEN line END AS loss FROM points', forms => '{power_law}');
SELECT converged, message LIKE 'not converged%' AS says_so
  FROM tlaw_fit('SELECT * FROM surface', forms => '{chinchilla}', start => ARRAY[1.8, 6, 6.8, 0.34, 0.29],
                max_iterations => 0);
SELECT form, x, y, cluster, loss, uncertainty, cardinality(bootstrap) AS draws_kept, starts_reached > 0 AS reached,
       length(rows_sha256) AS hash, analysis
  FROM tlaw_fits ORDER BY fit_id;
SELECT count(*) FROM tlaw_fit('SELECT x, bent AS loss, k % 2 AS device FROM points', forms => '{power_law}');
-- so does what the law knows nothing of
SELECT count(*) FROM tlaw_fit('SELECT x AS train_tokens, bent AS loss, k % 2 AS corpus, k AS n_params FROM points');
SELECT count(*) FROM tlaw_fit('SELECT x AS n_params, bent AS loss, k AS train_tokens FROM points', x => 'n_params');
-- every column that is asked for is named by its argument
\set VERBOSITY default
SELECT tlaw_fit('SELECT x, bent AS loss FROM points', x => 'tokens');
SELECT tlaw_fit('SELECT x, bent AS loss, ''a''::text AS size FROM points', x => 'size');
SELECT tlaw_fit('SELECT x, bent AS loss FROM points', y => 'test_loss');
SELECT tlaw_fit('SELECT x, bent AS loss FROM points', cluster => 'seed');
SELECT tlaw_fit('SELECT x, bent AS loss FROM points', forms => '{chinchilla}');
SELECT tlaw_holdout('SELECT x, bent AS loss, ''a''::text AS flops FROM points');
\set VERBOSITY terse
SELECT tlaw_fit('SELECT 1 AS a');
SELECT tlaw_fit('no_such_study');
SELECT tlaw_fit('DELETE FROM points');
SELECT tlaw_fit('SELECT * FROM surface', forms => '{chinchila}');
SELECT tlaw_fit('SELECT * FROM surface', loss => 'absolute');
SELECT tlaw_fit('SELECT * FROM surface', forms => '{chinchilla}', uncertainty => 'cluster_bootstrap');

-- use
SELECT max(fit_id) AS fit FROM tlaw_fits WHERE form = 'chinchilla' AND converged \gset
SELECT round(loss::numeric, 2) AS loss, low < loss AND loss < high AND run_low < low AND high < run_high AS nested
  FROM tlaw_predict(:fit, 1e8, 1e10);
-- beyond the runs: in a variable, or in their product; far beyond is said once a call
SELECT smallest, largest FROM tlaw_fits WHERE fit_id = :fit;
SELECT p.n_params, p.n_tokens, round(extrapolation::numeric, 3) AS extrapolation
  FROM (VALUES (1e7, 1e10), (2e9, 1e9), (5e8, 5e10), (1e5, 1e10), (1e12, 1e10), (1e13, 1e10)) p(n_params, n_tokens), tlaw_predict(:fit, p.n_params, p.n_tokens);
SELECT round(extrapolation::numeric, 2) AS extrapolation FROM tlaw_compute_optimal(:fit, 6e21);
SELECT abs(n_params * n_tokens * 6 / 1e20 - 1) < 1e-9 AS on_budget, n_params_low < n_params AND n_params < n_params_high AS ok
  FROM tlaw_compute_optimal(:fit, 1e20);
SELECT fit_id AS growing FROM tlaw_fit('SELECT * FROM surface', forms => '{chinchilla}',
                                       start => ARRAY[1.8, 6, 6.8, -0.34, 0.29], max_iterations => 0) \gset
SELECT n_params IS NULL AS none FROM tlaw_compute_optimal(:growing, 1e20);
SELECT rank, candidate_n_params, se_ratio < 1 AS helps
  FROM tlaw_next_run(:fit, 'SELECT n AS n_params, 20 * n AS n_tokens FROM unnest(ARRAY[1e6, 1e9]) n', 1e10, 1e12);
SELECT tlaw_next_run(:fit, 'law_frozen', 1e10, 1e12);
-- a fit that has not converged says so once a call
SELECT loss > 0 AS loss, run_low IS NULL AS no_interval FROM unnest(ARRAY[1e8, 1e9]) n, tlaw_predict(:growing, n, 1e10);
SELECT outside FROM tlaw_check_runs(:fit, 'SELECT 1e8 AS n_params, 1e10 AS n_tokens, l AS loss FROM unnest(ARRAY[3.457, 9]) l');
SELECT count(*) FROM tlaw_joint_region(:fit, points => 32);
SELECT tlaw_joint_region(:fit, 'alpha', 'alpha');
SELECT tlaw_predict(:fit, 1e8);
SELECT form, n_train, n_test, mean_abs_error_pct < 1 AS close, converged
  FROM tlaw_holdout('SELECT * FROM surface', forms => '{chinchilla,kaplan}');
SELECT form FROM tlaw_holdout('SELECT * FROM surface') ORDER BY form;
SELECT n_test, mean_abs_error_pct, message
  FROM tlaw_holdout('SELECT * FROM surface', forms => '{chinchilla}', train_below => 1e300);
-- rows of equal FLOPs have no largest; by x they do
SELECT n_train, n_test, cutoff, message
  FROM tlaw_holdout('SELECT x, bent AS loss, 1e15 AS flops FROM points', forms => '{power_law_offset}');
SELECT form, n_train, n_test, cutoff = 1e4 * 2 ^ 9 AS cutoff, mean_abs_error_pct < 1 AS close, inside > 0.8 AS inside
  FROM tlaw_holdout('SELECT x, bent AS loss, 1e15 AS flops FROM points', x => 'x', forms => '{power_law_offset}');
-- a budget is one budget, whatever rounding makes of its FLOPs
SELECT n_train, n_test
  FROM tlaw_holdout('SELECT n AS n_params, c / n / 6 AS n_tokens, 6 * n * (c / n / 6) * (1 + 0.01 * sin(n)) AS flops, 2 + 500 * n ^ -0.4 + 900 * (c / n / 6) ^ -0.35 AS loss
                       FROM generate_series(0, 8) i, generate_series(0, 8) k, LATERAL (SELECT 1e16 * 2 ^ i, 1e6 * 1.7 ^ (k + i * 0.7)) s(c, n)',
                    forms => '{chinchilla}');
SELECT n_train, n_test, cutoff, inside IS NULL AS no_interval
  FROM tlaw_holdout('SELECT x, bent AS loss FROM points', x => 'x', forms => '{power_law_offset}', train_below => 3e4);
SELECT choice, count(*) FROM tlaw_sensitivity('SELECT * FROM surface', 'chinchilla') GROUP BY choice ORDER BY choice;
SELECT approach, name, round(exponent::numeric, 1) AS exponent FROM tlaw_isoflop('SELECT * FROM surface');
-- replicates of two sizes at each budget have no parabola
SELECT exponent, low, high, points, message
  FROM tlaw_isoflop('SELECT n AS n_params, round(f / n) AS n_tokens, 3 + 0.01 * sin(k + n / 1e3 + f / 1e9) AS loss
                       FROM unnest(ARRAY[10008.0, 21552]) n, unnest(ARRAY[1e9, 2e9, 4e9, 8e9]) f, generate_series(1, 3) k')
 WHERE approach = 2;
SELECT round(alpha_se::numeric, 3) AS alpha_se, df
  FROM tlaw_power(ARRAY(SELECT 1e5 * power(10::float8, i * 2 / 9.0) FROM generate_series(0, 9) i), 2, 0.01, 0.17, 0.5);
SELECT tlaw_power(ARRAY[1e5, 1e5], 2, 0.01, 0.17);
-- however many sizes, it can be cancelled
SET statement_timeout = '200ms';
DO $$
DECLARE
    began timestamptz := clock_timestamp();
BEGIN
    PERFORM tlaw_power(ARRAY(SELECT 1e5 + i FROM generate_series(1, 300000) i), 2, 0.01, 0.17);
EXCEPTION WHEN query_canceled THEN
    RAISE NOTICE 'cancelled, at once: %', clock_timestamp() - began < interval '10 s';
END $$;
RESET statement_timeout;

-- a study with a blank in its name, of recorded runs that say only their train_tokens
SELECT count(tlaw_record_run('law surface', n_params => n_params, train_tokens => n_tokens, test_loss => loss)) FROM surface;
SELECT form, n, converged, abs(alpha - 0.34) < 0.02 AS alpha, abs(beta - 0.3) < 0.02 AS beta
  FROM tlaw_fit('law surface', forms => '{chinchilla}');

BEGIN;
UPDATE tlaw_run SET status = 'cancelled'
 WHERE run_id IN (SELECT run_id FROM tlaw_runs WHERE study = 'law surface' ORDER BY run_id LIMIT 3);
SELECT n, message FROM tlaw_fit('law surface', forms => '{chinchilla}');
ROLLBACK;

-- theory
SELECT round(alpha_data::numeric, 4) AS alpha_data, alpha_params, alpha_params_sharma_kaplan FROM tlaw_theory(10);
SELECT tlaw_theory(0);
SELECT tlaw_create_study('law_frozen', smoothness => 1);
SELECT tlaw_create_study('law_frozen');
SELECT tlaw_create_study('law_other', metric => 'hamming');
SELECT tlaw_create_study('law_other', law => 'chinchila');
SELECT tlaw_create_study('law_other', x => 'tokens');
SELECT tlaw_create_study('law_other', y => 'status');
SELECT tlaw_create_study('law_other', run => 0);
SELECT count(tlaw_record_run('law_frozen', n_params => 1e6, n_layer => 2, train_tokens => x, test_loss => bent,
                             subset_seed => k)) FROM points;
SELECT tlaw_create_study('law_frozen');
SELECT form, converged FROM tlaw_fit('law_frozen');
SELECT form, analysis FROM tlaw_fits WHERE study = 'law_frozen' ORDER BY fit_id;
SELECT study, law, estimator, metric, layer, tolerance FROM tlaw_study_plans;
SELECT * FROM tlaw_theory_test('law_frozen');
INSERT INTO tlaw_run_dimension_record (run_id, layer, protocol, exclude_document, untrained, metric, estimator, dimension,
                                       dimension_low, dimension_high)
SELECT run_id, layer, protocol, protocol = 'pooled', false, metric, estimator, d, 0.98 * d, 1.02 * d
  FROM (SELECT max(run_id) AS run_id FROM tlaw_runs WHERE study = 'law_frozen') r,
       (VALUES (1, 'pooled', 'euclidean', 'calibrated', 3), (2, 'pooled', 'euclidean', 'calibrated', 10),
               (2, 'pooled', 'cosine', 'calibrated', 2), (2, 'batches', 'euclidean', 'levina_bickel', 8))
           v(layer, protocol, metric, estimator, d);
SELECT analysis, form, dimension_metric, dimension_estimator, assumed_dimension AS d, round(predicted::numeric, 3) AS predicted,
       verdict
  FROM tlaw_theory_test('law_frozen');
-- a dimension without a plateau: an interval that holds it is carried, another decides nothing
BEGIN;
UPDATE tlaw_run_dimension_record SET plateau = false, dimension_high = 2 * dimension WHERE metric = 'euclidean';
SELECT form, dimension_metric, dimension_estimator, plateau, assumed_dimension AS d, round(predicted_low::numeric, 3) AS predicted_low,
       round(predicted_high::numeric, 3) AS predicted_high, verdict, regexp_replace(message, '; .*', '') AS message
  FROM tlaw_theory_test('law_frozen') WHERE form = 'power_law_offset';
ROLLBACK;
SELECT analysis, verdict, smoothness_low < smoothness_high AS reconciled
  FROM tlaw_theory_test('law_frozen', 10, 0.1) WHERE form = 'power_law_offset';
SELECT analysis, verdict, message FROM tlaw_theory_test('law_frozen', 4.7, 2) WHERE form = 'power_law_offset';
SELECT tlaw_theory_test('law_frozen', 5);
-- a line of real losses says nothing of the excess risk unless they fall to 0; nor does a form that the rows do not follow
SELECT form, verdict FROM tlaw_theory_test('SELECT x, power(line, 0.1) AS loss FROM points', 4, 0.1);
SELECT form, verdict, message LIKE '%the rows bend as power_law_offset does not%' AS said
  FROM tlaw_theory_test('SELECT x, bent * (1 + 0.1 * exp(-power(ln(x / 1e5), 2))) AS loss FROM points', 4, 0.1) WHERE form = 'power_law_offset';
-- replicates refuse a form that no bend does: their sizes' means leave it by more than they leave each other
SELECT form, curvature_p > 0.05 AS straight, lack_of_fit_p < 1e-6 AS refused, regexp_replace(message, '=.*', '') AS message
  FROM tlaw_fit('SELECT 1e4 * 4 ^ i AS x, k AS cluster, (1.7 + 2 ^ -i) * (1 + 0.02 * (-1) ^ i + 0.002 * sin(17 * i + 5 * k)) AS loss
                   FROM generate_series(0, 6) i, generate_series(1, 3) k', forms => '{power_law_offset}');
SELECT form, verdict
  FROM tlaw_theory_test('SELECT 1e4 * 4 ^ i AS x, k AS cluster, (1.7 + 2 ^ -i) * (1 + 0.02 * (-1) ^ i + 0.002 * sin(17 * i + 5 * k)) AS loss
                           FROM generate_series(0, 6) i, generate_series(1, 3) k', 20, 0.1) WHERE form = 'power_law_offset';
