"""The commands that run Callboard's processes: up, api, worker, clock, migrate and doctor."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from actors.supervisor import Child, Supervisor
from api.cli.doctor import examine
from pipelines import logs
from pipelines.bootstrap import migrate_all
from pipelines.worker import DRAIN_SECONDS, QUEUES_VARIABLE
from tasks.database import connect
from tasks.embedded import embedded_postgres
from tasks.errors import SettingsError
from tasks.names import check_queue
from tasks.settings import PREFIX, Settings

STOP_MARGIN_SECONDS = 15.0
_PROCESSES = click.option(
    "--processes", type=click.IntRange(1, 256), help="How many worker processes (CALLBOARD_PROCESSES)."
)
_THREADS = click.option(
    "--threads", type=click.IntRange(1, 1_000), help="Threads a process (CALLBOARD_THREADS)."
)


def commands() -> list[click.Command]:
    """All commands of this module."""
    return [up, api, worker, clock, migrate, doctor]


@click.command()
@_PROCESSES
@_THREADS
def up(processes: int | None, threads: int | None) -> None:
    """Run everything: the API, workers and a clock."""
    settings = _settings()
    check_safe(settings)
    workers = workers_of(settings, processes, threads, ())
    _supervise(
        settings, [Child("api", "api.process"), Child("clock", "pipelines.clock"), *workers], "supervisor"
    )


@click.command()
def api() -> None:
    """Run the HTTP API."""
    settings = _settings()
    check_safe(settings)
    from api.process import main  # gunicorn is of no use to the other commands

    raise SystemExit(main())


@click.command()
@click.option("--queues", help="Only these queues, comma-separated; all by default.")
@_PROCESSES
@_THREADS
def worker(queues: str | None, processes: int | None, threads: int | None) -> None:
    """Run worker processes."""
    settings = _settings()
    names = tuple(name.strip() for name in (queues or "").split(",") if name.strip())
    for name in names:
        check_queue(name, field="--queues")
    _supervise(settings, workers_of(settings, processes, threads, names), "supervisor")


@click.command()
def clock() -> None:
    """Run a clock: due tasks, rescue, dispatch."""
    _supervise(_settings(), [Child("clock", "pipelines.clock")], "supervisor")


@click.command()
def migrate() -> None:
    """Bring the database's schema up to date."""
    settings = _settings()
    with ExitStack() as stack:
        url = settings.database_url or stack.enter_context(embedded_postgres(settings.data_dir))
        database = connect(url)
        applied = migrate_all(database)
        database.close_all()
    click.echo("\n".join(f"applied {name}" for name in applied) or "the schema is up to date")


@click.command()
def doctor() -> None:
    """Check the settings, Postgres, RabbitMQ and the file roots, and say what to do."""
    findings = examine(_settings())
    for finding in findings:
        click.echo(f"{'ok ' if finding.fine else 'BAD'}  {finding.about}: {finding.text}")
    if not all(finding.fine for finding in findings):
        raise SystemExit(1)


def check_safe(settings: Settings) -> None:
    """Without auth, only this machine may reach the API.

    Raises:
      SettingsError: the address is reachable from elsewhere.
    """
    if settings.host not in ("127.0.0.1", "::1", "localhost"):
        raise SettingsError(
            f"CALLBOARD_HOST={settings.host} would let anybody in, because there is no auth yet:"
            " use 127.0.0.1, behind a proxy that authenticates"
        )


def _settings() -> Settings:
    return Settings.from_env(os.environ)


def share_out(most: int, processes: int, threads: int) -> tuple[int, int]:
    """How many processes of how many threads run ``most`` tasks at once, or fewer if fewer were meant."""
    processes = min(processes, most)
    return processes, min(threads, most // processes)


def workers_of(
    settings: Settings, processes: int | None, threads: int | None, queues: Sequence[str]
) -> list[Child]:
    """The worker processes that are asked for, as many as CALLBOARD_MAX_CONCURRENT lets run."""
    asked = processes or settings.processes, threads or settings.threads
    processes, threads = share_out(settings.max_concurrent, *asked)
    if (processes, threads) != asked:
        click.echo(
            f"{processes} processes of {threads} threads, not {asked[0]} of {asked[1]}: at most"
            f" {settings.max_concurrent} tasks run at once here, raise {PREFIX}MAX_CONCURRENT for more",
            err=True,
        )
    environ = {
        f"{PREFIX}THREADS": str(threads),
        QUEUES_VARIABLE: ",".join(queues),
        # Several processes of several threads share the cores: a BLAS that takes them all makes all slower.
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
    }
    return [
        Child(f"worker-{number}", "pipelines.worker", environ=environ) for number in range(1, processes + 1)
    ]


def _supervise(settings: Settings, children: Sequence[Child], name: str) -> None:
    logs.configure(settings, name)
    patience = (settings.drain_seconds or DRAIN_SECONDS) + STOP_MARGIN_SECONDS
    with ExitStack() as stack:
        os.environ[f"{PREFIX}DATA_DIR"] = str(Path(settings.data_dir).absolute())
        if settings.embedded:
            # The supervisor holds the embedded Postgres, so that it outlives every child.
            stack.enter_context(embedded_postgres(settings.data_dir.absolute()))
        raise SystemExit(Supervisor(children, patience=patience).run())
