//! Numbered migrations that leave a trace each, so that one which ran twice, or not at all, is noticed.

use postgres::Client;

use crate::support::Scratch;

/// The version of the migration with this number.
pub fn version(number: usize) -> String {
    format!("202301010000{number:02}")
}

/// The name of its file.
pub fn file(number: usize) -> String {
    format!("{}_step.up.sql", version(number))
}

/// Writes migrations that leave a row each in the table `ran`, whatever else they do.
pub fn steps(scratch: &Scratch, extra: &[&str]) {
    for (number, extra) in (1..).zip(extra) {
        let table = if number == 1 { "CREATE TABLE ran (version text);" } else { "" };
        scratch.file(
            &file(number),
            format!("{table} INSERT INTO ran VALUES ('{}'); {extra}", version(number)),
        );
    }
}

/// Every one of [`steps`] ran once, in order, and is recorded once.
#[track_caller]
pub fn assert_applied_once(scratch: &Scratch, count: usize) {
    let expected: Vec<String> = (1..=count).map(version).collect();
    assert_eq!(scratch.history(), expected, "history");
    assert_eq!(scratch.sql("SELECT version FROM ran ORDER BY 1"), expected, "what ran");
}

/// Makes history and journal what they were when the migration of this number had been begun, by a runner that is dead
/// now, and not been recorded.
pub fn unrecord(scratch: &Scratch, number: usize) {
    scratch.sql(&format!(
        "DELETE FROM bun_migrations WHERE name = '{0}'; \
         UPDATE bun_migrations_journal SET finished_at = NULL, duration_ms = NULL, history_id = NULL, \
         runner = 'a dead runner' WHERE version = '{0}'",
        version(number),
    ));
}

/// A session whose transaction keeps a snapshot until it is dropped.
pub fn old_snapshot(scratch: &Scratch) -> Client {
    let mut client = scratch.client();
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class")
        .expect("a snapshot");
    client
}
