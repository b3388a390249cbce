-- Corpora: freezing what a table holds, whose rights count, dropping; good and bad input.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS tlaw;
CREATE TABLE fables (id int, chapter text, body text, short varchar(40), number int, doc jsonb, raw bytea);
INSERT INTO fables
SELECT i, 'chapter ' || i / 10, 'The ' || (ARRAY['crow', 'fox', 'lion', 'mouse', 'wolf'])[1 + i % 5] || ' of day ' || i ||
       ' ' || repeat('met a ' || (ARRAY['goat', 'crab', 'frog'])[1 + i % 3] || '. ', 1 + i % 7),
       'short ' || i, i, jsonb_build_object('text', i), convert_to('raw ' || i, 'UTF8')
  FROM generate_series(1, 400) i;
INSERT INTO fables (id, body) SELECT 1000 + i, NULL FROM generate_series(1, 3) i;
INSERT INTO fables (id, body) SELECT 2000 + i, '' FROM generate_series(1, 2) i;

-- the defaults
SELECT tlaw_create_corpus('fables', 'body');
SELECT corpus, owner = current_user AS mine, source, text_column, group_column, tokenizer, vocab_size, documents,
       null_documents, empty_documents, tokenizer_documents
  FROM tlaw_corpora;
SELECT bytes = (SELECT sum(octet_length(body)) FROM fables) AS bytes, tokens = bytes + documents AS tokens,
       train_documents + validation_documents + test_documents = documents AS parts,
       train_tokens + validation_tokens + test_tokens = tokens AS part_tokens,
       round(validation_tokens::numeric / tokens, 1) AS validation, round(test_tokens::numeric / tokens, 1) AS test,
       round(bytes_per_token::numeric, 2) AS bytes_per_token, length(sha256) AS sha256
  FROM tlaw_corpora;
SELECT corpus, count(*) AS shards, sum(octet_length(data)) = c.file_bytes AS whole,
       c.sha256 = sha256(string_agg(data, '' ORDER BY shard)) AS sha256
  FROM tlaw_corpus c JOIN tlaw_corpus_shard USING (corpus) GROUP BY corpus;

-- a document that is most of the text is trained on, whatever the seed
CREATE TABLE long AS SELECT repeat('long ', 20000) AS body UNION ALL SELECT 'short ' || i FROM generate_series(1, 60) i;
SELECT count(tlaw_create_corpus('long', 'body', 'long ' || s, split_seed => s)) FROM generate_series(1, 3) s;
SELECT corpus, train_tokens > 100000 AS train, validation_documents > 0 AS validation, test_documents > 0 AS test
  FROM tlaw_corpora WHERE source = 'public.long' ORDER BY corpus;
SELECT tlaw_drop_corpus(corpus) FROM tlaw_corpora WHERE source = 'public.long';

-- the same text from anything that has rows, in any order: the same corpus
CREATE VIEW fables_view AS SELECT body FROM fables ORDER BY id DESC;
CREATE MATERIALIZED VIEW fables_stored AS SELECT md5(body), body FROM fables ORDER BY 1;
CREATE TABLE fables_parts (id int, body text) PARTITION BY HASH (id);
CREATE TABLE fables_part_0 PARTITION OF fables_parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE fables_part_1 PARTITION OF fables_parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO fables_parts SELECT id, body FROM fables;
SELECT tlaw_create_corpus(s, 'body') FROM unnest('{fables_view, fables_stored, fables_parts}'::regclass[]) s;
SELECT count(*), count(DISTINCT sha256) FROM tlaw_corpora;
CREATE EXTENSION file_fdw;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE numbers (n text) SERVER files OPTIONS (program 'seq 1 500');
SELECT tlaw_create_corpus('numbers', 'n');
SELECT documents, bytes FROM tlaw_corpora WHERE corpus = 'numbers';

-- other types, groups, seeds, fractions
SELECT tlaw_create_corpus('fables', 'short', 'short'), tlaw_create_corpus('fables', 'doc', 'json'),
       tlaw_create_corpus('fables', 'raw', 'raw');
SELECT tlaw_create_corpus('fables', 'body', 'seed 7', split_seed => 7);
SELECT tlaw_create_corpus('fables', 'body', 'halves', validation_fraction => 0.25, test_fraction => 0.25);
SELECT tlaw_create_corpus('fables', 'body', 'chapters', group_column => 'chapter');
SELECT corpus, documents, text_column, group_column, split_seed, validation_fraction, test_fraction,
       sha256 = (SELECT sha256 FROM tlaw_corpora WHERE corpus = 'fables') AS same
  FROM tlaw_corpora WHERE corpus IN ('short', 'json', 'raw', 'seed 7', 'halves', 'chapters') ORDER BY corpus;

-- tokenizers: trained on documents that are left out, or another corpus's
CREATE TABLE many (body text);
INSERT INTO many SELECT string_agg(md5((i * j)::text), ' ') FROM generate_series(1, 400) i, generate_series(1, 20) j GROUP BY i;
SELECT tlaw_create_corpus('many', 'body', 'many', 'bpe:512');
-- the tokenizer as Hugging Face reads it: bytes by their stand-ins, then what merges join, the end of a document last
SELECT j->'model'->'vocab'->>'a' AS a, j->'model'->'vocab'->>U&'\0120' AS blank, j->'model'->'vocab'->>'"' AS quote, j->'model'->'vocab'->>E'\\' AS backslash,
       j->'model'->'vocab'->>U&'\0143' AS soft_hyphen, j->'added_tokens'->0->>'id' AS last,
       (SELECT count(DISTINCT k) FROM json_object_keys(j->'model'->'vocab') k) AS tokens, json_array_length(j->'model'->'merges') AS merges,
       (SELECT bool_and(j->'model'->'vocab'->>replace(m, ' ', '') = (255 + i)::text)
          FROM json_array_elements_text(j->'model'->'merges') WITH ORDINALITY e(m, i)) AS joined
  FROM tlaw_export_tokenizer('many') j;
SELECT j->'model'->>'merges' AS merges, j->'added_tokens'->0->>'id' AS last FROM tlaw_export_tokenizer('fables') j;
SELECT tlaw_export_tokenizer('nothing');
SELECT tlaw_create_corpus('fables', 'body', 'borrowed', 'corpus:many');
SELECT corpus, tokenizer, vocab_size, tokenizer_documents > 0 AS trained, documents + tokenizer_documents AS documents,
       bytes_per_token > 1 AS shorter
  FROM tlaw_corpora WHERE corpus IN ('many', 'borrowed') ORDER BY corpus;

-- bad input
\set VERBOSITY default
SELECT tlaw_create_corpus('fables', 'body');
SELECT tlaw_create_corpus(NULL, 'body');
SELECT tlaw_create_corpus('fables', NULL);
SELECT tlaw_create_corpus('fables', 'boddy', 'x');
SELECT tlaw_create_corpus('fables', 'ctid', 'x');
CREATE TABLE changed (gone int, body int);
ALTER TABLE changed DROP gone;
SELECT tlaw_create_corpus('changed', 'gone', 'x');
SELECT tlaw_create_corpus('changed', 'body', 'x');
DROP TABLE changed;
SELECT tlaw_create_corpus('fables', 'number', 'x');
SELECT tlaw_create_corpus('fables', 'body', 'x', group_column => 'book');
SELECT tlaw_create_corpus('no_such_table', 'body');
SELECT tlaw_create_corpus(0, 'body', 'x');
CREATE INDEX fables_id ON fables (id);
SELECT tlaw_create_corpus('fables_id', 'id', 'x');
SELECT tlaw_create_corpus('fables', 'body', '');
SELECT tlaw_create_corpus('fables', 'body', repeat('x', 64));
SELECT tlaw_create_corpus('fables', 'body', 'x', 'words');
SELECT tlaw_create_corpus('fables', 'body', 'x', 'bpe:511');
SELECT tlaw_create_corpus('fables', 'body', 'x', 'bpe:65536');
SELECT tlaw_create_corpus('fables', 'body', 'x', 'bpe:1e4');
SELECT tlaw_create_corpus('fables', 'short', 'x', 'bpe:512');
SELECT tlaw_create_corpus('many', 'body', 'x', 'bpe:65535');
SELECT tlaw_create_corpus('fables', 'body', 'x', 'corpus:nobody');
SELECT tlaw_create_corpus('fables', 'body', 'x', NULL);
SELECT tlaw_create_corpus('fables', 'body', 'x', validation_fraction => 0);
SELECT tlaw_create_corpus('fables', 'body', 'x', test_fraction => 1);
SELECT tlaw_create_corpus('fables', 'body', 'x', test_fraction => 'NaN');
SELECT tlaw_create_corpus('fables', 'body', 'x', validation_fraction => 0.5, test_fraction => 0.5);
SELECT tlaw_create_corpus('fables', 'body', 'x', split_seed => 0.5);
SELECT tlaw_create_corpus('fables', 'body', 'x', split_seed => -1);
CREATE TABLE empty (body text);
SELECT tlaw_create_corpus('empty', 'body');
INSERT INTO empty VALUES (NULL), (''), ('one text'), ('one text'), ('another');
SELECT tlaw_create_corpus('empty', 'body');
CREATE VIEW broken AS SELECT (1 / (id - 399))::text AS body FROM fables;
SELECT tlaw_create_corpus('broken', 'body');
BEGIN READ ONLY;
SELECT tlaw_create_corpus('fables', 'body', 'x');
ROLLBACK;
SELECT count(*) AS nothing_stored FROM tlaw_corpora WHERE corpus IN ('x', 'empty', 'broken');

-- a rollback, also to a savepoint, leaves nothing
BEGIN;
SELECT tlaw_create_corpus('fables', 'body', 'gone');
SAVEPOINT s;
SELECT tlaw_drop_corpus('raw');
ROLLBACK TO s;
SELECT count(*) FROM tlaw_corpora WHERE corpus IN ('gone', 'raw');
ROLLBACK;
SELECT corpus FROM tlaw_corpora WHERE corpus IN ('gone', 'raw');
SELECT count(*) FROM tlaw_corpus_shard WHERE corpus = 'gone';

-- whose rights: the reader's, with row-level security and column privileges; owners see and drop their own
CREATE ROLE regress_tlaw_reader;
CREATE TABLE diary (owner name, secret text, body text);
INSERT INTO diary SELECT CASE WHEN i <= 50 THEN 'regress_tlaw_reader' ELSE 'other' END, 'secret', 'day ' || i FROM generate_series(1, 80) i;
ALTER TABLE diary ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON diary USING (owner = current_user);
GRANT SELECT (owner, body) ON diary TO regress_tlaw_reader;
SET ROLE regress_tlaw_reader;
SELECT tlaw_create_corpus('diary', 'body');
RESET ROLE;
GRANT EXECUTE ON FUNCTION tlaw_create_corpus TO regress_tlaw_reader;
SET ROLE regress_tlaw_reader;
SELECT tlaw_create_corpus('diary', 'body');
SELECT corpus, owner, documents FROM tlaw_corpora;
SELECT tlaw_create_corpus('diary', 'secret', 'x');
SELECT tlaw_create_corpus('fables', 'body', 'x');
SELECT tlaw_create_corpus('diary', 'body', 'x', 'corpus:fables');
SELECT tlaw_drop_corpus('fables');
SELECT count(*) FROM tlaw_corpus;
SET search_path = '';
SELECT public.tlaw_create_corpus('public.diary', 'body', 'from elsewhere');
RESET search_path;
SELECT tlaw_drop_corpus('from elsewhere');
RESET ROLE;
SELECT corpus, owner FROM tlaw_corpora WHERE corpus = 'diary';

-- dropping
INSERT INTO tlaw_run (owner, corpus, status) VALUES (current_user, 'diary', 'done');
SELECT tlaw_drop_corpus('diary');
DELETE FROM tlaw_run WHERE corpus = 'diary';
SELECT tlaw_drop_corpus('diary');
SELECT tlaw_drop_corpus('diary');
SELECT tlaw_drop_corpus(NULL) IS NULL AS nothing;
SELECT count(tlaw_drop_corpus(corpus)) FROM tlaw_corpora;
SELECT (SELECT count(*) FROM tlaw_corpus) AS corpora, (SELECT count(*) FROM tlaw_corpus_shard) AS shards;
DROP TABLE fables, fables_parts, many, empty, diary CASCADE;
DROP EXTENSION file_fdw CASCADE;
DROP OWNED BY regress_tlaw_reader;
DROP ROLE regress_tlaw_reader;
