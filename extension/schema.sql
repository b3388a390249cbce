-- The tables behind everything.  Users have no rights on them: views (beside each noun's functions) show what
-- one's roles own (10, the bootstrap superuser, stands for an owner that was dropped), functions write as the
-- extension's owner.  Every table has a primary key, keeps names rather than OIDs, and is dumped.  No table refers to another: pg_restore --jobs fills the tables of an extension in any
-- order and loses what a foreign key refuses.  Functions hold what they refer to (FOR KEY SHARE) and drop what is of it.

CREATE TABLE @extschema@.tlaw_corpus (
    corpus text PRIMARY KEY,
    owner name NOT NULL,
    source text NOT NULL,               -- the table's qualified name when it was read
    text_column name NOT NULL,
    group_column name,
    tokenizer text NOT NULL,            -- as given: 'bytes', 'bpe:N', 'corpus:NAME'
    validation_fraction float8 NOT NULL,
    test_fraction float8 NOT NULL,
    split_seed int8 NOT NULL,
    sha256 bytea NOT NULL,              -- of the token file
    file_bytes int8 NOT NULL,
    tokenizer_offset int8 NOT NULL, tokenizer_bytes int8 NOT NULL,  -- of the tokenizer's definition in that file
    vocab_size int NOT NULL,
    documents int8 NOT NULL, tokens int8 NOT NULL, bytes int8 NOT NULL,
    train_documents int8 NOT NULL, train_tokens int8 NOT NULL, train_bytes int8 NOT NULL,
    validation_documents int8 NOT NULL, validation_tokens int8 NOT NULL, validation_bytes int8 NOT NULL,
    test_documents int8 NOT NULL, test_tokens int8 NOT NULL, test_bytes int8 NOT NULL,
    tokenizer_documents int8 NOT NULL,  -- read by the tokenizer's training and left out of the parts
    null_documents int8 NOT NULL, empty_documents int8 NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE @extschema@.tlaw_corpus IS 'frozen corpora, a row each; read the view tlaw_corpora';

CREATE TABLE @extschema@.tlaw_corpus_shard (
    corpus text,
    shard int,
    data bytea NOT NULL,                -- at most 8 MiB of the token file
    PRIMARY KEY (corpus, shard)
);
ALTER TABLE @extschema@.tlaw_corpus_shard ALTER data SET STORAGE EXTERNAL;
COMMENT ON TABLE @extschema@.tlaw_corpus_shard IS 'the token files of frozen corpora in chunks of 8 MiB';

CREATE TABLE @extschema@.tlaw_study (
    study text PRIMARY KEY,
    owner name NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE @extschema@.tlaw_study IS 'studies: named sets of runs';

CREATE TABLE @extschema@.tlaw_run (
    run_id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner name NOT NULL,
    study text,
    corpus text,                        -- NULL: recorded, not trained here
    spec_hash bytea,                    -- sha256 of (corpus hash, specification)
    again boolean NOT NULL DEFAULT false, -- may equal another run: asked for again, or retried
    -- the specification, as kernels/engine/spec.h lists it
    arch text, n_layer int, n_head int, d_model int, context_length int, vocab_size int, bias int,
    train_tokens int8, subset_seed int8, seed int8, steps int8, batch_size int, micro_batch int,
    learning_rate float8, min_learning_rate float8, warmup_steps int8, schedule text, cooldown_steps int8,
    weight_decay float8, beta1 float8, beta2 float8, grad_clip float8,
    eval_interval int8, eval_points int, eval_tokens int8,
    checkpoint text, device text, isa text, precision text, recompute int,
    -- how to run it
    threads int,                        -- most threads; NULL: tlaw.threads
    priority int NOT NULL DEFAULT 0,    -- higher first; then the cheapest
    memory int8,                        -- estimated peak of the engine, bytes
    -- what follows from it
    n_params int8, n_params_non_embedding int8, tokens_seen int8, epochs float8, flops float8,
    -- the queue
    status text NOT NULL CHECK (status IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    attempt int NOT NULL DEFAULT 0,     -- claims so far; a report is accepted from the current one only
    failures int NOT NULL DEFAULT 0,    -- engine deaths without checkpoint progress since
    alone boolean NOT NULL DEFAULT false, -- an engine died under it: the next serves no other run
    cancel_requested boolean NOT NULL DEFAULT false,
    queue_identifier int8,              -- of the cluster and database that may start it; NULL: recorded
    code_version text,                  -- that queued it; with those that worked on it, where they differ
    submitted_at timestamptz NOT NULL DEFAULT now(), started_at timestamptz, finished_at timestamptz,
    error text,
    -- results
    train_bytes int8, train_documents int8, train_loss float8,
    val_loss float8, val_loss_min float8, val_loss_last float8, best_step int8,
    test_loss float8, test_loss_se float8, bits_per_byte float8, test_tokens int8, test_bytes int8,
    tokens_per_second float8, mfu float8, train_seconds float8, eval_seconds float8, peak_memory int8
);
CREATE INDEX ON @extschema@.tlaw_run (status) WHERE status IN ('queued', 'running');
CREATE INDEX ON @extschema@.tlaw_run (study);
CREATE INDEX ON @extschema@.tlaw_run (spec_hash);
-- One run a specification and study, however many submit it at once.
CREATE UNIQUE INDEX ON @extschema@.tlaw_run (owner, spec_hash, (coalesce(study, '')))
 WHERE NOT again AND status IN ('queued', 'running', 'done');
COMMENT ON TABLE @extschema@.tlaw_run IS 'runs: specification, state and results; read the view tlaw_runs';

-- One narrow row a run, so that frequent updates stay cheap.
CREATE TABLE @extschema@.tlaw_run_progress (
    run_id int8 PRIMARY KEY,
    phase text, step int8, total int8, loss float8, tokens_per_second float8, seconds_left float8,
    threads int, worker_pid int, engine_pid int,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.tlaw_run_progress IS 'where each run stands; read the view tlaw_progress';

CREATE TABLE @extschema@.tlaw_run_loss (
    run_id int8,
    step int8,
    tokens_seen int8 NOT NULL, train_loss float8, val_loss float8, learning_rate float8, grad_norm float8,
    seconds float8,
    PRIMARY KEY (run_id, step)
);
COMMENT ON TABLE @extschema@.tlaw_run_loss IS 'loss curves; read the view tlaw_losses';

-- Per-document test losses, arrays in the order of the corpus's test documents.
CREATE TABLE @extschema@.tlaw_run_document_loss (
    run_id int8 PRIMARY KEY,
    loss_sum float8[] NOT NULL, tokens int8[] NOT NULL, bytes int8[] NOT NULL
);
COMMENT ON TABLE @extschema@.tlaw_run_document_loss IS 'test loss of every test document, summed over its tokens (nats)';

-- kind 'resume': trainer state of a run in progress; 'model': the scored weights, a safetensors file.
-- The header is written last, in the transaction that deletes the predecessor.
CREATE TABLE @extschema@.tlaw_checkpoint (
    run_id int8,
    kind text CHECK (kind IN ('resume', 'model')),
    generation int8 NOT NULL,           -- of its chunks
    step int8 NOT NULL, bytes int8 NOT NULL, sha256 bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, kind)
);
COMMENT ON TABLE @extschema@.tlaw_checkpoint IS 'checkpoints: one a run and kind';
CREATE TABLE @extschema@.tlaw_checkpoint_chunk (
    run_id int8,
    kind text, generation int8, chunk int,
    data bytea NOT NULL,                -- at most 8 MiB
    PRIMARY KEY (run_id, kind, generation, chunk)
);
ALTER TABLE @extschema@.tlaw_checkpoint_chunk ALTER data SET STORAGE EXTERNAL;
COMMENT ON TABLE @extschema@.tlaw_checkpoint_chunk IS 'the bytes of checkpoints in chunks of 8 MiB';

-- All of it is the user's, so all of it is dumped.
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_corpus', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_corpus_shard', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_study', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_run', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_run_run_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_run_progress', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_run_loss', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_run_document_loss', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_checkpoint', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.tlaw_checkpoint_chunk', '');
