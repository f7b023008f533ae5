# Every target sets up what is missing (scripts/setup.bash) and runs one tool in the workspace's environment.
#   make demo ARGS="--episodes 50 --instruction 'lift the red cube' --seed 1000"
#   make test ARGS="-k gate -x"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
ENV := source ./env.bash;
ARGS ?=

.PHONY: help setup demo policy test test-all lint coverage docs-reference bench bench-train clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup:  ## system packages, .venv, ROS 2 and the colcon build; does only what is missing
	@bash scripts/setup.bash

demo: setup  ## the policy lifts the named cube in the simulator; results in outputs/demo
	@$(ENV) exec openvla-demo $(ARGS)

policy: setup  ## record, convert and train the shipped small policy (two hours); results in outputs/sim
	@$(ENV) exec bash scripts/policy.bash

# Tests without nodes run on all cores; tests with nodes depend on time and run one after another. ARGS: a single run.
test: setup  ## all tests but those marked slow
ifdef ARGS
	@$(ENV) exec python -m pytest -m "not slow" $(ARGS)
else
	@$(ENV) failed=0; \
	python -m pytest -m "not slow" -n auto --dist loadfile test/parity test/unit || failed=1; \
	python -m pytest -m "not slow" test/launch test/pipeline test/ros || failed=1; \
	exit $$failed
endif

test-all: setup  ## all tests
	@$(ENV) exec python -m pytest $(ARGS)

lint: setup  ## the checks of .pre-commit-config.yaml: style, types, imports, docstrings, spelling, YAML
	@$(ENV) exec pre-commit run --all-files --color never

coverage: setup  ## line coverage of what needs no ROS; fails under 85 %
	@$(ENV) exec python -m pytest -m "not slow" -n auto --dist loadfile --cov --cov-report term test/parity test/unit

docs-reference: setup  ## write the reference tables of docs/ from the code
	@$(ENV) exec python scripts/docs_reference.py

bench: setup  ## benchmarks of policy, latency, command rate, server, recorder, conversion and loader; JSON in outputs/bench
	@$(ENV) exec python -m pytest test/benchmarks -o python_files='bench_*.py' -s -q $(ARGS)

bench-train: setup  ## benchmark of training steps beside a plain transformers + peft loop; JSON in outputs/bench
	@$(ENV) cd test/benchmarks; exec python -m train_bench --output "$(CURDIR)/outputs/bench" $(ARGS)

clean:  ## remove build results and caches; .venv and outputs stay
	rm -rf build install log .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage
