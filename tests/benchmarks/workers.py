"""How many no-op tasks two worker processes complete and record in a second: ours, and those of other queues.

Everybody's tasks are submitted before, by the queue's own way for many; then the workers start. The first
fifth of the completions is the warm-up, and the clock runs from its end to the last completion, by the times
in what each queue records itself. Bare dramatiq records nothing, so its actors note the time in memory. The
contestants take turns, so that whatever slows the machine slows all of them.

``PEERS=none`` measures ours alone, ``PEERS="oban dramatiq"`` some of the others; ``ROUNDS`` is 3, and
``TASKS``, how many tasks ours work on, 50,000.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import ours
from tests.benchmarks.databases import conditions
from tests.benchmarks.outcome import Outcome, table
from tests.benchmarks.peers.catalogue import PEERS, Peer
from tests.benchmarks.peers.environments import (
    NotToBeHad,
    environment,
    pinned,
    python_version,
    versions,
)
from tests.benchmarks.peers.trial import PeerFailed, completions
from tests.benchmarks.rates import Spread, rate
from tests.support.processes import channel_to
from tests.support.servers import postgres_server, rabbitmq_server

BARE = "dramatiq"  # the others are compared with it


@dataclass(frozen=True)
class Contestant:
    """Whoever is measured, and how."""

    name: str
    tasks: int
    records: str
    configuration: str
    versions: Mapping[str, str]
    completions: Callable[[], Sequence[float]]


def run(folder: Path) -> Outcome:
    """Measure them in turns; environments of the peers are kept below ``folder``."""
    rounds = int(os.environ.get("ROUNDS", "3"))
    with postgres_server(durable=True) as postgres_url, rabbitmq_server() as node:
        servers = conditions(postgres_url) | {"rabbitmq": rabbitmq_version(node.url)}
        contestants = [*_ours(postgres_url, node.url), *_peers(folder, postgres_url, node.url)]
        rates = measure(contestants, rounds)
    return _outcome(contestants, rates, servers)


def measure(contestants: Sequence[Contestant], rounds: int) -> dict[str, list[float]]:
    """The rates of each one: a round lets everyone work once, and each round begins with another one."""
    rates: dict[str, list[float]] = {one.name: [] for one in contestants}
    for number in range(rounds):
        start = number * len(contestants) // rounds
        for one in [*contestants[start:], *contestants[:start]]:
            try:
                rates[one.name].append(rate(one.completions()))
            except PeerFailed as error:
                print(error, flush=True)
                continue
            print(f"round {number + 1}: {one.name} {rates[one.name][-1]:,.0f} tasks/s", flush=True)
    return {name: found for name, found in rates.items() if found}


def chosen(words: str) -> list[Peer]:
    """The peers that a setting names by their environments or names: all, none or some."""
    if words == "none":
        return []
    asked = words.split()
    unknown = set(asked) - {peer.environment for peer in PEERS}
    if unknown:
        known = ", ".join(sorted({peer.environment for peer in PEERS}))
        raise SystemExit(f"PEERS: there is no {', '.join(sorted(unknown))}: use none, or some of {known}")
    return [peer for peer in PEERS if not asked or peer.environment in asked]


def rabbitmq_version(url: str) -> str:
    """The version that a RabbitMQ says it has."""
    with channel_to(url) as channel:
        return str(channel.connection._impl.server_properties["version"])


def _ours(postgres_url: str, broker_url: str) -> Iterator[Contestant]:
    tasks = int(os.environ.get("TASKS", ours.TASKS))
    for name, has_broker in ours.FORMS.items():
        yield Contestant(
            name,
            tasks,
            "the task, its moves and attempts",
            ours.CONFIGURATION,
            {},
            partial(ours.completions, postgres_url, broker_url if has_broker else None, tasks),
        )


def _peers(folder: Path, postgres_url: str, broker_url: str) -> Iterator[Contestant]:
    for peer in chosen(os.environ.get("PEERS", "")):
        try:
            python = environment(peer.environment, peer.oldest_python, folder)
        except NotToBeHad as error:
            print(f"Left out: {error}", flush=True)
            continue
        yield Contestant(
            peer.name,
            peer.tasks,
            peer.records,
            peer.configuration,
            {"python": python_version(python), **versions(pinned(peer.environment))},
            partial(completions, peer, python, postgres_url, broker_url),
        )


def _outcome(
    contestants: Sequence[Contestant], rates: Mapping[str, list[float]], servers: dict[str, str]
) -> Outcome:
    measured = [one for one in contestants if one.name in rates]
    figures = [_figures(one, rates) for one in measured]
    ordered = sorted(figures, key=lambda one: one["median"], reverse=True)
    header = ["2 worker processes, no-op tasks", "tasks/s", "of rounds", "× bare dramatiq", "records"]
    rows = [
        [
            one["name"],
            f"{one['median']:,.0f}",
            f"{one['low']:,.0f}–{one['high']:,.0f}",
            f"{one['ratio']:.2f}" if one["ratio"] else "",
            one["records"],
        ]
        for one in ordered
    ]
    notes = [f"- {one['name']}: {one['configuration']}{_listed(one['versions'])}" for one in ordered]
    report = "\n".join([table(header, rows), "", *notes])
    return Outcome(
        report, {"contestants": ordered}, {f"server {key}": value for key, value in servers.items()}
    )


def _figures(one: Contestant, rates: Mapping[str, list[float]]) -> dict[str, Any]:
    spread = Spread.of(rates[one.name])
    base = Spread.of(rates[BARE]).median if BARE in rates else None
    return {
        "name": one.name,
        "tasks": one.tasks,
        "rounds": rates[one.name],
        "median": spread.median,
        "low": spread.low,
        "high": spread.high,
        "ratio": spread.median / base if base else None,
        "records": one.records,
        "configuration": one.configuration,
        "versions": dict(one.versions),
    }


def _listed(found: Mapping[str, str]) -> str:
    return "".join(f"; {name} {version}" for name, version in found.items())
