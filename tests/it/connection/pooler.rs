//! Through PgBouncer, in transaction mode and in session mode: all that holds without it holds here, too, with a pool as
//! small as two connections; and a pool that is too small is a clear error, not a hang.

use std::collections::BTreeSet;

use postgres::{Client, NoTls};

use crate::support::pgbouncer::{MODES, Mode, PgBouncer};
use crate::support::steps::{assert_applied_once, file, steps, version};
use crate::support::words::{
    BEGINS_ANEW, DROPS_THE_INVALID_INDEX, HAS_LOST_ITS_CONNECTION, WAITS_FOR_A_RUNNER,
    WAITS_FOR_THE_DATABASE,
};
use crate::support::{Gate, Lockstep, Outcome, Running, Scratch, rows, wait_until};

// ------------------------------------------------------------------------------------------- applying

#[test]
fn two_connections_are_enough_in_transaction_mode() {
    two_connections_are_enough(Mode::Transaction);
}

#[test]
fn two_connections_are_enough_in_session_mode() {
    two_connections_are_enough(Mode::Session);
}

fn two_connections_are_enough(mode: Mode) {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, mode, 2);
    steps(&scratch, &["", "", ""]);
    let index = "ran_version_idx";
    scratch.file(&file(4), format!("CREATE INDEX CONCURRENTLY {index} ON ran (version)"));
    scratch.file(&file(5), format!("REINDEX INDEX CONCURRENTLY {index};"));
    scratch.file(&file(6), "VACUUM ran");
    scratch.file(&file(7), "ALTER TABLE ran ADD COLUMN another int");
    up(&scratch, &pgbouncer).run().code(0).is_up_to_date(7).applied_now(7);
    up(&scratch, &pgbouncer).run().code(0).is_up_to_date(7);

    assert_eq!(scratch.history(), (1..=7).map(version).collect::<Vec<_>>());
    assert_eq!(
        scratch.sql("SELECT version FROM ran ORDER BY 1"),
        (1..=3).map(version).collect::<Vec<_>>()
    );
    assert!(is_valid(&scratch, index));
    scratch.assert_unlocked();
    assert_eq!(complaints(&scratch), [""; 0]);
}

/// They keep no session and set nothing beyond a transaction, so one connection to the server is enough.
#[test]
fn status_check_and_wait_work_through_a_pool_of_one() {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 1);
    steps(&scratch, &[""]);
    let url = pgbouncer.url();
    let through = |command: &str| scratch.lockstep(&[command]).env("DATABASE_URL", url.clone());
    through("status").run().code(0);
    through("check").run().code(6);
    let mut wait = through("wait").spawn();
    wait.wait_for_log("waiting for 1 migration");
    // While it waits, others get the connection.
    let status = through("status").run();
    assert!(status.stdout.contains("lock      free\n"), "{status}");
    scratch.up().code(0);
    wait.wait().code(0);
    through("check").run().code(0);
    assert_eq!(complaints(&scratch), [""; 0]);
}

/// The one connection is free when the run starts, so it is the second that cannot be had. PgBouncer itself would give
/// up after two minutes only. Where nothing is pending, one is enough.
#[test]
fn a_pool_of_one_is_a_clear_error_and_no_hang() {
    let databases = MODES.map(|mode| {
        let scratch = Scratch::new();
        let pgbouncer = PgBouncer::start(&scratch, mode, 1);
        steps(&scratch, &["", ""]);
        (scratch, pgbouncer)
    });
    let runs = databases.each_ref().map(|(scratch, pgbouncer)| {
        let up = up(scratch, pgbouncer).env("DATABASE_WAIT_SECONDS", "1");
        up.env("PGCONNECT_TIMEOUT", "1").spawn()
    });
    for ((scratch, pgbouncer), run) in databases.iter().zip(runs) {
        let outcome = run.wait();
        outcome
            .code(3)
            .says("a pool must have two for a runner")
            .is_silent_about("query_wait_timeout");
        assert_eq!(scratch.history(), [""; 0]);
        scratch.assert_unlocked();
        // What the pooler still had to send found the guard gone, and did nothing.
        let of_ours =
            |line: &String| !line.contains("LK004") && !line.contains("connection to client lost");
        let others: Vec<String> = complaints(scratch).into_iter().filter(of_ours).collect();
        assert_eq!(others, [""; 0]);
        wait_until("its connection is free again", || pgbouncer.waiting() == 0);
        scratch.up().code(0);
        up(scratch, pgbouncer).run().code(0).is_up_to_date(2);
    }
}

/// Without a transaction of several messages nothing can be applied, however often it is tried. PgBouncer says so, or cuts
/// the connection; then it is tried again.
#[test]
fn statement_pooling_is_refused_with_what_to_use() {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, Mode::Statement, 2);
    steps(&scratch, &[""]);
    let through = |command: &str| {
        let run = scratch.lockstep(&[command]).env("DATABASE_URL", pgbouncer.url());
        run.run()
    };
    through("up").code(2).says("transaction or session mode");
    assert_eq!(scratch.history(), [""; 0]);
    through("check").code(6);
}

// --------------------------------------------------------------------------------------------- racing

#[test]
fn of_twenty_at_once_in_transaction_mode_one_works_and_all_exit_with_0() {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 20);
    race_from_an_empty_database(&scratch, &pgbouncer, 20);
}

#[test]
fn of_twenty_at_once_over_two_connections_one_works_and_all_exit_with_0() {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 2);
    race_from_an_empty_database(&scratch, &pgbouncer, 20);
}

/// Each that waits has one of the two, and gives it up for the one that works.
#[test]
fn of_six_at_once_over_two_connections_in_session_mode_one_works_and_all_exit_with_0() {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, Mode::Session, 2);
    race_from_an_empty_database(&scratch, &pgbouncer, 6);
}

#[test]
fn of_twenty_at_once_in_session_mode_one_works_and_all_exit_with_0() {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, Mode::Session, 40);
    race_from_an_empty_database(&scratch, &pgbouncer, 20);
}

/// An empty database, then pending work, then nothing to do; in the last round the server logs every statement.
#[test]
fn of_fifty_at_once_one_works_and_if_nothing_is_pending_nobody_writes_or_locks() {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 10);
    race_from_an_empty_database(&scratch, &pgbouncer, 50);

    scratch.file(&file(5), "INSERT INTO ran VALUES ('20230101000005')");
    assert_one_works(at_once(&scratch, &pgbouncer, 50));
    assert_eq!(scratch.history(), (1..=5).map(version).collect::<Vec<_>>());
    assert_eq!(scratch.sql("SELECT DISTINCT group_id FROM bun_migrations ORDER BY 1"), ["1", "2"]);
    drop(pgbouncer);

    scratch.sql(&format!("ALTER DATABASE {} SET log_statement = 'all'", scratch.database));
    let pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 10);
    for outcome in at_once(&scratch, &pgbouncer, 50) {
        outcome.code(0).is_up_to_date(5).is_silent_about("applied in ");
    }
    let log = scratch.server_log();
    let count = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("statement: BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"), 50, "{log:#?}");
    assert_eq!(count("READ WRITE") + count("pg_try_advisory"), 0, "{log:#?}");
    assert_eq!(complaints(&scratch), [""; 0]);
}

/// Both runners have one of the two connections when each asks for its second.
#[test]
fn two_runners_that_have_a_connection_each_and_want_two_do_not_starve_each_other() {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, Mode::Session, 2);
    steps(&scratch, &["", ""]);
    let mut clients = [pgbouncer.client(), pgbouncer.client()];
    clients.iter_mut().for_each(|client| client.batch_execute("SELECT 1").expect("an answer"));
    let run = || up(&scratch, &pgbouncer).env("DATABASE_WAIT_SECONDS", "40").spawn();
    let runs = [run(), run()];
    pgbouncer.wait_for_waiting(2);
    drop(clients);
    assert_one_works(runs.map(Running::wait));
    assert_applied_once(&scratch, 2);
    scratch.assert_unlocked();
}

fn race_from_an_empty_database(scratch: &Scratch, pgbouncer: &PgBouncer, runners: usize) {
    steps(scratch, &["", "", "SELECT pg_sleep(0.3)"]);
    scratch.file(&file(4), "CREATE INDEX CONCURRENTLY ran_version_idx ON ran (version)");
    assert_one_works(at_once(scratch, pgbouncer, runners));
    assert_eq!(scratch.history(), (1..=4).map(version).collect::<Vec<_>>());
    assert_eq!(
        scratch.sql("SELECT version FROM ran ORDER BY 1"),
        (1..=3).map(version).collect::<Vec<_>>()
    );
    assert_eq!(scratch.sql("SELECT DISTINCT group_id FROM bun_migrations"), ["1"]);
    assert!(is_valid(scratch, "ran_version_idx"));
    scratch.assert_unlocked();
    assert_eq!(complaints(scratch), [""; 0]);
}

fn at_once(scratch: &Scratch, pgbouncer: &PgBouncer, runners: usize) -> Vec<Outcome> {
    let runs: Vec<Running> = (0..runners).map(|_| up(scratch, pgbouncer).spawn()).collect();
    runs.into_iter().map(Running::wait).collect()
}

#[track_caller]
fn assert_one_works(outcomes: impl IntoIterator<Item = Outcome>) {
    let mut working = 0;
    for outcome in outcomes {
        outcome.code(0).says("the database is up to date");
        working += usize::from(outcome.stderr.contains(" applied in "));
    }
    assert_eq!(working, 1, "one works");
}

// -------------------------------------------------------------------------------------------- killing

#[test]
fn a_killed_runner_is_succeeded_by_the_one_that_waits_in_transaction_mode() {
    a_killed_runner_is_succeeded(Mode::Transaction);
}

#[test]
fn a_killed_runner_is_succeeded_by_the_one_that_waits_in_session_mode() {
    a_killed_runner_is_succeeded(Mode::Session);
}

fn a_killed_runner_is_succeeded(mode: Mode) {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, mode, 5);
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &["", Gate::SQL, ""]);
    let (first, second) = gate.queue(&up(&scratch, &pgbouncer), &up(&scratch, &pgbouncer));
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

#[test]
fn a_runner_killed_in_an_index_build_is_succeeded_in_transaction_mode() {
    a_runner_killed_in_an_index_build_is_succeeded(Mode::Transaction);
}

#[test]
fn a_runner_killed_in_an_index_build_is_succeeded_in_session_mode() {
    a_runner_killed_in_an_index_build_is_succeeded(Mode::Session);
}

/// The build waits for an old snapshot, so the kill leaves an INVALID index.
fn a_runner_killed_in_an_index_build_is_succeeded(mode: Mode) {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, mode, 5);
    steps(&scratch, &[""]);
    up(&scratch, &pgbouncer).run().code(0);
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY ran_version_idx ON ran (version)");
    let mut old = scratch.client();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM ran")
        .expect("an old snapshot");
    let builds = "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database() \
                  AND phase LIKE 'waiting%'";
    let first = up(&scratch, &pgbouncer).spawn();
    wait_until("the build waits", || scratch.value(builds) == "1");
    let mut second = up(&scratch, &pgbouncer).spawn();
    second.wait_for_log(WAITS_FOR_A_RUNNER);
    first.kill();
    second.wait_for_log(DROPS_THE_INVALID_INDEX);
    drop(old);
    second.wait().code(0);
    assert!(is_valid(&scratch, "ran_version_idx"));
    assert_eq!(scratch.history(), [version(1), version(2)]);
    scratch.assert_unlocked();
}

#[test]
fn a_rollback_killed_in_a_drop_is_finished_through_the_pool_in_either_direction() {
    for (mode, command) in [
        (Mode::Transaction, &["down", "1"][..]),
        (Mode::Transaction, &["up"]),
        (Mode::Session, &["down", "1"]),
    ] {
        let scratch = Scratch::new();
        let pgbouncer = PgBouncer::start(&scratch, mode, 2);
        let through =
            |command: &[&str]| scratch.lockstep(command).env("DATABASE_URL", pgbouncer.url());
        steps(&scratch, &[""]);
        let down_file = file(1).replace(".up.", ".down.");
        scratch.file(&down_file, "DROP TABLE ran");
        let index = "CREATE INDEX CONCURRENTLY ran_version_idx ON ran (version)";
        scratch.file(&file(2), index);
        let drop_index = "DROP INDEX CONCURRENTLY ran_version_idx";
        scratch.file(&file(2).replace(".up.", ".down."), drop_index);
        through(&["up"]).run().code(0);
        let mut old = scratch.client();
        old.batch_execute("BEGIN; SELECT FROM ran").expect("a reader");
        let first = through(&["down", "1"]).spawn();
        wait_until("the index is INVALID", || !is_valid(&scratch, "ran_version_idx"));
        let killed = first.pid();
        first.kill();
        let mut second = through(command).spawn();
        second.wait_for_log("an earlier run did not finish it");
        drop(old);
        second.wait().code(0);
        if command == ["up"] {
            assert!(is_valid(&scratch, "ran_version_idx"));
            through(&["down", "1"]).run().code(0);
        }
        assert_eq!(scratch.history(), [version(1)], "{mode:?} {command:?}");
        through(&["down"]).run().code(0);
        assert_eq!(scratch.history(), [""; 0]);
        scratch.assert_unlocked();
        // Whether the server notices the death while the statement still waits, and says so, is a matter of time.
        let mut complaints = complaints(&scratch);
        complaints.retain(|line| !line.contains(&format!("/{killed} ")));
        assert_eq!(complaints, [""; 0]);
    }
}

// ------------------------------------------------------------------------------------------- leaking

/// The pool has two connections, so whoever comes after the run gets one of the run's.
#[test]
fn nothing_leaks_to_other_clients_of_the_pool_in_transaction_mode() {
    nothing_leaks(Mode::Transaction);
}

#[test]
fn nothing_leaks_to_other_clients_of_the_pool_in_session_mode() {
    nothing_leaks(Mode::Session);
}

fn nothing_leaks(mode: Mode) {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, mode, 2);
    let role = scratch.role("other", "");
    let note = "INSERT INTO public.ran VALUES";
    scratch.file(
        &file(1),
        format!(
            "CREATE TABLE public.ran (version text, pid int DEFAULT pg_backend_pid()); {note} ('{}');
             SET statement_timeout = '7s'; SET lock_timeout = '7s'; SET idle_session_timeout = '7s';
             SET idle_in_transaction_session_timeout = '7s'; SET search_path = ''; SET client_encoding = 'LATIN1';
             SET application_name = 'leak'; SET default_transaction_read_only = on; SET DateStyle = 'German';
             SET default_transaction_isolation = 'serializable'; SET standard_conforming_strings = off;
             SET TimeZone = 'Asia/Bangkok'; SET client_min_messages = error; SET leak.leak = 'leak';
             SET client_connection_check_interval = '7s'; SET session_replication_role = replica",
            version(1)
        ),
    );
    let leaks = |number: usize| {
        format!(
            "{note} ('{version}'); PREPARE leak{number} AS SELECT 1; CREATE TEMP TABLE leak (i int); LISTEN leak;
             SELECT pg_advisory_lock(4711), pg_advisory_lock_shared(4712);
             DECLARE leak{number} CURSOR WITH HOLD FOR SELECT 1; SET search_path = ''; SET lock_timeout = '7s';
             SET ROLE {role}; SET SESSION AUTHORIZATION {role}",
            version = version(number),
            role = role.name
        )
    };
    scratch.file(&file(2), leaks(2));
    scratch.file(&file(3), "CREATE INDEX CONCURRENTLY ran_version_idx ON public.ran (version)");
    scratch.file(&file(4), leaks(4));
    up(&scratch, &pgbouncer).run().code(0);
    assert_eq!(scratch.history(), (1..=4).map(version).collect::<Vec<_>>());
    assert_clean(&scratch, &pgbouncer);

    scratch.file(&file(5), format!("{}; SELECT 1 / 0", leaks(5)));
    up(&scratch, &pgbouncer).run().code(1).says("(SQLSTATE 22012)");
    assert_clean(&scratch, &pgbouncer);
}

/// Every session of the pool is as a new one of the server's.
#[track_caller]
fn assert_clean(scratch: &Scratch, pgbouncer: &PgBouncer) {
    let connect = |url: &str| {
        let client = Client::connect(&format!("{url}?application_name=probe"), NoTls);
        let mut client = client.expect("a connection");
        // PL/pgSQL has settings of its own once it is loaded.
        client.batch_execute("BEGIN; DO $$ BEGIN END $$").expect("a transaction");
        client
    };
    let new = state(&mut connect(&scratch.url()));
    // In a transaction, each has a connection of its own in either mode.
    let mut clients = [connect(&pgbouncer.url()), connect(&pgbouncer.url())];
    let mut pids = BTreeSet::new();
    for client in &mut clients {
        pids.extend(rows(client, "SELECT pg_backend_pid()"));
        let found = state(client);
        let leaked: Vec<&String> = found.symmetric_difference(&new).collect();
        assert!(leaked.is_empty(), "leaked into the pool: {leaked:#?}");
    }
    // A connection that a client leaves in a transaction is not used again.
    clients.iter_mut().for_each(|client| client.batch_execute("ROLLBACK").expect("a rollback"));
    assert_eq!(pids.len(), 2, "the whole pool was looked at");
    let ran: BTreeSet<String> =
        scratch.sql("SELECT DISTINCT pid FROM public.ran").into_iter().collect();
    assert!(!ran.is_disjoint(&pids), "the run's connections are still there: {ran:?}, {pids:?}");
    let advisory = "SELECT pid, objid FROM pg_locks WHERE locktype = 'advisory' \
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(scratch.sql(advisory), [""; 0], "advisory locks");
}

/// All that a session knows.
fn state(client: &mut Client) -> BTreeSet<String> {
    let queries = "SELECT 'setting', name, setting FROM pg_catalog.pg_settings;
         SELECT 'setting', 'leak.leak', current_setting('leak.leak', true) WHERE current_setting('leak.leak', true) <> '';
         SELECT 'user', session_user, current_user;
         SELECT 'prepared statement', name FROM pg_catalog.pg_prepared_statements;
         SELECT 'cursor', name FROM pg_catalog.pg_cursors WHERE name <> '';
         SELECT 'channel', pg_catalog.pg_listening_channels();
         SELECT 'temporary table', relname FROM pg_catalog.pg_class
           WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relkind = 'r'";
    rows(client, queries).into_iter().collect()
}

// -------------------------------------------------------------------------- a PgBouncer that comes and goes

#[test]
fn a_pgbouncer_that_is_not_there_yet_is_waited_for() {
    let scratch = Scratch::new();
    let mut pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 2);
    pgbouncer.kill();
    steps(&scratch, &["", ""]);
    let mut run = up(&scratch, &pgbouncer).spawn();
    run.wait_for_log(WAITS_FOR_THE_DATABASE);
    pgbouncer.run();
    run.wait().code(0);
    assert_applied_once(&scratch, 2);
}

/// Nothing listens where it believes the server to be, until it is told better.
#[test]
fn a_pgbouncer_whose_server_is_not_there_yet_is_waited_for() {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start_in_front_of(&scratch, Mode::Transaction, 2, 1);
    steps(&scratch, &["", ""]);
    let run = up(&scratch, &pgbouncer).spawn();
    pgbouncer.wait_for_waiting(1);
    pgbouncer.move_server(Mode::Transaction, 2);
    run.wait().code(0);
    assert_applied_once(&scratch, 2);
}

/// The one that works goes to the server directly, and so works on.
#[test]
fn a_runner_that_waits_for_another_outlives_a_restart_of_pgbouncer() {
    let scratch = Scratch::new();
    let mut pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 2);
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL, ""]);
    let (holder, mut waiter) = gate.queue(&scratch.patient_up(), &up(&scratch, &pgbouncer));
    pgbouncer.kill();
    waiter.wait_for_log(BEGINS_ANEW);
    pgbouncer.run();
    gate.open();
    holder.wait().code(0);
    waiter.wait().code(0).says(HAS_LOST_ITS_CONNECTION);
    assert_applied_once(&scratch, 2);
    scratch.assert_unlocked();
}

/// PgBouncer says FATAL in fewer words than a server does.
#[test]
fn a_runner_that_waits_for_another_outlives_that_its_connection_is_killed_by_pgbouncer() {
    let scratch = Scratch::new();
    let pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 2);
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &[Gate::SQL, ""]);
    let (holder, mut waiter) = gate.queue(&scratch.patient_up(), &up(&scratch, &pgbouncer));
    pgbouncer.console(&format!("KILL {}", scratch.database));
    waiter.wait_for_log(BEGINS_ANEW);
    pgbouncer.console(&format!("RESUME {}", scratch.database));
    gate.open();
    holder.wait().code(0);
    waiter.wait().code(0).says(HAS_LOST_ITS_CONNECTION);
    assert_applied_once(&scratch, 2);
    scratch.assert_unlocked();
}

#[test]
fn a_pgbouncer_that_restarts_in_a_migration_is_a_lost_connection_and_the_next_run_is_right() {
    let scratch = Scratch::new();
    let mut pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 2);
    let mut gate = Gate::closed(&scratch);
    steps(&scratch, &["", Gate::SQL, ""]);
    let run = up(&scratch, &pgbouncer).spawn();
    gate.wait_for_visitor();
    pgbouncer.kill();
    pgbouncer.run();
    run.wait().code(3).says("the connection was lost: applying 20230101000002_step.up.sql");
    gate.open();
    up(&scratch, &pgbouncer).run().code(0);
    assert_applied_once(&scratch, 3);
    scratch.assert_unlocked();
}

// -------------------------------------------------------------------------------------- a pool that is full

/// The holder has two of the three connections; the third, over which the waiter has looked, is then somebody else's.
#[test]
fn a_signal_ends_the_wait_of_a_runner_that_gets_no_connection_from_the_pool() {
    let scratch = Scratch::new();
    let (mut gate, pgbouncer) = full_pool(&scratch);
    let (holder, waiter) = gate.queue(&up(&scratch, &pgbouncer), &up(&scratch, &pgbouncer));
    let other = occupy(&pgbouncer);
    pgbouncer.wait_for_waiting(1);
    waiter.signal("TERM");
    waiter.wait().code(143);
    drop(other);
    gate.open();
    holder.wait().code(0);
    assert_applied_once(&scratch, 2);
}

#[test]
fn the_wait_of_a_runner_that_gets_no_connection_from_the_pool_has_a_deadline() {
    let scratch = Scratch::new();
    let (mut gate, pgbouncer) = full_pool(&scratch);
    let (holder, waiter) = gate.queue(
        &up(&scratch, &pgbouncer),
        &up(&scratch, &pgbouncer).env("MIGRATION_LOCK_WAIT_SECONDS", "8"),
    );
    let other = occupy(&pgbouncer);
    let outcome = waiter.wait();
    assert!(matches!(outcome.code, Some(3 | 4)), "to be tried again\n{outcome}");
    outcome.is_silent_about("query_wait_timeout");
    drop(other);
    gate.open();
    holder.wait().code(0);
    assert_applied_once(&scratch, 2);
}

fn full_pool(scratch: &Scratch) -> (Gate, PgBouncer) {
    let gate = Gate::closed(scratch);
    steps(scratch, &[Gate::SQL, ""]);
    (gate, PgBouncer::start(scratch, Mode::Transaction, 3))
}

fn occupy(pgbouncer: &PgBouncer) -> Client {
    let mut client = pgbouncer.client();
    client.batch_execute("BEGIN").expect("a connection of the pool");
    client
}

// ------------------------------------------------------------------------------------------ what it takes

/// `up`, through PgBouncer, whose migrations may stand at a gate for as long as they like.
fn up<'a>(scratch: &'a Scratch, pgbouncer: &PgBouncer) -> Lockstep<'a> {
    scratch.patient_up().env("DATABASE_URL", pgbouncer.url())
}

fn is_valid(scratch: &Scratch, index: &str) -> bool {
    scratch
        .sql(&format!("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{index}')"))
        == ["t"]
}

/// What the server had to complain of.
fn complaints(scratch: &Scratch) -> Vec<String> {
    let levels = ["ERROR:", "FATAL:", "PANIC:", "WARNING:"];
    let complains = |line: &String| levels.iter().any(|level| line.contains(level));
    scratch.server_log().into_iter().filter(complains).collect()
}
