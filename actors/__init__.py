"""How work runs: actors, the recorded call, broker, dispatch and clock."""

from actors.context import current_task
from actors.definitions import actor
from actors.errors import Permanent, RetryAfter
from actors.executors import register

__all__ = ["Permanent", "RetryAfter", "actor", "current_task", "register"]
