//! A cluster of a test's own, for what would disturb the others: the test stops the server, or puts it where its cable can
//! be cut. Such a test runs once more, in a process of its own whose test server is that cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, thread};

use crate::support::{printed, send_signal, server, wait_until};

/// A throwaway cluster below the one that the tests share, and gone with it at the latest.
pub struct Cluster {
    pub directory: PathBuf,
    pub url: String,
    /// Whether it is to be removed with this value.
    is_ours: bool,
}

/// Tells a process which cluster it has been given.
const VARIABLE: &str = "LOCKSTEP_TEST_OWN_CLUSTER";

impl Cluster {
    pub fn start(label: &str) -> Cluster {
        let shared = env::var_os("LOCKSTEP_TEST_PG_DIR").expect("run the tests with `make test`");
        let directory = PathBuf::from(shared).join(format!("{label}-{}", std::process::id()));
        let url = script(&["start", "--throwaway"], &directory);
        Cluster { directory, url, is_ours: true }
    }

    /// The cluster that this process was given, if it was.
    pub fn of_this_process() -> Option<Cluster> {
        let directory = PathBuf::from(env::var_os(VARIABLE)?);
        let url = env::var("LOCKSTEP_TEST_DATABASE_URL").expect("a URL");
        Some(Cluster { directory, url, is_ours: false })
    }

    /// Where the data is; not always below the directory, which the server's user may be unable to enter.
    pub fn data(&self) -> PathBuf {
        match fs::read_to_string(self.directory.join("place")) {
            Ok(place) => PathBuf::from(place.trim_end()).join("data"),
            Err(_) => self.directory.join("data"),
        }
    }

    /// An immediate stop: no session is ended properly, no checkpoint is written.
    pub fn stop(&self) {
        let file = self.data().join("postmaster.pid");
        let text = fs::read_to_string(&file).expect("the server runs");
        let pid = text.lines().next().expect("a process id");
        send_signal("QUIT", pid);
        wait_until("the server has stopped", || !file.exists());
    }

    /// After [`Cluster::stop`].
    pub fn start_again(&self) {
        assert_eq!(script(&["start"], &self.directory), self.url, "another port");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_ours && !thread::panicking() {
            script(&["remove"], &self.directory);
        }
    }
}

/// Runs `tests/postgres` for the cluster of this directory, and returns what it prints.
pub fn script(arguments: &[&str], directory: &Path) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres");
    printed(Command::new(script).args(arguments).arg(directory).env("PG_BINDIR", &server().bindir))
}

/// Runs a test, of the module that is `module_path!()`, in a process of its own, which finds that cluster in the place of the shared one; `wrapper`
/// starts it, if it is not empty. What it writes to stderr is ours.
pub fn in_another_process(module: &str, test: &str, cluster: &Cluster, wrapper: &[&str]) {
    let (_, module) = module.split_once("::").expect("a module of this binary");
    let test = &format!("{module}::{test}");
    let started = Instant::now();
    let binary = env::current_exe().expect("this binary");
    let binary = binary.display().to_string();
    let words: Vec<&str> = wrapper.iter().copied().chain([binary.as_str()]).collect();
    let output = Command::new(words[0])
        .args(&words[1..])
        .args(["--exact", "--include-ignored", test, "--nocapture"])
        .env("LOCKSTEP_TEST_DATABASE_URL", &cluster.url)
        .env(VARIABLE, &cluster.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .expect("this binary starts");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{test} in a process of its own, after {:?}:\n{stdout}",
        started.elapsed()
    );
}
