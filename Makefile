# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer. Each makes .venv if there is none.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
LOWEST := .venv-lowest
DEMO := results/demo
BASELINE ?= cpu
PIP_SHOWS := --disable-pip-version-check --quiet --progress-bar on

.PHONY: demo test test-lowest check regress format clean

# torch first and by itself, so that it can be chosen (a CPU build, another version) and nothing replaces it
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expbench needs Python 3.11 or newer: make PYTHON=...")'
	@test -e .venv || echo "Installing expbench with $(TORCH) into .venv: about 360 MB to download and 1.5 GB on disk with a CPU build" \
		"of torch; 2.9 GB to download with the CUDA build, PyPI's default on Linux. For the CPU build there:" \
		"make TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu' demo"
	@echo "[1/4] a virtual environment, .venv, and its pip (2 MB)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@echo "[2/4] $(TORCH) (190 MB for a CPU build, 2.7 GB for a CUDA build; nothing if it is there)"
	@$(BIN)/python -m pip install $(PIP_SHOWS) $(TORCH)
	@echo "[3/4] numpy, pandas, pyarrow, scipy, matplotlib and smaller packages (170 MB; nothing if they are there)"
	@$(BIN)/python -m pip install $(PIP_SHOWS) --editable .
	@echo "[4/4] expbench is installed"
	@touch $@

.venv/developing: .venv/installed
	@echo "[+] the development tools: mypy, ruff, pytest, duckdb, polars, Triton (400 MB, 1.4 GB on disk; nothing if they are there)"
	@$(BIN)/python -m pip install $(PIP_SHOWS) --group dev
	@touch $@

demo: .venv/installed
	$(BIN)/expbench run --task polyreg --models s6,attn,linattn --L 4,16 --steps 300 --seeds 0:3 --results $(DEMO)
	$(BIN)/expbench run --task count-in-row --models s6,attn,linattn --L 16 -t classes=8 --steps 400 --seeds 0:3 --results $(DEMO)
	@echo "The report:" && $(BIN)/expbench report --results $(DEMO)

# a worker a core, and one thread in each
test: .venv/developing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

# the lowest versions that pyproject.toml admits, chosen by uv's resolver, in an environment of their own (UV_TORCH_BACKEND=cpu
# takes a CPU build of torch); old versions beside today's versions of what they need may say that something is deprecated
test-lowest:
	@echo "Installing the lowest versions that pyproject.toml admits into $(LOWEST): 1 GB on disk with a CPU build of torch, else 7 GB"
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/python -m uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct --editable . --group dev
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n auto --maxprocesses 8 --dist worksteal \
		-W default::DeprecationWarning -W default::PendingDeprecationWarning $(TESTS)

check: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m expbench.studies.verify

regress: .venv/installed
	mkdir -p results/regress
	$(BIN)/expbench baseline check --baseline $(BASELINE) --markdown results/regress/$(BASELINE).md

format: .venv/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv $(LOWEST) build *.egg-info $(DEMO) results/regress
