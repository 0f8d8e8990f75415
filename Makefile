# Every target makes .venv and installs what is missing first; nothing needs to be activated.
# Options of set-up (environment): REELKIN_HOROVOD=0 skips Horovod, REELKIN_MPI=0/1 builds it without/with MPI,
# REELKIN_GPU=0/1 installs the CPU/GPU packages, REELKIN_DALI=0 leaves DALI out; by default what the machine offers
# decides.

PYTHON ?= python3
BIN := .venv/bin
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"
SETUP := @$(PYTHON) launch/bootstrap.py

.PHONY: help setup demo test test-slow lint doctor clean

help:  ## show this list
	@echo "make TARGET; no preparation is needed, the first one installs everything into .venv"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  make demo VIDEOS=FOLDER ENCODER=FILE.pt SAME=FILE.csv OUTPUT=FOLDER SMALL=1   (each optional)"

setup:  ## make .venv and install everything (a second run takes a second)
	$(SETUP)

demo: export VIDEOS := $(VIDEOS)
demo: export ENCODER := $(ENCODER)
demo: export SAME := $(SAME)
demo: export OUTPUT := $(OUTPUT)
demo:  ## the whole pipeline on generated videos, or on your own with VIDEOS=FOLDER
	$(SETUP)
	@$(IN_VENV) reelkin demo $${VIDEOS:+--videos "$$VIDEOS"} $${ENCODER:+--encoder "$$ENCODER"} \
	    $${SAME:+--groups "$$SAME"} $${OUTPUT:+--output "$$OUTPUT"} $(if $(filter 1 yes true,$(SMALL)),--small)

lint:  ## ruff, mypy and the import rules
	$(SETUP)
	@$(IN_VENV) ruff check .
	@$(IN_VENV) mypy
	@$(IN_VENV) lint-imports --no-logo

test: lint  ## lint, then the tests but the slow ones
	@$(IN_VENV) python -m pytest -m "not slow"

test-slow:  ## the slow tests: real launchers, wheels, whole pipelines
	$(SETUP)
	@$(IN_VENV) python -m pytest -m slow

doctor:  ## what is installed, what is missing, and the fix for each
	$(SETUP)
	@$(IN_VENV) reelkin doctor

clean:  ## remove .venv, build folders and caches (the folder of built Horovod wheels stays)
	rm -rf .venv build dist reelkin.egg-info
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
