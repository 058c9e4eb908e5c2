"""How the document store refuses. What is not found or already there is said by `tasks.errors`."""

from tasks.errors import Conflict


class VectorsMissing(Conflict):
    """A version cannot be stored: some of its chunks have no embedding of this model and dimension."""

    code = "vectors_missing"
