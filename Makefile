# Needs Python >= 3.11, pip, a C compiler and make. Everything else is installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find framework plugins mpi_launch -type f -not -path '*/__pycache__/*')
PYTEST_ARGS ?= -n auto

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-tomo test lint pytest bench docs clean

help:  ## what there is
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11; give another: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# What users get. An editable installation is there already after `make test` and always up to date.
$(VENV)/.installed: $(BIN)/python pyproject.toml registry.toml $(SOURCES)
	test -e $(VENV)/.dev || $(BIN)/python -m pip install --quiet .
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.docs: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet 'mkdocs-material>=9.5'
	@touch $@

demo: $(VENV)/.installed  ## simulate particles, reconstruct them, say where map, plots and report are
	rm -rf demo
	mkdir demo
	$(BIN)/centralslice simulate --output demo/particles.star --count 3000 --box 96 --snr 0.2 \
	  --gaussians 500 --sigma 1.2 2.5
	$(BIN)/centralslice make3d --input demo/particles.star --output demo/map.mrc --report
	$(BIN)/python examples/compare_with_truth.py demo/particles_truth.mrc demo/map.mrc demo/comparison.png
	@echo
	@echo "map                demo/map.mrc   (half maps demo/map_half1.mrc, demo/map_half2.mrc)"
	@echo "truth              demo/particles_truth.mrc"
	@echo "central sections   demo/comparison.png   (truth, map, FSC)"
	@echo "half-map FSC       demo/map_fsc.png   (numbers in demo/map_fsc.star)"
	@echo "report             demo/map_report.html"
	@echo "what was run       demo/map_manifest.json"

demo-tomo: $(VENV)/.installed  ## simulate tilt series with particles, reconstruct these, say where everything is
	rm -rf demo-tomo
	mkdir demo-tomo
	$(BIN)/centralslice simulate --tomo --output demo-tomo/project --tomograms 6 --particles 80 --snr 0.3 \
	  --image-size 640 640 --gaussians 300 --sigma 3.5 7 --radius 70 --tilt-jitter 0.5 --tilt-shift 20 --shift 8 \
	  --motion 3 --subtomogram-angles
	$(BIN)/centralslice tomo --i demo-tomo/project/optimisation_set.star --b 64 --o demo-tomo/map --report
	$(BIN)/python examples/compare_with_truth.py demo-tomo/project/truth.mrc demo-tomo/map/merged.mrc \
	  demo-tomo/comparison.png
	@echo
	@echo "map                demo-tomo/map/merged.mrc   (half maps half1.mrc, half2.mrc)"
	@echo "truth              demo-tomo/project/truth.mrc"
	@echo "central sections   demo-tomo/comparison.png   (truth, map, FSC)"
	@echo "half-map FSC       demo-tomo/map/fsc.png   (numbers in demo-tomo/map/fsc.star)"
	@echo "report             demo-tomo/map/report.html"
	@echo "what was run       demo-tomo/map/manifest.json"

test: lint pytest  ## linters, types, import contracts, then all tests

lint: $(VENV)/.dev  ## linters, types and import contracts only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

pytest: $(VENV)/.dev  ## all tests only
	$(BIN)/python -m pytest -p no:benchmark $(PYTEST_ARGS)

bench: $(VENV)/.dev  ## speed and memory, some minutes; beside relion_reconstruct if it is on the PATH
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=min,median,rounds
	$(BIN)/python benchmarks/marginal_cost.py --box 128
	$(BIN)/python benchmarks/peak_memory.py
	$(BIN)/python benchmarks/tomo_cost.py

docs: $(VENV)/.docs  ## the manual, as site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## remove everything that make made
	rm -rf $(VENV) demo demo-tomo site dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
