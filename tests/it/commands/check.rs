//! `lockstep check` and `lockstep wait`: the verdict, its exit code and its words; what `wait` waits for, what it does not,
//! and how little it says.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::words::HAS_LOST_ITS_CONNECTION;
use crate::support::{Gate, Lockstep, Outcome, Running, Scratch, server, text, wait_until};

// ------------------------------------------------------------------------------------------------ check

#[test]
fn what_is_up_to_date_is_exit_0_and_one_line() {
    let scratch = with(2);
    scratch.up().code(0);
    assert_check(&scratch, 0, "the database is up to date: 2 migrations\n");
    let document = "{\n  \"verdict\": \"up_to_date\",\n  \"pending\": [],\n  \"divergences\": [],\n  \"obstructions\": [],\n  \
                    \"bun_row_id\": null\n}\n";
    let json = scratch.lockstep(&["check", "--json"]).run();
    json.code(0);
    assert_eq!(json.stdout, document);
    scratch.sql("INSERT INTO bun_migrations (name, group_id) VALUES ('20250101000000', 9)");
    assert_check(
        &scratch,
        0,
        "the database is up to date: 2 migrations, and 1 of a newer release\n",
    );
}

#[test]
fn what_is_pending_is_exit_6_and_named() {
    let scratch = with(2);
    scratch.up().code(0);
    scratch.file("20240101000000_late.up.sql", "SELECT 0");
    scratch.file("20240101000003_new.up.sql", "SELECT 3");
    assert_check(
        &scratch,
        6,
        "2 migrations are pending\n  20240101000000_late.up.sql\n  20240101000003_new.up.sql\n",
    );
    let json = scratch.lockstep(&["check", "--json"]).run();
    json.code(6);
    let document = r#"{
  "verdict": "pending",
  "pending": [
    {
      "version": "20240101000000",
      "file": "<directory>/20240101000000_late.up.sql",
      "state": "out-of-order",
      "unfinished": false
    },
    {
      "version": "20240101000003",
      "file": "<directory>/20240101000003_new.up.sql",
      "state": "pending",
      "unfinished": false
    }
  ],
  "divergences": [],
  "obstructions": [],
  "bun_row_id": null
}
"#;
    let directory = text(&scratch.migrations());
    assert_eq!(json.stdout.replace(&directory, "<directory>"), document);
    assert_eq!(json.stderr, "");
}

#[test]
fn what_up_would_refuse_is_refused_with_the_same_words_and_code() {
    let scratch = with(3);
    scratch.up().code(0);
    scratch.file("20240101000001_t.up.sql", "SELECT 'edited'");
    std::fs::remove_file(scratch.migrations().join("20240101000002_t.up.sql")).expect("a file");
    let same = |code: i32| {
        let up = scratch.up();
        up.code(code);
        assert_check(&scratch, code, &format!("{}\n", up.error()));
    };
    same(5);
    scratch.file("20240101000004_commit.up.sql", "SELECT 1;\n  ROLLBACK");
    same(5);
    let json = scratch.lockstep(&["check", "--json"]).run();
    for (path, value) in [
        ("verdict", "diverged"),
        ("divergences[].version", "20240101000001"),
        ("divergences[].state", "modified"),
        ("divergences[].renamed_from", "null"),
        ("divergences[].tolerated", "false"),
        ("obstructions[].line", "2"),
        ("obstructions[].column", "3"),
    ] {
        assert_eq!(json.json_value(path), value, "{path}");
    }

    // Let pass, a divergence is a warning; what cannot be run still cannot.
    let warn = |arguments: &[&str]| {
        let check = scratch.lockstep(arguments);
        check.env("MIGRATION_DIVERGENCE", "warn").run()
    };
    warn(&["check"]).code(2);
    let json = warn(&["check", "--json"]);
    assert_eq!(json.json_value("verdict"), "obstructed");
    scratch.file("20240101000004_commit.up.sql", "SELECT 1");
    warn(&["check"]).code(6);
    std::fs::remove_file(scratch.migrations().join("20240101000004_commit.up.sql"))
        .expect("a file");
    warn(&["check"]).code(0).says("20240101000001 modified: ").says("20240101000002 missing: ");
    let json = warn(&["check", "--json"]);
    assert_eq!(json.json_value("verdict"), "up_to_date");
    assert_eq!(json.json_value("divergences[].tolerated"), "true");
}

/// bun records a migration before it runs it, so a history that looks complete may not be.
#[test]
fn while_a_row_of_buns_stands_nothing_is_up_to_date() {
    let scratch = with(1);
    scratch.up().code(0);
    let row = scratch.value(
        "INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations') RETURNING id",
    );
    assert_check(
        &scratch,
        6,
        &format!(
            "whether migrations are pending cannot be told\n  \
             row {row} of public.bun_migration_locks is bun's, whose owner may be alive or dead\n  \
             bun records a migration before it runs it: 20240101000001, the newest record, may be running, or may never \
             have run\n"
        ),
    );
    let json = scratch.lockstep(&["check", "--json"]).run();
    json.code(6);
    assert_eq!(json.json_value("verdict"), "pending");
    assert_eq!(json.json_value("bun_row_id"), row);
    // A row of a dead runner of ours is no doubt, and is named, and left where it is.
    scratch.sql("UPDATE bun_migration_locks SET id = -3");
    let reader = scratch.reader();
    for command in ["check", "wait"] {
        let run = scratch.lockstep(&[command]).env("DATABASE_URL", reader.url()).run();
        run.code(0)
            .says("row -3 of public.bun_migration_locks is of a run of Lockstep's that died");
    }
    assert_eq!(scratch.value("SELECT id FROM bun_migration_locks"), "-3");
}

// ------------------------------------------------------------------------------------------------- wait

/// From a server that is not there at all to one that is migrated by somebody else: a line for each step, none for each
/// look.
#[test]
fn wait_tells_each_change_of_state_once_and_ends_when_others_have_migrated() {
    let scratch = with(1);
    scratch.up().code(0);
    let mut gate = Gate::closed(&scratch);
    scratch.file("20240101000002_gate.up.sql", Gate::SQL);
    scratch.file("20240101000003_last.up.sql", "SELECT 3");

    let server = LateServer::at(&scratch);
    let mut wait = server.client(&scratch, &["wait"]).spawn();
    wait.wait_for_log("No such file or directory");
    server.appear();
    wait.wait_for_log("the database system is starting up");
    server.set(Answer::Real);
    wait.wait_for_log("next 20240101000002_gate.up.sql");

    // The session is kept, and its loss is survived.
    let sessions = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
                    AND application_name LIKE 'lockstep/%'";
    scratch.sql(&format!("SELECT pg_terminate_backend(pid) FROM ({sessions}) s"));
    wait.wait_for_log("terminating connection due to administrator command");
    wait_until("wait has said again what it waits for", || {
        wait.log().matches("next 20240101000002_gate.up.sql").count() == 2
    });

    let up = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    gate.open();
    up.wait().code(0);
    let outcome = wait.wait();
    outcome.code(0);
    assert_eq!(outcome.stdout, "");
    let told = messages(&outcome);
    // Whether a look falls between the two migrations is chance.
    let told: Vec<&String> = told.iter().filter(|it| !it.contains("next 20240101000003")).collect();
    assert_eq!(told.len(), 7, "{told:#?}");
    assert!(
        told[0].starts_with("waiting for the database at ") && told[0].contains("No such file")
    );
    assert!(told[1].contains("the database system is starting up (SQLSTATE 57P03)"), "{}", told[1]);
    let pending =
        "waiting for 2 migrations to be applied by another runner, next 20240101000002_gate.up.sql";
    assert!(told[2].ends_with(": 2 of 3 pending"), "{}", told[2]);
    assert!(told[3].starts_with(pending));
    assert!(told[4].contains(HAS_LOST_ITS_CONNECTION), "{}", told[4]);
    assert!(told[5].starts_with(pending));
    assert_eq!(told[6], "the database is up to date: 3 migrations");
}

#[test]
fn at_the_deadline_the_code_tells_pending_from_unreachable() {
    let scratch = with(2);
    let wait = scratch.lockstep(&["wait"]);
    for seconds in ["0", "0.3"] {
        let outcome = wait.clone().env("MIGRATION_WAIT_SECONDS", seconds).run();
        outcome.code(6);
        let error = outcome.error();
        assert!(error.starts_with("2 migrations are still pending after "), "{error}");
        assert!(
            error.ends_with("\n  20240101000001_t.up.sql\n  20240101000002_t.up.sql"),
            "{error}"
        );
        // One says that it waits, unless the look has taken all of the time, as on a busy machine.
        let most = if seconds == "0" { 2 } else { 3 };
        assert!((2..=most).contains(&messages(&outcome).len()), "{outcome}");
    }
    // DATABASE_WAIT_SECONDS is for those who have work.
    let nobody = LateServer::at(&scratch);
    for seconds in ["0", "0.3"] {
        let outcome = nobody
            .client(&scratch, &["wait"])
            .env("DATABASE_WAIT_SECONDS", "300")
            .env("MIGRATION_WAIT_SECONDS", seconds)
            .run();
        outcome.code(3).says("could not be reached within");
    }
    let unknown = "postgres://postgres@no-such-host.invalid/x";
    wait.env("DATABASE_URL", unknown)
        .env("MIGRATION_WAIT_SECONDS", "0.3")
        .run()
        .code(3)
        .says("could not be reached within");
}

#[test]
fn too_many_clients_are_not_yet() {
    let scratch = with(1);
    scratch.up().code(0);
    let server = LateServer::at(&scratch);
    server.appear();
    server.set(Answer::TooManyClients);
    let mut wait = server.client(&scratch, &["wait"]).spawn();
    wait.wait_for_log("sorry, too many clients already");
    server.set(Answer::Real);
    wait.wait().code(0);
}

/// A try to connect takes seconds there, and only its outcome is told: here the deadline comes first.
#[test]
fn a_server_that_accepts_and_says_nothing_is_unreachable_at_the_deadline() {
    let scratch = with(1);
    let server = LateServer::at(&scratch);
    server.appear();
    server.set(Answer::Nothing);
    let wait = server.client(&scratch, &["wait"]);
    wait.env("MIGRATION_WAIT_SECONDS", "0.5")
        .run()
        .code(3)
        .says("the server accepts connections but does not answer within")
        .is_silent_about("waiting for");
}

#[test]
fn what_no_waiting_cures_ends_it_at_once() {
    let scratch = with(2);
    let role = scratch.passworded("p", "right");
    let with_url = |url: String| scratch.lockstep(&["wait"]).env("DATABASE_URL", url).run();
    with_url(role.url().replace('@', ":wrong@"))
        .code(2)
        .says("(SQLSTATE 28P01)")
        .waits_for_nothing();
    with_url(scratch.url() + "_not").code(2).says("does not exist").waits_for_nothing();
    scratch.up().code(0);
    scratch.file("20240101000001_t.up.sql", "SELECT 'edited'");
    scratch.lockstep(&["wait"]).run().code(5).says("20240101000001 modified").waits_for_nothing();
    scratch.file("20240101000001_t.up.sql", "SELECT 1");
    scratch.file("20240101000003_t.up.sql", "COMMIT");
    scratch.lockstep(&["wait"]).run().code(2).says("pending migrations cannot be run");
}

/// The right to read the tables may be what a migration grants.
#[test]
fn a_right_that_is_lacking_is_waited_for() {
    let scratch = with(1);
    scratch.up().code(0);
    let role = scratch.role("later", "LOGIN");
    let wait = scratch.lockstep(&["wait"]).env("DATABASE_URL", role.url());
    wait.clone().env("MIGRATION_WAIT_SECONDS", "0").run().code(2).says("permission denied");
    let mut run = wait.spawn();
    run.wait_for_log("permission denied");
    scratch.sql(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}", role.name));
    run.wait().code(0);
}

#[test]
fn a_row_of_buns_is_waited_for_and_named() {
    let scratch = with(1);
    scratch.up().code(0);
    let row = scratch.value(
        "INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations') RETURNING id",
    );
    let mut wait = scratch.lockstep(&["wait"]).spawn();
    wait.wait_for_log(&format!("waiting for bun's lock, row {row} of public.bun_migration_locks"));
    scratch.sql("DELETE FROM bun_migration_locks");
    wait.wait().code(0);
}

#[test]
fn a_signal_ends_it_at_once() {
    let scratch = with(1);
    let server = LateServer::at(&scratch);
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let stop = |mut run: Running| {
            run.wait_for_log("waiting for");
            run.signal(signal);
            run.wait().code(code);
        };
        stop(scratch.lockstep(&["wait"]).spawn());
        stop(server.client(&scratch, &["wait"]).spawn());
    }
}

// ------------------------------------------------------------------------------------------- what it takes

/// So many files.
fn with(count: usize) -> Scratch {
    let scratch = Scratch::new();
    for number in 1..=count {
        scratch.file(&format!("2024010100000{number}_t.up.sql"), format!("SELECT {number}"));
    }
    scratch
}

/// The answer is on stdout, and nothing else is said.
#[track_caller]
fn assert_check(scratch: &Scratch, code: i32, answer: &str) {
    let check = scratch.lockstep(&["check"]).run();
    check.code(code);
    assert_eq!(check.stdout, answer);
    assert_eq!(check.stderr, "", "{check}");
}

/// The log's messages, without how much time is left.
fn messages(outcome: &Outcome) -> Vec<String> {
    let lines = outcome.lines();
    lines.iter().filter_map(|line| line.field("message").map(str::to_owned)).collect()
}

/// A server that is not there yet: a local socket in the scratch directory, where nobody can have been before.
struct LateServer {
    directory: PathBuf,
    answer: Arc<Mutex<Answer>>,
}

/// What it says to those who come.
#[derive(Clone, Copy)]
enum Answer {
    StartingUp,
    TooManyClients,
    Nothing,
    /// What the test server says.
    Real,
}

impl LateServer {
    fn at(scratch: &Scratch) -> LateServer {
        LateServer {
            directory: scratch.directory.clone(),
            answer: Arc::new(Mutex::new(Answer::StartingUp)),
        }
    }

    fn client<'a>(&self, scratch: &'a Scratch, arguments: &[&str]) -> Lockstep<'a> {
        let url =
            format!("host={} user=postgres dbname={}", text(&self.directory), scratch.database);
        scratch.lockstep(arguments).env("DATABASE_URL", url)
    }

    fn set(&self, answer: Answer) {
        *self.answer.lock().expect("no panic while locked") = answer;
    }

    /// From now on it is there. The thread ends with the test's process.
    fn appear(&self) {
        let listener =
            UnixListener::bind(self.directory.join(".s.PGSQL.5432")).expect("a local socket");
        let answer = Arc::clone(&self.answer);
        thread::spawn(move || {
            let mut ignored = Vec::new();
            for client in listener.incoming().flatten() {
                let answer = *answer.lock().expect("no panic while locked");
                match answer {
                    Answer::StartingUp => {
                        refuse(client, "57P03", "the database system is starting up");
                    }
                    Answer::TooManyClients => {
                        refuse(client, "53300", "sorry, too many clients already");
                    }
                    Answer::Nothing => ignored.push(client),
                    Answer::Real => relay(client),
                }
            }
        });
    }
}

/// Reads the start-up message, and ends the connection as PostgreSQL does.
fn refuse(mut client: UnixStream, sqlstate: &str, message: &str) {
    let mut startup = [0; 4096];
    let _ = client.read(&mut startup);
    let fields = format!("SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0");
    let mut answer = vec![b'E'];
    answer.extend((fields.len() as u32 + 4).to_be_bytes());
    answer.extend(fields.as_bytes());
    let _ = client.write_all(&answer);
}

fn relay(client: UnixStream) {
    let upstream =
        TcpStream::connect((server().host.as_str(), server().port)).expect("the test server");
    let (mut from_client, mut to_server) =
        (client.try_clone().expect("a socket"), upstream.try_clone().expect("a socket"));
    let (mut from_server, mut to_client) = (upstream, client);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
}
