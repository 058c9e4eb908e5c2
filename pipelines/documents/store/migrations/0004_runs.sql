-- What a run of the pipeline has begun and made, so that a stage that is killed and runs again finds its own.
CREATE TABLE begun_versions (
    run_id      uuid PRIMARY KEY,
    document_id uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    version     int NOT NULL
);
CREATE INDEX begun_versions_by_document ON begun_versions (document_id);

ALTER TABLE vectors ADD COLUMN run_id uuid;  -- whose run embedded the text; null where nobody said
