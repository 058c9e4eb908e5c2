"""Claims: one as the ledger gives it, for tests that have no record, and arrivals claimed one by one."""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from tasks.ids import new_id
from tasks.ledger import Ledger
from tasks.values import Arrival, Claimed, Json, Refused

#: What a ledger answers to a claim.
Answer = Future[list[Claimed | Refused | None]]


def claim_each(ledger: Ledger, arrivals: Sequence[Arrival]) -> list[Claimed | Refused]:
    """Claim arrivals at the same time, each by a verb of its own."""
    return [only(answer) for answer in [ledger.claim([one]) for one in arrivals]]


def claim_one(ledger: Ledger, arrival: Arrival) -> Claimed | Refused:
    """Claim what one message names."""
    return only(ledger.claim([arrival]))


def only(answer: Answer) -> Claimed | Refused:
    """The answer to a claim of one task: it waits while that is held."""
    (outcome,) = answer.result(20)
    assert outcome is not None
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
