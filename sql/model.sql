-- Using a model: losses, text, hidden states, weights; devices; good and bad input.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS tlaw;
ALTER TABLE tlaw_run ALTER run_id RESTART 900001; -- for the messages
CREATE TABLE nights (id int, body text);
INSERT INTO nights
SELECT i, 'Once upon night ' || i || ' the ' || (ARRAY['crow', 'fox', 'lion', 'mouse', 'wolf'])[1 + i % 5] || ' saw ' || i % 17 || ' stars. '
  FROM generate_series(1, 600) i;
SELECT tlaw_create_corpus('nights', 'body');
SELECT tlaw_train('nights', n_layer => 2, n_head => 2, d_model => 32, context_length => 32, steps => 40, batch_size => 4,
                  train_tokens => 10000) AS run \gset
SELECT tlaw_train('nights', n_layer => 1, n_head => 1, d_model => 16, context_length => 16, steps => 2, batch_size => 1,
                  train_tokens => 1000, checkpoint => 'none') AS bare \gset
CALL tlaw_wait(:run);
CALL tlaw_wait(:bare);
SELECT run_id, status, error FROM tlaw_runs WHERE corpus = 'nights' ORDER BY run_id;

-- losses: of the validation documents, of any table; the same call gives the same bits
SELECT loss > 0 AND loss < ln(257) AS loss, loss_se > 0 AND loss_se < 0.2 AS loss_se,
       round((bits_per_byte * ln(2) * bytes / tokens / loss)::numeric, 6) AS units, bits_per_byte_se > 0 AS bits_se,
       tokens = (SELECT validation_tokens FROM tlaw_corpora WHERE corpus = 'nights') AS tokens,
       documents = (SELECT validation_documents FROM tlaw_corpora WHERE corpus = 'nights') AS documents
  FROM tlaw_validation_loss(:run);
SELECT a.loss = b.loss AND a.loss_se = b.loss_se AS same, a.loss = val_loss_min AS as_in_training
  FROM tlaw_validation_loss(:run) a, tlaw_validation_loss(:run) b, tlaw_runs WHERE run_id = :run;
SELECT tokens = bytes + documents AS tokens, bytes = (SELECT sum(length(body)) FROM nights) AS bytes, documents
  FROM tlaw_validation_loss(:run, 'nights', 'body');
CREATE VIEW noise AS SELECT md5(i::text) AS body FROM generate_series(1, 50) i UNION ALL SELECT NULL UNION ALL SELECT '';
SELECT n.loss > v.loss AS noise_is_harder, n.documents FROM tlaw_validation_loss(:run, 'noise', 'body') n, tlaw_validation_loss(:run) v;
CREATE VIEW one AS SELECT 'a single text' AS body;
SELECT loss > 0 AS loss, loss_se IS NULL AS no_error_of_one, documents FROM tlaw_validation_loss(:run, 'one', 'body');

-- text: as long as asked, the same for the same seed
SELECT length(t) BETWEEN 1 AND 50 AS length, t = tlaw_generate(:run, 'Once', 50) AS same,
       t <> tlaw_generate(:run, 'Once', 50, seed => 1) AS other_seed
  FROM tlaw_generate(:run, 'Once', max_tokens => 50) t;
SELECT tlaw_generate(:run, 'Once', 20, temperature => 0) = tlaw_generate(:run, 'Once', 20, top_k => 1, seed => 5) AS likeliest;
SELECT tlaw_generate(:run, 'Once', 20, temperature => 0) = tlaw_generate(:run, 'Once', 20, top_p => 1e-6, seed => 5) AS likeliest;
SELECT tlaw_generate(:run, repeat('long prompt ', 100), 10) IS NOT NULL AS long_prompt, tlaw_generate(:run) IS NOT NULL AS no_prompt;
SELECT bool_and(convert_from(convert_to(tlaw_generate(:run, '', 40, temperature => 50, seed => s), 'UTF8'), 'UTF8') IS NOT NULL) AS valid
  FROM generate_series(1, 3) s;

-- hidden states
SELECT count(*) = (SELECT sum(least(32, length(body) + 1)) FROM nights WHERE id <= 7) AS all_positions,
       count(DISTINCT document) AS documents, min(document), min("position"), max("position"),
       bool_and(cardinality(embedding) = 32) AS d_model
  FROM tlaw_embeddings(:run, 2, 'nights', 'body', max_documents => 7);
SELECT count(*), count(DISTINCT document), count(DISTINCT (document, "position")), max("position") <= 20 AS prefix
  FROM tlaw_embeddings(:run, 3, part => 'test', positions => 2, prefix => 20, max_documents => 5, seed => 4);
SELECT count(DISTINCT document) = (SELECT validation_documents FROM tlaw_corpora WHERE corpus = 'nights') AS validation
  FROM tlaw_embeddings(:run, 0, positions => 1);
SELECT count(*) AS differ FROM tlaw_embeddings(:run, 1, positions => 1, max_documents => 9) a
  JOIN tlaw_embeddings(:run, 2, positions => 1, max_documents => 9) b USING (document, "position") WHERE a.embedding <> b.embedding;
SELECT array_agg(document ORDER BY document) FROM tlaw_embeddings(:run, 1, 'noise', 'body', positions => 1) WHERE document > 48;

-- weights: a safetensors file that names GPT-2's tensors
SELECT length(file) > 4 * 30000 AS length, header ? 'wte.weight' AS wte, header -> 'h.1.attn.c_attn.weight' -> 'shape' AS c_attn,
       header -> 'wpe.weight' ->> 'dtype' AS dtype
  FROM (SELECT file, convert_from(substr(file, 9, get_byte(file, 0) + 256 * get_byte(file, 1)), 'UTF8')::jsonb AS header
          FROM tlaw_export(:run) file) e;

-- devices
SELECT device, isa <> '' AS isa, "precision" IN ('float32', 'bf16') AS precision, cores >= 1 AS cores, memory > 0 AS memory, gflops > 0 AS gflops, usable, reason
  FROM tlaw_devices() WHERE isa = 'portable';
SET tlaw.cpu_isa = 'sse';
SET tlaw.cpu_isa = '';
RESET tlaw.cpu_isa;

-- bad input
SELECT * FROM tlaw_validation_loss(NULL);
SELECT * FROM tlaw_validation_loss(0);
SELECT * FROM tlaw_validation_loss(:bare);
SELECT * FROM tlaw_validation_loss(:run, 'nights');
SELECT * FROM tlaw_validation_loss(:run, text_column => 'body');
SELECT * FROM tlaw_validation_loss(:run, 'nights', 'id');
CREATE VIEW nothing AS SELECT NULL::text AS body;
SELECT * FROM tlaw_validation_loss(:run, 'nothing', 'body');
SELECT tlaw_generate(0);
SELECT tlaw_generate(:run, max_tokens => 0);
SELECT tlaw_generate(:run, max_tokens => 1.5);
SELECT tlaw_generate(:run, temperature => -1);
SELECT tlaw_generate(:run, temperature => 'NaN');
SELECT tlaw_generate(:run, top_k => 70000);
SELECT tlaw_generate(:run, top_p => 0);
SELECT tlaw_generate(:run, seed => -1);
SELECT tlaw_generate(NULL) IS NULL AS nothing;
SELECT * FROM tlaw_embeddings(:run, NULL);
SELECT * FROM tlaw_embeddings(:run, 4);
SELECT * FROM tlaw_embeddings(:run, 1, part => 'train');
SELECT * FROM tlaw_embeddings(:run, 1, 'nights', 'body', part => 'test');
SELECT * FROM tlaw_embeddings(:run, 1, positions => 0);
SELECT * FROM tlaw_embeddings(:run, 1, positions => 33);
SELECT * FROM tlaw_embeddings(:run, 1, prefix => 33);
SELECT * FROM tlaw_embeddings(:run, 1, max_documents => 0);
SELECT tlaw_export(0);
\set SHOW_CONTEXT never
SELECT tlaw_run_dimension(:run, batch => 'NaN');
SELECT tlaw_run_dimension(:run, layer => 4);
SELECT tlaw_run_dimension(:run, positions => 'Infinity');
\set SHOW_CONTEXT errors
INSERT INTO tlaw_run (owner, status) VALUES (current_user, 'done') RETURNING run_id AS recorded \gset
SELECT tlaw_export(:recorded);
SELECT tlaw_drop_run(:recorded);

-- damaged weights are not used
BEGIN;
UPDATE tlaw_checkpoint_chunk SET data = set_byte(data, length(data) - 1, get_byte(data, length(data) - 1) # 1) WHERE run_id = :run;
SELECT length(tlaw_export(:run));
ROLLBACK;
BEGIN;
UPDATE tlaw_checkpoint_chunk SET data = set_byte(data, length(data) - 1, get_byte(data, length(data) - 1) # 1) WHERE run_id = :run;
SELECT tlaw_generate(:run);
ROLLBACK;

-- only one's own runs, and only those who may start engines
CREATE ROLE regress_tlaw_user;
SET ROLE regress_tlaw_user;
SELECT tlaw_generate(:run);
SELECT tlaw_validation_loss(:run);
SELECT tlaw_embeddings(:run, 1);
SELECT tlaw_devices();
SELECT tlaw_export(:run);
RESET ROLE;
GRANT EXECUTE ON FUNCTION tlaw_generate, tlaw_validation_loss TO regress_tlaw_user;
SET ROLE regress_tlaw_user;
SELECT tlaw_generate(:run);
RESET ROLE;
UPDATE tlaw_run SET owner = 'regress_tlaw_user' WHERE run_id = :run;
SET ROLE regress_tlaw_user;
SELECT tlaw_generate(:run, 'Once', 5) IS NOT NULL AS own;
SELECT * FROM tlaw_validation_loss(:run, 'nights', 'body');
SELECT length(tlaw_export(:run)) > 0 AS own;
RESET ROLE;

SELECT tlaw_drop_run(:run), tlaw_drop_run(:bare), tlaw_drop_corpus('nights');
SELECT setval(pg_get_serial_sequence('tlaw_run', 'run_id'), coalesce(max(run_id), 0) + 1, false) > 0 AS ids FROM tlaw_run;
DROP VIEW noise, one, nothing;
DROP TABLE nights;
DROP OWNED BY regress_tlaw_user;
DROP ROLE regress_tlaw_user;
