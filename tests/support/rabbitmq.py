"""Ways to a private RabbitMQ: a node of the installed program, a container, an installation."""

import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pika
from pika.exceptions import AMQPError

IMAGE = "rabbitmq:3.13-alpine"
START_SECONDS = 120
# Debian's rabbitmq-server in /usr/sbin changes user and data folder; the one below /usr/lib does not.
PROGRAM_FOLDERS = ("/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/usr/sbin", "/opt/homebrew/sbin")
POLICY = Path("/usr/sbin/policy-rc.d")
WHAT_TO_INSTALL = (
    "install rabbitmq-server (apt-get install rabbitmq-server, brew install rabbitmq), "
    "or start Docker, or set CALLBOARD_TEST_BROKER_URL=amqp://user:password@host:5672/%2F"
)


def installed() -> Path | None:
    """The installed ``rabbitmq-server``, if there is one."""
    program = shutil.which("rabbitmq-server", path=search_path())
    return Path(program) if program and shutil.which("epmd", path=search_path()) else None


def search_path() -> str:
    """Where programs are looked for."""
    return os.pathsep.join([*PROGRAM_FOLDERS, os.environ.get("PATH", os.defpath)])


def docker_answers() -> bool:
    """Whether there is a Docker that works."""
    if not shutil.which("docker"):
        return False
    try:
        return (
            subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0
        )
    except subprocess.TimeoutExpired:
        return False


def can_be_installed() -> bool:
    """Whether we are root on a system with ``apt-get``."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(package: str = "rabbitmq-server", otherwise: str = WHAT_TO_INSTALL) -> None:
    """Install a package by ``apt-get``, without starting the services that come with it.

    Raises:
      RuntimeError: it could not be installed; the message says what to do ``otherwise``, and has the last
        words of ``apt-get``.
    """
    with ExitStack() as undo:
        if not POLICY.exists():
            POLICY.write_text("#!/bin/sh\nexit 101\n")
            undo.callback(POLICY.unlink)
            POLICY.chmod(0o755)
        wait = ["-o", "DPkg::Lock::Timeout=120"]
        _apt_get([*wait, "update"], otherwise)
        _apt_get([*wait, "install", "-y", "--no-install-recommends", package], otherwise)


def _apt_get(arguments: list[str], otherwise: str) -> None:
    done = subprocess.run(
        ["apt-get", "-q", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{otherwise} (apt-get failed: {' '.join(done.stdout.splitlines()[-3:])})")


@contextmanager
def in_docker() -> Iterator[str]:
    """Run a node in a container and yield its URL."""
    run = ["docker", "run", "--detach", "--rm", "--publish", "127.0.0.1::5672", IMAGE]
    container = _output(run)
    try:
        port = _output(["docker", "port", container, "5672/tcp"]).splitlines()[0].rpartition(":")[2]
        yield answering(url_at(int(port)), lambda: None)
    finally:
        subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def private_node(program: Path, ports: tuple[int, int, int]) -> Iterator[str]:
    """Run a node of ``program`` with everything of its own, and yield its URL.

    ``ports`` are those of AMQP, of Erlang's distribution and of ``epmd``.
    """
    with tempfile.TemporaryDirectory(prefix="callboard-test-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        environ = environment(home, *ports)
        epmd = [shutil.which("epmd", path=search_path()) or "epmd", "-port", str(ports[2])]
        with (
            # Started by us, since the one that Erlang starts by itself stays for ever.
            _running([*epmd, "-address", "127.0.0.1"], environ, home / "epmd.log"),
            _running([str(program)], environ, home / "node.log") as node,
        ):

            def refuse_dead() -> None:
                if node.poll() is not None:
                    raise RuntimeError(f"{program} ended: {(home / 'node.log').read_text()[-2000:]}")

            yield answering(url_at(ports[0]), refuse_dead)


def environment(home: Path, amqp: int, distribution: int, epmd: int) -> dict[str, str]:
    """The environment of a node that keeps all it has in ``home``, where its files are written."""
    files = {
        "plugins": "[].\n",
        "environment.conf": "",
        "rabbitmq.conf": f"listeners.tcp.1 = 127.0.0.1:{amqp}\ndisk_free_limit.absolute = 50MB\n",
    }
    for name, text in files.items():
        (home / name).write_text(text)
    return {
        "PATH": search_path(),
        "HOME": str(home),  # where Erlang makes its cookie
        "LANG": "C.UTF-8",
        "ERL_EPMD_PORT": str(epmd),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"callboard-{amqp}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(home / "data"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "environment.conf"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        # Together they make the script become Erlang, instead of staying as its parent.
        "RABBITMQ_ALLOW_INPUT": "true",
        "RABBITMQ_SERVER_START_ARGS": "-noinput",
    }


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()  # nothing of it is worth an orderly end
        process.wait()


def url_at(port: int) -> str:
    """The URL of a node on this port."""
    return f"amqp://guest:guest@127.0.0.1:{port}/%2F"


def answering(url: str, still_hopeful: Callable[[], None]) -> str:
    """Wait until a client can connect to ``url``."""
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # refusals are expected here
    deadline = time.monotonic() + START_SECONDS
    while True:
        still_hopeful()
        try:
            pika.BlockingConnection(pika.URLParameters(url)).close()
        except (AMQPError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return url
