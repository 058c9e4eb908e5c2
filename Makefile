# The project's commands. Every one of them does its own set-up; `make setup` fills .venv/.
PYTHON ?= python3
BIN := .venv/bin
ONCE ?=
ARGS ?=
SEEDS ?= 3
MINUTES ?= 30
SEED ?=
CASES ?= 2000

.PHONY: setup demo test check bench eval faults peers soak fuzz fmt lock

setup: .venv/.complete

.venv/.complete: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "callboard needs Python 3.11 or newer: install python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "callboard needs Python 3.11 or newer: install it, or say PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "callboard needs Python's venv module: install python3-venv"; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	@$(BIN)/python -m deploy.demo $(if $(ONCE),--once)

test: setup
	@$(BIN)/python -m pytest $(ARGS)

# Every fault, also the slow ones, one at a time. FAULT_SEED=1,2 repeats what went wrong with these seeds.
faults: setup
	@$(BIN)/python -m pytest tests/faults -n 0 -m "slow or not slow" --seeds $(SEEDS) $(ARGS)

soak: setup
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

# Made-up requests against a whole Callboard, with all checks of schemathesis. SEED=1 repeats a campaign.
fuzz: setup
	@$(BIN)/python -m tests.fuzz --cases $(CASES) $(if $(SEED),--seed $(SEED))

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fmt: setup
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: setup
	@$(BIN)/python -m tests.benchmarks $(ONLY)

# How well a labelled set in BEIR's layout is searched: SET=path, MODES="text vector hybrid", EMBEDDER=e5.
eval: setup
	@test -n "$(SET)" || { echo "say which set: make eval SET=path (a folder in BEIR's layout)"; exit 1; }
	@$(BIN)/python -m tests.benchmarks.retrieval "$(SET)" $(if $(MODES),--modes $(MODES)) $(if $(EMBEDDER),--embedder $(EMBEDDER))

# The faults 1-8 on plain dramatiq, for comparison. ONLY="2 7" plays some; FAULT_SEED repeats a run.
peers: setup
	@$(BIN)/python -m tests.faults.peers $(ONLY)

lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -o requirements.lock
