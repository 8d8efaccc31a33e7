# `make demo` and `make test` do all the set-up themselves: Python 3.11+ and a C++ compiler are enough.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= runs/demo
PRESET ?= laptop

.PHONY: demo test lint check format bench clean

demo: $(VENV)/ready
	$(BIN)/deformlearn demo --preset $(PRESET) --out $(OUT)

# Two workers with one thread each: many small tests gain nothing from more threads.
test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint test

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/ready
	$(BIN)/python benchmarks/run.py

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("deformlearn needs Python 3.11 or newer; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist
