//! `lockstep forget VERSION`: one record goes, nothing runs, and the migration is pending again.

use crate::support::bun_client::{LOCK as BUN_LOCK, UNLOCK, init};
use crate::support::steps::{assert_applied_once, file, steps, version};
use crate::support::{Outcome, Scratch, wait_until};

#[test]
fn the_newest_record_of_its_group_goes_with_its_journal_row_and_nothing_runs() {
    let scratch = Scratch::new();
    steps(&scratch, &["", ""]);
    scratch.up().code(0);
    let before = scratch.schema();
    forget(&scratch, &version(2)).code(0).says("step.up.sql is pending again: lockstep up");
    assert_eq!(scratch.schema(), before);
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(scratch.sql("SELECT version FROM bun_migrations_journal"), [version(1)]);
    scratch.assert_unlocked();
    forget(&scratch, &version(2)).code(0).says("there is nothing to take back");
    scratch.sql(&format!("DELETE FROM ran WHERE version = '{}'", version(2)));
    scratch.up().code(0);
    assert_applied_once(&scratch, 2);
}

/// bun's record has no journal row.
#[test]
fn what_bun_recorded_and_never_ran_is_pending_again() {
    let scratch = Scratch::new();
    init(&scratch);
    steps(&scratch, &["", ""]);
    scratch.sql("CREATE TABLE ran (version text)");
    record(&scratch, 1, 1);
    record(&scratch, 2, 1);
    scratch.sql(&format!("INSERT INTO ran VALUES ('{}')", version(1)));
    forget(&scratch, &version(2)).code(0);
    scratch.up().code(0);
    assert_applied_once(&scratch, 2);
}

#[test]
fn what_has_a_newer_one_in_its_group_stays_and_the_newest_of_another_group_goes() {
    let scratch = Scratch::new();
    init(&scratch);
    steps(&scratch, &["", "", ""]);
    for (number, group) in [(1, 1), (2, 1), (3, 2)] {
        record(&scratch, number, group);
    }
    forget(&scratch, &version(1)).code(5).says(&format!("newer and recorded: {}", version(2)));
    assert_eq!(scratch.history(), [version(1), version(2), version(3)]);
    forget(&scratch, &version(2)).code(0);
    assert_eq!(scratch.history(), [version(1), version(3)]);
}

#[test]
fn a_version_that_nobody_knows_is_an_error_and_one_without_a_file_is_not() {
    let scratch = Scratch::new();
    init(&scratch);
    steps(&scratch, &[""]);
    forget(&scratch, &version(9)).code(2).says("no file has the version");
    record(&scratch, 9, 1);
    forget(&scratch, &version(9)).code(0).says("no file has this version");
    assert_eq!(scratch.history(), [""; 0]);
}

#[test]
fn while_bun_has_the_lock_nothing_is_forgotten() {
    let scratch = Scratch::new();
    init(&scratch);
    steps(&scratch, &[""]);
    record(&scratch, 1, 1);
    scratch.sql(BUN_LOCK);
    let outcome = impatient(&scratch);
    outcome.code(4).says("bun's lock is still there");
    assert_eq!(scratch.history(), [version(1)]);
    scratch.sql(UNLOCK);
    forget(&scratch, &version(1)).code(0);
}

/// bun is dead and its row is gone, and the server is still at what it was sent.
#[test]
fn an_orphan_of_buns_is_waited_for_by_forget_and_up() {
    let scratch = Scratch::new();
    init(&scratch);
    let text = "SELECT pg_advisory_lock(7);\nCREATE TABLE late ()\n";
    scratch.file(&file(1), text);
    record(&scratch, 1, 1);
    let mut gate = scratch.client();
    gate.batch_execute("SELECT pg_advisory_lock(7)").expect("a lock");
    let mut bun = scratch.client();
    let orphan = std::thread::spawn(move || bun.batch_execute(text));
    wait_until("bun's session is at work", || {
        scratch.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            == "1"
    });
    impatient(&scratch).code(4).says("a session that runs it: pid ");
    assert_eq!(scratch.history(), [version(1)]);
    // bun's rollback of the group takes the record, and no more.
    scratch.sql("DELETE FROM bun_migrations");
    let mut up = scratch.lockstep(&["up"]).spawn();
    up.wait_for_log("waiting for a session that runs");
    gate.batch_execute("SELECT pg_advisory_unlock(7)").expect("unlocked");
    orphan.join().expect("bun").expect("it runs");
    up.wait().code(1).says("42P07");
    scratch.assert_unlocked();
}

#[test]
fn a_role_that_may_not_delete_records_is_told_so() {
    let scratch = Scratch::new();
    steps(&scratch, &[""]);
    scratch.up().code(0);
    let writer = scratch.role("writer", "LOGIN");
    scratch.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {name};
         GRANT DELETE ON bun_migration_locks TO {name}; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {name}",
        name = writer.name
    ));
    let outcome =
        scratch.lockstep(&["forget", &version(1)]).env("DATABASE_URL", writer.url()).run();
    outcome.code(2).says("DELETE on public.bun_migrations");
    assert_eq!(scratch.history(), [version(1)]);
    scratch.assert_unlocked();
}

fn forget(scratch: &Scratch, version: &str) -> Outcome {
    scratch.lockstep(&["forget", version]).run()
}

fn impatient(scratch: &Scratch) -> Outcome {
    scratch.lockstep(&["forget", &version(1)]).env("MIGRATION_LOCK_WAIT_SECONDS", "0").run()
}

fn record(scratch: &Scratch, number: usize, group: i64) {
    scratch.sql(&format!(
        "INSERT INTO bun_migrations (name, group_id) VALUES ('{}', {group})",
        version(number)
    ));
}
