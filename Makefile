# `make` alone prints what there is. On Debian and Ubuntu, as root or with sudo, every target installs what it needs.

PYTHON ?= python3
BIN := .venv/bin
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' plpython/relief_runtime/__init__.py)
SOURCES := $(wildcard plpython/relief_runtime/*.py sql/relief_sql/*.py sql/relief_sql/*.sql sql/relief_sql/*/*.sql sql/relief_sql/*/*.txt)
SCRIPT := build/relief-$(VERSION)-install.sql
# Debian's own pg_config on the PATH may be that of the client library; the server's knows where extensions go.
PG_CONFIG ?= $(or $(lastword $(sort $(wildcard /usr/lib/postgresql/*/bin/pg_config))),pg_config)
PG_MAJOR = $(shell $(PG_CONFIG) --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
KERNEL = build/kernel-$(PG_MAJOR)
PG_CONFIGS = $(if $(filter-out file,$(origin PG_CONFIG)),$(PG_CONFIG),$(patsubst %/lib/pgxs/src/makefiles/pgxs.mk,%/bin/pg_config,$(wildcard $(HEADERS))))

.DEFAULT_GOAL := help
.PHONY: help setup packages build demo test test-matrix test-soak bench lint install kernel install-kernel deb clean

help: ## Print this help
	@echo "Relief $(VERSION): anomaly detection inside PostgreSQL"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{ printf "%-21s %s\n", $$1, $$2 }'

setup: packages $(BIN)/.installed $(SCRIPT) ## Install all that the other targets need: packages, .venv, build/

demo: setup ## Show Relief at work on a year of real flights, in a throwaway server
	$(BIN)/relief demo $(ARGS)

test: setup ## Run the tests, on several cores; ARGS are pytest's
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

test-matrix: setup ## Run the database tests on PostgreSQL 14, 16, 17 and 18; ARGS="18 -- -k busy" for one, and pytest's
	$(BIN)/python -m tests.matrix $(ARGS)

test-soak: setup ## Run the tests that take long
	$(BIN)/pytest -m soak $(ARGS)

bench: setup $(BIN)/.bench ## Measure, and print a table; ARGS="--only NAME" for one row, "--help" for more
	$(BIN)/python -m tests.bench $(ARGS)

lint: setup ## Check style, types, and the generated SQL
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest --quiet tests/test_pgspot.py

build: $(SCRIPT) ## Write the install scripts into build/

install: build ## Put the extension's files where CREATE EXTENSION finds them; honours PG_CONFIG and DESTDIR
	install -d "$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension"
	install -m 644 build/relief.control build/relief--*.sql "$(DESTDIR)$$($(PG_CONFIG) --sharedir)/extension/"

kernel: ## Compile the kernel for the server of PG_CONFIG; needs its headers (Debian: postgresql-server-dev-<version>) and gcc
	@$(PG_CONFIG) --pgxs | xargs test -f || { echo "Install: postgresql-server-dev-$(PG_MAJOR), gcc, make" >&2; exit 1; }
	install -d $(KERNEL)
	$(MAKE) --no-print-directory -C $(KERNEL) -f $(CURDIR)/kernel/Makefile VPATH=$(CURDIR)/kernel PG_CONFIG="$(PG_CONFIG)" with_llvm=no

install-kernel: kernel ## Put the kernel where `select relief.use_kernel()` finds it; honours PG_CONFIG and DESTDIR
	install -d "$(DESTDIR)$$($(PG_CONFIG) --pkglibdir)"
	install -m 755 $(KERNEL)/relief_kernel.so "$(DESTDIR)$$($(PG_CONFIG) --pkglibdir)/.relief_kernel.so"
	mv "$(DESTDIR)$$($(PG_CONFIG) --pkglibdir)/.relief_kernel.so" "$(DESTDIR)$$($(PG_CONFIG) --pkglibdir)/relief_kernel.so"

deb: build ## Write a Debian package for each PostgreSQL whose headers are installed, or that of PG_CONFIG, into build/
	@test -n "$(strip $(PG_CONFIGS))" || { echo "Install: postgresql-server-dev-<version>, gcc, make" >&2; exit 1; }
	@for pg_config in $(PG_CONFIGS); do sh kernel/deb.sh $(VERSION) $$pg_config build || exit; done

clean: ## Delete .venv, build/ and caches
	rm -rf .venv build .cache *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find plpython sql relief_trainer tests -name __pycache__ -prune -exec rm -rf {} +

$(SCRIPT): $(SOURCES)
	PYTHONPATH=plpython:sql $(PYTHON) -m relief_sql.assemble build

$(BIN)/.bench: $(BIN)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	touch $@

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

# What is missing: Python's venv, a server with plpython3u, what the tests show it with. Where apt can't be used nothing works without
# the first; the commands that need the others say so too.
ROOT = $(if $(filter-out 0,$(shell id -u)),sudo) env DEBIAN_FRONTEND=noninteractive
MISSING_VENV = $(if $(wildcard $(BIN)/.installed),,$(shell $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv))
MISSING_SERVER = $(if $(RELIEF_PG_BIN)$(RELIEF_TEST_DSN)$(RELIEF_TEST_IMAGE)$(wildcard /usr/lib/postgresql/*/lib/plpython3.so),,plpython3u)
FOR_SERVER = $(if $(RELIEF_PG_BIN)$(RELIEF_TEST_DSN)$(RELIEF_TEST_IMAGE)$(wildcard /usr/lib/postgresql/*/lib/$1.so),,$1)
MISSING_TESTED = $(strip $(call FOR_SERVER,pg_cron) $(call FOR_SERVER,mysql_fdw) \
  $(if $(wildcard /usr/sbin/mariadbd),,mariadbd) $(if $(wildcard /usr/bin/redis-check-rdb),,redis-server) \
  $(if $(wildcard /usr/bin/$(EXPORTER)),,$(EXPORTER)) $(if $(wildcard /usr/bin/gcc),,gcc) \
  $(if $(RELIEF_PG_BIN)$(RELIEF_TEST_DSN)$(RELIEF_TEST_IMAGE)$(wildcard $(HEADERS)),,headers))
WANTED_VENV := Python 3.10 or later with venv (Debian: python3-venv)
WANTED_SERVER := PostgreSQL 14 or later with plpython3u (Debian 12: postgresql-plpython3-15), RELIEF_PG_BIN=its bin folder if elsewhere
HEADERS := /usr/lib/postgresql/*/lib/pgxs/src/makefiles/pgxs.mk
TESTED := mariadb-server-core mariadb-client-core redis-tools gcc libc6-dev
EXPORTER := prometheus-postgres-exporter
WANTED_TESTED := for the tests: pg_cron, mysql_fdw, MariaDB, Redis, gcc, the server's headers, an exporter (Debian 12: \
  postgresql-15-cron postgresql-15-mysql-fdw postgresql-server-dev-15 $(TESTED) $(EXPORTER))

packages:
	@if [ -z "$(MISSING_VENV)$(MISSING_SERVER)$(MISSING_TESTED)" ]; then exit 0; fi; \
	if ! { command -v apt-get && $(ROOT) true; } >/dev/null 2>&1; then \
	  printf 'Install: %s\n' $(if $(MISSING_VENV),"$(WANTED_VENV)") $(if $(MISSING_SERVER),"$(WANTED_SERVER)") \
	    $(if $(MISSING_TESTED),"$(WANTED_TESTED)") >&2; \
	  exit $(if $(MISSING_VENV),1,0); \
	fi; \
	$(ROOT) apt-get update -qq; \
	$(if $(MISSING_SERVER),$(INSTALL_SERVER)) \
	$(if $(MISSING_TESTED),$(INSTALL_TESTED)) \
	$(if $(MISSING_VENV),$(ROOT) apt-get install -qq -y python3-venv </dev/null)

# The version of a server that is there, else the distribution's. Debian's package creates and starts a cluster "main"; if
# there was none before, it goes again: no server is left running that nobody asked for.
define INSTALL_SERVER
version=$$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null | cut -d/ -f5 | sort -n | tail -1); \
	version=$${version:-$$(apt-cache depends postgresql | sed -n 's/.*Depends: postgresql-\([0-9]*\)$$/\1/p')}; \
	before=$$(ls -d /etc/postgresql/$$version/main 2>/dev/null); \
	$(ROOT) apt-get install -qq -y --no-install-recommends postgresql-$$version postgresql-plpython3-$$version </dev/null || exit; \
	[ -n "$$before" ] || [ ! -d /etc/postgresql/$$version/main ] || $(ROOT) pg_dropcluster --stop $$version main;
endef

# Extensions of the server that the tests start, and programs of other servers, in packages that start none, but for the exporter's: its
# service, if it wasn't there before, is stopped and kept from starting. Without them all but the tests that need them work: no reason to end here.
define INSTALL_TESTED
version=15; [ -e /usr/lib/postgresql/15/lib/plpython3.so ] \
	  || version=$$(ls /usr/lib/postgresql/*/lib/plpython3.so 2>/dev/null | cut -d/ -f5 | sort -n | tail -1); \
	for package in postgresql-$$version-cron postgresql-$$version-mysql-fdw postgresql-server-dev-$$version "$(TESTED)"; do \
	  $(ROOT) apt-get install -qq -y --no-install-recommends $$package </dev/null || echo "Install: $(WANTED_TESTED)" >&2; \
	done; \
	if [ ! -e /usr/bin/$(EXPORTER) ]; then \
	  if $(ROOT) apt-get install -qq -y --no-install-recommends $(EXPORTER) </dev/null; then \
	    $(ROOT) invoke-rc.d $(EXPORTER) stop >/dev/null 2>&1; $(ROOT) update-rc.d $(EXPORTER) disable; \
	  else echo "Install: $(WANTED_TESTED)" >&2; fi; \
	fi;
endef
