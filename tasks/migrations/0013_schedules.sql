-- Cron schedules. `definition` is what was asked for; `version` counts its changes. `next_fire` is the next time that
-- its expression says, `next_run_at` when that is due, with its jitter; both are NULL while it is paused.
CREATE TABLE schedules (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    version integer NOT NULL DEFAULT 1,
    definition jsonb NOT NULL,
    overlap text NOT NULL,
    is_active boolean NOT NULL,
    next_fire timestamptz,
    next_run_at timestamptz,
    last_run_at timestamptz,
    last_task_id uuid,
    fired bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    missed bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX schedules_due ON schedules (next_run_at, id) WHERE is_active;

-- What became of each fire time; of several that nobody was there for one row may stand for all (`missed` others).
-- `late` is in seconds. Rows of a schedule that was deleted go with their age.
CREATE TABLE fires (
    schedule uuid NOT NULL,
    fire_time timestamptz NOT NULL,
    outcome text NOT NULL,
    task_id uuid,
    missed integer NOT NULL DEFAULT 0,
    late double precision,
    error text,
    fired_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schedule, fire_time)
);
CREATE INDEX fires_by_age ON fires (fired_at);
