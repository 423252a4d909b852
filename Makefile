# Two commands on a machine that has only Python and make: `make demo` and `make test`.
#
# Each stamp file in .venv is written last, when its step has succeeded: a step that was
# interrupted runs again, and a change of a requirements file runs its step again.

VENV := .venv
BIN := $(VENV)/bin
# Tried in this order; 3.11 is what the tests run on.
PYTHONS := python3.11 python3.12 python3.13 python3
FITS := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(or $(shell for p in $(PYTHONS); do $$p -c '$(FITS)' 2>&- && echo $$p && break; done),python3)
# More options for pip, for example an index that has torch without CUDA.
PIP_FLAGS ?=
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check $(PIP_FLAGS)
# Processes that share the test files; each needs about 3 GB.
WORKERS ?= 2
LINTED := sd_perception_ros launch test benchmark docs setup.py

# The wheels find messages and the middleware below this prefix; a ROS installation that is sourced
# in the same shell must not mix in.
export AMENT_PREFIX_PATH := $(abspath $(VENV))
export RMW_IMPLEMENTATION := rmw_fastrtps_cpp
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export ROS_PYTHON_CHECK_FIELDS := 1
# Idle torch threads sleep instead of spinning: the middleware needs the processor too.
export OMP_WAIT_POLICY := PASSIVE
unexport PYTHONPATH
unexport PYTHONHOME
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE

.DEFAULT_GOAL := help
.PHONY: help demo test bench lint docs clean

help:  ## print what each target does
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/'

demo: $(VENV)/.ros  ## run camera and perception on real pictures; results in demo_output/
	@$(BIN)/python -m sd_perception_ros demo

test: lint  ## run linters, type checker and all tests
	@$(BIN)/python -m pytest -q --durations=10 -n $(WORKERS) --dist loadfile \
	  --no-loadscope-reorder

bench: $(VENV)/.ros  ## measure the node end to end, and what more tasks cost
	@$(BIN)/python benchmark/through_ros.py
	@$(BIN)/python benchmark/task_cost.py
	@$(BIN)/python benchmark/metric_depth.py

lint: $(VENV)/.dev  ## run ruff, codespell and mypy (tests run the ament linters)
	@$(BIN)/ruff check $(wildcard $(LINTED))
	@$(BIN)/ruff format --check $(wildcard $(LINTED))
	@$(BIN)/codespell
	@$(BIN)/mypy

docs: $(VENV)/.docs  ## build the documentation site in site/
	@$(BIN)/mkdocs build --strict --quiet
	@echo 'documentation: site/index.html'

clean:  ## remove everything that these targets made
	rm -rf $(VENV) build install log site demo_output .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.made:
	@test "$$(uname -sm)" = 'Linux x86_64' || { echo "make needs the ROS 2 wheels, which exist for\
	 Linux x86_64 only; this is $$(uname -sm): use a ROS 2 installation (README.md)" >&2; exit 1; }
	@$(PYTHON) -c '$(FITS)' 2>/dev/null || { echo "make needs Python 3.11, 3.12 or 3.13 with its venv\
	 module; '$(PYTHON)' is '$$($(PYTHON) --version 2>&1 | head -n 1)': install one or run\
	 make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo '[1/3] virtual environment in $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: requirements/core.txt $(VENV)/.made
	@echo '[2/3] torch, diffusers and other packages of the model: some minutes the first time'
	@$(PIP) -r requirements/core.txt
	@touch $@

$(VENV)/.ros: requirements/ros.txt $(VENV)/.core
	@echo '[3/3] ROS 2 wheels, checked against their hashes'
	@$(PIP) --require-hashes --no-deps -r requirements/ros.txt
	@touch $@

$(VENV)/.docs: requirements/docs.txt $(VENV)/.made
	@$(PIP) -r requirements/docs.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt requirements/train.txt requirements/runtimes.txt \
              requirements/predict.txt \
              requirements/docs.txt $(VENV)/.ros
	@echo '[+] linters, type checker and test tools'
	@$(PIP) -r requirements/dev.txt
	@touch $@
