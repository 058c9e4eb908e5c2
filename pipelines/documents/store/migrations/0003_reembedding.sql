-- A knowledge base is embedded anew beside what searches see: every chunk says of which generation its vector
-- is, and the knowledge base which generation is seen.
ALTER TABLE knowledge_bases ADD COLUMN generation int NOT NULL DEFAULT 0;
ALTER TABLE chunks ADD COLUMN generation int NOT NULL DEFAULT 0;
ALTER TABLE chunks DROP CONSTRAINT chunks_pkey, ADD PRIMARY KEY (document_id, version, generation, ordinal);

-- The last time that a knowledge base was, or is being, embedded anew.
CREATE TABLE reembeddings (
    kb         bigint PRIMARY KEY REFERENCES knowledge_bases ON DELETE CASCADE,
    run_id     uuid NOT NULL,  -- whose work it is; what another run does for this knowledge base is void
    embedder   text NOT NULL,
    dim        smallint NOT NULL CHECK (dim BETWEEN 1 AND 4000),
    generation int NOT NULL,
    former     text NOT NULL,  -- the embedder before
    is_done    boolean NOT NULL DEFAULT false
);
