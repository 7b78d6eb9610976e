# Everything from a fresh machine: `make demo` or `make test`. Needs python3 (3.10 or newer, with
# venv) and a C++ compiler; the rest is installed into $(VENV).
#
#   PYTHON  the Python to make the environment with
#   TORCH   what pip installs as torch, with its options; for the small CPU build for example
#           make test TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0

PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet
SOURCES := setup.py pyproject.toml $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.map' \
             -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test bench lint aarch64 sanitized slow simt simt-address simt-thread simt-nightly cuda-budget clean

demo: $(VENV)/installed
	$(VENV)/bin/fastseg demo

# One process a core, with one thread each: more threads than cores wait for one another.
test: $(VENV)/test-tools
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses=auto --dist=worksteal

bench: $(VENV)/bench-tools
	$(VENV)/bin/python benchmarks/run.py crf

lint: $(VENV)/test-tools
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Kernel tests under an emulator: aarch64, and x86-64 without AVX.
aarch64:
	tests/native/run.sh aarch64

# The same kernel tests with the compiler's checks of addresses and of undefined behaviour.
sanitized:
	OPTIMIZE=-O1 tests/native/run.sh sanitized

# The CUDA kernels under the emulator of tests/simt: with the compiler's checks of addresses and of
# undefined behaviour, and with its search for races, in which every CUDA thread is a thread. The
# sanitizer must be in the process before Python is. Small shapes, in each order: on two cores 2 and 7
# minutes.
SIMT_TESTS = -m pytest -q tests/simt/test_simt_device.py tests/ops -k "simt and small"
simt-address: $(VENV)/test-tools
	for order in forward reverse random; do \
	  FASTSEG_SIMT_VARIANT=address FASTSEG_SIMT_ORDER=$$order ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  OMP_NUM_THREADS=1 $(VENV)/bin/python $(SIMT_TESTS) || exit 1; done

simt-thread: $(VENV)/test-tools
	for order in forward reverse random; do \
	  FASTSEG_SIMT_VARIANT=thread FASTSEG_SIMT_ORDER=$$order \
	  TSAN_OPTIONS="halt_on_error=1 report_signal_unsafe=0 atexit_sleep_ms=0" \
	  LD_PRELOAD="$$(g++ -print-file-name=libtsan.so)" \
	  OMP_NUM_THREADS=1 setarch -R $(VENV)/bin/python $(SIMT_TESTS) || exit 1; done

# All tests that take devices, each with its threads in one of three orders.
SIMT_ALL = -m pytest --numprocesses=auto --dist=worksteal -q tests/simt tests/ops -k simt -m "slow or not slow"
simt: $(VENV)/test-tools
	OMP_NUM_THREADS=1 $(VENV)/bin/python $(SIMT_ALL)

# What takes minutes and is left out of `make test`: emulated processors, every network compiled
# and exported.
slow: $(VENV)/test-tools
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses=auto --dist=worksteal -q -m slow \
	  --ignore=tests/simt -k "not simt"

# The emulator's tests in each order, and with the larger shapes of every room.
simt-nightly: $(VENV)/test-tools
	for order in forward reverse random; do \
	  FASTSEG_NIGHTLY=1 FASTSEG_SIMT_ORDER=$$order OMP_NUM_THREADS=1 \
	  $(VENV)/bin/python $(SIMT_ALL) || exit 1; done

# Registers, shared memory, spills and occupancy of every CUDA kernel, against csrc/cuda_budget.csv.
cuda-budget: $(VENV)/installed
	$(VENV)/bin/python tools/cuda_budget.py

clean:
	rm -rf $(VENV) build fastseg/*.so *.egg-info

# torch comes first and alone: the package is then built against it (--no-build-isolation), and
# pip does not go looking for another.
$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) "setuptools>=77" wheel pybind11 ninja
	touch $@

$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(PIP) --no-build-isolation --editable .
	touch $@

# The original pydensecrf, to compare with: where it does not build, those tests say so and skip.
$(VENV)/test-tools: $(VENV)/installed
	$(PIP) --no-build-isolation --editable ".[test]"
	-$(PIP) pydensecrf2==1.1
	touch $@

$(VENV)/bench-tools: $(VENV)/installed
	$(PIP) --no-build-isolation --editable ".[bench]"
	touch $@
