"""The tables of the record as peewee models; the ledger writes them, `tasks.queries` reads them."""

from typing import Any

from peewee import (
    BigIntegerField,
    BooleanField,
    DoubleField,
    FloatField,
    IntegerField,
    Model,
    SmallIntegerField,
    TextField,
    UUIDField,
)
from playhouse.postgres_ext import ArrayField, BinaryJSONField, DateTimeTZField


class TaskRow(Model):
    """What was asked: insert-only."""

    id = UUIDField(primary_key=True)
    task_type = TextField()
    queue_name = TextField()
    priority = SmallIntegerField()
    payload: Any = BinaryJSONField(index=False)
    max_retries = IntegerField()
    backoff: Any = BinaryJSONField(null=True, index=False)
    timeout = DoubleField()
    user_id = TextField()
    project_id = TextField(null=True)
    kb_id = TextField(null=True)
    created_by = TextField()
    tags: Any = ArrayField(TextField, index=False)
    parent_id = UUIDField(null=True)
    run_id = UUIDField(null=True)
    stage = TextField(null=True)
    stage_index = IntegerField(null=True)
    depends_on: Any = ArrayField(UUIDField, index=False)
    run_at = DateTimeTZField(null=True)
    unique_key = TextField(null=True)
    callback_url = TextField(null=True)
    overrides: Any = BinaryJSONField(null=True, index=False)
    created_at = DateTimeTZField()

    class Meta:
        """The table's name."""

        table_name = "tasks"


class StateRow(Model):
    """What happened: one narrow row a task."""

    id = UUIDField(primary_key=True)
    status = TextField()
    queue = TextField(null=True)
    is_stage = BooleanField()
    run_queue = TextField(null=True)
    rank = DoubleField()
    tenant = IntegerField()
    priority = SmallIntegerField()
    ready_at = DateTimeTZField()
    dispatch = BigIntegerField(null=True)
    parked = BooleanField()
    token = BigIntegerField(null=True)
    worker = UUIDField(null=True)
    attempt = IntegerField()
    failures = IntegerField()
    deaths = SmallIntegerField()
    events = IntegerField()
    running_event = IntegerField(null=True)
    progress = FloatField()
    phase = TextField(null=True)
    message = TextField(null=True)
    details: Any = BinaryJSONField(null=True, index=False)
    result: Any = BinaryJSONField(null=True, index=False)
    error: Any = BinaryJSONField(null=True, index=False)
    round = IntegerField()
    started_at = DateTimeTZField(null=True)
    finished_at = DateTimeTZField(null=True)
    updated_at = DateTimeTZField()

    class Meta:
        """The table's name."""

        table_name = "task_state"


class AttemptRow(Model):
    """An attempt that ended in anything but success."""

    task_id = UUIDField()
    attempt = IntegerField()
    outcome = TextField()
    status = TextField()
    worker = UUIDField(null=True)
    error: Any = BinaryJSONField(null=True, index=False)
    traceback = TextField(null=True)
    started_at = DateTimeTZField(null=True)
    ended_at = DateTimeTZField()
    started_event = IntegerField(null=True)
    ended_event = IntegerField()

    class Meta:
        """The table's name and key."""

        table_name = "attempts"
        primary_key = False


class EventRow(Model):
    """A move, a progress report or a log line that cannot be derived."""

    task_id = UUIDField()
    event_id = IntegerField()
    kind = TextField()
    status = TextField()
    phase = TextField(null=True)
    progress = FloatField(null=True)
    message = TextField(null=True)
    data: Any = BinaryJSONField(null=True, index=False)
    at = DateTimeTZField()

    class Meta:
        """The table's name and key."""

        table_name = "events"
        primary_key = False


class WorkerRow(Model):
    """A living process and its lease."""

    id = UUIDField(primary_key=True)
    lock_key = IntegerField()
    kind = TextField()
    host = TextField()
    pid = IntegerField()
    version = TextField()
    queues: Any = ArrayField(TextField, index=False)
    types: Any = ArrayField(TextField, index=False)
    threads = IntegerField()
    started_at = DateTimeTZField()
    heartbeat_at = DateTimeTZField()

    class Meta:
        """The table's name."""

        table_name = "workers"


class QueueRow(Model):
    """A named queue."""

    name = TextField(primary_key=True)
    concurrency = IntegerField(null=True)
    rate_limit: Any = BinaryJSONField(null=True, index=False)
    max_size = IntegerField(null=True)
    paused = BooleanField()
    created_at = DateTimeTZField()
    updated_at = DateTimeTZField()

    class Meta:
        """The table's name."""

        table_name = "queues"


class TypeRow(Model):
    """A task type that some process has declared."""

    name = TextField(primary_key=True)
    queue_name = TextField()
    is_pipeline = BooleanField()
    concurrency = IntegerField(null=True)
    concurrency_key = TextField(null=True)

    class Meta:
        """The table's name."""

        table_name = "task_types"


MODELS = (TaskRow, StateRow, AttemptRow, EventRow, WorkerRow, QueueRow, TypeRow)
