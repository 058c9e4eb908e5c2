"""Recording what a request asks for, and the tasks that it is answered with."""

from collections.abc import Sequence

from falcon.asgi import Response

from actors.submission import asked_for
from api.desk import Desk
from api.idempotency import REPLAYED_HEADER
from api.orders import as_task
from tasks.errors import Conflict
from tasks.records import Task
from tasks.values import Accepted, NewTask, Once


async def submit(
    desk: Desk, resp: Response, prepared: Sequence[Sequence[NewTask]], once: Once | None
) -> list[Task]:
    """Record prepared orders, or find what an idempotency key or a unique key stands for.

    Raises:
      Conflict: that was removed meanwhile, or the idempotency key was used for something else.
      DependencyMissing, QueueFull, Unavailable: nothing was stored.
    """
    rows = sum(len(tasks) for tasks in prepared)
    committed = await desk.committed(desk.kit.submission.record(prepared, once=once), rows=rows)
    answered = asked_for(prepared, committed)
    new = {tasks[0].id: tasks[0] for tasks in prepared}
    if once is not None and not any(one.id in new for one in answered):
        resp.set_header(REPLAYED_HEADER, "true")
    known = await _known(desk, [one for one in answered if one.id not in new])
    if len(answered) < len(prepared) or any(one.id not in new and one.id not in known for one in answered):
        raise Conflict("A task that this key stands for was removed meanwhile: take a new key.")
    return [known[one.id] if one.id in known else as_task(new[one.id], one) for one in answered]


async def _known(desk: Desk, accepted: Sequence[Accepted]) -> dict[object, Task]:
    """Tasks that were on record before, by their ids."""
    if not accepted:
        return {}
    ids = list({one.id for one in accepted})
    return {task.task_id: task for task in await desk.ask(desk.kit.queries.tasks_by_id, ids)}
