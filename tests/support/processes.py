"""A whole installation for a test: a database, perhaps a RabbitMQ, and real worker and clock processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
import pika
import psutil
import psycopg
from dramatiq.common import xq_name

from actors.submission import Order
from actors.supervisor import PARENT_VARIABLE
from pipelines.bootstrap import Kit, open_kit
from tasks.records import Event, Task
from tasks.settings import Settings
from tasks.states import FINAL, is_legal
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
ACTORS = "tests.support.actors_for_tests"
END_SECONDS = 20.0


class Running:
    """A process of Callboard that runs, or ran, with its log in a file."""

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], environ: dict[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=log.parent,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def children(self) -> list[psutil.Process]:
        """The workers that it supervises now."""
        children = psutil.Process(self.pid).children()
        return [child for child in children if "pipelines.worker" in child.cmdline()]

    def terminate(self) -> None:
        """Ask it to end (SIGTERM)."""
        self._process.terminate()

    def kill(self) -> None:
        """End it and all that it started without a last word (SIGKILL)."""
        family: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            family = [] if self.has_ended else psutil.Process(self.pid).children(recursive=True)
        self._process.kill()
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Let it stand still (SIGSTOP)."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    def exit_code(self, timeout: float = END_SECONDS) -> int:
        """Wait for its end."""
        return self._process.wait(timeout)

    def says(self, words: str) -> bool:
        """Whether its log has these words."""
        return words in self.log.read_text(errors="replace")


class Installation:
    """What the tests use of Callboard: a kit as the API's, processes, and the traces of the actors."""

    #: Whether the kit publishes what the test submits, as an API process does.
    publishes = True

    def __init__(self, kit: Kit, environ: dict[str, str], folder: Path, broker_url: str | None) -> None:
        self.kit = kit
        self.broker_url = broker_url
        self.folder = folder
        self._environ = environ
        self._processes: list[Running] = []
        self._shown: dict[Path, int] = {}
        self.connect()

    def connect(self) -> None:
        """Connect to read, also anew after Postgres was away."""
        self._reader = psycopg.connect(self.kit.database_url, autocommit=True)

    # --- processes -------------------------------------------------------------------------------

    def start_worker(self, *, threads: int = 4, queues: Sequence[str] = (), **environ: str) -> Running:
        """Start a worker; ``environ`` is without the prefix: ``ACTORS="…"``."""
        given = {"CALLBOARD_THREADS": str(threads), "CALLBOARD_WORKER_QUEUES": ",".join(queues)}
        return self._start("worker", "pipelines.worker", given | _prefixed(environ))

    def start_workers(self, processes: int, *, threads: int = 4, **environ: str) -> Running:
        """Start workers under a supervisor, as ``callboard worker`` does."""
        arguments = ["worker", "--processes", str(processes), "--threads", str(threads)]
        return self._start("workers", "api.cli", _prefixed(environ), arguments)

    def start_clock(self, **environ: str) -> Running:
        """Start a clock."""
        return self._start("clock", "pipelines.clock", _prefixed(environ))

    def start_api(self, port: int, **environ: str) -> Running:
        """Start an API on a port of this machine."""
        given = {"CALLBOARD_HOST": "127.0.0.1", "CALLBOARD_PORT": str(port)}
        return self._start("api", "api.process", given | _prefixed(environ))

    def show_logs(self) -> None:
        """Print what the processes have logged since the last time; pytest shows it where a test failed."""
        for process in self._processes:
            text = process.log.read_bytes()
            news = text[self._shown.get(process.log, 0) :].decode(errors="replace")
            self._shown[process.log] = len(text)
            if news:
                print(f"--- {process.name} ({process.pid})\n{news}")

    def any_log_says(self, words: str) -> bool:
        """Whether any process has logged these words."""
        return any(process.says(words) for process in self._processes)

    def sweep(self) -> None:
        """Leave nothing to the next test: no work, no worker, no message, no trace and no flag."""
        unfinished = "SELECT id FROM task_state WHERE status != ALL(%s)"
        ids = self._reader.execute(unfinished, (list(FINAL),)).fetchall()
        for answer in [self.kit.ledger.cancel(task_id) for (task_id,) in ids]:
            answer.result(10)
        for process in self._processes:
            if process.name.startswith("worker"):
                process.kill()
        for file in self.folder.iterdir():
            if file.is_file() and file.suffix != ".log":
                file.unlink()
        self.wait_for_copies()
        if self.broker_url:
            _empty(self.broker_url, "default")

    def wait_for_copies(self) -> None:
        """Wait until a clock has sent the copies of all dead letters; without RabbitMQ there are none."""
        owed = "SELECT count(*) FROM dead_letters WHERE copied_at IS NULL AND resolution IS NULL"
        eventually(lambda: not self.broker_url or self.value(owed) == 0)

    def end(self) -> None:
        """Kill all processes: nothing of a test is worth an orderly end."""
        for process in self._processes:
            process.kill()
        self._reader.close()

    def _start(
        self, kind: str, module: str, environ: dict[str, str], arguments: Sequence[str] = ()
    ) -> Running:
        name = f"{kind}-{len(self._processes) + 1}"
        log = self.folder / f"{name}.log"
        process = Running(name, module, arguments, self._environ | environ, log)
        self._processes.append(process)
        return process

    # --- tasks -----------------------------------------------------------------------------------

    def submit(self, task_type: str, payload: Any = None, **order: Any) -> UUID:
        """Submit a task and return its id."""
        return self.submit_all([Order(task_type=task_type, payload=payload, **order)])[0]

    def submit_all(self, orders: Sequence[Order]) -> list[UUID]:
        """Submit tasks in one commit."""
        prepared = [self.kit.submission.prepare(order) for order in orders]
        self.kit.submission.record(prepared).result(10)
        return [order.id for order in orders]

    def task(self, task_id: UUID) -> Task:
        task = self.kit.queries.task(task_id)
        assert task is not None
        return task

    def finished(self, task_id: UUID, timeout: float = 15.0) -> Task:
        """The task, as soon as its state is final."""
        eventually(lambda: self.task(task_id).status in FINAL, timeout)
        return self.task(task_id)

    def has_status(self, task_id: UUID, status: str, timeout: float = 10.0) -> Task:
        """The task, as soon as it has a status."""
        eventually(lambda: self.task(task_id).status == status, timeout)
        return self.task(task_id)

    def all_finished(self, ids: Sequence[UUID], timeout: float = 30.0) -> None:
        """Wait until all these tasks are final."""
        unfinished = "SELECT count(*) FROM task_state WHERE id = ANY(%s) AND status != ALL(%s)"
        eventually(lambda: self.value(unfinished, list(ids), list(FINAL)) == 0, timeout)

    def stages(self, run_id: UUID) -> list[tuple[str, int, str]]:
        """The stages of a run: name, index and status."""
        run = self.kit.queries.run(run_id)
        assert run is not None
        return [(stage.stage, stage.index, stage.status) for stage in run.stages]

    def moves(self, task_id: UUID) -> list[str]:
        """The states that a task went through; fails if the moves are not legal."""
        events: list[Event] = self.kit.queries.history(task_id)
        states = [event.status for event in events if event.kind == "state"]
        for before, after in zip([None, *states], states, strict=False):
            assert is_legal(before, after), f"{before} -> {after} in {states}"
        assert [event.event_id for event in events] == list(range(1, len(events) + 1))
        return states

    def ended_attempts(self, task_id: UUID) -> list[dict[str, Any]]:
        """The attempts that ended in anything but success, in order."""
        sql = "SELECT coalesce(json_agg(a ORDER BY ended_event), '[]') FROM attempts a WHERE task_id = %s"
        return list(self.value(sql, task_id))

    def value(self, sql: str, *params: object) -> Any:
        """The one value that a query on the database gives."""
        row = self._reader.execute(sql, params).fetchone()
        return None if row is None else row[0]

    def rows(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        """The rows that a query on the database gives."""
        return self._reader.execute(sql, params).fetchall()

    @property
    def database_url(self) -> str:
        return self.kit.database_url

    # --- traces of the actors --------------------------------------------------------------------

    def raise_flag(self, name: str) -> Path:
        """Put a flag up that actors look at."""
        flag = self.folder / name
        flag.touch()
        return flag

    def traces(self, key: object = None) -> list[str]:
        """What actors did, in order: the words of one key, or "word key" for all."""
        return [
            word if key is not None else f"{word} {of}"
            for word, of, _ in self._lines()
            if key is None or of == str(key)
        ]

    def traces_of_process(self, pid: int) -> list[str]:
        """The "word key" that one process left."""
        return [f"{word} {key}" for word, key, by in self._lines() if by == str(pid)]

    def processes_that_left(self, word: str, key: object) -> list[int]:
        """The processes that left a "word key", in order."""
        return [int(by) for said, of, by in self._lines() if (said, of) == (word, str(key))]

    def _lines(self) -> list[list[str]]:
        file = self.folder / "effects"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


AnInstallation = TypeVar("AnInstallation", bound=Installation)


def installation(
    postgres_url: str, broker_url: str | None, folder: Path, *, template: str | None = None
) -> AbstractContextManager[Installation]:
    """A new installation on a database of its own; all of its processes and queues are gone afterwards.

    The database is empty, or a copy of the ``template`` of that name.
    """
    return installation_of(Installation, ACTORS, postgres_url, broker_url, folder, template=template)


@contextmanager
def installation_of(
    kind: type[AnInstallation],
    actors: str,
    postgres_url: str,
    broker_url: str | None,
    folder: Path,
    *,
    template: str | None = None,
) -> Iterator[AnInstallation]:
    """A new installation of a kind, with a module of actors of its own."""
    with _database(postgres_url, template) as database_url:
        settings = Settings(
            database_url=database_url,
            broker_urls=(broker_url,) if broker_url else (),
            data_dir=folder,
            actors=(actors,),
        )
        kit = open_kit(settings)
        made = kind(kit, _environ(settings), folder, broker_url)
        try:
            if kind.publishes:
                kit.open_lease("api")
                publisher = kit.open_publisher()
                eventually(lambda: publisher is None or publisher.is_open)
            yield made
        finally:
            made.end()
            kit.close()
            if broker_url:
                _delete_queues(broker_url, database_url)


def _environ(settings: Settings) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}
    return {
        **ours,
        "PYTHONPATH": str(REPOSITORY),
        "EFFECTS": str(settings.data_dir),
        "CALLBOARD_DATABASE_URL": settings.database_url or "",
        "CALLBOARD_BROKER_URL": ",".join(settings.broker_urls),
        "CALLBOARD_ACTORS": ",".join(settings.actors),
        "CALLBOARD_DATA_DIR": str(settings.data_dir),
        "CALLBOARD_DB_POOL": "4",
        "CALLBOARD_DRAIN_SECONDS": "1",
        PARENT_VARIABLE: str(os.getpid()),
    }


def _prefixed(environ: dict[str, str]) -> dict[str, str]:
    return {f"CALLBOARD_{name}": value for name, value in environ.items()}


@contextmanager
def _database(postgres_url: str, template: str | None) -> Iterator[str]:
    name = f"test_{uuid4().hex[:12]}"
    like = "" if template is None else f" TEMPLATE {template} STRATEGY FILE_COPY"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}{like}")
    try:
        yield postgres_url.rpartition("/")[0] + f"/{name}"
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _delete_queues(broker_url: str, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        names = {row[0] for row in connection.execute("SELECT name FROM queues")}
        names |= {row[0] for row in connection.execute("SELECT queue_name FROM task_types")}
        names |= {row[0] for row in connection.execute("SELECT unnest(queues) FROM workers")}
    with channel_to(broker_url) as channel:
        for name in names:
            channel.queue_delete(name)
            channel.queue_delete(xq_name(name))


def _empty(broker_url: str, queue: str) -> None:
    """Take all messages of a queue, also those that its last consumers give back."""
    with channel_to(broker_url) as channel:
        eventually(lambda: channel.queue_declare(queue, passive=True).method.consumer_count == 0)
        for name in (queue, xq_name(queue)):
            channel.queue_purge(name)


@contextmanager
def channel_to(broker_url: str) -> Iterator[Any]:
    """A channel of our own to a RabbitMQ (pika's, which has no types)."""
    connection = pika.BlockingConnection(pika.URLParameters(broker_url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def message_count(broker_url: str, queue: str) -> int:
    """How many messages RabbitMQ itself counts in a queue."""
    with channel_to(broker_url) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def payload_of(value: msgspec.Struct) -> Any:
    """A payload as it comes out of a request: JSON's builtins."""
    return msgspec.to_builtins(value)
