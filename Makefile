# `make demo` and `make test` need Python 3.10+ and make; everything else they install into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Setuptools warns at length about every editable installation.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --disable-pip-version-check --quiet

# TensorFlow and oneDNN report on start-up what no one can act on; errors still show.
export TF_CPP_MIN_LOG_LEVEL ?= 2
# One process a core; the tests of a file stay together, because they share what is converted or trained for them.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --durations=25
BENCHMARK := $(BIN)/python -m benchmarks

.PHONY: demo web test test-slow test-torch native arm64 native-arm64 devices bench fuzz lint clean help

help:
	@echo "make demo        set up, then the main job: from a teacher to a verified int8 file (build/digits/)"
	@echo "make web         the page that runs bundles in a browser: tflite/web/dist/ (needs Node.js 18+ and npm)"
	@echo "make test        set up, then the tests on TensorFlow, and the backend-agnostic ones on JAX"
	@echo "make test-slow   the tests that take long: the whole demo, a clean installation"
	@echo "make test-torch  the backend-agnostic tests on PyTorch (installs torch)"
	@echo "make native      the runner on LiteRT's C API (build/native/run); cmake, g++ and nlohmann-json3-dev from apt"
	@echo "make arm64       the Python runner on an emulated ARM64 (build/arm64/); a Debian with qemu-user from apt"
	@echo "make native-arm64  the same with the native runner; g++-aarch64-linux-gnu from apt"
	@echo "make devices     every runner on every bundle of the examples, compared value by value (tflite/README.md)"
	@echo "make bench       the side-by-side measurements, hours of them; for a list: python -m benchmarks"
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

WEB := tflite/web
# The page lists what was built, so a new bundle is a reason to build it again.
BUNDLES_BUILT := $(foreach depth,* */* */*/*,$(wildcard build/$(depth)/model.json))

web: $(WEB)/dist/index.html

$(WEB)/node_modules/.package-lock.json: $(WEB)/package.json $(WEB)/package-lock.json
	@command -v node >/dev/null || { echo "make web: node must be installed: Node.js 18 or newer."; exit 1; }
	@command -v npm >/dev/null || { echo "make web: npm must be installed: it comes with Node.js."; exit 1; }
	@node -e 'const v = process.versions.node; if (parseInt(v) < 18) { console.error("make web: Node.js must be 18 or newer. Received: " + v + "."); process.exit(1); }'
	cd $(WEB) && npm ci --no-audit --no-fund
	@touch $@

$(WEB)/dist/index.html: $(WEB)/node_modules/.package-lock.json $(WEB)/build.mjs $(wildcard $(WEB)/src/*) $(BUNDLES_BUILT)
	cd $(WEB) && npm run --silent build
	@touch $@

test: $(VENV)/.dev-installed
	@# XLA compiles each function of a test for a few calls: without its optimizations a test takes a quarter less time.
	XLA_FLAGS=--xla_backend_optimization_level=0 KERAS_BACKEND=jax $(PYTEST) -m "any_backend and not slow"
	KERAS_BACKEND=tensorflow $(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev-installed
	KERAS_BACKEND=tensorflow $(PYTEST) -m slow

test-torch: $(VENV)/.torch-installed
	KERAS_BACKEND=torch $(PYTEST) -m "any_backend and not slow"

# Any LiteRT 2.3 will do: whoever has its library elsewhere says LITERT_LIBRARY=.../libLiteRt.so, and needs no $(VENV).
LITERT_LIBRARY ?= $(firstword $(wildcard $(VENV)/lib/python3*/site-packages/ai_edge_litert/libLiteRt.so))
NATIVE_SOURCES := $(wildcard tflite/native/*.cc tflite/native/*.h) tflite/native/CMakeLists.txt
BUNDLE ?= tflite/testdata/bars_static_int8

# need,TOOL,PACKAGE: ends with what to install if a tool is missing.
need = @command -v $(1) > /dev/null || { echo "$(1) is missing (apt-get install $(2))" >&2; exit 1; }

# cmake,FOLDER,LIBRARY,SETTINGS: configures and builds the native runner in a folder.
define cmake
@cmake -S tflite/native -B $(1) -DCMAKE_BUILD_TYPE=Release -DLITERT_LIBRARY=$(abspath $(2)) $(3) > $(1).log || \
	{ rm -rf $(1); exit 1; }
@cmake --build $(1) >> $(1).log || { cat $(1).log; exit 1; }
@touch $@
endef

native: build/native/run

build/native/run: $(NATIVE_SOURCES) $(if $(LITERT_LIBRARY),,$(VENV)/.demo-installed)
	$(call need,cmake,cmake)
	$(call need,g++,g++)
	@mkdir -p build
	$(call cmake,build/native,$(or $(LITERT_LIBRARY),$(shell ls $(VENV)/lib/python3*/site-packages/ai_edge_litert/libLiteRt.so)))

build/arm64/sysroot/complete: tflite/arm64/prepare.py tflite/arm64/emulator.py | $(BIN)/python
	$(BIN)/python tflite/arm64/prepare.py
	@touch $@

build/native-arm64/run: $(NATIVE_SOURCES) build/arm64/sysroot/complete
	$(call need,cmake,cmake)
	$(call need,aarch64-linux-gnu-g++,g++-aarch64-linux-gnu)
	$(call cmake,build/native-arm64,build/arm64/sysroot/site/ai_edge_litert/libLiteRt.so,-DCMAKE_SYSTEM_NAME=Linux \
		-DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++)

arm64: build/arm64/sysroot/complete
	$(BIN)/python tflite/arm64/run.py $(BUNDLE)

native-arm64: build/native-arm64/run
	$(BIN)/python tflite/arm64/run.py $(BUNDLE) --runner native

build/digits/bundle/model.json: | $(VENV)/.demo-installed
	$(BIN)/python examples/teacher_to_device.py --seeds 1

build/activity/stream/model.json: | $(VENV)/.demo-installed
	$(BIN)/python examples/activity_on_phone.py

build/translator/bundle/model.json: | $(VENV)/.demo-installed
	$(BIN)/python examples/translator_on_phone.py

devices: $(VENV)/.dev-installed build/digits/bundle/model.json build/activity/stream/model.json \
		build/translator/bundle/model.json web build/native/run build/native-arm64/run
	$(BENCHMARK) devices table --write

bench: $(VENV)/.dev-installed
	$(BENCHMARK) losses accuracy
	$(BENCHMARK) losses imbalance
	$(BENCHMARK) conversion after_training
	$(BENCHMARK) conversion tolerance
	$(BENCHMARK) conversion engines
	$(BENCHMARK) conversion matrix
	$(PIP) --editable '.[real-networks]'
	$(BENCHMARK) real_networks
	$(BENCHMARK) compression coverage
	$(BENCHMARK) compression parity
	$(BENCHMARK) compression accuracy
	$(BENCHMARK) compression students
	$(BENCHMARK) compression cost
	$(BENCHMARK) compression size
	$(BENCHMARK) sequence lowerings
	$(BENCHMARK) sequence streaming
	$(BENCHMARK) sequence decoding
	$(BENCHMARK) translation all
	$(BENCHMARK) distillation cost
	$(BENCHMARK) distillation help
	$(BENCHMARK) devices web

fuzz: $(VENV)/.dev-installed
	$(BIN)/python -m tests.fuzz --count 10000 --processes 2

lint: $(VENV)/.dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf build dist $(WEB)/dist $(WEB)/node_modules *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
