-- A message in a queue of dead letters that is not ours is a dead letter too, one without a task.
ALTER TABLE dead_letters ALTER COLUMN task_id DROP NOT NULL;
-- When the letter's message left RabbitMQ. Until then it is, or may be, in <queue>.XQ.
ALTER TABLE dead_letters ADD COLUMN copy_removed_at timestamptz;
CREATE INDEX dead_letters_copies ON dead_letters (queue_name, copied_at)
    WHERE copied_at IS NOT NULL AND copy_removed_at IS NULL;
-- What the janitor has to take out: what is resolved, and what is not ours and on record.
CREATE INDEX dead_letters_to_remove ON dead_letters (queue_name)
    WHERE copied_at IS NOT NULL AND copy_removed_at IS NULL AND (resolution IS NOT NULL OR task_id IS NULL);
CREATE INDEX dead_letters_without_task ON dead_letters (failed_at) WHERE task_id IS NULL;

-- The messages that are not ours, as they came. Only their replay looks at them.
CREATE TABLE foreign_messages (
    dead_letter uuid PRIMARY KEY,
    body bytea NOT NULL,
    -- The properties and headers for people, and as they are on the wire.
    properties jsonb NOT NULL,
    frame bytea NOT NULL,
    -- Of body and properties: by it a message is recognised that was recorded but not acknowledged.
    digest bytea NOT NULL,
    -- It is to be published again to its queue, or was.
    owed boolean NOT NULL DEFAULT false,
    returned_at timestamptz,
    -- The task that its replay submitted.
    replayed_as uuid
);
CREATE INDEX foreign_messages_owed ON foreign_messages (dead_letter) WHERE owed;
