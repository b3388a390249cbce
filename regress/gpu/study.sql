-- What regress/gpu/sql.sh runs: a study of the training set's size on the first GPU.  Prints TAP.  Variables:
-- documents, steps, batch, eval.
SET client_min_messages = warning;
CREATE EXTENSION tlaw;
SELECT '# ' || concat_ws(', ', device, isa, "precision", name, round(gflops) || ' GFLOP/s', reason) FROM tlaw_devices() WHERE device LIKE 'cuda%';
CREATE TABLE tales AS
SELECT i AS id, string_agg(format('The %s %s the %s near the %s.', n[1 + (i * 7 + j) % 9], v[1 + (i + j * j) % 5], n[1 + (i * j) % 9], n[1 + (i + j * 3) % 9]), ' ') AS body
  FROM generate_series(1, :documents) i, generate_series(1, 12) j,
       (SELECT string_to_array('cat dog bird fish child king river stone moon', ' ') AS n, string_to_array('sees likes finds follows hears', ' ') AS v) w
 GROUP BY i;
SELECT tlaw_create_corpus('tales', 'body') \gset
SELECT count(*) AS runs FROM (
    SELECT tlaw_train('tales', study => 'gpu', n_layer => 1, n_head => 2, d_model => 32, context_length => 32, batch_size => :batch, steps => :steps,
                      eval_tokens => :eval, train_tokens => n, subset_seed => k)
      FROM tlaw_log_series(1000, 10000, 4) n, generate_series(1, 2) k) t \gset
CALL tlaw_wait('gpu');
SELECT CASE WHEN count(*) = 8 THEN 'ok' ELSE 'not ok' END || ' 1 - ' || count(*) || ' of 8 runs are done on cuda:0 in bf16, '
    || coalesce((SELECT min(error) FROM tlaw_runs WHERE study = 'gpu'), 'no error')
  FROM tlaw_runs WHERE study = 'gpu' AND status = 'done' AND device = 'cuda:0' AND "precision" = 'bf16';
SELECT format('# %s tokens: test loss %s, %s tokens/s, mfu %s', train_tokens, round(test_loss::numeric, 4), round(tokens_per_second), round(mfu::numeric, 4))
  FROM tlaw_runs WHERE study = 'gpu' ORDER BY train_tokens, subset_seed;
SELECT tlaw_train('tales', study => 'cpu', device => 'cpu', "precision" => 'float32', n_layer => 1, n_head => 2, d_model => 32, context_length => 32,
                  batch_size => :batch, steps => :steps, eval_tokens => :eval, train_tokens => 10000, subset_seed => 1) AS cpu \gset
CALL tlaw_wait(:cpu);
SELECT CASE WHEN abs(g.test_loss / c.test_loss - 1) < 0.005 THEN 'ok' ELSE 'not ok' END || format(' 2 - test loss %s, on the CPU %s', g.test_loss, c.test_loss)
  FROM tlaw_runs g, tlaw_runs c WHERE g.study = 'gpu' AND g.train_tokens = c.train_tokens AND g.subset_seed = 1 AND c.run_id = :cpu;
SELECT CASE WHEN count(*) > 0 THEN 'ok' ELSE 'not ok' END || ' 3 - ' || count(*) || ' forms fitted, alpha ' || string_agg(round(alpha::numeric, 3)::text, ', ')
  FROM tlaw_fit('gpu', x => 'train_tokens');
CREATE TABLE points AS SELECT array_agg(sin(i * 0.021 * (1 + j % 9))::real ORDER BY j) AS x
  FROM generate_series(1, 300) i, generate_series(1, 11264) j GROUP BY i;
SELECT md5(d::text) AS on_gpu FROM tlaw_dimension('points', 'x', estimator => 'mackay', k => 10) d \gset
SET tlaw.device = 'cpu';
SELECT CASE WHEN md5(d::text) = :'on_gpu' THEN 'ok' ELSE 'not ok' END || ' 4 - a dimension of ' || round(dimension::numeric, 3) || ' on both devices'
  FROM tlaw_dimension('points', 'x', estimator => 'mackay', k => 10) d;
SELECT '1..4';
