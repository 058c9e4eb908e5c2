"""The client's methods for webhooks and callbacks."""

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID

from api.client.answers import read
from api.client.requests import Requests
from api.client.verbs import TaskId, task_path
from api.schemas.callbacks import NewlyMadeWebhook
from tasks.callbacks import Delivery, Webhook

T = TypeVar("T")


class Callbacks(Requests):
    """Who is told when tasks end."""

    def webhooks(self) -> list[Webhook]:
        """Return all webhooks, the oldest first, without their secrets."""
        return list(self._all("/webhooks", "webhooks", Webhook))

    def webhook(self, webhook_id: UUID | str) -> Webhook:
        """Return one webhook, without its secret."""
        return read(self._get(_webhook_path(webhook_id)), Webhook)

    def create_webhook(
        self,
        url: str,
        *,
        events: Sequence[str] | None = None,
        secret: str | None = None,
        **filters: Any,
    ) -> NewlyMadeWebhook:
        """Have ``url`` told when tasks end; the answer has the secret, which is shown this once.

        ``events`` are of ``completed``, ``failed`` and ``cancelled``, by default all; ``filters`` are
        ``task_type``, ``queue_name``, ``user_id``, ``kb_id``, ``project_id``, ``tag`` and ``stages``.
        """
        wanted = {name: value for name, value in filters.items() if value is not None}
        body: dict[str, Any] = {"url": url, "events": events, "filter": wanted, "secret": secret}
        given = {name: value for name, value in body.items() if value is not None}
        return read(self._post("/webhooks", given), NewlyMadeWebhook)

    def delete_webhook(self, webhook_id: UUID | str) -> None:
        """Tell a webhook no more."""
        self._send("DELETE", _webhook_path(webhook_id))

    def callbacks(self, task_id: TaskId) -> list[Delivery]:
        """Return what is delivered about a task, with each attempt, the oldest first."""
        return list(self._all(f"{task_path(task_id)}/callbacks", "callbacks", Delivery))

    def redeliver(self, task_id: TaskId, delivery_id: UUID | str) -> Delivery:
        """Send a delivery about a task again, under the same id."""
        path = f"{task_path(task_id)}/callbacks/{quote(str(delivery_id), safe='')}/redeliver"
        return read(self._post(path), Delivery)


def _webhook_path(webhook_id: UUID | str) -> str:
    return f"/webhooks/{quote(str(webhook_id), safe='')}"
