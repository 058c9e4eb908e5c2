"""Reading the dead letters: lists, clusters first, and what of them can be replayed."""

import base64
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from playhouse.pool import PooledPostgresqlDatabase

from tasks.database import session
from tasks.letter_records import FOREIGN, TASK, Candidate, Cluster, Letter, LetterDetail, LetterFilter
from tasks.records import Task

OPEN, ANY = "open", "any"
#: So many of its newest letters are named with a cluster.
NEWEST = 5
#: So many candidates are read at a time.
PAGE = 1_000
#: So much is shown of a message that is not ours.
SHOWN_BYTES = 65_536


class LetterQueries:
    """All questions about dead letters, on the database of a `tasks.queries.Queries`."""

    def __init__(self, database: PooledPostgresqlDatabase) -> None:
        self._database = database

    def letters(self, wanted: LetterFilter, *, limit: int, offset: int) -> tuple[list[Letter], int]:
        """A part of the letters that match, newest first, and how many there are in all."""
        demands, params = _demands(wanted)
        params |= {"limit": limit, "offset": offset}
        with session(self._database):
            rows = self._rows(_LIST.format(demands=demands), params)
            ((total,),) = self._rows(_COUNT.format(demands=demands), params)
        return [Letter(**_fields(row)) for row in rows], total

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

    def clusters(self, wanted: LetterFilter, *, limit: int, offset: int) -> tuple[list[Cluster], int]:
        """A part of the clusters of letters that match, the largest first, and how many there are."""
        demands, params = _demands(wanted)
        params |= {"limit": limit, "offset": offset, "newest": NEWEST, "owner": wanted.owner}
        with session(self._database):
            rows = self._rows(_CLUSTERS.format(demands=demands), params)
            ((total,),) = self._rows(_COUNT_CLUSTERS.format(demands=demands), params)
        return [Cluster(**dict(zip(Cluster.__struct_fields__, row, strict=True))) for row in rows], total

    def candidates(
        self, wanted: LetterFilter, *, after: Candidate | None, limit: int, payloads: bool
    ) -> list[Candidate]:
        """The next letters that match, oldest first; ``after`` is the last one of those before."""
        demands, params = _demands(wanted)
        params |= {"limit": limit, "payloads": payloads}
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

    def _rows(self, sql: str, params: Any) -> list[Any]:
        return list(self._database.execute_sql(sql, params).fetchall())


def _demands(wanted: LetterFilter) -> tuple[str, dict[str, Any]]:
    """What a filter demands of rows ``d`` of dead_letters, as SQL with named parameters."""
    simple = {
        "d.user_id = %(owner)s": wanted.owner,
        "d.task_type = %(task_type)s": wanted.task_type,
        "d.queue_name = %(queue_name)s": wanted.queue_name,
        "d.error_class = %(error_class)s": wanted.error_class,
        "d.user_id = %(user_id)s": wanted.user_id,
        "d.failed_at >= %(since)s": wanted.since,
        "d.failed_at < %(until)s": wanted.until,
        "d.fingerprint = %(cluster)s": wanted.cluster,
        _CONTAINING: wanted.q,
        "d.resolution = %(resolution)s": None if wanted.resolution in (OPEN, ANY) else wanted.resolution,
    }
    demands = ["true", *(sql for sql, value in simple.items() if value not in (None, ""))]
    if wanted.resolution == OPEN:
        demands.append("d.resolution IS NULL")
    return " AND ".join(demands), {name: getattr(wanted, name) for name in wanted.__struct_fields__}


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

_LIST = f"""
SELECT {_LETTER} FROM (
    SELECT * FROM dead_letters d WHERE {{demands}}
    ORDER BY d.failed_at DESC, d.id DESC LIMIT %(limit)s OFFSET %(offset)s
) AS d {_RELATED} ORDER BY d.failed_at DESC, d.id DESC"""
_COUNT = "SELECT count(*) FROM dead_letters d WHERE {demands}"

_ONE = f"""
SELECT {_LETTER} FROM dead_letters d {_RELATED}
WHERE d.id = %(id)s AND (%(owner)s::text IS NULL OR d.user_id = %(owner)s)"""

_MORE = f"""
SELECT coalesce(d.payload, t.payload), d.traceback,
    (SELECT i.replay FROM replay_items i WHERE i.ticket = d.resolved_by),
    substring(f.body FROM 1 FOR %(shown)s), length(f.body), f.properties
FROM dead_letters d {_RELATED} WHERE d.id = %(id)s"""

_CLUSTERS = """
WITH found AS (
    SELECT d.fingerprint, count(*) AS n, max(d.failed_at) AS latest FROM dead_letters d
    WHERE {demands} AND d.fingerprint IS NOT NULL
    GROUP BY 1 ORDER BY 2 DESC, 3 DESC, 1 LIMIT %(limit)s OFFSET %(offset)s
)
SELECT f.fingerprint, newest.error_class, newest.message, f.n, seen.first, seen.last, kinds.types,
    kinds.queues,
    ARRAY(SELECT d.id FROM dead_letters d WHERE {demands} AND d.fingerprint = f.fingerprint
        ORDER BY d.failed_at DESC, d.id DESC LIMIT %(newest)s)
FROM found f CROSS JOIN LATERAL (
    SELECT d.error_class, d.message FROM dead_letters d WHERE {demands} AND d.fingerprint = f.fingerprint
    ORDER BY d.failed_at DESC, d.id DESC LIMIT 1
) AS newest CROSS JOIN LATERAL (
    SELECT array_agg(DISTINCT d.task_type) AS types, array_agg(DISTINCT d.queue_name) AS queues
    FROM dead_letters d WHERE {demands} AND d.fingerprint = f.fingerprint
) AS kinds CROSS JOIN LATERAL (
    SELECT min(d.failed_at) AS first, max(d.failed_at) AS last FROM dead_letters d
    WHERE d.fingerprint = f.fingerprint AND (%(owner)s::text IS NULL OR d.user_id = %(owner)s)
) AS seen ORDER BY f.n DESC, f.latest DESC, f.fingerprint"""
_COUNT_CLUSTERS = "SELECT count(DISTINCT d.fingerprint) FROM dead_letters d WHERE {demands}"

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
