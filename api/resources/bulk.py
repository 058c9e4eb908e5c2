"""The verbs for all tasks that match a filter: cancel, retry, delete."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from falcon.asgi import Request, Response

from actors import fields
from api.caller import Caller, caller_of
from api.desk import Desk
from api.media import read_object, render
from api.parameters import meant, task_filter
from api.resources.task import PATIENCE
from api.schemas.tasks import BulkOutcome, BulkRequest, TaskListing
from tasks.errors import InvalidField
from tasks.ledger import Ledger
from tasks.records import TaskFilter
from tasks.states import FAILED, FINAL, UNFINISHED

#: One request does no more than this; its answer says whether there is more to do.
MOST_TASKS = 10_000
LONGEST_SECONDS = 5.0
#: So many verbs are under way at a time: they share a commit.
BATCH = 500


class Verb(NamedTuple):
    """A verb of the ledger: the states it is for, its name, what it answers when it was done, and ``stages``.

    ``stages`` says whether it is for stages too.
    """

    states: frozenset[str]
    call: Callable[[Ledger, UUID], Future[str]]
    done: str
    stages: bool


CANCEL = Verb(UNFINISHED, lambda ledger, one: ledger.cancel(one, patience=PATIENCE), "cancelled", True)
RETRY = Verb(frozenset({FAILED}), lambda ledger, one: ledger.retry(one, patience=PATIENCE), "retried", True)
DELETE = Verb(FINAL, lambda ledger, one: ledger.delete(one, patience=PATIENCE), "deleted", False)


class Bulk:
    """``/tasks/cancel``, ``/tasks/retry`` and ``/tasks/delete``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_post_cancel(self, req: Request, resp: Response) -> None:
        """Cancel what matches and is not over, with the stages of runs."""
        await self._apply(req, resp, CANCEL)

    async def on_post_retry(self, req: Request, resp: Response) -> None:
        """Retry what matches and has failed."""
        await self._apply(req, resp, RETRY)

    async def on_post_delete(self, req: Request, resp: Response) -> None:
        """Remove what matches and is over; what is not over stays."""
        await self._apply(req, resp, DELETE)

    async def _apply(self, req: Request, resp: Response, verb: Verb) -> None:
        asked = fields.read(BulkRequest, await read_object(req, self._desk))
        wanted = read_filter(asked.filter, caller_of(req))
        tally = await self._desk.ask(self._desk.kit.queries.tally, wanted)
        skipped: Counter[str] = Counter()
        for (status, is_stage), count in tally.items():
            if status not in verb.states or (is_stage and not verb.stages):
                skipped["stage" if status in verb.states else status] += count
        matched = sum(tally.values())
        done, more = 0, False
        if not asked.dry_run and matched > skipped.total():
            outcomes, more = await self._work_through(eligible_of(wanted, verb), verb)
            done = outcomes.pop(verb.done, 0)
            skipped += outcomes
        counts: dict[str, Any] = {verb.done: done}
        render(
            resp,
            BulkOutcome(
                matched=matched,
                eligible=matched - skipped.total(),
                skipped=dict(skipped),
                dry_run=asked.dry_run,
                more=more,
                **counts,
            ),
        )

    async def _work_through(self, wanted: TaskFilter, verb: Verb) -> tuple[Counter[str], bool]:
        """Do it to one after the other, oldest first: the outcomes, and whether there is more to do."""
        queries, ledger = self._desk.kit.queries, self._desk.kit.ledger
        outcomes: Counter[str] = Counter()
        began, after = time.monotonic(), None
        while ids := await self._desk.ask(queries.ids_after, wanted, after, BATCH):
            if outcomes.total() >= MOST_TASKS or time.monotonic() - began > LONGEST_SECONDS:
                return outcomes, True
            verbs = [verb.call(ledger, one) for one in ids]
            outcomes.update([await self._desk.committed(one) for one in verbs])
            after = ids[-1]
        return outcomes, False


def read_filter(given: Mapping[str, Any], caller: Caller) -> TaskFilter:
    """Which tasks a filter names, as far as the caller may see them.

    Raises:
      InvalidField: fields are unknown or do not fit, or nothing is filtered by.
    """
    status = given.get("status")
    if status in ("", []):  # in a list it would be as good as none, and here it would mean all of them
        raise InvalidField.of("filter.status", "names no state: name one, or leave it out")
    if isinstance(status, list) and all(isinstance(word, str) for word in status):
        given = {**given, "status": ",".join(status)}
    wanted = meant(given, lambda one: task_filter(fields.read(TaskListing, one), caller), "tasks")
    if wanted == TaskFilter(owner=wanted.owner, stages=wanted.stages):
        raise InvalidField.of("filter", "is empty: name at least one thing that the tasks have in common")
    return wanted


def eligible_of(wanted: TaskFilter, verb: Verb) -> TaskFilter:
    """Those of the tasks that a verb is for."""
    statuses = tuple(sorted(verb.states & set(wanted.statuses or verb.states)))
    return msgspec.structs.replace(wanted, statuses=statuses, stages=wanted.stages and verb.stages)
