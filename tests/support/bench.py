"""A record in which tasks fail, and a runner of replays: what the tests of replays begin with."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import psycopg
from playhouse.pool import PooledPostgresqlDatabase

from actors.replays import Replayer
from tasks.errors import InvalidField
from tasks.ledger import Ledger
from tasks.ledger.dead_letters import Edit
from tasks.ledger.replays import OpenReplay
from tasks.letter_records import Candidate, LetterFilter, ReplayJob
from tasks.letters import LetterQueries
from tasks.queries import Queries
from tasks.replays import ReplayQueries
from tasks.values import Claimed, Complete, NewTask, TaskError

TABLES = "tasks, task_state, attempts, events, dispatches, queues, dead_letters, replays, replay_items"


class Numbers:
    """Payloads that are fine as long as they have a number."""

    def patched(self, letter: Candidate, patch: Mapping[str, Any]) -> Edit:
        payload = {**letter.payload, **patch}
        if not isinstance(payload.get("number"), int):
            raise InvalidField.of("payload.number", "is no number")
        return Edit(payload)


class Bench:
    """A ledger on an empty record with a runner of replays, and what one needs to make tasks fail."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.ledger = Ledger(url).start()
        self.queries = Queries(database)
        self.letters = LetterQueries(database)
        self.replays = ReplayQueries(database)
        self.sql = psycopg.connect(url, autocommit=True)
        self.sql.execute(f"TRUNCATE {TABLES}")
        self.replayer = Replayer(self.ledger, self.replays, Numbers())

    def close(self) -> None:
        self.ledger.close()
        self.sql.close()

    def fetch(self, limit: int = 1_000) -> list[Claimed]:
        found: list[Claimed] = []
        while part := self.ledger.fetch(["default"], ["work"], limit).result(10):
            found += part
        return found

    def fail(self, claim: Claimed, message: str = "oops") -> None:
        error = TaskError("actor_error", f"RuntimeError: {message}", None, "RuntimeError")
        assert self.ledger.fail(claim, error, retry_in=None).result(10)

    def complete(self, claim: Claimed) -> None:
        assert self.ledger.complete(claim, Complete(claim.id, claim.token, "done")).result(10)

    def failed(self, count: int, **fields: Any) -> list[UUID]:
        """So many tasks that have failed for good, in their order."""
        tasks = [
            NewTask(task_type="work", queue_name="default", payload={"number": number}, **fields)
            for number in range(count)
        ]
        self.ledger.submit(tasks).result(10)
        claims = {claim.id: claim for claim in self.fetch()}
        for task in tasks:
            self.fail(claims[task.id])
        return [task.id for task in tasks]

    def open(self, **how: Any) -> UUID:
        found = self.letters.candidates(LetterFilter(), after=None, limit=1_000, payloads=False)
        job = OpenReplay(
            letters=[(one.dead_letter, one.task_id) for one in found],
            filter={},
            most=1_000,
            created_by="user:ann",
            **how,
        )
        return self.ledger.open_replay(job).result(10)

    def job(self, replay_id: UUID) -> ReplayJob:
        job = self.replays.replay(replay_id, owner=None)
        assert job is not None
        return job

    def step(self) -> None:
        self.replayer.step()

    def reasons(self, replay_id: UUID) -> list[str | None]:
        items, _ = self.replays.items(replay_id, None, limit=1_000, offset=0)
        return [item.reason for item in items]
