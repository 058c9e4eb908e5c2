"""A group of commands whose modules are imported when they are called."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import click

from api.cli.errors import CommandMissing


class Place(NamedTuple):
    """The place of a command (``module:attribute``: it, or a function that returns several) and its help."""

    target: str
    help: str


class LazyGroup(click.Group):
    """Knows its commands by their places; help is shown without importing any of them."""

    def __init__(self, *args: Any, places: Mapping[str, Place], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = dict(places)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        place = self._places.get(cmd_name)
        return None if place is None else _load(place, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in self._places.items()])


def _load(place: Place, name: str) -> click.Command:
    module, _, attribute = place.target.partition(":")
    try:
        found: click.Command | Callable[[], list[click.Command]] = getattr(
            importlib.import_module(module), attribute
        )
    except ModuleNotFoundError as error:
        raise CommandMissing(
            f"`callboard {name}` cannot run here, the module {error.name} is missing: install Callboard anew"
        ) from error
    if isinstance(found, click.Command):
        return found
    command = next((one for one in found() if one.name == name), None)
    if command is None:
        raise CommandMissing(f"this version of Callboard has no `callboard {name}`: see `callboard --help`")
    return command
