"""A private RabbitMQ that can be killed and started again on the same data, and put into memory alarm."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import rabbitmq
from tests.support.servers import ServerMissing, free_port


class Rabbit:
    """Starts with ``start``; what it stores outlives ``kill``."""

    def __init__(self, program: Path, home: Path) -> None:
        ports = (free_port(), free_port(), free_port())
        self.url = rabbitmq._url(ports[0])
        self._program = program
        self._home = home
        self._environment = rabbitmq._environment(home, *ports)
        epmd = shutil.which("epmd", path=self._environment["PATH"]) or "epmd"
        self._epmd = self._run([epmd, "-port", str(ports[2]), "-address", "127.0.0.1"])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self._process = process = self._run([str(self._program)])

        def refuse_dead() -> None:
            if process.poll() is not None:
                raise RuntimeError(f"RabbitMQ ended: {(self._home / 'output').read_text()[-2000:]}")

        rabbitmq._answering(self.url, refuse_dead)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def control(self, *words: str) -> None:
        """Run ``rabbitmqctl``."""
        command = [str(self._program.with_name("rabbitmqctl")), "--quiet", *words]
        subprocess.run(
            [*command, "--node", self._environment["RABBITMQ_NODENAME"]],
            env=self._environment,
            check=True,
            capture_output=True,
        )

    def raise_alarm(self) -> None:
        """Enter memory alarm: RabbitMQ reads nothing any more from connections that publish."""
        self.control("set_vm_memory_high_watermark", "absolute", "1MB")

    def clear_alarm(self) -> None:
        self.control("set_vm_memory_high_watermark", "0.4")

    def end(self) -> None:
        self.kill()
        self._epmd.kill()
        self._epmd.wait()

    def _run(self, command: list[str]) -> "subprocess.Popen[bytes]":
        with (self._home / "output").open("ab") as output:
            return subprocess.Popen(
                command,
                env=self._environment,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )


@contextmanager
def private_rabbit() -> Iterator[Rabbit]:
    """A node of the installed ``rabbitmq-server``, gone afterwards.

    Raises:
      ServerMissing: there is no such program.
    """
    program = rabbitmq.installed()
    if program is None:
        raise ServerMissing(rabbitmq.WHAT_TO_INSTALL)
    with tempfile.TemporaryDirectory(prefix="callboard-peers-", ignore_cleanup_errors=True) as folder:
        node = Rabbit(program, Path(folder))
        try:
            node.start()
            yield node
        finally:
            node.end()
