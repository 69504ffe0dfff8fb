# make demo | test | test-all | test-lowest | check | bench | bench-compat | bench-decode | bench-kernels | bench-linear | bench-memory | bench-translate | sanitize | docs | docs-pictures | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
# About two minutes: operators and blocks, other people's models, files, costs, and a run of every kind of task.
LOWEST_TESTS := tests/test_versions.py tests/ops/test_operators.py tests/ops/test_causal_conv1d.py \
	tests/ops/test_linear_product.py tests/ops/test_mamba3_scan.py tests/ops/test_ssd.py tests/nn tests/checkpoints \
	tests/compat/test_transformers.py tests/adapt/test_adapt_check.py tests/adapt/test_adapt_prepare.py \
	tests/models/test_compile.py tests/models/test_timm_interface.py tests/profiling/test_profiling.py \
	tests/data/test_decode.py tests/reports/test_report_html.py tests/reports/test_report_series.py \
	tests/experiments/test_run.py tests/experiments/test_language_runs.py \
	tests/experiments/test_segmentation_runs.py
SOURCES := pyproject.toml CMakeLists.txt $(wildcard native/*) $(wildcard native/include/*)
# A process a core with one thread each; make test-lowest leaves the threads alone, so that both ways are tested
SIDE_BY_SIDE := -n auto --maxprocesses 8 --dist worksteal
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all test-lowest check bench bench-compat bench-decode bench-kernels bench-linear bench-memory bench-translate sanitize docs docs-pictures clean

demo: $(VENV)/.package
	$(BIN)/ssmlab demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-all: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "slow or not slow" --durations=15

test-lowest: $(LOWEST)/.test
	$(LOWEST)/bin/python -m pytest $(SIDE_BY_SIDE) -m "versions or not slow" $(LOWEST_TESTS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check src tests benchmarks docs .ci
	$(BIN)/ruff check src tests benchmarks docs .ci
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/selective_scan.py

bench-compat: $(VENV)/.package
	$(BIN)/python benchmarks/transformers_models.py

bench-decode: $(VENV)/.package
	$(BIN)/python benchmarks/decode.py

bench-kernels: $(VENV)/.package
	$(BIN)/python benchmarks/kernels.py

bench-linear: $(VENV)/.package
	$(BIN)/python benchmarks/linear.py

bench-memory: $(VENV)/.package
	$(BIN)/python benchmarks/memory.py

bench-translate: $(VENV)/.bench
	$(BIN)/python benchmarks/translate.py

sanitize: $(VENV)/.test
	PYTHON=$(BIN)/python tests/sanitize.sh $(SET)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q
	@echo "build/site/index.html"

docs-pictures: $(VENV)/.package
	$(BIN)/python docs/screenshot.py runs/demo

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(VENV)/.package: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.test: $(VENV)/.package
	$(BIN)/python -m pip install -q -e ".[test]"
	touch $@

$(LOWEST)/.test: .ci/lowest.py $(SOURCES)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q --upgrade pip
	$(LOWEST)/bin/python .ci/lowest.py > $(LOWEST)/pins.txt
	$(LOWEST)/bin/python -m pip install -q -e ".[test]" -c $(LOWEST)/pins.txt
	touch $@

$(VENV)/.dev: $(VENV)/.package
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.package
	$(BIN)/python -m pip install -q -e ".[docs]"
	touch $@

$(VENV)/.bench: $(VENV)/.package
	$(BIN)/python -m pip install -q -e ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) build dist runs
