# make demo, make test and make lint each set up .venv first.
PYTHON ?= python3.11
PY := .venv/bin/python
.PHONY: venv demo test lint

venv: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[demo,dev]'
	touch $@

demo: venv
	$(PY) -m common.study.demo

test: venv
	$(PY) -m pytest

lint: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
