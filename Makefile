# One readable command per verb. PYTHON is the environment's interpreter. Programs are called by name: `python -m` puts
# this folder first, whose sources hold no compiled kernels unless `make build` was run.
PYTHON ?= .venv/bin/python

BIN = $(dir $(PYTHON))

.PHONY: build test lint format bench verify

build:
	$(PYTHON) -m pip install --no-build-isolation -e ".[test]"

test:
	$(BIN)pytest

lint:
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy && .ci/clang-format $(PYTHON)

format:
	$(PYTHON) -m ruff format . && .ci/clang-format $(PYTHON) --fix

bench:
	$(BIN)pytest -n0 benchmarks --benchmark-enable

# LTX2RT_GOLDENS names further folders of golden files, with colons between them.
verify:
	$(BIN)ltx2rt verify --goldens tests/goldens $(patsubst %,--goldens %,$(subst :, ,$(LTX2RT_GOLDENS)))
