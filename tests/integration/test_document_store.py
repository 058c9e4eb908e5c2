"""Knowledge bases, documents and their versions on a real Postgres."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.documents.store import (
    MIGRATIONS,
    Content,
    Document,
    DocumentStore,
    KnowledgeBase,
    NewChunk,
    VectorsMissing,
)
from tasks.database import connect, session
from tasks.errors import Conflict, InvalidField, NotFound
from tasks.migrations import migrate
from tests.support.databases import fresh_database

DIM = 8
MODEL = "toy"


@pytest.fixture
def store(database: Any) -> DocumentStore:
    return DocumentStore(database)


@pytest.fixture
def kb(store: DocumentStore) -> KnowledgeBase:
    return store.knowledge_bases.create("ann", "kb_123", "Handbook", MODEL, DIM)


def hash_of(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def vectors_for(texts: Sequence[str], dim: int = DIM) -> npt.NDArray[np.float32]:
    seeds = [int.from_bytes(hash_of(text)[:4], "big") for text in texts]
    return np.array([np.random.default_rng(seed).standard_normal(dim) for seed in seeds], dtype=np.float32)


def chunks_of(texts: Sequence[str]) -> list[NewChunk]:
    return [
        NewChunk(n, text, ["Top", f"Part {n}"], n * 10, n * 10 + 9, hash_of(text))
        for n, text in enumerate(texts)
    ]


def content_of(texts: Sequence[str], **metadata: Any) -> Content:
    raw = "\n".join(texts).encode()
    return Content("text/plain", len(raw), hashlib.sha256(raw).hexdigest(), metadata=metadata or None)


def embed(store: DocumentStore, texts: Sequence[str]) -> None:
    store.vectors.save(MODEL, [hash_of(text) for text in texts], vectors_for(texts))


def ingest(store: DocumentStore, kb: KnowledgeBase, name: str, texts: Sequence[str]) -> Document:
    document = store.documents.register(kb, name, uuid4())
    version = store.versions.begin(document.id)
    embed(store, texts)
    store.versions.store(document.id, version, chunks_of(texts), model=MODEL, content=content_of(texts))
    store.versions.remove_old(document.id)
    return store.documents.get(kb, document.id)


def chunk_rows(store: DocumentStore, database: Any) -> list[tuple[int, str]]:
    with session(database):
        rows = database.execute_sql("SELECT version, text FROM chunks ORDER BY document_id, version, ordinal")
        return list(rows.fetchall())


class TestKnowledgeBases:
    def test_one_is_created_with_the_id_its_owner_chose(self, store: DocumentStore) -> None:
        kb = store.knowledge_bases.create("ann", "kb_123", " Handbook ", "e5", 384)

        assert (kb.owner, kb.kb_id, kb.name, kb.embedder, kb.dim) == ("ann", "kb_123", "Handbook", "e5", 384)
        assert (kb.documents, kb.chunks) == (0, 0)
        assert kb.created_at.tzinfo is not None

    def test_an_id_is_made_up_when_none_is_given(self, store: DocumentStore) -> None:
        ids = {store.knowledge_bases.create("", None, "Notes", MODEL, DIM).kb_id for _ in range(3)}

        assert len(ids) == 3
        assert all(kb_id.startswith("kb_") for kb_id in ids)

    def test_the_same_id_again_is_a_conflict_for_its_owner_only(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        with pytest.raises(Conflict, match="kb_123"):
            store.knowledge_bases.create("ann", "kb_123", "Another", MODEL, DIM)

        assert store.knowledge_bases.create("bob", "kb_123", "Mine", MODEL, DIM).key != kb.key

    @pytest.mark.parametrize("kb_id", ["", "a b", "a/b", "x" * 101, "ok\n", "知识"])
    def test_a_bad_id_is_refused_by_name(self, store: DocumentStore, kb_id: str) -> None:
        with pytest.raises(InvalidField, match="kb_id"):
            store.knowledge_bases.create("", kb_id, "Notes", MODEL, DIM)

    @pytest.mark.parametrize("name", ["", "  ", "x" * 201])
    def test_a_bad_name_is_refused_by_name(self, store: DocumentStore, name: str) -> None:
        with pytest.raises(InvalidField, match="name"):
            store.knowledge_bases.create("", None, name, MODEL, DIM)

    def test_another_owners_is_not_found(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        with pytest.raises(NotFound):
            store.knowledge_bases.get("kb_123", "bob")

        assert store.knowledge_bases.get("kb_123", "ann").key == kb.key
        assert store.knowledge_bases.get("kb_123").key == kb.key

    def test_one_id_of_two_owners_is_ambiguous_without_an_owner(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        store.knowledge_bases.create("bob", "kb_123", "Mine", MODEL, DIM)

        with pytest.raises(Conflict, match="whose"):
            store.knowledge_bases.delete("kb_123")

    def test_a_page_lists_an_owners_newest_first_with_the_total_and_counts(
        self, store: DocumentStore
    ) -> None:
        # Given three of Ann's and one of Bob's, and two documents in Ann's last
        for number in range(3):
            last = store.knowledge_bases.create("ann", f"kb{number}", "Notes", MODEL, DIM)
        store.knowledge_bases.create("bob", None, "Notes", MODEL, DIM)
        ingest(store, last, "a.txt", ["one", "two"])
        ingest(store, last, "b.txt", ["three"])

        # When two of hers are listed
        page = store.knowledge_bases.list("ann", limit=2)

        # Then they are the newest, and all of hers are counted
        assert [(kb.kb_id, kb.documents, kb.chunks) for kb in page.items] == [("kb2", 2, 3), ("kb1", 0, 0)]
        assert page.total == 3
        assert [kb.kb_id for kb in store.knowledge_bases.list("ann", limit=2, offset=2).items] == ["kb0"]
        assert store.knowledge_bases.list().total == 4

    def test_deleting_one_removes_its_documents_and_chunks(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        ingest(store, kb, "a.txt", ["one", "two"])

        store.knowledge_bases.delete("kb_123", "ann")

        assert chunk_rows(store, database) == []
        with pytest.raises(NotFound):
            store.knowledge_bases.delete("kb_123", "ann")
        with pytest.raises(NotFound, match="gone"):
            store.documents.register(kb, "a.txt")


class TestDocuments:
    def test_a_new_document_is_not_searchable_yet(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        task_id = uuid4()

        document = store.documents.register(kb, "a.txt", task_id)

        assert (document.name, document.version, document.chunks) == ("a.txt", 0, 0)
        assert document.task_id == task_id
        assert store.documents.get(kb, document.id) == document

    def test_the_same_name_again_is_the_same_document(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        first = store.documents.register(kb, "a.txt", uuid4())
        task_id = uuid4()

        again = store.documents.register(kb, "a.txt", task_id)

        assert (again.id, again.task_id) == (first.id, task_id)
        assert store.documents.list(kb).total == 1

    def test_many_at_once_under_one_name_are_one_document(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        with ThreadPoolExecutor(4) as threads:
            ids = {d.id for d in threads.map(lambda _: store.documents.register(kb, "a.txt"), range(12))}

        assert len(ids) == 1

    def test_a_page_lists_the_newest_first(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        for number in range(5):
            store.documents.register(kb, f"{number}.txt")

        page = store.documents.list(kb, limit=2, offset=1)

        assert [document.name for document in page.items] == ["3.txt", "2.txt"]
        assert page.total == 5

    def test_it_is_unchanged_only_under_its_name_with_its_bytes_and_searchable(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        sha256 = content_of(["one"]).sha256
        store.documents.register(kb, "never-stored.txt")
        document = ingest(store, kb, "a.txt", ["one"])

        assert store.documents.find_unchanged(kb, "a.txt", sha256) == document
        assert store.documents.find_unchanged(kb, "a.txt", "other") is None
        assert store.documents.find_unchanged(kb, "b.txt", sha256) is None
        assert store.documents.find_unchanged(kb, "never-stored.txt", "") is None

    def test_a_duplicate_would_add_nothing_but_its_name_to_the_same_knowledge_base(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        # Given a document that something is said of, and another one
        sha256 = content_of(["one"]).sha256
        other = store.knowledge_bases.create("ann", "other", "Other", MODEL, DIM)
        ingest(store, kb, "a.txt", ["one"])
        ingest(store, kb, "z.txt", ["two"])
        store.documents.describe(store.documents.list(kb).items[1].id, {"by": "Ann"})

        def twin(name: str, cut: Any = {}, said: Any = None, kb: KnowledgeBase = kb) -> str | None:  # noqa: B006
            found = store.documents.find_duplicate(kb, name, sha256, cut, said)
            return found.name if found else None

        # Then the same bytes are a duplicate of it under another name, if the same or nothing is said
        assert [twin("b.txt"), twin("b.txt", said={"by": "Ann"})] == ["a.txt", "a.txt"]
        # And not if anything else is said, if they are cut otherwise, or in another knowledge base
        assert [twin("b.txt", said={"by": "Bob"}), twin("b.txt", said={})] == [None, None]
        assert [twin("b.txt", {"chunk_size": 9}), twin("b.txt", kb=other)] == [None, None]
        # And not under a name that is searchable: they are its new version
        assert [twin("a.txt"), twin("z.txt")] == [None, None]

    def test_of_the_same_bytes_stored_at_once_one_alone_is_stored(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        content = content_of(["one"])
        embed(store, ["one"])

        def write(name: str) -> bool:
            document = store.documents.register(kb, name)
            version = store.versions.begin(document.id)
            with store.alone(kb, content.sha256):
                if store.documents.find_duplicate(kb, name, content.sha256, {}, None):
                    return False
                return store.versions.store(
                    document.id, version, chunks_of(["one"]), model=MODEL, content=content
                )

        with ThreadPoolExecutor(4) as threads:
            assert sorted(threads.map(write, ["a", "b", "c", "d"])) == [False, False, False, True]
        assert chunk_rows(store, database) == [(1, "one")]

    def test_a_duplicate_says_of_what_it_is_one_for_as_long_as_that_is_so(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        # Given a document, and one that was not stored since it is the same
        first = ingest(store, kb, "a.txt", ["one"])
        second = store.documents.register(kb, "b.txt")
        store.documents.mark_duplicate(second.id, first.sha256)

        def twins() -> list[Any]:
            return [one.duplicate_of for one in store.documents.list(kb).items]

        # Then it says so; the first one never is a duplicate
        assert twins() == [first.id, None]
        store.documents.mark_duplicate(first.id, "another's")
        assert store.documents.get(kb, first.id).sha256 == first.sha256
        # And not any more once it is processed itself, or the other one is gone
        store.versions.begin(second.id)
        assert twins() == [None, None]
        store.documents.mark_duplicate(second.id, first.sha256)
        store.documents.delete(kb, first.id)
        assert twins() == [None]

    def test_deleting_one_removes_its_chunks(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        document = ingest(store, kb, "a.txt", ["one", "two"])
        ingest(store, kb, "b.txt", ["three"])

        store.documents.delete(kb, document.id)

        assert chunk_rows(store, database) == [(1, "three")]
        for verb in (store.documents.get, store.documents.delete):
            with pytest.raises(NotFound):
                verb(kb, document.id)

    def test_deleting_one_leaves_of_its_vectors_only_those_that_others_have(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        document = ingest(store, kb, "a.txt", ["mine", "ours"])
        ingest(store, kb, "b.txt", ["ours", "theirs"])

        store.documents.delete(kb, document.id)

        hashes = [hash_of(text) for text in ("mine", "ours", "theirs")]
        assert store.vectors.missing(MODEL, hashes) == {hash_of("mine")}

    def test_another_knowledge_bases_document_is_not_found(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        other = store.knowledge_bases.create("ann", "other", "Other", MODEL, DIM)
        document = store.documents.register(kb, "a.txt")

        for verb in (store.documents.get, store.documents.delete):
            with pytest.raises(NotFound):
                verb(other, document.id)


class TestVectors:
    def test_only_what_this_model_has_not_embedded_is_missing(self, store: DocumentStore) -> None:
        embed(store, ["one", "two"])

        assert store.vectors.missing(MODEL, [hash_of("two"), hash_of("three")]) == {hash_of("three")}
        assert store.vectors.missing("other", [hash_of("two")]) == {hash_of("two")}
        assert store.vectors.missing(MODEL, []) == set()

    def test_saving_again_changes_nothing(self, store: DocumentStore, database: Any) -> None:
        embed(store, ["one"])
        store.vectors.save(MODEL, [hash_of("one")] * 2, np.ones((2, DIM), dtype=np.float32))
        store.vectors.save(MODEL, [], np.zeros((0, DIM), dtype=np.float32))

        with session(database):
            ((literal,),) = database.execute_sql("SELECT embedding::text FROM vectors").fetchall()
        stored = [float(number) for number in literal.strip("[]").split(",")]
        assert stored == pytest.approx(vectors_for(["one"])[0], rel=1e-3)

    def test_what_a_run_embedded_is_counted_once_however_often_it_runs(self, store: DocumentStore) -> None:
        run = uuid4()
        embed(store, ["there already"])
        for _ in range(2):
            store.vectors.save(MODEL, [hash_of("new")], vectors_for(["new"]), run)

        hashes = {hash_of("there already"), hash_of("new"), hash_of("never")}
        assert store.vectors.made_by(run, MODEL, hashes) == 1
        assert store.vectors.made_by(uuid4(), MODEL, hashes) == 0

    @pytest.mark.parametrize(
        "vectors", [np.ones((1, DIM)), np.ones(DIM), np.full((2, DIM), np.nan), np.full((2, DIM), 1e6)]
    )
    def test_what_is_no_vector_for_each_text_is_refused(
        self, store: DocumentStore, vectors: npt.NDArray[np.float64]
    ) -> None:
        with pytest.raises(InvalidField, match="vectors"), np.errstate(over="ignore"):
            store.vectors.save(MODEL, [b"a", b"b"], vectors.astype(np.float32))

    def test_only_old_vectors_of_no_document_are_forgotten(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        ingest(store, kb, "a.txt", ["one"])
        embed(store, ["unused"])
        now = datetime.now(UTC)

        assert store.vectors.forget_unused(now - timedelta(days=1)) == 0
        assert store.vectors.forget_unused(now + timedelta(days=1)) == 1
        assert store.vectors.missing(MODEL, [hash_of("one"), hash_of("unused")]) == {hash_of("unused")}


class TestVersions:
    def test_a_stored_version_is_the_searchable_one(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        document = store.documents.register(kb, "a.txt")
        version = store.versions.begin(document.id)
        texts = ["one", "two", "one"]
        embed(store, texts)

        stored = store.versions.store(
            document.id, version, chunks_of(texts), model=MODEL, content=content_of(texts, chunk_size=1000)
        )

        assert stored
        document = store.documents.get(kb, document.id)
        assert (document.version, document.chunks, document.media_type) == (1, 3, "text/plain")
        assert (document.sha256, document.metadata) == (content_of(texts).sha256, {"chunk_size": 1000})
        assert chunk_rows(store, database) == [(1, "one"), (1, "two"), (1, "one")]

    def test_what_users_say_outlives_a_version_that_says_nothing(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        # Given a document with metadata
        texts = ["First."]
        embed(store, texts)
        document = store.documents.register(kb, "a.md")
        store.versions.store(
            document.id,
            store.versions.begin(document.id),
            [chunk._replace(tokens=3) for chunk in chunks_of(texts)],
            model=MODEL,
            content=content_of(texts, author="Ann", tags=["new"]),
        )

        # When a new version says nothing about it
        version = store.versions.begin(document.id)
        store.versions.store(
            document.id,
            version,
            chunks_of(texts),
            model=MODEL,
            content=Content("text/plain", 1, "", {"a": 1}),
        )

        # Then the metadata is as it was, the cut is the new one, and tokens are where they were counted
        found = store.documents.get(kb, document.id)
        assert (found.metadata, found.cut) == ({"author": "Ann", "tags": ["new"]}, {"a": 1})
        with session(database):
            rows = database.execute_sql("SELECT tokens FROM chunks ORDER BY version").fetchall()
        assert rows == [(3,), (None,)]

        # And replacing it is news once
        assert store.documents.describe(document.id, {"author": "Bob"})
        assert not store.documents.describe(document.id, {"author": "Bob"})
        assert store.documents.get(kb, document.id).metadata == {"author": "Bob"}

    def test_versions_begun_at_once_all_differ(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        document = store.documents.register(kb, "a.txt")

        with ThreadPoolExecutor(4) as threads:
            versions = list(threads.map(lambda _: store.versions.begin(document.id), range(12)))

        assert sorted(versions) == list(range(1, 13))

    def test_a_run_that_begins_again_goes_on_with_its_version_until_that_is_searchable(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        document = store.documents.register(kb, "a.txt")
        mine, other = uuid4(), uuid4()

        begun = [store.versions.begin(document.id, run) for run in (mine, other, mine, other)]

        assert begun == [1, 2, 1, 2]
        embed(store, ["one"])
        store.versions.store(document.id, 1, chunks_of(["one"]), model=MODEL, content=content_of(["one"]))
        store.versions.remove_old(document.id)
        assert [store.versions.begin(document.id, run) for run in (mine, other)] == [3, 2]

    def test_storing_a_version_twice_changes_nothing(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        document = ingest(store, kb, "a.txt", ["one"])
        embed(store, ["two"])

        again = store.versions.store(
            document.id, 1, chunks_of(["two"]), model=MODEL, content=content_of(["two"])
        )

        assert not again
        assert chunk_rows(store, database) == [(1, "one")]
        assert store.documents.get(kb, document.id) == document

    def test_two_workers_that_store_one_version_at_once_store_it_once(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        texts = [f"text {n}" for n in range(200)]
        embed(store, texts)
        document = store.documents.register(kb, "a.txt")
        version = store.versions.begin(document.id)

        def write(_: int) -> bool:
            return store.versions.store(
                document.id, version, chunks_of(texts), model=MODEL, content=content_of(texts)
            )

        with ThreadPoolExecutor(2) as threads:
            assert sorted(threads.map(write, range(2))) == [False, True]
        assert len(chunk_rows(store, database)) == 200

    def test_a_late_older_version_never_replaces_a_newer_one(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        # Given a document whose second version was stored before its first
        document = store.documents.register(kb, "a.txt")
        first, second = store.versions.begin(document.id), store.versions.begin(document.id)
        embed(store, ["old", "new"])
        store.versions.store(
            document.id, second, chunks_of(["new"]), model=MODEL, content=content_of(["new"])
        )

        # When the first arrives
        stored = store.versions.store(
            document.id, first, chunks_of(["old"]), model=MODEL, content=content_of(["old"])
        )

        # Then it is dropped
        assert not stored
        assert store.documents.get(kb, document.id).version == second
        assert chunk_rows(store, database) == [(second, "new")]

    def test_the_old_versions_chunks_are_removed_afterwards(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        document = ingest(store, kb, "a.txt", ["one", "two"])
        embed(store, ["three"])
        version = store.versions.begin(document.id)
        store.versions.store(
            document.id, version, chunks_of(["three"]), model=MODEL, content=content_of(["three"])
        )
        assert len(chunk_rows(store, database)) == 3

        assert store.versions.remove_old(document.id) == 2
        assert store.vectors.missing(MODEL, [hash_of("one"), hash_of("three")]) == {hash_of("one")}
        assert store.versions.remove_old(document.id) == 0
        assert chunk_rows(store, database) == [(2, "three")]

    def test_a_chunk_without_its_vector_stops_the_whole_version(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        document = ingest(store, kb, "a.txt", ["one"])
        version = store.versions.begin(document.id)

        with pytest.raises(VectorsMissing, match="1 of 2 chunks"):
            store.versions.store(
                document.id, version, chunks_of(["one", "two"]), model=MODEL, content=content_of(["x"])
            )

        assert store.documents.get(kb, document.id).version == 1
        assert chunk_rows(store, database) == [(1, "one")]

    def test_vectors_of_another_dimension_do_not_count(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        document = store.documents.register(kb, "a.txt")
        version = store.versions.begin(document.id)
        store.vectors.save(MODEL, [hash_of("one")], vectors_for(["one"], dim=4))

        with pytest.raises(VectorsMissing, match="dimensions"):
            store.versions.store(
                document.id, version, chunks_of(["one"]), model=MODEL, content=content_of(["one"])
            )

    def test_a_version_that_was_never_begun_is_refused(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        document = store.documents.register(kb, "a.txt")

        with pytest.raises(Conflict, match="never begun"):
            store.versions.store(document.id, 1, [], model=MODEL, content=content_of([]))

    def test_two_chunks_of_one_ordinal_are_refused(self, store: DocumentStore, kb: KnowledgeBase) -> None:
        embed(store, ["one"])
        document = store.documents.register(kb, "a.txt")
        version = store.versions.begin(document.id)

        with pytest.raises(Conflict, match="ordinal"):
            store.versions.store(
                document.id, version, chunks_of(["one"]) * 2, model=MODEL, content=content_of(["one"])
            )

    def test_a_document_that_was_deleted_meanwhile_is_not_found(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        document = ingest(store, kb, "a.txt", ["one"])
        store.documents.delete(kb, document.id)

        with pytest.raises(NotFound, match="gone"):
            store.versions.begin(document.id)
        with pytest.raises(NotFound, match="gone"):
            store.versions.store(document.id, 2, chunks_of(["one"]), model=MODEL, content=content_of(["one"]))

    def test_text_that_postgres_cannot_hold_keeps_its_length(
        self, store: DocumentStore, kb: KnowledgeBase, database: Any
    ) -> None:
        text = 'nul \x00 lone \ud800 quote " backslash \\ 猫 🎉'
        vector = np.ones((1, DIM), dtype=np.float32)
        store.vectors.save(MODEL, [b"odd"], vector)
        document = store.documents.register(kb, "a.txt")
        version = store.versions.begin(document.id)
        chunk = NewChunk(0, text, ["\x00 heading"], 0, len(text), b"odd")

        store.versions.store(document.id, version, [chunk], model=MODEL, content=content_of(["x"]))

        ((_, stored),) = chunk_rows(store, database)
        assert stored == text.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")

    def test_a_document_of_thousands_of_chunks_is_stored_whole(
        self, store: DocumentStore, kb: KnowledgeBase
    ) -> None:
        document = ingest(store, kb, "a.txt", [f"text {n}" for n in range(2500)])

        assert document.chunks == 2500
        assert store.knowledge_bases.get("kb_123").chunks == 2500


def test_the_schema_is_applied_once(postgres_url: str) -> None:
    with fresh_database(postgres_url) as url:
        database = connect(url)
        assert migrate(database, MIGRATIONS) == [
            "0001_documents.sql",
            "0002_metadata.sql",
            "0003_reembedding.sql",
            "0004_runs.sql",
            "0005_text_hashes.sql",
        ]
        assert migrate(database, MIGRATIONS) == []
        database.close_all()
