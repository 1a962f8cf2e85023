# make demo    a sentence in, a textured mesh out
# make test    the tests
# make check   style and types
# make setup   only the environment: .venv with the pinned requirements and this package
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check clean

setup: $(VENV)/.setup

demo: setup
	$(BIN)/python launch.py --config mvdream-mini.yaml prompt="a red cat with a green face"

test: $(VENV)/.setup-dev
	$(BIN)/python -m pytest

check: $(VENV)/.setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info

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
