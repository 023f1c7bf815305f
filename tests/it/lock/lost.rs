//! A server that crashes takes the last commits along, and behind a transaction pooler a run does not notice: its session
//! there goes on, on a server that does not know what the run did last. In these tests a hand takes that away.

use std::net::{Ipv4Addr, ToSocketAddrs};

use crate::support::cluster::{Cluster, in_another_process};
use crate::support::pgbouncer::{Mode, PgBouncer};
use crate::support::proxy::{Proxy, Seen, Side};
use crate::support::words::WAITS_FOR_A_RUNNER;
use crate::support::{Running, Scratch, rows, server, wait_until};

const FIRST: &str = "20230101000001_a.up.sql";
const SECOND: &str = "20230101000002_b.up.sql";
const THIRD: &str = "20230101000003_c.up.sql";

#[test]
fn a_run_that_has_lost_its_last_commit_does_not_go_on_with_a_file() {
    let second = (SECOND, "INSERT INTO a VALUES (1)");
    lose_before("/* lockstep 20230101000002", &[second], ALL);
}

#[test]
fn a_run_that_has_lost_its_last_commit_does_not_go_on_with_a_batch() {
    let files = [(SECOND, "CREATE TABLE b ()"), (THIRD, "CREATE TABLE c ()")];
    lose_before("/* lockstep batch", &files, ALL);
}

#[test]
fn a_run_that_has_lost_its_last_commit_is_not_told_as_done() {
    lose_before("DELETE FROM public.bun_migration_locks", &[], ALL);
}

/// A statement of a file that asked for no transaction, which is counted and not recorded.
#[test]
fn a_run_that_has_lost_a_statement_does_not_go_on_with_the_next() {
    let text = "-- lockstep: no-transaction
        CREATE TABLE b (n int); INSERT INTO b VALUES (1); CREATE INDEX CONCURRENTLY i ON b (n);";
    let loss = "DROP TABLE b; UPDATE bun_migrations_journal SET done = 0 WHERE finished_at IS NULL";
    let scratch = lose_before("INSERT INTO b", &[(SECOND, text)], loss);
    assert_eq!(scratch.value("SELECT count(*) FROM b"), "1");
}

/// Where the session that read the history is gone, maybe with its server, the numbers of the transactions prove nothing.
#[test]
fn a_runner_whose_session_the_pooler_has_exchanged_reads_the_history_again() {
    const MANY: usize = 30;
    const TEST: &str = "a_runner_whose_session_the_pooler_has_exchanged_reads_the_history_again";
    // On a server of its own: other tests' transactions have numbers, too.
    if Cluster::of_this_process().is_none() {
        return in_another_process(module_path!(), TEST, &Cluster::start("quiet"), &[]);
    }
    let records_read = |is_exchanged: bool| {
        let file = |number| format!("202301010000{number:02}_a.up.sql");
        let scratch = Scratch::with((0..MANY).map(|it| (file(it), "SELECT 1")));
        scratch.up().code(0);
        scratch.file(&file(MANY), "SELECT 1");
        let pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 3);
        let proxy = proxy_to(("127.0.0.1", pgbouncer.port), None);
        let mut guard = scratch.client();
        let lock = "BEGIN; SELECT pg_try_advisory_xact_lock(1819239275, 'bun_migrations'::regclass::oid::int4)";
        rows(&mut guard, lock);
        let mut run = through(&scratch, &proxy);
        run.wait_for_log(WAITS_FOR_A_RUNNER);
        if is_exchanged {
            let sessions = || {
                scratch.sql(
                    "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'lockstep/%'",
                )
            };
            let before = sessions();
            pgbouncer.console("RECONNECT");
            wait_until("it has other sessions", || {
                let now = sessions();
                !now.is_empty() && now.iter().all(|it| !before.contains(it))
            });
        }
        drop(guard);
        run.wait().code(0);
        let seen = proxy.seen().into_iter();
        let answered =
            seen.skip_while(|it| !it.query.contains("INSERT INTO public.bun_migration_locks"));
        let answer = answered.skip(1).take_while(|it| it.from == Side::Server);
        answer.filter(|it| it.kind == Some(b'D')).count()
    };
    assert!(records_read(true) > MANY);
    // The server's own transactions have numbers, too.
    assert!((0..5).any(|_| records_read(false) < MANY));
}

/// Whoever finds them there has not made them, and does not look again.
#[test]
fn the_tables_are_on_disk_before_anybody_relies_on_them() {
    let (scratch, proxy) = (Scratch::with([(FIRST, "SELECT 1")]), proxy(None));
    through(&scratch, &proxy).wait().code(0);
    let seen = proxy.seen();
    let creation = seen.iter().find(|it| it.query.contains("CREATE TABLE"));
    let creation = &creation.expect("a creation").query;
    assert!(creation.contains("synchronous_commit TO 'local'"), "{creation}");
}

/// The first file's work.
const ALL: &str = "DROP TABLE a; DELETE FROM bun_migrations; DELETE FROM bun_migrations_journal";

/// Runs the first file and these, and takes what was done last away before the message that has this in it.
#[track_caller]
fn lose_before(message: &str, others: &[(&str, &str)], loss: &str) -> Scratch {
    let files = || {
        let first = (FIRST, "CREATE TABLE a (b int)");
        Scratch::with([first].into_iter().chain(others.iter().copied()))
    };
    let is_it = |it: &Seen| it.query.contains(message);
    // Where the first file took more than a second, there is no batch.
    let number = (0..5).find_map(|_| {
        let (scratch, proxy) = (files(), proxy(None));
        through(&scratch, &proxy).wait().code(0);
        proxy.seen().iter().position(is_it)
    });
    let proxy = proxy(Some(number.expect("such a message")));
    let scratch = files();
    let mut run = through(&scratch, &proxy);
    assert!(proxy.wait_for_hold(|| run.has_ended()));
    scratch.sql(loss);
    let left = scratch.history();
    proxy.pass();
    let lost = "what this run committed last is gone from public.bun_migrations";
    run.wait().code(3).says(lost);
    assert_eq!(scratch.history(), left);
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), 1 + others.len());
    scratch.assert_unlocked();
    scratch
}

fn proxy(hold: Option<usize>) -> Proxy {
    proxy_to((&server().host, server().port), hold)
}

fn proxy_to(address: (&str, u16), hold: Option<usize>) -> Proxy {
    let upstream = address.to_socket_addrs().expect("an address").next();
    Proxy::start(Ipv4Addr::LOCALHOST, upstream.expect("the server"), hold)
}

fn through(scratch: &Scratch, proxy: &Proxy) -> Running {
    let (port, database) = (proxy.port, &scratch.database);
    let url = format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable");
    scratch.lockstep(&["up"]).env("DATABASE_URL", url).spawn()
}
