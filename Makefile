# One readable command per verb. PYTHON is the environment's interpreter.
PYTHON ?= .venv/bin/python

.PHONY: build test lint bench verify

build:
	$(PYTHON) -m pip install --no-build-isolation -e ".[test]"

test:
	$(PYTHON) -m pytest

lint:
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy

bench:
	$(PYTHON) -m pytest -n0 benchmarks --benchmark-enable

# LTX2RT_GOLDENS names further folders of golden files, with colons between them.
verify:
	$(PYTHON) -m ltx2rt.cli verify --goldens tests/goldens $(patsubst %,--goldens %,$(subst :, ,$(LTX2RT_GOLDENS)))
