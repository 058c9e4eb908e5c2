"""The demo's Callboard: a child process that never outlives the demo."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from actors.supervisor import PARENT_VARIABLE
from api.client import Client, ServerUnreachable
from deploy.demo.signals import handled_by, kept_for_later
from tasks.errors import CallboardError

READY_WITHIN = 120.0
STOPPED_WITHIN = 30.0
_USUAL_PORT = 8000
_LOG_LINES = 25
_ANYWHERE = ("", "0.0.0.0", "::")


class ServerFailed(CallboardError):
    """Callboard did not come up, or went down."""

    code = "demo_server_failed"


class Server:
    """``callboard up`` on a free port, with its data and its log below ``folder``; use ``with``."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "callboard.log"
        host = os.environ.get("CALLBOARD_HOST", "")
        self._host = "127.0.0.1" if host in _ANYWHERE else host
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Client:
        """Start it and wait until it is ready.

        Raises:
          ServerFailed: it died, or took too long; the message ends with the last lines of its log.
        """
        port = _free_port(self._host)
        self.url = f"http://{self._host}:{port}"
        environment = os.environ | {
            "CALLBOARD_PORT": str(port),
            "CALLBOARD_DATA_DIR": str(self._data),
            PARENT_VARIABLE: str(os.getpid()),  # so that it stops if the demo is killed
        }
        with self.log.open("wb") as log, kept_for_later():
            self._process = subprocess.Popen(
                [sys.executable, "-m", "api.cli", "up"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C reaches the demo alone, which then stops it in order.
                start_new_session=True,
            )
        client = Client(self.url, os.environ.get("CALLBOARD_TOKEN"))
        try:
            self._wait_until_ready(client)
        except BaseException:
            client.close()
            raise
        return client

    def check(self) -> None:
        """Raise ServerFailed if it has died."""
        if self._process is not None and self._process.poll() is not None:
            raise ServerFailed(f"Callboard ended with {self._process.returncode}. {self._last_words()}")

    def stop(self) -> None:
        """Stop it and all that it started; a second signal does so at once."""
        process = self._process
        if process is None:
            return
        with handled_by(lambda _: self._kill()):
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOPPED_WITHIN)
                except subprocess.TimeoutExpired:
                    self._kill()
                    process.wait()
            self._kill()  # whatever it left behind
        self._process = None

    def _wait_until_ready(self, client: Client) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            self.check()
            with suppress(ServerUnreachable):
                if client.ready():
                    return
            time.sleep(0.1)
        raise ServerFailed(f"Callboard was not ready within {READY_WITHIN:.0f} s. {self._last_words()}")

    def _kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        if not lines:
            return f"It wrote nothing into {self.log}."
        return "\n".join([f"The end of {self.log}:", *lines])


def _free_port(host: str) -> int:
    """Return the usual port if it is free, else any free one."""
    for port in (_USUAL_PORT, 0):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise ServerFailed(f"no port of {host} can be opened: set CALLBOARD_HOST to an address of this machine")
