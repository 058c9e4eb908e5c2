"""Search with a very large knowledge base and a small one: times, and recall against exact search.

A million made-up chunks lie in the one, a hundred in the other. ``FILL=50000`` in the environment fills
fewer. All indexes are the product's own, but built when everything is there.
"""

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import psycopg

from pipelines.documents.store import MIGRATIONS, DocumentStore, KnowledgeBase
from pipelines.documents.store.filters import Filter
from pipelines.documents.store.indexes import ensure_vector_index
from pipelines.documents.store.search import EVERYTHING, Mode, Search
from tasks.database import Database, connect
from tasks.migrations import migrate
from tests.benchmarks.made_up import DIM, MadeUp
from tests.benchmarks.outcome import Outcome, table
from tests.support.databases import fresh_database
from tests.support.servers import postgres_server

LARGE, SMALL = 1_000_000, 100
BATCH = 20_000
SIZE = 10  # chunks of a document
QUESTIONS, EXACT_QUESTIONS = 200, 30  # an exact search of a million chunks takes seconds
DEPTH = 10
#: What a hybrid search may take at the median, in milliseconds, and what it has to find of the best ten.
LIMIT, LEAST = 50.0, 0.99
EVER = 1_000_000_000
MODES: tuple[Mode, ...] = ("hybrid", "text", "vector")

Question = tuple[str, Any]  # its text and its vector

_SETTINGS = ("maintenance_work_mem = '4GB'", "max_parallel_maintenance_workers = 2")
_STAGE = "CREATE TEMP TABLE filled (n int NOT NULL, words text NOT NULL, embedding halfvec NOT NULL)"
# One document in a thousand is on each shelf, one in ten is in each wing.
_DOCUMENTS = """
INSERT INTO documents (id, kb, name, version, last_version, chunks, metadata)
SELECT gen_random_uuid(), %(kb)s, n::text, 1, 1, least(%(size)s, %(count)s - n * %(size)s),
       jsonb_build_object('shelf', n %% 1000, 'wing', n %% 10)
FROM generate_series(0, (%(count)s - 1) / %(size)s) AS n"""
_CHUNKS = """
INSERT INTO chunks (document_id, version, ordinal, kb, text, heading_path, start_offset, end_offset,
                    text_hash, dim, embedding, tsv)
SELECT d.id, 1, f.n %% %(size)s, d.kb, f.words, '{}', 0, length(f.words), sha256(f.words::bytea),
       vector_dims(f.embedding), f.embedding, to_tsvector('english', f.words)
FROM filled f JOIN documents d ON d.kb = %(kb)s AND d.name = (f.n / %(size)s)::text ORDER BY f.n"""
_WORDS_INDEX = "SELECT indexdef FROM pg_indexes WHERE indexname = 'chunks_by_lexeme'"


@dataclass(frozen=True)
class Case:
    """What is measured: questions about a knowledge base, in a mode and with a filter (by the question)."""

    name: str
    kb: KnowledgeBase
    questions: Sequence[Question]
    mode: Mode = "hybrid"
    filter: Callable[[int], Filter] = lambda _: EVERYTHING


def run(folder: Path) -> Outcome:
    """Fill both and search them; ``folder`` is not needed."""
    count = int(os.environ.get("FILL", LARGE))
    with postgres_server() as server, fresh_database(server) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            for setting in _SETTINGS:
                connection.execute(f"ALTER DATABASE {connection.info.dbname} SET {setting}")  # type: ignore[arg-type]
        database = connect(url)
        try:
            return _run(database, url, count)
        finally:
            database.close_all()


def _run(database: Database, url: str, count: int) -> Outcome:
    began = time.monotonic()
    cases = _filled(database, url, count)
    filled = time.monotonic() - began
    with psycopg.connect(url, autocommit=True) as connection:
        _build(connection, database)
        sizes = connection.execute(
            "SELECT pg_size_pretty(pg_table_size('chunks')), pg_size_pretty(pg_indexes_size('chunks'))"
        ).fetchone()
    built = time.monotonic() - began - filled
    search, exact = Search(database), Search(database, exact_up_to=EVER)
    figures = {case.name: _measure(case, search, exact) for case in cases}
    head = f"{count:,} chunks and {SMALL}: filled in {filled:.0f} s, indexes built in {built:.0f} s; {sizes}."
    rows = [_row(name, *one) for name, one in figures.items()]
    report = table(["searches", "p50 ms", "p99 ms", "recall@10", "exact ms", ""], rows)
    return Outcome(f"{head}\n\n{report}", figures | {"filled_s": filled, "built_s": built})


def _filled(database: Database, url: str, count: int) -> list[Case]:
    """Both knowledge bases, without the large indexes, and what is to be measured."""
    migrate(database, MIGRATIONS)
    store, made_up = DocumentStore(database), MadeUp(seed=7)
    questions: dict[str, list[Question]] = {}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        (definition,) = connection.execute(_WORDS_INDEX).fetchone() or ("",)
        connection.execute("DROP INDEX chunks_by_lexeme")
        connection.execute(_STAGE)
        for name, size in (("large", count), ("small", SMALL)):
            kb = store.knowledge_bases.create("", name, name, "made-up", DIM)
            questions[name] = _fill(connection, made_up, kb, size)
        connection.execute(definition)
    kbs = {name: store.knowledge_bases.get(name) for name in questions}
    cases = [
        Case(f"{name}, {mode}", kbs[name], questions[name], mode) for name in questions for mode in MODES
    ]
    ids = [one.id for one in store.documents.list(kbs["large"], limit=100).items]
    large = (kbs["large"], questions["large"])
    return [
        *cases,
        Case("large, one document", *large, filter=lambda n: Filter(documents=[ids[n % 100]])),
        Case("large, 100 documents", *large, filter=lambda _: Filter(documents=ids)),
        Case("large, a shelf", *large, filter=lambda n: Filter(metadata={"shelf": [str(n)]})),
        Case("large, a wing", *large, filter=lambda n: Filter(metadata={"wing": [str(n % 10)]})),
        Case("large, a wing by vector", *large, "vector", lambda n: Filter(metadata={"wing": [str(n % 10)]})),
    ]


def _fill(
    connection: psycopg.Connection[Any], made_up: MadeUp, kb: KnowledgeBase, count: int
) -> list[Question]:
    """Fill ``kb``; the questions are about chunks from all over it."""
    values = {"kb": kb.key, "count": count, "size": SIZE}
    connection.execute(_DOCUMENTS, values)
    asked = set(random.Random(7).sample(range(count), min(QUESTIONS, count)))
    questions = []
    for chunks in made_up.chunks(count, BATCH):
        with connection.cursor().copy("COPY filled FROM STDIN (FORMAT binary)") as copy:
            copy.write(chunks.binary())
        connection.execute(_CHUNKS, values)
        connection.execute("TRUNCATE filled")
        here = [n - chunks.first for n in sorted(asked) if 0 <= n - chunks.first < len(chunks.texts)]
        questions += [made_up.question(chunks.texts[n], chunks.vectors[n]) for n in here]
    return questions


def _build(connection: psycopg.Connection[Any], database: Database) -> None:
    ensure_vector_index(database, DIM)
    connection.execute("VACUUM ANALYZE")


def _measure(case: Case, search: Search, exact: Search) -> tuple[float, float, float, float]:
    """The p50 and p99 in milliseconds, the recall, and the p50 of exact searches."""
    found, times = _ask(case, search, len(case.questions))
    found, times = _ask(case, search, len(case.questions))  # the first round was to warm up
    best, exact_times = _ask(case, exact, EXACT_QUESTIONS)
    recalls = [
        len(set(one) & set(wanted)) / len(wanted) for one, wanted in zip(found, best, strict=False) if wanted
    ]
    ordered = sorted(times)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return p50, p99, fmean(recalls), sorted(exact_times)[len(exact_times) // 2]


def _ask(case: Case, search: Search, count: int) -> tuple[list[list[Any]], list[float]]:
    """What the first ``count`` questions find, and how long each takes in milliseconds."""
    found, times = [], []
    for n, (text, vector) in enumerate(case.questions[:count]):
        began = time.perf_counter()
        hits = search(case.kb, text, vector, limit=DEPTH, mode=case.mode, filter=case.filter(n))
        times.append(1_000 * (time.perf_counter() - began))
        found.append([(hit.document_id, hit.text) for hit in hits])
    return found, times


def _row(name: str, p50: float, p99: float, recall: float, exact: float) -> list[str]:
    slow = "too slow" if "hybrid" in name and p50 >= LIMIT else ""
    missed = "too few found" if name.startswith("small") and recall < LEAST else ""
    return [name, f"{p50:.1f}", f"{p99:.1f}", f"{recall:.3f}", f"{exact:.0f}", slow or missed]
