"""The operations on knowledge bases and their documents."""

from typing import Any

from api.operations.model import Operation, holder, listing
from api.schemas.common import Paged
from api.schemas.knowledge import (
    DocumentRequest,
    KnowledgeBaseRequest,
    Reembedding,
    ReembedRequest,
    SearchRequest,
    UploadFields,
)
from pipelines.documents.values import AddedDocument, Document, Hit, KnowledgeBase

Hits = holder("Hits", hits=list[Hit])

OPERATIONS = (
    Operation(
        "GET /knowledge-bases",
        "list_knowledge_bases",
        {200: listing("knowledge_bases", KnowledgeBase)},
        query=Paged,
    ),
    Operation(
        "POST /knowledge-bases",
        "create_knowledge_base",
        {201: KnowledgeBase},
        body=KnowledgeBaseRequest,
        refuses=(409,),
        has_location=True,
    ),
    Operation("GET /knowledge-bases/{kb_id}", "get_knowledge_base", {200: KnowledgeBase}),
    Operation("DELETE /knowledge-bases/{kb_id}", "delete_knowledge_base", {204: None}),
    Operation("GET /knowledge-bases/{kb_id}/search", "search", {200: Hits}, query=SearchRequest),
    Operation(
        "POST /knowledge-bases/{kb_id}/reembed",
        "reembed_knowledge_base",
        {202: Reembedding},
        body=ReembedRequest,
        refuses=(409, 429),
        has_location=True,
    ),
    Operation(
        "GET /knowledge-bases/{kb_id}/documents",
        "list_documents",
        {200: listing("documents", Document)},
        query=Paged,
    ),
    Operation(
        "POST /knowledge-bases/{kb_id}/documents",
        "add_document",
        {202: AddedDocument},
        body=DocumentRequest,
        form=UploadFields,
        has_location=True,
    ),
    Operation("GET /knowledge-bases/{kb_id}/documents/{document_id}", "get_document", {200: Document}),
    Operation("DELETE /knowledge-bases/{kb_id}/documents/{document_id}", "delete_document", {204: None}),
)

EXAMPLES: dict[Any, dict[str, Any]] = {
    KnowledgeBaseRequest: {"kb_id": "docs", "name": "Our documents"},
    DocumentRequest: {"name": "notes.md", "text": "# Notes\n\nWhoever signs on Tuesday pays on Friday."},
}
