# The only way to run anything: `make` lists the targets.
SHELL := /bin/sh
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	command -v $$name >/dev/null 2>&1 && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && exit; done; \
	command -v python3 || echo missing)
BIN := .venv/bin
WORKERS ?= 2
MEMBERS := $(patsubst %/pyproject.toml,%,$(wildcard libs/*/pyproject.toml services/*/pyproject.toml sandbox/*/pyproject.toml cli/pyproject.toml sdks/*/pyproject.toml))

.DEFAULT_GOAL := help
.PHONY: help setup up down status demo check format lint types contracts contracts-check unit test test-deep proof lock bench bench-usage

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: ## install everything into the checkout; does nothing when nothing changed
	@if [ "$(PYTHON)" = missing ]; then \
		echo 'Python was not found: install Python 3.11 or newer, then run `make setup`.' >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo 'Python is too old: install Python 3.11 or newer and run `make setup PYTHON=/path/to/python3.11`.' >&2; exit 1; fi
	@$(PYTHON) tools/setup.py

up: setup ## start the stack: Kafka, Postgres, sandbox and the six services
	@$(BIN)/turnpike up

down: ## stop the stack
	@$(BIN)/turnpike down

status: ## show what runs and where
	@$(BIN)/turnpike status

demo: setup ## play the whole story and stay up; EXIT=1 stops everything afterwards
	@$(BIN)/turnpike demo $(if $(EXIT),--exit)

check: setup format lint types contracts-check ## format, lint, types and contracts, without the tests

format: setup ## check the format (ruff format . repairs it)
	@$(BIN)/ruff format --check .

lint: setup ## check the rules
	@$(BIN)/ruff check --quiet .

types: setup ## check the types of every member
	@$(BIN)/python tools/check_types.py $(MEMBERS)

contracts: setup ## write contracts/ from the code
	@$(BIN)/python tools/contracts.py

contracts-check: setup ## fail when contracts/ is not what the code says
	@$(BIN)/python tools/contracts.py --check

unit: setup ## run the tests alone; TESTS="path ..." chooses some
	@$(BIN)/pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(TESTS)

test: setup check unit ## everything that must hold before a change goes in

test-deep: setup ## compare 100,000 random prices with a slow calculator, and the invoices of 2,000 random subscriptions with Stripe's
	@$(BIN)/python -m bench.rating_deep
	@$(BIN)/python -m bench.invoices_deep

proof: setup ## 1,000,000 usage events under 20 kills and a failing Stripe end in exact invoices; ARGS="--seed 2" chooses
	@PYTHONPATH=tests/integration $(BIN)/python -m bench.proof $(ARGS)

lock: setup ## pin all dependencies again, with hashes and without addresses
	@.boot/bin/uv lock --quiet
	@.boot/bin/uv export --quiet --no-emit-workspace --all-packages --group dev --format requirements.txt -o requirements.lock
	@.boot/bin/uv export --quiet --no-emit-workspace --all-packages --no-dev --format requirements.txt -o requirements-runtime.lock
	@for kind in java postgres; do \
		.boot/bin/uv export --quiet --no-emit-workspace --only-group embedded-$$kind --format requirements.txt -o requirements-$$kind.lock; done

bench-usage: setup ## measure usage from stream and door to bill, limits beside it; RUNS=1 EVENTS=1000000 for less
	@$(BIN)/python -m bench usage $(if $(RUNS),--runs $(RUNS)) $(if $(EVENTS),--events $(EVENTS))

bench: setup ## measure and write bench/results; NAMES="access" RUNS=10 choose
	@$(BIN)/python -m bench $(NAMES) $(if $(RUNS),--runs $(RUNS))
