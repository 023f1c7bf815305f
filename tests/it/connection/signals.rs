//! SIGTERM and SIGINT: while waiting, they end the run at once; while a migration runs, it is finished first; a second
//! signal ends the run whatever it does. The exit code is the shell's: 143 and 130. Nothing is ever left behind that
//! the next run could stumble over.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use crate::support::words::{TRIES_AGAIN, WAITS_FOR_BUN, WAITS_FOR_THE_DATABASE};
use crate::support::{DEADLINE, Gate, Running, Scratch, send_signal, wait_until};

// ------------------------------------------------------------------------------------------- while waiting

#[test]
fn ends_the_wait_for_another_runner_at_once() {
    for (signal, code) in SIGNALS {
        let scratch = Scratch::new();
        let mut gate = Gate::closed(&scratch);
        three_steps(&scratch, Gate::SQL);
        let (holder, waiter) = gate.queue(&scratch.patient_up(), &scratch.patient_up());
        waiter.signal(signal);
        // The gate is still closed: it did not wait for the holder.
        waiter
            .wait()
            .code(code)
            .says(&format!("stopped by SIG{signal}: nothing was left half done"));
        gate.open();
        holder.wait().code(0);
        assert_eq!(scratch.history(), VERSIONS);
    }
}

#[test]
fn ends_the_wait_for_bun_at_once() {
    let scratch = Scratch::new();
    three_steps(&scratch, "");
    scratch.up().code(0);
    scratch.sql("INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations')");
    let mut run = scratch.lockstep(&["up"]).spawn();
    run.wait_for_log(WAITS_FOR_BUN);
    run.signal("TERM");
    run.wait().code(143);
    assert_eq!(
        scratch.value("SELECT count(*) FROM bun_migration_locks"),
        "1",
        "bun's row is left alone"
    );
}

#[test]
fn ends_the_wait_for_a_server_that_refuses_connections_at_once() {
    let scratch = Scratch::new();
    three_steps(&scratch, "");
    // A port that was free a moment ago.
    let port =
        TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    for (signal, code) in SIGNALS {
        let mut run = scratch
            .lockstep(&["up"])
            .env("DATABASE_URL", format!("postgres://x@127.0.0.1:{port}/x"))
            .spawn();
        run.wait_for_log(WAITS_FOR_THE_DATABASE);
        run.signal(signal);
        run.wait().code(code).says(&format!("stopped by SIG{signal}"));
    }
}

/// The client library itself cannot be interrupted there.
#[test]
fn ends_the_wait_for_a_server_that_accepts_but_never_answers_at_once() {
    let scratch = Scratch::new();
    three_steps(&scratch, "");
    let mute = Mute::start();
    for (signal, code) in SIGNALS {
        let run = scratch
            .lockstep(&["up"])
            .env("DATABASE_URL", format!("postgres://x@127.0.0.1:{}/x", mute.port))
            .spawn();
        mute.wait_for_greeting();
        run.signal(signal);
        run.wait()
            .code(code)
            .says(&format!("stopped by SIG{signal}: while connecting to the database"));
    }
}

/// The migration is pending, and the table it needs is locked: it is between two tries, or in one that PostgreSQL's
/// `lock_timeout` ends.
#[test]
fn ends_the_wait_for_a_locked_table() {
    let scratch = Scratch::new();
    three_steps(&scratch, "");
    scratch.up().code(0);
    let mut reader = scratch.client();
    reader.batch_execute("BEGIN; LOCK TABLE ran IN ACCESS SHARE MODE").expect("a lock");
    scratch.file("20230101000004_step.up.sql", "ALTER TABLE ran ADD COLUMN more int");
    let mut run = scratch.lockstep(&["up"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0.05").spawn();
    run.wait_for_log(TRIES_AGAIN);
    run.signal("TERM");
    run.wait().code(143);
    assert_eq!(scratch.history(), VERSIONS);
    scratch.assert_unlocked();
}

// ------------------------------------------------------------------------------------------ while working

#[test]
fn finishes_the_migration_that_runs_and_stops_before_the_next() {
    for (signal, code) in SIGNALS {
        let scratch = Scratch::new();
        let mut gate = Gate::closed(&scratch);
        three_steps(&scratch, Gate::SQL);
        let run = scratch.patient_up().spawn();
        gate.wait_for_visitor();
        run.signal(signal);
        wait_until_delivered(&run);
        gate.open();
        let outcome = run.wait();
        outcome.code(code).applied_one(1, 3).is_silent_about("2/3 applying");
        assert_eq!(
            outcome.error(),
            format!("stopped by SIG{signal}: 1 of 3 pending migrations were applied")
        );
        assert_eq!(scratch.history(), VERSIONS[..1]);
        scratch.assert_unlocked();
        scratch.up().code(0);
        assert_eq!(scratch.history(), VERSIONS);
        assert_eq!(scratch.sql("SELECT step FROM ran ORDER BY 1"), ["1", "2", "3"]);
    }
}

/// The database is at the newest migration then; but whoever sent the signal is told that it was heeded.
#[test]
fn a_signal_in_the_last_migration_is_never_0() {
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    scratch.file("20230101000001_step.up.sql", Gate::SQL);
    let run = scratch.patient_up().spawn();
    gate.wait_for_visitor();
    run.signal("TERM");
    wait_until_delivered(&run);
    gate.open();
    run.wait().code(143).applied_one(1, 1);
    assert_eq!(scratch.history(), VERSIONS[..1]);
    scratch.assert_unlocked();
    scratch.up().code(0);
}

#[test]
fn a_signal_in_an_index_build_lets_it_finish_and_be_recorded() {
    let scratch = Scratch::new();
    three_steps(&scratch, "");
    scratch.up().code(0);
    let mut old = scratch.client();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM ran")
        .expect("an old snapshot");
    scratch
        .file("20230101000004_step.up.sql", "CREATE INDEX CONCURRENTLY ran_step_idx ON ran (step)");
    scratch.file("20230101000005_step.up.sql", "INSERT INTO ran VALUES (5)");
    let run = scratch.lockstep(&["up"]).spawn();
    let building =
        "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()";
    wait_until("the index is being built", || scratch.value(building) == "1");
    run.signal("TERM");
    wait_until_delivered(&run);
    drop(old);
    run.wait().code(143).applied_one(1, 2).is_silent_about("2/2 applying");
    assert_eq!(scratch.history().len(), 4);
    assert_eq!(
        scratch
            .value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ran_step_idx'::regclass"),
        "t"
    );
    scratch.assert_unlocked();
    scratch.up().code(0);
    assert_eq!(scratch.history().len(), 5);
}

/// Frozen after its first migration was committed, the run finds the signal before it can send the second.
#[test]
fn stops_between_two_migrations() {
    for (signal, code) in SIGNALS {
        let scratch = Scratch::new();
        let mut gate = Gate::closed(&scratch);
        three_steps(&scratch, Gate::SQL);
        let run = scratch.patient_up().spawn();
        gate.wait_for_visitor();
        run.freeze();
        gate.open();
        wait_until("the first migration is committed", || scratch.history().len() == 1);
        run.signal(signal);
        run.thaw();
        run.wait().code(code).applied_one(1, 3);
        assert_eq!(scratch.history(), VERSIONS[..1]);
        scratch.assert_unlocked();
    }
}

// ---------------------------------------------------------------------------------------- a second signal

/// The gate is closed until the run has ended, so it did not wait for its migration; and the server rolls back.
#[test]
fn a_second_signal_ends_the_run_at_once() {
    for (first, second, code) in [("TERM", "TERM", 143), ("INT", "INT", 130), ("INT", "TERM", 143)]
    {
        let scratch = Scratch::new();
        let mut gate = Gate::closed(&scratch);
        three_steps(&scratch, Gate::SQL);
        let run = scratch.patient_up().spawn();
        gate.wait_for_visitor();
        run.signal(first);
        wait_until_delivered(&run);
        run.signal(second);
        run.wait().code(code);
        wait_until("the server has rolled back", || gate.visitor().is_none());
        gate.open();
        assert_eq!(scratch.history(), [""; 0]);
        scratch.up().code(0);
        assert_eq!(scratch.history(), VERSIONS);
        scratch.assert_unlocked();
    }
}

// --------------------------------------------------------------------------------------------- as PID 1

/// A process that is PID 1, as in a container, is immune to every signal that it does not handle. Making one takes
/// root and a kernel that lets it.
#[test]
fn signals_work_as_process_1() {
    let possible = Command::new("unshare")
        .args(["--pid", "--fork", "true"])
        .output()
        .is_ok_and(|it| it.status.success());
    if !possible {
        eprintln!(
            "skipped: `unshare --pid` does not work here (it takes root), so nothing can be made process 1"
        );
        return;
    }
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    three_steps(&scratch, Gate::SQL);
    let up = scratch.patient_up().command();
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--pid", "--fork", "--kill-child"])
        .arg(up.get_program())
        .args(up.get_args())
        .env_clear();
    unshare
        .envs(up.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(&scratch.directory);
    unshare.stderr(std::process::Stdio::piped());
    let mut unshare = unshare.spawn().expect("unshare");
    gate.wait_for_visitor();
    let application = scratch.value(&format!(
        "SELECT application_name FROM pg_stat_activity WHERE pid = {}",
        scratch.guard().expect("a guard")
    ));
    assert!(application.ends_with("/1"), "it is process 1: {application}");
    let children =
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", unshare.id())).expect("/proc");
    send_signal("TERM", children.trim());
    wait_until("the signal is delivered", || !is_pending(children.trim()));
    gate.open();
    wait_until("it has ended", || unshare.try_wait().expect("a child").is_some());
    let mut log = String::new();
    unshare.stderr.take().expect("a pipe").read_to_string(&mut log).expect("a log");
    assert_eq!(unshare.wait().expect("a child").code(), Some(143), "{log}");
    assert!(log.contains("stopped by SIGTERM: 1 of 3 pending migrations were applied"), "{log}");
    assert_eq!(scratch.history(), VERSIONS[..1]);
    scratch.assert_unlocked();
}

// -------------------------------------------------------------------------------------------- what it takes

const SIGNALS: [(&str, i32); 2] = [("TERM", 143), ("INT", 130)];

const VERSIONS: [&str; 3] = ["20230101000001", "20230101000002", "20230101000003"];

/// Three migrations; `first` becomes a part of the first.
fn three_steps(scratch: &Scratch, first: &str) {
    let texts = [
        format!("CREATE TABLE ran (step int); INSERT INTO ran VALUES (1); {first}"),
        "INSERT INTO ran VALUES (2)".to_owned(),
        "INSERT INTO ran VALUES (3)".to_owned(),
    ];
    for (version, text) in VERSIONS.iter().zip(texts) {
        scratch.file(&format!("{version}_step.up.sql"), text);
    }
}

/// Waits until the kernel has handed a signal to the process.
fn wait_until_delivered(run: &Running) {
    wait_until("the signal is delivered", || !is_pending(&run.pid().to_string()));
}

/// Returns true if and only if a signal is known to be on its way to the process.
fn is_pending(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pending = |line: &str| {
        let set = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        set.is_some_and(|set| set.trim().bytes().any(|digit| digit != b'0'))
    };
    status.lines().any(pending)
}

/// A server that takes connections, and whatever it is told, and never says a word.
struct Mute {
    port: u16,
    greeted: mpsc::Receiver<TcpStream>,
}

impl Mute {
    fn start() -> Mute {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (sender, greeted) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let greeting = stream.read(&mut [0; 64]);
                // It stays open until the test is over.
                if greeting.is_ok_and(|length| length > 0) && sender.send(stream).is_err() {
                    return;
                }
            }
        });
        Mute { port, greeted }
    }

    /// Waits until somebody has connected and said the first word.
    fn wait_for_greeting(&self) {
        std::mem::forget(self.greeted.recv_timeout(DEADLINE).expect("a greeting"));
    }
}
