-- The numbers of intrinsic dimensions: known sets, metrics, this process against an engine, and a run's hidden states.
SELECT no_plan();

-- a sphere of dimension 3, points normal deviates of a fixed generator
SELECT setseed(0.25) \gset
CREATE TABLE sphere AS
SELECT i, i / 4 AS document, ARRAY[a, b, c, d] AS x
  FROM (SELECT i, sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) AS a, sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) AS b,
               sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) AS c, sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) AS d
          FROM generate_series(1, 3000) i) t;
CREATE TABLE unit AS SELECT i, document, ARRAY(SELECT v / sqrt(x[1] ^ 2 + x[2] ^ 2 + x[3] ^ 2 + x[4] ^ 2) FROM unnest(x) v) AS x FROM sphere;

SELECT ok(abs(dimension - 3) < 3 * dimension_se + 0.1 AND dimension_se BETWEEN 0.02 AND 0.1, e || ': about 3')
  FROM unnest(ARRAY['calibrated', 'mackay', 'twonn', 'twonn_mle', 'twonn_bayes', 'gride', 'mind']) e,
       LATERAL tlaw_dimension('unit', 'x', estimator => e, k => CASE WHEN e = 'mackay' THEN 10 WHEN e = 'mind' THEN 5 END);
SELECT ok(dimension BETWEEN 2.7 AND 3.4, e || ': about 3')
  FROM unnest(ARRAY['levina_bickel', 'correlation', 'danco', 'geomle', 'persistent_homology', 'local_pca']) e,
       LATERAL tlaw_dimension('unit', 'x', estimator => e);
SELECT ok(abs(dimension - 4) < 0.05, e || ': about 4 directions') FROM unnest(ARRAY['pca', 'participation_ratio']) e, LATERAL tlaw_dimension('unit', 'x', estimator => e);

-- 1 - cos halves every ratio estimator; the angle does not; lengths do not matter to either
SELECT a.dimension AS euclidean, b.dimension AS cosine, c.dimension AS angular, d.dimension AS scaled
  FROM tlaw_dimension('unit', 'x', estimator => 'mackay') a, tlaw_dimension('unit', 'x', estimator => 'mackay', metric => 'cosine') b,
       tlaw_dimension('unit', 'x', estimator => 'mackay', metric => 'angular') c, tlaw_dimension('sphere', 'x', estimator => 'mackay', metric => 'cosine') d \gset
SELECT ok(abs(2 * :cosine - :euclidean) < 1e-9, 'cosine: half');
SELECT ok(abs(:angular - :euclidean) BETWEEN 1e-6 AND 0.1, 'angular: nearly as it is');
SELECT ok(abs(:scaled - :cosine) < 1e-9, 'lengths do not matter');

-- in this process and in an engine: the same numbers
CREATE TABLE small AS SELECT i, x FROM unit WHERE i <= 1000;
CREATE TABLE wide AS SELECT i, x || array_fill(0::float8, ARRAY[1500]) AS x FROM small;      -- the same distances, more work
SELECT ok(abs(b.dimension - a.dimension) < 1e-9 AND abs(b.dimension_se - a.dimension_se) < 1e-9,
          e || ': in an engine as in this process, and its error')
  FROM unnest(ARRAY['calibrated', 'levina_bickel', 'twonn', 'gride', 'correlation', 'geomle', 'persistent_homology']) e,
       LATERAL tlaw_dimension('small', 'x', estimator => e) a, LATERAL tlaw_dimension('wide', 'x', estimator => e) b;
SELECT ok(abs((a).dimension - (b).dimension) < 1e-9, 'the aggregate likewise, whatever the order')
  FROM (SELECT tlaw_intrinsic_dimension(x, 'geomle' ORDER BY i) AS a FROM small) s, (SELECT tlaw_intrinsic_dimension(x, 'geomle' ORDER BY -i) AS b FROM wide) w;
-- real[] and float8[] of the same values; an offset of 1,000 where the sums are exact
CREATE TABLE steps AS SELECT i, ARRAY(SELECT round((v * 4096)::numeric) / 4096 FROM unnest(x) v)::float8[] AS x FROM small;
CREATE TABLE moved AS SELECT i, ARRAY(SELECT v + 1000 FROM unnest(x) v)::real[] AS x FROM steps;
SELECT is(b.dimension, a.dimension, 'an offset of 1,000 changes nothing') FROM tlaw_dimension('steps', 'x', estimator => 'twonn') a, tlaw_dimension('moved', 'x', estimator => 'twonn') b;

-- clusters: dependent points widen the interval; neighbours of one's own cluster halve the estimate
CREATE TABLE walks AS
SELECT document, ARRAY[x[1] + s * 1e-3, x[2] + random() * 1e-5, x[3]] AS x FROM (SELECT * FROM unit WHERE i % 10 = 0) u, generate_series(1, 10) s;
SELECT a.dimension AS inside, b.dimension AS outside FROM tlaw_dimension('walks', 'x', estimator => 'mackay', k => 9, cluster_column => 'document') a,
       tlaw_dimension('walks', 'x', estimator => 'mackay', k => 20, cluster_column => 'document', exclude_cluster => true) b \gset
SELECT cmp_ok(:inside::float8, '<', 1.2::float8, 'points of one document lie on a line');
SELECT cmp_ok(:outside::float8, '>', 1.8::float8, 'without them: the set the lines are spread over');

-- samples and controls
SELECT is(n, 500::bigint, 'a sample has its size') FROM tlaw_dimension('unit', 'x', sample => 500);
CREATE TABLE profile AS SELECT * FROM tlaw_dimension_profile('small', 'x');
SELECT ok(abs(dimension - 4) < 0.5, 'the Gaussian control fills its four coordinates') FROM profile WHERE control = 'gaussian' AND profile = 'n' AND n = 1000;
SELECT ok(abs(dimension - 3) < 0.3, 'the known control reads its dimension') FROM profile WHERE control = 'known' AND profile = 'n' AND n = 1000;
SELECT ok(dimension BETWEEN 2.6 AND 3.3, 'the plateau is near 3') FROM profile WHERE control IS NULL AND profile = 'plateau';
SELECT is(array_agg(n ORDER BY n), '{125,250,500,1000}'::bigint[], 'sizes halve') FROM profile WHERE control IS NULL AND profile = 'n';
CREATE TABLE bent AS SELECT ARRAY[x[1], x[2] * 0.05, x[3] * 0.0025] AS x FROM small;
SELECT is(count(*), 1::bigint, 'where no scale is flat: no answer, and the reason') FROM tlaw_dimension_profile('bent', 'x', largest_k => 128)
 WHERE control IS NULL AND profile = 'plateau' AND (dimension IS NULL) = (message LIKE 'no plateau%');

-- a column of pgvector's types, where it is installed and has both
DO $$ BEGIN
    CREATE EXTENSION vector;
EXCEPTION WHEN feature_not_supported OR undefined_file THEN
    NULL;
END $$;
SELECT to_regtype('halfvec') IS NOT NULL AS pgvector \gset
\if :pgvector
CREATE TABLE items AS SELECT i, x::real[]::vector(4) AS embedding, x::real[]::vector(4)::halfvec(4) AS half FROM small;
SELECT is(b.dimension, a.dimension, 'a vector column: as real[]') FROM tlaw_dimension('items', 'embedding') b, (SELECT (tlaw_intrinsic_dimension(x::real[])).* FROM small) a;
SELECT is(b.dimension, a.dimension, 'in the aggregate too') FROM tlaw_dimension('items', 'embedding') b, (SELECT (tlaw_intrinsic_dimension(embedding)).* FROM items) a;
SELECT is(b.dimension, a.dimension, 'a halfvec column: as real[]') FROM tlaw_dimension('items', 'half') b, (SELECT (tlaw_intrinsic_dimension(half::real[])).* FROM items) a;
SELECT ok(count(*) > 20, 'a profile of it') FROM tlaw_dimension_profile('items', 'embedding') WHERE dimension > 0;
\else
SELECT skip('pgvector 0.7 or later is not installed', 4);
\endif

-- hidden states of a run
CREATE TABLE words AS SELECT i, (SELECT string_agg(md5((i * 1000 + j)::text), ' ') FROM generate_series(1, 6) j) AS body FROM generate_series(1, 600) i;
SELECT tlaw_create_corpus('words', 'body', 'dimension', validation_fraction => 0.2) AS corpus \gset
SELECT tlaw_train('dimension', n_layer => 1, d_model => 16, n_head => 1, context_length => 64, steps => 20, batch_size => 4, train_tokens => 2e4, eval_tokens => 1000) AS run \gset
CALL tlaw_wait(:run);
CREATE TABLE measured AS SELECT * FROM tlaw_run_dimension(:run, 1, position_groups => 2, batch => 1000);
SELECT is(count(*), 14::bigint, 'in two metrics: batches of all positions and of two groups, pooled in two ways and by group') FROM measured;
SELECT ok(abs(2 * c.dimension - e.dimension) < 0.1 * e.dimension, 'the paper''s protocol: cosine is about half')
  FROM measured c, measured e WHERE c.protocol = 'batches' AND e.protocol = 'batches' AND c.metric = 'cosine' AND e.metric = 'euclidean';
SELECT ok(message LIKE '% documents for the paper''s 4,000; the first 64 tokens for its 1,024; batches of 1000 points for its 3,600%', 'what differs from the paper is said') FROM measured WHERE protocol = 'batches';
SELECT is(array_agg(position_low || '-' || position_high ORDER BY position_low), '{1-32,33-64}', 'position groups') FROM measured WHERE protocol = 'position' AND metric = 'cosine';
SELECT bag_eq($$SELECT m.position_low, m.dimension, m.batches FROM measured m WHERE m.protocol = 'position_batches' AND m.metric = 'euclidean'$$,
    format($$WITH states AS (SELECT e.embedding, e."position" > 32 AS late, (row_number() OVER (PARTITION BY e."position" > 32 ORDER BY e.document, e."position") - 1) / 1000 AS batch
                               FROM tlaw_embeddings(%s, 1, part => 'validation', positions => 32, prefix => 64, max_documents => 4000) e),
                  answers AS (SELECT late, batch, count(*) AS points, tlaw_intrinsic_dimension(embedding, 'levina_bickel', 20) AS answer FROM states GROUP BY late, batch)
             SELECT CASE WHEN late THEN 33 ELSE 1 END, avg((answer).dimension), count(*)::int FROM answers WHERE points = 1000 GROUP BY late$$, :run),
    'the paper''s protocol by position: the mean of whole batches of a group');
SELECT is(count(*), 14::bigint, 'all are kept') FROM tlaw_run_dimensions WHERE run_id = :run;
SELECT count(*) AS repeated FROM tlaw_run_dimension(:run, 1, position_groups => 2, batch => 1000) \gset
SELECT is(count(*), 14::bigint, 'a repetition replaces them in the view') FROM tlaw_run_dimensions WHERE run_id = :run;
SELECT is(count(*), 0::bigint, 'and finds the same') FROM tlaw_run_dimensions d JOIN measured m USING (protocol, metric)
 WHERE d.run_id = :run AND d.exclude_document = m.exclude_document AND d.position_group IS NOT DISTINCT FROM m.position_group AND d.dimension <> m.dimension;
SELECT isnt(u.dimension, m.dimension, 'the untrained model differs')
  FROM tlaw_run_dimension(:run, 1, position_groups => 0, untrained => true) u, measured m
 WHERE u.protocol = 'pooled' AND m.protocol = 'pooled' AND u.metric = 'euclidean' AND m.metric = 'euclidean' AND u.exclude_document AND m.exclude_document;
-- before the first block states are sums of a token's and a position's vector: no dimension, which columns and the interval say
CREATE TABLE lattice AS SELECT * FROM tlaw_run_dimension(:run, 0, position_groups => 0);
SELECT ok(bool_and(NOT plateau AND message LIKE '%no plateau: read %'), 'layer 0 is a lattice: no plateau, in every protocol') FROM lattice;
SELECT ok(bool_and(r.dimension BETWEEN dimension_low AND dimension_high), 'the interval holds other readings')
  FROM lattice l, LATERAL (SELECT (tlaw_intrinsic_dimension(e.embedding, e_k.estimator, e_k.k)).dimension
                             FROM tlaw_embeddings(:run, 0, part => 'validation', positions => 32, prefix => 64, max_documents => 4000) e,
                                  (VALUES ('mackay', 40), ('mackay', 10)) e_k(estimator, k) GROUP BY e_k.estimator, e_k.k) r
 WHERE protocol = 'pooled' AND metric = 'euclidean' AND NOT exclude_document;
SELECT ok(bool_and(d.plateau IS NOT DISTINCT FROM l.plateau), 'kept') FROM lattice l JOIN tlaw_run_dimensions d USING (layer, protocol, metric, exclude_document) WHERE d.run_id = :run;
-- its profile, with the untrained model and a second seed
CREATE TABLE alone AS SELECT * FROM tlaw_run_dimension_profile(:run, largest_k => 8);
SELECT ok(message LIKE 'no second seed: no finished run differs%', 'no second seed: said') FROM alone WHERE control = 'second seed';
SELECT tlaw_train('dimension', n_layer => 1, d_model => 16, n_head => 1, context_length => 64, steps => 20, batch_size => 4, train_tokens => 2e4, eval_tokens => 1000, seed => 7) AS second \gset
CALL tlaw_wait(:second);
CREATE TABLE beside AS SELECT * FROM tlaw_run_dimension_profile(:run, largest_k => 8);
SELECT is(array_agg(DISTINCT coalesce(control, 'run')), '{gaussian,known,run,"second seed",shuffled,untrained}', 'a run with all its controls') FROM beside;
SELECT ok(bool_and(message LIKE format('run %s: seed 7, subset_seed 0%%', :second)), 'the second seed is named') FROM beside WHERE control = 'second seed';
SELECT isnt(b.dimension, a.dimension, 'and measured') FROM beside a, beside b WHERE a.control IS NULL AND b.control = 'second seed' AND (a.profile, a.neighbours) = ('scale', 4) AND (b.profile, b.neighbours) = ('scale', 4);
SELECT is(a.dimension, m.dimension, 'the run itself reads as tlaw_run_dimension does') FROM measured m, (SELECT dimension FROM beside WHERE control IS NULL AND profile = 'n' ORDER BY n DESC LIMIT 1) a
 WHERE m.protocol = 'pooled' AND m.metric = 'euclidean' AND m.exclude_document;
SELECT throws_like(format('SELECT tlaw_run_dimension_profile(%s, second_run => 99999)', :run), 'second_run = 99999 is not a run of yours', 'no such second run');
SELECT throws_like(format('SELECT tlaw_run_dimension_profile(%s, 1.5)', :run), 'layer must be a whole number from 0 to 2, not 1.5', 'no such layer to profile');
-- figure 4 of the paper: four queries, as the README has them
CREATE VIEW figure_4 AS SELECT r.n_params, r.d_model, d.*, d.layer = r.n_layer AS last_block
    FROM tlaw_run_dimensions d JOIN tlaw_runs r USING (run_id) WHERE NOT d.untrained;
SELECT is(array_agg(metric || ' ' || panel ORDER BY metric, panel), '{cosine d_model,cosine layer,cosine n_params,cosine position_low,cosine position_low,euclidean d_model,euclidean layer,euclidean n_params,euclidean position_low,euclidean position_low}', 'four panels')
  FROM (SELECT 'n_params' AS panel, n_params AS x, dimension, dimension_low, dimension_high, metric FROM figure_4 WHERE protocol = 'batches' AND last_block
        UNION ALL SELECT 'd_model', d_model, dimension, dimension_low, dimension_high, metric FROM figure_4 WHERE protocol = 'batches' AND last_block
        UNION ALL SELECT 'layer', layer, dimension, dimension_low, dimension_high, metric FROM figure_4 WHERE protocol = 'batches' AND run_id = :run
        UNION ALL SELECT 'position_low', position_low, dimension, dimension_low, dimension_high, metric FROM figure_4 WHERE protocol = 'position_batches' AND run_id = :run AND last_block) t
 WHERE x > 0 AND dimension_low < dimension AND dimension < dimension_high;
-- plots
SELECT ok(svg LIKE '<svg%' AND svg LIKE '%Layer (0: embeddings, 2: after the last norm)%' AND svg LIKE '%cosine%' AND svg LIKE '%euclidean, untrained%',
          'by layer, both metrics, the untrained model beside them') FROM tlaw_plot_dimension(:run) svg;
SELECT ok(tlaw_plot_dimension(:run) LIKE '% documents, no plateau<%', 'a plot says that there is no plateau');
SELECT ok(tlaw_plot_dimension(:run, 'position') LIKE '<svg%calibrated, pooled, layer 1%Position (tokens)%', 'by position');
SELECT ok(tlaw_plot_dimension(:run, 'position', 'batches') LIKE '<svg%levina\_bickel, batches, layer 1%Position (tokens)%', 'by position in the paper''s protocol');
SELECT ok(tlaw_plot_dimension(:run, protocol => 'batches') LIKE '<svg%levina\_bickel, batches%', 'the paper''s protocol');
SELECT throws_like(format('SELECT tlaw_plot_dimension(%s)', :second), 'run % has no dimension by layer to plot', 'nothing measured');

SELECT throws_like(format('SELECT tlaw_run_dimension(%s, 9)', :run), 'layer = 9 is not accepted: 0 (embeddings) to 2%', 'no such layer');
SELECT * FROM finish();
