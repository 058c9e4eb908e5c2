"""How well searches find the answers: our modes and an independent BM25, on the demo's documents.

Every question of ``data/questions.csv`` has one document and a snippet of it. A chunk of that document is
relevant when it holds the snippet. The first figure to look at is nDCG@10.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from pipelines.documents import embedders
from pipelines.documents.store import MIGRATIONS, Content, DocumentStore, Hit, KnowledgeBase, NewChunk
from pipelines.documents.store.lexemes import query_lexemes
from pipelines.documents.store.search import Mode
from tasks.database import Database, session
from tasks.migrations import migrate
from tests.benchmarks.bm25 import BM25
from tests.benchmarks.databases import fresh_database
from tests.benchmarks.embeddings import CachedEmbeddings, Vectors
from tests.benchmarks.measures import ndcg, recall, reciprocal_rank
from tests.benchmarks.outcome import Outcome, table
from tests.benchmarks.passages import CutDocument, Passage, Question, cut_corpus, questions, text_hash

MODES: tuple[Mode, ...] = ("text", "vector", "hybrid")
SUBSETS = ("en→en", "zh→zh", "en→zh", "zh→en", "all")
MEASURES = {"nDCG@10": ndcg, "recall@10": recall, "MRR@10": reciprocal_rank}
WEIGHTS = tuple(step / 10 for step in range(11))
DEFAULT_WEIGHT = 0.5
CLEARLY = 0.01  # a smaller difference says nothing with this few questions
DEPTH = 10

Answers = Sequence[Sequence[Passage]]  # a ranking for each question
Figures = dict[str, dict[str, float]]  # by measure and subset

_LEXEMES = """
SELECT d.name, c.start_offset, c.end_offset, t.lexeme, cardinality(t.positions)
FROM chunks c JOIN documents d ON d.id = c.document_id AND d.version = c.version, unnest(c.tsv) t
ORDER BY d.name, c.ordinal"""


@dataclass(frozen=True)
class Bench:
    """The knowledge base, and the questions with their vectors."""

    database: Database
    store: DocumentStore
    kb: KnowledgeBase
    questions: Sequence[Question]
    vectors: Vectors

    def ask(self, **options: Any) -> list[list[Hit]]:
        """Each question's hits."""
        return [
            self.store.search(self.kb, question.text, vector, limit=DEPTH, **options)
            for question, vector in zip(self.questions, self.vectors, strict=True)
        ]


def run(folder: Path) -> Outcome:
    """Ask all the questions in every way, and compare."""
    embedder = embedders.load("e5")
    cached = CachedEmbeddings(embedder, folder)
    documents = cut_corpus(folder)
    asked = questions(documents)
    texts = [chunk.text for document in documents for chunk in document.chunks]
    with fresh_database() as database:
        store = DocumentStore(database)
        migrate(database, MIGRATIONS)
        kb = store.knowledge_bases.create("", "bench", "The demo's documents", embedder.name, embedder.dim)
        store.vectors.save(embedder.name, [text_hash(text) for text in texts], cached.passages(texts))
        for document in documents:
            _store(store, kb, document)
        bench = Bench(database, store, kb, asked, cached.queries([question.text for question in asked]))
        ways, milliseconds = _ask_every_way(bench)
        sweep = {weight: _ndcg_at(bench, weight) for weight in WEIGHTS}
        postgres = _version(database)
    information = {
        "documents": len(documents),
        "chunks": len(texts),
        "questions": {subset: len(_of(asked, subset)) for subset in SUBSETS},
        "milliseconds_a_search": milliseconds,
        "embedding_tokens_per_second": round(cached.tokens_per_second(texts)),
    }
    return Outcome(
        _report(ways, sweep, information),
        {"ways": ways, "hybrid_ndcg_by_weight": sweep, "information": information},
        {"postgres": postgres},
    )


def _store(store: DocumentStore, kb: KnowledgeBase, cut: CutDocument) -> None:
    """Store a document as the pipeline does."""
    document = store.documents.register(kb, cut.name)
    chunks = [
        NewChunk(one.ordinal, one.text, one.heading_path, one.start, one.end, text_hash(one.text))
        for one in cut.chunks
    ]
    content = Content(str(cut.media_type), len(cut.content), "")
    store.versions.store(
        document.id, store.versions.begin(document.id), chunks, model=kb.embedder, content=content
    )


def _ask_every_way(bench: Bench) -> tuple[dict[str, Figures], dict[str, float]]:
    """The figures by way of asking, and the median time of one of our searches."""
    bm25 = _bm25(bench.database)
    tokens = [_tokens(bench.database, question.text) for question in bench.questions]
    ways = {"BM25": _figures(bench.questions, [bm25.rank(one, DEPTH) for one in tokens])}
    milliseconds: dict[str, float] = {}
    for mode in MODES:
        ways[mode] = _figures(bench.questions, [_passages(hits) for hits in bench.ask(mode=mode)])
        milliseconds[mode] = round(_median_milliseconds(bench, mode), 2)
    return ways, milliseconds


def _ndcg_at(bench: Bench, weight: float) -> float:
    """The nDCG of hybrid searches with this weight, over all the questions."""
    answers = [_passages(hits) for hits in bench.ask(mode="hybrid", weight=weight)]
    return _figures(bench.questions, answers)["nDCG@10"]["all"]


def _figures(asked: Sequence[Question], answers: Answers) -> Figures:
    return {
        name: {subset: _mean(measure, asked, answers, subset) for subset in SUBSETS}
        for name, measure in MEASURES.items()
    }


def _mean(
    measure: Callable[[Sequence[Passage], frozenset[Passage]], float],
    asked: Sequence[Question],
    answers: Answers,
    subset: str,
) -> float:
    pairs = zip(asked, answers, strict=True)
    return round(
        fmean(measure(answer, one.relevant) for one, answer in pairs if subset in ("all", one.subset)), 4
    )


def _of(asked: Sequence[Question], subset: str) -> list[Question]:
    return [question for question in asked if subset in ("all", question.subset)]


def _passages(hits: Sequence[Hit]) -> list[Passage]:
    return [(hit.name, hit.start, hit.end) for hit in hits]


def _bm25(database: Database) -> BM25[Passage]:
    """BM25 over the lexemes that Postgres holds of each chunk."""
    documents: dict[Passage, dict[str, int]] = {}
    with session(database):
        for name, start, end, lexeme, count in database.execute_sql(_LEXEMES).fetchall():
            documents.setdefault((name, start, end), {})[lexeme] = count
    return BM25(documents)


def _tokens(database: Database, question: str) -> list[str]:
    """The lexemes that our search by words would look for; a lone CJK character stands for itself."""
    words = query_lexemes(question).replace(":*", "").replace(" | ", " ")
    with session(database):
        row = database.execute_sql(
            "SELECT tsvector_to_array(to_tsvector('english', %s))", (words,)
        ).fetchone()
    return list(row[0])


def _median_milliseconds(bench: Bench, mode: Mode) -> float:
    times = []
    for question, vector in zip(bench.questions, bench.vectors, strict=True):
        started = time.perf_counter()
        bench.store.search(bench.kb, question.text, vector, limit=DEPTH, mode=mode)
        times.append(1000 * (time.perf_counter() - started))
    return median(times)


def _version(database: Database) -> str:
    with session(database):
        (postgres,) = database.execute_sql("SHOW server_version").fetchone()
        (pgvector,) = database.execute_sql(
            "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
        ).fetchone()
    return f"{postgres} with pgvector {pgvector}"


def _report(ways: Mapping[str, Figures], sweep: Mapping[float, float], information: Mapping[str, Any]) -> str:
    counts = information["questions"]
    parts = [
        f"{information['documents']} documents, {information['chunks']} chunks, {counts['all']} questions."
    ]
    for measure in MEASURES:
        rows = [[way, *(f"{figures[measure][one]:.3f}" for one in SUBSETS)] for way, figures in ways.items()]
        parts.append(table([measure, *(f"{one} ({counts[one]})" for one in SUBSETS)], rows))
    weights = [["nDCG@10, all", *(f"{value:.3f}" for value in sweep.values())]]
    parts.append(table(["hybrid by weight of vectors", *(f"{weight:.1f}" for weight in sweep)], weights))
    parts += [verdict(ways, sweep), _rates(information)]
    return "\n\n".join(parts)


def verdict(ways: Mapping[str, Figures], sweep: Mapping[float, float]) -> str:
    """Whether hybrid is worth it, and whether its default weight is sensible."""
    single = max((mode for mode in MODES if mode != "hybrid"), key=lambda mode: _overall(ways[mode]))
    gain = _overall(ways["hybrid"]) - _overall(ways[single])
    best = max(sweep, key=lambda weight: sweep[weight])
    lead = sweep[best] - sweep[DEFAULT_WEIGHT]
    sense = (
        f"weight {best} is better than the default {DEFAULT_WEIGHT} by {lead:.3f}: worth a closer look"
        if lead > CLEARLY
        else f"the default weight {DEFAULT_WEIGHT} is sensible (best: {best}, by {lead:.3f})"
    )
    return f"Hybrid minus {single}, the better single mode: {gain:+.3f} nDCG@10; {sense}."


def _overall(figures: Figures) -> float:
    return figures["nDCG@10"]["all"]


def _rates(information: Mapping[str, Any]) -> str:
    times = ", ".join(f"{mode} {value:.1f}" for mode, value in information["milliseconds_a_search"].items())
    rate = information["embedding_tokens_per_second"]
    return (
        f"Milliseconds a search (median, question already embedded): {times}. Embedding: {rate:,} tokens/s."
    )
