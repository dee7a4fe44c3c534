# `make` or `make help` says what there is. Needs python3 (3.11 or newer) and make; everything else is fetched.
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo demo-cohort test test-fast lint bench bench-quick up setup-docker build-docker lock clean

PYTHONS := python3 python3.13 python3.12 python3.11 python3.14
RUN := .venv/bin/python
ARGS ?=
TESTS ?= tests
# Groups of tests stay together, and those that take longest begin first: see tests/conftest.py.
PYTEST := $(RUN) -m pytest --numprocesses 4 --no-loadscope-reorder --durations 40
# Many processes start, and all would compile our modules anew where the environment forbids to keep what they compiled.
export PYTHONDONTWRITEBYTECODE :=
CODE := $(wildcard dags docker pacsifier_ops scripts tests tools bench)
IMAGE := pacsifier-airflow
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' pacsifier_ops/__init__.py)
COMPILE := .venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock"

# The first Python on the path that is new enough runs tools/bootstrap.py.
define bootstrap
@for python in $(PYTHONS); do \
	if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then \
		exec $$python tools/bootstrap.py $(1); \
	fi; \
done; \
echo "Python 3.11 to 3.14 is needed and none is on the path; install it (Debian: apt install python3)" >&2; exit 1
endef

help:
	@echo "make setup          install everything into .venv (the other targets do it themselves)"
	@echo "make demo           embedded PACS, the study DAG on a sample table, its result in demo/studies"
	@echo "make demo-cohort    … and one from an OMOP database, with a selection, a linker and NIfTI, in demo/studies/cohort"
	@echo "make up             Airflow with its user interface on this machine, until Ctrl-C (ARGS=--help)"
	@echo "make build-docker   the image of docker-compose.yml, tagged with the version and latest"
	@echo "make setup-docker   .env, secrets and folders for docker-compose.yml, those that are not there"
	@echo "make test           all tests (TESTS=tests/deid for some)"
	@echo "make test-fast      those that need no archive, no scheduler, no browser"
	@echo "make lint           ruff, mypy, and which room may use which"
	@echo "make bench          side by side with PACSIFIER 1.0, DCMTK and others: one table, in about two hours"
	@echo "make bench-quick    a few of these comparisons, in two minutes"
	@echo "make lock           resolve the lock files anew from requirements*.txt"
	@echo "make clean          remove .venv and what the targets above left"

setup:
	$(call bootstrap)

setup-dev:
	$(call bootstrap,--dev)

demo: setup
	@$(RUN) -m pacsifier_ops.onebox.demo

demo-cohort: setup
	@$(RUN) -m pacsifier_ops.onebox.demo cohort

up: setup
	@exec $(RUN) -m pacsifier_ops.onebox.up $(ARGS)

build-docker:
	@docker build --build-arg VERSION=$(VERSION) --tag $(IMAGE):$(VERSION) --tag $(IMAGE):latest .

setup-docker:
	@sh docker/setup.sh

test: setup-dev
	@$(PYTEST) $(TESTS)

test-fast: setup-dev
	@$(PYTEST) $(TESTS) -m "not (archive or peers or stores or airflow or slow)"

lint: setup-dev
	@.venv/bin/ruff check $(CODE) include
	@.venv/bin/ruff format --check $(CODE) include
	@.venv/bin/mypy $(CODE)
	@.venv/bin/lint-imports

bench: setup-dev
	@$(RUN) bench/run.py $(ARGS)

bench-quick: setup-dev
	@$(RUN) bench/run.py --quick

lock: setup-dev
	@$(COMPILE) requirements.txt requirements-up.txt --output-file requirements.lock
	@$(COMPILE) requirements.txt requirements-up.txt requirements-cluster.txt requirements-dev.txt --constraint requirements.lock --output-file requirements-dev.lock

# Made again in seconds, except run/: it may hold series that took a night to fetch.
clean:
	@rm -rf .venv demo build dist bench/out pacsifier_ops.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
