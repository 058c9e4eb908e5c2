"""The registry: every type that a process knows, collected by its composition root."""

import importlib
import inspect
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from actors.definitions import Actor
from actors.errors import DefinitionError
from actors.executors import registered_in
from actors.submission import Submittable


class Registry:
    """Actors by the name of their type."""

    def __init__(self, actors: Iterable[Actor[..., Any]] = ()) -> None:
        self._actors: dict[str, Actor[..., Any]] = {}
        for one in actors:
            self.add(one)

    def add(self, one: Actor[..., Any]) -> None:
        """Know an actor from now on.

        Raises:
          DefinitionError: another actor has the name already.
        """
        known = self._actors.setdefault(one.name, one)
        if known is not one:
            raise DefinitionError(f"two actors are named {one.name!r}: rename one of them with name=…")

    def get(self, name: str) -> Actor[..., Any] | None:
        """The actor of a type, or None."""
        return self._actors.get(name)

    def __iter__(self) -> Iterator[Actor[..., Any]]:
        return iter(self._actors.values())

    def __contains__(self, name: object) -> bool:
        return name in self._actors

    @property
    def names(self) -> list[str]:
        """All types, sorted."""
        return sorted(self._actors)

    @property
    def queues(self) -> list[str]:
        """The queues of all types, sorted."""
        return sorted({one.policy.queue for one in self._actors.values()})


def load_module(name: str) -> ModuleType:
    """Import a user's module of actors.

    Raises:
      DefinitionError: it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DefinitionError(
            f"CALLBOARD_ACTORS names {name!r}, which cannot be imported ({error}): is it on PYTHONPATH?"
        ) from error


def actors_of(module: ModuleType) -> list[Actor[..., Any]]:
    """The actors of a module that can be asked for: its own attributes, and what it has registered."""
    own: list[Actor[..., Any]] = [one for one in members(module, Actor) if one.is_whole]
    return own + [one for one in registered_in(module.__name__) if one not in own]


def submittables_of(module: ModuleType) -> list[Submittable]:
    """All that can be asked for of a module: its actors, and whatever else makes tasks (pipelines)."""
    own = {id(value): value for value in vars(module).values()}.values()
    return [*actors_of(module), *(one for one in own if not isinstance(one, Actor) and makes_tasks(one))]


def makes_tasks(value: object) -> bool:
    """Whether a value can be asked for as a task. Looked at from outside: it may be anything at all."""
    method = inspect.getattr_static(type(value), "tasks", None)
    named = inspect.getattr_static(value, "name", None)
    return inspect.isfunction(method) and isinstance(named, str) and getattr(value, "is_whole", True)


def members(module: ModuleType, kind: type) -> list[Any]:
    """The module's own attributes of ``kind``, each once."""
    found = {id(value): value for value in vars(module).values() if isinstance(value, kind)}
    return list(found.values())
