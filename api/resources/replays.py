"""Jobs that replay many dead letters: opening one, how far it is, aborting it and going on."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any
from uuid import UUID

from falcon.asgi import Request, Response

from actors import fields
from api.caller import Caller, caller_of
from api.desk import Desk
from api.media import read_nothing, read_object, render
from api.parameters import meant, part, read_query
from api.resources.dead_letters import letter_filter
from api.resources.task import PATIENCE
from api.resources.tasks import PREFIX
from api.schemas.common import Paged
from api.schemas.dead_letters import BulkReplay, ItemListing, LetterListing, ReplayPage
from tasks.errors import Conflict, InvalidField, NotFound
from tasks.ids import parse_id
from tasks.ledger.replays import ABORTED, OpenReplay
from tasks.letter_records import ACTIVE, LetterFilter, ReplayJob


class Replays:
    """``/dead-letters/replay`` and ``/dead-letters/replays``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_post(self, req: Request, resp: Response) -> None:
        """Replay all dead letters that match, as a job that the clocks work off (202).

        With ``dry_run`` (200) it is told how many the replay is for, how many not, and why not.
        """
        caller, workbench = caller_of(req), self._desk.kit.workbench
        asked = fields.read(BulkReplay, await read_object(req, self._desk))
        wanted = read_letter_filter(asked.filter, caller)
        if asked.dry_run:
            survey = await self._desk.work(workbench.survey, wanted, asked.payload_patch, asked.limit)
            render(resp, survey)
            return
        job = OpenReplay(
            letters=(),
            filter=dict(asked.filter),
            payload_patch=asked.payload_patch,
            canary=asked.canary,
            rate=asked.rate,
            most=asked.limit,
            owner=caller.owner,
            created_by=caller.created_by,
        )
        found = await self._desk.work(workbench.select, wanted, job)
        verb = self._desk.kit.ledger.open_replay(found, patience=PATIENCE)
        replay_id = await self._desk.committed(verb, rows=len(found.letters))
        resp.location = f"{PREFIX}/dead-letters/replays/{replay_id}"
        render(resp, await self._job(str(replay_id), caller), 202)

    async def on_get_all(self, req: Request, resp: Response) -> None:
        """List the jobs that replay dead letters, the newest first."""
        page = part(read_query(req, Paged))
        replays = self._desk.kit.replays.replays
        owner = caller_of(req).owner
        found, total = await self._desk.ask(replays, owner=owner, limit=page.limit, offset=page.offset)
        render(resp, page.answer("replays", found, total))

    async def on_get_one(self, req: Request, resp: Response, replay_id: str) -> None:
        """A job, with what became of each of its dead letters."""
        asked = read_query(req, ItemListing)
        page = part(asked)
        job = await self._job(replay_id, caller_of(req))
        items = self._desk.kit.replays.items
        found, total = await self._desk.ask(
            items, job.replay_id, asked.status, limit=page.limit, offset=page.offset
        )
        known = {name: getattr(job, name) for name in job.__struct_fields__}
        render(resp, ReplayPage(**known, **page.answer("items", found, total)))

    async def on_post_abort(self, req: Request, resp: Response, replay_id: str) -> None:
        """Begin no more dead letters of a job: they stay open. Aborting it again changes nothing."""
        await read_nothing(req, self._desk)
        await self._change(req, resp, replay_id, self._desk.kit.ledger.abort_replay, (ABORTED,))

    async def on_post_resume(self, req: Request, resp: Response, replay_id: str) -> None:
        """Go on with a job that was aborted, or whose canary had stopped it."""
        await read_nothing(req, self._desk)
        await self._change(req, resp, replay_id, self._desk.kit.ledger.resume_replay, ACTIVE)

    async def _change(
        self,
        req: Request,
        resp: Response,
        replay_id: str,
        verb: Callable[..., Future[str]],
        good: tuple[str, ...],
    ) -> None:
        caller = caller_of(req)
        job = await self._job(replay_id, caller)
        status = await self._desk.committed(verb(job.replay_id, patience=PATIENCE))
        now = await self._job(replay_id, caller)
        if status not in good:
            raise Conflict(f"The replay is {status}: this cannot be done any more.")
        render(resp, now, 202)

    async def _job(self, replay_id: str, caller: Caller) -> ReplayJob:
        known: UUID | None = parse_id(replay_id)
        found = None
        if known is not None:
            found = await self._desk.ask(self._desk.kit.replays.replay, known, owner=caller.owner)
        if found is None:
            raise NotFound(
                f"There is no replay {replay_id[:100]}: see GET {PREFIX}/dead-letters/replays for all."
            )
        return found


def read_letter_filter(given: Mapping[str, Any], caller: Caller) -> LetterFilter:
    """Which dead letters a filter names, as far as the caller may see them.

    Raises:
      InvalidField: fields are unknown or do not fit, or nothing but a status is filtered by.
    """
    wanted = meant(given, lambda one: letter_filter(fields.read(LetterListing, one), caller), "letters")
    if wanted == LetterFilter(owner=wanted.owner, resolution=wanted.resolution):
        raise InvalidField.of("filter", "is empty: name at least one thing that the letters have in common")
    return wanted
