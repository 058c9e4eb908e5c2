-- Who is next is decided without a look at tasks: the tenant (a hash of user_id: it only has to tell them apart)
-- and the priority stand in the state too. ALTER with a default rewrites nothing; only what differs is filled in.
ALTER TABLE task_state ADD COLUMN tenant integer NOT NULL DEFAULT 0;
ALTER TABLE task_state ADD COLUMN priority smallint NOT NULL DEFAULT 5;
UPDATE task_state s SET tenant = CASE WHEN t.user_id = '' THEN 0 ELSE hashtext(t.user_id) END,
    priority = t.priority
FROM tasks t WHERE t.id = s.id AND (t.user_id <> '' OR t.priority <> 5);
-- How its message was published: with which priority, and whether other tenants may overtake it for fairness.
ALTER TABLE task_state ADD COLUMN wire smallint;
ALTER TABLE task_state ADD COLUMN yields boolean NOT NULL DEFAULT false;

CREATE INDEX task_state_tenants ON task_state (queue, tenant, rank) WHERE status = 'queued' AND dispatch IS NULL;
CREATE INDEX task_state_wire ON task_state (queue) WHERE status = 'queued' AND dispatch IS NOT NULL;
