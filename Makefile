# Every target works from a bare checkout: it needs Python 3.11 or later and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url
DATA ?= default.etcd
CLUSTER_DATA ?= cluster.etcd
CERTS ?= certs
MINUTES ?= 10
SEED ?= $(shell date +%s)
SOAK_RUNS ?= 100
KILLS ?= 300

.PHONY: help compiled run cluster certs test lint protos bench soak dist lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rusd needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q $(VENV)/lib/python*/site-packages
	touch $@

run: $(READY)  ## serve one member on 127.0.0.1:2379, data in ./default.etcd (DATA=...)
	$(BIN)/rusd --data-dir $(DATA)

cluster: $(READY)  ## serve three members on 127.0.0.1:2379, 22379 and 32379, data in ./cluster.etcd (CLUSTER_DATA=...)
	$(BIN)/python -m cluster.local --data $(CLUSTER_DATA) $(CLUSTER_ARGS)

certs: $(READY)  ## make all certificates that a lab needs, in ./certs (CERTS=..., CERTS_ARGS="--host ... --user ...")
	$(BIN)/python -m cluster.tls --out $(CERTS) $(CERTS_ARGS)

# Else each start of a member compiles everything where PYTHONDONTWRITEBYTECODE is set. pip compiles what
# it installs for users.
compiled: $(READY)
	$(BIN)/python -m compileall -q rusd

test: lint compiled  ## lint, type-check and run all tests
	$(BIN)/pytest $(PYTEST_ARGS)

lint: $(READY)  ## ruff, mypy --strict, and that generated code is current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python protos/generate.py --check

protos: $(READY)  ## regenerate rusd/pb from protos/
	$(BIN)/python protos/generate.py

bench: compiled  ## measure rusd beside real etcd; writes docs/benchmarks.md (LARGE=10: the rows of a store of 10 GB)
	$(BIN)/python -m tests.bench $(if $(LARGE),--only 'large-*' --store-gb $(LARGE)) $(BENCH_ARGS)

soak: compiled  ## simulate and break clusters for MINUTES=10 each, then kill (KILLS=) and compare (SOAK_RUNS=)
	$(BIN)/python -m tests.sim --minutes $(MINUTES)
	$(BIN)/python -m tests.cluster --minutes $(MINUTES) --seed $(SEED)
	PATH="$$(tests/fetch-etcd):$$PATH" $(BIN)/pytest tests/cluster/test_kill.py --kills $(KILLS)
	PATH="$$(tests/fetch-etcd):$$PATH" $(BIN)/pytest tests/compat/test_kubernetes.py --objects 20000
	for kind in kv auth jwt; do PATH="$$(tests/fetch-etcd):$$PATH" \
		$(BIN)/python -m tests.compat --kind $$kind --steps 5000 --runs $(SOAK_RUNS) || exit 1; done

dist: $(READY)  ## build the wheel and the source distribution into dist/
	$(BIN)/python -m build --no-isolation

lock: $(READY)  ## resolve pyproject.toml again into requirements.lock, and its part for the image
	$(LOCK) --group dev pyproject.toml -o requirements.lock
	$(LOCK) --constraint requirements.lock pyproject.toml -o cluster/requirements.lock

clean:  ## remove the virtual environment and build output
	rm -rf $(VENV) dist
