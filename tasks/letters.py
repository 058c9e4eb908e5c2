"""Reading the dead letters: lists, clusters first, and what of them can be replayed."""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session
from tasks.letter_records import FOREIGN, TASK, Candidate, Cluster, Letter, LetterDetail, LetterFilter
from tasks.records import Task

OPEN, ANY = "open", "any"
#: So many of its newest letters are named with a cluster.
NEWEST = 5
#: So much is shown of a message that is not ours.
SHOWN_BYTES = 65_536
#: A text is looked for in so many of the newest letters that fit the other filters.
SEARCHED = 20_000


class Found(NamedTuple):
    """A part of a list, how many there are in all, and whether that is exact."""

    items: list[Any]
    total: int
    is_exact: bool


class LetterQueries:
    """All questions about dead letters, on the database of a `tasks.queries.Queries`."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def letters(self, wanted: LetterFilter, *, limit: int, offset: int) -> Found:
        """A part of the letters that match (`Letter`), newest first."""
        params = _params(wanted) | {"limit": limit, "offset": offset}
        with session(self._database):
            rows = self._rows(_within(_LIST, wanted), params)
            ((total,),) = self._rows(_within(_COUNT, wanted), params)
            return Found([Letter(**_fields(row)) for row in rows], total, self._saw_all(wanted, params))

    def letter(self, letter_id: UUID, *, owner: str | None = None) -> Letter | None:
        """A letter, or None if there is none or it is not ``owner``'s (None: anybody's)."""
        with session(self._database):
            rows = self._rows(_ONE, {"id": letter_id, "owner": owner})
        return Letter(**_fields(rows[0])) if rows else None

    def detail(self, letter: Letter, task: Task | None) -> LetterDetail:
        """The whole of a letter, with its task as it is now."""
        with session(self._database):
            rows = self._rows(_MORE, {"id": letter.dead_letter_id, "shown": SHOWN_BYTES})
        payload, traceback, replay_id, body, *rest = rows[0] if rows else (None, None, None, None)
        payload = payload if body is None else _foreign(bytes(body), *rest)
        known = {name: getattr(letter, name) for name in letter.__struct_fields__}
        return LetterDetail(**known, payload=payload, traceback=traceback, replay_id=replay_id, task=task)

    def clusters(self, wanted: LetterFilter, *, limit: int, offset: int) -> Found:
        """A part of the clusters of letters that match (`Cluster`), the largest first."""
        params = _params(wanted) | {"limit": limit, "offset": offset, "newest": NEWEST}
        with session(self._database):
            rows = self._rows(_within(_CLUSTERS, wanted), params)
            ((total,),) = self._rows(_within(_COUNT_CLUSTERS, wanted), params)
            clusters = [Cluster(**dict(zip(Cluster.__struct_fields__, row, strict=True))) for row in rows]
            return Found(clusters, total, self._saw_all(wanted, params))

    def candidates(
        self, wanted: LetterFilter, *, after: Candidate | None, limit: int, payloads: bool
    ) -> list[Candidate]:
        """The next letters that match, oldest first; ``after`` is the last one of those before.

        A text is looked for in all of them.
        """
        demands = _demands(wanted) + (f" AND {_CONTAINING}" if wanted.q else "")
        params = _params(wanted) | {"limit": limit, "payloads": payloads}
        if after is not None:
            demands += " AND (d.failed_at, d.id) > (%(at)s, %(after)s)"
            params |= {"at": after.failed_at, "after": after.dead_letter}
        with session(self._database):
            return [candidate(row) for row in self._rows(_CANDIDATES.format(demands=demands), params)]

    def candidate(self, letter_id: UUID) -> Candidate | None:
        """A letter with what is needed to judge another payload for its task."""
        params = {"id": letter_id, "limit": 1, "payloads": False}
        with session(self._database):
            rows = self._rows(_CANDIDATES.format(demands="d.id = %(id)s"), params)
        return candidate(rows[0]) if rows else None

    def _saw_all(self, wanted: LetterFilter, params: dict[str, Any]) -> bool:
        """Whether a text was looked for in all letters that fit the rest."""
        return not wanted.q or not self._rows(_BEYOND.format(demands=_demands(wanted)), params)

    def _rows(self, sql: str, params: Any) -> list[Any]:
        return list(self._database.execute_sql(sql, params).fetchall())


def _params(wanted: LetterFilter) -> dict[str, Any]:
    return {name: getattr(wanted, name) for name in wanted.__struct_fields__}


def _within(statement: str, wanted: LetterFilter) -> str:
    """A statement about the letters ``d`` that match; a text is looked for once, in the newest of them."""
    demands = _demands(wanted)
    if not wanted.q:
        return statement.format(searched="WITH", letters=f"dead_letters d WHERE {demands}")
    return statement.format(searched=_SEARCHED.format(demands=demands), letters="searched d WHERE true")


def _demands(wanted: LetterFilter) -> str:
    """What a filter demands of rows ``d`` of dead_letters, but for its text, as SQL with named parameters."""
    simple = {
        "d.user_id = %(owner)s": wanted.owner,
        "d.task_type = %(task_type)s": wanted.task_type,
        "d.queue_name = %(queue_name)s": wanted.queue_name,
        "d.error_class = %(error_class)s": wanted.error_class,
        "d.user_id = %(user_id)s": wanted.user_id,
        "d.failed_at >= %(since)s": wanted.since,
        "d.failed_at < %(until)s": wanted.until,
        "d.fingerprint = %(cluster)s": wanted.cluster,
        "d.resolution = %(resolution)s": None if wanted.resolution in (OPEN, ANY) else wanted.resolution,
    }
    demands = ["true", *(sql for sql, value in simple.items() if value not in (None, ""))]
    if wanted.resolution == OPEN:
        demands.append("d.resolution IS NULL")
    return " AND ".join(demands)


def _fields(row: Sequence[Any]) -> dict[str, Any]:
    fields = dict(zip(_COLUMNS, row, strict=True))
    code, message = fields.pop("code"), fields.pop("message")
    return {**fields, "error": {"code": code, "message": message}}


def _foreign(body: bytes, size: int, properties: dict[str, Any]) -> dict[str, Any]:
    """A message of others as people can read it, cut after `SHOWN_BYTES`."""
    try:
        text, encoding = body.decode().replace("\0", "�"), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(body).decode(), "base64"
    return {"body": text, "encoding": encoding, "size_bytes": size, "properties": properties}


def candidate(row: Sequence[Any]) -> Candidate:
    """A candidate from a row of the columns ``CANDIDATE``, and of a job's item if there are more."""
    return Candidate(**dict(zip(Candidate.__struct_fields__, row, strict=False)))


_CONTAINING = """(
    strpos(lower(concat_ws(E'\\n', d.task_type, d.error_class, d.code, d.message)), lower(%(q)s)) > 0
    OR starts_with(d.id::text, lower(%(q)s)) OR starts_with(d.task_id::text, lower(%(q)s)))"""

_COLUMNS = (
    *(
        "dead_letter_id",
        "kind",
        "task_id",
        "task_type",
        "queue_name",
        "user_id",
        "run_id",
        "stage",
        "attempt",
    ),
    *("error_class", "code", "message", "fingerprint", "failed_at"),
    *("resolution", "resolved_at", "resolved_by"),
)
_LETTER = f"""d.id, CASE WHEN d.task_id IS NULL THEN '{FOREIGN}' ELSE '{TASK}' END,
    coalesce(d.task_id, f.replayed_as), d.task_type, d.queue_name, nullif(d.user_id, ''), t.run_id, t.stage,
    d.attempt, d.error_class, d.code, d.message, d.fingerprint, d.failed_at, d.resolution, d.resolved_at,
    d.resolver"""

_RELATED = """LEFT JOIN tasks t ON t.id = d.task_id
    LEFT JOIN foreign_messages f ON d.task_id IS NULL AND f.dead_letter = d.id"""

_SEARCHED = f"""
WITH searched AS MATERIALIZED (
    SELECT * FROM (
        SELECT * FROM dead_letters d WHERE {{demands}} ORDER BY d.failed_at DESC, d.id DESC LIMIT {SEARCHED}
    ) AS d WHERE {_CONTAINING}
),"""
_BEYOND = f"SELECT 1 FROM dead_letters d WHERE {{demands}} LIMIT 1 OFFSET {SEARCHED}"

_LIST = f"""
{{searched}} page AS (
    SELECT * FROM {{letters}} ORDER BY d.failed_at DESC, d.id DESC LIMIT %(limit)s OFFSET %(offset)s
)
SELECT {_LETTER} FROM page d {_RELATED} ORDER BY d.failed_at DESC, d.id DESC"""
_COUNT = "{searched} counted AS (SELECT count(*) AS n FROM {letters}) SELECT n FROM counted"

_ONE = f"""
SELECT {_LETTER} FROM dead_letters d {_RELATED}
WHERE d.id = %(id)s AND (%(owner)s::text IS NULL OR d.user_id = %(owner)s)"""

_MORE = f"""
SELECT coalesce(d.payload, t.payload), d.traceback,
    (SELECT i.replay FROM replay_items i WHERE i.ticket = d.resolved_by),
    substring(f.body FROM 1 FOR %(shown)s), length(f.body), f.properties
FROM dead_letters d {_RELATED} WHERE d.id = %(id)s"""

_CLUSTERS = """
{searched} found AS (
    SELECT d.fingerprint, count(*) AS n, max(d.failed_at) AS latest FROM {letters}
    AND d.fingerprint IS NOT NULL
    GROUP BY 1 ORDER BY 2 DESC, 3 DESC, 1 LIMIT %(limit)s OFFSET %(offset)s
)
SELECT f.fingerprint, newest.error_class, newest.message, f.n, seen.first, seen.last, kinds.types,
    kinds.queues,
    ARRAY(SELECT d.id FROM {letters} AND d.fingerprint = f.fingerprint
        ORDER BY d.failed_at DESC, d.id DESC LIMIT %(newest)s)
FROM found f CROSS JOIN LATERAL (
    SELECT d.error_class, d.message FROM {letters} AND d.fingerprint = f.fingerprint
    ORDER BY d.failed_at DESC, d.id DESC LIMIT 1
) AS newest CROSS JOIN LATERAL (
    SELECT array_agg(DISTINCT d.task_type) AS types, array_agg(DISTINCT d.queue_name) AS queues
    FROM {letters} AND d.fingerprint = f.fingerprint
) AS kinds CROSS JOIN LATERAL (
    SELECT min(d.failed_at) AS first, max(d.failed_at) AS last FROM dead_letters d
    WHERE d.fingerprint = f.fingerprint AND (%(owner)s::text IS NULL OR d.user_id = %(owner)s)
) AS seen ORDER BY f.n DESC, f.latest DESC, f.fingerprint"""
_COUNT_CLUSTERS = """
{searched} counted AS (SELECT count(DISTINCT d.fingerprint) AS n FROM {letters}) SELECT n FROM counted"""

#: The columns of a candidate, of letters ``d`` with their tasks ``t``, states ``s`` and runs' states ``r``.
CANDIDATE = """
    d.id, d.task_id, d.failed_at, d.task_type, d.user_id, t.project_id, t.kb_id, t.run_id IS NOT NULL,
    CASE WHEN %(payloads)s THEN t.payload END,
    CASE WHEN d.id IS NULL THEN 'missing' WHEN d.resolution IS NOT NULL THEN 'resolved'
        WHEN d.task_id IS NULL THEN 'foreign' WHEN t.id IS NULL THEN 'missing'
        WHEN r.status IN ('completed', 'cancelled') THEN 'run_is_over'
        WHEN s.status <> 'failed' THEN 'not_failed' END"""
OF_TASK = """
LEFT JOIN tasks t ON t.id = d.task_id LEFT JOIN task_state s ON s.id = t.id
LEFT JOIN task_state r ON r.id = t.run_id"""

_CANDIDATES = f"""
SELECT {CANDIDATE} FROM (
    SELECT * FROM dead_letters d WHERE {{demands}} ORDER BY d.failed_at, d.id LIMIT %(limit)s
) AS d {OF_TASK} ORDER BY d.failed_at, d.id"""
