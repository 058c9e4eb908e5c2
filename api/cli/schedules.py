"""``callboard schedules``: what is submitted again and again, by a cron expression."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.table import Table
from rich.text import Text

from api.cli.errors import BadInput
from api.cli.remote import Remote, client_command
from api.cli.text import clean, counted, moment, one_line
from tasks.schedule_records import FireRecord, Schedule

SHOWN_RUNS = 10


@click.group
def schedules() -> None:
    """List, create, change, pause, run and backfill schedules."""


def settings(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say what a schedule does and when."""
    options = [
        click.option("--payload", metavar="JSON", help="The payload of each task, as JSON."),
        click.option("--queue", "queue_name", help="The queue; by default that of the type."),
        click.option("--timezone", help="The zone that the expression is about, like Europe/Berlin; UTC."),
        click.option(
            "--overlap",
            type=click.Choice(["queue", "skip", "cancel"]),
            help="While the run before is unfinished: queue another, skip it, or cancel the old one.",
        ),
        click.option(
            "--misfire",
            type=click.Choice(["once", "skip", "all"]),
            help="For times at which no clock ran: one run for all, none, or all.",
        ),
        click.option("--jitter", type=click.FloatRange(0), help="Up to so many seconds later."),
        click.option("--priority", help="0-10, or low, normal, high, critical."),
        click.option("--max-retries", type=click.IntRange(0), help="How often a failed task is tried again."),
        click.option("--timeout", type=click.FloatRange(0), help="Seconds that an attempt may take."),
        click.option("--kb", "kb_id", help="The knowledge base that the tasks belong to."),
        click.option("--tag", "tags", multiple=True, help="A tag; may be given several times."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@schedules.command("list")
@client_command
def list_schedules(remote: Remote) -> None:
    """List all schedules."""
    found = remote.client.schedules()
    if remote.as_json:
        remote.show_json({"scheduled_tasks": found})
        return
    table = Table("NAME", "TYPE", "CRON", "ZONE", "STATE", "LAST", "NEXT", box=None, pad_edge=False)
    for one in found:
        state = "active" if one.is_active else "paused"
        words = (one.name, one.task_type, one.cron_expr, one.timezone, state)
        times = (moment(one.last_run_at), moment(one.next_run_at))
        table.add_row(*(Text(clean(word)) for word in (*words, *times)))
    remote.out.print(table)


@schedules.command
@click.argument("name")
@click.argument("task_type", metavar="TYPE")
@click.argument("cron_expr", metavar="CRON")
@settings
@click.option("--paused", is_flag=True, help="Do not begin yet.")
@client_command
def create(remote: Remote, /, name: str, task_type: str, cron_expr: str, paused: bool, **fields: Any) -> None:
    """Create a schedule NAME of tasks of TYPE, at the times of CRON: '0 9 * * mon' or '@hourly'."""
    given = _given(fields) | ({"is_active": False} if paused else {})
    _show(remote, remote.client.create_schedule(name, task_type, cron_expr, **given))


@schedules.command
@click.argument("name")
@click.option("--cron", "cron_expr", help="The times, as an expression.")
@click.option("--type", "task_type", help="The type of its tasks.")
@settings
@client_command
def update(remote: Remote, /, name: str, **fields: Any) -> None:
    """Change what is given of a schedule."""
    _show(remote, remote.client.update_schedule(name, **_given(fields)))


@schedules.command
@click.argument("name")
@client_command
def show(remote: Remote, name: str) -> None:
    """Show a schedule, its next times and what became of the last ones."""
    found = remote.client.schedule(name)
    runs = remote.client.schedule_runs(name, limit=SHOWN_RUNS)
    if remote.as_json:
        remote.show_json({"scheduled_task": found, "runs": runs})
        return
    _show(remote, found)
    for one in runs:
        remote.say(_line(one))


@schedules.command
@click.argument("name")
@client_command
def pause(remote: Remote, name: str) -> None:
    """Let a schedule submit nothing until it is resumed."""
    _show(remote, remote.client.pause_schedule(name))


@schedules.command
@click.argument("name")
@client_command
def resume(remote: Remote, name: str) -> None:
    """Let a schedule go on from now."""
    _show(remote, remote.client.resume_schedule(name))


@schedules.command
@click.argument("name")
@client_command
def run(remote: Remote, name: str) -> None:
    """Submit the task of a schedule at once."""
    task = remote.client.run_schedule(name)
    if remote.as_json:
        remote.show_json(task)
    remote.say(str(task.task_id))


@schedules.command
@click.argument("name")
@click.option("--from", "since", required=True, metavar="TIME", help="Like 2026-02-01T00:00:00Z.")
@click.option("--to", "until", required=True, metavar="TIME", help="Like 2026-02-02T00:00:00Z.")
@click.option("--dry-run", is_flag=True, help="Only tell which fire times it would be.")
@client_command
def backfill(remote: Remote, name: str, since: str, until: str, dry_run: bool) -> None:
    """Submit the task of a schedule for each time of a range that had none."""
    found = remote.client.backfill_schedule(name, _time(since), _time(until), dry_run=dry_run)
    if remote.as_json:
        remote.show_json(found)
        return
    verb = "would be run" if dry_run else "run"
    remote.say(f"{counted(found.count, 'fire time')} {verb}, {found.fired_before:,} had been run before.")
    for one in found.fire_times if dry_run else ():
        remote.say(moment(one))


@schedules.command
@click.argument("name")
@client_command
def delete(remote: Remote, name: str) -> None:
    """Remove a schedule; its tasks stay."""
    remote.client.delete_schedule(name)
    if remote.as_json:
        remote.show_json({"deleted": name})
    remote.say(f"{name}  deleted")


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as fields of a request."""
    given = {name: value for name, value in fields.items() if value not in (None, ())}
    if "payload" in given:
        try:
            given["payload"] = msgspec.json.decode(given["payload"])
        except msgspec.DecodeError as error:
            raise BadInput(f"--payload is not JSON ({error}): write it like '{{\"key\": 1}}'") from error
    if str(given.get("priority", "")).isdigit():
        given["priority"] = int(given["priority"])
    return given


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"{text!r} is no time: write it like 2026-02-01T00:00:00Z") from error
    return found.astimezone() if found.tzinfo is None else found


def _show(remote: Remote, schedule: Schedule) -> None:
    if remote.as_json:
        remote.show_json(schedule)
        return
    state = "" if schedule.is_active else ", paused"
    remote.say(f"{schedule.name}: {schedule.task_type} at {schedule.cron_expr} ({schedule.timezone}){state}")
    refused = f", {schedule.refused:,} refused" if schedule.refused else ""
    remote.say(f"{schedule.fired:,} fired, {schedule.skipped:,} skipped, {schedule.missed:,} missed{refused}")
    if schedule.next_runs:
        remote.say(f"next at {', '.join(moment(one) for one in schedule.next_runs)}")


def _line(one: FireRecord) -> str:
    late = "" if one.late_ms is None else f"  {one.late_ms:,.0f} ms late"
    others = f"  for {one.missed:,} others too" if one.missed else ""
    why = "" if one.error is None else f"  {one_line(one.error, 80)}"
    return f"{moment(one.fire_time)}  {one.outcome}  {one.task_id or ''}{late}{others}{why}"
