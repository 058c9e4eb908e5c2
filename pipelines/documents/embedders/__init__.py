"""Embedders: text in, unit vectors out. Each stands behind the one port in `port`."""

from pipelines.documents.embedders.port import Embedder
from tasks.errors import SettingsError

__all__ = ["Embedder", "load"]

NAMES = ("e5", "fast")


def load(name: str) -> Embedder:
    """Return a new embedder by its name; it reads its weights when it is first used.

    An embedder is safe to share between threads and large (e5: some 150 MB): make one a process.
    Raises `SettingsError` if there is no embedder of that name.
    """
    if name not in NAMES:
        raise SettingsError(f"there is no embedder {name!r}: use one of {', '.join(NAMES)}")
    # Imported here because numpy with its BLAS costs some 30 MB, which a process that embeds nothing saves.
    if name == "fast":
        from pipelines.documents.embedders.fast import FastEmbedder

        return FastEmbedder()
    from pipelines.documents.embedders.e5 import E5Embedder

    return E5Embedder()
