-- What is parked is looked up queue by queue: in one of them nothing may be allowed to start.
DROP INDEX task_state_keyed;
CREATE INDEX task_state_keyed ON task_state (concurrency_key, parked, queue, rank, id)
    WHERE status = 'queued' AND concurrency_key IS NOT NULL;
