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

use crate::support::cluster::{Cluster, in_another_process};
use crate::support::pgbouncer::{Mode, PgBouncer};
use crate::support::steps::{file, old_snapshot, unrecord, version};
use crate::support::words::{
    DROPS_THE_INVALID_INDEX, FINDS_THE_WORK_DONE, WAITS_FOR_A_RUNNER, WAITS_FOR_THE_SESSION,
};
use crate::support::{Outcome, Running, Scratch, is_soak, tell, wait_until};

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
    Case { name: "DROP INDEX", setup: INDEXED, statement: "DROP INDEX CONCURRENTLY s.t_a_idx" },
    Case { name: "REINDEX TABLE", setup: INDEXED, statement: "REINDEX TABLE CONCURRENTLY s.t" },
    Case {
        name: "REINDEX INDEX",
        setup: INDEXED,
        statement: "REINDEX INDEX CONCURRENTLY s.t_b_idx",
    },
    Case { name: "REINDEX SCHEMA", setup: INDEXED, statement: "REINDEX SCHEMA CONCURRENTLY s" },
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
    /// The role has a `statement_timeout` and a `lock_timeout` that are long over.
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
                let site = Site::new(case, Scratch::owned());
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
    let test =
        "whatever_statement_a_stopped_server_interrupts_the_next_run_ends_as_an_undisturbed_one";
    let Some(cluster) = Cluster::of_this_process() else {
        return in_another_process(module_path!(), test, &Cluster::start("healing"), &[]);
    };
    let mut held = Vec::new();
    for case in &CASES {
        let site = Site::new(case, Scratch::new());
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
    let heads = ["method", "statement", "what was left", "what the next run did", "as undisturbed"];
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
    fn new(case: &Case, scratch: Scratch) -> Site<'_> {
        let site = Site { scratch, case };
        let statement = case.statement.replace('@', &site.scratch.database);
        site.scratch.file(&file(1), statement);
        site.reset();
        site
    }

    /// Makes the database what it was before.
    fn reset(&self) {
        let user = self.scratch.user();
        // What is rebuilt as a whole must be one's own, or the server refuses.
        let own = match self.case.name {
            "REINDEX SCHEMA" => format!("ALTER SCHEMA s OWNER TO {user}"),
            "REINDEX DATABASE" => {
                format!("ALTER DATABASE {} OWNER TO {user}", self.scratch.database)
            }
            _ => String::new(),
        };
        self.scratch.sql(&format!(
            "SET client_min_messages = error; DROP SCHEMA IF EXISTS s CASCADE; \
             DROP TABLE IF EXISTS bun_migrations, bun_migration_locks, bun_migrations_journal; {TABLE}; {}; {own}",
            self.case.setup
        ));
    }

    fn undisturbed(&self) -> Vec<String> {
        self.scratch.up().code(0);
        self.state()
    }

    /// All there is in the catalog, and in the history; but for what only a superuser may drop.
    fn state(&self) -> Vec<String> {
        self.scratch.sql(&format!(
            "SELECT c.oid::regclass::text, c.relkind, i.indisvalid, i.indisready, i.indislive, pg_get_indexdef(i.indexrelid), \
               h.inhparent::regclass, h.inhdetachpending, pg_get_expr(c.relpartbound, c.oid) \
             FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_inherits h ON h.inhrelid = c.oid \
             WHERE c.relnamespace IN ('public'::regnamespace, 's'::regnamespace) ORDER BY 1; \
             SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint \
             WHERE connamespace = 's'::regnamespace ORDER BY 1, 2; \
             SELECT count(*) FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE NOT indisvalid \
               AND has_schema_privilege('{}', c.relnamespace, 'USAGE'); \
             SELECT name, group_id FROM bun_migrations; \
             SELECT version, finished_at IS NULL, history_id FROM bun_migrations_journal; \
             SELECT count(*) FROM bun_migration_locks",
            self.scratch.user()
        ))
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
            .batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM s.t{p}"))
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
                assert!(error.contains("DETAIL: Key (lower(b))=(7) is duplicated."), "{error}");
                // The key is still there twice, however often it is tried.
                self.scratch.up().code(1);
                self.scratch
                    .sql("DELETE FROM s.t WHERE ctid = (SELECT max(ctid) FROM s.t WHERE a = 7)");
                return self.heal(&label, 1, undisturbed);
            }
            Method::Timeout => {
                self.set_runner("statement_timeout = '100ms'; lock_timeout = '100ms'")
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
                self.scratch.sql(&format!("SELECT pg_cancel_backend({pid})"));
                run.wait().code(1).says("canceling statement due to user request");
            }
            Method::Terminate => {
                self.scratch.sql(&format!("SELECT pg_terminate_backend({pid})"));
                run.wait().code(3);
            }
            Method::Timeout => {
                let long = format!(
                    "SELECT clock_timestamp() - query_start > '300ms' FROM pg_stat_activity WHERE pid = {pid}"
                );
                wait_until("the timeouts are long over", || self.scratch.value(&long) == "t");
                drop(hold);
                let outcome = run.wait();
                self.set_runner("statement_timeout = DEFAULT; lock_timeout = DEFAULT");
                outcome.code(0).is_silent_about("timeout");
                return self.row(&label, "nothing", "ran on", undisturbed);
            }
            Method::Deadlock | Method::Duplicates => unreachable!("played above"),
        }
        wait_until("the server has ended the statement", || {
            let there = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid =";
            self.scratch.sql(&format!("{there} {pid} AND state = 'active'")).is_empty()
        });
        drop(hold);
        self.heal(&label, 1, undisturbed)
    }

    /// Not for the test's own sessions.
    fn set_runner(&self, settings: &str) {
        for setting in settings.split("; ") {
            self.scratch.sql(&format!(
                "ALTER ROLE {} IN DATABASE {} SET {setting}",
                self.scratch.user(),
                self.scratch.database
            ));
        }
    }

    /// Notes what was left, and runs again.
    fn heal(&self, label: &str, least_left: usize, undisturbed: &[String]) -> [String; 5] {
        let left = self.left();
        assert!(left.len() >= least_left, "{label} of {} left nothing", self.case.name);
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
        self.set_runner("deadlock_timeout = '100ms'");
        let is_detach = self.case.setup == PARTITIONED;
        if is_detach {
            // It holds no lock while it waits for the first time; so `waiter` must be quick.
            self.set_runner("deadlock_timeout = '2s'");
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
        writer.batch_execute(&format!("BEGIN; {lock}")).expect("a transaction");
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
        wait_until("the other transaction waits", || !self.scratch.sql(waits).is_empty());
        drop(writer);
        run.wait_for_log("deadlock detected");
        let waiter = wanting.join().expect("no panic").expect("the other transaction lives");
        let left = self.left();
        drop(waiter);
        let outcome = run.wait();
        self.set_runner("deadlock_timeout = DEFAULT");
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
    let recorded = outcome.stderr.contains(FINDS_THE_WORK_DONE);
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

// -------------------------------------------------------------------------------------------- definitions

/// Each of these is made by hand, and then the file asks for another one under its name.
const OTHERS: [(&str, &str); 13] = [
    ("UNIQUE INDEX i ON t (a)", "INDEX CONCURRENTLY i ON t (a)"),
    ("INDEX i ON t (a)", "UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)"),
    ("INDEX i ON t (b)", "INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)"),
    ("INDEX i ON t (a)", "INDEX CONCURRENTLY IF NOT EXISTS i ON t (a, b)"),
    ("INDEX i ON t (a)", "INDEX CONCURRENTLY IF NOT EXISTS i ON t (a DESC)"),
    ("INDEX i ON t (a) INCLUDE (b)", "INDEX CONCURRENTLY IF NOT EXISTS i ON t (a) INCLUDE (c)"),
    ("INDEX i ON t (a, b)", "INDEX CONCURRENTLY IF NOT EXISTS i ON t (a) INCLUDE (b)"),
    ("INDEX i ON t (a) WHERE a > 1", "INDEX CONCURRENTLY IF NOT EXISTS i ON t (a) WHERE a > 2"),
    ("INDEX i ON t (lower(b))", "INDEX CONCURRENTLY IF NOT EXISTS i ON t (upper(b))"),
    ("INDEX i ON t (b)", "INDEX CONCURRENTLY IF NOT EXISTS i ON t (b text_pattern_ops)"),
    ("INDEX i ON t (b)", "INDEX CONCURRENTLY IF NOT EXISTS i ON t (b COLLATE \"C\")"),
    ("INDEX i ON t USING hash (a)", "INDEX CONCURRENTLY IF NOT EXISTS i ON t USING btree (a)"),
    ("INDEX i ON other (a)", "INDEX CONCURRENTLY IF NOT EXISTS i ON t (a)"),
];

#[test]
fn a_valid_index_with_another_definition_is_an_error_that_shows_both() {
    let scratch = with_t();
    scratch.sql("CREATE TABLE other (a int)");
    for (present, file_says) in OTHERS {
        scratch.sql(&format!("DROP INDEX IF EXISTS i; CREATE {present}"));
        let state = "SELECT i.indexrelid, pg_get_indexdef(i.indexrelid) FROM pg_index i WHERE indrelid::regclass::text !~ '^(pg_|bun)'";
        let before = scratch.sql(state);
        scratch.file(&file(2), format!("CREATE {file_says}"));
        let outcome = scratch.up();
        outcome.code(1).says("is another one than this file builds (SQLSTATE LK010)");
        assert_eq!(scratch.history(), [version(1)], "nothing is recorded");
        assert_eq!(
            scratch.sql(state),
            before,
            "nothing is dropped, nothing stays of the comparison"
        );
        assert_eq!(
            scratch.value("SELECT count(*) FROM bun_migrations_journal WHERE finished_at IS NULL"),
            "0"
        );
    }
    let path = scratch.file(
        &file(2),
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (lower(b) DESC) WHERE a IS NULL -- end",
    );
    assert_eq!(
        scratch.up().error(),
        format!(
            "{}: index \"i\" is there already, and is another one than this file builds (SQLSTATE LK010)\n  \
             DETAIL: there:    CREATE INDEX i ON public.other USING btree (a)\n    \
             the file: CREATE INDEX i ON public.t USING btree (lower(b) DESC) WHERE (a IS NULL)\n  \
             HINT: Give the file's index a name of its own; or, if nobody needs the one that is there: \
             DROP INDEX CONCURRENTLY public.i; then run again.\n  \
             not run; this run applied nothing before it; run again when that is done",
            path.display()
        )
    );
    scratch.sql("DROP INDEX i");
    scratch.up().code(0);
}

/// What an event trigger makes of it, say.
#[test]
fn an_index_that_is_not_there_once_it_is_built_is_not_recorded() {
    let scratch = with_t();
    scratch.sql(
        "CREATE FUNCTION away() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN ALTER INDEX t_a_idx RENAME TO other; END';
         CREATE EVENT TRIGGER away ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION away()",
    );
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY t_a_idx ON t (a)");
    let refused = "on t is INVALID, or is not on that table (SQLSTATE LK005)";
    scratch.up().code(1).says(refused);
    assert_eq!(scratch.history(), [version(1)]);
}

/// The file's words and the server's differ in each, the definitions do not.
#[test]
fn the_same_definition_in_other_words_is_the_same() {
    let scratch = with_t();
    scratch.sql(
        "ALTER TABLE t DROP COLUMN gone; CREATE SCHEMA f; CREATE FUNCTION f.g(int) RETURNS int IMMUTABLE LANGUAGE sql \
         AS 'SELECT $1'; CREATE DOMAIN f.d AS text COLLATE \"C\"; ALTER TABLE t ADD d f.d; \
         CREATE TABLE p (a int, b text) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); \
         ALTER TABLE t ADD g int GENERATED ALWAYS AS (a + 1) STORED",
    );
    scratch.sql(&format!("ALTER DATABASE {} SET search_path = f, public", scratch.database));
    let same = [
        ("(b, c)", "using BTREE (\"b\" ASC NULLS LAST, c text_ops)"),
        ("(lower((b)::text))", "(LOWER(t.b))"),
        ("(f.g(a))", "(g(a))"),
        ("(a) WHERE (a > 1) AND (b IS NOT NULL)", "(a) WHERE a > 1 AND b IS NOT NULL /* so */"),
        ("(a) WITH (fillfactor = 70)", "(a)"),
        ("(d) INCLUDE (g)", "(d) INCLUDE (g)"),
        ("(b COLLATE \"C\" DESC)", "(b COLLATE \"C\" DESC NULLS FIRST)"),
        (
            "USING gin (to_tsvector('english', b))",
            "USING gin (to_tsvector('english'::regconfig, b)) WITH (fastupdate = off)",
        ),
    ];
    for (number, (present, says)) in (2..).zip(same) {
        scratch.sql(
            &format!("CREATE UNIQUE INDEX i{number} ON public.t {present}")
                .replace(if present.contains("gin") { "UNIQUE " } else { "\0" }, ""),
        );
        let unique = if present.contains("gin") { "" } else { "UNIQUE " };
        scratch.file(
            &file(number),
            format!("CREATE {unique}INDEX CONCURRENTLY IF NOT EXISTS i{number} ON t {says}"),
        );
    }
    scratch.sql("CREATE INDEX on_p1 ON p1 (b)");
    scratch.file(&file(20), "CREATE INDEX CONCURRENTLY IF NOT EXISTS on_p1 ON only p1 (b)");
    scratch.up().code(0).is_silent_about("cannot be found out");
    assert_eq!(scratch.history().len(), 2 + same.len());
    assert_eq!(
        scratch.value("SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()"),
        "0"
    );
}

/// The index is on a function of the row, which no copy of the table has.
#[test]
fn what_cannot_be_compared_is_believed_if_it_is_valid_and_left_alone_if_not() {
    let scratch = with_t();
    scratch.sql("CREATE FUNCTION f(t) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'; CREATE INDEX i ON t (f(t))");
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (f(t))");
    scratch
        .up()
        .code(0)
        .says("whether it is what the file builds cannot be found out: function f(");

    unrecord(&scratch, 2);
    scratch.sql(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass; \
                 UPDATE bun_migrations_journal SET statement = \
                 'CREATE INDEX CONCURRENTLY i ON t (f(t))' WHERE finished_at IS NULL",
    );
    let oid = scratch.value("SELECT 'i'::regclass::oid");
    scratch
        .up()
        .code(1)
        .says("whether this file's statement left it cannot be found out")
        .says("HINT: ");
    assert_eq!(scratch.value("SELECT 'i'::regclass::oid"), oid, "it stays");
    scratch.sql("DROP INDEX i");
    scratch.up().code(0);
    assert_eq!(validity(&scratch, "i"), "t");
}

/// The copy of the table is an ordinary one then, and is gone with its transaction.
#[test]
fn a_role_that_may_make_no_temporary_table_heals_as_well() {
    let scratch = Scratch::new();
    let role = scratch.role("plain", "LOGIN");
    scratch.sql(&format!(
        "REVOKE TEMP ON DATABASE {} FROM PUBLIC; GRANT CREATE ON SCHEMA public TO {}",
        scratch.database, role.name
    ));
    let up = || scratch.lockstep(&["up"]).env("DATABASE_URL", role.url()).run();
    scratch.file(&file(1), T);
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY i ON t (lower(b))");
    up().code(0);
    interrupted(&scratch, 2, "i");
    up().code(0).says(DROPS_THE_INVALID_INDEX);
    assert_eq!(validity(&scratch, "i"), "t");
    scratch.sql("DROP INDEX i; CREATE INDEX i ON t (b)");
    unrecord(&scratch, 2);
    up().code(1).says("is another one than this file builds");
    assert_eq!(scratch.sql("SELECT relname FROM pg_class WHERE relname LIKE 'lockstep%'"), [""; 0]);
}

/// An owner may rebuild the index of the TOAST table, and not drop what an interruption leaves of it.
#[test]
fn a_copy_that_an_ordinary_owner_may_not_drop_is_warned_of_and_the_rebuild_goes_on() {
    let scratch = Scratch::owned();
    let mut up = scratch.lockstep(&["up"]);
    scratch.file(&file(1), "CREATE TABLE t (a int PRIMARY KEY, b text)");
    up.run().code(0);
    scratch.file(&file(2), "REINDEX TABLE CONCURRENTLY t");
    let snapshot = old_snapshot(&scratch);
    let run = up.spawn();
    wait_until("the rebuild is interrupted", || {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock' AND query LIKE '/* lockstep %'";
        !scratch.sql(end).is_empty()
    });
    run.wait().code(3);
    drop(snapshot);
    let invalid = "SELECT indexrelid::regclass FROM pg_index WHERE NOT indisvalid ORDER BY 1";
    let left = scratch.sql(invalid);
    assert!(left.iter().any(|it| it.starts_with("pg_toast.")), "{left:?}");
    up = up.env("LOG_FORMAT", "text");
    let outcome = up.run();
    outcome.code(0).says("stays: permission denied for schema pg_toast");
    let stayed = scratch.sql(invalid);
    assert!(stayed.iter().all(|it| it.starts_with("pg_toast.")), "{stayed:?}");
    up.run().code(0);
}

/// Beside each stands an INVALID index of the same name in another schema, which is nobody's business here.
#[test]
fn the_healing_finds_the_right_index_whatever_its_kind_and_its_name() {
    let scratch = with_t();
    scratch.sql(
        "CREATE SCHEMA \"Größe; --\"; CREATE TABLE \"Größe; --\".\"T \"\"t\"\"\" (\"A b\" int, words text[]); \
         CREATE SCHEMA mine; CREATE TABLE mine.t2 (a int, b text); \
         CREATE TABLE p (a int, b text) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
    );
    scratch.sql(&format!("ALTER DATABASE {} SET search_path = mine, public", scratch.database));
    let (quoted, quoted_table) = ("\"I; \"\"i\"\" --\"", "\"Größe; --\".\"T \"\"t\"\"\"");
    let kinds = [
        ("plain", "public", "INDEX CONCURRENTLY plain ON t (a)"),
        ("uniq", "public", "UNIQUE INDEX CONCURRENTLY IF NOT EXISTS uniq ON public.t (a, b)"),
        ("expr", "public", "INDEX CONCURRENTLY expr ON t ((a + 1), lower(b))"),
        ("part", "public", "INDEX CONCURRENTLY part ON t (a) WHERE b <> 'x'"),
        ("cover", "public", "UNIQUE INDEX CONCURRENTLY cover ON t (a) INCLUDE (b, c)"),
        (
            "gin",
            "\"Größe; --\"",
            "INDEX CONCURRENTLY gin ON \"Größe; --\".\"T \"\"t\"\"\" USING gin (words)",
        ),
        (
            quoted,
            "\"Größe; --\"",
            "INDEX CONCURRENTLY \"I; \"\"i\"\" --\" ON \"Größe; --\" . \"T \"\"t\"\"\" (\"A b\" DESC)",
        ),
        ("on_part", "public", "INDEX CONCURRENTLY on_part ON public.p1 (b)"),
        ("by_path", "mine", "INDEX CONCURRENTLY By_Path ON t2 USING hash (b)"),
    ];
    assert!(kinds[6].2.replace(" . ", ".").contains(quoted_table));
    for (number, (_, _, statement)) in (2..).zip(kinds) {
        scratch.file(&file(number), format!("CREATE {statement}"));
    }
    scratch.up().code(0);
    let definitions = "SELECT pg_get_indexdef(indexrelid), indisvalid FROM pg_index \
                       WHERE indrelid::regclass::text !~ '^(pg_|bun|decoy)' ORDER BY 1";
    let undisturbed = scratch.sql(definitions);
    scratch.sql("CREATE SCHEMA decoy; CREATE TABLE decoy.t (a int)");
    for (number, (name, schema, _)) in (2..).zip(kinds) {
        scratch.sql(&format!("CREATE INDEX {name} ON decoy.t (a)"));
        scratch.sql(&format!(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'decoy.{name}'::regclass"
        ));
        interrupted(&scratch, number, &format!("{schema}.{name}"));
    }
    let outcome = scratch.up();
    outcome.code(0);
    assert_eq!(
        outcome.stderr.matches("dropping the INVALID index").count(),
        kinds.len(),
        "{outcome}"
    );
    assert_eq!(scratch.sql(definitions), undisturbed);
    let decoys =
        "SELECT count(*) FROM pg_index WHERE indrelid = 'decoy.t'::regclass AND NOT indisvalid";
    assert_eq!(scratch.value(decoys), kinds.len().to_string());
    assert_eq!(scratch.history().len(), 1 + kinds.len());
}

/// What the earlier text was is in the journal, so its leftover is known; what somebody else left under that name since
/// is known not to be it.
#[test]
fn a_leftover_is_known_though_the_file_was_edited_and_anothers_is_left_alone() {
    let scratch = with_t();
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY i ON t (a)");
    scratch.up().code(0);
    interrupted(&scratch, 2, "i");
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY i ON t (a, b)");
    scratch.up().code(0).says(DROPS_THE_INVALID_INDEX);
    assert_eq!(validity(&scratch, "i"), "t");

    interrupted(&scratch, 2, "i");
    scratch.sql("DROP INDEX i; CREATE INDEX i ON t (c)");
    invalidate(&scratch, "i");
    let oid = scratch.value("SELECT 'i'::regclass::oid");
    let outcome = scratch.up();
    outcome.code(1).says("is INVALID, and another one than this file builds (SQLSTATE LK005)");
    assert!(
        outcome.error().contains("DETAIL: there:    CREATE INDEX i ON public.t USING btree (c)"),
        "{outcome}"
    );
    assert_eq!(scratch.value("SELECT 'i'::regclass::oid"), oid, "it stays");
}

#[test]
fn a_statement_that_may_hold_a_password_is_not_kept_in_the_journal() {
    let scratch = with_t();
    scratch.file(
        &file(2),
        "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 password=hunter2' PUBLICATION p",
    );
    scratch.up().code(1);
    let journal = "SELECT version, j::text LIKE '%hunter2%' FROM bun_migrations_journal j WHERE finished_at IS NULL";
    assert_eq!(scratch.sql(journal), [format!("{}|f", version(2))]);
}

/// They have the names that a rebuild gives its copies, and are none.
#[test]
fn an_invalid_index_that_only_looks_like_a_rebuilds_leftover_stays() {
    let scratch = with_t();
    scratch.sql(
        "CREATE INDEX i ON t (a); CREATE INDEX i_ccnew ON t (a); CREATE INDEX i_ccnew1 ON t (b); \
         CREATE INDEX j_ccnew ON t (a); CREATE SCHEMA s; CREATE TABLE s.t (a int); CREATE INDEX i ON s.t (a); \
         CREATE INDEX i_ccold2 ON s.t (a)",
    );
    scratch.sql(&format!("ALTER SCHEMA public OWNER TO {}", scratch.user()));
    scratch.file(&file(2), "REINDEX SCHEMA CONCURRENTLY public");
    scratch.up().code(0);
    for index in ["i_ccnew", "i_ccnew1", "j_ccnew", "s.i_ccold2"] {
        invalidate(&scratch, index);
    }
    // No run of this was cut short yet.
    scratch.file(&file(3), "REINDEX SCHEMA CONCURRENTLY public");
    scratch.up().code(0).is_silent_about("dropping");
    unrecord(&scratch, 3);
    let outcome = scratch.up();
    outcome.code(0).says("dropping the INVALID index public.i_ccnew ");
    let invalid = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1";
    assert_eq!(scratch.sql(invalid), ["i_ccnew1", "j_ccnew", "s.i_ccold2"]);
}

// ------------------------------------------------------------------------------------------------- hints

#[test]
fn a_file_split_as_the_hint_says_is_applied_in_the_same_order() {
    let scratch = with_t();
    let mixed = [
        "INSERT INTO t (a) VALUES (1); ALTER TABLE t ADD e int",
        "CREATE INDEX CONCURRENTLY i ON t (e)",
        "UPDATE t SET e = a; VACUUM t",
    ];
    scratch.file("20230102235959_mixed.up.sql", mixed.join(";\n"));
    scratch.file("20230103000002_later.up.sql", "SELECT 1");
    let error = scratch.up().code(2).error();
    let hint = "\n  hint: split 20230102235959_mixed.up.sql into, in this order:\n    \
                20230102235959_mixed_1.up.sql: INSERT, ALTER TABLE\n    \
                20230103000003_mixed_2.up.sql: CREATE INDEX CONCURRENTLY\n    \
                20230103000004_mixed_3.up.sql: UPDATE\n    20230103000005_mixed_4.up.sql: VACUUM\n    \
                (all but the first then run after 20230103000002, which has no room before it)\n";
    assert!(error.contains(hint), "{error}");
    std::fs::remove_file(scratch.migrations().join("20230103000002_later.up.sql"))
        .expect("the file");
    let error = scratch.up().code(2).error();
    for version in ["20230103000000_mixed_2", "20230103000001_mixed_3", "20230103000002_mixed_4"] {
        assert!(error.contains(version), "{error}");
    }
    std::fs::remove_file(scratch.migrations().join("20230102235959_mixed.up.sql"))
        .expect("the file");
    let (update, vacuum) = mixed[2].split_once("; ").expect("two");
    for (name, text) in [
        ("20230102235959_mixed_1", mixed[0]),
        ("20230103000000_mixed_2", mixed[1]),
        ("20230103000001_mixed_3", update),
        ("20230103000002_mixed_4", vacuum),
    ] {
        scratch.file(&format!("{name}.up.sql"), text);
    }
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), 5);
}

#[test]
fn a_file_that_uses_an_enum_value_it_adds_is_explained_before_it_runs_and_when_it_fails() {
    let scratch = Scratch::migrated([(
        &file(1),
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TABLE person (m mood, n text)",
    )]);
    scratch.file(
        &file(2),
        "SELECT 1;\nALTER TYPE mood ADD VALUE 'happy';\nINSERT INTO person VALUES ('happy')",
    );
    let outcome = scratch.up();
    outcome.code(1);
    let warning = format!(
        "{0}: line 2 adds the value 'happy' to the enum mood, and line 3 seems to use it, which PostgreSQL refuses in one \
         transaction; if it does, split {0} into, in this order:",
        file(2)
    );
    let lines = outcome.lines();
    let at = |text: &str| {
        lines.iter().position(|line| line.field("message").is_some_and(|it| it.contains(text)))
    };
    assert!(at(&warning).expect("a warning") < at("unsafe use of new value").expect("the error"));
    let error = outcome.error();
    let hint = "HINT: A new enum value must be committed before it is used, and each file is one transaction: split \
                20230101000002_step.up.sql into, in this order:\n        20230101000002_step_1.up.sql: SELECT, ALTER TYPE\n        \
                20230101000003_step_2.up.sql: INSERT\n";
    assert!(error.contains(hint), "{error}");
    // It may be no enum value at all: PostgreSQL takes this, and so do we.
    scratch.file(
        &file(2),
        "ALTER TYPE mood ADD VALUE 'happy'; INSERT INTO person (n) VALUES ('happy')",
    );
    scratch.file(
        &file(3),
        "CREATE TYPE new AS ENUM ('x'); SELECT 'x'::new; ALTER TYPE new ADD VALUE 'y'",
    );
    let outcome = scratch.up();
    outcome.code(0);
    assert_eq!(outcome.stderr.matches("seems to use it").count(), 1, "{outcome}");
}

// --------------------------------------------------------------------------------------- while it runs

#[test]
fn a_runner_that_waits_tells_phase_and_per_cent_of_the_build() {
    let scratch = Scratch::migrated([(
        &file(1),
        "CREATE TABLE big (a int); INSERT INTO big SELECT g FROM generate_series(1, 20000) g; \
         CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql \
         AS 'BEGIN IF $1 % 20 = 0 THEN PERFORM pg_sleep(0.02); END IF; RETURN $1; END'",
    )]);
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY i ON big (slow(a))");
    let build = scratch.up_spawned();
    let scanning = "SELECT FROM pg_stat_progress_create_index WHERE datname = current_database() AND blocks_done > 1 \
                    AND phase = 'building index: scanning table'";
    wait_until("the build has come some way", || !scratch.sql(scanning).is_empty());
    let mut waiter = scratch.up_spawned();
    waiter.wait_for_log(WAITS_FOR_A_RUNNER);
    let log = waiter.log();
    let (_, told) = log
        .split_once("building index: scanning table, ")
        .unwrap_or_else(|| panic!("no phase: {log}"));
    let (per_cent, _) = told.split_once(" %").unwrap_or_else(|| panic!("no per cent: {log}"));
    assert!((1..=100).contains(&per_cent.parse::<u32>().expect("a number")), "{log}");
    assert!(log.contains("running step 20230101000002, "), "{log}");
    waiter.signal("TERM");
    waiter.wait().code(143);
    build.kill();
}

/// Containers have the same host name and the same process id again and again; the run's token tells them apart.
#[test]
fn a_session_of_another_runner_with_the_same_host_and_process_id_is_not_waited_for() {
    let scratch = with_t();
    scratch.file(&file(2), "CREATE INDEX CONCURRENTLY i ON t (a)");
    scratch.up().code(0);
    interrupted(&scratch, 2, "i");
    scratch.sql("UPDATE bun_migrations_journal SET runner = 'lockstep/0.2.0 pod/1 -7' WHERE finished_at IS NULL");
    let mut namesakes: Vec<Client> =
        ["lockstep/0.2.0 pod/1", "lockstep/0.2.0 pod/1 -8", "lockstep/0.2.0 pod/1 1/2"]
            .map(|name| {
                let mut client = scratch.client();
                client
                    .batch_execute(&format!("SET application_name = '{name}'; BEGIN; SELECT 1"))
                    .expect("a session");
                client
            })
            .into();
    scratch.up().code(0).is_silent_about("waiting for the session");
    assert_eq!(validity(&scratch, "i"), "t");

    interrupted(&scratch, 2, "i");
    scratch.sql("UPDATE bun_migrations_journal SET runner = 'lockstep/0.2.0 pod/1 -8' WHERE finished_at IS NULL");
    let mut run = scratch.up_spawned();
    run.wait_for_log(WAITS_FOR_THE_SESSION);
    namesakes.remove(1);
    run.wait().code(0);
}

/// PgBouncer gives each transaction another connection to the server here, so the settings that are made before the
/// statement are another connection's, and the role's own `lock_timeout` ends it, more than once.
#[test]
fn a_lock_timeout_of_the_role_behind_a_transaction_pooler_is_only_a_delay() {
    let scratch = with_t();
    scratch.file(&file(2), "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)");
    let pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 3);
    pgbouncer.console("SET server_round_robin = 1");
    scratch.sql(&format!("ALTER DATABASE {} SET lock_timeout = '150ms'", scratch.database));
    let mut old = scratch.client();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM t")
        .expect("a transaction");
    // So that the pool has all its connections.
    let mut others: Vec<Client> = (0..3).map(|_| pgbouncer.client()).collect();
    others.iter_mut().for_each(|it| it.batch_execute("BEGIN; SELECT 1").expect("a connection"));
    others.iter_mut().for_each(|it| it.batch_execute("COMMIT").expect("a connection"));
    let mut run = scratch.lockstep(&["up"]).env("DATABASE_URL", pgbouncer.url()).spawn();
    run.wait_for_log("canceling statement due to lock timeout");
    drop(old);
    run.wait().code(0);
    assert_eq!(validity(&scratch, "i"), "t");
    assert_eq!(scratch.history(), [version(1), version(2)]);
}

/// The size is small unless the soak asks for millions. Writers insert and update all the while, each statement with a
/// deadline of its own.
#[test]
fn writers_see_nothing_of_a_killed_build_and_of_the_waiting_runner_that_takes_over() {
    killed_build_with_writers(20_000);
}

#[test]
#[ignore = "takes minutes: make soak"]
fn writers_see_nothing_of_a_killed_build_on_millions_of_rows() {
    killed_build_with_writers(if is_soak() { 5_000_000 } else { 200_000 });
}

fn killed_build_with_writers(count: usize) {
    let scratch = Scratch::new();
    scratch.sql(&format!(
        "CREATE TABLE big (id bigserial PRIMARY KEY, a int, b text); \
         INSERT INTO big (a, b) SELECT g % 1000, md5(g::text) FROM generate_series(1, {count}) g"
    ));
    scratch
        .file(&file(1), "CREATE INDEX CONCURRENTLY IF NOT EXISTS big_b_idx ON big (lower(b), a)");
    let started = Instant::now();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let is_over = || stop.load(std::sync::atomic::Ordering::Relaxed);
    let (longest, writes) = thread::scope(|scope| {
        let writer = |number: usize| {
            let (scratch, is_over) = (&scratch, &is_over);
            move || {
                let mut client = scratch.client();
                let (mut longest, mut writes) = (Duration::ZERO, 0);
                while !is_over() {
                    let sent = Instant::now();
                    let write = format!(
                        "SET statement_timeout = '30s'; INSERT INTO big (a, b) VALUES ({number}, 'new'); \
                         UPDATE big SET a = a + 1 WHERE id = {}",
                        number * 7 + writes % 5 + 1
                    );
                    client.batch_execute(&write).expect("a writer sees no error");
                    longest = longest.max(sent.elapsed());
                    writes += 1;
                    thread::sleep(Duration::from_millis(5));
                }
                (longest, writes)
            }
        };
        let writers: Vec<_> = (1..=4).map(|number| scope.spawn(writer(number))).collect();
        // What a panic leaves running would keep the scope open.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // It has come to its second half when it waits for this.
            let old = old_snapshot(&scratch);
            let first = scratch.up_spawned();
            wait_until("the build waits for the old transaction", || {
                !scratch.sql("SELECT FROM pg_stat_progress_create_index WHERE phase = 'waiting for old snapshots' \
                              AND datname = current_database()").is_empty()
            });
            let mut second = scratch.up_spawned();
            second.wait_for_log(WAITS_FOR_A_RUNNER);
            first.kill();
            second.wait_for_log(DROPS_THE_INVALID_INDEX);
            drop(old);
            second.wait().code(0);
        }));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let seen: Vec<(Duration, usize)> =
            writers.into_iter().map(|it| it.join().expect("a writer")).collect();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (
            seen.iter().map(|it| it.0).max().unwrap_or_default(),
            seen.iter().map(|it| it.1).sum::<usize>(),
        )
    });
    assert_eq!(validity(&scratch, "big_b_idx"), "t");
    assert_eq!(scratch.history(), [version(1)]);
    tell(&format!(
        "killed build: {count} rows, {writes} writes by 4 writers in {:.1} s, the longest took {} ms",
        started.elapsed().as_secs_f64(),
        longest.as_millis()
    ));
    // A lock that the build waited for and writers queued behind would hold them until the old transaction ends.
    assert!(longest < Duration::from_secs(10), "a write took {longest:?}");
}

// ---------------------------------------------------------------------------------------------- what it takes
const T: &str = "CREATE TABLE t (gone int, a int, b text, c text)";

/// A database whose first migration has created the table `t`, which an ordinary role owns.
fn with_t() -> Scratch {
    let scratch = Scratch::owned();
    scratch.file(&file(1), T);
    scratch.up().code(0);
    scratch
}

/// Makes history, journal and catalog what they were when the build of this migration's index had been begun, by a
/// runner that is dead now, and had come half-way.
fn interrupted(scratch: &Scratch, number: usize, index: &str) {
    unrecord(scratch, number);
    invalidate(scratch, index);
}

fn invalidate(scratch: &Scratch, index: &str) {
    let index = index.replace('\'', "''");
    scratch.sql(&format!(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index}'::regclass"
    ));
}

fn validity(scratch: &Scratch, index: &str) -> String {
    scratch
        .value(&format!("SELECT indisvalid FROM pg_index WHERE indexrelid = '{index}'::regclass"))
}
