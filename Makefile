# Every target sets up what it needs: Python >= 3.11 and a Rust toolchain are enough, with a C++
# compiler for `lint` and `fuzz`.
# `make` alone lists the targets.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
    $$p -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust benches -name '*.rs' -o -name Cargo.toml)
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 120
FUZZ_TARGETS := $(basename $(notdir $(wildcard rust/store/fuzz/fuzz_targets/*.rs)))
FUZZ_HOST = $(shell rustc -vV | sed -n 's/^host: //p')
# The instrumentation that libFuzzer counts edges with; a stable compiler has it too. Build scripts
# must not have it: that is what naming the host is for.
FUZZ_CARGO = RUSTFLAGS='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares' CARGO_TARGET_DIR=target/fuzz cargo
FUZZ_BUILD = --quiet --release --locked --target $(FUZZ_HOST) --manifest-path rust/store/fuzz/Cargo.toml
TARPAULIN := $(if $(filter Linux,$(shell uname -s)),ptrace,llvm)
# A file's tests share models and folders: they stay on one core.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-full test-releases lint typecheck format bench coverage \
    coverage-rust fuzz soak licences sheet wheel clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "semantic needs Python 3.11 or newer on the PATH" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "semantic needs Rust 1.88 or newer: https://rustup.rs" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# The dependencies, and with them a first build; then the native module again when Rust changes.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.built: $(VENV)/.installed $(RUST_SOURCES)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --skip-install --quiet
	@touch $@

demo: $(VENV)/.built ## a server that remembers four agents: texts equal to stock mlx_lm.server?
	$(BIN)/semantic demo --out .demo

test: $(VENV)/.built ## the test suites, Rust and Python, on the budgeted profile
	cargo test --quiet --release --package semantic-core --package semantic-shared --package semantic-store
	$(PYTEST) -m 'not slow' --cov --cov-report=term --cov-report=html

test-full: $(VENV)/.built ## every example and every machine: takes its time
	PROPTEST_CASES=10000 cargo test --quiet --release --package semantic-core --package semantic-shared --package semantic-store
	SEMANTIC_TEST_FULL=1 $(PYTEST) --cov --cov-report=term --cov-report=html
	@$(MAKE) --no-print-directory test-releases

test-releases: wheel ## the MLX suites against each supported mlx-lm: all, or RELEASES="0.31.3 0.32.0"
	$(BIN)/python tools/test_releases.py $(RELEASES)

lint: $(VENV)/.built typecheck licences ## formatting, clippy, ruff, types, stubs, import contracts, licences
	cargo fmt --all --check
	cargo fmt --manifest-path rust/store/fuzz/Cargo.toml --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	$(FUZZ_CARGO) clippy $(FUZZ_BUILD) --all-targets -- -D warnings
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

typecheck: $(VENV)/.built ## mypy --strict, and the stub against the built module
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/stubtest semantic._native --mypy-config-file pyproject.toml

licences: $(VENV)/.installed ## every dependency's licence against the policy
	$(BIN)/python tools/licences.py

format: $(VENV)/.installed ## rewrite the sources in the house format
	cargo fmt --all
	cargo fmt --manifest-path rust/store/fuzz/Cargo.toml
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.built ## criterion benches of the core, Python benches of the seam (benches/README.md)
	cargo bench --package semantic-benches
	$(BIN)/python project/experiments/exp_002/bench_allocation.py
	$(BIN)/python project/experiments/exp_009/bench_seam.py
	$(BIN)/python project/experiments/exp_011/bench_admit.py

soak: $(VENV)/.built ## is --kv-memory kept under load, beside stock? SOAK_SECONDS=120 for each server
	$(BIN)/python project/experiments/exp_006/soak.py --seconds $(SOAK_SECONDS) --out .soak
	$(BIN)/python project/experiments/exp_006/draw.py .soak

coverage: $(VENV)/.built ## line coverage of the domain as HTML in htmlcov/
	$(PYTEST) tests/unit tests/contract tests/stateful -m 'not slow' --cov --cov-report=html --cov-report=term

coverage-rust: ## line coverage of semantic-core, by cargo-tarpaulin (installs it)
	cargo tarpaulin --version >/dev/null 2>&1 || cargo install --locked cargo-tarpaulin
	cargo tarpaulin --package semantic-core --engine $(TARPAULIN) --skip-clean --include-files "rust/core/src/*" --out Stdout --out Html --output-dir htmlcov

# What is new is kept below target/fuzz, beside what crashes.
fuzz: ## any bytes in a store's folder, FUZZ_SECONDS=60 for each fuzz target
	$(FUZZ_CARGO) build $(FUZZ_BUILD) --bins
	@mkdir -p $(addprefix target/fuzz/corpus/,$(FUZZ_TARGETS))
	@for target in $(FUZZ_TARGETS); do \
	    echo "$$target, $(FUZZ_SECONDS) s" && \
	    target/fuzz/$(FUZZ_HOST)/release/$$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 \
	        -rss_limit_mb=1024 -dict=rust/store/fuzz/header.dict \
	        -artifact_prefix=target/fuzz/$$target- target/fuzz/corpus/$$target \
	        rust/store/fuzz/corpus/$$target >target/fuzz/$$target.log 2>&1 \
	        || { tail -n 60 target/fuzz/$$target.log; exit 1; }; \
	    grep DONE target/fuzz/$$target.log; \
	done

sheet: $(VENV)/.built ## the memory sheet of the four reference models: weights, bytes, agents; CSV and XLSX
	$(BIN)/semantic plan --csv project/experiments/memory_sheet.csv --xlsx project/experiments/memory_sheet.xlsx

wheel: | $(BIN)/python ## a wheel and an sdist in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python -m pip install --quiet 'maturin>=1.9,<2'
	$(BIN)/maturin sdist --out dist

clean: ## remove everything that was built
	rm -rf $(VENV) .venvs target dist htmlcov .coverage .demo .soak
