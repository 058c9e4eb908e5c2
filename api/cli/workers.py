"""``callboard workers``: who is at work, in a table like that of ``top``."""

from collections import Counter
from collections.abc import Sequence

import click
from rich.table import Table
from rich.text import Text

from api.cli.remote import Remote, client_command
from api.cli.text import clean, moment, seconds
from tasks.figures import ProcessStats

_MEGABYTE = 1_000_000
_COLUMNS = ("KIND", "HOST", "PID", "QUEUES", "BUSY", "RUNNING", "MEMORY", "CPU", "UP SINCE", "HEARTBEAT")


@click.command
@client_command
def workers(remote: Remote) -> None:
    """Show all living processes: workers with what they run, APIs and clocks."""
    found = remote.client.workers()
    if remote.as_json:
        remote.show_json({"workers": found})
        return
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for one in found:
        table.add_row(*(Text(clean(text)) for text in _row(one)))
    remote.out.print(table)
    busy, threads = sum(one.busy for one in found), sum(one.threads for one in found)
    kinds = Counter(one.kind for one in found)
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    remote.say(f"{counts or 'no processes'}; {busy} of {threads} threads are busy")


def _row(one: ProcessStats) -> Sequence[str]:
    return (
        one.kind,
        one.host,
        str(one.pid),
        ", ".join(one.queues),
        f"{one.busy}/{one.threads}" if one.threads else "",
        _running(one),
        f"{one.memory_bytes / _MEGABYTE:,.0f} MB",
        f"{one.cpu_seconds:,.0f} s",
        moment(one.started_at),
        f"{seconds(one.heartbeat_age_s)} ago",
    )


def _running(one: ProcessStats) -> str:
    types = Counter(task.task_type for task in one.running)
    return ", ".join(f"{name} x{number}" if number > 1 else name for name, number in types.most_common())
