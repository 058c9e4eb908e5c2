"""From submit to start at 50 tasks a second, one by one: ours over HTTP, bare dramatiq and oban from Python.

The clock starts before the request, or before the call that submits, and stops in the actor's first line. For
ours the start in the record (``started_at``, the claim) is shown too. ``PEERS``, ``ROUNDS``: see ``workers``.
"""

import http.client
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.databases import conditions
from tests.benchmarks.ours import FORMS, PROCESSES, THREADS
from tests.benchmarks.outcome import Outcome, table
from tests.benchmarks.peers.catalogue import PEERS, Peer
from tests.benchmarks.peers.environments import NotToBeHad, environment
from tests.benchmarks.peers.stamps import paced, read_all
from tests.benchmarks.peers.trial import trial
from tests.benchmarks.rates import Spread, percentile
from tests.benchmarks.workers import chosen, rabbitmq_version
from tests.support.processes import Installation, installation_of
from tests.support.servers import free_port, postgres_server, rabbitmq_server
from tests.support.waiting import eventually

RATE, SECONDS, WARM_UP = 50, 12, 100
COUNT = RATE * SECONDS
COMPARED = ("dramatiq", "oban limit 10")

#: Waits in seconds, by what ended them.
Waits = dict[str, Sequence[float]]


def run(folder: Path) -> Outcome:
    """Measure them in turns."""
    rounds = int(os.environ.get("ROUNDS", "3"))
    found: dict[str, list[Sequence[float]]] = {}
    with postgres_server(durable=True) as postgres_url, rabbitmq_server() as node:
        servers = conditions(postgres_url) | {"rabbitmq": rabbitmq_version(node.url)}
        measurements = [
            *_ours(postgres_url, node.url),
            *_peers(folder, postgres_url, node.url),
        ]
        for _ in range(rounds):
            for measure in measurements:
                for name, waits in measure().items():
                    found.setdefault(name, []).append(waits)
    return _outcome(found, servers)


def _ours(postgres_url: str, broker_url: str) -> Iterator[Callable[[], Waits]]:
    for name, has_broker in FORMS.items():
        yield partial(ours, name, postgres_url, broker_url if has_broker else None)


def ours(name: str, postgres_url: str, broker_url: str | None) -> Waits:
    """How long our tasks wait, submitted over HTTP."""
    actors = "tests.benchmarks.timed_actors"
    with (
        tempfile.TemporaryDirectory() as folder,
        installation_of(Installation, actors, postgres_url, broker_url, Path(folder)) as board,
    ):
        port = free_port()
        board.start_api(port)
        board.start_clock()
        board.start_workers(PROCESSES, threads=THREADS)
        eventually(lambda: board.value("SELECT count(*) FROM workers WHERE kind = 'worker'") == PROCESSES, 30)
        sent = _post_all(port)
        eventually(lambda: len(read_all(Path(folder))) == len(sent), 30)
        started = board.rows("SELECT id, extract(epoch FROM started_at)::float8 FROM task_state")
        claimed = [at - sent[str(task_id)] for task_id, at in started if str(task_id) in sent]
        return {name: read_all(Path(folder)), f"{name}: to started_at": claimed}


def _post_all(port: int) -> dict[str, float]:
    """Send the tasks one by one; when each was sent, by its id."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    eventually(lambda: _is_up(connection), 30)
    sent_at: dict[str, float] = {}
    for sent in paced(RATE, COUNT, WARM_UP):
        body = json.dumps({"task_type": "timed", "payload": {"sent": sent}})
        connection.request("POST", "/api/v1/tasks", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 202:
            raise RuntimeError(f"POST /tasks answered {answer.status}: {content.decode()}")
        if sent:
            sent_at[json.loads(content)["task_id"]] = sent
    connection.close()
    return sent_at


def _is_up(connection: http.client.HTTPConnection) -> bool:
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        return answer.status == 200
    connection.close()
    return False


def _peers(folder: Path, postgres_url: str, broker_url: str) -> Iterator[Callable[[], Waits]]:
    asked = chosen(os.environ.get("PEERS", ""))
    for peer in (one for one in PEERS if one.name in COMPARED and one in asked):
        try:
            python = environment(peer.environment, peer.oldest_python, folder)
        except NotToBeHad as error:
            print(f"Left out: {error}", flush=True)
            continue
        yield partial(theirs, peer, python, postgres_url, broker_url)


def theirs(peer: Peer, python: Path, postgres_url: str, broker_url: str) -> Waits:
    """How long a peer's tasks wait."""
    with trial(peer, python, postgres_url, broker_url) as made:
        made.ask("enqueue", "0")
        with made.at_work():
            made.ask("produce", str(RATE), str(COUNT), str(WARM_UP))
            made.wait(lambda: len(read_all(made.folder)), COUNT - WARM_UP)
        return {peer.name: read_all(made.folder)}


def _outcome(found: dict[str, list[Sequence[float]]], servers: dict[str, str]) -> Outcome:
    figures: dict[str, Any] = {}
    rows = []
    for name, rounds in found.items():
        shares = {
            share: Spread.of([percentile(waits, share) * 1_000 for waits in rounds]) for share in (0.5, 0.99)
        }
        figures[name] = {
            f"p{share * 100:.0f}_ms": {"median": one.median, "low": one.low, "high": one.high}
            for share, one in shares.items()
        }
        cells = [f"{one.median:.1f} ({one.low:.1f}–{one.high:.1f})" for one in shares.values()]
        rows.append([name, *cells])
    header = [f"submit to start at {RATE}/s", "p50 ms (of rounds)", "p99 ms (of rounds)"]
    return Outcome(table(header, rows), figures, {f"server {key}": value for key, value in servers.items()})
