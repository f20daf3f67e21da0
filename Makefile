# Everyday commands. CI calls the same ones.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
BIN := $(CARGO_TARGET_DIR)/debug

.PHONY: help bootstrap build demo test check bench fuzz soak e2e e2e-netpol ci clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

bootstrap: ## install what is missing, at pinned versions
	@scripts/bootstrap

build: bootstrap ## build the programs
	cargo build --workspace --bins --locked

demo: build ## the main job, end to end, on this machine (KEEP=1 leaves it running)
	@demo/run --bin $(BIN) $(if $(KEEP),--keep)

test: bootstrap ## every test: Rust, contracts, interoperability, network namespaces
	cargo build --workspace --bins --locked
	cargo test --workspace --locked
	demo/run --bin $(BIN) --act hard
	scripts/contracts-test

check: bootstrap ## formatting, lints, licences, artifacts, requirements table
	scripts/check

bench: ## measure against the budgets, and Envoy + OPA; writes docs/benchmarks.md and its raw data
	@scripts/bootstrap bench
	scripts/bench

fuzz: bootstrap ## run every fuzz target for SECONDS each (default 10)
	scripts/fuzz $(or $(SECONDS_EACH),10)

soak: bootstrap ## long runs: fuzzing for ten minutes a target
	scripts/fuzz 600

e2e: ## the tests on a real cluster with real SPIRE; as root, or with KUBECONFIG=...
	@scripts/bootstrap e2e
	e2e/run

e2e-netpol: ## that a cluster's network enforces NetworkPolicies (KUBECONFIG=...; kind's does)
	@scripts/bootstrap e2e
	e2e/run --netpol

ci: check test demo e2e ## what CI runs
	@scripts/fuzz 5

clean: ## remove what builds and runs leave behind
	cargo clean
	rm -rf contracts/out contracts/cache demo/.state
