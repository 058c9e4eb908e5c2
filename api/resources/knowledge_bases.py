"""Knowledge bases, and the search in one."""

from falcon.asgi import Request, Response

from actors import fields
from api.caller import caller_of
from api.desk import Desk
from api.media import read_object, render
from api.parameters import part, read_query, read_search
from api.resources.tasks import address
from api.schemas.common import Paged
from api.schemas.knowledge import KnowledgeBaseRequest, Reembedding, ReembedRequest
from tasks.errors import InvalidField


class KnowledgeBases:
    """``/knowledge-bases`` and ``/knowledge-bases/{kb_id}``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._library = desk.kit.library

    async def on_get(self, req: Request, resp: Response) -> None:
        """List the knowledge bases."""
        asked = part(read_query(req, Paged))
        found, total = await self._desk.ask(
            self._library.knowledge_bases,
            owner=caller_of(req).owner,
            limit=asked.limit,
            offset=asked.offset,
        )
        render(resp, asked.answer("knowledge_bases", found, total))

    async def on_post(self, req: Request, resp: Response) -> None:
        """Create a knowledge base."""
        body = fields.read(KnowledgeBaseRequest, await read_object(req, self._desk))
        name = body.name or body.kb_id
        if name is None:
            raise InvalidField.of("name", "is required, unless kb_id is given")
        created = await self._desk.embed(
            self._library.create_knowledge_base,
            owner=caller_of(req).tenant(body.user_id),
            kb_id=body.kb_id,
            name=name,
            embedder=body.embedder,
        )
        resp.location = f"{req.path}/{created.kb_id}"
        render(resp, created, 201)

    async def on_get_one(self, req: Request, resp: Response, kb_id: str) -> None:
        """A knowledge base."""
        owner = caller_of(req).owner
        render(resp, await self._desk.ask(self._library.knowledge_base, kb_id, owner=owner))

    async def on_delete_one(self, req: Request, resp: Response, kb_id: str) -> None:
        """Remove a knowledge base and all that is in it."""
        owner = caller_of(req).owner
        await self._desk.work(self._library.delete_knowledge_base, kb_id, owner=owner)
        resp.status = 204

    async def on_post_reembed(self, req: Request, resp: Response, kb_id: str) -> None:
        """Embed a knowledge base anew, by another model."""
        body = fields.read(ReembedRequest, await read_object(req, self._desk))
        caller = caller_of(req)
        task_id = await self._desk.embed(
            self._desk.kit.reembedder.reembed,
            kb_id,
            owner=caller.owner,
            embedder=body.embedder,
            created_by=caller.created_by,
        )
        resp.location = address(task_id)
        render(resp, Reembedding(task_id), 202)

    async def on_get_search(self, req: Request, resp: Response, kb_id: str) -> None:
        """The chunks that fit a question best."""
        asked, wanted = read_search(req)
        hits = await self._desk.embed(
            self._library.search,
            kb_id,
            owner=caller_of(req).owner,
            q=asked.q,
            limit=asked.limit,
            mode=asked.mode,
            explain=asked.explain,
            filter=wanted,
            weight=asked.weight,
            highlight=asked.highlight,
        )
        render(resp, {"hits": hits})
