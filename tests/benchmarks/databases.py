"""Databases of their own for benchmarks, gone when these end, and what makes their conditions equal."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg

from tasks.database import Database, connect
from tests.support.servers import postgres_server


@contextmanager
def fresh_database() -> Iterator[Database]:
    """A new, empty database on a real Postgres (see `tests.support.servers.postgres_server`)."""
    name = f"bench_{uuid4().hex[:12]}"
    with postgres_server() as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        database = connect(url.rpartition("/")[0] + f"/{name}")
        try:
            yield database
        finally:
            database.close_all()
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def settle(url: str) -> None:
    """Leave nothing to do behind a measurement that comes now: statistics are fresh, and pages on disk."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def conditions(url: str) -> dict[str, str]:
    """What of a server's settings makes commits durable, and its version."""
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
        ).fetchone()
    assert row is not None
    return dict(zip(names, map(str, row), strict=True))
