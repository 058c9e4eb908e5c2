"""Hybrid search in one statement: the best by words and the best by vector, fused by their ranks.

In a hybrid search a hit by words counts by the share of the words that it holds, too (its ``coverage``).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from playhouse.pool import PooledPostgresqlDatabase

from pipelines.documents.store.filters import Filter
from pipelines.documents.store.highlights import highlights
from pipelines.documents.store.indexes import EXACT_UP_TO
from pipelines.documents.store.lexemes import query_lexemes
from pipelines.documents.store.rarity import narrowed
from pipelines.documents.store.records import Explanation, Hit, KnowledgeBase
from tasks.database import session
from tasks.errors import InvalidField

Mode = Literal["hybrid", "text", "vector"]
Vector = Sequence[float] | npt.NDArray[np.float32]

CANDIDATES = 50  # of each half
RANK_CONSTANT = 60  # of Reciprocal Rank Fusion: the larger, the less the first places stand out
MOST_HITS = 1000
EXACT_SHARE = 0.005  # of all rows: HNSW looks at 20,000, so that enough of a larger share are among them
MOST_RANKED = 2_000  # by words, in a large knowledge base: to read and rank that many takes about 10 ms
# What a filter leaves may all be far from the question, where HNSW does not come: exact for longer.
FILTERED_EXACT = 5
EVERYTHING = Filter()

# Only for this transaction. HNSW finds its nearest first and filters by knowledge base after: it must go
# on until enough are left. A plan kept from another knowledge base would be the wrong one for this. To start
# parallel workers takes longer than they save, and they were started for the half of a UNION that is not run.
_SETTINGS = """
SELECT set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.ef_search', '100', true),
       set_config('plan_cache_mode', 'force_custom_plan', true),
       set_config('max_parallel_workers_per_gather', '0', true)"""

# Materialized, so that the planner does not hope to come upon enough matches early and read the whole table.
# It is read lazily, query by query: what is beyond the limit is never ranked. Documents are joined for a
# filter only, since a hash of all documents takes as long as the ranking. Of the best, one by one, it is
# asked whether they are of the searchable version: a join would be that hash again.
_MATCHING = """
SELECT c.document_id, c.version, c.ordinal, ts_rank(c.tsv, to_tsquery('english', %(words)s), 1) AS score
FROM chunks c {filter}
WHERE c.kb = %(kb)s AND c.generation = %(generation)s
    AND c.tsv @@ to_tsquery('english', %(found_by_{n})s)"""

_KEPT = """
SELECT coalesce(sum(chunks), 0) FROM (
    SELECT chunks FROM documents d WHERE kb = %(kb)s AND chunks > 0 {filter} LIMIT %(exact)s + 1) d"""

_FILTERED = "JOIN documents d ON d.id = c.document_id {filter}"

_BY_TEXT = """
SELECT document_id, ordinal, best.score, {coverage} AS coverage
FROM (
    SELECT ranked.*
    FROM (SELECT * FROM (SELECT * FROM matching LIMIT %(most_ranked)s) m
          ORDER BY score DESC, document_id, ordinal) ranked
    WHERE version = (SELECT version FROM documents WHERE id = document_id)
    ORDER BY ranked.score DESC, ranked.document_id, ranked.ordinal LIMIT %(candidates)s
) best JOIN chunks c USING (document_id, version, ordinal) WHERE c.generation = %(generation)s"""

# HNSW looks at 20,000 rows at most. A knowledge base with a small share of all rows would come back
# incomplete, one with few rows is read as fast: both are searched exactly (`+ 0` hides the index).
_BY_VECTOR = """
(SELECT c.document_id, c.ordinal, {distance} AS distance
 FROM chunks c JOIN documents d ON d.id = c.document_id AND d.version = c.version {filter}
 WHERE c.kb = %(kb)s AND c.generation = %(generation)s AND c.dim = {dim} AND (SELECT is_small FROM size)
 ORDER BY {distance} + 0, c.document_id, c.ordinal LIMIT %(candidates)s)
UNION ALL
(SELECT c.document_id, c.ordinal, {distance} AS distance
 FROM chunks c JOIN documents d ON d.id = c.document_id AND d.version = c.version {filter}
 WHERE c.kb = %(kb)s AND c.generation = %(generation)s AND c.dim = {dim} AND NOT (SELECT is_small FROM size)
 ORDER BY {distance} LIMIT %(candidates)s)"""

_DISTANCE = "(c.embedding::halfvec({dim}) <=> %(vector)s::halfvec({dim}))"

_COVERAGE = "(SELECT avg((c.tsv @@ word)::int)::float8 FROM asked)"
_NO_COVERAGE = "NULL::float8"  # by words alone, no rank has to hold against another half's

_NO_TEXT = """
SELECT NULL::uuid AS document_id, NULL::int AS ordinal, NULL::real AS score, NULL::float8 AS coverage
WHERE false"""
_NO_VECTOR = "SELECT NULL::uuid AS document_id, NULL::int AS ordinal, NULL::float8 AS distance WHERE false"

# A rank says nothing of how good the best is: among chunks in another language the first one by words holds
# a number of the question, or a name. So a hit by words counts by the share of the words that it holds.
_SEARCH = """
WITH asked AS MATERIALIZED (
    SELECT DISTINCT word
    FROM unnest(%(asked)s::text[]) AS a (text), to_tsquery('english', text) AS word WHERE numnode(word) > 0
), matching AS MATERIALIZED ({matching}
), few AS MATERIALIZED (
    SELECT greatest(%(exact)s, %(exact_share)s * reltuples)::bigint AS chunks
    FROM pg_class WHERE oid = 'chunks'::regclass
), size AS MATERIALIZED (
    SELECT coalesce(sum(chunks), 0) <= (SELECT chunks FROM few) AS is_small
    FROM (SELECT chunks FROM documents d WHERE kb = %(kb)s AND chunks > 0 {filter}
          LIMIT (SELECT chunks + 1 FROM few)) d
), by_text AS (
    SELECT *, row_number() OVER (ORDER BY score DESC, document_id, ordinal) AS rank FROM ({by_text}) t
), by_vector AS (
    SELECT *, row_number() OVER (ORDER BY distance, document_id, ordinal) AS rank FROM ({by_vector}) v
), fused AS (
    SELECT document_id, ordinal, t.rank AS text_rank, t.score AS text_score,
           v.rank AS vector_rank, 1 - v.distance AS vector_score,
           t.coverage AS text_coverage,
           coalesce(%(text_weight)s::float8 * coalesce(t.coverage, 1) / (%(k)s + t.rank), 0)
           + coalesce(%(vector_weight)s::float8 / (%(k)s + v.rank), 0) AS score
    FROM by_text t FULL JOIN by_vector v USING (document_id, ordinal)
    ORDER BY score DESC, document_id, ordinal LIMIT %(limit)s
)
SELECT c.text, f.score, d.id, d.name, c.heading_path, c.start_offset, c.end_offset, c.tokens,
       f.text_rank, f.text_score, f.text_coverage, f.vector_rank, f.vector_score
FROM fused f JOIN documents d ON d.id = f.document_id
JOIN chunks c ON c.document_id = d.id AND c.version = d.version AND c.generation = %(generation)s
    AND c.ordinal = f.ordinal
ORDER BY f.score DESC, f.document_id, f.ordinal"""


class Search:
    """Finds the chunks of a knowledge base that answer a question.

    Knowledge bases of up to ``exact_up_to`` chunks are searched exactly, larger ones by HNSW and by the
    rarest words.
    """

    def __init__(self, database: PooledPostgresqlDatabase, *, exact_up_to: int = EXACT_UP_TO) -> None:
        self._database = database
        self._exact_up_to = exact_up_to

    def __call__(
        self,
        kb: KnowledgeBase,
        text: str,
        vector: Vector | None,
        *,
        limit: int = 10,
        mode: Mode = "hybrid",
        explain: bool = False,
        weight: float = 0.5,
        filter: Filter = EVERYTHING,
        highlight: bool = False,
    ) -> list[Hit]:
        """The best ``limit`` chunks for ``text`` and its embedding ``vector``, best first.

        ``weight`` is the share of the vectors in a hybrid score, the words have the rest. A text with
        no words (or stop words only) is found by its vector alone. Mode "text" needs no vector,
        mode "vector" no text. ``filter`` leaves documents out, ``highlight`` asks where in the hits the
        words are. Raises `InvalidField`.
        """
        _check(kb, vector, limit, mode, weight)
        values = self._values(kb, text, vector, limit, filter) | _weights(mode, weight)
        condition, wanted = filter.condition()
        values |= wanted
        with session(self._database), self._database.atomic():
            self._database.execute_sql(_SETTINGS)
            all_ranked = mode == "vector" or self._is_small(kb, values, condition)
            most, words = None if all_ranked else max(MOST_RANKED, limit), values["words"]
            queries = [words] if most is None else narrowed(self._database, words.split(" | "), most)
            values |= {"most_ranked": most} | {f"found_by_{n}": one for n, one in enumerate(queries)}
            statement = _statement(kb.dim, mode, condition, len(queries))
            rows = self._database.execute_sql(statement, values).fetchall()
            marks = highlights(self._database, text, [row[0] for row in rows]) if highlight else None
        share = _share(mode, weight)
        hits = [_hit(row, share if explain else None) for row in rows]
        return hits if marks is None else [replace(h, highlights=m) for h, m in zip(hits, marks, strict=True)]

    def _is_small(self, kb: KnowledgeBase, values: dict[str, Any], condition: str) -> bool:
        """Whether so few chunks are looked at that all that hold any of the words can be ranked."""
        if kb.chunks <= self._exact_up_to or not condition:
            return kb.chunks <= self._exact_up_to
        (kept,) = self._database.execute_sql(_KEPT.format(filter=condition), values).fetchone()
        return bool(kept <= self._exact_up_to)

    def _values(
        self, kb: KnowledgeBase, text: str, vector: Vector | None, limit: int, filter: Filter
    ) -> dict[str, Any]:
        words = query_lexemes(text)
        patience = FILTERED_EXACT if filter else 1
        return {
            "kb": kb.key,
            "generation": kb.generation,
            "words": words,
            "asked": words.split(" | "),
            "vector": None if vector is None else _vector_literal(vector),
            "candidates": max(CANDIDATES, limit),
            "limit": limit,
            "exact": self._exact_up_to * patience,
            "exact_share": EXACT_SHARE * patience,
            "k": RANK_CONSTANT,
        }


def _statement(dim: int, mode: Mode, condition: str, queries: int) -> str:
    """The SQL; the dimension is written out, because only then the planner sees that an index fits."""
    by_vector = _BY_VECTOR.format(distance=_DISTANCE.format(dim=dim), dim=dim, filter=condition)
    coverage = _COVERAGE if mode == "hybrid" else _NO_COVERAGE
    filtered = _FILTERED.format(filter=condition) if condition else ""
    return _SEARCH.format(
        matching=" UNION ALL ".join(_MATCHING.format(filter=filtered, n=n) for n in range(queries)),
        by_text=_NO_TEXT if mode == "vector" else _BY_TEXT.format(coverage=coverage),
        by_vector=_NO_VECTOR if mode == "text" else by_vector,
        filter=condition,
    )


def _share(mode: Mode, weight: float) -> float:
    """The vectors' share of a score."""
    return {"hybrid": weight, "vector": 1.0, "text": 0.0}[mode]


def _weights(mode: Mode, weight: float) -> dict[str, float]:
    """Each half's weight, scaled so that first place in every half that takes part scores 1."""
    share = _share(mode, weight)
    return {"text_weight": (1 - share) * (RANK_CONSTANT + 1), "vector_weight": share * (RANK_CONSTANT + 1)}


def _check(kb: KnowledgeBase, vector: Vector | None, limit: int, mode: Mode, weight: float) -> None:
    errors = []
    if mode not in ("hybrid", "text", "vector"):
        errors.append(("mode", "must be hybrid, text or vector"))
    if not 1 <= limit <= MOST_HITS:
        errors.append(("limit", f"must be 1 to {MOST_HITS}"))
    if not 0 <= weight <= 1:
        errors.append(("weight", "must be 0 (words only) to 1 (vectors only)"))
    if mode != "text" and (vector is None or len(vector) != kb.dim or not all(map(math.isfinite, vector))):
        errors.append(("vector", f"must have {kb.dim} finite numbers: embed the query with {kb.embedder!r}"))
    if errors:
        raise InvalidField(errors)


def _vector_literal(vector: Vector) -> str:
    return f"[{','.join(format(float(number), '.6g') for number in vector)}]"


def _hit(row: Sequence[Any], share: float | None) -> Hit:
    text, score, document_id, name, heading_path, start, end, tokens, *raw = row
    explanation = None if share is None else _explanation(raw, share)
    return Hit(text, score, document_id, name, tuple(heading_path), start, end, explanation, tokens)


def _explanation(raw: Sequence[Any], share: float) -> Explanation:
    text_rank, text_score, coverage, vector_rank, vector_score = raw
    return Explanation(
        text_rank=text_rank,
        text_score=text_score,
        text_coverage=coverage,
        vector_rank=vector_rank,
        vector_score=vector_score,
        text_weight=1 - share,
        vector_weight=share,
        text_contribution=_contribution((1 - share) * (1 if coverage is None else coverage), text_rank),
        vector_contribution=_contribution(share, vector_rank),
    )


def _contribution(weight: float, rank: int | None) -> float:
    return 0.0 if rank is None else weight * (RANK_CONSTANT + 1) / (RANK_CONSTANT + rank)
