"""How good a ranking is, when results are either relevant or not."""

import math
from collections.abc import Collection, Hashable, Sequence

Ranking = Sequence[Hashable]
Relevant = Collection[Hashable]


def ndcg(ranking: Ranking, relevant: Relevant, depth: int = 10) -> float:
    """Normalised discounted cumulative gain: 1 when the relevant ones come first, as far as there is room."""
    gain = sum(_discount(place) for place, one in enumerate(ranking[:depth]) if one in relevant)
    ideal = sum(_discount(place) for place in range(min(depth, len(relevant))))
    return gain / ideal if ideal else 0.0


def recall(ranking: Ranking, relevant: Relevant, depth: int = 10) -> float:
    """The share of the relevant ones that are among the first ``depth``."""
    return len(set(ranking[:depth]) & set(relevant)) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Ranking, relevant: Relevant, depth: int = 10) -> float:
    """1 divided by the place of the first relevant one; 0 when none is among the first ``depth``."""
    return next((1 / place for place, one in enumerate(ranking[:depth], 1) if one in relevant), 0.0)


def _discount(place: int) -> float:
    return 1 / math.log2(place + 2)
