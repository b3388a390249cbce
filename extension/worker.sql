-- No SET clause: a procedure that has one cannot commit.
CREATE PROCEDURE @extschema@.tlaw_wait(run_id bigint)
    AS 'MODULE_PATHNAME', 'tlaw_wait_run' LANGUAGE c;
COMMENT ON PROCEDURE @extschema@.tlaw_wait(bigint) IS 'waits for a run to end, with progress notices';

CREATE PROCEDURE @extschema@.tlaw_wait(study text)
    AS 'MODULE_PATHNAME', 'tlaw_wait_study' LANGUAGE c;
COMMENT ON PROCEDURE @extschema@.tlaw_wait(text) IS 'waits for all runs of a study to end, with progress notices';
