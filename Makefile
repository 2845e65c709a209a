# Targets: install, demo; install-dev, test, lint, test-oldest; study. PYTHON chooses the interpreter that makes the
# environments. ARGS are passed on by test-oldest (to pytest) and study.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
OLDEST_STAMP := $(OLDEST)/.installed

.PHONY: demo test lint test-oldest study install install-dev

demo: install
	$(BIN)/sgpo quickstart

test: lint
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests on the oldest releases that the package allows, beside verl's own limits. By hand, not in CI.
test-oldest: $(OLDEST_STAMP)
	OMP_NUM_THREADS=2 $(OLDEST)/bin/python -m pytest $(ARGS)

# The grid of methods and seeds behind docs/results/study.md; see `python -m research --help`.
study: install
	$(BIN)/python -m research $(ARGS)

install: $(STAMP)

install-dev: $(DEV_STAMP)

# Made anew when the pinned versions or the package's own requirements change. torch comes first and alone, so that no
# other package pulls a build of its choice.
$(STAMP): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

$(DEV_STAMP): $(STAMP)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(OLDEST_STAMP): requirements/oldest.txt pyproject.toml
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet -c requirements/oldest.txt torch
	$(OLDEST)/bin/pip install --quiet -c requirements/oldest.txt -e '.[test]'
	touch $@
