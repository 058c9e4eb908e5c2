"""Reading webhooks and deliveries. Nothing here writes."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from tasks.callbacks import PENDING, Delivery, DeliveryAttempt, Webhook, WebhookFilter, shown_url
from tasks.database import Database, session

_SHOWN = """
SELECT id, url, events, owner, created_by, created_at, task_type, queue_name, user_id, kb_id, project_id, tag,
    stages
FROM webhooks WHERE (%(owner)s::text IS NULL OR owner = %(owner)s)"""
_PAGE = _SHOWN + " ORDER BY id LIMIT %(limit)s OFFSET %(offset)s"
_TOTAL = "SELECT count(*) FROM webhooks WHERE (%(owner)s::text IS NULL OR owner = %(owner)s)"
_ONE = _SHOWN + " AND id = %(id)s"

_THEIRS = "FROM deliveries WHERE task_id = %(task_id)s AND (%(owner)s::text IS NULL OR owner = %(owner)s)"
_DELIVERY = f"""
SELECT id, task_id, event, webhook_id, url, status, attempts, due_at, created_at {_THEIRS}"""
_DELIVERIES = _DELIVERY + " ORDER BY event_id, created_at, id LIMIT %(limit)s OFFSET %(offset)s"
_DELIVERIES_TOTAL = f"SELECT count(*) {_THEIRS}"
_ONE_DELIVERY = _DELIVERY + " AND id = %(id)s"


class CallbackQueries:
    """All questions about callbacks. ``owner`` is whose webhooks and deliveries are asked for; None: all."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def webhooks(self, *, owner: str | None, limit: int, offset: int) -> tuple[list[Webhook], int]:
        """A part of the webhooks, oldest first, and how many there are in all."""
        asked = {"owner": owner, "limit": limit, "offset": offset}
        with session(self._database):
            rows = self._rows(_PAGE, asked)
            return [_webhook(row) for row in rows], self._rows(_TOTAL, asked)[0][0]

    def webhook(self, webhook_id: UUID, *, owner: str | None = None) -> Webhook | None:
        """A webhook, or None if there is none or it is not ``owner``'s."""
        with session(self._database):
            rows = self._rows(_ONE, {"owner": owner, "id": webhook_id})
        return _webhook(rows[0]) if rows else None

    def deliveries(
        self, task_id: UUID, *, owner: str | None, limit: int, offset: int
    ) -> tuple[list[Delivery], int]:
        """A part of what is delivered about a task, oldest first, and how many there are in all."""
        asked = {"task_id": task_id, "owner": owner, "limit": limit, "offset": offset}
        with session(self._database):
            rows = self._rows(_DELIVERIES, asked)
            return [_delivery(row) for row in rows], self._rows(_DELIVERIES_TOTAL, asked)[0][0]

    def delivery(self, task_id: UUID, delivery_id: UUID, *, owner: str | None = None) -> Delivery | None:
        """A delivery about a task, or None if there is none or it is not ``owner``'s."""
        with session(self._database):
            rows = self._rows(_ONE_DELIVERY, {"task_id": task_id, "owner": owner, "id": delivery_id})
        return _delivery(rows[0]) if rows else None

    def _rows(self, sql: str, asked: dict[str, Any]) -> Sequence[Any]:
        found: Sequence[Any] = self._database.execute_sql(sql, asked).fetchall()
        return found


def _webhook(row: Any) -> Webhook:
    webhook_id, url, events, owner, created_by, created_at, *wanted = row
    names = ("task_type", "queue_name", "user_id", "kb_id", "project_id", "tag", "stages")
    return Webhook(
        webhook_id=webhook_id,
        url=shown_url(url),
        events=events,
        filter=WebhookFilter(**dict(zip(names, wanted, strict=True))),
        user_id=owner,
        created_by=created_by,
        created_at=created_at,
    )


def _delivery(row: Any) -> Delivery:
    delivery_id, task_id, event, webhook_id, url, status, attempts, due_at, created_at = row
    return Delivery(
        delivery_id=delivery_id,
        task_id=task_id,
        event=event,
        webhook_id=webhook_id,
        url=shown_url(url),
        status=status,
        attempts=msgspec.convert(attempts, list[DeliveryAttempt]),
        next_attempt_at=due_at if status == PENDING else None,
        created_at=created_at,
    )
