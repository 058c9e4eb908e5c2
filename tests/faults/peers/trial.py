"""One scenario on plain dramatiq: its processes, its sink, and the account of what became of the tasks."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker

from tests.faults.peers.sink import Sink
from tests.faults.rabbit import Rabbit
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).parents[3]
QUEUES = ("default", "default.DQ", "default.XQ")
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Account:
    """What became of the tasks that were accepted, by the sink's word and RabbitMQ's."""

    submitted: int
    started: int
    finished: int
    waiting: int  # unfinished, and a queue still has the message
    lost: int  # unfinished, and no queue has it
    ran_twice: int  # started again although no run of it had failed
    note: str


class Workers:
    """``python -m dramatiq``, as the head of a process group of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @property
    def have_ended(self) -> bool:
        return self._process.poll() is not None

    def include(self, pid: int) -> bool:
        """Whether a process that lives is one of them."""
        return os.getpgid(pid) == self._process.pid

    def kill(self) -> None:
        """SIGKILL to the command and to its children."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Trial:
    """What a scenario plays with."""

    def __init__(self, node: Rabbit, folder: Path, seed: int) -> None:
        self.node = node
        self.random = random.Random(seed)
        self.confirm = True
        self._folder = folder
        self.sink = Sink(folder / "sink")
        self._workers: list[Workers] = []
        self._producers: list[subprocess.Popen[bytes]] = []

    # --- processes -------------------------------------------------------------------------------

    def start_workers(self, *, processes: int = 1, threads: int = 4, url: str = "") -> Workers:
        """Start dramatiq's own command."""
        sizes = ["--processes", str(processes), "--threads", str(threads)]
        module = "tests.faults.peers.app"
        workers = Workers(self._start(["-m", "dramatiq", module, *sizes], url or self.node.url))
        self._workers.append(workers)
        return workers

    def start_producer(
        self,
        last: int,
        *,
        first: int = 0,
        actor: str = "work",
        seconds: float = 0.1,
        threads: int = 1,
        rate: float = 0,
    ) -> "subprocess.Popen[bytes]":
        """Start a process that submits the tasks of these numbers, ``rate`` a second at most."""
        words = (actor, seconds, first, last, threads, rate)
        producer = self._start(["-m", "tests.faults.peers.producer", *map(str, words)], self.node.url)
        self._producers.append(producer)
        return producer

    def submit(self, last: int, **how: Any) -> None:
        """Submit tasks by a producer, and wait for its end."""
        self.start_producer(last, **how).wait(30)

    def end(self) -> None:
        """Kill every process, and leave no queue to the next scenario."""
        for producer in self._producers:
            producer.kill()
            producer.wait()
        for workers in self._workers:
            workers.kill()
        with self._channel() as channel:
            for queue in QUEUES:
                channel.queue_delete(queue)

    def _start(self, words: list[str], url: str) -> "subprocess.Popen[bytes]":
        environ = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "PEERS_BROKER_URL": url,
            "PEERS_CONFIRM": "yes" if self.confirm else "no",
            "PEERS_SINK": str(self._folder / "sink"),
        }
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *words],
                cwd=self._folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    # --- waiting ---------------------------------------------------------------------------------

    def wait_until(self, condition: Callable[[], Any], timeout: float) -> bool:
        """Whether the condition came true in time."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def count(self, word: str) -> int:
        """How many tasks have left this word in the sink."""
        return len(self.sink.keys(word))

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many worker processes take messages, by their log."""
        log = self._folder / "log"
        self.wait_until(lambda: log.read_text(errors="replace").count("ready for action") >= count, 20)

    def settle(self, quiet: float, timeout: float) -> None:
        """Wait until all that was accepted has finished, or nothing has been noted for ``quiet`` seconds."""

        began = time.monotonic()

        def settled() -> bool:
            latest = max([began, *(entry.at for entry in self.sink.entries("start", "end"))])
            unfinished = self.sink.keys("sent") - self.sink.keys("end")
            return not unfinished or time.monotonic() - latest > quiet

        self.wait_until(settled, timeout)

    # --- account ---------------------------------------------------------------------------------

    def account(self, note: str = "", *, accepted: str = "sent") -> Account:
        """Stop all workers, and look where each task is; ``accepted`` is the word that makes a task count."""
        for workers in self._workers:
            workers.kill()
        submitted = self.sink.keys(accepted)
        starts = Counter(entry.key for entry in self.sink.entries("start"))
        fails = Counter(entry.key for entry in self.sink.entries("fail"))
        finished = self.sink.keys("end")
        waiting = (submitted - finished) & self._keys_on_rabbitmq()
        return Account(
            submitted=len(submitted),
            started=len(starts),
            finished=len(finished),
            waiting=len(waiting),
            lost=len(submitted - finished - waiting),
            ran_twice=sum(starts[key] - fails[key] > 1 for key in starts),
            note=note,
        )

    def _keys_on_rabbitmq(self) -> set[int]:
        """The tasks whose messages are in a queue, also in that of delays or of dead letters."""
        return {key for queue in QUEUES for key in self._keys_in(queue)}

    def _keys_in(self, queue: str) -> Iterator[int]:
        with self._channel() as channel:

            def is_free() -> bool:
                return bool(channel.queue_declare(queue, passive=True).method.consumer_count == 0)

            with suppress(ChannelClosedByBroker):  # it was never declared
                eventually(is_free)
                while (message := channel.basic_get(queue))[0]:
                    yield int(json.loads(message[2])["args"][0])

    @contextmanager
    def _channel(self) -> Iterator[Any]:
        connection = pika.BlockingConnection(pika.URLParameters(self.node.url))
        try:
            yield connection.channel()
        finally:
            connection.close()
