//! What the server says while a message of ours runs: markers, notices and warnings, as they arrive.
//!
//! The client library calls back while it waits for the message's end, so the log is live. A *marker* is an INFO
//! message with an SQLSTATE of our own, which reaches us whatever `client_min_messages` is. It tells which statement
//! of the file is running, and, after the commit, that the migration is applied.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use log::{Level, debug, log};
use postgres::error::{DbError, Severity};

use crate::logging;
use crate::migration::Migration;
use crate::sql;

/// The SQLSTATE of a marker; its message is the run's token and the number of the statement that comes next, or
/// [`COMMITTED`].
pub const MARKER: &str = "LK000";

/// The marker that follows the commit.
pub const COMMITTED: &str = "committed";

/// Shared between whoever sends a message and the callback that hears the notices.
#[derive(Clone, Default)]
pub struct Progress(Arc<Mutex<Option<Running>>>);

/// The migration that is running.
struct Running {
    /// What a marker's message begins with.
    signature: String,
    file_name: String,
    version: String,
    /// Verb and text of each statement.
    statements: Vec<(String, String)>,
    /// What we put before and after the file.
    frame: Frame,
    part: Part,
    since: Instant,
    reached: Reached,
}

/// What a message holds beside the file's own text.
#[derive(Clone, Default)]
pub struct Frame {
    pub before: String,
    pub after: String,
}

/// The part of a message that is running.
#[derive(Clone, Copy)]
enum Part {
    Before,
    /// Counted from 0.
    Statement(usize),
    After,
    Over,
}

/// What of a migration is running.
pub struct Now {
    /// Counted from 1; none before the first and after the last.
    pub statement: Option<usize>,
    pub of: usize,
    pub verb: String,
    pub since: Instant,
}

/// How far a migration's message came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// No marker arrived.
    Nothing,
    /// This statement, counted from 0, was about to run; one past the last means that all had run.
    Statement(usize),
    /// The commit returned.
    Committed,
}

impl Progress {
    /// From now on notices belong to this migration. Without markers the whole file counts as one statement.
    pub fn begin(&self, migration: &Migration, frame: &Frame, has_markers: bool, token: i64) {
        let described = |range: std::ops::Range<usize>| {
            let text = &migration.text[range];
            (sql::verb(text), text.to_owned())
        };
        let statements = match has_markers {
            true => migration
                .script
                .statements
                .iter()
                .map(|it| described(it.range()))
                .collect(),
            false => vec![described(0..migration.text.len())],
        };
        *self.lock() = Some(Running {
            signature: format!("{token} "),
            file_name: migration.file_name.clone(),
            version: migration.version.to_string(),
            statements,
            frame: frame.clone(),
            part: if has_markers {
                Part::Before
            } else {
                Part::Statement(0)
            },
            since: Instant::now(),
            reached: Reached::Nothing,
        });
    }

    /// Notices belong to nobody any more; returns how far the migration came. `error` is SQLSTATE and message of what
    /// ended it.
    pub fn end(&self, error: Option<(&str, &str)>) -> Reached {
        let Some(mut running) = self.lock().take() else {
            return Reached::Nothing;
        };
        running.close_part(error);
        running.reached
    }

    /// What is running, if anything is. Another thread may ask.
    pub fn now(&self) -> Option<Now> {
        let running = self.lock();
        let running = running.as_ref()?;
        let (statement, verb) = match running.part {
            Part::Before => (None, "BEGIN"),
            Part::Statement(number) => {
                (Some(number + 1), running.statements.get(number)?.0.as_str())
            }
            Part::After => (None, "COMMIT"),
            Part::Over => return None,
        };
        Some(Now {
            statement,
            of: running.statements.len(),
            verb: verb.to_owned(),
            since: running.since,
        })
    }

    /// A notice arrived.
    pub fn notice(&self, notice: &DbError) {
        let mut running = self.lock();
        match running.as_mut() {
            Some(running) => running.notice(notice),
            // Between migrations: our own statements know what they do.
            None => {
                debug!(sqlstate = notice.code().code(); "{}: {}", notice.severity(), notice.message())
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn notice(&mut self, notice: &DbError) {
        let marker = notice.message().strip_prefix(&self.signature);
        match marker.filter(|_| notice.code().code() == MARKER) {
            Some(marker) => self.marker(marker),
            None => self.say(notice),
        }
    }

    fn marker(&mut self, message: &str) {
        self.close_part(None);
        self.since = Instant::now();
        let Ok(next) = message.parse::<usize>() else {
            self.reached = Reached::Committed;
            self.part = Part::Over;
            return;
        };
        self.reached = Reached::Statement(next);
        let of = self.statements.len();
        self.part = if next < of {
            Part::Statement(next)
        } else {
            Part::After
        };
        if let Some((verb, _)) = self.statements.get(next) {
            debug!(version = self.version.as_str(); "{}: statement {}/{of}: {verb}", self.file_name, next + 1);
        }
    }

    /// Tells the query log what the part took.
    fn close_part(&mut self, error: Option<(&str, &str)>) {
        let took = self.since.elapsed();
        match self.part {
            Part::Before => logging::query("BEGIN", took, &self.frame.before, error),
            Part::Statement(number) => {
                if let Some((verb, sql)) = self.statements.get(number) {
                    logging::query(verb, took, sql, error);
                }
            }
            Part::After => logging::query("COMMIT", took, &self.frame.after, error),
            Part::Over => {}
        }
    }

    fn say(&self, notice: &DbError) {
        let (version, sqlstate) = (self.version.as_str(), notice.code().code());
        let level = match notice.parsed_severity() {
            Some(Severity::Warning) => Level::Warn,
            Some(Severity::Debug | Severity::Log) => Level::Debug,
            _ => Level::Info,
        };
        let detail = notice
            .detail()
            .map(|detail| format!(" ({detail})"))
            .unwrap_or_default();
        let (severity, message) = (notice.severity(), notice.message());
        log!(level, version, sqlstate; "{}: {severity}: {message}{detail}", self.file_name);
    }
}
