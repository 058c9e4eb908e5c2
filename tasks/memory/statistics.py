"""Statistics in memory: the same figures as those of `tasks.statistics`, simply counted."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from tasks.memory.store import Row
from tasks.records import Figures, Point, Series, Statistics, milliseconds
from tasks.states import CANCELLED, COMPLETED, FAILED
from tasks.statistics import SLOT_GROWTH
from tasks.windows import BEGINNING, LEVELS, Window, plan


def read(rows: Iterable[Row], window: Window, now: datetime) -> Statistics:
    """The statistics of a window."""
    counted = [row for row in rows if _counts(row, window)]
    types = sorted({row.new.task_type for row in counted})
    queues = sorted({row.new.queue_name for row in counted})
    whole = _figures(counted)
    return Statistics(
        **{name: getattr(whole, name) for name in Figures.__struct_fields__},
        by_type={name: _figures([row for row in counted if row.new.task_type == name]) for name in types},
        by_queue={name: _figures([row for row in counted if row.new.queue_name == name]) for name in queues},
        series=_series(counted, plan(window, now)[0]),
    )


def _counts(row: Row, window: Window) -> bool:
    new = row.new
    return (
        (window.since is None or row.created_at >= window.since)
        and (window.until is None or row.created_at < window.until)
        and (window.user is None or new.user_id == window.user)
        and (window.task_type is None or new.task_type == window.task_type)
        and (window.queue_name is None or new.queue_name == window.queue_name)
        and (window.stages or new.run_id is None)
    )


def _figures(rows: Sequence[Row]) -> Figures:
    counts = Counter(row.status for row in rows)
    judged = counts[COMPLETED] + counts[FAILED]
    ended = [row for row in rows if row.status == COMPLETED]
    took = sorted(filter(None, (milliseconds(row.started_at, row.finished_at) for row in ended)))
    return Figures(
        total=len(rows),
        completed=counts[COMPLETED],
        failed=counts[FAILED],
        cancelled=counts[CANCELLED],
        success_rate=round(100 * counts[COMPLETED] / judged, 2) if judged else 0.0,
        avg_duration_ms=round(sum(took) / len(ended), 3) if ended else 0.0,
        p50=_percentile(took, 0.5),
        p95=_percentile(took, 0.95),
    )


def _percentile(took: Sequence[float], share: float) -> float:
    """The duration below which so many are, by the same slots as on record."""
    if not took:
        return 0.0
    slot = math.floor(math.log(max(took[math.ceil(share * len(took)) - 1], 0.1), SLOT_GROWTH))
    return float(round(SLOT_GROWTH ** (slot + 0.5), 3))


def _series(rows: Iterable[Row], bucket: str) -> Series:
    step = LEVELS[bucket]
    points: dict[datetime, Counter[str]] = {}
    for row in rows:
        start = BEGINNING + (row.created_at - BEGINNING) // step * step
        points.setdefault(start, Counter()).update(["total", row.status])
    return Series(
        bucket,
        [
            Point(
                start=start,
                total=counts["total"],
                completed=counts[COMPLETED],
                failed=counts[FAILED],
                cancelled=counts[CANCELLED],
            )
            for start, counts in sorted(points.items())
        ],
    )
