# polyclinic: `make demo`, `make demo-merging`, `make test`, `make check`, `make benchmarks`. Everything is installed into .venv on first use.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
SITES ?= 6
ROUNDS ?=
SUBJECTS ?= 4
SEED ?= 0
FOLDER ?= demo
ARGS ?=
COHORT ?= brain

.PHONY: help install demo demo-merging demo-refinement mergekit test test-fast check format benchmarks clean

help:  ## Show this help.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

install: $(VENV)/.installed  ## Create .venv and install polyclinic with what its tests need.

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 13) else f"polyclinic needs Python 3.11 or 3.12, this is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: install  ## Six hospitals, three that join later, a coordinator, on this machine: SITES=6 ROUNDS=8 SUBJECTS=4 SEED=0 ARGS="SETTING=VALUE".
	$(BIN)/polyclinic-server demo --sites $(SITES) $(if $(ROUNDS),--rounds $(ROUNDS)) --subjects $(SUBJECTS) --seed $(SEED) --folder $(FOLDER) $(ARGS)

demo-merging: install  ## Hospitals that contribute whenever they like: COHORT=brain (six simulated scanners) or cells (three laboratories in POLYCLINIC_DATA).
	$(BIN)/polyclinic-server demo-merging --cohort $(COHORT) --subjects $(SUBJECTS) --seed $(SEED) --folder $(FOLDER) $(ARGS)

demo-refinement: install  ## Refinement against averaging, local, FedBN, pooled and shuffled descriptions, in one process (one seed, ten minutes).
	$(BIN)/python benchmarks/refinement.py --short --seeds $(SEED) --folder $(FOLDER)/refinement

mergekit: .mergekit/.installed  ## Install mergekit into an environment of its own, for the tests and benchmarks that compare with it.

.mergekit/.installed: constraints.txt
	$(PYTHON) -m venv .mergekit
	.mergekit/bin/python -m pip install --quiet -c constraints.txt torch mergekit==0.1.5
	@touch $@

test: install  ## All tests, those that start real processes included.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not e2e" -n 2 --dist loadfile $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m e2e -n 2 --dist loadfile $(ARGS)

test-fast: install  ## The tests that start no processes.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not e2e" -n 2 --dist loadfile $(ARGS)

check: install  ## Format, lint, types, who imports whom.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## Rewrite the source in the project's format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmarks: install mergekit  ## Every figure that the README quotes (some hours on two cores).
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/wire.py
	$(BIN)/python benchmarks/demo_table.py
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/coordinator_kills.py
	$(BIN)/python benchmarks/merging.py
	$(BIN)/python benchmarks/refinement.py
	$(BIN)/python benchmarks/refinement_scale.py
	$(BIN)/python benchmarks/membership.py build/membership
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/laboratories.py)
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/closed_form.py)
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/refinement.py --cohort anatomies)
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/refinement.py --cohort cells)

clean:  ## Remove the environment and caches; runs and demo data stay.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build
