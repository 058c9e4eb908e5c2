"""Connections to Postgres: one peewee database a process, opened by a composition root."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from peewee import InterfaceError, OperationalError
from playhouse.pool import MaxConnectionsExceeded, PooledPostgresqlDatabase

from tasks.errors import Unavailable

Database: TypeAlias = PooledPostgresqlDatabase
CONNECT_TIMEOUT = 5


def connect(url: str, *, pool: int = 10) -> Database:
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
def session(database: Database) -> Iterator[Any]:
    """Lend this thread a connection of the pool; nested use shares it.

    Raises:
      Unavailable: Postgres cannot be reached, or the connection was lost on the way.
    """
    if not database.is_closed():
        yield database
        return
    try:
        with database.connection_context():
            yield database
    except (OperationalError, InterfaceError, MaxConnectionsExceeded) as error:
        raise Unavailable(f"Postgres cannot be reached now: {error}") from error
