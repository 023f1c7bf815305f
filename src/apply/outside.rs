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
//! unfinished run of this very migration can have left is ever dropped. An INVALID index that was there before is
//! reported, also where `IF NOT EXISTS` would skip it and succeed.
//!
//! A rollback goes the same way; what is different, and why that is safe, is in [`way_back`].

mod way_back;

use log::{debug, info, warn};

use super::message::Message;
use super::{FailedMessage, Run, Step, Way, reset, transmit};
use crate::connect::{self, Settings, Trouble, literal};
use crate::error::{Error, Failure, FailureOutcome, Place, SqlError};
use crate::history::{self, Started};
use crate::lock::{self, Expected, Locked, sqlstate};
use crate::migration::{Interrupted, Migration};
use crate::script::{self, Kind, Outside, ReindexTarget};
use crate::wait::Wait;

/// How often we look whether a session or a build has ended, at most.
const POLL: std::time::Duration = std::time::Duration::from_millis(500);

/// How long a transaction of our own waits for a lock before it says so and tries again.
const LOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// What the catalog says of what a statement is to bring about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Found {
    /// Nothing of it: the statement has everything to do.
    Nothing,
    /// All of it.
    Done,
    /// An INVALID index of that name on that table.
    InvalidIndex,
    /// The same, and another session is building it.
    IndexInTheMaking,
    /// A partition whose detaching was begun.
    PendingDetach,
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
        let was_started = unfinished.is_some();
        let may_be_its_work = unfinished.is_some_and(|it| self.may_be_work_of(it, migration));
        let versions = [migration.version];
        let mut expected = self.expected(&versions);
        // What an INVALID index of that name is: somebody else's, until we have tried to build it.
        let mut is_ours = false;
        loop {
            let found = self.find(locked, migration, statement)?;
            match (found, statement) {
                (Found::IndexInTheMaking, Some(Outside::CreateIndex { index, table, .. })) => {
                    self.wait_for_build(locked, migration, index, table)?;
                    continue;
                }
                (Found::InvalidIndex, Some(Outside::CreateIndex { index, table, .. }))
                    if !is_ours =>
                {
                    return Err(self.foreign_index(migration, index, table));
                }
                _ => {}
            }
            // A start is noted only for work that is not there yet. So whoever finds the note and the work knows that
            // the one did the other.
            let start = (found != Found::Done).then(|| {
                let index = match statement {
                    Some(Outside::CreateIndex { index, table, .. }) => {
                        Some((index.as_str(), table.as_str()))
                    }
                    _ => None,
                };
                let runner = self.session_name(locked);
                let note = history::start(&locked.tables, migration, &runner, index);
                self.note(locked, migration, statement, note)
            });
            let is_noted = start.is_some();
            if let Some(step) = self.begin_outside(locked, migration, start, expected)? {
                return Ok(step);
            }
            if is_noted {
                expected = Expected::NoneOf(&versions);
            }
            match (found, statement) {
                (Found::Done, _) if may_be_its_work => {
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
            if !matches!(error.cause.code().code(), DEADLOCK | LOCK_TIMED_OUT) {
                let place =
                    error
                        .message
                        .place(migration, &error.cause, error.reached, self.counts_bytes);
                let outcome = FailureOutcome::OutsideTransaction;
                let cause = SqlError::from(&error.cause);
                return Err(self.outside_failure(migration, cause, place, outcome));
            }
            // What this leaves is what an interruption leaves.
            is_ours = true;
            let cause = Box::new(SqlError::from(&error.cause));
            if wait.is_over() {
                let (doing, waited) = (migration.path.display().to_string(), wait.elapsed());
                let (blockers, before) = (Vec::new(), self.before());
                return Err(Error::TableWait {
                    doing,
                    cause,
                    blockers,
                    waited,
                    before,
                });
            }
            wait.say(|| format!("a lock: {}: {cause}; trying again", migration.file_name));
            wait.pause(super::RETRY_PAUSE)?;
        }
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
        match (self.way, &unfinished.rollback) {
            (Way::Up { .. }, Some(taken_back)) => {
                self.settle_rollback(locked, migration, unfinished, taken_back)
            }
            _ => Ok(None),
        }
    }

    /// Removes what an unfinished run of this migration can have left: the INVALID index that it was building, or the
    /// copies that a rebuild makes. Returns a step if the migration needs no more.
    fn remove_leftovers(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        unfinished: &Interrupted,
    ) -> Result<Option<Step>, Error> {
        if let Some((index, table)) = &unfinished.index {
            self.wait_for_build(locked, migration, index, table)?;
            if self.find_index(locked, migration, index, table)? == Found::InvalidIndex {
                let unrecorded = Expected::NoneOf(&[migration.version]);
                if let Some(step) = self.begin_outside(locked, migration, None, unrecorded)? {
                    return Ok(Some(step));
                }
                self.drop_index(locked, migration, index, table)?;
            }
        }
        if let [statement] = migration.script.statements.as_slice()
            && let Kind::Outside(statement) = &statement.kind
            && let Outside::ReindexConcurrently { target, name } = &**statement
        {
            let unrecorded = Expected::NoneOf(&[migration.version]);
            if let Some(step) = self.begin_outside(locked, migration, None, unrecorded)? {
                return Ok(Some(step));
            }
            let doing = format!("looking for what {} left", migration.file_name);
            let query = reindex_leftovers(*target, name.as_deref());
            let results = locked
                .work
                .query(&query)
                .map_err(|trouble| trouble.while_doing(&doing))?;
            for row in results.into_iter().flatten() {
                self.drop_leftover(locked, migration, row.get("name").unwrap_or_default())?;
            }
        }
        Ok(None)
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
            Settings {
                lock_timeout: LOCK_TIMEOUT,
                ..Settings::default()
            },
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
        let message = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {} {} {} SET LOCAL search_path TO pg_catalog, pg_temp; \
             {} COMMIT",
            Settings {
                lock_timeout: LOCK_TIMEOUT,
                ..Settings::default()
            },
            locked.fence(expected),
            statement.map(assert_valid).unwrap_or_default(),
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
                "55P03" => lock::retry_lock_timeout(&mut locked.work, trouble, &doing, &mut wait)
                    .map_err(|error| error.after(self.before()))?,
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
            outcome,
            before: self.before(),
        }))
    }

    /// Makes the session's settings right for a statement that takes its time. They are the session's, not a
    /// transaction's, so behind a transaction pooler they are for whoever gets the same server connection until
    /// [`reset`] runs: as short as can be.
    fn set_session(&self, locked: &mut Locked, migration: &Migration) -> Result<(), Error> {
        let message = connect::session_settings(&self.session_name(locked));
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
        let results = locked
            .work
            .query(&message)
            .map_err(|trouble| trouble.while_doing("looking for older transactions"))?;
        for row in results.into_iter().flatten() {
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
            let results = locked
                .work
                .query(&message)
                .map_err(|trouble| trouble.while_doing(doing))?;
            let Some(row) = results.into_iter().flatten().next() else {
                return Ok(());
            };
            let pid = row.get("pid").unwrap_or("?").to_owned();
            let query = row
                .get("query")
                .unwrap_or("what is not for us to see")
                .to_owned();
            let orphan =
                format!("the session of an interrupted run, pid {pid}, still running {query}");
            if wait.is_over() {
                return Err(Error::RunnerWait {
                    holder: orphan,
                    waited: wait.elapsed(),
                });
            }
            wait.say(|| orphan);
            wait.pause(POLL)?;
        }
    }

    /// Asks the catalog what there is of what the statement is to bring about.
    fn find(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        statement: Option<&Outside>,
    ) -> Result<Found, Error> {
        let query = match statement {
            Some(Outside::CreateIndex { index, table, .. }) => {
                return self.find_index(locked, migration, index, table);
            }
            Some(Outside::DropIndex { indexes, .. }) => {
                let exist: Vec<String> = indexes
                    .iter()
                    .map(|index| format!("pg_catalog.to_regclass({}) IS NULL", literal(index)))
                    .collect();
                format!(
                    "SELECT CASE WHEN {} THEN 'done' ELSE 'nothing' END AS found",
                    exist.join(" AND ")
                )
            }
            Some(Outside::DetachPartition { table, partition }) => format!(
                "SELECT COALESCE((SELECT CASE WHEN inhdetachpending THEN 'pending detach' ELSE 'nothing' END \
                   FROM pg_catalog.pg_inherits WHERE inhparent = pg_catalog.to_regclass({}) \
                   AND inhrelid = pg_catalog.to_regclass({})), 'done') AS found",
                literal(table),
                literal(partition),
            ),
            Some(Outside::Other) => match object_query(&migration.text) {
                Some(query) => query,
                None => return Ok(Found::Nothing),
            },
            Some(Outside::ReindexConcurrently { .. }) | None => return Ok(Found::Nothing),
        };
        self.ask(locked, migration, &query)
    }

    fn find_index(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        index: &str,
        table: &str,
    ) -> Result<Found, Error> {
        self.ask(locked, migration, &index_query(index, table))
    }

    fn ask(&self, locked: &mut Locked, migration: &Migration, query: &str) -> Result<Found, Error> {
        let doing = format!("looking at the catalog for {}", migration.file_name);
        let results = locked
            .work
            .query(query)
            .map_err(|trouble| trouble.while_doing(&doing))?;
        let row = results.into_iter().flatten().next();
        let found = match row.as_ref().and_then(|row| row.get("found")) {
            Some("done") => Found::Done,
            Some("invalid") => Found::InvalidIndex,
            Some("in the making") => Found::IndexInTheMaking,
            Some("pending detach") => Found::PendingDetach,
            _ => Found::Nothing,
        };
        debug!("{}: the catalog says {found:?}", migration.file_name);
        Ok(found)
    }

    fn foreign_index(&self, migration: &Migration, index: &str, table: &str) -> Error {
        let cause = SqlError {
            sqlstate: sqlstate::INVALID_INDEX.to_owned(),
            message: format!("index \"{index}\" on {table} was there before, and is INVALID"),
            detail: None,
            hint: Some(format!(
                "This migration did not leave it, so it is not ours to remove: DROP INDEX CONCURRENTLY {}; \
                 then run again.",
                quoted(index)
            )),
            query: None,
            context: None,
        };
        self.outside_failure(migration, cause, None, FailureOutcome::NotBegun)
    }

    /// Drops the INVALID index that an unfinished build left.
    fn drop_index(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        index: &str,
        table: &str,
    ) -> Result<(), Error> {
        let doing = format!(
            "looking for the INVALID index that {} left",
            migration.file_name
        );
        let lookup = format!(
            "SELECT pg_catalog.format('%I.%I', n.nspname, {}) AS name FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass({})",
            literal(index),
            literal(table),
        );
        let results = locked
            .work
            .query(&lookup)
            .map_err(|trouble| trouble.while_doing(&doing))?;
        match results
            .into_iter()
            .flatten()
            .next()
            .as_ref()
            .and_then(|row| row.get("name"))
        {
            Some(name) => self.drop_leftover(locked, migration, name),
            None => Ok(()),
        }
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
        self.set_session(locked, migration)?;
        let outcome = locked.work.execute_patiently(statement);
        let restored = locked.work.execute(&reset(&locked.runner));
        outcome
            .and(restored)
            .map_err(|trouble| trouble.while_doing(doing))
    }

    fn wait_for_build(
        &self,
        locked: &mut Locked,
        migration: &Migration,
        index: &str,
        table: &str,
    ) -> Result<(), Error> {
        let mut wait = Wait::new(self.signals, self.config.lock_wait);
        while self.find_index(locked, migration, index, table)? == Found::IndexInTheMaking {
            let holder = format!("another session that builds the index \"{index}\" on {table}");
            if wait.is_over() {
                return Err(Error::RunnerWait {
                    holder,
                    waited: wait.elapsed(),
                });
            }
            wait.say(|| holder);
            wait.pause(POLL)?;
        }
        Ok(())
    }
}

/// The state of the ordinary index of that name on that table (`relkind` `i`: the INVALID index of a partitioned
/// parent, `I`, waits for its parts and is not a leftover). An index lives in its table's schema.
fn index_query(index: &str, table: &str) -> String {
    format!(
        "SELECT CASE WHEN i.indisvalid THEN 'done' \
           WHEN EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.granted \
             AND l.relation = t.oid AND l.mode = 'ShareUpdateExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid() \
             AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())) \
           THEN 'in the making' ELSE 'invalid' END AS found \
         FROM pg_catalog.pg_class t \
         JOIN pg_catalog.pg_index i ON i.indrelid = t.oid \
         JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' AND c.relname = {} \
         WHERE t.oid = pg_catalog.to_regclass({})",
        literal(index),
        literal(table),
    )
}

/// The query for the copies that an interrupted `REINDEX … CONCURRENTLY` left, by the names that PostgreSQL gives them
/// (its manual, "REINDEX", "Rebuilding Indexes Concurrently"), on the tables that it rebuilds and their TOAST tables,
/// unless another session is rebuilding there.
fn reindex_leftovers(target: ReindexTarget, name: Option<&str>) -> String {
    let named = literal(name.unwrap_or_default());
    let tables = match target {
        ReindexTarget::Table => format!(
            "t.oid = pg_catalog.to_regclass({named}) \
             OR t.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass({named})))"
        ),
        ReindexTarget::Index => format!(
            "t.oid IN (SELECT indrelid FROM pg_catalog.pg_index WHERE indexrelid = pg_catalog.to_regclass({named}))"
        ),
        // Too many tables to tell whose the copies are.
        ReindexTarget::Schema | ReindexTarget::Database | ReindexTarget::System => {
            "false".to_owned()
        }
    };
    format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name FROM pg_catalog.pg_index i \
         JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i' \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_class t ON i.indrelid IN (t.oid, t.reltoastrelid) \
         WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND t.relkind IN ('r', 'm') AND ({tables}) \
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.granted \
             AND l.relation = i.indrelid AND l.mode = 'ShareUpdateExclusiveLock' \
             AND l.pid <> pg_catalog.pg_backend_pid() AND l.database = (SELECT oid FROM pg_catalog.pg_database \
             WHERE datname = pg_catalog.current_database()))"
    )
}

/// The statement that fails unless the index which was to be built is valid; nothing for other statements.
fn assert_valid(statement: &Outside) -> String {
    let Outside::CreateIndex { index, table, .. } = statement else {
        return String::new();
    };
    let message = format!("index \"{index}\" on {table} is INVALID, or is not on that table");
    format!(
        "DO LANGUAGE plpgsql $lockstep$ BEGIN
           IF NOT EXISTS ({} AND i.indisvalid) THEN
             RAISE EXCEPTION USING ERRCODE = '{}', MESSAGE = {};
           END IF;
         END $lockstep$;",
        index_query(index, table),
        sqlstate::INVALID_INDEX,
        literal(&message),
    )
}

/// The query that tells whether a database, a tablespace or a subscription is there that the statement creates, or gone
/// that it drops; none for other statements, which can be run again.
fn object_query(statement: &str) -> Option<String> {
    let verb = script::verb(statement);
    let (wanted, kind) = match verb.split_once(' ')? {
        ("CREATE", kind) => ("EXISTS", kind),
        ("DROP", kind) => ("NOT EXISTS", kind),
        _ => return None,
    };
    let catalog = match kind {
        "DATABASE" => "pg_catalog.pg_database WHERE datname",
        "TABLESPACE" => "pg_catalog.pg_tablespace WHERE spcname",
        "SUBSCRIPTION" => {
            "pg_catalog.pg_subscription JOIN pg_catalog.pg_database d ON d.oid = subdbid \
             AND d.datname = pg_catalog.current_database() WHERE subname"
        }
        _ => return None,
    };
    let names = script::identifiers(statement);
    let name = names
        .iter()
        .skip(2)
        .find(|name| !matches!(name.as_str(), "if" | "exists"))?;
    Some(format!(
        "SELECT CASE WHEN {wanted} (SELECT FROM {catalog} = {}) THEN 'done' ELSE 'nothing' END AS found",
        literal(name)
    ))
}

const DEADLOCK: &str = "40P01";

/// Ours is off, but a pooler may run the statement on another connection than the one that was set.
const LOCK_TIMED_OUT: &str = "55P03";

fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}
