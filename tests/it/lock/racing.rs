//! Racing and killing. The contract of the lock, item by item; the tests below follow the list.
//!
//! 1. However many runners start at once, each migration is applied once, by one of them; the others wait, and all
//!    exit 0.
//! 2. The guard is free the moment its holder is dead, and whoever waits takes over without anybody's help: in a
//!    migration, between two, while an orphaned session is still at work, and also if it has lost its own sessions.
//! 3. What an orphaned session commits is not repeated; one that will never end is ended by the server.
//! 4. A run that lost its guard, its work connection, or its row stops before its next transaction, or finishes under
//!    the row that is still its own. Nothing is applied twice.
//! 5. A row that a dead run of ours left is taken over. A row of bun's is waited for, by name, also when nothing is
//!    pending: at the deadline the exit code is 4.
//! 6. Neither bun nor our own waiters hold up a CREATE INDEX CONCURRENTLY; see also `bun/beside.rs`.
//! 7. Every wait has its deadline, names whom it waits for, and can be "try once".
//! 8. Two histories do not wait for each other.
//! 9. None of this depends on the settings of the role, the database or the session.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::bun_client::{self, LOCK as BUN_LOCK, UNLOCK as BUN_UNLOCK};
use crate::support::steps::{assert_applied_once, file, steps, version};
use crate::support::words::{
    BEGINS_ANEW, HAS_LOST_ITS_GUARD, TRIES_AGAIN, WAITS_FOR_A_RUNNER, WAITS_FOR_BUN,
    WAITS_FOR_THE_ROW,
};
use crate::support::{Gate, Lockstep, Outcome, Running, Scratch, rows, wait_until};

// ------------------------------------------------------------------------------------------ 1. racing

/// The first migration stands at a gate until all the others are known to wait.
#[test]
fn fifty_runners_at_once_apply_each_migration_once() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL, "", "", ""]);
    let runs: Vec<Running> = (0..50).map(|_| scratch.patient_up().spawn()).collect();
    gate.wait_for_visitor();
    wait_until("49 runners wait", || {
        runs.iter().filter(|run| run.log().contains(WAITS_FOR_A_RUNNER)).count() == 49
    });
    gate.open();

    let outcomes: Vec<Outcome> = runs.into_iter().map(Running::wait).collect();
    outcomes.iter().for_each(|outcome| {
        outcome.code(0);
    });
    assert_eq!(
        outcomes.iter().filter(|it| it.stderr.contains("4 migrations, 4 applied in ")).count(),
        1
    );
    assert_eq!(
        outcomes.iter().filter(|it| it.stderr.contains("the database is up to date")).count(),
        50
    );
    assert_applied_once(&scratch, 4);
    assert_eq!(scratch.sql("SELECT DISTINCT group_id FROM bun_migrations"), ["1"]);
    let complaints: Vec<String> = scratch
        .server_log()
        .into_iter()
        .filter(|line| {
            ["ERROR", "FATAL", "PANIC", "WARNING"]
                .iter()
                .any(|level| line.contains(&format!("{level}:")))
        })
        .collect();
    assert_eq!(complaints, [""; 0]);
}

// ----------------------------------------------------------------------------------------- 2. killing

#[test]
fn a_waiting_runner_takes_over_when_the_holder_is_killed_in_a_migration() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &["", Gate::SQL, ""]);
    let (first, second) = gate.queue(&scratch.patient_up(), &scratch.patient_up());
    let orphan = gate.wait_for_visitor();
    first.kill();

    wait_until("the second runner has come to the same migration", || {
        gate.visitor().is_some_and(|it| it != orphan)
    });
    gate.open();
    second.wait().code(0);
    assert_applied_once(&scratch, 3);
    scratch.assert_unlocked();
}

/// The file keeps the server from noticing that its client is gone, so the orphan works on for as long as the gate is
/// closed: meanwhile the guard has a new holder, but the row is still the orphan's.
#[test]
fn the_guard_is_free_at_once_and_an_orphans_commit_is_waited_for_and_not_repeated() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(
        &scratch,
        &["", &format!("SET LOCAL client_connection_check_interval = 0; {}", Gate::SQL), ""],
    );
    let (first, mut second) = gate.queue(&scratch.patient_up(), &scratch.patient_up());
    let orphan = gate.wait_for_visitor();
    let dead = scratch.guard();
    first.kill();

    wait_until("the guard has a new holder", || scratch.guard().is_some_and(|it| Some(it) != dead));
    second.wait_for_log(WAITS_FOR_THE_ROW);
    assert_eq!(gate.visitor(), Some(orphan), "the orphan is still at work");
    assert_eq!(scratch.history(), [version(1)]);
    gate.open();
    second.wait().code(0);
    assert_applied_once(&scratch, 3);
    assert_eq!(scratch.sql("SELECT group_id FROM bun_migrations ORDER BY id"), ["1", "1", "2"]);
    scratch.assert_unlocked();
}

/// Frozen while the server works off the first migration, the runner is killed before it can send the second.
#[test]
fn a_waiting_runner_takes_over_when_the_holder_is_killed_between_migrations() {
    let scratch = Scratch::new();
    let (first, second) = frozen_after_the_first_migration(&scratch);
    first.kill();
    second.wait().code(0).applied_one(1, 2);
    assert_applied_once(&scratch, 3);
    assert_eq!(scratch.sql("SELECT group_id FROM bun_migrations ORDER BY id"), ["1", "2", "2"]);
    scratch.assert_unlocked();
}

/// As when the server is restarted: whoever waits has changed nothing, and so begins anew.
#[test]
fn a_waiting_runner_that_loses_its_sessions_goes_on_waiting_and_takes_over() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &["", Gate::SQL, ""]);
    let (first, mut second) = gate.queue(&scratch.patient_up(), &scratch.patient_up());
    let sessions = format!(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name LIKE 'lockstep/%/{}'",
        second.pid()
    );
    assert!(!scratch.sql(&sessions).is_empty());
    second.wait_for_log(BEGINS_ANEW);
    first.kill();
    gate.open();
    second.wait().code(0);
    assert_applied_once(&scratch, 3);
    scratch.assert_unlocked();
}

/// It has the time that it may wait for the lock, and no more.
#[test]
fn a_runner_that_may_not_wait_does_not_begin_anew() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL]);
    let (first, second) = gate.queue(
        &scratch.patient_up(),
        &scratch.patient_up().env("MIGRATION_LOCK_WAIT_SECONDS", "5"),
    );
    let started = Instant::now();
    second.freeze();
    scratch.sql(&format!(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name LIKE 'lockstep/%/{}'",
        second.pid()
    ));
    wait_until("its time has passed", || started.elapsed() > Duration::from_secs(6));
    second.thaw();
    let outcome = second.wait();
    outcome.code(3);
    gate.open();
    first.wait().code(0);
    assert_applied_once(&scratch, 1);
}

// ------------------------------------------------------------------------------------------ 3. orphans

/// The statement would sleep for ten minutes; every wait of a test is shorter.
#[test]
fn the_server_ends_an_orphaned_statement_by_itself() {
    let scratch = Scratch::with([(&file(1), "SELECT pg_sleep(600)")]);
    let run = scratch.lockstep(&["up"]).spawn();
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    wait_until("the statement sleeps", || scratch.value(sleeping) == "1");
    run.kill();
    wait_until("the orphan is gone", || scratch.value(sleeping) == "0");
    scratch.file(&file(1), "SELECT 1");
    scratch.up().code(0);
    assert_eq!(scratch.history(), [version(1)]);
}

// ------------------------------------------------------------------------- 4. losing guard, work, row

#[test]
fn a_run_that_loses_its_guard_goes_on_while_nobody_has_taken_over() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL, "", ""]);
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    terminate(&scratch, scratch.guard().expect("a guard"));
    gate.open();
    run.wait().code(0).says(HAS_LOST_ITS_GUARD);
    assert_applied_once(&scratch, 3);
    scratch.assert_unlocked();
}

#[test]
fn a_run_that_loses_its_guard_to_another_stops_before_its_next_migration() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL, "", ""]);
    let (first, mut second) = gate.queue(&scratch.patient_up(), &scratch.patient_up());
    let token = scratch.value("SELECT id FROM bun_migration_locks");
    first.freeze();
    terminate(&scratch, scratch.guard().expect("a guard"));
    second.wait_for_log(WAITS_FOR_THE_ROW);
    gate.open();
    second.wait().code(0);
    first.thaw();
    let outcome = first.wait();
    outcome.code(4).says(&format!(
        "the migration lock was lost: row {token} is gone from public.bun_migration_locks: somebody deleted it, or \
         another runner took over"
    ));
    outcome.says("hint: run again");
    assert_applied_once(&scratch, 3);
    scratch.assert_unlocked();
}

#[test]
fn a_run_that_loses_its_work_connection_in_a_migration_exits_3_and_the_next_run_is_right() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &["", Gate::SQL, ""]);
    let run = scratch.patient_up().spawn();
    let work = gate.wait_for_visitor();
    terminate(&scratch, work);
    let outcome = run.wait();
    outcome.code(3).says("the connection was lost: applying 20230101000002_step.up.sql, which may or may not be committed");
    assert_eq!(scratch.history(), [version(1)]);
    assert_eq!(scratch.guard(), None);
    gate.open();
    scratch.up().code(0);
    assert_applied_once(&scratch, 3);
    scratch.assert_unlocked();
}

#[test]
fn a_run_that_loses_its_work_connection_between_migrations_exits_3_and_the_next_run_is_right() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL, "", ""]);
    let run = scratch.patient_up().spawn();
    let work = gate.wait_for_visitor();
    run.freeze();
    gate.open();
    wait_until("the first migration is committed", || scratch.history().len() == 1);
    terminate(&scratch, work);
    run.thaw();
    run.wait().code(3);
    assert_eq!(scratch.history(), [version(1)]);
    scratch.up().code(0);
    assert_applied_once(&scratch, 3);
    scratch.assert_unlocked();
}

/// The runner is frozen, so that the DELETE is done by the time that it sends its next migration.
#[test]
fn a_row_deleted_by_hand_stops_the_run_before_its_next_migration() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL, "", ""]);
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    let token = scratch.value("SELECT id FROM bun_migration_locks");
    let mut operator = scratch.client();
    let pid = rows(&mut operator, "SELECT pg_backend_pid()").remove(0);
    let deletion = thread::spawn(move || {
        operator.batch_execute("DELETE FROM bun_migration_locks").expect("a DELETE")
    });
    let waits = format!("SELECT wait_event_type FROM pg_stat_activity WHERE pid = {pid}");
    wait_until("the DELETE waits for the migration", || scratch.value(&waits) == "Lock");
    run.freeze();
    gate.open();
    deletion.join().expect("no panic");
    assert_eq!(scratch.history(), [version(1)], "the DELETE waited for the commit");
    run.thaw();
    run.wait().code(4).says(&format!("the migration lock was lost: row {token} is gone"));
    assert_eq!(scratch.history(), [version(1)]);
    scratch.up().code(0);
    assert_applied_once(&scratch, 3);
}

/// As an operator does it who believes that a run is dead, and then starts bun: bun's turn is over before the frozen
/// run goes on.
#[test]
fn what_bun_applied_meanwhile_is_not_applied_again() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL, "", ""]);
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    run.freeze();
    gate.open();
    wait_until("the first migration is committed", || scratch.history().len() == 1);
    scratch.sql("DELETE FROM bun_migration_locks");
    scratch.sql(BUN_LOCK);
    scratch.sql(&format!(
        "INSERT INTO bun_migrations (name, group_id) VALUES ('{two}', 2); INSERT INTO ran VALUES ('{two}')",
        two = version(2)
    ));
    run.thaw();
    run.wait().code(4);
    assert_eq!(scratch.history(), [version(1), version(2)]);
    scratch.sql(BUN_UNLOCK);
    scratch.up().code(0);
    assert_applied_once(&scratch, 3);
}

// --------------------------------------------------------------------------- 5. rows that are there before

#[test]
fn a_row_that_a_dead_run_left_is_taken_over() {
    let scratch = with_tables();
    scratch.sql("INSERT INTO bun_migration_locks (id, table_name) VALUES (-5, 'bun_migrations')");
    steps(&scratch, &["", ""]);
    scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "0").run().code(0);
    assert_applied_once(&scratch, 2);
    scratch.assert_unlocked();
}

#[test]
fn a_row_of_buns_is_waited_for_until_the_deadline() {
    let scratch = with_tables();
    let id = scratch.value(BUN_LOCK);
    steps(&scratch, &["", ""]);
    let outcome = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "3").run();
    outcome
        .code(4)
        .says(&format!("waiting for bun's lock, row {id} of public.bun_migration_locks"));
    let error = outcome.error();
    let (waited, rest) = split_at_duration(&error, "bun's lock is still there after ");
    assert!(waited >= 3.0, "{error}");
    assert_eq!(
        rest,
        format!(
            "row {id} of public.bun_migration_locks is bun's, whose owner may be alive or dead\n  \
             hint: run again if a bun process is at work; if you know that none is: lockstep unlock {id}"
        )
    );
    assert_eq!(scratch.history(), [""; 0]);
    assert_eq!(scratch.value("SELECT id FROM bun_migration_locks"), id, "bun's row is left alone");
    assert_eq!(scratch.guard(), None);
}

#[test]
fn a_run_goes_on_by_itself_when_buns_row_disappears() {
    let scratch = with_tables();
    scratch.sql(BUN_LOCK);
    steps(&scratch, &["", ""]);
    let mut run = scratch.lockstep(&["up"]).spawn();
    run.wait_for_log("waiting for bun's lock, row 1 of public.bun_migration_locks: its owner is a bun process, alive or dead");
    scratch.sql(BUN_UNLOCK);
    run.wait().code(0);
    assert_applied_once(&scratch, 2);
    scratch.assert_unlocked();
}

/// bun records before it runs, so while its row stands the newest record may be of a migration that never ran.
#[test]
fn a_row_of_buns_is_waited_for_also_when_nothing_is_pending() {
    let scratch = with_tables();
    steps(&scratch, &["", ""]);
    scratch.up().code(0);
    scratch.sql(BUN_LOCK);
    let outcome = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "0").run();
    outcome.code(4).says(&format!(
        "bun records a migration before it runs it: {}, the newest record, may be running, or may never have run",
        version(2)
    ));

    let mut run = scratch.lockstep(&["up"]).spawn();
    run.wait_for_log(WAITS_FOR_BUN);
    scratch.sql(BUN_UNLOCK);
    run.wait().code(0).is_up_to_date(2);
    assert_applied_once(&scratch, 2);
}

/// What bun records while we wait for it is not ours to run any more.
#[test]
fn what_bun_records_while_it_is_waited_for_is_not_applied_again() {
    let scratch = with_tables();
    scratch.sql(BUN_LOCK);
    steps(&scratch, &["", "", ""]);
    let mut run = scratch.lockstep(&["up"]).spawn();
    run.wait_for_log(WAITS_FOR_BUN);
    let (one, two) = (version(1), version(2));
    scratch.sql(&format!(
        "BEGIN; CREATE TABLE ran (version text); INSERT INTO ran VALUES ('{one}'), ('{two}'); \
         INSERT INTO bun_migrations (name, group_id) VALUES ('{one}', 1), ('{two}', 1); {BUN_UNLOCK}; COMMIT"
    ));
    run.wait().code(0);
    assert_applied_once(&scratch, 3);
    assert_eq!(scratch.sql("SELECT group_id FROM bun_migrations ORDER BY id"), ["1", "1", "2"]);
}

// -------------------------------------------------------------------- 6. bun and waiters, beside our work

/// A snapshot or a transaction id that stood for as long as the wait would hold back VACUUM, and every CONCURRENTLY.
#[test]
fn neither_the_guard_nor_a_waiter_keeps_a_snapshot_or_a_transaction_id() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL]);
    let (run, waiter) = gate.queue(&scratch.patient_up(), &scratch.patient_up());
    let work = gate.wait_for_visitor();
    let guard = scratch.guard().expect("a guard");
    let horizons = "SELECT state, backend_xid, backend_xmin FROM pg_stat_activity WHERE pid";
    assert_eq!(scratch.value(&format!("{horizons} = {guard}")), "idle in transaction|∅|∅");
    // Its looks at the history are moments; what lasted would be seen here for ever.
    wait_until("the waiter has one session, which keeps nothing back", || {
        let waiters = format!(
            "{horizons} NOT IN ({guard}, {work}) AND application_name LIKE 'lockstep/%/{}'",
            waiter.pid()
        );
        let sessions = scratch.sql(&waiters);
        sessions.len() == 1 && sessions.iter().all(|it| it.ends_with("|∅|∅"))
    });
    gate.open();
    run.wait().code(0);
    waiter.wait().code(0);
}

// --------------------------------------------------------------------------------------- 7. deadlines

#[test]
fn at_the_deadline_the_exit_code_is_4_and_the_holder_is_named() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    let warden = rows(
        &mut scratch.client(),
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = 77 \
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .remove(0);
    steps(&scratch, &[Gate::SQL]);
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    let guard = scratch.guard().expect("a guard");
    let outcome = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "3").run();
    outcome.code(4).says(WAITS_FOR_A_RUNNER);
    let error = outcome.error();
    let (waited, holder) =
        split_at_duration(&error, "another runner still holds the migration lock after ");
    assert!(waited >= 3.0, "{error}");
    let mut rest = holder;
    for part in [
        format!("pid {guard}, lockstep/{} ", env!("CARGO_PKG_VERSION")),
        ", from 127.0.0.1, running step 20230101000001, statement 3/3, for ".to_owned(),
        format!(", blocked by pid {warden} (idle)\n"),
        "  hint: run again; the lock is gone the moment its holder is".to_owned(),
    ] {
        let at = rest.find(&part);
        rest = &rest[at.unwrap_or_else(|| panic!("{part:?} is missing: {error}")) + part.len()..];
    }
    assert!(holder.starts_with("pid") && rest.is_empty(), "{error}");
    gate.open();
    run.wait().code(0);
    assert_applied_once(&scratch, 1);
}

#[test]
fn a_wait_of_zero_seconds_is_one_try() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL, ""]);
    let once = scratch.lockstep(&["up"]).env("MIGRATION_LOCK_WAIT_SECONDS", "0");
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    once.run()
        .code(4)
        .says("another runner still holds the migration lock after")
        .is_silent_about(WAITS_FOR_A_RUNNER);
    gate.open();
    run.wait().code(0);
    scratch.file(&file(3), format!("INSERT INTO ran VALUES ('{}')", version(3)));
    once.run().code(0);
    assert_applied_once(&scratch, 3);
}

// ----------------------------------------------------------------------------------- 8. two histories

#[test]
fn two_histories_in_two_schemas_do_not_wait_for_each_other() {
    let scratch = Scratch::new();
    scratch.sql("CREATE SCHEMA a; CREATE SCHEMA b");
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL]);
    let a = in_schema(scratch.patient_up(), "a").spawn();
    gate.wait_for_visitor();
    let other = scratch.directory.join("other");
    std::fs::create_dir(&other).expect("a directory");
    std::fs::write(other.join(file(1)), "CREATE TABLE b.t (c int)").expect("a file");
    let b = in_schema(scratch.lockstep(&["up"]), "b").env("MIGRATION_LOCK_WAIT_SECONDS", "0");
    b.env("MIGRATIONS_DIR", other.display().to_string()).run().code(0);
    assert_eq!(scratch.sql("SELECT name FROM b.bun_migrations"), [version(1)]);
    assert_eq!(scratch.sql("SELECT name FROM a.bun_migrations"), [""; 0]);
    gate.open();
    a.wait().code(0);
    assert_eq!(scratch.sql("SELECT name FROM a.bun_migrations"), [version(1)]);
    assert_eq!(scratch.value("SELECT to_regclass('public.bun_migrations') IS NULL"), "t");
}

/// The guard's key is the table, not the way it is written.
#[test]
fn two_spellings_of_one_history_do_wait_for_each_other() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL]);
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    in_schema(scratch.lockstep(&["up"]), "public")
        .env("MIGRATION_LOCK_WAIT_SECONDS", "0")
        .run()
        .code(4)
        .says("another runner still holds the migration lock");
    gate.open();
    run.wait().code(0);
}

/// Two spellings have two rows, so that the row does not keep them apart once the guard is lost: the fence's own lock
/// does.
#[test]
fn two_spellings_of_one_history_apply_each_migration_once_also_if_the_guard_is_lost() {
    let scratch = with_tables();
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &["", Gate::SQL, "", ""]);
    let first = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    terminate(&scratch, scratch.guard().expect("the first has the lock"));
    let mut second = in_schema(scratch.patient_up(), "public").spawn();
    second.wait_for_log("another migration of this history is running");
    gate.open();
    for run in [first, second] {
        let outcome = run.wait();
        assert!(matches!(outcome.code, Some(0 | 3 | 4)), "{outcome}");
    }
    scratch.up().code(0);
    assert_applied_once(&scratch, 4);
}

// --------------------------------------------------------------------------------- 9. hostile settings

/// Both a transactional migration and an index build last longer than every timeout of the role.
#[test]
fn hostile_settings_of_the_role_change_nothing() {
    let scratch = Scratch::new();
    let role = scratch.role("hostile", "LOGIN");
    for (name, value) in [
        ("statement_timeout", "'1s'"),
        ("lock_timeout", "'1s'"),
        ("idle_in_transaction_session_timeout", "'1s'"),
        ("idle_session_timeout", "'1s'"),
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_deferrable", "on"),
        ("search_path", "nowhere, public"),
        ("client_min_messages", "error"),
        ("standard_conforming_strings", "off"),
        ("synchronous_commit", "off"),
    ] {
        scratch.sql(&format!("ALTER ROLE {} SET {name} = {value}", role.name));
    }
    scratch.sql(&format!("GRANT CREATE ON SCHEMA public TO {}", role.name));
    scratch.file(
        &file(1),
        format!(
            "CREATE TABLE public.ran (version text); INSERT INTO public.ran VALUES ('{}')",
            version(1)
        ),
    );
    scratch
        .file(&file(2), format!("{} INSERT INTO public.ran VALUES ('{}')", Gate::SQL, version(2)));
    scratch.file(&file(3), "CREATE INDEX CONCURRENTLY ran_version_idx ON public.ran (version)");
    let mut gate = Gate::closed(&scratch);
    let up = scratch.patient_up().env("DATABASE_URL", role.url());
    let (mut run, waiter) = gate.queue(&up, &up);
    let work = gate.wait_for_visitor();
    let lasting = format!(
        "SELECT clock_timestamp() - query_start > '1.5 s' AND wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {work}"
    );
    wait_until("the migration has lasted", || scratch.sql(&lasting) == ["t"]);
    let mut old = scratch.client();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class")
        .expect("an old snapshot");
    gate.open();
    run.wait_for_log("3/3 applying");
    wait_until("the index build has lasted", || scratch.sql(&lasting) == ["t"]);
    drop(old);

    run.wait().code(0).is_silent_about(TRIES_AGAIN);
    waiter.wait().code(0);
    assert_eq!(scratch.history(), [version(1), version(2), version(3)]);
    assert_eq!(scratch.sql("SELECT version FROM ran ORDER BY 1"), [version(1), version(2)]);
    assert_eq!(
        scratch.value(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ran_version_idx'::regclass"
        ),
        "t"
    );
    scratch.assert_unlocked();
}

// -------------------------------------------------------------------------------------------- what it takes

/// A text that begins with `start` and a time, as in `0.5 s: `: the seconds, and what follows.
#[track_caller]
fn split_at_duration<'a>(text: &'a str, start: &str) -> (f64, &'a str) {
    let rest = text.strip_prefix(start).unwrap_or_else(|| panic!("{start:?} is missing: {text}"));
    let (seconds, rest) =
        rest.split_once(" s: ").unwrap_or_else(|| panic!("a time is missing: {text}"));
    (seconds.parse().expect("a number of seconds"), rest)
}

/// A database with bun's tables.
fn with_tables() -> Scratch {
    let scratch = Scratch::new();
    bun_client::init(&scratch);
    scratch
}

fn in_schema<'a>(up: Lockstep<'a>, schema: &str) -> Lockstep<'a> {
    up.env("MIGRATIONS_TABLE", format!("{schema}.bun_migrations"))
        .env("MIGRATION_LOCKS_TABLE", format!("{schema}.bun_migration_locks"))
}

fn terminate(scratch: &Scratch, pid: i32) {
    assert_eq!(scratch.value(&format!("SELECT pg_terminate_backend({pid})")), "t");
    wait_until("the session is gone", || {
        scratch.value(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")) == "0"
    });
}

/// A runner, frozen after the first of three migrations was committed, and one that waits for it.
fn frozen_after_the_first_migration(scratch: &Scratch) -> (Running, Running) {
    let mut gate = Gate::closed(scratch);
    steps(scratch, &[Gate::SQL, "", ""]);
    let (first, second) = gate.queue(&scratch.patient_up(), &scratch.patient_up());
    first.freeze();
    gate.open();
    wait_until("the first migration is committed", || scratch.history().len() == 1);
    (first, second)
}
