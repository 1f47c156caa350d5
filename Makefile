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

test: $(VENV)/test $(VENV)/mlserver $(VENV)/triton
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

# A server to drill in the tests, in the version of its profile, apart from the tool because of all that it depends on (400 MB). Its workers die
# with newer uvloops; one of the models that it serves there is ONNX.
$(VENV)/mlserver: Makefile
	$(PYTHON) -m venv $(VENV)/servers
	$(VENV)/servers/bin/python -m pip install -q --disable-pip-version-check mlserver==1.7.1 'uvloop<0.22' onnxruntime
	@touch $@

# Another one: the real tritonserver with its Python backend, out of a wheel that holds both (Apache 2.0; 250 MB with numpy). What else the wheel
# has, and what that depends on, is not used. The model of the tests runs in this environment's Python: the stub was built for numpy 1.
TRITON := $(VENV)/tritonserver
$(VENV)/triton: Makefile tests/servers/triton_fit.py
	@if $(PYTHON) tests/servers/triton_fit.py; then set -ex; \
	  $(PYTHON) -m venv $(TRITON); \
	  $(TRITON)/bin/python -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: nvidia-pytriton==0.7.0 'numpy<2'; \
	  cd $(TRITON)/lib/python3.*/site-packages/pytriton/tritonserver; \
	  cp python_backend_stubs/$$($(abspath $(TRITON))/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')/triton_python_backend_stub backends/python/; \
	fi
	@touch $@

$(VENV)/check: $(VENV)/test
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docker,kubernetes,test,check]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
