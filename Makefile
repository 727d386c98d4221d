# Needs Python >= 3.11, git and make. Everything else is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
VENV_LOWEST ?= .venv-lowest
VENV_BENCH ?= .venv-bench
PORT ?= 8000
PYTEST_ARGS ?= -n 2
SOAK_ARGS ?=
BENCH_ARGS ?=

bin = $(abspath $(VENV))/bin
lowest = $(abspath $(VENV_LOWEST))/bin
bench = $(abspath $(VENV_BENCH))/bin

.PHONY: help env demo test lint soak test-lowest bench bench-scale bench-quick clean
.DELETE_ON_ERROR:

help:
	@echo "make demo         install and serve the demo on 127.0.0.1 (PORT=$(PORT))"
	@echo "make env          install all that the other targets need into $(VENV)"
	@echo "make test         install and run the tests (PYTEST_ARGS='-n 2 -k cookie')"
	@echo "make lint         ruff, mypy, pyright"
	@echo "make soak         the long tests under load"
	@echo "make test-lowest  the tests with the oldest dependencies that pyproject.toml allows"
	@echo "make bench        compare with others, write docs/performance.* (BENCH_ARGS='--without scale')"
	@echo "make bench-scale  only its part about large tables (BENCH_ARGS='--rows 1000 100000')"
	@echo "make bench-quick  compare in two minutes, on the terminal only"
	@echo "make clean        remove the environments and the tools' caches"

demo: $(VENV)/.ready-examples
	@echo "sessionware demo: http://127.0.0.1:$(PORT)/ (Ctrl+C stops it)"
	@cd examples/demo && exec $(bin)/python -m uvicorn app:app \
		--host 127.0.0.1 --port $(PORT) --workers 2

env: $(VENV)/.ready-dev

test: $(VENV)/.ready-tests
	$(bin)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.ready-dev
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/pyright --pythonpath $(bin)/python

soak: $(VENV)/.ready-tests
	$(bin)/python -m pytest -m soak $(SOAK_ARGS)

test-lowest: $(VENV_LOWEST)/.ready-lowest
	$(lowest)/python -m pytest $(PYTEST_ARGS)

# What a run leaves out (BENCH_ARGS="--without scale") stays in the page as it was.
bench: $(VENV_BENCH)/.ready-bench
	$(bench)/python -m benchmarks --json docs/performance.json --keep --docs $(BENCH_ARGS)

bench-scale: $(VENV_BENCH)/.ready-bench
	$(bench)/python -m benchmarks --parts scale --json docs/performance.json --keep --docs $(BENCH_ARGS)

bench-quick: $(VENV_BENCH)/.ready-bench
	$(bench)/python -m benchmarks --quick --json build/bench-quick.json $(BENCH_ARGS)

clean:
	rm -rf $(VENV) $(VENV_LOWEST) $(VENV_BENCH) build/bench* \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* htmlcov

# A stamp is written only when the installation is complete, and is old once pyproject.toml changes.
define install
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else \
		"sessionware needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.x")'
	@echo "Installing into $(@D) ..."
	@$(PYTHON) -m venv $(@D)
endef

# The extras of that name: examples, tests (and examples), dev (all of them and the linters).
$(VENV)/.ready-%: pyproject.toml
	$(install)
	@$(bin)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

# Starlette's test client needs httpx where it is older than its move to httpx2.
$(VENV_LOWEST)/.ready-lowest: pyproject.toml .ci/lowest.py
	$(install)
	@$(PYTHON) .ci/lowest.py > $(VENV_LOWEST)/constraints.txt
	@$(lowest)/python -m pip install --quiet --editable '.[tests]' httpx \
		--constraint $(VENV_LOWEST)/constraints.txt
	@touch $@

$(VENV_BENCH)/.ready-bench: pyproject.toml benchmarks/requirements.txt
	$(install)
	@$(bench)/python -m pip install --quiet --requirement benchmarks/requirements.txt \
		--editable '.[aiosqlite,django,flask,postgres,redis]'
	@touch $@
