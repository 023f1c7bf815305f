//! The environment → [`Config`], or all that is wrong with it at once.
//!
//! The only file that reads environment variables (and the files that some of them name: secrets, `~/.pgpass`). It
//! judges values and opens no connection. Nothing here ever shows a password: complaints name variables and
//! parameters, and repeat a value only where it can hold no secret.

mod conninfo;
mod pgpass;
mod server;
mod table_name;

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::logging;
use crate::text::terminal;

pub use server::{Server, place};
pub use table_name::TableName;

/// Everything `up` needs to know.
#[derive(Debug)]
pub struct Config {
    pub server: Server,
    pub migrations_dir: PathBuf,
    pub history_table: TableName,
    pub locks_table: TableName,
    /// How long to wait for the server to accept us.
    pub database_wait: Duration,
    /// How long to wait for another runner; zero: try once.
    pub lock_wait: Duration,
    /// How long `lockstep wait` waits for others to migrate; zero: look once.
    pub migration_wait: Duration,
    /// PostgreSQL's `lock_timeout` for a migration, in whole milliseconds; zero: none.
    pub ddl_lock_timeout: Duration,
    /// How long a migration that met that timeout, or a deadlock, is tried again.
    pub ddl_lock_retry: Duration,
    /// PostgreSQL's `statement_timeout` for a migration, in whole milliseconds; zero: none.
    pub statement_timeout: Duration,
    pub order: Order,
    pub divergence: DivergencePolicy,
    /// What is odd but no reason to stop, for the log.
    pub warnings: Vec<String>,
}

/// What becomes of pending files that are older than something applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// They are applied, with a warning.
    Any,
    /// They are a divergence.
    Strict,
}

/// What becomes of a divergence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DivergencePolicy {
    Refuse,
    Warn,
}

/// What is wrong with one variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Complaint {
    pub variable: String,
    pub problem: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.problem)
    }
}

/// Reads everything `up` needs.
///
/// # Errors
///
/// Every complaint at once, in the order of [`VARIABLES`].
pub fn load(environment: &Environment) -> Result<Config, Vec<Complaint>> {
    let mut inquiry = Inquiry {
        environment,
        complaints: Vec::new(),
        warnings: Vec::new(),
    };
    inquiry.setting(RUN, false, boolean);
    let server = inquiry.server();
    let migrations_dir = inquiry.migrations_dir();
    let (history_table, locks_table) = inquiry.tables();
    let database_wait = inquiry.setting("DATABASE_WAIT_SECONDS", secs(60), wait);
    let lock_wait = inquiry.setting("MIGRATION_LOCK_WAIT_SECONDS", secs(300), wait);
    let migration_wait = inquiry.setting("MIGRATION_WAIT_SECONDS", secs(300), wait);
    let ddl_lock_timeout = inquiry.setting("DDL_LOCK_TIMEOUT_SECONDS", secs(5), server_timeout);
    let ddl_lock_retry = inquiry.setting("DDL_LOCK_RETRY_SECONDS", secs(120), wait);
    let statement_timeout = inquiry.setting("STATEMENT_TIMEOUT_SECONDS", secs(0), server_timeout);
    let order = inquiry.setting("MIGRATION_ORDER", Order::Any, |text| {
        choice(text, &[("any", Order::Any), ("strict", Order::Strict)])
    });
    let divergence = inquiry.setting("MIGRATION_DIVERGENCE", DivergencePolicy::Refuse, |text| {
        choice(
            text,
            &[
                ("refuse", DivergencePolicy::Refuse),
                ("warn", DivergencePolicy::Warn),
            ],
        )
    });
    inquiry.logging();

    let Inquiry {
        mut complaints,
        warnings,
        ..
    } = inquiry;
    match server {
        Some(server) if complaints.is_empty() => Ok(Config {
            server,
            migrations_dir,
            history_table,
            locks_table,
            database_wait,
            lock_wait,
            migration_wait,
            ddl_lock_timeout,
            ddl_lock_retry,
            statement_timeout,
            order,
            divergence,
            warnings,
        }),
        _ => {
            complaints.sort_by_key(|complaint| position(&complaint.variable));
            Err(complaints)
        }
    }
}

/// What the log should be, with the defaults where a value is unusable: [`load`] complains of those.
pub fn logging(environment: &Environment) -> logging::Settings {
    Inquiry {
        environment,
        complaints: Vec::new(),
        warnings: Vec::new(),
    }
    .logging()
}

/// How an answer on stdout is laid out.
pub fn layout(environment: &Environment) -> terminal::Layout {
    if !environment.stdout_is_terminal {
        return terminal::Layout::Plain;
    }
    terminal::Layout::Terminal {
        columns: environment.columns(),
        paint: match environment.wants_colours() {
            true => terminal::Paint::Ansi,
            false => terminal::Paint::None,
        },
    }
}

/// The switch of the bare `lockstep`. Judges nothing else: where migrations are switched off, a service must not die
/// because, say, a password file is not mounted.
///
/// # Errors
///
/// The value is not a boolean.
pub fn switch(environment: &Environment) -> Result<bool, Complaint> {
    environment
        .value(RUN, boolean)
        .map(|value| value.unwrap_or(false))
}

/// Where the files are. Judges nothing else: whoever only makes files needs no database.
///
/// # Errors
///
/// The value is not a path.
pub fn migrations_dir(environment: &Environment) -> Result<PathBuf, Vec<Complaint>> {
    let mut inquiry = Inquiry {
        environment,
        complaints: Vec::new(),
        warnings: Vec::new(),
    };
    let directory = inquiry.migrations_dir();
    match inquiry.complaints.is_empty() {
        true => Ok(directory),
        false => Err(inquiry.complaints),
    }
}

const RUN: &str = "RUN_DATABASE_MIGRATIONS";

/// The order of complaints: README's table. libpq's variables stand where [`PG`] does.
const VARIABLES: [&str; 24] = [
    RUN,
    "DATABASE_URL",
    "DATABASE_URL_FILE",
    "DATABASE_ENDPOINT_URL",
    "DATABASE_NAME",
    "DATABASE_USERNAME",
    "DATABASE_PASSWORD",
    "DATABASE_PASSWORD_FILE",
    "DATABASE_SSL_ENABLED",
    PG,
    "MIGRATIONS_DIR",
    "MIGRATIONS_TABLE",
    "MIGRATION_LOCKS_TABLE",
    "DATABASE_WAIT_SECONDS",
    "MIGRATION_LOCK_WAIT_SECONDS",
    "MIGRATION_WAIT_SECONDS",
    "DDL_LOCK_TIMEOUT_SECONDS",
    "DDL_LOCK_RETRY_SECONDS",
    "STATEMENT_TIMEOUT_SECONDS",
    "MIGRATION_ORDER",
    "MIGRATION_DIVERGENCE",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "DATABASE_QUERY_LOGGING_ENABLED",
];

const PG: &str = "PG";

fn position(variable: &str) -> Option<usize> {
    let variable = if variable.starts_with(PG) {
        PG
    } else {
        variable
    };
    VARIABLES.iter().position(|name| *name == variable)
}

/// The variables, and what else of the surroundings a default depends on.
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    stderr_is_terminal: bool,
    stdout_is_terminal: bool,
    /// The operating system's user that we run as.
    user: Option<String>,
    home: Option<PathBuf>,
    /// Where a local server may have its socket.
    socket_directories: Vec<PathBuf>,
}

impl Environment {
    /// Reads the process's environment.
    pub fn read() -> Environment {
        let named = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        let variables: BTreeMap<String, OsString> = env::vars_os().filter_map(named).collect();
        Environment {
            home: variables
                .get("HOME")
                .filter(|home| !home.is_empty())
                .map(PathBuf::from),
            variables,
            stderr_is_terminal: io::stderr().is_terminal(),
            stdout_is_terminal: io::stdout().is_terminal(),
            user: whoami::username().ok(),
            // The first is Debian's, Red Hat's and Alpine's, the last PostgreSQL's own.
            socket_directories: ["/var/run/postgresql", "/run/postgresql", "/tmp"]
                .map(PathBuf::from)
                .into(),
        }
    }

    /// The variable's value; one that is empty counts as unset.
    fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables
            .get(name)
            .map(OsString::as_os_str)
            .filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Complaint> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        value
            .to_str()
            .map(Some)
            .ok_or_else(|| complaint(name, "is not valid UTF-8"))
    }

    /// What the log is shown on.
    fn screen(&self) -> logging::Screen {
        if !self.stderr_is_terminal || self.is_dumb() {
            return logging::Screen::Lines;
        }
        logging::Screen::Terminal {
            columns: self.columns(),
            colours: match self.wants_colours() {
                true => logging::Colours::Ansi,
                false => logging::Colours::None,
            },
        }
    }

    /// How wide a terminal is. No value is wrong here: what is no number of columns is none.
    fn columns(&self) -> usize {
        /// What a terminal has that does not say.
        const USUAL: usize = 80;
        let columns = self.text("COLUMNS").ok().flatten();
        let columns = columns.and_then(|it| it.parse().ok());
        columns.filter(|&it| it > 0).unwrap_or(USUAL)
    }

    /// See <https://no-color.org>.
    fn wants_colours(&self) -> bool {
        self.get("NO_COLOR").is_none() && !self.is_dumb()
    }

    fn is_dumb(&self) -> bool {
        self.get("TERM").is_some_and(|term| term == "dumb")
    }

    fn value<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Complaint> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        parse(text)
            .map(Some)
            .map_err(|problem| complaint(name, problem))
    }
}

/// The reading of an environment: what is wrong with it gathers here.
struct Inquiry<'a> {
    environment: &'a Environment,
    complaints: Vec<Complaint>,
    warnings: Vec<String>,
}

impl Inquiry<'_> {
    /// The variable's value, or the default if it is unset or, after a complaint, unusable.
    fn setting<T>(
        &mut self,
        name: &str,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        let value = self.environment.value(name, parse);
        self.keep(value).flatten().unwrap_or(default)
    }

    fn keep<T>(&mut self, result: Result<T, Complaint>) -> Option<T> {
        result
            .map_err(|complaint| self.complaints.push(complaint))
            .ok()
    }

    fn migrations_dir(&mut self) -> PathBuf {
        self.setting("MIGRATIONS_DIR", PathBuf::from("migrations"), |text| {
            Ok(text.into())
        })
    }

    fn complain(&mut self, variable: &str, problem: impl Into<String>) {
        self.complaints.push(complaint(variable, problem));
    }

    /// The history table's name leaves room for the journal's, which appends `_journal` to it.
    fn tables(&mut self) -> (TableName, TableName) {
        const LOCKS: &str = "MIGRATION_LOCKS_TABLE";
        let suffix = "_journal";
        let longest = table_name::LONGEST_IDENTIFIER;
        let history = self.setting(
            "MIGRATIONS_TABLE",
            TableName::plain("bun_migrations"),
            |text| TableName::parse(text, longest - suffix.len()),
        );
        let locks = self.setting(LOCKS, TableName::plain("bun_migration_locks"), |text| {
            TableName::parse(text, longest)
        });
        let taken = [history.name.clone(), format!("{}{suffix}", history.name)];
        if locks.schema == history.schema && taken.contains(&locks.name) {
            let problem = format!(
                "{} is the history's table or its journal's: give the locks their own",
                shown(&locks.setting)
            );
            self.complain(LOCKS, problem);
        }
        (history, locks)
    }

    fn logging(&mut self) -> logging::Settings {
        let default = if self.environment.stderr_is_terminal {
            logging::Format::Text
        } else {
            logging::Format::Json
        };
        let format = self.setting("LOG_FORMAT", default, |text| {
            choice(
                text,
                &[
                    ("text", logging::Format::Text),
                    ("json", logging::Format::Json),
                ],
            )
        });
        logging::Settings {
            level: self.setting("LOG_LEVEL", LevelFilter::Info, level),
            format,
            queries: self.setting("DATABASE_QUERY_LOGGING_ENABLED", false, boolean),
            screen: self.environment.screen(),
        }
    }
}

fn complaint(variable: &str, problem: impl Into<String>) -> Complaint {
    Complaint {
        variable: variable.to_owned(),
        problem: problem.into(),
    }
}

/// A value that can hold no secret, in quotes and on one line.
fn shown(value: &str) -> String {
    /// Enough to recognise a value by.
    const LONGEST: usize = 80;
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", &value[..end]),
        None => format!("{value:?}"),
    }
}

/// What Go's `strconv.ParseBool` takes, and nothing else.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "{} is not a boolean: use one of 1 t T true TRUE True, 0 f F false FALSE False",
            shown(text)
        )),
    }
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            format!("{} is not one of {}", shown(text), names.join(", "))
        })
}

fn level(text: &str) -> Result<LevelFilter, String> {
    let levels = [
        LevelFilter::Trace,
        LevelFilter::Debug,
        LevelFilter::Info,
        LevelFilter::Warn,
        LevelFilter::Error,
    ];
    choice(
        &text.to_ascii_uppercase(),
        &levels.map(|level| (level.as_str(), level)),
    )
    .map_err(|_| {
        format!(
            "{} is not one of TRACE, DEBUG, INFO, WARN, ERROR (in any case)",
            shown(text)
        )
    })
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A time that Lockstep itself waits: at most ten years, so that a deadline can always be computed.
fn wait(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
    seconds(text, LONGEST)
}

/// A timeout that the server keeps: whole milliseconds in 31 bits (PostgreSQL manual, "Client Connection Defaults"). A
/// fraction of a millisecond is rounded up, because zero would mean none.
fn server_timeout(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);
    let timeout = seconds(text, LONGEST)?;
    let odd = timeout.subsec_nanos() % 1_000_000;
    Ok(if odd == 0 {
        timeout
    } else {
        timeout + Duration::from_nanos(u64::from(1_000_000 - odd))
    })
}

/// A decimal number of seconds, without sign or exponent; what is finer than a nanosecond is rounded up.
fn seconds(text: &str, longest: Duration) -> Result<Duration, String> {
    let parsed = || {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return None;
        }
        let (fine, finer) = fraction.split_at(fraction.len().min(9));
        let nanos: u64 = format!("{fine:0<9}").parse().ok()?;
        let rest = u64::from(finer.bytes().any(|digit| digit != b'0'));
        secs(whole.parse().ok()?)
            .checked_add(Duration::from_nanos(nanos + rest))
            .filter(|value| *value <= longest)
    };
    parsed().ok_or_else(|| {
        let longest = longest.as_secs_f64();
        format!(
            "{} is not a number of seconds: use a decimal from 0 to {longest}, such as 30 or 0.5",
            shown(text)
        )
    })
}

#[cfg(test)]
mod tests;
