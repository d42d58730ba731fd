# Each target sets up what it needs. `make` alone lists them.
PYTHON    ?=
PROFILE   ?= quick
NOTEBOOKS ?=
PARAMS    ?=
JOBS      ?= 2
EXECUTE   ?=
DEVICE    ?= cpu
NAME      ?=
SEEDS     ?= 3
STUDENTS  ?=
UPDATE    ?=
OPTIONS   ?=

VENV   := .venv
STAMP  := $(VENV)/.course-ready
PY     := $(VENV)/bin/python
COURSE := $(PY) -m lib.course

.DEFAULT_GOAL := help
.PHONY: help setup run test test-browser lab notebooks classroom experiment bench lint lock clean
MAKEFLAGS += --no-print-directory

help:  ## this list
	@echo "Learning 3D shape from single photographs"
	@echo
	@sed -n 's/^\([a-z][a-z-]*\):.*##  *\(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s%s\n", $$1, $$2}'
	@echo
	@echo "  make run NOTEBOOKS=\"00 06\"             only some notebooks"
	@echo "  make run PROFILE=full                  the real thing instead of the quick one"
	@echo "  make run NOTEBOOKS=06 PARAMS=\"-p seed 1\" another value for a parameter"
	@echo "  make setup PYTHON=python3.12           choose the Python (3.11 or 3.12)"

setup: $(STAMP)  ## the environment in .venv (a minute or two); the other targets call it
	@echo "The environment in $(VENV) is ready."

# The stamp is written last, so an environment that was interrupted is never taken for a whole one.
$(STAMP): pyproject.toml constraints.txt lib/course/set_up.py
	@python="$(PYTHON)"; \
	supported='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))'; \
	if [ -z "$$python" ]; then \
	  for candidate in python3 python3.12 python3.11 python; do \
	    if $$candidate -c "$$supported" >/dev/null 2>&1; then python=$$candidate; break; fi; \
	  done; \
	fi; \
	if [ -z "$$python" ]; then \
	  echo "error: no Python 3.11 or 3.12 found: install one, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 2; \
	fi; \
	if ! $$python -c "$$supported" 2>/dev/null; then \
	  echo "error: PYTHON=$$python ($$($$python --version 2>&1 | head -n 1)) is not Python 3.11 or 3.12: name another" >&2; exit 2; \
	fi; \
	$$python lib/course/set_up.py $(VENV) $(STAMP)

run: $(STAMP)  ## execute the notebooks into runs/PROFILE/, with a gallery index.html and a table
	@$(COURSE) run --profile "$(PROFILE)" $(foreach name,$(NOTEBOOKS),--notebook $(name)) $(PARAMS)

test: $(STAMP)  ## unit tests, then every notebook by papermill, then their stored outputs by nbval
	@$(COURSE) test --jobs $(JOBS)

test-browser: $(STAMP)  ## every notebook in JupyterLab in a real browser (needs the system's Chromium)
	@$(VENV)/bin/uv pip install --quiet playwright --constraint constraints.txt
	@COURSE_BROWSER=all $(PY) -m pytest -q tests/test_browser.py

lab: $(STAMP)  ## JupyterLab on working copies in work/ (STUDENTS=1: with exercises to solve; UPDATE=1; OPTIONS="--ip=...")
	@$(COURSE) lab $(if $(STUDENTS),--students) $(if $(UPDATE),--update) -- $(OPTIONS)

notebooks: $(STAMP)  ## build notebooks/*.ipynb from notebooks/src (EXECUTE=1 also runs them and stores outputs)
	@$(COURSE) build $(if $(EXECUTE),--execute) $(NOTEBOOKS)

classroom: $(STAMP)  ## students', solution, instructors' and nbgrader's editions, slides, a zip: build/classroom
	@$(COURSE) classroom $(NOTEBOOKS)

experiment: $(STAMP)  ## rows x seeds of a paper's table, resumable: NAME=tables-2-3 SEEDS=3
	@$(PY) -m lib.course.experiment "$(NAME)" --seeds $(SEEDS) $(PARAMS)

bench: $(STAMP)  ## time steps, renderer, encoder, data, evaluation, neighbours (or DEVICE=cuda)
	@$(PY) -m benchmarks --device $(DEVICE)

lint: $(STAMP)  ## ruff, and that each .ipynb is what its source builds
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(COURSE) build --check

lock: $(STAMP)  ## write constraints.txt: the newest versions that pyproject.toml admits, for 3.11, 3.12 and all systems
	@$(VENV)/bin/uv pip compile pyproject.toml --extra dev --extra browser --extra classroom --universal --fork-strategy fewest --upgrade \
	  --no-annotate --no-header --no-emit-index-url --quiet --output-file constraints.txt.tmp
	@mv constraints.txt.tmp constraints.txt
	@echo "constraints.txt: $$(wc -l < constraints.txt) packages"

clean:  ## remove the environment and what runs and tools wrote (not your notebooks, not the data)
	@rm -rf $(VENV) runs/quick build *.egg-info .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +
	@echo "removed .venv, runs/quick and caches; other runs are kept (they may hold hours of training)"
