# make demo | test | run | lint | bench | faults: each works on a fresh machine with Python 3.10+, twice in a row.
PYTHON ?= python3
BIN := .venv/bin
HOST ?= 127.0.0.1
PORT ?= 8000
SIMULATOR_PORT ?= 8001
export HOST PORT SIMULATOR_PORT

.PHONY: help demo test run lint format bench faults

help:
	@echo "make demo [ONCE=1]  the whole job on this machine, with a simulated DingTalk"
	@echo "make run            migrate, then web server and worker, with the .env at hand"
	@echo "make test           the whole suite, on SQLite and PostgreSQL"
	@echo "make lint           ruff and mypy"
	@echo "make bench          measure, and print ratios"
	@echo "make faults         let everything fail, and count what is lost or doubled [COUNT=small] [JOBS=]"

demo: .venv/installed
	@$(BIN)/python -m simulator.demo $(if $(ONCE),--once)

run: .venv/installed
	@exec $(BIN)/python manage.py serve --migrate

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto
	TEST_DATABASE=postgresql $(BIN)/python -m pytest -n auto -m rows

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks.acknowledge

faults: .venv/installed-dev
	@COUNT=$(COUNT) SEED=$(SEED) ONLY=$(ONLY) DATABASE=$(DATABASE) JOBS=$(JOBS) $(BIN)/python -m faults

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: requirements.txt requirements-celery.txt requirements-dev.txt | .venv/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch .venv/installed $@
