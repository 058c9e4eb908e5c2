-- A queue that nobody has defined has no limit: as many of its tasks run as the workers have threads.
ALTER TABLE queues ALTER COLUMN concurrency DROP NOT NULL, ALTER COLUMN concurrency DROP DEFAULT;
UPDATE queues SET concurrency = NULL
WHERE updated_at = created_at AND concurrency = 5 AND rate_limit IS NULL AND max_size IS NULL;

-- What is claimed from a steered queue is judged first. All other queues are told by this column alone.
ALTER TABLE queues ADD COLUMN steered boolean NOT NULL
    GENERATED ALWAYS AS (paused OR concurrency IS NOT NULL OR rate_limit IS NOT NULL) STORED;
CREATE INDEX queues_steered ON queues (name) WHERE steered;

-- The token buckets of queues with a rate limit, as they were when something last started.
CREATE TABLE rate_buckets (
    queue text PRIMARY KEY,
    tokens double precision NOT NULL,
    refilled_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200, autovacuum_vacuum_scale_factor = 0);

-- Who runs, by queue: places are counted, never stored. It is as long as the workers have threads, so that what a
-- worker holds is found in it too.
DROP INDEX task_state_held;
CREATE INDEX task_state_held ON task_state (queue, worker) WHERE status = 'running' AND worker IS NOT NULL;
