//! The kill matrix: a run is struck down at every message, in every way, and no trace of that is left.
//!
//! A *cell* is one run that is struck at one message, in one way. A proxy holds the message. A second runner, which does
//! not go through the proxy, is started, and waits for the first one if that has the lock by then. Then the blow falls.
//! Whatever it is:
//!
//! * the second runner takes over by itself and exits 0, also if a restart has ended its session, too;
//! * a fresh run exits 0;
//! * the catalog (`pg_dump --schema-only`), the data, the history and the journal equal those of an undisturbed run: each
//!   version is recorded once, no index is INVALID, and the locks table is empty.
//!
//! The message is held *before* it is forwarded: the server never sees it, or the runner does not. Of the runner's own
//! messages there is a second cell, in which the blow falls right *after* it was forwarded: the server is at work, and
//! nobody knows how far it comes.
//!
//! | blow | what it is | where |
//! |---|---|---|
//! | kill | SIGKILL | everywhere |
//! | reset | RST to whoever has sent the message, a connection that ends to the other | one in nine |
//! | swallow | nothing is forwarded any more, no end of a connection either; then the kill | one in nine |
//! | terminate | `pg_terminate_backend` on W, on G, on both | one in nine each |
//! | restart | an immediate stop of the server, and its start | one in nine |
//! | cut | the cable is cut: see `cable.rs` | two dozen |
//!
//! "Everywhere" takes the rows of one result for one message: the server sends them at once, and no client can tell
//! them apart. In addition, kill and terminate fall *on* the commits, milliseconds after a message that holds a COMMIT was
//! forwarded. `LOCKSTEP_SOAK=1` makes every blow fall at every message.
//!
//! What the swallowing proxy cannot prove: the kernels at its own two ends still answer keepalives, so neither runner nor
//! server can notice anything. It proves that nobody takes over from somebody who is merely silent.

use std::collections::HashSet;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::cluster::{Cluster, in_another_process};
use crate::support::proxy::{Proxy, Seen, Side};
use crate::support::{Outcome, Running, Scratch, rows, schema_of, server, wait_until};

/// How many cells are played at once. Most of the time they wait: for a poll, or for a server.
const WORKERS: usize = 8;

/// How many of the boundaries a blow falls on that does not fall everywhere.
const ONE_IN: usize = 9;

/// Four files: several statements; a statement outside a transaction that takes its time; a change of data that would
/// be seen if it were made twice, and that takes its time, too; a change of the catalog that fails if it is made twice.
pub const FILES: [(&str, &str); 4] = [
    (
        "20230101000001_tables.up.sql",
        "CREATE TABLE ran (version int NOT NULL);
         CREATE TABLE item (id int PRIMARY KEY, name text NOT NULL);
         INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 40) n;
         CREATE FUNCTION slow(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
           $$ BEGIN PERFORM pg_sleep(0.001); RETURN lower($1); END $$;
         INSERT INTO ran VALUES (1);",
    ),
    (
        "20230101000002_index.up.sql",
        "CREATE INDEX CONCURRENTLY item_name_idx ON item (slow(name))",
    ),
    (
        "20230101000003_data.up.sql",
        "INSERT INTO ran VALUES (3); UPDATE item SET id = id + 1000; SELECT pg_sleep(0.03);",
    ),
    (
        "20230101000004_column.up.sql",
        "ALTER TABLE item ADD COLUMN size int NOT NULL DEFAULT 7",
    ),
];

/// What there is to know about a database when all is over, one fact a row.
const FACTS: &str = "
    SELECT 'history', name FROM bun_migrations ORDER BY id;
    SELECT 'journal', version, h.name, finished_at IS NOT NULL FROM bun_migrations_journal j
      LEFT JOIN bun_migrations h ON h.id = j.history_id ORDER BY version;
    SELECT 'ran', version FROM ran ORDER BY version;
    SELECT 'data', count(*), md5(string_agg(item::text, ',' ORDER BY id)) FROM item;
    SELECT 'lock', id, table_name FROM bun_migration_locks;
    SELECT 'guard', pid FROM pg_locks WHERE locktype = 'advisory'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    SELECT 'INVALID', indexrelid::regclass FROM pg_index WHERE NOT indisvalid";

/// W is the first connection of a run, G the second.
const W: usize = 0;
const G: usize = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blow {
    Kill,
    Reset,
    Swallow,
    Terminate(&'static [usize]),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    Before,
    /// This long after the message was forwarded.
    After(Duration),
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    blow: Blow,
    message: usize,
    moment: Moment,
}

/// What cells have shown, for the figures.
#[derive(Default)]
pub struct Tally {
    cells: AtomicUsize,
    /// The second runner was waiting when the blow fell, and took over.
    taken_over: AtomicUsize,
    /// The run was over before the message came.
    missed: AtomicUsize,
}

impl Tally {
    /// Counts a cell that has shown what it should.
    pub fn add(&self, waits: bool, missed: bool) {
        self.cells.fetch_add(1, Ordering::Relaxed);
        self.taken_over
            .fetch_add(usize::from(waits), Ordering::Relaxed);
        self.missed
            .fetch_add(usize::from(missed), Ordering::Relaxed);
    }

    /// Hardly a run was over before its message came, and in a good part of the cells the second runner was waiting.
    pub fn assert_meaningful(&self) {
        let figure = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let cells = figure(&self.cells);
        assert!(
            figure(&self.missed) <= cells / 10,
            "{} of {cells} missed",
            figure(&self.missed)
        );
        assert!(
            figure(&self.taken_over) >= cells / 3,
            "{} of {cells} takeovers",
            figure(&self.taken_over)
        );
    }

    /// The figures, past the capture of the test harness: a reader of the log wants to see them. What must be 0 has been
    /// asserted in each cell.
    pub fn tell(&self, what: &str, started: Instant) {
        let figure = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        tell(&format!(
            "{what}: {} cells in {:.0} s, {} takeovers by a waiting runner, {} recoveries; versions applied twice 0, \
             skipped 0, manual steps 0 ({} runs were over before their message came)",
            figure(&self.cells),
            started.elapsed().as_secs_f64(),
            figure(&self.taken_over),
            figure(&self.cells),
            figure(&self.missed),
        ));
    }
}

/// Prints a line that a passing test would not show otherwise.
pub fn tell(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Returns true if and only if this is the long version.
pub fn is_soak() -> bool {
    std::env::var_os("LOCKSTEP_SOAK").is_some_and(|it| it == "1")
}

#[test]
fn a_run_that_is_struck_at_any_message_leaves_no_trace() {
    let started = Instant::now();
    let seen = undisturbed_messages();
    let cells = matrix(&seen);
    let tally = Tally::default();
    play_all(&cells, &seen, &tally);
    tally.tell(&format!("kill matrix: {} messages", seen.len()), started);
    tally.assert_meaningful();
}

/// All the runs of a batch stand still at their messages when the server is stopped. The sessions of the waiting runners
/// are gone with it; they say so, begin anew when it is back, and take over.
#[test]
fn a_run_that_meets_an_immediate_restart_of_the_server_leaves_no_trace() {
    let test = "a_run_that_meets_an_immediate_restart_of_the_server_leaves_no_trace";
    let cluster = match Cluster::of_this_process() {
        Some(cluster) => cluster,
        None => return in_another_process(module_path!(), test, &Cluster::start("restart"), &[]),
    };
    let started = Instant::now();
    let seen = undisturbed_messages();
    let step = if is_soak() { 1 } else { ONE_IN };
    let moments: Vec<(usize, Moment)> = moments(&seen).into_iter().step_by(step).collect();
    let tally = Tally::default();
    let sites: Vec<Site> = (0..16).map(|_| Site::new()).collect();
    let expected = sites[0].undisturbed();
    for batch in moments.chunks(sites.len()) {
        let staged = in_parallel(sites.iter().zip(batch), |(site, &(message, moment))| {
            let staged = site.stage(message);
            if let Moment::After(_) = moment {
                staged.proxy.pass();
            }
            staged
        });
        cluster.stop();
        cluster.start_again();
        in_parallel(staged.into_iter(), |staged| {
            let Staged {
                site,
                proxy,
                first,
                second,
                waits,
                missed,
            } = staged;
            proxy.pass();
            assert_retry_helps(&first.wait());
            let second = second.wait();
            // The first one may have been done before the stop, and the second at work.
            let waits = waits && second.stderr.contains("once more from the start");
            match waits {
                true => drop(second.code(0)),
                false => assert_retry_helps(&second),
            }
            site.conclude(&expected);
            tally.add(waits, missed);
        });
    }
    tally.tell("restarts of the server", started);
    tally.assert_meaningful();
}

// ------------------------------------------------------------------------------------------- the cells

/// What a run sends and is sent if nobody disturbs it.
pub fn undisturbed_messages() -> Vec<Seen> {
    let site = Site::new();
    let proxy = site.proxy(None);
    site.through(&proxy).wait().code(0);
    proxy.seen()
}

/// Every message at which a blow can make a difference, and on which side of it.
pub fn moments(seen: &[Seen]) -> Vec<(usize, Moment)> {
    let mut moments = Vec::new();
    for (number, what) in seen.iter().enumerate() {
        let is_another_row = number > 0
            && matches!(what.kind, Some(b'D' | b'S'))
            && what.from == Side::Server
            && seen[number - 1].kind == what.kind;
        if is_another_row && !is_soak() {
            continue;
        }
        moments.push((number, Moment::Before));
        if what.from == Side::Client {
            moments.push((number, Moment::After(Duration::ZERO)));
        }
    }
    moments
}

fn matrix(seen: &[Seen]) -> Vec<Cell> {
    let blows = [
        Blow::Kill,
        Blow::Reset,
        Blow::Swallow,
        Blow::Terminate(&[W]),
        Blow::Terminate(&[G]),
        Blow::Terminate(&[W, G]),
    ];
    let mut cells = Vec::new();
    for (number, blow) in blows.into_iter().enumerate() {
        let is_everywhere = blow == Blow::Kill || is_soak();
        let step = if is_everywhere { 1 } else { ONE_IN };
        // Each begins elsewhere, so that together they meet more.
        let moments = moments(seen).into_iter().skip(number % step).step_by(step);
        cells.extend(moments.map(|(message, moment)| Cell {
            blow,
            message,
            moment,
        }));
    }
    let commits = (0..seen.len()).filter(|&number| {
        let query = &seen[number].query;
        query.contains("READ WRITE") && query.contains("COMMIT")
    });
    for message in commits {
        for blow in [Blow::Kill, Blow::Terminate(&[W])] {
            for millis in [1, 3] {
                let moment = Moment::After(Duration::from_millis(millis));
                cells.push(Cell {
                    blow,
                    message,
                    moment,
                });
            }
        }
    }
    cells
}

/// Plays all cells, several at once, also if some of them fail.
fn play_all(cells: &[Cell], seen: &[Seen], tally: &Tally) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let site = Site::new();
                let expected = site.undisturbed();
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let played = || play(&site, cell, &expected, tally);
                    if catch_unwind(AssertUnwindSafe(played)).is_err() {
                        failed
                            .lock()
                            .expect("no panic while locked")
                            .push(format!("{cell:?}: {}", seen[cell.message]));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic while locked");
    assert!(
        failed.is_empty(),
        "{} of {} cells failed; what they saw stands above:\n{}",
        failed.len(),
        cells.len(),
        failed.join("\n")
    );
}

fn play(site: &Site, cell: &Cell, expected: &State, tally: &Tally) {
    let Staged {
        proxy,
        first,
        mut second,
        waits,
        missed,
        ..
    } = site.stage(cell.message);
    if let Moment::After(delay) = cell.moment {
        proxy.pass();
        // Not to wait for anything: to fall somewhere else.
        thread::sleep(delay);
    }
    let outcome = match cell.blow {
        Blow::Kill => {
            let outcome = first.kill();
            proxy.close();
            outcome
        }
        Blow::Reset => {
            proxy.reset();
            first.wait()
        }
        Blow::Swallow => {
            proxy.swallow();
            let outcome = first.kill();
            // Its guard is still there.
            assert!(!waits || missed || !second.has_ended(), "{}", second.log());
            proxy.close();
            outcome
        }
        Blow::Terminate(victims) => {
            for pid in victims.iter().filter_map(|&victim| proxy.backend(victim)) {
                site.scratch
                    .sql(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
            }
            proxy.pass();
            first.wait()
        }
    };
    if outcome.signal != Some(SIGKILL) {
        assert_retry_helps(&outcome);
    }
    second.wait().code(0);
    site.conclude(expected);
    tally.add(waits, missed);
}

const SIGKILL: i32 = 9;

/// It came through, lost its connection, or lost its lock: nothing that a person would have to see to.
#[track_caller]
pub fn assert_retry_helps(outcome: &Outcome) {
    assert!(matches!(outcome.code, Some(0 | 3 | 4)), "{outcome}");
}

/// Compares catalogs, and shows no more than the lines that differ.
#[track_caller]
fn assert_same(catalog: &str, expected: &str) {
    let only = |these: &str, those: &str| -> Vec<String> {
        let those: HashSet<&str> = those.lines().collect();
        let lines = these.lines().filter(|line| !those.contains(line));
        lines.map(str::to_owned).collect()
    };
    assert!(
        catalog == expected,
        "the catalog differs\nnot expected: {:#?}\nmissing: {:#?}",
        only(catalog, expected),
        only(expected, catalog)
    );
}

/// Does it for all at once; fails if any of them fails.
pub fn in_parallel<T: Send, R: Send>(
    items: impl Iterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = items.map(|item| scope.spawn(move || work(item))).collect();
        threads
            .into_iter()
            .map(|it| it.join().expect("no cell fails"))
            .collect()
    })
}

/// A database that is emptied before each cell, and the ways to it.
pub struct Site {
    pub scratch: Scratch,
    /// Where the proxy finds the server.
    pub upstream: SocketAddr,
    /// Where the runner finds the proxy.
    pub host: Ipv4Addr,
    /// What starts the runner that goes through the proxy: nothing, usually.
    pub wrapper: Vec<String>,
}

/// Two runners, one of which stands still at a message.
pub struct Staged<'a> {
    pub site: &'a Site,
    pub proxy: Proxy,
    pub first: Running,
    pub second: Running,
    /// Whether the second runner is waiting for the first.
    pub waits: bool,
    /// Whether the first runner was done before the message came.
    pub missed: bool,
}

#[derive(PartialEq, Eq, Debug)]
pub struct State {
    catalog: String,
    facts: Vec<String>,
}

impl Site {
    pub fn new() -> Site {
        Site::with(FILES)
    }

    /// With other files. They work on the tables `ran` and `item`, which the first of them creates.
    pub fn with(files: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> Site {
        let scratch = Scratch::new();
        for (name, text) in files {
            scratch.file(name.as_ref(), text.as_ref());
        }
        let server = server();
        let mut addresses = (server.host.as_str(), server.port)
            .to_socket_addrs()
            .expect("an address");
        Site {
            scratch,
            upstream: addresses.next().expect("an address"),
            host: Ipv4Addr::LOCALHOST,
            wrapper: Vec::new(),
        }
    }

    pub fn proxy(&self, hold: Option<usize>) -> Proxy {
        let address = if self.host.is_loopback() {
            self.host
        } else {
            Ipv4Addr::UNSPECIFIED
        };
        Proxy::start(address, self.upstream, hold)
    }

    /// A runner that goes through the proxy. If it cannot even connect it soon gives up.
    pub fn through(&self, proxy: &Proxy) -> Running {
        let url = format!(
            "postgres://postgres@{}:{}/{}?sslmode=disable",
            self.host, proxy.port, self.scratch.database
        );
        let up = self.scratch.lockstep(&["up"]).under(&self.wrapper);
        up.env("DATABASE_URL", url)
            .env("DATABASE_WAIT_SECONDS", "2")
            .spawn()
    }

    /// A runner that does not.
    pub fn direct(&self) -> Running {
        self.scratch.lockstep(&["up"]).spawn()
    }

    /// Empties the database and stages a cell in it.
    pub fn stage(&self, message: usize) -> Staged<'_> {
        self.clear();
        let proxy = self.proxy(Some(message));
        let mut first = self.through(&proxy);
        let missed = !proxy.wait_for_hold(|| first.has_ended());
        let mut second = self.direct();
        let mut waits = false;
        wait_until("the second runner waits, or is done", || {
            waits = second.log().contains("waiting for another runner");
            waits || second.has_ended()
        });
        Staged {
            site: self,
            proxy,
            first,
            second,
            waits,
            missed,
        }
    }

    /// What is idle when its cable is cut holds nothing, and stays until the server's own keepalives find out.
    pub fn clear(&self) {
        self.scratch.sql(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database()
               AND application_name LIKE 'lockstep/%';
             DROP SCHEMA public CASCADE; CREATE SCHEMA public",
        );
    }

    fn state(&self) -> State {
        let facts = rows(&mut self.scratch.client(), FACTS);
        State {
            catalog: schema_of(&self.scratch.url()),
            facts,
        }
    }

    pub fn undisturbed(&self) -> State {
        self.clear();
        self.direct().wait().code(0);
        self.state()
    }

    /// A fresh run has nothing to complain about, and nothing is left of what was.
    pub fn conclude(&self, expected: &State) {
        self.run_afresh();
        let at_work = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND application_name LIKE 'lockstep/%' AND state IS DISTINCT FROM 'idle'";
        wait_until("the server has noticed all that happened", || {
            self.scratch.value(at_work) == "0"
        });
        // A run whose cable was cut between its last commit and its release lives until the server notices. The first run
        // that comes after that removes its row.
        if !self
            .scratch
            .sql("SELECT FROM bun_migration_locks")
            .is_empty()
        {
            self.run_afresh();
        }
        let state = self.state();
        assert_eq!(state.facts, expected.facts);
        assert_same(&state.catalog, &expected.catalog);
    }

    fn run_afresh(&self) {
        self.direct()
            .wait()
            .code(0)
            .says("the database is up to date");
    }
}
