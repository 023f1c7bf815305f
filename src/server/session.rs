//! `Config` → a session on the server, waiting for the server to accept us.
//!
//! Everything is sent by the simple-query protocol: prepared statements fail behind a transaction pooler, and start-up
//! `options` are refused there or, worse, silently dropped. So settings are made inside transactions, see
//! [`settings`].

use std::fmt;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use log::debug;
use postgres::error::{DbError, Severity};
use postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::config::Server;
use crate::error::{Error, SqlError};
use crate::logging;
use crate::server::progress::Progress;
use crate::server::wait::Wait;
use crate::signals::{Signal, Signals};
use crate::sql;
pub use crate::sql::quote::literal;
use crate::text::words::seconds;

/// How long one try to connect may take, unless the user says otherwise: long enough for a slow link, short enough to
/// get several tries into the default of `DATABASE_WAIT_SECONDS`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may leave a session's very first answer open once it is connected. A pooler without a free
/// server connection keeps its clients waiting here.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the server may leave a statement of our own open. None of them waits for a lock for more than a few
/// seconds, so one that takes longer waits for something that no setting bounds: a pooler without a free connection, a
/// frozen server, a synchronous standby that is not there.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an answer may take before a signal is heeded while we wait for it.
const SIGNAL_PATIENCE: Duration = Duration::from_millis(500);

/// A try to connect is not cut shorter than this, however little is left to wait: the first message may meet a lock,
/// and the server should be able to say so.
const SHORTEST_TRY: Duration = Duration::from_secs(3);

/// How often a thread that waits for an answer looks up.
const SLICE: Duration = Duration::from_millis(20);

/// A connection that logs every statement, and tells a server's refusal from a connection that is gone.
pub struct Session {
    /// None once an answer has not come in time.
    client: Option<Client>,
    progress: Progress,
    signals: Signals,
}

/// Why a message to the server failed.
#[derive(Debug)]
pub enum Trouble {
    /// The server said so; the session is still there.
    Sql(Box<DbError>),
    /// The session is gone.
    Lost(String),
    /// A signal came while the answer did not; the session was left.
    Stopped(Signal),
}

impl Trouble {
    /// SQLSTATE and message. A connection that is gone has the standard's "connection failure".
    pub fn words(&self) -> (&str, &str) {
        match self {
            Trouble::Sql(error) => (error.code().code(), error.message()),
            Trouble::Lost(cause) => ("08006", cause),
            Trouble::Stopped(_) => ("57014", "stopped by a signal"),
        }
    }

    /// The error of a statement of our own: `doing` is what it was for.
    pub fn while_doing(self, doing: &str) -> Error {
        let doing = doing.to_owned();
        match self {
            Trouble::Sql(error) => Error::Database {
                doing,
                cause: Box::new(SqlError::from(&*error)),
            },
            Trouble::Lost(cause) => Error::ConnectionLost { doing, cause },
            Trouble::Stopped(signal) => Error::Stopped { signal, doing },
        }
    }
}

impl From<postgres::Error> for Trouble {
    fn from(error: postgres::Error) -> Trouble {
        match error.as_db_error() {
            // FATAL and PANIC end the session, whatever their SQLSTATE.
            Some(db)
                if !matches!(
                    db.parsed_severity(),
                    Some(Severity::Fatal | Severity::Panic)
                ) =>
            {
                Trouble::Sql(Box::new(db.clone()))
            }
            _ => Trouble::Lost(reason(&error)),
        }
    }
}

/// The words of an error of the client library; its own `Display` stops at "db error".
fn reason(error: &postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return SqlError::from(db).to_string();
    }
    let mut causes = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        causes.push(cause.to_string());
        source = cause.source();
    }
    if causes.is_empty() {
        error.to_string()
    } else {
        causes.join(": ")
    }
}

/// The rows of each statement of a message, in order; a statement without rows has an empty entry.
pub type Results = Vec<Vec<SimpleQueryRow>>;

impl Session {
    /// Opens a session and sends it its first message, and tries again until the server has answered or `wait` is
    /// over. What the server answers to the message is the caller's business.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] at the deadline; [`Error::Rejected`] at once if trying again cannot help: credentials,
    /// a database that does not exist, no right; [`Error::Stopped`].
    pub fn open(
        server: &Server,
        application_name: &str,
        first_message: &str,
        wait: &mut Wait,
    ) -> Result<(Session, Result<Results, Trouble>), Error> {
        loop {
            let cause = match attempt(server, application_name, first_message, wait)? {
                Attempt::Opened(session, answer) => return Ok((*session, answer)),
                Attempt::NotYet(cause) => cause,
                Attempt::Never(cause) => {
                    let server = server.description.clone();
                    return Err(Error::Rejected {
                        server,
                        cause,
                        hint: None,
                    });
                }
            };
            if wait.is_over() {
                let server = server.description.clone();
                return Err(Error::Unreachable {
                    server,
                    waited: wait.elapsed(),
                    cause,
                });
            }
            wait.say(|| format!("the database at {}: {cause}", server.description));
            wait.pause(Duration::from_millis(500))?;
        }
    }

    /// Sends one message of our own and returns the rows of each of its statements.
    pub fn query(&mut self, message: &str) -> Result<Results, Trouble> {
        let (sent, text) = (Instant::now(), message.to_owned());
        let outcome = self.bounded(ANSWER_TIMEOUT, move |client| client.simple_query(&text));
        log_statements(message, sent.elapsed(), outcome.as_ref().err());
        outcome.map(split_results)
    }

    /// Asks the catalog something, in one statement, and returns the rows.
    pub fn ask(&mut self, query: &str) -> Result<Vec<SimpleQueryRow>, Trouble> {
        let message = format!("SET LOCAL search_path TO pg_catalog, pg_temp; {query}");
        Ok(self.query(&message)?.into_iter().flatten().collect())
    }

    /// Sends one message of our own and throws away what it returns.
    pub fn execute(&mut self, message: &str) -> Result<(), Trouble> {
        self.query(message).map(drop)
    }

    /// Sends a message for as long as it takes, whatever signals come. Whoever sends it logs its statements.
    pub fn execute_patiently(&mut self, message: &str) -> Result<(), Trouble> {
        let client = self.client.as_mut().ok_or_else(gone)?;
        client.batch_execute(message).map_err(Trouble::from)
    }

    /// Sends a message for as long as it takes, or until a signal comes; then the session is left, and the server rolls
    /// back.
    pub fn execute_interruptibly(&mut self, message: &str) -> Result<(), Trouble> {
        let (sent, text) = (Instant::now(), message.to_owned());
        let outcome = self.bounded(Duration::MAX, move |client| client.batch_execute(&text));
        log_statements(message, sent.elapsed(), outcome.as_ref().err());
        outcome
    }

    /// Asks for a sign of life. It fails no transaction and takes no snapshot.
    pub fn ping(&mut self) -> Result<(), Trouble> {
        let outcome = self.bounded(FIRST_ANSWER_TIMEOUT, |client| client.simple_query(""));
        outcome.map(drop)
    }

    /// Lends the client to a thread, and waits for what comes of it. If nothing does in time, the thread is left behind
    /// with the client, which would wait for the answer even to be dropped.
    fn bounded<T: Send + 'static>(
        &mut self,
        limit: Duration,
        ask: impl FnOnce(&mut Client) -> Result<T, postgres::Error> + Send + 'static,
    ) -> Result<T, Trouble> {
        let mut client = self.client.take().ok_or_else(gone)?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let outcome = ask(&mut client);
            // Nobody listens any more if it took too long.
            let _ = sender.send((client, outcome));
        });
        let started = Instant::now();
        loop {
            match receiver.recv_timeout(SLICE) {
                Ok((client, outcome)) => {
                    self.client = Some(client);
                    return outcome.map_err(Trouble::from);
                }
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let signal = self
                .signals
                .received()
                .filter(|_| started.elapsed() > SIGNAL_PATIENCE);
            if let Some(signal) = signal {
                return Err(Trouble::Stopped(signal));
            }
            if started.elapsed() > limit {
                return Err(Trouble::Lost(format!(
                    "no answer within {}",
                    seconds(limit)
                )));
            }
        }
    }

    /// What the server says while a message runs.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Says good-bye to the server; a failure here is of no interest any more.
    pub fn close(self) {
        if let Some(Err(error)) = self.client.map(Client::close) {
            debug!("closing a connection: {}", reason(&error));
        }
    }
}

fn gone() -> Trouble {
    Trouble::Lost("the session is gone".to_owned())
}

enum Attempt {
    Opened(Box<Session>, Result<Results, Trouble>),
    /// Worth another try.
    NotYet(String),
    /// No try will ever succeed.
    Never(String),
}

/// One try. The client library bounds the TCP connect, but neither the look-up of the name nor the wait for the
/// server's answers, and cannot be interrupted. So the try runs in a thread of its own, which is left behind when it
/// takes too long, as in [`Session::bounded`]. A client library with deadlines would be the better way; it would cost a
/// second one beside the blocking one.
fn attempt(
    server: &Server,
    application_name: &str,
    first_message: &str,
    wait: &mut Wait,
) -> Result<Attempt, Error> {
    let progress = Progress::default();
    let timeout = server.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
    let client = client(server, application_name, timeout, &progress);
    let message = first_message.to_owned();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let opened = client.connect(NoTls).map(|mut client| {
            let sent = Instant::now();
            let answer = client.simple_query(&message);
            (client, answer, sent.elapsed())
        });
        // Nobody listens any more if it took too long.
        let _ = sender.send(opened);
    });
    let started = Instant::now();
    let mut limit = timeout + FIRST_ANSWER_TIMEOUT;
    if !wait.is_one_try() {
        limit = limit.min(wait.remaining().max(SHORTEST_TRY));
    }
    loop {
        match receiver.recv_timeout(SLICE) {
            Ok(Ok((client, answer, took))) => {
                let answer = answer.map(split_results).map_err(Trouble::from);
                log_statements(first_message, took, answer.as_ref().err());
                return Ok(match answer {
                    Err(Trouble::Lost(cause)) => Attempt::NotYet(cause),
                    answer => {
                        let (client, signals) = (Some(client), wait.signals().clone());
                        Attempt::Opened(
                            Box::new(Session {
                                client,
                                progress,
                                signals,
                            }),
                            answer,
                        )
                    }
                });
            }
            Ok(Err(error)) => return Ok(refusal(&error)),
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Attempt::NotYet("the try to connect broke off".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        wait.signals()
            .check("while connecting to the database; nothing was changed")?;
        const SILENCE: &str = "the server accepts connections but does not answer";
        if started.elapsed() >= limit {
            return Ok(Attempt::NotYet(format!(
                "{SILENCE} within {}",
                seconds(limit)
            )));
        }
        if started.elapsed() > Duration::from_secs(2) {
            wait.say_meanwhile(|| format!("the database at {}: {SILENCE}", server.description));
        }
    }
}

/// Tells whether it is worth trying again to connect.
fn refusal(error: &postgres::Error) -> Attempt {
    let cause = reason(error);
    if let Some(db) = error.as_db_error() {
        // Invalid authorization, no such database, no right to connect, a setting that does not exist: a person has to
        // act. All else may pass: starting up, shutting down, too many clients, and whatever a pooler has to say.
        return match db.code().code().get(..2) {
            Some("28" | "3D" | "42" | "22" | "0A") => Attempt::Never(cause),
            _ => Attempt::NotYet(cause),
        };
    }
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if inner.is::<io::Error>() {
            return Attempt::NotYet(cause);
        }
        source = inner.source();
    }
    // What is neither the network's nor the server's is ours: a password that is missing, say.
    if error.is_closed() {
        Attempt::NotYet(cause)
    } else {
        Attempt::Never(cause)
    }
}

/// The client's settings: who we are, and how soon a dead server or a cut cable is noticed. Keepalives notice it while
/// we wait for an answer; the user timeout, while what we sent is not acknowledged. Neither alone is enough (measured).
fn client(
    server: &Server,
    application_name: &str,
    timeout: Duration,
    progress: &Progress,
) -> postgres::Config {
    let mut client = server.client.clone();
    let listener = progress.clone();
    client
        .application_name(application_name)
        .connect_timeout(timeout)
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(10))
        .notice_callback(move |notice| listener.notice(&notice));
    client
}

fn split_results(messages: Vec<SimpleQueryMessage>) -> Results {
    let mut results = vec![Vec::new()];
    for message in messages {
        match message {
            SimpleQueryMessage::Row(row) => {
                if let Some(last) = results.last_mut() {
                    last.push(row);
                }
            }
            SimpleQueryMessage::CommandComplete(_) => results.push(Vec::new()),
            _ => {}
        }
    }
    results.pop();
    results
}

/// A message of our own goes into the query log as one entry, since it is one round trip; its verb is that of its
/// first statement.
fn log_statements(message: &str, took: Duration, trouble: Option<&Trouble>) {
    if !logging::query_log_enabled() {
        return;
    }
    let error = trouble.map(Trouble::words);
    logging::query(&sql::verb(message), took, message, error);
}

/// The name that a session shows in `pg_stat_activity`, to every role: `lockstep/<version> <host>/<pid>`. The server
/// cuts names at 63 bytes, and a statement's number or a run's token is appended, so the host gives way.
pub fn application_name(server: &Server) -> String {
    const LIMIT: usize = 63 - " -1234567890123456".len();
    let ours = concat!("lockstep/", env!("CARGO_PKG_VERSION"));
    // The server would replace what is not printable ASCII, and nobody would find the session by its name.
    let given = server.application_name.as_deref().unwrap_or(ours).chars();
    let printable = given.filter(|it| it.is_ascii_graphic() || *it == ' ');
    let mut name: String = printable.take(24).collect();
    let tail = format!("/{}", std::process::id());
    name.push(' ');
    let host = whoami::hostname().unwrap_or_else(|_| "localhost".to_owned());
    for character in host.chars().filter(char::is_ascii_graphic) {
        if name.len() + 1 + tail.len() > LIMIT {
            break;
        }
        name.push(character);
    }
    name + &tail
}

/// Settings for one transaction of ours, as one statement: every timeout that a role, a database or the server may
/// have set is neutralised, and an orphaned session ends soon.
#[derive(Clone, Copy, Default)]
pub struct Settings {
    /// Zero: none.
    pub lock_timeout: Duration,
    /// Zero: none.
    pub statement_timeout: Duration,
    pub commit: Commit,
    pub names: Names,
}

/// Where functions, operators and tables without a schema are looked for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    /// Wherever the role's settings say: for the user's own statements, and to find the user's tables.
    #[default]
    AsSet,
    /// In the catalog only, so that nothing of the user's is called by a statement of ours.
    Catalog,
}

impl Settings {
    /// The defaults, but for names.
    pub fn of_catalog() -> Settings {
        Settings {
            names: Names::Catalog,
            ..Settings::default()
        }
    }
}

/// When a commit returns.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Commit {
    /// At once; the release's durable commit makes up for it.
    #[default]
    Deferred,
    /// When it is on this server's disk, and with it all commits before it.
    Local,
    /// When it is on disk, and, if the server is set up so, at a synchronous standby; and with it all commits before it.
    Durable,
}

impl fmt::Display for Settings {
    /// Names that the server does not know are skipped, so one text serves PostgreSQL 14 to 18.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = match self.commit {
            Commit::Durable => "on",
            Commit::Local => "local",
            Commit::Deferred => "off",
        };
        let names = match self.names {
            Names::AsSet => "",
            Names::Catalog => "('search_path', 'pg_catalog, pg_temp'), ",
        };
        write!(
            f,
            "SELECT pg_catalog.set_config(n, v, true) FROM (VALUES {names}('lock_timeout', '{}'), ('statement_timeout', '{}'), \
             ('synchronous_commit', '{commit}'), ('idle_in_transaction_session_timeout', '0'), \
             ('idle_session_timeout', '0'), ('transaction_timeout', '0'), ('tcp_keepalives_idle', '5'), \
             ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '10000'), \
             ('client_connection_check_interval', {CHECK_INTERVAL})) s(n, v) \
             WHERE pg_catalog.current_setting(n, true) IS NOT NULL;",
            self.lock_timeout.as_millis(),
            self.statement_timeout.as_millis(),
        )
    }
}

/// The statement that makes the session's settings right for a statement which takes its time, and names the session.
/// Only what differs is set, and nothing that would weaken anybody: behind a transaction pooler somebody else may get the
/// same server connection before it is reset.
pub fn session_settings(application_name: &str) -> String {
    format!(
        "SET LOCAL search_path TO pg_catalog, pg_temp; SELECT pg_catalog.set_config(n, v, false) FROM (VALUES ('lock_timeout', '0'), ('statement_timeout', '0'), \
         ('transaction_timeout', '0'), ('default_transaction_read_only', 'off'), \
         ('client_connection_check_interval', {CHECK_INTERVAL}), ('application_name', {})) s(n, v) \
         WHERE pg_catalog.current_setting(n, true) IS DISTINCT FROM v AND pg_catalog.current_setting(n, true) IS NOT NULL",
        literal(application_name)
    )
}

/// A server on Windows cannot see its clients die and refuses the check.
const CHECK_INTERVAL: &str = "CASE WHEN pg_catalog.strpos(pg_catalog.lower(pg_catalog.version()), 'windows') OPERATOR(pg_catalog.>) 0 \
     OR pg_catalog.strpos(pg_catalog.version(), 'Visual C') OPERATOR(pg_catalog.>) 0 THEN '0' ELSE '1s' END";
