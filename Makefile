# All of this works in a fresh clone, on a machine with a Rust toolchain, a C linker and a package manager:
# tests/postgres finds PostgreSQL, or installs it.
#
# migrate, status and psql use the database of DATABASE_URL; without one, that of `make db`. `run` uses neither.

TARGET   := $(or $(CARGO_TARGET_DIR),target)
LOCKSTEP := "$(TARGET)/release/lockstep"
DB       := "$(TARGET)/db"
REGRESS  := "$(TARGET)/regress-sql"

FIND_DB  := test -n "$$DATABASE_URL" || DATABASE_URL=$$(tests/postgres url $(DB) 2>/dev/null); \
            export DATABASE_URL
NEED_DB  := $(FIND_DB); test -n "$$DATABASE_URL" || \
            { echo "no database: set DATABASE_URL, or start one with: make db" >&2; exit 1; }
UP       := MIGRATIONS_DIR=migrations $(LOCKSTEP) up
STATUS   := MIGRATIONS_DIR=migrations $(LOCKSTEP) status
PSQL     := "$$(command -v psql || echo "$$(tests/postgres bindir)/psql")" -X -d "$$DATABASE_URL"

# Most tests wait most of the time, for a poll or a server: on a small machine there may be more of them than cores.
THREADS  := $(or $(RUST_TEST_THREADS),$(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); \
            test "$$cores" -gt 6 && echo "$$cores" || echo 6))
TESTS    := RUST_TEST_THREADS=$(THREADS) tests/postgres with cargo test --locked

.PHONY: help toolchain postgres pgbouncer run test quick check deny soak \
        bench regress matrix dist image delivered build db db-stop psql migrate status new clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

# Before any build: what is missing is said at once, in one line; what can be installed is installed.
toolchain:
	@command -v cargo >/dev/null || { echo "make: no cargo here: install Rust, as https://rustup.rs says" >&2; exit 1; }
	@mkdir -p "$(TARGET)"; printf '#include <string.h>\nint main(void) { return 0; }\n' | \
	cc -x c -o "$(TARGET)/linked" - 2>/dev/null || \
	{ echo "make: no C compiler that links here: install it, on Debian with: apt-get install gcc libc6-dev" >&2; exit 1; }

postgres: toolchain
	@tests/postgres bindir >/dev/null

pgbouncer: postgres
	@tests/postgres pgbouncer >/dev/null

# On a database that lives no longer than the run, whatever the environment says of another one.
run: postgres build ## apply ./migrations to a throwaway PostgreSQL with the real binary, and show the status
	@tests/postgres with sh -ec 'run() { env -i PATH="$$PATH" TERM="$$TERM" MIGRATIONS_DIR=migrations \
	    DATABASE_URL="$$LOCKSTEP_TEST_DATABASE_URL" $(LOCKSTEP) "$$1"; }; run up; run status'

test: pgbouncer ## run all tests against a throwaway PostgreSQL
	$(TESTS)

matrix: pgbouncer ## run all tests against PostgreSQL 14 to 18, which it fetches by npm and pip
	RUST_TEST_THREADS=$(THREADS) tests/matrix $(ONLY)

# What most changes break, if they break anything: the loop to work in. `make test` has the last word.
quick: toolchain ## what takes less than a minute: unit tests, the repository's own, files, refusals, rules, the model
	cargo test --locked --bin lockstep
	$(TESTS) --test it -- contract::tidy contract::rules commands::help files:: lock::model

# The tests last, so that their verdict is the last thing to read.
check: pgbouncer ## formatting, clippy, documentation, tests: what CI runs
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --no-default-features -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items
	$(TESTS)

# Not a part of `check`: it asks the network for the list of known faults, which grows without any change here.
deny: ## dependencies: known faults, licences, origins; by cargo-deny, which it installs if need be
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny --locked check

# What `make test` does to the lock in one way out of nine, this does in all: every boundary of the wire protocol, every
# way to die, two hundred random rounds, and a larger model. And what measures time, which a busy machine does not like.
soak: ## the long tests of the lock; LOCKSTEP_SEED=... repeats a chaos
	LOCKSTEP_SOAK=1 $(TESTS) -- --include-ignored --nocapture \
	    kill_matrix cable chaos model healing down linear_time

# Only where there is /proc. It says nothing about right or wrong, so no other target runs it.
bench: ## what a migration costs, beside bare messages and psql: the table of `lockstep help cost`
	LOCKSTEP_ON_DISK=yes tests/postgres with cargo test --locked --release --test it -- --ignored --nocapture bench

# Fetched from the network, once, and not part of this repository.
regress: ## compare the lexer with psql and the server on PostgreSQL's own regression suite
	sql=$$(tests/regress-sql $(REGRESS)) && LOCKSTEP_REGRESS_SQL=$$sql \
	    $(TESTS) --test it regression_suite

dist: toolchain ## static binaries with manual, man page, completions, SBOM and checksums, in target/dist; DIST=... for others
	.ci/dist $(DIST)

image: toolchain ## the container image, by docker, podman or buildah
	.ci/dist image

delivered: toolchain postgres ## make both, and try them
	.ci/dist $(DIST)
	tests/postgres with tests/delivered

build: toolchain ## build the release binary
	cargo build --locked --release

db: ## start a private PostgreSQL that stays, and say how to reach it
	@url=$$(tests/postgres start $(DB)) && \
	echo "PostgreSQL runs; its log is $(TARGET)/db/log; make db-stop stops it" && \
	echo "export DATABASE_URL=$$url"

db-stop: ## stop it; its data stays until make clean
	@tests/postgres stop $(DB)

psql: ## open psql on the database
	@$(NEED_DB); $(PSQL)

migrate: build ## apply ./migrations to the database
	@$(NEED_DB); $(UP)

status: build ## show the database, the lock, and every migration
	@$(NEED_DB); $(STATUS)

new: build ## create an empty migration and the way back: make new name="add colour"
	@MIGRATIONS_DIR=migrations $(LOCKSTEP) new -- "$(name)"

clean: ## stop the private PostgreSQL, and remove all that was built
	@tests/postgres remove $(DB)
	cargo clean
