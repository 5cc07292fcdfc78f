# Every target sets up what it needs first; `make help` lists them.

# The first interpreter that is new enough, or python3, which then says why it will not do.
PYTHON ?= $(or $(shell for candidate in python3 python3.13 python3.12 python3.11; do \
	$$candidate -c 'import sys; print(sys.executable); sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && break; done | tail -n 1),python3)
ARGS ?=
# What needs Pulumi or Fabric; all else is checked where PyTorch is.
CLUSTER = ^(infra|bootstrap|component|policy)/ ^(__main__|fabfile)\.py ^scripts/live\.py \
	^tests/(arm_server|azure_models|infra_plans)\.py ^tests/rig/ ^tests/.*/test_rig \
	^tests/[^/]+/(bootstrap|infra)/ \
	^tests/(sshd|equipped_rig|local_cluster|person|conda_channel)\.py \
	^benchmarks/(bootstrap|scaling|results|intel_nodes)\.py

.DEFAULT_GOAL := help
.PHONY: help demo demo-lora demo-quantize plan live rig rig-down rig-intel test test-training test-cluster test-rig test-ipex \
	test-openvino lint format environment environment-cluster environment-intel \
	environment-openvino lock clean

help: ## Show this help
	@echo 'Fine-tune Stable Diffusion on Intel Xeon clusters.'
	@echo
	@echo 'Start here:  make demo'
	@echo
	@awk -F ' ?## ' '/^[a-z-]+:.*## / { sub(/:.*/, "", $$1); printf "  make %-20s %s\n", $$1, $$2 }' \
		$(firstword $(MAKEFILE_LIST))
	@echo
	@echo 'Each target makes the environment it needs, once; after that it starts at once.'
	@echo 'ARGS is passed on:  make test ARGS="-k resume"   make demo ARGS="--help"'
	@echo 'More: docs/development.md'

demo: environment ## Train a small concept on this machine and show the result
	@.venv/bin/python -m training.demo $(ARGS)

demo-lora: environment ## Train a LoRA of a small style on this machine and show the result
	@.venv/bin/python -m training.demo --method=lora $(ARGS)

demo-quantize: environment-openvino ## Train the miniature in 8 bits, and draw with OpenVINO beside fp32
	@.venv-openvino/bin/python -m training.miniature.quantize_demo $(ARGS)

plan: environment-cluster ## Show what `pulumi up` would create and what it costs; needs no account
	@.venv-cluster/bin/python -m infra.plan $(ARGS)

live: environment-cluster ## Create the cluster in Azure, train on it, destroy it: costs money, asks first
	@.venv-cluster/bin/python scripts/live.py $(ARGS)

rig: environment-cluster ## Bring up a cluster on this machine to play with (Linux, as root)
	@.venv-cluster/bin/python -m tests.rig up $(ARGS)

rig-intel: environment-cluster environment-intel ## Train with the intel stack on two such hosts (half an hour, 30 GB of disk)
	@.venv-cluster/bin/python -m benchmarks.intel_nodes

rig-down: environment-cluster ## Remove it without a trace
	@.venv-cluster/bin/python -m tests.rig down $(ARGS)

test: test-training test-cluster ## Run the tests

test-training: environment ## Run the PyTorch tests: everything in training/
	@.venv/bin/python -m pytest $(ARGS)

test-cluster: environment environment-cluster ## Run the cluster tests: Pulumi, Fabric, SSH
	@.venv-cluster/bin/python -m pytest $(ARGS)

test-ipex: environment-intel ## Run the tests that need Intel's PyTorch extension (Linux x86-64)
	@.venv-intel/bin/python -m pytest -m ipex $(ARGS)

test-openvino: environment-openvino ## Run the tests that need OpenVINO
	@.venv-openvino/bin/python -m pytest -m openvino $(ARGS)

test-rig: environment environment-cluster ## Run the tests that bring up hosts on this machine (Linux, as root)
	@.venv-cluster/bin/python -m pytest -m rig $(ARGS)

lint: environment environment-cluster ## Check style, imports and types (ruff, import-linter, mypy)
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/lint-imports --no-cache --no-logo
	@.venv/bin/python -m mypy $(CLUSTER:%=--exclude '%')
	@.venv-cluster/bin/python -m mypy --cache-dir .mypy_cache/cluster \
		$$(git ls-files --cached --others --exclude-standard '*.py' \
		| grep -E $(CLUSTER:%=-e '%'))

format: environment ## Rewrite the code in the style that `make lint` asks for
	@.venv/bin/python -m ruff check --fix-only .
	@.venv/bin/python -m ruff format .

environment: ## Make .venv: PyTorch, diffusers and the tools
	@$(PYTHON) -m scripts.environment upstream

environment-cluster: ## Make .venv-cluster: Pulumi's SDK, Azure's, and Fabric (`fab`)
	@$(PYTHON) -m scripts.environment cluster

environment-intel: ## Make .venv-intel: the same with Intel's PyTorch extension
	@$(PYTHON) -m scripts.environment intel

environment-openvino: ## Make .venv-openvino: the same with OpenVINO, for export and fast pictures
	@$(PYTHON) -m scripts.environment openvino

lock: ## Write requirements/*.txt from pyproject.toml (ARGS=--upgrade takes the newest releases)
	@$(PYTHON) -m scripts.lock $(ARGS)

clean: ## Remove the environments
	@$(PYTHON) -m scripts.environment clean
