# Every target does its own set-up on a fresh machine; nothing outside this folder is touched.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
AXE ?= 4.14.1
DCLINT ?= 3.1.0
BIN := $(VENV)/bin
CODE := harness plugins tests benchmarks docs
# More threads than cores makes many small processes twenty times slower.
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PYTEST := $(BIN)/python -m pytest
TWO := $(PYTEST) -n $(WORKERS) --dist worksteal
# What judges time has the machine for itself. What only starts processes waits for them half of its time.
PROCESSES := (dist or browser)
SHORT := not slow and not long and not gpu

.DEFAULT_GOAL := help
.PHONY: help run check format test test-unit test-processes test-one test-slow test-long test-faults fuzz test-gpu bench docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## install, run scenarios/lenet.toml, say where the report is
	$(BIN)/harness run scenarios/lenet.toml

check: $(VENV)/.tested ## formatter, linters, type checker
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

format: $(VENV)/.tested ## let the formatter and the linter mend what they can
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

test: test-unit test-processes ## the fast suite: test-unit, then test-processes

test-unit: $(VENV)/.axe ## tests without processes, WORKERS=2 at a time
	$(TWO) -m "$(SHORT) and not $(PROCESSES)"

test-processes: $(VENV)/.axe ## tests with processes or a browser; what judges time alone
	$(TWO) -m "$(SHORT) and $(PROCESSES) and not timed"
	$(PYTEST) -m "$(SHORT) and $(PROCESSES) and timed"

test-one: $(VENV)/.tested ## one file or test: make test-one T=tests/core/test_units.py
	@test -n "$(T)" || { echo "make test-one T=tests/...: name a file, a folder or a test"; exit 2; }
	$(PYTEST) $(T)

test-slow: $(VENV)/.tested ## one short form of each slow kind: accuracies, bundled scenarios, reports of real runs
	$(TWO) -m "slow and not long and not gpu and not timed"
	$(PYTEST) -m "slow and not long and not gpu and timed"

test-long: $(VENV)/.tested ## everything slow, with the full matrices; before a large change is closed
	$(TWO) -m "(slow or long) and not gpu and not timed"
	$(PYTEST) -m "(slow or long) and not gpu and timed"

test-faults: $(VENV)/.tested ## every attack on input, disk and processes, in its long form; prints tried, held, failed
	$(PYTEST) -rP -m "fault and not gpu" --all-attacks --timeout 3600

fuzz: $(VENV)/.tested ## two thousand new examples for each property; what the suite draws never changes
	$(TWO) --hypothesis-profile fuzz -m "hypothesis and $(SHORT)"

test-gpu: $(VENV)/.tested ## what only a GPU can show, in 8 minutes: a page in results/reference/ and an archive
	$(BIN)/python benchmarks/gpu_hour

bench: $(VENV)/.installed ## what the harness adds to a training loop
	$(BIN)/python benchmarks/overhead.py

docs: $(VENV)/.documented ## build the documentation into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove the environment, caches and what was built
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis site dist build

# torch first and by itself: the constraints name the build, so that no other package pulls in another one.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# Tests start hundreds of processes: where Python may not write bytecode, each of them would compile the harness anew.
$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(BIN)/python -m compileall -q harness plugins
	touch $@

# Trackers and what checks manifests: their tests skip where it is not installed.
$(VENV)/.integrated: $(VENV)/.tested
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test-integrations]"
	touch $@

# Only tests look at pages and at compose.yaml with them, and skip where they are not; nothing of it is shipped.
$(VENV)/.axe: $(VENV)/.tested
	npm install --silent --no-save --prefix $(VENV)/axe axe-core@$(AXE) dclint@$(DCLINT) || echo "no axe-core: tests that need it will skip"
	touch $@

$(VENV)/.documented: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@
