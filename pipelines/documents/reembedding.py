"""The pipeline that embeds a knowledge base anew, by another model: plan | embed | switch | clean.

The new vectors are made beside those that searches see, and become seen in one step at the end. Every stage
may run again after a crash: what is copied already is not copied again.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from actors.context import current_task
from pipelines.composition import Done, Pipeline, stage
from pipelines.documents.embedding import embed_missing
from pipelines.documents.errors import EmbeddingRefused
from pipelines.documents.stages import BATCH, Workshop
from pipelines.documents.store.records import KnowledgeBase, Reembedding, Span


class Reembed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload of ``reembedding``: what is to embed the knowledge base."""

    embedder: str


class Copied(msgspec.Struct, frozen=True):
    """A batch of chunks that have their new vectors: how many were made, and how many were there already."""

    embedded: int = 0
    reused: int = 0


class ReembedReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of ``reembedding``: how many vectors were made, how many chunks found theirs made already,
    and how many chunks with former vectors were removed.
    """

    embedder: str
    embedded: int = 0
    reused: int = 0
    removed: int = 0


@stage(queue="documents", retries=3, timeout=300)
def plan(asked: Reembed) -> list[list[Span]] | Done:
    """Claim the knowledge base, and say in batches what there is to embed."""
    shop, kb, run_id = _here()
    if kb.embedder == asked.embedder:
        return Done(ReembedReport(embedder=kb.embedder))
    dim = shop.embedder(asked.embedder).dim
    claimed = shop.store.reembeddings.claim(kb, run_id, asked.embedder, dim)
    return _batches(shop.store.reembeddings.spans(kb, claimed))


@stage(queue="embed", retries=3, timeout=300)
def embed(batch: list[Span]) -> Copied:
    """Copy a batch of chunks with vectors of the new model; only those are made that it has not made yet."""
    shop, kb, run_id = _here()
    return _copy(shop, kb, shop.store.reembeddings.of_run(kb, run_id), batch)


@stage(queue="embed", retries=3, timeout=3_600)
def switch(parts: list[Copied]) -> Copied:
    """Let searches see the new vectors, as soon as also what was stored meanwhile has them."""
    shop, kb, run_id = _here()
    verbs = shop.store.reembeddings
    claimed = verbs.of_run(kb, run_id)
    parts = list(parts)
    left: list[tuple[Span, int]] = []
    shop.store.ensure_vector_index(claimed.dim)
    while not verbs.switch(kb, claimed):
        before, left = left, verbs.spans(kb, claimed)
        if left and left == before:
            raise EmbeddingRefused(
                f"Some vectors of {claimed.embedder} that are there have not {claimed.dim} dimensions: "
                "another model must have had this name. Give the model of the endpoint a new one."
            )
        parts += [_copy(shop, kb, claimed, batch) for batch in _batches(left)]
    return Copied(sum(part.embedded for part in parts), sum(part.reused for part in parts))


@stage(queue="documents", retries=3, timeout=3_600)
def clean(copied: Copied) -> ReembedReport:
    """Remove the former vectors."""
    shop, kb, run_id = _here()
    claimed = shop.store.reembeddings.of_run(kb, run_id)
    removed = shop.store.reembeddings.remove_former(kb, claimed)
    return ReembedReport(
        embedder=claimed.embedder, embedded=copied.embedded, reused=copied.reused, removed=removed
    )


reembedding = Pipeline("reembedding", plan | embed.map() | switch | clean, queue="documents")


def _copy(shop: Workshop, kb: KnowledgeBase, claimed: Reembedding, batch: Sequence[Span]) -> Copied:
    verbs = shop.store.reembeddings
    pieces = [] if claimed.is_done else verbs.pieces(kb, claimed, batch)
    if not pieces:
        return Copied()
    embedder = shop.embedder(claimed.embedder)
    texts = {piece.text_hash: piece.text for piece in pieces}
    made = embed_missing(shop.store.vectors, embedder, texts, dim=claimed.dim, run=current_task().run_id)
    verbs.copy(kb, claimed, {piece: embedder.count_tokens(piece.text) for piece in pieces})
    return Copied(made, len(pieces) - made)


def _batches(spans: Sequence[tuple[Span, int]]) -> list[list[Span]]:
    """Spans together, up to so many chunks."""
    batches: list[list[Span]] = []
    room = 0
    for span, count in spans:
        if count > room:
            batches.append([])
            room = BATCH
        batches[-1].append(span)
        room -= count
    return batches


def _here() -> tuple[Workshop, KnowledgeBase, UUID]:
    """What this process works with, the knowledge base that it is about, and the run."""
    task = current_task()
    assert task.run_id is not None, "a stage belongs to a run"
    shop = task.use(Workshop)
    return shop, shop.store.knowledge_bases.get(task.kb_id or "", task.user_id), task.run_id
