"""What all client commands share: the options of the connection, and how they answer."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
import httpx
import msgspec
from rich.console import Console

from api.cli.text import clean
from api.client import DEFAULT_URL, Client

P = ParamSpec("P")
T = TypeVar("T")

_WIDTH_WITHOUT_TERMINAL = 200


@dataclass(frozen=True)
class Remote:
    """A server, and the two places to write to. ``as_json``: stdout is for one JSON document alone."""

    client: Client
    as_json: bool
    out: Console
    err: Console

    def show_json(self, value: object) -> None:
        """Write the one JSON document."""
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())

    def say(self, text: str) -> None:
        """Tell a person something in one line; programs are not told."""
        if not self.as_json:
            self.out.print(clean(text), markup=False, highlight=False, soft_wrap=True)


def console(*, stderr: bool = False) -> Console:
    """Return a console as wide as its terminal; a file or pipe has room for whole lines."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=_WIDTH_WITHOUT_TERMINAL)


def _url_here() -> str:
    """Where a server listens that was started with the settings of this environment."""
    port = os.environ.get("CALLBOARD_PORT")
    return f"http://127.0.0.1:{port}" if port else DEFAULT_URL


def client_command(function: Callable[Concatenate[Remote, P], T]) -> Callable[..., T]:
    """Give a command the options ``--url --token --json``, and its function a ``Remote``.

    A transport in the context's ``obj`` replaces the network: that is how tests come in.
    """

    @click.option(
        "--url",
        envvar="CALLBOARD_URL",
        default=_url_here,
        show_default="this machine, port CALLBOARD_PORT or 8000",
        help="Where the server is (CALLBOARD_URL).",
    )
    @click.option("--token", envvar="CALLBOARD_TOKEN", help="A JWT or an API key (CALLBOARD_TOKEN).")
    @click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")
    @functools.wraps(function)
    def command(*args: Any, url: str, token: str | None, as_json: bool, **kwargs: Any) -> T:
        transport = click.get_current_context().find_object(httpx.BaseTransport)
        with Client(url, token, transport=transport) as client:
            remote = Remote(client, as_json, console(), console(stderr=True))
            return function(remote, *args, **kwargs)

    return command
