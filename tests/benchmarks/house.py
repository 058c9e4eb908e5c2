"""A kit and real worker processes on a database of their own, for benchmarks."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from pipelines.bootstrap import Kit, open_kit
from tasks.records import Task
from tasks.settings import Settings
from tasks.states import FINAL
from tests.benchmarks.databases import fresh_database

REPOSITORY = Path(__file__).parents[2]
ACTORS = "tests.benchmarks.talkers"


@contextmanager
def house(folder: Path) -> Iterator[tuple[Kit, Callable[[int], None]]]:
    """A kit, and what starts a worker with so many threads; both end with the block."""
    with fresh_database() as database:
        name = database.database
        settings = Settings(database_url=name, data_dir=folder, actors=(ACTORS,))
        kit = open_kit(settings)
        workers: list[subprocess.Popen[bytes]] = []

        def start_worker(threads: int) -> None:
            environ = {
                "CALLBOARD_DATABASE_URL": name,
                "CALLBOARD_DATA_DIR": str(folder),
                "CALLBOARD_ACTORS": ACTORS,
                "CALLBOARD_THREADS": str(threads),
                "PYTHONPATH": str(REPOSITORY),
            }
            command = [sys.executable, "-m", "pipelines.worker"]
            workers.append(subprocess.Popen(command, env=os.environ | environ))

        try:
            yield kit, start_worker
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait(30)
            kit.close()


def ended(kit: Kit, ids: Sequence[UUID], seconds: float) -> list[Task]:
    """These tasks, once all have ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        tasks = kit.queries.tasks_by_id(ids)
        if all(task.status in FINAL for task in tasks):
            return tasks
        time.sleep(0.2)
    raise TimeoutError(f"not all of {len(ids)} tasks ended within {seconds:g} s")
