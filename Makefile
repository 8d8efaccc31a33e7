# `make demo` and `make test` do all the set-up themselves: Python 3.11+ and a C++ compiler are enough.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
OUT ?= runs/demo
PRESET ?= laptop
# For `make bench`: --only GROUP, --quick, --accept, ... (see benchmarks/run.py)
BENCH ?=
KILLS ?= 30

.PHONY: demo test lint check format docs docs-serve package bench kill clean help

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

# Warnings are errors. Pages that come from the code are written first.
docs: $(VENV)/ready
	$(BIN)/python docs/make_pages.py
	$(BIN)/zensical build --strict --clean
	@echo "look at it: build/site/index.html"

docs-serve: $(VENV)/ready
	$(BIN)/python docs/make_pages.py
	$(BIN)/zensical serve

# Wheel and sdist, their contents checked; installed into an empty environment and used there.
package: $(VENV)/ready
	$(BIN)/python tests/package.py --out dist

bench: $(VENV)/ready
	$(BIN)/python benchmarks/run.py $(BENCH)

kill: $(VENV)/ready
	$(BIN)/python tests/kill_anywhere.py --kills $(KILLS) --out runs/killed

$(VENV)/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("deformlearn needs Python 3.11 or newer; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

help:
	@echo "make demo    the whole method on synthetic people (PRESET=laptop, OUT=runs/demo)"
	@echo "make check   format, lint, types, tests: what a change must pass"
	@echo "make docs    the documentation site, in build/site (make docs-serve shows it while you write)"
	@echo "make package wheel and sdist, installed into an empty environment and used there"
	@echo "make bench   every goal as a number, beside its baseline and its peer (BENCH='--quick')"
	@echo "make kill    kill the tiny demo KILLS=30 times; its results must be those of an undisturbed one"

clean:
	rm -rf $(VENV) build dist
