# The targets a person remembers; `make help` lists them.

SHELL := /bin/bash
BAKER := .venv/bin/baker
# Baking needs root. What baker reads from the environment goes along; sudo would drop it.
KEPT  := BAKER_HOME,BAKER_CATALOG,BAKER_ACTOR,BAKER_LOCAL_MIRROR,BAKER_LOCAL_SECURITY_MIRROR,BAKER_LOCAL_HTTP_PROXY,http_proxy,https_proxy,no_proxy
ROOT  := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=$(KEPT))

# One resolution for every Python and platform that baker runs on; setuptools installs baker itself.
RESOLVE := pip compile pyproject.toml - --universal --python-version 3.11 --extra aws --extra postgresql --extra notify \
  --generate-hashes --no-header --quiet
BUILD   := setuptools>=77

# Whole modules, as most share what is made for them; the long ones are the first by name, and stay so.
WORKERS  := 2
PARALLEL := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev root bake test test-all lint lab bench-local bench-aws bench-catalog bench-plan bench-updates bench-aws-many bench-deploy survival aws-faults pins clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: ## Install what baker needs: system packages (as root), .venv, baker
	@.ci/setup requirements.txt

setup-dev: ## The same, with what the tests need
	@.ci/setup requirements-dev.txt

root:
	@test -z "$(ROOT)" || command -v sudo >/dev/null \
	  || { echo "Baking needs root, and there is no sudo: run this as root." >&2; exit 1; }

bake: root setup ## Set up, bake every recipe, list the images, promote them to dev
	$(ROOT) $(BAKER) bake
	$(ROOT) $(BAKER) image ls
	$(ROOT) $(BAKER) promote base:latest dev --yes
	$(ROOT) $(BAKER) promote web:latest dev --yes

test: setup-dev ## Set up and run the tests (as root also those that bake and boot; WORKERS=N side by side)
	@.venv/bin/python -m pytest $(PARALLEL) -m "not slow"

test-all: setup-dev ## The same with the slow ones: every fault in every stage
	@.venv/bin/python -m pytest $(PARALLEL)

bench-local: root setup ## Measure local bakes against the floor and buildah (BENCH_JSON=FILE, BENCH_ROUNDS=N)
	$(ROOT) env $(if $(BENCH_JSON),BENCH_JSON=$(BENCH_JSON)) $(if $(BENCH_ROUNDS),BENCH_ROUNDS=$(BENCH_ROUNDS)) \
	  $(if $(BENCH_HOME),BENCH_HOME=$(BENCH_HOME)) .venv/bin/python -m bench.local $(BENCH)

bench-aws: root setup-dev ## Measure AWS bakes on the lab against Packer (BENCH_JSON=FILE, BENCH_ROUNDS=N)
	@command -v packer >/dev/null || { echo "Packer is not installed: apt-get install packer" >&2; exit 1; }
	$(ROOT) env $(foreach name,BENCH_JSON BENCH_ROUNDS BENCH_REAL_ROUNDS BENCH_HOME,$(if $($(name)),$(name)=$($(name)))) \
	  .venv/bin/python -m bench.aws $(BENCH)

bench-catalog: setup-dev ## Measure questions to a large catalog, SQLite and PostgreSQL (BENCH_JSON=FILE)
	env $(if $(BENCH_JSON),BENCH_JSON=$(BENCH_JSON)) $(if $(BENCH_HOME),BENCH_HOME=$(BENCH_HOME)) \
	  .venv/bin/python -m bench.catalog $(BENCH)

bench-plan: root setup-dev ## Measure plans of 1,000 recipes, and a quiet night against mkosi and Packer (BENCH_JSON=FILE, BENCH_ROUNDS=N)
	@for tool in mkosi packer; do command -v $$tool >/dev/null \
	  || { echo "$$tool is not installed: apt-get install $$tool" >&2; exit 1; }; done
	$(ROOT) env $(foreach name,BENCH_JSON BENCH_ROUNDS BENCH_HOME,$(if $($(name)),$(name)=$($(name)))) \
	  .venv/bin/python -m bench.plan $(BENCH)

bench-updates: root setup-dev ## Print how well package updates are foretold: precision and recall (BENCH_JSON=FILE)
	$(ROOT) env $(foreach name,BENCH_JSON BENCH_HOME,$(if $($(name)),$(name)=$($(name)))) .venv/bin/python -m bench.updates

bench-aws-many: setup-dev ## Measure many bakes for AWS at once, and under failing calls (BENCH_JSON=FILE)
	env $(if $(BENCH_JSON),BENCH_JSON=$(BENCH_JSON)) .venv/bin/python -m bench.aws_many $(BENCH)

bench-deploy: root setup-dev ## Measure deployments and roll-backs under load, and broken images (BENCH_JSON=FILE, BENCH_ROUNDS=N, BENCH=--quick)
	@command -v haproxy >/dev/null || { echo "HAProxy is not installed: apt-get install haproxy" >&2; exit 1; }
	$(ROOT) env $(foreach name,BENCH_JSON BENCH_ROUNDS BENCH_HOME,$(if $($(name)),$(name)=$($(name)))) \
	  .venv/bin/python -m bench.deploy $(BENCH)

lab: $(if $(findstring --bodiless,$(LAB)),,root) setup-dev ## Run AWS on this host, machines included, until Ctrl-C (LAB=--bodiless: without machines, without root)
	$(if $(findstring --bodiless,$(LAB)),,$(ROOT)) .venv/bin/python -m tests.lab $(LAB)

lint: setup-dev ## Check style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

survival: setup-dev ## Print what every fault in every stage of a bake leaves behind (as root; minutes)
	$(ROOT) .venv/bin/python -m bench.survival

aws-faults: setup-dev ## Print what every fault in every AWS call of a bake leaves behind (minutes)
	@.venv/bin/python -m bench.aws_faults $(FAULTS)

pins: setup ## Resolve the newest dependencies into requirements*.txt, with hashes
	@tools=$$(mktemp -d) && trap "rm -rf $$tools" EXIT \
	&& .venv/bin/python -m venv "$$tools" && "$$tools/bin/pip" install --quiet uv \
	&& echo "$(BUILD)" | "$$tools/bin/uv" $(RESOLVE) --upgrade --output-file requirements.txt \
	&& echo "$(BUILD)" | "$$tools/bin/uv" $(RESOLVE) --upgrade --group dev --constraint requirements.txt \
	    --output-file requirements-dev.txt

clean: ## Remove .venv and what tools leave here (never images: those are in BAKER_HOME)
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
