"""How long a failed task waits before its next attempt."""

import math
import random
from collections.abc import Mapping
from typing import Any

from tasks.errors import InvalidField

KINDS = ("quadratic", "exponential", "fixed")
NUMBERS = ("base", "factor", "max")
LONGEST = 86_400 * 30
JITTER = 0.1
DEFAULT_MAX = 3_600.0


def parse(value: object, *, field: str = "backoff") -> dict[str, Any]:
    """A backoff as it is kept, from a kind's name or ``{kind, base, factor, max}`` (seconds).

    Raises:
      InvalidField: the kind is unknown or a number is out of range.
    """
    given = {"kind": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or given.get("kind") not in KINDS:
        raise InvalidField.of(field, f"must be one of {', '.join(KINDS)}, or an object with such a kind")
    unknown = sorted(set(given) - {"kind", *NUMBERS})
    if unknown:
        raise InvalidField.of(f"{field}.{unknown[0]}", "is not a field of a backoff")
    for name in NUMBERS:
        number = given.get(name, 1)
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= LONGEST:
            raise InvalidField.of(f"{field}.{name}", "must be a positive number")
    return dict(given)


def seconds(backoff: Mapping[str, Any] | None, failures: int, *, factor: float = 2.0) -> float:
    """The wait after the ``failures``-th failure (1 is the first), with up to a tenth of jitter.

    ``quadratic`` is 1, 4, 9 …, ``exponential`` base · factorⁿ⁻¹, ``fixed`` always base.
    """
    given = backoff or {"kind": "quadratic"}
    base = float(given.get("base", 1.0))
    wait = {
        "quadratic": base * failures**2,
        "exponential": base * _power(float(given.get("factor", factor)), failures - 1),
        "fixed": base,
    }[given["kind"]]
    return min(wait, float(given.get("max", DEFAULT_MAX))) * random.uniform(1.0, 1.0 + JITTER)


def _power(factor: float, exponent: int) -> float:
    try:
        return float(factor**exponent)
    except OverflowError:
        return math.inf
