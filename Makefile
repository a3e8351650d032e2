# make install      set up .venv (ACCELERATOR=cpu, cuda or tpu); make install-dev: with development tools
# make quickstart   synthetic speech -> training -> evaluation -> transcripts, in minutes
# make kenlm        build the programs that train language models
# make pyctcdecode  install the optional decoder pyctcdecode
# make docs         build the guides and the API reference as a site in build/site
# make demo         fill docs/demo, a page that recognises speech in the browser (MODELS="models/an4 models/an4_live")
# make test         fast tests; make test-slow: training runs and long processes
# make test-containers  the images, the pods of Kubernetes, installation offline and on several Pythons (root, Debian, podman; hours)
# make test-slurm   tests of the Slurm launcher, on a cluster of two nodes set up on this machine (root, Debian)
# make test-all     all of these tests
# make mutation     change N=60 places of the program, one at a time, and see whether a test notices; goes on where it stood
# make lint         check style and types; make format: correct the style

PYTHON ?= python3
ACCELERATOR ?= cpu
VENV ?= .venv
MODELS ?= models/an4 models/an4_live
RUN ?= runs/quickstart
N ?= 60
DATA ?= data/synthetic_en
CONTAINERS ?= containers
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: install install-dev kenlm pyctcdecode quickstart docs demo test test-slow test-slurm test-containers test-all lint format

install: $(VENV)/installed-$(ACCELERATOR) $(VENV)/built-native

install-dev: install $(VENV)/installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required, this is %s; name another one: make install PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-$(ACCELERATOR): $(BIN)/python requirements.txt $(wildcard requirements/*.txt)
	$(if $(filter $(ACCELERATOR),cpu cuda tpu),,$(error ACCELERATOR=$(ACCELERATOR) is unknown: choose cpu, cuda or tpu))
	$(PIP) -r requirements.txt -r requirements/$(ACCELERATOR).txt
	$(BIN)/python -m ds2_jax.cli.check_device $(ACCELERATOR)
	touch $@

# The native decoder. Without a C++ compiler, a message says so, and ctc_beam_decoder is used instead.
$(VENV)/built-native: $(VENV)/installed-$(ACCELERATOR) $(shell find decoding/native -name '*.cc' -o -name '*.h' -o -name '*.hh') decoding/native/build.py
	$(BIN)/python -m decoding.native.build --optional
	touch $@

$(VENV)/installed-dev: $(BIN)/python requirements/dev.txt requirements/parquet.txt
	$(PIP) -r requirements/dev.txt -r requirements/parquet.txt
	touch $@

$(VENV)/installed-docs: $(BIN)/python requirements/docs.txt
	$(PIP) -r requirements/docs.txt
	touch $@

# lmplz and build_binary train language models; docs/language_models.md lists what building them requires.
kenlm: install
	$(BIN)/python -m decoding.lm.kenlm_build

pyctcdecode: install
	$(PIP) --no-deps $$($(BIN)/python -c 'from decoding.search.library_engine import PYCTCDECODE; print(*PYCTCDECODE)')

quickstart: install-dev
	$(BIN)/python -m input_pipeline.prepare synthetic --target_dir=$(DATA)
	$(BIN)/python main.py --config=configs/tiny.py --workdir=$(RUN) \
	  --config.data.train=$(DATA)/train.jsonl --config.data.dev=$(DATA)/dev.jsonl --config.data.test=$(DATA)/test.jsonl
	$(BIN)/python main.py --mode=eval --config.restore=$(RUN) --workdir=$(RUN)/voices --config.data.test=$(DATA)/test_voices.jsonl
	$(BIN)/python main.py --mode=infer --config.restore=$(RUN) --config.data.test=$(DATA)/test.jsonl --config.infer.samples=5
	@$(BIN)/python -m ds2_jax.cli.run_summary $(RUN) "new sentences=test.json" "new voices=voices/eval.json"

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "written: build/site/index.html; its search needs a server: $(BIN)/python -m http.server --directory build/site"

demo: install
	$(BIN)/python -m docs.demo.make $(MODELS)

# Compiled files are kept, even if the environment forbids them beside the sources: reading 300 files of tests takes 10 s less.
test test-slow: export PYTHONPYCACHEPREFIX = $(CURDIR)/build/bytecode
test test-slow: export PYTHONDONTWRITEBYTECODE =

test: install-dev
	$(BIN)/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

test-slow: install-dev $(VENV)/installed-docs
	$(BIN)/python -m pytest -m "slow and not containers"

test-slurm: install-dev
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && ! command -v slurmctld > /dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge > /dev/null; fi
	$(BIN)/python -m pytest -m slurm -rs tests/launch/test_slurm.py

# CONTAINERS="containers and not slow": only the images and two cases of the pods
test-containers: install-dev
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && ! command -v mmdebstrap > /dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends podman runc mmdebstrap \
	    containernetworking-plugins netavark aardvark-dns iptables > /dev/null || echo "podman cannot be installed here"; fi
	$(BIN)/python -m pytest -m "$(CONTAINERS)" -rs tests/launch

test-all: test test-slow test-slurm test-containers

mutation: install-dev
	$(BIN)/python -m tests.mutation $(N)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/shellcheck launch/*.sh launch/slurm.sbatch .ci/run
	$(BIN)/hadolint launch/Dockerfile

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
