# make demo   the whole job on a small simulated log      make test   the tests
# Both build .venv first; it is rebuilt only when this file or pyproject.toml changes.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3,$(shell command -v $(p))))
VENV   := .venv
BIN    := $(VENV)/bin

# torch, torchrec and fbgemm-gpu are one matched triple (ranker/versions.py checks it at start-up).
TORCH    := torch==2.13.0
TORCHREC := torchrec==1.8.0
FBGEMM   := 1.8.0
ifeq ($(shell nvidia-smi -L 2>/dev/null),)
TRIPLE := $(TORCH) fbgemm-gpu-cpu==$(FBGEMM)
INDEX  := --extra-index-url https://download.pytorch.org/whl/cpu
else
TRIPLE := $(TORCH) fbgemm-gpu==$(FBGEMM)
endif

.PHONY: setup demo test lint clean

setup: $(VENV)/.installed

# torchrec comes without its dependencies: its metadata asks for the CUDA build of fbgemm-gpu on every machine.
$(VENV)/.installed: Makefile pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no python3 found; install Python 3.11 or 3.12" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --retries 1 $(INDEX) $(TRIPLE)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(TORCHREC)
	touch $@

demo: setup
	$(BIN)/moon demo --out demo

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) demo
