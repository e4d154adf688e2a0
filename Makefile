# make demo, make test and make lint each set up .venv first.
PYTHON ?= python3.11
PY := .venv/bin/python
.PHONY: venv demo test test-labelstudio lint

venv: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[demo,dev]'
	touch $@

demo: venv
	$(PY) -m common.study.demo

test: venv
	$(PY) -m pytest

# The annotation loop against a real server, which is installed into an environment of its own (1 GB).
test-labelstudio: venv .venv-label-studio/ready
	LABEL_STUDIO_PROGRAM=$(CURDIR)/.venv-label-studio/bin/label-studio $(PY) -m pytest -n 0 tests/test_label_studio.py

.venv-label-studio/ready:
	$(PYTHON) -m venv .venv-label-studio
	.venv-label-studio/bin/python -m pip install --quiet --disable-pip-version-check label-studio==1.23.2
	touch $@

lint: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
