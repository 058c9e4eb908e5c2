"""A record of callbacks for tests: a ledger, what is asked of it, and a connection to look behind it."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from playhouse.pool import PooledPostgresqlDatabase

from tasks.callback_queries import CallbackQueries
from tasks.callbacks import Attempted, Delivery, DeliveryAttempt, DueDelivery, NewWebhook, WebhookFilter
from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.ledger.callbacks import TakeDeliveries, Taken
from tasks.ledger.endings import Complete
from tasks.queries import Queries
from tasks.values import Claimed, NewTask, TaskError

URL = "https://hook.example/callbacks?token=secret"
OOPS = TaskError("actor_error", "RuntimeError: oops", "Traceback …")


SECRET = "s" * 20
#: Signs the callbacks of whole Callboards.
CALLBACK_SECRET = "the-secret-of-the-acceptance-tests"


class Record:
    """A ledger on an empty record, and a connection for looking behind it."""

    def __init__(self, database: PooledPostgresqlDatabase, url: str) -> None:
        self.ledger = Ledger(url).start()
        self.queries = Queries(database)
        self.callbacks = CallbackQueries(database)
        self.sql = psycopg.connect(url, autocommit=True)

    def close(self) -> None:
        self.ledger.close()
        self.sql.close()

    def submit(self, **fields: Any) -> UUID:
        task = NewTask(**{"task_type": "work", "queue_name": "default", **fields})
        self.ledger.submit([task]).result(10)
        return task.id

    def claim(self) -> Claimed:
        (claim,) = self.ledger.fetch(["default"], ["work"], 1).result(10)
        return claim

    def completed(self, result: Any = None, **fields: Any) -> UUID:
        task_id = self.submit(**fields)
        claim = self.claim()
        assert self.ledger.complete(claim, Complete(claim.id, claim.token, result)).result(10)
        return task_id

    def failed(self, **fields: Any) -> UUID:
        task_id = self.submit(**fields)
        assert self.ledger.fail(self.claim(), OOPS, retry_in=None).result(10)
        return task_id

    def webhook(self, *events: str, owner: str | None = None, url: str = URL, **filters: Any) -> UUID:
        webhook = NewWebhook(
            id=new_id(),
            owner=owner,
            url=url,
            secret=SECRET,
            events=events or ("cancelled", "completed", "failed"),
            filter=WebhookFilter(**filters),
            created_by="user:ann",
        )
        assert self.ledger.add_webhook(webhook).result(10)
        return webhook.id

    def deliveries(self, task_id: UUID, owner: str | None = None) -> list[Delivery]:
        return self.callbacks.deliveries(task_id, owner=owner, limit=100, offset=0)[0]

    def take(self, limit: int = 10, per_host: int = 10, lease: float = 20.0, **how: Any) -> list[DueDelivery]:
        return self.take_part(limit, per_host, lease, **how).due

    def take_part(self, limit: int, per_host: int, lease: float, **how: Any) -> Taken:
        return self.ledger.take_deliveries(TakeDeliveries(limit, per_host, lease, **how)).result(10)

    def attempted(self, due: DueDelivery, status: str, due_in: float = 0.0) -> bool:
        attempt = DeliveryAttempt(at=datetime.now(UTC), status_code=200, error=None, duration_ms=1.5)
        what = Attempted(id=due.id, claim=due.claim, status=status, due_in=due_in, attempt=attempt)
        return self.ledger.record_attempt(what).result(10)
