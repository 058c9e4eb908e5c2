"""The demo, run as the README says, twice: the second time it finds its documents unchanged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def run_demo(folder: Path, embedder: str) -> str:
    """What ``make demo ONCE=1`` runs, in a folder of its own."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("CALLBOARD_")}
    finished = subprocess.run(
        [sys.executable, "-m", "deploy.demo", "--once"],
        check=False,
        cwd=folder,
        env={**environ, "CALLBOARD_EMBEDDER": embedder, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stdout[-3_000:] + finished.stderr[-3_000:]
    return finished.stdout + finished.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("embedder", ["fast", pytest.param("e5", marks=pytest.mark.slow)])
def test_it_ingests_real_documents_and_a_second_run_embeds_nothing(tmp_path: Path, embedder: str) -> None:
    # When the demo runs from nothing
    first = run_demo(tmp_path, embedder)
    # Then every document is new, none failed, and the questions are answered
    assert "0  failed" in first
    assert "questions have an answer" in first
    # When it runs again on the data it kept
    second = run_demo(tmp_path, embedder)
    # Then all documents are unchanged and nothing is embedded
    assert "All documents are unchanged" in second
    assert "0 chunks embedded" in second
