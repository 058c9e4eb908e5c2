-- Whatever Postgres guesses about how much is queued, each look at what waits has only one index to choose: the
-- conditions of these are in words that no other index understands (see tasks/plans.py).
DROP INDEX task_state_ready;
CREATE INDEX task_state_ready ON task_state (queue, rank)
    WHERE coalesce(status, '') = 'queued' AND dispatch IS NULL AND NOT parked;
DROP INDEX task_state_tenants;
CREATE INDEX task_state_tenants ON task_state (queue, tenant, rank)
    WHERE coalesce(status, '') = 'queued' AND dispatch IS NULL AND NOT parked;
DROP INDEX task_state_wire;
CREATE INDEX task_state_wire ON task_state (queue)
    WHERE coalesce(status, '') = 'queued' AND dispatch IS NOT NULL;
DROP INDEX task_state_sent;
CREATE INDEX task_state_sent ON task_state (dispatch)
    WHERE coalesce(status, '') = 'queued' AND dispatch IS NOT NULL;
DROP INDEX task_state_keyed;
CREATE INDEX task_state_keyed ON task_state (concurrency_key, parked, queue, rank, id)
    WHERE coalesce(status, '') = 'queued' AND concurrency_key IS NOT NULL;
DROP INDEX task_state_unfinished;
CREATE INDEX task_state_unfinished ON task_state (id)
    WHERE coalesce(status, '') IN ('scheduled', 'blocked', 'queued', 'running', 'retrying');
-- What the clock looks through for stages whose run is over.
CREATE INDEX task_state_unfinished_stages ON task_state (id)
    WHERE is_stage AND coalesce(status, '') IN ('scheduled', 'blocked', 'queued', 'running', 'retrying');
