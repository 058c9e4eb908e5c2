"""Records for benchmarks that are full already: filled once by SQL, and copied as templates."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import uuid4

import psycopg

from pipelines.bootstrap import migrate_all
from tasks.database import connect
from tests.benchmarks.reads import fill

#: Tasks of one user that have waited for an hour, evenly over queues. Ids ascend as ours do.
_QUEUED = """
WITH fill AS MATERIALIZED (
    SELECT n, at, (%(queues)s::text[])[1 + n %% cardinality(%(queues)s::text[])] AS queue,
        (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(n || %(seed)s), 1, 3) || '8' || substr(md5(n || %(seed)s), 4, 15))::uuid AS id
    FROM generate_series(1, %(count)s) AS n,
        LATERAL (SELECT now() - interval '1 hour' * (1 - n::float8 / (%(count)s + 1)) AS at) AS moment
), asked AS (
    INSERT INTO tasks (id, task_type, queue_name, priority, payload, max_retries, timeout, created_at)
    SELECT id, 'benchmark', queue, 5, %(payload)s::jsonb, 3, 300, at FROM fill ORDER BY n
), known AS (
    INSERT INTO queues (name) SELECT unnest(%(queues)s::text[]) ON CONFLICT DO NOTHING
)
INSERT INTO task_state (id, status, queue, rank, ready_at, updated_at)
SELECT id, 'queued', queue, extract(epoch FROM at) - 300, at, at FROM fill ORDER BY n"""


def add_queued(url: str, count: int, queues: Sequence[str], payload: str = "{}") -> None:
    """Add tasks that are ready, as if they had been submitted long ago."""
    values = {"count": count, "queues": list(queues), "payload": payload, "seed": uuid4().hex}
    with psycopg.connect(url) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute(_QUEUED, values)


def add_finished(url: str, count: int) -> None:
    """Add tasks that ended in the last month, of many types, users and queues (see `reads`)."""
    fill(url, count)


@contextmanager
def templates(server: str, fills: Mapping[str, Callable[[str], None]]) -> Iterator[dict[str, str]]:
    """Databases with our schema that ``fills`` filled: the name of each, to be copied; gone afterwards."""
    names = {state: f"bench_{uuid4().hex[:12]}" for state in fills}
    with psycopg.connect(server, autocommit=True) as connection:
        try:
            for state, add in fills.items():
                connection.execute(f"CREATE DATABASE {names[state]}")
                _fill(server.rpartition("/")[0] + f"/{names[state]}", add)
            yield names
        finally:
            for name in names.values():
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _fill(url: str, add: Callable[[str], None]) -> None:
    database = connect(url)
    migrate_all(database)
    database.close_all()
    add(url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
