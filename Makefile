# Everything a user or CI runs. `make demo` and `make test` need only Python 3.11, make and pip.
# One environment, two stamps: .venv/runtime is what the commands of README.md need, .venv/installed has what tests need too.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONSAFEPATH := 1
# Some containers set it. Nothing is compiled at installation, so each of the tests' processes would compile Ray and MLflow.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-e2e test-slow test-gpu bench results bank check audit faults soak data-page docs format clean

# Modules are compiled when they are first imported: compiling all of them takes longer than the demo's search.
INSTALL := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable

.venv/runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[onnx,serve]'
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[dev]'
	touch .venv/runtime $@

demo: .venv/runtime
	$(BIN)/proxytune run recall
	rm -rf build/winner
	$(BIN)/proxytune export recall --out build/winner

# Two processes, a file each at a time (fixtures that start Ray or MLflow belong to a file), one torch thread in each.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

# End to end: a cluster of two nodes, kills, the state table, every README command, the browser. A quarter of an hour. TESTS=...: those in these files.
test-e2e: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m e2e --numprocesses 2 --dist loadfile $(TESTS)

test-slow: .venv/installed
	$(BIN)/pytest -m slow

# On a machine with a GPU: what docs/GPU.md lists, then the tables of memory, speed and sharing.
test-gpu: .venv/installed
	$(BIN)/pytest -m gpu
	$(BIN)/proxytune bench --device cuda --lengths 512,2048,4096
	$(BIN)/proxytune bench --device cuda --lengths 2048 --packed 1,2,4,8

# Dated JSON and PNG of each benchmark in build/bench, then the table. ARGS=--quick: a minute each. BENCH=scale: only that one.
BENCH ?= data efficiency models overhead plan race scale sharing tracking turnaround warm-start
bench: .venv/installed
	for name in $(BENCH); do $(BIN)/python tests/benchmarks $$name $(ARGS) || exit 1; done
	$(BIN)/python tests/benchmarks table build/bench

# docs/RESULTS.md from finished studies: make results STUDIES="ablation-recall paper-listops" STORAGE=studies
STORAGE ?= studies
results: .venv/installed
	mkdir -p build
	$(BIN)/python tests/benchmarks results $(STUDIES) --storage $(STORAGE) > build/RESULTS.md
	mv build/RESULTS.md docs/RESULTS.md

# Finished studies into the curve bank that ships with the package: make bank STUDIES=recall-curves STORAGE=studies
bank: .venv/installed
	$(BIN)/python tests/benchmarks bank $(STUDIES) --storage $(STORAGE)

# mypy resolves the package-dir mapping of pyproject.toml through these links.
build/types/proxytune: .venv/installed
	mkdir -p $@
	ln -sfn ../../../datasets $@/datasets
	ln -sfn ../../../models $@/models
	ln -sfn ../../../tuning $@/tuning

check: .venv/installed build/types/proxytune
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --package proxytune
	$(BIN)/lint-imports

# Licences first, since that needs no network. --strict: an index without PyPI's JSON API then fails the audit, where
# pip-audit by itself reports "no known vulnerabilities" of packages that it could not look up.
audit: .venv/installed
	mkdir -p build
	$(BIN)/pip-licenses --order license --format markdown --output-file build/licences.md
	$(BIN)/pip-audit --strict --skip-editable --progress-spinner off

# Every fault in a real study (half an hour), and the table that docs/FAULTS.md shows.
faults: .venv/installed
	$(BIN)/pytest tests/faults -m "slow or not slow"
	$(BIN)/python tests/faults/table.py > docs/FAULTS.md

# A study under a random schedule of all kinds of faults, and the check of its databases afterwards; needs root for its disk.
# A schedule that fails is run again by its seed: make soak SEED=7 MINUTES=60
SEED ?= $(shell date +%s)
MINUTES ?= 60
soak: .venv/installed
	$(BIN)/python -P tests/faults/soak.py --seed $(SEED) --minutes $(MINUTES) --record tests/faults/soaks.jsonl

# The table of supported data formats, from the registry of formats.
data-page: .venv/installed
	$(BIN)/python tests/datasets/data_page.py > docs/DATA.md

# The site in build/site; a broken link is an error.
docs: .venv/installed build/types/proxytune
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --config-file docs/reference/mkdocs.yml

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist *.egg-info
