"""A composition root: opens a board for a Python program that is neither a worker nor the API."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import msgspec

from actors.board import Board
from actors.builtin import ACTORS
from actors.registry import load_module, submittables_of
from actors.submission import Defaults, Submission, Submittable
from actors.web.connecting import Gate
from tasks.bell import Bell
from tasks.database import connect
from tasks.embedded import embedded_postgres
from tasks.ledger import Ledger
from tasks.locks import PostgresLocks
from tasks.migrations import migrate
from tasks.queries import Queries
from tasks.settings import Settings


class OpenBoard(Board):
    """A board with connections of its own."""

    def __init__(self, settings: Settings, url: str, resources: ExitStack) -> None:
        database = connect(url, pool=settings.db_pool)
        resources.callback(database.close_all)
        migrate(database)
        ledger = Ledger(url).start()
        resources.callback(ledger.close)
        bell = Bell(url)
        resources.callback(bell.close)
        locks = PostgresLocks(url)
        resources.callback(locks.close)
        queries = Queries(database)
        defaults = Defaults(settings.max_retries, settings.task_timeout)
        known = Known(ACTORS, settings.actors)
        gate = Gate(allow_private=settings.callback_allow_private)
        submission = Submission(known, ledger, queries, defaults, callbacks=gate)
        super().__init__(submission, ledger, queries, bell, locks)
        self._resources = resources

    def close(self) -> None:
        """Commit what waits, and give the connections back."""
        self._resources.close()


class Known:
    """The types that can be asked for: those given, and those of modules."""

    def __init__(self, given: Iterable[Submittable], modules: Iterable[str] = ()) -> None:
        found = [*given, *(one for name in modules for one in submittables_of(load_module(name)))]
        self._by_name: dict[str, Any] = {one.name: one for one in found}

    def get(self, name: str) -> Submittable | None:
        """What is asked for by a name, or None."""
        return self._by_name.get(name)


def open_board(database_url: str | None = None) -> OpenBoard:
    """A board by the environment's settings; without a database there the embedded Postgres is held with it.

    It publishes nothing: with RabbitMQ, what it submits is dispatched by the clock, which its notice wakes.

    Raises:
      CallboardError: a setting is wrong, Postgres cannot be reached, or a module cannot be loaded.
    """
    settings = Settings.from_env(os.environ)
    if database_url is not None:
        settings = msgspec.structs.replace(settings, database_url=database_url)
    with ExitStack() as resources:
        url = settings.database_url or resources.enter_context(embedded_postgres(settings.data_dir))
        board = OpenBoard(settings, url, resources)
        board._resources = resources.pop_all()
        return board
