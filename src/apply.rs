//! `Plan` → messages to the server, one migration after the other, and the same on the way back.
//!
//! A transactional file is one simple-query message, one round trip: the transaction's begin, its settings and the
//! fence; the file; the check, the record and the commit; the reset of all that a file may leave behind. A large file is
//! several messages, in the same transaction; small files share one, each in its own ([`batch`]). A file that cannot run in
//! a transaction goes to [`outside`].
//!
//! A down file is run like an up file, but for two things ([`Way`]): the fence wants its version recorded, and in the
//! place of the record stands its deletion.

mod batch;
mod blockers;
mod explain;
mod message;
pub mod outside;

use std::time::{Duration, Instant};

use log::{Level, debug, info, log, warn};

use self::batch::{Batch, Size};
pub use self::blockers::blockers;
pub use self::explain::in_statement;
use self::explain::{in_body, name_invisible, own_tables_gone, without_our_words};
use self::message::{FileMessage, Marking};
use crate::config::Config;
use crate::error::{Before, Error, Failure, FailureOutcome, SqlError};
use crate::files::name;
use crate::history::Tables;
use crate::history::record::Started;
use crate::lock::Locked;
use crate::lock::fence::{Expected, Failed, Fault, Fenced};
use crate::logging;
use crate::migration::{Direction, History, Migration};
use crate::plan;
use crate::plan::doubt::{COLUMNS, Trial};
use crate::server::glance::Glance;
use crate::server::progress::Watch;
use crate::server::settings::{Settings, Span};
use crate::server::wait::Wait;
use crate::signals::Signals;
use crate::sql::place::{Place, Precision};
use crate::sql::quote::literal;
use crate::sql::{self, Kind, Outside, sqlstate};
use crate::text::Format;
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
    migrations: &'a [&'a Migration],
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

/// One migration, while it is run.
struct Current<'r> {
    run: &'r Run<'r>,
    locked: &'r mut Locked,
    migration: &'r Migration,
    watch: Watch<'r>,
    /// The statement that is run, counted from 0, of a file whose statements run one by one.
    number: usize,
    /// The settings that the file made before it: each statement begins in a clean session.
    sets: Vec<String>,
    /// Whether this run has noted in the journal that it starts the migration: then that has no record.
    is_noted: bool,
}

/// What came of a file, or of a statement of it, in a transaction.
enum Attempt<'a> {
    Done,
    /// A lock, a deadlock or a serialization failure is in the way of this text: worth another try.
    Locked(SqlError, &'a str),
    /// The server will not run it in a transaction.
    NeedsNoTransaction,
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
        migrations,
        done: 0,
        width: widest(migrations.iter().copied()),
    };
    let of = migrations.len();
    let mut glance = locked.glance();
    let mut size = Size::first();
    let mut done = 0;
    while let Some(migration) = migrations.get(done) {
        signals.check(&match way {
            Way::Up { .. } => format!("{} of {of} pending migrations were applied", run.done),
            Way::Down => format!("{} of {of} migrations were rolled back", run.done),
        })?;
        match Batch::of(&run, &migrations[done..], size) {
            None => {
                let started = Instant::now();
                run.migrate(locked, migration, done + 1, glance.as_mut())?;
                size = size.after_one(started.elapsed());
                done += 1;
            }
            Some(batch) => {
                let times = run.migrate_together(locked, &batch, done + 1)?;
                size = size.after(batch.len(), &times);
                done += times.len();
            }
        }
    }
    Ok(run.done)
}

impl Run<'_> {
    /// Runs one file, and says so; `number` counts from 1.
    fn migrate(
        &mut self,
        locked: &mut Locked,
        migration: &Migration,
        number: usize,
        glance: Option<&mut Glance>,
    ) -> Result<(), Error> {
        let (of, name) = (self.migrations.len(), migration.file_name());
        self.announce(migration, number);
        let started = Instant::now();
        let watch = Watch::start(migration, None, format!("{number}/{of}"), glance, self.signals);
        let current = Current {
            run: &*self,
            locked: &mut *locked,
            migration,
            watch,
            number: 0,
            sets: Vec::new(),
            is_noted: false,
        };
        match current.migrate() {
            Ok(()) => {
                self.done += 1;
                self.tell(migration, number, started.elapsed());
            }
            Err(Fault::DoneByOthers) => {
                let what = match self.way {
                    Way::Up { .. } => "recorded",
                    Way::Down => "rolled back, or recorded anew,",
                };
                warn!(version:% = migration.version, name; "{number}/{of} {name} was {what} by somebody else meanwhile");
            }
            Err(Fault::Refused(cause)) => return Err(not_taken(locked.tables(), name, cause)),
            Err(Fault::Error(error)) => return Err(error.after(self.before())),
        }
        Ok(())
    }

    /// Says that a migration begins.
    fn announce(&self, migration: &Migration, number: usize) {
        let (version, name) = (migration.version, migration.file_name());
        let (of, doing) = (self.migrations.len(), self.way.doing());
        // A person sees what takes long by other lines.
        let level = match logging::format() {
            Format::Json => Level::Info,
            Format::Text => Level::Debug,
        };
        log!(level, version:%, name, number, of; "{number}/{of} {doing} {name}");
    }

    /// Says that a migration is done.
    fn tell(&self, migration: &Migration, number: usize, took: Duration) {
        let (version, name) = (migration.version, migration.file_name());
        let group = match self.way {
            Way::Up { group } => Some(group),
            Way::Down => self.history.record(migration.version).map(|it| it.group),
        };
        let (of, done) = (self.migrations.len(), self.way.direction().done());
        let empty = if migration.script.statements.is_empty() { ", no statement" } else { "" };
        let position = format!("{number}/{of}");
        let places = logging::column(2 * of.to_string().len() + 1);
        let (named, timed) = (named(migration, self.width), logging::column(6));
        info!(
            version:%, name, number, of, group, duration_ms = logging::milliseconds(took);
            "{position:>places$} {done} {named} {:>timed$}{empty}", duration(took)
        );
    }

    /// What this run has done so far, for its errors.
    fn before(&self) -> Before {
        Before { direction: self.way.direction(), count: self.done }
    }

    /// The settings of a transaction of the user's statements.
    fn settings(&self) -> Settings {
        Settings {
            lock_timeout: self.config.ddl_lock_timeout,
            statement_timeout: self.config.statement_timeout,
            ..Settings::default()
        }
    }

    /// The wait for whoever has a lock on what a transaction needs.
    fn lock_retry(&self) -> Wait {
        Wait::new(self.signals, self.config.ddl_lock_retry)
    }

    /// Makes history and journal say what has become of the migration.
    fn settle_record(&self, fenced: &mut Fenced<'_>, migration: &Migration, started: Started) {
        match self.way {
            Way::Up { group } => fenced.record(migration, group, started),
            Way::Down => fenced.erase(migration.version, &self.history.ids(migration.version)),
        }
    }
}

impl<'r> Current<'r> {
    /// Runs the migration, in a transaction or outside.
    fn migrate(mut self) -> Result<(), Fault> {
        let mut wait = self.run.lock_retry();
        if self.settle_unfinished()? {
            return Ok(());
        }
        let script = &self.migration.script;
        let statements = script.statements.as_slice();
        if script.no_transaction && !statements.is_empty() {
            return self.run_each(&mut wait);
        }
        match statements.first().map(|it| &it.kind) {
            Some(Kind::Outside(statement)) if statements.len() == 1 => {
                self.run_outside(statement, &mut wait)
            }
            _ => self.run_inside(Self::attempt_file, &mut wait),
        }
    }

    /// Runs the file or a statement of it in a transaction, and again while a lock is in the way; outside, if the server
    /// wants that.
    fn run_inside(
        &mut self,
        attempt: fn(&mut Self) -> Result<Attempt<'r>, Fault>,
        wait: &mut Wait,
    ) -> Result<(), Fault> {
        loop {
            match attempt(self)? {
                Attempt::Done => return Ok(()),
                Attempt::NeedsNoTransaction => return self.run_outside(&Outside::Other, wait),
                Attempt::Locked(cause, text) => self.try_again(text, &self.path(), cause, wait)?,
            }
        }
    }

    /// Sends the file; again without markers if it did not come as far as the first of them, so that a mistake of our lexer
    /// cannot break a file that PostgreSQL would take; and again with more of them, if one statement of several may be the
    /// one that failed.
    fn attempt_file(&mut self) -> Result<Attempt<'r>, Fault> {
        let migration = self.migration;
        let of = migration.script.statements.len();
        let mut marking =
            if of > 1 || logging::query_log_enabled() { Marking::Usual } else { Marking::None };
        loop {
            let (token, runner) = (self.locked.token(), self.locked.runner());
            let message = FileMessage::new(migration, &marking, token, runner);
            let Err(failed) = self.send(&message)? else {
                return Ok(Attempt::Done);
            };
            if let Some(next) = next_marking(&failed, migration, &marking) {
                debug!("{}: once more, with other markers", migration.file_name());
                marking = next;
            } else if failed.may_pass() {
                let statement = failed.reached.and_then(|it| migration.statement(it));
                let text = statement.unwrap_or(&migration.text);
                return Ok(Attempt::Locked(failed.error, text));
            } else if failed.needs_no_transaction() && of == 1 {
                return Ok(Attempt::NeedsNoTransaction);
            } else {
                return Err(self.refusal(&message, *failed)?);
            }
        }
    }

    fn send(&mut self, message: &FileMessage<'_>) -> Result<Result<(), Box<Failed>>, Fault> {
        let (run, parts) = (self.run, message.parts());
        let settings = Settings {
            span: match parts.len() {
                1 => Span::Message,
                _ => Span::Idle,
            },
            ..run.settings()
        };
        let doing = format!("{} {}", run.way.doing(), self.name());
        let mut fenced = self.locked.transaction(&self.expected(), settings);
        run.settle_record(&mut fenced, self.migration, Started::WithTransaction);
        fenced.run(parts, &doing, &mut self.watch)
    }

    fn name(&self) -> &'r str {
        self.migration.file_name()
    }

    fn path(&self) -> String {
        self.migration.path.display().to_string()
    }

    /// What the history must say of the migration before its next step. What was started outside a transaction, in either
    /// direction, has no record.
    fn expected(&self) -> Expected {
        let version = self.migration.version;
        match (self.run.way, self.run.history.record(version)) {
            (Way::Down, Some(record)) if !self.is_noted => Expected::Record(version, record.id),
            _ => Expected::NoneOf(vec![version]),
        }
    }

    /// Fails if history and journal do not take what is to be written of the migration without its file either: a trigger on
    /// them, a view in their place, a sequence at its end. The file is not to blame then.
    fn try_record(&mut self, failed: &Failed) -> Result<(), Fault> {
        let is_about_record =
            matches!(failed.ours, None | Some(sqlstate::NOT_RECORDED | sqlstate::STILL_RECORDED));
        if !is_about_record || failed.cause.position().is_some() {
            return Ok(());
        }
        let (run, expected) = (self.run, self.expected());
        let mut fenced = self.locked.transaction(&expected, Settings::default());
        run.settle_record(&mut fenced, self.migration, Started::WithTransaction);
        let mut once = Wait::new(run.signals, Duration::ZERO);
        match fenced.try_out("trying the record", &mut once) {
            Err(Fault::Refused(cause)) => Err(Fault::Refused(cause)),
            _ => Ok(()),
        }
    }

    /// The error of a file that the server refused and rolled back.
    fn refusal(&mut self, message: &FileMessage<'_>, failed: Failed) -> Result<Fault, Fault> {
        self.try_record(&failed)?;
        let (migration, at_end) = (self.migration, self.is_at_end(&failed)?);
        let (mut statement, first) = (failed.reached, failed.reached.unwrap_or(0) == 0);
        let place = message.place(&failed, self.run.counts_bytes);
        let place = place.filter(|it| !at_end || it.precision != Precision::Statement);
        let number = statement.unwrap_or(0);
        let mut place = place.map(|it| in_body(it, migration, number, &failed.cause));
        let mut cause = failed.error;
        match cause.sqlstate.as_str() {
            sqlstate::SYNTAX_ERROR => {
                cause.message = without_our_words(&cause.message, place.as_ref());
            }
            sqlstate::ACTIVE_SQL_TRANSACTION => {
                let hint = "It cannot run in a transaction: give it a file of its own, or put `-- lockstep: no-transaction` \
                            on the file's first line.";
                cause.hint = Some(hint.to_owned());
            }
            sqlstate::UNSAFE_NEW_ENUM_VALUE_USAGE => {
                cause.hint = self.enum_hint(statement).or(cause.hint);
            }
            _ => {}
        }
        name_invisible(&mut cause, place.as_ref());
        if at_end {
            let context = "at the end of the file, where its deferred constraints are checked";
            cause.context = cause.context.or(Some(context.to_owned()));
        }
        if is_about_our_tables(&cause, place.as_ref()) {
            cause = own_tables_gone(cause);
            (place, statement) = (None, None);
        }
        if first && self.is_there(&cause) {
            cause.hint = Some(format!(
                "Its work is there. If it ran without a record, as after bun's rollback of a group: lockstep baseline {}",
                migration.version
            ));
        }
        let outcome = match failed.ours {
            Some(sqlstate::TRANSACTION_ENDED) => FailureOutcome::TransactionEnded,
            _ => FailureOutcome::RolledBack,
        };
        Ok(self.failure(cause, place, statement, outcome))
    }

    /// The error of the migration, at this place and in the statement of this number. A rollback that an earlier run began
    /// has taken its record back already.
    fn failure(
        &self,
        cause: SqlError,
        place: Option<Place>,
        statement: Option<usize>,
        outcome: FailureOutcome,
    ) -> Fault {
        use FailureOutcome::{NotBegun, OutsideTransaction, Partly, RolledBack};
        let (run, migration) = (self.run, self.migration);
        let is_begun = run.way == Way::Down && run.history.record(migration.version).is_none();
        let outcome = match outcome {
            OutsideTransaction { .. } if self.number > 0 => Partly { done: self.number },
            RolledBack | NotBegun if is_begun => OutsideTransaction { left: false },
            outcome => outcome,
        };
        Fault::from(Error::Migration(Box::new(Failure {
            file: self.path(),
            place,
            statement: statement_label(migration, statement),
            outcome,
            cause,
            before: run.before(),
        })))
    }

    /// Whether the file failed because all of its work is there, as far as a trial of it tells.
    fn is_there(&mut self, cause: &SqlError) -> bool {
        const THERE: [&str; 3] =
            [sqlstate::DUPLICATE_TABLE, sqlstate::DUPLICATE_COLUMN, sqlstate::DUPLICATE_OBJECT];
        let is_up = self.run.way != Way::Down && THERE.contains(&cause.sqlstate.as_str());
        let Some(trial) = Trial::by_statement(self.migration).filter(|_| is_up) else {
            return false;
        };
        let doing = format!("trying whether {} ran", self.name());
        let mut once = Wait::new(self.run.signals, Duration::ZERO);
        let (settings, statements) = (Settings::of_trial(), trial.statements());
        let tried = self.locked.try_out(settings, &statements, &doing, &mut once);
        let rows = tried.unwrap_or_default();
        trial.is_there(rows.iter().map(|row| COLUMNS.map(|it| row.get(it).unwrap_or_default())))
    }

    /// Whether all of the file's statements had run, and a deferred constraint failed behind them. A lone statement has no
    /// marker behind it, so the constraint is looked up.
    fn is_at_end(&mut self, failed: &Failed) -> Result<bool, Error> {
        let of = self.migration.script.statements.len();
        let error = &failed.cause;
        let names = (error.constraint(), error.table(), error.schema());
        let (None, 1, (Some(constraint), Some(table), Some(schema))) = (failed.reached, of, names)
        else {
            return Ok(failed.reached == Some(of));
        };
        let query = format!(
            "SELECT FROM pg_constraint WHERE condeferred AND conname = {} \
             AND conrelid = to_regclass(format('%I.%I', {}::text, {}::text))",
            literal(constraint),
            literal(schema),
            literal(table)
        );
        Ok(!self.locked.ask(&query, "asking about the constraint that failed")?.is_empty())
    }

    /// What to do about an enum value that was used in the transaction that added it, in this statement.
    fn enum_hint(&self, statement: Option<usize>) -> Option<String> {
        let files = self.run.migrations.iter().copied();
        let mut taken = plan::known_versions(files, self.run.history);
        let split = plan::split::before(self.migration, statement?, &mut taken)?;
        Some(format!(
            "A new enum value must be committed before it is used, and each file is one transaction: {split}"
        ))
    }

    /// Waits a little before this text, which met a lock, is tried again.
    ///
    /// # Errors
    ///
    /// [`Error::TableWait`] at the deadline.
    fn try_again(
        &mut self,
        text: &str,
        doing: &str,
        cause: SqlError,
        wait: &mut Wait,
    ) -> Result<(), Error> {
        let guard = self.locked.guard_pid();
        let blockers = blockers(text, guard, |query, doing| self.locked.ask(query, doing))?;
        let cause = Box::new(cause);
        if wait.is_over() {
            return Err(Error::TableWait {
                doing: doing.to_owned(),
                cause,
                blockers,
                waited: wait.elapsed(),
                before: None,
            });
        }
        wait.say(|| {
            let blockers = match blockers.as_slice() {
                [] => "somebody who holds it no more".to_owned(),
                some => some.join("; "),
            };
            let name = self.name();
            format!("a lock: {name}: {cause}: blocked by {blockers}; trying again")
        });
        self.locked.pause(wait, RETRY_PAUSE)
    }
}

/// The error of history and journal that do not take what is written of a migration.
fn not_taken(tables: &Tables, name: &str, mut cause: Box<SqlError>) -> Error {
    (cause.query, cause.context) = (None, None);
    let (history, journal) = (&tables.history, &tables.journal);
    let doing = format!("recording {name} in {history} and {journal}");
    Error::Database { doing, cause }
}

/// The width of a column that has room for the name of each of these.
pub fn widest<'a>(all: impl Iterator<Item = &'a Migration>) -> usize {
    logging::column(all.map(|it| name::bare(it.file_name()).len()).max().unwrap_or(0))
}

/// A migration's name, in a column of this width, and its version.
pub fn named(migration: &Migration, width: usize) -> String {
    let name = name::bare(migration.file_name());
    format!("{name:<width$} {}", migration.version)
}

/// Which statement of the file this is, counted from 0, if there are several.
pub fn statement_label(migration: &Migration, number: Option<usize>) -> Option<String> {
    let (of, number) = (migration.script.statements.len(), number?);
    let verb = sql::verb(migration.statement(number)?);
    (of > 1).then(|| format!("statement {} of {of}: {verb}", number + 1))
}

/// Returns true if and only if what we put behind the file failed because it did not find what it names.
fn is_about_our_tables(cause: &SqlError, place: Option<&Place>) -> bool {
    let is_behind = place.is_some_and(|it| it.precision == Precision::EndOfFile);
    let code = cause.sqlstate.as_str();
    is_behind && (code.starts_with("42") || code == "3F000") && code != sqlstate::SYNTAX_ERROR
}

/// With which markers a file that failed is worth another try, if it is.
fn next_marking(failed: &Failed, migration: &Migration, marking: &Marking) -> Option<Marking> {
    if failed.ours.is_some() || failed.error.sqlstate == sqlstate::LOCK_NOT_AVAILABLE {
        return None;
    }
    match (failed.reached, marking) {
        // None of the file has run yet: the error may come from where we put the markers.
        (None, Marking::Usual | Marking::Dense(_)) => Some(Marking::None),
        (Some(number), Marking::Usual) if failed.cause.position().is_none() => {
            let stretch = message::stretch(migration, number);
            (stretch.len() > 1).then_some(Marking::Dense(stretch))
        }
        _ => None,
    }
}
