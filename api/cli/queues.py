"""``callboard queues``: list, create and show named queues."""

from typing import Any

import click
from rich.table import Table
from rich.text import Text

from api.cli.remote import Remote, client_command
from api.cli.text import clean, seconds
from tasks.records import Percentiles, Queue, QueueStats, RateLimit


@click.group
def queues() -> None:
    """List, create and show queues."""


@queues.command("list")
@client_command
def list_queues(remote: Remote) -> None:
    """List all queues."""
    found = remote.client.queues()
    if remote.as_json:
        remote.show_json({"queues": found})
        return
    table = Table("NAME", "CONCURRENCY", "RATE", "ROOM", "STATE", box=None, pad_edge=False)
    for one in found:
        state = "paused" if one.paused else "open"
        table.add_row(Text(clean(one.name)), str(one.concurrency), _rate(one.rate_limit), _room(one), state)
    remote.out.print(table)


@queues.command
@click.argument("name")
@click.option("--concurrency", type=int, help="How many of its tasks may run at once; 5 in a new queue.")
@click.option("--max-size", type=int, help="How many tasks may wait in it; more are refused.")
@click.option("--rate", type=int, help="How many of its tasks may start in --per-seconds.")
@click.option("--per-seconds", type=float, help="The time that --rate is about; 1 by default.")
@click.option("--burst", type=int, help="How many may start at once; --rate by default.")
@client_command
def create(
    remote: Remote,
    name: str,
    concurrency: int | None,
    max_size: int | None,
    rate: int | None,
    per_seconds: float | None,
    burst: int | None,
) -> None:
    """Create a queue, or change the settings of an existing one that are given."""
    if rate is None and (per_seconds is not None or burst is not None):
        raise click.UsageError("--per-seconds and --burst belong to --rate: give it too")
    limit: dict[str, Any] = {"limit": rate, "per_seconds": per_seconds, "burst": burst}
    given = {key: value for key, value in limit.items() if value is not None}
    made = remote.client.define_queue(
        name, concurrency=concurrency, max_size=max_size, rate_limit=given or None
    )
    if remote.as_json:
        remote.show_json(made)
    remote.say(_settings(made))


@queues.command
@click.argument("name")
@client_command
def show(remote: Remote, name: str) -> None:
    """Show a queue and how much there is in it."""
    found, stats = remote.client.queue(name), remote.client.queue_stats(name)
    if remote.as_json:
        remote.show_json({"queue": found, "stats": stats})
        return
    remote.say(_settings(found))
    for line in _lines(stats):
        remote.say(line)


def _settings(queue: Queue) -> str:
    state = ", paused" if queue.paused else ""
    rate = "" if queue.rate_limit is None else f", {_rate(queue.rate_limit)}"
    room = "" if queue.max_size is None else f", room for {_room(queue)}"
    return f"{queue.name}: concurrency {queue.concurrency}{rate}{room}{state}"


def _lines(stats: QueueStats) -> list[str]:
    waiting = f"{stats.queued:,} queued, {stats.running:,} running, {stats.scheduled:,} scheduled"
    oldest = "" if stats.oldest_age_s is None else f"; the oldest waits for {seconds(stats.oldest_age_s)}"
    return [
        f"{waiting}, {stats.retrying:,} retrying, {stats.blocked:,} blocked{oldest}",
        f"{stats.dead:,} dead letters; lately {stats.completed:,} completed, {stats.failed:,} failed,"
        f" {stats.throughput:.1f} a second",
        f"waited {_spread(stats.wait_ms)}, ran {_spread(stats.run_ms)}",
    ]


def _spread(found: Percentiles) -> str:
    if found.p50 is None or found.p95 is None:
        return "?"
    return f"{found.p50:,.0f} ms (95%: {found.p95:,.0f} ms)"


def _rate(limit: RateLimit | None) -> str:
    return "" if limit is None else f"{limit.limit} in {limit.per_seconds:g} s"


def _room(queue: Queue) -> str:
    return "" if queue.max_size is None else f"{queue.max_size:,}"
