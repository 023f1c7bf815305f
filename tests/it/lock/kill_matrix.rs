//! The kill matrix: a run is struck down at every message, in every way, and no trace of that is left.
//!
//! A *cell* is one run that is struck at one message, in one way. A proxy holds the message. A second runner, which does
//! not go through the proxy, is started, and waits for the first one if that has the lock by then. Then the blow falls.
//! Whatever it is:
//!
//! * the second runner takes over by itself and exits 0, also if a restart has ended its session, too;
//! * a fresh run exits 0;
//! * the catalog, the data, the history and the journal equal those of an undisturbed run: each version is recorded once,
//!   no index is INVALID, and the locks table is empty. That the catalog is the same, its own rows tell in every cell, and
//!   `pg_dump --schema-only` in one of nine.
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

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::cluster::{Cluster, in_another_process};
use crate::support::proxy::Seen;
use crate::support::site::{
    FILES, Moment, SMALL, Site, Staged, State, Tally, assert_retry_helps, in_parallel, moments,
    steps_and_parts, undisturbed_messages,
};
use crate::support::{is_soak, tell};

/// How many cells a test plays at once. Most of the time they wait: for a poll, or for a server.
const WORKERS: usize = 3;

/// How many tests share the kills, which fall everywhere: so that they spread over the threads of the test harness.
const SHARES: usize = 6;

/// How many of the boundaries a blow falls on that does not fall everywhere.
const ONE_IN: usize = 9;

/// G is the first connection of a run, W the second.
const G: usize = 0;
const W: usize = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blow {
    Kill,
    Reset,
    Swallow,
    Terminate(&'static [usize]),
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    blow: Blow,
    message: usize,
    moment: Moment,
}

/// A share of the kills: every sixth, beginning with this one.
fn killed_from(first: usize) {
    strike("killed", |seen| {
        let cells = cells(Blow::Kill, seen).into_iter();
        cells.skip(first).step_by(SHARES).collect()
    });
}

#[test]
fn a_run_that_is_killed_at_any_message_leaves_no_trace_first_share() {
    killed_from(0);
}

#[test]
fn a_run_that_is_killed_at_any_message_leaves_no_trace_second_share() {
    killed_from(1);
}

#[test]
fn a_run_that_is_killed_at_any_message_leaves_no_trace_third_share() {
    killed_from(2);
}

#[test]
fn a_run_that_is_killed_at_any_message_leaves_no_trace_fourth_share() {
    killed_from(3);
}

#[test]
fn a_run_that_is_killed_at_any_message_leaves_no_trace_fifth_share() {
    killed_from(4);
}

#[test]
fn a_run_that_is_killed_at_any_message_leaves_no_trace_sixth_share() {
    killed_from(5);
}

#[test]
fn a_run_whose_connections_are_reset_leaves_no_trace() {
    strike("reset", |seen| cells(Blow::Reset, seen));
}

#[test]
fn a_run_that_is_not_heard_any_more_leaves_no_trace() {
    strike("swallowed", |seen| cells(Blow::Swallow, seen));
}

#[test]
fn a_run_whose_worker_is_terminated_leaves_no_trace() {
    strike("W terminated", |seen| cells(Blow::Terminate(&[W]), seen));
}

#[test]
fn a_run_whose_guard_is_terminated_leaves_no_trace() {
    strike("G terminated", |seen| cells(Blow::Terminate(&[G]), seen));
}

#[test]
fn a_run_whose_sessions_are_both_terminated_leaves_no_trace() {
    strike("W and G terminated", |seen| cells(Blow::Terminate(&[W, G]), seen));
}

/// Of a file that runs outside a transaction, statement by statement, no statement is run twice that can run in one; a
/// large file is one transaction, also if the run dies between two of its parts.
#[test]
fn a_run_of_steps_and_parts_that_is_killed_leaves_no_trace() {
    STEPS.strike("steps killed", |seen| {
        let step = if is_soak() { 1 } else { 3 * ONE_IN };
        let cells = cells(Blow::Kill, seen).into_iter();
        cells.step_by(step).collect()
    });
}

#[test]
fn a_run_of_steps_and_parts_that_is_struck_otherwise_leaves_no_trace() {
    STEPS.strike("steps struck", |seen| {
        let others = [Blow::Reset, Blow::Terminate(&[W]), Blow::Terminate(&[G])];
        let step = if is_soak() { 1 } else { ONE_IN };
        let cells = others.into_iter().flat_map(|blow| cells(blow, seen));
        cells.step_by(step).collect()
    });
}

/// Small files share a message, and the server may be at any of them.
#[test]
fn a_run_whose_files_share_a_message_leaves_no_trace_when_it_is_struck() {
    BATCH.strike("batch struck", |seen| {
        let files_of = |it: &Seen| it.query.matches("EXECUTE lockstep_fence").count();
        let shared: usize = seen.iter().map(files_of).sum();
        assert!(shared > 1, "files that share a message");
        let step = if is_soak() { 1 } else { 2 * ONE_IN };
        let cells = BLOWS.into_iter().flat_map(|blow| cells(blow, seen));
        cells.step_by(step).chain(on_commits(seen)).collect()
    });
}

/// The record is there or not; whichever it is, the second one takes it, and the file, which can, runs once more.
#[test]
fn a_forget_that_is_struck_leaves_no_trace() {
    FORGET.strike("forget struck", |seen| {
        let step = if is_soak() { 1 } else { ONE_IN };
        let cells = BLOWS.into_iter().flat_map(|blow| cells(blow, seen));
        cells.step_by(step).collect()
    });
}

/// The same over TLS, where a record counts as a message.
#[cfg(feature = "tls")]
#[test]
fn a_run_over_tls_that_is_killed_or_reset_leaves_no_trace() {
    let test = "a_run_over_tls_that_is_killed_or_reset_leaves_no_trace";
    if Cluster::of_this_process().is_none() {
        let secure = crate::connection::tls::Secure::start("tls-struck");
        return in_another_process(module_path!(), test, &secure.cluster, &[]);
    }
    TLS.strike("over TLS", |seen| {
        assert!(seen.iter().any(|it| it.kind.is_none()), "records");
        let step = if is_soak() { 1 } else { ONE_IN };
        let cells = [Blow::Kill, Blow::Reset].into_iter().flat_map(|blow| cells(blow, seen));
        cells.step_by(step).collect()
    });
}

#[test]
fn a_run_that_is_struck_as_it_commits_leaves_no_trace() {
    strike("struck on a commit", on_commits);
}

/// The same, statement by statement outside a transaction.
#[test]
fn a_run_of_steps_that_meets_an_immediate_restart_of_the_server_leaves_no_trace() {
    restart(
        "a_run_of_steps_that_meets_an_immediate_restart_of_the_server_leaves_no_trace",
        &STEPS,
        32,
    );
}

/// All the runs of a batch stand still at their messages when the server is stopped. The sessions of the waiting runners
/// are gone with it; they say so, begin anew when it is back, and take over.
#[test]
fn a_run_that_meets_an_immediate_restart_of_the_server_leaves_no_trace() {
    restart(
        "a_run_that_meets_an_immediate_restart_of_the_server_leaves_no_trace",
        &USUAL,
        usize::MAX,
    );
}

/// At most so many cells, but all in a soak.
fn restart(test: &str, played: &Played, at_most: usize) {
    let cluster = match Cluster::of_this_process() {
        Some(cluster) => cluster,
        None => return in_another_process(module_path!(), test, &Cluster::start("restart"), &[]),
    };
    let started = Instant::now();
    let site = || Site::with((played.files)());
    let seen = undisturbed_messages(&site());
    let moments = moments(&seen);
    let step = match is_soak() {
        true => 1,
        false => ONE_IN.max(moments.len().div_ceil(at_most)),
    };
    let moments: Vec<(usize, Moment)> = moments.into_iter().step_by(step).collect();
    let tally = Tally::default();
    let sites: Vec<Site> = (0..16).map(|_| site()).collect();
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
            let Staged { site, proxy, first, second, waits, missed } = staged;
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

const BLOWS: [Blow; 6] = [
    Blow::Kill,
    Blow::Reset,
    Blow::Swallow,
    Blow::Terminate(&[W]),
    Blow::Terminate(&[G]),
    Blow::Terminate(&[W, G]),
];

/// Where this blow falls.
fn cells(blow: Blow, seen: &[Seen]) -> Vec<Cell> {
    let is_everywhere = blow == Blow::Kill || is_soak();
    let step = if is_everywhere { 1 } else { ONE_IN };
    // Each begins elsewhere, so that together they meet more.
    let number = BLOWS.iter().position(|&it| it == blow).expect("one of them");
    let moments = moments(seen).into_iter().skip(number % step).step_by(step);
    let cell = |(message, moment)| Cell { blow, message, moment };
    moments.map(cell).collect()
}

/// Milliseconds after a message that holds a COMMIT.
fn on_commits(seen: &[Seen]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (message, what) in seen.iter().enumerate() {
        if !(what.query.contains("READ WRITE") && what.query.contains("COMMIT")) {
            continue;
        }
        for blow in [Blow::Kill, Blow::Terminate(&[W])] {
            for millis in [1, 3] {
                let moment = Moment::After(Duration::from_millis(millis));
                cells.push(Cell { blow, message, moment });
            }
        }
    }
    cells
}

/// What is struck: files, and an undisturbed run of them, which is the same for all tests of this process.
struct Played {
    sslmode: &'static str,
    /// What is struck, if it is not `up`.
    other: Option<&'static [&'static str]>,
    files: fn() -> Vec<(&'static str, String)>,
    undisturbed: OnceLock<(Vec<Seen>, State)>,
}

static USUAL: Played = Played {
    sslmode: "disable",
    other: None,
    files: || FILES.map(|(name, text)| (name, text.to_owned())).to_vec(),
    undisturbed: OnceLock::new(),
};

static STEPS: Played = Played {
    sslmode: "disable",
    other: None,
    files: steps_and_parts,
    undisturbed: OnceLock::new(),
};

static BATCH: Played = Played {
    sslmode: "disable",
    other: None,
    files: || {
        let last = ("20230101000009_data.up.sql", FILES[2].1);
        let files = [FILES[0]].into_iter().chain(SMALL).chain([last]);
        files.map(|(name, text)| (name, text.to_owned())).collect()
    },
    undisturbed: OnceLock::new(),
};

static FORGET: Played = Played {
    sslmode: "disable",
    other: Some(&["forget", "20230101000002"]),
    files: || {
        let again = "CREATE TABLE IF NOT EXISTS again ()";
        vec![(FILES[0].0, FILES[0].1.to_owned()), ("20230101000002_again.up.sql", again.to_owned())]
    },
    undisturbed: OnceLock::new(),
};

#[cfg(feature = "tls")]
static TLS: Played =
    Played { sslmode: "require", other: None, files: USUAL.files, undisturbed: OnceLock::new() };

impl Played {
    /// Plays the cells that are chosen among the messages of the undisturbed run.
    fn strike(&self, what: &str, choose: impl FnOnce(&[Seen]) -> Vec<Cell>) {
        let started = Instant::now();
        let site =
            || Site { sslmode: self.sslmode, other: self.other, ..Site::with((self.files)()) };
        let (seen, expected) = (self.undisturbed)
            .get_or_init(|| (undisturbed_messages(&site()), site().undisturbed()));
        let cells = choose(seen);
        let tally = Tally::default();
        play_all(&site, &cells, seen, expected, &tally);
        tally.tell(&format!("kill matrix, {what}, of {} messages", seen.len()), started);
        tally.assert_meaningful();
        if self.sslmode == "disable" {
            tell_table(&cells, seen);
        }
    }
}

/// How many cells fell on which statement of the files, by blow: what each has shown is that all is as undisturbed.
fn tell_table(cells: &[Cell], seen: &[Seen]) {
    let mut table: BTreeMap<(String, String), [usize; 2]> = BTreeMap::new();
    for cell in cells {
        let sent = seen[..=cell.message].iter().rev();
        let running = sent.map(|it| it.query.as_str()).find(|it| !it.is_empty());
        let running = running.unwrap_or("(connecting)").replace('\n', " ");
        let file = running.split("/* lockstep ").nth(1).unwrap_or_default();
        let statement = match file.split_once(" */ ") {
            Some((file, statement)) => format!("{file}: {statement:.60}"),
            None => format!("our own: {running:.60}"),
        };
        let key = (statement, format!("{:?}", cell.blow));
        let moment = usize::from(cell.moment != Moment::Before);
        table.entry(key).or_default()[moment] += 1;
    }
    let line = |((statement, blow), [before, after]): (&(String, String), &[usize; 2])| {
        format!("{statement:<90} {blow:<20} before {before:>3}, after {after:>3}: as undisturbed")
    };
    let lines: Vec<String> = table.iter().map(line).collect();
    tell(&lines.join("\n"));
}

fn strike(what: &str, choose: impl FnOnce(&[Seen]) -> Vec<Cell>) {
    USUAL.strike(what, choose);
}

/// Plays all cells, several at once, also if some of them fail.
fn play_all(
    site: &(impl Fn() -> Site + Sync),
    cells: &[Cell],
    seen: &[Seen],
    expected: &State,
    tally: &Tally,
) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                let site = site();
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let played = || play(&site, cell, expected, tally);
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
    let Staged { proxy, first, mut second, waits, missed, .. } = site.stage(cell.message);
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
                site.scratch.sql(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
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
