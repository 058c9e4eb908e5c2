-- Whether any chunk still has a text, asked for each text of a document that is deleted.
CREATE INDEX chunks_by_text_hash ON chunks USING hash (text_hash);
