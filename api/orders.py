"""Orders: from the body of a request to what is submitted, and back to the task that is answered."""

from collections.abc import Mapping, Sequence
from typing import Any

from actors import fields
from actors.requests import SYNONYMS, TaskRequest, order_of, prefixed
from actors.submission import Order, Submission
from api.caller import Caller
from tasks.errors import InvalidField
from tasks.records import Task
from tasks.states import WAITS
from tasks.values import Accepted, NewTask


def read_order(body: Mapping[str, Any], caller: Caller, *, prefix: str = "") -> Order:
    """What a caller asks for; ``prefix`` goes before the names of wrong fields.

    Raises:
      InvalidField: fields are wrong; all of them are named.
    """
    request = fields.read(TaskRequest, body, synonyms=SYNONYMS, prefix=prefix)
    try:
        user_id, created_by = caller.tenant(request.user_id), caller.created_by
        return order_of(request, user_id=user_id, created_by=created_by)
    except InvalidField as error:
        raise prefixed(error, prefix) from None


def prepare(
    submission: Submission, orders: Sequence[Order], *, prefixes: Sequence[str]
) -> list[list[NewTask]]:
    """The tasks of each order; a refused one is named by its prefix."""
    prepared = []
    for order, prefix in zip(orders, prefixes, strict=True):
        try:
            prepared.append(submission.prepare(order))
        except InvalidField as error:
            raise prefixed(error, prefix) from None
    return prepared


def as_task(new: NewTask, accepted: Accepted) -> Task:
    """A task that was just accepted, as a reader would find it."""
    return Task(
        task_id=new.id,
        task_type=new.task_type,
        status=accepted.status,
        progress=0.0,
        phase=None,
        message=None,
        details=None,
        queue_name=new.queue_name,
        priority=new.priority,
        payload=new.payload,
        result=None,
        error=None,
        attempts=0,
        max_retries=new.max_retries,
        timeout=new.timeout,
        user_id=new.user_id or None,
        project_id=new.project_id,
        kb_id=new.kb_id,
        created_by=new.created_by,
        tags=list(new.tags),
        parent_id=new.parent_id,
        run_id=new.run_id,
        stage=new.stage,
        depends_on=list(new.depends_on),
        run_at=accepted.run_at,
        created_at=accepted.created_at,
        updated_at=accepted.created_at,
        started_at=None,
        completed_at=None,
        duration_ms=None,
        estimated_completion=None,
        wait_reason=WAITS.get(accepted.status),
    )
