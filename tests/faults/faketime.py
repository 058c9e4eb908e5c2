"""A system clock that a test sets for one process, by libfaketime; time that is only measured goes on."""

import sysconfig
from pathlib import Path

from tests.support import rabbitmq
from tests.support.servers import ServerMissing

LIBRARY = "faketime/libfaketimeMT.so.1"
WHAT_TO_INSTALL = "No libfaketime for the tests: install faketime (apt-get install faketime)"


class WallClock:
    """The time of day as a process with `environ` sees it: `jump` sets it, at once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.environ = {
            "LD_PRELOAD": str(_library()),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Be so many seconds off from now on."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{seconds:+}\n")
        draft.replace(self._file)


def _library() -> Path:
    """The preloaded library; root installs it where it is missing.

    Raises:
      ServerMissing: it is not there; the message says what to install.
    """
    if _installed() is None and rabbitmq.can_be_installed():
        rabbitmq.install("faketime", WHAT_TO_INSTALL)
    library = _installed()
    if library is None:
        raise ServerMissing(WHAT_TO_INSTALL)
    return library


def _installed() -> Path | None:
    triplet = sysconfig.get_config_var("MULTIARCH") or ""
    folders = (Path("/usr/lib") / triplet, Path("/usr/lib"), Path("/usr/local/lib"))
    return next((one / LIBRARY for one in folders if (one / LIBRARY).exists()), None)
