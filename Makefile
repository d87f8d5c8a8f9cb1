# Every target works on a fresh machine: .venv is made and filled when it is needed.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m blur_lightning
# Two OpenMP threads that spin on shared cores slow torch down 5-30 times.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0

.PHONY: help install test test-all check format demo clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	@touch $@

install: $(VENV)/installed  ## make .venv with everything that the other targets need

test: install  ## run the tests
	$(VENV)/bin/python -m pytest

test-all: install  ## run the slow tests too (trains networks, some minutes)
	$(VENV)/bin/python -m pytest -m 'not gpu'

check: install  ## format, lint, types and tests: what CI runs
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(MAKE) --no-print-directory test

format: install  ## format the code and mend what the linter can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
