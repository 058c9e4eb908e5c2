"""How a document can fail. Most are permanent, since the same bytes would fail again; others pass."""

from actors.errors import ActorsError, Permanent
from tasks.errors import Unavailable


class DocumentError(Permanent):
    """The root of the document errors."""

    code = "unreadable_document"


class UnsupportedType(DocumentError):
    """The content is of a type that no converter reads."""

    code = "unsupported_type"


class UnreadableDocument(DocumentError):
    """The content is broken, encrypted, or its conversion ran out of time."""

    code = "unreadable_document"


class DocumentTooLarge(DocumentError):
    """The content, or what it unpacks to, is larger than allowed."""

    code = "document_too_large"


class EmptyDocument(DocumentError):
    """There is no text in the document."""

    code = "empty_document"


class DocumentMissing(DocumentError):
    """The file that the task names is not there (any more)."""

    code = "document_missing"


class FetchRefused(DocumentError):
    """A URL that must not be fetched, or that answers with no document."""

    code = "fetch_refused"


class EmbeddingRefused(DocumentError):
    """The embedding endpoint refuses the text, or its vectors do not fit the knowledge base."""

    code = "embedding_refused"


class FetchFailed(ActorsError):
    """A server that cannot be reached, is too slow or too busy now; the stage is tried again."""

    code = "fetch_failed"


class EmbeddingUnavailable(Unavailable):
    """The embedding endpoint gives no usable answer; this may pass."""

    code = "embedding_unavailable"
