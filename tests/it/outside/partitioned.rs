//! What PostgreSQL refuses of tables with partitions, and only the catalog tells: it is found before it runs.

use crate::support::steps::{file, version};
use crate::support::words::CLEANS_UP;
use crate::support::{Outcome, Scratch};

const TABLES: &str = "CREATE TABLE p (a int) PARTITION BY RANGE (a); \
    CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE TABLE p_rest PARTITION OF p DEFAULT; \
    CREATE INDEX p_a ON p (a)";

/// What each refusal says that the others do not.
const REFUSED: [(&str, &str); 6] = [
    ("CREATE INDEX CONCURRENTLY p_b ON p (a)", "ALTER INDEX … ATTACH PARTITION"),
    ("CREATE INDEX CONCURRENTLY p_b ON ONLY public.p (a)", "public.p is partitioned, and no index"),
    ("DROP INDEX CONCURRENTLY p_a", "p_a is the index of a partitioned table"),
    ("ALTER TABLE p DETACH PARTITION p_low CONCURRENTLY", "p has a default partition"),
    ("SELECT 1; REINDEX TABLE p", "p is partitioned, and so is"),
    ("SELECT 1; REINDEX INDEX p_a", "p_a is partitioned, and so is"),
];

#[test]
fn what_the_server_refuses_is_found_before_anything_runs() {
    let scratch = Scratch::new();
    scratch.sql(TABLES);
    scratch.file(&file(1), "CREATE TABLE nothing_of_this ()");
    let before = scratch.schema();
    for (number, (statement, _)) in (2..).zip(REFUSED) {
        scratch.file(&file(number), statement);
    }
    for command in ["up", "plan", "check", "wait"] {
        let outcome = scratch.lockstep(&[command]).run();
        outcome.code(2);
        for (number, (_, words)) in (2..).zip(REFUSED) {
            says_of(&outcome, number, words);
        }
    }
    assert_eq!(scratch.schema(), before);
}

/// Each is accepted by the server, so none may be refused by us.
#[test]
fn what_the_server_takes_is_not_refused() {
    let scratch = Scratch::new();
    scratch.sql(TABLES);
    let files = [
        "CREATE INDEX p_b ON ONLY p (a)",
        "CREATE INDEX CONCURRENTLY p_low_b ON p_low (a)",
        "ALTER INDEX p_b ATTACH PARTITION p_low_b",
        "REINDEX TABLE p",
        "-- lockstep: no-transaction\nSELECT 1; REINDEX INDEX p_a",
        "REINDEX TABLE CONCURRENTLY p",
        "ALTER TABLE p DETACH PARTITION p_rest; DROP TABLE p_rest",
        "ALTER TABLE p DETACH PARTITION p_low CONCURRENTLY",
        // Another table, by the time it comes to it.
        "DROP TABLE p; CREATE TABLE p (a int)",
        "CREATE INDEX CONCURRENTLY p_a ON p (a)",
        "SELECT 1; REINDEX TABLE p",
        "CREATE SCHEMA s; CREATE TABLE s.q (a int); CREATE TABLE q (a int) PARTITION BY LIST (a)",
        "-- lockstep: no-transaction\nSET search_path = s; CREATE INDEX CONCURRENTLY q_a ON q (a)",
    ];
    for (number, text) in (1..).zip(files) {
        scratch.file(&file(number), text);
    }
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), files.len());
}

/// What a pending statement makes is known by its text.
#[test]
fn what_a_pending_file_makes_is_found_before_anything_runs() {
    let scratch = Scratch::new();
    scratch.file(&file(1), format!("{TABLES}; REINDEX TABLE p"));
    scratch.file(&file(2), REFUSED[0].0);
    let outcome = scratch.up();
    says_of(outcome.code(2), 1, "p is partitioned, and so is");
    says_of(&outcome, 2, REFUSED[0].1);
    assert_eq!(scratch.value("SELECT to_regclass('p') IS NULL"), "t");
    // Not any more.
    scratch
        .file(&file(1), format!("{TABLES}; DROP TABLE p; CREATE TABLE p (a int); REINDEX TABLE p"));
    scratch.up().code(0);
}

/// What a body of a pending file makes is looked at when it is there.
#[test]
fn what_is_made_by_the_same_run_is_found_before_the_statement_runs() {
    for (statement, words) in &REFUSED[..4] {
        let scratch = Scratch::new();
        scratch.file(&file(1), format!("DO $$ BEGIN {TABLES}; END $$"));
        scratch.file(&file(2), statement);
        let outcome = scratch.up();
        outcome.code(1);
        says_of(&outcome, 2, words);
        outcome.says("not run; 1 migration before it stays applied");
        assert_eq!(scratch.history(), [version(1)]);
        let started = "SELECT count(*) FROM bun_migrations_journal WHERE finished_at IS NULL";
        assert_eq!(scratch.value(started), "0");
    }
}

#[test]
fn a_failed_statement_says_that_it_left_something_only_if_it_did() {
    let scratch =
        Scratch::migrated([(file(1), "CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1)")]);
    scratch.file(&file(2), "CREATE UNIQUE INDEX CONCURRENTLY t_a ON t (a)");
    scratch.up().code(1).says(CLEANS_UP);
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY t_a ON t (nothing)");
    scratch.up().code(1).is_silent_about(CLEANS_UP);
    scratch.file(&file(2), "VACUUM nothing");
    scratch.up().code(1).is_silent_about(CLEANS_UP);
}

#[track_caller]
fn says_of(outcome: &Outcome, number: usize, words: &str) {
    let said = format!("{}{}", outcome.stdout, outcome.stderr);
    let lines = said.split("\\n").flat_map(str::lines);
    let file = file(number);
    let found = lines.filter(|line| line.contains(&file) && line.contains(words));
    assert!(found.count() > 0, "{file}: {words}\n{outcome}");
}
