"""The soak: random faults under a steady load of tasks and pipelines, for as long as one likes.

    python -m tests.faults.soak --minutes 30 --seed 1

Two halves of one installation share all servers and all their faults. The processes of one half are also
killed and frozen; the other half shows whether the memory of processes that live for long stays flat. At the
end everything on record is checked, as after every scenario.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.faults.board import Api, Board, board_on
from tests.faults.checker import Report, check
from tests.faults.load import Load
from tests.faults.memory import Growth, Memory
from tests.faults.postgres import private_postgres
from tests.faults.rabbit import private_rabbit
from tests.faults.troubles import Troubles
from tests.support.processes import Running
from tests.support.proxy import Proxy, proxy_to
from tests.support.servers import free_port

PAUSE_SECONDS = (0.5, 5.0)
CALM_SECONDS = 300.0
TOLERANCE = 0.15
KINDS = {
    "api.process": "api",
    "pipelines.worker": "worker",
    "pipelines.clock": "clock",
    "pipelines.isolated": "isolated",
    "api.cli": "supervisor",
}
#: A task may fail only if it was told to, or if it was at work in three processes that died.
UNEXPECTED = """
SELECT count(*) FROM task_state s WHERE status = 'failed' AND queue IS NOT NULL AND NOT (
    error ->> 'code' = 'hopeless' OR error ->> 'code' = 'worker_lost'
    AND 3 <= (SELECT count(*) FROM attempts a WHERE a.task_id = s.id AND a.outcome = 'lost'))"""


class Soak:
    """One installation under load, and its troubles."""

    def __init__(self, board: Board, chance: random.Random, environ: dict[str, str]) -> None:
        self._chance = chance
        self.board = board
        self._port = free_port()
        self.hunted = board.start_process("hunted", "api.cli", "up", PORT=str(self._port), **environ)
        self.spared_api = Api(board, environ)
        self.spared = [
            self.spared_api.process,
            board.start_clock(**environ),
            board.start_worker(**environ),
        ]
        self.spared_api.wait_until_ready()
        board.wait_for_workers(3)

    def load(self) -> list[Load]:
        """Clients of both APIs."""
        urls = (f"http://127.0.0.1:{self._port}", self.spared_api.url)
        return [Load(url, self._order, clients=2, pause=0.08) for url in urls]

    def victims(self) -> list[tuple[str, psutil.Process]]:
        """The hunted processes that may be killed; their supervisor is to live."""
        return [(kind, one) for kind, one in family(self.hunted) if kind != "supervisor"]

    def processes(self) -> list[tuple[str, psutil.Process]]:
        """All of our processes, by kind."""
        hunted = [(f"hunted {kind}", one) for kind, one in family(self.hunted)]
        return hunted + [(f"spared {kind}", one) for root in self.spared for kind, one in family(root)]

    def _order(self, number: int) -> dict[str, Any]:
        chance = random.Random(number)  # the clients are threads: no order depends on another one
        seconds = chance.expovariate(20.0)
        if number % 12 == 0:
            return {"task_type": "squares", "payload": chance.randint(0, 6)}
        order: dict[str, Any] = {"task_type": "effect", "payload": {"seconds": min(seconds, 1.0)}}
        if number % 10 == 1:
            order["delay"] = chance.uniform(0.0, 20.0)
        if number % 15 == 2:
            order["payload"]["failures"] = 1
        if number % 100 == 3:
            order["payload"]["hopeless"] = True
        return order


def family(root: Running) -> list[tuple[str, psutil.Process]]:
    """A process and all that descend from it, with their kinds; gunicorn's arbiter is not its worker."""
    found = []
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(root.pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                kind = kind_of(one)
                above = kind_of(one.parent())
                found += [(f"{kind} worker" if kind == above else kind, one)] if kind else []
    return found


def kind_of(process: psutil.Process | None) -> str | None:
    """What a process of ours is, by the module that it runs."""
    words = process.cmdline() if process is not None else []
    return next((kind for module, kind in KINDS.items() if module in words), None)


@contextmanager
def installed(chance: random.Random) -> Iterator[tuple[Soak, Troubles]]:
    """Servers, proxies and both halves of the installation."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callboard-soak-")))
        rabbit = stack.enter_context(private_rabbit())
        postgres = stack.enter_context(private_postgres())
        board = stack.enter_context(board_on(postgres.url, rabbit.url, folder))
        proxies: dict[str, Proxy] = {
            "DATABASE_URL": stack.enter_context(proxy_to(board.database_url)),
            "BROKER_URL": stack.enter_context(proxy_to(rabbit.url)),
        }
        soak = Soak(board, chance, {name: proxy.url for name, proxy in proxies.items()})
        try:
            yield soak, Troubles(chance, rabbit, postgres, proxies, soak.victims)
        finally:
            rabbit.heal()
            postgres.heal()


def torment(soak: Soak, troubles: Troubles, chance: random.Random, seconds: float) -> Counter[str]:
    """Make trouble for so long, now and then two troubles at once; how often each."""
    made: Counter[str] = Counter()
    began = told = time.monotonic()
    while (now := time.monotonic()) < began + seconds:
        with ExitStack() as ongoing:
            for _ in range(1 if chance.random() < 0.7 else 2):
                name, trouble = troubles.next()
                made[name] += 1
                ongoing.enter_context(trouble)
        time.sleep(chance.uniform(*PAUSE_SECONDS))
        if now - told > 60:
            told = now
            print(
                f"{(now - began) / 60:5.1f} min: {made.total()} faults, {soak.board.unfinished()} unfinished"
            )
    return made


def run(minutes: float, seed: int) -> bool:
    """Soak, and print what it came to; whether every promise was kept."""
    print(f"soaking for {minutes:g} minutes, SEED={seed}", flush=True)
    chance = random.Random(seed)
    with installed(chance) as (soak, troubles):
        memory = Memory(soak.processes)
        loads = soak.load()
        made = torment(soak, troubles, chance, minutes * 60)
        accepted = [task_id for load in loads for task_id in load.stop()]
        growth = memory.stop(warm_up=min(60.0, minutes * 60 / 8))
        try:
            soak.board.all_done(CALM_SECONDS)
            report = check(soak.board, accepted)
            unexpected = soak.board.ask(UNEXPECTED)
        except AssertionError:
            soak.board.show_logs()
            raise
        tell(made, loads, report, growth)
        leaks = [one.kind for one in growth if one.kind.startswith("spared") and not one.is_flat(TOLERANCE)]
        print(f"unexpected failures: {unexpected}; grown: {', '.join(leaks) or 'none'}")
        return not unexpected and not leaks


def tell(made: Counter[str], loads: list[Load], report: Report, growth: list[Growth]) -> None:
    """Print the figures."""
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(made.items())))
    for name, load in zip(("hunted", "spared"), loads, strict=True):
        refused = dict(load.refused)
        print(f"{name} api: accepted {len(load.accepted)}, refused {refused}, slowest {load.slowest:.2f} s")
    print(report)
    print(f"{'memory (MB)':<18} {'first':>8} {'last':>8} {'most':>8}")
    print("\n".join(map(str, growth)), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="random faults under load")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    return 0 if run(given.minutes, seed) else 1


if __name__ == "__main__":
    sys.exit(main())
