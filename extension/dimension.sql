-- Intrinsic dimension: of any column of arrays, of scales and samples, of the activations of runs.

CREATE TYPE @extschema@.tlaw_dimension_estimate AS (
    dimension float8, dimension_se float8, dimension_low float8, dimension_high float8, plateau boolean,
    n int8, k int4, metric text, estimator text,
    duplicates int8, ties int8, zero_distances int8, message text
);
COMMENT ON TYPE @extschema@.tlaw_dimension_estimate IS
    'an intrinsic dimension with its 95 % interval, whether one dimension explains the readings over scales (plateau; null: not asked), how it was had, and what was odd about the points';

CREATE FUNCTION @extschema@.tlaw_estimators(OUT estimator text, OUT usual_k int4, OUT convention text)
    RETURNS SETOF record AS 'MODULE_PATHNAME', 'tlaw_estimators' LANGUAGE c IMMUTABLE;
COMMENT ON FUNCTION @extschema@.tlaw_estimators IS
    'the estimators of the intrinsic dimension: name, neighbours by default, convention and source';

CREATE FUNCTION @extschema@.tlaw_dimension_finish(state internal) RETURNS @extschema@.tlaw_dimension_estimate
    AS 'MODULE_PATHNAME', 'tlaw_dimension_finish' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_finish IS 'part of tlaw_intrinsic_dimension';

-- An aggregate has no default arguments: one for each number of them, for either type of array.
DO $$
DECLARE
    point text;
    options text;
    arguments text;
BEGIN
    FOREACH point IN ARRAY '{real[],float8[]}'::text[] LOOP
        FOREACH options IN ARRAY ARRAY['', ', estimator text', ', estimator text, k float8', ', estimator text, k float8, metric text'] LOOP
            arguments := 'point ' || point || options;
            EXECUTE pg_catalog.format('CREATE FUNCTION @extschema@.tlaw_dimension_add(state internal, %s) RETURNS internal
                AS ''MODULE_PATHNAME'', ''tlaw_dimension_add'' LANGUAGE c IMMUTABLE', arguments);
            EXECUTE pg_catalog.format('COMMENT ON FUNCTION @extschema@.tlaw_dimension_add(state internal, %s) IS
                ''part of tlaw_intrinsic_dimension''', arguments);
            EXECUTE pg_catalog.format('CREATE AGGREGATE @extschema@.tlaw_intrinsic_dimension(%s) (
                SFUNC = @extschema@.tlaw_dimension_add, STYPE = internal, SSPACE = 1000000,
                FINALFUNC = @extschema@.tlaw_dimension_finish, FINALFUNC_MODIFY = READ_WRITE)', arguments);
            EXECUTE pg_catalog.format('COMMENT ON AGGREGATE @extschema@.tlaw_intrinsic_dimension(%s) IS
                ''intrinsic dimension of a set of points, with a 95 %% interval''', arguments);
            EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION @extschema@.tlaw_intrinsic_dimension(%s) FROM PUBLIC', arguments);
        END LOOP;
    END LOOP;
END $$;

-- ---- tables ----

CREATE TYPE @extschema@.tlaw_dimension_question AS (
    estimator text, k float8, metric text,
    exclude_cluster boolean,            -- points of one cluster are not each other's neighbours
    control text,                       -- measured instead: 'gaussian', 'shuffled', 'known'
    known_dimension float8,
    sample float8,                      -- as many points, drawn by seed
    seed float8
);
COMMENT ON TYPE @extschema@.tlaw_dimension_question IS 'what to measure; nulls are defaults';

CREATE FUNCTION @extschema@.tlaw_dimension_answers(source regclass, point_column name, group_column name,
    cluster_column name, questions @extschema@.tlaw_dimension_question[],
    OUT group_key text, OUT question int4,
    OUT dimension float8, OUT dimension_se float8, OUT dimension_low float8, OUT dimension_high float8,
    OUT plateau boolean, OUT n int8, OUT k int4, OUT metric text, OUT estimator text,
    OUT duplicates int8, OUT ties int8, OUT zero_distances int8, OUT message text)
    RETURNS SETOF record AS 'MODULE_PATHNAME', 'tlaw_dimension_answers' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_answers IS
    'reads the points of a table once and answers several questions about each group of them';
REVOKE ALL ON FUNCTION @extschema@.tlaw_dimension_answers FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_dimension(source regclass, point_column name, group_column name DEFAULT NULL,
    estimator text DEFAULT 'calibrated', k float8 DEFAULT NULL, metric text DEFAULT 'euclidean',
    cluster_column name DEFAULT NULL, exclude_cluster boolean DEFAULT false, sample float8 DEFAULT NULL,
    seed float8 DEFAULT 0,
    OUT group_key text, OUT dimension float8, OUT dimension_se float8, OUT dimension_low float8,
    OUT dimension_high float8, OUT plateau boolean, OUT n int8, OUT neighbours int4, OUT duplicates int8, OUT ties int8,
    OUT zero_distances int8, OUT message text)
    RETURNS SETOF record LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT a.group_key, a.dimension, a.dimension_se, a.dimension_low, a.dimension_high, a.plateau, a.n, a.k,
           a.duplicates, a.ties, a.zero_distances, a.message
      FROM @extschema@.tlaw_dimension_answers(source, point_column, group_column, cluster_column,
               ARRAY[ROW(estimator, k, metric, exclude_cluster, NULL, NULL, sample, seed)::@extschema@.tlaw_dimension_question]) a;
END;
COMMENT ON FUNCTION @extschema@.tlaw_dimension IS
    'intrinsic dimension of the points in a column (arrays, or a type that casts to real[]), a row a group; plateau is false where no single dimension explains the readings over scales: the interval then holds them all, and message says how they differ';
REVOKE ALL ON FUNCTION @extschema@.tlaw_dimension FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_dimension_profile(source regclass, point_column name,
    estimator text DEFAULT 'calibrated', k float8 DEFAULT NULL, metric text DEFAULT 'euclidean',
    cluster_column name DEFAULT NULL, exclude_cluster boolean DEFAULT false, largest_k float8 DEFAULT 64,
    known_dimension float8 DEFAULT NULL, controls text[] DEFAULT '{gaussian,shuffled,known}', seed float8 DEFAULT 0,
    OUT profile text, OUT control text, OUT n int8, OUT neighbours int4, OUT dimension float8,
    OUT dimension_se float8, OUT dimension_low float8, OUT dimension_high float8, OUT message text)
    RETURNS SETOF record LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
<<f>>
DECLARE
    main record;
    known float8 := known_dimension;
    scales int[];
    questions @extschema@.tlaw_dimension_question[];
    labels text[] := '{}';      -- of each question: its profile,
    asked text[] := '{}';       -- control,
    sizes int8[] := '{}';       -- and number of points, duplicates counted
    c text;
    s int;
    draw int;
BEGIN
    IF NOT COALESCE(controls <@ '{gaussian,shuffled,known}', false) THEN
        RAISE EXCEPTION 'controls = % is not accepted: any of {gaussian,shuffled,known}', controls;
    END IF;
    SELECT * INTO main FROM @extschema@.tlaw_dimension_answers(source, point_column, NULL, cluster_column,
        ARRAY[ROW(estimator, k, metric, exclude_cluster, NULL, NULL, NULL, seed)::@extschema@.tlaw_dimension_question]);
    known := COALESCE(known, GREATEST(1, pg_catalog.round(main.dimension)));
    SELECT pg_catalog.array_agg(j ORDER BY j DESC) INTO scales
      FROM (SELECT (2 ^ i)::int AS j FROM pg_catalog.generate_series(1, 13) i) t
     WHERE j <= largest_k AND j < main.n / 4;
    FOREACH c IN ARRAY '{""}' || CASE WHEN scales IS NULL THEN '{}' ELSE controls END LOOP    -- too few points: no need of controls
        CONTINUE WHEN c = 'known' AND known IS NULL;
        FOREACH s IN ARRAY COALESCE(scales, '{}') LOOP     -- the longest lists first: they serve the shorter ones
            questions := questions || ROW('gride', s, metric, exclude_cluster, c, known, NULL, seed)::@extschema@.tlaw_dimension_question;
            labels := labels || 'scale'::text;
            asked := asked || c;
            sizes := sizes || main.n;
        END LOOP;
        FOR s IN 0 .. 3 LOOP
            CONTINUE WHEN s > 0 AND main.n / (2 ^ s) < 64;
            FOR draw IN 1 .. (2 ^ s)::int LOOP
                questions := questions || ROW(estimator, k, metric, exclude_cluster, c, known,
                    CASE WHEN s > 0 THEN pg_catalog.floor(main.n / 2 ^ s) END, seed + draw - 1)::@extschema@.tlaw_dimension_question;
                labels := labels || 'n'::text;
                asked := asked || c;
                sizes := sizes || pg_catalog.floor(main.n / 2 ^ s)::int8;
            END LOOP;
        END LOOP;
    END LOOP;
    RETURN QUERY
    WITH answers AS MATERIALIZED (
        SELECT f.labels[a.question] AS profile, f.asked[a.question] AS control, f.sizes[a.question] AS size, a.*
          FROM @extschema@.tlaw_dimension_answers(source, point_column, NULL, cluster_column, questions) a
    ), scale AS (
        SELECT a.control, a.n, a.k, a.dimension, a.dimension_se, a.dimension_low, a.dimension_high, a.message
          FROM answers a WHERE a.profile = 'scale'
    ), size AS (                -- the mean over the draws of a size; they share points, so its error is that of one
        SELECT a.control, pg_catalog.avg(a.n)::int8 AS n, pg_catalog.max(a.k) AS k, pg_catalog.avg(a.dimension) AS dimension,
               pg_catalog.avg(a.dimension_se) AS dimension_se, pg_catalog.avg(a.dimension_low) AS low,
               pg_catalog.avg(a.dimension_high) AS high, pg_catalog.count(*) AS draws, pg_catalog.max(a.message) AS message
          FROM answers a WHERE a.profile = 'n' GROUP BY a.control, a.size
    ), window3 AS (             -- three successive scales whose estimates agree within their errors
        SELECT w.control, w.k, w.n, w.mean, w.se, w.high - w.low AS spread,
               w.high - w.low <= 1.96 * pg_catalog.sqrt(2) * w.largest_se AS flat
          FROM (SELECT x.control, x.k, x.n, pg_catalog.count(*) OVER v AS members,
                       pg_catalog.max(x.dimension) OVER v AS high, pg_catalog.min(x.dimension) OVER v AS low,
                       pg_catalog.max(x.dimension_se) OVER v AS largest_se,
                       pg_catalog.sum(x.dimension / x.dimension_se ^ 2) OVER v / pg_catalog.sum(x.dimension_se ^ -2) OVER v AS mean,
                       pg_catalog.min(x.dimension_se) OVER v AS se
                  FROM scale x WHERE x.dimension_se > 0
                WINDOW v AS (PARTITION BY x.control ORDER BY x.k ROWS 2 PRECEDING)) w
         WHERE w.members = 3
    ), whole AS (               -- all points at once: their default estimate may deny the plateau
        SELECT a.control, pg_catalog.bool_and(a.plateau) AS plateau, pg_catalog.max(a.message) AS message
          FROM answers a WHERE a.profile = 'n' AND a.size = main.n GROUP BY a.control
    ), plateau AS (
        SELECT DISTINCT ON (w.control) w.control, w.n, w.k, CASE WHEN w.flat AND u.plateau IS NOT false THEN w.mean END AS mean,
               w.se, w.flat, w.spread, u.message
          FROM window3 w JOIN whole u USING (control) ORDER BY w.control, w.flat DESC, w.spread / w.mean
    ), regression AS (          -- d(n) = d + b n^(-1/d0), weighted by 1 / se^2
        SELECT z.control, pg_catalog.max(z.n) AS n, pg_catalog.max(z.k) AS k, pg_catalog.count(*) AS sizes,
               pg_catalog.sum(z.w) AS w, pg_catalog.sum(z.w * z.x) AS wx, pg_catalog.sum(z.w * z.x * z.x) AS wxx,
               pg_catalog.sum(z.w * z.dimension) AS wy, pg_catalog.sum(z.w * z.x * z.dimension) AS wxy
          FROM (SELECT t.*, t.dimension_se ^ -2 AS w,
                       t.n::float8 ^ (-1 / pg_catalog.first_value(t.dimension) OVER (PARTITION BY t.control ORDER BY t.n DESC)) AS x
                  FROM size t WHERE t.dimension_se > 0) z
         GROUP BY z.control
    ), extrapolated AS (
        SELECT r.*, (r.wxx * r.wy - r.wx * r.wxy) / NULLIF(r.w * r.wxx - r.wx ^ 2, 0) AS d,
               pg_catalog.sqrt(r.wxx / NULLIF(r.w * r.wxx - r.wx ^ 2, 0)) AS se
          FROM regression r WHERE r.sizes >= 3
    ), result AS (
        SELECT 1 AS part, 'scale' AS profile, x.control, x.n, x.k, x.dimension, x.dimension_se, x.dimension_low AS low,
               x.dimension_high AS high, x.message FROM scale x
        UNION ALL
        SELECT 2, 'plateau', t.control, COALESCE(p.n, t.n), p.k, p.mean, CASE WHEN p.mean > 0 THEN p.se END, p.mean - 1.96 * p.se, p.mean + 1.96 * p.se,
               CASE WHEN p.mean > 0 THEN pg_catalog.format('three scales up to k = %s agree', p.k)
                    WHEN p.flat THEN pg_catalog.format('three scales up to k = %s agree, but not with the rest; %s', p.k, p.message)
                    WHEN p.k > 0 THEN pg_catalog.format('no plateau: the flattest three scales, up to k = %s, differ by %s', p.k, pg_catalog.round(p.spread::numeric, 3))
                    ELSE 'no plateau: fewer than three scales' END
          FROM (SELECT z.control, pg_catalog.max(z.n) AS n FROM size z GROUP BY z.control) t LEFT JOIN plateau p ON p.control = t.control
        UNION ALL
        SELECT 3, 'n', t.control, t.n, t.k, t.dimension, t.dimension_se, t.low, t.high,
               CASE WHEN t.draws > 1 AND t.dimension IS NOT NULL THEN pg_catalog.format('mean over %s draws', t.draws) ELSE t.message END
          FROM size t
        UNION ALL
        SELECT 4, 'extrapolation', t.control, COALESCE(e.n, t.n), e.k, e.d, e.se, e.d - 1.96 * e.se, e.d + 1.96 * e.se,
               CASE WHEN NOT u.plateau THEN 'no extrapolation: no plateau with all points'
                    WHEN e.sizes > 0 THEN 'to infinite n, on n^(-1/d)' ELSE 'no extrapolation: fewer than three sizes' END
          FROM (SELECT z.control, pg_catalog.max(z.n) AS n FROM size z GROUP BY z.control) t LEFT JOIN whole u ON u.control = t.control
               LEFT JOIN extrapolated e ON e.control = t.control AND u.plateau IS NOT false
    )
    SELECT r.profile, NULLIF(r.control, ''), r.n, r.k, r.dimension, r.dimension_se, r.low, r.high, r.message
      FROM result r ORDER BY r.control, r.part, r.k, r.n;
END $$;
COMMENT ON FUNCTION @extschema@.tlaw_dimension_profile IS
    'intrinsic dimension against scale (Gride) and against n, with their plateau and extrapolation, for the points and for controls: a Gaussian of the same covariance, shuffled coordinates, a known dimension';
REVOKE ALL ON FUNCTION @extschema@.tlaw_dimension_profile FROM PUBLIC;

-- ---- activations of runs ----

CREATE TYPE @extschema@.tlaw_run_dimension_row AS (
    layer int4, protocol text, position_group int4, position_low int4, position_high int4, exclude_document boolean,
    untrained boolean, metric text, estimator text, k int4, dimension float8, dimension_se float8,
    dimension_low float8, dimension_high float8, plateau boolean, n int8, documents int8, positions int4, prefix int4,
    batches int4, part text, seed int8, duplicates int8, ties int8, message text
);
COMMENT ON TYPE @extschema@.tlaw_run_dimension_row IS
    'an intrinsic dimension of a run''s hidden states: which states, how measured, the estimate';

CREATE TABLE @extschema@.tlaw_run_dimension_record (
    measure_id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id int8 NOT NULL,
    measured_at timestamptz NOT NULL DEFAULT now(),
    LIKE @extschema@.tlaw_run_dimension_row
);
CREATE INDEX ON @extschema@.tlaw_run_dimension_record (run_id);
COMMENT ON TABLE @extschema@.tlaw_run_dimension_record IS 'what tlaw_run_dimension found; read the view tlaw_run_dimensions';

CREATE VIEW @extschema@.tlaw_run_dimensions WITH (security_barrier) AS
SELECT DISTINCT ON (d.run_id, d.layer, d.protocol, d.position_group, d.exclude_document, d.untrained, d.metric, d.estimator,
                    d.k, d.positions, d.prefix, d.part, d.seed)
       d.measure_id, d.run_id, r.study, d.measured_at, d.layer, d.protocol, d.position_group, d.position_low, d.position_high, d.exclude_document,
       d.untrained, d.metric, d.estimator, d.k, d.dimension, d.dimension_se, d.dimension_low,
       d.dimension_high, d.plateau, d.n, d.documents, d.positions, d.prefix, d.batches, d.part, d.seed, d.duplicates,
       d.ties, d.message
  FROM @extschema@.tlaw_run_dimension_record d
  JOIN @extschema@.tlaw_run r ON r.run_id = d.run_id
  LEFT JOIN pg_catalog.pg_roles o ON o.rolname = r.owner
 WHERE pg_catalog.pg_has_role(COALESCE(o.oid, 10), 'USAGE')
 ORDER BY d.run_id, d.layer, d.protocol, d.position_group, d.exclude_document, d.untrained, d.metric, d.estimator, d.k,
          d.positions, d.prefix, d.part, d.seed, d.measure_id DESC;
COMMENT ON VIEW @extschema@.tlaw_run_dimensions IS
    'intrinsic dimensions of your roles'' runs by layer, position, metric and protocol; the latest of repeated measurements';
GRANT SELECT ON @extschema@.tlaw_run_dimensions TO PUBLIC;

CREATE FUNCTION @extschema@.tlaw_record_run_dimension(run_id int8, results @extschema@.tlaw_run_dimension_row[]) RETURNS void
    AS 'MODULE_PATHNAME', 'tlaw_record_run_dimension' LANGUAGE c VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_record_run_dimension IS 'keeps what tlaw_run_dimension found for a run of yours';

CREATE FUNCTION @extschema@.tlaw_run_dimension(run_id bigint, layer float8 DEFAULT NULL,
    estimator text DEFAULT 'calibrated', k float8 DEFAULT NULL, positions float8 DEFAULT 32, prefix float8 DEFAULT 1024,
    max_documents float8 DEFAULT 4000, batch float8 DEFAULT 3600, position_groups float8 DEFAULT 4,
    untrained boolean DEFAULT false, part text DEFAULT 'validation', seed float8 DEFAULT 0)
    RETURNS SETOF @extschema@.tlaw_run_dimension_row LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
<<f>>
DECLARE
    n_layer int;
    prefix int;                         -- as much of it as the context holds
    positions int;
    this int;
    documents int8;
    note text;
    paper @extschema@.tlaw_dimension_question[];        -- both metrics, Levina and Bickel with k = 20
    ours @extschema@.tlaw_dimension_question[];         -- both metrics, neighbours from the same document counted,
    apart @extschema@.tlaw_dimension_question[];        -- and not
    results @extschema@.tlaw_run_dimension_row[] := '{}';
    found @extschema@.tlaw_run_dimension_row[];
    bent text;                          -- layers without a plateau
BEGIN
    IF pg_catalog.current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'cannot execute tlaw_run_dimension() in a read-only transaction' USING ERRCODE = 'read_only_sql_transaction';
    END IF;
    SELECT r.n_layer, LEAST(tlaw_run_dimension.prefix, r.context_length) INTO f.n_layer, f.prefix
      FROM @extschema@.tlaw_runs r WHERE r.run_id = tlaw_run_dimension.run_id;
    IF f.n_layer IS NULL THEN
        RAISE EXCEPTION 'run % is not a trained run of yours', run_id;
    END IF;
    IF NOT COALESCE(layer BETWEEN 0 AND f.n_layer + 1 AND layer = pg_catalog.floor(layer), true) THEN
        RAISE EXCEPTION 'layer = % is not accepted: 0 (embeddings) to % (after the last norm), or NULL for all', layer, f.n_layer + 1;
    END IF;
    IF NOT COALESCE(position_groups BETWEEN 0 AND 64 AND batch BETWEEN 100 AND 1e9 AND tlaw_run_dimension.positions BETWEEN 1 AND 1e9, false) THEN
        RAISE EXCEPTION 'position_groups = %, batch = %, positions = % are not accepted: 0 to 64, 100 to 1e9, 1 to 1e9',
            position_groups, batch, tlaw_run_dimension.positions;
    END IF;
    f.positions := LEAST(tlaw_run_dimension.positions, f.prefix);
    -- a bad estimator or k is refused here, before the work
    PERFORM @extschema@.tlaw_intrinsic_dimension(p, estimator, k) FROM (SELECT '{0}'::real[] AS p) one;
    SELECT pg_catalog.array_agg(ROW('levina_bickel', 20, m, false, NULL, NULL, NULL, seed)::@extschema@.tlaw_dimension_question),
           pg_catalog.array_agg(ROW(estimator, k, m, false, NULL, NULL, NULL, seed)::@extschema@.tlaw_dimension_question),
           pg_catalog.array_agg(ROW(estimator, k, m, true, NULL, NULL, NULL, seed)::@extschema@.tlaw_dimension_question)
      INTO paper, ours, apart FROM pg_catalog.unnest('{euclidean,cosine}'::text[]) m;
    FOR this IN SELECT l FROM pg_catalog.generate_series(0, f.n_layer + 1) l WHERE l = layer OR layer IS NULL LOOP
        CREATE TEMPORARY TABLE tlaw_run_dimension_states ON COMMIT DROP AS
        SELECT t.document, t.embedding, t.position_group,
               pg_catalog.floor((pg_catalog.row_number() OVER (ORDER BY t.document, t."position") - 1) / tlaw_run_dimension.batch)::int AS batch,
               pg_catalog.format('%s/%s', t.position_group, pg_catalog.floor((pg_catalog.row_number()
                   OVER (PARTITION BY t.position_group ORDER BY t.document, t."position") - 1) / tlaw_run_dimension.batch)) AS position_batch
          FROM (SELECT e.*, pg_catalog.floor((e."position" - 1) * position_groups / f.prefix)::int AS position_group
                  FROM @extschema@.tlaw_embeddings(tlaw_run_dimension.run_id, this, part => tlaw_run_dimension.part,
                           positions => f.positions, prefix => f.prefix, max_documents => tlaw_run_dimension.max_documents,
                           seed => tlaw_run_dimension.seed, untrained => tlaw_run_dimension.untrained) e) t;
        SELECT pg_catalog.count(DISTINCT t.document) INTO f.documents FROM pg_temp.tlaw_run_dimension_states t;
        note := pg_catalog.concat_ws('; ',
            CASE WHEN f.documents < 4000 THEN pg_catalog.format('%s documents for the paper''s 4,000', f.documents) END,
            CASE WHEN f.prefix < 1024 THEN pg_catalog.format('the first %s tokens for its 1,024', f.prefix) END,
            CASE WHEN f.positions <> 32 THEN pg_catalog.format('%s positions a document for its 32', f.positions) END,
            CASE WHEN tlaw_run_dimension.batch <> 3600 THEN pg_catalog.format('batches of %s points for its 3,600', tlaw_run_dimension.batch) END);
        -- the paper's protocol: batches in the order of documents, of all positions or of a group's, the mean of whole ones
        WITH answers AS (
            SELECT NULL::int AS position_group, a.*
              FROM @extschema@.tlaw_dimension_answers('pg_temp.tlaw_run_dimension_states', 'embedding', 'batch', NULL, paper) a
            UNION ALL
            SELECT pg_catalog.split_part(a.group_key, '/', 1)::int + 1, a.*
              FROM @extschema@.tlaw_dimension_answers('pg_temp.tlaw_run_dimension_states', 'embedding', 'position_batch', NULL, paper) a
             WHERE position_groups > 0
        ), sized AS (
            SELECT a.*, a.n + a.duplicates = tlaw_run_dimension.batch AS whole,
                   pg_catalog.bool_or(a.n + a.duplicates = tlaw_run_dimension.batch) OVER (PARTITION BY a.position_group) AS enough
              FROM answers a
        ), measured AS (
            SELECT CASE WHEN b.position_group IS NULL THEN 'batches' ELSE 'position_batches' END AS protocol, b.position_group,
                   false AS exclude, b.metric, 'levina_bickel' AS estimator, 20 AS k,
                   b.d AS dimension, b.se, b.d - 1.96 * b.se AS low, b.d + 1.96 * b.se AS high, b.plateau, b.n, b.batches, b.duplicates, b.ties,
                   NULLIF(pg_catalog.concat_ws('; ', NULLIF(f.note, ''), NULLIF(b.message, '')), '') AS message
              FROM (SELECT a.position_group, a.metric, pg_catalog.avg(a.dimension) AS d,
                           CASE WHEN pg_catalog.count(*) > 1 THEN pg_catalog.stddev_samp(a.dimension) / pg_catalog.sqrt(pg_catalog.count(*))
                                ELSE pg_catalog.max(a.dimension_se) END AS se,
                           pg_catalog.bool_and(a.plateau) AS plateau, pg_catalog.sum(a.n)::int8 AS n, pg_catalog.count(*) AS batches, pg_catalog.sum(a.duplicates)::int8 AS duplicates,
                           pg_catalog.sum(a.ties)::int8 AS ties,
                           pg_catalog.concat_ws('; ', CASE WHEN NOT a.enough THEN pg_catalog.format('one batch of fewer than %s points',
                               tlaw_run_dimension.batch) END, pg_catalog.max(a.message)) AS message
                      FROM sized a WHERE a.whole OR NOT a.enough
                     GROUP BY a.position_group, a.metric, a.enough) b
            UNION ALL           -- all points at once, clustered by document, neighbours from the same document counted and not
            SELECT 'pooled', NULL, a.question > 2, a.metric, a.estimator, a.k, a.dimension, a.dimension_se, a.dimension_low,
                   a.dimension_high, a.plateau, a.n, NULL, a.duplicates, a.ties, a.message
              FROM @extschema@.tlaw_dimension_answers('pg_temp.tlaw_run_dimension_states', 'embedding', NULL, 'document', ours || apart) a
            UNION ALL           -- by position in the document
            SELECT 'position', a.group_key::int + 1, true, a.metric, a.estimator, a.k, a.dimension, a.dimension_se, a.dimension_low,
                   a.dimension_high, a.plateau, a.n, NULL, a.duplicates, a.ties, a.message
              FROM @extschema@.tlaw_dimension_answers('pg_temp.tlaw_run_dimension_states', 'embedding', 'position_group', 'document', apart) a
             WHERE position_groups > 0
        )
        SELECT pg_catalog.array_agg(ROW(this, m.protocol, m.position_group,
                   COALESCE(pg_catalog.ceil((m.position_group - 1) * f.prefix / position_groups) + 1, 1),
                   COALESCE(pg_catalog.ceil(m.position_group * f.prefix / position_groups), f.prefix),
                   m.exclude, untrained, m.metric, m.estimator, m.k, m.dimension, m.se, m.low, m.high, m.plateau, m.n, f.documents, f.positions, f.prefix,
                   m.batches, part, seed, m.duplicates, m.ties, m.message)::@extschema@.tlaw_run_dimension_row
                   ORDER BY m.protocol, m.position_group, m.exclude, m.metric) INTO found
          FROM measured m;
        results := results || found;
        DROP TABLE pg_temp.tlaw_run_dimension_states;
    END LOOP;
    PERFORM @extschema@.tlaw_record_run_dimension(tlaw_run_dimension.run_id, results);
    SELECT pg_catalog.string_agg(DISTINCT r.layer::text, ', ') INTO bent
      FROM pg_catalog.unnest(results) r WHERE NOT r.plateau AND r.protocol IN ('pooled', 'batches');
    IF bent IS NOT NULL THEN
        RAISE NOTICE 'run %, layer %: no single dimension explains the states over all scales (plateau is false)', run_id, bent
            USING HINT = 'There the interval of "calibrated" holds all readings; message says how they differ, tlaw_run_dimension_profile shows them.';
    END IF;
    RETURN QUERY SELECT (pg_catalog.unnest(results)).*;
END $$;
COMMENT ON FUNCTION @extschema@.tlaw_run_dimension IS
    'measures the intrinsic dimension of a run''s hidden states by layer: the paper''s protocol (batches; position_batches by position), all points at once (pooled; position by position), for both metrics; kept in tlaw_run_dimensions';
REVOKE ALL ON FUNCTION @extschema@.tlaw_run_dimension FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_run_dimension_profile(run_id bigint, layer float8 DEFAULT NULL, second_run bigint DEFAULT NULL,
    estimator text DEFAULT 'calibrated', k float8 DEFAULT NULL, metric text DEFAULT 'euclidean', exclude_document boolean DEFAULT true,
    largest_k float8 DEFAULT 64, known_dimension float8 DEFAULT NULL, positions float8 DEFAULT 32, prefix float8 DEFAULT 1024,
    max_documents float8 DEFAULT 4000, part text DEFAULT 'validation', seed float8 DEFAULT 0,
    OUT profile text, OUT control text, OUT n int8, OUT neighbours int4, OUT dimension float8,
    OUT dimension_se float8, OUT dimension_low float8, OUT dimension_high float8, OUT message text)
    RETURNS SETOF record LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
<<f>>
DECLARE
    run record;
    other record;
    this float8 := layer;
    context int;
    model record;
BEGIN
    IF pg_catalog.current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION 'cannot execute tlaw_run_dimension_profile() in a read-only transaction' USING ERRCODE = 'read_only_sql_transaction';
    END IF;
    SELECT * INTO run FROM @extschema@.tlaw_runs r WHERE r.run_id = tlaw_run_dimension_profile.run_id;
    IF run.n_layer IS NULL THEN
        RAISE EXCEPTION 'run % is not a trained run of yours', run_id;
    END IF;
    -- a bad estimator, k or metric is refused here, before the work
    PERFORM @extschema@.tlaw_intrinsic_dimension(p, estimator, tlaw_run_dimension_profile.k, metric) FROM (SELECT '{0}'::real[] AS p) one;
    this := COALESCE(this, run.n_layer);
    context := LEAST(prefix, run.context_length);
    -- the same specification with another seed, in the same study first, on the same subset first
    SELECT r.run_id, pg_catalog.format('run %s: seed %s, subset_seed %s', r.run_id, r.seed, r.subset_seed) AS said INTO other
      FROM @extschema@.tlaw_runs r
     WHERE r.run_id = second_run
        OR second_run IS NULL AND r.status = 'done' AND (r.seed, r.subset_seed) IS DISTINCT FROM (run.seed, run.subset_seed)
           AND (r.corpus, r.arch, r.n_layer, r.n_head, r.d_model, r.context_length, r.bias, r.train_tokens, r.steps, r.batch_size,
                r.learning_rate, r.min_learning_rate, r.warmup_steps, r.schedule, r.cooldown_steps, r.weight_decay, r.beta1, r.beta2,
                r.grad_clip, r."precision")
               IS NOT DISTINCT FROM
               (run.corpus, run.arch, run.n_layer, run.n_head, run.d_model, run.context_length, run.bias, run.train_tokens, run.steps,
                run.batch_size, run.learning_rate, run.min_learning_rate, run.warmup_steps, run.schedule, run.cooldown_steps,
                run.weight_decay, run.beta1, run.beta2, run.grad_clip, run."precision")
     ORDER BY r.study IS DISTINCT FROM run.study, r.subset_seed IS DISTINCT FROM run.subset_seed, r.run_id LIMIT 1;
    IF second_run IS NOT NULL AND other.run_id IS NULL THEN
        RAISE EXCEPTION 'second_run = % is not a run of yours', second_run;
    END IF;
    FOR model IN SELECT * FROM (VALUES (tlaw_run_dimension_profile.run_id, false, NULL, '{gaussian,shuffled,known}'::text[], NULL),
                                       (tlaw_run_dimension_profile.run_id, true, 'untrained', '{}', NULL),
                                       (other.run_id, false, 'second seed', '{}', other.said)) m(run_id, untrained, control, controls, said)
                  WHERE m.run_id IS NOT NULL LOOP
        CREATE TEMPORARY TABLE tlaw_profile_states ON COMMIT DROP AS
        SELECT e.document, e.embedding
          FROM @extschema@.tlaw_embeddings(model.run_id, this, part => tlaw_run_dimension_profile.part, positions => LEAST(positions, context),
                   prefix => context, max_documents => tlaw_run_dimension_profile.max_documents,
                   seed => tlaw_run_dimension_profile.seed, untrained => model.untrained) e;
        RETURN QUERY
        SELECT p.profile, COALESCE(p.control, model.control), p.n, p.neighbours, p.dimension, p.dimension_se, p.dimension_low,
               p.dimension_high, NULLIF(pg_catalog.concat_ws('; ', model.said, p.message), '')
          FROM @extschema@.tlaw_dimension_profile('pg_temp.tlaw_profile_states', 'embedding', estimator, tlaw_run_dimension_profile.k,
                   metric, 'document', exclude_document, largest_k, known_dimension, model.controls, seed) p;
        DROP TABLE pg_temp.tlaw_profile_states;
    END LOOP;
    IF other.run_id IS NULL THEN
        control := 'second seed';
        message := pg_catalog.format('no second seed: no finished run differs from run %s in its seeds alone; train one, or name one as second_run', run_id);
        RETURN NEXT;
    END IF;
END $$;
COMMENT ON FUNCTION @extschema@.tlaw_run_dimension_profile IS
    'the profile of a run''s hidden states (layer: NULL for the last block''s output) with its controls, among them the untrained model and a second seed: second_run, or the finished run that differs in its seeds alone';
REVOKE ALL ON FUNCTION @extschema@.tlaw_run_dimension_profile FROM PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_run_dimension_record', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_run_dimension_record_measure_id_seq', '');
