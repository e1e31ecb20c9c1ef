# Everything a checkout needs. Each target first does what it depends on; a stamp in .venv says what is done already.
#   make run    the example library, three questions, and a server
#   make test   what CI runs

PYTHON ?= $(shell scripts/find-python.sh)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help install run test lint bench bench-load clean

help:
	@echo "make install   the program into $(VENV), and the system packages it needs"
	@echo "make run       read the example library, ask three questions, serve (PORT=8080 for another port)"
	@echo "make test      lint, types and all tests"
	@echo "make lint      ruff and mypy alone"
	@echo "make bench     the benchmarks (minutes)"
	@echo "make bench-load  the system under load (half an hour; LIBRARY=folder keeps what it asks)"
	@echo "make clean     remove $(VENV), caches and the example library, but no data"

install: $(VENV)/.installed

run: $(VENV)/.installed
	$(if $(PORT),GATHERUM_API__PORT=$(PORT)) $(BIN)/python -m examples.first_light

# Unit tests first: they tell of most defects in two minutes. Those that start a cluster have the machine to themselves.
test: lint
	$(BIN)/python -m pytest --numprocesses 2 tests/unit
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not ray" tests/integration
	$(BIN)/python -m pytest -m ray tests/integration
	$(BIN)/python -m pytest tests/acceptance

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.text
	$(BIN)/python -m benchmarks.ocr
	$(BIN)/python -m benchmarks.hostile --count 120
	$(BIN)/python -m benchmarks.memory --pages 2000
	$(BIN)/python -m benchmarks.answers
	$(BIN)/python -m benchmarks.entities
	$(BIN)/python -m benchmarks.ask
	$(BIN)/python -m benchmarks.sql

# The corpus is ingested once; later runs use it again.
LIBRARY ?= build/load
bench-load: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.library $(LIBRARY) --vectors $(LIBRARY).vectors
	$(BIN)/python -m benchmarks.overload $(LIBRARY) --out load.json

clean:
	rm -rf $(VENV) build dist examples/library .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created: scripts/install-system.sh scripts/find-python.sh
	scripts/install-system.sh "$(PYTHON)"
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

# The project itself is built by a hash-locked hatchling without build isolation, which would fetch an unlocked one.
$(VENV)/.installed: $(VENV)/.created requirements.txt requirements-build.txt pyproject.toml
	$(PIP) install --require-hashes -r requirements.txt -r requirements-build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt scripts/install-system.sh
	scripts/install-system.sh "$(PYTHON)" test
	$(PIP) install --require-hashes -r requirements-dev.txt
	@touch $@
