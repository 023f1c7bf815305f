//! The environment → [`Config`], or all that is wrong with it at once.
//!
//! The only file that reads environment variables (and the files that some of them name: secrets, `~/.pgpass`). It
//! judges values and opens no connection. Nothing here ever shows a password: complaints name variables and
//! parameters, and repeat a value only where it can hold no secret.

mod conninfo;
mod foreign;
mod missing;
mod parameters;
mod pgpass;
mod places;
mod server;
mod service;
mod sources;
mod table_name;
// Read and refused alike without TLS, but then nobody uses it.
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub mod tls;
mod values;
pub mod variables;

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, IsTerminal};
use std::mem;
#[cfg(unix)]
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::logging;
use crate::text::Format;
use crate::text::terminal::Layout;
use values::shown;
use variables::{Setting, Variable};

pub use missing::address as address_is_missing;
pub use places::Place;
pub use server::{Server, Target};
pub use table_name::TableName;

/// Everything `up` needs to know. Nothing that holds a secret can be printed: neither it nor its parts are `Debug`.
pub struct Config {
    pub server: Server,
    pub migrations_dir: PathBuf,
    pub history_table: TableName,
    /// The journal, which stands beside the history.
    pub journal_table: TableName,
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
    pub variable: &'static str,
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
/// Every complaint at once, in the order of [`variables::all`].
pub fn load(environment: &Environment) -> Result<Config, Vec<Complaint>> {
    let mut inquiry = Inquiry::of(environment);
    inquiry.setting(&variables::RUN);
    inquiry.logging();
    let config = inquiry.config();
    match config {
        Some(config) if inquiry.complaints.is_empty() => Ok(config),
        _ => Err(in_order(inquiry.complaints)),
    }
}

fn in_order(mut complaints: Vec<Complaint>) -> Vec<Complaint> {
    complaints.sort_by_key(|it| variables::all().position(|known| known.name == it.variable));
    complaints
}

/// Like [`load`], for whatever writes: it must be told where the database is.
///
/// # Errors
///
/// Like [`load`].
pub fn load_to_write(environment: &Environment) -> Result<Config, Vec<Complaint>> {
    let loaded = load(environment);
    let Some(problem) = address_is_missing(environment) else {
        return loaded;
    };
    let mut complaints = loaded.err().unwrap_or_default();
    complaints.push(complaint(&variables::URL, problem));
    Err(in_order(complaints))
}

/// What the log should be, with the defaults where a value is unusable: [`load`] complains of those.
pub fn logging(environment: &Environment) -> logging::Settings {
    Inquiry::of(environment).logging()
}

/// Like [`logging()`], for the bare `lockstep`: it stands in for a service's start, whose log programs read.
pub fn service_logging(environment: &Environment) -> logging::Settings {
    let mut settings = logging(environment);
    let wanted = environment.value(&variables::LOG_FORMAT);
    if !wanted.is_ok_and(|it| it.is_some()) && !environment.has_terminal() {
        settings.format = Format::Json;
    }
    settings
}

/// How an answer on stdout is laid out.
pub fn layout(environment: &Environment) -> Layout {
    let columns = environment.stdout_columns;
    columns.map_or(Layout::Plain, |columns| environment.terminal(columns))
}

/// The switch of the bare `lockstep`. Judges nothing else: where migrations are switched off, a service must not die
/// because, say, a password file is not mounted.
///
/// # Errors
///
/// The value is not a boolean, which is among the complaints of [`load`], too.
pub fn switch(environment: &Environment) -> Result<bool, Complaint> {
    environment.setting(&variables::RUN)
}

/// Where the files are. Judges nothing else: whoever only makes files needs no database.
///
/// # Errors
///
/// The value is not a path.
pub fn migrations_dir(environment: &Environment) -> Result<PathBuf, Vec<Complaint>> {
    environment.setting(&variables::MIGRATIONS_DIR).map_err(|complaint| vec![complaint])
}

/// Returns true if and only if a variable says where a database is; if none does, there would be the default, which nobody
/// has asked for.
pub fn names_a_database(environment: &Environment) -> bool {
    let databases = [variables::DATABASE.variable.name, "PGDATABASE"];
    let is_set = |name: &&str| environment.named(name).is_some();
    address_is_missing(environment).is_none() || databases.iter().any(is_set)
}

/// The variables, and what else of the surroundings a default depends on.
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    /// How wide the terminal is that stderr goes to, if it goes to one.
    stderr_columns: Option<usize>,
    stdout_columns: Option<usize>,
    /// The operating system's user that we run as.
    user: Option<String>,
    home: Option<PathBuf>,
    /// Where a local server may have its socket.
    socket_directories: Vec<PathBuf>,
}

/// How wide the terminal is that a stream goes to, if it goes to one.
fn columns(stream: &impl IsTerminal) -> Option<usize> {
    /// What a terminal has that does not say.
    const USUAL: usize = 80;
    if !stream.is_terminal() {
        return None;
    }
    Some(terminal_size::terminal_size().map_or(USUAL, |(width, _)| usize::from(width.0)))
}

impl Environment {
    /// Returns true if and only if there is somebody who sees what happens.
    pub fn has_terminal(&self) -> bool {
        self.stderr_columns.is_some()
    }

    /// Reads the process's environment.
    pub fn read() -> Environment {
        let named = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        let variables: BTreeMap<String, OsString> = env::vars_os().filter_map(named).collect();
        let home = variables.get(variables::HOME.name);
        Environment {
            home: home.filter(|it| !it.is_empty()).map(PathBuf::from),
            variables,
            stderr_columns: columns(&io::stderr()),
            stdout_columns: columns(&io::stdout()),
            user: whoami::username().ok(),
            // The first is Debian's, Red Hat's and Alpine's, the last PostgreSQL's own.
            socket_directories: ["/var/run/postgresql", "/run/postgresql", "/tmp"]
                .map(PathBuf::from)
                .into(),
        }
    }

    /// The variable's value; one that is empty counts as unset.
    fn get(&self, variable: &Variable) -> Option<&OsStr> {
        self.named(variable.name)
    }

    fn named(&self, name: &str) -> Option<&OsStr> {
        let value = self.variables.get(name).map(OsString::as_os_str);
        value.filter(|value| !value.is_empty())
    }

    /// The file that is given, whose name came from a variable or from a text, so it is one again; or this one in the home
    /// directory.
    fn file(&self, given: Option<Vec<u8>>, default: &str) -> Option<PathBuf> {
        match given {
            #[cfg(unix)]
            Some(path) => Some(OsString::from_vec(path).into()),
            #[cfg(not(unix))]
            Some(path) => String::from_utf8(path).ok().map(PathBuf::from),
            None => Some(self.home.as_ref()?.join(default)),
        }
    }

    fn text(&self, variable: &'static Variable) -> Result<Option<&str>, Complaint> {
        let text = self.get(variable).map(OsStr::to_str);
        let unusable = || complaint(variable, "is not valid UTF-8");
        text.map(|text| text.ok_or_else(unusable)).transpose()
    }

    fn terminal(&self, columns: usize) -> Layout {
        let wished = self.text(&variables::COLUMNS).ok().flatten();
        // No value is wrong here: what is no number of columns is none.
        let wished = wished.and_then(|it| it.parse().ok()).filter(|&it| it > 0);
        Layout::Terminal {
            columns: wished.unwrap_or(columns),
            // See <https://no-color.org>.
            has_colours: self.get(&variables::NO_COLOR).is_none() && !self.is_dumb(),
        }
    }

    fn is_dumb(&self) -> bool {
        self.get(&variables::TERM).is_some_and(|it| it == "dumb")
    }

    fn value<T>(&self, setting: &'static Setting<T>) -> Result<Option<T>, Complaint> {
        let parse =
            |text| (setting.parse)(text).map_err(|problem| complaint(&setting.variable, problem));
        self.text(&setting.variable)?.map(parse).transpose()
    }

    /// The variable's value, or the default if it is unset.
    fn setting<T>(&self, setting: &'static Setting<T>) -> Result<T, Complaint> {
        Ok(self.value(setting)?.unwrap_or_else(|| setting.default()))
    }
}

/// The reading of an environment: what is wrong with it gathers here.
struct Inquiry<'a> {
    environment: &'a Environment,
    complaints: Vec<Complaint>,
    warnings: Vec<String>,
}

impl<'a> Inquiry<'a> {
    fn of(environment: &'a Environment) -> Inquiry<'a> {
        Inquiry { environment, complaints: Vec::new(), warnings: Vec::new() }
    }

    /// Everything `up` needs; none after a complaint of the server.
    fn config(&mut self) -> Option<Config> {
        let (history_table, locks_table) = self.tables();
        Some(Config {
            migrations_dir: self.setting(&variables::MIGRATIONS_DIR),
            journal_table: history_table.suffixed(variables::JOURNAL_SUFFIX),
            history_table,
            locks_table,
            database_wait: self.setting(&variables::DATABASE_WAIT),
            lock_wait: self.setting(&variables::LOCK_WAIT),
            migration_wait: self.setting(&variables::MIGRATION_WAIT),
            ddl_lock_timeout: self.setting(&variables::DDL_LOCK_TIMEOUT),
            ddl_lock_retry: self.setting(&variables::DDL_LOCK_RETRY),
            statement_timeout: self.setting(&variables::STATEMENT_TIMEOUT),
            order: self.setting(&variables::ORDER),
            divergence: self.setting(&variables::DIVERGENCE),
            server: self.server()?,
            warnings: mem::take(&mut self.warnings),
        })
    }

    /// The variable's value, or the default if it is unset or, after a complaint, unusable.
    fn setting<T>(&mut self, setting: &'static Setting<T>) -> T {
        self.given(setting).unwrap_or_else(|| setting.default())
    }

    /// The variable's value; none if it is unset or, after a complaint, unusable.
    fn given<T>(&mut self, setting: &'static Setting<T>) -> Option<T> {
        let value = self.environment.value(setting);
        value.map_err(|complaint| self.complaints.push(complaint)).ok().flatten()
    }

    fn complain(&mut self, variable: &'static Variable, problem: impl Into<String>) {
        self.complaints.push(complaint(variable, problem));
    }

    /// The history table's name leaves room for the journal's.
    fn tables(&mut self) -> (TableName, TableName) {
        let history = self.setting(&variables::HISTORY_TABLE);
        let locks = self.setting(&variables::LOCKS_TABLE);
        let journal = format!("{}{}", history.name, variables::JOURNAL_SUFFIX);
        if locks.schema == history.schema && [&history.name, &journal].contains(&&locks.name) {
            let problem = "is the history's table or its journal's: give the locks their own";
            let problem = format!("{} {problem}", shown(&locks.setting));
            self.complain(&variables::LOCKS_TABLE.variable, problem);
        }
        (history, locks)
    }

    fn logging(&mut self) -> logging::Settings {
        logging::Settings {
            format: self.setting(&variables::LOG_FORMAT),
            level: self.setting(&variables::LOG_LEVEL),
            queries: self.setting(&variables::QUERIES),
            layout: match self.environment.stderr_columns {
                Some(columns) if !self.environment.is_dumb() => self.environment.terminal(columns),
                _ => Layout::Plain,
            },
        }
    }
}

fn complaint(variable: &'static Variable, problem: impl Into<String>) -> Complaint {
    Complaint { variable: variable.name, problem: problem.into() }
}

#[cfg(test)]
mod tests;
