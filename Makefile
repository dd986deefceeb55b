# Builds, installs and tests wahook.
#
#   make && make install     needs PostgreSQL's development files, jansson and libcurl; PG_CONFIG chooses the server
#   make installcheck        the SQL and isolation tests against a server that runs
#   make test | demo | bench set up what the machine lacks, build, install, and start a server of their own
#   make test-versions       the same tests on the servers of later Debian releases, in roots that are kept
#
# A list that has an order is written out here; a list without one is found by its pattern.

EXTENSION = wahook
MODULE_big = wahook

# The control file is the one place that holds the version; `make check-version` compares what repeats it.
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" wahook.control)

OBJS = $(patsubst %.c,%.o,src/wahook.c $(sort $(wildcard src/*/*.c)))

# The install script in its order: a part may use only what stands in the parts before it.
SQL_PARTS = src/core/install.sql src/core/levels.sql src/core/setting.sql src/core/event.sql src/core/counters.sql src/core/progress.sql src/core/seed.sql \
	src/agent/agents.sql src/conversation/tables.sql src/ingest/service_tables.sql src/ingest/tables.sql src/retry/tables.sql src/agent/tables.sql \
	src/conversation/state.sql src/conversation/functions.sql src/conversation/triggers.sql \
	src/ingest/functions.sql src/ingest/services.sql src/ingest/routes.sql \
	src/retry/backoff.sql src/retry/entry.sql src/retry/dead_letter.sql src/retry/retriable.sql \
	src/retry/service.sql src/retry/processor.sql src/retry/circuit.sql \
	src/ingest/rate_limit.sql src/agent/tokens.sql src/agent/config.sql src/agent/budget.sql src/agent/sessions.sql \
	src/agent/chat.sql src/agent/memory.sql src/agent/changes.sql src/agent/turns.sql src/agent/call.sql \
	src/monitor/rollup.sql src/monitor/views.sql src/monitor/metrics.sql src/monitor/retention.sql src/monitor/erase.sql src/monitor/agents.sql src/monitor/trace.sql src/monitor/session_cleanup.sql \
	src/worker/jobs.sql src/worker/worker_state.sql src/monitor/health.sql src/monitor/webhook_health.sql src/monitor/alerts.sql \
	src/monitor/dashboard_html.sql src/monitor/dashboard_data.sql src/monitor/dashboard.sql \
	src/worker/cron.sql src/worker/start.sql src/worker/http.sql \
	src/upgrade/import.sql src/upgrade/import_dead_letters.sql \
	src/core/grants.sql src/core/finish.sql

# pg_regress, in order. `install` comes first, because it creates the extension for the others.
REGRESS = install monitor rollup dashboard_admin health alerts contract seeds seeds_admin sessions agents_admin rate_limit circuits circuits_admin retention trace_admin \
	signature signature_admin receive fixtures lock claim claim_admin queue_admin attempts_admin places_admin conversation message_json \
	conversation_state dead_letters dead_letters_admin tokens token_counter_admin truncate handlers_admin services routes flags order intake_limit import extended http agent_memory_admin
# Those that a role with nothing but wahook_grant(role, 'service') runs again, the extension in a schema of its own.
REGRESS_SERVICE = monitor contract seeds sessions tokens truncate rate_limit circuits \
	signature receive fixtures lock claim conversation \
	conversation_state dead_letters

ISOLATION = $(patsubst test/isolation/specs/%.spec,%,$(sort $(wildcard test/isolation/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test/isolation --load-extension=$(EXTENSION)

install_script = $(EXTENSION)--$(EXTVERSION).sql
# The version before, whose upgrade script is assembled until this one is released; see src/upgrade/assemble.
FROM_VERSION := $(patsubst src/upgrade/from-%.sql,%,$(wildcard src/upgrade/from-*.sql))
upgrade_script = $(if $(FROM_VERSION),$(EXTENSION)--$(FROM_VERSION)--$(EXTVERSION).sql)
DATA_built = $(install_script) $(upgrade_script)
# What has been released: never edited.
DATA = $(sort $(wildcard src/upgrade/$(EXTENSION)--*.sql))
EXTRA_CLEAN = $(wildcard $(EXTENSION)--*.sql)

# The server's headers count as system headers, so that only our own code answers for its warnings. Packagers whose
# compiler is newer than the code, and warns of more, build with WERROR= .
WERROR ?= -Werror
PG_CPPFLAGS = -I$(srcdir)/src -isystem $(includedir_server) -DWAHOOK_VERSION='"$(EXTVERSION)"'
PG_CFLAGS = -fvisibility=hidden -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers $(WERROR)
SHLIB_LINK = -ljansson -lcurl

# JIT could only inline our functions, which are far too large to gain from it; without bitcode no clang is needed.
override with_llvm = no

.DEFAULT_GOAL := all

# A fresh machine has no pg_config, or one without PGXS: then `ready` fetches it and starts make anew.
PG_CONFIG ?= pg_config
export PG_CONFIG
PGXS := $(wildcard $(shell $(PG_CONFIG) --pgxs 2>/dev/null))
ifneq ($(PGXS),)
include $(PGXS)

# PGXS tracks no dependencies on headers. Every object depends on all of them: the whole builds in seconds.
$(OBJS): $(wildcard src/*.h src/*/*.h) $(EXTENSION).control Makefile

forgotten_parts = $(filter-out $(SQL_PARTS) src/upgrade/$(EXTENSION)--% src/upgrade/from-%,$(wildcard src/*/*.sql))

$(install_script): $(SQL_PARTS) $(wildcard src/*/*.sql) $(EXTENSION).control Makefile
	@$(if $(forgotten_parts),echo 'not in SQL_PARTS: $(forgotten_parts)' >&2; exit 1,:)
	@printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit' >$@.new
	@$(if $(SQL_PARTS),awk 'FNR == 1 { print "\n-- " FILENAME } 1' $(SQL_PARTS) >>$@.new)
	@mv $@.new $@

$(upgrade_script): src/upgrade/assemble src/upgrade/$(EXTENSION)--$(FROM_VERSION).sql src/upgrade/from-$(FROM_VERSION).sql $(install_script)
	@perl $(filter src/upgrade/%,$^) $(SQL_PARTS) >$@.new
	@mv $@.new $@
else
all install uninstall installcheck clean:
	@echo "PGXS was not found by $(PG_CONFIG): run test/lib/setup, or set PG_CONFIG" >&2; exit 1
endif

# --- the tests, the demo, the benchmark: each sets the machine up by itself

.PHONY: ready test test-versions demo bench check-version check-format format

# The demo and the benchmark use none of the tests' tools.
ready:
	@test/lib/setup $(if $(filter ready test,$(MAKECMDGOALS)),,server)
	@$(MAKE) --silent --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc)) all
	@test/lib/install

# TESTS narrows it, for example TESTS="regress" or TESTS="pgtap contract"; see test/run.
test: ready
	@test/run --no-build $(TESTS)

test-versions:
	@test/versions $(VERSIONS)

demo bench: ready
	@test/$@/run

check-version check-format:
	@test/$@

format:
	@test/check-format --fix

# For scripts: the value of a variable.
print-%:
	@echo $($*)
