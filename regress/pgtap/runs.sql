-- The numbers of runs: what a specification costs, what its scores are made of.
SELECT no_plan();
CREATE TABLE words AS SELECT (SELECT string_agg(md5((i * 1000 + j)::text), ' ') FROM generate_series(1, 20) j) AS body FROM generate_series(1, 300) i;
SELECT tlaw_create_corpus('words', 'body', 'c') AS corpus \gset
SELECT tlaw_train('c', n_layer => 2, d_model => 32, n_head => 2, context_length => 32, steps => 300, batch_size => 4, train_tokens => 1e5,
                  eval_tokens => 2000, bias => true) AS run \gset
CALL tlaw_wait(:run);
SELECT * FROM tlaw_run WHERE run_id = :run \gset r_

SELECT is(:'r_status'::text, 'done', 'it ran');
-- 12 d^2 + 13 d a layer with biases, a final norm of 2 d, tables of (vocabulary + context) d
SELECT is(:r_n_params_non_embedding, 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32, 'n_params_non_embedding');
SELECT is(:r_n_params, :r_n_params_non_embedding + (257 + 32) * 32, 'n_params');
SELECT is(:r_tokens_seen, 300 * 4 * 32, 'tokens_seen');
SELECT is(:r_epochs::float8, 300 * 4 * 32 / 1e5::float8, 'epochs');
SELECT is(:r_flops::float8, (6 * (12 * 2 * 32 * 32 + 257 * 32) + 6 * 2 * 32 * 32)::float8 * 300 * 4 * 32, 'flops');
SELECT is(:'r_isa' IN ('amx', 'avx512', 'avx2', 'neon', 'portable'), true, 'an instruction set');
SELECT * FROM tlaw_estimate('c', n_layer => 2, d_model => 32, n_head => 2, context_length => 32, steps => 300, batch_size => 4,
                            train_tokens => 1e5, eval_tokens => 2000, bias => true) \gset e_
SELECT is(:e_n_params, :r_n_params, 'tlaw_estimate: n_params');
SELECT is(:e_flops::float8, :r_flops::float8, 'tlaw_estimate: flops');
SELECT is(:e_memory_bytes, :r_memory, 'tlaw_estimate: memory');
SELECT is(:e_learning_rate::float8, :r_learning_rate::float8, 'tlaw_estimate: learning rate');
SELECT cmp_ok(:r_peak_memory, '<', :r_memory, 'the engine stays below the estimate');

-- mfu: the run's FLOPs over what a product does in its time; measured again here, as others leave processors for that
SELECT ok(:r_mfu * :r_train_seconds * least(current_setting('tlaw.threads')::int, cores) * gflops * 1e9 / cores / :r_flops BETWEEN 0.1 AND 10, 'mfu')
  FROM tlaw_devices() d WHERE device = 'cpu' AND isa = :'r_isa' AND d."precision" = :'r_precision';

-- scores
SELECT is(:r_val_loss::float8, avg(val_loss), 'val_loss: the mean of the five lowest')
  FROM (SELECT val_loss FROM tlaw_losses WHERE run_id = :run ORDER BY val_loss LIMIT 5) lowest;
SELECT is(:r_val_loss_min::float8, min(val_loss), 'val_loss_min') FROM tlaw_losses WHERE run_id = :run;
SELECT is(:r_val_loss_last::float8, val_loss, 'val_loss_last') FROM tlaw_losses WHERE run_id = :run AND step = 300;
SELECT is(:r_best_step::bigint, step, 'best_step: where the validation loss is lowest')
  FROM tlaw_losses WHERE run_id = :run ORDER BY val_loss, step LIMIT 1;
SELECT is(tokens_seen, step * 4 * 32, 'tokens_seen of step ' || step) FROM tlaw_losses WHERE run_id = :run AND step > 100;
SELECT ok(abs(val_loss - ln(257)) < 0.2, 'before training: about ln(vocabulary)') FROM tlaw_losses WHERE run_id = :run AND step = 0;

-- the test loss is that of its documents
CREATE VIEW documents AS SELECT l, t, b FROM tlaw_run_document_loss d, unnest(loss_sum, tokens, bytes) u(l, t, b) WHERE run_id = :run;
SELECT is(count(*), c.test_documents, 'a loss for every test document') FROM documents, tlaw_corpora c GROUP BY c.test_documents;
SELECT is(sum(t), c.test_tokens::numeric, 'of all test tokens') FROM documents, tlaw_corpora c GROUP BY c.test_tokens;
SELECT ok(abs(:r_test_loss - sum(l) / sum(t)) < 1e-9, 'test_loss: nats per token') FROM documents;
SELECT ok(abs(:r_bits_per_byte - sum(l) / ln(2) / sum(b)) < 1e-9, 'bits_per_byte') FROM documents;
-- the standard error of a ratio of sums over documents
SELECT ok(abs(:r_test_loss_se / (sqrt(count(*) / (count(*) - 1.0) * sum((l - t * :r_test_loss) ^ 2)) / sum(t)) - 1) < 0.02,
          'test_loss_se: over documents') FROM documents;
SELECT is(:r_test_tokens::bigint, sum(t)::bigint, 'test_tokens') FROM documents;

-- activations that are made again: a run of its own, less memory, the same losses
SELECT tlaw_train('c', n_layer => 2, d_model => 32, n_head => 2, context_length => 32, steps => 300, batch_size => 4, train_tokens => 1e5,
                  eval_tokens => 2000, bias => true, recompute => true) AS lean \gset
CALL tlaw_wait(:lean);
SELECT ok(run_id <> :run AND recompute AND memory < :r_memory, 'recompute: another run, less memory') FROM tlaw_runs WHERE run_id = :lean;
SELECT is(array_agg(l.val_loss ORDER BY l.step), (SELECT array_agg(val_loss ORDER BY step) FROM tlaw_losses WHERE run_id = :run),
          'recompute: the same losses') FROM tlaw_losses l WHERE l.run_id = :lean;

-- replicates: another subset, other initial weights
SELECT count(tlaw_train('c', n_layer => 1, d_model => 16, context_length => 16, steps => 50, batch_size => 4, eval_tokens => 500,
                  train_tokens => 5e4, study => 's', subset_seed => k, seed => s)) AS submitted
  FROM generate_series(0, 1) k, generate_series(0, 1) s \gset
CALL tlaw_wait('s');
SELECT is(count(DISTINCT test_loss), 4::bigint, 'subset_seed and seed make different runs') FROM tlaw_runs WHERE study = 's';
SELECT is(array_agg(n ORDER BY n), ARRAY[1, 10, 100, 1000, 10000]::float8[], 'tlaw_log_series') FROM tlaw_log_series(1, 1e4, 5) n;
SELECT is(bool_and(abs(ln(n) - (ln(7) + (i - 1) * (ln(9e6) - ln(7)) / 40)) < 0.5 / n), true, 'evenly spaced in the logarithm, up to rounding')
  FROM tlaw_log_series(7, 9e6, 41) WITH ORDINALITY l(n, i);
SELECT * FROM finish();
