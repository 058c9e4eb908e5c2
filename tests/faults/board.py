"""The installation that the fault suite breaks: API, workers and clocks as processes, and the sink."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg

from tasks.states import FINAL
from tests.faults.sink import Mark, read_marks
from tests.support.processes import Installation, Running, installation_of
from tests.support.servers import free_port
from tests.support.waiting import eventually

ACTORS = "tests.faults.actors"
START_SECONDS = 40.0


class Api:
    """The API as processes of its own (gunicorn's arbiter and worker) on one address."""

    def __init__(self, board: "Board", environ: dict[str, str]) -> None:
        self._board = board
        self._environ = {"PORT": str(free_port()), **environ}
        self.url = f"http://127.0.0.1:{self._environ['PORT']}"
        self.start()

    def start(self) -> None:
        """Start it, on the address that it had."""
        self.process = self._board.start_process("api", "api.process", **self._environ)

    def wait_until_ready(self) -> None:
        """Wait until it takes requests."""
        eventually(self.is_ready, START_SECONDS)

    def is_ready(self) -> bool:
        """Whether it takes requests."""
        assert not self.process.has_ended, self.process.log.read_text()[-4_000:]
        try:
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


class Board(Installation):
    """An installation with real API processes, whose servers may vanish at any time."""

    publishes = False  # the processes under test do

    def start_process(self, kind: str, module: str, *arguments: str, **environ: str) -> Running:
        """Start any process of Callboard; ``environ`` is without the prefix."""
        given = {f"CALLBOARD_{name}": value for name, value in environ.items()}
        return self._start(kind, module, given, arguments)

    def start_api(self, **environ: str) -> Api:
        """Start an API and wait until it takes requests."""
        api = Api(self, environ)
        api.wait_until_ready()
        return api

    def start_supervised_workers(self, processes: int, *, threads: int = 4, **environ: str) -> Running:
        """Start workers under their supervisor, as ``callboard worker`` does."""
        options = ["worker", "--processes", str(processes), "--threads", str(threads)]
        return self.start_process("supervisor", "api.cli", *options, **environ)

    def start_clock_with(self, environ: dict[str, str]) -> Running:
        """Start a clock with variables of the system (a changed time, for one)."""
        return self._start("clock", "pipelines.clock", environ)

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many workers are registered."""
        eventually(lambda: self.ask("SELECT count(*) >= %s FROM workers WHERE kind = 'worker'", count), 30)

    def submit_batch(self, api: Api, orders: Sequence[dict[str, Any]]) -> list[UUID]:
        """Submit tasks over HTTP in one request; their ids."""
        answer = httpx.post(f"{api.url}/api/v1/tasks/batch", json={"tasks": list(orders)}, timeout=30)
        assert answer.status_code == 202, answer.text
        return [UUID(task["task_id"]) for task in answer.json()["tasks"]]

    def cancel_all(self, ids: Sequence[UUID]) -> None:
        """Cancel tasks."""
        for answer in [self.kit.ledger.cancel(task_id) for task_id in ids]:
            assert answer.result(30) == "cancelled"

    # --- the record, though Postgres may be away ---------------------------------------------------

    def ask(self, sql: str, *params: object) -> Any:
        """The one value that a query gives; None while Postgres is away."""
        rows = self.rows(sql, *params)
        return rows[0][0] if rows else None

    def rows(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """The rows that a query gives; none while Postgres is away."""
        try:
            if self._reader.closed:
                self._reader = psycopg.connect(self.database_url, autocommit=True, connect_timeout=3)
            return self._reader.execute(sql, params).fetchall()
        except psycopg.OperationalError:
            self._reader.close()
            return []

    def do(self, sql: str) -> None:
        """Change something behind everybody's back."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(sql)

    def unfinished(self) -> int | None:
        """How many tasks have no final state yet; None while Postgres is away."""
        count: int | None = self.ask("SELECT count(*) FROM task_state WHERE status != ALL(%s)", list(FINAL))
        return count

    def all_done(self, timeout: float = 60.0) -> None:
        """Wait until every task on record has a final state."""
        try:
            eventually(lambda: self.unfinished() == 0, timeout)
        except AssertionError:
            states = self.rows("SELECT status, count(*) FROM task_state GROUP BY status")
            raise AssertionError(f"after {timeout:g} s the tasks are still {states}") from None

    def wait_for_starts(self, count: int, timeout: float = 30.0) -> None:
        """Wait until actors have been started so often."""
        eventually(lambda: len(self.starts()) >= count, timeout)

    # --- the sink ----------------------------------------------------------------------------------

    def marks(self) -> list[Mark]:
        """All lines of the sink."""
        return read_marks(self.folder)

    def starts(self) -> list[Mark]:
        """The lines of the sink that say that an actor was started."""
        return [mark for mark in self.marks() if mark.word == "start"]

    def started(self, ids: Sequence[UUID]) -> bool:
        """Whether all these tasks have been started."""
        return set(ids) <= {mark.task_id for mark in self.starts()}


@contextmanager
def board_on(postgres_url: str, broker_url: str | None, folder: Path) -> Iterator[Board]:
    """A board on a database of its own, without any process yet."""
    with installation_of(Board, ACTORS, postgres_url, broker_url, folder) as board:
        yield board
