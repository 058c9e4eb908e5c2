"""A transaction on a connection of one's own: committed as a whole, or not at all."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tasks.database import dial, in_transaction


@pytest.fixture
def connection(url: str) -> Iterator["psycopg.Connection[Any]"]:
    with dial(url) as connection:
        connection.execute(
            "CREATE TEMPORARY TABLE kept (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED NOT NULL)"
        )
        yield connection


def _insert(connection: "psycopg.Connection[Any]", *values: str) -> None:
    with in_transaction(connection):
        for value in values:
            connection.execute(f"INSERT INTO kept VALUES {value}")


def _kept(connection: "psycopg.Connection[Any]") -> list[int]:
    assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    return [row[0] for row in connection.execute("SELECT n FROM kept ORDER BY n")]


def test_what_is_written_is_committed_together(connection: "psycopg.Connection[Any]") -> None:
    _insert(connection, "(1)", "(2)")

    assert _kept(connection) == [1, 2]


def test_an_error_of_postgres_undoes_all_of_it(connection: "psycopg.Connection[Any]") -> None:
    with pytest.raises(psycopg.errors.NotNullViolation):
        _insert(connection, "(1)", "(NULL)")

    assert _kept(connection) == []


def test_any_exception_undoes_all_of_it(connection: "psycopg.Connection[Any]") -> None:
    def fail() -> None:
        with in_transaction(connection):
            connection.execute("INSERT INTO kept VALUES (1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert _kept(connection) == []


def test_what_postgres_refuses_to_commit_is_an_error(connection: "psycopg.Connection[Any]") -> None:
    # A condition that is looked at by the commit
    with pytest.raises(psycopg.errors.UniqueViolation):
        _insert(connection, "(1), (1)")

    assert _kept(connection) == []


@pytest.mark.parametrize("statements", [0, 1], ids=["commit", "statement"])
def test_a_connection_that_is_lost_is_an_error(
    connection: "psycopg.Connection[Any]", url: str, statements: int
) -> None:
    def lose() -> None:
        with in_transaction(connection):
            connection.execute("INSERT INTO kept VALUES (1)")
            with dial(url) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
            for _ in range(statements):
                connection.execute("INSERT INTO kept VALUES (2)")

    with pytest.raises(psycopg.Error):
        lose()

    assert connection.closed


def _pass_over_an_error(connection: "psycopg.Connection[Any]") -> None:
    with in_transaction(connection), suppress(psycopg.errors.DivisionByZero):
        connection.execute("INSERT INTO kept VALUES (1)")
        connection.execute("SELECT 1 / 0")


def test_what_postgres_rolled_back_is_not_taken_for_committed(connection: "psycopg.Connection[Any]") -> None:
    # When an error is passed over, and the transaction goes on to its end
    with pytest.raises(psycopg.InternalError, match="COMMIT was answered by"):
        _pass_over_an_error(connection)
    # Then its caller hears that nothing of it is there
    assert _kept(connection) == []
