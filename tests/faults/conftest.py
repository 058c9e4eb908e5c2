"""Servers that may be broken, a board on them, the seed of the day, and the figures at the end."""

import random
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.faults.board import Board, board_on
from tests.faults.checker import Report, check
from tests.faults.postgres import Postgres, private_postgres
from tests.faults.rabbit import Rabbit, private_rabbit

#: Checks everything, and keeps the report and further figures for the summary.
Verdict = Callable[..., Report]


@pytest.fixture(scope="session")
def own_rabbit() -> Iterator[Rabbit]:
    with private_rabbit() as rabbit:
        yield rabbit


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[Postgres]:
    with private_postgres() as postgres:
        yield postgres


@pytest.fixture
def rabbit(own_rabbit: Rabbit) -> Rabbit:
    """A RabbitMQ that works, and may be broken."""
    own_rabbit.heal()
    return own_rabbit


@pytest.fixture
def postgres(own_postgres: Postgres) -> Postgres:
    """A durable Postgres that works, and may be broken."""
    own_postgres.heal()
    return own_postgres


@pytest.fixture
def board(rabbit: Rabbit, postgres: Postgres, tmp_path: Path) -> Iterator[Board]:
    """An installation on both of them, without any process yet."""
    with board_on(postgres.url, rabbit.url, tmp_path) as board:
        yield board
        board.show_logs()
        rabbit.heal()
        postgres.heal()


@pytest.fixture
def chance(seed: int) -> random.Random:
    """The randomness of a scenario."""
    return random.Random(seed)


@pytest.fixture
def verdict(board: Board, seed: int, record_property: Callable[[str, object], None]) -> Verdict:
    """`check` on the board; the session ends with its report and the scenario's own figures."""

    def judge(accepted: Collection[UUID], **figures: object) -> Report:
        report = check(board, accepted)
        measured = "".join(f" {name}={value}" for name, value in figures.items())
        line = f"seed={seed} {report}{measured}"
        print(line)
        record_property("figures", line)
        return report

    return judge
