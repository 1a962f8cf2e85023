# make demo    a sentence in, a textured mesh out
# make test    the tests, but for those that take longest: whole programs, compilers, trainings
# make slow    those
# make faults  of these what happens to runs: signals, full disks, bad numbers, killed processes, no compiler
# make check   style and types
# make setup   only the environment: .venv with the pinned requirements and this package
# make gpu-wheels  into gpu-wheels/, for a CUDA machine without a network: see docs/howto/gpu.md
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GLIBCS := 17 24 27 28 34 35
# two processes of one thread each: torch's threads would wait for each other; worksteal: tests of a file stay together,
# and what they share is made once; bytecode is written, as hundreds of programs are started
TESTS = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: setup demo test slow faults check gpu-wheels clean

setup: $(VENV)/.setup

demo: setup
	$(BIN)/python launch.py --config mvdream-mini.yaml prompt="a red cat with a green face"

test: $(VENV)/.setup-dev
	$(TESTS) -m "not slow"

slow: $(VENV)/.setup-dev
	$(TESTS) -m slow

faults: $(VENV)/.setup-dev
	$(TESTS) tests/faults tests/ops/test_native_build.py

check: $(VENV)/.setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gpu-wheels:
	rm -rf gpu-wheels
	$(PYTHON) -m pip download --disable-pip-version-check --quiet --no-deps --only-binary=:all: --python-version 3.12 \
		--implementation cp --abi cp312 --abi abi3 --abi none $(patsubst %,--platform manylinux_2_%_x86_64,$(GLIBCS)) \
		--platform manylinux2014_x86_64 --platform any --dest gpu-wheels -r benchmarks/gpu-wheels.txt
	du -sh gpu-wheels

clean:
	rm -rf $(VENV) build *.egg-info gpu-wheels

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# the stamps are touched last: an installation that was cut off is done again
$(VENV)/.setup: requirements.txt setup.py pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	touch $@

$(VENV)/.setup-dev: requirements-dev.txt $(VENV)/.setup
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	touch $@
