-- The house rules that the catalogs can check, and the settings.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS tlaw;
CREATE VIEW members AS
SELECT classid, objid, pg_describe_object(classid, objid, 0) AS object
  FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
   AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'tlaw');

-- all of these are empty: functions, relations, columns of views and of types without a comment,
SELECT object FROM members WHERE classid = 'pg_proc'::regclass AND obj_description(objid, 'pg_proc') IS NULL;
SELECT object FROM members JOIN pg_class c ON c.oid = objid
 WHERE classid = 'pg_class'::regclass AND relkind IN ('r', 'v') AND obj_description(objid, 'pg_class') IS NULL;
SELECT object, attname FROM members JOIN pg_class c ON c.oid = objid JOIN pg_attribute ON attrelid = c.oid
 WHERE classid = 'pg_class'::regclass AND relkind = 'v' AND attnum > 0 AND col_description(attrelid, attnum) IS NULL;
SELECT object, attname FROM members JOIN pg_class c ON c.reltype = objid JOIN pg_attribute ON attrelid = c.oid
 WHERE classid = 'pg_type'::regclass AND relkind = 'c' AND attnum > 0 AND col_description(attrelid, attnum) IS NULL;
-- tables without a primary key, or that are not dumped,
SELECT object FROM members JOIN pg_class c ON c.oid = objid
 WHERE classid = 'pg_class'::regclass AND relkind = 'r' AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = objid AND indisprimary);
SELECT object FROM members JOIN pg_class c ON c.oid = objid
 WHERE classid = 'pg_class'::regclass AND relkind IN ('r', 'S') AND objid <> ALL (SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'tlaw');
-- tables that users may touch, views that they may not read,
SELECT object FROM members JOIN pg_class c ON c.oid = objid
 WHERE classid = 'pg_class'::regclass AND relkind = 'r' AND has_table_privilege('pg_read_all_settings', objid, 'SELECT, INSERT, UPDATE, DELETE');
SELECT object FROM members JOIN pg_class c ON c.oid = objid
 WHERE classid = 'pg_class'::regclass AND relkind = 'v' AND NOT has_table_privilege('pg_read_all_settings', objid, 'SELECT');
-- functions that start an engine and that everybody may call
SELECT object FROM members JOIN pg_proc p ON p.oid = objid
 WHERE classid = 'pg_proc'::regclass AND proname IN ('tlaw_create_corpus', 'tlaw_train', 'tlaw_estimate', 'tlaw_retry', 'tlaw_validation_loss',
       'tlaw_generate', 'tlaw_embeddings', 'tlaw_devices', 'tlaw_run_dimension',
       'tlaw_run_dimension_profile', 'tlaw_dimension', 'tlaw_dimension_profile', 'tlaw_dimension_answers', 'tlaw_intrinsic_dimension')
   AND has_function_privilege('pg_read_all_settings', objid, 'EXECUTE');
-- functions whose operators a user's search_path could replace
SELECT object FROM members JOIN pg_proc p ON p.oid = objid JOIN pg_language l ON l.oid = prolang
 WHERE classid = 'pg_proc'::regclass AND lanname IN ('sql', 'plpgsql') AND prosqlbody IS NULL
   AND NOT COALESCE('search_path=pg_catalog, pg_temp' = ANY (proconfig), false);
DROP VIEW members;

-- settings
LOAD 'tlaw';
SELECT name, context, unit, setting::float8 BETWEEN 1 AND 1e9 AS sane FROM pg_settings
 WHERE name LIKE 'tlaw.%' AND vartype = 'integer' ORDER BY name;
SELECT current_setting('tlaw.max_workers')::int <= current_setting('max_worker_processes')::int / 2 AS workers_left;
SHOW tlaw.device;
SET tlaw.device = 'cuda:3';
SHOW tlaw.device;
SET tlaw.device = 'gpu';
SET tlaw.device = 'cuda:';
SET tlaw.device = 'cuda:x';
SET tlaw.threads = 1;
SET tlaw.no_such_setting = 1;
