-- Knowledge bases, their documents, the documents' chunks, and the cache of embeddings.

DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'vector') THEN
        RAISE EXCEPTION 'This Postgres server has no pgvector, which the document store needs.'
            USING HINT = 'Install pgvector 0.8 or newer on the server (the package postgresql-NN-pgvector, or the image pgvector/pgvector), then migrate again.';
    END IF;
END $$;

CREATE EXTENSION IF NOT EXISTS vector;

DO $$
BEGIN
    IF (SELECT string_to_array(substring(extversion FROM '^[0-9.]+'), '.')::int[] < '{0,8}'
        FROM pg_extension WHERE extname = 'vector') THEN
        RAISE EXCEPTION 'This database has a pgvector older than 0.8, which cannot search a small knowledge base among large ones.'
            USING HINT = 'Install pgvector 0.8 or newer, run ALTER EXTENSION vector UPDATE, then migrate again.';
    END IF;
END $$;

CREATE TABLE knowledge_bases (
    key        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner      text NOT NULL,  -- '' when there is no authentication
    kb_id      text NOT NULL,
    name       text NOT NULL,
    embedder   text NOT NULL,
    dim        smallint NOT NULL CHECK (dim BETWEEN 1 AND 4000),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (owner, kb_id)
);

CREATE TABLE documents (
    id           uuid PRIMARY KEY,
    kb           bigint NOT NULL REFERENCES knowledge_bases ON DELETE CASCADE,
    name         text NOT NULL,
    media_type   text NOT NULL DEFAULT '',
    size_bytes   bigint NOT NULL DEFAULT 0,
    sha256       text NOT NULL DEFAULT '',    -- of the searchable version
    version      int NOT NULL DEFAULT 0,      -- the searchable one; 0 = none yet
    last_version int NOT NULL DEFAULT 0,      -- the newest one that was begun
    chunks       int NOT NULL DEFAULT 0,      -- of the searchable version
    task_id      uuid,                        -- the last one that processes it
    metadata     jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (kb, name),
    CHECK (version <= last_version)
);
CREATE INDEX documents_by_content ON documents (kb, sha256);
CREATE INDEX documents_newest ON documents (kb, id);

CREATE TABLE chunks (
    document_id  uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    version      int NOT NULL,
    ordinal      int NOT NULL,
    kb           bigint NOT NULL,  -- the document's; here for the planner, which must know how few rows a knowledge base has
    text         text NOT NULL,
    heading_path text[] NOT NULL,
    start_offset int NOT NULL,
    end_offset   int NOT NULL,
    text_hash    bytea NOT NULL,
    dim          smallint NOT NULL,
    embedding    halfvec NOT NULL,
    tsv          tsvector NOT NULL,
    PRIMARY KEY (document_id, version, ordinal)
);
-- A search reads the embeddings and the words of very many chunks, but the text of its hits alone:
-- only the text goes to TOAST (measured: ranking 9,800 chunks takes 48 ms instead of 116 ms).
ALTER TABLE chunks ALTER COLUMN embedding SET STORAGE MAIN, ALTER COLUMN tsv SET STORAGE MAIN;
CREATE INDEX chunks_by_kb ON chunks (kb);
CREATE INDEX chunks_by_lexeme ON chunks USING gin (tsv);

CREATE TABLE vectors (
    model      text NOT NULL,
    text_hash  bytea NOT NULL,
    embedding  halfvec NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (model, text_hash)
);
