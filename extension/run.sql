CREATE FUNCTION @extschema@.tlaw_train(corpus text, study text DEFAULT NULL, arch text DEFAULT NULL,
    n_layer float8 DEFAULT NULL, n_head float8 DEFAULT NULL, d_model float8 DEFAULT NULL,
    context_length float8 DEFAULT NULL, bias boolean DEFAULT NULL, train_tokens float8 DEFAULT NULL,
    subset_seed float8 DEFAULT NULL, seed float8 DEFAULT NULL, steps float8 DEFAULT NULL,
    batch_size float8 DEFAULT NULL, learning_rate float8 DEFAULT NULL, min_learning_rate float8 DEFAULT NULL,
    warmup_steps float8 DEFAULT NULL, schedule text DEFAULT NULL, cooldown_steps float8 DEFAULT NULL,
    weight_decay float8 DEFAULT NULL, beta1 float8 DEFAULT NULL, beta2 float8 DEFAULT NULL,
    grad_clip float8 DEFAULT NULL, eval_interval float8 DEFAULT NULL, eval_tokens float8 DEFAULT NULL,
    checkpoint text DEFAULT NULL, device text DEFAULT NULL, "precision" text DEFAULT NULL,
    recompute boolean DEFAULT NULL, threads float8 DEFAULT NULL, priority float8 DEFAULT NULL, again boolean DEFAULT false) RETURNS bigint
    AS 'MODULE_PATHNAME', 'tlaw_train' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_train IS
    'queues the training of a transformer on a corpus and returns the run''s id at once; NULL: by the rule; recompute: less memory for a third more work; SQL wants quotes around "precision" =>';
REVOKE ALL ON FUNCTION @extschema@.tlaw_train FROM PUBLIC;

CREATE TYPE @extschema@.tlaw_run_estimate AS (n_params bigint, n_params_non_embedding bigint, train_tokens bigint,
    tokens_seen bigint, epochs float8, steps bigint, batch_size bigint, micro_batch bigint, learning_rate float8,
    warmup_steps bigint, weight_decay float8, eval_tokens bigint, device text, isa text, "precision" text,
    flops float8, memory_bytes bigint, seconds float8);
COMMENT ON TYPE @extschema@.tlaw_run_estimate IS 'what a run would be and cost; seconds: on this machine, alone on it';

CREATE FUNCTION @extschema@.tlaw_estimate(corpus text, study text DEFAULT NULL, arch text DEFAULT NULL,
    n_layer float8 DEFAULT NULL, n_head float8 DEFAULT NULL, d_model float8 DEFAULT NULL,
    context_length float8 DEFAULT NULL, bias boolean DEFAULT NULL, train_tokens float8 DEFAULT NULL,
    subset_seed float8 DEFAULT NULL, seed float8 DEFAULT NULL, steps float8 DEFAULT NULL,
    batch_size float8 DEFAULT NULL, learning_rate float8 DEFAULT NULL, min_learning_rate float8 DEFAULT NULL,
    warmup_steps float8 DEFAULT NULL, schedule text DEFAULT NULL, cooldown_steps float8 DEFAULT NULL,
    weight_decay float8 DEFAULT NULL, beta1 float8 DEFAULT NULL, beta2 float8 DEFAULT NULL,
    grad_clip float8 DEFAULT NULL, eval_interval float8 DEFAULT NULL, eval_tokens float8 DEFAULT NULL,
    checkpoint text DEFAULT NULL, device text DEFAULT NULL, "precision" text DEFAULT NULL,
    recompute boolean DEFAULT NULL, threads float8 DEFAULT NULL, priority float8 DEFAULT NULL, again boolean DEFAULT false) RETURNS @extschema@.tlaw_run_estimate
    AS 'MODULE_PATHNAME', 'tlaw_estimate' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_estimate IS
    'what tlaw_train with the same arguments would queue: resolved settings, parameters, FLOPs, memory, seconds';
REVOKE ALL ON FUNCTION @extschema@.tlaw_estimate FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_log_series(lo float8, hi float8, n float8) RETURNS SETOF float8
    AS 'MODULE_PATHNAME', 'tlaw_log_series' LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION @extschema@.tlaw_log_series IS 'n whole numbers from lo to hi, evenly spaced in their logarithm';

CREATE FUNCTION @extschema@.tlaw_cancel(run_id bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'tlaw_cancel_run' LANGUAGE c VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_cancel(bigint) IS 'cancels a queued or running run; its worker stops within a second';

CREATE FUNCTION @extschema@.tlaw_cancel(study text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'tlaw_cancel_study' LANGUAGE c VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_cancel(text) IS 'cancels the queued and running runs of a study; returns how many';

CREATE FUNCTION @extschema@.tlaw_retry(run_id bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'tlaw_retry' LANGUAGE c VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_retry IS
    'queues a failed or cancelled run again, or one that was queued by another server or database';
REVOKE ALL ON FUNCTION @extschema@.tlaw_retry FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_drop_run(run_id bigint) RETURNS void
    AS 'MODULE_PATHNAME', 'tlaw_drop_run' LANGUAGE c VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_drop_run IS 'drops a run that is not running, with its losses and checkpoints';

CREATE FUNCTION @extschema@.tlaw_drop_study(study text) RETURNS bigint
    AS 'MODULE_PATHNAME', 'tlaw_drop_study' LANGUAGE c VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_drop_study IS
    'drops a study none of whose runs is running, with its runs, fits and frozen plan, also those that members of its owner made; returns how many runs';

CREATE FUNCTION @extschema@.tlaw_record_run(study text, n_params float8 DEFAULT NULL,
    train_tokens float8 DEFAULT NULL, test_loss float8 DEFAULT NULL, val_loss float8 DEFAULT NULL,
    train_loss float8 DEFAULT NULL, test_loss_se float8 DEFAULT NULL, bits_per_byte float8 DEFAULT NULL,
    n_params_non_embedding float8 DEFAULT NULL, tokens_seen float8 DEFAULT NULL, flops float8 DEFAULT NULL,
    subset_seed float8 DEFAULT NULL, seed float8 DEFAULT NULL, arch text DEFAULT NULL, n_layer float8 DEFAULT NULL,
    n_head float8 DEFAULT NULL, d_model float8 DEFAULT NULL, context_length float8 DEFAULT NULL,
    steps float8 DEFAULT NULL, batch_size float8 DEFAULT NULL, learning_rate float8 DEFAULT NULL,
    device text DEFAULT NULL, "precision" text DEFAULT NULL, code_version text DEFAULT NULL) RETURNS bigint
    AS 'MODULE_PATHNAME', 'tlaw_record_run' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_record_run IS 'records a result that was measured elsewhere as a run; flops: by default 6 n_params tokens_seen, or 6 n_params train_tokens';
REVOKE ALL ON FUNCTION @extschema@.tlaw_record_run FROM PUBLIC;

-- What follows from a run that is still training counts the steps that it has made.
CREATE VIEW @extschema@.tlaw_runs WITH (security_barrier) AS
SELECT r.run_id, r.study, r.corpus, r.arch, r.n_layer, r.n_head, r.d_model, r.context_length, r.status, r.n_params,
       r.n_params_non_embedding, r.train_tokens, r.train_bytes, r.subset_seed, r.seed,
       CASE WHEN r.status = 'done' THEN r.tokens_seen
            ELSE p.step * r.batch_size * r.context_length END AS tokens_seen,
       r.epochs, r.flops, r.tokens_per_second, r.mfu, r.train_loss, r.val_loss, r.val_loss_min, r.val_loss_last,
       r.test_loss, r.test_loss_se, r.bits_per_byte, r.device, r.isa, r.precision, r.code_version,
       r.submitted_at, r.started_at, r.finished_at, r.train_seconds, r.eval_seconds, r.error,
       r.owner, r.priority, r.attempt, r.steps, r.batch_size, r.learning_rate, r.min_learning_rate, r.warmup_steps,
       r.schedule, r.cooldown_steps, r.weight_decay, r.beta1, r.beta2, r.grad_clip, r.bias <> 0 AS bias,
       r.recompute <> 0 AS recompute, r.eval_interval, r.eval_tokens, r.best_step, r.train_documents, r.test_tokens, r.test_bytes, r.memory,
       r.peak_memory
  FROM @extschema@.tlaw_run r
  LEFT JOIN pg_catalog.pg_roles o ON o.rolname = r.owner
  LEFT JOIN @extschema@.tlaw_run_progress p ON p.run_id = r.run_id
 WHERE pg_catalog.pg_has_role(COALESCE(o.oid, 10), 'USAGE');
COMMENT ON VIEW @extschema@.tlaw_runs IS 'the runs of your roles: state, costs, losses, settings';
GRANT SELECT ON @extschema@.tlaw_runs TO PUBLIC;

CREATE VIEW @extschema@.tlaw_progress WITH (security_barrier) AS
SELECT r.run_id, r.study, p.phase, p.step, p.total AS steps, p.loss, p.tokens_per_second,
       p.seconds_left * interval '1 second' AS time_left, p.threads, p.worker_pid, p.engine_pid, p.updated_at
  FROM @extschema@.tlaw_run r
  JOIN @extschema@.tlaw_run_progress p ON p.run_id = r.run_id
  LEFT JOIN pg_catalog.pg_roles o ON o.rolname = r.owner
 WHERE r.status = 'running' AND pg_catalog.pg_has_role(COALESCE(o.oid, 10), 'USAGE');
COMMENT ON VIEW @extschema@.tlaw_progress IS 'where the running runs of your roles stand';
GRANT SELECT ON @extschema@.tlaw_progress TO PUBLIC;

CREATE VIEW @extschema@.tlaw_losses WITH (security_barrier) AS
SELECT l.run_id, r.study, l.step, l.tokens_seen, l.train_loss, l.val_loss, l.learning_rate, l.grad_norm, l.seconds
  FROM @extschema@.tlaw_run_loss l
  JOIN @extschema@.tlaw_run r ON r.run_id = l.run_id
  LEFT JOIN pg_catalog.pg_roles o ON o.rolname = r.owner
 WHERE pg_catalog.pg_has_role(COALESCE(o.oid, 10), 'USAGE');
COMMENT ON VIEW @extschema@.tlaw_losses IS 'the loss curves of your roles'' runs';
GRANT SELECT ON @extschema@.tlaw_losses TO PUBLIC;
