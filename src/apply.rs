//! `Plan` → messages to the server, one migration after the other, and the same on the way back.
//!
//! A transactional file is one simple-query message, one round trip: the transaction's begin, its settings and the
//! fence; the file; the check, the record and the commit; the reset of all that a file may leave behind. A large file is
//! several messages, in the same transaction. A file that cannot run in a transaction goes to [`outside`].
//!
//! A down file is run like an up file, but for two things ([`Way`]): the fence wants its version recorded, and in the
//! place of the record stands its deletion.

mod blockers;
mod explain;
mod message;
pub mod outside;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use log::{Level, debug, info, log, warn};

pub use self::blockers::blockers;
pub use self::explain::in_body;
use self::explain::{name_invisible, own_tables_gone, without_our_words};
use self::message::{FileMessage, Marker, Marking};
use crate::config::Config;
use crate::error::{Before, Error, Failure, FailureOutcome, SqlError};
use crate::files::name;
use crate::history::Tables;
use crate::history::record::Started;
use crate::lock::Locked;
use crate::lock::fence::{Expected, Failed, Fault, Fenced, Ran, Verdict};
use crate::logging::{self, Format};
use crate::migration::{Direction, History, Migration, Version};
use crate::plan;
use crate::plan::doubt::{COLUMNS, Trial};
use crate::server::progress::Watch;
use crate::server::session::Trouble;
use crate::server::settings::{Settings, Span};
use crate::server::wait::Wait;
use crate::signals::Signals;
use crate::sql::place::{Place, Precision};
use crate::sql::quote::literal;
use crate::sql::{self, Kind, sqlstate};
use crate::text::words::duration;

/// How long a migration that met a locked table pauses before it is tried again, at most. Readers and writers that
/// queued behind it get through meanwhile. It is short, because `idle_session_timeout` counts between transactions, where
/// no setting of ours holds.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What all migrations of a run have in common.
struct Run<'a> {
    config: &'a Config,
    signals: &'a Signals,
    way: Way,
    /// Whether the server counts positions in bytes.
    counts_bytes: bool,
    history: &'a History,
    /// The versions that no new file may have.
    taken: BTreeSet<Version>,
    /// How many migrations this run has applied, or rolled back.
    done: usize,
    /// Of the column for their names.
    width: usize,
}

/// Which way the files are run, and what becomes of their records.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Up files; they are recorded, with this group.
    Up { group: i64 },
    /// Down files; what is recorded of them goes.
    Down,
}

impl Way {
    fn direction(self) -> Direction {
        match self {
            Way::Up { .. } => Direction::Up,
            Way::Down => Direction::Down,
        }
    }

    fn doing(self) -> &'static str {
        match self {
            Way::Up { .. } => "applying",
            Way::Down => "rolling back",
        }
    }
}

/// What became of a migration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    /// Somebody else recorded it, or took its record away, while the row was ours: a bun that lives, and whose own row
    /// was deleted under its feet.
    DoneByOthers,
}

/// Runs the files in the order given, each with its record, or with the deletion of it; returns how many were done.
///
/// # Errors
///
/// The first migration that fails ends the run; what came before it stays. [`Error::Stopped`] between two migrations.
pub fn run(
    config: &Config,
    signals: &Signals,
    locked: &mut Locked,
    way: Way,
    migrations: &[&Migration],
    (history, counts_bytes): (&History, bool),
) -> Result<usize, Error> {
    let mut run = Run {
        config,
        signals,
        way,
        counts_bytes,
        history,
        taken: plan::known_versions(migrations.iter().copied(), history),
        done: 0,
        width: widest(migrations.iter().copied()),
    };
    run.all(locked, migrations)
}

impl Run<'_> {
    /// Runs the files one after the other and returns how many were done.
    fn all(&mut self, locked: &mut Locked, migrations: &[&Migration]) -> Result<usize, Error> {
        let (of, doing) = (migrations.len(), self.way.doing());
        let mut glance = locked.glance();
        for (number, migration) in migrations.iter().enumerate() {
            let number = number + 1;
            self.signals.check(&match self.way {
                Way::Up { .. } => format!("{} of {of} pending migrations were applied", self.done),
                Way::Down => format!("{} of {of} migrations were rolled back", self.done),
            })?;
            let (version, name) = (migration.version.to_string(), migration.file_name.as_str());
            // A person sees what takes long by other lines.
            let level = match logging::format() {
                Format::Json => Level::Info,
                Format::Text => Level::Debug,
            };
            log!(level, version = version.as_str(), name, number, of; "{number}/{of} {doing} {name}");
            let started = Instant::now();
            let mut watch = Watch::start(migration, (number, of), glance.as_mut(), self.signals);
            let step = self.migrate(locked, migration, &mut watch)?;
            drop(watch);
            if step == Step::DoneByOthers {
                let what = match self.way {
                    Way::Up { .. } => "recorded",
                    Way::Down => "rolled back, or recorded anew,",
                };
                warn!(version = version.as_str(), name; "{number}/{of} {name} was {what} by somebody else meanwhile");
                continue;
            }
            self.done += 1;
            self.tell(migration, number, of, started.elapsed());
        }
        Ok(self.done)
    }

    /// Says that a migration is done.
    fn tell(&self, migration: &Migration, number: usize, of: usize, took: Duration) {
        let (version, name) = (migration.version.to_string(), migration.file_name.as_str());
        let group = match self.way {
            Way::Up { group } => Some(group),
            Way::Down => self.history.record(migration.version).map(|it| it.group),
        };
        let done = self.way.direction().done();
        let empty = match migration.script.statements.is_empty() {
            true => ", no statement",
            false => "",
        };
        let position = format!("{number}/{of}");
        let places = logging::column(2 * of.to_string().len() + 1);
        let (named, timed) = (named(migration, self.width), logging::column(6));
        info!(
            version = version.as_str(), name, number, of, group, duration_ms = logging::milliseconds(took);
            "{position:>places$} {done} {named} {:>timed$}{empty}", duration(took)
        );
    }

    /// What this run has done so far, for its errors.
    fn before(&self) -> Before {
        Before {
            direction: self.way.direction(),
            count: self.done,
        }
    }

    /// Runs one migration, in a transaction or outside, and again while a lock is in the way.
    fn migrate(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        watch: &mut Watch<'_>,
    ) -> Result<Step, Error> {
        let mut wait = Wait::new(self.signals, self.config.ddl_lock_retry);
        if let Some(step) = self.outside(locked, migration, watch).settle_unfinished()? {
            return Ok(step);
        }
        let script = &migration.script;
        if script.no_transaction && !script.statements.is_empty() {
            return self.outside(locked, migration, watch).run_each(&mut wait);
        }
        if let [statement] = script.statements.as_slice()
            && let Kind::Outside(statement) = &statement.kind
        {
            let expected = self.expected(migration.version);
            let mut alone = self.outside(locked, migration, watch);
            return alone.run(Some(statement), expected, &mut wait);
        }
        loop {
            let error = match self.attempt(locked, migration, watch)? {
                Attempt::Done(step) => return Ok(step),
                Attempt::NeedsNoTransaction => {
                    let expected = self.expected(migration.version);
                    let mut alone = self.outside(locked, migration, watch);
                    return alone.run(None, expected, &mut wait);
                }
                Attempt::Locked(error) => error,
            };
            let blockers = self.blockers(locked, migration, &error)?;
            let cause = Box::new(error.cause());
            if wait.is_over() {
                return Err(Error::TableWait {
                    doing: migration.path.display().to_string(),
                    cause,
                    blockers,
                    waited: wait.elapsed(),
                    before: Some(self.before()),
                });
            }
            wait.say(|| {
                let blockers = if blockers.is_empty() {
                    "somebody who holds it no more".into()
                } else {
                    blockers.join("; ")
                };
                format!(
                    "a lock: {}: {cause}: blocked by {blockers}; rolled back, trying again",
                    migration.file_name
                )
            });
            locked.pause(&mut wait, RETRY_PAUSE)?;
        }
    }

    /// Sends the migration; again without markers if it did not come as far as the first of them, so that a mistake of our
    /// lexer cannot break a file that PostgreSQL would take; and again with more of them, if one statement of several may
    /// be the one that failed.
    fn attempt<'m>(
        &self,
        locked: &mut Locked,
        migration: &'m Migration,
        watch: &mut Watch<'_>,
    ) -> Result<Attempt<'m>, Error> {
        let has_markers = migration.script.statements.len() > 1 || logging::query_log_enabled();
        let mut marking = match has_markers {
            true => Marking::Usual,
            false => Marking::None,
        };
        let failed = loop {
            let failed = match self.send(locked, migration, &marking, watch)? {
                Ok(()) => return Ok(Attempt::Done(Step::Done)),
                Err(failed) => failed,
            };
            marking = match failed.next_marking(migration, &marking) {
                Some(next) => next,
                None => break failed,
            };
            debug!("{}: once more, with other markers", migration.file_name);
        };
        let single = migration.script.statements.len() == 1;
        match failed.failed.verdict() {
            Verdict::DoneByOthers => Ok(Attempt::Done(Step::DoneByOthers)),
            Verdict::LockLost => Err(locked.lost()),
            Verdict::TryAgain => Ok(Attempt::Locked(failed)),
            Verdict::NotInTransaction if single => Ok(Attempt::NeedsNoTransaction),
            Verdict::NotInTransaction | Verdict::Refused => {
                if let Some(error) = self.fault_of_tables(locked, migration, &failed.failed) {
                    return Err(error);
                }
                let outcome = match failed.failed.ours {
                    Some(sqlstate::TRANSACTION_ENDED) => FailureOutcome::TransactionEnded,
                    _ => FailureOutcome::RolledBack,
                };
                let at_end = failed.is_at_end(migration, locked)?;
                let mut error = self.failure(migration, &failed, at_end, outcome);
                if let Error::Migration(failure) = &mut error
                    && failed.statement().unwrap_or(0) == 0
                    && self.is_there(locked, migration, &failure.cause)
                {
                    let hint = format!(
                        "Its work is there. If it ran without a record, as after bun's rollback of a group: lockstep baseline {}",
                        migration.version
                    );
                    failure.cause.hint = Some(hint);
                }
                Err(error)
            }
        }
    }

    fn send<'m>(
        &self,
        locked: &mut Locked,
        migration: &'m Migration,
        marking: &Marking,
        watch: &mut Watch<'_>,
    ) -> Result<Result<(), Box<FailedFile<'m>>>, Error> {
        let marker = Marker {
            token: locked.token(),
            runner: locked.runner().to_owned(),
        };
        let message = FileMessage::new(migration, marking, marker);
        let parts = message.parts();
        let settings = Settings {
            lock_timeout: self.config.ddl_lock_timeout,
            statement_timeout: self.config.statement_timeout,
            span: match parts.len() {
                1 => Span::Message,
                _ => Span::Idle,
            },
            ..Settings::default()
        };
        let expected = self.expected(migration.version);
        let mut fenced = locked.transaction(&expected, settings);
        self.settle_record(&mut fenced, migration, Started::WithTransaction);
        let name = &migration.file_name;
        let (doing, done) = (self.way.doing(), self.way.direction().done());
        match fenced.run(parts, watch) {
            Ran::Committed => Ok(Ok(())),
            Ran::Failed(failed) => {
                let history = locked.tables().history.clone();
                Ok(Err(Box::new(FailedFile {
                    message,
                    failed: *failed,
                    history,
                })))
            }
            Ran::NotReset(trouble) => Err(trouble.while_doing(&format!(
                "resetting the session after {name}, which was {done}"
            ))),
            Ran::Lost(Trouble::Lost(cause)) => Err(Error::ConnectionLost {
                doing: format!("{doing} {name}, which may or may not be committed"),
                cause,
            }),
            Ran::Lost(trouble) => Err(trouble.while_doing(&format!("{doing} {name}"))),
        }
    }

    /// What the history must say of the migration before it is run. What an earlier run started outside a transaction, in
    /// either direction, has no record.
    fn expected(&self, version: Version) -> Expected {
        match (self.way, self.history.record(version)) {
            (Way::Down, Some(record)) => Expected::Record(version, record.id),
            _ => Expected::NoneOf(vec![version]),
        }
    }

    /// The error, if history and journal do not take what is to be written of the migration without its file either: a
    /// trigger on them, a view in their place, a sequence at its end. The file is not to blame then.
    fn fault_of_tables(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        failed: &Failed,
    ) -> Option<Error> {
        let is_ours = matches!(
            failed.ours,
            None | Some(sqlstate::NOT_RECORDED | sqlstate::STILL_RECORDED)
        );
        if !is_ours || failed.cause.position().is_some() {
            return None;
        }
        let expected = self.expected(migration.version);
        let mut fenced = locked.transaction(&expected, Settings::default());
        self.settle_record(&mut fenced, migration, Started::WithTransaction);
        let mut wait = Wait::new(self.signals, Duration::ZERO);
        match fenced.try_out("trying the record", &mut wait) {
            Err(Fault::Refused(cause)) => {
                Some(not_taken(locked.tables(), &migration.file_name, cause))
            }
            _ => None,
        }
    }

    /// Makes history and journal say what has become of the migration.
    fn settle_record(&self, fenced: &mut Fenced<'_>, migration: &Migration, started: Started) {
        match self.way {
            Way::Up { group } => fenced.record(migration, group, started),
            Way::Down => fenced.erase(migration.version, &self.history.ids(migration.version)),
        }
    }

    fn failure(
        &self,
        migration: &Migration,
        error: &FailedFile<'_>,
        at_end: bool,
        outcome: FailureOutcome,
    ) -> Error {
        let number = error.statement().unwrap_or(0);
        let place = error.place(self.counts_bytes);
        let place = place.filter(|it| !at_end || it.precision != Precision::Statement);
        let mut place = place.map(|it| in_body(it, migration, number, &error.failed.cause));
        let mut statement = statement_label(migration, error.statement());
        let mut cause = error.cause();
        if cause.sqlstate == sqlstate::SYNTAX_ERROR {
            cause.message = without_our_words(&cause.message, place.as_ref());
        }
        if cause.sqlstate == sqlstate::ACTIVE_SQL_TRANSACTION {
            cause.hint = Some(
                "It cannot run in a transaction: give it a file of its own, or put `-- lockstep: no-transaction` on the \
                 file's first line."
                    .to_owned(),
            );
        }
        name_invisible(&mut cause, place.as_ref());
        if at_end {
            cause.context = cause.context.or(Some(
                "at the end of the file, where its deferred constraints are checked".to_owned(),
            ));
        }
        if cause.sqlstate == sqlstate::UNSAFE_NEW_ENUM_VALUE_USAGE {
            let hint = self.enum_hint(migration, error.statement());
            cause.hint = hint.or(cause.hint);
        }
        if error.is_about_our_tables(place.as_ref()) {
            cause = own_tables_gone(cause);
            (place, statement) = (None, None);
        }
        Error::Migration(Box::new(Failure {
            file: migration.path.display().to_string(),
            place,
            statement,
            outcome: self.outcome(migration, outcome),
            cause,
            before: self.before(),
        }))
    }

    /// Whether the file failed because all of its work is there, as far as a trial of it tells.
    fn is_there(&self, locked: &mut Locked, migration: &Migration, cause: &SqlError) -> bool {
        const THERE: [&str; 3] = [
            sqlstate::DUPLICATE_TABLE,
            sqlstate::DUPLICATE_COLUMN,
            sqlstate::DUPLICATE_OBJECT,
        ];
        let is_up = self.way != Way::Down && THERE.contains(&cause.sqlstate.as_str());
        let Some(trial) = Trial::by_statement(migration).filter(|_| is_up) else {
            return false;
        };
        let doing = format!("trying whether {} ran", migration.file_name);
        let mut once = Wait::new(self.signals, Duration::ZERO);
        let tried = locked.try_out(Settings::of_trial(), &trial.statements(), &doing, &mut once);
        let rows = tried.unwrap_or_default();
        let columns = rows.iter();
        trial.is_there(columns.map(|row| COLUMNS.map(|it| row.get(it).unwrap_or_default())))
    }

    /// What a failure leaves. A rollback that an earlier run began has taken its record back already.
    fn outcome(&self, migration: &Migration, of_this_run: FailureOutcome) -> FailureOutcome {
        let is_begun = self.way == Way::Down && self.history.record(migration.version).is_none();
        match of_this_run {
            FailureOutcome::RolledBack | FailureOutcome::NotBegun if is_begun => {
                FailureOutcome::OutsideTransaction { left: false }
            }
            outcome => outcome,
        }
    }

    /// What to do about an enum value that was used in the transaction that added it, in this statement.
    fn enum_hint(&self, migration: &Migration, statement: Option<usize>) -> Option<String> {
        let split = plan::split::before(migration, statement?, &mut self.taken.clone())?;
        Some(format!(
            "A new enum value must be committed before it is used, and each file is one transaction: {split}"
        ))
    }

    fn blockers(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        error: &FailedFile<'_>,
    ) -> Result<Vec<String>, Error> {
        let text = match error
            .statement()
            .and_then(|number| migration.script.statements.get(number))
        {
            Some(statement) => &migration.text[statement.range()],
            None => migration.text.as_str(),
        };
        blockers(text, locked.guard_pid(), |query| locked.ask(query))
    }
}

/// The error of history and journal that do not take what is written of a migration.
fn not_taken(tables: &Tables, name: &str, mut cause: Box<SqlError>) -> Error {
    (cause.query, cause.context) = (None, None);
    Error::Database {
        doing: format!(
            "recording {name} in {} and {}",
            tables.history, tables.journal
        ),
        cause,
    }
}

/// The width of a column that has room for the name of each of these.
pub fn widest<'a>(all: impl Iterator<Item = &'a Migration>) -> usize {
    let names = all.map(|it| name::bare(&it.file_name).len());
    logging::column(names.max().unwrap_or(0))
}

/// A migration's name, in a column of this width, and its version.
pub fn named(migration: &Migration, width: usize) -> String {
    let name = name::bare(&migration.file_name);
    format!("{name:<width$} {}", migration.version)
}

/// Which statement of the file this is, counted from 0, if there are several.
pub fn statement_label(migration: &Migration, number: Option<usize>) -> Option<String> {
    let of = migration.script.statements.len();
    let statement = migration.script.statements.get(number?)?;
    (of > 1).then(|| {
        format!(
            "statement {} of {of}: {}",
            number.unwrap_or(0) + 1,
            sql::verb(&migration.text[statement.range()])
        )
    })
}

enum Attempt<'a> {
    Done(Step),
    /// A lock, a deadlock or a serialization failure is in the way: worth another try.
    Locked(Box<FailedFile<'a>>),
    /// The server refused to run the file's only statement in a transaction.
    NeedsNoTransaction,
}

/// A file that the server refused and rolled back.
struct FailedFile<'a> {
    message: FileMessage<'a>,
    failed: Failed,
    /// The history's name, for words.
    history: String,
}

impl FailedFile<'_> {
    fn code(&self) -> &str {
        self.failed.cause.code().code()
    }

    fn cause(&self) -> SqlError {
        self.failed.error(&self.history)
    }

    fn place(&self, counts_bytes: bool) -> Option<Place> {
        if self.failed.ours.is_some() {
            return None;
        }
        let sent = (self.failed.part, self.failed.prefix.as_str());
        let (cause, reached) = (&self.failed.cause, self.failed.reached);
        self.message.place(cause, reached, sent, counts_bytes)
    }

    /// Returns true if and only if what we put behind the file failed because it did not find what it names.
    fn is_about_our_tables(&self, place: Option<&Place>) -> bool {
        let is_behind = place.is_some_and(|it| it.precision == Precision::EndOfFile);
        let code = self.code();
        is_behind && (code.starts_with("42") || code == "3F000") && code != sqlstate::SYNTAX_ERROR
    }

    /// Whether all of the file's statements had run, and a deferred constraint failed behind them. A lone statement has no
    /// marker behind it, so the constraint is looked up.
    fn is_at_end(&self, migration: &Migration, locked: &mut Locked) -> Result<bool, Error> {
        let of = migration.script.statements.len();
        let error = &self.failed.cause;
        let names = (error.constraint(), error.table(), error.schema());
        let (None, 1, (Some(constraint), Some(table), Some(schema))) =
            (self.statement(), of, names)
        else {
            return Ok(self.statement() == Some(of));
        };
        let query = format!(
            "SELECT FROM pg_constraint WHERE condeferred AND conname = {} \
             AND conrelid = to_regclass(format('%I.%I', {}::text, {}::text))",
            literal(constraint),
            literal(schema),
            literal(table)
        );
        let rows = locked.ask(&query);
        let rows = rows.map_err(|it| it.while_doing("asking about the constraint that failed"))?;
        Ok(!rows.is_empty())
    }

    /// The statement that failed, from 0.
    fn statement(&self) -> Option<usize> {
        self.failed.reached
    }

    /// With which markers the file is worth another try, if it is.
    fn next_marking(&self, migration: &Migration, marking: &Marking) -> Option<Marking> {
        if self.failed.ours.is_some() || self.code() == sqlstate::LOCK_NOT_AVAILABLE {
            return None;
        }
        match (self.failed.reached, marking) {
            // None of the file has run yet: the error may come from where we put the markers.
            (None, Marking::Usual | Marking::Dense(_)) => Some(Marking::None),
            (Some(number), Marking::Usual) if self.failed.cause.position().is_none() => {
                let stretch: Range<usize> = message::stretch(migration, number);
                (stretch.len() > 1).then_some(Marking::Dense(stretch))
            }
            _ => None,
        }
    }
}
