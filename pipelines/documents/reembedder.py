"""How people have a knowledge base embedded anew."""

from collections.abc import Callable
from uuid import UUID

from actors.definitions import convert
from actors.submission import Order, Submission
from pipelines.documents.embedding import Models
from pipelines.documents.reembedding import Reembed, reembedding
from pipelines.documents.store.facade import DocumentStore
from tasks.errors import Conflict, InvalidField, NotFound

PATIENCE_SECONDS = 5.0


class Orders:
    """Checks orders of ``reembedding`` that come as tasks."""

    def __init__(self, store: DocumentStore, models: Models) -> None:
        self._store = store
        self._models = models

    def check(self, order: Order) -> dict[str, str]:
        """The payload of an order, with the model that it means.

        Raises:
          InvalidField: the knowledge base or the embedder is not there.
        """
        asked: Reembed = convert(order.payload, Reembed, "payload")
        try:
            self._store.knowledge_bases.get(order.kb_id or "", order.user_id)
        except NotFound:
            raise InvalidField.of(
                "kb_id",
                "must be the knowledge base that is to be embedded anew",
                code="unknown_knowledge_base",
            ) from None
        return {"embedder": self._models.named(asked.embedder, "payload.embedder")}


class Reembedder:
    """How people ask for it. ``is_unfinished`` tells of a run whether it is still under way."""

    def __init__(
        self,
        store: DocumentStore,
        models: Models,
        submission: Submission,
        is_unfinished: Callable[[UUID], bool],
    ) -> None:
        self._store = store
        self._models = models
        self._submission = submission
        self._is_unfinished = is_unfinished

    def reembed(self, kb_id: str, *, owner: str | None, embedder: str, created_by: str) -> UUID:
        """Submit a run that embeds a knowledge base anew by ``embedder`` (e5, fast, http); its id.

        Raises:
          NotFound: there is no such knowledge base.
          InvalidField: there is no such embedder.
          Unavailable: the embedding endpoint, which is asked for its dimension, does not answer.
          Conflict: it is being embedded anew already.
        """
        kb = self._store.knowledge_bases.get(kb_id, owner)
        model = self._models.named(embedder)
        dim = self._models.dim(model)
        order = Order(
            task_type=reembedding.name,
            payload={"embedder": model},
            kb_id=kb.kb_id,
            user_id=kb.owner,
            created_by=created_by,
        )
        with self._store.reembeddings.deciding(kb) as last:
            if last is not None and not last.is_done and self._is_unfinished(last.run_id):
                raise Conflict(
                    f"The knowledge base {kb_id!r} is being embedded anew by task {last.run_id}: "
                    "wait for it, or cancel it."
                )
            if model != kb.embedder:
                self._store.reembeddings.claim(kb, order.id, model, dim)
            self._submission.record([self._submission.prepare(order)], patience=PATIENCE_SECONDS).result()
        return order.id
