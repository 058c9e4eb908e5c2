-- That something is queued implied that it is unfinished, in these words: so a look at one queue could read all
-- that is unfinished (see tasks/plans.py).
DROP INDEX task_state_unfinished;
CREATE INDEX task_state_unfinished ON task_state (id)
    WHERE coalesce(status, 'none') IN ('scheduled', 'blocked', 'queued', 'running', 'retrying');
DROP INDEX task_state_unfinished_stages;
CREATE INDEX task_state_unfinished_stages ON task_state (id)
    WHERE is_stage AND coalesce(status, 'none') IN ('scheduled', 'blocked', 'queued', 'running', 'retrying');
