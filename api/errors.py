"""Errors of the API itself; each is answered with one status (see `api.problems`)."""

from tasks.errors import CallboardError


class ApiError(CallboardError):
    """The root of the errors of this package."""


class Unparsable(ApiError):
    """The body cannot be read at all; nothing in it was looked at."""

    code = "unparsable"


class TooLarge(ApiError):
    """The body is larger than this server accepts."""

    code = "too_large"


class UnsupportedMedia(ApiError):
    """The body is of a content type that this route does not read."""

    code = "unsupported_media_type"


class Forbidden(ApiError):
    """The caller may not do this: an administrator may."""

    code = "forbidden"
