//! Several hosts, one by one: how long each may take, whose password it gets, and which answers end the list.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::support::{Lockstep, Outcome, Scratch, server, text};

const FILE: &str = "20240101000000_a.up.sql";

/// Takes connections, and says nothing.
fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

/// Nobody listens there.
fn dead() -> u16 {
    silent().1
}

/// A run that may go to each of these places, all on this machine.
fn up<'a>(scratch: &'a Scratch, places: &[(&str, u16)]) -> Lockstep<'a> {
    let hosts: Vec<&str> = places.iter().map(|(host, _)| *host).collect();
    let ports: Vec<String> = places.iter().map(|(_, port)| port.to_string()).collect();
    let url = format!(
        "host={} port={} user=postgres dbname={}",
        hosts.join(","),
        ports.join(","),
        scratch.database
    );
    scratch.lockstep(&["up"]).env("DATABASE_URL", url)
}

fn with_one_file() -> Scratch {
    Scratch::with([(FILE, "SELECT 1")])
}

#[test]
fn a_silent_host_takes_no_longer_than_the_connect_timeout() {
    let scratch = with_one_file();
    let (_first, port) = silent();
    let (_second, other) = silent();
    let host = server().host.as_str();
    let run = up(&scratch, &[(host, port), (host, other), (host, server().port)]);
    let started = Instant::now();
    let outcome = run.env("PGCONNECT_TIMEOUT", "2").run();
    outcome.code(0);
    assert_eq!(scratch.history().len(), 1);
    // Two connections, two silent hosts before each; the rest is for a busy machine.
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(8), "{took:?}\n{outcome}");
    assert!(took < Duration::from_secs(30), "{took:?}\n{outcome}");
}

#[test]
fn each_host_says_why_it_is_none() {
    let scratch = with_one_file();
    let (_silent, port) = silent();
    let dead = dead();
    let run = up(&scratch, &[("127.0.0.1", dead), ("127.0.0.1", port)]);
    // It goes through the list twice.
    let outcome = run
        .env("PGTARGETSESSIONATTRS", "prefer-standby")
        .env("PGCONNECT_TIMEOUT", "1")
        .env("DATABASE_WAIT_SECONDS", "0")
        .run();
    let refused = format!("127.0.0.1:{dead}: Connection refused");
    assert_eq!(outcome.stderr.matches(&refused).count(), 1, "{outcome}");
    outcome.code(3).says(&format!(
        "127.0.0.1:{port}: the server accepts connections but does not answer within 1 s"
    ));
}

/// It has as long as a host has, and the next host has its turn. It takes a name server of our own, which only a process
/// that does not see the machine's `/etc` would ask.
#[cfg(target_os = "linux")]
#[test]
fn a_silent_name_server_takes_no_longer_than_the_connect_timeout() {
    use crate::support::tell;
    use std::net::UdpSocket;
    use std::process::Command;
    let scratch = with_one_file();
    let write = |name: &str, line: &str| {
        fs::write(scratch.directory.join(name), line).expect("a file");
    };
    write("resolv.conf", "nameserver 127.53.0.1\n");
    write("nsswitch.conf", "hosts: dns\n");
    let mount = "for file in resolv.conf nsswitch.conf; do \
                 [ ! -e /etc/$file ] || mount --bind $file /etc/$file; done && exec \"$0\" \"$@\"";
    let wrapper = ["unshare", "--mount", "sh", "-ec", mount].map(str::to_owned);
    let possible = Command::new("unshare").args(["--mount", "true"]).output();
    let (true, Ok(name_server)) =
        (possible.is_ok_and(|it| it.status.success()), UdpSocket::bind("127.53.0.1:53"))
    else {
        tell("skipped: no name server of our own, for which it takes root and `unshare --mount`");
        return;
    };
    let (host, port) = (server().host.as_str(), server().port);
    let run = |places: &[(&str, u16)]| {
        let run = up(&scratch, places).under(&wrapper);
        let run = run.env("PGCONNECT_TIMEOUT", "2");
        run.env("DATABASE_WAIT_SECONDS", "0").run()
    };
    let started = Instant::now();
    let outcome = run(&[("silent.example", port)]);
    let took = started.elapsed();
    let words = "the name silent.example is not resolved: no name server answers within 2 s";
    outcome.code(3).says(words);
    assert!(took < Duration::from_secs(20), "{took:?}\n{outcome}");
    run(&[("silent.example", port), (host, port)]).code(0);
    name_server.set_nonblocking(true).expect("a socket");
    name_server.recv(&mut [0; 512]).expect("a question");
    drop(name_server);
    let outcome = run(&[("silent.example", port)]);
    outcome.code(3).says("no name server gives an answer");
}

/// A run by a role that has to give a password, with a password file of these lines: host, port, password.
fn passworded(scratch: &Scratch, places: &[(&str, u16)], lines: &[(&str, u16, &str)]) -> Outcome {
    let role = scratch.passworded("w", "right");
    let file = scratch.directory.join("passwords");
    let lines = lines
        .iter()
        .map(|(host, port, password)| format!("{host}:{port}:*:{}:{password}\n", role.name));
    fs::write(&file, lines.collect::<String>()).expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    let run = up(scratch, places).env("PGUSER", &role.name);
    let url = run_url(&run).replace("user=postgres ", "");
    let outcome = run.env("DATABASE_URL", url).env("PGPASSFILE", text(&file)).run();
    assert_eq!(scratch.history().len(), usize::from(outcome.code == Some(0)), "{outcome}");
    outcome
}

fn run_url(run: &Lockstep<'_>) -> String {
    let command = run.command();
    let url = command
        .get_envs()
        .find(|(name, _)| *name == "DATABASE_URL")
        .and_then(|(_, value)| Some(value?.to_str()?.to_owned()));
    url.expect("a URL")
}

#[test]
fn each_host_gets_its_own_password() {
    let scratch = with_one_file();
    let (dead, port) = (dead(), server().port);
    let host = server().host.as_str();
    let lines = [(host, dead, "wrong"), (host, port, "right")];
    passworded(&scratch, &[(host, dead), (host, port)], &lines).code(0);
}

/// With different clusters in the list, whoever goes on migrates the wrong one.
#[test]
fn a_wrong_password_ends_the_list() {
    let scratch = with_one_file();
    let port = server().port;
    let lines = [("127.0.0.1", port, "wrong"), ("localhost", port, "right")];
    let places = [("127.0.0.1", port), ("localhost", port)];
    passworded(&scratch, &places, &lines).code(2).says("password authentication failed");
    let back: Vec<_> = places.into_iter().rev().collect();
    passworded(&scratch, &back, &lines).code(0);
}

/// The database is missing on the first host only as long as nobody makes it; but no other host is asked for it.
#[test]
fn so_does_a_database_that_is_not_there() {
    let scratch = with_one_file();
    let port = server().port;
    let run = up(&scratch, &[("127.0.0.1", port), ("localhost", port)]);
    let url = run_url(&run).replace(&scratch.database, "not_there");
    run.env("DATABASE_URL", url)
        .run()
        .code(2)
        .says("not_there\\\" does not exist (SQLSTATE 3D000)");
}

/// As a load balancer does that has no server.
#[test]
fn a_connection_that_ends_at_once_hands_over() {
    let scratch = with_one_file();
    let (listener, port) = silent();
    thread::spawn(move || {
        for connection in listener.incoming() {
            drop(connection);
        }
    });
    let host = server().host.as_str();
    up(&scratch, &[(host, port), (host, server().port)]).run().code(0);
    assert_eq!(scratch.history().len(), 1);
}

#[test]
fn a_service_file_names_the_server() {
    let scratch = with_one_file();
    let (host, port, database) = (&server().host, server().port, &scratch.database);
    let section = format!(
        "[other]\nhost=nowhere\n[ours]\nhost={host}\nport={port}\ndbname={database}\nuser=postgres\n"
    );
    let run = |directory: &str, name: &str| {
        let directory = scratch.directory.join(directory);
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join(name), &section).expect("a file");
        let run = scratch.lockstep(&["status"]).without("DATABASE_URL");
        (run, text(&directory.join(name)), text(&directory))
    };
    let (named, file, _) = run("named", "services");
    let (system, _, directory) = run("system", "pg_service.conf");
    let named = named.env("PGSERVICEFILE", file).env("PGSERVICE", "ours");
    let system = system.env("PGSYSCONFDIR", directory);
    let unknown = system.env("PGSERVICE", "unknown");
    named.run().code(0);
    unknown.run().code(2).says("there is no service");
    let (home, _, _) = run(".", ".pg_service.conf");
    home.env("DATABASE_URL", "service=ours").run().code(0);
}

/// Each address has its turn, in one thread for one connection: the look-up of a name takes none of its own.
#[cfg(target_os = "linux")]
#[test]
fn there_is_one_thread_for_each_connection() {
    use crate::support::Gate;
    let scratch = Scratch::new();
    let mut gate = Gate::closed(&scratch);
    scratch.file(FILE, Gate::SQL);
    let places = [("localhost", dead()), ("localhost", server().port)];
    let run = up(&scratch, &places).env("DDL_LOCK_TIMEOUT_SECONDS", "0").spawn();
    gate.wait_for_visitor();
    let tasks = fs::read_dir(format!("/proc/{}/task", run.pid())).expect("a process");
    let threads = tasks.count();
    gate.open();
    let outcome = run.wait();
    outcome.code(0);
    assert_eq!(threads, 1 + 2, "{outcome}");
}
