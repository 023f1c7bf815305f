//! Everything that can go wrong, by what it means, in named fields; and the words for it.
//!
//! An error says what failed, of what, why, and, if there is one right thing to do, what to do. Its number, and the word
//! `error:` in front, are `main`'s business. Nothing here prints.

mod failure;
mod sql;

use std::fmt;
use std::time::Duration;

use log::kv::Value;

use crate::config::Complaint;
use crate::files::Problem;
use crate::migration::{Direction, History, State, Version};
use crate::plan::doubt::Doubt;
use crate::plan::refusal::{Refusal, WayBack};
use crate::signals::{Signal, Stopped};
use crate::text::words::{counted, duration, joined};

pub use failure::{Before, Failure, FailureOutcome};
pub use sql::SqlError;

#[derive(Debug)]
pub enum Error {
    /// The command line is unusable.
    Usage(String),
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
    /// Nobody gets the command's answer: the disk that it was to go to is full, say.
    Unanswered { cause: std::io::Error },
    /// The server answered, and will not have us, or cannot be used for this.
    Rejected {
        server: String,
        cause: String,
        hint: Option<String>,
    },
    /// There is no connection of the kind that was asked for: a certificate that is not good, say. No try will change it.
    CannotConnect { server: String, cause: String },
    /// The server did not accept us before the deadline.
    Unreachable {
        server: String,
        waited: Duration,
        cause: String,
    },
    /// There was no second connection to be had before the deadline.
    NoSecondConnection { waited: Duration, cause: String },
    /// The connection broke in the middle of something; what was committed is in the history.
    ConnectionLost { doing: String, cause: String },
    /// The same in the middle of a `down`, which is not simply to be run again.
    RollbackLost { doing: String, cause: String },
    /// The server's answer is not what was asked for.
    UnexpectedAnswer { doing: String },
    /// The two connections reached different servers, or the guard is gone.
    OtherServer,
    /// A statement of our own failed: nothing of the user's is to blame.
    Database { doing: String, cause: Box<SqlError> },
    /// Another runner held the guard until the deadline.
    RunnerWait { holder: String, waited: Duration },
    /// The lock is ours, and another session was at work on what a migration needs until the deadline.
    SessionWait {
        doing: String,
        session: String,
        waited: Duration,
        before: Before,
    },
    /// A row of bun's stood in the locks table until the deadline.
    BunRowWait { row: BunRow, waited: Duration },
    /// `unlock` found a row whose owner lives.
    Held {
        locks: String,
        id: i64,
        holder: String,
    },
    /// `unlock` found a row of bun's, and was not told to remove it, or somebody is at work.
    BunRow {
        locks: String,
        id: i64,
        /// The record of what may never have run.
        doubt: Option<Box<Doubt>>,
        /// Who is at work; else the row may be removed.
        busy: Vec<String>,
        suspects: Vec<String>,
    },
    /// `unlock` was told to remove a row that is not there.
    NoSuchRow {
        locks: String,
        id: i64,
        present: Option<i64>,
    },
    /// Our row is gone from the locks table: somebody deleted it or took over.
    LockLost { locks: String, token: i64 },
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
    /// A history elsewhere in the database holds versions of our files, and the name of ours leads to none.
    HistoryElsewhere {
        table: String,
        search_path: String,
        /// Qualified and quoted.
        places: Vec<String>,
    },
    /// `baseline` was given a version that no file has; the nearest file.
    NoSuchVersion { version: Version, nearest: String },
    /// `baseline` was given a version that is older than what is recorded.
    RecordedBeyond {
        version: Version,
        newer: Vec<Version>,
    },
    /// A migration failed and was rolled back.
    Migration(Box<Failure>),
    /// Pending files cannot be rehearsed, because they have to run outside a transaction, or after an earlier one's commit:
    /// file, line and command.
    CannotRehearse { statements: Vec<String> },
    /// A runner is at work, or bun may be, and a rehearsal would get into its way.
    RunnerAtWork { runner: String },
    /// A signal stopped us.
    Stopped { signal: Signal, doing: String },
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
        Error::Stopped {
            signal: it.signal,
            doing: it.doing,
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Unanswered { cause } => Some(cause),
            Error::Database { cause, .. } | Error::TableWait { cause, .. } => Some(&**cause),
            Error::Migration(failure) => Some(&failure.cause),
            _ => None,
        }
    }
}

impl Error {
    /// The error in one line, for warnings.
    pub fn brief(&self) -> String {
        let text = self.to_string();
        text.lines().next().unwrap_or_default().to_owned()
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
            Error::Pending { pending, .. } => vec![("pending", Value::from(pending.len()))],
            Error::BunRowWait { row, .. } => vec![("id", Value::from(row.id))],
            Error::Held { id, .. }
            | Error::BunRow { id, .. }
            | Error::NoSuchRow { id, .. }
            | Error::LockLost { token: id, .. } => vec![("id", Value::from(*id))],
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words())
    }
}

/// In pieces: each hands on what is not its own.
impl Error {
    fn words(&self) -> String {
        match self {
            Error::Usage(problem) => problem.clone(),
            Error::Environment(complaints) => {
                let what = "the environment cannot be used; nothing was changed";
                what.to_owned() + &below(complaints)
            }
            Error::Files(problems) => {
                let what = "the migration files cannot be used; nothing was changed";
                what.to_owned() + &below(problems)
            }
            Error::Unanswered { cause } => {
                format!("the answer could not be written to stdout: {cause}")
            }
            Error::Stopped { signal, doing } => format!("stopped by {signal}: {doing}"),
            Error::HistoryElsewhere {
                table,
                search_path,
                places,
            } => of_elsewhere(table, search_path, places),
            Error::NoWayBack(why) => of_no_way_back(why),
            Error::Refused(refusal) => of_refusal(refusal),
            Error::Pending {
                pending,
                bun_row,
                waited,
            } => of_pending(pending, *waited) + &below(bun_row),
            Error::Migration(failure) => failure.to_string(),
            _ => self.of_server(),
        }
    }

    /// What is wrong with the server, or the way to it.
    fn of_server(&self) -> String {
        match self {
            Error::Rejected {
                server,
                cause,
                hint,
            } => {
                let hint = hint.iter().map(|hint| format!("hint: {hint}"));
                format!("the server refused: {server}: {cause}{}", below(hint))
            }
            Error::CannotConnect { server, cause } => {
                format!("cannot connect to {server}: {cause}")
            }
            Error::Unreachable {
                server,
                waited,
                cause,
            } => format!(
                "the database could not be reached within {}: {server}: {cause}",
                duration(*waited)
            ),
            Error::NoSecondConnection { waited, cause } => format!(
                "no second connection within {}: {cause}\n  \
                 hint: run again; a pool must have two for a runner",
                duration(*waited)
            ),
            Error::ConnectionLost { doing, cause } => format!(
                "the connection was lost: {doing}: {cause}\n  \
                 hint: run again; what was committed is in the history, and nothing is half done"
            ),
            Error::RollbackLost { doing, cause } => format!(
                "the connection was lost: {doing}: {cause}\n  hint: look at the history before \
                 you run it again: down counts from what is the newest then"
            ),
            Error::UnexpectedAnswer { doing } => format!(
                "{doing}: the server's answer is not what was asked for\n  \
                 hint: run again; nothing is half done"
            ),
            Error::OtherServer => "the two connections reached different servers, or the first \
                was cut; nothing was begun\n  hint: run again; if it stays so, name one server"
                .to_owned(),
            Error::Database { doing, cause } => format!("{doing}: {cause}{}", cause.notes()),
            _ => self.of_waiting(),
        }
    }

    /// Who or what was in the way for too long.
    fn of_waiting(&self) -> String {
        match self {
            Error::RunnerWait { holder, waited } => format!(
                "another runner still holds the migration lock after {}: {holder}\n  \
                 hint: run again; the lock is gone the moment its holder is",
                duration(*waited)
            ),
            Error::SessionWait {
                doing,
                session,
                waited,
                before,
            } => format!(
                "{doing}: gave up after {} of waiting for {session}\n  \
                 not run; {before}; run again when that session is done",
                duration(*waited)
            ),
            Error::BunRowWait { row, waited } => format!(
                "bun's lock is still there after {}: {row}\n  \
                 hint: run again if a bun process is at work; if you know that none is: lockstep unlock {}",
                duration(*waited),
                row.id
            ),
            Error::LockLost { locks, token } => format!(
                "the migration lock was lost: row {token} is gone from {locks}: somebody deleted \
                 it, or another runner took over\n  nothing ran without the lock; what was \
                 committed before stays\n  hint: run again"
            ),
            Error::TableWait {
                doing,
                cause,
                blockers,
                waited,
                before,
            } => {
                let (waited, notes) = (duration(*waited), cause.notes());
                let blockers = below(blockers.iter().map(|it| format!("blocked by {it}")));
                let stays = match before.map(|it| (it, it.direction)) {
                    None => "nothing was changed".to_owned(),
                    Some((before, Direction::Up)) => format!("rolled back; {before}"),
                    Some((before, Direction::Down)) => format!("not rolled back; {before}"),
                };
                format!(
                    "{doing}: gave up after {waited} of tries: {cause}{notes}{blockers}\n  {stays}; run again"
                )
            }
            Error::RunnerAtWork { runner } => format!(
                "a rehearsal would get into the way of another runner: {runner}\n  \
                 hint: run again when it is done"
            ),
            _ => self.of_wish(),
        }
    }

    /// Why a command cannot do what it was asked for.
    fn of_wish(&self) -> String {
        match self {
            Error::Held { locks, id, holder } => {
                format!("row {id} of {locks} is a living runner's, and stays: {holder}")
            }
            Error::BunRow {
                locks, id, busy, ..
            } if !busy.is_empty() => format!(
                "row {id} of {locks} {IS_BUNS}; it stays while these are at work:{}\n  \
                 hint: end them, or when they are done: lockstep unlock {id}",
                below(busy)
            ),
            Error::BunRow {
                locks,
                id,
                doubt,
                suspects,
                ..
            } => {
                let nobody = "no session of another program is connected to this database now";
                let owners = match suspects.is_empty() {
                    true => below([nobody]),
                    false => below(suspects.iter().map(|it| format!("its owner may be {it}"))),
                };
                let doubt = below(doubt.iter().map(|it| format!("{RECORDS_FIRST}: {it}")));
                format!(
                    "row {id} of {locks} {IS_BUNS}{owners}{doubt}\n  \
                     hint: if you know that no bun process is at work: lockstep unlock {id}"
                )
            }
            Error::NoSuchRow { locks, id, present } => {
                let present = present.map(|present| format!("; its row is {present}"));
                let present = present.unwrap_or_default();
                format!("there is no row {id} in {locks}{present}")
            }
            Error::NoSuchVersion { version, nearest } => format!(
                "no file has the version {version}; nothing was changed; the nearest is {nearest}"
            ),
            Error::RecordedBeyond { version, newer } => format!(
                "the history is beyond {version} already; nothing was changed; newer and recorded: {}",
                joined(newer, ", ")
            ),
            Error::CannotRehearse { statements } => format!(
                "a rehearsal is one transaction, and what is pending does not fit into one; \
                 nothing was changed{}",
                below(statements)
            ),
            // All others stand above.
            other => format!("{other:?}"),
        }
    }
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

fn of_elsewhere(table: &str, search_path: &str, places: &[String]) -> String {
    let found = places.join(", ");
    let hint = |it| format!("hint: to go on with that one: MIGRATIONS_TABLE={it}");
    format!(
        "the history is lost sight of: the search_path leads to no {table}, and {found} holds \
         versions of these files; nothing was changed\n  search_path: {search_path}{}\n  \
         hint: for a history of its own: MIGRATIONS_TABLE=SCHEMA.{table}, with the schema to create it in",
        below(places.iter().map(hint))
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

const RECORDS_FIRST: &str = "bun records a migration before it runs it";

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

/// Each on a line of its own, below what was said before.
fn below(lines: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let lines = lines.into_iter();
    lines.map(|line| format!("\n  {line}")).collect()
}

/// The verb behind so many things.
fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}
