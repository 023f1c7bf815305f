//! A PgBouncer of a test's own, between it and the test server: started on a free port, as the user that runs the
//! server, and killed whatever happens.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::support::{DEADLINE, Scratch, admin, printed, rows, server, wait_until};

/// How PgBouncer shares its server connections: until the transaction ends, until the client goes, or until the statement
/// ends, which no program that needs a transaction can live with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Transaction,
    Session,
    Statement,
}

pub const MODES: [Mode; 2] = [Mode::Transaction, Mode::Session];

pub struct PgBouncer {
    pub port: u16,
    database: String,
    directory: PathBuf,
    process: Option<Process>,
}

impl PgBouncer {
    /// One that has at most `pool_size` connections to the server for the scratch database.
    pub fn start(scratch: &Scratch, mode: Mode, pool_size: usize) -> PgBouncer {
        PgBouncer::start_in_front_of(scratch, mode, pool_size, server().port)
    }

    /// One whose server is, as it believes, on this port.
    pub fn start_in_front_of(
        scratch: &Scratch,
        mode: Mode,
        pool_size: usize,
        server_port: u16,
    ) -> PgBouncer {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = place().join(format!("pgbouncer-{}-{number}", scratch.database));
        fs::create_dir(&directory).expect("a directory");
        let mut pgbouncer =
            PgBouncer { port: 0, database: scratch.database.clone(), directory, process: None };
        // No port can be reserved for another process: so try one, and the next if somebody has it.
        for _ in 0..20 {
            pgbouncer.port = random_port();
            pgbouncer.configure(mode, pool_size, server_port);
            if pgbouncer.try_to_run() {
                return pgbouncer;
            }
        }
        panic!("found no free port for PgBouncer");
    }

    fn configure(&self, mode: Mode, pool_size: usize, server_port: u16) {
        let mode = format!("{mode:?}").to_lowercase();
        let settings = format!(
            "[databases]\n* = host={host} port={server_port} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {mode}\ndefault_pool_size = {pool_size}\nmax_client_conn = 300\nadmin_users = postgres, pgbouncer\nserver_login_retry = 1\n",
            host = server().host,
            port = self.port,
        );
        fs::write(self.directory.join("ini"), settings).expect("a configuration");
    }

    /// Tells it, if it was told wrongly, where the server is.
    pub fn move_server(&self, mode: Mode, pool_size: usize) {
        self.configure(mode, pool_size, server().port);
        self.administrator().and_then(|mut it| it.batch_execute("RELOAD")).expect("a reload");
    }

    /// The scratch database's URL, through it.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.port, self.database)
    }

    pub fn client(&self) -> Client {
        Client::connect(&self.url(), NoTls).expect("a connection through PgBouncer")
    }

    /// A command of its administrator's console.
    pub fn console(&self, command: &str) -> Vec<String> {
        rows(&mut self.administrator().expect("the console"), command)
    }

    fn administrator(&self) -> Result<Client, postgres::Error> {
        let url =
            format!("postgres://postgres@127.0.0.1:{}/pgbouncer?connect_timeout=5", self.port);
        Client::connect(&url, NoTls)
    }

    /// How many of the scratch database's clients wait for a server connection.
    pub fn waiting(&self) -> usize {
        let columns = |row: &String| row.split('|').map(str::to_owned).collect::<Vec<_>>();
        let pools: Vec<Vec<String>> = self.console("SHOW POOLS").iter().map(columns).collect();
        let ours = pools.iter().filter(|pool| pool[0] == self.database);
        ours.map(|pool| pool[3].parse::<usize>().expect("cl_waiting")).sum()
    }

    /// Waits until exactly so many wait.
    pub fn wait_for_waiting(&self, count: usize) {
        wait_until(&format!("{count} clients wait in PgBouncer's queue"), || {
            self.waiting() == count
        });
    }

    /// Kills it, and with it all connections through it.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Runs it again, as it was, on the same port.
    pub fn run(&mut self) {
        // What others were given of the port meanwhile, they have for moments only.
        wait_until("PgBouncer has its port again", || self.try_to_run());
    }

    /// Returns true if and only if it runs; false if its port is not free.
    fn try_to_run(&mut self) -> bool {
        let log = self.directory.join("log");
        let mut process = Process::start(&self.directory.join("ini"), &log);
        let end = Instant::now() + DEADLINE;
        loop {
            let told = || fs::read_to_string(&log).unwrap_or_default();
            if process.has_ended() {
                assert!(
                    told().contains("nowhere to listen on"),
                    "PgBouncer does not start: {}",
                    told()
                );
                return false;
            }
            // Only then is it ours that answers there.
            if told().contains(" listening on ") && self.administrator().is_ok() {
                self.process = Some(process);
                return true;
            }
            assert!(Instant::now() < end, "PgBouncer does not answer: {}", told());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.kill();
        let log = self.directory.join("log");
        if thread::panicking() {
            eprintln!("--- PgBouncer\n{}", fs::read_to_string(log).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The process, and a watchdog beside it that kills it when the pipe between us and the watchdog breaks: if we are
/// killed, too.
struct Process {
    pgbouncer: Child,
    watchdog: Child,
}

impl Process {
    fn start(ini: &Path, log: &Path) -> Process {
        let log = File::create(log).expect("a log");
        let mut command = Command::new(binary());
        command
            .arg(ini)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // It refuses to run as root.
        let owner = fs::metadata(data_directory()).expect("the data directory");
        let ours = fs::metadata(ini).expect("the configuration");
        if ours.uid() != owner.uid() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let pgbouncer = command.spawn().expect("PgBouncer starts");
        let watchdog = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\"", &pgbouncer.id().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh");
        Process { pgbouncer, watchdog }
    }

    fn has_ended(&mut self) -> bool {
        self.pgbouncer.try_wait().expect("a child").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // First the watchdog, lest it kill whoever gets the number next.
        for child in [&mut self.watchdog, &mut self.pgbouncer] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The program; installed if there is none.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/postgres");
        printed(Command::new(script).arg("pgbouncer")).into()
    })
}

fn data_directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| rows(&mut admin(), "SHOW data_directory").remove(0).into())
}

/// A directory that the server's user can enter, and that is removed with the server.
fn place() -> &'static Path {
    data_directory().parent().expect("a parent")
}

/// Below what Linux and macOS take for outgoing connections.
fn random_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    20_000 + (RandomState::new().hash_one(std::process::id()) % 12_000) as u16
}
