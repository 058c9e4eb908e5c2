-- Who is told when tasks end, beside the callback_url of each. A filter that is NULL does not filter; owner is the
-- user of whose tasks it hears, NULL of everybody's.
CREATE TABLE webhooks (
    id uuid PRIMARY KEY,
    owner text,
    url text NOT NULL,
    secret text NOT NULL,
    events text[] NOT NULL,
    stages boolean NOT NULL DEFAULT false,
    task_type text,
    queue_name text,
    user_id text,
    kb_id text,
    project_id text,
    tag text,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhooks_of_owner ON webhooks (owner);
-- Tasks that call back: to look for them among those that end costs nothing where there are none.
CREATE UNIQUE INDEX tasks_calling ON tasks (id) WHERE callback_url IS NOT NULL;

-- What is sent to whom, written in the transaction in which a task ends: event_id tells its ends apart, webhook_id is
-- NULL for its own callback_url. `ended` is the state of the task at that end, whatever becomes of it later.
-- While an attempt is made, claim is its token and due_at the end of its lease.
CREATE TABLE deliveries (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    task_id uuid NOT NULL,
    event_id integer NOT NULL,
    webhook_id uuid,
    owner text,
    event text NOT NULL,
    url text NOT NULL,
    host text NOT NULL GENERATED ALWAYS AS (lower(coalesce(substring(url FROM '^[a-z]+://([^/?#]*)'), ''))) STORED,
    ended jsonb NOT NULL,
    status text NOT NULL DEFAULT 'pending',
    due_at timestamptz NOT NULL DEFAULT now(),
    claim uuid,
    tries integer NOT NULL DEFAULT 0,
    attempts jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX deliveries_once
    ON deliveries (task_id, event_id, coalesce(webhook_id, '00000000-0000-0000-0000-000000000000'));
CREATE INDEX deliveries_due ON deliveries (host, due_at) WHERE status = 'pending';
