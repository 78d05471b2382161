# Only Python (>= 3.11) and make are needed; everything else is installed into .venv, once per change of the files below.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PAGE   := demo/card.html

# One thread per process: tests run side by side, and sums keep their order.
THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo setup check test docs bench clean

help:
	@echo "make demo    install, audit the packaged water potential, write $(PAGE)"
	@echo "make setup   install tumble and its tools into $(VENV)"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make test    the test suite"
	@echo "make docs    the documentation, warnings are errors"
	@echo "make bench   measure speed on this machine"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tumble needs Python >= 3.11, and $(PYTHON) is older. Run: make setup PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,docs,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/tumble demo --to $(PAGE)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(STAMP)
	$(THREADS) $(BIN)/pytest --numprocesses 2 --dist worksteal

docs: $(STAMP)
	$(THREADS) $(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

bench: $(STAMP)
	$(THREADS) $(BIN)/python benchmarks/symmetry.py

clean:
	rm -rf $(VENV) docs/_build demo
