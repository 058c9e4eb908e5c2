-- How a process is, as it says itself with every heartbeat: memory, threads, traffic (`tasks.vitals`).
ALTER TABLE workers ADD COLUMN vitals jsonb;

-- Durations are added up in 1/1024 ms from here on: such sums are the same in any order, so that none ever falls.
UPDATE statistics SET duration_ms = round(duration_ms * 1024) / 1024 WHERE level = 'all' AND duration_ms <> 0;
UPDATE tallies SET duration_ms = round(duration_ms * 1024) / 1024 WHERE duration_ms <> 0;
