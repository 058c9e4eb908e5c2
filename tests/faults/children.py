"""Server processes of the tests themselves, which end with the tests even if those are killed."""

import ctypes
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def run_child(
    command: Sequence[str], environ: Mapping[str, str], log: Path, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start a server in a session of its own, its output at the end of ``log``.

    Call this on the main thread: the kernel ends the child with the thread that started it.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_us,  # noqa: PLW1509 - a single call of the kernel takes no lock
            **options,
        )


def _end_with_us() -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
