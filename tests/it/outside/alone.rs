//! Statements that cannot run in a transaction, each alone in its file: that they run and are recorded, and that
//! whatever an interruption leaves is found in the catalog by the next run, finished or cleaned up, without a person.
//!
//! An index build is held up where a test wants it by a transaction that is older than it and still has a snapshot:
//! CONCURRENTLY waits for those.

use postgres::{Client, NoTls};

use crate::support::cluster::Cluster;
use crate::support::steps::{file, old_snapshot, unrecord, version};
use crate::support::words::{DROPS_THE_INVALID_INDEX, FINDS_THE_WORK_DONE, WAITS_FOR_THE_SESSION};
use crate::support::{Gate, Scratch, rows, wait_until};

const CREATE_TABLE: &str = "CREATE TABLE t (a int, b text); INSERT INTO t SELECT g, g::text FROM generate_series(1, 100) g";
const BUILD_INDEX: &str = "CREATE INDEX CONCURRENTLY t_a_idx ON t (a)";

// ------------------------------------------------------------------------------------ without interruption

#[test]
fn an_index_is_built_concurrently_and_recorded_in_history_and_journal() {
    let scratch = with_table();
    scratch.file(&file(2), BUILD_INDEX);
    scratch.up().code(0).applied_one(1, 1);
    assert_eq!(scratch.history(), [version(1), version(2)]);
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
    let journal = scratch.value(&format!(
        "SELECT finished_at >= started_at, duration_ms >= 0, length(checksum), file_name, \
         history_id = (SELECT id FROM bun_migrations WHERE name = version) \
         FROM bun_migrations_journal WHERE version = '{}'",
        version(2)
    ));
    assert_eq!(journal, format!("t|t|64|{}|t", file(2)));
    scratch.assert_unlocked();
}

/// While it is being built the journal says so, and the history does not.
#[test]
fn a_build_is_in_the_journal_from_its_start_and_in_the_history_only_at_its_end() {
    let scratch = with_table();
    scratch.file(&file(2), BUILD_INDEX);
    let old = old_snapshot(&scratch);
    let run = scratch.lockstep(&["up"]).spawn();
    wait_until_building(&scratch);
    let unfinished =
        "SELECT version, file_name FROM bun_migrations_journal WHERE finished_at IS NULL";
    assert_eq!(scratch.sql(unfinished), [format!("{}|{}", version(2), file(2))]);
    assert_eq!(scratch.history(), [version(1)]);
    drop(old);
    run.wait().code(0).says("may have to wait for pid");
    assert_eq!(scratch.sql(unfinished), [""; 0]);
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

#[test]
fn names_may_be_quoted_and_qualified() {
    let scratch = Scratch::new();
    scratch.file(
        &file(1),
        "CREATE SCHEMA \"Größe\"; CREATE TABLE \"Größe\".\"a \"\"table\" (\"c;d\" int); CREATE SCHEMA plain; \
         CREATE TABLE plain.t (c int)",
    );
    scratch.file(
        &file(2),
        "CREATE INDEX CONCURRENTLY \"An.Index; --\" ON \"Größe\".\"a \"\"table\" (\"c;d\");",
    );
    scratch.file(&file(3), "/* x */ create index concurrently FOLDED on only Plain.T using btree (c) where c > 0 -- end");
    scratch.file(&file(4), "DROP INDEX CONCURRENTLY \"Größe\".\"An.Index; --\"");
    scratch.file(&file(5), "REINDEX (VERBOSE) TABLE CONCURRENTLY plain.t");
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), 5);
    assert_eq!(validity(&scratch, "plain.folded"), "t");
    assert_eq!(scratch.value("SELECT to_regclass('\"Größe\".\"An.Index; --\"') IS NULL"), "t");
}

/// Neither may be skipped as if it were there already, nor be taken for the other: an index lives in its table's
/// schema, and the names are the same.
#[test]
fn an_index_of_the_same_name_in_another_schema_is_another_index() {
    let scratch = with_table();
    scratch.sql("CREATE SCHEMA s; CREATE TABLE s.t (a int); CREATE INDEX t_a_idx ON s.t (a)");
    scratch.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 's.t_a_idx'::regclass");
    scratch.file(&file(2), BUILD_INDEX);
    scratch.up().code(0);
    assert_eq!(validity(&scratch, "public.t_a_idx"), "t");
    assert_eq!(validity(&scratch, "s.t_a_idx"), "f");
}

#[test]
fn vacuum_alter_system_and_create_database_run_alone_in_their_files() {
    let scratch = superusers();
    let database = format!("{}_more", scratch.database);
    scratch.file(&file(2), "VACUUM (ANALYZE) t");
    // Nobody is told to read it again, so it is in the file only, and bothers no other test.
    scratch.file(&file(3), "ALTER SYSTEM SET vacuum_cost_page_hit = 2");
    scratch.file(&file(4), format!("CREATE DATABASE {database} TEMPLATE template0"));
    scratch.up().code(0);
    let vacuumed = "SELECT last_vacuum IS NOT NULL FROM pg_stat_user_tables WHERE relname = 't'";
    wait_until("the VACUUM is counted", || scratch.value(vacuumed) == "t");
    let set = "SELECT setting FROM pg_file_settings WHERE name = 'vacuum_cost_page_hit'";
    assert_eq!(scratch.sql(set), ["2"]);
    let exists = format!("SELECT count(*) FROM pg_database WHERE datname = '{database}'");
    assert_eq!(scratch.value(&exists), "1");

    scratch.file(&file(5), "ALTER SYSTEM RESET vacuum_cost_page_hit");
    scratch.file(&file(6), format!("DROP DATABASE {database}"));
    scratch.up().code(0);
    assert_eq!(scratch.sql(set), [""; 0]);
    assert_eq!(scratch.value(&exists), "0");
    assert_eq!(scratch.history().len(), 6);
}

/// Only the server can tell: the text is the same for an ordinary table, which is done in a transaction.
#[test]
fn what_only_the_server_knows_to_refuse_in_a_transaction_is_run_outside() {
    let scratch = with_table();
    scratch.file(
        &file(2),
        "CREATE TABLE p (c int) PARTITION BY LIST (c); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); \
         CREATE INDEX p_idx ON p (c); CREATE INDEX t_idx ON t (a)",
    );
    scratch.up().code(0);
    let files = "SELECT relname, relfilenode FROM pg_class WHERE relname IN ('p1_c_idx', 't_idx') ORDER BY 1";
    let before = scratch.sql(files);
    scratch.file(&file(3), "REINDEX TABLE p");
    scratch.file(&file(4), "REINDEX TABLE t");
    scratch.file(&file(5), "REINDEX INDEX p_idx");
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), 5);
    let after = scratch.sql(files);
    assert!(
        before.iter().zip(&after).all(|(before, after)| before != after),
        "rebuilt: {before:?} {after:?}"
    );
}

/// The build has to wait for longer than the role would let it; a timeout would leave an INVALID index.
#[test]
fn no_timeout_of_the_role_or_of_migrations_ends_a_build() {
    let scratch = Scratch::new();
    let role = scratch.role("hasty", "LOGIN");
    scratch.sql(&format!("GRANT CREATE ON SCHEMA public TO {}", role.name));
    scratch.file(&file(1), CREATE_TABLE);
    scratch.lockstep(&["up"]).env("DATABASE_URL", role.url()).run().code(0);

    for timeout in ["lock_timeout", "statement_timeout"] {
        scratch.sql(&format!("ALTER ROLE {} SET {timeout} = '1s'", role.name));
    }
    let up = scratch.lockstep(&["up"]).env("DATABASE_URL", role.url());
    let up = up.env("DDL_LOCK_TIMEOUT_SECONDS", "1").env("STATEMENT_TIMEOUT_SECONDS", "1");
    scratch.file(&file(2), BUILD_INDEX);
    let old = old_snapshot(&scratch);
    let run = up.spawn();
    wait_until("the build has waited for long", || {
        let waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
                       AND query LIKE '%CONCURRENTLY%' AND clock_timestamp() - query_start > '1.5 s'";
        !scratch.sql(waiting).is_empty()
    });
    drop(old);
    run.wait().code(0).is_silent_about("INVALID");
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
}

/// They are the session's, so they outlive the statement, and must be taken back.
#[test]
fn the_settings_of_a_build_are_not_those_of_the_next_migration() {
    let scratch = with_table();
    scratch.file(&file(2), BUILD_INDEX);
    scratch.file(
        &file(3),
        "DO $$ BEGIN ASSERT current_setting('default_transaction_read_only') = 'on'; END $$",
    );
    scratch.sql(&format!(
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        scratch.database
    ));
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), 3);
}

// ------------------------------------------------------------------------------------- interrupted builds

#[test]
fn an_invalid_index_left_by_a_killed_runner_is_dropped_and_built_again() {
    let scratch = with_table();
    scratch.file(&file(2), BUILD_INDEX);
    let old = old_snapshot(&scratch);
    let run = scratch.lockstep(&["up"]).spawn();
    let build = wait_until_building(&scratch);
    run.kill();
    wait_until("the server has ended the build", || !is_there(&scratch, build));
    assert_eq!(validity(&scratch, "t_a_idx"), "f", "the interruption left it");
    let oid = scratch.value("SELECT 't_a_idx'::regclass::oid");
    assert_eq!(scratch.history(), [version(1)]);
    drop(old);
    scratch
        .up()
        .code(0)
        .says("an earlier run did not finish it (lockstep/")
        .says(DROPS_THE_INVALID_INDEX);
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
    assert_ne!(scratch.value("SELECT 't_a_idx'::regclass::oid"), oid, "another index");
    assert_eq!(scratch.history(), [version(1), version(2)]);
    scratch.assert_unlocked();
}

#[test]
fn an_invalid_index_left_by_a_terminated_session_is_dropped_and_built_again() {
    let scratch = with_table();
    // With IF NOT EXISTS the server would skip the leftover and call that a success.
    scratch
        .file(&file(2), "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS t_a_idx ON public.t (a)");
    let old = old_snapshot(&scratch);
    let run = scratch.lockstep(&["up"]).spawn();
    let build = wait_until_building(&scratch);
    scratch.sql(&format!("SELECT pg_terminate_backend({build})"));
    run.wait().code(3).says("the connection was lost: running");
    assert_eq!(validity(&scratch, "t_a_idx"), "f", "the interruption left it");
    drop(old);
    scratch.up().code(0);
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
    assert_eq!(scratch.history(), [version(1), version(2)]);
    scratch.assert_unlocked();
}

/// As it is after a death between the end of the build and its record.
#[test]
fn an_index_that_was_complete_but_not_recorded_is_recorded_without_building() {
    let scratch = with_table();
    scratch.file(&file(2), BUILD_INDEX);
    scratch.up().code(0);
    let oid = scratch.value("SELECT 't_a_idx'::regclass::oid");
    unrecord(&scratch, 2);
    scratch.up().code(0).says(FINDS_THE_WORK_DONE);
    assert_eq!(scratch.value("SELECT 't_a_idx'::regclass::oid"), oid, "the same index");
    assert_eq!(scratch.history(), [version(1), version(2)]);
    assert_eq!(
        scratch.value("SELECT count(*) FROM bun_migrations_journal WHERE finished_at IS NULL"),
        "0"
    );
}

/// As it is after a death between the note of the start and the start.
#[test]
fn an_index_that_is_absent_after_an_interruption_is_built() {
    let scratch = interrupted_before_the_build();
    scratch.up().code(0);
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// The orphan works on, as one does behind a pooler that does not see its client die.
#[test]
fn the_orphaned_session_of_an_interrupted_run_is_waited_for() {
    let scratch = interrupted_before_the_build();
    let mut orphan = scratch.client();
    orphan
        .batch_execute("SET application_name = 'a dead runner'; BEGIN; SELECT FROM t")
        .expect("an orphan");
    let mut run = scratch.lockstep(&["up"]).spawn();
    run.wait_for_log(WAITS_FOR_THE_SESSION);
    assert_eq!(
        scratch.value("SELECT to_regclass('t_a_idx') IS NULL"),
        "t",
        "nothing is built meanwhile"
    );
    drop(orphan);
    run.wait().code(0);
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
}

#[test]
fn the_wait_for_an_orphaned_session_has_a_deadline() {
    let scratch = interrupted_before_the_build();
    let mut orphan = scratch.client();
    orphan
        .batch_execute("SET application_name = 'a dead runner'; BEGIN; SELECT FROM t")
        .expect("an orphan");
    scratch
        .lockstep(&["up"])
        .env("MIGRATION_LOCK_WAIT_SECONDS", "0.3")
        .run()
        .code(4)
        .says("the session of an interrupted run, pid");
    assert_eq!(scratch.history(), [version(1)]);
}

/// A person has begun to build the very same index by hand, after ours was interrupted.
#[test]
fn another_sessions_build_of_the_same_index_is_waited_for_and_not_dropped() {
    let scratch = interrupted_before_the_build();
    let old = old_snapshot(&scratch);
    let mut person = scratch.client();
    let building =
        std::thread::spawn(move || person.batch_execute(&format!("/* by hand */ {BUILD_INDEX}")));
    wait_until_building(&scratch);
    let mut run = scratch.lockstep(&["up"]).spawn();
    run.wait_for_log("waiting for another session that builds the index");
    drop(old);
    building.join().expect("no panic").expect("the person's build is not disturbed");
    run.wait().code(0);
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// It wants a transaction that has written nothing, and a server that keeps what a slot needs.
#[test]
fn a_logical_replication_slot_is_made_alone_in_its_file_and_among_steps() {
    let cluster = Cluster::start("logical");
    let connect = || Client::connect(&cluster.url, NoTls).expect("a connection");
    rows(&mut connect(), "ALTER SYSTEM SET wal_level TO logical");
    cluster.stop();
    cluster.start_again();
    let slot =
        |name: &str| format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput');");
    let steps = format!("-- lockstep: no-transaction\nCREATE TABLE t ();\n{}", slot("b"));
    let scratch = Scratch::with([(file(1), slot("a")), (file(2), steps)]);
    let up = || scratch.patient_up().env("DATABASE_URL", &cluster.url).run();
    up().code(0).applied_now(2);
    up().code(0).is_up_to_date(2);
    let slots = "SELECT slot_name FROM pg_replication_slots ORDER BY 1";
    assert_eq!(rows(&mut connect(), slots), ["a", "b"]);
}

// ------------------------------------------------------------------------------- indexes that are not ours

/// The server says "already exists, skipping" and calls it success, but the index is not used.
#[test]
fn if_not_exists_over_an_invalid_index_that_is_not_ours_is_refused_and_the_index_left_alone() {
    let scratch = with_table();
    scratch.sql(BUILD_INDEX);
    scratch.sql("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 't_a_idx'::regclass");
    let oid = scratch.value("SELECT 't_a_idx'::regclass::oid");
    let path = scratch.file(&file(2), "CREATE INDEX CONCURRENTLY IF NOT EXISTS t_a_idx ON t (a)");
    let outcome = scratch.up();
    outcome.code(1);
    assert_eq!(
        outcome.error(),
        format!(
            "{}: index \"t_a_idx\" on t was there before, and is INVALID (SQLSTATE LK005)\n  \
             HINT: This migration did not leave it, so it is not ours to remove: DROP INDEX CONCURRENTLY public.t_a_idx; \
             then run again.\n  \
             not run; this run applied nothing before it; run again when that is done",
            path.display()
        )
    );
    assert_eq!(scratch.value("SELECT 't_a_idx'::regclass::oid"), oid);
    assert_eq!(scratch.history(), [version(1)]);
    // Also when it is run again: that it was refused makes it no more ours.
    scratch.up().code(1).says("was there before, and is INVALID");
    assert_eq!(scratch.value("SELECT 't_a_idx'::regclass::oid"), oid);
    scratch.assert_unlocked();

    scratch.sql("DROP INDEX CONCURRENTLY t_a_idx");
    scratch.up().code(0);
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
}

#[test]
fn if_not_exists_over_a_valid_index_is_recorded() {
    let scratch = with_table();
    scratch.sql(BUILD_INDEX);
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY IF NOT EXISTS t_a_idx ON t (a)");
    scratch.up().code(0).says("already exists, skipping");
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// It waits for its parts by design, and is no leftover.
#[test]
fn the_invalid_index_of_a_partitioned_parent_is_nobodys_leftover() {
    let scratch = with_table();
    scratch.sql(
        "CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); \
         CREATE INDEX p_a_idx ON ONLY p (a)",
    );
    assert_eq!(validity(&scratch, "p_a_idx"), "f");
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY p1_a_idx ON p1 (a)");
    scratch.file(&file(3), "ALTER INDEX p_a_idx ATTACH PARTITION p1_a_idx");
    scratch.up().code(0);
    assert_eq!(validity(&scratch, "p_a_idx"), "t");
}

#[test]
fn duplicates_are_named_and_once_they_are_gone_the_next_run_builds_the_index() {
    let scratch = with_table();
    scratch.sql("INSERT INTO t VALUES (7, 'again')");
    let path = scratch.file(&file(2), "CREATE UNIQUE INDEX CONCURRENTLY t_a_idx ON t (a)");
    scratch.file(&file(3), "CREATE TABLE never (c int)");
    let outcome = scratch.up();
    outcome.code(1);
    let error = outcome.error();
    let start = format!(
        "{}:1:34: could not create unique index \"t_a_idx\" (SQLSTATE 23505)",
        path.display()
    );
    assert!(error.starts_with(&start), "{error}");
    assert!(error.contains("\n  DETAIL: Key (a)=(7) is duplicated."), "{error}");
    assert!(error.contains("\n  not recorded; this run applied nothing before it; "), "{error}");
    assert_eq!(scratch.history(), [version(1)]);
    scratch.assert_unlocked();
    // As often as one likes.
    scratch.up().code(1).says("could not create unique index");

    scratch.sql("DELETE FROM t WHERE b = 'again'");
    scratch.up().code(0).says(DROPS_THE_INVALID_INDEX);
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
    assert_eq!(scratch.history().len(), 3);
}

/// The file of a migration that failed may be edited: what its first version left has another name then, and is not
/// looked for; the new one is built.
#[test]
fn a_failed_file_may_be_edited() {
    let scratch = with_table();
    scratch.sql("INSERT INTO t VALUES (7, 'again')");
    scratch.file(&file(2), "CREATE UNIQUE INDEX CONCURRENTLY t_a_idx ON t (a)");
    scratch.up().code(1);
    scratch.file(&file(2), "CREATE UNIQUE INDEX CONCURRENTLY t_a_b_idx ON t (a, b)");
    scratch.up().code(0);
    assert_eq!(validity(&scratch, "t_a_b_idx"), "t");
    scratch.up().code(0);
}

// ----------------------------------------------------------------------------------- other interruptions

/// Run again, the server would say that there is no such index.
#[test]
fn a_drop_that_was_complete_but_not_recorded_is_recorded() {
    let scratch = with_table();
    scratch.sql(BUILD_INDEX);
    scratch.file(&file(2), "DROP INDEX CONCURRENTLY t_a_idx");
    scratch.up().code(0);
    unrecord(&scratch, 2);
    scratch.up().code(0).says(FINDS_THE_WORK_DONE);
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// The catalog is not asked about those; the server says so itself.
#[test]
fn a_database_that_was_created_or_dropped_but_not_recorded_is_recorded() {
    let scratch = superusers();
    let database = format!("{}_more", scratch.database);
    scratch.file(&file(2), format!("CREATE DATABASE {database} TEMPLATE template0"));
    scratch.up().code(0);
    unrecord(&scratch, 2);
    scratch.up().code(0).says(FINDS_THE_WORK_DONE);
    scratch.file(&file(3), format!("DROP DATABASE {database}"));
    scratch.up().code(0);
    unrecord(&scratch, 3);
    scratch.up().code(0).says(FINDS_THE_WORK_DONE);
    assert_eq!(scratch.history(), [version(1), version(2), version(3)]);
}

/// It is not ours then: nobody knows whose it is.
#[test]
fn a_database_that_was_there_before_is_an_error() {
    let scratch = superusers();
    scratch.file(&file(2), format!("CREATE DATABASE {}", scratch.database));
    scratch.up().code(1).says("already exists (SQLSTATE 42P04)");
    assert_eq!(scratch.history(), [version(1)]);
}

#[test]
fn a_drop_that_was_interrupted_midway_is_done_again() {
    let scratch = with_table();
    scratch.sql(BUILD_INDEX);
    scratch.file(&file(2), "DROP INDEX CONCURRENTLY t_a_idx");
    let old = old_snapshot(&scratch);
    // It waits for whoever uses the table, and not only for snapshots.
    let mut reader = scratch.client();
    reader.batch_execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE").expect("a reader");
    let run = scratch.lockstep(&["up"]).spawn();
    let dropping = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
                    AND query LIKE '%DROP INDEX CONCURRENTLY%'";
    wait_until("the index is being dropped", || !scratch.sql(dropping).is_empty());
    wait_until("it is INVALID already", || validity(&scratch, "t_a_idx") == "f");
    scratch.sql(&format!("SELECT pg_terminate_backend(({dropping}))"));
    run.wait().code(3);
    drop((old, reader));
    scratch.up().code(0);
    assert_eq!(scratch.value("SELECT to_regclass('t_a_idx') IS NULL"), "t");
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// What the server leaves of it has names of its own making.
#[test]
fn an_interrupted_reindex_leaves_no_invalid_index_behind() {
    let scratch = superusers();
    scratch.sql("CREATE INDEX t_a_idx ON t (a); CREATE UNIQUE INDEX t_b_idx ON t (b)");
    scratch.file(&file(2), "REINDEX TABLE CONCURRENTLY t");
    let old = old_snapshot(&scratch);
    let run = scratch.lockstep(&["up"]).spawn();
    let build = wait_until_building(&scratch);
    scratch.sql(&format!("SELECT pg_terminate_backend({build})"));
    run.wait().code(3);
    let invalid = "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid ORDER BY 1";
    assert!(!scratch.sql(invalid).is_empty(), "the interruption left something");
    drop(old);
    scratch.up().code(0);
    assert_eq!(scratch.sql(invalid), [""; 0]);
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

#[test]
fn a_drop_of_what_never_was_is_an_error() {
    let scratch = with_table();
    scratch.file(&file(2), "DROP INDEX CONCURRENTLY t_a_idx");
    scratch.up().code(1).says("index \\\"t_a_idx\\\" does not exist (SQLSTATE 42704)");
    assert_eq!(scratch.history(), [version(1)]);
}

#[test]
fn a_detach_that_was_interrupted_is_finalized() {
    let scratch = with_table();
    scratch.sql(
        "CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); \
         CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2)",
    );
    scratch.file(&file(2), "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY");
    let mut reader = scratch.client();
    reader.batch_execute("BEGIN; SELECT FROM p").expect("a reader");
    let run = scratch.lockstep(&["up"]).spawn();
    let pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending";
    wait_until("the detach is pending", || scratch.value(pending) == "1");
    run.kill();
    drop(reader);
    let detaching = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
                     AND query LIKE '%DETACH%' AND pid <> pg_backend_pid()";
    wait_until("the orphan is gone", || scratch.sql(detaching).is_empty());
    scratch.up().code(0);
    assert_eq!(scratch.value(pending), "0");
    let parts = "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'p'::regclass";
    assert_eq!(scratch.sql(parts), ["p2"]);
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// The reader stays, so the orphan cannot finish by itself: it is ended, and leaves the detach pending.
#[test]
fn a_pending_detach_is_finalized_by_the_next_run() {
    let scratch = with_table();
    scratch.sql("CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)");
    scratch.file(&file(2), "ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY");
    let mut reader = scratch.client();
    reader.batch_execute("BEGIN; SELECT FROM p").expect("a reader");
    let run = scratch.lockstep(&["up"]).spawn();
    let pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending";
    wait_until("the detach is pending", || scratch.value(pending) == "1");
    scratch.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
         AND query LIKE '%DETACH%' AND pid <> pg_backend_pid()",
    );
    run.wait().code(3);
    assert_eq!(scratch.value(pending), "1", "the interruption left it");
    drop(reader);
    scratch.up().code(0);
    assert_eq!(scratch.value("SELECT count(*) FROM pg_inherits"), "0");
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// Without the guard nothing keeps another runner from running the same statement: so it is not even begun. Which it
/// was not, so the next run just does it.
#[test]
fn a_run_that_has_lost_its_guard_begins_no_statement_outside_a_transaction() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    scratch.file(&file(1), format!("{CREATE_TABLE}; {}", Gate::SQL));
    scratch.file(&file(2), BUILD_INDEX);
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    let guard = scratch.guard().expect("a guard");
    scratch.sql(&format!("SELECT pg_terminate_backend({guard})"));
    wait_until("the guard is gone", || !is_there(&scratch, guard));
    gate.open();
    // To be tried again: that is 3 or 4, and of the two it is the lost connection.
    run.wait().code(3);
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(scratch.value("SELECT to_regclass('t_a_idx') IS NULL"), "t");
    scratch.up().code(0);
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
    scratch.assert_unlocked();
}

/// A build is not fenced: it goes on without the row. But nothing is recorded without it.
#[test]
fn a_row_deleted_by_hand_during_a_build_leaves_it_unrecorded_and_the_next_run_records_it() {
    let scratch = with_table();
    scratch.file(&file(2), BUILD_INDEX);
    scratch.file(&file(3), "CREATE TABLE later (c int)");
    let old = old_snapshot(&scratch);
    let run = scratch.lockstep(&["up"]).spawn();
    wait_until_building(&scratch);
    scratch.sql("DELETE FROM bun_migration_locks");
    drop(old);
    run.wait().code(4);
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(validity(&scratch, "t_a_idx"), "t");
    let oid = scratch.value("SELECT 't_a_idx'::regclass::oid");
    scratch.up().code(0).says(FINDS_THE_WORK_DONE);
    assert_eq!(scratch.value("SELECT 't_a_idx'::regclass::oid"), oid, "built once");
    assert_eq!(scratch.history().len(), 3);
}

// -------------------------------------------------------------------------------------------- what it takes

/// A database whose first migration has created the table `t`.
fn with_table() -> Scratch {
    let scratch = Scratch::owned();
    scratch.file(&file(1), CREATE_TABLE);
    scratch.up().code(0);
    scratch
}

/// The same, of a superuser, for what takes one.
fn superusers() -> Scratch {
    Scratch::migrated([(&file(1), CREATE_TABLE)])
}

/// A database in whose journal the build of the index has begun, but it has not.
fn interrupted_before_the_build() -> Scratch {
    let scratch = with_table();
    scratch.file(&file(2), BUILD_INDEX);
    scratch.up().code(0);
    unrecord(&scratch, 2);
    scratch.sql("DROP INDEX t_a_idx");
    scratch
}

/// Waits until an index is being built, and its build waits for older transactions; returns the session's process id.
fn wait_until_building(scratch: &Scratch) -> i32 {
    let query = "SELECT pid FROM pg_stat_progress_create_index WHERE datname = current_database() \
                 AND phase LIKE 'waiting for %'";
    let mut found = Vec::new();
    wait_until("the index is being built", || {
        found = scratch.sql(query);
        !found.is_empty()
    });
    found[0].parse().expect("a process id")
}

fn is_there(scratch: &Scratch, pid: i32) -> bool {
    !scratch.sql(&format!("SELECT FROM pg_stat_activity WHERE pid = {pid}")).is_empty()
}

fn validity(scratch: &Scratch, index: &str) -> String {
    scratch
        .value(&format!("SELECT indisvalid FROM pg_index WHERE indexrelid = '{index}'::regclass"))
}
