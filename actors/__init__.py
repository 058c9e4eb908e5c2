"""How work runs: actors, the recorded call, broker, dispatch and clock."""

from actors.context import current_task
from actors.definitions import actor
from actors.errors import Permanent, RetryAfter

__all__ = ["Permanent", "RetryAfter", "actor", "current_task"]
