-- Plots: what is drawn, and what is refused.
-- the checks read the documents as XML, which not every server can
SELECT setting NOT LIKE '%--with-libxml%' AS without_xml FROM pg_config WHERE name = 'CONFIGURE' \gset
\if :without_xml
\echo 'SKIP: this server was built without libxml'
\quit
\endif
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS tlaw;
-- how many elements of a class a document has; it must be XML
CREATE FUNCTION marks(document text, class text) RETURNS int LANGUAGE sql AS
    $$ SELECT (xpath('count(//*[@class="' || class || '"])', document::xml))[1]::text::int $$;
CREATE FUNCTION legend(document text) RETURNS text LANGUAGE sql AS
    $$ SELECT string_agg((xpath('string(.)', entry))[1]::text, E'\n') FROM unnest(xpath('//*[@class="legend"]', document::xml)) entry $$;

-- a study of 7 sizes, 3 replicates each, that obeys loss = 1 + 30 n^-0.28 with noise
SELECT count(tlaw_record_run('plot <law> & "é"', train_tokens => n, subset_seed => k, n_params => 1e5,
           test_loss => (1 + 30 * n ^ -0.28) * exp(0.004 * sin(17 * i + 5 * k))))
  FROM (SELECT i, round(2e4 * 10 ^ (i / 3.0)) AS n FROM generate_series(0, 6) i) sizes, generate_series(1, 3) k;
SELECT tlaw_plot('plot <law> & "é"') AS svg \gset
SELECT marks(:'svg', 'point') - 1 AS points, marks(:'svg', 'dot') AS dots, marks(:'svg', 'bar') AS bars,
       marks(:'svg', 'line') AS lines, marks(:'svg', 'band') AS bands, marks(:'svg', 'tick') > 8 AS ticks,
       :'svg' ~ '^[\x01-\x7e]*$' AS ascii, :'svg' LIKE '%>plot &#60;law&#62; &#38; &#34;&#233;&#34;<%' AS title;
SELECT (xpath('//*[contains(text(), "Test loss")]/text()', :'svg'::xml))[1] AS y_title,
       (xpath('//*[contains(text(), "Training tokens")]/text()', :'svg'::xml))[1] AS x_title;
-- its law is the aggregate's
SELECT legend(:'svg') LIKE '%α = ' || round(alpha::numeric, 3) || ' [' || round(alpha_low::numeric, 3) || ', '
                           || round(alpha_high::numeric, 3) || '], E = ' || trim_scale(round(irreducible::numeric, 3)) || '%' AS same,
       abs(alpha - 0.28) < 0.03 AS true_alpha
  FROM (SELECT (tlaw_power_law_offset(train_tokens, test_loss, subset_seed)).* FROM tlaw_runs WHERE study LIKE 'plot <law>%') fit;
-- the theory's line, series
SELECT legend(tlaw_plot('plot <law> & "é"', dimension => 8)) LIKE '%theory: α ≥ 0.200 (dimension 8, smoothness 1)%' AS data,
       legend(tlaw_plot('plot <law> & "é"', dimension => 4, smoothness => 0.5)) LIKE '%theory: α ≥ 0.200 (dimension 4, smoothness 0.5)%' AS smooth;
SELECT tlaw_plot('plot <law> & "é"', by => 'subset_seed', dimension => 8) AS svg \gset
SELECT marks(:'svg', 'point') - 3 AS points, marks(:'svg', 'dot') AS dots, marks(:'svg', 'line') AS lines,
       regexp_replace(legend(:'svg'), ':[^\n]*', '', 'g') AS series;
-- runs of one subset share its noise: no interval, as in tlaw_fit
SELECT legend(:'svg') LIKE '%(one subset_seed: no interval)%' AS said, marks(:'svg', 'band') AS bands;
-- nor is a law drawn that its replicates refuse without saying so
SELECT count(tlaw_record_run('plot lack', train_tokens => 1e4 * 4 ^ i, subset_seed => k,
           test_loss => (1.7 + 2.0 ^ -i) * (1 + 0.02 * (-1) ^ i + 0.002 * sin(17 * i + 5 * k)))) FROM generate_series(0, 6) i, generate_series(1, 3) k;
SELECT legend(tlaw_plot('plot lack'));
-- too few runs for a law say so
SELECT tlaw_record_run('plot two', train_tokens => n, test_loss => 3, test_loss_se => 0.1) > 0 AS recorded FROM unnest('{1e4, 1e5}'::float8[]) n;
SELECT marks(tlaw_plot('plot two'), 'line') AS lines, marks(tlaw_plot('plot two'), 'bar') AS bars, legend(tlaw_plot('plot two'));

-- and so do runs that do not identify one
SELECT count(tlaw_record_run('plot step', train_tokens => n, test_loss => loss))
  FROM unnest('{1e4, 2e4, 5e4, 12e4}'::float8[], '{4.94, 4.55, 4.5, 4.84}'::float8[]) s(n, base), generate_series(0, 2) k, LATERAL (SELECT base + 0.02 * k) l(loss);
SELECT legend(tlaw_plot('plot step'));

-- a frozen plan's smoothness
SELECT tlaw_create_study('plot plan', smoothness => 0.5);
SELECT count(tlaw_record_run('plot plan', train_tokens => 1e4 * 4 ^ i, test_loss => 1 + 0.5 ^ i)) FROM generate_series(0, 5) i;
SELECT legend(tlaw_plot('plot plan', dimension => 4)) LIKE '%theory: α ≥ 0.200 (dimension 4, smoothness 0.5)' AS planned;

-- compute: the frontier; runs of equal compute are not replicates of each other
SELECT count(tlaw_record_run('plot grid', n_params => n, train_tokens => d, flops => 6 * n * d,
                             test_loss => 1.69 + 406 / n ^ 0.34 + 410 / d ^ 0.28))
  FROM unnest('{1e6, 1e7, 1e8}'::float8[]) n, unnest('{1e8, 1e9, 1e10}'::float8[]) d;
SELECT marks(tlaw_plot('plot grid', 'flops'), 'point') AS markers, marks(tlaw_plot('plot grid', 'flops'), 'line') AS lines,
       legend(tlaw_plot('plot grid', 'flops')) AS legend;
SELECT legend(tlaw_plot('plot grid', 'flops', by => 'n_params'));
-- counts of one legend are shortened alike, as far as that tells them apart
SELECT count(tlaw_record_run('plot counts', train_tokens => d, n_params => n, seed => 12345, test_loss => 2))
  FROM unnest('{1e6, 1e7}'::float8[]) n, unnest('{2500, 10000, 24183, 141421, 2e6}'::float8[]) d;
SELECT count(tlaw_record_run('plot close', train_tokens => d, test_loss => 2)) FROM unnest('{9000, 24181, 24183}'::float8[]) d;
SELECT count(tlaw_record_run('plot small', train_tokens => d, test_loss => 2)) FROM unnest('{90, 2418}'::float8[]) d;
SELECT regexp_replace(legend(tlaw_plot('plot ' || s, x, 'test_loss', b)), ': no law[^\n]*', '', 'g') AS series
  FROM (VALUES ('counts', 'n_params', 'train_tokens'), ('counts', 'n_params', 'flops'), ('counts', 'n_params', 'seed'),
               ('close', 'train_tokens', 'train_tokens'), ('small', 'train_tokens', 'train_tokens')) v(s, x, b);
SELECT legend(tlaw_plot('plot grid', 'train_tokens', dimension => 8));
SELECT legend(tlaw_plot('plot grid', 'n_params', by => 'train_tokens', dimension => 8)) LIKE '%theory: α ≥ 0.250 (dimension 8, smoothness 1)' AS model_scaling;

-- loss curves
INSERT INTO tlaw_run_loss (run_id, step, tokens_seen, val_loss, train_loss)
    SELECT run_id, s, s * 1000, 2 + 3 / (s + 1), 2 FROM tlaw_runs, generate_series(0, 40, 10) s WHERE study LIKE 'plot %';
SELECT tlaw_plot('plot grid', 'step') AS svg \gset
SELECT marks(:'svg', 'line') AS lines, legend(:'svg') ~ '^(run \d+\n?){9}$' AS legend, :'svg' LIKE '%Validation loss (nats per token)%' AS y;
SELECT marks(svg, 'line') AS lines, legend(svg) AS legend
  FROM tlaw_plot('plot grid', 'tokens_seen', 'train_loss', 'n_params') AS svg;
SELECT marks(svg, 'line') AS lines, legend(svg) AS legend, svg LIKE '%21 runs, a line each%' AS note
  FROM tlaw_plot('plot <law> & "é"', 'step') AS svg;

-- any query
SELECT tlaw_plot_query($$ SELECT layer, 5 + layer AS dimension, 4 + layer, 7 + layer, metric
                            FROM generate_series(0, 12) layer, unnest('{cosine, euclidean}'::text[]) metric
                           UNION ALL SELECT NULL, 1, 1, 1, 'cosine' $$, 'd by layer') AS svg \gset
SELECT marks(:'svg', 'point') - 2 AS points, marks(:'svg', 'bar') AS bars, marks(:'svg', 'line') AS lines, legend(:'svg') AS legend,
       :'svg' LIKE '%>layer<%' AND :'svg' LIKE '%>dimension<%' AND :'svg' LIKE '%>d by layer<%' AS titles;
SELECT marks(tlaw_plot_query('SELECT x, x * x FROM generate_series(1, 5) x', log_x => true, log_y => true), 'point') AS points,
       marks(tlaw_plot_query('SELECT x, x * x, x % 2 = 0 FROM generate_series(1, 5) x'), 'line') AS lines,
       marks(tlaw_plot_query('SELECT 1, 2.5::numeric, NULL::real, 3'), 'bar') AS bars;

-- a run whose dimension was looked for and not found says why
INSERT INTO tlaw_run_dimension_record (run_id, layer, protocol, exclude_document, untrained, metric, estimator, message)
SELECT min(run_id), 1, 'pooled', true, false, 'cosine', 'calibrated', 'too few points' FROM tlaw_runs WHERE study = 'plot two';
DO $$ BEGIN PERFORM tlaw_plot_dimension(min(run_id)) FROM tlaw_runs WHERE study = 'plot two'; EXCEPTION WHEN OTHERS THEN
    RAISE WARNING '%', regexp_replace(sqlerrm, '\d+', 'N');
END $$;

-- bad input
SELECT tlaw_plot(NULL);
SELECT tlaw_plot('plot grid', NULL);
SELECT tlaw_plot('plot nobody');
DO $$ BEGIN PERFORM tlaw_plot('plot grid', 'tokens'); EXCEPTION WHEN OTHERS THEN
    DECLARE accepted text; hint text; BEGIN
        GET STACKED DIAGNOSTICS accepted = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        RAISE WARNING '%: % %', sqlerrm, accepted ~ '^Numeric columns of tlaw_runs: .*train_tokens.*\.$' AND accepted !~ 'status', hint;
    END;
END $$;
\set VERBOSITY terse
SELECT tlaw_plot('plot grid', 'tokens');
SELECT tlaw_plot('plot grid', 'status');
SELECT tlaw_plot('plot grid', y => 'loss; DROP TABLE tlaw_run');
SELECT tlaw_plot('plot grid', 'step', 'test_loss');
SELECT tlaw_plot('plot grid', by => 'size');
\set VERBOSITY default
SELECT tlaw_plot('plot grid', y => 'val_loss');
SELECT tlaw_plot('plot grid', 'n_params', by => 'd_model', dimension => -1);
SELECT tlaw_plot('plot grid', dimension => 8, smoothness => 0);
SELECT tlaw_plot('plot grid', 'flops', dimension => 8);
SELECT tlaw_plot('plot <law> & "é"', by => 'run_id');
SELECT tlaw_plot_query(NULL);
SELECT tlaw_plot_query('SELECT 1');
SELECT tlaw_plot_query('SELECT 1, ''a''');
SELECT tlaw_plot_query('SELECT 1, 2, 3, 4, 5, 6');
SELECT tlaw_plot_query('SELECT 1, 2 WHERE false');
SELECT tlaw_plot_query('SELECT 0 AS step, 2', log_x => true);
SELECT tlaw_plot_query('SELECT 1, float8 ''NaN'' AS loss');
SELECT tlaw_plot_query('SELECT 1, 1e301');
SELECT tlaw_plot_query('SELECT x, x, x FROM generate_series(1, 13) x');
SELECT tlaw_plot_query('DELETE FROM tlaw_run');
SELECT tlaw_plot_query('SET work_mem = 64');
SELECT tlaw_plot_query('');
-- others' runs are not plotted
CREATE ROLE plot_stranger;
SET ROLE plot_stranger;
SELECT tlaw_plot('plot grid');
SELECT tlaw_plot_query('SELECT run_id, train_tokens FROM tlaw_run');
RESET ROLE;
DROP ROLE plot_stranger;
SELECT sum(tlaw_drop_study(study)) FROM (SELECT DISTINCT study FROM tlaw_runs WHERE study LIKE 'plot %') s;
