"""Who is next in a queue: priority and waiting decide within a tenant, fairness between tenants.

*Rank* is when a task became ready, less some seconds for each step of its priority: whoever waits long enough
overtakes whatever is more important but younger. Within a tenant (a ``user_id``) rank alone rules.

Between tenants it is the *level*: the priority, less up to four steps for a tenant that has much waiting. So
ten tasks are not held up by another tenant's ten thousand, unless these are far more important. A task has at
least the level of what its tenant has behind it. Of equal levels the better rank comes first, but tenants
with much waiting take turns. And so that fairness starves nobody, every eighth place is for the best rank of
all.

On RabbitMQ messages overtake each other by their priority. It is the level of their task, but none overtakes
what has the better rank, unless that is one of the many tasks of another tenant: it *yields*.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from uuid import UUID

from tasks.ledger.transaction import Transaction
from tasks.plans import is_queued

#: With so many waiting a tenant is a flood: it is `MOST_STEPS` lower, and takes turns with other floods.
FLOOD: Final = 32
MOST_STEPS: Final = 4
#: Every so many places the best rank of all comes first, whoever's it is.
RANK_EVERY: Final = 8
MOST_LEVEL: Final = 10
#: So many tenants are looked at, from a random one on, and no more than some for each place that is to be
#: given: who asks for few places asks often. The best ranks of all are looked at anyway.
LEAST_TENANTS: Final = 16
MOST_TENANTS: Final = 100
TENANTS_PER_PLACE: Final = 4
#: How many more candidates are looked at than are wanted: others may take some at the same time.
SPARE: Final = 64


class Outlook(NamedTuple):
    """Whether there is anybody in a queue to be fair to, and whether it is steered (`tasks.allowances`)."""

    has_several_tenants: bool
    is_steered: bool


class Candidate(NamedTuple):
    """A ready task. ``boost`` is its priority, and one more for a suspect: that had its turn before.

    Of its tenant at least ``crowd`` tasks are ready, counted up to `FLOOD`; the highest boost of these is
    ``top``. So few of a tenant's tasks have to be read to know its level.
    """

    id: UUID
    tenant: int
    rank: float
    boost: int
    crowd: int = 0
    top: int = -MOST_STEPS


class Sent(NamedTuple):
    """Messages of a queue on RabbitMQ that are alike: how many, and the best rank among them."""

    tenant: int
    yields: bool
    wire: int
    rank: float
    messages: int


class Choice(NamedTuple):
    """A task that is next; ``early`` ones come before their turn, for their rank."""

    task: Candidate
    level: int
    yields: bool
    early: bool


class Stamp(NamedTuple):
    """A task that may be published, and the priority of its message."""

    id: UUID
    wire: int
    yields: bool


READY: Final = f"s.queue = %(queue)s AND {is_queued()} AND s.dispatch IS NULL AND NOT s.parked"
# Rows are looked up one by one: a plan that was made for few must not look for them among all that is ready.
#: Locks the row of the candidate ``c``, if it is ready still and nobody else locks it.
LOCK_ONE: Final = """SELECT s.id, s.concurrency_key FROM task_state s
    WHERE s.id = c.id AND s.status = 'queued' AND coalesce(s.dispatch, -1) = -1 AND NOT s.parked
    FOR NO KEY UPDATE SKIP LOCKED"""

_BOOST = "s.priority + s.suspect::integer"
_ROW = f"s.id, s.tenant, s.rank, {_BOOST}"

# Probes of an index: whose the best rank is, and whether anybody is before or after him.
#: Needs the ``queue``.
OUTLOOK: Final = f"""
WITH best AS MATERIALIZED (SELECT s.tenant FROM task_state s WHERE {READY} ORDER BY s.rank LIMIT 1)
SELECT coalesce(
    (SELECT s.tenant FROM task_state s WHERE {READY} AND s.tenant > (SELECT tenant FROM best)
     ORDER BY s.tenant LIMIT 1),
    (SELECT s.tenant FROM task_state s WHERE {READY} AND s.tenant < (SELECT tenant FROM best)
     ORDER BY s.tenant DESC LIMIT 1)) IS NOT NULL,
    coalesce((SELECT steered FROM queues WHERE name = %(queue)s), false)"""

# A loose index scan: one probe for each tenant. It begins anywhere and goes on from the lowest.
_TENANTS = f"""
tenants(tenant, upper, nth) AS (
    SELECT (SELECT s.tenant FROM task_state s WHERE {READY} AND s.tenant >= half.lower
            ORDER BY s.tenant LIMIT 1), half.upper, 1
    FROM (VALUES (%(start)s::integer, 2147483647), (-2147483648, %(start)s::integer - 1))
        AS half(lower, upper)
    UNION ALL
    SELECT (SELECT s.tenant FROM task_state s WHERE {READY} AND s.tenant > seen.tenant
            ORDER BY s.tenant LIMIT 1), seen.upper, seen.nth + 1
    FROM tenants seen WHERE seen.tenant <= seen.upper AND seen.nth < %(tenants)s / 2
), known AS MATERIALIZED (SELECT tenant FROM tenants WHERE tenant <= upper)"""


# Said as a range, so that only the index of tenants has this order.
_OF_TENANT = "s.tenant BETWEEN known.tenant AND known.tenant"


def candidates_of(where: str = "true") -> tuple[str, str]:
    """The statements that find candidates: of the best rank, and as well some of every tenant."""
    by_rank = f"""
SELECT {_ROW} FROM task_state s WHERE {READY} AND {where} ORDER BY s.rank LIMIT %(limit)s"""
    # Of a hundred tenants a few tasks each are many to join: no more of them are than may be wanted.
    fairly = f"""
WITH RECURSIVE {_TENANTS}
(SELECT *, 0, {-MOST_STEPS} FROM ({by_rank}) AS oldest)
UNION ALL
SELECT best.*, crowd.size, crowd.top FROM known CROSS JOIN LATERAL (
    SELECT count(*) AS size, max(boost) AS top FROM (
        SELECT {_BOOST} AS boost FROM task_state s WHERE {READY} AND {_OF_TENANT}
        ORDER BY s.tenant, s.rank LIMIT {FLOOD}) AS first
) AS crowd CROSS JOIN LATERAL (
    SELECT {_ROW} FROM task_state s WHERE {READY} AND {_OF_TENANT} AND {where}
    ORDER BY s.tenant, s.rank
    LIMIT greatest(least({FLOOD}, %(wanted)s + 1), %(limit)s / (SELECT count(*) FROM known))
) AS best"""
    return by_rank, fairly


def look_ahead(tx: Transaction, queue: str) -> Outlook:
    """What there is to know about a queue before its next tasks are looked for."""
    return Outlook(*tx.planned(OUTLOOK, {"queue": queue})[0])


def find(
    tx: Transaction, statement: str, queue: str, wanted: int, types: Sequence[str] = ()
) -> list[Candidate]:
    """The candidates for ``wanted`` places, and some more."""
    start = random.randrange(-(2**31) + 1, 2**31)
    some = {
        "queue": queue,
        "types": list(types),
        "wanted": wanted,
        "limit": wanted + SPARE,
        "start": start,
        "tenants": min(max(LEAST_TENANTS, wanted * TENANTS_PER_PLACE), MOST_TENANTS),
    }
    found = [Candidate(*row) for row in tx.planned(statement, some)]
    # Whoever was found twice, by its rank and for its tenant, is known better the second time.
    return list({one.id: one for one in sorted(found, key=lambda one: one.crowd)}.values())


def choose(found: Sequence[Candidate], sent: Sequence[Sent] = ()) -> Iterator[Choice]:
    """Bring candidates into the order in which they are next; equal ones keep the order of ``found``."""
    fair = _by_level(found, sent)
    by_rank = iter(sorted(fair, key=lambda one: one.task.rank))
    taken: set[UUID] = set()
    place = random.randrange(RANK_EVERY)  # who asks for one place at a time needs them by chance
    for one in fair:
        if one.task.id in taken:
            continue
        if place % RANK_EVERY == RANK_EVERY - 1:
            best = next(each for each in by_rank if each.task.id not in taken)
            if best != one:
                taken.add(best.task.id)
                place += 1
                yield best._replace(early=True)
        taken.add(one.task.id)
        place += 1
        yield one


def _by_level(found: Sequence[Candidate], sent: Sequence[Sent]) -> list[Choice]:
    by_tenant: dict[int, list[Candidate]] = defaultdict(list)
    for task in sorted(found, key=lambda task: task.rank):
        by_tenant[task.tenant].append(task)
    keyed = []
    for tenant, tasks in by_tenant.items():
        count = max(len(tasks), *(task.crowd for task in tasks))
        count += sum(one.messages for one in sent if one.tenant == tenant)
        is_flood = count >= FLOOD
        cost = MOST_STEPS * min(count, FLOOD) // FLOOD
        top = max(task.top for task in tasks)
        is_behind = top > max(task.boost for task in tasks)
        level = top - cost if is_behind else -MOST_STEPS
        for nth in reversed(range(len(tasks))):
            task = tasks[nth]
            level = max(level, task.boost - cost)
            turn = nth + random.random() if is_flood else -1.0
            keyed.append(((-level, turn, task.rank, nth), Choice(task, level, is_flood, False)))
    return [choice for _, choice in sorted(keyed, key=lambda one: one[0])]


def fit(choices: Iterator[Choice], sent: Sequence[Sent], window: int) -> list[Stamp]:
    """Those that may be published: before each of them less than ``window`` messages would be delivered."""
    ahead = [0] * (MOST_LEVEL + 1)  # of each priority: how many messages have it or a higher one
    for one in sent:
        _add(ahead, one.wire, one.messages)
    stamps = []
    for choice in choices:
        wire = MOST_LEVEL if choice.early else _wire(choice, sent)
        if ahead[wire] < window:
            _add(ahead, wire, 1)
            stamps.append(Stamp(choice.task.id, wire, choice.yields))
    return stamps


def _add(ahead: list[int], wire: int, count: int) -> None:
    for level in range(wire + 1):
        ahead[level] += count


def _wire(choice: Choice, sent: Sequence[Sent]) -> int:
    """The priority of a message: not above that of one which it must not overtake."""
    task = choice.task
    before = (
        one.wire for one in sent if one.rank < task.rank and (one.tenant == task.tenant or not one.yields)
    )
    return max(0, min(MOST_LEVEL, choice.level, *before))
