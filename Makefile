# Every target sets up what it needs first; `make help` lists them.

# The first interpreter that is new enough, or python3, which then says why it will not do.
PYTHON ?= $(or $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	$$candidate -c 'import sys; print(sys.executable); sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && break; done | tail -n 1),python3)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo plan live rig rig-down test test-ipex test-rig lint format environment environment-intel lock clean

help: ## Show this help
	@echo 'Fine-tune Stable Diffusion on Intel Xeon clusters.'
	@echo
	@echo 'Start here:  make demo'
	@echo
	@awk -F ' ?## ' '/^[a-z-]+:.*## / { sub(/:.*/, "", $$1); printf "  make %-18s %s\n", $$1, $$2 }' \
		$(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'Each target makes the environment it needs, once; after that it starts at once.'
	@echo 'ARGS is passed on:  make test ARGS="-k resume"   make demo ARGS="--help"'
	@echo 'More: docs/development.md'

demo: environment ## Train a small concept on this machine and show the result
	@.venv/bin/python -m training.demo $(ARGS)

plan: environment ## Show what `pulumi up` would create and what it costs; needs no account
	@.venv/bin/python -m infra.plan $(ARGS)

live: environment ## Create the cluster in Azure, look at it, destroy it: costs money, asks first
	@.venv/bin/python scripts/live.py $(ARGS)

rig: environment ## Bring up a cluster on this machine to play with (Linux, as root)
	@.venv/bin/python -m tests.rig up $(ARGS)

rig-down: environment ## Remove it without a trace
	@.venv/bin/python -m tests.rig down $(ARGS)

test: environment ## Run the tests
	@.venv/bin/python -m pytest $(ARGS)

test-ipex: environment-intel ## Run the tests that need Intel's PyTorch extension (Linux x86-64)
	@.venv-intel/bin/python -m pytest -m ipex $(ARGS)

test-rig: environment ## Run the tests that bring up hosts on this machine (Linux, as root)
	@.venv/bin/python -m pytest -m rig $(ARGS)

lint: environment ## Check style and types (ruff, mypy)
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m mypy

format: environment ## Rewrite the code in the style that `make lint` asks for
	@.venv/bin/python -m ruff check --fix-only .
	@.venv/bin/python -m ruff format .

environment: ## Make .venv: PyTorch, diffusers and the tools
	@$(PYTHON) scripts/environment.py upstream

environment-intel: ## Make .venv-intel: the same with Intel's PyTorch extension
	@$(PYTHON) scripts/environment.py intel

lock: ## Write requirements/*.txt anew from pyproject.toml
	@$(PYTHON) scripts/environment.py lock upstream
	@$(PYTHON) scripts/environment.py lock intel
	@$(PYTHON) -m scripts.node_locks

clean: ## Remove the environments
	@$(PYTHON) scripts/environment.py clean
