"""The README is true: every command in it is run, and its Python example is served."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployment import REPOSITORY, Deployment, deployment

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.S)

#: Commands that other tests run, or that are these tests themselves.
ELSEWHERE = {
    "make demo": "test_demo.py",
    "make setup": "the set-up of these tests",
    "make test": "these tests",
    "make check": ".ci/run",
    "make bench ONLY=search": "test_the_benchmark_can_be_named",
    "make bench ONLY=workers": "test_the_benchmark_can_be_named",
    "make bench ONLY=latency": "test_the_benchmark_can_be_named",
    "make bench ONLY=create": "test_the_benchmark_can_be_named",
    ".venv/bin/callboard up": "the fixtures of the acceptance tests",
    "CALLBOARD_ACTORS=shop .venv/bin/callboard up": "test_the_example_modules_are_served",
}


def commands() -> list[str]:
    """Every command of the README, continuation lines joined."""
    joined = "".join(BLOCKS).replace("\\\n", " ")
    lines = [line.strip() for line in joined.split("\n")]
    return [line for line in lines if line and not line.startswith("export ")]


@pytest.mark.timeout(300)
def test_every_command_runs_in_the_order_of_the_readme(embedded: Deployment) -> None:
    # Given a running Callboard on its defaults, and the README's commands
    environ = {
        **os.environ,
        "CALLBOARD_URL": embedded.url,
        "CALLBOARD_DATA_DIR": str(embedded.log.parent / "data"),
        "PATH": f"{REPOSITORY / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    for command in commands():
        if command in ELSEWHERE:
            continue
        # When each is run as printed, on our port
        here = command.replace("http://localhost:8000", embedded.url).replace(
            ".venv/bin/callboard", "callboard"
        )
        done = subprocess.run(
            here.replace("curl ", "curl --fail-with-body -s "),
            check=False,
            shell=True,
            cwd=REPOSITORY,
            env=environ,
            capture_output=True,
            text=True,
            timeout=100,
        )
        # Then it succeeds
        assert done.returncode == 0, f"{command}\n{done.stdout[-2_000:]}\n{done.stderr[-2_000:]}"


def test_the_example_modules_are_served(tmp_path: Path) -> None:
    # Given the README's modules, on PYTHONPATH
    examples = re.findall(r"```python\n(# (\w+\.py).*?)```", README, re.S)
    assert [name for _, name in examples] == ["shop.py", "shelf.py", "harbour.py", "desk.py", "test_shop.py"]
    for text, name in examples:
        (tmp_path / name).write_text(text, encoding="utf-8")
    environ = {
        "CALLBOARD_ACTORS": "shop,shelf,harbour",
        "PYTHONPATH": f"{REPOSITORY}:{tmp_path}",
        "CALLBOARD_PROCESSES": "1",
    }
    with deployment(environ) as running:
        order = {"number": 7, "items": ["tea", "cake"]}
        # When its actor and its pipeline are submitted
        ids = [
            running.http.post("/api/v1/tasks", json={"task_type": name, "payload": order}).json()["task_id"]
            for name in ("confirm", "fulfilment")
        ]
        # Then they run
        assert running.wait_for_task(ids[0])["result"] == "order 7: tea, cake"
        assert running.wait_for_task(ids[1])["result"] == {"parcels": 2}
        shelves = {"task_type": "count_books", "payload": [["Emma"], [], ["Ulysses", "Dune"]]}
        counted = running.http.post("/api/v1/tasks", json=shelves).json()["task_id"]
        assert running.wait_for_task(counted)["result"] == 3
        # And so does what is composed of everything
        composed = {"task_type": "harbour", "payload": "Bergen"}
        run = running.http.post("/api/v1/tasks", json=composed).json()["task_id"]
        assert running.wait_for_task(run)["result"] == {"tons": 2_400, "last": "Bergen 3 is sound"}
        # And a program gets results without HTTP
        said = run_python("desk.py", folder=tmp_path, data=running.log.parent / "data")
        assert said == "completed order 7: tea\n{'parcels': 2} 2\n"
        # And a payload that does not fit is refused by its field
        wrong = {"task_type": "confirm", "payload": {"number": "seven", "items": []}}
        answer = running.http.post("/api/v1/tasks", json=wrong)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "payload.number")
    # And its test passes where nothing runs
    assert "1 passed" in run_python("-m", "pytest", "-c", os.devnull, "test_shop.py", folder=tmp_path)


def run_python(*arguments: str, folder: Path, data: Path | None = None) -> str:
    """What a Python process says that ends well, on a data folder if there is one."""
    environ = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{folder}"}
    if data is not None:
        environ["CALLBOARD_DATA_DIR"] = str(data)
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_benchmark_can_be_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--help"],
        check=True,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    named = set(re.findall(r"make bench ONLY=(\w+)", README))
    assert len(named) >= 5
    assert [name for name in sorted(named) if name not in done.stdout] == []


def test_the_tests_that_the_fault_suite_names_exist() -> None:
    text = (REPOSITORY / "tests/faults/README.md").read_text(encoding="utf-8")
    tests = "".join(file.read_text(encoding="utf-8") for file in (REPOSITORY / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 25
    assert [name for name in named if f"def {name}(" not in tests] == []


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "deploy/demo/CORPUS.md", "deploy/example/README.md"]
)
def test_files_that_the_documents_name_exist(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:api|pipelines|actors|tasks|tests|deploy)/[\w/.-]*)`", text))
    linked = set(re.findall(r"\]\((?!http)([^)#]+)\)", text))
    for path in named:
        assert (REPOSITORY / path).exists(), path
    for path in linked:
        assert ((REPOSITORY / name).parent / path).exists(), path
