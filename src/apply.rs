//! `Plan` → messages to the server, one migration after the other, and the same on the way back.
//!
//! A transactional file is one simple-query message, one round trip: the transaction's begin, its settings and the
//! fence; the file; the check, the record and the commit; the reset of all that a file may leave behind. A file that
//! cannot run in a transaction goes to [`outside`].
//!
//! A down file is run like an up file, but for two things ([`Way`]): the fence wants its version recorded, and in the
//! place of the record stands its deletion.

mod message;
mod outside;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use postgres::error::DbError;

use self::message::{Markers, Message};
use crate::config::Config;
use crate::error::{Before, Error, Failure, FailureOutcome, Place, Precision, SqlError};
use crate::history::{self, Started};
use crate::lock::{Expected, Locked};
use crate::logging::{self, live};
use crate::migration::{Direction, History, Migration, Version};
use crate::plan::{self, Plan};
use crate::server::progress::Reached;
use crate::server::session::{Session, Settings, Trouble, literal};
use crate::server::ticker;
use crate::server::wait::Wait;
use crate::signals::Signals;
use crate::sql::sqlstate;
use crate::sql::{self, Kind};

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
}

/// Which way the files are run, and what becomes of their records.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
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

    fn done(self) -> &'static str {
        match self {
            Way::Up { .. } => "applied",
            Way::Down => "rolled back",
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

/// Runs the plan and returns how many migrations were applied. All of them share a new group.
///
/// # Errors
///
/// The first migration that fails ends the run; what came before it stays. [`Error::Stopped`] between two migrations.
pub fn run(
    config: &Config,
    signals: &Signals,
    locked: &mut Locked,
    plan: &Plan<'_>,
    history: &History,
    counts_bytes: bool,
) -> Result<usize, Error> {
    let group = history.last_group + 1;
    let mut run = Run {
        config,
        signals,
        way: Way::Up { group },
        counts_bytes,
        history,
        taken: plan::known_versions(plan.pending.iter().copied(), history),
        done: 0,
    };
    run.all(locked, &plan.pending)
}

/// Runs down files in the order given, each with the deletion of its record, and returns how many migrations were rolled
/// back.
///
/// # Errors
///
/// Like [`run`].
pub fn roll_back(
    config: &Config,
    signals: &Signals,
    locked: &mut Locked,
    down_files: &[&Migration],
    history: &History,
    counts_bytes: bool,
) -> Result<usize, Error> {
    let mut run = Run {
        config,
        signals,
        way: Way::Down,
        counts_bytes,
        history,
        taken: plan::known_versions(down_files.iter().copied(), history),
        done: 0,
    };
    run.all(locked, down_files)
}

impl Run<'_> {
    /// Runs the files one after the other and returns how many were done.
    fn all(&mut self, locked: &mut Locked, migrations: &[&Migration]) -> Result<usize, Error> {
        let (of, doing, done) = (migrations.len(), self.way.doing(), self.way.done());
        for (number, migration) in migrations.iter().enumerate() {
            let number = number + 1;
            self.signals.check(&match self.way {
                Way::Up { .. } => format!("{} of {of} pending migrations were applied", self.done),
                Way::Down => format!("{} of {of} migrations were rolled back", self.done),
            })?;
            let (version, name) = (migration.version.to_string(), migration.file_name.as_str());
            // On a terminal the live line says so, and goes.
            if live::columns().is_none() {
                info!(version = version.as_str(), name, number, of; "{number}/{of} {doing} {name}");
            }
            let started = Instant::now();
            let progress = locked.work.progress().clone();
            let step = ticker::watch(&progress, self.signals, migration, number, of, || {
                self.migrate(locked, migration)
            })?;
            if step == Step::DoneByOthers {
                let what = match self.way {
                    Way::Up { .. } => "recorded",
                    Way::Down => "rolled back, or recorded anew,",
                };
                warn!(version = version.as_str(), name; "{number}/{of} {name} was {what} by somebody else meanwhile");
                continue;
            }
            self.done += 1;
            let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
            let rounded = (duration_ms * 1000.0).round() / 1000.0;
            let group = match self.way {
                Way::Up { group } => Some(group),
                Way::Down => self.history.record(migration.version).map(|it| it.group),
            };
            info!(
                version = version.as_str(), name, number, of, group, duration_ms = rounded;
                "{number}/{of} {done} {name} in {rounded:.1} ms"
            );
        }
        Ok(self.done)
    }

    /// What this run has done so far, for its errors.
    fn before(&self) -> Before {
        Before {
            direction: self.way.direction(),
            count: self.done,
        }
    }

    /// Runs one migration, in a transaction or outside, and again while a lock is in the way.
    fn migrate(&self, locked: &mut Locked, migration: &Migration) -> Result<Step, Error> {
        let mut wait = Wait::new(self.signals, self.config.ddl_lock_retry);
        if let Some(step) = self.settle_unfinished(locked, migration)? {
            return Ok(step);
        }
        if let [statement] = migration.script.statements.as_slice()
            && let Kind::Outside(statement) = &statement.kind
        {
            return self.outside(locked, migration, Some(statement), &mut wait);
        }
        self.warn_of_enum_use(migration);
        loop {
            let error = match self.attempt(locked, migration)? {
                Attempt::Done(step) => return Ok(step),
                Attempt::NeedsNoTransaction => {
                    return self.outside(locked, migration, None, &mut wait);
                }
                Attempt::Locked(error) => error,
            };
            let blockers = self.blockers(locked, migration, &error)?;
            let cause = Box::new(SqlError::from(&error.cause));
            if wait.is_over() {
                let (doing, waited) = (migration.path.display().to_string(), wait.elapsed());
                let before = Some(self.before());
                return Err(Error::TableWait {
                    doing,
                    cause,
                    blockers,
                    waited,
                    before,
                });
            }
            wait.say(|| {
                let blockers = if blockers.is_empty() {
                    "a session that has ended".into()
                } else {
                    blockers.join("; ")
                };
                format!(
                    "a lock: {}: {cause}: blocked by {blockers}; rolled back, trying again",
                    migration.file_name
                )
            });
            wait.pause(RETRY_PAUSE)?;
        }
    }

    /// Sends the migration's message; once more without markers if it did not come as far as the first of them, so
    /// that a mistake of our lexer cannot break a file that PostgreSQL would take.
    fn attempt(&self, locked: &mut Locked, migration: &Migration) -> Result<Attempt, Error> {
        let has_markers = migration.script.statements.len() > 1 || logging::query_log_enabled();
        let error = match self.send(locked, migration, has_markers)? {
            Sent::Committed => return Ok(Attempt::Done(Step::Done)),
            Sent::Failed(error) if has_markers && error.may_be_our_lexers_fault() => {
                match self.send(locked, migration, false)? {
                    Sent::Committed => {
                        debug!("{}: taken without markers only", migration.file_name);
                        return Ok(Attempt::Done(Step::Done));
                    }
                    Sent::Failed(error) => error,
                }
            }
            Sent::Failed(error) => error,
        };
        let single = migration.script.statements.len() == 1;
        let code = error.cause.code().code();
        if error.is_ours {
            return match code {
                sqlstate::ALREADY_RECORDED | sqlstate::NO_LONGER_RECORDED => {
                    Ok(Attempt::Done(Step::DoneByOthers))
                }
                sqlstate::LOCK_LOST => Err(locked.lost()),
                sqlstate::TRANSACTION_ENDED => {
                    Err(self.failure(migration, &error, FailureOutcome::TransactionEnded))
                }
                _ => Err(self.failure(migration, &error, FailureOutcome::RolledBack)),
            };
        }
        match code {
            // Lock not available, deadlock, serialization failure.
            sqlstate::LOCK_NOT_AVAILABLE
            | sqlstate::DEADLOCK_DETECTED
            | sqlstate::SERIALIZATION_FAILURE => Ok(Attempt::Locked(error)),
            // "cannot run inside a transaction block", of a statement that depends on what it is applied to.
            sqlstate::ACTIVE_SQL_TRANSACTION
                if single && matches!(migration.script.statements[0].kind, Kind::MaybeOutside) =>
            {
                Ok(Attempt::NeedsNoTransaction)
            }
            _ => Err(self.failure(migration, &error, FailureOutcome::RolledBack)),
        }
    }

    fn send(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        has_markers: bool,
    ) -> Result<Sent, Error> {
        let message = self.message(locked, migration, has_markers);
        let (outcome, reached) = transmit(locked, migration, &message, has_markers);
        let cause = match outcome {
            Ok(()) => return Ok(Sent::Committed),
            Err(trouble) if reached == Reached::Committed => {
                let doing = format!(
                    "resetting the session after {}, which was {}",
                    migration.file_name,
                    self.way.done()
                );
                return Err(trouble.while_doing(&doing));
            }
            Err(Trouble::Stopped(signal)) => {
                let doing = format!("{} {}", self.way.doing(), migration.file_name);
                return Err(Error::Stopped { signal, doing });
            }
            Err(Trouble::Lost(cause)) => {
                let doing = format!(
                    "{} {}, which may or may not be committed",
                    self.way.doing(),
                    migration.file_name
                );
                return Err(Error::ConnectionLost { doing, cause });
            }
            Err(Trouble::Sql(cause)) => cause,
        };
        // The first error is the one that counts: if the connection breaks now, the next message says so.
        if let Err(trouble) = locked
            .work
            .execute(&format!("ROLLBACK; {}", reset(&locked.runner)))
        {
            debug!("rolling back {}: {trouble:?}", migration.file_name);
        }
        let is_ours = locked.raised(&cause);
        Ok(Sent::Failed(Box::new(FailedMessage {
            message,
            is_ours,
            cause: *cause,
            reached,
        })))
    }

    fn message(&self, locked: &Locked, migration: &Migration, has_markers: bool) -> Message {
        let settings = Settings {
            lock_timeout: self.config.ddl_lock_timeout,
            statement_timeout: self.config.statement_timeout,
            ..Settings::default()
        };
        let before = format!(
            "/* lockstep {} */ BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {settings} {}\n",
            migration.file_name,
            locked.fence(self.expected(&[migration.version])),
        );
        // The file's deferred constraints belong to the file, so they are checked under its role, its search_path and
        // its timeouts. What follows is ours, and under ours, until the session is reset behind the commit.
        let after = format!(
            "SET CONSTRAINTS ALL IMMEDIATE; RESET SESSION AUTHORIZATION; RESET ROLE; \
             SET LOCAL search_path TO pg_catalog, pg_temp; SET statement_timeout TO 0; {settings} {} {} COMMIT; {} {}",
            locked.still_fenced(),
            self.settle_record(locked, migration, Started::WithTransaction),
            message::committed(locked.token()),
            reset(&locked.runner),
        );
        let markers = has_markers.then_some(Markers {
            token: locked.token(),
            runner: &locked.runner,
            of: migration.script.statements.len(),
        });
        Message::build(migration, before, after, markers.as_ref())
    }

    /// What the history must say of the migration before it is run, whose version is the only one in `versions`. What an
    /// earlier run started outside a transaction, in either direction, has no record.
    fn expected<'v>(&self, versions: &'v [Version; 1]) -> Expected<'v> {
        match (self.way, self.history.record(versions[0])) {
            (Way::Down, Some(record)) => Expected::Record(versions[0], record.id),
            _ => Expected::NoneOf(versions),
        }
    }

    /// The statements that make history and journal say what has become of the migration.
    fn settle_record(&self, locked: &Locked, migration: &Migration, started: Started) -> String {
        let (tables, version) = (&locked.tables, migration.version);
        match self.way {
            Way::Up { group } => {
                let record = history::record(tables, migration, group, &locked.runner, started);
                format!("{record} {}", locked.assert_recorded(version))
            }
            Way::Down => {
                let erase = history::erase(tables, version);
                format!("{erase} {}", locked.assert_erased(version))
            }
        }
    }

    fn failure(
        &self,
        migration: &Migration,
        error: &FailedMessage,
        outcome: FailureOutcome,
    ) -> Error {
        let place = error
            .message
            .place(migration, &error.cause, error.reached, self.counts_bytes);
        let mut cause = SqlError::from(&error.cause);
        if cause.sqlstate == sqlstate::SYNTAX_ERROR {
            cause.message = without_our_words(&cause.message, place.as_ref());
        }
        if cause.sqlstate == sqlstate::UNSAFE_NEW_ENUM_VALUE_USAGE {
            let hint = self.enum_hint(migration, error.statement());
            cause.hint = hint.or(cause.hint);
        }
        Error::Migration(Box::new(Failure {
            file: migration.path.display().to_string(),
            place,
            statement: statement_label(migration, error.statement()),
            outcome: self.outcome(migration, outcome),
            cause,
            before: self.before(),
        }))
    }

    /// What a failure leaves. A rollback that an earlier run began has taken its record back already.
    fn outcome(&self, migration: &Migration, of_this_run: FailureOutcome) -> FailureOutcome {
        let is_begun = self.way == Way::Down && self.history.record(migration.version).is_none();
        match of_this_run {
            FailureOutcome::RolledBack | FailureOutcome::NotBegun if is_begun => {
                FailureOutcome::OutsideTransaction
            }
            outcome => outcome,
        }
    }

    /// Says before a file runs that it seems to use an enum value that it adds. It is no reason to refuse the file: the
    /// literal may be something else.
    fn warn_of_enum_use(&self, migration: &Migration) {
        let statements = &migration.script.statements;
        let Some(found) = sql::enum_use(&migration.text, statements) else {
            return;
        };
        let line = |number: usize| {
            let start = statements[number].range().start;
            Place::of(&migration.text, start, Precision::Statement).line
        };
        let remedy = plan::split::before(migration, found.used, &mut self.taken.clone())
            .map_or(String::new(), |split| format!("; if it does, {split}"));
        warn!(
            version = migration.version.to_string().as_str();
            "{}: line {} adds the value '{}' to the enum {}, and line {} seems to use it, which PostgreSQL refuses in \
             one transaction{remedy}",
            migration.file_name, line(found.added), found.value, found.type_name, line(found.used),
        );
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
        error: &FailedMessage,
    ) -> Result<Vec<String>, Error> {
        let text = match error
            .statement()
            .and_then(|number| migration.script.statements.get(number))
        {
            Some(statement) => &migration.text[statement.range()],
            None => migration.text.as_str(),
        };
        let guard = locked.guard_pid();
        blockers(&mut locked.work, text, Some(guard))
    }
}

/// Who holds locks on the tables that the failed statement names, the oldest transaction first. The server does
/// not tell whom a statement waited for once it has given up, and this connection could not ask while it waited; a
/// third connection could, but a small pool has none to give. The sessions of our own do not count.
pub fn blockers(
    session: &mut Session,
    text: &str,
    guard: Option<i32>,
) -> Result<Vec<String>, Error> {
    let names: Vec<String> = sql::identifiers(text)
        .iter()
        .map(|name| literal(name))
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let message = format!(
        "SELECT l.pid, max(a.application_name) AS application, max(a.state) AS state, \
           pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - min(a.xact_start)) AS age, \
           pg_catalog.string_agg(DISTINCT l.mode || ' on ' || c.relname, ', ') AS locks \
         FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation \
         JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
         WHERE l.granted AND l.pid NOT IN (pg_catalog.pg_backend_pid(), {guard}) \
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
           AND c.relname = ANY (ARRAY[{names}]::pg_catalog.name[]) \
         GROUP BY l.pid ORDER BY min(a.xact_start) LIMIT 5",
        // No session has the number 0.
        guard = guard.unwrap_or(0),
        names = names.join(", "),
    );
    let rows = session
        .ask(&message)
        .map_err(|trouble| trouble.while_doing("asking who is in the way"))?;
    Ok(rows.iter().map(describe_blocker).collect())
}

/// What is open at the end of the file runs on into what we put behind it, and the server quotes that. The user has not
/// written it and need not see it.
fn without_our_words(message: &str, place: Option<&Place>) -> String {
    if place.is_some_and(|place| place.precision == Precision::EndOfFile) {
        return "syntax error at the end of the file: a statement is incomplete, or a quote is still open".to_owned();
    }
    match message.split_once(" at or near ") {
        Some((unterminated, _)) if unterminated.starts_with("unterminated") => {
            unterminated.to_owned()
        }
        _ => message.to_owned(),
    }
}

/// Sends a migration's message, and listens to what the server says meanwhile.
fn transmit(
    locked: &mut Locked,
    migration: &Migration,
    message: &Message,
    has_markers: bool,
) -> (Result<(), Trouble>, Reached) {
    let progress = locked.work.progress().clone();
    progress.begin(migration, &message.frame, has_markers, locked.token());
    let outcome = locked.work.execute_patiently(&message.text);
    let reached = progress.end(outcome.as_ref().err().map(Trouble::words));
    (outcome, reached)
}

fn describe_blocker(row: &postgres::SimpleQueryRow) -> String {
    let column = |name: &str| row.get(name).unwrap_or_default();
    let mut words = format!("pid {}", column("pid"));
    for (label, value) in [
        (" ", column("application")),
        (", ", column("state")),
        (" for ", column("age")),
    ] {
        if !value.is_empty() {
            words.push_str(label);
            words.push_str(value);
        }
    }
    format!("{words} ({})", column("locks"))
}

/// Undoes whatever a file may have left in the session (rule 8). Behind a pooler `RESET ALL` drops the application name
/// and the client encoding too, so they are set again. `DISCARD ALL` would be shorter, but cannot share a message; and
/// only statements that were prepared by SQL are ours to forget: the others may be a pooler's.
pub fn reset(runner: &str) -> String {
    format!(
        "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL;
         DO LANGUAGE plpgsql $lockstep$ DECLARE s pg_catalog.record; BEGIN
           PERFORM pg_catalog.pg_advisory_unlock_all();
           FOR s IN SELECT name FROM pg_catalog.pg_prepared_statements WHERE from_sql LOOP
             EXECUTE pg_catalog.format('DEALLOCATE %I', s.name);
           END LOOP;
         END $lockstep$;
         CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; SET client_encoding TO 'UTF8'; \
         SET standard_conforming_strings TO on; SET application_name TO {}",
        literal(runner)
    )
}

fn statement_label(migration: &Migration, number: Option<usize>) -> Option<String> {
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

enum Attempt {
    Done(Step),
    /// A lock, a deadlock or a serialization failure is in the way: worth another try.
    Locked(Box<FailedMessage>),
    /// The server refused to run the file's only statement in a transaction.
    NeedsNoTransaction,
}

enum Sent {
    Committed,
    Failed(Box<FailedMessage>),
}

/// A message that the server refused and rolled back.
struct FailedMessage {
    message: Message,
    /// One of our own statements raised it.
    is_ours: bool,
    cause: DbError,
    reached: Reached,
}

impl FailedMessage {
    /// Returns true if and only if the error may come from where we put the markers: none of the file has run yet, and
    /// it is none of the errors that our own statements raise or meet.
    fn may_be_our_lexers_fault(&self) -> bool {
        let code = self.cause.code().code();
        self.reached == Reached::Nothing && code != sqlstate::LOCK_NOT_AVAILABLE && !self.is_ours
    }

    /// The statement that failed, from 0.
    fn statement(&self) -> Option<usize> {
        match self.reached {
            Reached::Statement(number) => Some(number),
            Reached::Nothing | Reached::Committed => None,
        }
    }
}
