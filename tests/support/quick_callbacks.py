"""A "module of actors" that makes the deliverer of its clock impatient: no test waits for long."""

from actors.deliverer import Deliverer

LEASE_SECONDS = 1.5
PAUSES = (0.1, 0.1, 0.1, 0.1)

Deliverer.__init__.__kwdefaults__.update(lease=LEASE_SECONDS, pauses=PAUSES)  # type: ignore[attr-defined]
