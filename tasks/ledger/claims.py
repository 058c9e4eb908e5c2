"""The verbs that take work and hand it back unused: claim, fetch, release and postpone."""

import secrets
from collections.abc import Sequence
from itertools import islice
from math import ceil
from typing import Any
from uuid import UUID

import msgspec

from tasks.allowances import STEERED, Allowance
from tasks.ledger.admission import Asking, admit
from tasks.ledger.allowances import lock_allowances, spend
from tasks.ledger.concurrency import judge, park
from tasks.ledger.order import LOCK_ONE, READY, SPARE, Outlook, candidates_of, choose, find
from tasks.ledger.snapshots import with_states
from tasks.ledger.transaction import PLACE, SKIPPED, Transaction, as_json, left_behind, skipped
from tasks.ledger.turns import queues_in_turn
from tasks.plans import is_queued, is_running
from tasks.values import Claimed, Fetched, Json, Refused

#: So often a fetch looks for others, if it had to park all that it found.
MOST_ROUNDS = 4
#: A queue is judged for as long as a transaction takes: nobody keeps threads idle for another one's.
JUDGED_SECONDS = 0.005


def new_token() -> int:
    """A token for a claim. It is made by the caller, so that a repeated claim knows its own rows again."""
    return secrets.randbits(62)


class Wanted(msgspec.Struct, frozen=True):
    """A task that a message names, to be taken under ``token``."""

    task_id: UUID
    dispatch: int
    token: int


class Claim(msgspec.Struct, frozen=True):
    """Take the tasks that messages name."""

    wanted: Sequence[Wanted]


class Fetch(msgspec.Struct):
    """Take up to ``limit`` ready tasks of these queues, or of all, and of these types, all under ``token``.

    Queues take turns: it begins with those that come ``after`` a name.
    """

    queues: list[str] | None
    types: list[str]
    limit: int
    token: int
    after: str = ""
    tried: bool = False


class HandBack(msgspec.Struct, frozen=True):
    """A claim that is given back: the task was not started, or was interrupted by a drain.

    It may be claimed again after ``seconds``.
    """

    id: UUID
    token: int
    seconds: float = 0.0


class Postpone(msgspec.Struct, frozen=True):
    """A message about a type that this worker does not know: its row waits ``seconds`` for another worker."""

    id: UUID
    dispatch: int
    seconds: float


# A scalar look-up by key: as an EXISTS it may become a join over all finished tasks.
_RUN_IS_OVER = """coalesce((SELECT run.status IN ('completed', 'failed', 'cancelled')
    FROM task_state run WHERE run.id = t.run_id), false)"""

_TAKEN = """
    status = 'running', worker = {worker}, attempt = s.attempt + 1, started_at = now(), updated_at = now(),
    finished_at = NULL, progress = 0, phase = NULL, message = NULL, details = NULL,
    events = s.events + 1, running_event = s.events + 1"""

_RETURNED = """
    s.id, s.token, s.attempt, s.failures, s.deaths, t.task_type, s.queue, t.payload::text, t.max_retries,
    t.backoff, t.timeout, t.priority, t.user_id, t.project_id, t.kb_id, t.tags, t.run_id, t.stage,
    t.stage_index, t.overrides, s.suspect, s.snapshot"""

#: Where `_RETURNED` has the queue.
_QUEUE = 6

# Rows are looked up one by one: no plan must look for them among all that is queued.
_CLAIM = f"""
WITH wanted AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS w(task_id uuid, dispatch bigint, token bigint)
), locked AS (
    SELECT one.id, w.token FROM (SELECT * FROM wanted ORDER BY task_id) AS w CROSS JOIN LATERAL (
        SELECT s.id FROM task_state s WHERE s.id = w.task_id AND {is_queued()}
            AND coalesce(s.dispatch, -1) = w.dispatch AND s.concurrency_key IS NULL AND NOT {STEERED}
        FOR NO KEY UPDATE SKIP LOCKED) AS one
)
UPDATE task_state s SET token = locked.token, {_TAKEN.format(worker="%s")}
FROM locked JOIN tasks t USING (id)
WHERE s.id = locked.id AND NOT {_RUN_IS_OVER}
RETURNING {_RETURNED}"""

# Whether there is a place for it is known already, and its row is locked.
_CLAIM_ADMITTED = f"""
UPDATE task_state s SET token = a.token, {_TAKEN.format(worker="%s")}
FROM jsonb_to_recordset(%s::jsonb) AS a(id uuid, token bigint) JOIN tasks t USING (id) WHERE s.id = a.id
RETURNING {_RETURNED}"""

# Those with a key are only locked: they are judged first.
_FETCHED = f"""
, taken AS (
    UPDATE task_state s SET token = %(token)s, {_TAKEN.format(worker="%(owner)s")}
    FROM ready JOIN tasks t USING (id) WHERE s.id = ready.id AND ready.concurrency_key IS NULL
    RETURNING {_RETURNED}
)
SELECT ready.id, ready.concurrency_key, taken.* FROM ready LEFT JOIN taken USING (id)"""

# A scalar look-up too: as a join it may begin with all tasks of these types.
_RUNNABLE = f"""(SELECT t.task_type = ANY(%(types)s) AND NOT {_RUN_IS_OVER}
    FROM tasks t WHERE t.id = s.id)"""

_FETCH_BY_RANK = f"""
WITH ready AS (
    SELECT s.id, s.concurrency_key FROM task_state s WHERE {READY} AND {_RUNNABLE}
    ORDER BY s.rank LIMIT %(wanted)s FOR NO KEY UPDATE SKIP LOCKED
){_FETCHED}"""

_, _CANDIDATES = candidates_of(_RUNNABLE)

_FETCH_CHOSEN = f"""
WITH ready AS (
    SELECT one.* FROM unnest(%(chosen)s::uuid[]) AS c(id) CROSS JOIN LATERAL ({LOCK_ONE}) AS one
    LIMIT %(wanted)s
){_FETCHED}"""

_HELD = f"""
SELECT {_RETURNED} FROM task_state s JOIN tasks t USING (id)
WHERE s.worker = %s AND s.status = 'running' AND s.token = ANY(%s)"""

_REFUSED = f"""
SELECT s.id, s.status, s.dispatch, s.worker, s.token, {_RUN_IS_OVER}, s.rank, {PLACE}
FROM task_state s JOIN tasks t USING (id) WHERE s.id = ANY(%s)"""

_START_RUNS = """
UPDATE task_state SET status = 'running', started_at = now(), updated_at = now(),
    events = events + 1, running_event = events + 1
WHERE id IN (
    SELECT id FROM task_state WHERE id = ANY(%s) AND status IN ('scheduled', 'queued')
    ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id"""

_RELEASE = f"""
WITH back AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS b(id uuid, token bigint, seconds float8)
), locked AS (
    SELECT s.*, back.seconds FROM task_state s JOIN back USING (id)
    WHERE {is_running()} AND s.token = back.token ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), kept AS (
    INSERT INTO attempts (task_id, attempt, outcome, status, worker, started_at, started_event, ended_event)
    SELECT id, attempt, 'released', 'queued', worker, started_at, running_event, events + 1 FROM locked
), postponed AS (
    INSERT INTO events (task_id, event_id, kind, status, message)
    SELECT id, events + 2, 'state', 'scheduled', 'waits for a worker that knows its version'
    FROM locked WHERE seconds > 0
)
UPDATE task_state s SET status = CASE WHEN locked.seconds > 0 THEN 'scheduled' ELSE 'queued' END,
    ready_at = CASE WHEN locked.seconds > 0 THEN now() + make_interval(secs => locked.seconds)
        ELSE s.ready_at END,
    token = NULL, worker = NULL, dispatch = NULL, dispatched_at = NULL,
    attempt = s.attempt - 1, started_at = NULL, running_event = NULL,
    events = s.events + CASE WHEN locked.seconds > 0 THEN 2 ELSE 1 END, updated_at = now()
FROM locked WHERE s.id = locked.id RETURNING s.id, {PLACE}"""

_POSTPONE = f"""
WITH late AS (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS p(id uuid, dispatch bigint, seconds float8)
), locked AS (
    SELECT s.id, s.events, late.seconds FROM task_state s JOIN late USING (id)
    WHERE {is_queued()} AND coalesce(s.dispatch, -1) = late.dispatch
    ORDER BY s.id FOR NO KEY UPDATE OF s SKIP LOCKED
), told AS (
    INSERT INTO events (task_id, event_id, kind, status, message)
    SELECT id, events + 1, 'state', 'scheduled', 'waits for a worker that knows its type' FROM locked
)
UPDATE task_state s SET status = 'scheduled', dispatch = NULL, dispatched_at = NULL,
    ready_at = now() + make_interval(secs => locked.seconds), events = s.events + 1, updated_at = now()
FROM locked WHERE s.id = locked.id RETURNING s.id, {PLACE}"""


def claim(tx: Transaction, items: Sequence[Claim]) -> list[object]:
    """Claim what arrived: for each task a Claimed, a Refused, or None if somebody holds it just now.

    The same message twice is claimed once.
    """
    answers = iter(_claim(tx, [one for item in items for one in item.wanted]))
    return [[_unless_held(next(answers)) for _ in item.wanted] for item in items]


def _unless_held(answer: object) -> object:
    return None if answer is SKIPPED else answer


def _claim(tx: Transaction, items: Sequence[Wanted]) -> list[object]:
    claimed = _by_token(tx, tx.moves(_CLAIM, as_json(items), tx.owner))
    missing = [item for item in items if item.token not in claimed]
    if not missing:
        _start_runs(tx, list(claimed.values()))
        return [claimed[item.token] for item in items]
    found = {row[0]: row[1:] for row in tx.rows(_REFUSED, [item.task_id for item in missing])}
    more, kept_waiting = _claim_judged(tx, missing, found)
    claimed |= more
    _start_runs(tx, list(claimed.values()))
    held_tokens = {row[3] for row in found.values()}
    repeated = [item.token for item in missing if item.token in held_tokens]
    if repeated:  # an earlier commit of unknown outcome went through
        claimed |= _by_token(tx, tx.rows(_HELD, tx.owner, repeated))
    return [
        claimed.get(item.token) or kept_waiting.get(item.token) or _refusal(item, found.get(item.task_id))
        for item in items
    ]


def _claim_judged(
    tx: Transaction, missing: Sequence[Wanted], found: dict[UUID, Any]
) -> tuple[dict[int, Claimed], dict[int, Refused]]:
    """Of arrivals that were not claimed those that need a place: what could be claimed, and what waits on."""
    asking = {item.task_id: item for item in missing if _needs_a_place(item, found.get(item.task_id))}
    if not asking:
        return {}, {}
    admission = admit(tx, [_asking(one, found[one]) for one in asking])
    rows = _take(tx, {one.id: asking[one.id].token for one in admission.admitted})
    park(tx, admission.parked)
    waiting = dict.fromkeys(admission.parked, "parked") | dict.fromkeys(admission.sent_back, "sent_back")
    return _by_token(tx, rows), {asking[one].token: Refused(one, why) for one, why in waiting.items()}


def _asking(task_id: UUID, row: Sequence[Any]) -> Asking:
    *_, rank, queue, key = row
    return Asking(task_id, queue, key, rank)


def _needs_a_place(item: Wanted, row: Sequence[Any] | None) -> bool:
    if row is None:
        return False
    status, dispatch, _, _, run_is_over, _, queue, key = row
    has_limit = queue is not None or key is not None
    return status == "queued" and dispatch == item.dispatch and has_limit and not run_is_over


def _take(tx: Transaction, tokens: dict[UUID, int]) -> list[Any]:
    """Claim tasks that were admitted, each under its token."""
    taken = [{"id": one, "token": token} for one, token in tokens.items()]
    return tx.moves(_CLAIM_ADMITTED, tx.owner, as_json(taken)) if taken else []


def fetch(tx: Transaction, items: Sequence[Fetch]) -> list[object]:
    """Claim straight from the table, for workers without a RabbitMQ: what each gets.

    SKIPPED if it gets nothing, but has seen tasks with keys that were parked or are judged elsewhere: what is
    behind them comes next.
    """
    outcomes: list[object] = []
    for item in items:
        rows = tx.rows(_HELD, tx.owner, [item.token]) if item.tried else []
        item.tried = True
        catch = _Catch(rows)
        if not rows:
            _fetch(tx, item, catch)
        claimed = with_states(tx, [_claimed(row) for row in catch.rows])
        _start_runs(tx, claimed)
        if claimed or not catch.saw_others:
            outcomes.append(Fetched(claimed, catch.again_in))
        else:  # who comes first next time is whom this one kept waiting
            item.after = catch.last
            outcomes.append(SKIPPED)
    return outcomes


class _Catch(msgspec.Struct):
    """What a fetch got: rows of claims, whether there were others, and when to look again.

    And the ``last`` queue that it looked at, and the ``allowances`` of the steered ones among those.
    """

    rows: list[Any]
    saw_others: bool = False
    last: str = ""
    again_in: float | None = None
    allowances: dict[str, Allowance] = {}

    def wait_for(self, seconds: float | None) -> None:
        """There may be more in so many seconds, or sooner."""
        if seconds is not None:
            self.again_in = seconds if self.again_in is None else min(self.again_in, seconds)


def _fetch(tx: Transaction, item: Fetch, catch: _Catch) -> None:
    for _ in range(MOST_ROUNDS):
        catch.allowances = {}
        found = _find(tx, item, catch)
        rows = tx.moved_by([row[2:] for row in found if row[1] is None])
        keyed = {row[0]: row[1] for row in found if row[1] is not None}
        admitted, over = judge(tx, keyed) if keyed else (set(), set())
        rows += _take(tx, dict.fromkeys(admitted, item.token))
        park(tx, over)
        catch.rows += rows
        catch.saw_others = len(admitted) < len(keyed)
        if catch.allowances:
            spend(tx, catch.allowances, [row[_QUEUE] for row in rows])
        if rows or not over:  # if none is over, all that is left is judged elsewhere just now
            return


def _find(tx: Transaction, item: Fetch, catch: _Catch) -> list[Any]:
    """What is ready, each queue its share: tasks without a key are claimed, the others only locked."""
    rows: list[Any] = []
    for turns in queues_in_turn(tx, item.queues, item.after):
        for nth, turn in enumerate(turns):
            wanted = ceil((item.limit - len(rows)) / (len(turns) - nth))
            if wanted and turn.outlook.is_steered:
                wanted = min(wanted, _allowed(tx, turn.queue, catch))
            if wanted:
                catch.last = turn.queue
                rows += _find_in(tx, item, turn.queue, wanted, turn.outlook)
        if rows:
            break
    return rows


def _allowed(tx: Transaction, queue: str, catch: _Catch) -> int:
    """How many tasks of a queue may start now."""
    one = lock_allowances(tx, [queue]).get(queue)
    if one is None:
        catch.wait_for(JUDGED_SECONDS)
        return 0
    catch.allowances[queue] = one
    catch.wait_for(one.token_in())
    return one.most


def _find_in(tx: Transaction, item: Fetch, queue: str, wanted: int, outlook: Outlook) -> list[Any]:
    some = {"queue": queue, "types": item.types, "wanted": wanted, "token": item.token, "owner": tx.owner}
    if not outlook.has_several_tenants:
        return tx.named(_FETCH_BY_RANK, some)
    found = choose(find(tx, _CANDIDATES, queue, wanted, item.types))
    chosen = [one.task.id for one in islice(found, wanted + SPARE)]
    return tx.planned(_FETCH_CHOSEN, some | {"chosen": chosen})


def release(tx: Transaction, items: Sequence[HandBack]) -> list[object]:
    """Give claims back without using up an attempt: True, False for a stale token, SKIPPED if locked."""
    released = {row[0] for row in tx.freed_by(tx.moves(_RELEASE, as_json(items)))}
    tx.made_ready(len(released))
    left = left_behind(tx, "running", "token", [item.id for item in items if item.id not in released])
    return [item.id in released or skipped(left.get(item.id) == item.token) for item in items]


def postpone(tx: Transaction, items: Sequence[Postpone]) -> list[object]:
    """Send rows of unknown types back with a backoff; it is not a failure."""
    moved = {row[0] for row in tx.freed_by(tx.moves(_POSTPONE, as_json(items)))}
    left = left_behind(tx, "queued", "dispatch", [item.id for item in items if item.id not in moved])
    return [item.id in moved or skipped(left.get(item.id) == item.dispatch) for item in items]


def _by_token(tx: Transaction, rows: Sequence[Sequence[object]]) -> dict[int, Claimed]:
    claims = with_states(tx, [_claimed(row) for row in rows])
    return {claim.token: claim for claim in claims}


def _claimed(row: Sequence[object]) -> Claimed:
    values = list(row)
    values[7] = Json(str(values[7]).encode())
    return Claimed(*values)  # type: ignore[arg-type]


def _start_runs(tx: Transaction, claimed: Sequence[Claimed]) -> None:
    runs = {claim.run_id for claim in claimed if claim.run_id is not None}
    if runs:
        tx.moves(_START_RUNS, list(runs))


def _refusal(item: Wanted, row: Sequence[Any] | None) -> object:
    if row is None:
        return Refused(item.task_id, "stale")
    status, dispatch, worker, _, run_is_over, *_ = row
    if status == "running":
        return Refused(item.task_id, "running", worker)
    if status == "queued" and dispatch == item.dispatch:
        return Refused(item.task_id, "cancelled_run") if run_is_over else SKIPPED
    return Refused(item.task_id, "stale" if status in ("queued", "scheduled", "retrying") else "finished")
