"""Derivatives: a new task made from one that is on record, with what is to be different."""

from typing import Any

import msgspec

from actors.submission import Order, Submission
from tasks.errors import InvalidField
from tasks.records import Task
from tasks.states import COMPLETED
from tasks.values import NewTask

#: The field of the payload in which a derivative finds the result of its parent.
RESULT_FIELD = "parent_result"


def merge_patch(target: Any, patch: Any) -> Any:
    """``target`` changed by a JSON merge patch (RFC 7396): null removes a member, objects are merged."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def payload_from(parent: Task, patch: Any) -> Any:
    """The parent's payload, patched; the result that the parent had from its own parent does not stay."""
    inherited = parent.payload
    if isinstance(inherited, dict) and parent.parent_id is not None:
        inherited = {name: value for name, value in inherited.items() if name != RESULT_FIELD}
    return merge_patch(inherited, patch)


def prepare(submission: Submission, order: Order, parent: Task) -> list[NewTask]:
    """The tasks of a derivative; its payload has the result of a parent that completed, if it can take it.

    Raises:
      InvalidField: as `Submission.prepare` does.
    """
    order = msgspec.structs.replace(order, parent_id=parent.task_id)
    payload = order.payload
    if parent.status != COMPLETED or not isinstance(payload, dict) or RESULT_FIELD in payload:
        return submission.prepare(order)
    with_result = msgspec.structs.replace(order, payload={**payload, RESULT_FIELD: parent.result})
    try:
        return submission.prepare(with_result)
    except InvalidField:  # of its own fields, or of this one; the second try tells
        return submission.prepare(order)
