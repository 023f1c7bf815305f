//! Everything that can go wrong, by what it means; and the words for what is told in several places.
//!
//! An error says what failed, of what, why, and, if there is one right thing to do, what to do. Its number, and the word
//! `error:` in front, are `main`'s business. Nothing here prints.

mod failure;
mod sql;

use std::fmt;
use std::time::Duration;

use log::kv::Value;

use crate::config::{Complaint, Server};
use crate::files::Problem;
use crate::migration::{Direction, History, State, Version};
use crate::plan::refusal::{Refusal, WayBack};
use crate::signals::Stopped;
use crate::text::words::{below, counted, duration, joined};

pub use failure::{Before, Failure, FailureOutcome};
pub use sql::{SqlError, is_about_statement_pooling};

/// What nobody tells apart but by its exit code is told in words where it is found; all else has fields.
#[derive(Debug)]
pub enum Error {
    /// What was asked for cannot be done, now or later: the command line, say, or a version that there is not.
    Unusable(String),
    /// There is no connection, or not the one that is needed: the same may work in a while.
    NoConnection(String),
    /// Somebody else is at work, or has the lock.
    NoLock(String),
    /// History and files do not belong together.
    Disagreement(String),
    /// The environment is unusable: every complaint at once.
    Environment(Vec<Complaint>),
    /// The migrations directory is unusable: every complaint at once.
    Files(Vec<Problem>),
    /// What is pending cannot be run: every complaint at once.
    Refused(Refusal),
    /// Migrations are pending, or may be, and it is not for us to run them.
    Pending {
        /// The files' names, in order.
        pending: Vec<String>,
        bun_row: Option<BunRow>,
        /// How long we waited for others to run them, if we did.
        waited: Option<Duration>,
    },
    /// The server did not accept us before the deadline.
    Unreachable {
        server: String,
        waited: Duration,
        cause: String,
    },
    /// The connection broke in the middle of something; what was committed is in the history.
    ConnectionLost {
        doing: String,
        cause: String,
    },
    /// A statement of our own failed: nothing of the user's is to blame.
    Database {
        doing: String,
        cause: Box<SqlError>,
    },
    /// The lock is ours, and another session was at work on what a migration needs until the deadline.
    SessionWait {
        doing: String,
        session: String,
        waited: Duration,
        before: Before,
    },
    /// A table, or whatever else a transaction needs, was locked until the deadline.
    TableWait {
        doing: String,
        cause: Box<SqlError>,
        blockers: Vec<String>,
        waited: Duration,
        /// None if it was not a migration that waited.
        before: Option<Before>,
    },
    /// What is to be rolled back cannot be: every complaint at once.
    NoWayBack(WayBack),
    /// A migration failed and was rolled back.
    Migration(Box<Failure>),
    Stopped(Stopped),
}

/// A row of bun's in the locks table.
#[derive(Clone, Debug)]
pub struct BunRow {
    pub locks: String,
    pub id: i64,
    /// The newest record in the history, which may promise too much.
    pub newest: Option<Version>,
}

impl BunRow {
    /// The row with this id in this table, if it is bun's.
    pub fn of(id: Option<i64>, locks: &str, history: &History) -> Option<BunRow> {
        Some(BunRow {
            id: id.filter(|&id| id > 0)?,
            locks: locks.to_owned(),
            newest: history.newest(),
        })
    }
}

impl From<WayBack> for Error {
    fn from(it: WayBack) -> Error {
        Error::NoWayBack(it)
    }
}

impl From<Stopped> for Error {
    fn from(it: Stopped) -> Error {
        Error::Stopped(it)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Database { cause, .. } | Error::TableWait { cause, .. } => Some(&**cause),
            Error::Migration(failure) => Some(&failure.cause),
            _ => None,
        }
    }
}

impl Error {
    /// The server answered, and will not have us, or cannot be used for this.
    pub fn rejected(server: &Server, cause: String, hint: Option<&str>) -> Error {
        let (server, hint) = (&server.description, hint.map(|it| format!("hint: {it}")));
        Error::Unusable(format!("the server refused: {server}: {cause}{}", below(hint)))
    }

    /// The error in one line, for warnings.
    pub fn brief(&self) -> String {
        self.to_string().lines().next().unwrap_or_default().to_owned()
    }

    /// Adds how many migrations the run had done before, if the error tells that.
    pub fn after(mut self, done: Before) -> Error {
        if let Error::TableWait { before, .. } = &mut self {
            *before = Some(done);
        }
        self
    }

    /// What the log's structured line carries beside the words.
    pub fn fields(&self) -> Vec<(&'static str, Value<'_>)> {
        match self {
            Error::Migration(failure) => failure.fields(),
            Error::TableWait { cause, before, .. } => {
                let before = before.map(Before::field);
                [cause.field()].into_iter().chain(before).collect()
            }
            Error::SessionWait { before, .. } => vec![before.field()],
            Error::Database { cause, .. } => vec![cause.field()],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unusable(words)
            | Error::NoConnection(words)
            | Error::NoLock(words)
            | Error::Disagreement(words) => f.write_str(words),
            Error::Environment(all) => write!(f, "{BAD_ENVIRONMENT}{}", below(all)),
            Error::Files(all) => write!(f, "{BAD_FILES}{}", below(all)),
            Error::Refused(refusal) => f.write_str(&of_refusal(refusal)),
            Error::Pending { pending, bun_row, waited } => {
                write!(f, "{}{}", of_pending(pending, *waited), below(bun_row))
            }
            Error::Unreachable { server, waited, cause } => {
                let waited = duration(*waited);
                write!(f, "the database could not be reached within {waited}: {server}: {cause}")
            }
            Error::ConnectionLost { doing, cause } => write!(
                f,
                "the connection was lost: {doing}: {cause}\n  \
                 hint: run again; what was committed is in the history, and nothing is half done"
            ),
            Error::Database { doing, cause } => write!(f, "{doing}: {cause}{}", cause.notes()),
            Error::SessionWait { doing, session, waited, before } => write!(
                f,
                "{doing}: gave up after {} of waiting for {session}\n  \
                 not run; {before}; run again when that session is done",
                duration(*waited)
            ),
            Error::TableWait { doing, cause, blockers, waited, before } => {
                write!(f, "{doing}: gave up after {} of tries: {cause}", duration(*waited))?;
                f.write_str(&of_table_wait(cause, blockers, *before))
            }
            Error::NoWayBack(why) => f.write_str(&of_no_way_back(why)),
            Error::Migration(failure) => failure.fmt(f),
            Error::Stopped(it) => write!(f, "stopped by {}: {}", it.signal, it.doing),
        }
    }
}

const BAD_ENVIRONMENT: &str = "the environment cannot be used; nothing was changed";
const BAD_FILES: &str = "the migration files cannot be used; nothing was changed";

fn of_table_wait(cause: &SqlError, blockers: &[String], before: Option<Before>) -> String {
    let blockers = below(blockers.iter().map(|it| format!("blocked by {it}")));
    let stays = match before.map(|it| (it, it.direction)) {
        None => "nothing was changed".to_owned(),
        Some((before, Direction::Up)) => format!("rolled back; {before}"),
        Some((before, Direction::Down)) => format!("not rolled back; {before}"),
    };
    format!("{}{blockers}\n  {stays}; run again", cause.notes())
}

fn of_no_way_back(why: &WayBack) -> String {
    match why {
        WayBack::None(objections) => {
            let what = "these migrations cannot be rolled back; nothing was changed";
            what.to_owned() + &below(objections)
        }
        WayBack::TooFew { asked, recorded } => format!(
            "{asked} migrations cannot be rolled back: only {} {} recorded; nothing was changed",
            counted(*recorded, "migration"),
            are(*recorded)
        ),
        WayBack::NewerApplied(newer) => format!(
            "the history has changed while down waited: applied meanwhile: {}; nothing was \
             changed\n  hint: look at `lockstep status` before you run it again",
            joined(newer, ", ")
        ),
    }
}

fn of_refusal(refusal: &Refusal) -> String {
    let (divergences, obstructions) = (&refusal.divergences, &refusal.obstructions);
    let what = match (divergences.is_empty(), obstructions.is_empty()) {
        (false, true) => "history and files disagree",
        (false, false) => "history and files disagree, and pending migrations cannot be run",
        (true, _) => "pending migrations cannot be run",
    };
    let remedies = obstructions.iter().filter_map(|it| it.remedy.as_ref());
    let mut hints: Vec<String> = remedies.map(ToString::to_string).collect();
    let is_any = |state| divergences.iter().any(|it| it.state == state);
    let mut hint = |text: &str| hints.push(text.to_owned());
    if is_any(State::OutOfOrder) {
        hint(
            "give the late files a newer version, or, if they may run late, run with MIGRATION_ORDER=any",
        );
    }
    if is_any(State::Renamed) {
        hint(
            "give a renamed file its version back, or, if the new one is meant, take its record along: \
             lockstep baseline VERSION, with the new version",
        );
    }
    if is_any(State::Modified) || is_any(State::Missing) {
        hint(
            "bring back the files that were applied, or, if the difference is meant, \
             run with MIGRATION_DIVERGENCE=warn",
        );
    }
    if is_any(State::Modified) {
        hint(
            "or record a file that was mended as it is now: lockstep baseline VERSION, with its version",
        );
    }
    format!(
        "{what}; nothing was run{}{}{}",
        below(divergences),
        below(obstructions),
        below(hints.iter().map(|it| format!("hint: {it}")))
    )
}

fn of_pending(pending: &[String], waited: Option<Duration>) -> String {
    let still = match waited {
        Some(waited) => format!("still pending after {}", duration(waited)),
        None => "pending".to_owned(),
    };
    if pending.is_empty() {
        return format!("whether migrations are {still} cannot be told");
    }
    let (migrations, are) = (counted(pending.len(), "migration"), are(pending.len()));
    format!("{migrations} {are} {still}{}", below(pending))
}

/// What is said of a row of bun's.
pub const IS_BUNS: &str = "is bun's, whose owner may be alive or dead";

/// Why its newest record may promise too much.
pub const RECORDS_FIRST: &str = "bun records a migration before it runs it";

impl BunRow {
    /// What the newest record means while bun has the lock.
    pub fn doubt(&self) -> Option<String> {
        let newest = self.newest?;
        Some(format!(
            "{RECORDS_FIRST}: {newest}, the newest record, may be running, or may never have run"
        ))
    }
}

impl fmt::Display for BunRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BunRow { id, locks, .. } = self;
        write!(f, "row {id} of {locks} {IS_BUNS}{}", below(self.doubt()))
    }
}

/// The verb behind so many things.
fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}
