"""A shop whose deployment fails: three types of tasks, four causes to die of, and traces of what was done.

What is broken are the flags in the folder ``EFFECTS``; its files ``started`` and ``done`` have a line for
each time that an actor began, and had its effect.
"""

import os
import time
from pathlib import Path

import msgspec

from actors import actor


class Order(msgspec.Struct):
    """What to do, which part of the shop it needs, and how long it takes."""

    key: str
    needs: str
    seconds: float = 0.0
    currency: str | None = None


class BankAway(Exception):
    """The bank does not answer."""


def folder() -> Path:
    return Path(os.environ["EFFECTS"])


def leave_trace(file: str, key: str) -> None:
    """Append a line; O_APPEND keeps the lines of several processes apart."""
    opened = os.open(folder() / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(opened, f"{key}\n".encode())
    finally:
        os.close(opened)


def ask_bank(order: Order) -> None:
    if (folder() / "bank").exists():
        raise BankAway(f"10.0.0.{len(order.key)}:443 did not answer {order.key} in {len(order.key)}.5 s")


def look_up(order: Order) -> None:
    if (folder() / "stock").exists():
        raise KeyError(order.key)


def write_label(order: Order) -> None:
    if (folder() / "disk").exists():
        raise OSError(28, "No space left on device", f"/var/labels/{order.key}.pdf")


def convert_price(order: Order) -> None:
    if order.currency is None:
        raise ValueError(f"order {order.key!r} has no currency")


PARTS = {"bank": ask_bank, "stock": look_up, "disk": write_label, "price": convert_price}


def fulfil(order: Order) -> str:
    leave_trace("started", order.key)
    PARTS[order.needs](order)
    until = time.monotonic() + order.seconds
    while time.monotonic() < until:
        time.sleep(0.01)  # in small steps, so that an interrupt is noticed
    leave_trace("done", order.key)
    return order.currency or "done"


@actor(max_retries=0)
def pay(order: Order) -> str:
    """Take the money."""
    return fulfil(order)


@actor(max_retries=0)
def pack(order: Order) -> str:
    """Make a parcel."""
    return fulfil(order)


@actor(max_retries=0)
def post(order: Order) -> str:
    """Send the parcel."""
    return fulfil(order)
