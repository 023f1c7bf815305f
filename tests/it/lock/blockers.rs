//! Who is in the way of a migration is said, whoever it is: a session, a prepared transaction that has none, whoever holds
//! a table that the statement does not name.

use postgres::Client;

use crate::support::steps::file;
use crate::support::{Scratch, wait_until};

const TABLES: &str = "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t VALUES (1); CREATE INDEX t_b ON t (b); \
    CREATE TABLE child (a int REFERENCES t); CREATE VIEW v AS SELECT * FROM t; \
    CREATE TABLE p (a int) PARTITION BY RANGE (a); CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (9); \
    CREATE TABLE elsewhere (a int); CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'INSERT INTO elsewhere VALUES (1)'";

/// A transaction that holds what these statements lock, until it is dropped.
fn holder(scratch: &Scratch, statements: &str) -> (Client, String) {
    let mut client = scratch.client();
    client.batch_execute(&format!("BEGIN; {statements}")).expect("locks");
    let pid = crate::support::rows(&mut client, "SELECT pg_backend_pid()").remove(0);
    (client, pid)
}

#[test]
fn whoever_holds_a_lock_is_named() {
    for (held, statement, said, lock) in [
        ("LOCK t IN ACCESS SHARE MODE", "ALTER TABLE t ADD c int", "", "AccessShareLock on t"),
        ("LOCK t IN ACCESS SHARE MODE", "DROP INDEX t_b", "", "AccessShareLock on t"),
        ("LOCK t IN ACCESS SHARE MODE", "DROP TABLE child", "", "AccessShareLock on t"),
        ("LOCK t IN ACCESS EXCLUSIVE MODE", "LOCK v", "", "AccessExclusiveLock on t"),
        (
            "LOCK p_low IN ACCESS SHARE MODE",
            "ALTER TABLE p ADD c int",
            "",
            "AccessShareLock on p_low",
        ),
        ("UPDATE t SET b = 'x'", "DELETE FROM t", "", "RowExclusiveLock on t"),
        ("LOCK elsewhere", "SELECT f()", "perhaps ", "AccessExclusiveLock on elsewhere"),
        (
            "SELECT pg_advisory_lock(7)",
            "SELECT pg_advisory_lock(7)",
            "perhaps ",
            "ExclusiveLock on advisory",
        ),
    ] {
        let scratch = Scratch::migrated([(file(1), TABLES)]);
        scratch.file(&file(2), statement);
        let (client, pid) = holder(&scratch, held);
        let run = scratch.lockstep(&["up"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0.05");
        let outcome = run.env("DDL_LOCK_RETRY_SECONDS", "0").run();
        let error = outcome.code(4).error();
        let line = format!("  blocked by {said}pid {pid}, idle in transaction for ");
        let lines = error.lines().filter(|it| it.starts_with(&line) && it.contains(lock));
        assert_eq!(lines.count(), 1, "{statement}: {error}");
        drop(client);
    }
}

/// It holds its locks without a session.
#[test]
fn a_prepared_transaction_is_named() {
    let scratch = Scratch::migrated([(file(1), TABLES)]);
    let gid = &scratch.database;
    let name = format!("prepared transaction '{gid}' of postgres");
    scratch.sql(&format!("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION '{gid}'"));
    scratch.file(&file(2), "ALTER TABLE t ADD c int");
    let run = scratch.lockstep(&["up"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0.05");
    let outcome = run.env("DDL_LOCK_RETRY_SECONDS", "0").run();
    outcome.code(4).says(&format!("blocked by {name} for "));

    // CONCURRENTLY waits for it without an end. Others see for whom.
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY t_c ON t (b, a)");
    let mut run = scratch.lockstep(&["up"]).spawn();
    run.wait_for_log(&format!("may have to wait for {name}"));
    wait_until("status tells", || {
        let status = scratch.lockstep(&["status"]).run();
        status.stdout.contains(&format!("by {name}"))
    });
    scratch.sql(&format!("ROLLBACK PREPARED '{gid}'"));
    run.wait().code(0);
}
