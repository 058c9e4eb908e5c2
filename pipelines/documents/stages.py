"""The document pipeline: validate | convert | chunk | embed | store | index.

Between the stages go small values; texts and chunks are blobs. Every stage may run again after a crash: it
writes under keys of its own version, and the store's verbs are idempotent.
"""

import hashlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import msgspec

from actors.context import current_task
from pipelines.composition import Done, Pipeline, stage
from pipelines.documents import chunking, conversion, detection
from pipelines.documents.blobs import Blobs
from pipelines.documents.embedders.port import Embedder
from pipelines.documents.embedding import embed_missing
from pipelines.documents.errors import DocumentMissing, DocumentTooLarge, EmptyDocument
from pipelines.documents.sources import Kept, Sources
from pipelines.documents.store.errors import VectorsMissing
from pipelines.documents.store.facade import DocumentStore
from pipelines.documents.store.records import Content, NewChunk
from pipelines.documents.store.records import KnowledgeBase as KeptKnowledgeBase
from pipelines.documents.values import (
    ChunkRef,
    Converted,
    Embedded,
    KeptChunk,
    KeptChunks,
    Report,
    Source,
    Stored,
    Validated,
)
from tasks.errors import InvalidField

BATCH = 64
MOST_CHUNKS = 100_000
MOST_EMBEDDERS = 3  # that a knowledge base may have while a version of a document is stored


class Workshop(msgspec.Struct):
    """What the stages work with: one a process, provided by its composition root."""

    store: DocumentStore
    blobs: Blobs
    sources: Sources
    embedder: Callable[[str], Embedder]
    most_bytes: int


@stage(queue="documents", retries=3, timeout=120)
def validate(source: Source) -> Validated | Done:
    """Find out what the document is; one that is unchanged, or a duplicate of another, is done."""
    shop, kb = _shop_and_kb()
    kept = _bring_in(shop, source)
    if kept.size > shop.most_bytes:
        raise DocumentTooLarge(f"The document has {kept.size} bytes; at most {shop.most_bytes} are allowed.")
    name = source.name or PurePosixPath(source.file_path or kept.key).name
    known = _already_there(shop, kb, name, kept.sha256, source)
    if known is not None:
        return Done(known)
    with shop.blobs.as_file(kept.key) as path:
        media_type = detection.detect(path, name, kept.media_type)
    document = shop.store.documents.register(kb, name)
    return Validated(
        document_id=document.id,
        name=name,
        version=shop.store.versions.begin(document.id, current_task().run_id),
        blob=kept.key,
        media_type=str(media_type),
        size_bytes=kept.size,
        sha256=kept.sha256,
        chunk_size=source.chunk_size,
        chunk_overlap=source.chunk_overlap,
        chunk_unit=source.chunk_unit,
        metadata=source.metadata,
    )


@stage(queue="convert", retries=3, timeout=120)
def convert(source: Validated) -> Converted:
    """Turn the document into Markdown, in a child process that can be killed."""
    shop = current_task().use(Workshop)
    with shop.blobs.as_file(source.blob, PurePosixPath(source.name).suffix) as path:
        text = conversion.convert(path, detection.MediaType(source.media_type))
    key = f"texts/{source.document_id}/{source.version}.md"
    shop.blobs.put(key, text.encode())
    return Converted(source=source, text=key, characters=len(text))


@stage(queue="documents", retries=3, timeout=120)
def chunk(converted: Converted) -> list[ChunkRef]:
    """Cut the text on headings and sentences."""
    shop, kb = _shop_and_kb()
    source = converted.source
    text = shop.blobs.get(converted.text).decode()
    # In characters no embedder is needed, which would have to be loaded first.
    count = shop.embedder(kb.embedder).count_tokens if source.chunk_unit == "tokens" else None
    pieces = chunking.split(
        text, size=source.chunk_size, overlap=source.chunk_overlap, unit=source.chunk_unit, count=count
    )
    if not pieces:
        raise EmptyDocument("There is no text in the document.")
    if len(pieces) > MOST_CHUNKS:
        raise DocumentTooLarge(f"The document has {len(pieces)} chunks: use a larger chunk_size.")
    kept = KeptChunks(source=source, chunks=[_kept(piece) for piece in pieces])
    key = f"runs/{current_task().run_id}/chunks.json"
    shop.blobs.put(key, msgspec.json.encode(kept))
    return [ChunkRef(key, piece.ordinal) for piece in kept.chunks]


@stage(queue="embed", retries=3, timeout=300)
def embed(batch: list[ChunkRef]) -> Embedded:
    """Make the vectors of those chunks whose text is new to the knowledge base's model."""
    shop, kb = _shop_and_kb()
    kept = _read_chunks(shop, batch[0].chunks)
    embedder = shop.embedder(kb.embedder)
    in_order = [kept.chunks[ref.ordinal].text for ref in batch]
    texts = {_hash(text): text for text in in_order}
    made = embed_missing(shop.store.vectors, embedder, texts, dim=kb.dim, run=current_task().run_id)
    return Embedded(
        chunks=batch[0].chunks,
        embedded=made,
        reused=len(batch) - made,
        first=batch[0].ordinal,
        tokens=tuple(map(embedder.count_tokens, in_order)),
    )


@stage(queue="documents", retries=3, timeout=300)
def store(parts: list[Embedded]) -> Stored:
    """Write the new version beside the old one and make it the searchable one, in one transaction.

    If the same bytes became searchable under another name meanwhile, this is a duplicate after all.
    """
    shop, kb = _shop_and_kb()
    kept = _read_chunks(shop, parts[0].chunks)
    source = kept.source
    chunks = _new_chunks(kept, parts)
    duplicate, model = _store_version(shop, kb, source, chunks)
    # Not the sums of the batches: one whose worker was killed found its own vectors when it ran again.
    embedded = shop.store.vectors.made_by(current_task().run_id, model, {chunk.text_hash for chunk in chunks})
    return Stored(
        source=source,
        chunks=len(chunks),
        embedded=embedded,
        reused=len(chunks) - embedded,
        duplicate=duplicate,
    )


@stage(queue="documents", retries=3, timeout=300)
def index(stored: Stored) -> Report:
    """See to the vector index, and remove the old version and what the run left behind."""
    shop, kb = _shop_and_kb()
    source = stored.source
    shop.store.ensure_vector_index(kb.dim)
    removed = shop.store.versions.remove_old(source.document_id)
    shop.blobs.delete(f"runs/{current_task().run_id}")
    newest = source.version if stored.duplicate is None else source.version + 1
    for version in range(max(1, source.version - 10), newest):
        shop.blobs.delete(f"texts/{source.document_id}/{version}.md")
    if stored.duplicate is not None:
        return stored.duplicate
    return Report(
        document_id=source.document_id,
        name=source.name,
        version=source.version,
        chunks=stored.chunks,
        embedded=stored.embedded,
        reused=stored.reused,
        removed=removed,
    )


document_processing = Pipeline(
    "document_processing",
    validate | convert | chunk | embed.map(batch=BATCH) | store | index,
    queue="documents",
)


def _shop_and_kb() -> tuple[Workshop, KeptKnowledgeBase]:
    task = current_task()
    shop = task.use(Workshop)
    return shop, shop.store.knowledge_bases.get(task.kb_id or "", task.user_id)


def _store_version(
    shop: Workshop, kb: KeptKnowledgeBase, source: Validated, chunks: list[NewChunk]
) -> tuple[Report | None, str]:
    """Store the chunks, unless they are a duplicate (its report), with the vectors of a model (its name)."""
    content = Content(source.media_type, source.size_bytes, source.sha256, _cut(source), source.metadata)
    for _ in range(MOST_EMBEDDERS):
        try:
            with shop.store.alone(kb, source.sha256):
                duplicate = _duplicate(shop, kb, source.name, source.sha256, source)
                if duplicate is None:
                    shop.store.versions.store(
                        source.document_id, source.version, chunks, model=kb.embedder, content=content
                    )
            return duplicate, kb.embedder
        except VectorsMissing:
            # Since then the knowledge base has got another embedder, or another document that had these texts
            # was deleted with their vectors.
            _, kb = _shop_and_kb()
            embedder = shop.embedder(kb.embedder)
            texts = {one.text_hash: one.text for one in chunks}
            embed_missing(shop.store.vectors, embedder, texts, dim=kb.dim, run=current_task().run_id)
            chunks = [one._replace(tokens=embedder.count_tokens(one.text)) for one in chunks]
    raise VectorsMissing("The knowledge base has another embedder again and again: try again later.")


def _bring_in(shop: Workshop, source: Source) -> Kept:
    """The source as a blob: what comes from elsewhere is copied, so that all stages see the same."""
    if source.url is not None:
        return shop.sources.fetch(source.url)
    if source.file_path is not None:
        try:
            return shop.sources.keep(shop.sources.resolve(source.file_path))
        except (InvalidField, OSError):
            raise DocumentMissing(
                "The file is not there any more, or not below CALLBOARD_FILE_ROOTS of the worker."
            ) from None
    with shop.blobs.as_file(source.blob or "") as path:
        return shop.sources.keep(path)


def _already_there(
    shop: Workshop, kb: KeptKnowledgeBase, name: str, sha256: str, source: Source
) -> Report | None:
    same = shop.store.documents.find_unchanged(kb, name, sha256)
    if same is not None and dict(same.cut) == _cut(source):
        updated = source.metadata is not None and shop.store.documents.describe(same.id, source.metadata)
        return Report(
            document_id=same.id,
            name=name,
            version=same.version,
            chunks=same.chunks,
            unchanged=not updated,
            metadata_updated=updated,
        )
    return _duplicate(shop, kb, name, sha256, source)


def _duplicate(
    shop: Workshop, kb: KeptKnowledgeBase, name: str, sha256: str, source: Source | Validated
) -> Report | None:
    twin = shop.store.documents.find_duplicate(kb, name, sha256, _cut(source), source.metadata)
    if twin is None:
        return None
    shop.store.documents.mark_duplicate(shop.store.documents.register(kb, name).id, sha256)
    return Report(
        document_id=twin.id, name=name, version=twin.version, chunks=twin.chunks, duplicate_of=twin.id
    )


def _cut(source: Source | Validated) -> dict[str, Any]:
    """How a document is cut: with other options the same bytes are another version."""
    cut: dict[str, Any] = {"chunk_size": source.chunk_size, "chunk_overlap": source.chunk_overlap}
    # Documents of former releases were cut in characters and do not say so.
    return cut if source.chunk_unit == "characters" else cut | {"chunk_unit": source.chunk_unit}


def _new_chunks(kept: KeptChunks, parts: list[Embedded]) -> list[NewChunk]:
    tokens = {part.first + n: count for part in parts for n, count in enumerate(part.tokens)}
    return [
        NewChunk(
            one.ordinal,
            one.text,
            one.heading_path,
            one.start,
            one.end,
            _hash(one.text),
            tokens.get(one.ordinal),
        )
        for one in kept.chunks
    ]


def _kept(piece: chunking.Chunk) -> KeptChunk:
    return KeptChunk(
        ordinal=piece.ordinal,
        text=piece.text,
        heading_path=tuple(piece.heading_path),
        start=piece.start,
        end=piece.end,
    )


def _read_chunks(shop: Workshop, key: str) -> KeptChunks:
    return msgspec.json.decode(shop.blobs.get(key), type=KeptChunks)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
