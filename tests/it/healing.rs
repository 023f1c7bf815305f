//! Healing: whatever interrupts a statement that cannot run in a transaction, in whatever way, the next run comes to the
//! end that an undisturbed one comes to; and no index is dropped, or taken for the statement's own, that is not.
//!
//! The first part is a table of interruptions × statements, which the test prints. A statement is held where it waits for
//! older transactions and for users of the table: a transaction of ours is both. The rest is about definitions, names and
//! what the log and the errors say.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::cluster::{Cluster, in_another_process};
use crate::kill_matrix::{is_soak, tell};
use crate::pgbouncer::{Mode, PgBouncer};
use crate::support::{Outcome, Running, Scratch, rows, wait_until};

// ----------------------------------------------------------------- the table of interruptions × statements

/// A statement, and what must be there before it.
struct Case {
    name: &'static str,
    setup: &'static str,
    /// `@` is the database.
    statement: &'static str,
}

const TABLE: &str = "CREATE SCHEMA s; CREATE TABLE s.t (a int, b text); \
                     INSERT INTO s.t SELECT g, g::text FROM generate_series(1, 100) g";
const INDEXED: &str =
    "CREATE INDEX t_a_idx ON s.t (a); CREATE UNIQUE INDEX t_b_idx ON s.t (lower(b))";
const PARTITIONED: &str = "CREATE TABLE s.p (a int) PARTITION BY LIST (a); \
                           CREATE TABLE s.p1 PARTITION OF s.p FOR VALUES IN (1); \
                           CREATE TABLE s.p2 PARTITION OF s.p FOR VALUES IN (2)";

const CASES: [Case; 8] = [
    Case {
        name: "CREATE INDEX",
        setup: "",
        statement: "CREATE INDEX CONCURRENTLY t_a_idx ON s.t (a)",
    },
    Case {
        name: "CREATE UNIQUE INDEX",
        setup: "",
        statement: "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS t_b_idx ON s.t (lower(b)) WHERE a > 0",
    },
    Case {
        name: "DROP INDEX",
        setup: INDEXED,
        statement: "DROP INDEX CONCURRENTLY s.t_a_idx",
    },
    Case {
        name: "REINDEX TABLE",
        setup: INDEXED,
        statement: "REINDEX TABLE CONCURRENTLY s.t",
    },
    Case {
        name: "REINDEX INDEX",
        setup: INDEXED,
        statement: "REINDEX INDEX CONCURRENTLY s.t_b_idx",
    },
    Case {
        name: "REINDEX SCHEMA",
        setup: INDEXED,
        statement: "REINDEX SCHEMA CONCURRENTLY s",
    },
    Case {
        name: "REINDEX DATABASE",
        setup: INDEXED,
        statement: "REINDEX (CONCURRENTLY) DATABASE @",
    },
    Case {
        name: "DETACH PARTITION",
        setup: PARTITIONED,
        statement: "ALTER TABLE s.p DETACH PARTITION s.p1 CONCURRENTLY",
    },
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Method {
    /// SIGKILL of the runner.
    Kill,
    /// `pg_cancel_backend` of the session that runs the statement.
    Cancel,
    /// `pg_terminate_backend` of it.
    Terminate,
    /// A transaction that the statement waits for waits for the statement.
    Deadlock,
    /// The database has a `statement_timeout` and a `lock_timeout` that are long over.
    Timeout,
    /// The key is there twice.
    Duplicates,
}

const METHODS: [Method; 6] = [
    Method::Kill,
    Method::Cancel,
    Method::Terminate,
    Method::Deadlock,
    Method::Timeout,
    Method::Duplicates,
];

#[test]
fn whatever_interrupts_a_statement_the_next_run_ends_as_an_undisturbed_one() {
    let table = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for case in &CASES {
            let table = &table;
            scope.spawn(move || {
                let site = Site::new(case);
                let undisturbed = site.undisturbed();
                for method in METHODS {
                    if !method.fits(case) {
                        continue;
                    }
                    site.reset();
                    let row = site.interrupt_and_heal(method, &undisturbed);
                    table.lock().expect("no panic while locked").push(row);
                }
            });
        }
    });
    let mut table = table.into_inner().expect("no panic while locked");
    table.sort();
    tell_table(&table);
    assert_eq!(table.len(), 8 * 5 - 1 + 1, "every cell was played");
}

/// The cluster is the test's own. All the statements stand still when their server is stopped.
#[test]
fn whatever_statement_a_stopped_server_interrupts_the_next_run_ends_as_an_undisturbed_one() {
    let test = "healing::whatever_statement_a_stopped_server_interrupts_the_next_run_ends_as_an_undisturbed_one";
    let Some(cluster) = Cluster::of_this_process() else {
        return in_another_process(test, &Cluster::start("healing"), &[]);
    };
    let mut held = Vec::new();
    for case in &CASES {
        let site = Site::new(case);
        let undisturbed = site.undisturbed();
        site.reset();
        let hold = site.hold();
        let run = site.scratch.up_spawned();
        site.wait_until_held();
        held.push((site, undisturbed, hold, run));
    }
    cluster.stop();
    cluster.start_again();
    let mut table = Vec::new();
    for (site, undisturbed, hold, run) in held {
        drop(hold);
        run.wait().code(3);
        table.push(site.heal("server stopped", 1, &undisturbed));
    }
    tell_table(&table);
}

fn tell_table(rows: &[[String; 5]]) {
    let heads = [
        "method",
        "statement",
        "what was left",
        "what the next run did",
        "as undisturbed",
    ];
    let heads = heads.map(str::to_owned);
    let width = |column: usize| {
        let widths = rows.iter().chain([&heads]).map(|row| row[column].len());
        widths.max().unwrap_or(0)
    };
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for row in [&heads].into_iter().chain(rows) {
        for (cell, width) in row.iter().zip(widths) {
            text.push_str(&format!("{cell:width$}  "));
        }
        text.push('\n');
    }
    tell(&text);
}

impl Method {
    fn fits(self, case: &Case) -> bool {
        match self {
            Method::Duplicates => case.statement.starts_with("CREATE UNIQUE"),
            // Which of the tables it comes to first is not known.
            Method::Deadlock => !case.name.ends_with("DATABASE"),
            _ => true,
        }
    }
}

/// A database for one statement.
struct Site<'a> {
    scratch: Scratch,
    case: &'a Case,
}

impl Site<'_> {
    fn new(case: &Case) -> Site<'_> {
        let site = Site {
            scratch: Scratch::new(),
            case,
        };
        let statement = case.statement.replace('@', &site.scratch.database);
        site.scratch.file(&file(1), statement);
        site.reset();
        site
    }

    /// Makes the database what it was before.
    fn reset(&self) {
        self.scratch.sql(&format!(
            "SET client_min_messages = error; DROP SCHEMA IF EXISTS s CASCADE; \
             DROP TABLE IF EXISTS bun_migrations, bun_migration_locks, bun_migrations_journal; {TABLE}; {}",
            self.case.setup
        ));
    }

    fn undisturbed(&self) -> Vec<String> {
        self.scratch.up().code(0);
        self.state()
    }

    /// All there is in the catalog, and in the history.
    fn state(&self) -> Vec<String> {
        self.scratch.sql(
            "SELECT c.oid::regclass::text, c.relkind, i.indisvalid, i.indisready, i.indislive, pg_get_indexdef(i.indexrelid), \
               h.inhparent::regclass, h.inhdetachpending, pg_get_expr(c.relpartbound, c.oid) \
             FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_inherits h ON h.inhrelid = c.oid \
             WHERE c.relnamespace IN ('public'::regnamespace, 's'::regnamespace) ORDER BY 1; \
             SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint \
             WHERE connamespace = 's'::regnamespace ORDER BY 1, 2; \
             SELECT count(*) FROM pg_index WHERE NOT indisvalid; \
             SELECT name, group_id FROM bun_migrations; \
             SELECT version, finished_at IS NULL, history_id FROM bun_migrations_journal; \
             SELECT count(*) FROM bun_migration_locks",
        )
    }

    /// A transaction that is older than the statement, and uses the tables. The statement waits for it, whichever of the
    /// two it minds.
    fn hold(&self) -> Client {
        let mut client = self.scratch.client();
        let p = match self.case.setup {
            PARTITIONED => "; SELECT FROM s.p",
            _ => "",
        };
        client
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM s.t{p}"
            ))
            .expect("a transaction");
        client
    }

    fn wait_until_held(&self) -> i32 {
        let query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
                     AND query LIKE '/* lockstep %' AND application_name LIKE 'lockstep/%'";
        let mut found = Vec::new();
        wait_until("the statement waits", || {
            found = self.scratch.sql(query);
            !found.is_empty()
        });
        found[0].parse().expect("a process id")
    }

    fn interrupt_and_heal(&self, method: Method, undisturbed: &[String]) -> [String; 5] {
        let label = format!("{method:?}");
        match method {
            Method::Deadlock => return self.deadlock(undisturbed),
            Method::Duplicates => {
                self.scratch.sql("INSERT INTO s.t VALUES (7, '7')");
                let error = self.scratch.up().code(1).error();
                assert!(
                    error.contains("DETAIL: Key (lower(b))=(7) is duplicated."),
                    "{error}"
                );
                // The key is still there twice, however often it is tried.
                self.scratch.up().code(1);
                self.scratch
                    .sql("DELETE FROM s.t WHERE ctid = (SELECT max(ctid) FROM s.t WHERE a = 7)");
                return self.heal(&label, 1, undisturbed);
            }
            Method::Timeout => {
                self.set_database("statement_timeout = '100ms'; lock_timeout = '100ms'")
            }
            _ => {}
        }
        let hold = self.hold();
        let run = self.scratch.up_spawned();
        let pid = self.wait_until_held();
        match method {
            Method::Kill => {
                run.kill();
            }
            Method::Cancel => {
                self.scratch
                    .sql(&format!("SELECT pg_cancel_backend({pid})"));
                run.wait()
                    .code(1)
                    .says("canceling statement due to user request");
            }
            Method::Terminate => {
                self.scratch
                    .sql(&format!("SELECT pg_terminate_backend({pid})"));
                run.wait().code(3);
            }
            Method::Timeout => {
                let long = format!(
                    "SELECT clock_timestamp() - query_start > '300ms' FROM pg_stat_activity WHERE pid = {pid}"
                );
                wait_until("the timeouts are long over", || {
                    self.scratch.value(&long) == "t"
                });
                drop(hold);
                let outcome = run.wait();
                self.set_database("statement_timeout = DEFAULT; lock_timeout = DEFAULT");
                outcome.code(0).is_silent_about("timeout");
                return self.row(&label, "nothing", "ran on", undisturbed);
            }
            Method::Deadlock | Method::Duplicates => unreachable!("played above"),
        }
        wait_until("the server has ended the statement", || {
            let there = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid =";
            self.scratch
                .sql(&format!("{there} {pid} AND state = 'active'"))
                .is_empty()
        });
        drop(hold);
        self.heal(&label, 1, undisturbed)
    }

    fn set_database(&self, settings: &str) {
        for setting in settings.split("; ") {
            self.scratch.sql(&format!(
                "ALTER DATABASE {} SET {setting}",
                self.scratch.database
            ));
        }
    }

    /// Notes what was left, and runs again.
    fn heal(&self, label: &str, least_left: usize, undisturbed: &[String]) -> [String; 5] {
        let left = self.left();
        assert!(
            left.len() >= least_left,
            "{label} of {} left nothing",
            self.case.name
        );
        let outcome = self.scratch.up();
        outcome.code(0);
        self.row(label, &left.join(", "), &did(&outcome), undisturbed)
    }

    fn left(&self) -> Vec<String> {
        self.scratch.sql(
            "SELECT 'INVALID ' || indexrelid::regclass FROM pg_index WHERE NOT indisvalid ORDER BY 1; \
             SELECT 'pending detach of ' || inhrelid::regclass FROM pg_inherits WHERE inhdetachpending",
        )
    }

    fn row(&self, label: &str, left: &str, did: &str, undisturbed: &[String]) -> [String; 5] {
        assert_eq!(self.state(), undisturbed, "{label} of {}", self.case.name);
        [label, self.case.name, left, did, "yes"].map(str::to_owned)
    }

    /// The statement has a lock on the table that `waiter` wants, and comes to wait for `waiter`. The one who looks for a
    /// deadlock last is undone, and that is to be the statement: so it first waits for `writer`.
    fn deadlock(&self, undisturbed: &[String]) -> [String; 5] {
        self.set_database("deadlock_timeout = '100ms'");
        let is_detach = self.case.setup == PARTITIONED;
        if is_detach {
            // It holds no lock while it waits for the first time; so `waiter` must be quick.
            self.set_database("deadlock_timeout = '2s'");
        }
        let mut waiter = self.scratch.client();
        waiter
            .batch_execute("SET deadlock_timeout = '5s'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class")
            .expect("a transaction");
        let mut writer = self.scratch.client();
        let lock = match is_detach {
            true => "SELECT 1",
            false => "LOCK TABLE s.t IN ROW EXCLUSIVE MODE",
        };
        writer
            .batch_execute(&format!("BEGIN; {lock}"))
            .expect("a transaction");
        let (using, wanted) = match is_detach {
            true => ("SELECT FROM s.p1", "s.p"),
            false => ("SELECT FROM s.t", "s.t"),
        };
        if is_detach {
            waiter.batch_execute(using).expect("a reader");
        }
        let mut run = self.scratch.up_spawned();
        self.wait_until_held();
        let wanting = thread::spawn(move || {
            let wants = format!("{using}; LOCK TABLE {wanted} IN SHARE UPDATE EXCLUSIVE MODE");
            waiter.batch_execute(&wants).map(|()| waiter)
        });
        let waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
                     AND query LIKE '%SHARE UPDATE EXCLUSIVE MODE'";
        wait_until("the other transaction waits", || {
            !self.scratch.sql(waits).is_empty()
        });
        drop(writer);
        run.wait_for_log("deadlock detected");
        let waiter = wanting
            .join()
            .expect("no panic")
            .expect("the other transaction lives");
        let left = self.left();
        drop(waiter);
        let outcome = run.wait();
        self.set_database("deadlock_timeout = DEFAULT");
        outcome.code(0);
        self.row(
            "Deadlock",
            &left.join(", "),
            &format!("{} (the same run)", did(&outcome)),
            undisturbed,
        )
    }
}

fn did(outcome: &Outcome) -> String {
    let dropped = outcome.stderr.matches("dropping the INVALID index").count();
    let finished = outcome.stderr.contains("finishing the detach");
    let recorded = outcome.stderr.contains("the earlier run had done its work");
    match (dropped, finished, recorded) {
        (_, true, _) => "finished it".to_owned(),
        (_, _, true) => "recorded it".to_owned(),
        (0, ..) => "ran it again".to_owned(),
        (count, ..) => format!("dropped {count}, ran it again"),
    }
}

impl Scratch {
    fn up_spawned(&self) -> Running {
        self.lockstep(&["up"]).spawn()
    }
}

// ---------------------------------------------------------------------------------------------- what it takes

fn version(number: usize) -> String {
    format!("202301010000{number:02}")
}

fn file(number: usize) -> String {
    format!("{}_step.up.sql", version(number))
}
