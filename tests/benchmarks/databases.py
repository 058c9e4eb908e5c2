"""Databases of their own for benchmarks, gone when these end."""

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
