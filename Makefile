# make demo  - a real Linux guest under stratovirt        make test - all five test beds
# make setup - system packages, .venv, native modules (the others imply it)

NATIVE := $(wildcard src/stratovirt/_native/*.pyx src/stratovirt/_native/*.pxd src/stratovirt/_native/*.h \
	src/ozone/*.pyx) setup.py
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
LAB := .venv/bin/stratovirt-lab

.PHONY: setup build demo dist test lint docs cross-aarch64 check-guidebook unit board kvm guest bench-exits bench-block \
	bench-io bench-memory bench-snapshot bench-start bench-peers seccomp-report seccomp-trace soak fuzz fuzz-asan asan asan-copy clean

setup:
	@tools/setup.sh

build: setup .venv/.native

.venv/.native: $(NATIVE) | setup
	@$(PY) setup.py --quiet build_ext --inplace -j2
	@$(PY) -m compileall -q src tests
	@touch $@

demo: build
	@$(LAB) demo

test: build lint cross-aarch64 dist .venv/.fuzz
	@tools/run_tests.sh

SOURCES := src tests bench tools examples setup.py
LAYERS := build/layers.txt

lint: build check-guidebook
	@.venv/bin/ruff check $(SOURCES)
	@.venv/bin/ruff format --check -q $(SOURCES)
	@.venv/bin/mypy src/stratovirt src/stratovirt_lab src/ozone tests tools bench examples/kv
	@mkdir -p build; .venv/bin/lint-imports --no-logo --no-cache layers.ini >$(LAYERS) || { cat $(LAYERS); false; }
	@$(PY) -m tools.native_imports
	@$(PY) -m tools.generate_docs --check

docs: build
	@$(PY) -m tools.generate_docs

# Every native module for aarch64; what has not changed is kept in build/aarch64.
cross-aarch64: build
	@$(PY) -m tools.cross_build aarch64

check-guidebook: build
	@$(PY) -m tests.guidebook

unit board kvm: build
	@$(PYTEST) tests/$@

kvm guest: dist

dist: dist/stratovirt dist/ozone

# Static executables of stratovirt and ozone, which need no Python.  A folder is newer when a file
# in it was removed.
dist/stratovirt dist/ozone &: .venv/.native $(shell find src -name '*.py' -o -type d) $(wildcard tools/dist/*) | build
	@$(PY) -X no_debug_ranges -m tools.dist  # columns in tracebacks would be a tenth of the code

guest: build
	@$(LAB) images
	@$(LAB) run -- $(PYTEST) tests/guest

T := virtio-blk
MIN := 10
fuzz: build .venv/.fuzz
	@$(PY) -m tests.fuzz $(T) $(MIN)

.venv/.fuzz: pyproject.toml | setup
	@$(PY) -m pip install --quiet --disable-pip-version-check $$($(PY) -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["fuzz"])')
	@touch $@

# The native modules once more with AddressSanitizer: the beds that need no guest, or a fuzz target.
ASAN := build/asan
ASAN_ENV = PYTHONPATH=$(CURDIR)/$(ASAN)/src LD_PRELOAD=$$(gcc -print-file-name=libasan.so) \
	ASAN_OPTIONS=detect_leaks=0
$(ASAN)/.native: $(NATIVE) | build
	@rm -rf $(ASAN) && mkdir -p $(ASAN) && cp -a src setup.py pyproject.toml README.md $(ASAN)
	@find $(ASAN) -name '*.so' -delete
	@cd $(ASAN) && CFLAGS='-fsanitize=address -fno-omit-frame-pointer' \
		$(CURDIR)/$(PY) setup.py --quiet build_ext --inplace -j2
	@touch $@

# The Python beside them is this tree's, also when nothing was to build.
asan-copy: $(ASAN)/.native
	@tar -c --exclude='*.so' --exclude=__pycache__ src | tar -x -C $(ASAN)

asan: asan-copy
	@$(ASAN_ENV) $(PYTEST) -m 'not measures_memory and not needs_filter' tests/unit tests/board tests/kvm

fuzz-asan: asan-copy .venv/.fuzz
	@$(ASAN_ENV) $(PY) -m tests.fuzz $(T) $(MIN)

# The seccomp lists; and what the machines of the guest suite (or of T=test_disk) really call.
seccomp-report: build
	@$(PY) -m tools.seccomp_report

TRACES := build/traces
seccomp-trace: build
	@rm -rf $(TRACES) && mkdir -p $(TRACES)
	@$(LAB) images
	@for file in $(if $(filter test_%,$(T)),tests/guest/$(T).py,tests/guest/test_*.py); do \
		STRATOVIRT_TRACE_CALLS=$(CURDIR)/$(TRACES) $(LAB) run --rw $(CURDIR)/$(TRACES) -- \
			$(PYTEST) $$file; done
	@$(PY) -m tools.seccomp_report $(TRACES)

bench-exits: build
	@$(PY) -m bench.exits

bench-block: build
	@$(PY) -m bench.block

bench-io: build
	@$(PY) -m bench.block_io
	@$(LAB) images
	@$(LAB) run --mem 6144 -- $(PY) -m bench.guest_io microvm
	@$(LAB) run --mem 6144 -- $(PY) -m bench.guest_io q35

bench-snapshot: build
	@$(LAB) images
	@$(LAB) run --mem 6144 -- $(PY) -m bench.snapshot

SOAK_MIN := 30
soak: build
	@$(LAB) images
	@$(LAB) run --mem 6144 -- $(PY) -m bench.soak $(SOAK_MIN)

bench-memory: build
	@$(PY) -m bench.memory

# Cold starts of ours and of other VMMs in the folder PEERS or in PATH.
bench-peers: build dist
	@$(PY) -m bench.peers

bench-start: build
	@$(PY) -m bench.start

clean:
	rm -rf .venv build dist src/stratovirt/_native/*.so
