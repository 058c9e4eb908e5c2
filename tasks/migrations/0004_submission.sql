-- The same key of the same owner is the same task, as long as that is on record.
ALTER TABLE tasks ADD COLUMN unique_key text;
CREATE UNIQUE INDEX tasks_unique_key ON tasks (user_id, unique_key) WHERE unique_key IS NOT NULL;
-- Where to tell about the end of the task. It may hold a secret: it is never shown.
ALTER TABLE tasks ADD COLUMN callback_url text;
-- What the order of a pipeline says for all of its stages: max_retries, timeout, backoff. On the run and its stages.
ALTER TABLE tasks ADD COLUMN overrides jsonb;

ALTER TABLE queues ADD COLUMN concurrency integer NOT NULL DEFAULT 5;
ALTER TABLE queues ADD COLUMN rate_limit jsonb;
ALTER TABLE queues ADD COLUMN max_size integer;
ALTER TABLE queues ADD COLUMN paused boolean NOT NULL DEFAULT false;
ALTER TABLE queues ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now();

-- What waits in a queue. Stages take no room of those that max_size limits: their run has taken it,
-- in its own queue, until it is over (task_state.queue is NULL for a run, so that nobody claims it).
ALTER TABLE task_state ADD COLUMN is_stage boolean NOT NULL DEFAULT false;
ALTER TABLE task_state ADD COLUMN run_queue text;
UPDATE task_state s SET is_stage = t.run_id IS NOT NULL, run_queue = CASE WHEN s.queue IS NULL THEN t.queue_name END
FROM tasks t WHERE t.id = s.id AND (t.run_id IS NOT NULL OR s.queue IS NULL);
CREATE INDEX task_state_waiting ON task_state (queue, status, is_stage, ready_at)
    WHERE status IN ('scheduled', 'blocked', 'queued', 'retrying');
CREATE INDEX task_state_runs_of_queue ON task_state (run_queue)
    WHERE run_queue IS NOT NULL AND status IN ('scheduled', 'blocked', 'queued', 'running');
CREATE INDEX dead_letters_of_queue ON dead_letters (queue_name) WHERE resolution IS NULL;
