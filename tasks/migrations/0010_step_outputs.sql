-- What steps came to, by what determines it: the same input costs nothing the second time.
CREATE TABLE step_outputs (
    key bytea PRIMARY KEY,
    result jsonb,
    task_id uuid NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX step_outputs_task ON step_outputs (task_id);
CREATE INDEX step_outputs_expiry ON step_outputs (expires_at);
