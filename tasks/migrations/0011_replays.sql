-- Failures that are alike have one fingerprint; letters of earlier versions get theirs from the clock.
ALTER TABLE dead_letters ADD COLUMN fingerprint text;
-- The payload that failed, from the moment on at which the task got another one; until then it is the task's.
ALTER TABLE dead_letters ADD COLUMN payload jsonb;
-- Who had it replayed or discarded: user:…, replay:<id>; NULL where nobody was named.
ALTER TABLE dead_letters ADD COLUMN resolver text;
CREATE INDEX dead_letters_seen ON dead_letters (fingerprint, failed_at);
-- Clusters are counted in this index alone: letters are wide.
CREATE INDEX dead_letters_clusters ON dead_letters (fingerprint, failed_at)
    INCLUDE (task_type, queue_name, user_id) WHERE resolution IS NULL;
CREATE INDEX dead_letters_unmarked ON dead_letters (id) WHERE fingerprint IS NULL;
CREATE INDEX dead_letters_age ON dead_letters (failed_at);

-- Jobs that replay many dead letters. ``owner`` is whose letters they are, NULL: everybody's.
CREATE TABLE replays (
    id uuid PRIMARY KEY,
    status text NOT NULL DEFAULT 'pending',
    reason text,
    filter jsonb NOT NULL,
    payload_patch jsonb,
    canary integer NOT NULL DEFAULT 0,
    rate float8,
    most integer NOT NULL,
    size integer NOT NULL,
    owner text,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    ended_at timestamptz,
    -- When its rate lets the next item go.
    next_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX replays_age ON replays (created_at);
CREATE INDEX replays_active ON replays (created_at) WHERE status IN ('pending', 'canary', 'running');

-- The letters of a job. ``outcome`` is how the round ended that an item opened, as soon as the task's state
-- does not tell it any more; its round is known by the ticket.
CREATE TABLE replay_items (
    replay uuid NOT NULL,
    position integer NOT NULL,
    dead_letter uuid NOT NULL,
    task_id uuid,
    ticket uuid NOT NULL DEFAULT gen_random_uuid(),
    status text NOT NULL DEFAULT 'pending',
    reason text,
    is_canary boolean NOT NULL DEFAULT false,
    outcome text,
    replayed_at timestamptz,
    PRIMARY KEY (replay, position)
);
CREATE UNIQUE INDEX replay_items_ticket ON replay_items (ticket);
CREATE INDEX replay_items_pending ON replay_items (replay, position) WHERE status = 'pending';
