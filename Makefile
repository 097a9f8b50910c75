PYTHON ?= python3
BIN := .venv/bin
MARKDOWN := README.md CHANGELOG.md CONTRIBUTING.md docs/*.md

.DEFAULT_GOAL := help
.PHONY: help install demo test faults lint docs format benchmark clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 12

install: .venv/installed  ## a virtual environment in .venv with everything, at tested versions

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, %s is %s; name another: make PYTHON=python3.12 ..." % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[all,dev,docs]'
	@touch $@

demo: install  ## certify photographs with and without a denoiser, and write a report (under 2 minutes)
	$(BIN)/denoised-smoothing demo

test: install lint docs  ## lint, types, layers, documentation and all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 4 --dist worksteal

faults: install  ## ten times as many faults as the tests inject: signals, networks, stores, answers
	FAULTS=10 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults tests/remote/test_fuzz.py --numprocesses 3 --dist worksteal

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	$(BIN)/mdformat --check $(MARKDOWN)

docs: install  ## the documentation as a site in build/site, warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: install  ## format code and Markdown
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/mdformat $(MARKDOWN)

benchmark: install  ## throughput against the bare model and the original loop
	$(BIN)/python benchmarks/throughput.py

clean:  ## remove the environment and what the demo wrote
	rm -rf .venv build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
