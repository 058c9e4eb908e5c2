"""The API process: ``python -m api.process``."""

import logging
import os
import signal
import sys
import threading

from actors.supervisor import UNUSABLE, stop_with_parent
from api.serving import serve
from pipelines import logs
from pipelines.bootstrap import Kit, open_kit
from pipelines.garbage import settle_down
from tasks.errors import CallboardError
from tasks.settings import Settings


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    try:
        settings = Settings.from_env(os.environ)
    except CallboardError as error:
        logging.error("%s", error)
        return UNUSABLE
    logs.configure(settings, "api")
    _end_with_parent()
    serve(settings, open_api_kit)
    return 0


def open_api_kit(settings: Settings) -> Kit:
    """A kit that publishes what is submitted, under a lease of its own."""
    kit = open_kit(settings)
    kit.open_lease("api")
    kit.open_publisher()
    # What is there by now stays. To look through it for garbage takes 35 ms, in which nobody is answered.
    settle_down()
    return kit


def _end_with_parent() -> None:
    """Send ourselves SIGTERM when the supervisor that started us is gone."""
    gone = threading.Event()
    stop_with_parent(gone)

    def end() -> None:
        gone.wait()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end, name="callboard-end", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
