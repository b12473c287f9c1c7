# The two commands of the README are `make demo` and `make test`; the rest is for developers.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= output/toy
SEED   ?= 42
# Whole files go to one worker, so that what the tests of a file share is made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all lint types house experiments examples clean
.DELETE_ON_ERROR:

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e '.[all]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/video-llama toy run --out $(OUT) --seed $(SEED)

test: $(VENV)/.installed
	$(PYTEST) --tell-left-out -m 'not slow and not browser and not gxx and not gpu'

test-all: $(VENV)/.installed
	$(PYTEST) --tell-left-out -m 'not gpu'

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell video_llama tests docs README.md CONTRIBUTING.md CHANGELOG.md

types: $(VENV)/.installed
	$(BIN)/mypy video_llama

house: $(VENV)/.installed
	$(BIN)/python -m pytest tests/test_house.py

experiments: $(VENV)/.installed
	$(BIN)/video-llama toy experiments --out $(OUT) --docs docs/toy

examples: $(VENV)/.installed
	$(BIN)/python examples/make_examples.py
	$(BIN)/python examples/make_conversations.py
	$(BIN)/python examples/run_notebook.py

clean:
	rm -rf output .pytest_cache .mypy_cache .ruff_cache
