CREATE FUNCTION @extschema@.tlaw_create_corpus(source regclass, text_column name, name text DEFAULT NULL,
    tokenizer text DEFAULT 'bytes', group_column name DEFAULT NULL, validation_fraction float8 DEFAULT 0.05,
    test_fraction float8 DEFAULT 0.05, split_seed float8 DEFAULT 0) RETURNS text
    AS 'MODULE_PATHNAME', 'tlaw_create_corpus' LANGUAGE c VOLATILE;
COMMENT ON FUNCTION @extschema@.tlaw_create_corpus IS
    'reads a table once, tokenises, splits and freezes its text; returns the corpus''s name (by default the table''s)';
REVOKE ALL ON FUNCTION @extschema@.tlaw_create_corpus FROM PUBLIC;

CREATE FUNCTION @extschema@.tlaw_drop_corpus(name text) RETURNS void
    AS 'MODULE_PATHNAME', 'tlaw_drop_corpus' LANGUAGE c VOLATILE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_drop_corpus IS 'drops a corpus that no run depends on';

CREATE FUNCTION @extschema@.tlaw_export_tokenizer(corpus text) RETURNS json
    AS 'MODULE_PATHNAME', 'tlaw_export_tokenizer' LANGUAGE c STABLE STRICT;
COMMENT ON FUNCTION @extschema@.tlaw_export_tokenizer IS
    'a corpus''s tokenizer as tokenizer.json of Hugging Face tokenizers, with the ids of tlaw_export''s weights; <|endoftext|> ends a document and begins the next';

CREATE VIEW @extschema@.tlaw_corpora WITH (security_barrier) AS
SELECT c.corpus, c.owner, c.source, c.text_column, c.group_column, c.tokenizer, c.vocab_size, c.documents, c.tokens,
       c.bytes, c.bytes::float8 / c.tokens AS bytes_per_token,
       c.train_documents, c.train_tokens, c.validation_documents, c.validation_tokens, c.test_documents, c.test_tokens,
       c.tokenizer_documents, c.null_documents, c.empty_documents, c.validation_fraction, c.test_fraction,
       c.split_seed, pg_catalog.encode(c.sha256, 'hex') AS sha256, c.file_bytes, c.created_at
  FROM @extschema@.tlaw_corpus c LEFT JOIN pg_catalog.pg_roles r ON r.rolname = c.owner
 WHERE pg_catalog.pg_has_role(COALESCE(r.oid, 10), 'USAGE');
COMMENT ON VIEW @extschema@.tlaw_corpora IS 'the corpora of your roles: sizes, tokenizer, parts, hash';
GRANT SELECT ON @extschema@.tlaw_corpora TO PUBLIC;
