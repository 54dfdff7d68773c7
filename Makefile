# `make` lists the targets. Everything is made below .venv/ and build/.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
LOAD := build/load
CHRONY := build/chrony/usr/sbin/chronyd

# What was set up is remembered by the content of what it came from, so a second run costs nothing.
SETUP_HASH := $(shell cat pyproject.toml packaging/apt.txt packaging/setup.sh | sha256sum | cut -c1-12)
READY := $(VENV)/.ready-$(SETUP_HASH)
READY_DEV := $(VENV)/.ready-dev-$(SETUP_HASH)
READY_VM := $(VENV)/.ready-vm-$(SETUP_HASH)

C_SOURCES = $(wildcard bpf/*.h bpf/hooks/*.c bpf/lib/*.h bpf/include/*.h bpf/include/*/*.h bpf/include/*/*/*.h tests/fixtures/*.c tests/bench/*.c)
VM = packaging/vm
SHELL_SCRIPTS = .ci/run $(wildcard packaging/*.sh packaging/*/*.sh vagrant/*.sh) \
	$(VM)/initrd-init $(filter-out %.txt %.service,$(wildcard $(VM)/guest-*)) $(wildcard packaging/host/scripts/*)
SPELLED = $(shell git ls-files ':!packaging/requirements.txt' ':!*.json' ':!*.xz' ':!LICENSE')

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run demo test test-unit test-tree test-vm test-vm-host test-vm-kernel test-packages packages image test-image lint \
	format bench soak lock manifests configuration clean need-root bpffs

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## install what licet needs to run (apt packages, .venv)

setup-dev: $(READY_DEV) ## install what tests, demo, benchmark and lint need too

$(READY):
	packaging/setup.sh $(VENV)
	@touch $@

$(READY_DEV):
	packaging/setup.sh $(VENV) dev
	@touch $@ $(READY)

$(READY_VM):
	packaging/setup.sh $(VENV) vm
	@touch $@ $(READY_DEV) $(READY)

need-root:
	@test "$$(id -u)" = 0 || { echo "make: this loads programs into the kernel: run it as root" >&2; exit 1; }

# Pins live in bpffs, which is not mounted everywhere.
bpffs: need-root
	@mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf

run: need-root setup bpffs ## watch this host (observe: nothing is ever refused) until Ctrl-C
	$(BIN)/licet run

demo: need-root setup-dev bpffs $(LOAD) ## play the story in throwaway namespaces and check every step
	$(BIN)/python -m tests.e2e.demo

# HOST_AGENT=yes: as on a host in use, beside a licet that watches all of it. WORKERS=2: two files at a time.
# FAILED=yes: those that failed the last time.
IN_PARALLEL = $(if $(WORKERS),-n $(WORKERS) --dist loadfile)
PYTEST = $(BIN)/python -m pytest -q $(IN_PARALLEL) $(if $(HOST_AGENT),--host-agent) \
	$(if $(FAILED),--last-failed --last-failed-no-failures none)

test: need-root setup-dev bpffs $(LOAD) $(CHRONY) ## every test but those of packages and the image: unit, kernel, e2e
	$(PYTEST) tests --ignore tests/installed --ignore tests/host --ignore tests/image

test-unit: setup-dev ## the tests that need no root
	$(BIN)/python -m pytest -q tests/unit

test-tree: need-root setup-dev bpffs $(LOAD) ## unit and kernel tests with another release's Python, bcc and LLVM, on this kernel
	packaging/tree.sh $(VENV) $(or $(RELEASE),debian13) -q $(IN_PARALLEL) tests/unit tests/kernel

test-vm: test-vm-host test-vm-kernel ## what needs another kernel than this one: Debian's own, emulated (docs/kernels.md)

test-vm-host: need-root $(READY_VM) ## the package under systemd: install, hang, upgrade, reboot, purge
	debs=$$($(BIN)/python -m tests.installed.packages) && \
		$(BIN)/python $(VM)/run.py --systemd $$(printf -- '--file %s ' $$debs)

test-vm-kernel: need-root $(READY_VM) ## tests whose outcome depends on the kernel, and the demo
	$(BIN)/python $(VM)/run.py

packages: setup-dev ## a .deb or .rpm for each line of packaging/releases.txt (or RELEASES=...), in build/packages/
	packaging/build.sh $(VENV) build/packages $(RELEASES)

test-packages: need-root setup-dev bpffs $(LOAD) ## install, upgrade, remove and purge the .deb in a bare system
	RELEASE=$(RELEASE) $(PYTEST) tests/installed

image: need-root setup-dev ## build the container image: build/licet-image.tar (docs/kubernetes.md)
	packaging/container/build.sh $(VENV) build/licet-image.tar

test-image: image bpffs $(LOAD) ## run the image in a real runtime, as the chart's pod
	$(BIN)/python -m pytest -q tests/image

lint: setup-dev ## ruff, mypy --strict, import-linter, clang-format, shellcheck, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy -p tests
	$(BIN)/mypy $(wildcard $(VM)/*.py)
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES)
	shellcheck -x $(SHELL_SCRIPTS)
	$(BIN)/codespell $(SPELLED)

format: setup-dev ## let ruff and clang-format put the source in order
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_SOURCES)

bench: need-root setup-dev bpffs $(LOAD) ## measure, and write build/bench.json
	$(BIN)/python -m tests.bench --output build/bench.json

# Generated license documents first: they need no kernel.
soak: need-root setup-dev bpffs $(LOAD) ## MINUTES (60) of hostile load beside normal use; writes build/soak.json
	LICET_EXAMPLES=100000 $(BIN)/python -m pytest -q tests/unit/license/test_generated.py
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),60)

lock: setup-dev ## resolve anew what packages and image bundle: packaging/requirements.txt, with hashes
	$(BIN)/uv pip compile --quiet --no-config --upgrade --universal --generate-hashes --python-version 3.11 \
		--custom-compile-command "make lock" --output-file packaging/requirements.txt pyproject.toml

manifests: setup-dev ## write packaging/kubernetes/licet.yaml from the chart
	$(BIN)/python packaging/kubernetes/generate.py >packaging/kubernetes/licet.yaml.new
	@mv packaging/kubernetes/licet.yaml.new packaging/kubernetes/licet.yaml

configuration: setup-dev ## write docs/configuration.md and packaging/host/etc/config.yaml from agent/config.py
	$(BIN)/python packaging/configuration.py

$(LOAD): tests/fixtures/load.c
	@mkdir -p build
	$(CC) -std=gnu11 -O2 -Wall -Wextra -Werror -pthread -o $@ $<

# Unpacked, not installed: it would replace the host's own time daemon. Where it is not to be had, its tests are
# skipped.
$(CHRONY):
	@mkdir -p build
	@cd build && { apt-get download -q chrony || { apt-get update -q && apt-get download -q chrony; } && \
		dpkg-deb -x chrony_*.deb chrony; } || echo "make: no chrony here: its tests are skipped" >&2

clean: ## remove what the other targets made
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
