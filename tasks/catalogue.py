"""The catalogue: which task types exist. Composition roots declare theirs when they start."""

from collections.abc import Sequence

from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session
from tasks.values import TaskType


def declare(database: PooledPostgresqlDatabase, types: Sequence[TaskType]) -> None:
    """Put types into the catalogue, with their queues; what is there already is brought up to date."""
    rows = sorted(types, key=lambda one: one.name)
    with session(database), database.atomic():
        for one in rows:
            database.execute_sql(
                "INSERT INTO task_types (name, queue_name, is_pipeline, concurrency, concurrency_key)"
                " VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT (name) DO UPDATE SET queue_name = excluded.queue_name,"
                " is_pipeline = excluded.is_pipeline, concurrency = excluded.concurrency,"
                " concurrency_key = excluded.concurrency_key, declared_at = now()",
                (one.name, one.queue_name, one.is_pipeline, one.concurrency, one.concurrency_key),
            )
        for queue in sorted({one.queue_name for one in rows}):
            database.execute_sql("INSERT INTO queues (name) VALUES (%s) ON CONFLICT DO NOTHING", (queue,))
