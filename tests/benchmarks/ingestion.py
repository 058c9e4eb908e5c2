"""How fast 199 real files become searchable: Callboard, LlamaIndex, Haystack and a plain loop, in one run.

All convert with xberg, embed with the same e5 and store in the same Postgres, each into a database of its
own. The client's processor seconds are those of the process that a user runs: ``callboard ingest`` with its
start, or the program of the others, from when it has loaded everything. Beside them stand those of all of
Callboard's processes. The peers live in a virtual environment of their own, below the folder of figures.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import psutil

from pipelines.documents.conversion import convert, end_idle_children
from pipelines.documents.detection import detect
from tasks.errors import CallboardError
from tests.benchmarks.databases import fresh_database
from tests.benchmarks.outcome import Outcome, table
from tests.benchmarks.real_files import fetch
from tests.support.deployment import REPOSITORY, deployment

FILES = 199
ROUNDS = int(os.environ.get("INGESTION_ROUNDS", "3"))
PEERS = (
    "haystack-ai==3.4.1",
    "pgvector-haystack==8.1.2",
    "llama-index-core==0.14.25",
    "llama-index-vector-stores-postgres==0.9.0",
)
KB = "bench"
Figures = dict[str, float]


def run(folder: Path) -> Outcome:
    """Make the peers' environment below ``folder``, fetch the files, and let all take turns."""
    python = _peers(folder.absolute())
    with tempfile.TemporaryDirectory() as place:
        files = Path(place) / "files"
        _choose(folder, files)
        ways: Mapping[str, Callable[[], Figures]] = {
            "callboard": lambda: _callboard(files),
            "llamaindex": lambda: _other("llamaindex", python, files),
            "haystack": lambda: _other("haystack", python, files),
            "plain": lambda: _other("plain", Path(sys.executable), files),
        }
        rounds: dict[str, list[Figures]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                rounds[name].append(way())
    medians = {
        name: {key: median(one[key] for one in figures) for key in figures[0]}
        for name, figures in rounds.items()
    }
    return Outcome(_report(medians), {"rounds": rounds, "medians": medians})


def _choose(folder: Path, files: Path) -> None:
    """Copy the files that are to be ingested: of those that have text the ones with the least.

    Embedding costs everybody the same, and in long documents it would hide all else.
    """
    files.mkdir()
    by_content = {one.sha256: path for one, path in fetch(folder).items()}
    lengths = {path: _length(path) for path in by_content.values()}
    end_idle_children()
    with_text = sorted((length, path) for path, length in lengths.items() if length)
    for number, (_, path) in enumerate(with_text[:FILES]):
        shutil.copy(path, files / f"{number:03}-{path.name}")


def _length(path: Path) -> int:
    try:
        return len(convert(path, detect(path, path.name)))
    except CallboardError:
        return 0


def _callboard(files: Path) -> Figures:
    with fresh_database() as database, deployment({"CALLBOARD_DATABASE_URL": database.database}) as board:
        warm = files.parent / "warm.md"
        warm.write_text("Something to load everything for.")
        for _ in range(4):  # until all workers have most probably loaded the model
            _ingest(board.url, warm)
            warm.write_text(f"{warm.read_text()} More.")
        processes = psutil.Process(board.process.pid)
        before = _processor_seconds(processes)
        first = _ingest(board.url, files)
        everything = _processor_seconds(processes) - before
        again = _ingest(board.url, files)
    return {
        "seconds": first["seconds"],
        "processor_seconds": first["processor_seconds"],
        "all_processor_seconds": first["processor_seconds"] + everything,
        "chunks": first["chunks"],
        "again_seconds": again["seconds"],
        "again_embedded": again["embedded"],
    }


def _ingest(url: str, path: Path) -> Figures:
    """What the command prints of its run, and the processor seconds of its process."""
    command = [sys.executable, "-m", "api.cli", "ingest", str(path), "--kb", KB, "--json"]
    environ = os.environ | {"CALLBOARD_URL": url, "PYTHONPATH": str(REPOSITORY)}
    began = time.perf_counter()
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    report = json.loads(printed)
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "chunks": report["embedded"] + report["reused"],
        "embedded": report["embedded"],
        "failed": report["failed"],
    }


def _processor_seconds(root: psutil.Process) -> float:
    """What a process and its descendants have used so far, those included that have ended."""
    times = [one.cpu_times() for one in (root, *root.children(recursive=True))]
    return float(sum(one.user + one.system + one.children_user + one.children_system for one in times))


def _other(way: str, python: Path, files: Path) -> Figures:
    with fresh_database() as database:
        command = [str(python), "-m", "tests.benchmarks.ingesting", way, str(files), database.database]
        environ = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way} failed: {done.stderr[-2000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _peers(folder: Path) -> Path:
    """The interpreter of the peers' environment, which also sees what this one has installed."""
    home = folder / "peers"
    python = home / "bin" / "python"
    if not (home / ".complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], check=True)
        script = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=True)
        ours = sysconfig.get_path("purelib")
        Path(packages.stdout.strip(), "callboard.pth").write_text(f"{ours}\n")
        (home / ".complete").touch()
    return python


def _report(medians: Mapping[str, Figures]) -> str:
    rows = []
    for name, one in medians.items():
        everything = one.get("all_processor_seconds", one["processor_seconds"])
        cells: Sequence[str] = [
            f"{FILES / one['seconds']:.1f}",
            f"{one['processor_seconds']:.1f}",
            f"{everything:.1f}",
            f"{one['chunks']:,.0f}",
        ]
        rows.append([name, *cells])
    ours = medians["callboard"]
    again = (
        f"Sent again: {ours['again_seconds']:.2f} s, "
        f"{ours['seconds'] / ours['again_seconds']:.0f} times faster, "
        f"{ours['again_embedded']:.0f} chunks embedded."
    )
    header = [f"{FILES} files", "documents/s", "client's processor s", "all processes'", "chunks"]
    return f"{table(header, rows)}\n\n{again} Medians of {ROUNDS} rounds."
