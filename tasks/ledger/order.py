"""Who is next in a queue: priority and waiting decide within a tenant, fairness between tenants.

*Rank* is when a task became ready, less some seconds for each step of its priority: whoever waits long enough
overtakes whatever is more important but younger. Within a tenant (a ``user_id``) rank alone rules.

Between tenants it is the *level*: the priority, less up to four steps for a tenant that has much waiting. So
ten tasks are not held up by another tenant's ten thousand, unless these are far more important. A task has at
least the level of what its tenant has behind it. Of equal levels the better rank comes first, but tenants
with much waiting take turns. And so that fairness starves nobody, every eighth place is for the best rank of
all.
"""

import random
from typing import Any, Final

#: How many seconds of waiting one step of priority is worth. The rank is stored, so ageing costs nothing.
SECONDS_PER_PRIORITY: Final = 60.0

#: With so many waiting a tenant is a flood: it is `MOST_STEPS` lower, and takes turns with other floods.
FLOOD: Final = 32
MOST_STEPS: Final = 4
#: Every so many places the best rank of all comes first, whoever's it is.
RANK_EVERY: Final = 8
MOST_LEVEL: Final = 10
#: So many tenants are looked at, from a random one on; the best ranks of all are looked at anyway.
MOST_TENANTS: Final = 100

#: How many more candidates are looked at than are wanted: others may take some at the same time.
SPARE: Final = 64

#: What fairness costs a tenant with ``n`` tasks waiting, in steps of priority.
COST: Final = f"{MOST_STEPS} * least(n, {FLOOD}) / {FLOOD}"

READY: Final = "s.queue = %(queue)s AND s.status = 'queued' AND s.dispatch IS NULL"

SEVERAL_TENANTS: Final = f"""
SELECT min(s.tenant) <> max(s.tenant) FROM task_state s WHERE {READY}"""

# A loose index scan: one probe for each tenant. It begins anywhere and goes on from the lowest.
_TENANTS = f"""
tenants(tenant, upper, nth) AS (
    SELECT (SELECT s.tenant FROM task_state s WHERE {READY} AND s.tenant >= half.lower
            ORDER BY s.tenant LIMIT 1), half.upper, 1
    FROM (VALUES (%(start)s::integer, 2147483647), (-2147483648, %(start)s::integer - 1))
        AS half(lower, upper)
    UNION ALL
    SELECT (SELECT s.tenant FROM task_state s WHERE {READY} AND s.tenant > t.tenant
            ORDER BY s.tenant LIMIT 1), t.upper, t.nth + 1
    FROM tenants t WHERE t.tenant <= t.upper AND t.nth < {MOST_TENANTS // 2}
)"""


def candidates(joined: str = "", where: str = "true") -> str:
    """CTEs that end with ``placed``: who may be next of a queue, each with its ``place`` and ``level``.

    They need WITH RECURSIVE, a CTE ``sent(tenant, n)`` before them (how many messages of a tenant are under
    way), and the parameters ``queue`` and those of `dice`. ``early`` are those that are ahead of their turn
    by rank. ``joined`` and ``where`` narrow the rows ``s``.
    """
    row = "s.id, s.tenant, s.rank, s.priority + s.suspect::integer AS boost"
    return f"""{_TENANTS}, found AS (
    SELECT best.* FROM (SELECT tenant FROM tenants WHERE tenant <= upper) AS t CROSS JOIN LATERAL (
        SELECT {row} FROM task_state s {joined} WHERE {READY} AND s.tenant = t.tenant AND {where}
        ORDER BY s.rank LIMIT greatest({FLOOD}, %(limit)s / (SELECT count(*) FROM tenants))
    ) AS best
    UNION
    (SELECT {row} FROM task_state s {joined} WHERE {READY} AND {where} ORDER BY s.rank LIMIT %(limit)s)
), counted AS (
    SELECT f.*, count(*) OVER (PARTITION BY f.tenant) + coalesce(sent.n, 0) AS n
    FROM found f LEFT JOIN sent USING (tenant)
), weighed AS (
    SELECT *, n >= {FLOOD} AS yields,
        max(boost) OVER (PARTITION BY tenant ORDER BY rank DESC) - {COST} AS level,
        row_number() OVER (PARTITION BY tenant ORDER BY rank, id) AS nth,
        row_number() OVER (ORDER BY rank, id) AS by_rank
    FROM counted
), ordered AS (
    SELECT *, row_number() OVER (
        ORDER BY level DESC, CASE WHEN yields THEN nth + random() END NULLS FIRST, rank, id) AS fair
    FROM weighed
), placed AS (
    SELECT *, least(fair, {RANK_EVERY} * by_rank - %(phase)s) AS place,
        {RANK_EVERY} * by_rank - %(phase)s < fair AS early
    FROM ordered
)"""


def dice(wanted: int) -> dict[str, Any]:
    """The parameters of `candidates` for ``wanted`` places."""
    return {
        "limit": wanted + SPARE,
        "start": random.randrange(-(2**31) + 1, 2**31),
        "phase": random.randrange(RANK_EVERY),
    }
