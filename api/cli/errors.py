"""Errors of the command line."""

from tasks.errors import CallboardError


class CommandMissing(CallboardError):
    """A command is listed but cannot be loaded."""

    code = "command_missing"


class BadInput(CallboardError):
    """What was given on the command line cannot be used."""

    code = "bad_input"
