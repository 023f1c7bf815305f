//! The cable is cut: no packet arrives any more, in either direction, and nobody is told.
//!
//! A proxy cannot do that: the kernel at its ends goes on answering keepalives. So the test makes a network of its own, of
//! which the links can be taken down: the server in a network namespace, each runner that is to be struck in another, and the
//! proxy, the waiting runners and the test in between.
//!
//! ```text
//! runner 10.1.n.2 ──link──▶ 10.1.n.1 proxy 10.0.n.1 ──link──▶ 10.0.n.2 server
//!                                     test 10.0.0.1 ──link──▶ 10.0.0.2
//! ```
//!
//! It takes root, `ip`, `unshare`, `nsenter` and `setpriv`; where one of them is missing the test says so and is skipped.
//! Namespaces and links belong to processes of this test, and are gone with them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use postgres::NoTls;

use crate::support::cluster::{Cluster, in_another_process};
use crate::support::site::{
    FILES, Moment, Site, Staged, Tally, assert_retry_helps, in_parallel, moments, steps_and_parts,
    undisturbed_messages,
};
use crate::support::words::WAITS_FOR_A_RUNNER;
use crate::support::{Running, is_soak, send_signal, server, tell, wait_until};

/// Told in the README: how soon a waiting runner is at work after a cut. What is asserted is generous, since machines are
/// busy; the figure is printed.
const BOUND: Duration = Duration::from_secs(60);

/// The same, after a kill.
const BOUND_OF_A_KILL: Duration = Duration::from_secs(15);

/// How many cables are cut at once.
const LINKS: usize = 26;

#[test]
fn a_run_whose_cable_is_cut_at_any_message_leaves_no_trace_and_is_followed_within_seconds() {
    let test =
        "a_run_whose_cable_is_cut_at_any_message_leaves_no_trace_and_is_followed_within_seconds";
    match Cluster::of_this_process() {
        Some(cluster) => {
            let network = Network::around(&cluster);
            let (two, rest) = network.links.split_at(3);
            thread::scope(|scope| {
                scope.spawn(|| cut_while_a_statement_sleeps(two));
                let plain = FILES.map(|(name, text)| (name, text.to_owned()));
                cut_at_messages(rest, "cut cables", &plain);
                cut_at_messages(rest, "cut cables under steps", &steps_and_parts());
            });
        }
        None => match what_is_missing() {
            Some(missing) => tell(&format!("skipped: a cable cannot be cut here: {missing}")),
            None => {
                let mut cluster = encrypting();
                cluster.stop();
                cluster.url = format!("postgres://postgres@10.0.0.2:{PORT}/postgres");
                in_another_process(module_path!(), test, &cluster, &["unshare", "--net"]);
            }
        },
    }
}

#[test]
fn a_run_that_is_killed_while_a_statement_sleeps_is_followed_within_seconds() {
    let site = Site::with([(SLEEPING, "SELECT pg_sleep(600)")]);
    let took = follow_after(&site, |first| first.signal("KILL"));
    tell(&format!(
        "killed while a statement sleeps: the waiting runner is at work after {:.1} s",
        took.as_secs_f64()
    ));
    assert!(took < BOUND_OF_A_KILL, "{took:?}");
}

/// A cluster that takes TLS, where we can.
fn encrypting() -> Cluster {
    #[cfg(feature = "tls")]
    return crate::connection::tls::Secure::start("cable").cluster;
    #[cfg(not(feature = "tls"))]
    Cluster::start("cable")
}

/// Three cuts at once. In the first, nothing is under way when the cable is cut, and the server's keepalives find out. In the
/// other the server goes on talking: a NOTICE, between two statements, is not acknowledged any more, and while that is so
/// no keepalive is sent: only `tcp_user_timeout` ends the wait, which otherwise lasts for a quarter of an hour. The third is
/// the first over TLS.
fn cut_while_a_statement_sleeps(links: &[Link]) {
    let ways = [
        ("a statement sleeps", "disable", "SELECT pg_sleep(600)"),
        ("the server talks", "disable", "SELECT pg_sleep(2); SELECT pg_sleep(600)"),
        ("a statement sleeps over TLS", MODE, "SELECT pg_sleep(600)"),
    ];
    in_parallel(links.iter().zip(ways), |(link, (what, sslmode, sql))| {
        let site = Site { sslmode, ..link.site([(SLEEPING, sql)]) };
        let took = follow_after(&site, |_| link.cut());
        tell(&format!(
            "cut while {what}: the waiting runner is at work after {:.1} s",
            took.as_secs_f64()
        ));
        assert!(took < BOUND, "cut while {what}: {took:?}");
    });
}

const MODE: &str = if cfg!(feature = "tls") { "require" } else { "disable" };

const SLEEPING: &str = "20230101000001_sleep.up.sql";

/// Strikes a runner while its statement sleeps for ten minutes, and tells how soon another one that was waiting comes to
/// its migration. That one has another file of the same version.
fn follow_after(site: &Site, strike: impl FnOnce(&Running)) -> Duration {
    let scratch = &site.scratch;
    let proxy = site.proxy(None);
    let first = site.through(&proxy);
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
    wait_until("the statement sleeps", || scratch.value(sleeping) == "1");
    let other = scratch.directory.join("other");
    fs::create_dir(&other).expect("a directory");
    fs::write(other.join(SLEEPING), "SELECT 1").expect("a file");
    let second = scratch.lockstep(&["up"]).env("MIGRATIONS_DIR", other.display().to_string());
    let mut second = second.spawn();
    second.wait_for_log(WAITS_FOR_A_RUNNER);
    let struck = Instant::now();
    strike(&first);
    second.wait_for_log("1/1 applying");
    let took = struck.elapsed();
    second.wait().code(0);
    assert_eq!(scratch.history(), ["20230101000001"]);
    scratch.assert_unlocked();
    let outcome = first.wait();
    if outcome.signal.is_none() {
        outcome.code(3);
    }
    took
}

fn cut_at_messages(links: &[Link], what: &str, files: &[(&'static str, String)]) {
    let started = Instant::now();
    let files = || files.iter().map(|(name, text)| (*name, text.as_str()));
    let seen = undisturbed_messages(&Site::with(files()));
    let moments = moments(&seen);
    let step = if is_soak() { 1 } else { moments.len().div_ceil(links.len()) };
    let moments: Vec<(usize, Moment)> = moments.into_iter().step_by(step).collect();
    let sites: Vec<Site> = links.iter().map(|link| link.site(files())).collect();
    let expected = sites[0].undisturbed();
    let tally = Tally::default();
    let mut longest = Duration::ZERO;
    for batch in moments.chunks(links.len()) {
        let cells = links.iter().zip(&sites).zip(batch);
        let took = in_parallel(cells, |((link, site), &(message, moment))| {
            let Staged { proxy, first, second, waits, missed, .. } = site.stage(message);
            if moment != Moment::Before {
                proxy.pass();
            }
            link.cut();
            let cut = Instant::now();
            second.wait().code(0);
            let took = cut.elapsed();
            // It notices by itself, too.
            assert_retry_helps(&first.wait());
            drop(proxy);
            link.mend();
            site.conclude(&expected);
            tally.add(waits, missed);
            took
        });
        longest = took.into_iter().fold(longest, Duration::max);
    }
    tally.tell(what, started);
    tally.assert_meaningful();
    tell(&format!(
        "{what}: a waiting runner is done {:.1} s after the cut at most",
        longest.as_secs_f64()
    ));
    assert!(longest < BOUND, "{longest:?}");
}

// ----------------------------------------------------------------------------------------- the network

/// Where the server listens, in a namespace that has no other.
const PORT: u16 = 5432;

/// Returns what it takes, and is not there.
fn what_is_missing() -> Option<String> {
    let works = |words: &[&str]| {
        let status = Command::new(words[0])
            .args(&words[1..])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    let tries: [&[&str]; 4] = [
        &["setpriv", "--version"],
        &["nsenter", "--version"],
        &["unshare", "--net", "true"],
        &[
            "unshare", "--net", "ip", "link", "add", "name", "a", "type", "veth", "peer", "name",
            "b",
        ],
    ];
    let failed = tries.into_iter().find(|words| !works(words))?;
    Some(format!("`{}` fails", failed.join(" ")))
}

struct Network {
    server: Child,
    links: Vec<Link>,
}

/// The way of one runner: two links, and the namespace that it lives in.
struct Link {
    number: usize,
    namespace: Child,
}

impl Network {
    /// Starts the cluster's server in a namespace, and lays the cables. This process is in a namespace of its own already.
    fn around(cluster: &Cluster) -> Network {
        ip(&["link", "set", "dev", "lo", "up"]);
        let server = start_server(cluster);
        let pid = server.id();
        cable("s", 0, "10.0.0", pid);
        let network =
            Network { server, links: (1..=LINKS).map(|number| Link::lay(number, pid)).collect() };
        let config =
            format!("host=10.0.0.2 port={PORT} user=postgres dbname=postgres connect_timeout=2");
        let config: postgres::Config = config.parse().expect("a configuration");
        wait_until("the server accepts connections", || config.connect(NoTls).is_ok());
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Not a SIGKILL: its children would be there for a moment longer.
        if self.server.try_wait().is_ok_and(|ended| ended.is_none()) {
            send_signal("QUIT", self.server.id());
        }
        let _ = self.server.wait();
    }
}

impl Link {
    fn lay(number: usize, server: u32) -> Link {
        let namespace = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare");
        let (own, pid) = (fs::read_link("/proc/self/ns/net").expect("/proc"), namespace.id());
        let file = PathBuf::from(format!("/proc/{pid}/ns/net"));
        wait_until("the namespace is there", || fs::read_link(&file).is_ok_and(|it| it != own));
        cable("s", number, &format!("10.0.{number}"), server);
        cable("c", number, &format!("10.1.{number}"), pid);
        Link { number, namespace }
    }

    /// A site whose first runners go this way.
    fn site<'a>(&self, files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Site {
        let mut site = Site::with(files);
        site.upstream = format!("10.0.{}.2:{PORT}", self.number).parse().expect("an address");
        site.host = format!("10.1.{}.1", self.number).parse().expect("an address");
        site.wrapper = self.wrapper();
        site
    }

    /// What starts a runner in the namespace.
    fn wrapper(&self) -> Vec<String> {
        ["nsenter", "--net", "--target", &self.namespace.id().to_string()]
            .map(str::to_owned)
            .to_vec()
    }

    fn cut(&self) {
        for side in ["s", "c"] {
            ip(&["link", "set", "dev", &format!("{side}{}", self.number), "down"]);
        }
    }

    fn mend(&self) {
        for side in ["s", "c"] {
            ip(&["link", "set", "dev", &format!("{side}{}", self.number), "up"]);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = self.namespace.kill();
        let _ = self.namespace.wait();
    }
}

/// A cable from here to the namespace of a process.
fn cable(label: &str, number: usize, subnet: &str, pid: u32) {
    let (here, there) = (format!("{label}{number}"), format!("{label}{number}x"));
    ip(&[
        "link",
        "add",
        "name",
        &here,
        "type",
        "veth",
        "peer",
        "name",
        &there,
        "netns",
        &pid.to_string(),
    ]);
    ip(&["address", "add", &format!("{subnet}.1/24"), "dev", &here]);
    ip(&["link", "set", "dev", &here, "up"]);
    inside(pid, &["ip", "address", "add", &format!("{subnet}.2/24"), "dev", &there]);
    inside(pid, &["ip", "link", "set", "dev", &there, "up"]);
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

fn inside(pid: u32, words: &[&str]) {
    run(Command::new("nsenter").args(["--net", "--target", &pid.to_string()]).args(words));
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("it starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// As the user that the data belongs to, who is trusted from everywhere in this network.
fn start_server(cluster: &Cluster) -> Child {
    let data = cluster.data();
    let mut hba =
        fs::File::options().append(true).open(data.join("pg_hba.conf")).expect("pg_hba.conf");
    hba.write_all(b"\nhost all all 10.0.0.0/8 trust\n").expect("pg_hba.conf");
    let owner = fs::metadata(&data).expect("the data");
    let log =
        fs::File::options().append(true).open(cluster.directory.join("log")).expect("the log");
    let child = Command::new("unshare")
        .args(["--net", "setpriv", "--clear-groups"])
        .args([format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid())])
        .arg(server().bindir.join("postgres"))
        .arg("-D")
        .arg(&data)
        .args([
            "-p",
            &PORT.to_string(),
            "-c",
            "listen_addresses=*",
            "-c",
            "unix_socket_directories=",
        ])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the log"))
        .stderr(log)
        .spawn()
        .expect("unshare");
    wait_until("the server is starting", || data.join("postmaster.pid").exists());
    child
}
