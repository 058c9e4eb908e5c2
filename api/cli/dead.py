"""``callboard dead``: look at dead letters, clusters first, replay and discard them."""

import time
from collections.abc import Callable
from typing import Any

import click
import msgspec
from rich.table import Table
from rich.text import Text

from api.cli.errors import BadInput
from api.cli.remote import Remote, client_command
from api.cli.text import clean, counted, moment, one_line
from tasks.letter_records import ACTIVE, LetterDetail, ReplayJob, Survey
from tasks.states import COMPLETED, UNFINISHED

_LOOK_SECONDS = 0.5
_WIDTHS = {"DEAD LETTER": 36, "REPLAY": 36, "CLUSTER": 16}
_STATUSES = click.Choice(["open", "replayed", "retried", "recovered", "discarded", "any"])


def filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say which dead letters are meant."""
    options = [
        click.option("--type", "task_type", help="Letters of this type of task."),
        click.option("--queue", "queue_name", help="Letters of this queue."),
        click.option("--error", "error_class", help="Letters of this class of error."),
        click.option("--cluster", help="Letters of this cluster, by its fingerprint."),
        click.option(
            "--text", "q", help="Letters with this text in their type, error class, code or message."
        ),
        click.option("--user", "user_id", help="Letters of this user."),
        click.option("--since", metavar="TIME", help="What failed from then on, like 2026-01-31T08:00:00Z."),
        click.option("--until", metavar="TIME", help="What failed before then."),
        click.option("--status", type=_STATUSES, help="What became of them; by default they are open."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.group
def dead() -> None:
    """Look at dead letters, replay and discard them."""


@dead.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="At most.")
@click.option("--cursor", help="Where the page begins, as the page before said.")
@client_command
def list_letters(remote: Remote, /, **wanted: Any) -> None:
    """List dead letters, the newest first."""
    page = remote.client.dead_letters(**wanted)
    if remote.as_json:
        remote.show_json(page)
        return
    table = _table("DEAD LETTER", "TYPE", "QUEUE", "FAILED", "CLUSTER", "")
    for one in page.dead_letters:
        state = f"{one.resolution}: " if one.resolution else ""
        words = one_line(f"{state}{one.error['message']}", 60)
        kind = Text(clean(one.stage or one.task_type))
        row = Text(clean(one.queue_name)), moment(one.failed_at), one.fingerprint or "", Text(words)
        table.add_row(str(one.dead_letter_id), kind, *row)
    remote.out.print(table)
    remote.say(f"{len(page.dead_letters)} of {counted(page.total, 'dead letter')}")
    if page.next_cursor:
        remote.say(f"Go on with --cursor {page.next_cursor}")


@dead.command
@filters
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="At most.")
@client_command
def clusters(remote: Remote, /, **wanted: Any) -> None:
    """List clusters of dead letters that failed alike, the largest first."""
    page = remote.client.dead_letter_clusters(**wanted)
    if remote.as_json:
        remote.show_json(page)
        return
    table = _table("CLUSTER", "COUNT", "FIRST SEEN", "LAST SEEN", "TYPES", "")
    for one in page.clusters:
        seen = moment(one.first_seen), moment(one.last_seen)
        types = Text(clean(", ".join(one.task_types)))
        table.add_row(one.fingerprint, f"{one.count:,}", *seen, types, Text(one_line(one.message, 60)))
    remote.out.print(table)
    remote.say(f"{len(page.clusters)} of {counted(page.total, 'cluster')}")


@dead.command
@click.argument("letter_id", metavar="ID")
@client_command
def show(remote: Remote, letter_id: str) -> None:
    """Show a dead letter: its error and traceback, the payload that failed, and what became of it."""
    letter = remote.client.dead_letter(letter_id)
    if remote.as_json:
        remote.show_json(letter)
        return
    _show(remote, letter)


@dead.command
@click.argument("letter_ids", metavar="ID...", nargs=-1, required=True)
@client_command
def discard(remote: Remote, letter_ids: tuple[str, ...]) -> None:
    """Discard dead letters; their tasks stay failed."""
    for letter_id in letter_ids:
        remote.client.discard_dead_letter(letter_id)
        remote.say(f"{letter_id}  discarded")
    if remote.as_json:
        remote.show_json({"discarded": letter_ids})


@dead.command
@click.argument("letter_id", metavar="[ID]", required=False)
@filters
@click.option("--payload", metavar="JSON", help="With an ID: the payload that the task gets instead.")
@click.option("--patch", metavar="JSON", help="What is to be different in each payload (JSON merge patch).")
@click.option("--dry-run", is_flag=True, help="Only tell how many it would be, and why not others.")
@click.option("--canary", type=click.IntRange(1), help="So many must complete before the others go.")
@click.option("--rate", type=click.FloatRange(0.001), help="So many a second.")
@click.option("--limit", type=click.IntRange(1), help="The oldest so many of what matches.")
@click.option("--follow", is_flag=True, help="Watch it to its end; ends with 1 if not all completed.")
@client_command
def replay(
    remote: Remote,
    /,
    letter_id: str | None,
    payload: str | None,
    patch: str | None,
    dry_run: bool,
    follow: bool,
    **given: Any,
) -> None:
    """Run the tasks of dead letters again: of the one with the ID, or of all that match."""
    how = {name: given.pop(name) for name in ("canary", "rate", "limit")}
    if letter_id is not None:
        if patch is not None or dry_run or any([*how.values(), *given.values()]):
            raise click.UsageError("give an ID, or options that say which letters are meant, not both")
        _replay_one(remote, letter_id, payload, follow=follow)
        return
    if payload is not None:
        raise click.UsageError("--payload is for a letter with its ID; for many there is --patch")
    if not any(value for name, value in given.items() if name != "status"):
        raise click.UsageError("give an ID, or options that say which letters are meant: --type, --cluster …")
    changes = _json(patch, "--patch")
    if dry_run:
        survey = remote.client.survey_replay(payload_patch=changes, limit=how["limit"], **given)
        _show_survey(remote, survey)
        return
    job = remote.client.replay_dead_letters(payload_patch=changes, **how, **given)
    _show_or_follow(remote, job, follow=follow)


@dead.group
def replays() -> None:
    """Look at the jobs that replay dead letters, abort them and go on."""


@replays.command("list")
@client_command
def list_replays(remote: Remote) -> None:
    """List the jobs, the newest first."""
    found = remote.client.replays()
    if remote.as_json:
        remote.show_json({"replays": found})
        return
    table = _table("REPLAY", "STATUS", "ITEMS", "REPLAYED", "SKIPPED", "CREATED", "")
    for one in found:
        counts = (f"{number:,}" for number in (one.size, one.counts["replayed"], one.counts["skipped"]))
        reason = Text(one_line(one.reason or "", 60))
        table.add_row(str(one.replay_id), one.status, *counts, moment(one.created_at), reason)
    remote.out.print(table)


@replays.command("show")
@click.argument("replay_id", metavar="ID")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="Items at most.")
@click.option("--cursor", help="Where the page begins, as the page before said.")
@client_command
def show_replay(remote: Remote, /, replay_id: str, **page: Any) -> None:
    """Show a job with what became of each of its dead letters."""
    found = remote.client.replay(replay_id, **page)
    if remote.as_json:
        remote.show_json(found)
        return
    remote.say(_summary(found))
    table = _table("DEAD LETTER", "STATUS", "OUTCOME", "")
    for item in found.items:
        words = "canary" if item.is_canary else item.reason or ""
        table.add_row(str(item.dead_letter_id), item.status, item.outcome or "", Text(one_line(words, 60)))
    remote.out.print(table)
    if found.next_cursor:
        remote.say(f"Go on with --cursor {found.next_cursor}")


@replays.command
@click.argument("replay_id", metavar="ID")
@client_command
def abort(remote: Remote, replay_id: str) -> None:
    """Begin no more dead letters of a job; they stay open."""
    _show_or_follow(remote, remote.client.abort_replay(replay_id), follow=False)


@replays.command
@click.argument("replay_id", metavar="ID")
@click.option("--follow", is_flag=True, help="Watch it to its end; ends with 1 if not all completed.")
@client_command
def resume(remote: Remote, replay_id: str, follow: bool) -> None:
    """Go on with a job that was aborted, or whose canary had stopped it."""
    _show_or_follow(remote, remote.client.resume_replay(replay_id), follow=follow)


def _replay_one(remote: Remote, letter_id: str, payload: str | None, *, follow: bool) -> None:
    given = msgspec.UNSET if payload is None else _json(payload, "--payload")
    task = remote.client.replay_dead_letter(letter_id, given)
    if task is None:
        remote.say("back to its queue")
        return
    if follow:
        task = remote.client.wait(task.task_id)
    if remote.as_json:
        remote.show_json(task)
    remote.say(f"{task.task_id}  {task.status}")
    if follow and task.status != COMPLETED:
        click.get_current_context().exit(1)


def _show_or_follow(remote: Remote, job: ReplayJob, *, follow: bool) -> None:
    """Show a job, once with ``follow`` it and all that it replayed is over; the command may end with 1."""
    told = ""
    while follow and (job.status in ACTIVE or UNFINISHED & job.outcomes.keys()):
        if not remote.as_json and _summary(job) != told:
            told = _summary(job)
            remote.err.print(told, markup=False, highlight=False, soft_wrap=True)
        time.sleep(_LOOK_SECONDS)
        now = remote.client.replay(job.replay_id, limit=1)
        job = ReplayJob(**{name: getattr(now, name) for name in ReplayJob.__struct_fields__})
    if remote.as_json:
        remote.show_json(job)
    remote.say(_summary(job))
    if follow and (job.status != COMPLETED or job.outcomes.get(COMPLETED, 0) < job.size):
        click.get_current_context().exit(1)


def _summary(job: ReplayJob) -> str:
    counts = ", ".join(f"{number:,} {word}" for word, number in job.counts.items())
    outcomes = ", ".join(f"{number:,} {word}" for word, number in sorted(job.outcomes.items()))
    became = f" (of these {outcomes})" if outcomes else ""
    return f"{job.replay_id}  {job.status}: {counts}{became}" + (f"; {job.reason}" if job.reason else "")


def _show_survey(remote: Remote, survey: Survey) -> None:
    if remote.as_json:
        remote.show_json(survey)
        return
    remote.say(f"{counted(survey.eligible, 'dead letter')} would be replayed.")
    for reason, number in survey.reasons.items():
        remote.say(f"{counted(number, 'dead letter')} not: {reason}")


def _show(remote: Remote, letter: LetterDetail) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in msgspec.structs.asdict(letter).items():
        if value is None or name in ("traceback", "task"):
            continue
        shown = value if isinstance(value, str) else msgspec.json.encode(value).decode().strip('"')
        table.add_row(Text(name, "dim"), Text(clean(shown)))
    if letter.task is not None:
        table.add_row(Text("task", "dim"), Text(f"{letter.task.status} now"))
    remote.out.print(table)
    if letter.traceback:
        remote.out.print(Text(clean(letter.traceback)))


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        # An id that is cut off cannot be copied.
        table.add_column(heading, no_wrap=heading != "", min_width=_WIDTHS.get(heading))
    return table


def _json(text: str | None, option: str) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise BadInput(f"{option} is not JSON ({error}): write it like '{{\"seconds\": 1}}'") from error
