-- Plots: figures as SVG text.

CREATE FUNCTION @extschema@.tlaw_plot(study text, x text DEFAULT 'train_tokens', y text DEFAULT NULL,
    by text DEFAULT NULL, dimension float8 DEFAULT NULL, smoothness float8 DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'tlaw_plot' LANGUAGE c STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.tlaw_plot IS
    'a study''s runs as an SVG document: y (test_loss) against x, columns of tlaw_runs, with the fitted law, the theory''s bound where a dimension is given (the slowest fall that it allows from the middle of the runs) (smoothness: the frozen plan''s, or 1), the frontier where x is flops; loss curves (val_loss) where x is step or tokens_seen; by: a column that makes series';

CREATE FUNCTION @extschema@.tlaw_plot_query(query text, title text DEFAULT NULL, x_title text DEFAULT NULL,
    y_title text DEFAULT NULL, log_x boolean DEFAULT false, log_y boolean DEFAULT false) RETURNS text
    AS 'MODULE_PATHNAME', 'tlaw_plot_query' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_plot_query IS
    'the rows of a query as an SVG document; its columns: x, y [, low, high] [, series]; axes are named after them';

CREATE FUNCTION @extschema@.tlaw_plot_dimension(run_id bigint, x text DEFAULT 'layer', protocol text DEFAULT 'pooled',
    exclude_document boolean DEFAULT true, layer float8 DEFAULT NULL) RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
<<f>>
DECLARE
    chosen text;                        -- the rows to plot: of repeated measurements with other settings the latest
    place text;                         -- of a row on the x axis
    measured record;
BEGIN
    IF x = 'layer' AND protocol IN ('pooled', 'batches') THEN
        place := 'd.layer';
        chosen := pg_catalog.format('d.run_id = %s AND d.protocol = %L AND d.exclude_document = %L', run_id, protocol,
                                    exclude_document AND protocol = 'pooled');
    ELSIF x = 'position' AND (protocol = 'batches' OR protocol = 'pooled' AND exclude_document) THEN
        place := '(d.position_low + d.position_high) / 2.0';
        chosen := pg_catalog.format('d.run_id = %s AND d.protocol = %L AND d.layer = %s', run_id,
            CASE protocol WHEN 'batches' THEN 'position_batches' ELSE 'position' END,
            COALESCE(layer::text, pg_catalog.format('(SELECT r.n_layer FROM @extschema@.tlaw_runs r WHERE r.run_id = %s)', run_id)));
    ELSE
        RAISE EXCEPTION 'x = %, protocol = %, exclude_document = % is not accepted: x is layer or position; protocol is pooled (by position without neighbours from the same document) or batches',
            pg_catalog.quote_nullable(x), pg_catalog.quote_nullable(protocol), exclude_document;
    END IF;
    EXECUTE 'SELECT pg_catalog.count(d.dimension) AS rows, pg_catalog.max(d.message) AS message, pg_catalog.max(d.n) AS n, pg_catalog.max(d.documents) AS documents,
                    pg_catalog.string_agg(DISTINCT d.estimator, '', '') AS estimators, pg_catalog.max(r.n_layer) + 1 AS top,
                    pg_catalog.max(d.layer) AS layer,
                    CASE WHEN pg_catalog.bool_or(NOT d.plateau) THEN '', no plateau'' END AS said,
                    pg_catalog.max(d.dimension_high) > 10 * pg_catalog.min(d.dimension_low) AS wide
               FROM @extschema@.tlaw_run_dimensions d JOIN @extschema@.tlaw_runs r USING (run_id) WHERE ' || chosen INTO measured;
    IF measured.rows = 0 THEN
        RAISE EXCEPTION '%', pg_catalog.concat_ws(': ', pg_catalog.format('run %s has no dimension by %s to plot', run_id, x), measured.message)
            USING HINT = pg_catalog.format('Measure it: SELECT * FROM tlaw_run_dimension(%s).', run_id);
    END IF;
    RETURN @extschema@.tlaw_plot_query(pg_catalog.format('
        SELECT place, dimension, dimension_low, dimension_high, metric || CASE WHEN untrained THEN '', untrained'' ELSE '''' END
          FROM (SELECT DISTINCT ON (d.layer, d.position_low, d.position_high, d.metric, d.untrained)
                       %s AS place, d.dimension, d.dimension_low, d.dimension_high, d.metric, d.untrained
                  FROM @extschema@.tlaw_run_dimensions d WHERE %s
                 ORDER BY d.layer, d.position_low, d.position_high, d.metric, d.untrained, d.measure_id DESC) t
         ORDER BY untrained, metric DESC, place', place, chosen),
        pg_catalog.format('Run %s, %s, %s: %s points of %s documents%s', run_id, measured.estimators,
            CASE WHEN x = 'position' THEN pg_catalog.format('%s, layer %s', protocol, measured.layer) ELSE protocol END, measured.n, measured.documents, measured.said),
        CASE WHEN x = 'layer' THEN pg_catalog.format('Layer (0: embeddings, %s: after the last norm)', measured.top) ELSE 'Position (tokens)' END,
        'Intrinsic dimension', log_y => measured.wide);
END $$;
COMMENT ON FUNCTION @extschema@.tlaw_plot_dimension IS
    'what tlaw_run_dimension found for a run, with 95 % intervals, as an SVG document: x is layer, or position (layer: NULL for the last block''s output); protocol is pooled or batches; a series for each metric, and for the untrained model where it was measured; the title says where there is no plateau, and the axis is logarithmic where the intervals span more than a factor of 10';
