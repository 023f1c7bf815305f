//! The rules that README opens with, one section each: tests that fail without them.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::support::words::DROPS_THE_INVALID_INDEX;
use crate::support::{Gate, Lockstep, Scratch, rows, wait_until};

// 1. Exactly once.

/// The three rows carry the number of the transaction that wrote them.
#[test]
fn a_migration_its_history_row_and_its_journal_row_commit_in_one_transaction() {
    let scratch = Scratch::migrated([(
        "20240101000000_a.up.sql",
        "CREATE TABLE proof AS SELECT pg_current_xact_id()::xid AS xid;",
    )]);
    let same = "SELECT h.xmin = p.xid AND j.xmin = p.xid FROM bun_migrations h, bun_migrations_journal j, proof p";
    assert_eq!(scratch.value(same), "t");
}

#[test]
fn killed_in_the_midst_of_a_migration_and_run_again_each_is_applied_once() {
    let scratch = with_a_gate();
    let mut gate = Gate::closed(&scratch);
    let running = patient(&scratch).spawn();
    gate.wait_for_visitor();
    assert_eq!(running.kill().signal, Some(9));
    // The server notices by itself, although the session waits and has nothing to send.
    wait_for_the_orphan(&scratch);
    assert_eq!(scratch.sql("SELECT version FROM runs"), ["1"], "the second was rolled back whole");
    gate.open();
    scratch.up().code(0);
    assert_each_ran_once(&scratch);
}

/// The orphan is let go in the same moment, so that it may well commit: both outcomes are right, half of one is not.
#[test]
fn killed_while_the_server_goes_on_and_run_again_at_once_each_is_applied_once() {
    for _ in 0..4 {
        let scratch = with_a_gate();
        let mut gate = Gate::closed(&scratch);
        let running = patient(&scratch).spawn();
        gate.wait_for_visitor();
        running.kill();
        gate.open();
        scratch.up().code(0);
        assert_each_ran_once(&scratch);
    }
}

/// A trigger makes the record slow, so that many of the kills fall between a migration's last statement and its commit.
#[test]
fn killed_again_and_again_at_any_moment_each_is_applied_once() {
    let scratch = Scratch::migrated([(
        "20240101000000_runs.up.sql",
        "CREATE TABLE runs (version text); INSERT INTO runs VALUES ('0');",
    )]);
    slow_down_the_record(&scratch, 0.01);
    for version in 1..=8 {
        let sql = format!("INSERT INTO runs VALUES ('{version}'); SELECT pg_sleep(0.005);");
        scratch.file(&format!("2024010100000{version}_run.up.sql"), sql);
    }
    for round in 0..16 {
        let running = scratch.lockstep(&["up"]).spawn();
        thread::sleep(Duration::from_millis(8 * round));
        running.kill();
    }
    scratch.up().code(0);
    let expected: Vec<String> = (0..=8).map(|version| version.to_string()).collect();
    assert_eq!(scratch.sql("SELECT version FROM runs ORDER BY version"), expected);
    assert_eq!(scratch.history().len(), 9);
    assert_eq!(scratch.value("SELECT count(DISTINCT name) FROM bun_migrations"), "9");
}

/// The build waits for an open transaction, so the kill leaves the INVALID index that PostgreSQL cannot roll back.
#[test]
fn killed_while_an_index_is_built_concurrently_the_next_run_builds_it() {
    let scratch = Scratch::migrated([("20240101000000_table.up.sql", "CREATE TABLE t (a int);")]);
    scratch.file("20240101000001_index.up.sql", "CREATE INDEX CONCURRENTLY t_a_idx ON t (a);");
    let mut writer = scratch.client();
    writer.batch_execute("BEGIN; INSERT INTO t VALUES (1)").expect("a row");
    let running = scratch.lockstep(&["up"]).spawn();
    let mut client = scratch.client();
    let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid AND indexrelid = to_regclass('t_a_idx')";
    wait_until("the build has begun", || rows(&mut client, invalid) == ["1"]);
    running.kill();
    wait_for_the_orphan(&scratch);
    assert_eq!(scratch.value(invalid), "1", "the leftover that is to be repaired");
    writer.batch_execute("COMMIT").expect("a commit");
    scratch.up().code(0).says(DROPS_THE_INVALID_INDEX);
    assert_eq!(
        scratch.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 't_a_idx'::regclass"),
        "t"
    );
    assert_eq!(scratch.history(), ["20240101000000", "20240101000001"]);
    assert_eq!(scratch.value("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass"), "1");
}

// 2. One at a time, and no lock to delete.

/// The first migration waits until all twenty are connected, so that they do meet.
#[test]
fn of_twenty_at_once_on_an_empty_database_one_works_and_all_exit_with_0() {
    let scratch = with_a_gate();
    let mut gate = Gate::closed(&scratch);
    let running: Vec<_> = (0..20).map(|_| patient(&scratch).spawn()).collect();
    let runners = "SELECT count(DISTINCT split_part(application_name, ' ', 2)) FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name LIKE 'lockstep/%'";
    gate.wait_for_visitor();
    let mut client = scratch.client();
    wait_until("all are connected", || rows(&mut client, runners) == ["20"]);
    gate.open();
    let outcomes: Vec<_> = running.into_iter().map(|it| it.wait()).collect();
    outcomes.iter().for_each(|outcome| {
        outcome.code(0);
    });
    let worked = outcomes.iter().filter(|outcome| outcome.stderr.contains("/3 applied ")).count();
    assert_eq!(worked, 1, "runners that applied something");
    assert_each_ran_once(&scratch);
    assert_eq!(scratch.sql("SELECT DISTINCT group_id FROM bun_migrations"), ["1"]);
    assert_eq!(scratch.value("SELECT count(*) FROM bun_migration_locks"), "0");
    let errors: Vec<_> = scratch
        .server_log()
        .into_iter()
        .filter(|it| it.contains("ERROR") || it.contains("FATAL"))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// Nobody deletes the row that a kill -9 leaves, and nobody has to wait for a timeout of some lease.
#[test]
fn the_lock_of_a_killed_runner_is_taken_over_without_help() {
    let scratch = with_a_gate();
    let mut gate = Gate::closed(&scratch);
    let running = patient(&scratch).spawn();
    gate.wait_for_visitor();
    running.kill();
    wait_for_the_orphan(&scratch);
    gate.open();
    assert_eq!(
        scratch.sql("SELECT id < 0, table_name FROM bun_migration_locks"),
        ["t|bun_migrations"]
    );
    scratch
        .lockstep(&["up"])
        .env("MIGRATION_LOCK_WAIT_SECONDS", "0")
        .run()
        .code(0)
        .is_silent_about("waiting for");
    assert_eq!(scratch.value("SELECT count(*) FROM bun_migration_locks"), "0");
    assert_each_ran_once(&scratch);
}

#[test]
fn a_second_runner_waits_for_the_first_and_finds_its_work_done() {
    let scratch = with_a_gate();
    let mut gate = Gate::closed(&scratch);
    let (first, mut second) = gate.queue(&patient(&scratch), &scratch.lockstep(&["up"]));
    // It names the first, and what that is doing.
    let guard = scratch.guard().expect("the first has the lock");
    second.wait_for_log(&format!("pid {guard}, lockstep/"));
    second.wait_for_log("running gate 20240101000001");
    assert_eq!(scratch.sql("SELECT version FROM runs"), ["1"]);
    gate.open();
    first.wait().code(0);
    second.wait().code(0).is_silent_about("applying");
    assert_each_ran_once(&scratch);
}

// 3. Each file is one transaction.

#[test]
fn a_failing_statement_undoes_its_whole_file_and_no_other() {
    let scratch = Scratch::with([
        ("20240101000000_a.up.sql", "CREATE TABLE a ();"),
        (
            "20240101000001_b.up.sql",
            "CREATE TABLE b1 (); CREATE TABLE b2 (); SELECT 1 / 0; CREATE TABLE b3 ();",
        ),
        ("20240101000002_c.up.sql", "CREATE TABLE c ();"),
    ]);
    scratch.up().code(1).says("(SQLSTATE 22012)");
    assert_eq!(tables(&scratch), ["a"]);
    assert_eq!(scratch.history(), ["20240101000000"]);
}

/// It is the file's own violation, although PostgreSQL would only speak up at the commit.
#[test]
fn a_violated_deferred_constraint_undoes_its_file() {
    let scratch = Scratch::with([
        (
            "20240101000000_a.up.sql",
            "CREATE TABLE a (id int PRIMARY KEY, parent int REFERENCES a DEFERRABLE INITIALLY DEFERRED);",
        ),
        ("20240101000001_b.up.sql", "CREATE TABLE b (); INSERT INTO a VALUES (1, 2);"),
    ]);
    let error = scratch.up().code(1).error();
    assert!(error.contains("20240101000001_b.up.sql"), "{error}");
    assert!(error.contains("(SQLSTATE 23503)"), "{error}");
    assert_eq!(tables(&scratch), ["a"]);
    assert_eq!(scratch.history(), ["20240101000000"]);
    // In the right order it is kept: not each statement is checked, but the file.
    scratch.file(
        "20240101000001_b.up.sql",
        "INSERT INTO a VALUES (1, 2); INSERT INTO a VALUES (2, NULL);",
    );
    scratch.up().code(0);
}

#[test]
fn a_statement_that_cannot_run_in_a_transaction_runs_alone_in_its_file() {
    let scratch = Scratch::migrated([
        (
            "20240101000000_t.up.sql",
            "CREATE TABLE t (a int) PARTITION BY LIST (a); CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); CREATE TABLE p (a int);",
        ),
        (
            "20240101000001_build.up.sql",
            "-- Large.\nCREATE UNIQUE INDEX CONCURRENTLY p_a_idx ON p (a);\n-- Done.",
        ),
        ("20240101000002_rebuild.up.sql", "REINDEX INDEX CONCURRENTLY p_a_idx"),
        ("20240101000003_detach.up.sql", "ALTER TABLE t DETACH PARTITION t1 CONCURRENTLY;"),
        ("20240101000004_vacuum.up.sql", "VACUUM (ANALYZE) p;"),
        ("20240101000005_partitioned.up.sql", "REINDEX TABLE t;"),
        ("20240101000006_drop.up.sql", "DROP INDEX CONCURRENTLY p_a_idx;"),
    ]);
    assert_eq!(scratch.history().len(), 7);
    assert_eq!(scratch.value("SELECT to_regclass('p_a_idx') IS NULL"), "t");
    assert_eq!(scratch.value("SELECT count(*) FROM pg_inherits"), "0");
    assert_eq!(
        scratch
            .value("SELECT count(*) FROM bun_migrations_journal WHERE finished_at >= started_at"),
        "7"
    );
}

// 4. Nothing pending, nothing touched.

/// Whatever is beyond reading is denied to the role, and would be an ERROR in the server's log even if it were caught.
#[test]
fn an_up_to_date_database_is_recognised_with_no_right_beyond_select() {
    let scratch = up_to_date();
    let reader = scratch.role("reader", "LOGIN");
    scratch.sql(&format!(
        "REVOKE ALL ON DATABASE {} FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC; \
         GRANT CONNECT ON DATABASE {0} TO {1}; GRANT USAGE ON SCHEMA public TO {1}; \
         GRANT SELECT ON bun_migrations, bun_migrations_journal, bun_migration_locks TO {1}",
        scratch.database, reader.name
    ));
    let up = || scratch.lockstep(&["up"]).env("DATABASE_URL", reader.url());
    up().run().code(0).is_up_to_date(1);
    assert_eq!(errors_logged(&scratch), 0);
    // It is the rights that the first run did without: with work to do they are missed.
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b ();");
    up().run().code(2).says("lacks INSERT on public.bun_migrations");
}

/// Reading is all that these locks let pass; and the guard is held, as by a runner at work.
#[test]
fn an_up_to_date_database_is_recognised_without_a_lock_and_without_a_wait() {
    let scratch = up_to_date();
    let mut other = scratch.client();
    other
        .batch_execute(&format!(
            "INSERT INTO bun_migration_locks (id, table_name) VALUES (-77, 'bun_migrations'); BEGIN; {GUARD}; \
             LOCK TABLE bun_migrations, bun_migrations_journal, bun_migration_locks IN EXCLUSIVE MODE"
        ))
        .expect("all locks");
    let up = scratch
        .lockstep(&["up"])
        .env("MIGRATION_LOCK_WAIT_SECONDS", "0")
        .env("LOG_LEVEL", "TRACE")
        .run();
    up.code(0).waits_for_nothing().is_silent_about("the guard");
}

/// Every row's version and every sequence's place are compared, in all tables that Lockstep has.
#[test]
fn an_up_to_date_database_is_not_written_to() {
    let scratch = up_to_date();
    let state = || {
        let rows = scratch.sql(
            "SELECT ctid, xmin, xmax, t FROM bun_migrations t; SELECT ctid, xmin, xmax, t FROM bun_migrations_journal t; \
             SELECT ctid, xmin, xmax, t FROM bun_migration_locks t; \
             SELECT * FROM bun_migrations_id_seq; SELECT * FROM bun_migration_locks_id_seq",
        );
        (rows, scratch.schema())
    };
    let before = state();
    assert_eq!(before.0.len(), 4);
    for _ in 0..3 {
        scratch.up().code(0);
    }
    assert_eq!(state(), before);
}

/// The one exception: a runner that died between its last commit and its release left a row, and bun would be shut out by
/// it for ever. A role that may not remove it leaves it, without a word in the server's log.
#[test]
fn a_row_that_a_dead_runner_left_on_an_up_to_date_database_is_removed_by_whoever_may() {
    let scratch = up_to_date();
    scratch.sql("INSERT INTO bun_migration_locks (id, table_name) VALUES (-77, 'bun_migrations')");
    let reader = scratch.role("reader", "LOGIN");
    scratch.sql(&format!(
        "GRANT SELECT ON bun_migrations, bun_migrations_journal, bun_migration_locks TO {}",
        reader.name
    ));
    let locks = || scratch.sql("SELECT id FROM bun_migration_locks");
    scratch.lockstep(&["up"]).env("DATABASE_URL", reader.url()).run().code(0);
    assert_eq!(locks(), ["-77"]);
    assert!(!scratch.server_log().iter().any(|line| line.contains("ERROR")));

    scratch
        .up()
        .code(0)
        .says("removed row -77 of public.bun_migration_locks, of a runner that is gone");
    assert_eq!(locks(), [""; 0]);
}

// 5. All complaints first. The texts are in `files/refusals.rs`.

#[test]
fn nothing_runs_before_everything_that_can_be_refused_was_looked_at() {
    let scratch = Scratch::with([
        ("20240101000000_fine.up.sql", "CREATE TABLE fine ();"),
        ("20240101000001_abort.up.sql", "CREATE TABLE a ();\n\nROLLBACK;"),
        ("20240101000002_copy.up.sql", "CREATE TABLE b ();\nCOPY b FROM STDIN;\n\\.\n"),
    ]);
    let error = scratch.up().code(2).error();
    assert!(error.contains("20240101000001_abort.up.sql:3:1: ROLLBACK "), "{error}");
    assert!(error.contains("20240101000002_copy.up.sql:2:1: COPY "), "{error}");
    assert_eq!(tables(&scratch), [""; 0]);
}

// 6. The exit code tells. Each code's own tests are in `exit_codes.rs`.

#[test]
fn success_is_told_if_and_only_if_the_database_is_where_the_files_are() {
    let scratch = Scratch::new();
    let all = ["20240101000000", "20240101000001", "20240101000002"];
    scratch.file("20240101000000_a.up.sql", "CREATE TABLE a ();");
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b (c varchr);");
    scratch.file("20240101000002_c.up.sql", "CREATE TABLE c ();");
    scratch.up().code(1).is_silent_about("up to date");
    assert_eq!(scratch.history(), all[..1]);
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b (c varchar); ROLLBACK;");
    scratch.up().code(2).is_silent_about("up to date");
    assert_eq!(scratch.history(), all[..1]);
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b (c varchar);");
    scratch.up().code(0).is_up_to_date(3).applied_now(2);
    assert_eq!(scratch.history(), all);
    scratch.up().code(0).is_up_to_date(3);
}

// 7. No silent wait, no endless wait.

/// A wait says so at once and every five seconds; this one takes seven.
#[test]
fn a_wait_for_another_runner_ends_at_its_deadline_and_names_it_every_few_seconds() {
    let scratch = up_to_date();
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b ();");
    let (mut other, pid) = guard_holder(&scratch);
    let started = Instant::now();
    let up = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "7").run();
    assert!(started.elapsed() >= Duration::from_secs(7), "it gave up early\n{up}");
    up.code(4);
    let told: Vec<_> = up
        .lines()
        .into_iter()
        .filter(|it| {
            it.field("message")
                .is_some_and(|it| it.contains("; gives up in ") || it.contains(", gives up in "))
        })
        .collect();
    assert_eq!(told.len(), 2, "{up}");
    let messages = told.iter().map(|line| line.field("message").expect("a message"));
    let messages: Vec<&str> = messages.collect();
    let whole = format!("waiting for another runner: pid {pid}, ");
    assert!(messages[0].starts_with(&whole), "{up}");
    assert!(messages[1].starts_with("still waiting, gives up in 2 s"), "{up}");
    other.batch_execute("COMMIT").expect("the end");
    scratch.up().code(0);
}

#[test]
fn a_wait_for_buns_lock_ends_at_its_deadline_and_names_the_row() {
    let scratch = up_to_date();
    scratch.sql("INSERT INTO bun_migration_locks (id, table_name) VALUES (42, 'bun_migrations')");
    let up = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "3").run();
    up.code(4).says("waiting for bun's lock, row 42 of public.bun_migration_locks");
    scratch.sql("DELETE FROM bun_migration_locks");
    scratch.up().code(0);
}

#[test]
fn a_wait_for_the_server_ends_at_its_deadline_and_names_it() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "SELECT 1;")]);
    let url = "postgres://postgres@127.0.0.1:1/nowhere";
    let up =
        scratch.lockstep(&["up"]).env("DATABASE_URL", url).env("DATABASE_WAIT_SECONDS", "3").run();
    up.code(3).says("waiting for the database at ").says("127.0.0.1:1");
}

#[test]
fn a_wait_for_a_table_ends_at_its_deadline_and_names_who_is_in_the_way() {
    let scratch = up_to_date();
    scratch.file("20240101000001_b.up.sql", "ALTER TABLE a ADD b int;");
    let (mut other, pid) = table_holder(&scratch);
    let up = scratch.lockstep(&["up"]);
    let up = up.env("DDL_LOCK_TIMEOUT_SECONDS", "0.05").env("DDL_LOCK_RETRY_SECONDS", "3").run();
    up.code(4)
        .says("waiting for a lock: 20240101000001_b.up.sql")
        .says(&format!("blocked by pid {pid}"));
    other.batch_execute("COMMIT").expect("the end");
    scratch.up().code(0);
}

// 8. No migration leaks into the next.

/// Between any two of the leaks, a probe writes down all that a session knows; every probe must find the same.
#[test]
fn what_a_migration_leaves_in_the_session_is_gone_before_the_next() {
    let scratch = Scratch::new();
    let role = scratch.role("powerless", "");
    let probe = |number: usize| format!("SELECT public.probe({number});");
    let leaks = leaks(&role.name);
    scratch.file("20240101000000_probe.up.sql", PROBE);
    scratch.file("20240101000001_probe.up.sql", probe(0));
    for (number, leak) in leaks.iter().enumerate() {
        scratch.file(&format!("20240101{:06}_leak.up.sql", 2 * number + 2), leak);
        scratch.file(&format!("20240101{:06}_probe.up.sql", 2 * number + 3), probe(number + 1));
    }
    scratch.up().code(0);
    for (number, leak) in leaks.iter().enumerate() {
        let seen = |at: usize| format!("SELECT what FROM seen WHERE at = {at}");
        let (before, after) = (seen(0), seen(number + 1));
        assert_eq!(scratch.sql(&format!("{after} EXCEPT {before}")), [""; 0], "new after: {leak}");
        assert_eq!(scratch.sql(&format!("{before} EXCEPT {after}")), [""; 0], "gone after: {leak}");
    }
    // And each was recorded, in the table and not in what a leak put before it.
    assert_eq!(scratch.history().len(), 2 * leaks.len() + 2);
    assert_eq!(
        scratch.value("SELECT count(*) FROM bun_migrations_journal"),
        (2 * leaks.len() + 2).to_string()
    );
}

/// What a migration leaves that would make the record fail, or go elsewhere.
fn leaks(powerless: &str) -> Vec<String> {
    let mut leaks: Vec<String> = [
        "SET search_path = '';",
        "SELECT pg_catalog.set_config('search_path', '', false);",
        "CREATE SCHEMA other; SET search_path = other; CREATE TABLE other.bun_migrations (LIKE public.bun_migrations); \
         CREATE TABLE other.bun_migrations_journal (LIKE public.bun_migrations_journal); \
         CREATE TABLE other.bun_migration_locks (LIKE public.bun_migration_locks);",
        // What an extension may do in good faith: names of its own before PostgreSQL's.
        "CREATE FUNCTION other.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'wrong'; END $$; \
         CREATE FUNCTION other.never(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false'; \
         CREATE OPERATOR other.= (LEFTARG = text, RIGHTARG = text, FUNCTION = other.never); \
         SET search_path = other, pg_catalog;",
        "CREATE TEMP TABLE bun_migrations (LIKE public.bun_migrations); CREATE TEMP TABLE leftover (a int); \
         CREATE TEMP TABLE bun_migrations_journal (LIKE public.bun_migrations_journal); \
         CREATE TEMP TABLE bun_migration_locks (LIKE public.bun_migration_locks);",
        "SET client_encoding = 'LATIN1'; SELECT 'é';",
        "SET standard_conforming_strings = off;",
        "SET application_name = 'somebody else';",
        "SET lock_timeout = '1s'; SET statement_timeout = '1min'; SET idle_session_timeout = '1s';",
        "SET default_transaction_isolation = 'repeatable read';",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY;",
        "SET session_replication_role = replica; SET row_security = off; SET check_function_bodies = off;",
        "SET client_min_messages = error; SET TIME ZONE 'Asia/Bangkok'; SET DateStyle = 'German';",
        "SET synchronous_commit = off; SET default_tablespace = 'pg_default'; SET work_mem = '64kB';",
        "SET plpgsql.extra_errors = 'all'; SET plpgsql.variable_conflict = 'use_column';",
        "SET LOCAL search_path = ''; SET LOCAL client_min_messages = error;",
        "RESET ALL;",
        "RESET ALL; RESET ROLE; SET SESSION AUTHORIZATION DEFAULT; DEALLOCATE ALL; UNLISTEN *;",
        "PREPARE leftover AS SELECT 1; PREPARE \"Left Over\" (int) AS SELECT $1;",
        "SELECT pg_advisory_lock(1), pg_advisory_lock_shared(2), pg_advisory_lock(3, 4), pg_advisory_lock(1);",
        "LISTEN leftover; LISTEN \"Left Over\"; NOTIFY leftover;",
        "DECLARE leftover CURSOR WITH HOLD FOR SELECT 1; DECLARE another SCROLL CURSOR WITH HOLD FOR SELECT 2;",
        "SELECT nextval('public.counter');",
        "SET CONSTRAINTS ALL DEFERRED;",
        "SAVEPOINT a; SAVEPOINT b; SET LOCAL search_path = '';",
    ]
    .map(str::to_owned)
    .into();
    leaks.push(format!("SET ROLE {powerless};"));
    leaks.push(format!("SET SESSION AUTHORIZATION {powerless};"));
    leaks.push(format!(
        "SET SESSION AUTHORIZATION {powerless}; SET ROLE NONE; SET search_path = '';"
    ));
    leaks
}

/// Writes down all that a session knows, whatever its `search_path`.
const PROBE: &str = "
CREATE SEQUENCE counter;
CREATE TABLE seen (at int, what text);
CREATE FUNCTION probe(at int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE last text := 'none';
BEGIN
  BEGIN
    last := pg_catalog.lastval();
  EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL;
  END;
  INSERT INTO public.seen
    SELECT at, pg_catalog.format('%s = %s', name, setting) FROM pg_catalog.pg_settings
    UNION ALL SELECT at, pg_catalog.format('user %s %s', current_user, session_user)
    UNION ALL SELECT at, 'last value ' || last
    UNION ALL SELECT at, 'temporary ' || relname FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()
    UNION ALL SELECT at, 'prepared ' || name FROM pg_catalog.pg_prepared_statements
    UNION ALL SELECT at, 'cursor ' || name FROM pg_catalog.pg_cursors WHERE is_holdable
    UNION ALL SELECT at, 'channel ' || c FROM pg_catalog.pg_listening_channels() c
    UNION ALL SELECT at, pg_catalog.format('lock %s %s %s', classid, objid, mode) FROM pg_catalog.pg_locks
      WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid();
END $$;
";

/// A trigger makes the record slow enough for the timeout that the file leaves behind.
#[test]
fn a_statement_timeout_that_a_migration_leaves_does_not_reach_the_record() {
    let scratch = up_to_date();
    slow_down_the_record(&scratch, 0.3);
    scratch.file("20240101000001_b.up.sql", "SET statement_timeout = '100ms';");
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), 2);
}

/// Without privileges and without a `search_path`, which are the migration's own, the trigger would fail.
#[test]
fn what_is_deferred_to_the_end_of_a_migration_runs_as_the_migration_left_it() {
    let scratch = Scratch::migrated([("20240101000000_a.up.sql", "CREATE SCHEMA other; CREATE TABLE other.a (who name); CREATE TABLE other.seen (who name);
         CREATE FUNCTION other.note() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO seen VALUES (current_user); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER note AFTER INSERT ON other.a DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION other.note();"), ("20240101000001_b.up.sql", "SET search_path = other; INSERT INTO a VALUES ('x');")]);
    assert_eq!(scratch.sql("SELECT who FROM other.seen"), ["postgres"]);
}

/// The server then answers in that encoding, in which the message is no UTF-8.
#[test]
fn an_encoding_that_a_migration_sets_does_not_garble_its_error() {
    let scratch = Scratch::with([(
        "20240101000000_a.up.sql",
        "SET client_encoding = 'LATIN1';\nSELECT 'é'::int;",
    )]);
    let error = scratch.up().code(1).error();
    assert!(
        error.contains("20240101000000_a.up.sql:2:8: invalid input syntax for type integer: "),
        "{error}"
    );
}

// 9. No secret is ever printed.

#[test]
fn the_password_is_in_no_output_whatever_fails() {
    let scratch = up_to_date();
    let server = scratch.url();
    let with_password = |url: &str| url.replace("postgres@", "postgres:hunter%32%C3%A9-secret@");
    let urls = [
        with_password(&server),
        with_password("postgres://postgres@127.0.0.1:1/nowhere"),
        with_password(&server).replace(&scratch.database, "no_such_database"),
        with_password(&server) + "?no_such_parameter=1",
        with_password(&server).replace("postgres://", "postgre://"),
        with_password(&server).replace(":hunter", ":%zzhunter"),
        format!("host=127.0.0.1 password=hunter2é-secret port=x dbname={}", scratch.database),
        format!("host=127.0.0.1 password='hunter2é-secret dbname={}", scratch.database),
    ];
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b (c varchr);");
    for url in urls {
        for format in ["json", "text"] {
            let up = scratch.lockstep(&["up"]).env("DATABASE_URL", &url).env("LOG_FORMAT", format);
            let up = up.env("LOG_LEVEL", "TRACE").env("DATABASE_QUERY_LOGGING_ENABLED", "true");
            let outcome = up.env("DATABASE_WAIT_SECONDS", "0").run();
            assert_ne!(outcome.code, Some(0), "{outcome}");
            for output in [&outcome.stdout, &outcome.stderr] {
                assert!(
                    !output.contains("hunter") && !output.contains("-secret"),
                    "{url}: {output}"
                );
            }
        }
    }
}

// 10. Never weaker than asked. Each parameter is a unit test's, and certificates are in `connection/tls.rs`.

/// The tests' server has no TLS.
#[test]
fn what_is_demanded_of_a_connection_and_cannot_be_had_is_refused() {
    let scratch = up_to_date();
    for (variable, demand) in [
        ("PGSSLMODE", "require"),
        ("PGCHANNELBINDING", "require"),
        ("PGREQUIREAUTH", "scram-sha-256"),
        ("PGSSLROOTCERT", "/nowhere/root.crt"),
        ("PGSSLCRLDIR", "/nowhere"),
        ("PGGSSENCMODE", "require"),
        ("PGMINPROTOCOLVERSION", "3.2"),
        ("DATABASE_SSL_ENABLED", "true"),
    ] {
        let run = scratch.lockstep(&["up"]).env(variable, demand);
        run.run().code(2);
    }
}

// What the tests above are made of.

/// Takes the guard of the history `bun_migrations`, as a runner does.
const GUARD: &str =
    "SELECT pg_advisory_xact_lock(1819239275, 'bun_migrations'::regclass::oid::int4)";

fn guard_holder(scratch: &Scratch) -> (Client, String) {
    let mut other = scratch.client();
    other.batch_execute(&format!("BEGIN; {GUARD}")).expect("the guard");
    let pid = rows(&mut other, "SELECT pg_backend_pid()").remove(0);
    (other, pid)
}

fn table_holder(scratch: &Scratch) -> (Client, String) {
    let mut other = scratch.client();
    other.batch_execute("BEGIN; LOCK TABLE a IN ACCESS SHARE MODE").expect("a lock");
    let pid = rows(&mut other, "SELECT pg_backend_pid()").remove(0);
    (other, pid)
}

/// A database in which one migration, that creates table `a`, is applied.
fn up_to_date() -> Scratch {
    Scratch::migrated([("20240101000000_a.up.sql", "CREATE TABLE a ();")])
}

/// Three migrations that each note that they ran; the second does so before and after passing a [`Gate`].
fn with_a_gate() -> Scratch {
    Scratch::with([
        (
            "20240101000000_first.up.sql",
            "CREATE TABLE runs (version text); INSERT INTO runs VALUES ('1');",
        ),
        (
            "20240101000001_gate.up.sql",
            &format!(
                "INSERT INTO runs VALUES ('2'); {} INSERT INTO runs VALUES ('2, behind the gate');",
                Gate::SQL
            ),
        ),
        ("20240101000002_last.up.sql", "INSERT INTO runs VALUES ('3');"),
    ])
}

fn assert_each_ran_once(scratch: &Scratch) {
    assert_eq!(scratch.sql("SELECT version FROM runs"), ["1", "2", "2, behind the gate", "3"]);
    assert_eq!(scratch.history(), ["20240101000000", "20240101000001", "20240101000002"]);
}

fn slow_down_the_record(scratch: &Scratch, seconds: f64) {
    scratch.sql(&format!(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM pg_catalog.pg_sleep({seconds}); RETURN NEW; END $$; \
         CREATE TRIGGER slowly BEFORE INSERT ON bun_migrations FOR EACH ROW EXECUTE FUNCTION slowly();"
    ));
}

/// `up` that stands before a gate for as long as it takes.
fn patient(scratch: &Scratch) -> Lockstep<'_> {
    scratch.lockstep(&["up"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0")
}

fn wait_for_the_orphan(scratch: &Scratch) {
    let sessions = "SELECT count(*) FROM pg_stat_activity \
                    WHERE datname = current_database() AND application_name LIKE 'lockstep/%'";
    let mut client = scratch.client();
    wait_until("the server has ended the orphan", || rows(&mut client, sessions) == ["0"]);
}

/// The user's own tables.
fn tables(scratch: &Scratch) -> Vec<String> {
    scratch.sql(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
         AND relname NOT LIKE 'bun\\_%' ORDER BY relname",
    )
}

fn errors_logged(scratch: &Scratch) -> usize {
    scratch
        .server_log()
        .iter()
        .filter(|line| line.contains("ERROR") || line.contains("FATAL"))
        .count()
}
