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
//! A rollback goes the same way; what is different, and why that is safe, is in [`way_back`].

mod check;
mod definition;
mod find;
mod leftovers;
mod way_back;

use log::{info, warn};
use postgres::error::DbError;

use self::definition::Comparison;
use self::find::{Found, NO_OID, Relation, index_query};
use super::message::Message;
use super::{FailedMessage, Run, Step, Way, reset, transmit};
use crate::error::{Error, Failure, FailureOutcome, Place, SqlError};
use crate::history::Started;
use crate::lock::{self, Expected, Locked};
use crate::migration::{Interrupted, Migration};
use crate::server::session::{self, Settings, Trouble, literal};
use crate::server::wait::Wait;
use crate::sql::sqlstate;
use crate::sql::{self, Kind, Outside, ReindexTarget};

/// How often we look whether a session or a build has ended, at most.
const POLL: std::time::Duration = std::time::Duration::from_millis(500);

/// How long a transaction of our own waits for a lock before it says so and tries again.
const LOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// The settings of a transaction of our own.
fn settings() -> Settings {
    Settings {
        lock_timeout: LOCK_TIMEOUT,
        ..Settings::of_catalog()
    }
}

impl Run<'_> {
    /// Runs the file's only statement outside a transaction. `statement` is what the lexer knows of it; none if only
    /// the server knew that it cannot run inside.
    pub(super) fn outside(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        statement: Option<&Outside>,
        wait: &mut Wait,
    ) -> Result<Step, Error> {
        let unfinished = self.unfinished(migration);
        let versions = [migration.version];
        let mut expected = self.expected(&versions);
        // Whether what is there complete is of this statement.
        let mut is_ours = unfinished.is_some_and(|it| self.may_be_work_of(it, migration));
        // Whether what is there half done can be of this statement.
        let mut was_started = unfinished.is_some();
        loop {
            let found = self.look(locked, migration, statement, was_started)?;
            // A start is noted only for work that is not there yet. So whoever finds the note and the work knows that
            // the one did the other.
            let start = (found != Found::Done)
                .then(|| self.note(locked, migration, notable(migration, statement)));
            let expected_now = expected;
            if start.is_some() {
                expected = Expected::NoneOf(&versions);
            }
            if let Some(step) = self.begin_outside(locked, migration, start, expected_now)? {
                return Ok(step);
            }
            match (found, statement) {
                (Found::Done, _) if is_ours => {
                    info!("{}: the earlier run had done its work", migration.file_name);
                    return self.finish(locked, migration, statement, expected);
                }
                (Found::InvalidIndex, Some(Outside::CreateIndex { index, table, .. })) => {
                    self.drop_index(locked, migration, index, table)?;
                    continue;
                }
                (Found::PendingDetach, Some(Outside::DetachPartition { table, partition }))
                    if was_started =>
                {
                    self.finalize_detach(locked, migration, table, partition)?;
                    return self.finish(locked, migration, statement, expected);
                }
                _ => {}
            }
            locked.ping_guard()?;
            let Some(error) = self.run_outside(locked, migration)? else {
                return self.finish(locked, migration, statement, expected);
            };
            if !may_pass(&error.cause) {
                let place =
                    error
                        .message
                        .place(migration, &error.cause, error.reached, self.counts_bytes);
                let outcome = match expected {
                    // Nothing was noted, so the record of what was to be rolled back stands.
                    Expected::Record(..) => FailureOutcome::RolledBack,
                    Expected::NoneOf(_) => FailureOutcome::OutsideTransaction,
                };
                let cause = SqlError::from(&error.cause);
                return Err(self.outside_failure(migration, cause, place, outcome));
            }
            // What this leaves is what an interruption leaves.
            (was_started, is_ours) = (true, true);
            self.try_again(&migration.path.display().to_string(), &error.cause, wait)?;
            if let Some(statement) = statement {
                self.remove_reindexed(locked, migration, statement)?;
            }
        }
    }

    /// Asks the catalog, waits while another session builds the index, and refuses an index that is in the way.
    fn look(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        statement: Option<&Outside>,
        was_started: bool,
    ) -> Result<Found, Error> {
        let Some(Outside::CreateIndex { index, table, .. }) = statement else {
            return self.find(locked, migration, migration.statement(), statement);
        };
        let found = self.built_index(locked, migration, index, table)?;
        match found {
            Found::InvalidIndex => {
                self.check_invalid(locked, migration, index, table, was_started)?;
            }
            Found::Done | Found::IndexElsewhere => {
                self.check_valid(locked, migration, index, table, found)?;
            }
            _ => {}
        }
        Ok(found)
    }

    fn unfinished(&self, migration: &Migration) -> Option<&Interrupted> {
        let mut interrupted = self.history.interrupted.iter();
        interrupted.find(|it| it.version == migration.version)
    }

    /// If an earlier run started this migration outside a transaction and did not finish it: waits until its session has
    /// ended, and removes what it left, whatever the file says now. Returns a step if the migration needs no more.
    pub(super) fn settle_unfinished(
        &self,
        locked: &mut Locked,
        migration: &Migration,
    ) -> Result<Option<Step>, Error> {
        let Some(unfinished) = self.unfinished(migration) else {
            return Ok(None);
        };
        let (name, runner) = (&migration.file_name, &unfinished.runner);
        let version = migration.version.to_string();
        info!(version = version.as_str(); "{name}: an earlier run did not finish it ({runner})");
        self.wait_for_session(locked, runner)?;
        if let Some(step) = self.remove_leftovers(locked, migration, unfinished)? {
            return Ok(Some(step));
        }
        match (self.way, unfinished.rollback) {
            (Way::Up { .. }, Some(_)) => self.settle_rollback(locked, migration, unfinished),
            _ => Ok(None),
        }
    }

    /// Removes what an unfinished run of this migration has left, whatever the file says now: the INVALID index that it
    /// was building, or the copies that a rebuild makes. Returns a step if the migration needs no more.
    fn remove_leftovers(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        unfinished: &Interrupted,
    ) -> Result<Option<Step>, Error> {
        let text = unfinished.statement.as_deref().unwrap_or_default();
        let Some(statement) = only_statement(text) else {
            return Ok(None);
        };
        match &statement {
            Outside::CreateIndex { index, table, .. } => {
                if self.built_index(locked, migration, index, table)? != Found::InvalidIndex {
                    return Ok(None);
                }
                let comparison = self.compare(locked, migration, text, index, table)?;
                if !matches!(comparison, Comparison::Same) {
                    // If it is still in the way, that is an error soon.
                    warn!(
                        "{}: the INVALID index \"{index}\" on {table} cannot be proved to be what the earlier run left; \
                         it stays",
                        migration.file_name
                    );
                    return Ok(None);
                }
            }
            Outside::ReindexConcurrently { .. } => {}
            _ => return Ok(None),
        }
        let unrecorded = Expected::NoneOf(&[migration.version]);
        if let Some(step) = self.begin_outside(locked, migration, None, unrecorded)? {
            return Ok(Some(step));
        }
        match &statement {
            Outside::CreateIndex { index, table, .. } => {
                self.drop_index(locked, migration, index, table)?;
            }
            reindex => self.remove_reindexed(locked, migration, reindex)?,
        }
        Ok(None)
    }

    /// Removes the copies that a `REINDEX … CONCURRENTLY` has left; there is nothing to remove of other statements.
    fn remove_reindexed(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        statement: &Outside,
    ) -> Result<(), Error> {
        let Outside::ReindexConcurrently { target, name } = statement else {
            return Ok(());
        };
        let name = name.as_deref().unwrap_or_default();
        let relation = match target {
            ReindexTarget::Table | ReindexTarget::Index => self.oid_of(locked, migration, name)?,
            ReindexTarget::Schema | ReindexTarget::Database | ReindexTarget::System => {
                NO_OID.to_owned()
            }
        };
        let query = leftovers::query(*target, &relation, name);
        let doing = format!("looking for what {} left", migration.file_name);
        let mut wait = Wait::new(self.signals, self.config.lock_wait);
        loop {
            let rows = locked
                .work
                .ask(&query)
                .map_err(|trouble| trouble.while_doing(&doing))?;
            let mut busy = None;
            for row in &rows {
                let name = row.get("name").unwrap_or_default();
                match row.get("busy") {
                    Some("f") => self.drop_leftover(locked, migration, name)?,
                    _ => busy = Some(name.to_owned()),
                }
            }
            let Some(name) = busy else { return Ok(()) };
            let holder =
                format!("another session that is at work on the table of the INVALID index {name}");
            wait_for(holder, &mut wait)?;
        }
    }

    /// Makes sure, in a fenced transaction, that the lock and the guard are ours, and notes the start in the journal if
    /// that is to be noted.
    fn begin_outside(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        start: Option<String>,
        expected: Expected<'_>,
    ) -> Result<Option<Step>, Error> {
        let message = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {} {} {} {} COMMIT",
            settings(),
            locked.fence(expected),
            locked.assert_guard(),
            start.unwrap_or_default(),
        );
        self.fenced(locked, migration, &message, "noting the start of")
    }

    /// Checks what was built, and records it.
    fn finish(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        statement: Option<&Outside>,
        expected: Expected<'_>,
    ) -> Result<Step, Error> {
        let is_valid = match statement {
            Some(Outside::CreateIndex { index, table, .. }) => {
                assert_valid(index, table, &self.oid_of(locked, migration, table)?)
            }
            _ => String::new(),
        };
        let message = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {} {} {is_valid} {} COMMIT",
            settings(),
            locked.fence(expected),
            self.settle_record(locked, migration, Started::InJournal),
        );
        Ok(self
            .fenced(locked, migration, &message, "recording")?
            .unwrap_or(Step::Done))
    }

    /// Sends a fenced message of our own; returns a step if the migration needs no more.
    fn fenced(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        message: &str,
        doing: &str,
    ) -> Result<Option<Step>, Error> {
        let doing = format!("{doing} {}", migration.file_name);
        let mut wait = Wait::new(self.signals, self.config.ddl_lock_retry);
        loop {
            let trouble = match locked.work.execute(message) {
                Ok(()) => return Ok(None),
                Err(trouble) => trouble,
            };
            let Trouble::Sql(cause) = &trouble else {
                return Err(trouble.while_doing(&doing));
            };
            match cause.code().code() {
                sqlstate::LOCK_NOT_AVAILABLE => {
                    lock::retry_lock_timeout(&mut locked.work, trouble, &doing, &mut wait)
                        .map_err(|error| error.after(self.before()))?
                }
                code => {
                    let rolled_back = locked.work.execute("ROLLBACK");
                    rolled_back.map_err(|trouble| trouble.while_doing(&doing))?;
                    return match code {
                        sqlstate::LOCK_LOST => Err(locked.lost()),
                        sqlstate::ALREADY_RECORDED | sqlstate::NO_LONGER_RECORDED => {
                            Ok(Some(Step::DoneByOthers))
                        }
                        sqlstate::OTHER_SERVER => Err(trouble.while_doing(&doing)),
                        _ => {
                            let outcome = FailureOutcome::OutsideTransaction;
                            Err(self.outside_failure(
                                migration,
                                SqlError::from(&**cause),
                                None,
                                outcome,
                            ))
                        }
                    };
                }
            }
        }
    }

    /// Runs the statement alone in its message; returns the server's error if it failed.
    fn run_outside(
        &self,
        locked: &mut Locked,
        migration: &Migration,
    ) -> Result<Option<Box<FailedMessage>>, Error> {
        self.log_older_transactions(locked, migration)?;
        self.set_session(locked, migration)?;
        let message = Message::bare(
            migration,
            &format!("/* lockstep {} */ ", migration.file_name),
        );
        let (outcome, reached) = transmit(locked, migration, &message, false);
        let doing = format!(
            "running {} outside a transaction; the next run finds out how far it came",
            migration.file_name
        );
        let cause = match outcome {
            Ok(()) => None,
            Err(Trouble::Sql(cause)) => Some(cause),
            Err(trouble) => return Err(trouble.while_doing(&doing)),
        };
        let restored = locked.work.execute(&reset(&locked.runner));
        let Some(cause) = cause else {
            restored.map_err(|trouble| trouble.while_doing(&doing))?;
            return Ok(None);
        };
        Ok(Some(Box::new(FailedMessage {
            message,
            is_ours: false,
            cause: *cause,
            reached,
        })))
    }

    fn outside_failure(
        &self,
        migration: &Migration,
        cause: SqlError,
        place: Option<Place>,
        outcome: FailureOutcome,
    ) -> Error {
        Error::Migration(Box::new(Failure {
            file: migration.path.display().to_string(),
            place,
            cause,
            statement: None,
            outcome: self.outcome(migration, outcome),
            before: self.before(),
        }))
    }

    /// Makes the session's settings right for a statement that takes its time. They are the session's, not a
    /// transaction's, so behind a transaction pooler they are for whoever gets the same server connection until
    /// [`reset`] runs: as short as can be.
    fn set_session(&self, locked: &mut Locked, migration: &Migration) -> Result<(), Error> {
        let message = session::session_settings(&self.session_name(locked));
        let doing = format!(
            "preparing to run {} outside a transaction",
            migration.file_name
        );
        locked
            .work
            .execute(&message)
            .map_err(|trouble| trouble.while_doing(&doing))
    }

    /// What the session is called while it runs a statement outside a transaction. A host's name and a process id come
    /// again, in containers above all; the run's token does not, so whoever finds the name in the journal can tell
    /// whether that very session is still at work.
    fn session_name(&self, locked: &Locked) -> String {
        format!("{} {}", locked.runner, locked.token())
    }

    /// CONCURRENTLY waits, without a deadline, for every transaction that is older than it. Whoever wonders why it
    /// takes so long finds them in the log.
    fn log_older_transactions(
        &self,
        locked: &mut Locked,
        migration: &Migration,
    ) -> Result<(), Error> {
        let message = format!(
            "SELECT a.pid, a.application_name AS application, a.state, \
               pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - a.xact_start) AS age \
             FROM pg_catalog.pg_stat_activity a \
             WHERE a.datname = pg_catalog.current_database() AND a.pid NOT IN (pg_catalog.pg_backend_pid(), {}) \
               AND (a.backend_xid IS NOT NULL OR a.backend_xmin IS NOT NULL) AND a.backend_type = 'client backend' \
             ORDER BY a.xact_start LIMIT 20",
            locked.guard_pid()
        );
        let rows = locked
            .work
            .ask(&message)
            .map_err(|trouble| trouble.while_doing("looking for older transactions"))?;
        for row in rows {
            let column = |name: &str| row.get(name).unwrap_or("?").to_owned();
            let version = migration.version.to_string();
            info!(
                version = version.as_str();
                "{} may have to wait for pid {} {}, {}, in a transaction for {}",
                migration.file_name, column("pid"), column("application"), column("state"), column("age")
            );
        }
        Ok(())
    }

    /// Waits until the session of an interrupted run has ended: its client is gone, but the server may still be
    /// executing what it was sent. A pooler keeps the server's session, with the name of its last client: there it is
    /// enough that it has been idle for two seconds.
    fn wait_for_session(&self, locked: &mut Locked, runner: &str) -> Result<(), Error> {
        let message = format!(
            "SELECT pid, state, pg_catalog.left(query, 60) AS query FROM pg_catalog.pg_stat_activity \
             WHERE datname = pg_catalog.current_database() AND application_name = {} \
               AND pid NOT IN (pg_catalog.pg_backend_pid(), {}) \
               AND (state IS DISTINCT FROM 'idle' OR state_change > pg_catalog.clock_timestamp() - interval '2 s')",
            literal(runner),
            locked.guard_pid(),
        );
        let mut wait = Wait::new(self.signals, self.config.lock_wait);
        loop {
            let doing = "looking for the session of an interrupted run";
            let rows = locked
                .work
                .ask(&message)
                .map_err(|trouble| trouble.while_doing(doing))?;
            let Some(row) = rows.first() else {
                return Ok(());
            };
            let pid = row.get("pid").unwrap_or("?").to_owned();
            let query = row
                .get("query")
                .unwrap_or("what is not for us to see")
                .to_owned();
            let orphan =
                format!("the session of an interrupted run, pid {pid}, still running {query}");
            wait_for(orphan, &mut wait)?;
        }
    }

    /// Drops the INVALID index that an unfinished build left.
    fn drop_index(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        index: &str,
        table: &str,
    ) -> Result<(), Error> {
        let name = self.index_name(locked, migration, index, table)?;
        self.drop_leftover(locked, migration, &name)
    }

    /// Drops an index by its qualified and quoted name.
    fn drop_leftover(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        index: &str,
    ) -> Result<(), Error> {
        let name = &migration.file_name;
        warn!("{name}: dropping the INVALID index {index} that an unfinished build left");
        let doing = format!("dropping the INVALID index that {name} left");
        let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
        self.session_statement(locked, migration, &drop, &doing)
    }

    fn finalize_detach(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        table: &str,
        partition: &str,
    ) -> Result<(), Error> {
        let doing = format!("finishing what {} began", migration.file_name);
        info!(
            "{}: finishing the detach of {partition} that was begun",
            migration.file_name
        );
        let finalize = format!("ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE");
        self.session_statement(locked, migration, &finalize, &doing)
    }

    /// Runs a repairing statement under the session settings of the statement that it repairs.
    fn session_statement(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        statement: &str,
        doing: &str,
    ) -> Result<(), Error> {
        let mut wait = Wait::new(self.signals, self.config.ddl_lock_retry);
        loop {
            self.set_session(locked, migration)?;
            let outcome = locked.work.execute_patiently(statement);
            let restored = locked.work.execute(&reset(&locked.runner));
            match outcome {
                Err(Trouble::Sql(cause)) if may_pass(&cause) => {
                    self.try_again(doing, &cause, &mut wait)?;
                }
                outcome => {
                    return outcome
                        .and(restored)
                        .map_err(|trouble| trouble.while_doing(doing));
                }
            }
        }
    }

    /// Waits a little before a statement that met a lock is tried again.
    ///
    /// # Errors
    ///
    /// [`Error::TableWait`] at the deadline.
    fn try_again(&self, doing: &str, cause: &DbError, wait: &mut Wait) -> Result<(), Error> {
        let cause = Box::new(SqlError::from(cause));
        if wait.is_over() {
            return Err(Error::TableWait {
                doing: doing.to_owned(),
                cause,
                blockers: Vec::new(),
                waited: wait.elapsed(),
                before: Some(self.before()),
            });
        }
        wait.say(|| format!("a lock: {doing}: {cause}; trying again"));
        wait.pause(super::RETRY_PAUSE)
    }
}

/// The statement that fails unless the index which was to be built is valid.
fn assert_valid(index: &str, table: &str, oid: &str) -> String {
    let message = format!("index \"{index}\" on {table} is INVALID, or is not on that table");
    let block = format!(
        "BEGIN
           IF NOT EXISTS (SELECT FROM ({}) q WHERE q.found = 'done') THEN
             RAISE EXCEPTION USING ERRCODE = '{}', MESSAGE = {};
           END IF;
         END",
        index_query(index, oid),
        sqlstate::INVALID_INDEX,
        literal(&message),
    );
    format!("DO LANGUAGE plpgsql {};", literal(&block))
}

/// The text of the file's statement, if what it leaves has to be known by that, and no password can be in it. Comments
/// may hold whatever people write, at any length.
fn notable(migration: &Migration, statement: Option<&Outside>) -> Option<String> {
    let text = migration.statement();
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

/// One turn of waiting for another session.
///
/// # Errors
///
/// [`Error::RunnerWait`] at the deadline.
fn wait_for(session: String, wait: &mut Wait) -> Result<(), Error> {
    if wait.is_over() {
        return Err(Error::RunnerWait {
            holder: session,
            waited: wait.elapsed(),
        });
    }
    wait.say(|| session);
    wait.pause(POLL)
}

/// A deadlock, or a lock timeout: ours is off, but a pooler may run the statement on another connection than the one
/// that was set.
fn may_pass(error: &DbError) -> bool {
    matches!(
        error.code().code(),
        sqlstate::DEADLOCK_DETECTED | sqlstate::LOCK_NOT_AVAILABLE
    )
}
