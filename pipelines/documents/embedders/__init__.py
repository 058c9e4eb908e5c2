"""Embedders: text in, unit vectors out. Each stands behind the one port in `port`."""

from pipelines.documents.embedders.port import Embedder, Endpoint
from tasks.errors import SettingsError

__all__ = ["NAMES", "Embedder", "Endpoint", "load", "stored_name"]

NAMES = ("e5", "fast", "http")
_HTTP = "http:"


def stored_name(name: str, endpoint: Endpoint | None) -> str:
    """Return the name under which the vectors of ``name`` (e5, fast, http) are kept: `http:MODEL` for http.

    Raises `SettingsError` if there is no embedder of that name, or no endpoint is set for http.
    """
    if name not in NAMES:
        raise SettingsError(f"there is no embedder {name!r}: use one of {', '.join(NAMES)}")
    return name if name != "http" else _HTTP + _needed(endpoint).model


def load(name: str, endpoint: Endpoint | None = None) -> Embedder:
    """Return a new embedder by the name its vectors are kept under; what it needs is read at its first use.

    An embedder is safe to share between threads and large (e5: some 150 MB): make one a process. The model
    of `http:MODEL` is asked for at ``endpoint``, also when the settings name another one by now.
    Raises `SettingsError` if there is no embedder of that name, or no endpoint is set for http.
    """
    # Imported here because numpy with its BLAS costs some 30 MB, which a process that embeds nothing saves.
    if name.startswith(_HTTP):
        from pipelines.documents.embedders.http import HttpEmbedder

        return HttpEmbedder(_needed(endpoint).for_model(name.removeprefix(_HTTP)))
    if stored_name(name, endpoint) != name:
        raise SettingsError("an endpoint embeds by a model: load http:MODEL")
    if name == "fast":
        from pipelines.documents.embedders.fast import FastEmbedder

        return FastEmbedder()
    from pipelines.documents.embedders.e5 import E5Embedder

    return E5Embedder()


def _needed(endpoint: Endpoint | None) -> Endpoint:
    if endpoint is None:
        raise SettingsError(
            "the embedder http has no endpoint: set CALLBOARD_EMBEDDING_URL and CALLBOARD_EMBEDDING_MODEL"
        )
    return endpoint
