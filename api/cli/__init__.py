"""The command line: ``callboard``.

Each command lives in a module that is imported when the command is called, so that a client command does
not wait for what only a server needs.
"""

from importlib.metadata import PackageNotFoundError, version

import click

from api.cli.lazy import LazyGroup, Place
from tasks.errors import CallboardError

_PROCESSES = "api.cli.processes:commands"
_COMMANDS = {
    "up": Place(_PROCESSES, "Run everything here: database, API, workers and clock."),
    "api": Place(_PROCESSES, "Run the HTTP API."),
    "worker": Place(_PROCESSES, "Run workers."),
    "clock": Place(_PROCESSES, "Run the clock: schedules, rescue, retention."),
    "migrate": Place(_PROCESSES, "Bring the database to this version."),
    "doctor": Place(_PROCESSES, "Look for what keeps Callboard from working."),
    "submit": Place("api.cli.tasks:submit", "Submit a task."),
    "tasks": Place("api.cli.tasks:tasks", "List, watch, cancel, retry, recover and delete tasks."),
    "queues": Place("api.cli.queues:queues", "List, create, show, change, pause and delete queues."),
    "workers": Place("api.cli.workers:workers", "Show who is at work: workers, APIs and clocks."),
    "schedules": Place("api.cli.schedules:schedules", "List, create, pause, run and backfill schedules."),
    "webhooks": Place("api.cli.webhooks:webhooks", "List, create, show and delete webhooks."),
    "dead": Place("api.cli.dead:dead", "Look at dead letters, replay and discard them."),
    "kb": Place("api.cli.knowledge:kb", "List, create, show, embed anew and delete knowledge bases."),
    "ingest": Place("api.cli.ingest:ingest", "Send documents to a knowledge base."),
    "search": Place("api.cli.search:search", "Ask a knowledge base."),
}
_INTERRUPTED = 130


class Application(LazyGroup):
    """The root command: every error of ours ends as one line, Ctrl-C without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except CallboardError as error:
            click.echo(f"Error: {error.message}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(_INTERRUPTED)


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        try:
            click.echo(f"callboard {version('callboard')}")
        except PackageNotFoundError:  # run from a source tree that was never installed
            click.echo("callboard (not installed)")
        ctx.exit()


@click.group(cls=Application, places=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def main() -> None:
    """Callboard: submit tasks, follow them, and search what you know."""
