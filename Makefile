# `make demo` and `make test` need Python >= 3.11 and make, nothing else: they create .venv and
# install what pyproject.toml asks for at the versions of constraints.txt (ffmpeg comes in a wheel).

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Tests run the library in pytest's process, where nothing sets this: see decision 0002.
PYTEST  = GOMP_SPINCOUNT=20000 $(BIN)/pytest $(PYTEST_ARGS)

.PHONY: help setup demo test test-fast test-slow typecheck lint format wheel clean
.DEFAULT_GOAL := help

help:
	@echo "make setup      create $(VENV) and install codecaux into it, editable"
	@echo "make demo       encode a procedural title, play it to demo/enhanced.mkv, print the table"
	@echo "make test       lint, types, every test that takes seconds"
	@echo "make test-slow  the tests that take minutes"
	@echo "make typecheck lint format wheel clean"

setup: $(STAMP)

# --no-build-isolation: the build backend, too, is the pinned one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "codecaux needs Python >= 3.11; got $$($(PYTHON) --version). Set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/python tools/make_demo_title.py demo/title.mkv
	$(BIN)/codecaux encode -y --crf 24 --net tiny --steps 400 -o demo/title.mp4 demo/title.mkv
	$(BIN)/codecaux play -y -o demo/enhanced.mkv demo/title.mp4 demo/title.weights

# CODECAUX_NO_SKIP=1 turns every skip into a failure, but for tests that need a CUDA device.
test: lint typecheck test-fast

test-fast: setup
	$(PYTEST)

test-slow: setup
	$(PYTEST) -m slow

# mypy maps a file to a module by where the file lies, and encoder/ lies outside codecaux/. A tree of
# symlinks shows it the layout that the package-dir table of pyproject.toml installs.
typecheck: setup
	@mkdir -p build/types/codecaux
	@ln -sfn $(CURDIR)/codecaux/* $(CURDIR)/encoder $(CURDIR)/decoder $(CURDIR)/ladders build/types/codecaux/
	MYPYPATH=build/types $(BIN)/mypy --strict -p codecaux

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: setup
	$(BIN)/python -m build --no-isolation --wheel

clean:
	rm -rf build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
