//! Each exit code, by real situations. Those that are worth another try are tried again, with success.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::words::{WAITS_FOR_A_RUNNER, WAITS_FOR_THE_DATABASE};
use crate::support::{Gate, Lockstep, Scratch, admin, rows, wait_until};

// 0

#[test]
fn exit_0_when_migrations_are_switched_off_without_a_look_at_anything_else() {
    let scratch = Scratch::with([("bad name.sql", "")]);
    for switch in [None, Some(""), Some("false"), Some("0")] {
        let start =
            scratch.lockstep(&[]).env("DATABASE_URL", NOWHERE).env("MIGRATIONS_TABLE", "\"");
        let start = match switch {
            None => start,
            Some(value) => start.env("RUN_DATABASE_MIGRATIONS", value),
        };
        let outcome = start.run();
        outcome.code(0).says("migrations are switched off: RUN_DATABASE_MIGRATIONS is not true");
        assert_eq!(outcome.lines().len(), 1, "{outcome}");
    }
}

#[test]
fn exit_0_when_the_database_is_at_the_newest_migration() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    scratch.lockstep(&[]).env("RUN_DATABASE_MIGRATIONS", "true").run().code(0).applied_now(1);
    scratch
        .lockstep(&[])
        .env("RUN_DATABASE_MIGRATIONS", "true")
        .run()
        .code(0)
        .says("up to date: 1 migration");
    // Asked for by name it needs no switch, and heeds none.
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b ();");
    scratch.lockstep(&["up"]).env("RUN_DATABASE_MIGRATIONS", "false").run().code(0).applied_now(1);
    assert_eq!(scratch.history(), ["20240101000000", "20240101000001"]);
}

#[test]
fn exit_0_when_a_command_did_its_work() {
    let scratch = Scratch::new();
    for arguments in [
        &["help"][..],
        &["--help"],
        &["-h"],
        &["--version"],
        &["-V"],
        &["up", "--help"],
        &["help", "up"],
    ] {
        let outcome = scratch.lockstep(arguments).without("DATABASE_URL").run();
        outcome.code(0);
        assert!(!outcome.stdout.is_empty() && outcome.stderr.is_empty(), "{outcome}");
    }
}

// 1

#[test]
fn exit_1_when_a_migration_failed() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    let failing = [
        "SELEC 1;",
        "SELECT 1; SELECT 'open",
        "SELECT 1 / 0;",
        "CREATE TABLE a ();",
        "DO $$ BEGIN RAISE EXCEPTION 'no'; END $$;",
        "SET ROLE no_such_role;",
        // What the server says of itself elsewhere, and would be worth another try there, is the file's doing here.
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '57P03', MESSAGE = 'no'; END $$;",
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '28P01', MESSAGE = 'no'; END $$;",
        "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '08006', MESSAGE = 'no'; END $$;",
        "CREATE INDEX CONCURRENTLY a_idx ON a (no_such_column);",
        "VACUUM no_such_table;",
    ];
    for text in failing {
        scratch.file("20240101000001_b.up.sql", text);
        let up = scratch.up();
        assert_eq!(up.code, Some(1), "{text}\n{up}");
        assert_eq!(scratch.history(), ["20240101000000"], "{text}");
    }
}

/// They have SQLSTATEs that no server uses, but a file may.
#[test]
fn exit_1_when_a_migration_pretends_to_be_one_of_our_own_statements() {
    let scratch = with_pending();
    let pretend = |code: &str| {
        scratch.file(
            "20240101000001_b.up.sql",
            format!(
                "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{code}', MESSAGE = 'no'; END $$;"
            ),
        );
        (code.to_owned(), scratch.up().code)
    };
    let codes = ["LK000", "LK001", "LK002", "LK003", "LK004", "LK005"];
    assert_eq!(codes.map(pretend), codes.map(|code| (code.to_owned(), Some(1))));
    scratch.file(
        "20240101000001_b.up.sql",
        "SELECT 1; DO $$ BEGIN RAISE INFO USING ERRCODE = 'LK000', MESSAGE = 'committed'; END $$; SELECT 1 / 0;",
    );
    scratch.up().code(1).says("(SQLSTATE 22012)");
    assert_eq!(scratch.history(), ["20240101000000"]);
}

#[test]
fn exit_1_when_a_statement_took_longer_than_it_may() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "SELECT pg_sleep(60);")]);
    scratch
        .lockstep(&["up"])
        .env("STATEMENT_TIMEOUT_SECONDS", "0.05")
        .run()
        .code(1)
        .says("(SQLSTATE 57014)");
}

/// Two rows that differ in nothing but case: the index cannot be built, and leaves an INVALID one.
#[test]
fn exit_1_when_an_index_could_not_be_built_and_0_once_the_cause_is_gone() {
    let scratch = Scratch::with([
        ("20240101000000_a.up.sql", "CREATE TABLE a (b text); INSERT INTO a VALUES ('x'), ('X');"),
        ("20240101000001_b.up.sql", "CREATE UNIQUE INDEX CONCURRENTLY a_b_idx ON a (lower(b));"),
    ]);
    scratch.up().code(1).says("(SQLSTATE 23505)");
    assert_eq!(scratch.history(), ["20240101000000"]);
    scratch.sql("DELETE FROM a WHERE b = 'X'");
    scratch.up().code(0);
    assert_eq!(
        scratch.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_b_idx'::regclass"),
        "t"
    );
}

// 2

#[test]
fn exit_2_when_the_command_line_is_not_understood() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    for arguments in [&["upp"][..], &["--uo"], &["up", "now"], &["--version", "1"], &[""], &["UP"]]
    {
        let outcome = scratch.lockstep(arguments).run();
        outcome.code(2);
        assert_eq!(outcome.stdout, "");
        assert_eq!(outcome.stderr.lines().count(), 1, "one line\n{outcome}");
    }
    assert_eq!(scratch.history(), [""; 0]);
}

#[test]
fn exit_2_when_the_environment_is_unusable() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    scratch
        .lockstep(&["up"])
        .env("MIGRATION_ORDER", "random")
        .run()
        .code(2)
        .says("MIGRATION_ORDER: ");
    scratch
        .lockstep(&[])
        .env("RUN_DATABASE_MIGRATIONS", "yes")
        .run()
        .code(2)
        .says("RUN_DATABASE_MIGRATIONS: ");
    assert_eq!(scratch.history(), [""; 0]);
}

#[test]
fn exit_2_when_the_files_are_unusable() {
    let scratch = Scratch::with([("a.sql", "CREATE TABLE a ();")]);
    scratch.up().code(2).says("a.sql: not a migration's name");
    assert_eq!(scratch.history(), [""; 0]);
}

#[test]
fn exit_2_at_once_when_the_server_refuses_our_credentials() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    let role = scratch.passworded("passworded", "right");
    let up = |password: &str| {
        let url = role.url().replace(&role.name, &format!("{}{password}", role.name));
        scratch.lockstep(&["up"]).env("DATABASE_URL", url).run()
    };
    up(":wrong").code(2).says("(SQLSTATE 28P01)").waits_for_nothing();
    up("").code(2).waits_for_nothing();
    up(":right").code(0);
}

#[test]
fn exit_2_at_once_when_the_database_takes_no_connections() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    let allow = |allow: bool| {
        admin()
            .batch_execute(&format!(
                "ALTER DATABASE {} ALLOW_CONNECTIONS {allow}",
                scratch.database
            ))
            .expect("altered");
    };
    allow(false);
    scratch.up().code(2).says("(SQLSTATE 55000)").waits_for_nothing();
    allow(true);
    scratch.up().code(0);
}

#[test]
fn exit_2_at_once_when_there_is_no_such_role_or_database() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    let up = |url: String| scratch.lockstep(&["up"]).env("DATABASE_URL", url).run();
    let database = scratch.url().replace(&scratch.database, "no_such_database");
    up(database).code(2).says("(SQLSTATE 3D000)").waits_for_nothing();
    let role = scratch.url().replace("postgres@", "no_such_role@");
    up(role).code(2).says("(SQLSTATE 28000)").waits_for_nothing();
    let powerless = scratch.role("powerless", "LOGIN");
    scratch.sql(&format!("REVOKE ALL ON DATABASE {} FROM PUBLIC", scratch.database));
    up(powerless.url()).code(2).says("(SQLSTATE 42501)").waits_for_nothing();
}

#[test]
fn exit_2_when_the_role_may_not_create_the_history() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    let role = scratch.role("powerless", "LOGIN");
    let before = scratch.schema();
    scratch
        .lockstep(&["up"])
        .env("DATABASE_URL", role.url())
        .run()
        .code(2)
        .says("(SQLSTATE 42501)");
    assert_eq!(scratch.schema(), before);
}

#[test]
fn exit_2_when_a_pending_file_cannot_be_run() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a (); ROLLBACK;")]);
    scratch.up().code(2);
    assert_eq!(scratch.value("SELECT to_regclass('a') IS NULL"), "t");
}

#[test]
fn exit_2_when_nobody_gets_the_answer_and_what_was_done_is_done() {
    if !Path::new("/dev/full").exists() {
        eprintln!("skipped: there is no /dev/full to write to in vain");
        return;
    }
    let scratch = Scratch::new();
    let into = |target: &str, arguments: &[&str]| {
        let script = format!("exec \"$@\" {target}");
        let wrapper = ["/bin/sh", "-c", &script, "sh"];
        let run = scratch.lockstep(arguments).under(&wrapper.map(str::to_owned));
        run.env("PATH", "/usr/local/bin:/usr/bin:/bin").run()
    };
    scratch.file("20240101000000_a.up.sql", "SELECT 1");
    let lost = "the answer could not be written to stdout: No space left on device";
    for arguments in [&["help"][..], &["--version"], &["status"], &["status", "--json"], &["plan"]]
    {
        into(">/dev/full", arguments).code(2).says(lost);
        // Who has read enough, or wants nothing, is another matter.
        let outcome = into("| true", arguments);
        assert_eq!(outcome.stderr, "", "{outcome}");
        into(">&-", arguments).code(0);
    }
    // The code is the answer, and the reason is not lost.
    into(">/dev/full", &["check"]).code(6).says(lost).says("1 migration is pending");
    into(">/dev/full", &["new", "b"]).code(0).says(lost);
    assert_eq!(files(&scratch), 3);
    into(">/dev/full", &["unlock"]).code(0).says(lost);
}

fn files(scratch: &Scratch) -> usize {
    let entries = std::fs::read_dir(scratch.migrations()).expect("a directory");
    entries.count()
}

// 3

#[test]
fn exit_3_when_the_database_cannot_be_reached_in_time() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    let up = scratch
        .lockstep(&["up"])
        .env("DATABASE_URL", NOWHERE)
        .env("DATABASE_WAIT_SECONDS", "0.3")
        .run();
    let error = up.code(3).error();
    assert!(error.starts_with("the database could not be reached within "), "{error}");
    assert!(error.contains("127.0.0.1:1"), "{error}");
    let socket = format!("host={} user=postgres", scratch.directory.display());
    let up = scratch
        .lockstep(&["up"])
        .env("DATABASE_URL", socket)
        .env("DATABASE_WAIT_SECONDS", "0")
        .run();
    up.code(3);
}

/// There are connections enough, but not for this role.
#[test]
fn exit_3_when_there_are_too_many_connections_until_the_deadline() {
    let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    let role = scratch.role("crowded", "LOGIN CONNECTION LIMIT 0");
    scratch.sql(&format!("GRANT ALL ON SCHEMA public TO {}", role.name));
    let up = scratch.lockstep(&["up"]).env("DATABASE_URL", role.url());
    up.env("DATABASE_WAIT_SECONDS", "3")
        .run()
        .code(3)
        .says(WAITS_FOR_THE_DATABASE)
        .says("(SQLSTATE 53300)");
    // And it goes on as soon as there is room.
    let mut running = scratch.lockstep(&["up"]).env("DATABASE_URL", role.url()).spawn();
    running.wait_for_log(WAITS_FOR_THE_DATABASE);
    scratch.sql(&format!("ALTER ROLE {} CONNECTION LIMIT -1", role.name));
    running.wait().code(0);
}

#[test]
fn exit_3_when_the_connection_is_lost_in_a_migration() {
    let scratch = with_a_gate();
    let mut gate = Gate::closed(&scratch);
    let running = patient(&scratch).spawn();
    let work = gate.wait_for_visitor();
    scratch.sql(&format!("SELECT pg_terminate_backend({work})"));
    let outcome = running.wait();
    let error = outcome.code(3).error();
    assert!(
        error.starts_with(
            "the connection was lost: applying 20240101000001_gate.up.sql, which may or may not be committed: "
        ),
        "{error}"
    );
    assert_eq!(scratch.history(), ["20240101000000"]);
    gate.open();
    scratch.up().code(0);
    assert_eq!(scratch.sql("SELECT n FROM notes"), ["1", "2"]);
}

#[test]
fn exit_3_when_the_connection_is_lost_outside_a_transaction() {
    let scratch = Scratch::migrated([("20240101000000_a.up.sql", "CREATE TABLE a (b int);")]);
    scratch.file("20240101000001_b.up.sql", "CREATE INDEX CONCURRENTLY a_idx ON a (b);");
    let mut writer = scratch.client();
    writer.batch_execute("BEGIN; INSERT INTO a VALUES (1)").expect("a row");
    let running = scratch.lockstep(&["up"]).spawn();
    let build = "SELECT pid FROM pg_stat_progress_create_index WHERE datname = current_database() AND lockers_total > 0";
    let mut client = scratch.client();
    wait_until("the build waits", || !rows(&mut client, build).is_empty());
    scratch.sql(&format!("SELECT pg_terminate_backend(pid) FROM ({build}) b"));
    running.wait().code(3).says("the next run finds out how far it came");
    writer.batch_execute("COMMIT").expect("a commit");
    scratch.up().code(0);
    assert_eq!(
        scratch.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'a_idx'::regclass"),
        "t"
    );
}

// 4

/// libpq's default is a server that nobody has asked for.
#[test]
fn exit_2_at_once_when_nothing_says_where_the_database_is() {
    let scratch = with_pending();
    for arguments in [&[][..], &["up"], &["down"], &["baseline", "latest"], &["unlock"]] {
        let run = scratch.lockstep(arguments).without("DATABASE_URL");
        let run = run.env("RUN_DATABASE_MIGRATIONS", "true");
        let started = Instant::now();
        let outcome = run.env("DATABSE_URL", scratch.url()).run();
        outcome.code(2).says("not read: DATABSE_URL");
        assert!(started.elapsed() < Duration::from_secs(20), "{outcome}");
        assert!(!outcome.stderr.contains("postgres://"), "{outcome}");
    }
}

#[test]
fn exit_4_when_another_runner_holds_the_lock_until_the_deadline() {
    let scratch = with_pending();
    let mut other = scratch.client();
    let guard = "SELECT pg_advisory_xact_lock(1819239275, 'bun_migrations'::regclass::oid::int4)";
    other.batch_execute(&format!("BEGIN; {guard}")).expect("the guard");
    let pid = rows(&mut other, "SELECT pg_backend_pid()").remove(0);
    for seconds in ["0", "0.4"] {
        let up = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", seconds).run();
        let error = up.code(4).error();
        assert!(
            error.starts_with("another runner still holds the migration lock after "),
            "{error}"
        );
        assert!(error.contains(&format!("s: pid {pid}, ")), "{error}");
        assert!(
            error.ends_with("\n  hint: run again; the lock is gone the moment its holder is"),
            "{error}"
        );
    }
    other.batch_execute("ROLLBACK").expect("the end");
    scratch.up().code(0);
}

#[test]
fn exit_4_when_buns_row_is_there_until_the_deadline_whether_something_is_pending_or_not() {
    let scratch = with_pending();
    let row = "INSERT INTO bun_migration_locks (id, table_name) VALUES (7, 'bun_migrations')";
    let up = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "0");
    for newest in ["20240101000000", "20240101000001"] {
        scratch.sql(row);
        let error = up.run().code(4).error();
        assert!(
            error.contains(
                ": row 7 of public.bun_migration_locks is bun's, whose owner may be alive or dead"
            ),
            "{error}"
        );
        let doubt = format!("{newest}, the newest record, may be running, or may never have run");
        assert!(error.contains(&doubt), "{error}");
        scratch.sql("DELETE FROM bun_migration_locks");
        up.run().code(0);
    }
}

#[test]
fn exit_4_when_a_table_is_locked_until_the_deadline() {
    let scratch = with_pending();
    scratch.file("20240101000002_c.up.sql", "CREATE TABLE c (); ALTER TABLE a ADD b int;");
    let mut other = scratch.client();
    other.batch_execute("BEGIN; LOCK TABLE a IN ACCESS SHARE MODE").expect("a lock");
    let pid = rows(&mut other, "SELECT pg_backend_pid()").remove(0);
    let up = scratch
        .lockstep(&["up"])
        .env("DDL_LOCK_TIMEOUT_SECONDS", "0.02")
        .env("DDL_LOCK_RETRY_SECONDS", "0.2");
    let error = up.run().code(4).error();
    assert!(error.contains("20240101000002_c.up.sql: gave up after "), "{error}");
    assert!(error.contains("(SQLSTATE 55P03)"), "{error}");
    assert!(error.contains(&format!("\n  blocked by pid {pid}")), "{error}");
    assert!(
        error.ends_with("\n  rolled back; 1 migration before it stays applied; run again"),
        "{error}"
    );
    assert_eq!(scratch.history(), ["20240101000000", "20240101000001"]);
    other.batch_execute("ROLLBACK").expect("the end");
    scratch.up().code(0);
}

#[test]
fn exit_4_when_the_history_is_locked_against_readers_until_the_deadline() {
    let scratch = with_pending();
    let mut other = scratch.client();
    other
        .batch_execute("BEGIN; LOCK TABLE bun_migrations IN ACCESS EXCLUSIVE MODE")
        .expect("a lock");
    let up = scratch.lockstep(&["up"]);
    up.env("DATABASE_WAIT_SECONDS", "0.2").env("MIGRATION_LOCK_WAIT_SECONDS", "0.2").run().code(4);
    other.batch_execute("ROLLBACK").expect("the end");
    scratch.up().code(0);
}

#[test]
fn exit_4_when_the_lock_is_lost() {
    let scratch = with_a_gate();
    scratch.file("20240101000002_after.up.sql", "INSERT INTO notes VALUES (3);");
    let mut gate = Gate::closed(&scratch);
    let running = patient(&scratch).spawn();
    gate.wait_for_visitor();
    // While it is frozen nobody but the operator can be next: his DELETE waits for the migration that runs.
    running.freeze();
    gate.open();
    scratch.sql("DELETE FROM bun_migration_locks");
    running.thaw();
    running.wait().code(4);
    assert_eq!(scratch.history(), ["20240101000000", "20240101000001"]);
    scratch.up().code(0);
    assert_eq!(scratch.sql("SELECT n FROM notes"), ["1", "2", "3"]);
}

// 5

#[test]
fn exit_5_when_history_and_files_disagree() {
    let scratch = with_pending();
    scratch.file("20240101000000_a.up.sql", "CREATE TABLE edited ();");
    scratch.up().code(5).says("20240101000000");
    assert_eq!(scratch.history(), ["20240101000000"]);
}

// 130 and 143

#[test]
fn a_signal_ends_a_wait_for_the_server_at_once() {
    for (signal, code) in SIGNALS {
        let scratch = Scratch::with([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
        let mut running = scratch
            .lockstep(&["up"])
            .env("DATABASE_URL", NOWHERE)
            .env("DATABASE_WAIT_SECONDS", "3600")
            .spawn();
        running.wait_for_log(WAITS_FOR_THE_DATABASE);
        running.signal(signal);
        running.wait().code(code);
    }
}

#[test]
fn a_signal_ends_a_wait_for_another_runner_at_once() {
    let scratch = with_pending();
    let mut other = scratch.client();
    let guard = "SELECT pg_advisory_xact_lock(1819239275, 'bun_migrations'::regclass::oid::int4)";
    other.batch_execute(&format!("BEGIN; {guard}")).expect("the guard");
    for (signal, code) in SIGNALS {
        let mut running =
            scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "3600").spawn();
        running.wait_for_log(WAITS_FOR_A_RUNNER);
        running.signal(signal);
        running.wait().code(code);
    }
    assert_eq!(scratch.history(), ["20240101000000"]);
}

#[test]
fn a_signal_ends_a_wait_for_a_table_at_once() {
    let scratch = with_pending();
    scratch.file("20240101000001_b.up.sql", "ALTER TABLE a ADD b int;");
    let mut other = scratch.client();
    other.batch_execute("BEGIN; LOCK TABLE a IN ACCESS SHARE MODE").expect("a lock");
    let up = scratch
        .lockstep(&["up"])
        .env("DDL_LOCK_TIMEOUT_SECONDS", "0.02")
        .env("DDL_LOCK_RETRY_SECONDS", "3600");
    for (signal, code) in SIGNALS {
        let mut running = up.spawn();
        running.wait_for_log("waiting for a lock");
        running.signal(signal);
        running.wait().code(code);
        // It stopped in good order: the lock is given back, not left to be taken over.
        assert_eq!(scratch.value("SELECT count(*) FROM bun_migration_locks"), "0");
    }
}

#[test]
fn a_signal_in_a_migration_lets_it_finish_and_starts_no_other() {
    for (signal, code) in SIGNALS {
        let scratch = with_a_gate();
        scratch.file("20240101000002_after.up.sql", "INSERT INTO notes VALUES (3);");
        let mut gate = Gate::closed(&scratch);
        let running = patient(&scratch).spawn();
        gate.wait_for_visitor();
        running.signal(signal);
        gate.open();
        running.wait().code(code).says("2 of 3 pending migrations were applied");
        assert_eq!(scratch.history(), ["20240101000000", "20240101000001"]);
        assert_eq!(scratch.value("SELECT count(*) FROM bun_migration_locks"), "0");
        scratch.up().code(0);
        assert_eq!(scratch.sql("SELECT n FROM notes"), ["1", "2", "3"]);
    }
}

/// A signal is never 0, even if there is nothing left to stop.
#[test]
fn a_signal_in_the_last_migration_lets_it_finish_and_is_told() {
    for (signal, code) in SIGNALS {
        let scratch = with_a_gate();
        let mut gate = Gate::closed(&scratch);
        let running = patient(&scratch).spawn();
        gate.wait_for_visitor();
        running.signal(signal);
        gate.open();
        running.wait().code(code);
        assert_eq!(scratch.history(), ["20240101000000", "20240101000001"]);
        assert_eq!(scratch.value("SELECT count(*) FROM bun_migration_locks"), "0");
        scratch.up().code(0);
    }
}

/// The server then rolls back.
#[test]
fn a_second_signal_in_a_migration_ends_it_at_once() {
    for (signal, code) in SIGNALS {
        let scratch = with_a_gate();
        let mut gate = Gate::closed(&scratch);
        let running = patient(&scratch).spawn();
        gate.wait_for_visitor();
        running.signal(signal);
        // Two signals of a kind that are sent in one breath are one.
        wait_until("the first signal is taken", || !signal_is_pending(running.pid()));
        running.signal(signal);
        running.wait().code(code);
        let sessions = "SELECT count(*) FROM pg_stat_activity \
                        WHERE datname = current_database() AND application_name LIKE 'lockstep/%'";
        let mut client = scratch.client();
        wait_until("the server has rolled back", || rows(&mut client, sessions) == ["0"]);
        assert_eq!(scratch.history(), ["20240101000000"]);
        gate.open();
        scratch.up().code(0);
        assert_eq!(scratch.sql("SELECT n FROM notes"), ["1", "2"]);
    }
}

// What the tests above are made of.

const NOWHERE: &str = "postgres://postgres@127.0.0.1:1/nowhere";

const SIGNALS: [(&str, i32); 2] = [("INT", 130), ("TERM", 143)];

/// A database with one migration applied, that creates table `a`, and one pending.
fn with_pending() -> Scratch {
    let scratch = Scratch::migrated([("20240101000000_a.up.sql", "CREATE TABLE a ();")]);
    scratch.file("20240101000001_b.up.sql", "CREATE TABLE b ();");
    scratch
}

/// Two migrations, the second of which stops at a [`Gate`].
fn with_a_gate() -> Scratch {
    Scratch::with([
        (
            "20240101000000_notes.up.sql",
            "CREATE TABLE notes (n int); INSERT INTO notes VALUES (1);",
        ),
        ("20240101000001_gate.up.sql", &format!("{} INSERT INTO notes VALUES (2);", Gate::SQL)),
    ])
}

/// `up` that stands before a gate for as long as it takes.
fn patient(scratch: &Scratch) -> Lockstep<'_> {
    scratch.lockstep(&["up"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0")
}

/// Returns true if and only if a signal was sent to the process and not yet delivered, as far as the system tells.
fn signal_is_pending(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let masks = status
        .lines()
        .filter_map(|line| line.strip_prefix("ShdPnd:").or_else(|| line.strip_prefix("SigPnd:")));
    masks.map(str::trim).any(|mask| mask.bytes().any(|digit| digit != b'0'))
}
