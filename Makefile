# `make search` and `make test` need only Python >= 3.11, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN_ARGS ?=
JOBS ?= 2
# A Python whose torch sees a CUDA card, and a script that makes one: SCRIPT FOLDER leaves it as FOLDER/python.
FAKE_CARD ?= $(if $(FAKE_CARD_BUILD),$(abspath .fake-card/python))
FAKE_CARD_BUILD ?=

.PHONY: search test test-card test-long test-properties bench lint types house audit format clean setup

search: setup
	$(BIN)/python -m search.run --space ad_tuning $(RUN_ARGS)

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; point PYTHON at one: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(STAMP)

test: setup
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not long" $(TEST_ARGS)

test-long: setup
	$(BIN)/python -m pytest -m "long" $(TEST_ARGS)

test-card: setup
	@test -n "$(FAKE_CARD)" || { echo "test-card needs FAKE_CARD, a Python whose torch sees a CUDA card (python3 on a machine with one), or FAKE_CARD_BUILD, a script that builds one; see CONTRIBUTING.md" >&2; exit 2; }
	@test -z "$(FAKE_CARD_BUILD)" || test -x "$(FAKE_CARD)" || "$(FAKE_CARD_BUILD)" "$(dir $(FAKE_CARD))"
	FAKE_CARD="$(FAKE_CARD)" $(BIN)/python -m pytest -rs tests/card_tests $(TEST_ARGS)

test-properties: setup
	HYPOTHESIS_PROFILE=drawn $(BIN)/python -m pytest -n $(JOBS) -m "hypothesis and not long" $(TEST_ARGS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	@echo "short forms, a few minutes in all; docs/benchmarks.md has the long forms and their results"
	@for command in "throughput --clips 64 --epochs 3" "quantizer --quick" "driver_scale --trials 300" "driver_scale --trials 40 --workers 2 --runner ray" "orchestration --trials 20" "budget_sampler --seeds 4 --trainings 40"; do \
		echo "python -m benchmarks.$$command"; $(BIN)/python -m benchmarks.$$command || exit 1; \
	done

types: setup
	$(BIN)/mypy

house: setup
	$(BIN)/lint-imports

# Known vulnerabilities of the pinned packages, as PyPI knows them; fails where PyPI's own answers are out of reach.
audit:
	test -x .audit/bin/python || $(PYTHON) -m venv .audit
	.audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	.audit/bin/pip-audit --strict --requirement requirements.lock --no-deps --disable-pip

clean:
	rm -rf $(VENV) .audit .fake-card runs .mypy_cache .ruff_cache .pytest_cache .hypothesis
