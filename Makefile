# CAIDX hub: the commands of the repository. `make` lists them.
#
# Everything is installed into .venv, from lock files with hashes; stamps in .venv keep it
# from being installed twice.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet
PIP_LOCKED := $(PIP) install --require-hashes
PYTEST := $(BIN)/python -m pytest
FHIR_PEER := tests/peers/fhir
OHIF_PEER := tests/peers/ohif
MLSERVER_PEER := tests/peers/mlserver
BENCH_PEERS := tests/bench/inference_peers
PYTHONS := python3 python3.13 python3.12 python3.11 python3.14 python

# Arguments for the commands: make test ARGS='tests/unit -k audit', make demo ARGS=--json
ARGS ?=

.PHONY: help demo test check fmt bench bench-inference bench-intake bench-path bench-restart bench-results soak lock clean peers

help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed ## send two studies through a hub of its own and check what comes out
	$(BIN)/caidx demo $(ARGS)

test: peers $(VENV)/.installed-dev ## every test but the long ones, against real peers
	$(if $(strip $(ARGS)),$(PYTEST) -m "not soak" $(ARGS),$(BIN)/python -m tests)

check: $(VENV)/.installed-dev ## format, lint, types, import rules, size budget
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) tests/unit/test_house.py

fmt: $(VENV)/.installed-dev ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: peers $(VENV)/.installed-dev $(BENCH_PEERS)/.venv/.installed ## every benchmark; results in var/bench/
	$(BIN)/python -m tests.bench $(ARGS)

bench-inference: peers $(VENV)/.installed-dev $(BENCH_PEERS)/.venv/.installed ## the hub beside onnxruntime and four servers
	$(BIN)/python -m tests.bench inference $(ARGS)

bench-intake: peers $(VENV)/.installed-dev ## instances/s and CPU beside DCMTK, Orthanc and pynetdicom
	$(BIN)/python -m tests.bench intake $(ARGS)

bench-path: peers $(VENV)/.installed-dev ## time from the last image to the report, beside a bare script
	$(BIN)/python -m tests.bench path $(ARGS)

bench-results: peers $(VENV)/.installed-dev ## milliseconds for each document of a result, beside highdicom
	$(BIN)/python -m tests.bench results $(ARGS)

bench-restart: peers $(VENV)/.installed-dev ## time from kill -9 to the next accepted association
	$(BIN)/python -m tests.bench restart $(ARGS)

soak: peers $(VENV)/.installed-dev ## the long tests: processes killed at random under load
	$(PYTEST) -m soak --timeout 7200 $(ARGS)

lock: ## write the lock files of Python packages (ARGS=--upgrade for newer versions)
	@set -eu; \
	python=`$(find_python)`; \
	tool=`mktemp -d`; trap 'rm -rf "$$tool"' EXIT; \
	"$$python" -m venv "$$tool/venv"; \
	"$$tool/venv/bin/python" -m pip --disable-pip-version-check --quiet install uv; \
	"$$python" -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  > "$$tool/build-system.in"; \
	compile() { \
	  "$$tool/venv/bin/uv" pip compile --quiet --universal --generate-hashes \
	    --no-header --no-emit-index-url --no-annotate --python-version 3.11 $(ARGS) "$$@"; \
	}; \
	compile pyproject.toml "$$tool/build-system.in" --extra ecg --output-file requirements.lock; \
	compile pyproject.toml "$$tool/build-system.in" --extra ecg --group dev \
	  --constraint requirements.lock --output-file requirements-dev.lock; \
	compile $(MLSERVER_PEER)/requirements.in --output-file $(MLSERVER_PEER)/requirements.lock; \
	wc -l requirements.lock requirements-dev.lock $(MLSERVER_PEER)/requirements.lock

clean: ## remove the virtual environment, caches and build outputs (var/ stays)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache \
	  .import_linter_cache .hypothesis $(FHIR_PEER)/node_modules $(OHIF_PEER)/node_modules \
	  $(MLSERVER_PEER)/.venv
	find hub connectors model_adapters tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ------------------------------------------------------------------------

# Prints a Python that can make virtual environments: 3.11 to 3.13, for which every locked
# package has a wheel, or else a newer one, on which pip may have to compile.
find_python = set -eu; for newest in 13 99; do for python in $(PYTHONS); do \
	  if "$$python" -c "import sys, venv, ensurepip; \
	    sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $$newest))" >/dev/null 2>&1; \
	  then echo "$$python"; exit 0; fi; done; done; \
	echo "needs Python 3.11 or newer with venv (on Debian: python3 and python3-venv)" >&2; exit 1

$(VENV)/.made:
	@set -eu; python=`$(find_python)`; "$$python" -m venv $(VENV)
	@touch $@

# The build backend is locked like everything else, so the project is built without isolation.
$(VENV)/.installed: $(VENV)/.made requirements.lock pyproject.toml
	$(PIP_LOCKED) --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.lock
	$(PIP_LOCKED) --requirement requirements-dev.lock
	@touch $@

# The real systems that the tests talk to.
peers: $(VENV)/.peers $(FHIR_PEER)/node_modules/.installed $(OHIF_PEER)/node_modules/.installed \
  $(MLSERVER_PEER)/.venv/.installed

$(VENV)/.peers: tests/install-peers.sh $(VENV)/.made
	sh tests/install-peers.sh
	@touch $@

$(FHIR_PEER)/node_modules/.installed: $(FHIR_PEER)/package-lock.json $(VENV)/.peers
	cd $(FHIR_PEER) && npm ci --no-audit --no-fund --loglevel=error
	@touch $@

# Other projects' servers, whose pins contradict ours.
$(BENCH_PEERS)/.venv/.installed: $(BENCH_PEERS)/requirements.lock $(VENV)/.peers
	@set -eu; python=`$(find_python)`; "$$python" -m venv $(BENCH_PEERS)/.venv
	$(BENCH_PEERS)/.venv/bin/python -m pip --disable-pip-version-check --no-input --quiet \
	  install --require-hashes --requirement $(BENCH_PEERS)/requirements.lock
	@touch $@

# The viewer is a finished web application; of its 204 MB, 136 are for models in the browser.
$(OHIF_PEER)/node_modules/.installed: $(OHIF_PEER)/package-lock.json $(VENV)/.peers
	cd $(OHIF_PEER) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	rm -rf $(OHIF_PEER)/node_modules/@ohif/app/dist/ort
	@touch $@

# The inference server pins other versions of what the hub uses: it has an environment of its own.
$(MLSERVER_PEER)/.venv/.installed: $(MLSERVER_PEER)/requirements.lock $(VENV)/.made
	rm -rf $(MLSERVER_PEER)/.venv
	$(BIN)/python -m venv $(MLSERVER_PEER)/.venv
	$(MLSERVER_PEER)/.venv/bin/python -m pip --disable-pip-version-check --no-input --quiet \
	  install --require-hashes --requirement $<
	@touch $@
