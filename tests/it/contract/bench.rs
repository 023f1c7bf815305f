//! What a run costs, beside the same files as bare messages and by psql: `make bench` prints the table that the manual's
//! page on cost quotes.
//!
//! The ways take turns within each round, each in a database of its own that stays to the end, and the table shows the
//! medians of the rounds. So the ratios hold on a busy machine, too; the times do not. The cluster must have nobody else in
//! it.
//!
//! The server's processor time is what the kernel has counted for those of its processes that have ended, which is what
//! sessions are: it is asked for when the last of them has been waited for. Only Linux tells it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, ToSocketAddrs};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::support::proxy::{Proxy, Side};
use crate::support::{Scratch, admin, rows, server, wait_until};

const ROUNDS: usize = 3;

/// Linux tells processor time in these, whatever its kernel counts in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Longer than a process of the server keeps what it has counted to itself.
const UNREPORTED: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Lockstep,
    /// `BEGIN; the file; a row in the history; COMMIT` in one message a file, one session.
    Bare,
    /// The same by psql, which sends each statement for itself.
    Psql,
    /// All files in one transaction, without a history: `psql -1 -f a -f b`.
    PsqlAtOnce,
}

const WAYS: [Way; 4] = [Way::Bare, Way::Lockstep, Way::Psql, Way::PsqlAtOnce];

/// What there is to do.
struct Work {
    title: &'static str,
    /// By how many the figures are divided.
    migrations: usize,
    files: Vec<(String, String)>,
    /// How many files have been applied before.
    applied: usize,
}

/// What it took.
struct Cost {
    /// In milliseconds.
    processor: f64,
    /// In milliseconds.
    wall: f64,
}

/// What went over the wire and to the disk.
struct Wire {
    flushes: f64,
    round_trips: usize,
    up: usize,
    down: usize,
}

#[test]
#[ignore = "measures, and tests nothing: make bench"]
fn prints_what_a_migration_costs() {
    if !cfg!(target_os = "linux") {
        println!("The server's processor time cannot be had here: make bench is for Linux.");
        return;
    }
    let mut meter = Meter::new();
    println!(
        "\n{}, medians of {ROUNDS} rounds; a migration, and × what bare messages take\n",
        meter.ask("SELECT split_part(version(), ' on ', 1)")
    );
    println!(
        "| work | by | server CPU | | wall, no fsync | | wall, fsync | | flushes | round trips | bytes up | down |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for work in works() {
        for line in measure(&mut meter, &work) {
            println!("{line}");
        }
    }
    meter.ask("ALTER SYSTEM RESET ALL");
}

fn works() -> Vec<Work> {
    let tables = |count| (1..=count).map(table).collect::<Vec<_>>();
    let inserts: String = (0..10_000)
        .map(|n| format!("INSERT INTO item VALUES ({n}, 'the name of item {n}');\n"))
        .collect();
    vec![
        Work {
            title: "100 files of one statement",
            migrations: 100,
            files: tables(100),
            applied: 0,
        },
        Work {
            title: "1,000 files of one statement",
            migrations: 1000,
            files: tables(1000),
            applied: 0,
        },
        Work {
            title: "a file of 10,000 `INSERT`s",
            migrations: 1,
            files: vec![(file(1), inserts)],
            applied: 0,
        },
        Work {
            title: "5,000 files, nothing to do",
            migrations: 1,
            files: tables(5000),
            applied: 5000,
        },
        Work {
            title: "300 files of one statement",
            migrations: 300,
            files: tables(300),
            applied: 0,
        },
        Work {
            title: "300 files behind 20,000 applied",
            migrations: 300,
            files: tables(20_300),
            applied: 20_000,
        },
    ]
}

/// Versions that are dates, one a second.
fn file(number: usize) -> String {
    let (hours, minutes, seconds) = (number / 3600, number / 60 % 60, number % 60);
    format!("20230101{hours:02}{minutes:02}{seconds:02}_step.up.sql")
}

fn table(number: usize) -> (String, String) {
    let text = format!("CREATE TABLE step_{number} (id bigint PRIMARY KEY, name text NOT NULL);\n");
    (file(number), text)
}

// -------------------------------------------------------------------------------------------- the rounds

/// The table's rows for this work, one a way.
fn measure(meter: &mut Meter, work: &Work) -> Vec<String> {
    let mut volatile = [const { Vec::new() }; WAYS.len()];
    let mut durable = [const { Vec::new() }; WAYS.len()];
    for _ in 0..ROUNDS {
        for (number, way) in WAYS.into_iter().enumerate() {
            volatile[number].push(cost(meter, work, way, "off"));
            durable[number].push(cost(meter, work, way, "on"));
        }
    }
    let a_migration = |figure: f64| figure / work.migrations as f64;
    let row = |(number, way): (usize, Way)| {
        let mut row = format!("| {} | {} |", work.title, way.title());
        for (costs, figure) in [
            (&volatile, (|it| it.processor) as fn(&Cost) -> f64),
            (&volatile, |it| it.wall),
            (&durable, |it| it.wall),
        ] {
            let [its, bare] = [number, 0].map(|way| a_migration(median(&costs[way], figure)));
            let _ = write!(row, " {its:.2} ms | {:.2} × |", its / bare);
        }
        let wire = wire(meter, work, way);
        for figure in [wire.flushes, wire.round_trips as f64] {
            let _ = write!(row, " {:.2} |", a_migration(figure));
        }
        for bytes in [wire.up, wire.down] {
            let _ = write!(row, " {} |", bytes / work.migrations);
        }
        row
    };
    WAYS.into_iter().enumerate().map(row).collect()
}

/// Of one run, in a database of its own; what only prepares it need not be durable.
fn cost(meter: &mut Meter, work: &Work, way: Way, fsync: &str) -> Cost {
    let scratch = work.prepare();
    let url = scratch.url();
    scratch.end_kept();
    meter.set("fsync", fsync);
    let processor = meter.processor_of_ended_sessions();
    let started = Instant::now();
    work.run(way, &scratch, &url);
    let wall = started.elapsed().as_secs_f64() * 1000.0;
    let processor = meter.processor_of_ended_sessions() - processor;
    meter.set("fsync", "off");
    meter.kept.push(scratch);
    Cost { processor, wall }
}

fn median(costs: &[Cost], figure: fn(&Cost) -> f64) -> f64 {
    let mut figures: Vec<f64> = costs.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// What goes over the wire and to the disk, in one more run; it is the same in each.
fn wire(meter: &mut Meter, work: &Work, way: Way) -> Wire {
    let scratch = work.prepare();
    let upstream = (server().host.as_str(), server().port).to_socket_addrs();
    let upstream = upstream.expect("an address").next().expect("an address");
    let proxy = Proxy::start(Ipv4Addr::LOCALHOST, upstream, None);
    let url = format!("postgres://postgres@127.0.0.1:{}/{}", proxy.port, scratch.database);
    meter.set("fsync", "on");
    let flushes = meter.flushes();
    work.run(way, &scratch, &url);
    let flushes = meter.flushes() - flushes;
    meter.set("fsync", "off");
    meter.kept.push(scratch);
    let seen = proxy.seen();
    let bytes = |side| {
        let those = seen.iter().filter(|it| it.from == side);
        those.map(|it| it.length).sum()
    };
    let connections: BTreeSet<usize> = seen.iter().map(|it| it.connection).collect();
    let round_trips = connections.iter().map(|connection| {
        let sides = seen.iter().filter(|it| it.connection == *connection);
        let sides: Vec<Side> = sides.map(|it| it.from).collect();
        let answered = sides.windows(2);
        answered.filter(|it| **it == [Side::Client, Side::Server]).count()
    });
    Wire {
        round_trips: round_trips.sum(),
        up: bytes(Side::Client),
        down: bytes(Side::Server),
        flushes,
    }
}

// -------------------------------------------------------------------------------------------- the ways

impl Way {
    fn title(self) -> &'static str {
        match self {
            Way::Lockstep => "`lockstep up`",
            Way::Bare => "bare messages",
            Way::Psql => "`psql`",
            Way::PsqlAtOnce => "`psql -1`",
        }
    }
}

impl Work {
    /// A database as the work finds it: with history and journal, with what has been applied before, and with all that a
    /// first session does.
    fn prepare(&self) -> Scratch {
        let first = "CREATE TABLE item (id bigint, name text)";
        let scratch = Scratch::migrated([(file(0), first)]);
        for (name, text) in &self.files[..self.applied] {
            scratch.file(name, text);
        }
        if let Some((last, _)) = self.files[..self.applied].last() {
            scratch.lockstep(&["baseline", &last[..14]]).run().code(0);
        }
        for (name, text) in &self.files[self.applied..] {
            scratch.file(name, text);
        }
        scratch
    }

    fn run(&self, way: Way, scratch: &Scratch, url: &str) {
        let url = format!("{url}?sslmode=disable");
        let pending = &self.files[self.applied..];
        match way {
            Way::Lockstep => {
                let up = scratch.lockstep(&["up"]).env("DATABASE_URL", url);
                up.run().code(0);
            }
            Way::Bare => {
                let mut client = Client::connect(&url, NoTls).expect("a connection");
                if pending.is_empty() {
                    client.simple_query(LOOK).expect("the history");
                }
                for (name, text) in pending {
                    let message = format!("BEGIN;{text};{};COMMIT", recorded(name));
                    client.simple_query(&message).expect("the file runs");
                }
            }
            Way::Psql => {
                let whole = pending
                    .iter()
                    .map(|(name, text)| format!("BEGIN;\n{text};\n{};\nCOMMIT;\n", recorded(name)));
                let script = scratch.directory.join("script.sql");
                fs::write(&script, whole.collect::<String>()).expect("a file");
                let script = script.display().to_string();
                match pending {
                    [] => psql(&url, &["-c", LOOK]),
                    _ => psql(&url, &["-f", &script]),
                }
            }
            Way::PsqlAtOnce => {
                let mut arguments = vec!["-1".to_owned()];
                for (name, _) in pending {
                    let path = scratch.migrations().join(name).display().to_string();
                    arguments.extend(["-f".to_owned(), path]);
                }
                if pending.is_empty() {
                    arguments.extend(["-c".to_owned(), LOOK.to_owned()]);
                }
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                psql(&url, &arguments);
            }
        }
    }
}

/// What anybody has to ask who has nothing to do.
const LOOK: &str = "SELECT name FROM bun_migrations";

fn recorded(name: &str) -> String {
    let version = &name[..14];
    format!("INSERT INTO bun_migrations (name, group_id) VALUES ('{version}', 2)")
}

fn psql(url: &str, arguments: &[&str]) {
    let status = Command::new(server().bindir.join("psql"))
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert!(status.expect("psql").success());
}

// -------------------------------------------------------------------------------------------- the meter

/// A session that stays, so that what it takes itself is not counted.
struct Meter {
    client: Client,
    postmaster: u32,
    version: u32,
    /// The databases of runs that are over. Minutes after files were removed, ext4 still searches long for the inode of a
    /// new one, and whoever runs then pays for it: so they are removed when all is measured.
    kept: Vec<Scratch>,
}

impl Meter {
    fn new() -> Meter {
        let mut client = admin();
        let mut ask = |query| rows(&mut client, query).remove(0);
        let pid: u32 = ask("SELECT pg_backend_pid()").parse().expect("a number");
        let version = ask("SHOW server_version_num").parse().expect("a number");
        let mut meter = Meter {
            client,
            postmaster: Process::of(pid).expect("our own session").parent,
            version,
            kept: Vec::new(),
        };
        // Its workers would be counted.
        meter.set("autovacuum", "off");
        meter
    }

    /// The first value that a query returns; nothing if it returns none.
    fn ask(&mut self, query: &str) -> String {
        let rows = rows(&mut self.client, query);
        rows.into_iter().next().unwrap_or_default()
    }

    fn set(&mut self, setting: &str, value: &str) {
        self.ask(&format!("ALTER SYSTEM SET {setting} TO {value}"));
        self.ask("SELECT pg_reload_conf()");
        wait_until("the setting is in force", || self.ask(&format!("SHOW {setting}")) == value);
    }

    /// In milliseconds, when no session but our own is left.
    fn processor_of_ended_sessions(&mut self) -> f64 {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datid IS NOT NULL";
        wait_until("the sessions have ended", || self.ask(sessions) == "0");
        // A process is out of the server's list before it is out of the kernel's.
        let known = "SELECT pid FROM pg_stat_activity";
        wait_until("the kernel has counted them", || {
            let known = rows(&mut self.client, known);
            let children = Process::children(self.postmaster);
            children.iter().all(|it| known.contains(&it.to_string()))
        });
        let postmaster = Process::of(self.postmaster).expect("the server runs");
        postmaster.of_children * 1000.0 / TICKS_PER_SECOND
    }

    /// How often the log has been flushed, when nobody has anything left to report.
    fn flushes(&mut self) -> f64 {
        let query = match self.version {
            180_000.. => "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'",
            _ => "SELECT wal_sync FROM pg_stat_wal",
        };
        let (mut flushes, mut since) = (self.ask(query), Instant::now());
        wait_until("all flushes are reported", || {
            let now = self.ask(query);
            if now != flushes {
                (flushes, since) = (now, Instant::now());
            }
            since.elapsed() > UNREPORTED
        });
        flushes.parse().expect("a number")
    }
}

/// What the kernel tells of a process.
struct Process {
    parent: u32,
    /// The processor time of its children that have been waited for, in ticks.
    of_children: f64,
}

impl Process {
    fn of(pid: u32) -> Option<Process> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything. See proc(5): the state comes next, field 3.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
        Some(Process {
            parent: field(4)?,
            of_children: f64::from(field(16)?) + f64::from(field(17)?),
        })
    }

    fn children(of: u32) -> Vec<u32> {
        let processes = fs::read_dir("/proc").expect("/proc");
        let pids = processes.filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| Process::of(*pid).is_some_and(|it| it.parent == of)).collect()
    }
}
