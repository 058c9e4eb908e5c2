"""What processes have taken of the processors so far."""

from collections.abc import Iterator

import psutil

from tests.support.processes import Installation

_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"


def used(board: Installation, processes: dict[str, int]) -> dict[str, float]:
    """Seconds of a processor so far: of each process with its children, of our connections to Postgres.

    And of RabbitMQ: of all of its nodes on this machine.
    """
    seconds = {kind: sum(map(_seconds, _family(pid))) for kind, pid in processes.items()}
    backends = [psutil.Process(pid) for (pid,) in board.rows(_BACKENDS)]
    nodes = [one for one in psutil.process_iter(["name"]) if one.info["name"] == "beam.smp"]
    return seconds | {"postgres": sum(map(_seconds, backends)), "rabbitmq": sum(map(_seconds, nodes))}


def _family(pid: int) -> Iterator[psutil.Process]:
    process = psutil.Process(pid)
    yield process
    yield from process.children(recursive=True)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
