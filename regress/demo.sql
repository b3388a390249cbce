-- A data-scaling study, from a table of text to a slope.
\set QUIET on
SET client_min_messages = warning;
\pset footer off
CREATE EXTENSION tlaw;
CREATE TABLE manual (page text, body text);
\copy manual FROM pstdin
SET client_min_messages = notice;

\echo '== Freeze the text: tokenise, split by page, hash'
SELECT tlaw_create_corpus('manual', 'body', group_column => 'page', validation_fraction => 0.03, test_fraction => 0.03);
SELECT corpus, documents, tokens, train_tokens, vocab_size, tokenizer FROM tlaw_corpora;

\echo '== Submit 21 runs: 7 sizes of training set, 3 replicates, each with a random subset of its own'
SELECT count(tlaw_train('manual', study => 'demo', n_layer => 2, d_model => 64, context_length => 128, batch_size => 4,
                        train_tokens => n, subset_seed => k, seed => k, steps => least(n * 64, 2.5e6)::int / 512)) AS runs
FROM tlaw_log_series(1e4, 2e6, 7) n, generate_series(1, 3) k;

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

\echo '== What the best model writes'
SELECT run_id, test_loss FROM tlaw_runs WHERE study = 'demo' AND status = 'done' ORDER BY test_loss LIMIT 1 \gset
SELECT tlaw_generate(:run_id, 'To create a table', max_tokens => 300) AS text;

\echo '== The plot: tlaw_demo.svg'
SELECT tlaw_plot('demo') \g (format=unaligned tuples_only=on) tlaw_demo.svg
