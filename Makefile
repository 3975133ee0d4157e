# Everything a person types. The targets that need the environment make it first, once; see `make help`.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

UV_VERSION := 0.13.9
PY := .venv/bin/python

# Some containers set it, and then every process compiles all libraries again, which takes half of the tests' time.
unexport PYTHONDONTWRITEBYTECODE

# torch from the package index is 3 GB of CUDA on Linux; uv can pick the small one, unless a folder of wheels is given.
ifneq ($(PIP_FIND_LINKS),)
UV_ENV := UV_FIND_LINKS="$(PIP_FIND_LINKS)"
else ifeq ($(shell uname -s),Linux)
UV_ENV := UV_TORCH_BACKEND=cpu
endif
INSTALL = $(UV_ENV) .venv/bin/uv pip install --quiet --python .venv -r pyproject.toml -c infra/constraints.txt

PARTS = $(if $(LOG),--log $(LOG))
STORY = $(if $(DAYS),--days $(DAYS)) $(if $(SEED),--seed $(SEED))
# How much the tests try: KILLS=20 AWAY=20 EXAMPLES=1000 SEQUENCES=100 SEEDS=10 before closing; tests/conftest.py has the defaults.
EFFORT = $(if $(KILLS),--kills $(KILLS)) $(if $(AWAY),--away $(AWAY)) \
  $(if $(EXAMPLES),--examples $(EXAMPLES)) $(if $(SEQUENCES),--sequences $(SEQUENCES)) $(if $(SEEDS),--seeds $(SEEDS))
# The processes share two cores: threads of one would wait for threads of the other. The third works while others wait.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -rs --numprocesses 3 $(if $(ALL),--all) $(EFFORT)
EXERCISES = $(basename $(notdir $(wildcard tests/exercises/*.patch)))

# --- run ---

demo-fraud: .venv/.fraud  ## months of a bank in minutes: learn, decide, be attacked, notice, retrain, roll back
	@$(PY) -m fraud $(PARTS) demo $(STORY) $(if $(HEADLESS),--headless)

demo-recsys: .venv/.recsys  ## four weeks of a shop in minutes: nights, days, broken nights, a new season, a rollback
	@$(PY) -m recsys $(PARTS) demo $(STORY) $(if $(HEADLESS),--headless)

replay-fraud: .venv/.fraud  ## the same stages on your own payments: FILE=payments.parquet or .csv
	@test -n "$(FILE)" || \
	  { echo "Which payments? make replay-fraud FILE=path; the columns are in fraud/README.md." >&2; exit 2; }
	@$(PY) -m fraud $(PARTS) replay "$(FILE)" $(STORY)

replay-recsys: .venv/.recsys  ## the same nights on your own shop: FILE=events.parquet or .csv
	@test -n "$(FILE)" || \
	  { echo "Which events? make replay-recsys FILE=path; the columns are in recsys/README.md." >&2; exit 2; }
	@$(PY) -m recsys $(PARTS) replay "$(FILE)" $(STORY)

demo-sentiment: .venv/.sentiment  ## eight days of brands in minutes: learn, count, a crisis, new words, retrain, roll back
	@$(PY) -m sentiment $(PARTS) demo $(STORY) $(if $(HEADLESS),--headless)

replay-sentiment: .venv/.sentiment  ## your own posts through stream and batch: FILE=posts.parquet or .csv, BRANDS=airlines
	@test -n "$(FILE)" || \
	  { echo "Which posts? make replay-sentiment FILE=path; the columns are in sentiment/README.md." >&2; exit 2; }
	@$(PY) -m sentiment $(PARTS) --brands $(or $(BRANDS),airlines) replay "$(FILE)"

soak-fraud: .venv/.dev  ## payments for MINUTES= while processes die and come back; LOG=kafka: a broker of its own, too
	@$(PY) -m tests.soak $(PARTS) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

up: .venv/.fraud  ## start Kafka as a local process; KAFKA_HOME says where it is unpacked
	@$(PY) -m infra.local up

status: .venv/.fraud  ## which servers run, and where
	@$(PY) -m infra.local status

down: .venv/.fraud  ## end what `make up` started
	@$(PY) -m infra.local down

# --- check ---

# [5.1] One command for a person, for the workflow and for .ci/run: what passes here passes there.
test: .venv/.all  ## lint, and every test that can run here; ALL=1: everything, and nothing may be skipped
	@$(MAKE) --no-print-directory --jobs 2 lint pytest

pytest: .venv/.all
	@$(PYTEST)

test-fraud: .venv/.dev  ## the tests of fraud and of what it stands on
	@$(PYTEST) tests/fraud tests/shared tests/contracts

test-recsys: .venv/.dev  ## the tests of recsys and of what it stands on
	@$(PYTEST) tests/recsys tests/shared tests/contracts

test-sentiment: .venv/.all  ## the tests of sentiment and of what it stands on
	@$(PYTEST) tests/sentiment tests/shared tests/contracts

bench-fraud: .venv/.dev  ## how fast the path of a payment is, beside what a user would pick instead
	@$(PY) -m tests.bench.fraud

bench-recsys: .venv/.dev  ## how fast a night and a look-up are, beside what a user would pick instead
	@$(PY) -m tests.bench.recsys

bench-sentiment: .venv/.all  ## how fast posts are scored and counted, beside what a user would pick instead
	@$(PY) -m tests.bench.sentiment

paper-sentiment: .venv/.sentiment  ## TweetEval's table, re-derived, with the data in MLSD_DATA: an hour; SEEDS=1 is faster
	@$(PY) -m sentiment paper $(if $(SEEDS),--seeds $(SEEDS))

lint: .venv/.all  ## ruff, mypy, import contracts; and how long each package is
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo
	@$(PY) -m shared.results stale
	@for package in recsys fraud sentiment shared; do test ! -d $$package || \
	  find $$package -name '*.py' ! -name paper.py -exec cat {} + | wc -l | \
	  xargs printf '%-10s %5s lines\n' $$package; done

checklist: .venv/.fraud  ## the 21 points of the interview, and where each service answers them
	@$(PY) -m shared.checklist

mutants: .venv/.dev  ## whether the tests notice small changes to the code that decides: hours; ONLY=fraud/policy takes one module
	@OMP_NUM_THREADS=1 $(PY) -m tests.mutants $(if $(ONLY),--only $(ONLY))

exercise: .venv/.dev  ## what a design change still lacks: NAME=step-up; the brief is in EXERCISES.md
	@test -n "$(filter $(NAME),$(EXERCISES))" || \
	  { echo "Which exercise? make exercise NAME=...; there are: $(EXERCISES)" >&2; exit 2; }
	@if $(PY) -m pytest -q --no-header -rN --tb=short tests/exercises/$(subst -,_,$(NAME)).py; then \
	  echo "The brief of $(NAME) holds. Next: make lint, the tests of its service, and tests/exercises/$(NAME).patch"; \
	else \
	  echo "Above, in words, what $(NAME) still lacks. The brief and hints: grep -l $(NAME) */EXERCISES.md"; exit 1; \
	fi

# --- keep ---

record: .venv/.fraud  ## take the figures of the last runs over into results.json; CONFIRM=1: the same figures, by renamed code
	@$(PY) -m shared.results record $(if $(CONFIRM),--confirm)

stale: .venv/.fraud  ## which recorded figures are older than the code behind them, and what measures them anew
	@$(PY) -m shared.results stale

docs: .venv/.fraud  ## write the recorded figures and the tree into the documents
	@$(PY) -m shared.results docs

lock: .venv/bin/uv  ## pin what pyproject.toml asks for, for all extras, systems and Python versions
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate --no-header \
	  pyproject.toml -o infra/constraints.txt

clean:  ## remove what runs left behind (var/) and the environment
	rm -rf var .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

help:  ## this list
	@awk -F ':.*## ' '/^# ---/ { print "" } /^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile
	@printf '\n  demos and replays take LOG=, DAYS= and SEED=, a soak MINUTES=; a demo with HEADLESS=1 ends by itself\n\n'

.PHONY: pytest demo-fraud demo-recsys replay-fraud replay-recsys soak-fraud up status down test test-fraud test-recsys bench-fraud bench-recsys lint checklist exercise record stale mutants docs lock clean help paper-sentiment demo-sentiment replay-sentiment test-sentiment bench-sentiment

# --- the environment ---

.venv/bin/uv:
	@for python in python3 python3.13 python3.12 python3.11; do \
	  if $$python -c 'import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	    $$python -m venv .venv && $(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); exit; \
	  fi; \
	done; echo "Needs Python 3.11, 3.12 or 3.13 with its venv module (on Debian: apt install python3-venv)." >&2; exit 1

.venv/.fraud: pyproject.toml infra/constraints.txt | .venv/bin/uv
	@echo "Installing what fraud needs ..."
	@$(INSTALL) --extra fraud
	@$(PY) -c 'import lightgbm' || \
	  { echo "LightGBM needs OpenMP: brew install libomp (macOS), apt install libgomp1 (Debian)" >&2; exit 1; }
	@touch $@

.venv/.recsys: pyproject.toml infra/constraints.txt | .venv/bin/uv
	@echo "Installing what recsys needs ..."
	@$(INSTALL) --extra recsys
	@$(PY) -c 'import lightgbm' || \
	  { echo "LightGBM needs OpenMP: brew install libomp (macOS), apt install libgomp1 (Debian)" >&2; exit 1; }
	@touch $@

.venv/.sentiment: pyproject.toml infra/constraints.txt | .venv/bin/uv
	@echo "Installing what sentiment needs: torch among it, so this takes a minute ..."
	@$(INSTALL) --extra sentiment
	@touch $@

# Compiled at once: else the first tests compile the libraries in all their processes.
.venv/.all: .venv/.dev .venv/.sentiment
	@$(INSTALL) --extra fraud --extra recsys --extra sentiment --extra dev --compile-bytecode
	@touch $@

.venv/.dev: .venv/.fraud
	@echo "Installing what the tests need ..."
	@$(INSTALL) --extra fraud --extra recsys --extra dev
	@touch $@
