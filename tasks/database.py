"""Connections to Postgres: one peewee database a process, opened by a composition root."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias

import psycopg
from peewee import InterfaceError, OperationalError
from playhouse.pool import MaxConnectionsExceeded, PooledPostgresqlDatabase
from psycopg import pq
from psycopg.conninfo import make_conninfo

from tasks.errors import Unavailable

Database: TypeAlias = PooledPostgresqlDatabase
#: A Postgres that does not answer for some seconds counts as gone, also in the middle of a statement.
PATIENCE: Final[dict[str, int]] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


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
        options="-c timezone=UTC",
        **PATIENCE,
    )


#: An advisory lock by which connections are known on which verbs of the ledger are committed: all share it.
COMMITTING: Final = 0x63626463


def dial(url: str) -> psycopg.Connection[Any]:
    """A connection of one's own, in autocommit mode.

    Raises:
      psycopg.OperationalError: Postgres cannot be reached.
    """
    return psycopg.connect(url, autocommit=True, **PATIENCE)  # type: ignore[arg-type]


def dial_in_one_step(url: str) -> psycopg.Connection[Any]:
    """As `dial`, but asking for the GIL once instead of at every step: among busy threads each time is long.

    Raises:
      psycopg.OperationalError: Postgres cannot be reached.
    """
    made = pq.PGconn.connect(make_conninfo(url, **PATIENCE).encode())
    if made.status != pq.ConnStatus.OK:
        raise psycopg.OperationalError(made.get_error_message())
    made.nonblocking = 1
    connection: psycopg.Connection[Any] = psycopg.Connection(made)
    connection.autocommit = True
    return connection


@contextmanager
def in_transaction(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """A transaction on a connection in autocommit mode, rolled back by an exception.

    Begun and committed with the GIL asked for once, as in `dial_in_one_step`.

    Raises:
      psycopg.Error: Postgres refuses to commit, or the connection was lost: then nobody knows whether it did.
    """
    _tell(connection, b"BEGIN")
    try:
        yield
    except BaseException:
        with suppress(psycopg.Error):  # a lost connection has rolled back already
            connection.rollback()
        raise
    _tell(connection, b"COMMIT")


def _tell(connection: psycopg.Connection[Any], command: bytes) -> None:
    result = connection.pgconn.exec_(command)
    if result.status != pq.ExecStatus.COMMAND_OK:
        error = psycopg.errors.error_from_result(result)
        # Without a state it comes from the driver: the connection is lost, and psycopg calls that so.
        raise error if error.sqlstate else psycopg.OperationalError(str(error))
    if result.command_status != command:  # Postgres rolls a transaction back in which something failed
        raise psycopg.InternalError(f"{command.decode()} was answered by {result.command_status!r}")


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
