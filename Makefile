# Two commands for people: `make demo` and `make test`. All make what they need in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NONE := 5 # what pytest says where no test was chosen
# Tests wait more than they compute, so three of them run at once on two cores; of those that share a cluster, which takes its own part of
# these, two. While the quick ones run, the third is of what touches all of a cluster (`whole_cluster`). At the end what has to be `alone`.
QUICK := tests/rules tests/unit tests/conformance tests/servers tests/cluster
DRILLS := tests/drills tests/docker

.PHONY: demo test lint check bench drills docs clean

demo: $(VENV)/core
	@$(BIN)/blackstart demo $(SCENARIO) $(ARGS)

test: $(VENV)/test $(VENV)/mlserver
	@failed=; \
	$(BIN)/pytest -n 3 --dist loadgroup --durations 20 -m 'not alone and not namespaced' $(ARGS) $(QUICK) || test $$? = $(NONE) || failed=1; \
	$(BIN)/pytest -n 3 --dist loadgroup --durations 20 -m 'not alone' $(ARGS) $(DRILLS) || test $$? = $(NONE) || failed=1; \
	$(BIN)/pytest -n 2 --dist loadgroup --durations 20 -m namespaced $(ARGS) tests/cluster || test $$? = $(NONE) || failed=1; \
	$(BIN)/pytest --durations 20 -m alone $(ARGS) || test $$? = $(NONE) || failed=1; \
	test -z "$$failed"

lint: $(VENV)/check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cd $(VENV)/src && ../bin/mypy --config-file ../../pyproject.toml
	$(BIN)/vermin -q --no-tips --violations -t=3.8- injectors/agent.py injectors/file_agent.py injectors/gpu_agent.py injectors/look.py injectors/net_agent.py injectors/platforms/link_probe.py \
	  injectors/platforms/model_sight.py \
	  injectors/platforms/node_cut.py injectors/platforms/object_guard.py injectors/proxy.py \
	  drills/measure/prober.py drills/measure/outpost.py scenarios/demo/service.py

check: lint test

bench: $(VENV)/test
	$(BIN)/python -m tests.bench $(ARGS)

drills: $(VENV)/core
	$(BIN)/python tests/drills/all_scenarios.py $(ARGS)

docs: $(VENV)/core
	$(BIN)/python -m tests.docs

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "blackstart needs Python 3.11 or newer; name one with PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/blackstart

$(VENV)/core: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/test: $(VENV)/core
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docker,kubernetes,test]'
	@touch $@

# A server to drill in the tests, apart from the tool because of all that it depends on (400 MB). Its workers die with newer uvloops;
# one of the models that it serves there is ONNX.
$(VENV)/mlserver: Makefile
	$(PYTHON) -m venv $(VENV)/servers
	$(VENV)/servers/bin/python -m pip install -q --disable-pip-version-check mlserver 'uvloop<0.22' onnxruntime
	@touch $@

$(VENV)/check: $(VENV)/test
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docker,kubernetes,test,check]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
