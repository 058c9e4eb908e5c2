"""Names that people give: which ones can be kept everywhere they go."""

import re

from tasks.errors import InvalidField

QUEUE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}")
#: RabbitMQ keeps ``amq.`` for itself; the dead letters and the delays of a queue have these endings.
KEPT_PREFIX = "amq."
KEPT_ENDINGS = (".XQ", ".DQ")


def check_queue(name: str, *, field: str = "queue_name") -> str:
    """The name of a queue, if it can be one.

    Raises:
      InvalidField: it cannot; the message says why.
    """
    if not QUEUE.fullmatch(name):
        raise InvalidField.of(field, "must be 1 to 100 letters, digits and _ . : -")
    if name.startswith(KEPT_PREFIX) or name.endswith(KEPT_ENDINGS):
        raise InvalidField.of(
            field, f"must not begin with {KEPT_PREFIX} nor end with {' or '.join(KEPT_ENDINGS)}"
        )
    return name
