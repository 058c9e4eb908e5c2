"""The process in which a worker runs one task alone: ``python -m pipelines.isolated SOCKET``.

Starting it must be cheap: what takes long to import is imported when a task needs it.
"""

import os
import sys
from functools import cached_property
from typing import Any, TypeVar

from actors.attempt import Attempts
from actors.context import Resources
from actors.definitions import Actor
from actors.interrupts import Interrupts
from actors.isolation.child import Served, end_at_once, obey_the_worker_alone, wire_to_worker
from actors.logs import TaskLogs
from actors.registry import Registry
from pipelines import logs
from pipelines.catalogue import collect
from tasks.ports import Locks
from tasks.settings import Settings

T = TypeVar("T")


class Documents:
    """The pipelines of documents, imported by whoever asks first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def stages(self) -> Registry:
        """Their stages."""
        from pipelines.documents.reembedding import reembedding
        from pipelines.documents.stages import document_processing

        return Registry([*document_processing.actors(), *reembedding.actors()])

    @cached_property
    def resources(self) -> Resources:
        """What they work with; Postgres is connected to on first use."""
        from pipelines.documents.equipment import equip
        from pipelines.documents.stages import Workshop
        from tasks.database import connect

        settings = self._settings
        url = settings.database_url or ""  # the worker has said which one
        return Resources({Workshop: lambda: equip(settings, connect(url, pool=settings.db_pool))})


class AllTypes(Registry):
    """What a worker runs: users' types, the built-in ones, and the stages of documents."""

    def __init__(self, settings: Settings, documents: Documents) -> None:
        super().__init__(collect(settings.actors).runnable())
        self._documents = documents

    def get(self, name: str) -> Actor[..., Any] | None:
        """The actor of a type, or None."""
        return super().get(name) or self._documents.stages.get(name)


class AllResources(Resources):
    """What actors may use."""

    def __init__(self, settings: Settings, documents: Documents) -> None:
        super().__init__({Locks: lambda: _open_locks(settings)})
        self._documents = documents

    def get(self, kind: type[T]) -> T:
        """The process's one ``kind``."""
        return super().get(kind) if kind is Locks else self._documents.resources.get(kind)


def _open_locks(settings: Settings) -> Locks:
    from tasks.locks import PostgresLocks

    return PostgresLocks(settings.database_url or "")


def main() -> None:
    """Run what the worker sends, until it ends this process."""
    obey_the_worker_alone()
    settings = Settings.from_env(os.environ)
    logs.configure(settings, "isolated", keep=TaskLogs())
    worker = Served(wire_to_worker(int(sys.argv[1])), end_at_once)
    documents = Documents(settings)
    attempts = Attempts(
        AllTypes(settings, documents),
        AllResources(settings, documents),
        Interrupts().start(),
        worker.report,
        worker.save,
        tell=worker.tell,
        give=worker.give,
        backoff_factor=settings.backoff_factor,
    )
    worker.serve(attempts)


if __name__ == "__main__":
    main()
