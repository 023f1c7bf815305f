//! Whatever a role, a database or the server has set: no statement of our own is subject to it. The server's log tells how
//! each was sent, by every command, whatever it meets.

use crate::support::bun_client::LOCK;
use crate::support::steps::{file, old_snapshot, steps, unrecord, version};
use crate::support::{Scratch, text, wait_until};

/// How a message begins whose statements stand under our timeouts.
const OURS: [&str; 4] = [
    "BEGIN ISOLATION LEVEL ",
    "SET LOCAL statement_timeout TO 0; ",
    "SET statement_timeout TO 0; ",
    "SAVEPOINT lockstep_aside; SET LOCAL lock_timeout TO 0; SET LOCAL statement_timeout TO 0; ",
];

/// How a message begins that is a user's, rehearsed or alone outside a transaction, as what heals is too. Then the session
/// itself has our timeouts.
const THEIRS: [&str; 4] = [
    "/* lockstep ",
    "DO LANGUAGE plpgsql E'BEGIN EXECUTE ",
    "SET CONSTRAINTS ",
    "DROP INDEX CONCURRENTLY IF EXISTS ",
];

#[test]
fn every_message_of_every_command_has_our_timeouts() {
    let scratch = Scratch::new();
    let database = &scratch.database;
    for setting in [
        "log_statement = 'all'",
        "statement_timeout = '30s'",
        "lock_timeout = '30s'",
        "idle_in_transaction_session_timeout = '30s'",
    ] {
        scratch.sql(&format!("ALTER DATABASE {database} SET {setting}"));
    }
    play_all(&scratch);

    let log = scratch.server_log();
    let of_ours = |line: &String| {
        let (_, rest) = line.split_once(&format!(" {database} lockstep/"))?;
        let (_, statement) = rest.split_once("statement: ")?;
        Some(statement.to_owned())
    };
    let messages: Vec<String> = log.iter().filter_map(of_ours).collect();
    for message in &messages {
        let sent = match message.split_once(" */ BEGIN ") {
            Some((_, rest)) => format!("BEGIN {rest}"),
            None => message.clone(),
        };
        let begins = |all: &[&str]| all.iter().any(|it| sent.starts_with(it));
        let has_timeouts = ["SET LOCAL lock_timeout TO ", "SET LOCAL statement_timeout TO "]
            .iter()
            .all(|it| sent.contains(it));
        let is_ours = begins(&OURS) && (has_timeouts || !begins(&OURS[..1]));
        let asks_nothing = sent.trim().is_empty();
        let rolls_back =
            sent == "ROLLBACK" || sent.starts_with("ROLLBACK; SET LOCAL statement_timeout TO 0; ");
        assert!(is_ours || asks_nothing || rolls_back || begins(&THEIRS), "{message}");
    }
    for kind in OURS.iter().chain(&THEIRS) {
        assert!(messages.iter().any(|it| it.starts_with(kind)), "{kind}");
    }
}

/// Every command, and whatever makes it say more.
fn play_all(scratch: &Scratch) {
    let run = |arguments: &[&str], code: i32| {
        let run = scratch.lockstep(arguments).env("MIGRATION_LOCK_WAIT_SECONDS", "1");
        run.run().code(code);
    };
    steps(scratch, &["", "CREATE TABLE deferred (a int UNIQUE DEFERRABLE)"]);
    run(&["status"], 0);
    run(&["plan", "--rehearse"], 0);
    run(&["check"], 6);
    scratch.file(
        &file(2).replace(".up.", ".down."),
        "DROP TABLE deferred; DELETE FROM ran WHERE version LIKE '%2'",
    );
    run(&["up"], 0);
    run(&["wait"], 0);
    run(&["down", "1"], 0);
    run(&["up"], 0);
    scratch.file(&file(3), "SELECT 1/0");
    run(&["up"], 1);
    scratch.file(&file(3), "CREATE INDEX CONCURRENTLY i ON ran (version)");
    interrupt(scratch);
    run(&["up"], 0);
    run(&["forget", &version(3)], 0);
    run(&["baseline", "latest"], 0);
    // It was cut short before it began, and behind its end.
    unrecord(scratch, 3);
    run(&["up"], 0);
    scratch.sql("INSERT INTO bun_migration_locks (id, table_name) VALUES (-7, 'bun_migrations')");
    run(&["unlock"], 0);
    scratch.file(&file(4), "CREATE TABLE four ()");
    scratch.sql(&format!(
        "{LOCK}; INSERT INTO bun_migrations (name, group_id) VALUES ('{}', 9)",
        version(4)
    ));
    run(&["status"], 0);
    run(&["up"], 4);
    let id = scratch.value("SELECT id FROM bun_migration_locks");
    run(&["unlock"], 4);
    run(&["unlock", &id], 0);
    run(&["forget", &version(4)], 0);
    run(&["up"], 0);
    let import = scratch.lockstep(&["import", &text(&scratch.migrations())]);
    let elsewhere = text(&scratch.directory.join("elsewhere"));
    import.env("MIGRATIONS_DIR", elsewhere).run().code(0);
}

/// A run is killed in the build, which waits.
fn interrupt(scratch: &Scratch) {
    let old = old_snapshot(scratch);
    let run = scratch.lockstep(&["up"]).spawn();
    let builds = "SELECT pid FROM pg_stat_progress_create_index WHERE datname = current_database() AND phase LIKE 'waiting%'";
    wait_until("the build waits", || !scratch.sql(builds).is_empty());
    run.kill();
    scratch.sql(&format!("SELECT pg_terminate_backend(({builds}), 10000)"));
    drop(old);
}
