//! `lockstep unlock [ID]`: it shows the lock, removes a row whose owner is provably gone, and of bun's only the one that it
//! is told by its id. A living runner's it never removes.

use crate::support::bun_client::{LOCK as BUN_LOCK, init};
use crate::support::steps::{assert_applied_once, steps};
use crate::support::{Gate, Outcome, Running, Scratch, wait_until};

#[test]
fn a_free_lock_is_called_free_with_and_without_tables() {
    let scratch = Scratch::new();
    let before = scratch.schema();
    let outcome = unlock(&scratch, &[]);
    outcome.code(0);
    assert_eq!(
        outcome.stdout,
        "the migration lock is free: there is no row in bun_migration_locks\n"
    );
    assert_eq!(scratch.schema(), before, "nothing is created");

    steps(&scratch, &[""]);
    scratch.up().code(0);
    let outcome = unlock(&scratch, &[]);
    outcome.code(0);
    assert_eq!(
        outcome.stdout,
        "the migration lock is free: there is no row in public.bun_migration_locks\n"
    );
}

/// What it runs, and on whom that waits: here the test's own session, which keeps the gate closed.
#[test]
fn a_living_runner_is_shown_with_all_that_it_does_and_keeps_its_row() {
    let scratch = Scratch::new();
    let (mut gate, run) = at_the_gate(&scratch);
    let guard = scratch.guard().expect("it has the lock");
    let row = row(&scratch);
    for arguments in [&[][..], &[row.as_str()]] {
        let outcome = unlock(&scratch, arguments);
        outcome.code(4);
        assert_eq!(outcome.stdout, "");
        let error = outcome.error();
        for words in [
            format!(
                "row {row} of public.bun_migration_locks is a living runner's, and stays: pid {guard}, lockstep/"
            ),
            ", from 127.0.0.1, running step 20230101000002, statement 2/2, for ".to_owned(),
            ", blocked by pid ".to_owned(),
        ] {
            assert!(error.contains(&words), "{words:?}\n{outcome}");
        }
    }
    assert_eq!(self::row(&scratch), row);
    gate.open();
    run.wait().code(0);
    assert_applied_once(&scratch, 2);
    scratch.assert_unlocked();
}

#[test]
fn the_row_of_a_dead_runner_is_removed_without_being_named_and_by_its_name() {
    for named in [false, true] {
        let scratch = Scratch::new();
        let row = left_by_a_dead_runner(&scratch);
        let arguments: &[&str] = if named { &[row.as_str()] } else { &[] };
        let outcome = unlock(&scratch, arguments);
        outcome.code(0);
        assert_eq!(
            outcome.stdout,
            format!(
                "removed row {row} of public.bun_migration_locks, of a runner that is gone; the migration lock is free\n"
            )
        );
        scratch.assert_unlocked();
        // bun gets in.
        scratch.sql(BUN_LOCK);
    }
}

/// The guard ends with its process, and the orphan's transaction a moment later. Until then the row is not to be had, and
/// with it gone the orphan is, too.
#[test]
fn an_orphan_that_is_still_at_work_is_waited_for() {
    let scratch = Scratch::new();
    let (mut gate, run) = at_the_gate(&scratch);
    let row = row(&scratch);
    // The server's look at its client would end the orphan.
    run.freeze();
    let guard = scratch.guard().expect("it has the lock");
    scratch.sql(&format!("SELECT pg_terminate_backend({guard}, 10000)"));
    let mut unlock = scratch.lockstep(&["unlock"]).spawn();
    unlock.wait_for_log("waiting for a lock while removing the lock's row");
    gate.open();
    let outcome = unlock.wait();
    outcome.code(0);
    assert!(outcome.stdout.starts_with(&format!("removed row {row} of")), "{outcome}");
    run.thaw();
    let outcome = run.wait();
    assert!(matches!(outcome.code, Some(0 | 4)), "{outcome}");
    scratch.up().code(0);
    assert_applied_once(&scratch, 2);
}

#[test]
fn buns_row_is_shown_with_the_sessions_that_may_be_its_owners_and_stays_until_it_is_named() {
    let scratch = Scratch::new();
    init(&scratch);
    scratch.sql("INSERT INTO bun_migrations (name, group_id) VALUES ('20230101000001', 1)");
    let row = scratch.value(BUN_LOCK);
    let mut suspect = scratch.client();
    suspect.batch_execute("SET application_name = 'the proxy'").expect("a name");

    let outcome = unlock(&scratch, &[]);
    outcome.code(4);
    let error = outcome.error();
    for words in [
        &format!(
            "row {row} of public.bun_migration_locks is bun's, whose owner may be alive or dead"
        ),
        "bun records a migration before it runs it: whether 20230101000001 ran cannot be told",
        "\n  its owner may be pid ",
        ", the proxy, user postgres, from 127.0.0.1, idle, connected since ",
        &format!("\n  hint: if you know that no bun process is at work: lockstep unlock {row}"),
    ] {
        assert!(error.contains(words), "{words:?}\n{outcome}");
    }
    assert_eq!(self::row(&scratch), row);

    let outcome = unlock(&scratch, &[&row]);
    outcome
        .code(0)
        .says("of other programs are connected to this database")
        .says(", the proxy, user postgres");
    let removed = format!(
        "removed row {row} of public.bun_migration_locks, bun's; the migration lock is free\n"
    );
    assert!(outcome.stdout.starts_with(&removed), "{outcome}");
    assert_eq!(scratch.sql("SELECT id FROM bun_migration_locks"), [""; 0]);
}

#[test]
fn buns_row_stays_while_another_program_is_in_a_transaction() {
    let scratch = Scratch::new();
    init(&scratch);
    let row = scratch.value(BUN_LOCK);
    let mut suspect = scratch.client();
    suspect.batch_execute("BEGIN; SELECT 'at work'").expect("a transaction");
    for arguments in [&[][..], &[row.as_str()]] {
        let outcome = unlock(&scratch, arguments);
        outcome
            .code(4)
            .says("it stays while these are at work:")
            .says("idle in transaction for ")
            .says(": BEGIN; SELECT 'at work'");
        assert_eq!(self::row(&scratch), row);
    }
    suspect.batch_execute("COMMIT").expect("committed");
    unlock(&scratch, &[&row]).code(0);
}

/// Each case: the file's name, its text, what of it is there, and what is said of it.
#[test]
fn what_bun_recorded_last_is_tried_and_the_answer_ends_with_the_command_to_type() {
    let scratch = Scratch::new();
    init(&scratch);
    let forget = "lockstep forget 20230101000002";
    let rest = "run the rest of it by hand, and then: lockstep up";
    let index = "CREATE INDEX CONCURRENTLY i ON t (x)";
    let parts = "CREATE TABLE a ();\n--bun:split\nINSERT INTO t VALUES (1);\n--bun:split\nCREATE TABLE b ();";
    for (kind, text, there, said, command) in [
        ("up", "CREATE TABLE a ()", "", "most likely never did", forget),
        ("up", "CREATE TABLE a ()", "CREATE TABLE a ()", "most likely ran", "lockstep up"),
        ("up", "CREATE TABLE a (); SELECT pg_sleep(9)", "", "most likely never did", forget),
        ("up", "INSERT INTO t VALUES (1)", "", "cannot be told", forget),
        ("up", "DROP TABLE gone", "", "most likely ran", "lockstep up"),
        ("up", "ALTER TABLE t RENAME TO u", "", "most likely never did", forget),
        ("up", "DROP TABLE t; CREATE TABLE t (x int)", "", "cannot be told", forget),
        ("up", "COMMIT; CREATE TABLE a ()", "", "cannot be told", forget),
        ("up", parts, "", "most likely never did", forget),
        (
            "up",
            &parts.replace("INSERT", "CREATE TABLE c (); INSERT"),
            "CREATE TABLE a ()",
            "in part: 1 of its 3",
            rest,
        ),
        ("tx.up", parts, "", "most likely never did", forget),
        ("up", index, "", "most likely never did", forget),
        ("up", index, index, "most likely ran", "lockstep up"),
        ("up", "DROP INDEX CONCURRENTLY i", index, "most likely never did", forget),
        (
            "up",
            index,
            "CREATE INDEX i ON t (x); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass",
            "index \"i\" is INVALID",
            forget,
        ),
    ] {
        let mut client = scratch.client();
        client
            .batch_execute(
                "DROP TABLE IF EXISTS a, b, t; CREATE TABLE t (x int); TRUNCATE bun_migrations; \
                 INSERT INTO bun_migrations (name, group_id) VALUES ('20230101000002', 1)",
            )
            .expect("a table");
        if !there.is_empty() {
            client.batch_execute(there).expect("there");
        }
        drop(client);
        let file = scratch.file(&format!("20230101000002_b.{kind}.sql"), text);
        let row = scratch.value(BUN_LOCK);
        let before = scratch.schema();
        let outcome = unlock(&scratch, &[]);
        outcome.code(4);
        assert!(outcome.error().contains(said), "{text}\n{outcome}");
        let outcome = unlock(&scratch, &[&row]);
        outcome.code(0);
        assert!(outcome.stdout.contains(said), "{text}\n{outcome}");
        assert!(outcome.stdout.ends_with(&format!("{command}\n")), "{text}\n{outcome}");
        assert_eq!(scratch.schema(), before, "{text}");
        assert_eq!(scratch.value("SELECT count(*) FROM t"), "0", "{text}");
        std::fs::remove_file(file).expect("removed");
    }
}

#[test]
fn an_id_that_is_not_there_is_refused_and_the_one_that_is_is_named() {
    let scratch = Scratch::new();
    let outcome = unlock(&scratch, &["7"]);
    outcome.code(2);
    assert_eq!(outcome.error(), "there is no row 7 in bun_migration_locks");
    init(&scratch);
    let row = scratch.value(BUN_LOCK);
    let outcome = unlock(&scratch, &["7"]);
    outcome.code(2);
    assert_eq!(
        outcome.error(),
        format!("there is no row 7 in public.bun_migration_locks; its row is {row}")
    );
    assert_eq!(self::row(&scratch), row);
}

#[test]
fn a_role_that_may_only_read_is_shown_the_lock_and_told_that_it_may_not_remove_the_row() {
    let scratch = Scratch::new();
    let row = left_by_a_dead_runner(&scratch);
    let reader = scratch.role("reader", "LOGIN");
    scratch.sql(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}", reader.name));
    let outcome = scratch.lockstep(&["unlock"]).env("DATABASE_URL", reader.url()).run();
    outcome.code(2).says("permission denied");
    assert_eq!(self::row(&scratch), row);
}

fn unlock(scratch: &Scratch, arguments: &[&str]) -> Outcome {
    let words: Vec<&str> = ["unlock"].into_iter().chain(arguments.iter().copied()).collect();
    scratch.lockstep(&words).run()
}

fn row(scratch: &Scratch) -> String {
    scratch.value("SELECT id FROM bun_migration_locks")
}

/// A runner in its second migration, which stands at a gate.
fn at_the_gate(scratch: &Scratch) -> (Gate, Running) {
    let mut gate = Gate::closed(scratch);
    steps(scratch, &["", Gate::SQL]);
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    (gate, run)
}

/// Returns the id of the row.
fn left_by_a_dead_runner(scratch: &Scratch) -> String {
    let (_gate, run) = at_the_gate(scratch);
    run.kill();
    wait_until("its sessions are gone", || {
        scratch.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'lockstep/%'",
        ) == "0"
    });
    row(scratch)
}
