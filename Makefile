# All of this works in a fresh clone, on a machine with a Rust toolchain and a package manager:
# tests/postgres finds PostgreSQL, or installs it.
#
# run, migrate, status and psql use the database of DATABASE_URL; without one, that of `make db`.

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
            test "$$cores" -gt 4 && echo "$$cores" || echo 4))
TESTS    := RUST_TEST_THREADS=$(THREADS) tests/postgres with cargo test --locked

.PHONY: help run test quick check deny soak bench regress build db db-stop psql migrate status new clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

# Without a database it is one that lives no longer than the run.
run: build ## apply ./migrations with the real binary, show the status; needs no database
	@$(FIND_DB); \
	if test -n "$$DATABASE_URL"; then $(UP) && $(STATUS); \
	else tests/postgres with sh -ec \
	    'DATABASE_URL=$$LOCKSTEP_TEST_DATABASE_URL; export DATABASE_URL; $(UP); $(STATUS)'; fi

test: ## run all tests against a throwaway PostgreSQL
	$(TESTS)

# What most changes break, if they break anything: the loop to work in. `make test` has the last word.
quick: ## what takes less than a minute: unit tests, the repository's own, files, refusals, rules, the model
	cargo test --locked --bin lockstep
	$(TESTS) --test it -- contract::tidy contract::rules commands::help files:: lock::model

# The tests last, so that their verdict is the last thing to read.
check: ## formatting, clippy, documentation, tests: what CI runs
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
	tests/postgres with cargo test --locked --release --test it -- --ignored --nocapture bench

# Fetched from the network, once, and not part of this repository.
regress: ## compare the lexer with psql and the server on PostgreSQL's own regression suite
	sql=$$(tests/regress-sql $(REGRESS)) && LOCKSTEP_REGRESS_SQL=$$sql \
	    $(TESTS) --test it regression_suite

build: ## build the release binary
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
