"""Search by words, by vector and by both, on a real Postgres."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.documents.store import Content, DocumentStore, KnowledgeBase, NewChunk
from pipelines.documents.store.filters import Filter
from pipelines.documents.store.indexes import ensure_vector_index
from pipelines.documents.store.search import Search
from tasks.database import session
from tasks.errors import InvalidField

DIM = 8
MODEL = "toy"
Vector = npt.NDArray[np.float32]


@pytest.fixture
def store(database: Any) -> DocumentStore:
    return DocumentStore(database)


@pytest.fixture
def kb(store: DocumentStore) -> KnowledgeBase:
    return store.knowledge_bases.create("ann", "kb_123", "Handbook", MODEL, DIM)


def direction(axis: int, tilt: float = 0.0) -> Vector:
    """The unit vector along ``axis``, tilted a little towards the next one."""
    vector = np.zeros(DIM, dtype=np.float32)
    vector[axis], vector[(axis + 1) % DIM] = np.cos(tilt), np.sin(tilt)
    return vector


def random_vectors(count: int, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def ingest(
    store: DocumentStore,
    kb: KnowledgeBase,
    name: str,
    texts: Sequence[str],
    vectors: Sequence[Vector] | Vector,
) -> None:
    hashes = [hashlib.sha256(f"{kb.key} {name} {n} {text}".encode()).digest() for n, text in enumerate(texts)]
    store.vectors.save(MODEL, hashes, np.asarray(vectors, dtype=np.float32))
    document = store.documents.register(kb, name)
    version = store.versions.begin(document.id)
    chunks = [
        NewChunk(n, text, ("Guide", f"Part {n}"), n * 100, n * 100 + len(text), hashes[n])
        for n, text in enumerate(texts)
    ]
    store.versions.store(document.id, version, chunks, model=MODEL, content=Content("text/plain", 1, name))


def names(store: DocumentStore, kb: KnowledgeBase, question: str, **options: Any) -> list[str]:
    return [hit.name for hit in store.search(kb, question, None, mode="text", **options)]


class TestByWords:
    def test_a_question_finds_chunks_that_hold_any_of_its_words(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        ingest(store, kb, "retry.md", ["Failed tasks are retried with a backoff."], [direction(0)])
        ingest(store, kb, "lease.md", ["A worker holds a lease."], [direction(1)])

        assert names(store, kb, "How often is a failing task retried, and why?") == ["retry.md"]

    def test_the_chunk_with_more_of_the_words_comes_first(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        ingest(
            store, kb, "one.md", ["The queue is here among many other quite different things"], [direction(0)]
        )
        ingest(
            store, kb, "two.md", ["The queue has a priority among many other quite different"], [direction(1)]
        )

        assert names(store, kb, "queue priority") == ["two.md", "one.md"]

    @pytest.mark.parametrize(
        ("question", "found"),
        [
            ("知识库", ["zh.md"]),
            ("什么是知识管理?", ["zh.md"]),
            ("库", ["zh.md"]),
            ("理", ["zh.md"]),
            ("検索エンジン", ["ja.md"]),
            ("문서", ["ko.md"]),
            ("PYTHON服务", ["zh.md"]),
            ("天气", []),
        ],
    )
    def test_chinese_japanese_and_korean_are_found_by_parts(
        self, store: DocumentStore, kb: KnowledgeBase, question: str, found: list[str]
    ) -> None:
        ingest(store, kb, "zh.md", ["知识库管理：用Python写的任务服务。"], [direction(0)])
        ingest(store, kb, "ja.md", ["全文検索のエンジンです"], [direction(1)])
        ingest(store, kb, "ko.md", ["문서를 검색합니다"], [direction(2)])

        assert names(store, kb, question) == found

    @pytest.mark.parametrize("question", ["", "the of and", "?!", "🎉", "\x00", "x" * 10_000])
    def test_a_question_without_words_finds_nothing_by_words_but_by_vector(
        self, store: DocumentStore, kb: KnowledgeBase, question: str
    ) -> None:
        ingest(store, kb, "a.md", ["The text of and about anything"], [direction(0)])

        assert names(store, kb, question) == []
        assert [hit.name for hit in store.search(kb, question, direction(0))] == ["a.md"]

    @pytest.mark.parametrize(
        "question",
        ["it's \"quoted\" & | ! ( <-> ':* \\", "a:*b:A <2> !!", "word " * 2000, "知" * 10_000, "\ud800"],
    )
    def test_no_question_is_an_error(self, store: DocumentStore, kb: KnowledgeBase, question: str) -> None:
        assert store.search(kb, question, direction(0)) == []


class TestByVector:
    def test_the_nearest_come_first(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        tilts = [0.9, 0.1, 0.5]
        ingest(store, kb, "a.md", [f"tilt {tilt}" for tilt in tilts], [direction(0, tilt) for tilt in tilts])

        hits = store.search(kb, "", direction(0), mode="vector", explain=True)

        assert [hit.text for hit in hits] == ["tilt 0.1", "tilt 0.5", "tilt 0.9"]
        scores = [hit.explanation.vector_score for hit in hits if hit.explanation]
        assert scores == pytest.approx([np.cos(tilt) for tilt in sorted(tilts)], abs=1e-3)

    def test_knowledge_bases_of_different_dimensions_live_side_by_side(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        narrow = store.knowledge_bases.create("ann", "narrow", "Narrow", MODEL, 3)
        ingest(store, kb, "wide.md", ["wide"], [direction(0)])
        ingest(store, narrow, "narrow.md", ["narrow"], np.ones((1, 3), dtype=np.float32))

        assert [hit.name for hit in store.search(narrow, "", [1, 1, 1], mode="vector")] == ["narrow.md"]
        assert [hit.name for hit in store.search(kb, "", direction(0), mode="vector")] == ["wide.md"]

    @pytest.mark.parametrize("exact_up_to", [0, 10_000])
    def test_a_small_knowledge_base_among_large_ones_gives_all_its_rows(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any, exact_up_to: int
    ) -> None:
        # Given 2,000 chunks near the question in one knowledge base and 10 far from it in another
        large = store.knowledge_bases.create("ann", "large", "Large", MODEL, DIM)
        near = direction(0) + 0.1 * random_vectors(2000)
        ingest(store, large, "large.md", [f"large {n}" for n in range(2000)], near)
        ingest(
            store, kb, "small.md", [f"small {n}" for n in range(10)], -direction(0) + 0.1 * random_vectors(10)
        )
        assert ensure_vector_index(database, DIM, above=0)

        # When each is searched often enough for a prepared plan, with and without statistics
        search = Search(database, exact_up_to=exact_up_to)
        for step in range(24):
            if step == 12:
                with session(database):
                    database.execute_sql("ANALYZE chunks, documents")
            sizes = [len(search(one, "", direction(0), mode="vector", limit=20)) for one in (large, kb)]

            # Then the large one fills the page and the small one gives all it has
            assert sizes == [20, 10]

    def test_a_large_knowledge_base_is_searched_by_its_index(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        vectors = random_vectors(3000)
        ingest(store, kb, "a.md", [f"text {n}" for n in range(3000)], vectors)
        assert ensure_vector_index(database, DIM, above=0)

        by_index, exact = Search(database, exact_up_to=0), Search(database)
        with session(database):
            database.execute_sql("ANALYZE chunks, documents")
        found = {hit.start for hit in by_index(kb, "", vectors[7], mode="vector")}

        assert len(found & {hit.start for hit in exact(kb, "", vectors[7], mode="vector")}) >= 9
        assert _index_scans(database) == 1


def _index_scans(database: Any) -> int:
    with session(database):
        database.execute_sql("SELECT pg_stat_force_next_flush()")
        query = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = %s"
        (scans,) = database.execute_sql(query, (f"chunks_embedding_{DIM}",)).fetchone()
    return int(scans)


class TestByBoth:
    def test_first_in_both_halves_scores_one_and_scores_descend(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        ingest(store, kb, "both.md", ["a lease of the worker"], [direction(0)])
        ingest(store, kb, "words.md", ["the lease is something other entirely"], [direction(4)])
        ingest(store, kb, "vector.md", ["nothing alike"], [direction(0, 0.2)])

        hits = store.search(kb, "worker lease", direction(0), explain=True)

        assert hits[0].name == "both.md"
        assert hits[0].score == pytest.approx(1)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        ranks = {h.name: (h.explanation.text_rank, h.explanation.vector_rank) for h in hits if h.explanation}
        assert ranks == {"both.md": (1, 1), "words.md": (2, 3), "vector.md": (None, 2)}

    def test_a_hit_by_few_of_the_words_does_not_push_the_nearest_back(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        # Given chunks in one language, and a question in another that shares a number with one of them
        ingest(store, kb, "nearest.md", ["The queue is drained by its workers"], [direction(0, 0.1)])
        ingest(store, kb, "second.md", ["Workers hold leases"], [direction(0, 0.2)])
        ingest(store, kb, "number.md", ["Chapter 50"], [direction(0, 0.3)])

        hits = store.search(kb, "50 个队列任务", direction(0), explain=True)

        # Then what has the number counts by words as far as it holds the question's words, one of five
        assert [hit.name for hit in hits] == ["number.md", "nearest.md", "second.md"]
        assert [hit.name for hit in store.search(kb, "50 个队列任务", direction(0), weight=0.95)][:1] == [
            "nearest.md"
        ]
        (by_words,) = [h.explanation for h in hits if h.explanation and h.explanation.text_rank]
        assert by_words.text_coverage == pytest.approx(0.2)
        assert by_words.text_contribution == pytest.approx(0.5 * 0.2)

    def test_a_hit_tells_where_it_comes_from(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        ingest(store, kb, "a.md", ["first", "second lease"], [direction(0), direction(1)])
        document = store.documents.list(kb).items[0]

        hit = store.search(kb, "lease", direction(1))[0]

        assert (hit.text, hit.document_id, hit.name) == ("second lease", document.id, "a.md")
        assert (hit.heading_path, hit.start, hit.end) == (("Guide", "Part 1"), 100, 112)
        assert hit.explanation is None

    @pytest.mark.parametrize(("weight", "first"), [(0.0, "words.md"), (1.0, "vector.md")])
    def test_the_weight_moves_the_order_from_words_to_vectors(
        self, store: DocumentStore, kb: KnowledgeBase, weight: float, first: str
    ) -> None:
        ingest(store, kb, "words.md", ["the lease"], [direction(4)])
        ingest(store, kb, "vector.md", ["nothing alike"], [direction(0)])

        assert store.search(kb, "lease", direction(0), weight=weight)[0].name == first

    def test_the_limit_may_exceed_the_candidates(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        ingest(store, kb, "a.md", [f"lease {n}" for n in range(120)], random_vectors(120))

        assert len(store.search(kb, "lease", direction(0), limit=3)) == 3
        assert len(store.search(kb, "lease", direction(0), limit=200)) == 120

    def test_only_the_searchable_version_is_found(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        # Given a document with its old version not yet removed
        ingest(store, kb, "a.md", ["the old lease"], [direction(0)])
        ingest(store, kb, "a.md", ["the new lease"], [direction(1)])

        # Then it is not found any more, before and after it is
        for _ in range(2):
            assert [hit.text for hit in store.search(kb, "lease", direction(0))] == ["the new lease"]
            store.versions.remove_old(store.documents.list(kb).items[0].id)

    def test_other_knowledge_bases_are_never_found(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        other = store.knowledge_bases.create("bob", "kb_123", "Other", MODEL, DIM)
        ingest(store, other, "secret.md", ["the lease"], [direction(0)])

        assert store.search(kb, "lease", direction(0)) == []

    @pytest.mark.parametrize(
        ("field", "options"),
        [
            ("limit", {"limit": 0}),
            ("limit", {"limit": 1001}),
            ("weight", {"weight": 1.1}),
            ("mode", {"mode": "magic"}),
            ("vector", {"vector": None}),
            ("vector", {"vector": [1.0]}),
            ("vector", {"vector": [float("nan")] * DIM}),
        ],
    )
    def test_a_bad_option_is_refused_by_name(
        self, store: DocumentStore, kb: KnowledgeBase, field: str, options: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidField) as refusal:
            store.search(kb, "lease", **{"vector": direction(0), **options})

        assert [name for name, _ in refusal.value.errors] == [field]


def test_a_fresh_connection_searches_as_well(store: DocumentStore, kb: KnowledgeBase, database: Any) -> None:
    # Given a connection that has not loaded pgvector, and so does not know its settings yet
    ingest(store, kb, "a.md", ["the lease"], [direction(0)])
    database.close_all()

    assert [hit.name for hit in store.search(kb, "lease", direction(0))] == ["a.md"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=80))
def test_whatever_is_stored_is_found_by_its_own_words(store: DocumentStore, text: str) -> None:
    kb = store.knowledge_bases.create("", None, "Any", MODEL, DIM)
    ingest(store, kb, "a.md", [text + " callboard"], [direction(0)])

    hits = store.search(kb, text + " callboard", None, mode="text")

    assert [hit.name for hit in hits] == ["a.md"]


def test_the_index_is_built_once_there_are_enough_vectors(
    store: DocumentStore, kb: KnowledgeBase, database: Any
) -> None:
    ingest(store, kb, "a.md", ["one", "two", "three"], random_vectors(3))

    assert not ensure_vector_index(database, DIM, above=3)
    assert ensure_vector_index(database, DIM, above=2)
    assert ensure_vector_index(database, DIM, above=10)
    assert not store.ensure_vector_index(4)


def test_a_search_is_narrowed_to_documents_and_to_what_their_metadata_says(
    store: DocumentStore, kb: KnowledgeBase
) -> None:
    # Given three documents with the same word, two of them described
    for axis, name in enumerate(["a.md", "b.md", "c.md"]):
        ingest(store, kb, name, ["A lease."], [direction(axis)])
    ids = {one.name: one.id for one in store.documents.list(kb).items}
    store.documents.describe(ids["a.md"], {"year": 2024, "tags": ["new", "hot"]})
    store.documents.describe(ids["b.md"], {"year": "2024", "tags": "old"})

    def found(**wanted: Any) -> set[str]:
        hits = store.search(kb, "lease", direction(0), filter=Filter(**wanted), explain=True)
        assert all(
            hit.explanation
            and hit.score
            == pytest.approx(hit.explanation.text_contribution + hit.explanation.vector_contribution)
            for hit in hits
        )
        return {hit.name for hit in hits}

    # Then keys are all asked for, values any of them, in lists too, and a number is as good as its text
    assert found(documents=[ids["c.md"]]) == {"c.md"}
    assert found(metadata={"year": ["2024"]}) == {"a.md", "b.md"}
    assert found(metadata={"year": ["2024"], "tags": ["hot"]}) == {"a.md"}
    assert found(metadata={"tags": ["hot", "old"]}) == {"a.md", "b.md"}
    assert found(metadata={"tags": ["cold"]}) == set()


def test_a_hit_says_where_the_words_are(store: DocumentStore, kb: KnowledgeBase) -> None:
    text = "The Retries of a task，任务队列 ﬁles"
    ingest(store, kb, "a.md", [text], [direction(0)])

    (hit,) = store.search(kb, "retry the 任务 队列 file", None, mode="text", highlight=True)

    assert [text[start:end] for start, end in hit.highlights or ()] == ["Retries", "任务", "队列", "ﬁles"]


class TestByWordsInALargeKnowledgeBase:
    """Beyond a size chunks are found by the rarest words, since to rank all that hold any takes too long."""

    @pytest.fixture
    def large(self, store: DocumentStore, database: Any, monkeypatch: pytest.MonkeyPatch) -> KnowledgeBase:
        """300 chunks: "common" is in all, "half" and "任务" in one half, "even" in the other."""
        monkeypatch.setattr("pipelines.documents.store.search.MOST_RANKED", 20)
        kb = store.knowledge_bases.create("ann", "large", "Large", MODEL, DIM)
        texts = [f"common {'half 任务' if n % 2 else 'even'} own{n}" for n in range(300)]
        texts[211] += " rare"
        ingest(store, kb, "a.md", texts, random_vectors(300))
        with session(database):
            database.execute_sql("ANALYZE chunks")
        return store.knowledge_bases.get("large")

    @pytest.mark.parametrize(
        ("question", "first"),
        [
            ("is it common or rare", 211),
            ("common half own7", 7),
            ("own7 rare and common", 7),
            ("任务 own9", 9),
            ("务 own9", 9),
        ],
    )
    def test_the_rarest_words_find_what_the_common_ones_are_in_as_well(
        self, database: Any, large: KnowledgeBase, question: str, first: int
    ) -> None:
        search = Search(database, exact_up_to=100)

        hits = search(large, question, None, mode="text", explain=True)

        assert hits[0].start == 100 * first
        best = search(large, question, None, mode="text", limit=1)
        assert Search(database)(large, question, None, mode="text", limit=1) == best

    def test_what_a_filter_leaves_is_ranked_whole_if_it_is_little(
        self, store: DocumentStore, database: Any, large: KnowledgeBase
    ) -> None:
        # Given a document beside the large one, that says nothing but a common word
        ingest(store, large, "b.md", ["common"], [direction(0)])
        wanted = [one.id for one in store.documents.list(large).items if one.name == "b.md"]

        # When the question has a rarer word too, which would find other chunks
        hits = Search(database, exact_up_to=100)(
            large, "common own7", None, mode="text", filter=Filter(documents=wanted)
        )

        assert [hit.name for hit in hits] == ["b.md"]

    @pytest.mark.parametrize(
        ("question", "holds"), [("common", "common"), ("common half", "half"), ("任务 even", "任务")]
    )
    def test_words_that_are_all_common_still_find_a_page(
        self, database: Any, large: KnowledgeBase, question: str, holds: str
    ) -> None:
        hits = Search(database, exact_up_to=100)(large, question, None, mode="text")

        assert len(hits) == 10
        assert all(holds in hit.text for hit in hits)

    @pytest.mark.parametrize("question", ["the of and", "", "nowhere", "\x00", "':* & |"])
    def test_words_that_no_chunk_holds_find_nothing(
        self, database: Any, large: KnowledgeBase, question: str
    ) -> None:
        assert Search(database, exact_up_to=100)(large, question, None, mode="text") == []
