"""The verbs of callbacks."""

from concurrent.futures import Future
from uuid import UUID

from tasks.callbacks import Attempted, NewWebhook
from tasks.ledger import callbacks
from tasks.ledger.group import Group


class Calling:
    """What a ledger is asked about callbacks; a part of `tasks.ledger.Ledger`."""

    _group: Group

    def add_webhook(self, webhook: NewWebhook, *, patience: float | None = None) -> Future[bool]:
        """Tell a receiver about ends of tasks from now on.

        Raises (from the future):
          Conflict: its owner has as many as may be.
        """
        return self._group.add("add_webhook", callbacks.AddWebhook(webhook), patience=patience)

    def remove_webhook(self, webhook_id: UUID, *, patience: float | None = None) -> Future[bool]:
        """Tell a receiver no more; False: there is none."""
        return self._group.add("remove_webhook", callbacks.RemoveWebhook(webhook_id), patience=patience)

    def take_deliveries(self, asked: callbacks.TakeDeliveries) -> Future[callbacks.Taken]:
        """Claim due deliveries."""
        return self._group.add("take_deliveries", asked, rows=asked.limit)

    def record_attempt(self, attempted: Attempted) -> Future[bool]:
        """Record what came of an attempt to deliver; False: its lease was over, and others have it."""
        return self._group.add("record_attempts", attempted)

    def redeliver(self, delivery_id: UUID, *, patience: float | None = None) -> Future[str]:
        """Send a delivery again: "asked", "under way" or "missing"."""
        return self._group.add("redeliver", callbacks.Redeliver(delivery_id), patience=patience)
