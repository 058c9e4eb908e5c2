"""``callboard submit`` and ``callboard tasks``: submit tasks, list, show and watch them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.cli import verbs, webhooks
from api.cli.details import COLOURS, show_errors, show_history, show_lines
from api.cli.drawing import show_run
from api.cli.errors import BadInput
from api.cli.remote import Remote, client_command
from api.cli.text import clean, counted, moment, one_line
from api.cli.watching import watch as watch_tasks
from api.cli.watching import write_line
from tasks.records import Task
from tasks.states import COMPLETED

_VALUE_AT_MOST = 2_000


@click.command
@click.argument("task_type", metavar="TYPE")
@click.option("--payload", metavar="JSON", help="The payload, as JSON.")
@click.option(
    "--file",
    "payload_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A file that holds the payload, as JSON; - is stdin.",
)
@click.option("--priority", help="0-10, or low, normal, high, critical.")
@click.option("--queue", "queue_name", help="The queue; by default that of the type.")
@click.option("--delay", type=click.FloatRange(0), help="Seconds to wait before the task may start.")
@click.option("--kb", "kb_id", help="The knowledge base that it belongs to.")
@click.option("--tag", "tags", multiple=True, help="A tag; may be given several times.")
@click.option("--callback", "callback_url", metavar="URL", help="A URL that is told when it ends.")
@click.option("--follow", is_flag=True, help="Watch it until it is final; ends with 1 if it failed.")
@client_command
def submit(
    remote: Remote,
    /,
    task_type: str,
    payload: str | None,
    payload_file: Path | None,
    follow: bool,
    **fields: Any,
) -> None:
    """Submit a task of TYPE."""
    given = {name: value for name, value in fields.items() if value not in (None, ())}
    priority = given.get("priority")
    if priority is not None and priority.isdigit():
        given["priority"] = int(priority)
    task = remote.client.submit(task_type, _payload(payload, payload_file), **given)
    if follow:
        remote.err.print(f"task {task.task_id}", highlight=False)
        watch_to_end(remote, [str(task.task_id)])
    elif remote.as_json:
        remote.show_json(task)
    else:
        remote.say(f"{task.task_id}  {task.status}")


@click.group
def tasks() -> None:
    """List, show and watch tasks, and change what becomes of them."""


@tasks.command("list")
@click.option("--status", "statuses", multiple=True, help="A status; may be given several times.")
@click.option("--type", "task_type", help="Only tasks of this type.")
@click.option("--queue", "queue_name", help="Only tasks of this queue.")
@click.option("--kb", "kb_id", help="Only tasks of this knowledge base.")
@click.option("--user", "user_id", help="Only tasks of this user.")
@click.option("--project", "project_id", help="Only tasks of this project.")
@click.option("--tag", help="Only tasks with this tag.")
@click.option("--stages", is_flag=True, help="Also the stages of runs.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Tasks at most.")
@click.option("--cursor", help="Where the page begins, as the page before said.")
@client_command
def list_tasks(remote: Remote, /, statuses: tuple[str, ...], stages: bool, **filters: Any) -> None:
    """List tasks, the newest first."""
    page = remote.client.tasks(status=",".join(statuses) or None, stages=stages or None, **filters)
    if remote.as_json:
        remote.show_json(page)
        return
    remote.out.print(_table(page.tasks))
    more = "" if page.total_is_exact else "more than "
    remote.say(f"{len(page.tasks)} of {more}{counted(page.total, 'task')}")
    if page.next_cursor:
        remote.say(f"Go on with --cursor {page.next_cursor}")


@tasks.command
@click.argument("task_id", metavar="ID")
@client_command
def show(remote: Remote, task_id: str) -> None:
    """Show a task with its run by its stages, its history, the errors of its attempts, and its log."""
    client = remote.client
    task, history = client.task(task_id), client.history(task_id)
    attempts, lines = client.attempts(task_id), client.logs(task_id)
    graph = client.graph(task_id)
    if remote.as_json:
        shown = {"task": task, "history": history, "attempts": attempts, "logs": lines, "graph": graph}
        remote.show_json(shown)
        return
    _show_fields(remote.out, task)
    if graph.run is not None:
        show_run(remote.out, graph.run)
    show_history(remote.out, history)
    show_errors(remote.out, attempts)
    show_lines(remote.out, lines)


@tasks.command
@click.argument("task_id", metavar="ID")
@client_command
def logs(remote: Remote, task_id: str) -> None:
    """Show what a task logged."""
    lines = remote.client.logs(task_id)
    if remote.as_json:
        remote.show_json({"logs": lines})
    else:
        show_lines(remote.out, lines, title=False)


@tasks.command
@click.argument("task_ids", metavar="ID...", nargs=-1, required=True)
@client_command
def watch(remote: Remote, task_ids: tuple[str, ...]) -> None:
    """Watch tasks until they are final. Ends with 1 if one of them did not complete."""
    watch_to_end(remote, task_ids)


for verb in (verbs.cancel, verbs.retry, verbs.recover, verbs.delete, verbs.prune):
    tasks.add_command(verb)
for verb in (webhooks.callbacks, webhooks.redeliver):
    tasks.add_command(verb)


def watch_to_end(remote: Remote, ids: Sequence[str]) -> None:
    """Show what happens to tasks and how they end; the command ends with 1 if one did not complete."""
    ended = watch_tasks(remote, ids)
    for task in ended:
        if remote.as_json:
            write_line(str(task.task_id), "task", task)
        else:
            _show_end(remote.out, task)
    if any(task.status != COMPLETED for task in ended):
        click.get_current_context().exit(1)


def _payload(text: str | None, file: Path | None) -> Any:
    if text is not None and file is not None:
        raise click.UsageError("give --payload or --file, not both")
    if file is not None:
        with click.open_file(str(file), "rb") as content:
            raw = content.read()
    elif text is not None:
        raw = text.encode()
    else:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        origin = "--payload" if file is None else str(file)
        raise BadInput(f"{origin} is not JSON ({error}): write it like '{{\"seconds\": 1}}'") from error


def _table(found: list[Task]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("TASK", "TYPE", "STATUS", "PROGRESS", "QUEUE", "CREATED", ""):
        # An id that is cut off cannot be copied.
        table.add_column(heading, no_wrap=heading != "", min_width=36 if heading == "TASK" else None)
    for task in found:
        table.add_row(
            str(task.task_id),
            Text(clean(task.stage or task.task_type)),
            Text(task.status, COLOURS.get(task.status, "")),
            f"{task.progress:.0f}%",
            Text(clean(task.queue_name)),
            moment(task.created_at),
            Text(one_line(_remark(task), 60)),
        )
    return table


def _remark(task: Task) -> str:
    if task.error:
        return f"{task.error.get('code')}: {task.error.get('message')}"
    return task.wait_reason or task.message or task.phase or ""


def _show_fields(console: Console, task: Task) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in msgspec.structs.asdict(task).items():
        if value is not None and value != []:
            style = COLOURS.get(task.status, "") if name == "status" else ""
            table.add_row(Text(name, "dim"), Text(_shown(value), style))
    console.print(table)


def _show_end(console: Console, task: Task) -> None:
    console.print(Text.assemble(f"{task.task_id}  ", (task.status, COLOURS.get(task.status, ""))))
    if task.error:
        console.print(Text(_remark(task), "red"), soft_wrap=True)
    elif task.result is not None:
        console.print(Text(_shown(task.result)), soft_wrap=True)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    else:
        text = value if isinstance(value, str) else msgspec.to_builtins(value, str_keys=True)
    text = clean(str(text))
    return text if len(text) <= _VALUE_AT_MOST else f"{text[:_VALUE_AT_MOST]}… (--json shows all)"
