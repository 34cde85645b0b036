# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer. Each makes .venv if there is none.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
DEMO := results/demo
BASELINE ?= cpu

.PHONY: demo test check regress format clean

# torch first and by itself, so that it can be chosen (a CPU build, another version) and nothing replaces it
.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expbench needs Python 3.11 or newer: make PYTHON=...")'
	@test -e .venv || echo "Installing expbench with $(TORCH) into .venv: about 360 MB to download and 1.5 GB on disk with a CPU build" \
		"of torch; 2.9 GB to download with the CUDA build, PyPI's default on Linux. For the CPU build there:" \
		"make TORCH='torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu' demo"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/developing: .venv/installed
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

demo: .venv/installed
	$(BIN)/expbench run --task polyreg --models s6,attn,linattn --L 4,16 --steps 300 --seeds 0:3 --results $(DEMO)
	$(BIN)/expbench run --task count-in-row --models s6,attn,linattn --L 16 -t classes=8 --steps 400 --seeds 0:3 --results $(DEMO)
	@echo "The report:" && $(BIN)/expbench report --results $(DEMO)

# a worker a core, and one thread in each
test: .venv/developing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

check: .venv/developing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

regress: .venv/installed
	mkdir -p results/regress
	$(BIN)/expbench baseline check --baseline $(BASELINE) --markdown results/regress/$(BASELINE).md

format: .venv/developing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build *.egg-info $(DEMO) results/regress
