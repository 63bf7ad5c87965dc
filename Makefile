# Everything here makes the environment it needs: `make demo` and `make test` work from a bare clone.

VENV := .venv
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.demo
BIN := $(VENV)/bin
# The first of these that is Python 3.11 or later; name another with `make PYTHON=…`.
CANDIDATES := python3.11 python3.12 python3.13 python3
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: help python install install-server install-worker postgres demo test test-times test-slow check format lock image clean

help:
	@echo 'make demo       a whole call on this machine: a table is booked by voice'
	@echo 'make test       the tests'
	@echo 'make test-slow  the longer ones'
	@echo 'make check      linting, formatting and types'
	@echo 'make install    the environment alone, in $(VENV)'
	@echo 'make install-server, make install-worker'
	@echo '                what a machine needs that serves, or makes calls, in $(VENV)-server or $(VENV)-worker'
	@echo 'make format     bring the code into form'
	@echo 'make lock       bring the lock files up to date with pyproject.toml'
	@echo 'make image      the container images, built and tried, where there is podman or docker'
	@echo 'make clean      remove what these made'

python:
	@test -n '$(PYTHON)' || { echo 'error: no Python 3.11 or later found; install one, or name it: make PYTHON=…' >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		pkg=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -q && apt-get install -qy $$pkg; \
		else echo "error: $(PYTHON) can't make environments; run: sudo apt-get install $$pkg" >&2; exit 2; fi; }

# pip brings uv, which takes an eighth of the time. Where uv can't reach what pip reaches, as with a registry that only
# pip was told of, pip does it.
define fill
	@echo 'installing the packages of $(1) …'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement deploy/locks/uv.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement $(1) || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(1)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endef

install: $(STAMP)

# What the demo needed stays where it is: the rest is added.
$(STAMP): requirements.lock pyproject.toml | python
	@test -e $(DEMO_STAMP) -a ! -e $(STAMP) || $(PYTHON) -m venv --clear $(VENV)
	$(call fill,requirements.lock)
	@touch $(STAMP)

$(DEMO_STAMP): deploy/locks/demo.lock pyproject.toml | python
	@$(PYTHON) -m venv --clear $(VENV)
	$(call fill,deploy/locks/demo.lock)
	@touch $(DEMO_STAMP)

# What a machine has that serves, or one that makes calls: the extras it needs, and nothing to develop with.
install-server install-worker: install-%: python
	$(PYTHON) -m venv --clear $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement deploy/locks/$*.lock
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement deploy/locks/build.lock
	$(VENV)-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .

# Without what only the tests need, unless that is there.
demo: $(if $(wildcard $(STAMP)),$(STAMP),$(DEMO_STAMP))
	@$(BIN)/scenario-runner demo

# The record's tests run on SQLite and on a PostgreSQL that they start themselves, from Debian's package.
postgres:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || \
		test -n "$$TESTS_WITHOUT_POSTGRES" || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends postgresql; \
		else echo 'error: the tests need PostgreSQL; run: sudo apt-get install postgresql' \
			'(or leave it out: make test TESTS_WITHOUT_POSTGRES=1)' >&2; exit 2; fi; }

# Most of their time the tests wait: calls are as long as calls are. Each file stays in one process; the files that
# take longest come first, by tests/seconds.json (tests/conftest.py).
JOBS ?= 4
TOGETHER := -n $(JOBS) --dist loadgroup --no-loadscope-reorder

# Compiled tests are kept, also where the environment says that nothing is: each process would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

test: $(STAMP) postgres
	$(BIN)/pytest -m 'not slow' $(TOGETHER) --template-branches

# How long each file takes, for the order above: measured where nothing else runs.
test-times: $(STAMP) postgres
	$(BIN)/pytest -m 'not slow' $(TOGETHER) --measure-times

# These make many calls at once themselves: one after the other, so that no agent is late for want of a core.
test-slow: export HYPOTHESIS_PROFILE := whole
test-slow: $(STAMP) postgres
	$(BIN)/pytest -m slow
	$(BIN)/pytest -m 'hypothesis and not slow' $(TOGETHER)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Addresses of registries stay out of the lock files: whoever installs from them uses their own. What is deployed has the
# versions that are tested.
LOCK = $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	--no-annotate --quiet
DEPLOYED = $(LOCK) --constraint requirements.lock

lock: $(STAMP)
	$(LOCK) pyproject.toml --extra agents --extra offline --extra otel --extra server --extra worker --group dev --output-file requirements.lock
	$(DEPLOYED) pyproject.toml --extra server --output-file deploy/locks/server.lock
	$(DEPLOYED) pyproject.toml --extra worker --extra offline --output-file deploy/locks/worker.lock
	$(DEPLOYED) pyproject.toml --extra agents --extra offline --group build --output-file deploy/locks/demo.lock
	$(DEPLOYED) --group pyproject.toml:build --output-file deploy/locks/build.lock
	$(DEPLOYED) --group pyproject.toml:install --output-file deploy/locks/uv.lock

# Where nothing is there to build them with, that is said, and the tests of them are left out.
image: $(STAMP)
	@deploy/container/build.sh
	$(BIN)/pytest tests/test_image.py

clean:
	rm -rf $(VENV) $(VENV)-server $(VENV)-worker .ruff_cache .pytest_cache .hypothesis
