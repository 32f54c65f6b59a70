# Set-up is part of every target: a fresh machine needs Python and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint format clean

GOLDEN := $(wildcard ../shared/golden)
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CPP := $(wildcard src/transnext/ops/cpu/*.h src/transnext/ops/cpu/*.cpp src/transnext/ops/cpu/bind/* tests/ops/sanitize/*.cpp)
KERNELS := setup.py $(CPP)

# The kernels are built against the PyTorch that will run them, so it comes first; an isolated build would fetch another one.
$(VENV)/torch: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install "setuptools>=77" ninja torch torchvision
	touch $@

$(VENV)/installed: $(VENV)/torch $(KERNELS)
	$(PIP) install --no-build-isolation --editable ".[dev]"
	touch $@

demo: $(VENV)/installed ## train, evaluate and look at a classifier, in four to eight minutes on two cores
	$(BIN)/python -m transnext.demo

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(GOLDEN:%=--golden=%)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf $(VENV) build dist runs
