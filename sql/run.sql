-- Runs: submitting, estimating, recording, cancelling, retrying, dropping; good and bad input.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS tlaw;
CREATE TABLE run_text AS
    SELECT (SELECT string_agg(md5((i * 1000 + j)::text), ' ') FROM generate_series(1, 20) j) AS body FROM generate_series(1, 200) i;
SELECT tlaw_create_corpus('run_text', 'body');
-- sweeps
SELECT * FROM tlaw_log_series(1000, 100000, 5);
SELECT * FROM tlaw_log_series(7, 7, 1);
SELECT * FROM tlaw_log_series(1e15, 1e21, 4);
SELECT n - 123456789012345680 AS beyond FROM tlaw_log_series(123456789012345680, 123456789012345776, 3) n;
SELECT * FROM tlaw_log_series(7, 6, 2);
SELECT * FROM tlaw_log_series(7.5, 9, 2);
SELECT * FROM tlaw_log_series(7, 'infinity', 2);
SELECT * FROM tlaw_log_series(0.5, 6, 2);
SELECT * FROM tlaw_log_series(1, 6, 1);
SELECT * FROM tlaw_log_series(1, NULL, 1);
-- an estimate says what the run would be
SELECT n_params, n_params_non_embedding, train_tokens, tokens_seen, steps, batch_size, learning_rate, device, precision IN ('float32', 'bf16') AS precision,
       flops, memory_bytes > 64 * 1048576 AS memory, seconds > 0 AS seconds
  FROM tlaw_estimate('run_text', n_layer => 1, d_model => 16, context_length => 16, steps => 100, batch_size => 4,
                     train_tokens => 1e5, learning_rate => 0.01);
-- a run
SELECT tlaw_train('run_text', study => 'regress', n_layer => 1, d_model => 16, context_length => 16, steps => 100,
                  batch_size => 4, eval_tokens => 500, bias => true) AS run \gset
SELECT tlaw_train('run_text', study => 'regress', n_layer => 1, d_model => 16, context_length => 16, steps => 100,
                  batch_size => 4, eval_tokens => 500, bias => true) = :run AS same;
SELECT tlaw_train('run_text', study => 'regress', n_layer => 1, d_model => 16, context_length => 16, steps => 100,
                  batch_size => 4, eval_tokens => 500, bias => true, again => true) > :run AS again;
CALL tlaw_wait(:run);
CALL tlaw_wait('regress');
SELECT study, corpus, arch, n_layer, n_head, d_model, context_length, status, n_params, n_params_non_embedding,
       train_tokens, subset_seed, seed, tokens_seen, flops, device, precision IN ('float32', 'bf16') AS precision, code_version, error, steps, bias
  FROM tlaw_runs WHERE study = 'regress' ORDER BY run_id;
SELECT val_loss_min <= val_loss AND val_loss < 5.6 AND test_loss < 5.6 AND test_loss_se > 0 AND bits_per_byte > 0
       AND tokens_per_second > 0 AND mfu > 0 AND train_bytes > 0 AND started_at >= submitted_at AND finished_at > started_at AS plausible
  FROM tlaw_runs WHERE run_id = :run;
SELECT c.documents = r.test_documents AS documents, loss_a = test_loss AS loss, difference, a_better
  FROM (SELECT max(run_id) AS id FROM tlaw_runs WHERE study = 'regress') m, tlaw_compare_runs(:run, m.id) c,
       (SELECT test_documents, test_loss FROM tlaw_corpora JOIN tlaw_runs USING (corpus) WHERE run_id = :run) r;
SELECT tlaw_compare_runs(:run, 0);
SELECT tlaw_compare_runs(:run, :run, 1);
SELECT count(*) > 5 AS points, min(step), max(step), bool_and(val_loss > 0) AS validated FROM tlaw_losses WHERE run_id = :run;
SELECT count(*) FROM tlaw_progress;
-- the same run without a study is the run that there is; a run without a study joins the study that asks for it
SELECT tlaw_train('run_text', n_layer => 1, d_model => 16, context_length => 16, steps => 100, batch_size => 4,
                  eval_tokens => 500, bias => true) = :run AS same;
SELECT tlaw_train('run_text', n_layer => 1, d_model => 16, context_length => 16, steps => 50) AS loose \gset
SELECT tlaw_train('run_text', study => 'regress', n_layer => 1, d_model => 16, context_length => 16, steps => 50) = :loose AS same;
SELECT tlaw_train('run_text', study => 'other', n_layer => 1, d_model => 16, context_length => 16, steps => 50) > :loose AS own;
SELECT study FROM tlaw_runs WHERE run_id = :loose;
CALL tlaw_wait('regress');
CALL tlaw_wait('other');
-- bad input
SELECT tlaw_train(NULL);
SELECT tlaw_train('nothing');
SELECT tlaw_train('run_text', arch => 'rnn');
SELECT tlaw_train('run_text', n_layer => 0);
SELECT tlaw_train('run_text', n_layer => 1.5);
SELECT tlaw_train('run_text', n_layer => -1);
SELECT tlaw_train('run_text', d_model => 30, n_head => 4);
SELECT tlaw_train('run_text', context_length => 1e9);
SELECT tlaw_train('run_text', train_tokens => 1e9);
SELECT tlaw_train('run_text', train_tokens => 1e12);
CREATE TABLE run_tiny AS SELECT 'word ' || i AS body FROM generate_series(1, 10) i;
SELECT tlaw_create_corpus('run_tiny', 'body');
SELECT tlaw_train('run_tiny');
SELECT tlaw_drop_corpus('run_tiny');
SELECT tlaw_train('run_text', cooldown_steps => 5);
SELECT tlaw_train('run_text', train_tokens => 'NaN');
SELECT tlaw_train('run_text', seed => -1);
SELECT tlaw_train('run_text', learning_rate => 'infinity');
SELECT tlaw_train('run_text', weight_decay => -0.1);
SELECT tlaw_train('run_text', learning_rate => 1, min_learning_rate => 2);
SELECT tlaw_train('run_text', steps => 10, warmup_steps => 11);
SELECT tlaw_train('run_text', schedule => 'linear');
SELECT tlaw_train('run_text', schedule => '');
SELECT tlaw_train('run_text', beta1 => 1);
SELECT tlaw_train('run_text', eval_tokens => 1e9);
SELECT tlaw_train('run_text', checkpoint => 'all');
SELECT tlaw_train('run_text', device => 'tpu');
SELECT tlaw_train('run_text', device => 'cuda:99');
SELECT tlaw_train('run_text', "precision" => 'float16');
SELECT tlaw_train('run_text', threads => 0);
SELECT tlaw_train('run_text', priority => 1e9);
SELECT tlaw_train('run_text', study => '');
DO $$
BEGIN
    PERFORM tlaw_train('run_text', d_model => 8192, n_layer => 200, "precision" => 'float32');
EXCEPTION WHEN configuration_limit_exceeded THEN
    RAISE WARNING '%', regexp_replace(SQLERRM, '[0-9]+ MB$', 'so many MB');
END
$$;
-- states
\set VERBOSITY sqlstate
SELECT tlaw_cancel(:run);
SELECT tlaw_retry(:run);
\set VERBOSITY default
SELECT tlaw_cancel(0);
SELECT tlaw_cancel('nothing');
SELECT tlaw_retry(0);
SELECT tlaw_drop_run(0);
CALL tlaw_wait(0);
CALL tlaw_wait(NULL::bigint);
CALL tlaw_wait('nothing');
BEGIN;
CALL tlaw_wait('regress');
ROLLBACK;
-- results measured elsewhere
SELECT tlaw_record_run('elsewhere', n_params => 1e6, train_tokens => 1e9, test_loss => 3.2, tokens_seen => 2e9, device => 'tpu') AS recorded \gset
SELECT study, corpus, status, n_params, train_tokens, tokens_seen, epochs, flops, test_loss, device, owner = current_user AS mine
  FROM tlaw_runs WHERE run_id = :recorded;
CALL tlaw_wait('elsewhere');
-- FLOPs as given, else 6 N D where both are known
SELECT tlaw_record_run('elsewhere', n_params => 1e6, train_tokens => 1e9, flops => 7e15, test_loss => 3) AS given,
       tlaw_record_run('elsewhere', n_params => 1e6, train_tokens => 1e9, test_loss => 3) AS once,
       tlaw_record_run('elsewhere', n_params => 1e6, test_loss => 3) AS sizeless \gset
SELECT flops, tokens_seen, epochs FROM tlaw_runs WHERE run_id IN (:given, :once, :sizeless) ORDER BY run_id;
SELECT tlaw_record_run(NULL, test_loss => 1);
SELECT tlaw_record_run('elsewhere', n_params => 1e6);
SELECT tlaw_record_run('elsewhere', n_params => -1, test_loss => 1);
SELECT tlaw_record_run('elsewhere', test_loss => 'NaN');
SELECT tlaw_record_run('elsewhere', test_loss => 1, n_layer => 2.5);
-- dropping: a run; a study with its runs and fits, whatever became of them, and no other
SELECT count(tlaw_drop_run(run_id)) FROM tlaw_runs WHERE study = 'other';
SELECT fit_id AS fit FROM tlaw_fit('SELECT x, 1.0 / x AS loss FROM generate_series(1, 9) x', forms => '{power_law}') \gset
SELECT form, n FROM tlaw_fit('elsewhere', 'train_tokens', '{power_law}');
SELECT tlaw_drop_study('regress') AS runs;
SELECT tlaw_drop_study('elsewhere') AS runs;
SELECT tlaw_drop_study('elsewhere');
SELECT count(*) AS studies FROM tlaw_study WHERE study IN ('regress', 'elsewhere');
SELECT count(*) FILTER (WHERE fit_id = :fit) AS kept, count(*) FILTER (WHERE study = 'elsewhere') AS of_study FROM tlaw_fits;
SELECT tlaw_drop_fit(:fit);
SELECT count(*) AS fits FROM tlaw_fits WHERE fit_id = :fit;
SELECT tlaw_drop_fit(0);
SELECT tlaw_drop_study('other') AS runs;
-- a run whose dimension is another study's plan
SELECT tlaw_record_run('measured', test_loss => 1) AS planned \gset
SELECT tlaw_create_study('after', run => :planned);
DO $$ BEGIN PERFORM tlaw_drop_run(max(run_id)) FROM tlaw_runs WHERE study = 'measured'; EXCEPTION WHEN dependent_objects_still_exist THEN
    RAISE WARNING '%', regexp_replace(sqlerrm, '\d+', 'N');
END $$;
DO $$ BEGIN PERFORM tlaw_drop_study('measured'); EXCEPTION WHEN dependent_objects_still_exist THEN
    RAISE WARNING '%', regexp_replace(sqlerrm, '\d+', 'N');
END $$;
SELECT count(tlaw_record_run('after', train_tokens => x, test_loss => 1 / x)) FROM unnest('{1, 2, 3}'::float8[]) x;
DO $$ DECLARE hint text; BEGIN PERFORM tlaw_theory_test('after'); EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RAISE WARNING '%: %', sqlerrm, regexp_replace(hint, '\d+', 'N');
END $$;
SELECT tlaw_drop_study('after') AS after, tlaw_drop_study('measured') AS measured;
-- whatever writes says so where nothing may be written, as on a standby
BEGIN READ ONLY;
DO $$
DECLARE
    f text;
BEGIN
    FOREACH f IN ARRAY ARRAY['tlaw_cancel(1)', 'tlaw_cancel(''s'')', 'tlaw_retry(1)', 'tlaw_drop_run(1)', 'tlaw_drop_study(''s'')', 'tlaw_drop_fit(1)',
                             'tlaw_drop_corpus(''c'')', 'tlaw_record_run(''s'', test_loss => 1)', 'tlaw_create_study(''s'')', 'tlaw_fit(''s'')',
                             'tlaw_train(''c'')', 'tlaw_run_dimension(1)', 'tlaw_run_dimension_profile(1)'] LOOP
        BEGIN
            EXECUTE 'SELECT ' || f;
        EXCEPTION WHEN read_only_sql_transaction THEN
            RAISE WARNING '%', sqlerrm;
        END;
    END LOOP;
END
$$;
ROLLBACK;
SELECT count(*) FROM tlaw_runs WHERE corpus = 'run_text';
SELECT count(*) FROM tlaw_losses WHERE run_id = :run;
SELECT tlaw_drop_corpus('run_text');
-- nothing is left of what was dropped: rows of a run, a corpus or a study that is not there
DO $$
DECLARE
    t record;
    n bigint;
BEGIN
    FOR t IN SELECT a.attrelid::regclass AS child, a.attname, p.parent
               FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
               JOIN (VALUES ('run_id', 'tlaw_run'), ('corpus', 'tlaw_corpus'), ('study', 'tlaw_study')) p(column_name, parent) ON p.column_name = a.attname
              WHERE c.relkind = 'r' AND c.relname LIKE 'tlaw_%' AND c.relname <> p.parent LOOP
        EXECUTE format('SELECT count(*) FROM %1$s c WHERE c.%2$I IS NOT NULL AND NOT EXISTS (SELECT FROM %3$I p WHERE p.%2$I = c.%2$I)',
                       t.child, t.attname, t.parent) INTO n;
        IF n > 0 THEN
            RAISE WARNING '% rows of % without a row of %', n, t.child, t.parent;
        END IF;
    END LOOP;
END
$$;
DROP TABLE run_text;
