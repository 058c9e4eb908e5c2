"""Conditions that only the index made for them can answer.

Postgres guesses how many tasks are queued from what it saw when it last analysed the table. If nothing was
queued then, any index that holds what is queued, or unfinished, seems as good as the one that has the right
order, and a look at the first few tasks reads a whole backlog. So the indexes of work that waits have their
condition in words of their own, and what is said in these words is answered by them alone.
"""

from collections.abc import Sequence
from typing import Final

#: For connections that write: rows are found by their indexes, however small Postgres takes a table to be. To
#: read all of it looks cheaper up to some ten thousand rows, for every handful of tasks; nor is any of these
#: statements worth to be compiled.
BY_INDEX: Final = "SET enable_seqscan = off; SET random_page_cost = 1.1; SET jit = off"
#: A statement that was planned when a table was small is planned anew.
FORGET: Final = "DISCARD PLANS"
#: The sizes of the tables that grow with the tasks, in bytes.
SIZES: Final = """
SELECT pg_relation_size('tasks'), pg_relation_size('task_state'), pg_relation_size('attempts'),
    pg_relation_size('events'), pg_relation_size('tallies')"""
#: So often the sizes are looked at, and so long plans are kept where nothing grows.
LOOK_SECONDS, KEPT_SECONDS = 1.0, 60.0
#: As small as this (some hundred tasks), a table may as well be read as a whole.
SMALL_BYTES: Final = 64 << 10


def are_stale(seconds: float, before: Sequence[int], now: Sequence[int]) -> bool:
    """Whether plans made so long ago, when tables had other sizes, are to be made anew.

    What is right for a hundred tasks reads all of ten thousand, whoever recorded them; and to plan costs the
    next verb more than to be executed: where tasks come one by one that is what they wait for.
    """
    grown = any(size > 2 * max(known, SMALL_BYTES) for known, size in zip(before, now, strict=True))
    return grown or seconds > KEPT_SECONDS


def is_queued(table: str = "s") -> str:
    """That a row of ``task_state`` is queued, for a look at many: at what is ready, sent, or has a key."""
    return f"coalesce({table}.status, '') = 'queued'"


def is_running(table: str = "s") -> str:
    """That a row is running, for rows found by their ids: what ran before is in the indexes for a while."""
    return f"coalesce({table}.status, '') = 'running'"


def is_unfinished(table: str = "s") -> str:
    """That a row is in no final state, for a look at many in the order of their ids.

    In these words `is_queued` does not imply it: else a look at one queue may read what all of them hold.
    """
    return f"coalesce({table}.status, 'none') IN ('scheduled', 'blocked', 'queued', 'running', 'retrying')"


def distinct(column: str, table: str, where: str) -> str:
    """A subselect of the values, not empty ones, of a column: one probe of its index for each of them.

    What it costs goes by how many there are, not by how many rows have them.
    """
    return f"""(WITH RECURSIVE found(value) AS (
        (SELECT {column} FROM {table} WHERE {where} AND {column} > '' ORDER BY {column} LIMIT 1)
        UNION ALL
        SELECT next.value FROM found CROSS JOIN LATERAL (
            SELECT {column} FROM {table} WHERE {where} AND {column} > found.value ORDER BY {column} LIMIT 1
        ) AS next(value)
    ) SELECT value FROM found)"""
