//! Files that run outside a transaction because their author says so, or the server: each statement once, in order, and
//! going on where a run stopped. `lock/kill_matrix.rs` kills such runs at every message.

use crate::support::Scratch;
use crate::support::steps::{file, version};

const MARKER: &str = "-- lockstep: no-transaction\n";

/// A table that tells what ran, and a file of several kinds of statements; the last one is to be filled in.
fn with_steps(last: &str) -> Scratch {
    let steps = format!(
        "{MARKER}SET search_path TO other, public;\nCREATE TABLE t (a int);\nINSERT INTO ran VALUES ('once');\n\
         CREATE INDEX CONCURRENTLY t_a_idx ON t (a);\n\
         DO $$ BEGIN INSERT INTO ran VALUES ('by itself'); COMMIT; END $$;\n{last}"
    );
    Scratch::with([
        (file(1), "CREATE SCHEMA other; CREATE TABLE ran (what text)".to_owned()),
        (file(2), steps),
    ])
}

fn ran(scratch: &Scratch) -> Vec<String> {
    scratch.sql("SELECT what FROM ran ORDER BY what")
}

#[test]
fn each_statement_runs_by_itself_under_the_settings_before_it() {
    let scratch = with_steps("INSERT INTO ran VALUES ('twice?'), ('twice?')");
    scratch.up().code(0);
    assert_eq!(ran(&scratch), ["by itself", "once", "twice?", "twice?"]);
    assert_eq!(
        scratch
            .value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'other.t_a_idx'::regclass"),
        "t"
    );
    let journal = "SELECT version, length(checksum), finished_at >= started_at FROM bun_migrations_journal \
                   WHERE history_id = (SELECT max(id) FROM bun_migrations)";
    assert_eq!(scratch.value(journal), format!("{}|64|t", version(2)));
    scratch.lockstep(&["check"]).run().code(0);
    scratch.up().code(0).is_up_to_date(2);
    scratch.assert_unlocked();
}

/// What is done stays done; the statement that failed may be mended, and what stands before it may not.
#[test]
fn a_run_goes_on_at_the_statement_that_failed() {
    let scratch = with_steps("INSERT INTO ran VALUES (1 / 0)");
    let error = scratch.up().code(1).error();
    assert!(error.contains("02_step.up.sql:7:"), "{error}");
    assert!(error.contains("5 statements of the file stay done"), "{error}");
    assert_eq!(ran(&scratch), ["by itself", "once"]);
    assert_eq!(scratch.history(), [version(1)]);

    let mended = with_steps("INSERT INTO ran VALUES ('mended')");
    let text = std::fs::read_to_string(mended.migrations().join(file(2))).expect("a file");
    scratch.file(&file(2), text.replace("('once')", "('edited')"));
    scratch.up().code(1).says("LK012");
    scratch.file(&file(2), text);
    scratch.up().code(0).applied_one(1, 1);
    assert_eq!(ran(&scratch), ["by itself", "mended", "once"]);
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

#[test]
fn a_way_back_of_several_statements_goes_on_where_it_stopped() {
    let scratch = with_steps("SELECT 1");
    let down = |last: &str| {
        format!(
            "-- +goose NO TRANSACTION\nSET search_path TO other;\nDROP INDEX CONCURRENTLY t_a_idx;\n\
             INSERT INTO public.ran VALUES ('back');\n{last}"
        )
    };
    let name = file(2).replace(".up.", ".down.");
    scratch.file(&name, down("DROP TABLE nothing"));
    scratch.up().code(0);
    scratch.lockstep(&["down", "1"]).run().code(1);
    assert_eq!(ran(&scratch), ["back", "by itself", "once"]);
    // Neither there nor back: an up must not run the file over what is left.
    scratch.up().code(1).says("LK012");
    scratch.file(&name, down("DROP TABLE t"));
    scratch.lockstep(&["down", "1"]).run().code(0);
    assert_eq!(ran(&scratch), ["back", "by itself", "once"]);
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(scratch.value("SELECT count(*) FROM bun_migrations_journal"), "1");
    scratch.up().code(0);
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// The first statement found nothing to do, so it was not noted before it ran.
#[test]
fn what_is_done_behind_a_statement_that_had_nothing_to_do_is_not_done_again() {
    let steps = |what: &str, last: &str| {
        format!(
            "{MARKER}DROP INDEX CONCURRENTLY IF EXISTS nothing;\nINSERT INTO ran VALUES ('{what}');\n{last}"
        )
    };
    let scratch = Scratch::with([(file(1), "CREATE TABLE ran (what text)".to_owned())]);
    let (up, down) = (file(2), file(2).replace(".up.", ".down."));
    scratch.file(&up, steps("there", "SELECT 1 / 0"));
    scratch.file(&down, steps("back", "SELECT 1 / 0"));
    scratch.up().code(1);
    scratch.file(&up, steps("there", "SELECT 1"));
    scratch.up().code(0).applied_one(1, 1);
    scratch.lockstep(&["down", "1"]).run().code(1);
    assert_eq!(ran(&scratch), ["back", "there"]);
    scratch.file(&down, steps("back", "SELECT 1"));
    scratch.lockstep(&["down", "1"]).run().code(0);
    assert_eq!(ran(&scratch), ["back", "there"]);
    assert_eq!(scratch.history(), [version(1)]);
}

/// Each spelling of another tool's for the same wish.
#[test]
fn other_tools_markers_are_honoured() {
    for marker in [
        "-- +goose NO TRANSACTION\n-- +goose Up",
        "-- no-transaction",
        "-- migrate:up transaction:false",
        "-- +migrate Up notransaction",
    ] {
        let text = format!("{marker}\nCREATE TABLE t (a int);\nVACUUM t;");
        let scratch = Scratch::with([(file(1), text)]);
        scratch.up().code(0);
    }
}

/// The server refuses them in our transaction; they are no fault of their file.
#[test]
fn a_lone_statement_that_the_server_refuses_inside_runs_outside() {
    let scratch = Scratch::with([
        (file(1), "CREATE TABLE t (a int)"),
        (file(2), "DO $$ BEGIN INSERT INTO t VALUES (1); COMMIT; END $$"),
        (
            file(3),
            "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (2); COMMIT; END $$",
        ),
        (file(4), "CALL p()"),
    ]);
    scratch.up().code(0);
    assert_eq!(scratch.sql("SELECT a FROM t ORDER BY a"), ["1", "2"]);
}

#[test]
fn what_is_begun_is_no_rehearsal_and_status_tells_of_it() {
    let scratch = with_steps("SELECT 1 / 0");
    scratch.lockstep(&["plan", "--rehearse"]).run().code(2);
    scratch.up().code(1);
    let status = scratch.lockstep(&["status"]).run();
    assert!(status.code(0).stdout.contains(&version(2)), "{status}");
    scratch.lockstep(&["check"]).run().code(6);
}
