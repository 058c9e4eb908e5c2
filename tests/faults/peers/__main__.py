"""Plays the faults 1-8 on plain dramatiq: ``python -m tests.faults.peers [names…]``, all without names.

What became of the tasks is printed as a table. ``FAULT_SEED`` repeats what a run has drawn, and
``PEERS_KEEP=1`` leaves the sinks and the logs.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import dramatiq

from tests.faults.peers.scenarios import SCENARIOS
from tests.faults.peers.trial import Account, Trial
from tests.faults.rabbit import Rabbit, private_rabbit

COLUMNS = (
    "scenario",
    "confirms",
    "submitted",
    "started",
    "finished",
    "waiting",
    "lost",
    "ran twice",
    "verdict",
)
WIDTHS = (14, 8, 9, 7, 8, 7, 4, 9, 21)


def main(words: Sequence[str]) -> None:
    """Play the scenarios that ``words`` name, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of: {', '.join(SCENARIOS)} (default: all)")
    names = parser.parse_args(words).names or list(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            parser.error(f"there is no scenario {name!r}: use {', '.join(SCENARIOS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    seed = int(os.environ.get("FAULT_SEED") or random.randrange(10_000))
    print(f"dramatiq {dramatiq.__version__}, FAULT_SEED={seed}\n")
    _print_row(COLUMNS, "seconds", "figures")
    with private_rabbit() as node:
        for name in names:
            started = time.monotonic()
            account = _play(node, name, seed)
            _print_account(name, account, time.monotonic() - started)


def _play(node: Rabbit, name: str, seed: int) -> Account:
    play, confirm = SCENARIOS[name]
    folder = Path(tempfile.mkdtemp(prefix="callboard-peers-"))
    trial = Trial(node, folder, seed)
    trial.confirm = confirm
    try:
        return play(trial)
    finally:
        trial.end()
        if os.environ.get("PEERS_KEEP"):
            print(f"  kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _print_account(name: str, account: Account, seconds: float) -> None:
    verdict = ", ".join(
        word
        for word, count in (
            ("lost", account.lost),
            ("unfinished", account.waiting),
            ("ran twice", account.ran_twice),
        )
        if count
    )
    confirm = "on" if SCENARIOS[name][1] else "off"
    counts = (account.submitted, account.started, account.finished, account.waiting, account.lost)
    row = (name, confirm, *map(str, (*counts, account.ran_twice)), verdict or "none lost or twice")
    _print_row(row, f"{seconds:.0f}", account.note)


def _print_row(cells: Sequence[str], *more: str) -> None:
    padded = [cell.ljust(width) for cell, width in zip(cells, WIDTHS, strict=True)]
    print(" | ".join([*padded, *more]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
