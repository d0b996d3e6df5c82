# Everything a newcomer needs is `make demo` and `make test`; both set up what they use.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
UV_VERSION := 0.13.9
CSRC := $(wildcard src/tritium/kernels/csrc/*)
NATIVE_TESTS := $(wildcard tests/native/*.h tests/native/*.cpp)
QUICK_BENCHMARKS := $(filter-out benchmarks/peers.py benchmarks/gguf_oracle.py benchmarks/random_models.py \
	benchmarks/quantize_memory.py benchmarks/growth.py benchmarks/mock_model.py benchmarks/books.py benchmarks/invoices.py \
	benchmarks/ingest.py benchmarks/ingest_picture.py,$(wildcard benchmarks/*.py))
PEER_SOURCE := build/peers/source
UV_INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
export UV_LINK_MODE := copy
# Where this is set, each of the many processes that tests and demo start compiles every module it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo up test check format bench bench-peers bench-peers-avx2 bench-litellm soak soak-kills soak-simulation soak-exactness soak-memory soak-fairness soak-pricing soak-payments wheel-test lock docs clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sort | awk 'BEGIN {FS = ":.*?## "} {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}'

demo: $(STAMPS)/platform ## Quantize, deploy, serve two tenants, bill and audit: the main job end to end
	$(BIN)/python examples/demo.py

up: $(STAMPS)/platform ## Start the platform on this machine with embedded defaults
	$(BIN)/tritiumd up

test: $(STAMPS)/dev $(STAMPS)/beancount $(STAMPS)/localstripe ## Run all tests
	time $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(STAMPS)/dev ## Format, lint, types, import floors, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(CSRC) $(NATIVE_TESTS)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: $(STAMPS)/dev ## Format the code and mend what lint can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CSRC) $(NATIVE_TESTS)

docs: $(STAMPS)/dev ## Write the generated pages again
	$(BIN)/python docs/generate.py

bench: $(STAMPS)/dev ## Measure kernels, quantization, serving and the gateway on this machine
	@for script in $(QUICK_BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-peers: $(STAMPS)/dev $(STAMPS)/peers ## Measure beside llama.cpp, interleaved; ARGS=... for benchmarks/peers.py
	$(BIN)/python benchmarks/peers.py $(ARGS)

bench-peers-avx2: $(STAMPS)/dev $(STAMPS)/peers-avx2 ## The same with AVX2 on both sides, kernels and whole model
	$(BIN)/python benchmarks/peers.py --avx2 $(ARGS)

bench-litellm: $(STAMPS)/dev $(STAMPS)/litellm ## Measure the whole road beside LiteLLM's proxy, one mock model; ARGS=...
	$(BIN)/python benchmarks/road.py --litellm .venv-litellm/bin/litellm $(ARGS)

soak: $(STAMPS)/dev ## Kill and restart the platform under load, many times
	$(BIN)/pytest -m soak -o addopts="--import-mode=importlib -ra" --timeout 7200

soak-kills: $(STAMPS)/dev ## Kill gateway and billing TRITIUM_KILL_SOAK_CYCLES (1,000) times on SQLite and on PostgreSQL
	$(BIN)/pytest -m soak -s -o addopts="--import-mode=importlib -ra" tests/simulation/test_kills.py

soak-simulation: $(STAMPS)/dev ## Simulate SEEDS (10,000) lives of the platform with faults at every step, from seed FROM (0) on
	$(BIN)/python tests/simulation/simulate.py --from $(or $(FROM),0) --count $(or $(SEEDS),10000) --processes $(shell nproc)

soak-exactness: $(STAMPS)/dev ## Walk TRITIUM_EXACT_REQUESTS (100,000) through kills and disconnects: usage is exact
	$(BIN)/pytest -m soak -s -o addopts="--import-mode=importlib -ra" \
	  tests/simulation/test_exactness.py::test_usage_is_exact_over_many_kills_and_disconnects

soak-memory: $(STAMPS)/dev ## Watch the resident memory over TRITIUM_MEMORY_REQUESTS (200,000)
	$(BIN)/pytest -m soak -s -o addopts="--import-mode=importlib -ra" tests/simulation/test_exactness.py::test_memory_stays_as_it_is

soak-fairness: $(STAMPS)/dev ## Check the bound of fair turns on TRITIUM_FAIRNESS_TRACES (100,000) generated traces
	$(BIN)/pytest -m soak -o addopts="--import-mode=importlib -ra" tests/library/engine/test_fairness_bound.py

soak-pricing: $(STAMPS)/dev ## Price TRITIUM_PRICING_PLANS (20,000) plans x 50 months, with plan changes, and count every unit again by hand
	$(BIN)/pytest -m soak -s -o addopts="--import-mode=importlib -ra" --timeout 7200 tests/platform/billing/test_rating.py

soak-payments: $(STAMPS)/dev ## Play TRITIUM_PAYMENT_SCHEDULES (10,000) schedules of faults with the payment-provider double
	$(BIN)/pytest -m soak -s -o addopts="--import-mode=importlib -ra" --timeout 14400 tests/platform/payments/test_schedules.py

wheel-test: $(STAMPS)/dev ## Install the bare wheel into a clean environment and run tests/library there
	PYTHON=$(PYTHON) bash tests/wheel.sh

lock: $(STAMPS)/venv ## Resolve the pinned requirements again
	for set in "platform --extra serve --extra platform --group build --group demo" \
	  "dev --extra serve --extra platform --extra stripe --extra otel --extra hub --extra invoices --group build --group dev"; do \
	  set -- $$set; name=$$1; shift; UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet pyproject.toml \
	    --universal --generate-hashes --no-annotate --exclude-newer "$$(date -ud '7 days ago' +%F)" "$$@" \
	    --output-file requirements/$$name.lock || exit 1; done

clean: ## Remove everything that make built
	rm -rf $(VENV) .venv-peers .venv-peers-avx2 .venv-beancount .venv-localstripe .venv-litellm $(STAMPS) build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/venv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tritium needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/platform: $(STAMPS)/venv requirements/platform.lock pyproject.toml CMakeLists.txt $(CSRC)
	$(UV_INSTALL) --require-hashes -r requirements/platform.lock
	PATH="$(abspath $(BIN)):$$PATH" $(UV_INSTALL) --no-build-isolation --no-deps --reinstall-package tritium --editable .
	touch $@

# torch is the oracle of the tests: pip takes the build that this machine's own configuration names.
$(STAMPS)/dev: $(STAMPS)/platform requirements/dev.lock requirements/oracle.txt
	$(UV_INSTALL) --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/oracle.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/oracle-no-deps.txt
	touch $@

# What checks our journal, GPL-2: run as a program from an environment of its own, never imported or shipped.
$(STAMPS)/beancount: $(STAMPS)/venv requirements/beancount.txt
	$(PYTHON) -m venv .venv-beancount
	.venv-beancount/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: -r requirements/beancount.txt
	touch $@

# A payment provider to talk to, GPL-3: a program in an environment of its own, never imported or shipped.
$(STAMPS)/localstripe: $(STAMPS)/venv requirements/localstripe.txt
	$(PYTHON) -m venv .venv-localstripe
	.venv-localstripe/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/localstripe.txt
	touch $@

# The peers, built from source for this machine, in environments of their own: nothing of ours depends on them.
$(STAMPS)/peers: $(STAMPS)/venv requirements/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --no-binary llama-cpp-python -r requirements/peers.txt
	$(UV_INSTALL) --group build
	rm -rf $(PEER_SOURCE) build/peers/server
	.venv-peers/bin/python -m pip download --quiet --no-deps --no-binary llama-cpp-python -d $(PEER_SOURCE) -r requirements/peers.txt
	tar -xzf $(PEER_SOURCE)/*.tar.gz -C $(PEER_SOURCE) --strip-components 1
	$(BIN)/cmake -S $(PEER_SOURCE)/vendor/llama.cpp -B build/peers/server -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
	  -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
	  -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF
	$(BIN)/cmake --build build/peers/server --target llama-server --parallel $(shell nproc)
	touch $@

# LiteLLM's proxy as its users install it, in an environment of its own.
$(STAMPS)/litellm: $(STAMPS)/venv requirements/litellm.txt
	$(PYTHON) -m venv .venv-litellm
	$(BIN)/uv pip install --quiet --python .venv-litellm/bin/python -r requirements/litellm.txt
	touch $@

$(STAMPS)/peers-avx2: $(STAMPS)/venv requirements/peers.txt
	$(PYTHON) -m venv .venv-peers-avx2
	CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON" \
	  .venv-peers-avx2/bin/python -m pip install --quiet --no-cache-dir --no-binary llama-cpp-python -r requirements/peers.txt
	touch $@
