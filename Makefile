# make demo  - a real Linux guest under stratovirt        make test - all four test beds
# make setup - system packages, .venv, native modules (the others imply it)

NATIVE := $(wildcard src/stratovirt/_native/*.pyx src/stratovirt/_native/*.pxd) setup.py
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
LAB := .venv/bin/stratovirt-lab

.PHONY: setup build demo test lint unit board kvm guest bench-exits bench-start clean

setup:
	@tools/setup.sh

build: setup .venv/.native

.venv/.native: $(NATIVE) | setup
	@$(PY) setup.py --quiet build_ext --inplace -j2
	@$(PY) -m compileall -q src tests
	@touch $@

demo: build
	@$(LAB) demo

test: build lint
	@tools/run_tests.sh

lint: build
	@.venv/bin/ruff check src tests bench setup.py
	@.venv/bin/ruff format --check -q src tests bench setup.py
	@.venv/bin/mypy src/stratovirt src/stratovirt_lab tests

unit board kvm: build
	@$(PYTEST) tests/$@

guest: build
	@$(LAB) images
	@$(LAB) run -- $(PYTEST) tests/guest

bench-exits: build
	@$(PY) -m bench.exits

bench-start: build
	@$(PY) -m bench.start

clean:
	rm -rf .venv build src/stratovirt/_native/*.so
