"""The worker process: ``python -m pipelines.worker``."""

import logging
import os
import sys
import threading

from actors.context import Resources
from actors.errors import DefinitionError
from actors.isolation.children import Program
from actors.logs import TaskLogs
from actors.supervisor import UNUSABLE, stop_on_signals, stop_with_parent
from actors.worker import Worker, WorkerOptions
from pipelines import logs
from pipelines.bootstrap import Kit, app_version, open_kit
from pipelines.documents.conversion import end_idle_children
from pipelines.documents.stages import Workshop
from pipelines.garbage import settle_down
from tasks.errors import CallboardError, SettingsError
from tasks.settings import PREFIX, Settings

log = logging.getLogger("callboard.worker")

DRAIN_SECONDS = 60.0
QUEUES_VARIABLE = "CALLBOARD_WORKER_QUEUES"
ISOLATED = "pipelines.isolated"


def main() -> int:
    """Work until SIGTERM or SIGINT, then drain."""
    stop = threading.Event()
    stop_on_signals(stop)
    stop_with_parent(stop)
    try:
        settings = Settings.from_env(os.environ)
        logs.configure(settings, "worker", keep=TaskLogs())
        queues = tuple(filter(None, os.environ.get(QUEUES_VARIABLE, "").split(",")))
        kit = open_kit(settings)
    except CallboardError as error:
        logging.error("%s", error)
        return UNUSABLE if isinstance(error, SettingsError | DefinitionError) else 1
    try:
        kit.open_board()
        worker = make_worker(kit, queues).start()
        settle_down()
        log.info("working on %d threads", settings.threads)
        while not stop.wait(0.2) and not worker.lease_lost.is_set():
            pass
        worker.drain()
        end_idle_children()
        return 1 if worker.lease_lost.is_set() else 0
    finally:
        kit.close()


def make_worker(kit: Kit, queues: tuple[str, ...] = ()) -> Worker:
    """A worker on a kit; with RabbitMQ it publishes what its tasks make ready."""
    settings = kit.settings
    kit.open_publisher()
    options = WorkerOptions(
        database_url=kit.database_url,
        isolated=Program((sys.executable, "-m", ISOLATED), {f"{PREFIX}DATABASE_URL": kit.database_url}),
        broker_urls=settings.broker_urls,
        queue_type=settings.queue_type,
        threads=settings.threads,
        queues=queues,
        drain_seconds=settings.drain_seconds or DRAIN_SECONDS,
        backoff_factor=settings.backoff_factor,
        version=app_version(),
        plans=kit.catalogue.versions,
    )
    resources = Resources({Workshop: lambda: kit.workshop})
    runnable, settler = kit.catalogue.runnable(), kit.open_settler()
    return Worker(options, kit.ledger, kit.queries, runnable, resources, settler, kit.pulse)


if __name__ == "__main__":
    sys.exit(main())
