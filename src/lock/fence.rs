//! A transaction of W. It begins with the fence, and before it commits it makes sure that the fence held.
//!
//! What is written in it is added as values; the text, the settings around it, the retries and the reading of what came
//! of it are here, once. The checks are plain statements, which raise by [`guard::fail`].

use std::fmt;

use postgres::error::DbError;

use super::{Locked, other_server};
use crate::error::{Error, SqlError};
use crate::history::guard::{self, WORK_KEY, key};
use crate::history::record::{self, Entry, Started};
use crate::migration::{Migration, Version};
use crate::server::message::{Access, Message};
use crate::server::progress::{Part, Watch};
use crate::server::session::{Listener, Trouble};
use crate::server::settings::{self, Settings};
use crate::server::wait::Wait;
use crate::sql::quote::literal;
use crate::sql::sqlstate;

/// What a fenced transaction must find in the history.
#[derive(Clone)]
pub enum Expected {
    /// No record of any of these versions.
    NoneOf(Vec<Version>),
    /// This record of this version, by its id.
    Record(Version, i64),
}

/// A transaction that has not been sent yet.
pub struct Fenced<'a> {
    locked: &'a mut Locked,
    settings: Settings,
    before: Message,
    work: Vec<String>,
    /// What must not be true at the end, and the SQLSTATE of ours if it is.
    checks: Vec<(String, &'static str)>,
    /// What is true once it is committed.
    proof: Option<String>,
    /// Whether it records a migration.
    records: bool,
}

/// Leave to run a statement outside a transaction: a fenced transaction has committed, in which G held the guard.
pub struct Leave(());

/// Why a fenced transaction did not commit, or what several of them do goes no further.
pub enum Fault {
    /// Somebody else recorded the version, or took its record away, while the row was ours: a bun that lives, and whose
    /// own row was deleted under its feet.
    DoneByOthers,
    /// A statement in it failed, or what it wrote did not stay.
    Refused(Box<SqlError>),
    Error(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        Fault::Error(error)
    }
}

/// A file's transaction that the server refused, and that was rolled back.
pub struct Failed {
    pub cause: DbError,
    /// What the server said, or what it means if a statement of ours raised it.
    pub error: SqlError,
    /// The SQLSTATE of ours, if one of our own statements raised it.
    pub ours: Option<&'static str>,
    /// The part of the file that was running.
    pub part: usize,
    /// What we had put before that part's own text.
    pub prefix: String,
    /// The statement that was about to run by then, counted from 0; one past the last means that all had run.
    pub reached: Option<usize>,
}

impl Failed {
    /// Returns true if and only if a lock, a deadlock or a serialization failure is in the way: worth another try.
    pub fn may_pass(&self) -> bool {
        matches!(
            self.error.sqlstate.as_str(),
            sqlstate::WORK_LOCKED
                | sqlstate::LOCK_NOT_AVAILABLE
                | sqlstate::DEADLOCK_DETECTED
                | sqlstate::SERIALIZATION_FAILURE
        )
    }

    /// Returns true if and only if it cannot run in a transaction, or not in one that has written, or commits by itself.
    pub fn needs_no_transaction(&self) -> bool {
        matches!(
            self.error.sqlstate.as_str(),
            sqlstate::ACTIVE_SQL_TRANSACTION | sqlstate::INVALID_TRANSACTION_TERMINATION
        )
    }
}

impl Locked {
    /// Begins a transaction with the fence: it fails unless our row is there, and keeps it until the transaction ends; it
    /// fails if the history is not as expected.
    pub fn transaction(&mut self, expected: &Expected, settings: Settings) -> Fenced<'_> {
        let settings = settings.on(self.dialect);
        let mut before = Message::begin(Access::Write, &settings);
        before.add(guard::fail(&self.fence()));
        before.extend(&self.fail_unless_kept());
        // In a statement of its own, whose snapshot is younger than the locks.
        before.add(match expected {
            Expected::NoneOf(versions) => self.fail_if_newer(&record::records_one_of(versions)),
            Expected::Record(version, id) => guard::fail(&format!(
                "WHEN NOT EXISTS (SELECT FROM {} WHERE id OPERATOR(pg_catalog.=) {id} AND {}) THEN {}",
                self.tables.history,
                record::records_one_of(&[*version]),
                self.words(sqlstate::NO_LONGER_RECORDED)
            )),
        });
        Fenced {
            settings,
            before,
            work: Vec::new(),
            checks: Vec::new(),
            proof: None,
            records: false,
            locked: self,
        }
    }

    /// Runs a statement outside a transaction, alone in its message, under these settings of its file, and puts the session
    /// right again. The settings for it are the session's, so behind a transaction pooler they are for whoever gets the
    /// same server connection until they are reset: as short as can be.
    ///
    /// # Errors
    ///
    /// What the server says of the statement; else what the connection meets.
    pub fn alone(
        &mut self,
        _: &Leave,
        sets: &[String],
        statement: String,
        listener: &mut dyn Listener,
    ) -> Result<(), Trouble> {
        let prepared = self.work.prepare_alone(&self.alone_name()).and_then(|()| match sets {
            [] => Ok(()),
            sets => self.work.execute_patiently(sets.join(";\n"), listener),
        });
        let outcome = prepared.and_then(|()| self.work.execute_patiently(statement, listener));
        let restored = self.work.reset(&self.runner);
        outcome.and(restored)
    }

    /// What the session is called while it runs a statement outside a transaction. A host's name and a process id come
    /// again, in containers above all; the run's token does not, so whoever finds the name in the journal can tell
    /// whether that very session is still at work.
    pub fn alone_name(&self) -> String {
        format!("{} {}", self.runner, self.token)
    }

    /// The cases in which a fenced transaction does not begin.
    pub(super) fn fence(&self) -> String {
        format!(
            "WHEN NOT pg_catalog.pg_try_advisory_xact_lock({WORK_KEY}, {key}) THEN {locked} \
             WHEN (SELECT id FROM {locks} WHERE {row} FOR UPDATE) IS NULL THEN {lost}",
            key = key(&self.tables),
            locks = self.tables.locks,
            row = self.own_row(),
            locked = self.words(sqlstate::WORK_LOCKED),
            lost = self.words(sqlstate::LOCK_LOST),
        )
    }

    /// The statement that fails if the server has lost what this run committed last, and with it, maybe, more: all commits
    /// before that are on disk if it is. Where nothing was committed, none.
    pub(super) fn fail_unless_kept(&self) -> Vec<String> {
        let lost = self.words(sqlstate::COMMIT_LOST);
        let fail = |kept| guard::fail(&format!("WHEN NOT ({kept}) THEN {lost}"));
        self.kept.iter().map(fail).collect()
    }

    pub(super) fn words(&self, code: &str) -> String {
        guard::words(code, self.token)
    }

    fn own_row(&self) -> String {
        format!(
            "table_name OPERATOR(pg_catalog.=) {} AND id OPERATOR(pg_catalog.=) {}",
            literal(&self.table_name),
            self.token
        )
    }

    /// The statement that fails if others have made such a record since the history was read: it looks at few more rows,
    /// however long the history is. That the range has two ends makes the planner take the index also where nobody has
    /// analyzed the table.
    fn fail_if_newer(&self, which: &str) -> String {
        let words = self.words(sqlstate::ALREADY_RECORDED);
        let fail = guard::fail(&format!("WHEN {which} THEN {words}"));
        fail + &self.of_newer(which, self.known())
    }

    /// Selects which of the records whose id exceeds this one.
    pub(super) fn of_newer(&self, which: &str, known: impl fmt::Display) -> String {
        format!(
            " FROM {} WHERE id OPERATOR(pg_catalog.>) {known} AND id OPERATOR(pg_catalog.<=) {} AND {which}",
            self.tables.history,
            i64::MAX
        )
    }

    /// An id that others' new records exceed. This run knows of all records that are not newer, or they are its own: each
    /// of those has drawn an id. A little is taken off, since an id is drawn before its record is committed. Where the
    /// sequence lags behind, all records are looked at.
    pub(super) fn known(&self) -> i64 {
        const DRAWN_MEANWHILE: i64 = 100;
        self.newest.saturating_add(self.recorded - DRAWN_MEANWHILE)
    }

    /// Which rows of the history are records of the version: those that were read, and any that have come since.
    fn all_records(&self, version: Version, ids: &[i64]) -> String {
        let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
        format!(
            "(id OPERATOR(pg_catalog.=) ANY ('{{{}}}'::pg_catalog.int8[]) OR id OPERATOR(pg_catalog.>) {}) AND {}",
            ids.join(","),
            self.known(),
            record::records_one_of(&[version])
        )
    }

    /// The condition that the version, an SQL expression, is recorded as this run does it. By its id, which the journal has:
    /// the history has no index on the name.
    pub(super) fn recorded(&self, version: &str) -> String {
        format!(
            "EXISTS (SELECT FROM {} WHERE {} AND id OPERATOR(pg_catalog.=) (SELECT history_id FROM {} \
             WHERE version OPERATOR(pg_catalog.=) {version} AND finished_at IS NOT NULL))",
            self.tables.history,
            record::records(version),
            self.tables.journal,
        )
    }

    /// The message that ends whatever transaction failed, and undoes what may have been left before. The first error is the
    /// one that counts: if the connection breaks now, the next message says so.
    pub(super) fn rolling_back(&self) -> Message {
        let mut first = vec!["ROLLBACK".to_owned()];
        first.extend(settings::reset(&self.runner));
        Message::behind(&first, &Settings::default().retried())
    }

    /// The statement that fails if one of these cases holds, or the transaction is not the one that the fence began.
    ///
    /// The row lock names the transaction that holds it. A setting of the transaction would do as well, but for files that
    /// say `RESET ALL`. Where the row is there unlocked, as it was, the transaction ended; else the file took the row away.
    pub(super) fn fail_unless_fenced(&self, cases: &str) -> String {
        let this = "pg_catalog.pg_current_xact_id_if_assigned()::pg_catalog.xid";
        let cases = format!(
            "WHEN pg_catalog.bool_or(xmax OPERATOR(pg_catalog.=) {this}) IS NOT TRUE \
             THEN CASE WHEN pg_catalog.bool_or((xmin OPERATOR(pg_catalog.=) {this}) IS NOT TRUE) \
               THEN {ended} ELSE {taken} END{cases}",
            taken = self.words(sqlstate::ROW_TAKEN),
            ended = self.words(sqlstate::TRANSACTION_ENDED),
        );
        let (fail, locks) = (guard::fail(&cases), &self.tables.locks);
        format!("{fail} FROM {locks} WHERE {}", self.own_row())
    }
}

impl<'a> Fenced<'a> {
    /// Records the migration as applied.
    pub fn record(&mut self, migration: &Migration, group: i64, started: Started) {
        let locked = &self.locked;
        let entry = Entry::of(migration);
        let record = record::record(&locked.tables, &entry, group, &locked.runner, &started);
        let recorded = locked.recorded(&entry.version);
        self.work.push(record);
        self.refuse_if(format!("NOT {recorded}"), sqlstate::NOT_RECORDED);
        self.proof = Some(recorded);
        self.records = true;
    }

    /// Records migrations as applied, without their having run.
    pub fn record_unrun(&mut self, files: &[&Migration], group: i64) {
        let locked = &self.locked;
        let unrun = record::record_unrun(&locked.tables, files, group, &locked.runner);
        // A trigger or a rule may have swallowed some.
        let (history, journal) = (&locked.tables.history, &locked.tables.journal);
        let fewer = format!(
            "(SELECT count(*) FROM {history} h JOIN {journal} j ON h.id = j.history_id AND h.name = j.version
              WHERE h.group_id = {group}) < {}",
            files.len()
        );
        self.work.push(unrun);
        self.refuse_if(fewer, sqlstate::NOT_RECORDED);
    }

    /// Records the checksum of the migration's file as it is now.
    pub fn mend(&mut self, migration: &Migration) {
        let mend = record::mend(&self.locked.tables, migration);
        self.work.push(mend);
    }

    /// Takes the record with this id, of the version `from`, along to the migration.
    pub fn rename(&mut self, migration: &Migration, from: Version, id: i64) {
        let rename = record::rename(&self.locked.tables, migration, from, id);
        self.work.extend(rename);
        let history = &self.locked.tables.history;
        let recorded = record::records_one_of(&[migration.version]);
        let gone = format!("NOT EXISTS (SELECT FROM {history} WHERE id = {id} AND {recorded})");
        self.refuse_if(gone, sqlstate::NOT_RECORDED);
    }

    /// Leaves no trace of the migration, whose records have these ids.
    pub fn erase(&mut self, version: Version, ids: &[i64]) {
        let which = self.locked.all_records(version, ids);
        let erase = record::erase(&self.locked.tables, version, &which);
        self.work.extend(erase);
        self.check_erased(&which);
        let noted = self.in_journal(version, "");
        self.proof = self.proof.take().map(|gone| format!("{gone} AND NOT {noted}"));
    }

    /// Notes in the journal that the migration is about to run outside a transaction, when so many of its statements are
    /// done.
    pub fn note(&mut self, migration: &Migration, done: usize, statement: Option<&str>) {
        let session = self.locked.alone_name();
        let note = record::start(&self.locked.tables, migration, &session, done, statement);
        self.work.extend(note);
        let by_us = format!(" AND runner OPERATOR(pg_catalog.=) {}", literal(&session));
        self.proof = Some(self.in_journal(migration.version, &by_us));
    }

    /// The same of its rollback: takes the records with these ids back, which were of this group.
    pub fn take_back(
        &mut self,
        migration: &Migration,
        (ids, group): (&[i64], i64),
        done: usize,
        statement: Option<&str>,
    ) {
        let version = migration.version;
        let which = self.locked.all_records(version, ids);
        let take_back = record::take_back(&self.locked.tables, &which);
        self.work.push(take_back);
        self.note(migration, done, statement);
        let rollback = record::note_rollback(&self.locked.tables, version, group);
        self.work.push(rollback);
        self.check_erased(&which);
    }

    /// Counts how many of the migration's statements are done.
    pub fn count(&mut self, migration: &Migration, done: usize) {
        let count = record::count(&self.locked.tables, migration, done);
        self.work.push(count);
        let so_far = format!(" AND done OPERATOR(pg_catalog.=) {done}");
        self.proof = Some(self.in_journal(migration.version, &so_far));
    }

    /// Fails the transaction, with this SQLSTATE of ours, if the condition is true at its end.
    pub fn refuse_if(&mut self, condition: String, code: &'static str) {
        self.checks.push((condition, code));
    }

    fn check_erased(&mut self, which: &str) {
        let still = format!("EXISTS (SELECT FROM {} WHERE {which})", self.locked.tables.history);
        self.proof = Some(format!("NOT {still}"));
        self.refuse_if(still, sqlstate::STILL_RECORDED);
    }

    /// The condition that the journal knows the version, with this besides.
    fn in_journal(&self, version: Version, besides: &str) -> String {
        format!(
            "EXISTS (SELECT FROM {} WHERE version OPERATOR(pg_catalog.=) '{version}'{besides})",
            self.locked.tables.journal
        )
    }

    /// Commits, and tries again while a lock is in the way.
    ///
    /// # Errors
    ///
    /// [`Error::TableWait`] at the deadline.
    pub fn commit(self, doing: &str, wait: &mut Wait) -> Result<(), Fault> {
        let (records, proof) = (self.records, self.proof.clone());
        self.end("COMMIT", doing, wait)?.has_committed(i64::from(records), proof);
        Ok(())
    }

    /// Writes as [`Fenced::commit`] would, and rolls back.
    ///
    /// # Errors
    ///
    /// Like [`Fenced::commit`].
    pub fn try_out(self, doing: &str, wait: &mut Wait) -> Result<(), Fault> {
        self.end("ROLLBACK", doing, wait).map(drop)
    }

    fn end(self, end: &str, doing: &str, wait: &mut Wait) -> Result<&'a mut Locked, Fault> {
        let (check, mut message) = (self.check(), self.before);
        message.extend(&self.work);
        message.add(check);
        message.add(end);
        loop {
            let Err(trouble) = self.locked.work.send(&message) else {
                return Ok(self.locked);
            };
            let Trouble::Sql(cause) = &trouble else {
                return Err(Fault::Error(trouble.while_doing(doing)));
            };
            let ours = guard::raised(cause, self.locked.token);
            match self.locked.fault(cause, ours) {
                Fault::Refused(lock)
                    if matches!(
                        lock.sqlstate.as_str(),
                        sqlstate::WORK_LOCKED | sqlstate::LOCK_NOT_AVAILABLE
                    ) =>
                {
                    self.locked.work.roll_back_and_wait(*lock, doing, wait)?;
                }
                fault => {
                    self.locked.work.roll_back().map_err(|it| it.while_doing(doing))?;
                    return Err(fault);
                }
            }
        }
    }

    /// Commits like [`Fenced::commit`], if G holds the guard then: for what the fence cannot protect.
    ///
    /// # Errors
    ///
    /// Like [`Fenced::commit`]; [`other_server`].
    pub fn commit_to_run_alone(mut self, doing: &str, wait: &mut Wait) -> Result<Leave, Fault> {
        let not_held = guard::not_held(&self.locked.tables, self.locked.guard_pid);
        self.refuse_if(not_held, sqlstate::OTHER_SERVER);
        self.commit(doing, wait).map(|()| Leave(()))
    }

    /// Runs a file in the transaction, and commits. A file of several parts is as many messages, in one transaction.
    ///
    /// # Errors
    ///
    /// Like [`Fenced::commit`], but what the server refuses is returned as it is. Of a lost connection nobody knows whether
    /// it committed.
    pub fn run(
        self,
        parts: impl IntoIterator<Item = Part>,
        doing: &str,
        watch: &mut Watch<'_>,
    ) -> Result<Result<(), Box<Failed>>, Fault> {
        let comment = format!("/* lockstep {} */ ", watch.file_name());
        let mut prefix = format!("{comment}{};\n", self.before.text());
        let mut parts = parts.into_iter().enumerate().peekable();
        while let Some((number, part)) = parts.next() {
            let suffix = match parts.peek() {
                None => format!("\n;{}{}", part.end_marker, self.after_file().text()),
                Some(_) => format!("\n;{}; {KEEP_STRINGS}", self.locked.fail_unless_fenced("")),
            };
            let text = format!("{prefix}{}{suffix}", part.text);
            watch.begin(self.locked.token, &part, (prefix.clone(), suffix));
            drop(part);
            let outcome = self.locked.work.execute_patiently(text, watch);
            let reached = watch.end(outcome.as_ref().err());
            match outcome {
                Ok(()) => prefix = format!("{comment}{RESTORE_STRINGS};\n"),
                Err(Trouble::Sql(cause)) => {
                    return self.failed(*cause, (number, prefix, reached), doing);
                }
                Err(trouble) => {
                    let doing = format!("{doing}, which may or may not be committed");
                    return Err(Fault::Error(trouble.while_doing(&doing)));
                }
            }
        }
        let records = i64::from(self.records);
        self.locked.has_committed(records, self.proof);
        Ok(Ok(()))
    }

    /// Rolls back, and finds out whether there was anything to: an error behind the commit is one of the reset.
    fn failed(
        self,
        cause: DbError,
        (part, prefix, reached): (usize, String, Option<usize>),
        doing: &str,
    ) -> Result<Result<(), Box<Failed>>, Fault> {
        let ours = guard::raised(&cause, self.locked.token);
        let mut message = self.locked.rolling_back();
        let proof = self.proof.as_deref().unwrap_or("false");
        let proven = message.add(format!("SELECT {proof} AS proven"));
        if let Ok(answer) = self.locked.work.send(&message)
            && ours.is_none()
            && answer.row(proven).and_then(|row| row.get("proven")) == Some("t")
        {
            let doing = format!("resetting the session after {doing}, which is committed");
            return Err(Fault::Error(Trouble::Sql(Box::new(cause)).while_doing(&doing)));
        }
        match self.locked.fault(&cause, ours) {
            Fault::Refused(error) => {
                Ok(Err(Box::new(Failed { cause, error: *error, ours, part, prefix, reached })))
            }
            fault => Err(fault),
        }
    }

    /// What follows the file. Its deferred constraints belong to it, so they are checked under its role, its search_path
    /// and its timeouts. What follows is ours, and under ours, until the session is reset behind the commit.
    fn after_file(&self) -> Message {
        let first = [
            "SET CONSTRAINTS ALL IMMEDIATE",
            "RESET SESSION AUTHORIZATION",
            "RESET ROLE",
            "SET LOCAL search_path TO pg_catalog, pg_temp",
            // A timeout of zero is in force at once.
            "SET LOCAL statement_timeout TO 0",
        ];
        let mut after = Message::behind(&first, &self.settings);
        after.extend(&self.work);
        after.add(self.check());
        after.add("COMMIT");
        after.extend(&settings::reset(&self.locked.runner));
        after
    }

    /// The statement that fails unless the transaction is still the one that the fence began, and what it wrote is there.
    fn check(&self) -> String {
        let checks = self.checks.iter();
        let cases = checks.map(|(it, code)| format!(" WHEN {it} THEN {}", self.locked.words(code)));
        self.locked.fail_unless_fenced(&cases.collect::<String>())
    }
}

/// Between two parts of a file: a message is read under the setting that is in force when it arrives, and our splitting
/// relies on it; the file's own choice holds while its statements run.
const KEEP_STRINGS: &str = "SELECT pg_catalog.set_config('lockstep.strings', pg_catalog.current_setting('standard_conforming_strings'), true); \
    SET LOCAL standard_conforming_strings TO on";
const RESTORE_STRINGS: &str = "SELECT pg_catalog.set_config('standard_conforming_strings', \
    pg_catalog.current_setting('lockstep.strings'), true)";

impl Locked {
    /// Takes note of so many new records, and of what is true from now on.
    pub(super) fn has_committed(&mut self, records: i64, proof: Option<String>) {
        self.recorded += records;
        self.kept = proof.or(self.kept.take());
    }

    fn fault(&self, cause: &DbError, ours: Option<&'static str>) -> Fault {
        match ours {
            Some(sqlstate::LOCK_LOST) => Fault::Error(self.lost()),
            Some(sqlstate::OTHER_SERVER) => Fault::Error(other_server()),
            Some(sqlstate::COMMIT_LOST) => Fault::Error(self.commit_lost()),
            Some(sqlstate::ALREADY_RECORDED | sqlstate::NO_LONGER_RECORDED) => Fault::DoneByOthers,
            Some(code) => Fault::Refused(Box::new(SqlError::ours(code, &self.tables.history))),
            None => Fault::Refused(Box::new(SqlError::from(cause))),
        }
    }
}
