"""Executors: objects with a type and ``execute(task)``, registered as actors."""

import sys
from collections.abc import Callable
from typing import Any, Protocol

from actors.context import CurrentTask, current_task
from actors.definitions import Actor, make_policy
from actors.errors import DefinitionError


class Executor(Protocol):
    """What can be registered. Its type is its ``type``, or what its ``get_type()`` says."""

    def execute(self, task: CurrentTask) -> Any:
        """Do the work of a task. What is returned, or else was set as ``task.result``, is its result."""


#: What was registered, with the module that did it: a registration need not be assigned to a name.
_registered: list[tuple[str, Actor[[], Any]]] = []


def register(executor: Executor, **policy: Any) -> Actor[[], Any]:
    """Make an executor an actor: at the top level of a module that CALLBOARD_ACTORS names, it is served.

    ``policy`` is that of `actors.actor`: ``queue``, ``max_retries``, ``timeout``, ``backoff`` …,
    but for ``cache``: what an executor makes may depend on all that it holds.

    Raises:
      DefinitionError: it has no type or no ``execute``, or a part of the policy cannot be used.
    """
    name = _type_of(executor)
    execute = getattr(executor, "execute", None)
    if "cache" in policy:
        raise DefinitionError(
            f"outputs of the executor of {name} cannot be kept: make it a function, an @actor"
        )
    if not callable(execute):
        raise DefinitionError(f"the executor of {name} has no method execute(task): write one")
    made = Actor(_on_current_task(execute), name, make_policy(name, **policy))
    made.__doc__ = type(executor).__doc__
    _registered.append((sys._getframe(1).f_globals.get("__name__", ""), made))
    return made


def registered_in(module: str) -> list[Actor[[], Any]]:
    """What a module, or one of the package of this name, has registered."""
    return [made for where, made in _registered if where == module or where.startswith(f"{module}.")]


def _on_current_task(execute: Callable[[CurrentTask], Any]) -> Callable[[], Any]:
    def run() -> Any:
        return execute(current_task())

    return run


def _type_of(executor: object) -> str:
    get_type = getattr(executor, "get_type", None)
    name = get_type() if callable(get_type) else getattr(executor, "type", None)
    if not isinstance(name, str):
        raise DefinitionError(
            f"{type(executor).__name__} does not say its type: give it an attribute type = '…' or get_type()"
        )
    return name
