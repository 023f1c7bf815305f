//! What is struck: runs that stand still at a message, beside a second one that waits, in a database whose end is known.
//!
//! The kill matrix, the cable, chaos and the way down are made of it; `lock/kill_matrix.rs` says what they prove.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::proxy::{Proxy, Seen, Side};
use crate::support::words::WAITS_FOR_A_RUNNER;
use crate::support::{Lockstep, Outcome, Running, Scratch, is_soak, server, tell, wait_until};

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
    ("20230101000002_index.up.sql", "CREATE INDEX CONCURRENTLY item_name_idx ON item (slow(name))"),
    (
        "20230101000003_data.up.sql",
        "INSERT INTO ran VALUES (3); UPDATE item SET id = id + 1000; SELECT pg_sleep(0.03);",
    ),
    ("20230101000004_column.up.sql", "ALTER TABLE item ADD COLUMN size int NOT NULL DEFAULT 7"),
];

/// Files that share a message, behind the first of [`FILES`]. None of them can run twice.
pub const SMALL: [(&str, &str); 7] = [
    ("20230101000002_one.up.sql", "CREATE TABLE one (id int)"),
    ("20230101000003_size.up.sql", "ALTER TABLE item ADD COLUMN size int NOT NULL DEFAULT 7"),
    ("20230101000004_index.up.sql", "CREATE INDEX item_name_idx ON item (slow(name))"),
    ("20230101000005_gone.up.sql", "DROP TABLE one"),
    ("20230101000006_renamed.up.sql", "ALTER TABLE item RENAME size TO length"),
    (
        "20230101000007_sequence.up.sql",
        "CREATE SEQUENCE step; COMMENT ON SEQUENCE step IS 'a step'",
    ),
    ("20230101000008_view.up.sql", "CREATE VIEW lengths AS SELECT DISTINCT length FROM item"),
];

/// A file whose statements run outside a transaction, one by one, of each kind; and one that is sent in several parts.
pub fn steps_and_parts() -> Vec<(&'static str, String)> {
    let steps = "-- lockstep: no-transaction
        SET search_path TO public;
        INSERT INTO ran VALUES (2);
        CREATE INDEX CONCURRENTLY item_name_idx ON item (name);
        UPDATE item SET id = id + 1000;
        DO $$ BEGIN UPDATE item SET name = lower(name); COMMIT; END $$;
        DROP INDEX CONCURRENTLY item_name_idx;
        ALTER TABLE item ADD COLUMN size int NOT NULL DEFAULT 7";
    let padding = "x".repeat(140_000);
    let parts: String = (0..4)
        .map(|number| format!("INSERT INTO ran SELECT {number} FROM (SELECT '{padding}') p;\n"))
        .collect();
    vec![
        (FILES[0].0, FILES[0].1.to_owned()),
        ("20230101000002_steps.up.sql", steps.to_owned()),
        ("20230101000003_parts.up.sql", parts),
    ]
}

/// What there is to know about a database when all is over, one fact a row: what is in it, every object of whatever kind,
/// and what the server tells of those that the files here make.
const FACTS: &str = "
    SELECT 'history', name FROM bun_migrations ORDER BY id;
    SELECT 'journal', version, h.name, finished_at IS NOT NULL FROM bun_migrations_journal j
      LEFT JOIN bun_migrations h ON h.id = j.history_id ORDER BY version;
    SELECT 'ran', version FROM ran ORDER BY version;
    SELECT 'data', count(*), md5(string_agg(item::text, ',' ORDER BY id)) FROM item;
    SELECT 'lock', id, table_name FROM bun_migration_locks;
    SELECT 'guard', pid FROM pg_locks WHERE locktype = 'advisory'
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database());
    SELECT 'INVALID', indexrelid::regclass FROM pg_index WHERE NOT indisvalid;
    SELECT 'schema', nspname, nspowner::regrole, nspacl FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp' ORDER BY 2;
    SELECT DISTINCT 'object', it FROM pg_depend, pg_describe_object(classid, objid, objsubid) it
      WHERE objid >= 16384 ORDER BY 2;
    SELECT 'relation', oid::regclass, relkind, relpersistence, relowner::regrole, relacl, reloptions, relreplident,
      relrowsecurity, CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END FROM pg_class
      WHERE oid >= 16384 ORDER BY oid::regclass::text;
    SELECT 'column', attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated,
      attcollation::regcollation, attacl, pg_get_expr(adbin, adrelid) FROM pg_attribute
      LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
      WHERE attrelid >= 16384 AND attnum > 0 AND NOT attisdropped ORDER BY attrelid::regclass::text, attnum;
    SELECT 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
      WHERE oid >= 16384 ORDER BY conrelid::regclass::text, conname;
    SELECT 'index', pg_get_indexdef(indexrelid), indisready, indislive, indisprimary, indisclustered, indisreplident
      FROM pg_index WHERE indrelid >= 16384 ORDER BY 2;
    SELECT 'comment', pg_describe_object(classoid, objoid, objsubid), description FROM pg_description
      WHERE objoid >= 16384 ORDER BY 2;
    SELECT 'sequence', seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle
      FROM pg_sequence ORDER BY seqrelid::regclass::text;
    SELECT 'function', proowner::regrole, proacl, pg_get_functiondef(oid) FROM pg_proc
      WHERE oid >= 16384 ORDER BY oid::regprocedure::text";

/// In how many cells of a site `pg_dump`, which costs as much as a run, is asked once whether the catalog is the same.
const DUMPED_ONE_IN: usize = 9;

/// A database that is emptied before each cell, and the ways to it.
pub struct Site {
    pub scratch: Scratch,
    /// Where the proxy finds the server.
    pub upstream: SocketAddr,
    /// Where the runner finds the proxy.
    pub host: Ipv4Addr,
    /// What starts the runner that goes through the proxy: nothing, usually.
    pub wrapper: Vec<String>,
    /// Of the runner that goes through the proxy. Over TLS the proxy sees no messages, and takes records for them.
    pub sslmode: &'static str,
    /// What both runners of a cell do, if it is not `up`, in a database that is up to date.
    pub other: Option<&'static [&'static str]>,
    /// How many cells have ended in it.
    pub concluded: AtomicUsize,
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
    catalog: Vec<String>,
    facts: Vec<String>,
}

impl Site {
    pub fn new() -> Site {
        Site::with(FILES)
    }

    /// With other files. They work on the tables `ran` and `item`, which the first of them creates.
    pub fn with(files: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<[u8]>)>) -> Site {
        let scratch = Scratch::with(files);
        let server = server();
        let mut addresses =
            (server.host.as_str(), server.port).to_socket_addrs().expect("an address");
        Site {
            scratch,
            upstream: addresses.next().expect("an address"),
            host: Ipv4Addr::LOCALHOST,
            wrapper: Vec::new(),
            sslmode: "disable",
            other: None,
            concluded: AtomicUsize::new(0),
        }
    }

    pub fn proxy(&self, hold: Option<usize>) -> Proxy {
        let address = if self.host.is_loopback() { self.host } else { Ipv4Addr::UNSPECIFIED };
        Proxy::start(address, self.upstream, hold)
    }

    /// A runner that goes through the proxy. If it cannot even connect it soon gives up.
    pub fn through(&self, proxy: &Proxy) -> Running {
        let url = format!(
            "postgres://postgres@{}:{}/{}?sslmode={}",
            self.host, proxy.port, self.scratch.database, self.sslmode
        );
        self.runner()
            .under(&self.wrapper)
            .env("DATABASE_URL", url)
            .env("DATABASE_WAIT_SECONDS", "2")
            .spawn()
    }

    fn runner(&self) -> Lockstep<'_> {
        self.scratch.lockstep(self.other.unwrap_or(&["up"]))
    }

    /// An `up` that does not.
    pub fn direct(&self) -> Running {
        self.scratch.lockstep(&["up"]).spawn()
    }

    /// Empties the database and stages a cell in it.
    pub fn stage(&self, message: usize) -> Staged<'_> {
        self.prepare();
        let proxy = self.proxy(Some(message));
        let mut first = self.through(&proxy);
        let missed = !proxy.wait_for_hold(|| first.has_ended());
        let mut second = self.runner().spawn();
        let mut waits = false;
        wait_until("the second runner waits, or is done", || {
            waits = second.log().contains(WAITS_FOR_A_RUNNER);
            waits || second.has_ended()
        });
        Staged { site: self, proxy, first, second, waits, missed }
    }

    /// What is idle when its cable is cut holds nothing, and stays until the server's own keepalives find out.
    pub fn clear(&self) {
        self.scratch.sql(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database()
               AND application_name LIKE 'lockstep/%';
             DROP SCHEMA public CASCADE; CREATE SCHEMA public",
        );
    }

    fn prepare(&self) {
        self.clear();
        if self.other.is_some() {
            self.direct().wait().code(0);
        }
    }

    fn catalog(&self) -> Vec<String> {
        self.scratch.schema().lines().map(str::to_owned).collect()
    }

    pub fn undisturbed(&self) -> State {
        self.clear();
        self.direct().wait().code(0);
        State { catalog: self.catalog(), facts: self.facts() }
    }

    /// The names of what is beside a table are numbers, which are never the same.
    fn facts(&self) -> Vec<String> {
        let mut facts = self.scratch.sql(FACTS);
        facts.retain(|fact| !fact.contains("pg_toast."));
        facts
    }

    /// A fresh run has nothing to complain about, and nothing is left of what was.
    pub fn conclude(&self, expected: &State) {
        self.run_afresh();
        // What is idle, or in a transaction that has failed already, holds nothing. It goes when the server's own
        // keepalives notice.
        let at_work = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                       AND application_name LIKE 'lockstep/%' \
                       AND COALESCE(state, '') NOT IN ('idle', 'idle in transaction (aborted)')";
        wait_until("the server has noticed all that happened", || {
            self.scratch.value(at_work) == "0"
        });
        // A run whose cable was cut between its last commit and its release lives until the server notices. The first run
        // that comes after that removes its row.
        if !self.scratch.sql("SELECT FROM bun_migration_locks").is_empty() {
            self.run_afresh();
        }
        assert_same(&self.facts(), &expected.facts);
        let concluded = self.concluded.fetch_add(1, Ordering::Relaxed);
        if concluded.is_multiple_of(DUMPED_ONE_IN) || is_soak() {
            assert_same(&self.catalog(), &expected.catalog);
        }
    }

    fn run_afresh(&self) {
        self.direct().wait().code(0).says("the database is up to date");
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    Before,
    /// This long after the message was forwarded.
    After(Duration),
}

/// What a run sends and is sent if nobody disturbs it.
pub fn undisturbed_messages(site: &Site) -> Vec<Seen> {
    // A run that takes its time looks at itself from beside, which no other run need do: the fewest of three will come.
    let runs = (0..3).map(|_| {
        site.prepare();
        let proxy = site.proxy(None);
        site.through(&proxy).wait().code(0);
        proxy.seen()
    });
    runs.min_by_key(Vec::len).expect("three runs")
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
        self.taken_over.fetch_add(usize::from(waits), Ordering::Relaxed);
        self.missed.fetch_add(usize::from(missed), Ordering::Relaxed);
    }

    /// Hardly a run was over before its message came, and in a good part of the cells the second runner was waiting.
    pub fn assert_meaningful(&self) {
        let figure = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let cells = figure(&self.cells);
        assert!(figure(&self.missed) <= cells / 10, "{} of {cells} missed", figure(&self.missed));
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

/// It came through, lost its connection, or lost its lock: nothing that a person would have to see to.
#[track_caller]
pub fn assert_retry_helps(outcome: &Outcome) {
    assert!(matches!(outcome.code, Some(0 | 3 | 4)), "{outcome}");
}

/// Compares line by line, and shows no more than the lines that differ.
#[track_caller]
fn assert_same(found: &[String], expected: &[String]) {
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        let mut lines = these.to_vec();
        for line in those {
            if let Some(position) = lines.iter().position(|it| it == line) {
                lines.remove(position);
            }
        }
        lines
    };
    assert!(
        found == expected,
        "not as undisturbed\nnot expected: {:#?}\nmissing: {:#?}",
        only(found, expected),
        only(expected, found)
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
        threads.into_iter().map(|it| it.join().expect("no cell fails")).collect()
    })
}
