"""Connections to Postgres: one peewee database a process, opened by a composition root."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playhouse.pool import PooledPostgresqlDatabase

CONNECT_TIMEOUT = 5


def connect(url: str, *, pool: int = 10) -> PooledPostgresqlDatabase:
    """A pooled database on psycopg 3 for ``url``; no connection is made before the first use.

    Connections are never opened by themselves: use `session`.
    """
    return PooledPostgresqlDatabase(
        url,
        max_connections=pool,
        stale_timeout=300,
        timeout=10,
        autoconnect=False,
        prefer_psycopg3=True,
        connect_timeout=CONNECT_TIMEOUT,
        options="-c timezone=UTC",
    )


@contextmanager
def session(database: PooledPostgresqlDatabase) -> Iterator[Any]:
    """Lend this thread a connection of the pool; nested use shares it."""
    with database.connection_context() if database.is_closed() else _shared():
        yield database


@contextmanager
def _shared() -> Iterator[None]:
    yield
