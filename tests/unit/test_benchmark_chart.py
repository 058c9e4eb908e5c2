"""The chart of what workers complete: readable, true to the figures, and well formed."""

from typing import Any
from xml.etree import ElementTree

from tests.benchmarks.chart import draw

SVG = "{http://www.w3.org/2000/svg}"


def _one(name: str, median: float, ratio: float | None, records: str = "a row") -> dict[str, Any]:
    return {
        "name": name,
        "median": median,
        "low": median * 0.9,
        "high": median * 1.1,
        "ratio": ratio,
        "records": records,
        "rounds": [median] * 3,
    }


def _drawn(*contestants: dict[str, Any]) -> ElementTree.Element:
    record = {
        "started_at": "2026-01-02T03:04:05+00:00",
        "machine": {"cores": "2"},
        "versions": {"server server_version": "18", "server fsync": "on", "server rabbitmq": "3"},
        "figures": {"contestants": list(contestants)},
    }
    return ElementTree.fromstring(draw(record))


def test_each_contestant_has_a_name_a_figure_and_a_bar_of_its_length() -> None:
    drawn = _drawn(_one("callboard", 9_000, 1.5), _one("dramatiq", 6_000, 1.0, "nothing"))

    words = [text.text for text in drawn.iter(f"{SVG}text")]
    assert {"callboard", "9,000 · 1.5×", "dramatiq", "6,000 · 1.0×"} <= set(words)
    ours, bare = drawn.iter(f"{SVG}rect")
    assert round(float(ours.attrib["width"]) / float(bare.attrib["width"]), 2) == 1.5
    assert (ours.attrib["class"], bare.attrib["class"]) == ("ours", "unrecorded")


def test_nothing_leaves_the_picture() -> None:
    drawn = _drawn(_one("callboard", 9_000, 1.5), _one("a < b & c", 100, 0.01))

    width = float(drawn.attrib["width"])
    for line in drawn.iter(f"{SVG}line"):
        assert float(line.attrib["x2"]) <= width
    assert "a < b & c 100" in drawn.attrib["aria-label"]


def test_without_bare_dramatiq_there_is_no_line_to_compare_with() -> None:
    drawn = _drawn(_one("callboard", 9_000, None))

    assert not [line for line in drawn.iter(f"{SVG}line") if line.attrib["class"] == "base"]
    assert "9,000" in [text.text for text in drawn.iter(f"{SVG}text")]
