# What people and CI call. Needs make and Python 3.11 or later with its venv module; everything else lands in $(VENV).

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 5
DEMO ?= demo

BIN := $(VENV)/bin
CORE := $(VENV)/.core-installed
XTTS := $(VENV)/.xtts-installed
F5 := $(VENV)/.f5-installed
TEST := $(VENV)/.test-installed
DEV := $(VENV)/.dev-installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-xtts demo-f5 test test-quick check test-long lint format type bench bench-hostile bench-jobs bench-xtts bench-f5 bench-f5-variants clean

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: $(CORE) ## set up, render the example jobs, and show the results and what to do next
	@$(BIN)/python examples/demo.py $(DEMO)

demo-xtts: $(XTTS) ## set up with torch, build a tiny XTTS-v2 of random weights, and render a job with it
	@$(BIN)/python examples/demo_xtts.py $(DEMO)

demo-f5: $(F5) ## set up with torch, build a tiny F5-TTS of random weights, and render a job with it
	@$(BIN)/python examples/demo_f5.py $(DEMO)

test: check ## set up, lint, check types, run all tests that are quick
	$(BIN)/python -m pytest -p xdist -n $(WORKERS)

test-quick: $(TEST) ## the unit tests that need no torch, which is not installed for them: a minute and a half
	$(BIN)/python -m pytest -q -p xdist -n $(WORKERS) --quick tests/unit

test-long: $(DEV) ## the tests that take long: hundreds of kills, soak, 100,000 files
	$(BIN)/python -m pytest -p xdist -m long

check: lint type

lint: $(DEV) ## style and likely bugs; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV) ## put code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(DEV) ## check types, strictly
	$(BIN)/mypy

bench: $(DEV) ## measure the spool; results go to benchmarks/results/
	$(BIN)/python benchmarks/spool.py

bench-hostile: $(DEV) ## measure the spool under all that a stranger can drop at once; as root with several users; five minutes, 1 GB of disk
	$(BIN)/python benchmarks/hostile.py

bench-jobs: $(DEV) ## compare many short jobs with one job of the same sentences, with espeak, XTTS and F5 at full size
	$(BIN)/python benchmarks/short_jobs.py

bench-xtts: $(DEV) ## measure XTTS beside the library's own calls: half an hour, 8 GB of memory, 4 GB of disk
	$(BIN)/python benchmarks/xtts.py

bench-f5: $(DEV) ## measure F5-TTS beside the library's own calls, at full size
	$(BIN)/python benchmarks/f5.py

bench-f5-variants: $(DEV) ## train small F5-TTS models as v0 and as v1, and count how often measuring tells which; half an hour of CPU
	$(BIN)/python benchmarks/f5_variants.py

clean: ## remove what make made: the environment, the demo, caches
	rm -rf $(VENV) $(DEMO) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "voicespool needs Python 3.11 or later as '$(PYTHON)'; choose another with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	  echo "Python's venv module is not complete; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Creating a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing voicespool into $(VENV)"
	@$(INSTALL) --editable .
	@touch $@

$(XTTS): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing voicespool with XTTS and torch into $(VENV); a large download"
	@$(INSTALL) --editable '.[xtts]'
	@touch $@ $(CORE)

$(F5): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing voicespool with F5-TTS and torch into $(VENV); a large download"
	@$(INSTALL) --editable '.[f5]'
	@touch $@ $(CORE)

$(TEST): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) --editable '.[test]'
	@touch $@ $(CORE)

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing voicespool with all engines and the tools for tests into $(VENV); a large download"
	@$(INSTALL) --editable '.[dev]'
	@touch $@ $(CORE) $(XTTS) $(F5) $(TEST)
