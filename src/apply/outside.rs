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
use self::find::{Found, NO_OID, index_query};
use super::explain::{in_statement, name_invisible};
use super::message::offset_of;
use super::{Current, Way};
use crate::error::{Error, FailureOutcome, SqlError};
use crate::lock::fence::{Expected, Fault, Leave};
use crate::migration::Interrupted;
use crate::server::blocker;
use crate::server::progress::Part;
use crate::server::session::{Quiet, Trouble};
use crate::server::settings::Settings;
use crate::server::wait::Wait;
use crate::sql::quote::literal;
use crate::sql::{self, Kind, Outside, ReindexTarget, sqlstate};

/// How often we look whether a session or a build has ended, at most.
const POLL: Duration = Duration::from_millis(500);

/// Where the server keeps the indexes of what is too long for a table's rows.
const TOAST: &str = "pg_toast.";

impl<'r> Current<'r> {
    /// What an earlier run has left unfinished of the migration.
    fn unfinished(&self) -> Option<&'r Interrupted> {
        self.run.history.unfinished(self.migration.version)
    }

    /// Runs one statement outside a transaction: the file's only one, or one of a file that its author wants outside.
    pub(super) fn run_outside(
        &mut self,
        statement: &Outside,
        wait: &mut Wait,
    ) -> Result<(), Fault> {
        let unfinished = self.unfinished().filter(|it| it.had_started(self.number));
        // Whether what is there complete is of this statement.
        let mut is_ours = unfinished.is_some_and(|it| self.may_be_work_of(it));
        // Whether what is there half done can be of this statement.
        let mut was_started = unfinished.is_some();
        self.refuse_partitioned(statement)?;
        loop {
            let found = self.look(statement, was_started)?;
            // A start is noted only for work that is not there yet. So whoever finds the note and the work knows that
            // the one did the other.
            let text = notable(self.text(), statement);
            let leave = self.begin((found != Found::Done).then_some(Some(text.as_str())))?;
            match (found, statement) {
                (Found::Done, _) if is_ours => {
                    info!("{}: the earlier run had done its work", self.name());
                    return self.finish(statement);
                }
                (Found::InvalidIndex, Outside::CreateIndex { index, table }) => {
                    self.drop_index(&leave, index, table)?;
                    continue;
                }
                (Found::PendingDetach, Outside::DetachPartition { table, partition })
                    if was_started =>
                {
                    self.finalize_detach(&leave, table, partition)?;
                    return self.finish(statement);
                }
                _ => {}
            }
            self.locked.ping_guard()?;
            let Some(error) = self.execute(&leave)? else {
                return self.finish(statement);
            };
            if !may_pass(&error) {
                let outcome = match self.expected() {
                    // Nothing was noted, so the record of what was to be rolled back stands.
                    Expected::Record(..) => FailureOutcome::RolledBack,
                    Expected::NoneOf(_) => {
                        FailureOutcome::OutsideTransaction { left: self.has_left(statement)? }
                    }
                };
                return Err(self.statement_failure(&error, &self.comment(), outcome));
            }
            // What this leaves is what an interruption leaves.
            (was_started, is_ours) = (true, true);
            self.try_again(self.text(), &self.path(), SqlError::from(&*error), wait)?;
            self.remove_reindexed(&leave, statement)?;
        }
    }

    /// The statement's text.
    fn text(&self) -> &'r str {
        self.migration.statement(self.number).unwrap_or_default()
    }

    /// Asks the catalog, waits while another session builds the index, and refuses an index that is in the way.
    fn look(&mut self, statement: &Outside, was_started: bool) -> Result<Found, Fault> {
        let Outside::CreateIndex { index, table } = statement else {
            return Ok(self.find(self.text(), statement)?);
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
    /// ended, and removes what it left, whatever the file says now. Returns true if and only if the migration is done.
    pub(super) fn settle_unfinished(&mut self) -> Result<bool, Fault> {
        let Some(unfinished) = self.unfinished() else {
            return Ok(false);
        };
        let runner = &unfinished.runner;
        info!(version:% = self.migration.version; "{}: an earlier run did not finish it ({runner})", self.name());
        self.wait_for_session(runner)?;
        self.sets = steps::settings_before(self.migration, unfinished.done.unwrap_or(0));
        self.remove_leftovers(unfinished)?;
        match (self.run.way, unfinished.rollback) {
            (Way::Up { .. }, Some(_)) => self.settle_rollback(unfinished),
            _ => Ok(false),
        }
    }

    /// Removes what an unfinished run of this migration has left, whatever the file says now: the INVALID index that it
    /// was building, or the copies that a rebuild makes.
    fn remove_leftovers(&mut self, unfinished: &Interrupted) -> Result<(), Fault> {
        let text = unfinished.statement.as_deref().unwrap_or_default();
        match only_statement(text) {
            Some(Outside::CreateIndex { index, table }) => {
                if self.built_index(&index, &table)? != Found::InvalidIndex {
                    return Ok(());
                }
                if !matches!(self.compare(text, &index, &table)?, Comparison::Same) {
                    // If it is still in the way, that is an error soon.
                    warn!(
                        "{}: the INVALID index \"{index}\" on {table} cannot be proved to be what the earlier run left; \
                         it stays",
                        self.name()
                    );
                    return Ok(());
                }
                let leave = self.begin(None)?;
                Ok(self.drop_index(&leave, &index, &table)?)
            }
            Some(reindex @ Outside::ReindexConcurrently { .. }) => {
                let leave = self.begin(None)?;
                Ok(self.remove_reindexed(&leave, &reindex)?)
            }
            _ => Ok(()),
        }
    }

    /// Removes the copies that a `REINDEX … CONCURRENTLY` has left; there is nothing to remove of other statements.
    fn remove_reindexed(&mut self, leave: &Leave, statement: &Outside) -> Result<(), Error> {
        let Outside::ReindexConcurrently { target, name } = statement else {
            return Ok(());
        };
        let query = self.leftovers(*target, name.as_deref())?;
        let doing = format!("looking for what {} left", self.name());
        let mut wait = Wait::new(self.run.signals, self.run.config.lock_wait);
        loop {
            let mut busy = None;
            for row in self.locked.ask(&query, &doing)? {
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
    fn leftovers(&mut self, target: ReindexTarget, name: Option<&str>) -> Result<String, Error> {
        let name = name.unwrap_or_default();
        let relation = match target {
            ReindexTarget::Table | ReindexTarget::Index => self.oid_of(name)?,
            _ => NO_OID.to_owned(),
        };
        Ok(leftovers::query(target, &relation, name))
    }

    /// Whether the statement, which has failed, has left something for the next run to finish or to remove.
    fn has_left(&mut self, statement: &Outside) -> Result<bool, Error> {
        if let Outside::ReindexConcurrently { target, name } = statement {
            let query = self.leftovers(*target, name.as_deref())?;
            let rows = self.locked.ask(&query, "looking for what is left")?;
            return Ok(!rows.is_empty());
        }
        Ok(matches!(
            self.find(self.text(), statement)?,
            Found::InvalidIndex | Found::IndexInTheMaking | Found::PendingDetach
        ))
    }

    /// Makes sure, in a fenced transaction, that the lock and the guard are ours, and notes the start in the journal if
    /// that is to be noted, with the statement if that is to be, too.
    fn begin(&mut self, note: Option<Option<&str>>) -> Result<Leave, Fault> {
        let (run, migration) = (self.run, self.migration);
        let doing = format!("noting the start of {}", self.name());
        // On disk: behind a pooler the statement may meet a server that has crashed since, and what it leaves there must be
        // known to be ours.
        let settings = Settings::of_catalog().retried().on_disk();
        let mut fenced = self.locked.transaction(&self.expected(), settings);
        if let Some(text) = note {
            run.note(&mut fenced, migration, self.number, text);
        }
        let leave = fenced.commit_to_run_alone(&doing, &mut run.lock_retry())?;
        self.is_noted |= note.is_some();
        Ok(leave)
    }

    /// Checks what was built, and records it.
    fn finish(&mut self, statement: &Outside) -> Result<(), Fault> {
        let doing = format!("recording {}", self.name());
        let built = match statement {
            Outside::CreateIndex { index, table } => Some((index, table, self.oid_of(table)?)),
            _ => None,
        };
        let mut fenced =
            self.locked.transaction(&self.expected(), Settings::of_catalog().retried());
        steps::settle(self.run, &mut fenced, self.migration, (self.number, self.is_noted));
        if let Some((index, _, oid)) = &built {
            let query = index_query(index, oid);
            let is_not = format!("NOT EXISTS (SELECT FROM ({query}) q WHERE q.found = 'done')");
            fenced.refuse_if(is_not, sqlstate::INVALID_INDEX);
        }
        let outcome = fenced.commit(&doing, &mut self.run.lock_retry());
        self.is_noted |= outcome.is_ok();
        match (outcome, built) {
            (Err(Fault::Refused(mut cause)), Some((index, table, _)))
                if cause.sqlstate == sqlstate::INVALID_INDEX =>
            {
                cause.message =
                    format!("index \"{index}\" on {table} is INVALID, or is not on that table");
                let outcome = FailureOutcome::OutsideTransaction { left: true };
                Err(self.failure(*cause, None, None, outcome))
            }
            (outcome, _) => outcome,
        }
    }

    /// Runs the statement alone in its message; returns the server's error if it failed.
    fn execute(&mut self, leave: &Leave) -> Result<Option<Box<DbError>>, Error> {
        self.log_older_transactions()?;
        let message = format!("{}{}", self.comment(), self.text());
        let part = Part { statement: Some(self.number), ..Part::default() };
        let watch = &mut self.watch;
        watch.begin(self.locked.token(), &part, (String::new(), String::new()));
        let outcome = self.locked.alone(leave, &self.sets, message, watch);
        self.watch.end(outcome.as_ref().err());
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
    fn statement_failure(&self, error: &DbError, prefix: &str, outcome: FailureOutcome) -> Fault {
        let (migration, number) = (self.migration, self.number);
        let offset = offset_of(self.text(), prefix, error, self.run.counts_bytes);
        let place = in_statement(migration, number, offset, error);
        let mut cause = SqlError::from(error);
        name_invisible(&mut cause, Some(&place));
        self.failure(cause, Some(place), Some(number), outcome)
    }

    /// The error of a migration that is not begun, or goes neither on nor back.
    fn refuse(
        &self,
        code: &str,
        message: String,
        detail: Option<String>,
        hint: Option<String>,
    ) -> Fault {
        let cause = SqlError { message, detail, hint, ..SqlError::ours(code, "") };
        self.failure(cause, None, None, FailureOutcome::NotBegun)
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
        let rows = self.locked.ask(&query, "looking for older transactions")?;
        for holder in rows.iter().filter_map(|row| row.get("holder")) {
            info!(version:% = self.migration.version; "{} may have to wait for {holder}", self.name());
        }
        Ok(())
    }

    /// Waits until the session of an interrupted run has ended: its client is gone, but the server may still be
    /// executing what it was sent. A pooler keeps the server's session, with the name of its last client: there it is
    /// enough that it has been idle for two seconds.
    fn wait_for_session(&mut self, runner: &str) -> Result<(), Error> {
        let mut wait = Wait::new(self.run.signals, self.run.config.lock_wait);
        loop {
            // The guard may be another one after each wait.
            let query = format!(
                "SELECT pid, state, left(query, 60) AS query FROM pg_stat_activity \
                 WHERE datname = current_database() AND application_name = {} AND pid NOT IN (pg_backend_pid(), {}) \
                   AND (state IS DISTINCT FROM 'idle' OR state_change > clock_timestamp() - interval '2 s')",
                literal(runner),
                self.locked.guard_pid(),
            );
            let rows = self.locked.ask(&query, "looking for the session of an interrupted run")?;
            let Some(row) = rows.first() else {
                return Ok(());
            };
            let pid = row.get("pid").unwrap_or("?");
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
        match self.repair(leave, &drop, &doing) {
            // The owner of a table may rebuild its TOAST index, and not drop what that left. Another rebuild does not mind.
            Err(Error::Database { cause, .. })
                if cause.sqlstate == sqlstate::INSUFFICIENT_PRIVILEGE
                    && index.starts_with(TOAST) =>
            {
                warn!(
                    "{name}: {index} stays: {cause}; it does no harm, and a superuser may drop it: {drop}"
                );
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn finalize_detach(
        &mut self,
        leave: &Leave,
        table: &str,
        partition: &str,
    ) -> Result<(), Error> {
        let name = self.name();
        info!("{name}: finishing the detach of {partition} that was begun");
        let finalize = format!("ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE");
        self.repair(leave, &finalize, &format!("finishing what {name} began"))
    }

    /// Runs a repairing statement under the session settings of the statement that it repairs.
    fn repair(&mut self, leave: &Leave, statement: &str, doing: &str) -> Result<(), Error> {
        let mut wait = self.run.lock_retry();
        loop {
            let text = statement.to_owned();
            match self.locked.alone(leave, &[], text, &mut Quiet) {
                Err(Trouble::Sql(cause)) if may_pass(&cause) => {
                    self.try_again(statement, doing, SqlError::from(&*cause), &mut wait)?;
                }
                outcome => return outcome.map_err(|trouble| trouble.while_doing(doing)),
            }
        }
    }

    /// One turn of waiting for another session.
    ///
    /// # Errors
    ///
    /// [`Error::SessionWait`] at the deadline; what [`crate::lock::Locked::pause`] says.
    fn wait_for(&mut self, session: String, wait: &mut Wait) -> Result<(), Error> {
        if wait.is_over() {
            return Err(Error::SessionWait {
                doing: self.path(),
                session,
                waited: wait.elapsed(),
                before: self.run.before(),
            });
        }
        wait.say(|| session);
        self.locked.pause(wait, POLL)
    }
}

/// The text of a statement, if what it leaves has to be known by that, and no password can be in it; else nothing.
/// Comments may hold whatever people write, at any length.
fn notable(text: &str, statement: &Outside) -> String {
    match statement {
        Outside::Other if !sql::verb(text).starts_with("DROP ") => String::new(),
        _ => sql::without_comments(text),
    }
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
    matches!(error.code().code(), sqlstate::DEADLOCK_DETECTED | sqlstate::LOCK_NOT_AVAILABLE)
}
