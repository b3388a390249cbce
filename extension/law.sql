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
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, int8) IS 'transition function of the fits';
CREATE FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_law_accumulate_2' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8) IS 'transition function of the fits';
CREATE FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, int8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_law_accumulate_2' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, int8) IS 'transition function of the fits';
CREATE FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, float8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_law_accumulate_3' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, float8) IS 'transition function of the fits';
CREATE FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, float8, int8) RETURNS internal
    AS 'MODULE_PATHNAME', 'tlaw_law_accumulate_3' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_accumulate(internal, float8, float8, float8, float8, int8) IS 'transition function of the fits';

CREATE FUNCTION @extschema@.tlaw_law_final_power_law(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_power_law' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_power_law IS 'final function of tlaw_power_law';
CREATE AGGREGATE @extschema@.tlaw_power_law(x float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_power_law, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_power_law(float8, float8) IS
    'a line in log-log, loss = a x^-alpha: alpha is an apparent slope, too small where an irreducible loss hides in it';
CREATE AGGREGATE @extschema@.tlaw_power_law(x float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_power_law, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_power_law(float8, float8, int8) IS
    'a line in log-log, loss = a x^-alpha: alpha is an apparent slope, too small where an irreducible loss hides in it; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_power_law_offset(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_power_law_offset' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_power_law_offset IS 'final function of tlaw_power_law_offset';
CREATE AGGREGATE @extschema@.tlaw_power_law_offset(x float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_power_law_offset, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_power_law_offset(float8, float8) IS
    'loss = irreducible + a x^-alpha; irreducible_p tests irreducible = 0';
CREATE AGGREGATE @extschema@.tlaw_power_law_offset(x float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_power_law_offset, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_power_law_offset(float8, float8, int8) IS
    'loss = irreducible + a x^-alpha; irreducible_p tests irreducible = 0; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_saturating(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_saturating' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_saturating IS 'final function of tlaw_saturating';
CREATE AGGREGATE @extschema@.tlaw_saturating(x float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_saturating, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_saturating(float8, float8) IS
    'loss = irreducible + a / (x^alpha + b): a plateau before the power law';
CREATE AGGREGATE @extschema@.tlaw_saturating(x float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_saturating, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_saturating(float8, float8, int8) IS
    'loss = irreducible + a / (x^alpha + b): a plateau before the power law; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_chinchilla(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_chinchilla' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_chinchilla IS 'final function of tlaw_chinchilla';
CREATE AGGREGATE @extschema@.tlaw_chinchilla(n_params float8, n_tokens float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_chinchilla, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_chinchilla(float8, float8, float8) IS
    'loss = irreducible + a n_params^-alpha + b n_tokens^-beta, Huber loss (1e-3) on log residuals';
CREATE AGGREGATE @extschema@.tlaw_chinchilla(n_params float8, n_tokens float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_chinchilla, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_chinchilla(float8, float8, float8, int8) IS
    'loss = irreducible + a n_params^-alpha + b n_tokens^-beta, Huber loss (1e-3) on log residuals; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_kaplan(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_kaplan' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_kaplan IS 'final function of tlaw_kaplan';
CREATE AGGREGATE @extschema@.tlaw_kaplan(n_params float8, n_tokens float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_kaplan, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_kaplan(float8, float8, float8) IS
    'loss = ((a / n_params)^(alpha / beta) + b / n_tokens)^beta';
CREATE AGGREGATE @extschema@.tlaw_kaplan(n_params float8, n_tokens float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_kaplan, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_kaplan(float8, float8, float8, int8) IS
    'loss = ((a / n_params)^(alpha / beta) + b / n_tokens)^beta; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_farseer(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_farseer' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_farseer IS 'final function of tlaw_farseer';
CREATE AGGREGATE @extschema@.tlaw_farseer(n_params float8, n_tokens float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_farseer, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_farseer(float8, float8, float8) IS
    'loss = exp(s N^q + S) + exp(B N^b + Q) D^-exp(A N^a + E); parameters in the order s, q, S, B, b, Q, A, a, E';
CREATE AGGREGATE @extschema@.tlaw_farseer(n_params float8, n_tokens float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_farseer, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_farseer(float8, float8, float8, int8) IS
    'loss = exp(s N^q + S) + exp(B N^b + Q) D^-exp(A N^a + E); parameters in the order s, q, S, B, b, Q, A, a, E; rows of one cluster are not independent';

CREATE FUNCTION @extschema@.tlaw_law_final_data_constrained(internal) RETURNS @extschema@.tlaw_law
    AS 'MODULE_PATHNAME', 'tlaw_law_final_data_constrained' LANGUAGE c IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_law_final_data_constrained IS 'final function of tlaw_data_constrained';
CREATE AGGREGATE @extschema@.tlaw_data_constrained(n_params float8, n_tokens float8, unique_tokens float8, loss float8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_data_constrained, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_data_constrained(float8, float8, float8, float8) IS
    'Chinchilla in effective parameters and tokens of repeated data (Muennighoff et al.); parameters end with ln R_D*, ln R_N*';
CREATE AGGREGATE @extschema@.tlaw_data_constrained(n_params float8, n_tokens float8, unique_tokens float8, loss float8, cluster int8) (
    SFUNC = @extschema@.tlaw_law_accumulate, STYPE = internal, FINALFUNC = @extschema@.tlaw_law_final_data_constrained, PARALLEL = SAFE);
COMMENT ON AGGREGATE @extschema@.tlaw_data_constrained(float8, float8, float8, float8, int8) IS
    'Chinchilla in effective parameters and tokens of repeated data (Muennighoff et al.); parameters end with ln R_D*, ln R_N*; rows of one cluster are not independent';
