"""Dead letters: lists and clusters of them, and what becomes of one."""

from functools import partial

from falcon.asgi import Request, Response
from msgspec import UNSET

from actors import fields
from actors.requests import in_utc
from api.caller import Caller, caller_of
from api.desk import Desk
from api.media import read_object, render
from api.parameters import part, read_query
from api.resources.task import PATIENCE, no_task, read_task
from api.schemas.dead_letters import LetterListing, LetterReplay
from tasks.errors import Conflict, InvalidField, NotFound
from tasks.ids import parse_id
from tasks.ledger.dead_letters import DISCARDED, REPLAYED
from tasks.ledger.rounds import MISSING, NOT_FAILED, RUN_IS_OVER
from tasks.letter_records import FOREIGN, Letter, LetterFilter


class DeadLetters:
    """``/dead-letters``, their clusters, and single ones."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def on_get(self, req: Request, resp: Response) -> None:
        """List dead letters, the newest first."""
        asked = read_query(req, LetterListing)
        wanted, page = letter_filter(asked, caller_of(req)), part(asked)
        letters = self._desk.kit.letters.letters
        found = await self._desk.ask(letters, wanted, limit=page.limit, offset=page.offset)
        answer = page.answer("dead_letters", found.items, found.total)
        render(resp, answer | {"total_is_exact": found.is_exact})

    async def on_get_clusters(self, req: Request, resp: Response) -> None:
        """List clusters of dead letters that failed alike, the largest first."""
        asked = read_query(req, LetterListing)
        wanted, page = letter_filter(asked, caller_of(req)), part(asked)
        clusters = self._desk.kit.letters.clusters
        found = await self._desk.ask(clusters, wanted, limit=page.limit, offset=page.offset)
        answer = page.answer("clusters", found.items, found.total)
        render(resp, answer | {"total_is_exact": found.is_exact})

    async def on_get_one(self, req: Request, resp: Response, letter_id: str) -> None:
        """A dead letter: the error with its traceback, the payload that failed, and the task as it is now."""
        caller, kit = caller_of(req), self._desk.kit
        letter = await self._letter(letter_id, caller)
        task = None
        if letter.task_id is not None:
            task = await self._desk.ask(kit.queries.task, letter.task_id, owner=caller.owner)
        render(resp, await self._desk.ask(kit.letters.detail, letter, task))

    async def on_delete_one(self, req: Request, resp: Response, letter_id: str) -> None:
        """Discard a dead letter: its task stays failed. Discarding it again changes nothing."""
        caller = caller_of(req)
        letter = await self._letter(letter_id, caller)
        verb = self._desk.kit.ledger.discard(letter.dead_letter_id, by=caller.created_by, patience=PATIENCE)
        outcome = await self._desk.committed(verb)
        if outcome != DISCARDED:
            now = await self._letter(letter_id, caller)
            if now.resolution != DISCARDED:
                raise _refused(outcome, now)
        resp.status = 204

    async def on_post_replay(self, req: Request, resp: Response, letter_id: str) -> None:
        """Run the task of a dead letter again; of several requests at once one does it.

        A message that is not ours becomes a task, or goes back to its queue (204).
        """
        caller, kit = caller_of(req), self._desk.kit
        asked = fields.read(LetterReplay, await read_object(req, self._desk, or_nothing=True))
        letter = await self._letter(letter_id, caller)
        if letter.kind == FOREIGN:
            await self._replay_foreign(letter, asked, caller, resp)
            return
        edit = None
        if asked.payload is not UNSET:
            edit = await self._desk.ask(kit.workbench.edit, letter, asked.payload)
        verb = kit.ledger.replay(letter.dead_letter_id, edit, by=caller.created_by, patience=PATIENCE)
        outcome = await self._desk.committed(verb)
        task_id = str(letter.task_id)
        if outcome == MISSING:
            raise no_task(task_id)
        if outcome == NOT_FAILED:
            task = await read_task(self._desk, task_id, caller)
            raise Conflict(f"The task is {task.status} and not failed any more: there is nothing to replay.")
        if outcome != REPLAYED:
            raise _refused(outcome, await self._letter(letter_id, caller))
        render(resp, await read_task(self._desk, task_id, caller), 202)

    async def _replay_foreign(
        self, letter: Letter, asked: LetterReplay, caller: Caller, resp: Response
    ) -> None:
        """Replay a message that is not ours: as a task, or by sending it to its queue again."""
        if asked.payload is not UNSET:
            raise InvalidField.of("payload", "is for tasks: a message that is not ours is sent as it is")
        replay = partial(self._desk.kit.stray_replayer.replay, letter.dead_letter_id)
        outcome = await self._desk.ask(replay, created_by=caller.created_by, patience=PATIENCE)
        now = await self._letter(str(letter.dead_letter_id), caller)
        if outcome != REPLAYED:
            raise _refused(outcome, now)
        if now.task_id is None:
            resp.status = 204
        else:
            render(resp, await read_task(self._desk, str(now.task_id), caller), 202)

    async def _letter(self, letter_id: str, caller: Caller) -> Letter:
        known = parse_id(letter_id)
        found = None
        if known is not None:
            found = await self._desk.ask(self._desk.kit.letters.letter, known, owner=caller.owner)
        if found is None:
            raise NotFound(
                f"There is no dead letter {letter_id[:100]}: see GET /api/v1/dead-letters for all there are."
            )
        return found


def letter_filter(asked: LetterListing, caller: Caller) -> LetterFilter:
    """Which dead letters are asked for, as far as the caller may see them.

    Raises:
      InvalidField: a moment is out of range.
    """
    return LetterFilter(
        owner=caller.owner,
        task_type=asked.task_type or None,
        queue_name=asked.queue_name or None,
        error_class=asked.error_class or None,
        q=asked.q or None,
        user_id=asked.user_id or None,
        since=in_utc(asked.since, "since"),
        until=in_utc(asked.until, "until"),
        cluster=asked.cluster or None,
        resolution=asked.status,
    )


def _refused(outcome: str, letter: Letter) -> Conflict:
    if outcome == RUN_IS_OVER:
        return Conflict(f"The run of this stage is over: recover the run {letter.run_id}.")
    return Conflict(
        f"The dead letter was {letter.resolution or outcome} already: a later failure of its task has one"
        " of its own, see GET /api/v1/dead-letters."
    )
