//! A statement that cannot run in a transaction, alone in its file, and what it may leave behind.
//!
//! It cannot be atomic with its record. So, in this order:
//!
//! 1. if an earlier run noted that it started the statement, and never finished: wait until the session that ran it has
//!    ended;
//! 2. look at the catalog for what there is of the statement's work;
//! 3. a fenced transaction notes in the journal that the statement starts, and sees that G holds the guard;
//! 4. what the earlier run left is finished or removed; if its work was complete, there is nothing to run;
//! 5. the statement runs, with no timeout of any kind, since a timeout in CONCURRENTLY leaves an INVALID index;
//! 6. a fenced transaction checks that an index which was built is valid, and completes history and journal.
//!
//! Whatever ends the process at whatever step, the next run begins at the first and comes to the same end. Only what an
//! unfinished run of this very migration has left is ever dropped, and only if [`definition`] proves that it is that
//! statement's. An INVALID index that was there before, and a valid one with another definition, are reported, also
//! where `IF NOT EXISTS` would skip them and succeed.
//!
//! Names are found under the role's `search_path`, as the statement finds them; then we go by their oids, under the
//! catalog's.
//!
//! A rollback goes the same way; what is different, and why that is safe, is in [`interrupted_rollback`].

mod check;
mod definition;
mod find;
mod interrupted_rollback;
mod leftovers;
pub mod partitioned;
mod steps;

use std::time::Duration;

use log::{info, warn};
use postgres::error::DbError;

use self::definition::Comparison;
use self::find::{Found, NO_OID, Relation, index_query};
use super::{Run, Step, Way};
use crate::error::{Error, Failure, FailureOutcome, SqlError};
use crate::lock::Locked;
use crate::lock::fence::{Expected, Fault, Leave};
use crate::migration::{Interrupted, Migration};
use crate::server::blocker;
use crate::server::progress::{Part, Watch};
use crate::server::session::{Quiet, Trouble};
use crate::server::settings::{LOCK_TIMEOUT, Settings};
use crate::server::wait::Wait;
use crate::sql::place::{Place, Precision};
use crate::sql::quote::literal;
use crate::sql::{self, Kind, Outside, ReindexTarget, sqlstate};

/// How often we look whether a session or a build has ended, at most.
const POLL: Duration = Duration::from_millis(500);

/// Where the server keeps the indexes of what is too long for a table's rows.
const TOAST: &str = "pg_toast.";

/// The settings of a transaction of our own.
fn settings() -> Settings {
    Settings {
        lock_timeout: LOCK_TIMEOUT,
        ..Settings::of_catalog()
    }
}

/// A migration that is run outside a transaction.
pub(super) struct Alone<'r, 'a, 'w> {
    run: &'r Run<'a>,
    locked: &'r mut Locked,
    migration: &'r Migration,
    watch: &'r mut Watch<'w>,
    /// The statement that is run, counted from 0.
    number: usize,
    /// The settings that the file made before it: each statement begins in a clean session.
    sets: Vec<String>,
}

impl<'a> Run<'a> {
    pub(super) fn outside<'r, 'w>(
        &'r self,
        locked: &'r mut Locked,
        migration: &'r Migration,
        watch: &'r mut Watch<'w>,
    ) -> Alone<'r, 'a, 'w> {
        Alone {
            run: self,
            locked,
            migration,
            watch,
            number: 0,
            sets: Vec::new(),
        }
    }

    fn unfinished(&self, migration: &Migration) -> Option<&Interrupted> {
        let mut interrupted = self.history.interrupted.iter();
        interrupted.find(|it| it.version == migration.version)
    }
}

/// What becomes of a fenced transaction of our own: it has committed, or the migration needs no more.
enum Written<T> {
    Committed(T),
    NoMore(Step),
}

impl Alone<'_, '_, '_> {
    /// Runs one statement outside a transaction: the file's only one, or one of a file that its author wants outside.
    /// `statement` is what the lexer knows of it; none if only the server knew that it cannot run inside.
    pub(super) fn run(
        &mut self,
        statement: Option<&Outside>,
        mut expected: Expected,
        wait: &mut Wait,
    ) -> Result<Step, Error> {
        let unfinished = self.run.unfinished(self.migration);
        let unfinished = unfinished.filter(|it| it.had_started(self.number));
        // Whether what is there complete is of this statement.
        let mut is_ours = unfinished.is_some_and(|it| self.may_be_work_of(it));
        // Whether what is there half done can be of this statement.
        let mut was_started = unfinished.is_some();
        if let Some(statement) = statement {
            self.refuse_partitioned(statement)?;
        }
        loop {
            let found = self.look(statement, was_started)?;
            // A start is noted only for work that is not there yet. So whoever finds the note and the work knows that
            // the one did the other.
            let note = (found != Found::Done).then(|| {
                let notable = notable(&self.text(), statement);
                notable.or_else(|| Some(String::new()))
            });
            let expected_now = expected.clone();
            if note.is_some() {
                expected = self.unrecorded();
            }
            let leave = match self.begin(note, &expected_now)? {
                Written::Committed(leave) => leave,
                Written::NoMore(step) => return Ok(step),
            };
            match (found, statement) {
                (Found::Done, _) if is_ours => {
                    info!("{}: the earlier run had done its work", self.name());
                    return self.finish(statement, &expected);
                }
                (Found::InvalidIndex, Some(Outside::CreateIndex { index, table, .. })) => {
                    self.drop_index(&leave, index, table)?;
                    continue;
                }
                (Found::PendingDetach, Some(Outside::DetachPartition { table, partition }))
                    if was_started =>
                {
                    self.finalize_detach(&leave, table, partition)?;
                    return self.finish(statement, &expected);
                }
                _ => {}
            }
            self.locked.ping_guard()?;
            let Some(error) = self.execute(&leave)? else {
                return self.finish(statement, &expected);
            };
            if !may_pass(&error) {
                let outcome = match expected {
                    // Nothing was noted, so the record of what was to be rolled back stands.
                    Expected::Record(..) => FailureOutcome::RolledBack,
                    Expected::NoneOf(_) => FailureOutcome::OutsideTransaction {
                        left: self.has_left(statement)?,
                    },
                };
                return Err(self.statement_failure(&error, &self.comment(), outcome));
            }
            // What this leaves is what an interruption leaves.
            (was_started, is_ours) = (true, true);
            let doing = self.migration.path.display().to_string();
            self.try_again(&doing, SqlError::from(&*error), wait)?;
            if let Some(statement) = statement {
                self.remove_reindexed(&leave, statement)?;
            }
        }
    }

    fn name(&self) -> &str {
        &self.migration.file_name
    }

    /// The statement's text.
    fn text(&self) -> String {
        let statement = self.migration.script.statements.get(self.number);
        statement.map_or(String::new(), |it| {
            self.migration.text[it.range()].to_owned()
        })
    }

    /// What a migration that was begun must find in the history.
    fn unrecorded(&self) -> Expected {
        Expected::NoneOf(vec![self.migration.version])
    }

    /// Asks the catalog, waits while another session builds the index, and refuses an index that is in the way.
    fn look(&mut self, statement: Option<&Outside>, was_started: bool) -> Result<Found, Error> {
        let Some(Outside::CreateIndex { index, table, .. }) = statement else {
            return self.find(&self.text(), statement);
        };
        let found = self.built_index(index, table)?;
        match found {
            Found::InvalidIndex => self.check_invalid(index, table, was_started)?,
            Found::Done | Found::IndexElsewhere => self.check_valid(index, table, found)?,
            _ => {}
        }
        Ok(found)
    }

    /// If an earlier run started this migration outside a transaction and did not finish it: waits until its session has
    /// ended, and removes what it left, whatever the file says now. Returns a step if the migration needs no more.
    pub(super) fn settle_unfinished(mut self) -> Result<Option<Step>, Error> {
        let Some(unfinished) = self.run.unfinished(self.migration) else {
            return Ok(None);
        };
        let runner = &unfinished.runner;
        let version = self.migration.version.to_string();
        info!(version = version.as_str(); "{}: an earlier run did not finish it ({runner})", self.name());
        self.wait_for_session(runner)?;
        self.sets = steps::settings_before(self.migration, unfinished.done.unwrap_or(0));
        if let Some(step) = self.remove_leftovers(unfinished)? {
            return Ok(Some(step));
        }
        match (self.run.way, unfinished.rollback) {
            (Way::Up { .. }, Some(_)) => self.settle_rollback(unfinished),
            _ => Ok(None),
        }
    }

    /// Removes what an unfinished run of this migration has left, whatever the file says now: the INVALID index that it
    /// was building, or the copies that a rebuild makes. Returns a step if the migration needs no more.
    fn remove_leftovers(&mut self, unfinished: &Interrupted) -> Result<Option<Step>, Error> {
        let text = unfinished.statement.as_deref().unwrap_or_default();
        let Some(statement) = only_statement(text) else {
            return Ok(None);
        };
        match &statement {
            Outside::CreateIndex { index, table, .. } => {
                if self.built_index(index, table)? != Found::InvalidIndex {
                    return Ok(None);
                }
                let comparison = self.compare(text, index, table)?;
                if !matches!(comparison, Comparison::Same) {
                    // If it is still in the way, that is an error soon.
                    warn!(
                        "{}: the INVALID index \"{index}\" on {table} cannot be proved to be what the earlier run left; \
                         it stays",
                        self.name()
                    );
                    return Ok(None);
                }
            }
            Outside::ReindexConcurrently { .. } => {}
            _ => return Ok(None),
        }
        let leave = match self.begin(None, &self.unrecorded())? {
            Written::Committed(leave) => leave,
            Written::NoMore(step) => return Ok(Some(step)),
        };
        match &statement {
            Outside::CreateIndex { index, table, .. } => self.drop_index(&leave, index, table)?,
            reindex => self.remove_reindexed(&leave, reindex)?,
        }
        Ok(None)
    }

    /// Removes the copies that a `REINDEX … CONCURRENTLY` has left; there is nothing to remove of other statements.
    fn remove_reindexed(&mut self, leave: &Leave, statement: &Outside) -> Result<(), Error> {
        let Outside::ReindexConcurrently { target, name } = statement else {
            return Ok(());
        };
        let query = self.leftovers(*target, name.as_deref().unwrap_or_default())?;
        let doing = format!("looking for what {} left", self.name());
        let mut wait = Wait::new(self.run.signals, self.run.config.lock_wait);
        loop {
            let rows = self
                .locked
                .ask(&query)
                .map_err(|trouble| trouble.while_doing(&doing))?;
            let mut busy = None;
            for row in &rows {
                let name = row.get("name").unwrap_or_default();
                match row.get("busy") {
                    Some("f") => self.drop_leftover(leave, name)?,
                    _ => busy = Some(name.to_owned()),
                }
            }
            let Some(name) = busy else { return Ok(()) };
            let session =
                format!("another session that is at work on the table of the INVALID index {name}");
            self.wait_for(session, &mut wait)?;
        }
    }

    /// The query for the copies that the rebuilding of this has left.
    fn leftovers(&mut self, target: ReindexTarget, name: &str) -> Result<String, Error> {
        let relation = match target {
            ReindexTarget::Table | ReindexTarget::Index => self.oid_of(name)?,
            ReindexTarget::Schema | ReindexTarget::Database | ReindexTarget::System => {
                NO_OID.to_owned()
            }
        };
        Ok(leftovers::query(target, &relation, name))
    }

    /// Whether the statement, which has failed, has left something for the next run to finish or to remove.
    fn has_left(&mut self, statement: Option<&Outside>) -> Result<bool, Error> {
        if let Some(Outside::ReindexConcurrently { target, name }) = statement {
            let query = self.leftovers(*target, name.as_deref().unwrap_or_default())?;
            let rows = self.locked.ask(&query);
            let rows = rows.map_err(|trouble| trouble.while_doing("looking for what is left"))?;
            return Ok(!rows.is_empty());
        }
        let found = self.find(&self.text(), statement)?;
        Ok(matches!(
            found,
            Found::InvalidIndex | Found::IndexInTheMaking | Found::PendingDetach
        ))
    }

    /// Makes sure, in a fenced transaction, that the lock and the guard are ours, and notes the start in the journal if
    /// that is to be noted, with the statement if that is to be, too.
    fn begin(
        &mut self,
        note: Option<Option<String>>,
        expected: &Expected,
    ) -> Result<Written<Leave>, Error> {
        let doing = format!("noting the start of {}", self.name());
        let mut wait = Wait::new(self.run.signals, self.run.config.ddl_lock_retry);
        let mut fenced = self.locked.transaction(expected, settings());
        if let Some(text) = note {
            let done = steps::done(self.migration, self.number);
            self.run
                .note(&mut fenced, self.migration, done, text.as_deref());
        }
        let outcome = fenced.commit_to_run_alone(&doing, &mut wait);
        self.written(outcome, None)
    }

    /// Checks what was built, and records it.
    fn finish(&mut self, statement: Option<&Outside>, expected: &Expected) -> Result<Step, Error> {
        let doing = format!("recording {}", self.name());
        let built = match statement {
            Some(Outside::CreateIndex { index, table, .. }) => {
                Some((index, table, self.oid_of(table)?))
            }
            _ => None,
        };
        let mut wait = Wait::new(self.run.signals, self.run.config.ddl_lock_retry);
        let mut fenced = self.locked.transaction(expected, settings());
        steps::settle(self.run, &mut fenced, self.migration, self.number);
        if let Some((index, _, oid)) = &built {
            fenced.refuse_if(
                format!(
                    "NOT EXISTS (SELECT FROM ({}) q WHERE q.found = 'done')",
                    index_query(index, oid)
                ),
                sqlstate::INVALID_INDEX,
            );
        }
        let outcome = fenced.commit(&doing, &mut wait);
        let built = built.map(|(index, table, _)| format!("index \"{index}\" on {table}"));
        Ok(match self.written(outcome, built)? {
            Written::Committed(()) => Step::Done,
            Written::NoMore(step) => step,
        })
    }

    /// What became of a fenced transaction; `built` is what an index that is not valid is called.
    fn written<T>(
        &self,
        outcome: Result<T, Fault>,
        built: Option<String>,
    ) -> Result<Written<T>, Error> {
        match outcome {
            Ok(value) => Ok(Written::Committed(value)),
            Err(Fault::DoneByOthers) => Ok(Written::NoMore(Step::DoneByOthers)),
            Err(Fault::Error(error)) => Err(error.after(self.run.before())),
            Err(Fault::Refused(mut cause)) if cause.sqlstate == sqlstate::INVALID_INDEX => {
                if let Some(built) = built {
                    cause.message = format!("{built} is INVALID, or is not on that table");
                }
                let outcome = FailureOutcome::OutsideTransaction { left: true };
                Err(self.failure(*cause, None, outcome))
            }
            Err(Fault::Refused(cause)) => {
                Err(super::not_taken(self.locked.tables(), self.name(), cause))
            }
        }
    }

    /// Runs the statement alone in its message; returns the server's error if it failed.
    fn execute(&mut self, leave: &Leave) -> Result<Option<Box<DbError>>, Error> {
        self.log_older_transactions()?;
        let message = format!("{}{}", self.comment(), self.text());
        let part = Part {
            statement: Some(self.number),
            ..Part::default()
        };
        let nothing_else = (String::new(), String::new());
        self.watch.begin(self.locked.token(), &part, nothing_else);
        let outcome = self.locked.alone(leave, &self.sets, message, self.watch);
        let _ = self.watch.end(outcome.as_ref().err());
        match outcome {
            Ok(()) => Ok(None),
            Err(Trouble::Sql(cause)) => Ok(Some(cause)),
            Err(trouble) => Err(trouble.while_doing(&format!(
                "running {} outside a transaction; the next run finds out how far it came",
                self.name()
            ))),
        }
    }

    /// What a message of the migration's begins with, by which others see what is running.
    fn comment(&self) -> String {
        format!("/* lockstep {} */ ", self.name())
    }

    /// The error of the statement itself, whose text was sent behind `prefix`.
    fn statement_failure(&self, error: &DbError, prefix: &str, outcome: FailureOutcome) -> Error {
        let start = self.migration.script.statements.get(self.number);
        let start = start.map_or(0, |it| it.range().start);
        let counts_bytes = self.run.counts_bytes;
        let offset = super::message::offset_of(&self.text(), prefix, error, counts_bytes);
        let (offset, precision) = match offset {
            Some(offset) => (start + offset, Precision::Exact),
            None => (start, Precision::Statement),
        };
        let place = Place::of(&self.migration.text, offset, precision);
        let place = super::explain::in_body(place, self.migration, self.number, error);
        let mut cause = SqlError::from(error);
        super::explain::name_invisible(&mut cause, Some(&place));
        self.failure(cause, Some(place), outcome)
    }

    fn failure(&self, cause: SqlError, place: Option<Place>, outcome: FailureOutcome) -> Error {
        let label = place.as_ref().map(|_| self.number);
        Error::Migration(Box::new(Failure {
            file: self.migration.path.display().to_string(),
            place,
            cause,
            statement: label
                .and_then(|number| super::statement_label(self.migration, Some(number))),
            outcome: match outcome {
                FailureOutcome::OutsideTransaction { .. } if self.number > 0 => {
                    FailureOutcome::Partly { done: self.number }
                }
                outcome => self.run.outcome(self.migration, outcome),
            },
            before: self.run.before(),
        }))
    }

    /// CONCURRENTLY waits, without a deadline, for every transaction that is older than it, whoever has it. Whoever wonders
    /// why it takes so long finds them in the log.
    fn log_older_transactions(&mut self) -> Result<(), Error> {
        let query = format!(
            "SELECT {} AS holder FROM {} \
             WHERE l.granted AND COALESCE(l.pid, 0) NOT IN (pg_backend_pid(), {}) \
               AND (l.locktype = 'virtualxid' AND a.datname = current_database() \
                 AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL) \
                 AND a.backend_type IS DISTINCT FROM 'autovacuum worker' \
                 OR l.locktype = 'transactionid' AND x.database = current_database()) \
             ORDER BY COALESCE(a.xact_start, x.prepared) LIMIT 20",
            blocker::words(),
            blocker::FROM,
            self.locked.guard_pid()
        );
        let rows = self.locked.ask(&query);
        let rows = rows.map_err(|trouble| trouble.while_doing("looking for older transactions"))?;
        let version = self.migration.version.to_string();
        for holder in rows.iter().filter_map(|row| row.get("holder")) {
            info!(version = version.as_str(); "{} may have to wait for {holder}", self.name());
        }
        Ok(())
    }

    /// Waits until the session of an interrupted run has ended: its client is gone, but the server may still be
    /// executing what it was sent. A pooler keeps the server's session, with the name of its last client: there it is
    /// enough that it has been idle for two seconds.
    fn wait_for_session(&mut self, runner: &str) -> Result<(), Error> {
        let mut wait = Wait::new(self.run.signals, self.run.config.lock_wait);
        loop {
            let query = format!(
                "SELECT pid, state, left(query, 60) AS query FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name = {} AND pid NOT IN (pg_backend_pid(), {}) \
                   AND (state IS DISTINCT FROM 'idle' OR state_change > clock_timestamp() - interval '2 s')",
                literal(runner),
                self.locked.guard_pid(),
            );
            let doing = "looking for the session of an interrupted run";
            let rows = self
                .locked
                .ask(&query)
                .map_err(|trouble| trouble.while_doing(doing))?;
            let Some(row) = rows.first() else {
                return Ok(());
            };
            let pid = row.get("pid").unwrap_or("?").to_owned();
            let query = row.get("query").map(sql::verb);
            let query = query.unwrap_or_else(|| "what is not for us to see".to_owned());
            let orphan =
                format!("the session of an interrupted run, pid {pid}, still running {query}");
            self.wait_for(orphan, &mut wait)?;
        }
    }

    /// Drops the INVALID index that an unfinished build left.
    fn drop_index(&mut self, leave: &Leave, index: &str, table: &str) -> Result<(), Error> {
        let name = self.index_name(index, table)?;
        self.drop_leftover(leave, &name)
    }

    /// Drops an index by its qualified and quoted name.
    fn drop_leftover(&mut self, leave: &Leave, index: &str) -> Result<(), Error> {
        let name = self.name();
        warn!("{name}: dropping the INVALID index {index} that an unfinished build left");
        let doing = format!("dropping the INVALID index that {name} left");
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
        let outcome = self.repair(leave, &drop, &doing);
        if let Err(Error::Database { cause, .. }) = &outcome
            && cause.sqlstate == sqlstate::INSUFFICIENT_PRIVILEGE
            && index.starts_with(TOAST)
        {
            // The owner of a table may rebuild its TOAST index, and not drop what that left. Another rebuild does not mind.
            let name = self.name();
            warn!(
                "{name}: {index} stays: {cause}; it does no harm, and a superuser may drop it: {drop}"
            );
            return Ok(());
        }
        outcome
    }

    fn finalize_detach(
        &mut self,
        leave: &Leave,
        table: &str,
        partition: &str,
    ) -> Result<(), Error> {
        let doing = format!("finishing what {} began", self.name());
        info!(
            "{}: finishing the detach of {partition} that was begun",
            self.name()
        );
        let finalize = format!("ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE");
        self.repair(leave, &finalize, &doing)
    }

    /// Runs a repairing statement under the session settings of the statement that it repairs.
    fn repair(&mut self, leave: &Leave, statement: &str, doing: &str) -> Result<(), Error> {
        let mut wait = Wait::new(self.run.signals, self.run.config.ddl_lock_retry);
        loop {
            match self
                .locked
                .alone(leave, &[], statement.to_owned(), &mut Quiet)
            {
                Err(Trouble::Sql(cause)) if may_pass(&cause) => {
                    self.try_again(doing, SqlError::from(&*cause), &mut wait)?;
                }
                outcome => return outcome.map_err(|trouble| trouble.while_doing(doing)),
            }
        }
    }

    /// Waits a little before a statement that met a lock is tried again.
    ///
    /// # Errors
    ///
    /// [`Error::TableWait`] at the deadline.
    fn try_again(&mut self, doing: &str, cause: SqlError, wait: &mut Wait) -> Result<(), Error> {
        let cause = Box::new(cause);
        if wait.is_over() {
            return Err(Error::TableWait {
                doing: doing.to_owned(),
                cause,
                blockers: Vec::new(),
                waited: wait.elapsed(),
                before: Some(self.run.before()),
            });
        }
        wait.say(|| format!("a lock: {doing}: {cause}; trying again"));
        self.locked.pause(wait, super::RETRY_PAUSE)
    }

    /// One turn of waiting for another session.
    ///
    /// # Errors
    ///
    /// [`Error::SessionWait`] at the deadline; what [`Locked::pause`] says.
    fn wait_for(&mut self, session: String, wait: &mut Wait) -> Result<(), Error> {
        if wait.is_over() {
            return Err(Error::SessionWait {
                doing: self.migration.path.display().to_string(),
                session,
                waited: wait.elapsed(),
                before: self.run.before(),
            });
        }
        wait.say(|| session);
        self.locked.pause(wait, POLL)
    }
}

/// The text of a statement, if what it leaves has to be known by that, and no password can be in it. Comments
/// may hold whatever people write, at any length.
fn notable(text: &str, statement: Option<&Outside>) -> Option<String> {
    let is_notable = match statement {
        None | Some(Outside::Other) => sql::verb(text).starts_with("DROP "),
        Some(_) => true,
    };
    is_notable.then(|| sql::without_comments(text))
}

/// What the lexer knows of a text that is one statement which cannot run in a transaction, or may not.
fn only_statement(text: &str) -> Option<Outside> {
    let mut statements = sql::parse(text).statements;
    match (statements.pop()?.kind, statements.is_empty()) {
        (Kind::Outside(statement), true) => Some(*statement),
        (Kind::MaybeOutside, true) => Some(Outside::Other),
        _ => None,
    }
}

/// A deadlock, or a lock timeout: ours is off, but a pooler may run the statement on another connection than the one
/// that was set.
fn may_pass(error: &DbError) -> bool {
    matches!(
        error.code().code(),
        sqlstate::DEADLOCK_DETECTED | sqlstate::LOCK_NOT_AVAILABLE
    )
}
