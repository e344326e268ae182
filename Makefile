# `make demo` and `make test` need Python 3.10+ and make; everything else they install into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Setuptools warns at length about every editable installation.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --disable-pip-version-check --quiet

# TensorFlow and oneDNN report on start-up what no one can act on; errors still show.
export TF_CPP_MIN_LOG_LEVEL ?= 2
# One process a core; the tests of a file stay together, because they share what is converted or trained for them.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile

.PHONY: demo test test-slow test-torch bench fuzz lint clean help

help:
	@echo "make demo        set up, then the main job: from a teacher to a verified int8 file (build/digits/)"
	@echo "make test        set up, then the tests on TensorFlow, and the backend-agnostic ones on JAX"
	@echo "make test-slow   the tests that take long: the whole demo, a clean installation"
	@echo "make test-torch  the backend-agnostic tests on PyTorch (installs torch)"
	@echo "make bench       the side-by-side measurements"
	@echo "make fuzz        10,000 damaged bundles, none of which may end or hang the process that looks at them"
	@echo "make lint        ruff, mypy, import-linter"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	$(PIP) --upgrade pip

$(VENV)/.demo-installed: pyproject.toml | $(BIN)/python
	@echo "Installing keras_notes with what the demo needs into $(VENV) (once; about 700 MB of downloads)"
	$(PIP) --editable '.[examples]'
	@touch $@

$(VENV)/.dev-installed: pyproject.toml | $(BIN)/python
	@echo "Installing keras_notes with what the tests need into $(VENV) (once)"
	$(PIP) --editable '.[examples,jax,dev]'
	@# The extra `tfmot` without TF-MOT's own demand for absl-py below 2, beside which pip would have to give up others.
	$(PIP) --no-deps 'tensorflow-model-optimization==0.8.1' 'tf_keras==2.21.0' 'dm-tree==0.1.10'
	@touch $@ $(VENV)/.demo-installed

$(VENV)/.torch-installed: $(VENV)/.dev-installed
	$(PIP) 'torch==2.13.0'
	@touch $@

demo: $(VENV)/.demo-installed
	$(BIN)/python examples/teacher_to_device.py

test: $(VENV)/.dev-installed
	KERAS_BACKEND=jax $(PYTEST) -m "any_backend and not slow"
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev-installed
	KERAS_BACKEND=tensorflow $(PYTEST) -m slow

test-torch: $(VENV)/.torch-installed
	KERAS_BACKEND=torch $(PYTEST) -m "any_backend and not slow"

bench: $(VENV)/.dev-installed
	$(BIN)/python tests/benchmarks/losses.py
	$(BIN)/python tests/benchmarks/imbalance.py
	$(BIN)/python tests/benchmarks/conversion.py
	$(BIN)/python tests/benchmarks/tolerance.py
	$(BIN)/python tests/benchmarks/engines.py
	$(BIN)/python tests/benchmarks/conversion_matrix.py
	$(BIN)/python tests/benchmarks/compression.py coverage
	$(BIN)/python tests/benchmarks/compression.py parity
	$(BIN)/python tests/benchmarks/compression.py accuracy
	$(BIN)/python tests/benchmarks/compression.py students
	$(BIN)/python tests/benchmarks/compression.py cost
	$(BIN)/python tests/benchmarks/compression.py size
	$(BIN)/python tests/benchmarks/sequence.py lowerings
	$(BIN)/python tests/benchmarks/sequence.py streaming
	$(BIN)/python tests/benchmarks/decoding.py
	$(BIN)/python -m tests.benchmarks.translation all
	$(BIN)/python tests/benchmarks/distillation.py cost
	$(BIN)/python tests/benchmarks/distillation.py help

fuzz: $(VENV)/.dev-installed
	$(BIN)/python -m tests.fuzz --count 10000 --processes 2

lint: $(VENV)/.dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
