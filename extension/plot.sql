-- Plots: figures as SVG text.

CREATE FUNCTION @extschema@.tlaw_plot(study text, x text DEFAULT 'train_tokens', y text DEFAULT NULL,
    by text DEFAULT NULL, dimension float8 DEFAULT NULL, smoothness float8 DEFAULT NULL) RETURNS text
    AS 'MODULE_PATHNAME', 'tlaw_plot' LANGUAGE c STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION @extschema@.tlaw_plot IS
    'a study''s runs as an SVG document: y (test_loss) against x, columns of tlaw_runs, with the fitted law, the theory''s line where a dimension is given (smoothness: the frozen plan''s, or 1), the frontier where x is flops; loss curves (val_loss) where x is step or tokens_seen; by: a column that makes series';

CREATE FUNCTION @extschema@.tlaw_plot_query(query text, title text DEFAULT NULL, x_title text DEFAULT NULL,
    y_title text DEFAULT NULL, log_x boolean DEFAULT false, log_y boolean DEFAULT false) RETURNS text
    AS 'MODULE_PATHNAME', 'tlaw_plot_query' LANGUAGE c STABLE;
COMMENT ON FUNCTION @extschema@.tlaw_plot_query IS
    'the rows of a query as an SVG document; its columns: x, y [, low, high] [, series]; axes are named after them';
