//! Everything that can go wrong, in named fields; the words for it, in one `Display`.
//!
//! An error says what failed, of what, why, and, if there is one right thing to do, what to do. Its number is
//! `main`'s business. Nothing here prints.

use std::fmt;
use std::time::Duration;

use log::kv::Value;
use postgres::error::{DbError, ErrorPosition};

use crate::config::Complaint;
use crate::files::FileProblem;
use crate::migration::{Direction, Version};
use crate::plan::refusal::{Divergence, DivergenceKind, Objection, Obstruction, Refusal, WayBack};
use crate::signals::{Signal, Stopped};
pub use crate::sql::place::{Place, Precision};
use crate::sql::sqlstate;
use crate::text::words::seconds;

pub enum Error {
    /// The command line is unusable.
    Usage(String),
    /// The environment is unusable: every complaint at once.
    Environment(Vec<Complaint>),
    /// The migrations directory is unusable: every complaint at once.
    Files(Vec<FileProblem>),
    /// What is pending cannot be run: every complaint at once.
    Refused {
        divergences: Vec<Divergence>,
        obstructions: Vec<Obstruction>,
    },
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
        hint: Option<&'static str>,
    },
    /// The server did not accept us before the deadline.
    Unreachable {
        server: String,
        waited: Duration,
        cause: String,
    },
    /// The connection broke in the middle of something; what was committed is in the history.
    ConnectionLost { doing: String, cause: String },
    /// The same in the middle of a `down`, which is not simply to be run again.
    RollbackLost { doing: String, cause: String },
    /// A statement of our own failed: nothing of the user's is to blame.
    Database { doing: String, cause: Box<SqlError> },
    /// Another runner held the guard until the deadline.
    RunnerWait { holder: String, waited: Duration },
    /// A row of bun's stood in the locks table until the deadline.
    BunRowWait {
        locks: String,
        id: i64,
        newest: Option<Version>,
        waited: Duration,
    },
    /// `unlock` found a row whose owner lives.
    Held {
        locks: String,
        id: i64,
        holder: String,
    },
    /// `unlock` found a row of bun's, and was not told to remove it.
    BunRow {
        locks: String,
        id: i64,
        newest: Option<Version>,
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
    NoWayBack(Vec<Objection>),
    /// `down` was told to roll back more than there is.
    TooFew { asked: usize, recorded: usize },
    /// While `down` waited for the lock, these were applied, and nobody has asked to roll them back.
    NewerApplied(Vec<Version>),
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
#[derive(Clone)]
pub struct BunRow {
    pub locks: String,
    pub id: i64,
    /// The newest record in the history, which may promise too much.
    pub newest: Option<Version>,
}

/// What the server said of a statement, without the parts that speak of the server's own source code.
#[derive(Clone)]
pub struct SqlError {
    pub sqlstate: String,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// The statement inside a function that failed.
    pub query: Option<String>,
    pub context: Option<String>,
}

impl SqlError {
    /// Says what to do for a role that may not read our tables; the query for them is ours, and nobody's business.
    pub fn lacks_right_to_read(&mut self) {
        self.query = None;
        self.context = None;
        self.hint = Some(
            "The role needs SELECT on the history, its journal and the locks table, and USAGE on their schema."
                .to_owned(),
        );
    }
}

impl From<&DbError> for SqlError {
    fn from(error: &DbError) -> SqlError {
        SqlError {
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
            query: inner_query(error),
            context: error.where_().map(str::to_owned),
        }
    }
}

/// The statement of a function's that failed, if it was in a function.
fn inner_query(error: &DbError) -> Option<String> {
    match error.position() {
        Some(ErrorPosition::Internal { query, .. }) => Some(query.clone()),
        _ => None,
    }
}

impl SqlError {
    /// Returns true if and only if the same statement may well succeed later without anybody doing anything:
    /// connection exceptions, rollbacks for concurrency, missing resources, an operator's intervention, system and
    /// internal errors (PostgreSQL manual, appendix "Error Codes").
    pub fn is_transient(&self) -> bool {
        self.sqlstate == sqlstate::OTHER_SERVER
            || matches!(
                self.sqlstate.get(..2),
                Some("08" | "40" | "53" | "55" | "57" | "58" | "XX")
            )
    }
}

/// A migration that failed: where, and what became of it.
pub struct Failure {
    pub file: String,
    pub place: Option<Place>,
    pub cause: SqlError,
    /// What the statement was, if the file has several: `statement 2 of 5, CREATE TABLE`.
    pub statement: Option<String>,
    pub outcome: FailureOutcome,
    pub before: Before,
}

/// How many migrations this run had done before the one that failed, and which way.
#[derive(Clone, Copy)]
pub struct Before {
    pub direction: Direction,
    pub count: usize,
}

impl Before {
    /// For what fails before the first migration.
    pub fn nothing() -> Before {
        Before {
            direction: Direction::Up,
            count: 0,
        }
    }

    /// What the log's structured line carries.
    fn field(self) -> (&'static str, Value<'static>) {
        let name = match self.direction {
            Direction::Up => "applied_before",
            Direction::Down => "rolled_back_before",
        };
        (name, Value::from(self.count))
    }
}

/// What a failed migration left behind.
pub enum FailureOutcome {
    RolledBack,
    /// It was not even begun.
    NotBegun,
    /// The file ended the transaction that it ran in; what stood before that is committed.
    TransactionEnded,
    /// It ran outside a transaction; the next run finds out from the catalog what it left.
    OutsideTransaction,
}

impl From<Refusal> for Error {
    fn from(it: Refusal) -> Error {
        Error::Refused {
            divergences: it.divergences,
            obstructions: it.obstructions,
        }
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

impl From<WayBack> for Error {
    fn from(it: WayBack) -> Error {
        match it {
            WayBack::TooFew { asked, recorded } => Error::TooFew { asked, recorded },
            WayBack::NewerApplied(it) => Error::NewerApplied(it),
            WayBack::None(it) => Error::NoWayBack(it),
        }
    }
}

impl Error {
    /// The error in one line, for warnings.
    pub fn brief(&self) -> String {
        let text = self.to_string();
        let first = text.lines().next().unwrap_or_default();
        first.strip_prefix("error: ").unwrap_or(first).to_owned()
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
            Error::Migration(failure) => {
                let mut fields = vec![
                    ("file", Value::from(failure.file.as_str())),
                    ("sqlstate", Value::from(failure.cause.sqlstate.as_str())),
                    failure.before.field(),
                ];
                if let Some(place) = &failure.place {
                    fields.extend([
                        ("line", Value::from(place.line)),
                        ("column", Value::from(place.column)),
                    ]);
                }
                fields
            }
            Error::TableWait { cause, before, .. } => {
                let mut fields = vec![("sqlstate", Value::from(cause.sqlstate.as_str()))];
                fields.extend(before.map(Before::field));
                fields
            }
            Error::Database { cause, .. } => {
                vec![("sqlstate", Value::from(cause.sqlstate.as_str()))]
            }
            Error::Pending { pending, .. } => vec![("pending", Value::from(pending.len()))],
            Error::BunRowWait { id, .. }
            | Error::Held { id, .. }
            | Error::BunRow { id, .. }
            | Error::NoSuchRow { id, .. }
            | Error::LockLost { token: id, .. } => {
                vec![("id", Value::from(*id))]
            }
            Error::Usage(_)
            | Error::Environment(_)
            | Error::Files(_)
            | Error::Refused { .. }
            | Error::Rejected { .. }
            | Error::Unreachable { .. }
            | Error::ConnectionLost { .. }
            | Error::RollbackLost { .. }
            | Error::RunnerWait { .. }
            | Error::NoWayBack(_)
            | Error::TooFew { .. }
            | Error::NewerApplied(_)
            | Error::NoSuchVersion { .. }
            | Error::RecordedBeyond { .. }
            | Error::CannotRehearse { .. }
            | Error::Unanswered { .. }
            | Error::RunnerAtWork { .. }
            | Error::Stopped { .. } => Vec::new(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: ")?;
        match self {
            Error::Pending {
                pending,
                bun_row,
                waited,
            } => write_pending(f, pending, bun_row.as_ref(), *waited),
            Error::Usage(problem) => write!(f, "{problem}"),
            Error::Environment(complaints) => {
                write!(f, "the environment cannot be used; nothing was changed")?;
                complaints
                    .iter()
                    .try_for_each(|complaint| write!(f, "\n  {complaint}"))
            }
            Error::Files(problems) => {
                write!(f, "the migration files cannot be used; nothing was changed")?;
                problems
                    .iter()
                    .try_for_each(|it| write!(f, "\n  {}: {}", it.path.display(), it.problem))
            }
            Error::Refused {
                divergences,
                obstructions,
            } => write_refusal(f, divergences, obstructions),
            Error::Rejected {
                server,
                cause,
                hint,
            } => {
                write!(f, "the server refused: {server}: {cause}")?;
                hint.iter()
                    .try_for_each(|hint| write!(f, "\n  hint: {hint}"))
            }
            Error::Unreachable {
                server,
                waited,
                cause,
            } => {
                write!(
                    f,
                    "the database could not be reached within {}: {server}: {cause}",
                    seconds(*waited)
                )
            }
            Error::ConnectionLost { doing, cause } => {
                write!(f, "the connection was lost: {doing}: {cause}")?;
                write!(
                    f,
                    "\n  hint: run again; what was committed is in the history, and nothing is half done"
                )
            }
            Error::RollbackLost { doing, cause } => {
                write!(f, "the connection was lost: {doing}: {cause}")?;
                write!(
                    f,
                    "\n  hint: look at the history before you run it again: down counts from what is the newest then"
                )
            }
            Error::Database { doing, cause } => {
                write!(f, "{doing}: {cause}")?;
                write_notes(f, cause)
            }
            Error::RunnerWait { holder, waited } => {
                write!(
                    f,
                    "another runner still holds the migration lock after {}: {holder}",
                    seconds(*waited)
                )?;
                write!(
                    f,
                    "\n  hint: run again; the lock is gone the moment its holder is"
                )
            }
            Error::BunRowWait {
                locks,
                id,
                newest,
                waited,
            } => write_bun_row(f, locks, *id, *newest, *waited),
            Error::Held { locks, id, holder } => {
                write!(
                    f,
                    "row {id} of {locks} is a living runner's, and stays: {holder}"
                )
            }
            Error::BunRow {
                locks,
                id,
                newest,
                suspects,
            } => {
                write!(
                    f,
                    "row {id} of {locks} is bun's, whose owner may be alive or dead"
                )?;
                write_newest(f, *newest)?;
                suspects
                    .iter()
                    .try_for_each(|suspect| write!(f, "\n  its owner may be {suspect}"))?;
                if suspects.is_empty() {
                    write!(
                        f,
                        "\n  no session of another program is connected to this database now"
                    )?;
                }
                write!(
                    f,
                    "\n  hint: if you know that no bun process is at work: lockstep unlock {id}"
                )
            }
            Error::NoSuchRow { locks, id, present } => {
                write!(f, "there is no row {id} in {locks}")?;
                present
                    .iter()
                    .try_for_each(|present| write!(f, "; its row is {present}"))
            }
            Error::LockLost { locks, token } => {
                write!(
                    f,
                    "the migration lock was lost: row {token} is gone from {locks}: "
                )?;
                write!(f, "somebody deleted it, or another runner took over")?;
                write!(
                    f,
                    "\n  nothing ran without the lock; what was committed before stays"
                )?;
                write!(f, "\n  hint: run again")
            }
            Error::TableWait {
                doing,
                cause,
                blockers,
                waited,
                before,
            } => {
                let waited = seconds(*waited);
                write!(f, "{doing}: gave up after {waited} of tries: {cause}")?;
                write_notes(f, cause)?;
                blockers
                    .iter()
                    .try_for_each(|blocker| write!(f, "\n  blocked by {blocker}"))?;
                match before {
                    None => write!(f, "\n  nothing was changed; run again"),
                    Some(before) => match before.direction {
                        Direction::Up => write!(f, "\n  rolled back; {before}; run again"),
                        Direction::Down => write!(f, "\n  not rolled back; {before}; run again"),
                    },
                }
            }
            Error::NoWayBack(complaints) => {
                write!(
                    f,
                    "these migrations cannot be rolled back; nothing was changed"
                )?;
                complaints
                    .iter()
                    .try_for_each(|complaint| write!(f, "\n  {complaint}"))
            }
            Error::TooFew { asked, recorded } => {
                let there = match recorded {
                    1 => "only 1 migration is".to_owned(),
                    count => format!("only {count} migrations are"),
                };
                write!(
                    f,
                    "{asked} migrations cannot be rolled back: {there} recorded; nothing was changed"
                )
            }
            Error::NewerApplied(newer) => {
                write!(
                    f,
                    "the history has changed while down waited: applied meanwhile: {}; nothing was changed",
                    listed(newer)
                )?;
                write!(
                    f,
                    "\n  hint: look at `lockstep status` before you run it again"
                )
            }
            Error::NoSuchVersion { version, nearest } => write!(
                f,
                "no file has the version {version}; nothing was changed; the nearest is {nearest}"
            ),
            Error::RecordedBeyond { version, newer } => write!(
                f,
                "the history is beyond {version} already; nothing was changed; newer and recorded: {}",
                listed(newer)
            ),
            Error::Migration(failure) => write!(f, "{failure}"),
            Error::CannotRehearse { statements } => {
                write!(
                    f,
                    "a rehearsal is one transaction, and what is pending does not fit into one; nothing was changed"
                )?;
                statements
                    .iter()
                    .try_for_each(|statement| write!(f, "\n  {statement}"))
            }
            Error::Unanswered { cause } => {
                write!(f, "the answer could not be written to stdout: {cause}")
            }
            Error::RunnerAtWork { runner } => {
                write!(
                    f,
                    "a rehearsal would get into the way of another runner: {runner}"
                )?;
                write!(f, "\n  hint: run again when it is done")
            }
            Error::Stopped { signal, doing } => write!(f, "stopped by {signal}: {doing}"),
        }
    }
}

fn write_refusal(
    f: &mut fmt::Formatter<'_>,
    divergences: &[Divergence],
    obstructions: &[Obstruction],
) -> fmt::Result {
    let what = match (divergences.is_empty(), obstructions.is_empty()) {
        (false, true) => "history and files disagree",
        (false, false) => "history and files disagree, and pending migrations cannot be run",
        (true, _) => "pending migrations cannot be run",
    };
    write!(f, "{what}; nothing was run")?;
    divergences
        .iter()
        .try_for_each(|divergence| write!(f, "\n  {divergence}"))?;
    obstructions
        .iter()
        .try_for_each(|obstruction| write!(f, "\n  {obstruction}"))?;
    obstructions
        .iter()
        .filter_map(|obstruction| obstruction.split.as_ref())
        .try_for_each(|split| write!(f, "\n  hint: {split}"))?;
    let (late, changed): (Vec<_>, Vec<_>) = divergences
        .iter()
        .partition(|it| it.kind == DivergenceKind::OutOfOrder);
    if !late.is_empty() {
        write!(
            f,
            "\n  hint: give the late files a newer version, or, if they may run late, "
        )?;
        write!(f, "run with MIGRATION_ORDER=any")?;
    }
    if !changed.is_empty() {
        write!(
            f,
            "\n  hint: bring back the files that were applied, or, if the difference is meant, "
        )?;
        write!(f, "run with MIGRATION_DIVERGENCE=warn")?;
    }
    Ok(())
}

fn write_pending(
    f: &mut fmt::Formatter<'_>,
    pending: &[String],
    bun_row: Option<&BunRow>,
    waited: Option<Duration>,
) -> fmt::Result {
    let still = match waited {
        Some(waited) => format!("still pending after {}", seconds(waited)),
        None => "pending".to_owned(),
    };
    match pending {
        [] => write!(f, "whether migrations are {still} cannot be told")?,
        [_] => write!(f, "1 migration is {still}")?,
        several => write!(f, "{} migrations are {still}", several.len())?,
    }
    pending.iter().try_for_each(|it| write!(f, "\n  {it}"))?;
    let Some(BunRow { locks, id, newest }) = bun_row else {
        return Ok(());
    };
    write!(
        f,
        "\n  row {id} of {locks} is bun's, whose owner may be alive or dead"
    )?;
    write_newest(f, *newest)
}

fn write_bun_row(
    f: &mut fmt::Formatter<'_>,
    locks: &str,
    id: i64,
    newest: Option<Version>,
    waited: Duration,
) -> fmt::Result {
    write!(
        f,
        "bun's lock is still there after {}: row {id} of {locks}: ",
        seconds(waited)
    )?;
    write!(
        f,
        "its owner is a bun process, alive or dead, which nothing can tell"
    )?;
    write_newest(f, newest)?;
    write!(
        f,
        "\n  hint: run again if a bun process is at work; if you know that none is: lockstep unlock {id}"
    )
}

fn write_newest(f: &mut fmt::Formatter<'_>, newest: Option<Version>) -> fmt::Result {
    let Some(newest) = newest else { return Ok(()) };
    write!(f, "\n  bun records a migration before it runs it: ")?;
    write!(
        f,
        "{newest}, the newest record, may be running, or may never have run"
    )
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(place) = &self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}", self.cause)?;
        if let Some(place) = &self.place {
            write!(f, "\n{}", place.excerpt())?;
            if place.precision == Precision::EndOfFile {
                write!(f, " the end of the file")?;
            }
        }
        if let Some(statement) = &self.statement {
            write!(f, "\n  {statement}")?;
        }
        write_notes(f, &self.cause)?;
        let before = self.before;
        if before.direction == Direction::Down {
            return write_what_stays(f, &self.outcome, before);
        }
        match self.outcome {
            FailureOutcome::RolledBack => {
                write!(f, "\n  rolled back; {before}; fix the file and run again")
            }
            FailureOutcome::NotBegun => {
                write!(f, "\n  not run; {before}; run again when that is done")
            }
            FailureOutcome::TransactionEnded => write!(
                f,
                "\n  not recorded; if the file ended its transaction, what stands before that is committed; {before}; \
                 fix the file and run again"
            ),
            FailureOutcome::OutsideTransaction => write!(
                f,
                "\n  not recorded; {before}; remove the cause and run again: the next run cleans up what this one left"
            ),
        }
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.sqlstate)
    }
}

/// DETAIL, HINT, QUERY and CONTEXT as psql shows them, each on lines of its own.
fn write_notes(f: &mut fmt::Formatter<'_>, cause: &SqlError) -> fmt::Result {
    for (label, note) in [
        ("DETAIL", &cause.detail),
        ("HINT", &cause.hint),
        ("QUERY", &cause.query),
        ("CONTEXT", &cause.context),
    ] {
        if let Some(note) = note {
            write!(f, "\n  {label}: {}", note.replace('\n', "\n    "))?;
        }
    }
    Ok(())
}

/// What a rollback that failed leaves.
fn write_what_stays(
    f: &mut fmt::Formatter<'_>,
    outcome: &FailureOutcome,
    before: Before,
) -> fmt::Result {
    match outcome {
        FailureOutcome::RolledBack => write!(
            f,
            "\n  it stays applied, whole; {before}; fix the file and run again"
        ),
        FailureOutcome::NotBegun => {
            write!(
                f,
                "\n  it stays applied, whole; {before}; run again when that is done"
            )
        }
        FailureOutcome::TransactionEnded => write!(
            f,
            "\n  it stays recorded; if the file ended its transaction, what stands before that is committed; {before}; \
             fix the file and run again"
        ),
        FailureOutcome::OutsideTransaction => write!(
            f,
            "\n  not rolled back; {before}; remove the cause and run again: the next down goes on with it, \
             the next up brings it back"
        ),
    }
}

impl fmt::Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = match self.direction {
            Direction::Up => "applied",
            Direction::Down => "rolled back",
        };
        match self.count {
            0 => write!(f, "nothing was {done} before it"),
            1 => write!(f, "1 migration before it stays {done}"),
            count => write!(f, "{count} migrations before it stay {done}"),
        }
    }
}

fn listed(versions: &[Version]) -> String {
    let versions: Vec<String> = versions.iter().map(Version::to_string).collect();
    versions.join(", ")
}
