"""``callboard tasks cancel|retry|recover|delete|prune``: what operators do, one by one or all at once."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Concatenate, ParamSpec

import click
import msgspec

from api.cli.errors import BadInput
from api.cli.remote import Remote, client_command
from api.cli.text import counted
from api.client import Client
from api.schemas.tasks import BulkOutcome
from tasks.records import Task

P = ParamSpec("P")
_DONE = ("cancelled", "retried", "deleted")


def filters(function: Callable[P, None]) -> Callable[P, None]:
    """Give a command the options that say which tasks are meant."""
    options = [
        click.option("--status", "statuses", multiple=True, help="A status; may be given several times."),
        click.option("--type", "task_type", help="Tasks of this type."),
        click.option("--queue", "queue_name", help="Tasks of this queue."),
        click.option("--kb", "kb_id", help="Tasks of this knowledge base."),
        click.option("--user", "user_id", help="Tasks of this user."),
        click.option("--project", "project_id", help="Tasks of this project."),
        click.option("--tag", help="Tasks with this tag."),
        click.option("--dry-run", is_flag=True, help="Only tell how many it would be."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def ids_or_filters(
    function: Callable[Concatenate[Remote, ...], None],
) -> Callable[..., Any]:
    """Give a command the argument ID... and, instead of it, the options of `filters`."""
    given = client_command(function)
    return click.argument("task_ids", metavar="[ID]...", nargs=-1)(filters(given))


@click.command
@ids_or_filters
def cancel(remote: Remote, /, task_ids: tuple[str, ...], **wanted: Any) -> None:
    """Cancel tasks, and the stages of runs with them: those with an ID, or all that match."""
    _do(remote, task_ids, wanted, remote.client.cancel, Client.cancel_many)


@click.command
@ids_or_filters
def retry(remote: Remote, /, task_ids: tuple[str, ...], **wanted: Any) -> None:
    """Run failed tasks again with a new budget of attempts: those with an ID, or all that match."""
    _do(remote, task_ids, wanted, remote.client.retry, Client.retry_many)


@click.command
@ids_or_filters
def delete(remote: Remote, /, task_ids: tuple[str, ...], **wanted: Any) -> None:
    """Remove tasks that are over: those with an ID (one that is not over is cancelled), or all that match."""
    _do(remote, task_ids, wanted, remote.client.delete, Client.delete_many)


@click.command
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@click.option(
    "--mode",
    type=click.Choice(["checkpoint", "failed", "downstream", "stage", "all"]),
    help="How; by default the failed stage of a run, else the last checkpoint.",
)
@click.option("--stage", help="The stage of a run from which on it runs again.")
@click.option("--output", metavar="JSON", help="What the stage is completed with instead of running.")
@click.option("--version", type=click.IntRange(1), help="The checkpoint that a task goes on from.")
@client_command
def recover(remote: Remote, /, task_ids: tuple[str, ...], output: str | None, **asked: Any) -> None:
    """Run tasks that are over again, from a checkpoint, from a stage, or from the beginning."""
    how = {name: value for name, value in asked.items() if value is not None}
    if output is not None:
        try:
            how["output"] = msgspec.json.decode(output)
        except msgspec.DecodeError as error:
            raise BadInput(f"--output is not JSON ({error}): write it like '[1, 2]'") from error
    _one_by_one(remote, task_ids, lambda task_id: remote.client.recover(task_id, **how))


@click.command
@click.option("--older-than", metavar="DAYS", type=click.FloatRange(0), required=True, help="In days.")
@filters
@client_command
def prune(remote: Remote, /, older_than: float, **wanted: Any) -> None:
    """Remove all tasks that are over and were submitted more than so many days ago."""
    try:
        before = datetime.now(UTC) - timedelta(days=older_than)
    except OverflowError as error:
        raise BadInput(f"--older-than {older_than:g} is before any time: give fewer days") from error
    _all_that_match(remote, wanted, Client.delete_many, created_before=before)


def _do(
    remote: Remote,
    task_ids: tuple[str, ...],
    wanted: dict[str, Any],
    one: Callable[[str], Task | None],
    many: Callable[..., BulkOutcome],
) -> None:
    is_filtered = any(value for name, value in wanted.items() if name != "dry_run")
    if task_ids and is_filtered:
        raise click.UsageError("give IDs, or options that say which tasks are meant, not both")
    if task_ids:
        _one_by_one(remote, task_ids, one)
    elif is_filtered:
        _all_that_match(remote, wanted, many)
    else:
        raise click.UsageError("give IDs, or options that say which tasks are meant: --status, --type …")


def _one_by_one(remote: Remote, task_ids: tuple[str, ...], verb: Callable[[str], Task | None]) -> None:
    tasks = []
    for task_id in task_ids:
        task = verb(task_id)
        remote.say(f"{task_id}  {'deleted' if task is None else task.status}")
        tasks += [] if task is None else [task]
    if remote.as_json:
        remote.show_json({"tasks": tasks})


def _all_that_match(
    remote: Remote, wanted: dict[str, Any], verb: Callable[..., BulkOutcome], **more: Any
) -> None:
    dry_run = wanted.pop("dry_run")
    statuses = ",".join(wanted.pop("statuses")) or None
    done: Counter[str] = Counter()
    while True:
        part = verb(remote.client, status=statuses, dry_run=dry_run, **wanted, **more)
        counts = {word: getattr(part, word) for word in _DONE}
        done.update({word: count for word, count in counts.items() if count is not msgspec.UNSET})
        if not part.more or not any(counts.values()):
            break
    whole = msgspec.structs.replace(part, **done)
    if remote.as_json:
        remote.show_json(whole)
        return
    if dry_run:
        remote.say(f"{counted(part.eligible, 'task')} would be {next(iter(done))}.")
    else:
        remote.say("".join(f"{counted(number, 'task')} {word}." for word, number in done.items()))
    for reason, number in part.skipped.items():
        remote.say(f"{counted(number, 'task')} skipped: {reason}")
