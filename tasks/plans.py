"""Conditions that only the index made for them can answer.

Postgres guesses how many tasks are queued from what it saw when it last analysed the table. If nothing was
queued then, any index that holds what is queued, or unfinished, seems as good as the one that has the right
order, and a look at the first few tasks reads a whole backlog. So the indexes of work that waits have their
condition in words of their own, and what is said in these words is answered by them alone.
"""

from typing import Final

#: For connections that write: rows are found by their indexes, however small Postgres takes a table to be. To
#: read all of it looks cheaper up to some ten thousand rows, for every handful of tasks; nor is any of these
#: statements worth to be compiled.
BY_INDEX: Final = "SET enable_seqscan = off; SET random_page_cost = 1.1; SET jit = off"
#: A statement that was planned when a table was small is planned anew.
FORGET: Final = "DISCARD PLANS"
#: Plans are kept for so long where much is recorded, and where fewer verbs than so many came meanwhile:
BUSY_SECONDS, MANY_VERBS, QUIET_SECONDS = 1.0, 100, 10.0


def are_stale(seconds: float, verbs: int) -> bool:
    """Whether plans made so long ago, and used for so many verbs, are to be made anew.

    Tables grow as fast as is recorded. To plan costs the next verb more than to be executed: where tasks come
    one by one that is what they wait for.
    """
    return seconds > (BUSY_SECONDS if verbs >= MANY_VERBS else QUIET_SECONDS)


def is_queued(table: str = "s") -> str:
    """That a row of ``task_state`` is queued, for a look at many: at what is ready, sent, or has a key."""
    return f"coalesce({table}.status, '') = 'queued'"


def is_running(table: str = "s") -> str:
    """That a row is running, for rows found by their ids: what ran before is in the indexes for a while."""
    return f"coalesce({table}.status, '') = 'running'"


def is_unfinished(table: str = "s") -> str:
    """That a row is in no final state, for a look at many in the order of their ids."""
    return f"coalesce({table}.status, '') IN ('scheduled', 'blocked', 'queued', 'running', 'retrying')"


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
