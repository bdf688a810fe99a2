PYTHON ?= python3
PY := .venv/bin/python
TESTS ?= tests
DEV := .venv-dev/bin/python

.PHONY: demo test test-all test-dev lint typecheck bench clean

demo: .venv/installed
	$(PY) -m featlab demo -o reports/demo

test: lint typecheck
	$(PY) -m pytest -n 2 --dist loadfile $(TESTS)

test-all: lint typecheck
	$(PY) -m pytest -n 2 --dist loadfile -m ""

# Against scanpy, which needs an older pandas than the rest.
test-dev: .venv-dev/installed
	$(DEV) -m pytest tests/test_neuron_lab.py

lint: .venv/installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

typecheck: .venv/installed-test
	$(PY) -m mypy

bench: .venv/installed
	$(PY) benchmarks/extract.py

clean:
	rm -rf .venv .venv-dev build featlab.egg-info .pytest_cache .mypy_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet uv

# uv installs many times faster; where it cannot (an index set up for pip alone), pip does.
.venv/installed: .venv/bin/python setup.py
	$(PY) -m uv pip install --quiet --python $(PY) -e . || $(PY) -m pip install --quiet -e .
	touch $@

.venv/installed-test: .venv/bin/python setup.py
	$(PY) -m uv pip install --quiet --python $(PY) -e '.[test]' || $(PY) -m pip install --quiet -e '.[test]'
	touch $@ .venv/installed

.venv-dev/installed: .venv/bin/python setup.py
	$(PYTHON) -m venv .venv-dev
	$(PY) -m uv pip install --quiet --python $(DEV) -e '.[dev]' || $(DEV) -m pip install --quiet -e '.[dev]'
	touch $@
