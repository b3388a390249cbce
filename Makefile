# tlaw: `make demo`, `make test`; then `make`, `make install`, `make installcheck` as for any extension.
EXTENSION = tlaw
RELEASE = 0.1.0

PG_CONFIG ?= pg_config
override with_llvm = no
NO_INSTALLCHECK = 1

MODULE_big = tlaw
SHARED_SRCS = kernels/engine/machine.c kernels/engine/wire.c kernels/engine/spec.c $(wildcard kernels/stats/*.c)
OBJS = $(patsubst %.c,%.o,$(wildcard extension/*.c)) $(SHARED_SRCS:%.c=build/%.o)
PG_CPPFLAGS = -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers

# One fragment a noun, in the order in which they depend on each other.
SQL_PARTS = schema corpus study run worker checkpoint model dimension law plot column
SQL_FILES = $(wildcard $(SQL_PARTS:%=extension/%.sql))
DATA_built = tlaw--$(RELEASE).sql
SCRIPTS_built =
EXTRA_CLEAN = build tlaw_engine tlaw_cuda.so tlaw--$(RELEASE).sql results regression.diffs regression.out

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(PGXS),)
include $(PGXS)
else ifneq ($(filter-out test demo,$(or $(MAKECMDGOALS),all)),)
$(error $(PG_CONFIG) does not run: install the headers of a PostgreSQL server (Debian: postgresql-server-dev-15), or give PG_CONFIG=the path of another)
endif

# kernels/ is C11, declarations where they belong, and has loops to vectorise
$(SHARED_SRCS:.c=.o): override CFLAGS += -Wno-declaration-after-statement -O3
$(OBJS): $(wildcard extension/*.h kernels/engine/*.h kernels/stats/*.h) build/postgresql

# Which PostgreSQL the objects are for: with another PG_CONFIG they are compiled again.
build/postgresql: always
	@mkdir -p $(@D); $(PG_CONFIG) | cmp -s - $@ || $(PG_CONFIG) >$@
always:

tlaw--$(RELEASE).sql: $(SQL_FILES) Makefile
	{ printf '%s\n' '\echo Use "CREATE EXTENSION tlaw" to load this file. \quit'; cat $(SQL_FILES); } > $@

# ---- the engine: no PostgreSQL in it ----
include kernels/kernels.mk

all: tlaw_engine $(CUDA_LIBRARY)
install: install-engine
install-engine: tlaw_engine $(CUDA_LIBRARY)
	$(MKDIR_P) '$(DESTDIR)$(pkglibdir)'
	$(INSTALL_PROGRAM) tlaw_engine '$(DESTDIR)$(pkglibdir)/tlaw_engine'
	$(if $(CUDA_LIBRARY),$(INSTALL_SHLIB) $(CUDA_LIBRARY) '$(DESTDIR)$(pkglibdir)/$(CUDA_LIBRARY)')
uninstall: uninstall-engine
uninstall-engine:
	rm -f '$(DESTDIR)$(pkglibdir)/tlaw_engine' '$(DESTDIR)$(pkglibdir)/tlaw_cuda.so'
.PHONY: install-engine uninstall-engine

include regress/regress.mk
.PHONY: always demo test installcheck bench format lint
