PYTHON ?= python3
PY := .venv/bin/python
TESTS ?= tests
MARKED ?=
RUN ?= -m pytest
DEV := .venv-dev/bin/python

.PHONY: demo test check test-all coverage pytest test-dev mutants lint typecheck security notebook
.PHONY: bench docs clean

demo: .venv/installed
	$(PY) -m featlab demo -o reports/demo

# What a newcomer waits for; `check` has what reads the code for half a minute more.
test: lint pytest

check: .venv/installed-test
	$(MAKE) -j 3 lint typecheck security

test-all: check
	$(MAKE) pytest MARKED='-m ""'

# Every test, and the lines and branches that they run. Coverage sees nothing of what numba compiles:
# the tests of the regions and of copies laid on each other run once more without it.
coverage: .venv/installed-test
	$(PY) -m coverage erase
	status=0; \
	$(MAKE) pytest MARKED='-m ""' RUN='-m coverage run -m pytest' || status=$$?; \
	NUMBA_DISABLE_JIT=1 $(PY) -m coverage run -m pytest -k "region or brute or loops_fit" tests/test_box_metrics.py tests/test_audit.py || status=$$?; \
	$(PY) -m coverage combine --quiet; $(PY) -m coverage report; \
	exit $$status

pytest: .venv/installed-test
	$(PY) $(RUN) -n 2 --dist loadfile --no-loadscope-reorder $(MARKED) $(TESTS)

# Faults put in on purpose: some at random for every area, or `make mutants AREAS="boxes -n 200"`.
mutants: .venv/installed-mutants
	$(PY) tests/mutants.py $(AREAS)

# Against scanpy, which needs an older pandas than the rest.
test-dev: .venv-dev/installed
	$(DEV) -m pytest tests/test_neuron_lab.py

lint: .venv/installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

typecheck: .venv/installed-test
	$(PY) -m mypy

# The scripts of analysis/ as one notebook, run on the built-in scenes.
notebook: .venv/installed-notebook
	$(PY) analysis/build_notebook.py

security: .venv/installed-test
	$(PY) -m bandit --quiet --recursive --configfile pyproject.toml featlab

# Every benchmark in a short form, and one table of figures and limits at the end.
bench: .venv/installed
	$(PY) benchmarks/run_all.py

docs: .venv/installed-docs
	$(PY) -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf .venv .venv-dev build docs/_build docs/api featlab.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet uv

# uv installs many times faster; where it cannot (an index set up for pip alone), pip does. The
# libraries are compiled once here, as pip does by itself, not by every process that imports them.
.venv/installed: .venv/bin/python setup.py
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) -e . || $(PY) -m pip install --quiet -e .
	touch $@

.venv/installed-test: .venv/bin/python setup.py
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) -e '.[test,docs,fast,cluster,export,hub,heif,masks]' || $(PY) -m pip install --quiet -e '.[test,docs,fast,cluster,export,hub,heif,masks]'
	touch $@ .venv/installed

.venv/installed-mutants: .venv/installed-test
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) -e '.[mutants]' || $(PY) -m pip install --quiet -e '.[mutants]'
	touch $@

.venv/installed-notebook: .venv/bin/python setup.py
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) -e '.[notebook]' || $(PY) -m pip install --quiet -e '.[notebook]'
	touch $@ .venv/installed

.venv/installed-docs: .venv/bin/python setup.py
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) -e '.[docs]' || $(PY) -m pip install --quiet -e '.[docs]'
	touch $@ .venv/installed

.venv-dev/installed: .venv/bin/python setup.py
	$(PYTHON) -m venv .venv-dev
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(DEV) -e '.[dev]' || $(DEV) -m pip install --quiet -e '.[dev]'
	touch $@
