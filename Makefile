# Everything starts here: `make demo` runs the whole job, `make test` proves it. Needs Python 3.11, git and make.
PYTHON ?= python3.11
BIN := .venv/bin
ENV := $(PYTHON) -m deploy.build_env
BUILT := $(BIN)/python -m
# Set DEVICE=cuda or DEVICE=cpu to overrule what nvidia-smi says.
export DEVICE
# COMPILE=1 byte-compiles every package at once, for an image.
export COMPILE
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help python env env-main env-train env-serve test test-slow test-gpu check demo demo-stop hub bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

env: python ## build or repair every environment (seconds when they are whole)
	@$(ENV)

env-main env-train env-serve: env-%: python
	@$(ENV) $*

demo: env ## the whole job on a small real model: from a download to a live endpoint
	@$(BUILT) deploy.demo

demo-stop: env-main ## stop the demo's endpoint
	@$(BIN)/tunesmith stop --store .demo/store

hub: env ## serve the demo's models on a loopback hub
	@$(BUILT) deploy.demo --hub

test: env check ## what CI runs
	@$(BUILT) pytest -m "not slow and not gpu" -n 2 --dist loadfile

test-slow: env ## real engines for minutes
	@$(BUILT) pytest -m "slow and not gpu"

test-gpu: env ## what needs an NVIDIA GPU
	@$(BUILT) pytest -m gpu

check: env-main ## style, types, Dockerfile
	@$(BUILT) ruff check
	@$(BUILT) ruff format --check
	@$(BUILT) mypy
	@$(BIN)/hadolint Dockerfile

bench: env ## seconds and peak memory of every stage
	@$(BIN)/python benchmarks/whole_job.py

lock: python ## resolve pyproject.toml into locks/ anew
	@test -x .envs/lock/bin/uv || { $(PYTHON) -m venv .envs/lock && .envs/lock/bin/python -m pip install -q uv; }
	@$(PYTHON) -m deploy.lock

clean: ## remove environments and caches; the demo's folder and the store stay
	rm -rf .venv .envs .mypy_cache .ruff_cache .pytest_cache .hypothesis

python:
	@command -v "$(PYTHON)" >/dev/null || { echo "error: there is no $(PYTHON): install Python 3.11, or name it with PYTHON=..." >&2; exit 1; }
