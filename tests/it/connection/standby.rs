//! A hot standby as the target: up to date, it is recognised; with anything pending, it is refused before anything is
//! tried; and of several hosts the one that can be written to is found.

use std::fs;
use std::io::{self, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use postgres::{Client, NoTls};

use crate::support::cluster::script;
use crate::support::words::WAITS_FOR_BUN;
use crate::support::{Lockstep, Scratch, rows, server, wait_until};

#[test]
fn a_standby_that_is_up_to_date_is_recognised_as_such() {
    let scratch = Scratch::new();
    let database = Database::new();
    write_files(&scratch, 2);
    up(&scratch, &database.on_primary()).run().code(0);
    database.catch_up();
    up(&scratch, &database.on_standby()).run().code(0).is_up_to_date(2);
    database.assert_no_errors_on_standby();
}

#[test]
fn what_is_pending_on_a_standby_is_refused_before_anything_is_tried() {
    let scratch = Scratch::new();
    let database = Database::new();
    write_files(&scratch, 1);
    let refused = || {
        let up = up(&scratch, &database.on_standby());
        let outcome = up.env("DATABASE_WAIT_SECONDS", "0").run();
        outcome.code(2).waits_for_nothing().is_silent_about("applying");
        assert_eq!(
            outcome.error(),
            format!(
                "the server refused: postgres@{}/{}: migrations are pending, and this server is a standby, which \
                 cannot be written to\n  hint: point Lockstep at the primary",
                pair().standby,
                database.name
            )
        );
        database.assert_no_errors_on_standby();
    };
    // Without any tables, and with them.
    refused();
    up(&scratch, &database.on_primary()).run().code(0);
    database.catch_up();
    write_files(&scratch, 2);
    refused();
    assert_eq!(database.history(), ["20230101000001"]);
}

/// In the midst of a failover the name may lead to a standby still: it is waited for what comes.
#[test]
fn a_standby_that_is_met_during_a_failover_is_waited_for() {
    let scratch = Scratch::new();
    let database = Database::new();
    write_files(&scratch, 1);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let target = Arc::new(Mutex::new(pair().standby.clone()));
    let leads = Arc::clone(&target);
    thread::spawn(move || {
        for client in listener.incoming() {
            let to = leads.lock().expect("a lock").clone();
            let (Ok(client), Ok(server)) = (client, TcpStream::connect(to)) else {
                continue;
            };
            for (mut from, mut to) in [(&client, &server), (&server, &client)]
                .map(|(a, b)| (a.try_clone().expect("a socket"), b.try_clone().expect("a socket")))
            {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    let url = format!("postgres://postgres@{address}/{}", database.name);
    let short = up(&scratch, &url).env("DATABASE_WAIT_SECONDS", "0.5");
    short.run().code(2).says("which cannot be written to");
    let mut run = up(&scratch, &url).spawn();
    run.wait_for_log("is a standby");
    *target.lock().expect("a lock") = pair().primary.clone();
    run.wait().code(0).applied_now(1);
    database.assert_no_errors_on_standby();
}

/// As on any server: bun's row is a reason to wait, not to write.
#[test]
fn on_a_standby_too_a_row_of_buns_is_waited_for() {
    let scratch = Scratch::new();
    let database = Database::new();
    write_files(&scratch, 1);
    up(&scratch, &database.on_primary()).run().code(0);
    database.sql("INSERT INTO bun_migration_locks (table_name) VALUES ('bun_migrations')");
    database.catch_up();
    let standby = up(&scratch, &database.on_standby());
    let mut run = standby.spawn();
    run.wait_for_log(WAITS_FOR_BUN);
    database.sql("DELETE FROM bun_migration_locks");
    run.wait().code(0).is_up_to_date(1);
}

/// They only read, so a standby will do; but who lives on the primary cannot be seen from here.
#[test]
fn status_check_and_wait_work_on_a_standby() {
    let scratch = Scratch::new();
    let database = Database::new();
    write_files(&scratch, 1);
    let on_standby = |command: &str| {
        let run = scratch.lockstep(&[command]);
        run.env("DATABASE_URL", database.on_standby())
    };
    let status = on_standby("status").run();
    status.code(0);
    assert!(
        status.stdout.contains(", a standby\n") && status.stdout.contains("lock      free\n"),
        "{status}"
    );
    on_standby("check").run().code(6);
    let mut wait = on_standby("wait").spawn();
    wait.wait_for_log("waiting for 1 migration to be applied by another runner");
    up(&scratch, &database.on_primary()).run().code(0);
    wait.wait().code(0);
    on_standby("check").run().code(0);

    database.sql("INSERT INTO bun_migration_locks (id, table_name) VALUES (-7, 'bun_migrations')");
    database.catch_up();
    let status = on_standby("status").run();
    status.code(0);
    assert!(
        status.stdout.contains(
            "lock      row -7 of public.bun_migration_locks is a runner's; only the primary knows whether that lives\n"
        ),
        "{status}"
    );
    on_standby("check").run().code(0);
    database.assert_no_errors_on_standby();
}

#[test]
fn of_several_hosts_the_one_that_can_be_written_to_is_found() {
    let scratch = Scratch::new();
    let database = Database::new();
    write_files(&scratch, 2);
    let hosts = format!("{},{}", pair().standby, pair().primary);
    let url = format!("postgres://postgres@{hosts}/{}", database.name);
    up(&scratch, &url)
        .env("DATABASE_WAIT_SECONDS", "0")
        .run()
        .code(2)
        .says("which cannot be written to");
    up(&scratch, &format!("{url}?target_session_attrs=read-write"))
        .run()
        .code(0)
        .is_up_to_date(2)
        .applied_now(2);
    database.catch_up();
    let asked = |attributes: &str, hosts: &str| {
        let url = format!(
            "postgres://postgres@{hosts}/{}?target_session_attrs={attributes}",
            database.name
        );
        let status = scratch.lockstep(&["status"]).env("DATABASE_URL", url);
        status.env("DATABASE_WAIT_SECONDS", "0").run()
    };
    let (primary, standby) = (&pair().primary, &pair().standby);
    let turned = format!("{primary},{standby}");
    for (attributes, hosts, is_standby) in [
        ("primary", &hosts, false),
        ("read-write", &hosts, false),
        ("any", &hosts, true),
        ("any", &turned, false),
        ("standby", &turned, true),
        ("read-only", &turned, true),
        ("prefer-standby", &turned, true),
        ("prefer-standby", primary, false),
    ] {
        let status = asked(attributes, hosts);
        status.code(0);
        let is_told = status.stdout.contains(", a standby\n");
        assert_eq!(is_told, is_standby, "{attributes} of {hosts}\n{status}");
    }
    asked("standby", primary).code(3).says("it is a primary");
    asked("primary", standby).code(3).says("it is a standby");
    assert_eq!(database.history(), ["20230101000001", "20230101000002"]);
    database.catch_up();
    up(&scratch, &format!("{url}?target_session_attrs=read-write")).run().code(0);
    up(&scratch, &url).run().code(0);
    database.assert_no_errors_on_standby();
}

/// It is a standby, so it would never become one that can be written to while we wait.
#[test]
fn where_no_host_can_be_written_to_the_wait_has_its_deadline() {
    let scratch = Scratch::new();
    let database = Database::new();
    write_files(&scratch, 1);
    let url = format!("{}?target_session_attrs=read-write", database.on_standby());
    let outcome = up(&scratch, &url).env("DATABASE_WAIT_SECONDS", "0.5").run();
    outcome.code(3).says("the database could not be reached within");
    assert_eq!(database.sql("SELECT to_regclass('bun_migrations') IS NULL"), ["t"]);
}

fn write_files(scratch: &Scratch, count: usize) {
    for number in 1..=count {
        scratch
            .file(&format!("2023010100000{number}_t.up.sql"), format!("CREATE TABLE t{number} ()"));
    }
}

fn up<'a>(scratch: &'a Scratch, url: &str) -> Lockstep<'a> {
    scratch.lockstep(&["up"]).env("DATABASE_URL", url)
}

/// A database of a test's own on the primary, and so on the standby.
struct Database {
    name: String,
}

impl Database {
    fn new() -> Database {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("s{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        client(&pair().primary, "postgres")
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .expect("a database");
        let database = Database { name };
        database.catch_up();
        database
    }

    fn on_primary(&self) -> String {
        format!("postgres://postgres@{}/{}", pair().primary, self.name)
    }

    fn on_standby(&self) -> String {
        format!("postgres://postgres@{}/{}", pair().standby, self.name)
    }

    /// On the primary.
    fn sql(&self, sql: &str) -> Vec<String> {
        rows(&mut client(&pair().primary, &self.name), sql)
    }

    fn history(&self) -> Vec<String> {
        self.sql("SELECT name FROM bun_migrations ORDER BY id")
    }

    /// Waits until the standby has all that the primary has now.
    fn catch_up(&self) {
        let now =
            rows(&mut client(&pair().primary, "postgres"), "SELECT pg_current_wal_insert_lsn()")
                .remove(0);
        let mut standby = client(&pair().standby, "postgres");
        let query = format!("SELECT pg_last_wal_replay_lsn() >= '{now}'");
        wait_until("the standby has caught up", || rows(&mut standby, &query) == ["t"]);
    }

    #[track_caller]
    fn assert_no_errors_on_standby(&self) {
        let log = fs::read(pair().standby_log.as_path()).expect("the standby's log");
        let about = format!("] {} ", self.name);
        let errors: Vec<String> = String::from_utf8_lossy(&log)
            .lines()
            .filter(|line| line.contains(&about) && line.contains("ERROR:"))
            .map(str::to_owned)
            .collect();
        assert_eq!(errors, [""; 0]);
    }
}

pub fn client(authority: &str, database: &str) -> Client {
    Client::connect(&format!("postgres://postgres@{authority}/{database}"), NoTls)
        .expect("a connection")
}

/// Two private servers, `host:port` each; stopped and removed together with the one that the tests share.
struct Pair {
    primary: String,
    standby: String,
    standby_log: PathBuf,
}

fn pair() -> &'static Pair {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    PAIR.get_or_init(|| {
        let directory = PathBuf::from(
            std::env::var("LOCKSTEP_TEST_PG_DIR").expect("run the tests with `make test`"),
        );
        let primary = start(&directory.join(format!("primary-{}", std::process::id())));
        let data = rows(&mut client(&primary, "postgres"), "SHOW data_directory").remove(0);
        let directory = copy(&primary, Path::new(&data));
        Pair { primary, standby: start(&directory), standby_log: directory.join("log") }
    })
}

/// Starts the cluster of a directory, creating it if there is none.
pub fn start(directory: &Path) -> String {
    let url = script(&["start", "--throwaway"], directory);
    let authority =
        url.strip_prefix("postgres://postgres@").and_then(|rest| rest.split('/').next());
    authority.expect("postgres://postgres@host:port/").to_owned()
}

/// Makes a cluster that is a standby of the primary, where the user that runs the servers can get in.
pub fn copy(primary: &str, primarys_data: &Path) -> PathBuf {
    let directory = primarys_data.parent().expect("a parent").join("standby");
    let data = directory.join("data");
    fs::create_dir(&directory).expect("a directory");
    fs::DirBuilder::new().mode(0o700).create(&data).expect("a directory");
    for (name, text) in [("throwaway", ""), ("log", ""), ("bindir", &text_of(&server().bindir))] {
        fs::write(directory.join(name), text).expect("a file");
    }
    let owner = fs::metadata(primarys_data).expect("the primary's data");
    let mut backup = Command::new(server().bindir.join("pg_basebackup"));
    let url = format!("postgres://postgres@{primary}/");
    backup
        .args(["--checkpoint=fast", "--no-sync", "--dbname", &url])
        .arg("--pgdata")
        .arg(&data)
        .current_dir("/");
    if fs::metadata(&data).expect("a directory").uid() != owner.uid() {
        chown(&data, Some(owner.uid()), Some(owner.gid())).expect("chown");
        backup.uid(owner.uid()).gid(owner.gid());
    }
    let output = backup.output().expect("pg_basebackup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Not by --write-recovery-conf: a newer pg_basebackup writes parameters that an older server does not know.
    let mut settings = fs::OpenOptions::new();
    let mut settings = settings.append(true).open(data.join("postgresql.auto.conf"));
    let settings = settings.as_mut().expect("the settings");
    writeln!(settings, "primary_conninfo = '{url}'").expect("written");
    fs::write(data.join("standby.signal"), "").expect("a file");
    directory
}

fn text_of(path: &Path) -> String {
    format!("{}\n", path.display())
}
