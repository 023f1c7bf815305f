//! What tests are made of: a scratch database and directory, the binary with a clean environment, its outcome.

pub mod bun_client;
pub mod cluster;
pub mod json;
pub mod pgbouncer;
pub mod proxy;
pub mod site;
pub mod steps;
pub mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls, SimpleQueryMessage};

/// A test that waits longer than this for anything has found a hang.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// The throwaway cluster of `make test`.
pub struct Server {
    pub host: String,
    pub port: u16,
    pub bindir: PathBuf,
    directory: PathBuf,
}

/// The server that the tests share.
pub fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let variable = |name: &str| {
            std::env::var(name)
                .unwrap_or_else(|_| panic!("{name} is not set: run the tests with `make test`"))
        };
        let url = variable("LOCKSTEP_TEST_DATABASE_URL");
        let authority = url
            .split('@')
            .nth(1)
            .and_then(|rest| rest.split('/').next())
            .expect("postgres://user@host:port/");
        let (host, port) = authority.split_once(':').expect("host:port");
        Server {
            host: host.to_owned(),
            port: port.parse().expect("a port"),
            bindir: variable("LOCKSTEP_TEST_PG_BINDIR").into(),
            directory: variable("LOCKSTEP_TEST_PG_DIR").into(),
        }
    })
}

/// A scratch database and a scratch directory with an empty `migrations` in it; both are gone when it is dropped.
pub struct Scratch {
    pub database: String,
    pub directory: PathBuf,
    /// The role that the binary logs in as, if it is not the superuser.
    owner: Option<String>,
    session: Kept,
}

impl Scratch {
    pub fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(format!("lockstep-{name}"));
        fs::create_dir_all(directory.join("migrations")).expect("a scratch directory");
        ADMIN.ask(admin, &format!("CREATE DATABASE {name} TEMPLATE template0"));
        Scratch { database: name, directory, owner: None, session: Kept::none() }
    }

    /// One where the binary is an ordinary role: whatever tables, functions and types there are belong to it, and
    /// neither the database nor its schemas do.
    pub fn owned() -> Scratch {
        let mut scratch = Scratch::new();
        let owner = format!("{}_owner", scratch.database);
        scratch.sql(&format!("CREATE ROLE {owner} LOGIN; GRANT ALL ON SCHEMA public TO {owner}"));
        scratch.owner = Some(owner);
        scratch
    }

    /// The role that the binary logs in as.
    pub fn user(&self) -> &str {
        self.owner.as_deref().unwrap_or("postgres")
    }

    /// With these files below `migrations`.
    pub fn with(files: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<[u8]>)>) -> Scratch {
        let scratch = Scratch::new();
        for (name, text) in files {
            scratch.file(name.as_ref(), text);
        }
        scratch
    }

    /// With these files, all of them applied.
    #[track_caller]
    pub fn migrated(
        files: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<[u8]>)>,
    ) -> Scratch {
        let scratch = Scratch::with(files);
        scratch.up().code(0);
        scratch
    }

    pub fn url(&self) -> String {
        let server = server();
        format!("postgres://postgres@{}:{}/{}", server.host, server.port, self.database)
    }

    pub fn migrations(&self) -> PathBuf {
        self.directory.join("migrations")
    }

    /// Writes a file below `migrations` and returns its path.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.migrations().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, text).expect("a file");
        path
    }

    /// A role that has to give this password, where everybody else is trusted, and may do in the scratch database what
    /// migrations do.
    pub fn passworded(&self, label: &str, password: &str) -> Role<'_> {
        ask_members_for_passwords();
        let password = password.replace('\'', "''");
        let role = self.role(label, &format!("LOGIN PASSWORD '{password}' IN ROLE {PASSWORDED}"));
        let (name, database) = (&role.name, &self.database);
        self.sql(&format!(
            "GRANT ALL ON SCHEMA public TO {name}; GRANT ALL ON DATABASE {database} TO {name}"
        ));
        role
    }

    /// A client of the scratch database, as superuser, whatever limits the database has for others.
    pub fn client(&self) -> Client {
        self.url()
            .parse::<postgres::Config>()
            .expect("a URL")
            .options("-c statement_timeout=0 -c lock_timeout=0")
            .connect(NoTls)
            .expect("a connection")
    }

    /// Runs statements as superuser and returns the rows of all of them, a NULL as `∅`, columns joined by `|`.
    pub fn sql(&self, sql: &str) -> Vec<String> {
        let found = self.session.ask(|| self.client(), sql);
        if let Some(owner) = self.owner.as_ref().filter(|_| sql.contains("CREATE ")) {
            self.session.ask(|| self.client(), &ADOPT.replace('@', owner));
        }
        found
    }

    /// The one value that a query returns.
    pub fn value(&self, sql: &str) -> String {
        let rows = self.sql(sql);
        assert_eq!(rows.len(), 1, "one row expected of {sql}, got {rows:?}");
        rows.into_iter().next().expect("a row")
    }

    /// The versions in the history, in the order of their ids.
    pub fn history(&self) -> Vec<String> {
        match self.value("SELECT to_regclass('bun_migrations') IS NOT NULL").as_str() {
            "t" => self.sql("SELECT name FROM bun_migrations ORDER BY id"),
            _ => Vec::new(),
        }
    }

    /// The binary, with an environment that holds nothing but the way to the scratch database and directory.
    pub fn lockstep(&self, arguments: &[&str]) -> Lockstep<'_> {
        let mut environment = BTreeMap::new();
        let user = format!("//{}@", self.user());
        let url = self.url().replace("//postgres@", &user);
        environment.insert("DATABASE_URL".to_owned(), url);
        environment.insert("MIGRATIONS_DIR".to_owned(), self.migrations().display().to_string());
        environment.insert("LOG_FORMAT".to_owned(), "json".to_owned());
        environment.insert("HOME".to_owned(), self.directory.display().to_string());
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Lockstep { scratch: self, arguments, environment, wrapper: Vec::new() }
    }

    /// `lockstep up` with nothing special about it.
    pub fn up(&self) -> Outcome {
        self.lockstep(&["up"]).run()
    }

    /// `pg_dump --schema-only`, to see that nothing has changed.
    pub fn schema(&self) -> String {
        let text = printed(Command::new(server().bindir.join("pg_dump")).args([
            "--schema-only",
            "--dbname",
            &self.url(),
        ]));
        // The key of `\restrict` is a random one.
        text.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n")
    }

    /// Ends the sessions that are kept: for whoever counts what sessions take.
    pub fn end_kept(&self) {
        self.session.all().clear();
        ADMIN.all().clear();
    }

    /// What the server has logged about this database.
    pub fn server_log(&self) -> Vec<String> {
        let log = fs::read(server().directory.join("log")).expect("the server's log");
        let about = format!("] {} ", self.database);
        String::from_utf8_lossy(&log)
            .lines()
            .filter(|line| line.contains(&about))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // First, since the server waits in steps of 100 ms for those that are still there.
        self.session.all().clear();
        let _ = fs::remove_dir_all(&self.directory);
        let database = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database);
        let owner = self.owner.iter().map(|it| format!("DROP ROLE {it}"));
        for drop in [database].into_iter().chain(owner) {
            if !thread::panicking() {
                ADMIN.ask(admin, &drop);
            }
        }
    }
}

/// Sessions that are kept for whoever asks next: to begin and end one costs the server more than most questions do.
struct Kept(Mutex<Vec<Client>>);

/// Who makes and drops the databases.
static ADMIN: Kept = Kept::none();

impl Kept {
    const fn none() -> Kept {
        Kept(Mutex::new(Vec::new()))
    }

    fn all(&self) -> MutexGuard<'_, Vec<Client>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`rows`], in a session that is as good as new: in a kept one, if that is still there.
    fn ask(&self, connect: impl Fn() -> Client, sql: &str) -> Vec<String> {
        let kept = self.all().pop();
        let there = kept.and_then(|mut it| it.batch_execute("DISCARD ALL").is_ok().then_some(it));
        let mut client = there.unwrap_or_else(connect);
        let found = rows(&mut client, sql);
        self.all().push(client);
        // Only sessions that begin later see what these set.
        if sql.contains("ALTER DATABASE") || sql.contains("ALTER ROLE") {
            self.all().clear();
        }
        found
    }
}

/// Gives what the superuser has made to the role `@`.
const ADOPT: &str = "DO $$ DECLARE it record; BEGIN
    FOR it IN SELECT oid::regclass AS name FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm')
        AND relowner = 'postgres'::regrole AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)' LOOP
      EXECUTE format('ALTER TABLE %s OWNER TO @', it.name); END LOOP;
    FOR it IN SELECT oid::regprocedure AS name FROM pg_proc WHERE oid >= 16384 AND proowner = 'postgres'::regrole LOOP
      EXECUTE format('ALTER ROUTINE %s OWNER TO @', it.name); END LOOP;
    FOR it IN SELECT oid::regtype AS name FROM pg_type WHERE oid >= 16384 AND typtype IN ('e', 'd')
        AND typowner = 'postgres'::regrole LOOP
      EXECUTE format('ALTER TYPE %s OWNER TO @', it.name); END LOOP;
    FOR it IN SELECT oid::regnamespace AS name FROM pg_namespace WHERE oid >= 16384 AND nspname !~ '^pg_' LOOP
      EXECUTE format('GRANT ALL ON SCHEMA %s TO @', it.name); END LOOP;
  END $$";

/// Whose members have to give a password.
const PASSWORDED: &str = "lockstep_passworded";

/// Makes the server ask the members of [`PASSWORDED`] for passwords, once. The server writes its file itself, since it
/// may be another user's.
fn ask_members_for_passwords() {
    static DONE: OnceLock<()> = OnceLock::new();
    DONE.get_or_init(|| {
        let mut admin = admin();
        let file = rows(&mut admin, "SHOW hba_file").remove(0);
        let lines = [
            &format!("local all +{PASSWORDED} scram-sha-256"),
            &format!("host all +{PASSWORDED} all scram-sha-256"),
            "local all all trust",
            "host all all all trust",
            "local replication all trust",
            "host replication all all trust",
        ];
        let change = format!(
            "DO $$ BEGIN CREATE ROLE {PASSWORDED} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             COPY (SELECT unnest(string_to_array('{}', ';'))) TO '{file}'; SELECT pg_reload_conf()",
            lines.join(";")
        );
        admin.batch_execute(&change).expect("a change of pg_hba.conf");
        let server = server();
        let config = format!("host={} port={} user={PASSWORDED} dbname=postgres", server.host, server.port);
        wait_until("the server asks for passwords", || Client::connect(&config, NoTls).is_err());
    });
}

/// What a program prints, which must succeed.
#[track_caller]
pub fn printed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.expect("the program is there");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A client of the database `postgres`, as superuser.
pub fn admin() -> Client {
    let server = server();
    let config = format!("host={} port={} user=postgres dbname=postgres", server.host, server.port);
    Client::connect(&config, NoTls).expect("the test server")
}

/// Runs statements and returns the rows of all of them, a NULL as `∅`, columns joined by `|`.
pub fn rows(client: &mut Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|column| row.get(column).unwrap_or("∅"))
                .collect::<Vec<_>>()
                .join("|"),
        ),
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

/// Waits until `condition` holds, and fails the test if it does not within [`DEADLINE`].
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal, by its name without `SIG`: `TERM`, `KILL`, `STOP`. Each shell has a `kill` of its own, so this needs
/// neither the program, which slim images lack, nor a crate.
pub fn send_signal(name: &str, pid: impl fmt::Display) {
    let status = Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()])
        .status()
        .expect("sh");
    assert!(status.success(), "kill -s {name} {pid}");
}

/// Prints a line that a passing test would not show otherwise.
pub fn tell(text: &str) {
    let _ = io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Returns true if and only if this is the long version.
pub fn is_soak() -> bool {
    std::env::var_os("LOCKSTEP_SOAK").is_some_and(|it| it == "1")
}

/// An invocation of the binary.
#[derive(Clone)]
pub struct Lockstep<'a> {
    scratch: &'a Scratch,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    wrapper: Vec<String>,
}

impl Lockstep<'_> {
    /// Starts it by another program, whose last argument is the binary: `["/usr/bin/nsenter", "-n", …]`.
    pub fn under(mut self, wrapper: &[String]) -> Self {
        self.wrapper = wrapper.to_vec();
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    pub fn command(&self) -> Command {
        let words: Vec<&str> = self
            .wrapper
            .iter()
            .map(String::as_str)
            .chain([env!("CARGO_BIN_EXE_lockstep")])
            .collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .args(&self.arguments)
            .env_clear()
            .envs(&self.environment)
            .current_dir(&self.scratch.directory);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn spawn(&self) -> Running {
        let mut child = self.command().spawn().expect("the binary starts");
        let stdout = child.stdout.take().map(collect).expect("a pipe");
        let stderr = child.stderr.take().map(collect).expect("a pipe");
        let told =
            format!("lockstep {}\nenvironment: {:#?}", self.arguments.join(" "), self.environment);
        Running { child, stdout, stderr, told }
    }

    /// Runs it to its end.
    pub fn run(&self) -> Outcome {
        self.spawn().wait()
    }
}

type Collected = (thread::JoinHandle<()>, std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

fn collect(mut stream: impl Read + Send + 'static) -> Collected {
    let collected = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = std::sync::Arc::clone(&collected);
    let thread = thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            sink.lock().expect("no panic while locked").extend_from_slice(&buffer[..count]);
        }
    });
    (thread, collected)
}

/// The binary, running; killed if it is dropped.
pub struct Running {
    child: Child,
    stdout: Collected,
    stderr: Collected,
    told: String,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.stderr.1.lock().expect("no panic while locked")).into_owned()
    }

    /// Returns true if and only if it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Waits until its log holds `text`.
    pub fn wait_for_log(&mut self, text: &str) {
        let end = Instant::now() + DEADLINE;
        while !self.log().contains(text) {
            let ended = self.child.try_wait().expect("a child").is_some();
            assert!(
                !ended && Instant::now() < end,
                "waited in vain for {text:?} in the log of\n{}\n{}",
                self.told,
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal, as [`send_signal`] does.
    pub fn signal(&self, name: &str) {
        send_signal(name, self.pid());
    }

    pub fn kill(mut self) -> Outcome {
        let _ = self.child.kill();
        self.wait()
    }

    /// Waits for its end; killed and failed at [`DEADLINE`].
    pub fn wait(mut self) -> Outcome {
        let end = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                panic!("hangs: {}\n{}", self.told, self.log());
            }
            thread::sleep(Duration::from_millis(2));
        };
        let finish = |(thread, collected): &mut Collected| {
            let thread = std::mem::replace(thread, thread::spawn(|| ()));
            thread.join().expect("a reader");
            String::from_utf8_lossy(&collected.lock().expect("no panic while locked")).into_owned()
        };
        let stdout = finish(&mut self.stdout);
        let stderr = finish(&mut self.stderr);
        Outcome {
            code: status.code(),
            signal: status.signal(),
            stdout,
            stderr,
            told: std::mem::take(&mut self.told),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of an invocation. Failing assertions print all of it.
pub struct Outcome {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    told: String,
}

impl Outcome {
    #[track_caller]
    pub fn code(&self, expected: i32) -> &Self {
        assert_eq!(self.code, Some(expected), "exit code\n{self}");
        self
    }

    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert!(self.stderr.contains(text), "the log lacks {text:?}\n{self}");
        self
    }

    #[track_caller]
    pub fn is_silent_about(&self, text: &str) -> &Self {
        assert!(
            !self.stderr.contains(text) && !self.stdout.contains(text),
            "the output holds {text:?}\n{self}"
        );
        self
    }

    /// It was the first answer that counted. That a busy machine's server takes seconds for it is told, too, and is no wait of
    /// the kind that is meant.
    #[track_caller]
    pub fn waits_for_nothing(&self) -> &Self {
        let mut log = self.stderr.lines();
        let waits = |it: &str| it.contains("waiting") && !it.contains("does not answer");
        assert!(!log.any(waits), "it waits\n{self}");
        self
    }

    /// The final error's text: in JSON its message, in text format what follows `error: `.
    #[track_caller]
    pub fn error(&self) -> String {
        let json = self.lines().into_iter().rev().find(|line| line.field("level") == Some("error"));
        if let Some(line) = json {
            return line.field("message").expect("a message").to_owned();
        }
        let at = self.stderr.find("error: ").unwrap_or_else(|| panic!("no error\n{self}"));
        self.stderr[at + "error: ".len()..].trim_end().to_owned()
    }

    /// The log's JSON lines, parsed.
    #[track_caller]
    pub fn lines(&self) -> Vec<Line> {
        self.stderr
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| Line::parse(line, self))
            .collect()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\ncode {:?}, signal {:?}", self.told, self.code, self.signal)?;
        write!(f, "--- stdout\n{}--- stderr\n{}", self.stdout, self.stderr)
    }
}

/// One line of the JSON log: names and values, strings unescaped, all else as it stands.
#[derive(Debug)]
pub struct Line(pub Vec<(String, String)>);

impl Line {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Parses a flat object strictly: what is no JSON fails the test.
    #[track_caller]
    fn parse(line: &str, outcome: &Outcome) -> Line {
        let mut rest = line
            .strip_prefix('{')
            .and_then(|it| it.strip_suffix('}'))
            .unwrap_or_else(|| panic!("no object: {line}\n{outcome}"));
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let (key, after) =
                json_string(rest).unwrap_or_else(|| panic!("no key: {rest}\n{outcome}"));
            let after =
                after.strip_prefix(':').unwrap_or_else(|| panic!("no colon: {after}\n{outcome}"));
            let (value, after) = match json_string(after) {
                Some(found) => found,
                None => {
                    let end = after.find(',').unwrap_or(after.len());
                    let value = &after[..end];
                    let literal =
                        matches!(value, "true" | "false" | "null") || value.parse::<f64>().is_ok();
                    assert!(literal, "no value: {after}\n{outcome}");
                    (value.to_owned(), &after[end..])
                }
            };
            fields.push((key, value));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        Line(fields)
    }
}

fn json_string(text: &str) -> Option<(String, &str)> {
    let mut characters = text.strip_prefix('"')?.char_indices();
    let mut value = String::new();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 2..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                't' => value.push('\t'),
                'r' => value.push('\r'),
                'b' => value.push('\u{8}'),
                'f' => value.push('\u{c}'),
                'u' => {
                    let code: String =
                        (0..4).filter_map(|_| characters.next()).map(|(_, c)| c).collect();
                    value.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
                }
                plain @ ('"' | '\\' | '/') => value.push(plain),
                _ => return None,
            },
            control if (control as u32) < 0x20 => return None,
            plain => value.push(plain),
        }
    }
    None
}

/// The path as text.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A place where a migration stops until the test lets it go on: an advisory lock that the test holds. Runs that come
/// here want `DDL_LOCK_TIMEOUT_SECONDS=0`, or they would give up the wait and try again.
pub struct Gate {
    client: Client,
}

impl Gate {
    /// What a migration says to stop here.
    pub const SQL: &str = "SELECT pg_catalog.pg_advisory_xact_lock(77);";

    pub fn closed(scratch: &Scratch) -> Gate {
        let mut client = scratch.client();
        client.batch_execute("SELECT pg_catalog.pg_advisory_lock(77)").expect("a gate");
        Gate { client }
    }

    /// The process id of the session that stands here, if one does.
    pub fn visitor(&mut self) -> Option<i32> {
        let query = "SELECT pid FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted \
                     AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())";
        rows(&mut self.client, query).first().map(|pid| pid.parse().expect("a process id"))
    }

    /// The process id of the session that keeps it closed.
    pub fn pid(&mut self) -> String {
        rows(&mut self.client, "SELECT pg_backend_pid()").remove(0)
    }

    /// Waits until a session stands here, and returns its process id.
    pub fn wait_for_visitor(&mut self) -> i32 {
        let mut visitor = None;
        wait_until("a migration has come to the gate", || {
            visitor = self.visitor();
            visitor.is_some()
        });
        visitor.expect("a visitor")
    }

    /// Starts a runner, waits until it stands here, and starts a second one that waits for it.
    pub fn queue(&mut self, first: &Lockstep, second: &Lockstep) -> (Running, Running) {
        let first = first.spawn();
        self.wait_for_visitor();
        let mut second = second.spawn();
        second.wait_for_log(words::WAITS_FOR_A_RUNNER);
        (first, second)
    }

    /// Lets whoever stands here go on, and all that come later.
    pub fn open(&mut self) {
        self.client.batch_execute("SELECT pg_catalog.pg_advisory_unlock(77)").expect("a gate");
    }
}

impl Scratch {
    /// An `up` whose migrations may stand at a [`Gate`] for as long as they like.
    pub fn patient_up(&self) -> Lockstep<'_> {
        self.lockstep(&["up"]).env("DDL_LOCK_TIMEOUT_SECONDS", "0")
    }

    /// No runner has the lock, and none has left its row.
    #[track_caller]
    pub fn assert_unlocked(&self) {
        assert_eq!(self.guard(), None, "the guard");
        assert_eq!(self.sql("SELECT id FROM bun_migration_locks"), [""; 0], "the locks table");
    }

    /// The process id of the session that holds the guard, whatever the history table is.
    pub fn guard(&self) -> Option<i32> {
        let query = "SELECT pid FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 \
                     AND classid = 1819239275 \
                     AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())";
        self.sql(query).first().map(|pid| pid.parse().expect("a process id"))
    }
}

impl Running {
    /// Stops it where it is, until [`Running::thaw`]. What it has sent is still worked off by the server.
    pub fn freeze(&self) {
        self.signal("STOP");
        let stat = format!("/proc/{}/stat", self.pid());
        wait_until("the process is frozen", || {
            match fs::read_to_string(&stat) {
                Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')),
                // No such file system here: the signal was sent, which has to do.
                Err(_) => true,
            }
        });
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }
}

/// A role of the cluster with a name of its own; gone, with its rights, when it is dropped.
pub struct Role<'a> {
    pub name: String,
    scratch: &'a Scratch,
}

impl Scratch {
    /// Creates a role; `options` as in `CREATE ROLE`: `LOGIN`.
    pub fn role(&self, label: &str, options: &str) -> Role<'_> {
        let name = format!("{}_{label}", self.database);
        self.sql(&format!("CREATE ROLE {name} {options}"));
        Role { name, scratch: self }
    }
}

impl Scratch {
    /// A role that may read what it is granted, and whose transactions are read-only unless they say otherwise.
    pub fn reader(&self) -> Role<'_> {
        let role = self.role("reader", "LOGIN");
        let name = &role.name;
        self.sql(&format!(
            "ALTER ROLE {name} SET default_transaction_read_only = on; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {name}; \
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"
        ));
        role
    }
}

impl Role<'_> {
    /// The scratch database's URL, for this role.
    pub fn url(&self) -> String {
        self.scratch.url().replace("//postgres@", &format!("//{}@", self.name))
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.scratch.sql(&format!("DROP OWNED BY {0} CASCADE; DROP ROLE {0}", self.name));
        }
    }
}
