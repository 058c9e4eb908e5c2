-- How many tasks with the same key may run at once, as the policy of the type said when the task was submitted.
-- One that found no place when it was to be claimed is parked: it stays queued, and nobody looks at it until a place
-- of its key is free. Parked means something only while the task is queued.
ALTER TABLE task_state ADD COLUMN concurrency integer;
ALTER TABLE task_state ADD COLUMN concurrency_key text;
ALTER TABLE task_state ADD COLUMN parked boolean NOT NULL DEFAULT false;

DROP INDEX task_state_ready;
CREATE INDEX task_state_ready ON task_state (queue, rank)
    WHERE status = 'queued' AND dispatch IS NULL AND NOT parked;
DROP INDEX task_state_tenants;
CREATE INDEX task_state_tenants ON task_state (queue, tenant, rank)
    WHERE status = 'queued' AND dispatch IS NULL AND NOT parked;
-- Who has a place, and who waits for one. Tasks without a key are in neither.
CREATE INDEX task_state_places ON task_state (concurrency_key)
    WHERE status = 'running' AND concurrency_key IS NOT NULL;
CREATE INDEX task_state_keyed ON task_state (concurrency_key, parked, rank, id)
    WHERE status = 'queued' AND concurrency_key IS NOT NULL;

-- What the policy of a type says, for processes that submit its tasks but do not know its code.
ALTER TABLE task_types ADD COLUMN concurrency integer;
ALTER TABLE task_types ADD COLUMN concurrency_key text;
