//! A migration while it runs: what the server says of it, and what we say meanwhile.
//!
//! A *marker* is an INFO message with an SQLSTATE of our own, which reaches us whatever `client_min_messages` is. It tells
//! which statement of the file is about to run. Notices and warnings go into the log as they arrive. Between them the
//! [`Ticker`] says how long it has been.

use std::ops::Range;
use std::time::Instant;

use log::{Level, debug, log};
use postgres::error::{DbError, Severity};

use super::session::{Listener, Trouble};
use super::ticker::{Now, Ticker};
use crate::logging;
use crate::migration::Migration;
use crate::signals::Signals;
use crate::sql;
use crate::sql::sqlstate::MARKER;

/// Who listens while a migration runs.
pub struct Watch<'a> {
    migration: &'a Migration,
    version: String,
    ticker: Ticker<'a>,
    signals: Signals,
    /// What a message of the migration's does, while there is one.
    running: Option<Running>,
}

/// A message that is being run.
struct Running {
    /// What a marker's message begins with.
    signature: String,
    /// Which statements the markers tell of, counted from 0.
    statements: Range<usize>,
    frame: Frame,
    stage: Stage,
    verb: String,
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
enum Stage {
    Before,
    /// These statements, counted from 0: one, or a stretch of small ones.
    Statements(usize),
    /// All of the file, which nothing tells apart.
    Whole,
    After,
}

/// How far a migration's message came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reached {
    /// No marker arrived.
    Nothing,
    /// This statement, counted from 0, was about to run; one past the last means that all had run.
    Statement(usize),
}

/// A part of a file, which is sent as one message.
#[derive(Default)]
pub struct Part {
    pub text: String,
    /// The statements that have markers; none if nothing has.
    pub marked: Option<Range<usize>>,
    /// The marker that follows the last statement, if there is one.
    pub end_marker: String,
    /// Which statement it is, if it is one of a file that runs outside a transaction.
    pub statement: Option<usize>,
}

/// How a message of a migration's can be followed.
pub struct Followed {
    /// This run's token, by which its markers are known.
    pub token: i64,
    /// The statements that have markers; none if nothing has.
    pub marked: Option<Range<usize>>,
    /// The one statement that it runs.
    pub statement: Option<usize>,
    pub frame: Frame,
}

impl<'a> Watch<'a> {
    pub fn new(migration: &'a Migration, ticker: Ticker<'a>, signals: &Signals) -> Watch<'a> {
        Watch {
            migration,
            version: migration.version.to_string(),
            ticker,
            signals: signals.clone(),
            running: None,
        }
    }

    /// The name of the migration's file.
    pub fn file_name(&self) -> &str {
        &self.migration.file_name
    }

    /// From now on notices belong to this message.
    pub fn begin(&mut self, followed: Followed) {
        let script = &self.migration.script;
        let one = followed
            .statement
            .or((script.statements.len() == 1).then_some(0));
        let text = one.and_then(|it| script.statements.get(it));
        let text = text.map_or(self.migration.text.as_str(), |it| {
            &self.migration.text[it.range()]
        });
        let (stage, verb) = match (&followed.marked, followed.statement) {
            (Some(_), _) => (Stage::Before, "BEGIN".to_owned()),
            (None, Some(number)) => (Stage::Statements(number), sql::verb(text)),
            (None, None) => (Stage::Whole, sql::verb(text)),
        };
        self.running = Some(Running {
            signature: format!("{} ", followed.token),
            statements: followed.marked.unwrap_or(0..0),
            frame: followed.frame,
            stage,
            verb,
            since: Instant::now(),
            reached: Reached::Nothing,
        });
    }

    /// The message is over; returns how far it came.
    pub fn end(&mut self, trouble: Option<&Trouble>) -> Reached {
        let Some(running) = self.running.take() else {
            return Reached::Nothing;
        };
        self.tell(&running, trouble.map(Trouble::words));
        running.reached
    }

    fn marker(&mut self, message: &str) {
        let Some(mut running) = self.running.take() else {
            return;
        };
        self.tell(&running, None);
        running.since = Instant::now();
        if let Ok(next) = message.parse::<usize>() {
            running.reached = Reached::Statement(next);
            let (of, all) = (
                running.statements.end,
                self.migration.script.statements.len(),
            );
            running.stage = match next < of {
                true => Stage::Statements(next),
                false => Stage::After,
            };
            running.verb = match self.migration.script.statements.get(next) {
                Some(statement) if next < of => sql::verb(&self.migration.text[statement.range()]),
                _ => "COMMIT".to_owned(),
            };
            if next < of {
                let (name, verb) = (&self.migration.file_name, &running.verb);
                debug!(version = self.version.as_str(); "{name}: statement {}/{all}: {verb}", next + 1);
            }
        }
        self.running = Some(running);
    }

    /// Tells the query log what the part took that is over.
    fn tell(&self, running: &Running, error: Option<(&str, &str)>) {
        if !logging::query_log_enabled() {
            return;
        }
        let took = running.since.elapsed();
        let sql = match running.stage {
            Stage::Before => running.frame.before.as_str(),
            Stage::After => running.frame.after.as_str(),
            Stage::Whole => self.migration.text.as_str(),
            Stage::Statements(number) => match self.migration.script.statements.get(number) {
                Some(statement) => &self.migration.text[statement.range()],
                None => return,
            },
        };
        logging::query(&running.verb, took, sql, error);
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
        log!(level, version, sqlstate; "{}: {severity}: {message}{detail}", self.migration.file_name);
    }
}

/// What of the migration is running.
fn now<'r>(running: &'r Running, migration: &Migration) -> Now<'r> {
    let of = migration.script.statements.len();
    let statement = match running.stage {
        Stage::Statements(number) => Some(number + 1),
        Stage::Whole if of == 1 => Some(1),
        Stage::Before | Stage::After | Stage::Whole => None,
    };
    Now {
        statement,
        of,
        verb: &running.verb,
        since: running.since,
    }
}

impl Listener for Watch<'_> {
    fn notice(&mut self, notice: &DbError) {
        let running = self.running.as_ref();
        let marker = running.and_then(|it| notice.message().strip_prefix(&it.signature));
        match marker.filter(|_| notice.code().code() == MARKER) {
            Some(marker) => self.marker(marker),
            None => self.say(notice),
        }
    }

    fn tick(&mut self) {
        let now = self.running.as_ref().map(|it| now(it, self.migration));
        self.ticker.tick(now.as_ref(), &self.signals);
    }
}
