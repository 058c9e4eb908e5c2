"""``callboard queues``: list, create, show, change, pause, resume and delete named queues."""

from typing import Any

import click
from rich.table import Table
from rich.text import Text

from api.cli.remote import Remote, client_command
from api.cli.text import clean, seconds
from tasks.records import Percentiles, Queue, QueueStats, RateLimit

NONE = "none"


class _OrNone(click.ParamType[int | str]):
    """A whole number, or the word that takes a limit away."""

    name = "number|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """The number, or `NONE`."""
        return NONE if value == NONE else int(click.INT.convert(value, param, ctx))


OR_NONE = _OrNone()


@click.group
def queues() -> None:
    """List, create, show and steer queues."""


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
        table.add_row(
            Text(clean(one.name)), _number(one.concurrency), _rate(one.rate_limit), _room(one), state
        )
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
    limit = _rate_asked(rate, per_seconds, burst)
    _show(
        remote, remote.client.define_queue(name, concurrency=concurrency, max_size=max_size, rate_limit=limit)
    )


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


@queues.command("set")
@click.argument("name")
@click.option("--concurrency", type=OR_NONE, help="How many may run at once.")
@click.option("--max-size", type=OR_NONE, help="How many may wait in it.")
@click.option("--rate", type=OR_NONE, help="How many may start in --per-seconds.")
@click.option("--per-seconds", type=float, help="The time that --rate is about; 1 by default.")
@click.option("--burst", type=int, help="How many may start at once; --rate by default.")
@client_command
def change(
    remote: Remote,
    name: str,
    concurrency: int | str | None,
    max_size: int | str | None,
    rate: int | str | None,
    per_seconds: float | None,
    burst: int | None,
) -> None:
    """Change the settings that are given; `none` takes a limit away."""
    settings: dict[str, Any] = {"concurrency": concurrency, "max_size": max_size}
    limit = _rate_asked(None if rate == NONE else rate, per_seconds, burst)
    settings["rate_limit"] = NONE if rate == NONE else limit
    given = {field: _unless_none(value) for field, value in settings.items() if value is not None}
    if not given:
        raise click.UsageError("say what to change: --concurrency, --max-size or --rate")
    _show(remote, remote.client.change_queue(name, **given))


@queues.command
@click.argument("name")
@client_command
def pause(remote: Remote, name: str) -> None:
    """Let no more tasks of a queue start; those that run finish."""
    _show(remote, remote.client.pause_queue(name))


@queues.command
@click.argument("name")
@client_command
def resume(remote: Remote, name: str) -> None:
    """Let the tasks of a paused queue start again."""
    _show(remote, remote.client.resume_queue(name))


@queues.command
@click.argument("name")
@client_command
def delete(remote: Remote, name: str) -> None:
    """Delete a queue in which nothing is unfinished and nothing is dead."""
    remote.client.delete_queue(name)
    if remote.as_json:
        remote.show_json({"deleted": name})
    remote.say(f"{name} is deleted")


def _show(remote: Remote, queue: Queue) -> None:
    if remote.as_json:
        remote.show_json(queue)
    remote.say(_settings(queue))


def _rate_asked(
    rate: int | str | None, per_seconds: float | None, burst: int | None
) -> dict[str, Any] | None:
    """The body of a rate limit, if one is given.

    Raises:
      UsageError: there is no rate that the others belong to.
    """
    if rate is None and (per_seconds is not None or burst is not None):
        raise click.UsageError("--per-seconds and --burst belong to --rate: give it too")
    limit = {"limit": rate, "per_seconds": per_seconds, "burst": burst}
    return {key: value for key, value in limit.items() if value is not None} or None


def _unless_none(value: Any) -> Any:
    return None if value == NONE else value


def _settings(queue: Queue) -> str:
    state = ", paused" if queue.paused else ""
    rate = "" if queue.rate_limit is None else f", {_rate(queue.rate_limit)}"
    room = "" if queue.max_size is None else f", room for {_room(queue)}"
    concurrency = "no limit" if queue.concurrency is None else f"concurrency {queue.concurrency}"
    return f"{queue.name}: {concurrency}{rate}{room}{state}"


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


def _number(limit: int | None) -> str:
    return "" if limit is None else f"{limit:,}"


def _room(queue: Queue) -> str:
    return "" if queue.max_size is None else f"{queue.max_size:,}"
