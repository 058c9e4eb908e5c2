"""Scheduled tasks: what is submitted again and again, by a cron expression."""

from typing import Any

import msgspec
from falcon.asgi import Request, Response

from actors import fields
from actors.requests import PRIORITIES, in_utc
from api.caller import admin_of
from api.desk import Desk
from api.media import read_nothing, read_object, render
from api.orders import as_task
from api.parameters import part, read_query
from api.resources.tasks import PREFIX, address
from api.schemas.common import Paged
from api.schemas.schedules import BackfillRequest, ScheduleChange, ScheduleRequest
from tasks.errors import InvalidField
from tasks.schedule_records import Definition
from tasks.schedules import COUNTED_UP_TO

ADDRESS = f"{PREFIX}/scheduled-tasks"


class ScheduledTasks:
    """``/scheduled-tasks``, what is below it, and ``/stats/schedules``. All of it is for administrators."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._schedules = desk.kit.schedules

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the schedules, by name."""
        admin_of(req)
        wanted = part(read_query(req, Paged))
        found, total = await self._desk.ask(self._schedules.page, limit=wanted.limit, offset=wanted.offset)
        render(resp, wanted.answer("scheduled_tasks", found, total))

    async def on_post(self, req: Request, resp: Response) -> None:
        """Make a schedule; its task is checked as if it were submitted."""
        caller = admin_of(req)
        asked = fields.read(ScheduleRequest, await read_object(req, self._desk))
        given = {name: getattr(asked, name) for name in asked.__struct_fields__ if name != "is_active"}
        given |= {"priority": _priority(asked.priority), "user_id": caller.tenant(asked.user_id)}
        made = await self._desk.work(self._schedules.create, Definition(**given), is_active=asked.is_active)
        resp.location = f"{ADDRESS}/{made.name}"
        render(resp, made, 201)

    async def on_get_one(self, req: Request, resp: Response, name: str) -> None:
        """A schedule, with its next times."""
        admin_of(req)
        render(resp, await self._desk.ask(self._schedules.show, name))

    async def on_put_one(self, req: Request, resp: Response, name: str) -> None:
        """Change what is given of a schedule; the rest stays."""
        admin_of(req)
        asked = fields.read(ScheduleChange, await read_object(req, self._desk))
        if asked.name not in (None, name):
            raise InvalidField.of("name", "cannot be changed: make a new schedule, and delete this one")
        given = _given(asked)
        render(resp, await self._desk.work(self._schedules.change, name, **given))

    async def on_delete_one(self, req: Request, resp: Response, name: str) -> None:
        """Remove a schedule; the tasks that it has submitted stay."""
        admin_of(req)
        await self._desk.ask(self._schedules.remove, name)
        resp.status = 204

    async def on_post_pause(self, req: Request, resp: Response, name: str) -> None:
        """Submit nothing more until the schedule is resumed."""
        admin_of(req)
        await read_nothing(req, self._desk)
        render(resp, await self._desk.ask(self._schedules.pause, name))

    async def on_post_resume(self, req: Request, resp: Response, name: str) -> None:
        """Go on from now; what went by in the pause is not made up for."""
        admin_of(req)
        await read_nothing(req, self._desk)
        render(resp, await self._desk.ask(self._schedules.resume, name))

    async def on_post_run(self, req: Request, resp: Response, name: str) -> None:
        """Submit the task of a schedule at once; its times stay as they are."""
        admin_of(req)
        await read_nothing(req, self._desk)
        new, accepted = await self._desk.work(self._schedules.run, name)
        resp.location = address(accepted.id)
        render(resp, as_task(new, accepted), 202)

    async def on_post_backfill(self, req: Request, resp: Response, name: str) -> None:
        """Submit the task for each fire time of a range that had none; with ``dry_run`` only say which."""
        admin_of(req)
        asked = fields.read(BackfillRequest, await read_object(req, self._desk))
        found = await self._desk.work(
            self._schedules.backfill,
            name,
            in_utc(asked.since, "from") or asked.since,
            in_utc(asked.until, "to") or asked.until,
            dry_run=asked.dry_run,
        )
        render(resp, found, 200 if asked.dry_run else 202)

    async def on_get_runs(self, req: Request, resp: Response, name: str) -> None:
        """What became of the fire times of a schedule, the newest first."""
        admin_of(req)
        wanted = part(read_query(req, Paged))
        found, total = await self._desk.ask(
            self._schedules.runs, name, limit=wanted.limit, offset=wanted.offset
        )
        answer = wanted.answer("runs", found, total)
        render(resp, answer | {"total_is_exact": total < COUNTED_UP_TO})

    async def on_get_stats(self, req: Request, resp: Response) -> None:
        """All schedules in numbers."""
        admin_of(req)
        render(resp, await self._desk.ask(self._schedules.stats))


def _given(asked: ScheduleChange) -> dict[str, Any]:
    """What a change says, without what it leaves out."""
    every = {name: getattr(asked, name) for name in asked.__struct_fields__ if name != "name"}
    given = {
        name: value
        for name, value in every.items()
        if value is not msgspec.UNSET and (value is not None or name == "payload")
    }
    return given | ({"priority": _priority(given["priority"])} if "priority" in given else {})


def _priority(asked: int | str) -> int:
    return asked if isinstance(asked, int) else PRIORITIES[asked]
