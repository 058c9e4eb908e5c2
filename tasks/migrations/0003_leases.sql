-- The start of the Postgres from which the process has its lock: a Postgres that was restarted, or a replica
-- that took over, knows no locks, and that one is free says nothing then.
ALTER TABLE workers ADD COLUMN locked_under timestamptz NOT NULL DEFAULT pg_postmaster_start_time();
