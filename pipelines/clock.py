"""The clock process: ``python -m pipelines.clock``."""

import logging
import os
import sys
import threading
from collections.abc import Callable

from actors.clock import Clock
from actors.deliverer import Deliverer
from actors.dispatcher import Dispatcher
from actors.errors import DefinitionError
from actors.replays import Replayer
from actors.scheduler import Scheduler
from actors.supervisor import UNUSABLE, stop_on_signals, stop_with_parent
from actors.web.sending import Sender
from pipelines import logs
from pipelines.bootstrap import DAY, Kit, open_kit
from pipelines.garbage import settle_down
from tasks.coroner import Coroner
from tasks.errors import CallboardError, SettingsError
from tasks.ledger import READY_CHANNEL
from tasks.ledger.callbacks import CALLBACKS_CHANNEL
from tasks.ledger.retention import Retention
from tasks.notices import Listener
from tasks.schedules import ScheduleQueries
from tasks.settings import Settings

#: So many transactions record what schedules fire at the same time.
FIRING = 2


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
        keep_time(kit, stop)
        return 0
    finally:
        kit.close()


def keep_time(kit: Kit, stop: threading.Event) -> None:
    """Do all that a clock does until ``stop`` is set: each kind of it on a thread of its own."""
    kit.open_lease("clock")
    coroner = Coroner(kit.database_url)
    clock = _clock(kit, coroner)
    kit.pulse.add(clock.vitals)
    sender = Sender(kit.callback_gate)
    deliverer = Deliverer(kit.ledger, kit.queries, sender, kit.settings.callback_secret).start()
    notices = {READY_CHANNEL: clock.wake, CALLBACKS_CHANNEL: deliverer.wake}
    listener = Listener(kit.database_url, notices).start()
    for name, run in _beside(kit).items():
        threading.Thread(target=run, args=(stop,), name=f"callboard-{name}", daemon=True).start()
    settle_down()
    clock.run(stop)
    for one in (deliverer, listener, coroner):
        one.close()


def _clock(kit: Kit, coroner: Coroner) -> Clock:
    publisher = kit.open_publisher()
    dispatcher = None if publisher is None else Dispatcher(kit.ledger, kit.queries, publisher)
    settings = kit.settings
    kept = Retention(others=DAY * settings.retention_days, failed=DAY * settings.dead_letter_days)
    replayer = Replayer(kit.ledger, kit.replays, kit.payloads)
    return Clock(kit.ledger, kit.queries, coroner, kit.open_settler(), dispatcher, kept, replayer)


def _beside(kit: Kit) -> dict[str, Callable[[threading.Event], None]]:
    """What runs beside the clock, because it must not wait for it, nor hold it up."""
    kept = DAY * kit.settings.retention_days
    ledgers = [kit.open_ledger() for _ in range(FIRING)]
    scheduler = Scheduler(ledgers, ScheduleQueries(kit.database), kit.submission.prepare, kept)
    janitor = kit.open_janitor()
    beside = {"housekeeping": kit.housekeeping.run, "scheduler": scheduler.run}
    return beside if janitor is None else {**beside, "janitor": janitor.run}


if __name__ == "__main__":
    sys.exit(main())
