-- Which request opened the task's round: repeated after a commit of unknown outcome, it knows it again.
ALTER TABLE task_state ADD COLUMN opened_by uuid;
