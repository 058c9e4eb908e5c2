"""A claim as the ledger gives it, for tests that have no record."""

from typing import Any

from tasks.ids import new_id
from tasks.values import Claimed, Json


def a_claim(**more: Any) -> Claimed:
    given = {
        "id": new_id(),
        "token": (1 << 62) - 1,
        "attempt": 2,
        "failures": 1,
        "deaths": 0,
        "task_type": "work",
        "queue": "default",
        "payload": Json(b'{"a":[1,2.5,"\xc3\xa4"]}'),
        "max_retries": 3,
        "backoff": {"kind": "fixed", "base": 0.5},
        "timeout": 30.0,
        "priority": 5,
        "user_id": "ann",
        "project_id": None,
        "kb_id": "docs",
        "tags": ["x"],
        "run_id": new_id(),
        "stage": "embed",
        "stage_index": 3,
    }
    return Claimed(**{**given, **more})
