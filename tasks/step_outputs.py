"""The outputs that are kept for the same input: how they are found, and what is told of them."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from tasks.values import Claimed, Reusable

# Whoever had a task or its run begin anew wants it to run: nothing kept answers for a later round.
_KEPT = """
SELECT o.task_id, o.result FROM step_outputs o
JOIN tasks t ON t.id = %s JOIN task_state s ON s.id = t.id LEFT JOIN task_state run ON run.id = t.run_id
WHERE o.key = %s AND o.expires_at > now() AND s.round = 0 AND coalesce(run.round, 0) = 0"""


def find(execute: Callable[..., Any], claim: Claimed, key: bytes) -> Reusable | None:
    """The output that is kept under a key, if it may answer for a claimed task."""
    row = execute(_KEPT, (claim.id, key)).fetchone()
    return None if row is None else Reusable(*row)


def told_of(reused: UUID) -> str:
    """What a task tells whose output is that of another one."""
    return f"reused the output of task {reused}"
