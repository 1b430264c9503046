# Two commands, each doing all of its own set-up: make demo, make test.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# One thread per process: with more, OpenMP threads spin while they wait and small networks get slower.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo test check format clean help

help:
	@echo "make demo    install, then teach a small network handwritten digits: a table in about a minute"
	@echo "make test    install, then run all tests"
	@echo "make check   format, lint, types and the fast tests: run it before every commit"

demo: .venv/installed
	$(ONE_THREAD) $(BIN)/potstill distill

test: .venv/installed-test
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ty check potstill
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 -m "not slow"

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv dist build .pytest_cache .ruff_cache

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Potstill needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -e . -c constraints.txt
	@touch $@

.venv/installed-test: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test]" -c constraints.txt
	@touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@
