//! The settings of a transaction of ours: every timeout that a role, a database or the server may have set is
//! neutralised, and an orphaned session ends soon.
//!
//! They are made by `SET LOCAL`, a statement each, which costs the server a third of a `set_config` that is planned for the
//! occasion; where our statements are prepared (`lock::batch`), it is the other way round. Which of them a server knows is
//! told by the first look at it ([`Dialect`]); until then those that not every server knows are made where they exist.

use std::time::Duration;

use crate::sql::quote::literal;

/// How long a transaction of our own waits for a lock, as a rule, before it says so and tries again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Settings for one transaction of ours.
#[derive(Clone, Copy, Default)]
pub struct Settings {
    /// Zero: none.
    pub lock_timeout: Duration,
    /// Zero: none.
    pub statement_timeout: Duration,
    pub commit: Commit,
    pub names: Names,
    /// None if it is not known yet.
    pub dialect: Option<Dialect>,
    pub span: Span,
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

/// How long a transaction is open.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Span {
    /// For one message: it is never idle.
    #[default]
    Message,
    /// For several messages, with pauses between them.
    Idle,
}

/// What a server knows, by its version and its system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// `transaction_timeout`: since PostgreSQL 17.
    pub transaction_timeout: bool,
    /// `client_connection_check_interval`: not on Windows, which cannot see its clients die and refuses it.
    pub check_interval: bool,
}

impl Settings {
    /// The defaults, but for names.
    pub fn of_catalog() -> Settings {
        Settings { names: Names::Catalog, ..Settings::default() }
    }

    /// The same for a statement that may meet a lock, and is tried again then.
    pub fn retried(self) -> Settings {
        Settings { lock_timeout: LOCK_TIMEOUT, ..self }
    }

    /// The same for what no crash of the server may take back once it is committed.
    pub fn on_disk(self) -> Settings {
        Settings { commit: Commit::Local, ..self }
    }

    /// To try a user's statements, and roll back: whatever takes its time is given up.
    pub fn of_trial() -> Settings {
        Settings {
            lock_timeout: Duration::from_secs(1),
            statement_timeout: Duration::from_secs(3),
            ..Settings::default()
        }
    }

    /// The same for a server of this dialect.
    pub fn on(self, dialect: Dialect) -> Settings {
        Settings { dialect: Some(dialect), ..self }
    }

    /// The statements that make the settings.
    pub fn statements(&self) -> Vec<String> {
        let values = self.values().into_iter();
        let mut statements: Vec<String> =
            values.map(|(name, value)| format!("SET LOCAL {name} TO '{value}'")).collect();
        if self.names == Names::Catalog {
            statements.push("SET LOCAL search_path TO pg_catalog, pg_temp".to_owned());
        }
        if self.dialect.is_none() {
            statements.push(format!(
                "SELECT pg_catalog.set_config(n, v, true) FROM (VALUES ('transaction_timeout', '0'), \
                 ('client_connection_check_interval', {CHECK_INTERVAL})) s(n, v) \
                 WHERE pg_catalog.current_setting(n, true) IS NOT NULL"
            ));
        }
        statements
    }

    /// Their names and values, but for where names are looked for.
    pub fn values(&self) -> Vec<(&'static str, String)> {
        // An orphan of ours ends soon after its client, also if the cable is cut.
        let mut others = vec![
            ("tcp_keepalives_idle", "5"),
            ("tcp_keepalives_interval", "2"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "10000"),
        ];
        if self.dialect.is_some_and(|it| it.check_interval) {
            others.push(("client_connection_check_interval", "1s"));
        }
        if self.dialect.is_some_and(|it| it.transaction_timeout) {
            others.push(("transaction_timeout", "0"));
        }
        if self.span == Span::Idle {
            others.push(("idle_in_transaction_session_timeout", "0"));
        }
        let others = others.into_iter().map(|(name, value)| (name, value.to_owned()));
        self.timeout_values().into_iter().chain(others).collect()
    }

    /// What a file may have changed that a statement of ours behind it minds.
    pub fn timeouts(&self) -> [String; 3] {
        self.timeout_values().map(|(name, value)| format!("SET LOCAL {name} TO {value}"))
    }

    fn timeout_values(&self) -> [(&'static str, String); 3] {
        let (lock, statement) = (self.lock_timeout, self.statement_timeout);
        let commit = match self.commit {
            Commit::Durable => "on",
            Commit::Local => "local",
            Commit::Deferred => "off",
        };
        [
            ("lock_timeout", lock.as_millis().to_string()),
            ("statement_timeout", statement.as_millis().to_string()),
            ("synchronous_commit", commit.to_owned()),
        ]
    }
}

/// The statement that makes the session's settings right for a statement which takes its time, and names the session.
/// Only what differs is set, and nothing that would weaken anybody: behind a transaction pooler somebody else may get the
/// same server connection before it is reset.
pub fn of_session(application_name: &str) -> String {
    format!(
        "SET statement_timeout TO 0; SET LOCAL search_path TO pg_catalog, pg_temp; \
         SELECT pg_catalog.set_config(n, v, false) FROM (VALUES ('lock_timeout', '0'), \
         ('transaction_timeout', '0'), ('default_transaction_read_only', 'off'), \
         ('client_connection_check_interval', {CHECK_INTERVAL}), ('application_name', {})) s(n, v) \
         WHERE pg_catalog.current_setting(n, true) IS DISTINCT FROM v AND pg_catalog.current_setting(n, true) IS NOT NULL",
        literal(application_name)
    )
}

/// The statements that undo whatever a file may have left in the session (rule 8), which takes its time where there are
/// temporary tables: what the role's settings make of the timeout comes last. They share a message. `DISCARD ALL` would be
/// shorter, but cannot share a message. A pooler that keeps prepared statements of its own sees from the answer that they
/// are gone (PgBouncer, since 1.22).
pub fn reset(runner: &str) -> Vec<String> {
    let first = [
        "SET LOCAL statement_timeout TO 0",
        "SELECT pg_catalog.pg_advisory_unlock_all()",
        "DEALLOCATE ALL",
    ];
    let mut reset: Vec<String> = (first.iter().chain(&RESETS)).map(ToString::to_string).collect();
    let own = of_connection(runner).into_iter();
    reset.extend(own.map(|(name, value)| format!("SET {name} TO {value}")));
    reset
}

/// The same between two files of a message, which keeps what we have prepared, and gives locks back otherwise.
pub const RESETS: [&str; 7] = [
    "RESET SESSION AUTHORIZATION",
    "RESET ROLE",
    "CLOSE ALL",
    "UNLISTEN *",
    "DISCARD TEMP",
    "DISCARD SEQUENCES",
    "RESET ALL",
];

/// What a connection of ours begins with, as names and SQL literals: behind a pooler `RESET ALL` drops it.
pub fn of_connection(runner: &str) -> [(&'static str, String); 3] {
    [
        ("client_encoding", literal("UTF8")),
        ("standard_conforming_strings", literal("on")),
        ("application_name", literal(runner)),
    ]
}

/// See [`Dialect::check_interval`].
const CHECK_INTERVAL: &str = "CASE WHEN pg_catalog.strpos(pg_catalog.lower(pg_catalog.version()), 'windows') OPERATOR(pg_catalog.>) 0 \
     OR pg_catalog.strpos(pg_catalog.version(), 'Visual C') OPERATOR(pg_catalog.>) 0 THEN '0' ELSE '1s' END";
