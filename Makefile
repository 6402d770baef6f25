# All a newcomer needs: `make run` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# The name of the stamp holds the hash of the lock and of where this folder is: a changed lock sets up again, and so does
# a folder that was moved, whose programs name their Python by its path. What is unchanged costs nothing.
HASH := $(shell (cat requirements.lock pyproject.toml; echo "$(CURDIR)") | cksum | cut -d' ' -f1)
STAMP := .venv/.installed-$(HASH)

# Stories to play, such as 7 or 1-300: a seed that fails plays the same story again.
SEEDS ?= 1-300

.PHONY: help setup run test stories lint types bench docs

help: ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## set up .venv from the lock file

$(STAMP):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: install a newer Python, or name one: make PYTHON=python3.12 run"; exit 1; }
	@"$(PYTHON)" deploy/set_up.py $@

# Also where the Python of which .venv was made is gone.
ifeq ($(realpath $(BIN)/python),)
.PHONY: $(STAMP)
endif

run: setup ## start the stack and the demo (DEMO=0: without the demo)
	@exec $(BIN)/tollkeeper up $(if $(filter 0,$(DEMO)),--no-demo)

test: setup ## run all tests, by two workers with servers of their own
	$(BIN)/pytest --numprocesses 2 --dist loadfile --durations 25

stories: setup ## play drawn stories of everything at once (SEEDS=1-300)
	$(BIN)/python -m tests.story --seeds $(SEEDS)

lint: setup ## style, format, and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: setup ## strict types
	$(BIN)/mypy

bench: setup ## measure the whole pipeline
	$(BIN)/python -m tests.bench

docs: setup ## write the AsyncAPI and OpenAPI documents
	$(BIN)/python -m deploy.docs.main
