# Two commands for everybody: `make demo` runs the example machine, `make test` sets up and runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/*)
LOCAL := -e . $(PLUGINS:%=-e ./%) -e ./examples/vstorage_hello
PROJECTS := pyproject.toml $(PLUGINS:%=%/pyproject.toml) examples/vstorage_hello/pyproject.toml constraints.txt

# Empty is unset: tests start many processes, and each would compile every module that it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test soak fuzz bench lint docs reference wheels local constraints clean

demo: $(VENV)/.runtime
	$(BIN)/python examples/machine.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

soak: $(VENV)/.dev
	$(BIN)/python -m pytest -q -s -m soak

# Always the same requests, in a minute; FUZZ='--max-examples 500' sends others each time, for an hour.
FUZZ ?= --max-examples 10 --generation-deterministic
fuzz: $(VENV)/.fuzz
	.ci/fuzz $(BIN) $(FUZZ)

# BENCH=--short takes a minute or two.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(BENCH)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Strict: a broken link or a page that no list names fails. All of it anew, or pages that did not change keep an old list.
docs: $(VENV)/.dev
	$(BIN)/python -m sphinx --fresh-env --write-all --conf-dir docs --fail-on-warning --keep-going --quiet . site
	@echo 'open site/index.html'

# The pages that are made from the code.
reference: $(VENV)/.dev
	$(BIN)/python -m docs.generate

wheels: $(VENV)/.dev
	rm -rf dist
	for project in . $(PLUGINS); do $(BIN)/python -m build --wheel --no-isolation --outdir dist $$project || exit 1; done

# What pip must be told, because our plugins are in no index.
local:
	@printf '%s\n' '$(LOCAL)'

# With what builds our projects there already; else pip makes an environment to build each of them in.
$(VENV)/.runtime: $(PROJECTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' 'hatchling>=1.27' editables
	$(BIN)/python -m pip install --quiet --no-build-isolation --constraint constraints.txt $(LOCAL)
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev
	touch $@

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group fuzz
	touch $@

# What a machine installs, and the others: what the tests need could be measured along.
$(VENV)/.bench: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	touch $@

# Names and versions only, for every Python and platform; needs uv.
constraints:
	uv pip compile --universal --python-version 3.10 --no-header --no-annotate --no-emit-package vstorage-core --no-emit-package vstorage-hello \
	  $(PLUGINS:plugins/vstorage_%=--no-emit-package vstorage-%) --group dev --group fuzz --group bench --output-file constraints.txt --upgrade pyproject.toml

clean:
	rm -rf $(VENV) dist build demo site .mypy_cache .ruff_cache .pytest_cache
