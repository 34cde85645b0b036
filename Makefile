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

test: .venv/developing
	$(BIN)/python -m pytest

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
