-- Numbers of corpora: shares, sizes, tokenizers, on the English that every PostgreSQL carries in pg_description.
SELECT plan(16);
CREATE TABLE english AS SELECT objoid::text AS key, classoid::regclass::text AS class, description AS body FROM pg_catalog.pg_description;
CREATE TABLE distinct_english AS SELECT DISTINCT body FROM english;

SELECT lives_ok($$SELECT tlaw_create_corpus('english', 'body')$$, 'freezes');
SELECT is(documents, (SELECT count(*) FROM english), 'every row is a document') FROM tlaw_corpora WHERE corpus = 'english';
SELECT is(bytes, (SELECT sum(octet_length(body)) FROM english)::bigint, 'every byte counts') FROM tlaw_corpora WHERE corpus = 'english';

-- shares are of bytes, by whole groups
SELECT lives_ok($$SELECT tlaw_create_corpus('english', 'body', 'tenths', validation_fraction => 0.1, test_fraction => 0.2)$$, 'other shares');
SELECT cmp_ok(abs(validation_tokens::float8 / tokens - 0.1), '<', 0.01::float8, 'validation has its share') FROM tlaw_corpora WHERE corpus = 'tenths';
SELECT cmp_ok(abs(test_tokens::float8 / tokens - 0.2), '<', 0.01::float8, 'test has its share') FROM tlaw_corpora WHERE corpus = 'tenths';
SELECT tlaw_create_corpus('english', 'body', 'by class', group_column => 'class') \g /dev/null
SELECT cmp_ok(count(*), '>=', 3::bigint, 'there are classes to divide') FROM (SELECT DISTINCT class FROM english) c;
SELECT ok(EXISTS (SELECT FROM (SELECT sum(octet_length(body)) AS bytes FROM english GROUP BY class) c, tlaw_corpora t
                   WHERE t.corpus = 'by class' AND c.bytes <= t.validation_tokens), 'validation holds a whole class');

-- another seed, another split of the same text
SELECT tlaw_create_corpus('english', 'body', 'seed 1', split_seed => 1) \g /dev/null
SELECT is(a.tokens, b.tokens, 'another seed, the same tokens') FROM tlaw_corpora a, tlaw_corpora b WHERE a.corpus = 'english' AND b.corpus = 'seed 1';
SELECT isnt(a.sha256, b.sha256, 'but another split') FROM tlaw_corpora a, tlaw_corpora b WHERE a.corpus = 'english' AND b.corpus = 'seed 1';

-- byte-pair encoding
SELECT lives_ok($$SELECT tlaw_create_corpus('distinct_english', 'body', 'pairs', 'bpe:1024')$$, 'trains a tokenizer');
SELECT is(vocab_size, 1024, 'of the size that was asked for') FROM tlaw_corpora WHERE corpus = 'pairs';
SELECT cmp_ok(bytes_per_token, '>', 2.0::float8, 'with two bytes a token and more') FROM tlaw_corpora WHERE corpus = 'pairs';
SELECT is(documents + tokenizer_documents, (SELECT count(*) FROM distinct_english), 'what it was trained on is left out') FROM tlaw_corpora WHERE corpus = 'pairs';
SELECT tlaw_create_corpus('distinct_english', 'body', 'same pairs', 'corpus:pairs') \g /dev/null
SELECT is(documents, (SELECT count(*) FROM distinct_english), 'a borrowed tokenizer leaves nothing out') FROM tlaw_corpora WHERE corpus = 'same pairs';
SELECT cmp_ok(abs(a.bytes_per_token / b.bytes_per_token - 1), '<', 0.05::float8, 'and encodes alike')
  FROM tlaw_corpora a, tlaw_corpora b WHERE a.corpus = 'pairs' AND b.corpus = 'same pairs';
SELECT * FROM finish();
