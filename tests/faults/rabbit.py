"""A RabbitMQ of our own that a test may kill, freeze, fill and start again on its port and its data."""

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.children import run_child
from tests.support import rabbitmq
from tests.support.servers import ServerMissing, free_port

CONTROL_SECONDS = 60


class Rabbit:
    """A private node. `heal` makes a working one of whatever a test has left."""

    def __init__(self, program: Path, home: Path) -> None:
        self._program = program
        self._home = home
        ports = (free_port(), free_port(), free_port())
        self._environ = rabbitmq.environment(home, *ports)
        self.url = rabbitmq.url_at(ports[0])
        epmd = shutil.which("epmd", path=rabbitmq.search_path()) or "epmd"
        listen = ["-port", str(ports[2]), "-address", "127.0.0.1"]
        self._epmd = run_child([epmd, *listen], self._environ, home / "epmd.log")
        self._node: subprocess.Popen[bytes] | None = None
        self._spoiled: list[Callable[[], None]] = []
        self.start()

    def start(self) -> None:
        """Start the node, with the data it had, and wait until it answers."""
        node = run_child([str(self._program)], self._environ, self._home / "node.log", cwd=self._home)
        self._node = node

        def refuse_dead() -> None:
            if node.poll() is not None:
                raise RuntimeError(f"RabbitMQ ended: {(self._home / 'node.log').read_text()[-2000:]}")

        rabbitmq.answering(self.url, refuse_dead)

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        """The node's process."""
        assert self._node is not None
        return self._node

    def kill(self) -> None:
        """End the node without a last word (SIGKILL)."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Let the node stand still (SIGSTOP): its connections stay, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the node go on (SIGCONT)."""
        self.process.send_signal(signal.SIGCONT)

    def raise_alarm(self) -> None:
        """Let the node believe that its memory is full: publishers are blocked."""
        self._spoiled.append(self.clear_alarm)
        self.control("set_vm_memory_high_watermark", "absolute", "1MB")

    def clear_alarm(self) -> None:
        """Give the node its memory back."""
        self.control("set_vm_memory_high_watermark", "0.4")

    def refuse_publishes(self) -> None:
        """Let every queue nack what is published to it, and keep what it has."""
        self._spoiled.append(self.allow_publishes)
        # In two steps: a queue that learns of both at once drops what it has, before it refuses anything.
        for rule in ('{"overflow":"reject-publish"}', '{"overflow":"reject-publish","max-length":0}'):
            self.control("set_policy", "full", ".*", rule, "--apply-to", "queues")

    def allow_publishes(self) -> None:
        """Let the queues take messages again."""
        if "full" in self.control("list_policies"):
            self.control("clear_policy", "full")

    def limit_consumers(self, seconds: int) -> None:
        """Close the channels of consumers that leave a delivery unacknowledged for so long."""
        self._spoiled.append(self.unlimit_consumers)
        self._set("consumer_timeout", seconds * 1_000)
        self._set("channel_tick_interval", 1_000)

    def unlimit_consumers(self) -> None:
        """Give consumers half an hour, as RabbitMQ does by itself."""
        self._set("consumer_timeout", 1_800_000)
        self._set("channel_tick_interval", 60_000)

    def control(self, *words: str) -> str:
        """What ``rabbitmqctl`` says."""
        program = shutil.which("rabbitmqctl", path=rabbitmq.search_path())
        assert program is not None
        done = subprocess.run(
            [program, "--quiet", *words],
            env=self._environ,
            cwd=self._home,
            capture_output=True,
            text=True,
            timeout=CONTROL_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def heal(self) -> None:
        """Leave a node that runs and answers, and that has nothing against its clients."""
        if self.process.poll() is None:
            self.thaw()
        else:
            self.start()
        while self._spoiled:
            self._spoiled.pop()()

    def _set(self, name: str, value: int) -> None:
        """Set a variable of the running node; it counts for new channels."""
        self.control("eval", f"application:set_env(rabbit, {name}, {value}).")

    def end(self) -> None:
        """End the node and all that belongs to it."""
        self.kill()
        self._epmd.kill()
        self._epmd.wait()


@contextmanager
def private_rabbit() -> Iterator[Rabbit]:
    """A node of the installed ``rabbitmq-server``; root installs it where it is missing.

    Raises:
      ServerMissing: there is none; the message says what to install.
    """
    if rabbitmq.installed() is None and rabbitmq.can_be_installed():
        rabbitmq.install()
    program = rabbitmq.installed()
    if program is None:
        raise ServerMissing(rabbitmq.WHAT_TO_INSTALL)
    with tempfile.TemporaryDirectory(prefix="callboard-faults-", ignore_cleanup_errors=True) as folder:
        node = Rabbit(program, Path(folder))
        try:
            yield node
        finally:
            node.end()
