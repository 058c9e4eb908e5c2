-- How many fire times made no task because it was refused: a full queue, a payload that fits no more.
ALTER TABLE schedules ADD COLUMN refused bigint NOT NULL DEFAULT 0;
