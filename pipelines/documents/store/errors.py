"""How the document store refuses. What is not found or already there is said by `tasks.errors`."""

from actors.errors import Permanent
from tasks.errors import Conflict


class VectorsMissing(Conflict):
    """A version cannot be stored: some of its chunks have no embedding of this model and dimension."""

    code = "vectors_missing"


class Superseded(Permanent):
    """A run that embeds a knowledge base anew is not the one that does so any more."""

    code = "superseded"
