"""What ``/metrics`` told, so that tests can ask for it."""

import time
from collections.abc import Iterator, Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.waiting import eventually

Labels = tuple[tuple[str, str], ...]


class Scrape:
    """One answer of ``/metrics``, parsed."""

    def __init__(self, text: str) -> None:
        self.samples: dict[tuple[str, Labels], float] = {}
        self.kinds: dict[str, str] = {}
        for family in text_string_to_metric_families(text):
            self.kinds[family.name] = family.type
            for sample in family.samples:
                key = sample.name, tuple(sorted(sample.labels.items()))
                assert key not in self.samples, f"{key} is told twice"
                self.samples[key] = sample.value

    @property
    def names(self) -> set[str]:
        """Every name that a query can use, also where there is no sample now."""
        names = {name for name, _ in self.samples}
        for family, kind in self.kinds.items():
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(kind, ("",))
            names |= {family + ending for ending in endings}
        return names

    def of(self, *names: str) -> Mapping[tuple[str, Labels], float]:
        """The samples whose names begin so."""
        return {key: value for key, value in self.samples.items() if key[0].startswith(names)}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        return sum(value for _, value in self._having(name, labels))

    def count(self, name: str, **labels: str) -> int:
        """How many samples of this name have these labels."""
        return len(list(self._having(name, labels)))

    def _having(self, name: str, labels: Mapping[str, str]) -> Iterator[tuple[Labels, float]]:
        for (known, has), value in self.samples.items():
            if known == name and set(labels.items()) <= set(has):
                yield has, value

    def counters(self) -> dict[tuple[str, Labels], float]:
        """Everything that must never fall."""
        return {
            key: value
            for key, value in self.samples.items()
            if key[0].endswith(("_total", "_bucket", "_sum"))
        }


def scrape(http: httpx.Client) -> Scrape:
    """Scrape an API for what it reads from now on; it gives everybody the same for a moment."""
    asked_at = time.time()

    def fresh() -> Scrape | None:
        answer = http.get("/metrics")
        assert answer.status_code == 200, answer.text
        found = Scrape(answer.text)
        return found if found.value("callboard_read_time_seconds") >= asked_at else None

    found = eventually(fresh)
    assert found is not None
    return found
