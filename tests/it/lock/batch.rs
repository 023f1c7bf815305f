//! Small files share a message, and nobody can tell: each has its own transaction, record and clean session, and whatever
//! interrupts the message, each is applied once.
//!
//! Files share a message only where the server is quick, which a busy machine may not be. So what is about a batch says by
//! [`tried`] whether there was one, and is done once more if there was none.

use std::net::{Ipv4Addr, ToSocketAddrs};
use std::thread;

use crate::support::pgbouncer::{Mode, PgBouncer};
use crate::support::proxy::Proxy;
use crate::support::words::{HAS_LOST_ITS_CONNECTION, TRIES_AGAIN, WAITS_FOR_THE_ROW};
use crate::support::{Gate, Lockstep, Outcome, Running, Scratch, rows, server, wait_until};

// ------------------------------------------------------------------------------------------- all goes well

/// The last file goes alone, and looks at what the session has kept of the others.
#[test]
fn a_hundred_files_go_in_a_few_messages_and_in_a_transaction_each() {
    let look = "CREATE TABLE kept AS SELECT (SELECT count(*) FROM pg_prepared_statements) AS prepared, \
                (SELECT count(*) FROM pg_class WHERE relpersistence = 't') AS temporary; SELECT 1";
    let scratch = tried(|| {
        let scratch = files(101, &[(100, "CREATE TEMP TABLE t ()"), (101, look)]);
        let (outcome, sent) = watched(&scratch, up(&scratch));
        outcome.code(0).applied_now(101).applied_one(101, 101);
        assert_eq!(moments(&scratch, "true"), sent);
        (sent < 40).then_some(scratch)
    });
    assert_complete(&scratch, 101);
    assert_eq!(scratch.sql("SELECT * FROM kept"), ["0|0"]);
    let transactions = "SELECT count(DISTINCT h.xmin::text), count(DISTINCT j.xmin::text), bool_and(h.xmin = j.xmin) \
                        FROM bun_migrations h JOIN bun_migrations_journal j ON j.history_id = h.id AND j.version = h.name";
    assert_eq!(scratch.sql(transactions), ["101|101|t"]);
    let order = "SELECT bool_and(started_at <= finished_at), bool_and(started_at >= before), count(DISTINCT started_at) FROM \
                 (SELECT *, lag(finished_at) OVER (ORDER BY version) AS before FROM bun_migrations_journal) it";
    assert_eq!(scratch.sql(order), ["t|t|101"]);
}

/// Whoever wants to read each statement does, and the way back is one by one.
#[test]
fn neither_under_the_query_log_nor_on_the_way_down_do_files_share_a_message() {
    let scratch = files(30, &[]);
    for number in 1..=30 {
        let name = file(number).replace(".up.", ".down.");
        scratch.file(&name, format!("DROP TABLE t{number}"));
    }
    let logged = up(&scratch).env("DATABASE_QUERY_LOGGING_ENABLED", "true");
    logged.run().code(0);
    assert_eq!(moments(&scratch, "true"), 30);

    let (outcome, sent) = watched(&scratch, scratch.lockstep(&["down", "20"]));
    outcome.code(0).rolled_back(20);
    assert_eq!(sent, 20);
    assert_stops_at(&scratch, 10);
    assert_finishes(&scratch, 30);
}

/// Rule 8. The files at even places look at what the one before each has left.
#[test]
fn a_file_sees_nothing_of_the_session_of_the_one_before_it_in_its_message() {
    // The other role may write the record, too.
    let before = "CREATE SCHEMA other; GRANT ALL ON ALL TABLES IN SCHEMA public TO pg_write_all_data; \
                  GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO pg_write_all_data; CREATE TABLE t30 ()";
    let look = "CREATE TABLE % AS SELECT current_setting('search_path'), current_user, to_regclass('pg_temp.brief'), \
                (SELECT count(*) FROM pg_locks WHERE objid = 4711 AND pid = pg_backend_pid()); \
                CREATE TEMP TABLE brief ()";
    let scratch = tried(|| {
        let scratch = files(40, &[(30, before)]);
        let leaves = [
            "set_config('search_path', 'other', false)",
            "set_config('role', 'pg_write_all_data', false)",
            "pg_advisory_lock(4711) IS NULL",
            "set_config('search_path', 'pg_temp', false)",
        ];
        for (number, leaves) in (31..).step_by(2).zip(leaves) {
            let text =
                format!("CREATE TABLE t{number} AS SELECT {leaves}; CREATE TEMP TABLE brief ()");
            scratch.file(&file(number), text);
            let next = number + 1;
            scratch.file(&file(next), look.replace('%', &format!("t{next}")));
        }
        up(&scratch).run().code(0);
        let shared = format!("name BETWEEN '{}' AND '{}'", version(31), version(38));
        (moments(&scratch, &shared) == 1).then_some(scratch)
    });
    assert_complete(&scratch, 40);
    for number in [32, 34, 36, 38] {
        let seen = scratch.sql(&format!("SELECT * FROM public.t{number}"));
        assert_eq!(seen, ["\"$user\", public|postgres|∅|0"], "{number}");
    }
}

/// A pool keeps its sessions, so what is left there meets whoever comes next.
#[test]
fn behind_a_transaction_pooler_no_session_keeps_a_prepared_statement() {
    let ((scratch, pgbouncer), _) = tried(|| {
        let scratch = files(60, &[(30, "CREATE TABLE t30 (c nosuch)")]);
        let pgbouncer = PgBouncer::start(&scratch, Mode::Transaction, 2);
        let outcome = up(&scratch).env("DATABASE_URL", pgbouncer.url()).run();
        outcome.code(1);
        if_shared((scratch, pgbouncer), outcome)
    });
    assert_eq!(prepared(&pgbouncer), ["0"; 2]);
    assert_stops_at(&scratch, 29);
    scratch.file(&file(30), "CREATE TABLE t30 ()");
    let rest = up(&scratch).env("DATABASE_URL", pgbouncer.url()).run();
    rest.code(0).applied_now(31);
    assert_eq!(prepared(&pgbouncer), ["0"; 2]);
    assert_complete(&scratch, 60);
}

// ------------------------------------------------------------------------------------------- one file fails

/// A syntax error ends a message before any of it runs.
#[test]
fn a_file_that_fails_in_a_batch_is_told_as_if_it_were_alone() {
    let syntax = ":3:1: syntax error at or near \")\" (SQLSTATE 42601)
  3 | )
    | ^";
    let missing = ":2:24: relation \"missing\" does not exist (SQLSTATE 42P01)
  2 | CREATE VIEW v AS TABLE missing;
    |                        ^
  statement 2 of 2: CREATE VIEW";
    let constraint = ":2:13: check constraint \"t30_c_check\" of relation \"t30\" is violated by some row (SQLSTATE 23514)
  2 | ALTER TABLE t30 ADD CHECK (c > 1);
    |             ^
  statement 2 of 2: ALTER TABLE";
    for (text, expected) in [
        ("CREATE TABLE t30 (\n  c int,\n)", syntax),
        ("CREATE TABLE t30 ();\nCREATE VIEW v AS TABLE missing;", missing),
        ("CREATE TABLE t30 AS SELECT 1 AS c;\nALTER TABLE t30 ADD CHECK (c > 1);", constraint),
    ] {
        let (scratch, outcome) = run_with(text);
        let stays = "rolled back; 29 migrations before it stay applied; fix the file and run again";
        let expected = format!("{}{expected}\n  {stays}", file(30));
        let error = outcome.code(1).error();
        assert!(error.ends_with(&expected), "{error}\n--- expected\n{expected}");
        assert_stops_at(&scratch, 29);
        scratch.file(&file(30), "CREATE TABLE t30 ()");
        assert_finishes(&scratch, 60);
    }
}

/// A file that makes a trigger by which its own record does not stay is to blame; one that meets such a trigger is not.
#[test]
fn a_file_whose_record_does_not_stay_is_refused_as_if_it_were_alone() {
    let swallow = "BEGIN RETURN NULL; END";
    let take = "BEGIN DELETE FROM public.bun_migrations WHERE id = NEW.id; RETURN NULL; END";
    let of_the_next = format!("WHEN (NEW.name = '{}')", version(31));
    let to_blame = "in public.bun_migrations and public.bun_migrations_journal: ";
    for (when, body) in [("BEFORE", swallow), ("AFTER", take)] {
        for (condition, stays, code, words) in
            [("", 29, 1, &*file(30)), (&of_the_next, 30, 2, to_blame)]
        {
            let trigger = format!(
                "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS '{body}'; CREATE TABLE t30 (); \
                 CREATE TRIGGER f {when} INSERT ON bun_migrations FOR EACH ROW {condition} EXECUTE FUNCTION f()"
            );
            let (scratch, outcome) = run_with(&trigger);
            outcome.code(code).says(words).is_silent_about("committed");
            outcome.says(&format!("{}: once more, alone", file(stays + 1)));
            assert_stops_at(&scratch, stays);
            scratch.sql("DROP TRIGGER IF EXISTS f ON bun_migrations");
            if stays < 30 {
                scratch.file(&file(30), "CREATE TABLE t30 ()");
            }
            assert_finishes(&scratch, 60);
        }
    }
}

/// What it did in the batch is gone.
#[test]
fn a_statement_of_more_than_a_second_runs_again_alone_and_is_applied_once() {
    let (scratch, outcome) = run_with("CREATE TABLE t30 AS SELECT pg_sleep(1.5) IS NULL AS slept");
    let alone = format!("{}: once more, alone (57014)", file(30));
    outcome.code(0).applied_now(60).says(&alone);
    assert_complete(&scratch, 60);
    assert_eq!(scratch.sql("SELECT slept FROM t30"), ["f"]);
}

#[test]
fn a_locked_table_is_waited_for_alone_and_told() {
    let (scratch, outcome) = tried(|| {
        let scratch = files(60, &[(30, "ALTER TABLE held ADD c int")]);
        scratch.sql("CREATE TABLE held ()");
        let mut holder = scratch.client();
        rows(&mut holder, "BEGIN; LOCK TABLE held IN ACCESS SHARE MODE");
        let mut run = up(&scratch).env("DDL_LOCK_TIMEOUT_SECONDS", "0.2").spawn();
        run.wait_for_log(TRIES_AGAIN);
        drop(holder);
        if_shared(scratch, run.wait())
    });
    outcome.code(0).applied_now(60);
    outcome.says("AccessShareLock on held");
    outcome.says(&format!("{}: once more, alone", file(30)));
    assert_complete(&scratch, 60);
}

// ------------------------------------------------------------------------------------------- interruptions

/// The server notices within seconds that nobody waits for the batch, as long as it is at a gate.
#[test]
fn after_a_kill_in_a_batch_the_next_run_applies_the_rest() {
    let (scratch, mut gate, run, orphan) = at_the_gate("");
    run.kill();
    let mut is_at_work = || gate.visitor() == Some(orphan);
    wait_until("the server has ended the batch", || !is_at_work());
    assert_stops_at(&scratch, 29);
    gate.open();
    assert_finishes(&scratch, MANY);
}

/// The file keeps the server from noticing. What the orphan commits stays, and where the successor gets the row, the rest
/// of the batch finds it gone.
#[test]
fn an_orphaned_batch_and_the_next_run_apply_each_file_once_between_them() {
    let (scratch, mut gate, run, orphan) = at_the_gate("client_connection_check_interval");
    run.kill();
    let mut next = scratch.patient_up().spawn();
    next.wait_for_log(WAITS_FOR_THE_ROW);
    assert_eq!(gate.visitor(), Some(orphan), "the orphan is still at work");
    gate.open();
    next.wait().code(0);
    assert_complete(&scratch, MANY);
    let group = "SELECT group_id FROM bun_migrations WHERE name = ";
    assert_eq!(scratch.sql(&format!("{group}'{}'", version(30))), ["1"]);
}

#[test]
fn a_batch_whose_session_is_ended_is_a_lost_connection() {
    let (scratch, mut gate, run, pid) = at_the_gate("");
    scratch.sql(&format!("SELECT pg_terminate_backend({pid}, 60000)"));
    let outcome = run.wait();
    outcome.code(3).says(HAS_LOST_ITS_CONNECTION);
    outcome.says("of which some may be committed");
    assert_stops_at(&scratch, 29);
    gate.open();
    assert_finishes(&scratch, MANY);
}

/// The DELETE waits for the transaction that has the row locked. The next one may be quicker than it, so how many come
/// before it is open; if it is all of them, once more.
#[test]
fn a_row_deleted_by_hand_ends_the_batch_between_two_files() {
    let (scratch, outcome, token) = tried(|| {
        let (scratch, mut gate, run, _) = at_the_gate("");
        let token = scratch.value("SELECT id FROM bun_migration_locks");
        let mut operator = scratch.client();
        let pid = rows(&mut operator, "SELECT pg_backend_pid()").remove(0);
        let delete = "DELETE FROM bun_migration_locks RETURNING id";
        let deletion = thread::spawn(move || rows(&mut operator, delete));
        let waits = format!("SELECT wait_event_type FROM pg_stat_activity WHERE pid = {pid}");
        wait_until("the DELETE waits", || scratch.value(&waits) == "Lock");
        gate.open();
        let deleted = deletion.join().expect("no panic");
        let outcome = run.wait();
        (deleted == [token.as_str()] && scratch.history().len() < MANY)
            .then_some((scratch, outcome, token))
    });
    let lost = format!("the migration lock was lost: row {token} is gone");
    outcome.code(4).says(&lost);
    let applied = told(&outcome);
    assert!(applied >= 30, "{outcome}");
    assert_stops_at(&scratch, applied);
    assert_finishes(&scratch, MANY);
}

#[test]
fn a_signal_in_a_batch_ends_the_run_behind_it() {
    let (scratch, mut gate, mut run, _) = at_the_gate("");
    run.signal("TERM");
    run.wait_for_log("SIGTERM: stopping when ");
    gate.open();
    let outcome = run.wait();
    outcome.code(143);
    let applied = told(&outcome);
    assert!((30..MANY).contains(&applied), "{outcome}");
    let words = format!("stopped by SIGTERM: {applied} of {MANY} pending migrations were applied");
    assert_eq!(outcome.error(), words);
    assert_stops_at(&scratch, applied);
    assert_finishes(&scratch, MANY);
}

// ------------------------------------------------------------------------------------------ what it takes

/// More than share the message of the 30th.
const MANY: usize = 100;

/// Does it, until there is something, or it has been in vain often enough.
fn tried<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut attempts = (0..5).map(|_| attempt());
    attempts.find_map(|it| it).expect("a batch")
}

/// A run whose 30th migration, in company, stands at a gate for as long as it likes, and its session. For the file's
/// transaction this setting is 0, too.
fn at_the_gate(setting: &str) -> (Scratch, Gate, Running, i32) {
    let text = format!(
        "CREATE TABLE t30 AS SELECT set_config(name, '0', true) FROM pg_settings \
         WHERE name IN ('statement_timeout', '{setting}'); \
         CREATE TABLE gate AS SELECT {} IS NULL AS passed",
        Gate::SQL.trim_start_matches("SELECT ").trim_end_matches(';')
    );
    tried(|| {
        let scratch = files(MANY, &[(30, &text)]);
        let mut gate = Gate::closed(&scratch);
        let run = scratch.patient_up().spawn();
        let pid = gate.wait_for_visitor();
        let query = format!("SELECT query FROM pg_stat_activity WHERE pid = {pid}");
        let shared = scratch.value(&query).contains("PREPARE lockstep_fence");
        shared.then_some((scratch, gate, run, pid))
    })
}

/// Migrations that create a table each, `t1`, `t2`, …, but for these.
fn files(count: usize, others: &[(usize, &str)]) -> Scratch {
    let plain = (1..=count).map(|number| (file(number), format!("CREATE TABLE t{number} ()")));
    let others = others.iter().map(|&(it, text)| (file(it), text.to_owned()));
    Scratch::with(plain.chain(others))
}

fn version(number: usize) -> String {
    format!("2023010100{:02}{:02}", number / 60, number % 60)
}

fn file(number: usize) -> String {
    format!("{}_t.up.sql", version(number))
}

fn up(scratch: &Scratch) -> Lockstep<'_> {
    scratch.lockstep(&["up"]).env("LOG_LEVEL", "DEBUG")
}

/// Runs 60 files, of which the 30th, with this text, is tried in a batch in vain.
fn run_with(text: &str) -> (Scratch, Outcome) {
    tried(|| {
        let scratch = files(60, &[(30, text)]);
        let outcome = up(&scratch).run();
        if_shared(scratch, outcome)
    })
}

/// Something, together with the run's outcome, if a file failed in a batch.
fn if_shared<T>(something: T, outcome: Outcome) -> Option<(T, Outcome)> {
    let shared = outcome.stderr.contains(": once more, alone (");
    shared.then_some((something, outcome))
}

/// How many moments there are in these rows of the history: a message is the same moment to all its files.
fn moments(scratch: &Scratch, rows: &str) -> usize {
    let query = format!("SELECT DISTINCT migrated_at FROM bun_migrations WHERE {rows}");
    scratch.sql(&query).len()
}

/// How many migrations the run said that it applied.
fn told(outcome: &Outcome) -> usize {
    outcome.stderr.matches(" applied t 2023").count()
}

/// Each is applied and recorded, once and in order, and nothing is left to do.
#[track_caller]
fn assert_complete(scratch: &Scratch, count: usize) {
    let expected: Vec<String> = (1..=count).map(version).collect();
    assert_eq!(scratch.history(), expected, "history");
    let journal = "SELECT version FROM bun_migrations_journal j JOIN bun_migrations h ON h.id = j.history_id \
                   WHERE h.name = j.version AND finished_at IS NOT NULL ORDER BY 1";
    assert_eq!(scratch.sql(journal), expected, "journal");
    scratch.lockstep(&["check"]).run().code(0);
    scratch.assert_unlocked();
}

/// The next run applies what is left, and finds nothing to mend.
#[track_caller]
fn assert_finishes(scratch: &Scratch, count: usize) {
    let outcome = up(scratch).run();
    outcome.code(0).is_silent_about("\"level\":\"warn\"");
    assert_complete(scratch, count);
    assert_stops_at(scratch, count);
}

/// So many are applied and recorded, from the first, and of the next there is nothing.
#[track_caller]
fn assert_stops_at(scratch: &Scratch, count: usize) {
    let expected: Vec<String> = (1..=count).map(version).collect();
    assert_eq!(scratch.history(), expected, "history");
    let tables = "SELECT FROM pg_tables WHERE schemaname = 'public' AND tablename ~ '^t[0-9]+$'";
    assert_eq!(scratch.sql(tables).len(), count, "tables");
}

/// How many prepared statements there are in each session of a pool of two.
fn prepared(pgbouncer: &PgBouncer) -> Vec<String> {
    let mut clients = [pgbouncer.client(), pgbouncer.client()];
    let query = "BEGIN; SELECT count(*) FROM pg_prepared_statements";
    let counts = clients.iter_mut().flat_map(|it| rows(it, query));
    counts.collect()
}

/// A run through a proxy, and how many messages with files came by.
fn watched(scratch: &Scratch, lockstep: Lockstep<'_>) -> (Outcome, usize) {
    let address = (server().host.as_str(), server().port);
    let upstream = address.to_socket_addrs().expect("an address").next();
    let proxy = Proxy::start(Ipv4Addr::LOCALHOST, upstream.expect("the server"), None);
    let (port, database) = (proxy.port, &scratch.database);
    let url = format!("postgres://postgres@127.0.0.1:{port}/{database}?sslmode=disable");
    let outcome = lockstep.env("DATABASE_URL", url).run();
    let seen = proxy.seen().into_iter();
    let of_files = seen.filter(|it| it.query.starts_with("/* lockstep "));
    (outcome, of_files.count())
}
