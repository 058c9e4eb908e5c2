"""Errors of composition."""

from actors.errors import ActorsError


class CompositionError(ActorsError):
    """Stages are composed in a way that cannot work; raised when they are composed, not when they run."""

    code = "bad_composition"
