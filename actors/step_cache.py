"""The step cache: what an actor has made of an input is its output for the same input again, for a while.

An output is kept with the commit that completes its task, under all that may determine it: the function and
its version, the input, the user and the knowledge base; so nobody ever gets another user's output. It is
looked for before the function would be called. If that cannot be done, the function is called.
"""

import hashlib
import logging
from typing import Protocol

import msgspec

from actors.attempt import Reused
from actors.registry import Registry
from tasks.values import Claimed, Keep, Reusable

log = logging.getLogger("callboard.worker")


class Outputs(Protocol):
    """Who knows the outputs that are kept."""

    def kept_output(self, claim: Claimed, key: bytes) -> Reusable | None:
        """The output that is kept under a key, if it may answer for a claimed task."""


class StepCache:
    """Says where the outputs of tasks are kept, and finds them again."""

    def __init__(self, registry: Registry, outputs: Outputs) -> None:
        self._registry = registry
        self._outputs = outputs

    def place(self, claim: Claimed) -> Keep | None:
        """Where the output of a task is kept; None: its actor does not want that, or there is no telling."""
        actor = self._registry.get(claim.task_type)
        if actor is None or actor.policy.cache is None or actor.policy.origin is None:
            return None
        try:
            payload = msgspec.json.decode(claim.payload)
            parts = [actor.policy.origin, claim.user_id, claim.kb_id, payload]
            canonical = msgspec.json.encode(parts, order="sorted")
            return Keep(hashlib.sha256(canonical).digest(), actor.policy.cache)
        except Exception as error:
            log.warning("no output is kept for task %s: %s", claim.id, error)
            return None

    def find(self, claim: Claimed, place: Keep) -> Reused | None:
        """The output that is kept for a task's input, if there is one."""
        try:
            found = self._outputs.kept_output(claim, place.key)
        except Exception as error:
            log.warning("task %s runs, no kept output could be looked for: %s", claim.id, error)
            return None
        return None if found is None else Reused(found.result, found.task_id)
