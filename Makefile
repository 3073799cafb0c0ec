# Candlecast: `make help` lists what there is.
# Everything runs in .venv, which is made from the constraints file on first use.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ARGS   ?=
COMMA  := ,
# the tested set, of each package the files whose SHA-256 is known
PINS   := --require-hashes --constraint constraints-hashed.txt
FUZZ_SECONDS ?= 3600

export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast faults faults-broker fuzz soak check format docs site screenshots bench train default release sbom licences audit upgrade hashes clean

help:  ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  Options for a command go into ARGS: make demo ARGS="--exit-when-done --json"'

install: $(VENV)/.train  ## Install all that users need: the command candlecast, serving and training

# with --live-training the demo trains too
demo: $(if $(findstring --live-training,$(ARGS)),$(VENV)/.train,$(VENV)/.local)  ## Run broker, producer, worker and API here and watch the forecasts
	@$(BIN)/python -m local $(ARGS)

# a process that crashes ends the run: pytest-xdist 3.8.0 may wait without an end for the one in its place
test: check  ## Check the code and run all tests (ARGS go to pytest)
	$(BIN)/python -m pytest -n auto --max-worker-restart 0 $(ARGS)

test-fast: $(VENV)/.dev  ## Run the unit tests only: no broker, some seconds
	$(BIN)/python -m pytest tests/unit $(ARGS)

faults: $(VENV)/.dev  ## Kill worker, broker and trainer ten times as often as the tests do, and count (20 minutes)
	CANDLECAST_FAULT_ROUNDS=10 $(BIN)/python -m pytest -s tests/integration/faults \
	  tests/integration/trainer/test_watch.py $(ARGS)

faults-broker: $(VENV)/.dev  ## Cut connections, take brokers and disks away, change topics and clocks, and count (20 minutes)
	CANDLECAST_FAULT_ROUNDS=10 $(BIN)/python -m pytest -s tests/integration/faults/test_brokers.py \
	  tests/integration/faults/test_network.py tests/integration/faults/test_topics_changed.py \
	  tests/integration/faults/test_clocks.py $(ARGS)

fuzz: $(VENV)/.dev  ## Spoil whatever comes in from outside, for an hour (FUZZ_SECONDS=600 for ten minutes)
	CANDLECAST_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest tests/integration/test_fuzz.py $(ARGS)

soak: $(VENV)/.dev  ## Follow a month of minutes of 20 symbols, polled each minute (10 minutes)
	CANDLECAST_SOAK_POLL_MINUTES=1 $(BIN)/python -m pytest tests/integration/producer/yahoo/test_soak.py $(ARGS)

check: $(VENV)/.dev  ## Format check, lint, strict types, import contracts, documents, licences, compatibility
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/licences.py --check
	$(BIN)/python docs/compatibility.py

format: $(VENV)/.dev  ## Format the code and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev  ## Write the documents that follow from the code: schemas, AsyncAPI, file tree, features
	$(BIN)/python docs/generate.py

site: $(VENV)/.dev  ## Build the documentation as a site with search, into build/site
	$(BIN)/python docs/website.py

screenshots: $(VENV)/.dev  ## Take the README's pictures of the dashboard (needs Chromium)
	$(BIN)/python docs/screenshots.py

bench: $(VENV)/.dev .venv-peers/.done  ## Run a benchmark and print JSON: ARGS="stream --quick"
	@$(BIN)/python -m benchmarks $(ARGS)

train: $(VENV)/.train  ## Train a bundle on the bundled daily candles, into the folder my-bundle
	$(BIN)/python -m trainer $(ARGS)

default: $(VENV)/.train  ## Train the built-in bundle again: DATA=FOLDER of the candles that docs/model.md names
	$(BIN)/python -m trainer fit --all $(DATA) --replace-default $(ARGS)

release: $(VENV)/.dev  ## Build sdist, wheel and bill of materials: VERSION=0.3.0 REPOSITORY=https://...
	$(BIN)/python docs/release.py $(if $(VERSION),--version $(VERSION)) $(if $(REPOSITORY),--repository $(REPOSITORY))
	$(BIN)/python docs/sbom.py

sbom: $(VENV)/.dev  ## Write the bill of materials (CycloneDX) into dist
	$(BIN)/python docs/sbom.py $(ARGS)

licences: $(VENV)/.dev  ## Write the licences of the tested set into docs/licences.md
	$(BIN)/python docs/licences.py

# an advisory that does not concern us is named here, with the reason and the version that mends it:
#   --ignore-vuln PYSEC-2026-1  # only on Windows; gone with package 1.2
AUDIT_EXCEPT :=

audit: $(VENV)/.dev  ## Ask the index's advisories about every pinned version (ARGS="-s osv" asks osv.dev)
	$(BIN)/pip-audit --disable-pip --no-deps --requirement constraints-hashed.txt --progress-spinner off \
	  $(AUDIT_EXCEPT) $(ARGS)

upgrade:  ## Renew the tested set within what pyproject.toml allows, its hashes too, and run all tests
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt uv
	.venv-uv/bin/python docs/hashes.py --upgrade
	.venv-uv/bin/python docs/hashes.py
	rm -rf .venv-uv
	$(MAKE) test

hashes:  ## Write constraints-hashed.txt after a change of pyproject.toml or constraints.txt
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt uv
	.venv-uv/bin/python docs/hashes.py
	rm -rf .venv-uv

clean:  ## Remove the environment, caches and everything made here
	rm -rf $(VENV) .venv-peers .venv-uv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis \
	  .import_linter_cache .cache mlruns mlflow.db mlartifacts search.db search report
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Candlecast needs Python 3.11 or later: make PYTHON=python3.11 ..."; exit 1; }
	$(call say,making the environment $(VENV): some seconds)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python docs/hashes.py --entries pip setuptools > $(VENV)/tools.txt
	$(PIP) install --quiet --upgrade --require-hashes --requirement $(VENV)/tools.txt 1>&2

# the peers of the benchmarks pin other versions; what they lack they take from .venv, torch above all
.venv-peers/.done: benchmarks/peers/requirements.txt $(VENV)/.dev
	$(PYTHON) -m venv .venv-peers
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$(.venv-peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/candlecast-main.pth"
	.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet -r $< 1>&2
	@touch $@

# what takes long says so first: what, how large, how long
define say
	@echo "$(1)" 1>&2
endef

# pip has no hash of the project itself, which therefore comes second
define install
	$(BIN)/python docs/hashes.py --requirements $(1) > $(VENV)/requirements.txt
	$(PIP) install $(PINS) --requirement $(VENV)/requirements.txt 1>&2
	$(PIP) install --quiet --quiet --no-deps --no-build-isolation --editable . 1>&2
endef

# one stamp for each set of extras; a later one holds the earlier ones
$(VENV)/.local: $(BIN)/python pyproject.toml constraints-hashed.txt
	$(call say,installing Candlecast and what it needs: 200 MB to fetch; one or two minutes)
	$(call install,local)
	@touch $@

$(VENV)/.train: $(BIN)/python pyproject.toml constraints-hashed.txt
	$(call say,installing what training needs: PyTorch and MLflow among it$(COMMA) 3 GB; some minutes)
	$(call install,local train)
	@touch $@ $(VENV)/.local

# of kserve the tests use the client alone; what its server needs excludes other pins of ours
$(VENV)/.dev: $(BIN)/python pyproject.toml constraints-hashed.txt
	$(call say,installing what developers need: everything$(COMMA) 3 GB; some minutes)
	$(call install,local train traces s3 gcs dev)
	$(PIP) install --quiet $(PINS) --no-deps kserve 1>&2
	@touch $@ $(VENV)/.local $(VENV)/.train
