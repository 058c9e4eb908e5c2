-- Metadata is what users say about a document; how it was cut moves to a column of its own.
ALTER TABLE documents ADD COLUMN cut jsonb NOT NULL DEFAULT '{}';
UPDATE documents SET cut = metadata, metadata = '{}' WHERE metadata <> '{}';
CREATE INDEX documents_by_metadata ON documents USING gin (metadata jsonb_path_ops);

ALTER TABLE chunks ADD COLUMN tokens int;  -- by the knowledge base's embedder; null where nobody counted
