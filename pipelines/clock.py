"""The clock process: ``python -m pipelines.clock``."""

import logging
import os
import sys
import threading

from actors.clock import Clock
from actors.deliverer import Deliverer
from actors.dispatcher import Dispatcher
from actors.errors import DefinitionError
from actors.replays import Replayer
from actors.supervisor import UNUSABLE, stop_on_signals, stop_with_parent
from actors.web.sending import Sender
from pipelines import logs
from pipelines.bootstrap import DAY, open_kit
from tasks.coroner import Coroner
from tasks.errors import CallboardError, SettingsError
from tasks.ledger import READY_CHANNEL
from tasks.ledger.callbacks import CALLBACKS_CHANNEL
from tasks.ledger.retention import Retention
from tasks.notices import Listener
from tasks.settings import Settings


def main() -> int:
    """Keep time until SIGTERM or SIGINT."""
    stop = threading.Event()
    stop_on_signals(stop)
    stop_with_parent(stop)
    try:
        settings = Settings.from_env(os.environ)
        logs.configure(settings, "clock")
        kit = open_kit(settings)
    except CallboardError as error:
        logging.error("%s", error)
        return UNUSABLE if isinstance(error, SettingsError | DefinitionError) else 1
    try:
        kit.open_lease("clock")
        publisher = kit.open_publisher()
        dispatcher = None if publisher is None else Dispatcher(kit.ledger, kit.queries, publisher)
        coroner = Coroner(kit.database_url)
        kept = Retention(others=DAY * settings.retention_days, failed=DAY * settings.dead_letter_days)
        replayer = Replayer(kit.ledger, kit.replays, kit.payloads)
        clock = Clock(kit.ledger, kit.queries, coroner, kit.open_settler(), dispatcher, kept, replayer)
        kit.pulse.add(clock.vitals)
        sender = Sender(kit.callback_gate)
        deliverer = Deliverer(kit.ledger, kit.queries, sender, settings.callback_secret).start()
        notices = {READY_CHANNEL: clock.wake, CALLBACKS_CHANNEL: deliverer.wake}
        listener = Listener(kit.database_url, notices).start()
        threading.Thread(
            target=kit.housekeeping.run, args=(stop,), name="callboard-housekeeping", daemon=True
        ).start()
        janitor = kit.open_janitor()
        if janitor is not None:
            threading.Thread(target=janitor.run, args=(stop,), name="callboard-janitor", daemon=True).start()
        clock.run(stop)
        deliverer.close()
        listener.close()
        coroner.close()
        return 0
    finally:
        kit.close()


if __name__ == "__main__":
    sys.exit(main())
