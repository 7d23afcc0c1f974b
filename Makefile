# Everything below sets up what it needs by itself: the virtual environment .venv with qsweep and its tools.
PYTHON ?= python3
BIN := .venv/bin
export QSWEEP_HOME ?= .qsweep
# A file's tests share what they made; with more processes than cores, one works while another waits for an event.
SPREAD := --numprocesses 4 --dist loadfile --no-loadscope-reorder
# make test ORDER="-p randomly" runs each file's tests in random order, and prints the seed.
ORDER ?=
unexport PYTHONDONTWRITEBYTECODE  # with it, every command compiles all its modules again

.PHONY: help setup demo test quick lint clean

help: ## Show what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/ready ## Make the virtual environment

.venv/ready: pyproject.toml constraints.txt
	@echo "Installing qsweep and its tools into .venv (this takes some minutes; log: .venv/setup.log) …"
	@$(PYTHON) -m venv .venv
	@{ $(BIN)/python -m pip install --upgrade pip && \
		$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'; } > .venv/setup.log 2>&1 || \
		{ cat .venv/setup.log; echo "make setup failed; the lines above are .venv/setup.log"; exit 1; }
	@touch $@

demo: .venv/ready ## Train all 972 models of the digits grid and print the paper's Table 1
	$(BIN)/qsweep launch digits-grid

test: .venv/ready lint ## Run every test
	$(BIN)/pytest $(SPREAD) $(ORDER) --durations 10

quick: .venv/ready ## Run the tests that take no longer than a few seconds
	$(BIN)/pytest $(SPREAD) $(ORDER) -m 'not slow and not fault'

lint: .venv/ready ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean: ## Remove the virtual environment and caches; sweeps stay
	rm -rf .venv build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
