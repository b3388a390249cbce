-- A data-scaling study, from a table of text to a slope.
\set QUIET on
SET client_min_messages = warning;
\pset footer off
CREATE EXTENSION tlaw;
CREATE TABLE manual (page text, body text);
\copy manual FROM PROGRAM 'cat "$TLAW_DEMO_TEXT"'
SET client_min_messages = notice;

\echo '== Freeze the text: tokenise, split by page, hash'
SELECT tlaw_create_corpus('manual', 'body', group_column => 'page', validation_fraction => 0.03, test_fraction => 0.03);
SELECT corpus, documents, tokens, train_tokens, vocab_size, tokenizer FROM tlaw_corpora;

\echo '== Submit 21 runs: 7 sizes of training set, 3 replicates, each with a random subset of its own'
SELECT count(tlaw_train('manual', study => 'demo', n_layer => 2, d_model => 64, context_length => 128, batch_size => 4,
                        train_tokens => n, subset_seed => 3 * i + k, seed => k, steps => least(n * 64, 2.5e6)::int / 512)) AS runs
FROM tlaw_corpora, tlaw_log_series(1e4, least(2e6, train_tokens), 7) WITH ORDINALITY AS sizes(n, i), generate_series(1, 3) k;

\echo '== Workers train; wait for them'
CALL tlaw_wait('demo');

\echo '== Loss against training tokens'
SELECT train_tokens, count(*) AS runs, round(avg(epochs)::numeric, 1) AS epochs,
       round(avg(test_loss)::numeric, 4) AS test_loss, round(stddev(test_loss)::numeric, 4) AS sd,
       round(avg(bits_per_byte)::numeric, 3) AS bits_per_byte, round(avg(val_loss)::numeric, 4) AS val_loss
FROM tlaw_runs WHERE study = 'demo' AND status = 'done' GROUP BY train_tokens ORDER BY train_tokens;

\echo '== The apparent slope: log(loss) against log(tokens), with no irreducible loss'
SELECT round(-regr_slope(ln(test_loss), ln(train_tokens))::numeric, 4) AS apparent_alpha_d,
       round(regr_r2(ln(test_loss), ln(train_tokens))::numeric, 4) AS r2
FROM tlaw_runs WHERE study = 'demo' AND status = 'done';

\echo '== Fits with their intervals: without and with an irreducible loss'
SELECT form, round(alpha::numeric, 4) AS alpha, round(alpha_low::numeric, 4) AS alpha_low, round(alpha_high::numeric, 4) AS alpha_high,
       round(irreducible::numeric, 3) AS irreducible, converged
FROM tlaw_fit('demo', x => 'train_tokens', forms => ARRAY['power_law', 'power_law_offset']);

SELECT run_id FROM tlaw_runs WHERE study = 'demo' AND status = 'done' ORDER BY test_loss LIMIT 1 \gset
\echo '== Intrinsic dimension of the text, in the last block of the best model'
SELECT metric, protocol, CASE WHEN exclude_document THEN 'other documents' ELSE 'anywhere' END AS neighbours,
       round(dimension::numeric, 2) AS dimension, round(dimension_low::numeric, 2) AS low, round(dimension_high::numeric, 2) AS high, plateau, n
FROM tlaw_run_dimension(:run_id, 2) WHERE position_group IS NULL;

\echo '== The theory: alpha_D = 2/(2 + d) bounds the excess risk; observed against predicted'
SELECT dimension_metric AS metric, round(assumed_dimension::numeric, 2) AS d, plateau, round(alpha::numeric, 3) AS alpha,
       round(predicted::numeric, 3) AS predicted, round(difference_low::numeric, 3) AS difference_low,
       round(difference_high::numeric, 3) AS difference_high, verdict
FROM tlaw_theory_test('demo')
WHERE form = 'power_law_offset' AND dimension_estimator = 'calibrated, pooled, neighbours from other documents' AND variable = 'train_tokens';

\echo '== What the best model writes'
\pset format unaligned
\pset tuples_only on
SELECT 'To create a table' || tlaw_generate(:run_id, 'To create a table', max_tokens => 300);

\echo
\echo '== The plots: tlaw_demo.svg, tlaw_demo_curves.svg'
SELECT tlaw_plot('demo') \g tlaw_demo.svg
SELECT tlaw_plot('demo', 'tokens_seen', by => 'train_tokens') \g tlaw_demo_curves.svg
