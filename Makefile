# On a fresh machine with Python 3.11 or newer: `make demo` or `make test`. Nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= mvflow-demo

# One OpenMP thread: two threads on a busy machine can be many times slower than one.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow lint docs build bench clean
.DEFAULT_GOAL := test

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable ".[distributed,omics,parquet]" --group dev
	touch $@

demo: $(VENV)/.installed
	$(BIN)/mvflow demo $(OUT)

test: $(VENV)/.installed
	$(BIN)/pytest --numprocesses 2 --quiet -m "not slow"
	$(BIN)/pytest --quiet --jaxtyping-packages=mvflow.functional,mvflow.samplers,beartype.beartype \
		-m "not bad_input" tests/functional tests/samplers

test-slow: $(VENV)/.installed
	$(BIN)/pytest --numprocesses 2 --quiet -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.sample --repeats 1 --samplers "mvflow hmc" "mvflow sir"
	$(BIN)/python -m benchmarks.train --turns 3

build: $(VENV)/.installed
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
