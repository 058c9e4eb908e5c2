"""The documents of a knowledge base."""

from typing import Any
from uuid import UUID

import msgspec
from falcon import MEDIA_MULTIPART
from falcon.asgi import Request, Response

from actors import fields
from api.caller import Caller, caller_of
from api.desk import Desk
from api.media import read_object, render
from api.parameters import part, read_query
from api.resources.tasks import address
from api.schemas.common import Paged
from api.schemas.knowledge import DocumentRequest, UploadFields
from api.uploads import received
from pipelines.documents.metadata import checked_metadata, metadata_of_form
from pipelines.documents.values import Source
from tasks.errors import InvalidField, NotFound
from tasks.ids import parse_id


class Documents:
    """``/knowledge-bases/{kb_id}/documents`` and what is below it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._library = desk.kit.library

    async def on_get(self, req: Request, resp: Response, kb_id: str) -> None:
        """List the documents."""
        asked = part(read_query(req, Paged))
        found, total = await self._desk.ask(
            self._library.documents,
            kb_id,
            owner=caller_of(req).owner,
            limit=asked.limit,
            offset=asked.offset,
        )
        render(resp, asked.answer("documents", found, total))

    async def on_post(self, req: Request, resp: Response, kb_id: str) -> None:
        """Take a document in: a file of a form, a text, a URL, or a file that the server can read."""
        is_form = (req.content_type or "").lower().startswith(MEDIA_MULTIPART)
        take_in = self._take_upload if is_form else self._take_body
        added = await take_in(req, kb_id, caller_of(req))
        resp.location = address(added.task_id)
        render(resp, {"document_id": added.document_id, "task_id": added.task_id}, 202)

    async def on_get_one(self, req: Request, resp: Response, kb_id: str, document_id: str) -> None:
        """A document."""
        found = await self._desk.ask(
            self._library.document, kb_id, _known(document_id), owner=caller_of(req).owner
        )
        render(resp, found)

    async def on_delete_one(self, req: Request, resp: Response, kb_id: str, document_id: str) -> None:
        """Remove a document and its chunks."""
        owner = caller_of(req).owner
        await self._desk.work(self._library.delete_document, kb_id, _known(document_id), owner=owner)
        resp.status = 204

    async def _take_upload(self, req: Request, kb_id: str, caller: Caller) -> Any:
        # Nobody should send 200 MB to a knowledge base that is not there.
        await self._desk.ask(self._library.knowledge_base, kb_id, owner=caller.owner)
        settings = self._desk.kit.settings
        async with received(req, settings.data_dir / "uploads", settings.upload_limit) as upload:
            asked = fields.read(UploadFields, upload.fields, from_text=True)
            source = _source(asked, asked.name or upload.filename, metadata_of_form(asked.metadata))
            return await self._desk.work(
                self._library.add_upload,
                kb_id,
                upload.path,
                source,
                owner=caller.owner,
                created_by=caller.created_by,
            )

    async def _take_body(self, req: Request, kb_id: str, caller: Caller) -> Any:
        body = fields.read(DocumentRequest, await read_object(req, self._desk))
        source = _source(body, body.name, checked_metadata(body.metadata))
        who: dict[str, Any] = {"owner": caller.owner, "created_by": caller.created_by}
        given = [one for one in ("text", "file_path", "url") if getattr(body, one) is not None]
        if len(given) > 1:
            raise InvalidField.of(given[1], f"cannot be used together with {given[0]}: give one of them")
        if body.text is None and given:
            source = msgspec.structs.replace(source, file_path=body.file_path, url=body.url)
            return await self._desk.work(self._library.add, kb_id, source, **who)
        if body.text is None or body.name is None:
            missing = "text" if body.text is None else "name"
            raise InvalidField.of(missing, "is required: send name and text, or url, or file_path, or a form")
        return await self._desk.work(self._library.add_text, kb_id, body.text, source, **who)


def _source(
    asked: DocumentRequest | UploadFields, name: str | None, metadata: dict[str, Any] | None
) -> Source:
    """All that is said of a document but where it is."""
    if asked.chunk_overlap >= asked.chunk_size:
        raise InvalidField.of("chunk_overlap", "must be less than chunk_size")
    return Source(
        name=name,
        chunk_size=asked.chunk_size,
        chunk_overlap=asked.chunk_overlap,
        chunk_unit=asked.chunk_unit,
        metadata=metadata,
    )


def _known(document_id: str) -> UUID:
    known = parse_id(document_id)
    if known is None:
        raise NotFound(f"There is no document {document_id[:100]} in this knowledge base.")
    return known
