-- Scaling laws: fits as aggregates.

CREATE TYPE @extschema@.tlaw_law AS (
    form text,
    alpha float8, alpha_se float8, alpha_low float8, alpha_high float8,
    beta float8, beta_se float8, beta_low float8, beta_high float8,
    a float8, a_se float8, a_low float8, a_high float8,
    b float8, b_se float8, b_low float8, b_high float8,
    irreducible float8, irreducible_se float8, irreducible_low float8, irreducible_high float8,
    n int8, objective float8, converged boolean, gradient_norm float8,
    irreducible_p float8,   -- of irreducible = 0
    curvature_p float8,     -- of no quadratic term in the logarithms that the form lacks
    lack_of_fit_p float8,   -- of means of replicates lying on the law
    parameters float8[],    -- all, in the form's order, logarithms of prefactors
    message text
);
COMMENT ON TYPE @extschema@.tlaw_law IS
    'a fitted scaling law: parameters with standard errors and 95 % intervals, certificate; NULL where the form or the rows have none, message says why';

CREATE FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_law_accumulate_1' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8) IS 'transition function of the fits';
CREATE FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, int8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_law_accumulate_1' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, int8) IS
    'transition function of the fits';
CREATE FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_law_accumulate_2' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8) IS
    'transition function of the fits';
CREATE FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, int8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_law_accumulate_2' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, int8) IS
    'transition function of the fits';
CREATE FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, float8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_law_accumulate_3' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, float8) IS
    'transition function of the fits';
CREATE FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, float8, int8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_law_accumulate_3' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, float8, int8) IS
    'transition function of the fits';

CREATE FUNCTION @extschema@.tlaw_law_final_power_law(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_power_law' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_power_law IS 'final function of tlaw_power_law';
CREATE AGGREGATE @extschema@.tlaw_power_law(x float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_power_law, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_power_law(float8, float8) IS
    'a line in log-log, loss = a x^-alpha: alpha is an apparent slope, too small where an irreducible loss hides in it';
CREATE AGGREGATE @extschema@.tlaw_power_law(x float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_power_law, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_power_law(float8, float8, int8) IS
    'a line in log-log, loss = a x^-alpha: alpha is an apparent slope, too small where an irreducible loss hides in it; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_power_law_offset(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_power_law_offset' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_power_law_offset IS 'final function of tlaw_power_law_offset';
CREATE AGGREGATE @extschema@.tlaw_power_law_offset(x float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_power_law_offset, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_power_law_offset(float8, float8) IS
    'loss = irreducible + a x^-alpha; irreducible_p tests irreducible = 0';
CREATE AGGREGATE @extschema@.tlaw_power_law_offset(x float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_power_law_offset, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_power_law_offset(float8, float8, int8) IS
    'loss = irreducible + a x^-alpha; irreducible_p tests irreducible = 0; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_saturating(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_saturating' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_saturating IS 'final function of tlaw_saturating';
CREATE AGGREGATE @extschema@.tlaw_saturating(x float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_saturating, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_saturating(float8, float8) IS
    'loss = irreducible + a / (x^alpha + b): a plateau before the power law';
CREATE AGGREGATE @extschema@.tlaw_saturating(x float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_saturating, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_saturating(float8, float8, int8) IS
    'loss = irreducible + a / (x^alpha + b): a plateau before the power law; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_chinchilla(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_chinchilla' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_chinchilla IS 'final function of tlaw_chinchilla';
CREATE AGGREGATE @extschema@.tlaw_chinchilla(n_params float8, n_tokens float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_chinchilla, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_chinchilla(float8, float8, float8) IS
    'loss = irreducible + a n_params^-alpha + b n_tokens^-beta, Huber loss (1e-3) on log residuals';
CREATE AGGREGATE @extschema@.tlaw_chinchilla(n_params float8, n_tokens float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_chinchilla, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_chinchilla(float8, float8, float8, int8) IS
    'loss = irreducible + a n_params^-alpha + b n_tokens^-beta, Huber loss (1e-3) on log residuals; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_kaplan(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_kaplan' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_kaplan IS 'final function of tlaw_kaplan';
CREATE AGGREGATE @extschema@.tlaw_kaplan(n_params float8, n_tokens float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_kaplan, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_kaplan(float8, float8, float8) IS
    'loss = ((a / n_params)^(alpha / beta) + b / n_tokens)^beta';
CREATE AGGREGATE @extschema@.tlaw_kaplan(n_params float8, n_tokens float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_kaplan, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_kaplan(float8, float8, float8, int8) IS
    'loss = ((a / n_params)^(alpha / beta) + b / n_tokens)^beta; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_farseer(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_farseer' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_farseer IS 'final function of tlaw_farseer';
CREATE AGGREGATE @extschema@.tlaw_farseer(n_params float8, n_tokens float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_farseer, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_farseer(float8, float8, float8) IS
    'loss = exp(s N^q + S) + exp(B N^b + Q) D^-exp(A N^a + E); parameters in the order s, q, S, B, b, Q, A, a, E';
CREATE AGGREGATE @extschema@.tlaw_farseer(n_params float8, n_tokens float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_farseer, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_farseer(float8, float8, float8, int8) IS
    'loss = exp(s N^q + S) + exp(B N^b + Q) D^-exp(A N^a + E); parameters in the order s, q, S, B, b, Q, A, a, E; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_data_constrained(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_data_constrained' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_data_constrained IS 'final function of tlaw_data_constrained';
CREATE AGGREGATE @extschema@.tlaw_data_constrained(n_params float8, n_tokens float8, unique_tokens float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_data_constrained, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_data_constrained(float8, float8, float8, float8) IS
    'Chinchilla in effective parameters and tokens of repeated data (Muennighoff et al.); parameters end with ln R_D*, ln R_N*';
CREATE AGGREGATE @extschema@.tlaw_data_constrained(n_params float8, n_tokens float8, unique_tokens float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal,
    FINALFUNC = @extschema@.tlaw_law_final_data_constrained, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_data_constrained(float8, float8, float8, float8, int8) IS
    'Chinchilla in effective parameters and tokens of repeated data (Muennighoff et al.); parameters end with ln R_D*, ln R_N*; rows of one cluster are not independent';

-- ---- fits as rows ----

CREATE TABLE @extschema@.tlaw_study_plan (
    study text PRIMARY KEY,
    form text NOT NULL, x text NOT NULL, y text NOT NULL,   -- the primary fit
    estimator text NOT NULL, metric text NOT NULL, layer int NOT NULL, run_id int8,   -- the primary dimension
    smoothness float8 NOT NULL, level float8 NOT NULL, tolerance float8 NOT NULL,
    frozen_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE @extschema@.tlaw_study_plan IS
    'the primary analysis of a study, frozen before its runs; read the view tlaw_study_plans';

CREATE TABLE @extschema@.tlaw_fit_record (
    fit_id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner name NOT NULL,
    study text, source text NOT NULL,                   -- as given: a study or a query
    form text NOT NULL, x text, y text NOT NULL,
    loss text NOT NULL, delta float8, weights text NOT NULL, cluster text NOT NULL,
    uncertainty text NOT NULL, level float8 NOT NULL, draws int8 NOT NULL, seed int8 NOT NULL,
    start float8[], max_iterations int8,                -- where given
    n int8 NOT NULL, clusters int8 NOT NULL, rows_sha256 bytea NOT NULL,
    smallest float8[] NOT NULL, largest float8[] NOT NULL,  -- of each variable, then of n_params * n_tokens
    params text[] NOT NULL,                             -- names; ln_...: the logarithm is stored
    parameters float8[], se float8[], low float8[], high float8[],
    covariance float8[],                                -- row by row
    df float8, noise float8,                            -- of Student's t; standard deviation of log residuals
    converged boolean NOT NULL, at_bound boolean NOT NULL,
    objective float8, gradient_norm float8, relative_offset float8, iterations int8 NOT NULL,
    starts int8 NOT NULL, starts_reached int8 NOT NULL, -- how many starts, how many reached the minimum
    second_objective float8, second_distance float8,    -- next basin, and how far it is in standard errors
    irreducible_p float8, curvature_p float8, lack_of_fit_p float8,
    alpha_dropped float8, beta_dropped float8,          -- without the smallest size of the first, second variable
    bootstrap float8[],                                 -- draws, parameters of one after those of the other
    analysis text NOT NULL CHECK (analysis IN ('primary', 'exploratory')),
    message text, code_version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE @extschema@.tlaw_fit_record IS 'fits, a row each; read the view tlaw_fits';

CREATE VIEW @extschema@.tlaw_fits WITH (security_barrier) AS
SELECT f.fit_id, f.study, f.source, f.form, f.x, f.y, f.n, f.clusters, f.cluster, f.smallest, f.largest, f.loss, f.delta, f.weights,
       f.params, f.parameters, f.se, f.low, f.high, f.level, f.uncertainty, f.covariance, f.df, f.noise,
       f.converged, f.at_bound, f.objective, f.gradient_norm, f.relative_offset, f.iterations, f.starts,
       f.starts_reached, f.second_objective, f.second_distance, f.irreducible_p, f.curvature_p, f.lack_of_fit_p, f.alpha_dropped,
       f.beta_dropped, f.draws, f.seed, f.start, f.max_iterations, f.bootstrap, pg_catalog.encode(f.rows_sha256, 'hex') AS rows_sha256,
       f.analysis, f.message, f.code_version, f.owner, f.created_at
  FROM @extschema@.tlaw_fit_record f LEFT JOIN pg_catalog.pg_roles r ON r.rolname = f.owner
 WHERE pg_catalog.pg_has_role(COALESCE(r.oid, 10), 'USAGE');
COMMENT ON VIEW @extschema@.tlaw_fits IS
    'the fits of your roles: parameters, intervals, covariance, certificate, settings, hash of the rows';
GRANT SELECT ON @extschema@.tlaw_fits TO PUBLIC;

CREATE FUNCTION @extschema@.tlaw_fit(source text, x text DEFAULT NULL, forms text[] DEFAULT NULL,
    loss text DEFAULT NULL, delta float8 DEFAULT 1e-3, uncertainty text DEFAULT 'profile', y text DEFAULT NULL,
    cluster text DEFAULT NULL, weights text DEFAULT 'equal', draws float8 DEFAULT 1000, seed float8 DEFAULT 0,
    level float8 DEFAULT 0.95, start float8[] DEFAULT NULL, max_iterations float8 DEFAULT NULL)
    RETURNS TABLE (fit_id int8, form text, alpha float8, alpha_low float8, alpha_high float8,
                   beta float8, beta_low float8, beta_high float8, irreducible float8, irreducible_low float8,
                   irreducible_high float8, n int8, converged boolean, alpha_dropped float8, curvature_p float8,
                   lack_of_fit_p float8, message text)
    AS 'MODULE_PATHNAME', 'tlaw_fit' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_fit IS
    'fits forms of scaling laws to a study''s finished runs (n_tokens: tokens_seen, else train_tokens) or a query''s rows; one row a form, the rest in tlaw_fits; uncertainty: profile (the variance may differ between rows and clusters), delta (independent rows, one variance), row_bootstrap, cluster_bootstrap; cluster: the column whose equal values are not independent, by default subset_seed where there is one (''none'': all rows are). alpha_low, alpha_high, ...: intervals at the level (0.95); n: rows fitted, message says how many were left out; alpha_dropped: alpha without the smallest size; curvature_p: of no quadratic term in the logarithms that the form lacks; lack_of_fit_p: of replicates'' means lying on the law (NULL without replicates that differ, or with Huber''s loss); converged: a minimum was reached; what the rows do not identify is NULL all the same';

CREATE FUNCTION @extschema@.tlaw_drop_fit(fit int8) RETURNS void
    AS 'MODULE_PATHNAME', 'tlaw_drop_fit' LANGUAGE c VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_drop_fit IS 'drops a fit that tlaw_fit kept';

CREATE FUNCTION @extschema@.tlaw_predict(fit int8, n_params float8 DEFAULT NULL, n_tokens float8 DEFAULT NULL,
    unique_tokens float8 DEFAULT NULL, x float8 DEFAULT NULL, OUT loss float8, OUT loss_se float8, OUT low float8,
    OUT high float8, OUT run_low float8, OUT run_high float8, OUT extrapolation float8)
    AS 'MODULE_PATHNAME', 'tlaw_predict' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_predict IS
    'loss that a fit predicts; low, high: interval of the law (delta method), run_low, run_high: of one new run; extrapolation: how many times beyond the fitted runs this is, above or below, in n_params, n_tokens or n_params * n_tokens, whichever is most; 1: within them';

CREATE FUNCTION @extschema@.tlaw_compute_optimal(fit int8, flops float8, OUT n_params float8,
    OUT n_params_low float8, OUT n_params_high float8, OUT n_tokens float8, OUT n_tokens_low float8,
    OUT n_tokens_high float8, OUT tokens_per_param float8, OUT tokens_per_param_low float8,
    OUT tokens_per_param_high float8, OUT loss float8, OUT loss_low float8, OUT loss_high float8, OUT extrapolation float8)
    AS 'MODULE_PATHNAME', 'tlaw_compute_optimal' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_compute_optimal IS
    'the n_params and n_tokens of least loss for 6 n_params n_tokens = flops; intervals from the fit''s bootstrap draws, else by the delta method; extrapolation: as of tlaw_predict, a notice says so above 10';

CREATE FUNCTION @extschema@.tlaw_joint_region(fit int8, first text DEFAULT 'a', second text DEFAULT 'alpha',
    points float8 DEFAULT 64) RETURNS TABLE (first_value float8, second_value float8)
    AS 'MODULE_PATHNAME', 'tlaw_joint_region' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_joint_region IS
    'boundary of the joint confidence region of two parameters of a fit, point by point; none where there is no covariance';

CREATE FUNCTION @extschema@.tlaw_next_run(fit int8, candidates text, n_params float8 DEFAULT NULL,
    n_tokens float8 DEFAULT NULL, unique_tokens float8 DEFAULT NULL, x float8 DEFAULT NULL)
    RETURNS TABLE (rank int8, candidate_n_params float8, candidate_n_tokens float8, candidate_x float8, flops float8,
                   se_ratio float8, gain_per_flop float8)
    AS 'MODULE_PATHNAME', 'tlaw_next_run' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_next_run IS
    'candidate runs (rows of a query) ranked by how much each lowers the variance of the prediction at the target, per FLOP; se_ratio: its standard error afterwards over now';

CREATE FUNCTION @extschema@.tlaw_check_runs(fit int8, source text)
    RETURNS TABLE (run_id int8, n_params float8, n_tokens float8, x float8, loss float8, predicted float8,
                   run_low float8, run_high float8, outside boolean)
    AS 'MODULE_PATHNAME', 'tlaw_check_runs' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_check_runs IS
    'results of a study or a query against a fit''s predictive interval; outside: something changed, or the law does not hold there';

CREATE FUNCTION @extschema@.tlaw_power(sizes float8[], replicates float8, noise float8, alpha float8,
    irreducible_share float8 DEFAULT NULL, subset_noise float8 DEFAULT 0, level float8 DEFAULT 0.95,
    OUT alpha_se float8, OUT df float8, OUT half_width float8)
    AS 'MODULE_PATHNAME', 'tlaw_power' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_power IS
    'standard error of alpha that a planned study will give: noise and subset_noise are standard deviations of ln loss, irreducible_share of the loss at the largest size (NULL: a power law is fitted)';

CREATE FUNCTION @extschema@.tlaw_holdout(source text, x text DEFAULT NULL, forms text[] DEFAULT NULL,
    loss text DEFAULT NULL, delta float8 DEFAULT 1e-3, y text DEFAULT NULL, cluster text DEFAULT NULL,
    largest float8 DEFAULT 0.2, train_below float8 DEFAULT NULL, level float8 DEFAULT 0.95)
    RETURNS TABLE (form text, n_train int8, n_test int8, cutoff float8, mean_abs_error_pct float8,
                   bias_pct float8, inside float8, converged boolean, message text)
    AS 'MODULE_PATHNAME', 'tlaw_holdout' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_holdout IS
    'fits forms (NULL: all whose variables the rows have) without the largest share of the rows (by x where it is given, else by FLOPs; what is within 5 % is one budget and not cut in two; cutoff, or train_below: from there on they are held out) and says how well each predicts them; bias_pct: above 0 where the law predicts too high a loss; inside: share within the interval for one new run (level), NULL where the fit has none';

CREATE FUNCTION @extschema@.tlaw_sensitivity(source text, form text DEFAULT 'power_law_offset', x text DEFAULT NULL,
    loss text DEFAULT NULL, delta float8 DEFAULT 1e-3, y text DEFAULT NULL, cluster text DEFAULT NULL,
    level float8 DEFAULT 0.95)
    RETURNS TABLE (choice text, setting text, alpha float8, alpha_low float8, alpha_high float8, beta float8,
                   irreducible float8, n int8, converged boolean, message text)
    AS 'MODULE_PATHNAME', 'tlaw_sensitivity' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_sensitivity IS
    'one fit again under other losses and deltas, outlier rules, sizes left out, definitions of n_params, checkpoint rules';

CREATE FUNCTION @extschema@.tlaw_isoflop(source text, y text DEFAULT NULL, level float8 DEFAULT 0.95)
    RETURNS TABLE (approach int, name text, exponent float8, low float8, high float8, bias float8, points int,
                   message text)
    AS 'MODULE_PATHNAME', 'tlaw_isoflop' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_isoflop IS
    'exponent of the compute-optimal n_params in FLOPs by three approaches; bias: what the approach adds on this grid without any noise, if the surface holds';

CREATE FUNCTION @extschema@.tlaw_compare_runs(run_a int8, run_b int8, level float8 DEFAULT 0.95, OUT documents int8,
    OUT loss_a float8, OUT loss_b float8, OUT difference float8, OUT se float8, OUT low float8, OUT high float8,
    OUT p float8, OUT a_better float8)
    AS 'MODULE_PATHNAME', 'tlaw_compare_runs' LANGUAGE c STABLE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_compare_runs IS
    'paired comparison of two runs over the same test documents: loss per token, their difference with its interval; a_better: share of the documents';

-- ---- theory ----

CREATE FUNCTION @extschema@.tlaw_theory(dimension float8, smoothness float8 DEFAULT 1, OUT alpha_data float8,
    OUT alpha_params float8, OUT alpha_params_sharma_kaplan float8)
    AS 'MODULE_PATHNAME', 'tlaw_theory' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_theory IS
    'exponents of the excess risk''s upper bound on data of an intrinsic dimension: 2s/(2s + d) in data, 2s/d in parameters; 4/d beside them';

CREATE FUNCTION @extschema@.tlaw_create_study(name text, law text DEFAULT 'power_law_offset',
    estimator text DEFAULT 'calibrated', metric text DEFAULT 'euclidean', layer float8 DEFAULT -1,
    run int8 DEFAULT NULL, x text DEFAULT 'train_tokens', y text DEFAULT 'test_loss', smoothness float8 DEFAULT 1,
    level float8 DEFAULT 0.95, tolerance float8 DEFAULT 0.02) RETURNS void
    AS 'MODULE_PATHNAME', 'tlaw_create_study' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_create_study IS
    'freezes a study''s primary analysis before its first run: law, dimension (estimator; metric; layer, -1 the last block''s output; of which run), smoothness; every other analysis of it is labelled exploratory';
REVOKE ALL ON FUNCTION @extschema@.tlaw_create_study FROM PUBLIC;

CREATE VIEW @extschema@.tlaw_study_plans WITH (security_barrier) AS
SELECT p.study, p.form AS law, p.x, p.y, p.estimator, p.metric, p.layer, p.run_id AS run, p.smoothness, p.level,
       p.tolerance, p.frozen_at, s.owner
  FROM @extschema@.tlaw_study_plan p JOIN @extschema@.tlaw_study s USING (study)
  LEFT JOIN pg_catalog.pg_roles r ON r.rolname = s.owner
 WHERE pg_catalog.pg_has_role(COALESCE(r.oid, 10), 'USAGE');
COMMENT ON VIEW @extschema@.tlaw_study_plans IS 'the frozen primary analyses of your roles'' studies';
GRANT SELECT ON @extschema@.tlaw_study_plans TO PUBLIC;

CREATE FUNCTION @extschema@.tlaw_theory_test(source text, dimension float8 DEFAULT NULL,
    dimension_se float8 DEFAULT NULL, metric text DEFAULT NULL, x text DEFAULT NULL, y text DEFAULT NULL, cluster text DEFAULT NULL,
    smoothness float8 DEFAULT NULL, level float8 DEFAULT NULL, tolerance float8 DEFAULT NULL)
    RETURNS TABLE (analysis text, form text, variable text, dimension_metric text, dimension_estimator text,
                   plateau boolean, assumed_smoothness float8,
                   assumed_dimension float8, alpha float8, alpha_low float8, alpha_high float8, predicted float8,
                   predicted_low float8, predicted_high float8, difference float8, difference_low float8,
                   difference_high float8, p float8, smoothness_low float8, smoothness_high float8, verdict text,
                   message text)
    AS 'MODULE_PATHNAME', 'tlaw_theory_test' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_theory_test IS
    'the observed exponent, with and without an irreducible loss, against the theory''s upper bound on the excess risk, the uncertainty of both carried; without a dimension given, against each that tlaw_run_dimension found for the study''s planned run, or its run on the most data. predicted: the exponent of the bound, the least that the theory allows, no forecast; difference: alpha - predicted, with its interval (level); p: of no difference, two-sided; smoothness_low, smoothness_high: the smoothness that would make them equal; verdict: violates (the whole interval below 0), consistent (steeper), tight (the interval within the tolerance) or undecided, as it is where the rows do not follow the form (curvature_p below 0.05, or lack_of_fit_p below 0.01); plateau is false where the dimension depends on the scale: the interval of calibrated holds that, another decides nothing';

SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_study_plan', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_fit_record', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_fit_record_fit_id_seq', '');
