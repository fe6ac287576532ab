# `make` or `make help` lists what can be done. Everything happens in .venv, made on first use.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install train test lint types check docs tensorboard wheel clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The marker is newer than pyproject.toml iff the environment is up to date. Torch is named first so that the pinned
# build is the one installed; what comes after finds its requirement met.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# What more the developers of sairlib need, installed once beside what is there.
$(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

install: $(VENV)/.installed  ## make the environment (TORCH=torch==2.13.0 chooses the build)

train: install  ## train SAIR on the MovieLens data that ships, and show the results
	$(BIN)/python -m sairlib.train experiment=quickstart

test: $(VENV)/.dev  ## run the tests, as many at once as there are cores
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(VENV)/.dev  ## ruff: mistakes and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## all that a change has to pass

# Without network, and a warning is an error.
docs: $(VENV)/.docs  ## build the documentation into docs/built
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/built

tensorboard: install  ## look at the runs under outputs/
	$(BIN)/tensorboard --logdir outputs

wheel: install  ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:  ## remove the environment, builds and caches (runs and data stay)
	rm -rf $(VENV) dist docs/built docs/made .pytest_cache .mypy_cache .ruff_cache .hypothesis
