"""A whole Callboard, started as its users start it: ``callboard up`` with an environment."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from actors.supervisor import PARENT_VARIABLE
from tests.support.servers import free_port
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 40.0


class Deployment:
    """A running ``callboard up``; ``url`` is its API."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log
        self.http = httpx.Client(base_url=url, timeout=20)

    def workers(self) -> list[psutil.Process]:
        """The worker processes that live now."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "pipelines.worker" in child.cmdline()]

    def wait_for_task(self, task_id: str, timeout: float = 60.0) -> dict[str, object]:
        """The task, once it is in a final state."""

        def final() -> dict[str, object] | None:
            task: dict[str, object] = self.http.get(f"/api/v1/tasks/{task_id}").json()
            return task if task["status"] in ("completed", "failed", "cancelled") else None

        found = eventually(final, timeout)
        assert found is not None
        return found

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-4_000:]
        try:
            return self.http.get("/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def deployment(environ: Mapping[str, str]) -> Iterator[Deployment]:
    """Callboard with ``environ`` on a free port, its data in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="callboard-test-") as folder:
        port = free_port()
        clean = {key: value for key, value in os.environ.items() if not key.startswith("CALLBOARD_")}
        own = {
            "CALLBOARD_DATA_DIR": f"{folder}/data",
            "CALLBOARD_PORT": str(port),
            "PYTHONPATH": str(REPOSITORY),
            PARENT_VARIABLE: str(os.getpid()),
        }
        log = Path(folder) / "callboard.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "api.cli", "up"],
                env={**clean, **own, **environ},
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Deployment(process, f"http://127.0.0.1:{port}", log)
        try:
            eventually(running.is_ready, START_SECONDS)
            yield running
        finally:
            running.http.close()
            stop(process)


def stop(process: "subprocess.Popen[bytes]") -> int:
    """Stop a Callboard as its users do; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
