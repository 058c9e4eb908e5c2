-- What was asked: written once, never updated.
CREATE TABLE tasks (
    id uuid PRIMARY KEY,
    task_type text NOT NULL,
    queue_name text NOT NULL,
    priority smallint NOT NULL,
    payload jsonb NOT NULL,
    max_retries integer NOT NULL,
    backoff jsonb,
    timeout double precision NOT NULL,
    user_id text NOT NULL DEFAULT '',
    project_id text,
    kb_id text,
    created_by text NOT NULL DEFAULT 'system',
    tags text[] NOT NULL DEFAULT '{}',
    parent_id uuid,
    run_id uuid,
    stage text,
    stage_index integer,
    depends_on uuid[] NOT NULL DEFAULT '{}',
    run_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX tasks_stage_once ON tasks (run_id, stage, stage_index) WHERE run_id IS NOT NULL;
CREATE INDEX tasks_whole ON tasks (id) WHERE run_id IS NULL;
CREATE INDEX tasks_by_type ON tasks (task_type, id);
CREATE INDEX tasks_by_queue ON tasks (queue_name, id);
CREATE INDEX tasks_by_user ON tasks (user_id, id);
CREATE INDEX tasks_by_kb ON tasks (kb_id, id) WHERE kb_id IS NOT NULL;
CREATE INDEX tasks_by_parent ON tasks (parent_id) WHERE parent_id IS NOT NULL;

-- What happened: narrow and updated often. To it alone belong indexes that mention status.
-- queue is NULL for a run (a pipeline as a whole), which is never claimed itself.
CREATE TABLE task_state (
    id uuid PRIMARY KEY,
    status text NOT NULL,
    queue text,
    rank double precision NOT NULL,
    ready_at timestamptz NOT NULL,
    dispatch bigint,
    dispatched_at timestamptz,
    token bigint,
    worker uuid,
    attempt integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    deaths smallint NOT NULL DEFAULT 0,
    events integer NOT NULL DEFAULT 1,
    running_event integer,
    progress real NOT NULL DEFAULT 0,
    phase text,
    message text,
    details jsonb,
    result jsonb,
    error jsonb,
    started_at timestamptz,
    finished_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX task_state_ready ON task_state (queue, rank) WHERE status = 'queued' AND dispatch IS NULL;
CREATE INDEX task_state_sent ON task_state (dispatch) WHERE status = 'queued' AND dispatch IS NOT NULL;
CREATE INDEX task_state_due ON task_state (ready_at) WHERE status IN ('scheduled', 'retrying');
CREATE INDEX task_state_held ON task_state (worker) WHERE status = 'running';
CREATE INDEX task_state_open_runs ON task_state (id)
    WHERE queue IS NULL AND status IN ('scheduled', 'queued', 'running');
CREATE INDEX task_state_unfinished ON task_state (id)
    WHERE status IN ('scheduled', 'blocked', 'queued', 'running', 'retrying');
CREATE INDEX task_state_by_status ON task_state (status, id);

-- One row for each attempt that ended in anything but success.
CREATE TABLE attempts (
    task_id uuid NOT NULL,
    attempt integer NOT NULL,
    outcome text NOT NULL,
    status text NOT NULL,
    worker uuid,
    error jsonb,
    traceback text,
    started_at timestamptz,
    ended_at timestamptz NOT NULL DEFAULT now(),
    started_event integer,
    ended_event integer NOT NULL,
    PRIMARY KEY (task_id, ended_event)
);

-- What cannot be derived from the columns and the attempts. Ids ascend per task.
CREATE TABLE events (
    task_id uuid NOT NULL,
    event_id integer NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    phase text,
    progress real,
    message text,
    data jsonb,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (task_id, event_id)
);

-- One row for each living process. Its advisory lock and its heartbeat are the lease of all it has claimed.
CREATE TABLE workers (
    id uuid PRIMARY KEY,
    lock_key integer GENERATED ALWAYS AS IDENTITY,
    kind text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    version text NOT NULL,
    queues text[] NOT NULL DEFAULT '{}',
    types text[] NOT NULL DEFAULT '{}',
    threads integer NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);

-- Batches that are being published: one that is confirmed is deleted, one of a dead owner is opened again.
CREATE TABLE dispatches (
    id bigint PRIMARY KEY,
    owner uuid NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE queues (
    name text PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Every type that some process has ever declared.
CREATE TABLE task_types (
    name text PRIMARY KEY,
    queue_name text NOT NULL,
    is_pipeline boolean NOT NULL DEFAULT false,
    declared_at timestamptz NOT NULL DEFAULT now()
);
