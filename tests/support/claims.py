"""Claims: one as the ledger gives it, for tests that have no record, and arrivals claimed one by one."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.values import Arrival, Claimed, Json, Refused

#: What a ledger answers to a claim.
Answer = Future[list[Claimed | Refused | None]]
PATIENCE_SECONDS = 20.0


def claim_each(ledger: Ledger, arrivals: Sequence[Arrival]) -> list[Claimed | Refused]:
    """Claim arrivals at the same time, each by a verb of its own; again, while somebody holds one."""
    asked = [(one, ledger.claim([one])) for one in arrivals]
    return [_answered(ledger, one, answer) for one, answer in asked]


def claim_one(ledger: Ledger, arrival: Arrival) -> Claimed | Refused:
    """Claim what one message names."""
    return _answered(ledger, arrival, ledger.claim([arrival]))


def _answered(ledger: Ledger, arrival: Arrival, answer: Answer) -> Claimed | Refused:
    until = time.monotonic() + PATIENCE_SECONDS
    while (outcome := answer.result(PATIENCE_SECONDS)[0]) is None:
        assert time.monotonic() < until, "somebody held it all the time"
        answer = ledger.claim([arrival])
    return outcome


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
