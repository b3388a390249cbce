CREATE FUNCTION @extschema@.tlaw_validation_loss(run_id bigint, source regclass DEFAULT NULL,
    text_column name DEFAULT NULL, OUT loss float8, OUT loss_se float8, OUT bits_per_byte float8,
    OUT bits_per_byte_se float8, OUT tokens bigint, OUT bytes bigint, OUT documents bigint)
    AS 'MODULE_PATHNAME', 'tlaw_validation_loss' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_validation_loss IS
    'a run''s loss on its validation documents, or on the text of any table: nats a token, bits a byte, standard errors over documents';
REVOKE ALL ON FUNCTION @extschema@.tlaw_validation_loss FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_generate(run_id bigint, prompt text DEFAULT '', max_tokens float8 DEFAULT 200,
    temperature float8 DEFAULT 0.8, top_k float8 DEFAULT 0, top_p float8 DEFAULT 1, seed float8 DEFAULT 0)
    RETURNS text AS 'MODULE_PATHNAME', 'tlaw_generate' LANGUAGE c VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_generate IS
    'how a run''s model continues the prompt, up to the end of the text or max_tokens; temperature 0 takes the likeliest token, top_k 0 means all';
REVOKE ALL ON FUNCTION @extschema@.tlaw_generate FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_embeddings(run_id bigint, layer float8, source regclass DEFAULT NULL,
    text_column name DEFAULT NULL, part text DEFAULT NULL, positions float8 DEFAULT NULL,
    prefix float8 DEFAULT NULL, max_documents float8 DEFAULT NULL, seed float8 DEFAULT 0,
    untrained boolean DEFAULT false, OUT document bigint, OUT "position" int, OUT embedding real[]) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'tlaw_embeddings' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_embeddings IS
    'hidden states of a run''s model (layer 0: embeddings, l: after block l, n_layer + 1: after the last norm) for its validation or test part or the rows of a table; documents and positions count from 1; untrained: of its initial weights';
REVOKE ALL ON FUNCTION @extschema@.tlaw_embeddings FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_export(run_id bigint) RETURNS bytea
    AS 'MODULE_PATHNAME', 'tlaw_export' LANGUAGE c STABLE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_export IS
    'the weights of a run as a safetensors file with GPT-2''s names, as Hugging Face transformers reads it';

CREATE FUNCTION @extschema@.tlaw_devices(OUT device text, OUT isa text, OUT "precision" text, OUT name text, OUT cores int,
    OUT memory bigint, OUT gflops float8, OUT usable boolean, OUT reason text) RETURNS SETOF record
    AS 'MODULE_PATHNAME', 'tlaw_devices' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_devices IS
    'what this machine can train on: the CPU once an instruction set and precision, the best first (tlaw.cpu_isa chooses), then GPUs; speed of a large matrix product; reason: why one is not usable';
REVOKE ALL ON FUNCTION @extschema@.tlaw_devices FROM PUBLIC;
