//! `lockstep down`: what goes, in which order, and what is refused before anything runs; that a rollback and the deletion
//! of its record are one; and that a rollback outside a transaction is finished by the next run, whichever way that goes.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::proxy::{Proxy, Seen, Side};
use crate::support::site::{Moment, Site, moments};
use crate::support::steps::{old_snapshot, version};
use crate::support::words::{
    DROPS_THE_INVALID_INDEX, FINDS_THE_WORK_DONE, TAKES_A_ROLLBACK_BACK, TRIES_AGAIN,
    WAITS_FOR_BUN, WAITS_FOR_THE_SESSION,
};
use crate::support::{Gate, Outcome, Running, Scratch, text, wait_until};

// ---------------------------------------------------------------------------------------------- what goes

/// The repository's own migrations, each rolled back by its own down file: after each step the schema is what it was
/// before that migration was applied.
#[test]
fn gives_back_the_schema_of_before_for_every_migration_of_the_repository() {
    let scratch = Scratch::new();
    let ups = repository_files(".up.sql");
    let mut before = Vec::new();
    for up in &ups {
        copy(&scratch, up);
        let down = PathBuf::from(up.to_string_lossy().replace(".up.sql", ".down.sql"));
        if down.exists() {
            copy(&scratch, &down);
        }
        scratch.sql("CREATE TABLE IF NOT EXISTS bun_migrations (id BIGSERIAL NOT NULL, name VARCHAR, group_id BIGINT, \
                     migrated_at TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, PRIMARY KEY (id))");
        before.push(schema_without_ours(&scratch));
        scratch.up().code(0);
    }
    assert_eq!(repository_files(".down.sql").len(), ups.len());
    let whole = scratch.schema();
    for (up, before) in ups.iter().zip(before).rev() {
        scratch.lockstep(&["down"]).run().code(0).says("1/1 rolled back");
        assert_eq!(schema_without_ours(&scratch), before, "{}", up.display());
    }
    assert_eq!(scratch.history(), [""; 0]);
    assert_no_journal(&scratch);
    scratch.assert_unlocked();
    // And all of it again.
    scratch.up().code(0).applied_one(13, 13);
    assert_eq!(scratch.schema(), whole);
    scratch
        .lockstep(&["down"])
        .run()
        .code(0)
        .says("13/13 rolled back")
        .says("rolled back 13 migrations, down to and including 20230314095813");
    assert_eq!(scratch.sql(OURS), [""; 0]);
}

#[test]
fn without_a_number_the_newest_group_goes_in_reverse_and_with_one_that_many() {
    let scratch = Scratch::new();
    steps(&scratch, 1..=2);
    scratch.up().code(0);
    steps(&scratch, 3..=5);
    scratch.up().code(0);

    let outcome = down(&scratch);
    outcome.code(0).rolled_back(3);
    let order: Vec<String> = outcome
        .lines()
        .iter()
        .filter_map(|line| {
            Some((
                line.field("number").is_some() && line.field("message")?.contains(" rolled back "),
                line.field("version")?,
            ))
        })
        .filter(|(is_done, _)| *is_done)
        .map(|(_, version)| version.to_owned())
        .collect();
    assert_eq!(order, [version(5), version(4), version(3)]);
    assert_eq!(scratch.history(), [version(1), version(2)]);
    assert_eq!(tables(&scratch), ["t1", "t2"]);

    scratch.up().code(0);
    // As bun does it: the number of a group that is gone is used again.
    let groups = "SELECT group_id FROM bun_migrations ORDER BY id";
    assert_eq!(scratch.sql(groups), ["1", "1", "2", "2", "2"]);
    scratch.lockstep(&["down", "1"]).run().code(0);
    assert_eq!(scratch.history().len(), 4);
    scratch.lockstep(&["down", "3"]).run().code(0);
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(tables(&scratch), ["t1"]);
    scratch.assert_unlocked();
}

/// What was merged late was applied late, and goes first.
#[test]
fn the_order_is_that_of_the_application_and_not_of_the_versions() {
    let scratch = Scratch::new();
    steps(&scratch, 2..=2);
    scratch.up().code(0);
    steps(&scratch, 1..=1);
    scratch.up().code(0);
    scratch.lockstep(&["down", "1"]).run().code(0);
    assert_eq!(scratch.history(), [version(2)]);
}

#[test]
fn what_bun_applied_is_rolled_back_as_well() {
    let scratch = Scratch::new();
    steps(&scratch, 1..=2);
    scratch.sql(
        "CREATE TABLE bun_migrations (id BIGSERIAL NOT NULL, name VARCHAR, group_id BIGINT, \
           migrated_at TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, PRIMARY KEY (id)); \
         CREATE TABLE bun_migration_locks (id BIGSERIAL NOT NULL, table_name VARCHAR, PRIMARY KEY (id), UNIQUE (table_name)); \
         CREATE TABLE t1 (a int); CREATE TABLE t2 (a int)",
    );
    scratch.sql(&format!(
        "INSERT INTO bun_migrations (name, group_id) VALUES ('{}', 1), ('{}', 2)",
        version(1),
        version(2)
    ));
    down(&scratch).code(0).says("1/1 rolled back");
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(tables(&scratch), ["t1"]);
}

#[test]
fn an_empty_history_has_nothing_to_roll_back_and_nothing_is_created() {
    let scratch = Scratch::new();
    steps(&scratch, 1..=1);
    let before = scratch.schema();
    for arguments in [&["down"][..], &["down", "3"]] {
        scratch
            .lockstep(arguments)
            .run()
            .code(0)
            .says("there is nothing to roll back: no migration is recorded");
    }
    assert_eq!(scratch.schema(), before);
}

#[test]
fn more_than_there_are_is_refused_with_their_number() {
    let scratch = applied(1..=2);
    let outcome = scratch.lockstep(&["down", "3"]).run();
    assert_eq!(
        outcome.code(2).error(),
        "3 migrations cannot be rolled back: only 2 migrations are recorded; nothing was changed"
    );
    assert_eq!(scratch.history().len(), 2);
}

/// They belong to somebody else, who may know what they mean.
#[test]
fn names_that_are_no_versions_are_neither_counted_nor_touched() {
    let scratch = applied(1..=2);
    scratch.sql("INSERT INTO bun_migrations (name, group_id) VALUES ('by hand', 7)");
    down(&scratch).code(0).rolled_back(2).says("it is left alone");
    assert_eq!(scratch.history(), ["by hand"]);
}

/// Nothing compares a down file; and the up file is not run.
#[test]
fn an_up_file_that_was_edited_does_not_keep_its_migration_from_being_rolled_back() {
    let scratch = applied(1..=1);
    scratch.file(&up(1), "CREATE TABLE another (a int)");
    scratch.up().code(5);
    down(&scratch).code(0);
    scratch.up().code(0);
    assert_eq!(tables(&scratch), ["another"]);
}

#[test]
fn a_version_that_is_recorded_twice_is_rolled_back_once() {
    let scratch = applied(1..=1);
    scratch
        .sql(&format!("INSERT INTO bun_migrations (name, group_id) VALUES ('{}', 1)", version(1)));
    down(&scratch).code(0).rolled_back(1);
    assert_eq!(scratch.history(), [""; 0]);
    assert_no_journal(&scratch);
}

// ------------------------------------------------------------------------------------------ what is refused

#[test]
fn every_down_file_that_is_missing_is_named_with_all_that_cannot_run_and_nothing_has_run() {
    let scratch = applied(1..=5);
    remove(&scratch, 2);
    remove(&scratch, 4);
    scratch.file(&down_file(3), "DROP TABLE t3;\nROLLBACK;\n\\d\n");
    scratch.file(&down_file(1), "DROP INDEX CONCURRENTLY i; DROP TABLE t1");
    let outcome = down(&scratch);
    outcome.code(2);
    let path = |number| scratch.migrations().join(down_file(number)).display().to_string();
    let [first, second, third, fourth] = [1, 2, 3, 4].map(path);
    assert_eq!(
        outcome.error(),
        format!(
            "these migrations cannot be rolled back; nothing was changed\n  \
             {fourth} is missing\n  \
             {third}:2:1: ROLLBACK cannot stand in a migration: each file is one transaction already; remove it\n  \
             {third}:3:1: \\d is a command of psql, not of the server; remove it, or write it in SQL\n  \
             {second} is missing\n  \
             {first}:1:1: DROP INDEX CONCURRENTLY cannot share a file: give each its own"
        )
    );
    assert_eq!(scratch.history().len(), 5);
    assert_eq!(tables(&scratch).len(), 5);
    scratch.assert_unlocked();
    // What does not go needs no way back.
    scratch.lockstep(&["down", "1"]).run().code(0);
}

#[test]
fn a_record_without_any_file_is_a_disagreement() {
    let scratch = applied(1..=2);
    fs::remove_file(scratch.migrations().join(up(2))).expect("a file");
    remove(&scratch, 2);
    let outcome = scratch.lockstep(&["down"]).run();
    let line = format!("{} missing: applied, but its files are gone", version(2));
    outcome.code(5).says(&line);
    assert_eq!(scratch.history().len(), 2);
}

#[test]
fn two_down_files_of_one_version_are_refused_only_where_one_is_to_run() {
    let scratch = applied(1..=2);
    scratch.file(&down_file(1).replace(".down", ".tx.down"), "DROP TABLE t1");
    scratch.lockstep(&["down", "1"]).run().code(0);
    let refused = down(&scratch);
    refused.code(2).says(&format!("version {} has 2 down files: ", version(1)));
    assert_eq!(scratch.history(), [version(1)]);
}

#[test]
fn a_role_that_may_not_delete_the_records_is_told_so_before_anything_runs() {
    let scratch = applied(1..=1);
    let role = scratch.role("writer", "LOGIN");
    scratch.sql(&format!(
        "GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {0}; GRANT DELETE ON bun_migration_locks TO {0}; \
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {0}",
        role.name
    ));
    scratch
        .lockstep(&["down"])
        .env("DATABASE_URL", role.url())
        .run()
        .code(2)
        .says("lacks DELETE on public.bun_migrations, DELETE on public.bun_migrations_journal")
        .is_silent_about("rolling back");
    scratch.assert_unlocked();
}

// ----------------------------------------------------------------------------------- one transaction, or none

#[test]
fn a_down_file_that_fails_leaves_everything_as_it_was_and_says_where() {
    let scratch = applied(1..=3);
    let path = scratch.file(&down_file(2), "DROP TABLE t2;\nDROP TABLE no_such;");
    let before = scratch.schema();
    let outcome = down(&scratch);
    outcome.code(1);
    assert_eq!(
        outcome.error(),
        format!(
            "{}:2:12: table \"no_such\" does not exist (SQLSTATE 42P01)\n  2 | DROP TABLE no_such;\n    |            ^\n  \
             statement 2 of 2: DROP TABLE\n  \
             it stays applied, whole; 1 migration before it stays rolled back; fix the file and run again",
            path.display()
        )
    );
    let error = outcome.lines().pop().expect("a line");
    assert_eq!(error.field("rolled_back_before"), Some("1"));
    assert_eq!(scratch.history(), [version(1), version(2)]);
    assert_eq!(tables(&scratch), ["t1", "t2"]);
    assert_ne!(scratch.schema(), before);
    scratch.file(&down_file(2), "DROP TABLE t2");
    down(&scratch).code(0);
    assert_eq!(tables(&scratch), [""; 0]);
}

#[test]
fn what_a_down_file_sets_reaches_neither_the_history_nor_the_next_file() {
    let scratch = applied(1..=2);
    let role = scratch.role("nobody", "");
    scratch.file(
        &down_file(2),
        format!(
            "DROP TABLE t2; CREATE TEMP TABLE bun_migrations (name text); SET search_path TO pg_temp; SET ROLE {}",
            role.name
        ),
    );
    down(&scratch).code(0);
    assert_eq!(scratch.history(), [""; 0]);
    assert_eq!(tables(&scratch), [""; 0]);
}

/// A rule or a trigger of somebody's that keeps the record would make every further `down` run the file again.
#[test]
fn a_record_that_does_not_go_undoes_the_rollback() {
    let scratch = applied(1..=1);
    scratch.sql("CREATE RULE keep AS ON DELETE TO bun_migrations DO INSTEAD NOTHING");
    down(&scratch)
        .code(2)
        .says("the record did not go from public.bun_migrations (SQLSTATE LK009)");
    assert_eq!(tables(&scratch), ["t1"]);
    assert_eq!(scratch.history(), [version(1)]);
}

#[test]
fn a_table_in_use_is_waited_for_and_tried_again() {
    let scratch = applied(1..=2);
    let mut reader = scratch.client();
    reader.batch_execute("BEGIN; SELECT FROM t2").expect("a reader");
    let impatient = |retry: &str| {
        scratch
            .lockstep(&["down"])
            .env("DDL_LOCK_TIMEOUT_SECONDS", "0.1")
            .env("DDL_LOCK_RETRY_SECONDS", retry)
    };
    impatient("0")
        .run()
        .code(4)
        .says("not rolled back; this run rolled back nothing before it; run again");
    let mut run = impatient("60").spawn();
    run.wait_for_log(TRIES_AGAIN);
    drop(reader);
    run.wait().code(0).rolled_back(2);
}

#[test]
fn a_signal_lets_the_running_rollback_finish_and_no_other_begin() {
    let scratch = applied(1..=3);
    scratch.file(&down_file(3), format!("{} DROP TABLE t3", Gate::SQL));
    let mut gate = Gate::closed(&scratch);
    let run = patient_down(&scratch).spawn();
    gate.wait_for_visitor();
    run.signal("TERM");
    gate.open();
    run.wait().code(143).says("stopped by SIGTERM: 1 of 3 migrations were rolled back");
    assert_eq!(scratch.history(), [version(1), version(2)]);
    assert_eq!(tables(&scratch), ["t1", "t2"]);
    scratch.assert_unlocked();
}

// ------------------------------------------------------------------------------------ deaths, and other runners

#[test]
fn a_runner_that_is_killed_in_the_middle_leaves_whole_migrations_and_the_next_down_goes_on() {
    let scratch = applied(1..=3);
    scratch.file(&down_file(2), format!("DROP TABLE t2; {}", Gate::SQL));
    let mut gate = Gate::closed(&scratch);
    let run = patient_down(&scratch).spawn();
    let orphan = gate.wait_for_visitor();
    run.kill();
    // The orphan ends by itself, since its client is gone: nobody opens the gate before.
    wait_until("the server has noticed", || !is_there(&scratch, orphan));
    assert_eq!(scratch.history(), [version(1), version(2)]);
    assert_eq!(tables(&scratch), ["t1", "t2"]);
    gate.open();
    down(&scratch).code(0).rolled_back(2);
    assert_eq!(tables(&scratch), [""; 0]);
    scratch.assert_unlocked();
}

/// Whether it was committed nobody knows, and another `down` may be one too many.
#[test]
fn a_connection_that_is_lost_is_told_with_the_advice_to_look_first() {
    let scratch = applied(1..=2);
    scratch.file(&down_file(2), format!("DROP TABLE t2; {}", Gate::SQL));
    let mut gate = Gate::closed(&scratch);
    let run = patient_down(&scratch).spawn();
    let session = gate.wait_for_visitor();
    scratch.sql(&format!("SELECT pg_terminate_backend({session})"));
    let outcome = run.wait();
    outcome.code(3).says("which may or may not be committed");
    outcome.says("hint: look at the history before you run it again");
    assert_eq!(scratch.history().len(), 2);
}

/// Between two tries nothing has the row locked, and the next try finds it gone.
#[test]
fn a_row_deleted_by_hand_stops_the_run_before_its_next_try() {
    let scratch = applied(1..=2);
    let mut reader = scratch.client();
    reader.batch_execute("BEGIN; SELECT FROM t2").expect("a reader");
    let mut run = scratch.lockstep(&["down"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0.1").spawn();
    run.wait_for_log(TRIES_AGAIN);
    scratch.sql("DELETE FROM bun_migration_locks");
    run.wait().code(4);
    assert_eq!(scratch.history(), [version(1), version(2)]);
    assert_eq!(tables(&scratch), ["t1", "t2"]);
    drop(reader);
    down(&scratch).code(0);
    assert_eq!(tables(&scratch), [""; 0]);
}

/// As a careless person may, who has removed our row's protection by editing the history.
#[test]
fn a_record_that_is_gone_by_then_is_left_alone_with_its_table() {
    let scratch = applied(1..=3);
    scratch.file(&down_file(3), format!("{} DROP TABLE t3", Gate::SQL));
    let mut gate = Gate::closed(&scratch);
    let run = patient_down(&scratch).spawn();
    gate.wait_for_visitor();
    scratch.sql(&format!("DELETE FROM bun_migrations WHERE name = '{}'", version(2)));
    gate.open();
    run.wait()
        .code(0)
        .says("was rolled back, or recorded anew, by somebody else meanwhile")
        .rolled_back(2);
    assert_eq!(tables(&scratch), ["t2"]);
}

/// Two that are started at once want the same: one group goes, not two.
#[test]
fn of_two_that_run_at_once_one_rolls_back_and_the_other_takes_no_further_group() {
    let scratch = Scratch::new();
    for number in 1..=2 {
        steps(&scratch, number..=number);
        scratch.up().code(0);
    }
    scratch.file(&down_file(2), format!("{} DROP TABLE t2", Gate::SQL));
    let mut gate = Gate::closed(&scratch);
    let (first, second) = gate.queue(&patient_down(&scratch), &patient_down(&scratch));
    gate.open();
    first.wait().code(0).rolled_back(1);
    second.wait().code(0).says("there is nothing left to roll back");
    assert_eq!(scratch.history(), [version(1)]);
    scratch.assert_unlocked();
}

/// Whoever asked did not mean what was not there yet.
#[test]
fn what_was_applied_while_it_waited_is_not_rolled_back() {
    let scratch = applied(1..=1);
    scratch.file(&up(2), format!("CREATE TABLE t2 (a int); {}", Gate::SQL));
    scratch.file(&down_file(2), "DROP TABLE t2");
    let mut gate = Gate::closed(&scratch);
    let (apply, back) = gate.queue(&scratch.patient_up(), &patient_down(&scratch));
    gate.open();
    apply.wait().code(0);
    let outcome = back.wait();
    let expected = format!("applied meanwhile: {}; nothing was changed", version(2));
    outcome.code(5).says(&expected);
    assert_eq!(scratch.history(), [version(1), version(2)]);
    scratch.assert_unlocked();
}

#[test]
fn a_row_of_buns_is_waited_for() {
    let scratch = applied(1..=1);
    scratch.sql("INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations')");
    scratch.lockstep(&["down"]).env("MIGRATION_LOCK_WAIT_SECONDS", "0.3").run().code(4);
    let mut run = scratch.lockstep(&["down"]).spawn();
    run.wait_for_log(WAITS_FOR_BUN);
    scratch.sql("DELETE FROM bun_migration_locks");
    run.wait().code(0);
    assert_eq!(tables(&scratch), [""; 0]);
}

// ------------------------------------------------------------------------------------- outside a transaction

const CREATE_TABLE: &str = "CREATE TABLE t1 (a int); INSERT INTO t1 SELECT generate_series(1, 100)";
const BUILD_INDEX: &str = "CREATE INDEX CONCURRENTLY t1_a_idx ON t1 (a)";
const DROP: &str = "DROP INDEX CONCURRENTLY t1_a_idx";

#[test]
fn an_index_is_dropped_concurrently_and_its_record_goes() {
    let scratch = indexed();
    scratch.lockstep(&["down", "1"]).run().code(0);
    assert_eq!(index(&scratch), "absent");
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(scratch.sql("SELECT version FROM bun_migrations_journal"), [version(1)]);
    scratch.assert_unlocked();
}

/// There is no `IF EXISTS` in the file, so to run the statement again would fail.
#[test]
fn a_drop_that_was_complete_but_whose_note_stayed_is_not_run_again() {
    let scratch = indexed();
    note(&scratch, "a dead runner");
    scratch.sql("DROP INDEX t1_a_idx");
    let outcome = scratch.lockstep(&["down", "1"]).run();
    outcome.code(0).says(FINDS_THE_WORK_DONE).rolled_back(1);
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(scratch.sql("SELECT version FROM bun_migrations_journal"), [version(1)]);
}

#[test]
fn status_tells_of_a_rollback_that_was_cut_short() {
    let scratch = cut_short();
    let note = |told: &str| {
        let outcome = scratch.lockstep(&["status"]).run();
        outcome.code(0);
        let notes = outcome.stdout.lines();
        let mut notes = notes.filter(|it| it.contains("outside a transaction"));
        assert!(notes.any(|it| it.ends_with(told)), "{told}\n{outcome}");
    };
    let version = version(2);
    note(&format!(
        ", outside a transaction, and not finished: the next `lockstep down` finishes it, the next `lockstep up` brings \
         {version} back"
    ));
    for entry in fs::read_dir(scratch.migrations()).expect("a directory") {
        let path = entry.expect("an entry").path();
        if text(&path).contains(&version) {
            fs::remove_file(path).expect("it goes");
        }
    }
    note("and not finished: its files are gone, and what it left stays until they are back");
}

/// The statement waits for a reader, the index is INVALID already, and the runner dies.
#[test]
fn a_drop_that_was_cut_short_is_finished_by_the_next_down() {
    let scratch = cut_short();
    assert_eq!(index(&scratch), "INVALID");
    assert_eq!(scratch.history(), [version(1)], "no longer whole, so not recorded");
    let outcome = scratch.lockstep(&["down", "1"]).run();
    outcome.code(0).says("an earlier run did not finish it").rolled_back(1);
    assert_eq!(index(&scratch), "absent");
    assert_eq!(scratch.history(), [version(1)], "one was asked for, and one is gone");
    assert_eq!(scratch.sql("SELECT version FROM bun_migrations_journal"), [version(1)]);
    scratch.assert_unlocked();
}

/// What was begun still counts as the newest group, and no other goes in its place.
#[test]
fn after_a_drop_that_was_cut_short_the_newest_group_is_still_its_own() {
    let scratch = cut_short();
    scratch.sql("UPDATE bun_migrations SET group_id = 1");
    let group =
        scratch.value("SELECT -history_id FROM bun_migrations_journal WHERE finished_at IS NULL");
    assert_eq!(group, "2");
    down(&scratch).code(0).rolled_back(1);
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(index(&scratch), "absent");
}

/// Its files are gone for a while, and another migration is applied: that is of a group of its own.
#[test]
fn after_a_drop_that_was_cut_short_no_other_run_gets_its_group() {
    let scratch = cut_short();
    for name in [up(2), down_file(2)] {
        fs::remove_file(scratch.migrations().join(name)).expect("a file");
    }
    steps(&scratch, 3..=3);
    scratch.up().code(0);
    scratch.file(&up(2), BUILD_INDEX);
    scratch.file(&down_file(2), DROP);
    down(&scratch).code(0).says("rolled back 1 migration, down to and including 20230101000003");
    assert_eq!(scratch.history(), [version(1)]);
    down(&scratch).code(0).says("rolled back 1 migration, down to and including 20230101000002");
    assert_eq!(index(&scratch), "absent");
}

#[test]
fn after_a_drop_that_was_cut_short_up_builds_the_index_again() {
    let scratch = cut_short();
    scratch.up().code(0).says("as its rollback had begun to").applied_one(1, 1);
    assert_eq!(index(&scratch), "valid");
    assert_eq!(scratch.history(), [version(1), version(2)]);
    let journal = "SELECT count(*) FILTER (WHERE finished_at IS NULL), count(*) FILTER (WHERE history_id > 0) \
                   FROM bun_migrations_journal";
    assert_eq!(scratch.value(journal), "0|2");
    scratch.up().code(0).is_up_to_date(2);
}

/// As it is after a death between the note and the statement.
#[test]
fn after_a_drop_that_was_not_begun_up_records_the_index_that_is_there() {
    for plain in [false, true] {
        let scratch = indexed();
        if plain {
            scratch.file(&up(2), "CREATE INDEX t1_a_idx ON t1 (a)");
        }
        note(&scratch, "a dead runner");
        let oid = "SELECT 't1_a_idx'::regclass::oid";
        let before = scratch.value(oid);
        scratch.up().code(0).says(match plain {
            true => "nothing of its rollback had happened; it is recorded again",
            false => "the earlier run had done its work",
        });
        assert_eq!(scratch.value(oid), before, "the same index");
        assert_eq!(scratch.history(), [version(1), version(2)]);
        // And back again, as ever.
        scratch.lockstep(&["down", "1"]).run().code(0);
        assert_eq!(index(&scratch), "absent");
    }
}

#[test]
fn after_a_drop_that_was_complete_up_builds_the_index() {
    let scratch = indexed();
    note(&scratch, "a dead runner");
    scratch.sql("DROP INDEX t1_a_idx");
    scratch.up().code(0);
    assert_eq!(index(&scratch), "valid");
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// The catalog tells: the work of the up file is there, and was before the rollback was begun.
#[test]
fn after_a_drop_of_a_database_that_was_not_begun_up_records_the_database() {
    let scratch = Scratch::new();
    let database = format!("{}_more", scratch.database);
    scratch.file(&up(1), format!("CREATE DATABASE {database} TEMPLATE template0"));
    scratch.file(&down_file(1), format!("DROP DATABASE {database}"));
    scratch.up().code(0);
    scratch.sql(
        "DELETE FROM bun_migrations; UPDATE bun_migrations_journal SET finished_at = NULL, history_id = -1, \
         checksum = repeat('0', 64), runner = 'a dead runner'",
    );
    scratch.up().code(0).says(FINDS_THE_WORK_DONE);
    assert_eq!(scratch.history(), [version(1)]);
    down(&scratch).code(0);
    let there = format!("SELECT count(*) FROM pg_database WHERE datname = '{database}'");
    assert_eq!(scratch.value(&there), "0");
}

#[test]
fn the_orphan_of_a_rollback_is_waited_for_in_both_directions() {
    for command in [&["down", "1"][..], &["up"]] {
        let scratch = indexed();
        note(&scratch, "a dead runner");
        let mut orphan = scratch.client();
        orphan
            .batch_execute("SET application_name = 'a dead runner'; BEGIN; SELECT FROM t1")
            .expect("an orphan");
        let mut run = scratch.lockstep(command).spawn();
        run.wait_for_log(WAITS_FOR_THE_SESSION);
        assert_eq!(index(&scratch), "valid", "nothing is done meanwhile");
        drop(orphan);
        run.wait().code(0);
    }
}

/// The server writes what is not ASCII its own way, and cuts what is long: then nobody would be found.
#[test]
fn a_session_is_noted_by_the_name_that_the_server_shows() {
    let scratch = indexed();
    let mut reader = scratch.client();
    reader.batch_execute("BEGIN; LOCK TABLE t1 IN ACCESS SHARE MODE").expect("a reader");
    let name = format!("Straße {}", "日".repeat(30));
    let down = scratch.lockstep(&["down", "1"]).env("PGAPPNAME", name);
    let run = down.spawn();
    wait_until("the index is INVALID", || index(&scratch) == "INVALID");
    let noted = "SELECT count(*) FROM pg_stat_activity a JOIN bun_migrations_journal j ON j.runner = a.application_name \
                 WHERE j.finished_at IS NULL AND a.application_name LIKE 'Strae %'";
    assert_eq!(scratch.value(noted), "1");
    drop(reader);
    run.wait().code(0);
}

/// The way back may be the one that builds.
#[test]
fn a_build_on_the_way_back_that_was_cut_short_is_finished_by_down_and_undone_by_up() {
    for command in [&["down", "1"][..], &["up"]] {
        let scratch = indexed();
        scratch.file(&up(3), DROP);
        scratch.file(&down_file(3), BUILD_INDEX);
        scratch.up().code(0);
        assert_eq!(index(&scratch), "absent");
        let old = old_snapshot(&scratch);
        let run = scratch.lockstep(&["down", "1"]).spawn();
        let building = "SELECT pid FROM pg_stat_progress_create_index WHERE datname = current_database() \
                        AND phase LIKE 'waiting for %'";
        wait_until("the index is being built", || !scratch.sql(building).is_empty());
        assert_eq!(scratch.history(), [version(1), version(2)], "taken back before it began");
        run.kill();
        wait_until("the build has ended", || scratch.sql(building).is_empty());
        drop(old);
        assert_eq!(index(&scratch), "INVALID");
        scratch.lockstep(command).run().code(0).says(DROPS_THE_INVALID_INDEX);
        match command {
            ["up"] => {
                assert_eq!(index(&scratch), "absent");
                assert_eq!(scratch.history().len(), 3);
            }
            _ => {
                assert_eq!(index(&scratch), "valid");
                assert_eq!(scratch.history().len(), 2);
            }
        }
        let unfinished = "SELECT version FROM bun_migrations_journal WHERE finished_at IS NULL";
        assert_eq!(scratch.sql(unfinished), [""; 0]);
    }
}

/// It is not taken for one that had done its work, however often it is tried; the record stays.
#[test]
fn a_drop_of_what_never_was_fails_with_its_record_in_place() {
    let scratch = indexed();
    scratch.file(&down_file(2), "DROP INDEX CONCURRENTLY misspelt_idx");
    for _ in 0..2 {
        down(&scratch)
            .code(1)
            .says("index \\\"misspelt_idx\\\" does not exist (SQLSTATE 42704)")
            .says("it stays applied, whole");
        assert_eq!(scratch.history(), [version(1), version(2)]);
        scratch.up().code(0).says("the database is up to date");
    }
    assert_eq!(index(&scratch), "valid");
}

/// What was begun is no longer recorded, and nobody is told that it was.
#[test]
fn a_rollback_that_was_begun_and_then_fails_is_not_said_to_stay_applied() {
    for (text, cause) in [
        ("DROP TABLE misspelt", "does not exist"),
        (
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS t1_a_idx ON t1 ((a + 1))",
            "is another one than this file builds",
        ),
    ] {
        let scratch = indexed();
        note(&scratch, "a dead runner");
        scratch.file(&down_file(2), text);
        down(&scratch)
            .code(1)
            .says(cause)
            .says("not rolled back; this run rolled back nothing before it")
            .is_silent_about("it stays applied");
        assert_eq!(scratch.history(), [version(1)]);
        scratch.up().code(0);
        assert_eq!(scratch.history(), [version(1), version(2)]);
    }
}

/// It was noted, because there is an index to drop, and the server refuses to.
#[test]
fn a_drop_that_the_server_refuses_can_be_mended_or_taken_back() {
    let scratch = applied(1..=1);
    scratch.file(&up(2), "ALTER TABLE t1 ADD CONSTRAINT t1_a_key UNIQUE (a)");
    scratch.file(&down_file(2), "DROP INDEX CONCURRENTLY t1_a_key");
    scratch.up().code(0);
    let outcome = down(&scratch);
    outcome
        .code(1)
        .says("cannot drop index t1_a_key because constraint t1_a_key on table t1 requires it");
    outcome.says(
        "not rolled back; this run rolled back nothing before it; remove the cause and run again",
    );
    assert_eq!(scratch.history(), [version(1)]);
    scratch.up().code(0).says(TAKES_A_ROLLBACK_BACK);
    assert_eq!(scratch.history(), [version(1), version(2)]);
    down(&scratch).code(1);
    scratch.file(&down_file(2), "ALTER TABLE t1 DROP CONSTRAINT t1_a_key");
    down(&scratch).code(0);
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(scratch.sql("SELECT version FROM bun_migrations_journal"), [version(1)]);
}

/// It is recorded only for what the file says now: the index that is there is another one, or another file's.
#[test]
fn after_a_drop_that_was_not_begun_an_up_file_that_was_edited_gets_what_it_says() {
    let scratch = indexed();
    note(&scratch, "a dead runner");
    scratch.file(&up(2), "CREATE UNIQUE INDEX CONCURRENTLY t1_a_idx ON t1 (a)");
    scratch
        .up()
        .code(1)
        .says("index \\\"t1_a_idx\\\" is there already, and is another one than this file builds");
    assert_eq!(scratch.history(), [version(1)]);
    scratch.file(&up(2), "CREATE INDEX CONCURRENTLY other_idx ON t1 (a)");
    scratch.up().code(0);
    assert_eq!(
        scratch
            .value("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('other_idx')"),
        "t"
    );
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// What the way there did in a transaction, and could not do twice.
#[test]
fn a_detach_on_the_way_back_that_was_cut_short_is_finished_by_down_and_undone_by_up() {
    for command in [&["down", "1"][..], &["up"]] {
        for blocker in ["LOCK TABLE p", "SELECT FROM p"] {
            let scratch = attached();
            let mut reader = scratch.client();
            reader.batch_execute(&format!("BEGIN; {blocker}")).expect("a reader");
            let run = scratch.lockstep(&["down", "1"]).spawn();
            wait_until("it is noted", || scratch.history().len() == 1);
            let waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() \
                           AND application_name LIKE 'lockstep/%' AND wait_event_type = 'Lock'";
            wait_until("it waits", || !scratch.sql(waiting).is_empty());
            run.kill();
            wait_until("the server has noticed", || scratch.sql(waiting).is_empty());
            drop(reader);
            let expected = match blocker {
                "LOCK TABLE p" => "f",
                _ => "t",
            };
            assert_eq!(pending_detach(&scratch), [expected]);
            scratch.lockstep(command).run().code(0);
            match command {
                ["up"] => {
                    assert_eq!(pending_detach(&scratch), ["f"], "{blocker}");
                    assert_eq!(scratch.history(), [version(1), version(2)]);
                }
                _ => {
                    assert_eq!(pending_detach(&scratch), [""; 0], "{blocker}");
                    assert_eq!(scratch.history(), [version(1)]);
                }
            }
            let unfinished = "SELECT version FROM bun_migrations_journal WHERE finished_at IS NULL";
            assert_eq!(scratch.sql(unfinished), [""; 0]);
        }
    }
}

/// The server refuses what was noted already, and the next service start finds all as it was.
#[test]
fn what_the_server_refuses_to_drop_is_recorded_again_by_up() {
    let scratch = Scratch::new();
    let named = |text: &str| text.replace("{name}", &scratch.database);
    scratch.file(
        &up(1),
        named(
            "CREATE SUBSCRIPTION {name} CONNECTION 'host=127.0.0.1 port=1 connect_timeout=1' PUBLICATION p \
             WITH (connect = false, slot_name = 'nowhere')",
        ),
    );
    scratch.file(&down_file(1), named("DROP SUBSCRIPTION {name}"));
    scratch.up().code(0);
    let before = scratch.history();
    down(&scratch).code(1).says("could not connect to publisher");
    scratch.up().code(0).says(TAKES_A_ROLLBACK_BACK);
    assert_eq!(scratch.history(), before);
    // With its slot it would keep the database.
    scratch.sql(&named("ALTER SUBSCRIPTION {name} DISABLE"));
    scratch.sql(&named("ALTER SUBSCRIPTION {name} SET (slot_name = NONE)"));
    scratch.sql(&named("DROP SUBSCRIPTION {name}"));
}

/// As an early build made it. It gets the column from whoever owns it; anybody else does without.
#[test]
fn a_journal_without_a_column_for_the_statement_serves_as_well() {
    let scratch = indexed();
    let role = scratch.role("no_owner", "LOGIN");
    let columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'bun_migrations_journal'::regclass \
                   AND attname = 'statement' AND NOT attisdropped";
    scratch.sql(&format!(
        "ALTER TABLE bun_migrations_journal DROP COLUMN statement; ALTER TABLE t1 OWNER TO {role}; \
         GRANT CREATE ON SCHEMA public TO {role}; \
         GRANT ALL ON bun_migrations, bun_migrations_journal, bun_migration_locks TO {role}; \
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}",
        role = role.name
    ));
    let also = |command: &[&str], expected: &str| {
        let run = scratch.lockstep(command).env("DATABASE_URL", role.url());
        run.run().code(0);
        assert_eq!(index(&scratch), expected);
        assert_eq!(scratch.value(columns), "0");
    };
    also(&["status"], "valid");
    also(&["down", "1"], "absent");
    also(&["up"], "valid");
    scratch.lockstep(&["down", "1"]).run().code(0);
    assert_eq!(index(&scratch), "absent");
    assert_eq!(scratch.value(columns), "1");
    let commented = BUILD_INDEX.replace("t1_a_idx", "/* a secret */ t1_a_idx -- another\n");
    scratch.file(&up(2), format!("-- first\n{commented}"));
    scratch.up().code(0);
    let noted = "SELECT statement FROM bun_migrations_journal WHERE statement IS NOT NULL";
    assert_eq!(scratch.sql(noted), [BUILD_INDEX]);
}

// -------------------------------------------------------------------------------- struck at any message

/// Two rollbacks outside a transaction, one that drops and one that builds, and one in a transaction between them.
const WAYS: [(&str, &str, &str); 4] = [
    (
        "20230101000001_base",
        "CREATE TABLE t1 (a int); INSERT INTO t1 SELECT generate_series(1, 100); CREATE INDEX old_idx ON t1 (a)",
        "DROP TABLE t1",
    ),
    ("20230101000002_index", BUILD_INDEX, DROP),
    ("20230101000003_column", "ALTER TABLE t1 ADD COLUMN b int", "ALTER TABLE t1 DROP COLUMN b"),
    (
        "20230101000004_no_old_index",
        "DROP INDEX CONCURRENTLY old_idx",
        "CREATE INDEX CONCURRENTLY old_idx ON t1 (a)",
    ),
];

/// Wherever the run dies: what is recorded is whole, and the next run, in either direction, comes to its end.
#[test]
fn a_rollback_that_is_killed_where_it_writes_is_finished_by_whoever_comes_next() {
    let writes =
        |seen: &Seen| seen.query.contains("DELETE FROM") || seen.query.contains("CONCURRENTLY");
    strike_at(|seen| seen.from == Side::Client && writes(seen));
}

#[test]
#[ignore = "takes minutes: make soak"]
fn a_rollback_that_is_killed_at_any_message_is_finished_by_whoever_comes_next() {
    strike_at(|_| true);
}

fn strike_at(wanted: impl Fn(&Seen) -> bool) {
    let seen = {
        let site = site();
        site.direct().wait().code(0);
        let proxy = site.proxy(None);
        down_through(&site, &proxy).wait().code(0);
        proxy.seen()
    };
    let moments = moments(&seen);
    let cells: Vec<(usize, Moment, &str)> = moments
        .into_iter()
        .filter(|(message, _)| wanted(&seen[*message]))
        .flat_map(|(message, moment)| [(message, moment, "up"), (message, moment, "down")])
        .collect();
    assert!(cells.len() >= 30, "{}", cells.len());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let site = site();
                site.direct().wait().code(0);
                let whole = site.scratch.schema();
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let played = || play(&site, *cell, &whole);
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(played)) {
                        eprintln!("{cell:?}: {}", seen[cell.0]);
                        resume_unwind(panic);
                    }
                }
            });
        }
    });
}

fn site() -> Site {
    let name = |stem: &str, way: &str| format!("{stem}.{way}.sql");
    let files = WAYS
        .iter()
        .flat_map(|(stem, up, down)| [(name(stem, "up"), *up), (name(stem, "down"), *down)]);
    Site::with(files)
}

fn down_through(site: &Site, proxy: &Proxy) -> Running {
    let url = format!(
        "postgres://postgres@{}:{}/{}?sslmode=disable",
        site.host, proxy.port, site.scratch.database
    );
    let down = site.scratch.lockstep(&["down", "3"]);
    down.env("DATABASE_URL", url).env("DATABASE_WAIT_SECONDS", "2").spawn()
}

/// From everything applied, to everything applied.
fn play(site: &Site, (message, moment, then): (usize, Moment, &str), whole: &str) {
    let scratch = &site.scratch;
    let proxy = site.proxy(Some(message));
    let mut run = down_through(site, &proxy);
    proxy.wait_for_hold(|| run.has_ended());
    if let Moment::After(_) = moment {
        proxy.pass();
    }
    run.kill();
    proxy.close();
    if then == "down" {
        let sessions = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'lockstep/%'";
        wait_until("the server has noticed", || scratch.sql(sessions).is_empty());
        // What is recorded is whole; what is neither recorded nor noted has left no trace.
        let state = scratch.value(
            "SELECT coalesce((SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('t1_a_idx')), false), \
               (SELECT count(*) FROM pg_attribute WHERE attrelid = 't1'::regclass AND attname = 'b') = 1, \
               to_regclass('old_idx') IS NULL",
        );
        let recorded = scratch.history();
        for (number, is_whole) in (2..).zip(state.split('|')) {
            let is_recorded = recorded.contains(&version(number));
            assert!(!is_recorded || is_whole == "t", "{number} is recorded, and {state}");
        }
        let begun =
            scratch.sql("SELECT version FROM bun_migrations_journal WHERE finished_at IS NULL");
        let left = recorded.len() - 1 + begun.len();
        if left > 0 {
            let outcome = scratch.lockstep(&["down", &left.to_string()]).run();
            outcome.code(0);
        }
        assert_eq!(scratch.history(), [version(1)]);
        assert_eq!(scratch.sql("SELECT version FROM bun_migrations_journal"), [version(1)]);
        let indexes =
            "SELECT indexrelid::regclass, indisvalid FROM pg_index WHERE indrelid = 't1'::regclass";
        assert_eq!(scratch.sql(indexes), ["old_idx|t"]);
    }
    site.direct().wait().code(0);
    let recorded = "SELECT name FROM bun_migrations ORDER BY name";
    assert_eq!(scratch.sql(recorded), [1, 2, 3, 4].map(version));
    let unfinished =
        "SELECT version FROM bun_migrations_journal WHERE finished_at IS NULL OR history_id <= 0";
    assert_eq!(scratch.sql(unfinished), [""; 0]);
    assert_eq!(scratch.schema(), whole);
    // `up` records in the order of the versions what it records again, so all of it may be rolled back anew.
    let in_order = "UPDATE bun_migrations SET id = -id; UPDATE bun_migrations_journal SET history_id = NULL; \
                    UPDATE bun_migrations h SET id = n FROM (SELECT id, row_number() OVER (ORDER BY name) AS n \
                    FROM bun_migrations) o WHERE o.id = h.id";
    scratch.sql(in_order);
    scratch.assert_unlocked();
}

// -------------------------------------------------------------------------------------------- what it takes

const OURS: &str = "SELECT relname FROM pg_class WHERE relname LIKE 'proxied%'";

fn repository_files(extension: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let entries = fs::read_dir(directory).expect("the repository's migrations");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(extension));
    files.sort();
    files
}

fn copy(scratch: &Scratch, path: &Path) {
    let name = path.file_name().expect("a name").to_string_lossy();
    scratch.file(&name, fs::read(path).expect("a file"));
}

/// Our own tables stay, and are not what it is about.
fn schema_without_ours(scratch: &Scratch) -> String {
    let schema = scratch.schema();
    let blocks = schema.split("\n--\n-- Name: ");
    let kept: Vec<&str> = blocks.filter(|block| !block.starts_with("bun_")).collect();
    kept.join("\n--\n-- Name: ").trim_end().to_owned()
}

fn up(number: usize) -> String {
    format!("{}_step.up.sql", version(number))
}

fn down_file(number: usize) -> String {
    format!("{}_step.down.sql", version(number))
}

/// Files that create the tables `t1`, `t2`, … and drop them.
fn steps(scratch: &Scratch, numbers: std::ops::RangeInclusive<usize>) {
    for number in numbers {
        scratch.file(&up(number), format!("CREATE TABLE t{number} (a int)"));
        scratch.file(&down_file(number), format!("DROP TABLE t{number}"));
    }
}

fn applied(numbers: std::ops::RangeInclusive<usize>) -> Scratch {
    let scratch = Scratch::new();
    steps(&scratch, numbers);
    scratch.up().code(0);
    scratch
}

fn remove(scratch: &Scratch, number: usize) {
    fs::remove_file(scratch.migrations().join(down_file(number))).expect("a down file");
}

fn down(scratch: &Scratch) -> Outcome {
    scratch.lockstep(&["down"]).run()
}

fn patient_down(scratch: &Scratch) -> crate::support::Lockstep<'_> {
    scratch.lockstep(&["down"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0")
}

fn tables(scratch: &Scratch) -> Vec<String> {
    scratch.sql(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \
         AND relname NOT LIKE 'bun%' ORDER BY 1",
    )
}

fn assert_no_journal(scratch: &Scratch) {
    assert_eq!(scratch.sql("SELECT version FROM bun_migrations_journal"), [""; 0]);
}

/// The first migration makes a table, the second, of another group, an index.
fn indexed() -> Scratch {
    let scratch = Scratch::migrated([(&up(1), CREATE_TABLE), (&down_file(1), "DROP TABLE t1")]);
    scratch.file(&up(2), BUILD_INDEX);
    scratch.file(&down_file(2), DROP);
    scratch.up().code(0);
    scratch
}

/// A partition that the second migration has attached, and whose way back detaches it concurrently.
fn attached() -> Scratch {
    let scratch = Scratch::migrated([(
        &up(1),
        "CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p1 (a int)",
    )]);
    scratch.file(&up(2), "ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1)");
    scratch.file(&down_file(2), "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY");
    scratch.up().code(0);
    scratch
}

/// Whether the detaching of the partition was begun; nothing if it is none.
fn pending_detach(scratch: &Scratch) -> Vec<String> {
    scratch.sql("SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'p1'::regclass")
}

/// `absent`, `valid` or `INVALID`.
fn index(scratch: &Scratch) -> String {
    let state = "SELECT CASE WHEN indisvalid THEN 'valid' ELSE 'INVALID' END FROM pg_index \
                 WHERE indexrelid = to_regclass('t1_a_idx')";
    scratch.sql(state).pop().unwrap_or("absent".to_owned())
}

/// A rollback of the index that was killed when the index was INVALID already.
fn cut_short() -> Scratch {
    let scratch = indexed();
    let mut reader = scratch.client();
    reader.batch_execute("BEGIN; LOCK TABLE t1 IN ACCESS SHARE MODE").expect("a reader");
    let run = scratch.lockstep(&["down", "1"]).spawn();
    wait_until("the index is INVALID", || index(&scratch) == "INVALID");
    run.kill();
    let dropping = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%DROP INDEX%' \
                    AND pid <> pg_backend_pid()";
    wait_until("the server has noticed", || scratch.sql(dropping).is_empty());
    scratch
}

/// Makes history and journal what they are between the note of a rollback of the index and its statement.
fn note(scratch: &Scratch, runner: &str) {
    scratch
        .sql("CREATE TABLE seen AS SELECT group_id FROM bun_migrations ORDER BY id DESC LIMIT 1");
    let mut reader = scratch.client();
    reader.batch_execute("BEGIN; LOCK TABLE t1 IN ACCESS EXCLUSIVE MODE").expect("a reader");
    let run = scratch.lockstep(&["down", "1"]).spawn();
    wait_until("it is noted", || scratch.history().len() == 1);
    run.kill();
    let waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'lockstep/%'";
    wait_until("the server has noticed", || scratch.sql(waiting).is_empty());
    drop(reader);
    assert_eq!(index(scratch), "valid");
    let noted = scratch.value(&format!(
        "UPDATE bun_migrations_journal SET runner = '{runner}' WHERE finished_at IS NULL \
         RETURNING version, file_name, -history_id = (SELECT group_id FROM seen), statement"
    ));
    assert_eq!(noted, format!("{}|{}|t|{DROP}", version(2), down_file(2)));
    scratch.sql("DROP TABLE seen");
}

fn is_there(scratch: &Scratch, pid: i32) -> bool {
    !scratch.sql(&format!("SELECT FROM pg_stat_activity WHERE pid = {pid}")).is_empty()
}
