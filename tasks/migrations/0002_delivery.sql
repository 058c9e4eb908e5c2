-- A suspect was running in a process that died or froze: it runs alone, so that no neighbour is blamed.
ALTER TABLE task_state ADD COLUMN suspect boolean NOT NULL DEFAULT false;
-- The version of the last snapshot; 0: there is none.
ALTER TABLE task_state ADD COLUMN snapshot integer NOT NULL DEFAULT 0;
-- How often an operator had the task (or a stage of the run) run again: a decision about an older round is stale.
ALTER TABLE task_state ADD COLUMN round integer NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN on_dependency_failure text NOT NULL DEFAULT 'fail';

-- What a task saved for its next attempt. Versions ascend per task; the newest few are kept.
CREATE TABLE snapshots (
    task_id uuid NOT NULL,
    version integer NOT NULL,
    state jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, version)
);

-- Which tasks wait for which; a row goes when its task waits no more (tasks.depends_on keeps what was asked).
CREATE TABLE dependencies (
    task_id uuid NOT NULL,
    needs uuid NOT NULL,
    PRIMARY KEY (task_id, needs)
);
CREATE INDEX dependencies_dependents ON dependencies (needs);
CREATE INDEX task_state_blocked ON task_state (id) WHERE status = 'blocked';
DROP INDEX task_state_open_runs;
CREATE INDEX task_state_open_runs ON task_state (id)
    WHERE queue IS NULL AND status IN ('scheduled', 'blocked', 'queued', 'running');

-- One row for each final failure. It is an outbox entry too: until copied_at is set, its copy is owed to RabbitMQ.
CREATE TABLE dead_letters (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    task_id uuid NOT NULL,
    task_type text NOT NULL,
    queue_name text NOT NULL,
    user_id text NOT NULL,
    attempt integer NOT NULL,
    error_class text NOT NULL,
    code text NOT NULL,
    message text NOT NULL,
    traceback text,
    failed_at timestamptz NOT NULL DEFAULT now(),
    dispatch bigint,
    copied_at timestamptz,
    resolution text,
    resolved_at timestamptz,
    resolved_by uuid
);
CREATE INDEX dead_letters_of_task ON dead_letters (task_id);
CREATE INDEX dead_letters_open ON dead_letters (failed_at) WHERE resolution IS NULL;
CREATE INDEX dead_letters_owed ON dead_letters (queue_name, failed_at)
    WHERE copied_at IS NULL AND dispatch IS NULL AND resolution IS NULL;
CREATE INDEX dead_letters_sent ON dead_letters (dispatch) WHERE dispatch IS NOT NULL;

-- Requests that may be repeated: the same key answers with the same tasks for a day.
CREATE TABLE idempotency_keys (
    caller text NOT NULL,
    route text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    task_ids uuid[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (caller, route, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
