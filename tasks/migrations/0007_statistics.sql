-- What every transaction adds to the statistics (or takes away), appended in that transaction, so that nobody waits
-- for a row. `count` is what has happened, `kept` what of it is still on record. `durations` holds one slot a task:
-- floor(ln(milliseconds) / ln(1.05)).
CREATE TABLE tallies (
    minute timestamptz NOT NULL,
    user_id text NOT NULL,
    task_type text NOT NULL,
    queue_name text NOT NULL,
    is_stage boolean NOT NULL,
    status text NOT NULL,
    count integer NOT NULL,
    kept integer NOT NULL,
    duration_ms double precision NOT NULL DEFAULT 0,
    durations smallint[]
) WITH (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0.1, autovacuum_vacuum_cost_delay = 0);

-- The tallies, folded: by all time, day, hour and minute of created_at; for each user, and for everyone together.
-- `status` is a final state, or 'submitted'. `slots` and `numbers` are the histogram of durations, without empty slots.
CREATE TABLE statistics (
    everyone boolean NOT NULL,
    user_id text NOT NULL,
    level text NOT NULL,
    bucket timestamptz NOT NULL,
    task_type text NOT NULL,
    queue_name text NOT NULL,
    is_stage boolean NOT NULL,
    status text NOT NULL,
    count bigint NOT NULL,
    kept bigint NOT NULL,
    duration_ms double precision NOT NULL,
    slots smallint[],
    numbers bigint[],
    PRIMARY KEY (everyone, user_id, level, bucket, task_type, queue_name, is_stage, status)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX statistics_age ON statistics (level, bucket) WHERE level IN ('hour', 'minute');

-- What is on record already. Of long ago only hours are kept.
INSERT INTO tallies (minute, user_id, task_type, queue_name, is_stage, status, count, kept)
SELECT date_trunc(CASE WHEN created_at < now() - interval '2 days' THEN 'hour' ELSE 'minute' END, created_at, 'UTC'),
    user_id, task_type, queue_name, run_id IS NOT NULL, 'submitted', count(*), count(*)
FROM tasks GROUP BY 1, 2, 3, 4, 5;

INSERT INTO tallies
SELECT date_trunc(CASE WHEN t.created_at < now() - interval '2 days' THEN 'hour' ELSE 'minute' END, t.created_at, 'UTC'),
    t.user_id, t.task_type, t.queue_name, t.run_id IS NOT NULL, s.status, count(*), count(*),
    coalesce(sum(ms) FILTER (WHERE s.status = 'completed'), 0),
    array_agg(floor(ln(greatest(ms, 0.1)) / ln(1.05::float8))::smallint)
        FILTER (WHERE s.status = 'completed' AND ms IS NOT NULL)
FROM tasks t JOIN task_state s USING (id),
    LATERAL (SELECT extract(epoch FROM s.finished_at - s.started_at)::float8 * 1000 AS ms) AS took
WHERE s.status IN ('completed', 'failed', 'cancelled')
GROUP BY 1, 2, 3, 4, 5, 6;

-- Rows are inserted in the order of created_at, many with the same one: this index costs next to nothing.
CREATE INDEX tasks_by_age ON tasks (created_at);
-- With the run in the index, whole tasks are counted in the index alone.
DROP INDEX tasks_by_kb;
CREATE INDEX tasks_by_kb ON tasks (kb_id, id) INCLUDE (run_id) WHERE kb_id IS NOT NULL;
CREATE INDEX tasks_by_project ON tasks (project_id, id) INCLUDE (run_id) WHERE project_id IS NOT NULL;
CREATE INDEX tasks_by_tag ON tasks USING gin (tags) WHERE tags <> '{}';
-- Who depends on a task: in the index are only those that depend on any.
CREATE INDEX tasks_by_needs ON tasks USING gin (depends_on) WHERE depends_on <> '{}';
