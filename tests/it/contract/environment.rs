//! Each environment variable, through the real binary: that it has its effect. How values are read, which source goes
//! before which, and what complaints say are unit tests of `config`.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;

use crate::support::words::WAITS_FOR_BUN;
use crate::support::{Lockstep, Outcome, Scratch, text};

const FILE: &str = "20240101000000_a.up.sql";
const OTHER_FILE: &str = "20240102000000_b.up.sql";

/// Every variable, as the manual lists them; a unit test holds its table against the code's.
fn variables() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/manual/environment.md");
    let manual = fs::read_to_string(path).expect("the manual");
    let rows = manual.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split_once('`').map(|(name, _)| name.to_owned()));
    let names: Vec<String> = names.collect();
    assert!(names.len() > 40, "{names:?}");
    names
}

/// A scratch with one migration, which notes who and where it was and with which settings it ran.
pub fn scratch() -> Scratch {
    Scratch::with([(FILE, "CREATE TABLE noted AS SELECT session_user AS who, application_name AS application,
           current_setting('lock_timeout') AS lock_timeout, current_setting('statement_timeout') AS statement_timeout,
           client_addr IS NULL AS by_socket FROM pg_stat_activity WHERE pid = pg_backend_pid()")])
}

impl Scratch {
    pub fn noted(&self, column: &str) -> String {
        self.value(&format!("SELECT {column} FROM noted"))
    }

    /// `lockstep up` that is not told where the server is.
    pub fn lost(&self) -> Lockstep<'_> {
        self.lockstep(&["up"]).without("DATABASE_URL")
    }
}

/// A run with these variables, and what it complains of.
#[track_caller]
pub fn complaints(run: Lockstep<'_>, variables: &[(&str, &str)]) -> Vec<String> {
    let run = variables.iter().fold(run, |run, (name, value)| run.env(name, *value));
    let outcome = run.run();
    outcome.code(2);
    assert_eq!(outcome.stdout, "", "{outcome}");
    let error = outcome.error();
    let (first, rest) = error.split_once('\n').unwrap_or((&error, ""));
    assert_eq!(first, "the environment cannot be used; nothing was changed", "{outcome}");
    rest.lines().map(|line| line.trim_start().to_owned()).collect()
}

/// The deadline of a wait, from its first line in the log: what it has waited and what remains.
fn deadline_ms(outcome: &Outcome) -> f64 {
    let lines = outcome.lines();
    let said = lines.iter().find(|line| line.field("remaining_ms").is_some());
    let said = said.unwrap_or_else(|| panic!("no line says what it waits for\n{outcome}"));
    let number = |name| said.field(name).and_then(|value| value.parse::<f64>().ok()).expect(name);
    number("waited_ms") + number("remaining_ms")
}

/// Asserts that it is `seconds`, give or take the moment between two looks at the clock.
#[track_caller]
fn assert_deadline(outcome: &Outcome, seconds: f64) {
    let told = deadline_ms(outcome);
    assert!((told - seconds * 1000.0).abs() < 500.0, "{told} ms, not {seconds} s\n{outcome}");
}

/// What each says is a unit test's. Here: all of it, in the manual's order, and nothing was touched.
#[test]
fn all_complaints_come_at_once_in_the_manuals_order() {
    let scratch = scratch();
    let wrong = [
        ("LOG_LEVEL", "LOUD"),
        ("MIGRATION_ORDER", "Strict"),
        ("MIGRATIONS_TABLE", "a b"),
        ("PGPORT", "0"),
        ("DATABASE_URL", "hots=h"),
        ("RUN_DATABASE_MIGRATIONS", "yes"),
    ];
    // The bare command, too, judges all of it once its own switch is unusable.
    for command in [&["up"][..], &[]] {
        let told = complaints(scratch.lockstep(command), &wrong);
        let named = told.iter().filter_map(|line| line.split_once(": "));
        let named: Vec<&str> = named.map(|(name, _)| name).collect();
        let expected: Vec<&str> = wrong.iter().rev().map(|(name, _)| *name).collect();
        assert_eq!(named, expected);
    }
    assert_eq!(scratch.history(), [""; 0]);
}

#[test]
fn a_variable_that_is_empty_counts_as_unset() {
    let scratch = scratch();
    let (url, directory) = (scratch.url(), text(&scratch.migrations()));
    let names = variables();
    let run = names.iter().fold(scratch.lockstep(&["up"]), |run, name| run.env(name, ""));
    let outcome = run.env("DATABASE_URL", url).env("MIGRATIONS_DIR", directory).run();
    outcome.code(0);
    assert_eq!(scratch.history().len(), 1, "{outcome}");
    assert_eq!(scratch.noted("lock_timeout"), "5s");
    assert_eq!(scratch.noted("statement_timeout"), "0");
    assert_eq!(scratch.noted("split_part(application, '/', 1)"), "lockstep");
    assert_eq!(scratch.value("SELECT count(*) FROM bun_migration_locks"), "0");
    // Not a line below INFO, and text.
    let lines = outcome.stderr.lines();
    assert!(lines.clone().count() > 0, "{outcome}");
    lines.for_each(|line| assert!(line.contains("Z INFO  "), "{outcome}"));
}

#[test]
fn migrations_are_switched_off_unless_the_variable_is_true() {
    let scratch = scratch();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/{}", scratch.database);
    for value in [
        None,
        Some(""),
        Some("0"),
        Some("f"),
        Some("F"),
        Some("false"),
        Some("FALSE"),
        Some("False"),
    ] {
        let run = scratch.lockstep(&[]).env("DATABASE_URL", &url);
        let run =
            value.into_iter().fold(run, |run, value| run.env("RUN_DATABASE_MIGRATIONS", value));
        let outcome = run.run();
        outcome.code(0);
        let lines = outcome.lines();
        let told: Vec<_> =
            lines.iter().map(|line| (line.field("level"), line.field("message"))).collect();
        let message = "migrations are switched off: RUN_DATABASE_MIGRATIONS is not true";
        assert_eq!(told, [(Some("info"), Some(message))], "{outcome}");
        assert_eq!(outcome.stdout, "");
    }
    let connection = listener.accept().map_err(|error| error.kind());
    assert!(matches!(connection, Err(ErrorKind::WouldBlock)), "it connected: {connection:?}");
}

/// The same listener does see a connection when migrations are switched on, so the test above could have failed.
#[test]
fn migrations_that_are_switched_on_connect() {
    let scratch = scratch();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let url = format!("postgres://postgres@127.0.0.1:{port}/{}", scratch.database);
    let run = scratch.lockstep(&[]).env("RUN_DATABASE_MIGRATIONS", "true").env("DATABASE_URL", url);
    let running = run.spawn();
    listener.accept().expect("a connection");
    drop(running);
}

#[test]
fn where_migrations_are_switched_off_nothing_else_is_judged() {
    let scratch = Scratch::new();
    let names = variables();
    let others = names.iter().filter(|name| *name != "RUN_DATABASE_MIGRATIONS");
    let run = others.fold(scratch.lockstep(&[]), |run, name| run.env(name, "/\u{7f} wrong"));
    let outcome = run.run();
    outcome.code(0).says("RUN_DATABASE_MIGRATIONS is not true");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome}");
}

#[test]
fn what_is_asked_for_by_name_needs_no_switch() {
    let scratch = scratch();
    scratch.lockstep(&["up"]).env("RUN_DATABASE_MIGRATIONS", "false").run().code(0);
    assert_eq!(scratch.history().len(), 1);
}

#[test]
fn waits_for_the_server_as_long_as_it_is_told() {
    let scratch = scratch();
    let place = format!("host={} user=u dbname=d", text(&scratch.directory));
    let nobody = || scratch.lockstep(&["up"]).env("DATABASE_URL", &place);
    let outcome = nobody().env("DATABASE_WAIT_SECONDS", "0").run();
    outcome.code(3).is_silent_about("waiting for");
    assert!(outcome.error().starts_with("the database could not be reached within "), "{outcome}");

    let outcome = nobody().env("DATABASE_WAIT_SECONDS", "3").run();
    outcome.code(3).says("waiting for the database at ");
    assert_deadline(&outcome, 3.0);

    for unset in [None, Some("")] {
        let run = nobody();
        let mut running =
            unset.into_iter().fold(run, |run, it| run.env("DATABASE_WAIT_SECONDS", it)).spawn();
        running.wait_for_log("waiting for the database at ");
        assert_deadline(&running.kill(), 60.0);
    }
}

#[test]
fn waits_for_another_runner_as_long_as_it_is_told() {
    let scratch = scratch();
    scratch.up().code(0);
    scratch.file(OTHER_FILE, "SELECT 1");
    scratch.sql("INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations')");

    let outcome = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "0").run();
    outcome.code(4).is_silent_about("waiting for");
    let outcome = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "3").run();
    outcome.code(4);
    assert_deadline(&outcome, 3.0);

    let mut running = scratch.lockstep(&["up"]).spawn();
    running.wait_for_log(WAITS_FOR_BUN);
    scratch.sql("DELETE FROM bun_migration_locks");
    let outcome = running.wait();
    outcome.code(0);
    assert_deadline(&outcome, 300.0);
    assert_eq!(scratch.history().len(), 2);
}

#[test]
fn a_migration_has_the_timeouts_it_is_told_whatever_the_database_says() {
    for (lock, statement, expected) in [
        (None, None, "5s|0"),
        (Some(""), Some(""), "5s|0"),
        (Some("0"), Some("0"), "0|0"),
        (Some("0.25"), Some("90"), "250ms|90s"),
    ] {
        let scratch = scratch();
        scratch.sql(&format!(
            "ALTER DATABASE {0} SET lock_timeout = '7s'; ALTER DATABASE {0} SET statement_timeout = '8s'",
            scratch.database
        ));
        let run = scratch.lockstep(&["up"]);
        let run =
            lock.into_iter().fold(run, |run, value| run.env("DDL_LOCK_TIMEOUT_SECONDS", value));
        let run = statement
            .into_iter()
            .fold(run, |run, value| run.env("STATEMENT_TIMEOUT_SECONDS", value));
        run.run().code(0);
        assert_eq!(scratch.noted("lock_timeout, statement_timeout"), expected);
    }
}

#[test]
fn a_locked_table_is_tried_again_as_long_as_it_is_told() {
    let scratch = Scratch::new();
    scratch.sql("CREATE TABLE t (a int)");
    scratch.file(FILE, "ALTER TABLE t ADD b int");
    let mut client = scratch.client();
    client.batch_execute("BEGIN; LOCK TABLE t").expect("a lock");
    let up = || scratch.lockstep(&["up"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0.05");

    let outcome = up().env("DDL_LOCK_RETRY_SECONDS", "0").run();
    outcome.code(4).is_silent_about("waiting for");
    let outcome = up().env("DDL_LOCK_RETRY_SECONDS", "3").run();
    outcome.code(4);
    assert_deadline(&outcome, 3.0);

    let mut running = up().spawn();
    running.wait_for_log("waiting for a lock: ");
    client.batch_execute("COMMIT").expect("the lock is gone");
    let outcome = running.wait();
    outcome.code(0);
    assert_deadline(&outcome, 120.0);
}

#[test]
fn the_statement_timeout_stops_a_statement() {
    let scratch = Scratch::with([(FILE, "CREATE TABLE t ();\nSELECT pg_sleep(600);")]);
    // What is finer than the server's millisecond does not become none.
    for timeout in ["0.2", "0.0001"] {
        let outcome = scratch.lockstep(&["up"]).env("STATEMENT_TIMEOUT_SECONDS", timeout).run();
        // Under load the server may take it for a cancel request, and words it so.
        outcome.code(1).says("(SQLSTATE 57014)");
        assert_eq!(scratch.history(), [""; 0]);
    }
}

#[test]
fn migrations_are_where_the_variable_says_or_in_migrations() {
    let scratch = Scratch::with([(FILE, "SELECT 1")]);
    scratch.lockstep(&["up"]).without("MIGRATIONS_DIR").run().code(0);
    assert_eq!(scratch.history(), ["20240101000000"]);

    let elsewhere = scratch.directory.join("else where/deep");
    fs::create_dir_all(&elsewhere).expect("a directory");
    fs::write(elsewhere.join(OTHER_FILE), "SELECT 2").expect("a file");
    scratch.lockstep(&["up"]).env("MIGRATIONS_DIR", "else where").run().code(0);
    assert_eq!(scratch.history(), ["20240101000000", "20240102000000"]);

    let outcome = scratch.lockstep(&["up"]).env("MIGRATIONS_DIR", "nowhere").run();
    outcome.code(2);
    assert_eq!(
        outcome.error(),
        "the migration files cannot be used; nothing was changed\n  \
         nowhere: no such directory (MIGRATIONS_DIR says where migrations are)"
    );
}

#[test]
fn the_tables_are_called_what_the_variables_say() {
    let scratch = scratch();
    scratch.sql("CREATE SCHEMA meta");
    let run = scratch.lockstep(&["up"]).env("MIGRATIONS_TABLE", "Meta.History");
    run.env("MIGRATION_LOCKS_TABLE", "\"meta\".\"The Locks\"").run().code(0);
    let tables =
        "SELECT string_agg(format('%s.%s', schemaname, tablename), ', ' ORDER BY tablename)
                  FROM pg_tables WHERE schemaname IN ('meta', 'public')";
    assert_eq!(
        scratch.value(tables),
        "meta.The Locks, meta.history, meta.history_journal, public.noted"
    );
    assert_eq!(scratch.sql("SELECT name FROM meta.history"), ["20240101000000"]);

    // The row of another runner counts in that table only, and under that name.
    scratch.file(OTHER_FILE, "SELECT 1");
    scratch.sql("INSERT INTO meta.\"The Locks\" (table_name) VALUES ('Meta.History')");
    let run = scratch.lockstep(&["up"]).env("MIGRATIONS_TABLE", "Meta.History");
    let run = run.env("MIGRATION_LOCKS_TABLE", "\"meta\".\"The Locks\"");
    run.env("MIGRATION_LOCK_WAIT_SECONDS", "0").run().code(4);
}

#[test]
fn older_files_are_applied_with_a_warning_unless_the_order_is_strict() {
    for (order, code) in [(None, 0), (Some(""), 0), (Some("any"), 0), (Some("strict"), 5)] {
        let scratch = Scratch::migrated([(OTHER_FILE, "SELECT 1")]);
        scratch.file(FILE, "CREATE TABLE late ()");
        let run = scratch.lockstep(&["up"]);
        let run = order.into_iter().fold(run, |run, order| run.env("MIGRATION_ORDER", order));
        let outcome = run.run();
        outcome.code(code);
        let applied = scratch.value("SELECT to_regclass('late') IS NOT NULL");
        assert_eq!(applied, if code == 0 { "t" } else { "f" }, "{outcome}");
        let lines = outcome.lines();
        let warned = lines.iter().any(|line| {
            line.field("level") == Some("warn") && line.field("version") == Some("20240101000000")
        });
        assert_eq!(warned, code == 0, "{outcome}");
    }
}

#[test]
fn a_divergence_is_refused_unless_it_is_only_to_be_warned_of() {
    for (policy, code) in [(None, 5), (Some(""), 5), (Some("refuse"), 5), (Some("warn"), 0)] {
        let scratch = scratch();
        scratch.up().code(0);
        scratch.file(FILE, "SELECT 'edited'");
        scratch.file(OTHER_FILE, "CREATE TABLE next ()");
        let run = scratch.lockstep(&["up"]);
        let run =
            policy.into_iter().fold(run, |run, policy| run.env("MIGRATION_DIVERGENCE", policy));
        let outcome = run.run();
        outcome.code(code).says("20240101000000 modified");
        assert_eq!(scratch.history().len(), if code == 0 { 2 } else { 1 }, "{outcome}");
        let lines = outcome.lines();
        assert_eq!(
            lines.iter().any(|line| line.field("level") == Some("warn")),
            code == 0,
            "{outcome}"
        );
    }
}
