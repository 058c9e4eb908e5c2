"""Reading statistics: exact at every moment, from folded buckets, tallies, and the tasks of broken minutes.

A window is covered by whole days, hours and minutes as far as such buckets are kept (see `tasks.windows`);
what is left at its ends is read from the tasks themselves.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from tasks.records import Figures, Point, Series, Spent, Statistics
from tasks.states import CANCELLED, COMPLETED, FAILED, FINAL, UNFINISHED
from tasks.windows import Window, plan

SUBMITTED = "submitted"
#: A slot of a histogram is so many times as wide as the one before.
SLOT_GROWTH = 1.05


# The states of tasks are looked up one by one: nobody knows beforehand how few are at the ends of a window.
_PARTS = """
WITH pieces AS (
    SELECT * FROM unnest(%(levels)s::text[], %(since)s::timestamptz[], %(until)s::timestamptz[],
        %(uses)s::text[]) AS p(level, since, until, use)
), parts AS MATERIALIZED (
    SELECT p.use, s.task_type, s.queue_name, s.status, s.bucket AS at, s.count, s.duration_ms, s.slots,
        s.numbers
    FROM pieces p, LATERAL (
        SELECT * FROM statistics s
        WHERE s.everyone = %(everyone)s AND s.user_id = %(user)s AND s.level = p.level AND s.bucket < p.until
        AND s.status IN ('submitted', 'completed', 'failed', 'cancelled')
        AND s.bucket >= CASE WHEN p.level = 'all' THEN '-infinity' ELSE p.since END {narrower} OFFSET 0
    ) AS s
    UNION ALL
    SELECT p.use, s.task_type, s.queue_name, s.status, s.minute, s.count, s.duration_ms, s.durations,
        array_fill(sign(s.count)::bigint, ARRAY[coalesce(cardinality(s.durations), 0)])
    FROM pieces p JOIN tallies s ON s.minute >= p.since AND s.minute < p.until
    WHERE p.level <> 'raw' AND (%(everyone)s OR s.user_id = %(user)s)
    AND s.status IN ('submitted', 'completed', 'failed', 'cancelled') {narrower}
    UNION ALL
    SELECT p.use, t.task_type, t.queue_name, what.status, t.created_at, 1, what.duration_ms, what.slots,
        ARRAY[1::bigint]
    FROM pieces p JOIN tasks t ON t.created_at >= p.since AND t.created_at < p.until
    CROSS JOIN LATERAL (SELECT * FROM task_state s WHERE s.id = t.id OFFSET 0) AS s
    CROSS JOIN LATERAL (
        SELECT 'submitted' AS status, 0::float8 AS duration_ms, NULL::smallint[] AS slots
        UNION ALL
        SELECT s.status, coalesce(ms, 0),
            CASE WHEN ms IS NOT NULL THEN ARRAY[floor(ln(greatest(ms, 0.1)) / ln(1.05::float8))::smallint] END
        FROM (SELECT CASE WHEN s.status = 'completed'
            THEN extract(epoch FROM s.finished_at - s.started_at)::float8 * 1000 END AS ms) AS took
        WHERE s.status IN ('completed', 'failed', 'cancelled')
    ) AS what
    WHERE p.level = 'raw' AND (%(everyone)s OR t.user_id = %(user)s) {narrower_raw}
)"""

# Each figure for everything (both names NULL), for each type, and for each queue.
_READ = (
    _PARTS
    + """, filled AS MATERIALIZED (
    SELECT task_type, queue_name, slot, sum(number)::bigint AS number
    FROM parts, unnest(slots, numbers) AS h(slot, number) WHERE use <> 'series' AND slot IS NOT NULL
    GROUP BY 1, 2, 3
), durations AS (
    SELECT task_type, queue_name, slot, sum(number) AS number
    FROM filled GROUP BY GROUPING SETS ((slot), (task_type, slot), (queue_name, slot))
), passed AS (
    SELECT task_type, queue_name, slot, sum(number) OVER up AS passed, sum(number) OVER whole AS number
    FROM durations WHERE number > 0
    WINDOW whole AS (PARTITION BY task_type, queue_name), up AS (whole ORDER BY slot)
)
SELECT 'counts', task_type, queue_name, status, NULL::timestamptz, sum(count)::bigint, sum(duration_ms)
FROM parts WHERE use <> 'series'
GROUP BY GROUPING SETS ((status), (task_type, status), (queue_name, status))
UNION ALL
SELECT share.name, task_type, queue_name, NULL, NULL, min(slot), 0
FROM passed, (VALUES ('p50', 0.50), ('p95', 0.95)) AS share(name, part)
WHERE passed >= share.part * number GROUP BY 1, 2, 3
UNION ALL
SELECT 'series', NULL, NULL, status, date_trunc(%(bucket)s, at, 'UTC'), sum(count)::bigint, 0
FROM parts WHERE use <> 'figures' GROUP BY 4, 5"""
)

_KEPT = """
SELECT status, sum(kept) FROM (
    SELECT status, kept FROM statistics s
    WHERE s.everyone = %(everyone)s AND s.user_id = %(user)s AND s.level = 'all' {narrower}
    UNION ALL
    SELECT status, kept FROM tallies s WHERE (%(everyone)s OR s.user_id = %(user)s) {narrower}
) AS known GROUP BY 1"""

_MEDIANS = """
SELECT task_type, min(slot) FROM (
    SELECT task_type, slot, sum(number) OVER up AS passed, sum(number) OVER whole AS number FROM (
        SELECT task_type, slot, sum(number) AS number
        FROM statistics s, unnest(slots, numbers) AS h(slot, number)
        WHERE everyone AND user_id = '' AND level = 'all' AND status = 'completed' AND slot IS NOT NULL
        GROUP BY 1, 2) AS durations
    WHERE number > 0 WINDOW whole AS (PARTITION BY task_type), up AS (whole ORDER BY slot)
) AS cumulated WHERE passed >= 0.5 * number GROUP BY 1"""


_SPENT = """
SELECT task_type, sum(count), sum(duration_ms) FROM (
    SELECT task_type, count, duration_ms FROM statistics
    WHERE everyone AND user_id = '' AND level = 'all' AND status = 'completed'
    UNION ALL
    SELECT task_type, count, duration_ms FROM tallies WHERE status = 'completed') AS known GROUP BY 1"""


def read(execute: Any, window: Window, *, now: datetime | None = None) -> Statistics:
    """The statistics of a window. ``execute`` runs SQL on a database of the record and gives a cursor."""
    bucket, pieces = plan(window, now or datetime.now(UTC))
    narrower = _narrower(window.task_type, window.queue_name, window.stages)
    raw = narrower.replace("NOT s.is_stage", "t.run_id IS NULL").replace("s.task_type", "t.task_type")
    sql = _READ.format(narrower=narrower, narrower_raw=raw.replace("s.queue_name", "t.queue_name"))
    params = {
        "levels": [piece.level for piece in pieces],
        "since": [piece.since for piece in pieces],
        "until": [piece.until for piece in pieces],
        "uses": [piece.use for piece in pieces],
        "bucket": bucket,
        **_whose(window.user),
        "task_type": window.task_type,
        "queue_name": window.queue_name,
    }
    sums: dict[tuple[str | None, str | None], _Sum] = {(None, None): _Sum()}
    series: dict[datetime, Counter[str]] = {}
    for what, task_type, queue, status, at, number, duration in execute(sql, params):
        if what == "series":
            series.setdefault(at, Counter())[status] += number
        else:
            sums.setdefault((task_type, queue), _Sum()).add(what, status, number, duration)
    points = [_point(at, series[at]) for at in sorted(series) if any(series[at].values())]
    return Statistics(
        **sums.pop((None, None)).figures(),
        by_type=_named((name, one) for (name, _), one in sums.items()),
        by_queue=_named((name, one) for (_, name), one in sums.items()),
        series=Series(bucket, points),
    )


def kept(
    execute: Any, *, user: str | None, task_type: str | None, queue_name: str | None, stages: bool
) -> dict[str, int]:
    """How many tasks are on record in each final state, and in ``submitted`` all together."""
    sql = _KEPT.format(narrower=_narrower(task_type, queue_name, stages))
    params = {**_whose(user), "task_type": task_type, "queue_name": queue_name}
    return {status: int(number) for status, number in execute(sql, params)}


def kept_in(counts: dict[str, int], statuses: Sequence[str]) -> int | None:
    """How many of ``kept`` are in these states (in any, if there are none); None if it takes counting."""
    if not statuses:
        return counts.get(SUBMITTED, 0)
    asked = set(statuses)
    final = sum(counts.get(status, 0) for status in asked & FINAL)
    if not asked & UNFINISHED:
        return final
    if asked >= UNFINISHED:
        return final + counts.get(SUBMITTED, 0) - sum(counts.get(status, 0) for status in FINAL)
    return None


def medians(execute: Any) -> dict[str, float]:
    """The median duration in milliseconds of each type's completed tasks."""
    return {task_type: _milliseconds(slot) for task_type, slot in execute(_MEDIANS, {})}


def spent(execute: Any) -> dict[str, Spent]:
    """What the completed tasks of each type took."""
    return {
        task_type: Spent(int(count), duration)
        for task_type, count, duration in execute(_SPENT, {})
        if count > 0
    }


def _whose(user: str | None) -> dict[str, Any]:
    return {"everyone": user is None, "user": user or ""}


def _narrower(task_type: str | None, queue_name: str | None, stages: bool) -> str:
    conditions = {
        " AND s.task_type = %(task_type)s": task_type is not None,
        " AND s.queue_name = %(queue_name)s": queue_name is not None,
        " AND NOT s.is_stage": not stages,
    }
    return "".join(condition for condition, holds in conditions.items() if holds)


class _Sum:
    """What the tasks of one kind add up to."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._duration = 0.0
        self._slots: dict[str, int] = {}

    def add(self, what: str, status: str, number: int, duration: float) -> None:
        if what == "counts":
            self._counts[status] = number
            self._duration += duration
        else:
            self._slots[what] = number

    def figures(self) -> dict[str, Any]:
        counts = self._counts
        judged = counts[COMPLETED] + counts[FAILED]
        return {
            "total": counts[SUBMITTED],
            "completed": counts[COMPLETED],
            "failed": counts[FAILED],
            "cancelled": counts[CANCELLED],
            "success_rate": round(100 * counts[COMPLETED] / judged, 2) if judged else 0.0,
            "avg_duration_ms": round(self._duration / counts[COMPLETED], 3) if counts[COMPLETED] else 0.0,
            "p50": _milliseconds(self._slots.get("p50")),
            "p95": _milliseconds(self._slots.get("p95")),
        }


def _named(sums: Iterable[tuple[str | None, _Sum]]) -> dict[str, Figures]:
    found = {name: Figures(**one.figures()) for name, one in sums if name is not None}
    return {name: found[name] for name in sorted(found) if found[name].total or found[name].completed}


def _point(at: datetime, counts: Counter[str]) -> Point:
    return Point(
        start=at,
        total=counts[SUBMITTED],
        completed=counts[COMPLETED],
        failed=counts[FAILED],
        cancelled=counts[CANCELLED],
    )


def _milliseconds(slot: int | None) -> float:
    """The duration in the middle of a slot."""
    return 0.0 if slot is None else float(round(SLOT_GROWTH ** (slot + 0.5), 3))
