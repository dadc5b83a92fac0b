# Every target sets itself up: a virtual environment, and the package in it. `make VENV=/some/where test` shares one.
VENV ?= .venv
PYTHON ?= python3.11
BIN := $(VENV)/bin
DATA ?= data
RUN ?= runs/terrain
OUT ?= out/terrain
export DIPTYCH_DATA := $(DATA)

.PHONY: install demo test slow cuda lint bench clean

install: $(VENV)/installed-$(shell cksum pyproject.toml | cut -d' ' -f1)

$(VENV)/installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,formats]'
	rm -f $(VENV)/installed-*
	touch $@

demo: install  ## train elevation → relief on real data, convert what it never saw, show and score it
	$(BIN)/translate data prepare terrain_small
	$(BIN)/translate data features
	$(BIN)/translate train recipes/terrain.yaml --run $(RUN) $(if $(wildcard $(RUN)/recipe.yaml),--resume)
	$(BIN)/translate convert $(DATA)/terrain_small/testA $(OUT)/tiles --model $(RUN)
	$(BIN)/python tools/show_demo.py --data $(DATA)/terrain_small --converted $(OUT)/tiles --picture $(OUT)/demo.png
	$(BIN)/translate convert $(DATA)/terrain_small/largeA $(OUT)/large --model $(RUN) --memory 512MB
	$(BIN)/translate evaluate $(RUN)

# worksteal: a worker has tests of one file together, whose references are made once, until another one is idle.
test: install  ## the quick tests; about five minutes on two cores
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

slow: install  ## the proofs that take long: hundreds of kills, trainings on real data, steps at 2000×2000
	$(BIN)/python -m pytest -m slow

cuda: install  ## the tests that need a GPU
	$(BIN)/python -m pytest -m cuda tests/test_cuda.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install  ## measure on this machine and write docs/benchmarks.md; on a GPU, docs/benchmarks-recipes.md as well
	$(BIN)/python tools/bench.py
	$(BIN)/python tools/bench_recipes.py --train

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
